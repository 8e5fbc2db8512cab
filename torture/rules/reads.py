"""Promise P4, for reads: a read sees every earlier write of its client, and none goes back in time.

How it is known: the calls of one client are answered in the order in which they were made. Each answer tells between
which zxids the server was that gave it; so the earliest moment at which it can have been given never goes back. What
was read, or why a write was refused, has to have been true at some such moment.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from everlatch.paths import parent
from everlatch.types import Children, Created, Node, Stat
from torture.history import CREATE, DELETE, READS, SET, SYNC, Ending
from torture.rules.writes import zxid_of
from torture.truth import Window, fingerprint
from torture.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torture.history import Call, History
    from torture.truth import Timeline, Truth

__all__ = ["Views", "judge"]

_RULE: Final = "reads"
_NO_NODE, _BAD_VERSION, _NODE_EXISTS, _NOT_EMPTY = -101, -103, -110, -111


class Views:
    """What is known of the moments at which calls were answered: filled by `judge`."""

    def __init__(self) -> None:
        self.earliest: dict[int, list[int]] = {}
        """Of each client, for each of its calls: the zxid up to which the server had come, at least."""
        self.windows: dict[tuple[int, int], Window] = {}
        """By client and number of a read that was answered: when what it saw was so."""


def judge(history: History, truth: Truth, views: Views) -> Iterator[Violation]:
    """All reads, and what else is answered."""
    committed = _Committed(history)
    for client, calls in history.calls.items():
        yield from _Follower(truth, views, committed, history.started_zxid).follow(client, calls)


class _Committed:
    """What had been acknowledged, to anybody, by when: a sync has to bring as much."""

    def __init__(self, history: History) -> None:
        ended = sorted(
            (call.ended, zxid_of(call))
            for calls in history.calls.values()
            for call in calls
            if call.writes and call.ending is Ending.OK
        )
        self._times = [time for time, _ in ended]
        self._zxids = list(accumulate((zxid for _, zxid in ended), max))
        self._hidden = history.hidden

    def before(self, time: float, until: float) -> int:
        """The newest zxid acknowledged before `time`; 0 if a sync may have been answered by a deposed leader."""
        if any(began <= until and time <= ended for began, ended in self._hidden):
            return 0
        index = bisect_left(self._times, time)
        return self._zxids[index - 1] if index else 0


class _Follower:
    """Goes through the calls of one client, in their order."""

    def __init__(self, truth: Truth, views: Views, committed: _Committed, start: int) -> None:
        self._truth = truth
        self._views = views
        self._committed = committed
        self._at = start
        """The server has come to this zxid, at least."""
        self._by: Call | None = None
        """The call that told so."""

    def follow(self, client: int, calls: list[Call]) -> Iterator[Violation]:
        """One client."""
        earliest = self._views.earliest[client] = []
        for call in calls:
            text = self._judge(call)
            if text:
                yield Violation(_RULE, call.ended, f"{call} {text}")
            earliest.append(self._at)

    def _judge(self, call: Call) -> str:
        if call.ending is Ending.OK:
            if call.kind in READS:
                return self._read(call)
            if call.kind == SYNC:
                self._move(self._committed.before(call.began, call.ended), call)
                return ""
            return self._written(call)
        if call.ending is Ending.REFUSED and call.code and self._truth.complete:
            return self._refused(call)
        return ""

    def _move(self, zxid: int, call: Call) -> None:
        if zxid > self._at:
            self._at, self._by = zxid, call

    # -- reads

    def _read(self, call: Call) -> str:
        window = self._window(call)
        if isinstance(window, str):
            return window
        self._views.windows[call.client, call.number] = window
        if window.last < self._at:
            by = self._by
            return f"saw what was so until 0x{window.last:x} only; the server had come to 0x{self._at:x}, says {by}"
        if call.seen and window.first > call.seen:
            return f"saw what has been so since 0x{window.first:x} only, when its client had heard of 0x{call.seen:x}"
        self._move(window.first, call)
        return ""

    def _window(self, call: Call) -> Window | str:
        line = self._truth.at(call.path)
        match call.result:
            case Node(data, stat):
                return self._seen(line, stat, data, None)
            case Children(names, stat):
                return self._seen(line, stat, None, names)
            case Stat():
                return self._seen(line, call.result, None, None)
        if not self._truth.complete:
            return Window(self._at, self._at)
        return line.absent(self._at) or f"saw no node, and since 0x{self._at:x} there always was one, says {self._by}"

    def _seen(self, line: Timeline, stat: Stat, data: bytes | None, names: list[str] | None) -> Window | str:
        """When a node was as a read has seen it."""
        of_data, of_children = line.data.find(stat.mzxid), line.children.find(stat.pzxid)
        if of_data is None or of_children is None:
            return f"saw a state that never was: {data!r}, {stat}"
        state, window = of_data
        same_data = data is None or state.data is None or data == state.data
        found = (stat.version, stat.czxid, stat.ephemeral_owner)
        if not (state.exists and same_data and found == (state.version, state.czxid, state.owner)):
            return f"saw a state that never was: {data!r}, {stat}; at 0x{stat.mzxid:x} there was {state}"
        children, other = of_children
        if self._truth.complete and stat.num_children != children.children:
            return f"saw {stat.num_children} children; at 0x{stat.pzxid:x} there were {children.children}"
        if self._truth.complete and names is not None and fingerprint(names) != children.names:
            return f"saw other children than there were at 0x{stat.pzxid:x}: {names}"
        window = Window(max(window.first, other.first), min(window.last, other.last))
        return window if window.first <= window.last else f"saw a state that never was, of different moments: {stat}"

    # -- writes

    def _written(self, call: Call) -> str:
        zxid = zxid_of(call)
        if not zxid:
            return self._deleted(call)
        if zxid <= self._at:
            return f"was applied at 0x{zxid:x}, when its client knew of 0x{self._at:x} from {self._by}"
        self._move(zxid, call)
        path = call.result.path if isinstance(call.result, Created) else call.path
        if call.kind in (SET, CREATE):
            found = self._truth.at(path).data.find(zxid)
            if found is None or found[0].data != call.value:
                return f"was answered with 0x{zxid:x}, which is not its transaction, but {found and found[0]}"
        return ""

    def _deleted(self, call: Call) -> str:
        """Of a deletion nobody is told the zxid; the node is gone from then on."""
        if not self._truth.complete or not call.writes or call.writes[0].kind != DELETE:
            return ""
        window = self._truth.at(call.writes[0].path).absent(self._at)
        if window is None or (call.seen and window.first > call.seen):
            return f"was acknowledged, but {call.writes[0].path} was there all the time from 0x{self._at:x} on"
        self._move(window.first, call)
        return ""

    def _refused(self, call: Call) -> str:
        """The reason has to have been true, at the leader, when it was the write's turn."""
        kind, path, version = call.kind, call.path, call.version
        if call.parts:
            kind, path, version = call.parts[call.index]
            if any(part.path == path for part in call.parts[: call.index]):
                return ""
        window = self._when(call.code, kind, path, version)
        if window is None or (call.seen and window.first > call.seen):
            return (
                f"was refused ({call.code}) for a reason that did not hold, for {path}, between 0x{self._at:x} and now"
            )
        self._move(window.first, call)
        return ""

    def _when(self, code: int, kind: str, path: str, version: int) -> Window | None:
        line = self._truth.at(path)
        if code == _NO_NODE:
            if kind == CREATE:
                line = self._truth.at(parent(path))
            return line.absent(self._at)
        if code == _BAD_VERSION:
            return line.present(self._at, unlike=version)
        if code == _NODE_EXISTS:
            return line.present(self._at)
        if code == _NOT_EMPTY:
            return line.peopled(self._at)
        return Window(self._at, self._at)
