"""Writes of every kind whose reply or request is lost, what somebody else does meanwhile, and who tells the truth.

A case is one write. It is looked at from beside: before it, when the connection has broken, when somebody else has done
something, and when the call has ended. In the first and in the last of these spans nobody writes but the client, so
what changed in them says how often the write was applied, and when; what the call ended with has to agree.

Rules:
1. A call that returns was applied once (an idempotent one maybe once more for each loss, or it found what it wants; a
   protected node that somebody deletes is made again), and returns what the servers then had.
2. An error that says *not applied* was not applied, one that says *happened* was, once.
3. A refusal by the servers has its reason in what was there.
4. *Unknown* is never wrong, but it is counted; and with `exactly_once`, in a session that lives, it is wrong.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch import (
    BadVersionError,
    Created,
    EverlatchError,
    NodeExistsError,
    NoNodeError,
    OutcomeUnknownError,
    ResultLostError,
    Stat,
    TransactionFailedError,
    WriteNotAppliedError,
)
from everlatch.partial_stat import UNKNOWN
from everlatch.types import OPEN_ACL_UNSAFE, Outcome
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from everlatch import Client

__all__ = ["KINDS", "OTHERS", "Ending", "Kind", "Mode", "Seen", "ending_of", "look", "wrong"]

_DATA: Final = b"data"


class Mode(enum.Enum):
    """How a write is made."""

    PLAIN = "plain"
    IDEMPOTENT = "idempotent"
    PROTECT = "protect"
    EXACTLY_ONCE = "exactly_once"

    @property
    def option(self) -> dict[str, bool]:
        """Of the call."""
        return {self.value: True} if self in (Mode.IDEMPOTENT, Mode.PROTECT) else {}


class Ending(enum.Enum):
    """What a call ended with."""

    RESULT = "result"
    REFUSED = "refused by the servers"
    NOT_APPLIED = "not applied"
    RESULT_LOST = "happened, result lost"
    UNKNOWN = "unknown"


class Seen(NamedTuple):
    """A case's nodes at one moment, when nobody was writing."""

    root: Stat
    nodes: Mapping[str, Stat]
    """Path → Stat, of the children."""

    @property
    def created(self) -> int:
        """How many children there ever were."""
        return (self.root.cversion + self.root.num_children) // 2

    @property
    def deleted(self) -> int:
        """How many of them are gone."""
        return self.created - self.root.num_children

    def made_since(self, before: Seen) -> list[Created]:
        """The nodes that are new."""
        old = {(path, stat.czxid) for path, stat in before.nodes.items()}
        return [Created(path, stat) for path, stat in self.nodes.items() if (path, stat.czxid) not in old]


async def look(witness: Client, root: str) -> Seen:
    """From beside."""
    await witness.sync(root)
    names, stat = await witness.children_and_stat(root)
    nodes = {f"{root}/{name}": await witness.exists(f"{root}/{name}") for name in sorted(names)}
    return Seen(stat, {path: found for path, found in nodes.items() if found is not None})


class Kind(NamedTuple):
    """One kind of write; its node is `n` below the root of the case."""

    name: str
    op: Op
    """As which it travels, without a receipt."""
    call: Callable[[Client, str, dict[str, bool]], Awaitable[Any]]
    """(client, path of the node, options of the mode)."""
    count: Callable[[Seen, Seen, str], int]
    """How often it was applied between two looks: (before, after, path)."""
    modes: frozenset[Mode]
    is_new: bool = True
    """Whether there is no such node before it."""
    is_ephemeral: bool = False
    version: int = -1
    """That it demands."""


def _creations(before: Seen, after: Seen, _: str) -> int:
    return after.created - before.created


def _deletions(before: Seen, after: Seen, _: str) -> int:
    return after.deleted - before.deleted


def _sets(before: Seen, after: Seen, path: str) -> int:
    old, new = before.nodes.get(path), after.nodes.get(path)
    return new.version - old.version if old is not None and new is not None else 0


def _acls(before: Seen, after: Seen, path: str) -> int:
    old, new = before.nodes.get(path), after.nodes.get(path)
    return new.aversion - old.aversion if old is not None and new is not None else 0


