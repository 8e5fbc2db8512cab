"""Whether operations on one register (a node that is created, written to, read and deleted) can be put into one order.

The order has to have each operation between its begin and its end, and each has to be told in it what it was told. That
is linearizability, and it is judged for each register alone, because a set of registers is linearizable if each is
(Herlihy and Wing). The search is that of Wing and Gong, in Lowe's form: all *configurations* (what the register may be,
with the operations that began and may have taken effect) are taken from one end of an operation to the next.

Rules of this file, pure and without a client:

* What must not be forgotten and what may be: an operation that was answered takes effect before it ends; one whose
  outcome is unknown may do so at any time from its begin on, or never.
* What is known of the values is used first. Nobody writes the same value twice, so who sees one knows its write; with
  zxids, there is one for each write, and they grow. What neither was told nor follows is open (0, −1, or no value).
* No choice is made before it has to be: something takes effect at the latest moment at which an end asks for it, except
  looks, which change nothing, and are done at the first at which they fit.
* Of operations that nobody can tell apart (no version told, value never seen) that goes first which has to be done
  first. Of two configurations that differ only in how much they have used up of what need not have been, the one with
  less is kept, and taken first.
"""

from __future__ import annotations

import enum
from bisect import bisect_right, insort
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["ABSENT", "Contradiction", "Kind", "Operation", "Register", "UndecidedError", "contradiction", "step"]

_MOST_STEPS: Final = 50_000
"""For one register: half a minute, and far more than any history has needed that was linearizable. One that is not may
need more where many outcomes are unknown."""
_MOST_TOLD: Final = 4


class Kind(enum.Enum):
    """What an operation is. The looks are reads and what a refusal proves; the last two have no place in the order."""

    CREATE = "creation"
    SET = "set"
    DELETE = "deletion"
    PRESENT = "look at the node"
    ABSENT = "look where there is no node"
    UNLIKE = "look at a node of another version"
    WITNESS = "look at some earlier state"
    """A read that need not be up to date: what it saw must have been there before it ended."""
    NEVER = "write that was not applied"


_WRITES: Final = frozenset({Kind.CREATE, Kind.SET, Kind.DELETE})
_LOOKS: Final = frozenset({Kind.PRESENT, Kind.ABSENT, Kind.UNLIKE})


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on a register. `told` is the version that it left or saw, `born` and `zxid` are the `czxid` and the
    `mzxid` of the node; each as far as the caller was told."""

    kind: Kind
    began: float
    ended: float = inf
    must: bool = True
    """Whether it took effect for sure, before it ended; otherwise perhaps, and whenever that may be."""
    demanded: int = -1
    """The version that the write asked for; of `UNLIKE` the one that the node did not have."""
    value: bytes = b""
    """What it writes, and nobody else; or what was seen."""
    told: int = -1
    born: int = 0
    zxid: int = 0
    name: object = ""
    """What tells it from others, as text."""

    def __str__(self) -> str:
        return str(self.name) or f"{self.kind.value} {self.value.decode(errors='replace')}".strip()


class Register(NamedTuple):
    """What a node may be. 0 and no value: not known."""

    there: bool
    value: bytes = b""
    version: int = -1
    born: int = 0
    zxid: int = 0
    """Of its last write."""
    floor: int = 0
    """The newest write that is known to be done, to any incarnation of the node."""
    after: int = 0
    """While it is not known when the node was created: what had been done before."""

    def __str__(self) -> str:
        if not self.there:
            return "no node"
        value = self.value.decode(errors="replace") or "a value that nobody saw"
        born, zxid = (f"0x{known:x}" if known else "unknown" for known in (self.born, self.zxid))
        return f"{value}, version {self.version}, created at {born}, written at {zxid}"


ABSENT: Final = Register(there=False)


class Contradiction(NamedTuple):
    """There is no order. It shows at the end of this operation."""

    time: float
    text: str


class UndecidedError(Exception):
    """The search was given up: so many steps did not decide it."""


def contradiction(
    operations: Iterable[Operation], start: Register = ABSENT, *, most_steps: int = _MOST_STEPS
) -> Contradiction | None:
    """Why these operations on a register, in any order, can't be linearized; `None` if they can. Raises
    `UndecidedError`."""
    known = _Known(operations)
    if known.contradiction is not None:
        return known.contradiction
    return _Search(known.operations, start, most_steps).run()


def step(register: Register, operation: Operation) -> Register | None:
    """The register after the operation has taken effect on it; `None` if it can't have been told then what it was."""
    there, _, version, _, _, floor, after = register
    kind, zxid = operation.kind, operation.zxid
    if kind is Kind.CREATE:
        if there or operation.told > 0 or (zxid and zxid <= floor):
            return None
        return Register(True, operation.value, 0, zxid, zxid, max(floor, zxid), 0 if zxid else floor)
    if kind is Kind.ABSENT:
        return None if there else register
    if not there:
        return None
    if kind is Kind.UNLIKE:
        return None if version == operation.demanded else register
    if operation.demanded not in (-1, version):
        return None
    if kind is Kind.DELETE:
        return Register(False, floor=floor)
    born = _same_birth(register, operation)
    if born is None:
        return None
    if kind is Kind.PRESENT:
        return _looked(register, operation, born)
    if operation.told not in (-1, version + 1) or (zxid and zxid <= floor):
        return None
    return Register(True, operation.value, version + 1, born, zxid, max(floor, born, zxid), 0 if born else after)


