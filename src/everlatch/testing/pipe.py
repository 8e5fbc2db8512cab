"""One direction of a connection through a proxy: what has come, in order, until it can be passed on.

Rules of this module:

- A stream is late, slow, in pieces, or it ends: nothing overtakes, nothing is lost out of its middle.
- Links are slow as they are: of a stream of `rate` bytes a second, the n-th byte comes n/rate seconds after the first
  could. After a piece that passed slowly comes a pause of a millisecond at least, and who reads on the same loop has
  a turn to see it alone.
- A megabyte is taken; then the sender is no longer read, and TCP's own flow control does what it always does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from everlatch.testing.faults import Held, Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from everlatch.testing.faults import LinkFault

__all__ = ["Pipe"]

_MOST_QUEUED: Final = 1 << 20
_PAUSE: Final = 0.001
# uvloop runs timers, then callbacks, then reads, and may write last of all: what was written in one turn is read in the
# next, and callbacks run before that.
_TURNS: Final = 3

_Item: TypeAlias = "bytes | Held | Callable[[], None]"
"""What stands in the queue: bytes to write, a stop, something to do."""


class _Entry(NamedTuple):
    due: float
    """It passes no earlier."""
    item: _Item
    pace: Pace | None


class Pipe:
    """Takes what comes from `source`, and passes it on to `sink`. `link_faults` are those that hold at the moment."""

    def __init__(self, link_faults: Callable[[], Sequence[LinkFault]]) -> None:
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.writable = True
        self.ended = False
        """The end of the stream has been passed on."""
        self._link_faults = link_faults
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Entry] = deque()
        self._size = 0
        self._timer: asyncio.Handle | None = None
        self._deaf = self._reading_paused = False
        self._holding: list[Held] = []
        self._stalled = False
        self._line_free = 0.0
        """When the last piece that passed slowly had passed."""
        self._left: int | None = None
        """How many bytes pass before `_at_end` is called."""
        self._at_end: Callable[[], None] | None = None

    # -- what comes

    def put(self, item: _Item, *, delay: float = 0.0, pace: Pace | None = None) -> None:
        """At the end of the queue; `flush` passes it on: later by the delay, and at this pace or that of the link."""
        if self._deaf:
            return
        for fault in self._link_faults():
            fault._strike()
            delay = max(delay, fault._delay)
        self._queue.append(_Entry(self._loop.time() + delay, item, pace))
        self._size += len(item) if isinstance(item, bytes) else 0

    def put_frame(self, data: bytes, *, delay: float = 0.0, pace: Pace | None = None) -> None:
        """Like `put`, and counts it for what is held before it."""
        for held in self._holding:
            held._keep()
        self.put(data, delay=delay, pace=pace)

    def hold(self, held: Held, data: bytes) -> None:
        """A frame that stays here until it is released, with all that comes behind it."""
        self._holding = [other for other in self._holding if not other._released]
        held._catch(self)
        if not self._deaf:
            self._queue.append(_Entry(self._loop.time(), held, None))
        self.put_frame(data)
        self._holding.append(held)

    def put_last(self, item: _Item) -> None:
        """Nothing passes behind it any more."""
        self.put(item)
        self._deaf = True

    def end_after(self, size: int, action: Callable[[], None]) -> None:
        """Calls it when so many bytes more have passed, and passes none behind them. The last call counts."""
        self._left, self._at_end = size, action
        self.flush()

    def endless(self, action: Callable[[], None] | None = None) -> None:
        """Takes `end_after` back, or one with this action alone."""
        if action is None or action is self._at_end:
            self._left = self._at_end = None

    # -- what goes

    def flush(self, time: float = 0.0) -> None:
        """Passes on what can be. `time`: it is that late at least, whatever the clock says."""
        self._stop_timer()
        now = max(time, self._loop.time())
        faults = self._link_faults()
        self._pass_on(now, any(fault._hole for fault in faults), Pace.slowest(*(fault._pace for fault in faults)))
        self._regulate()

    def close(self) -> None:
        """Forgets everything, and takes nothing any more."""
        self._deaf = True
        self._queue.clear()
        self._size = 0
        self.sink = None
        self.endless()
        self._stop_timer()
        self._regulate()

    def _pass_on(self, now: float, blocked: bool, link_pace: Pace | None) -> None:
        ready: list[bytes] = []
        while self._queue and not self._is_at_end(ready):
            due, item, pace = self._queue[0]
            if blocked or self.sink is None or not self.writable or (isinstance(item, Held) and not item._released):
                self._stalled = True
                break
            if due > now:
                self._call_at(due)
                break
            if self._stalled:
                self._stalled, self._line_free = False, now
            pace = Pace.slowest(pace, link_pace)
            if isinstance(item, bytes) and pace is not None:
                self._write(ready)
                self._pass_piece(now, pace)
                break
            self._queue.popleft()
            if isinstance(item, bytes):
                self._size -= len(item)
                ready.append(item)
            elif not isinstance(item, Held):
                self._write(ready)
                item()
        self._write(ready)

    def _pass_piece(self, now: float, pace: Pace) -> None:
        """The next bytes of the first entry, if they have had their time; then the timer goes on."""
        due, item, own_pace = self._queue[0]
        assert isinstance(item, bytes)
        piece = item[: pace.piece]
        passed = max(due, self._line_free) + len(piece) / pace.rate
        if passed > now:
            self._call_at(passed)
            return
        self._line_free = passed
        self._size -= len(piece)
        rest = item[len(piece) :]
        if rest:
            self._queue[0] = _Entry(due, rest, own_pace)
        else:
            self._queue.popleft()
        self._stop_timer()
        self._timer = self._loop.call_later(_PAUSE, self._flush_soon, _TURNS)
        self._write([piece])

    def _is_at_end(self, ready: list[bytes]) -> bool:
        """Whether what is ready goes as far as bytes may pass."""
        return self._left is not None and sum(map(len, ready)) >= self._left

    def _write(self, ready: list[bytes]) -> None:
        data = b"".join(ready)
        ready.clear()
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        if data and self.sink is not None:
            self.sink.write(data)
        if self._left == 0 and self._at_end is not None and self.sink is not None:
            action = self._at_end
            self.endless()
            action()

    def _flush_soon(self, turns: int) -> None:
        if turns:
            self._timer = self._loop.call_soon(self._flush_soon, turns - 1)
        else:
            self.flush()

    def _call_at(self, time: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_at(time, self.flush, time)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _regulate(self) -> None:
        full = self._size > _MOST_QUEUED
        if self.source is None or full == self._reading_paused:
            return
        self._reading_paused = full
        if full:
            self.source.pause_reading()
        else:
            self.source.resume_reading()