_ALL: Final = frozenset(Mode)
_NAMED: Final = _ALL
_NUMBERED: Final = _ALL - {Mode.IDEMPOTENT}
_FREE: Final = _ALL - {Mode.PROTECT}
_DEMANDING: Final = _ALL - {Mode.PROTECT, Mode.IDEMPOTENT}
_UNRECEIPTED: Final = frozenset({Mode.PLAIN, Mode.IDEMPOTENT})
_PLAIN: Final = frozenset({Mode.PLAIN})


def _create(name: str, modes: frozenset[Mode], op: Op = Op.CREATE2, **options: Any) -> Kind:
    def call(client: Client, path: str, mode: dict[str, bool]) -> Awaitable[Created]:
        prefix = path + "-" if options.get("sequential") else path
        return client.create(prefix, _DATA, **options, **mode)

    return Kind(f"create {name}", op, call, _creations, modes, is_ephemeral=bool(options.get("ephemeral")))


def _existing(name: str, op: Op, method: str, count: Any, modes: frozenset[Mode], *args: Any, version: int) -> Kind:
    def call(client: Client, path: str, mode: dict[str, bool]) -> Awaitable[Any]:
        result: Awaitable[Any] = getattr(client, method)(path, *args, version=version, **mode)
        return result

    return Kind(name, op, call, count, modes, is_new=False, version=version)


async def _transact(client: Client, path: str, version: int) -> list[Created | Stat]:
    async with client.transaction() as transaction:
        changed = transaction.set(path, b"longer data", version=version)
        made = transaction.create(path + "-", _DATA, sequential=True)
    stat = await client.exists(made.result)
    return [changed.result, *([Created(made.result, stat)] if stat is not None else [])]


def _transaction(name: str, version: int) -> Kind:
    def call(client: Client, path: str, _: dict[str, bool]) -> Awaitable[Any]:
        return _transact(client, path, version)

    return Kind(name, Op.MULTI, call, _creations, _DEMANDING, is_new=False, version=version)


KINDS: Final = (
    _create("persistent", _NAMED),
    _create("ephemeral", _NAMED, ephemeral=True),
    _create("sequential", _NUMBERED, sequential=True),
    _create("ephemeral sequential", _NUMBERED, ephemeral=True, sequential=True),
    _create("container", _NAMED, Op.CREATE_CONTAINER, container=True),
    _create("with a ttl", _NAMED, Op.CREATE_TTL, ttl=1000.0),
    _create("sequential with a ttl", _NUMBERED, Op.CREATE_TTL, sequential=True, ttl=1000.0),
    _existing("set", Op.SET_DATA, "set", _sets, _FREE, b"longer data", version=-1),
    _existing("set with a version", Op.SET_DATA, "set", _sets, _DEMANDING, b"longer data", version=0),
    _existing("delete", Op.DELETE, "delete", _deletions, _FREE, version=-1),
    _existing("delete with a version", Op.DELETE, "delete", _deletions, _DEMANDING, version=0),
    _existing("set_acl", Op.SET_ACL, "set_acl", _acls, _UNRECEIPTED, OPEN_ACL_UNSAFE, version=-1),
    _existing(
        "set_acl with a version",
        Op.SET_ACL,
        "set_acl",
        _acls,
        _UNRECEIPTED - {Mode.IDEMPOTENT},
        OPEN_ACL_UNSAFE,
        version=0,
    ),
    _transaction("transaction", -1),
    _transaction("transaction with a version", 0),
)


# -- what somebody else does meanwhile


async def _nothing(_witness: Client, _path: str, _exists: bool, _ephemeral: bool) -> None:
    """Nobody else is there."""


async def _remove(witness: Client, path: str, exists: bool, _: bool) -> None:
    if exists:
        await witness.delete(path)


async def _replace(witness: Client, path: str, exists: bool, ephemeral: bool) -> None:
    await _remove(witness, path, exists, ephemeral)
    await witness.create(path, _DATA, ephemeral=ephemeral)


async def _change(witness: Client, path: str, exists: bool, ephemeral: bool) -> None:
    if exists:
        await witness.set(path, b"somebody else's")
    else:
        await witness.create(path, b"somebody else's", ephemeral=ephemeral)


async def _change_acl(witness: Client, path: str, exists: bool, _: bool) -> None:
    if exists:
        await witness.set_acl(path, OPEN_ACL_UNSAFE)


async def _make_sibling(witness: Client, path: str, _exists: bool, _ephemeral: bool) -> None:
    await witness.create(path + "-sibling")
    await witness.delete(path + "-sibling")


