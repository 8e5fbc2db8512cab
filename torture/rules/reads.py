"""Promise P4, for reads: a read sees every earlier write of its client, and none goes back in time.

How it is known: the calls of one client are answered in the order in which they were made. Each answer tells between
which zxids the server was that gave it; so the earliest moment at which it can have been given never goes back. What
was read, or why a write was refused, has to have been true at some such moment.

The reads of a lost connection are sent again, when writes that were called after them may have been applied already. So
a read that a loss falls into is no earlier than the reads before it, and may be later than writes that were called
before it ended.
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
_LOSS: Final = "SUSPENDED"
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
        losses = [state.time for state in history.states if state.client == client and state.state == _LOSS]
        yield from _Follower(truth, views, committed, history.started_zxid, losses).follow(client, calls)


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


class _Mark:
    """How far the server has come, at least, and which call told so."""

    def __init__(self, start: int) -> None:
        self.zxid = start
        self.by: Call | None = None

    def __str__(self) -> str:
        return f"0x{self.zxid:x}" + (f", says {self.by}" if self.by is not None else "")

    def move(self, zxid: int, call: Call) -> None:
        """Never back."""
        if zxid > self.zxid:
            self.zxid, self.by = zxid, call


class _Follower:
    """Goes through the calls of one client, in their order."""

    def __init__(self, truth: Truth, views: Views, committed: _Committed, start: int, losses: list[float]) -> None:
        self._truth = truth
        self._views = views
        self._committed = committed
        self._losses = losses
        """When connections were lost, in order."""
        self._for_writes, self._for_reads = _Mark(start), _Mark(start)
        """When the next one of them was answered."""
        self._repeated: list[tuple[int, Call]] = []
        """Reads that were perhaps sent again, and how far the server had come then: writes that were called before they
        ended need not have seen that."""

    def follow(self, client: int, calls: list[Call]) -> Iterator[Violation]:
        """One client."""
        earliest = self._views.earliest[client] = []
        for call in calls:
            self._catch_up(call)
            text = self._judge(call)
            if text:
                yield Violation(_RULE, call.ended, f"{call} {text}")
            earliest.append((self._for_reads if call.kind in READS else self._for_writes).zxid)

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
        self._for_reads.move(zxid, call)
        if call.kind in READS and self._was_lost(call):
            self._repeated.append((zxid, call))
        else:
            self._for_writes.move(zxid, call)

    def _was_lost(self, call: Call) -> bool:
        index = bisect_left(self._losses, call.began)
        return index < len(self._losses) and self._losses[index] <= call.ended

    def _catch_up(self, call: Call) -> None:
        """What reads saw that had ended before this call."""
        for zxid, read in self._repeated:
            if read.ended < call.began:
                self._for_writes.move(zxid, read)
        self._repeated = [each for each in self._repeated if each[1].ended >= call.began]

    # -- reads

    def _read(self, call: Call) -> str:
        window = self._window(call)
        if isinstance(window, str):
            return window
        self._views.windows[call.client, call.number] = window
        if window.last < self._for_reads.zxid:
            return f"saw what was so until 0x{window.last:x} only; the server had come to {self._for_reads}"
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
            return Window(self._for_reads.zxid, self._for_reads.zxid)
        absent = line.absent(self._for_reads.zxid)
        return absent or f"saw no node, and there always was one since the server had come to {self._for_reads}"

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
        if zxid <= self._for_writes.zxid:
            return f"was applied at 0x{zxid:x}, when the server had come to {self._for_writes}"
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
        window = self._truth.at(call.writes[0].path).absent(self._for_writes.zxid)
        if window is None or (call.seen and window.first > call.seen):
            path = call.writes[0].path
            return f"was acknowledged, but {path} was there all the time since there was {self._for_writes}"
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
            text = f"was refused ({call.code}) for a reason that did not hold, for {path}, at any time"
            return f"{text} since the server had come to {self._for_writes}"
        self._move(window.first, call)
        return ""

    def _when(self, code: int, kind: str, path: str, version: int) -> Window | None:
        line = self._truth.at(path)
        if code == _NO_NODE:
            if kind == CREATE:
                line = self._truth.at(parent(path))
            return line.absent(self._for_writes.zxid)
        if code == _BAD_VERSION:
            return line.present(self._for_writes.zxid, unlike=version)
        if code == _NODE_EXISTS:
            return line.present(self._for_writes.zxid)
        if code == _NOT_EMPTY:
            return line.peopled(self._for_writes.zxid)
        return Window(self._for_writes.zxid, self._for_writes.zxid)
