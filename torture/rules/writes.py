"""Promises P3 and P4, for writes: an acknowledged one happened, once; a refused one did not; one whose outcome is
unknown happened at most once, and not any more when the client has looked into it; and those of one client took effect
in the order of the calls.

How it is known: each creation and set carries a value that nobody else writes, and a path is deleted by one call, or by
the end of a session. Without the servers' log what was seen of the values is judged, and how often the nodes that were
there from the beginning were written to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from everlatch.types import Created, Stat
from torture.history import CREATE, DELETE, SET, Applied, Change, Ending, author
from torture.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torture.history import Call, History, Part
    from torture.truth import Truth

__all__ = ["judge", "zxid_of"]

_RULE: Final = "writes"
_ORDER: Final = "order"
_LATE: Final = "late"
"""A special case: the write had been given up as unknown before the other one was called. Servers do that to a client
that offers its session again to a follower with old writes: the leader takes the session for moved back as soon as it
hears so, before it looks at those. See `everlatch.session.draining`."""


def judge(history: History, truth: Truth) -> Iterator[Violation]:
    """All that can be said of writes."""
    book = _Book(history)
    yield from book.enter(history.log if history.log is not None else _seen(truth))
    yield from book.check_calls(complete=history.log is not None)
    if history.log is None:
        yield from _check_counts(history)
        yield from _check_final(history)


def zxid_of(call: Call) -> int:
    """Of the transaction that an acknowledged write was; 0 where its result doesn't tell."""
    match call.result:
        case Stat():
            return call.result.mzxid if call.kind == SET else 0
        case Created(_, stat):
            return stat.czxid
        case tuple() if call.parts:
            return next((result.mzxid for result in call.result if isinstance(result, Stat)), 0)
    return 0


