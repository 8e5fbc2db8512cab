"""That nodes which many clients write to are linearizable: writes as they are, reads as far as they promise to be.

A read promises it behind a `sync` of the same client, or behind something that it had committed; both are called before
the read is, without waiting, so the operation lasts from the call of the first to the end of the second. (A sync alone
proves nothing while a leader may have been deposed without knowing it: reads behind one then show only that what they
saw had been there.) What the servers refused was evaluated in the order of the writes, so the reason is a look.

How it is known: from what the clients were told, and nothing else: not the servers' log, nor the tree at the end. Only
where the search for an order gives up does the log say where to look for one: which writes took effect, and as what. An
order that is found so is one; that none is found says nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.types import Created, Node, Stat
from torture.history import CREATE, DELETE, EXISTS, GET, SET, SYNC, Ending, told
from torture.linearizable import Kind, Operation, UndecidedError, contradiction
from torture.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torture.history import Applied, Call, History

__all__ = ["UNKNOWN", "counted", "judge", "operations"]

UNKNOWN: Final = "on registers: outcome unknown"
_RULE: Final = "linearizable"
_WRITES: Final = {CREATE: Kind.CREATE, SET: Kind.SET, DELETE: Kind.DELETE}
_NO_NODE, _BAD_VERSION, _NODE_EXISTS = -101, -103, -110
_REASONS: Final = {_NO_NODE: Kind.ABSENT, _BAD_VERSION: Kind.UNLIKE, _NODE_EXISTS: Kind.PRESENT}


class _Look(NamedTuple):
    """A read, told with what it saw."""

    call: Call

    def __str__(self) -> str:
        return f"{self.call!r}, which saw {self.call.result}"


def judge(history: History) -> Iterator[Violation]:
    """All registers, each alone."""
    for path, of_one in operations(history).items():
        try:
            found = contradiction(of_one)
        except UndecidedError as error:
            if _has_order_of_log(history, path, of_one):
                continue
            yield Violation(_RULE, history.closing, f"{path}: {error}")
            continue
        if found is not None:
            yield Violation(_RULE, found.time, f"{path}: {found.text}")


def _has_order_of_log(history: History, path: str, of_one: list[Operation]) -> bool:
    """Whether there is an order that the servers' log, if it is known, leads to."""
    if history.log is None:
        return False
    try:
        return contradiction(list(_as_logged(history.log, path, of_one))) is None
    except UndecidedError:
        return False


def _as_logged(log: list[Applied], path: str, of_one: list[Operation]) -> Iterator[Operation]:
    """The operations, with what the log tells of the writes among them; without those that did not happen."""
    logged = _logged(log, path)
    for operation in of_one:
        if operation.kind not in (Kind.CREATE, Kind.SET):
            yield operation
        elif operation.value in logged:
            told, born, zxid = logged[operation.value]
            yield replace(operation, must=True, told=told, born=born, zxid=zxid)
        elif operation.must:
            yield operation


def _logged(log: list[Applied], path: str) -> dict[bytes, tuple[int, int, int]]:
    """Version, czxid and mzxid of each value that the node had."""
    found: dict[bytes, tuple[int, int, int]] = {}
    version, born = -1, 0
    for applied in log:
        for change in applied.changes:
            if change.path != path:
                continue
            if change.kind == CREATE:
                version, born = 0, applied.zxid
            elif change.kind == SET:
                version += 1
            if change.kind != DELETE:
                found[change.data or b""] = version, born, applied.zxid
    return found


def counted(history: History) -> Counter[str]:
    """How much there was to judge."""
    seen: Counter[str] = Counter()
    for of_one in operations(history).values():
        seen["registers"] += 1
        for operation in of_one:
            seen[f"on registers: {operation.kind.value}"] += 1
            seen[UNKNOWN] += not operation.must
    return seen


def operations(history: History) -> dict[str, list[Operation]]:
    """What was done to each register."""
    found: dict[str, list[Operation]] = {}
    if not history.registers:
        return found
    hidden = history.hidden
    for calls in history.calls.values():
        for call in calls:
            if call.path.startswith(history.registers):
                found.setdefault(call.path, []).extend(_operations(call, calls, hidden))
    return found


def _operations(call: Call, calls: list[Call], hidden: list[tuple[float, float]]) -> Iterator[Operation]:
    """What a call was: an operation, or nothing; of a refused write, what did not happen and why."""
    if call.kind in (GET, EXISTS):
        yield from _read(call, calls, hidden)
    elif call.ending is Ending.OK:
        yield _done(call)
    elif call.ending is Ending.REFUSED:
        yield Operation(Kind.NEVER, call.began, call.ended, value=_written(call), name=call)
        if call.code in _REASONS:
            kind = _REASONS[call.code]
            yield Operation(kind, call.began, call.ended, demanded=call.version, name=call)
    else:
        kind = _WRITES[call.kind]
        yield Operation(kind, call.began, must=False, demanded=call.version, value=_written(call), name=call)


def _written(call: Call) -> bytes:
    return b"" if call.kind == DELETE else call.value


def _done(call: Call) -> Operation:
    """A write that happened, whatever is known of its result."""
    stat = call.result.stat if isinstance(call.result, Created) else call.result
    version, born, zxid = None, None, call.zxid
    if isinstance(stat, Stat):
        version, born, zxid = told(stat, "version"), told(stat, "czxid"), stat.mzxid
    return Operation(
        _WRITES[call.kind],
        call.began,
        call.ended,
        demanded=call.version,
        value=_written(call),
        told=-1 if version is None else version,
        born=born or 0,
        zxid=0 if call.kind == DELETE else zxid,
        name=call,
    )


def _read(call: Call, calls: list[Call], hidden: list[tuple[float, float]]) -> Iterator[Operation]:
    no_node = call.code == _NO_NODE or (call.ending is Ending.OK and call.result is None)
    if call.ending is not Ending.OK and not no_node:
        return
    front = calls[call.behind - 1] if call.behind else None
    fresh = front is not None and front.ending is Ending.OK
    if front is not None and front.kind == SYNC:
        fresh = fresh and not any(began <= call.ended and front.began <= ended for began, ended in hidden)
    began = front.began if front is not None else call.began
    if no_node:
        if fresh:
            yield Operation(Kind.ABSENT, began, call.ended, name=call)
        return
    data, stat = call.result if isinstance(call.result, Node) else (b"", call.result)
    kind = Kind.PRESENT if fresh else Kind.WITNESS
    yield Operation(
        kind,
        began,
        call.ended,
        value=data or b"",
        told=stat.version,
        born=stat.czxid,
        zxid=stat.mzxid,
        name=_Look(call),
    )