OTHERS: Final[dict[str, Callable[[Client, str, bool, bool], Awaitable[None]]]] = {
    "nothing": _nothing,
    "removes it": _remove,
    "replaces it": _replace,
    "changes it": _change,
    "changes its acl": _change_acl,
    "makes a sibling": _make_sibling,
}
"""(witness, path, whether it exists, whether it is or would be ephemeral)."""


# -- who tells the truth


def ending_of(end: Any) -> Ending:
    """What a call has returned or raised."""
    if isinstance(end, OutcomeUnknownError):
        return Ending.UNKNOWN
    if isinstance(end, WriteNotAppliedError):
        return Ending.NOT_APPLIED
    if isinstance(end, ResultLostError):
        return Ending.RESULT_LOST
    return Ending.REFUSED if isinstance(end, EverlatchError) else Ending.RESULT


def wrong(kind: Kind, mode: Mode, path: str, looks: tuple[Seen, Seen, Seen, Seen], end: Any) -> str | None:
    """Why what a call ended with can't be true; `None`: it is."""
    first, second = kind.count(looks[0], looks[1], path), kind.count(looks[2], looks[3], path)
    if isinstance(end, BaseException) and not isinstance(end, EverlatchError):
        return f"it ended with {end!r}"
    is_gone = bool(looks[1].made_since(looks[0])) and not looks[2].made_since(looks[0])
    may_repeat = mode is Mode.IDEMPOTENT or (mode is Mode.PROTECT and is_gone)
    applied, most = first + second, 3 if may_repeat else 1  # for two losses
    if applied > most:
        return f"applied {applied} times"
    if mode is Mode.EXACTLY_ONCE and isinstance(end, OutcomeUnknownError):
        return f"it is unknown: {end!r}"
    if not isinstance(end, EverlatchError):
        return _wrong_result(kind, mode, path, looks, applied, end)
    if end.outcome is Outcome.NOT_APPLIED and applied:
        return f"applied, and told: {end!r}"
    if end.outcome is Outcome.HAPPENED and not applied:
        return f"not applied, and told: {end!r}"
    return _wrong_refusal(kind, path, looks[2], end)


def _wrong_refusal(kind: Kind, path: str, there: Seen, end: EverlatchError) -> str | None:
    cause = end.error if isinstance(end, TransactionFailedError) else end
    node = there.nodes.get(path)
    is_true = {
        NodeExistsError: node is not None,
        NoNodeError: node is None,
        BadVersionError: node is not None
        and kind.version not in (-1, node.aversion if kind.op == Op.SET_ACL else node.version),
    }
    return None if is_true.get(type(cause), True) else f"there is no reason for {end!r}"


def _wrong_result(
    kind: Kind, mode: Mode, path: str, looks: tuple[Seen, Seen, Seen, Seen], applied: int, end: Any
) -> str | None:
    if not applied:
        is_there = path in looks[2].nodes
        finds = mode is Mode.IDEMPOTENT and (is_there if kind.is_new else kind.op == Op.DELETE and not is_there)
        return None if finds else f"not applied, and returned {end!r}"
    for result in end if isinstance(end, list) else [end]:
        if isinstance(result, Created) and not _is_true_node(result, mode, looks):
            return f"{result!r} is not among {looks[1].nodes} and {looks[3].nodes}"
        if isinstance(result, Stat) and not any(_agrees(result, seen.nodes.get(path)) for seen in looks[1::2]):
            return f"{result!r} is neither {looks[1].nodes.get(path)} nor {looks[3].nodes.get(path)}"
    return None


def _is_true_node(created: Created, mode: Mode, looks: tuple[Seen, Seen, Seen, Seen]) -> bool:
    made = [*looks[1].made_since(looks[0]), *looks[3].made_since(looks[2])]
    if mode is Mode.IDEMPOTENT:  # it may have found it as it was by then
        made += [Created(*node) for node in looks[3].nodes.items()]
    return created in made


def _agrees(told: Stat, seen: Stat | None) -> bool:
    """As far as it is told. What of a Stat others may have changed without setting the data is left out."""
    names = ("czxid", "mzxid", "ctime", "mtime", "version", "ephemeral_owner", "data_length")
    places = [Stat._fields.index(name) for name in names]
    return seen is not None and all(told[place] in (UNKNOWN, seen[place]) for place in places)