class _Book:
    """Which transactions are whose."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._calls = {
            (call.client, call.number): call for calls in history.calls.values() for call in calls if call.writes
        }
        self._deleters: dict[str, list[Call]] = {}
        for call in self._calls.values():
            for part in call.writes:
                if part.kind == DELETE:
                    self._deleters.setdefault(part.path, []).append(call)
        self._found: dict[tuple[int, int], dict[int, list[Change]]] = {}
        """By call and zxid."""
        self._deletions: dict[str, list[int]] = {}
        self._newest: dict[int, Call] = {}
        """The last call of each client of which a transaction was found."""

    # -- the log

    def enter(self, log: Iterable[Applied]) -> Iterator[Violation]:
        """Goes through the transactions."""
        for applied in log:
            if applied.zxid <= self._history.started_zxid or applied.ends_session:
                continue
            for change in applied.changes:
                if self._is_ours(change):
                    yield from self._enter(applied.zxid, change)

    def _is_ours(self, change: Change) -> bool:
        history = self._history
        return change.path.startswith(history.root) and not any(map(change.path.startswith, history.latches))

    def _enter(self, zxid: int, change: Change) -> Iterator[Violation]:
        call = self._author(zxid, change)
        if call is None:
            if change.kind != DELETE:
                text = f"transaction 0x{zxid:x} has {change.data!r} at {change.path}, which nobody was asked to write"
                yield Violation(_RULE, 0.0, text)
            return
        self._found.setdefault((call.client, call.number), {}).setdefault(zxid, []).append(change)
        newest = self._newest.get(call.client)
        if newest is None or newest.number < call.number:
            self._newest[call.client] = call
        elif newest is not call:
            is_late = call.ending is Ending.UNKNOWN and not call.is_over and call.ended < newest.began
            rule = _LATE if is_late else _ORDER
            text = f"{call} took effect, at 0x{zxid:x}, after {newest}, which was called later"
            yield Violation(rule, call.began, text)

    def _author(self, zxid: int, change: Change) -> Call | None:
        if change.kind == DELETE:
            self._deletions.setdefault(change.path, []).append(zxid)
            candidates = [call for call in self._deleters.get(change.path, ()) if call.ending is not Ending.REFUSED]
            return candidates[0] if len(candidates) == 1 else None
        who = author(change.data)
        return None if who is None else self._calls.get(who)

    # -- the calls

    def check_calls(self, *, complete: bool) -> Iterator[Violation]:
        """Each against what was found of it."""
        for who, call in self._calls.items():
            found = self._found.get(who, {})
            if any(part.kind != DELETE for part in call.writes):
                for text in self._faults_of_value(call, found, complete=complete):
                    yield Violation(_RULE, call.began, text)
            elif complete:
                yield from self._check_deletion(call)

    def _faults_of_value(self, call: Call, found: dict[int, list[Change]], *, complete: bool) -> Iterator[str]:
        places = ", ".join(f"0x{zxid:x}" for zxid in found)
        if call.ending is Ending.REFUSED and found:
            yield f"{call} was applied all the same, at {places}"
        if call.ending is Ending.OK and complete and not found:
            yield f"{call} was acknowledged and never applied"
        if len(found) > 1:
            yield f"{call} was applied {len(found)} times, at {places}"
        if call.is_over and any(zxid > call.seen for zxid in found):
            yield f"{call} was applied after it had been looked into (at 0x{call.seen:x}), at {places}"
        for zxid, changes in found.items():
            if call.ending is Ending.OK and zxid_of(call) not in (0, zxid):
                yield f"{call} was acknowledged as 0x{zxid_of(call):x} and applied at 0x{zxid:x}"
            if complete and not _fits(call, [change for change in changes if change.kind != DELETE]):
                yield f"{call} was applied as {[(change.kind, change.path) for change in changes]}"

    def _check_deletion(self, call: Call) -> Iterator[Violation]:
        for part in call.writes:
            rivals = [other for other in self._deleters[part.path] if other.ending is not Ending.REFUSED]
            acknowledged = [other for other in rivals if other.ending is Ending.OK]
            deletions = len(self._deletions.get(part.path, ()))
            if call.ending is Ending.OK and call is acknowledged[0] and len(acknowledged) > deletions:
                text = f"{call}: {len(acknowledged)} deletions of {part.path} acknowledged, {deletions} applied"
                yield Violation(_RULE, call.began, text)
            if not rivals and deletions:
                yield Violation(_RULE, call.began, f"{call} was applied all the same")


def _path_of(call: Call) -> str:
    return call.result.path if isinstance(call.result, Created) else call.path


def _fits(call: Call, changes: list[Change]) -> bool:
    """Whether a transaction did what the call asked for."""
    wanted = [part for part in call.writes if part.kind != DELETE]
    return len(wanted) == len(changes) and all(map(_is, [call] * len(wanted), wanted, changes))


def _is(call: Call, part: Part, change: Change) -> bool:
    if part.kind != change.kind or bool(change.owner) != (call.ephemeral and part.kind == CREATE):
        return False
    if part.kind == CREATE and call.sequential:
        return change.path.startswith(part.path) and change.path[len(part.path) :].isdigit()
    return change.path == part.path


# -- without the log


def _seen(truth: Truth) -> list[Applied]:
    """The transactions of which something was seen."""
    changes: dict[int, list[Change]] = {}
    for path, line in truth.timelines.items():
        for state in line.data.states:
            if author(state.data) is not None:
                kind = CREATE if state.zxid == state.czxid else SET
                changes.setdefault(state.zxid, []).append(Change(kind, path, state.data, state.owner))
    return [Applied(zxid, tuple(changes[zxid])) for zxid in sorted(changes)]


def _check_counts(history: History) -> Iterator[Violation]:
    """Every set counts one version; nodes that were there before the clients began were only set."""
    at_least: dict[str, int] = {}
    at_most: dict[str, int] = {}
    for calls in history.calls.values():
        for call in calls:
            for part in call.writes:
                if part.kind == SET and call.ending is not Ending.REFUSED:
                    at_most[part.path] = at_most.get(part.path, 0) + 1
                    at_least[part.path] = at_least.get(part.path, 0) + (call.ending is Ending.OK)
    for path, node in (history.final or {}).items():
        least, most = at_least.get(path, 0), at_most.get(path, 0)
        was_there = node.stat.czxid <= history.started_zxid and path.startswith(history.root)
        if was_there and not least <= node.stat.version <= most:
            text = f"{path} was written {node.stat.version} times; {least} were acknowledged, {most} possible"
            yield Violation(_RULE, history.closing, text)


def _check_final(history: History) -> Iterator[Violation]:
    """What was created and never deleted is there."""
    if history.final is None:
        return
    deleted = {
        part.path
        for calls in history.calls.values()
        for call in calls
        for part in call.writes
        if part.kind == DELETE and call.ending is not Ending.REFUSED
    }
    for calls in history.calls.values():
        for call in calls:
            if call.kind == CREATE and call.ending is Ending.OK and not call.ephemeral:
                path = _path_of(call)
                if path not in deleted and path not in history.final:
                    yield Violation(_RULE, call.began, f"{call} was acknowledged, and {path} is not there")