def _same_birth(register: Register, operation: Operation) -> int | None:
    """When the node was created, if that is known afterwards; `None` if it is another incarnation."""
    if not operation.born:
        return register.born
    if register.born:
        return register.born if register.born == operation.born else None
    return operation.born if operation.born > register.after else None


def _looked(register: Register, operation: Operation, born: int) -> Register | None:
    """What a look at the node adds to what is known of it."""
    _, value, version, _, zxid, floor, after = register
    if operation.told not in (-1, version) or (operation.value and operation.value != value):
        return None
    if operation.zxid:
        if zxid not in (0, operation.zxid) or (not zxid and operation.zxid <= floor):
            return None
        zxid = operation.zxid
    if version == 0 and (born or zxid):
        if born and zxid and born != zxid:
            return None
        born = zxid = born or zxid
    return Register(True, value, version, born, zxid, max(floor, born, zxid), 0 if born else after)


class _Known:
    """What follows from the values: who sees one knows its write."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.contradiction: Contradiction | None = None
        self._seen: dict[bytes, Operation] = {}
        """By value: all that is known of its write, and by when it was done."""
        given = list(operations)
        written = {operation.value: operation for operation in given if operation.kind in _WRITES}
        never = {operation.value: operation for operation in given if operation.kind is Kind.NEVER}
        for operation in sorted(given, key=lambda operation: operation.ended):
            if operation.value and operation.must and operation.kind is not Kind.NEVER:
                text = self._unheard_of(operation, written, never) or self._learn(operation)
                if text:
                    self.contradiction = Contradiction(operation.ended, text)
                    return
        by_zxid = {operation.zxid: value for value, operation in self._seen.items() if operation.zxid}
        self.operations = [self._told(operation, by_zxid) for operation in given if operation.kind in _WRITES | _LOOKS]

    @staticmethod
    def _unheard_of(operation: Operation, written: dict[bytes, Operation], never: dict[bytes, Operation]) -> str:
        value = operation.value
        if value in written:
            begun = written[value].began <= operation.ended
            return "" if begun else f"{operation} saw what was written only later, by {written[value]}"
        if value in never:
            return f"{never[value]} was said not to have been applied, and {operation} saw it"
        return f"{operation} saw {value!r}, which nobody has written"

    def _learn(self, operation: Operation) -> str:
        before = self._seen.setdefault(operation.value, operation)
        told = max(before.told, 0 if operation.kind is Kind.CREATE else operation.told)
        for one, other in ((before.zxid, operation.zxid), (before.born, operation.born)):
            if one and other and one != other:
                return f"{operation} says that its value was written at 0x{other:x}, {before} that it was at 0x{one:x}"
        if -1 not in (before.told, operation.told) and before.told != operation.told:
            return f"{operation} says that its value is version {operation.told}, {before} that it is {before.told}"
        self._seen[operation.value] = replace(
            before, told=told, zxid=before.zxid or operation.zxid, born=before.born or operation.born
        )
        return ""

    def _told(self, operation: Operation, by_zxid: dict[int, bytes]) -> Operation:
        """With all that is known of it."""
        value = operation.value or (by_zxid.get(operation.zxid, b"") if operation.kind is Kind.PRESENT else b"")
        seen = self._seen.get(value)
        if seen is None:
            return replace(operation, value=b"") if operation.kind in (Kind.CREATE, Kind.SET) else operation
        if operation.kind is Kind.CREATE:
            zxid = seen.zxid or seen.born
            return replace(operation, must=True, ended=min(operation.ended, seen.ended), zxid=zxid, born=zxid)
        if operation.kind is Kind.SET:
            return replace(
                operation,
                must=True,
                ended=min(operation.ended, seen.ended),
                told=seen.told,
                born=seen.born,
                zxid=seen.zxid,
            )
        return replace(operation, value=value, zxid=operation.zxid or seen.zxid, born=operation.born or seen.born)


class _Configuration(NamedTuple):
    """What may be."""

    register: Register
    done: frozenset[int]
    """Operations that have begun, not ended, and taken effect; and of those that never end, all that have."""


class _Moment(NamedTuple):
    """The end of an operation that has to be done by then, and what else has begun and not ended."""

    target: int
    looks: tuple[int, ...]
    writes: tuple[int, ...]
    """Of which more is known than that they were made: each is another one."""
    alike: tuple[tuple[int, ...], ...]
    """Nobody can tell the ones in a group apart; what ends first, goes first, and what need not be done, last."""


class _Point(NamedTuple):
    """A state of the node that somebody saw, or left."""

    zxid: int
    born: int
    version: int


class _Search:
    """Goes from end to end, and back where it went astray."""

    def __init__(self, operations: list[Operation], start: Register, most_steps: int) -> None:
        self._operations = operations
        self._most_steps = most_steps
        self._start = _Configuration(start, frozenset())
        self._points = sorted(
            {
                _Point(each.zxid, each.born, each.told)
                for each in operations
                if each.zxid and each.kind is not Kind.DELETE
            }
        )
        self._steps_left = most_steps
        self._moments = list(self._made_moments())

    def run(self) -> Contradiction | None:
        """All of it."""
        tried: dict[tuple[int, Register, frozenset[int]], list[frozenset[int]]] = {}
        ways = [iter((self._start,))]
        furthest, there = -1, self._start
        while ways:
            if self._steps_left < 0:
                raise UndecidedError(
                    f"no order was found in {self._most_steps} steps; of what was tried, this came furthest: "
                    f"{self._explain(self._moments[furthest], there)}"
                )
            configuration = next(ways[-1], None)
            reached = len(ways) - 1
            if configuration is None:
                ways.pop()
            elif reached == len(self._moments):
                return None
            elif self._is_new(tried, reached, configuration):
                if reached > furthest:
                    furthest, there = reached, configuration
                ways.append(self._through(configuration, self._moments[reached]))
        moment = self._moments[furthest]
        return Contradiction(self._operations[moment.target].ended, self._explain(moment, there))

    def _is_new(
        self,
        tried: dict[tuple[int, Register, frozenset[int]], list[frozenset[int]]],
        reached: int,
        this: _Configuration,
    ) -> bool:
        """Whether none was tried that is like it and has used up as little."""
        optional = frozenset(index for index in this.done if not self._operations[index].must)
        before = tried.setdefault((reached, this.register, this.done - optional), [])
        if any(other <= optional for other in before):
            return False
        before.append(optional)
        return True

    def _made_moments(self) -> Iterator[_Moment]:
        """At one moment the begins come first."""
        operations = self._operations
        events = [(operation.began, 0, index) for index, operation in enumerate(operations)]
        events += [(operation.ended, 1, index) for index, operation in enumerate(operations) if operation.must]
        looks: set[int] = set()
        writes: set[int] = set()
        alike: dict[tuple[Kind, int], list[int]] = {}
        for _, is_end, index in sorted(events):
            operation = operations[index]
            group = alike.setdefault((operation.kind, operation.demanded), []) if _is_like_others(operation) else None
            pending = looks if operation.kind in _LOOKS else writes
            if not is_end:
                if group is not None:
                    insort(group, index, key=lambda index: operations[index].ended)
                else:
                    pending.add(index)
                continue
            groups = tuple(tuple(group) for group in alike.values() if group)
            yield _Moment(index, tuple(sorted(looks)), tuple(sorted(writes)), groups)
            if group is not None:
                group.remove(index)
            else:
                pending.remove(index)

    # -- from one end to the next

    def _through(self, configuration: _Configuration, moment: _Moment) -> Iterator[_Configuration]:
        """All configurations in which the target has been done, as late as possible: first those that take the least of
        what need not have been at all."""
        operations, target = self._operations, moment.target
        first = self._look(configuration, moment)
        waiting = [(0, 0, first)]
        seen = {first}
        while waiting:
            used, _, (register, done) = heappop(waiting)
            if target in done:
                yield _Configuration(register, done - {target})
                continue
            self._steps_left -= 1
            if self._steps_left < 0:
                return
            for index in self._candidates(moment, done):
                following = self._after(register, done, index, moment)
                if following is not None and following not in seen:
                    seen.add(following)
                    heappush(waiting, (used + (not operations[index].must), len(seen), following))

    def _candidates(self, moment: _Moment, done: frozenset[int]) -> Iterator[int]:
        yield from (index for index in moment.writes if index not in done)
        yield from (index for index in moment.looks if index not in done)
        for group in moment.alike:
            first = next((index for index in group if index not in done), None)
            if first is not None:
                yield first

    def _after(self, register: Register, done: frozenset[int], index: int, moment: _Moment) -> _Configuration | None:
        """With this done; `None` if it can't be, or something else could not be any more."""
        following = step(register, self._operations[index])
        if following is None or not self._leads_on(following):
            return None
        for pending in (moment.writes, moment.looks):
            for other in pending:
                if other != index and other not in done and _is_too_late(following, self._operations[other]):
                    return None
        return self._look(_Configuration(following, done | {index}), moment)

    def _look(self, configuration: _Configuration, moment: _Moment) -> _Configuration:
        """With all looks done that fit, and of which nothing new is learnt."""
        register, done = configuration
        operations = self._operations
        fit = {index for index in moment.looks if index not in done and step(register, operations[index]) == register}
        return _Configuration(register, done | fit) if fit else configuration

    def _leads_on(self, register: Register) -> bool:
        """Whether the next state that is known of can follow: one incarnation's are all of it, and versions count."""
        floor = register.floor
        index = bisect_right(self._points, floor, key=lambda point: point.zxid)
        if index == len(self._points):
            return True
        point = self._points[index]
        if register.there and register.born and register.born == point.born:
            return point.version < 0 or register.version < point.version + (not register.zxid)
        # An incarnation of unknown birth may be that one, whatever was written to it meanwhile.
        since = register.after if register.there and not register.born else floor
        return not point.born or point.born > since

    def _explain(self, moment: _Moment, configuration: _Configuration) -> str:
        operations, target = self._operations, moment.target
        others = [index for index in moment.writes + sum(moment.alike, ()) if index != target]
        names = [str(operations[index]) for index in others if operations[index].must]
        more = f" and {len(names) - _MOST_TOLD} more" if len(names) > _MOST_TOLD else ""
        told = ", ".join(names[:_MOST_TOLD]) or "no other writes"
        return (
            f"{operations[target]} fits nowhere between its begin and its end: before, there was, for one, "
            f"{configuration.register}; at its end there were {told}{more}, "
            f"and {len(others) - len(names)} whose outcome is unknown"
        )


def _is_like_others(operation: Operation) -> bool:
    """A write of which nothing is known but that it was made."""
    return operation.kind in _WRITES and not operation.value and not operation.zxid and operation.told < 0


def _is_too_late(register: Register, operation: Operation) -> bool:
    """Whether what it was told can't become true any more: zxids only grow."""
    zxid, floor = operation.zxid, register.floor
    return bool(zxid) and (floor > zxid or (floor == zxid and operation.kind in _WRITES))
