"""Which process a callback belongs to, and by which clock it lives.

Rules:
1. The process is a context variable: what a process schedules, it schedules for itself. Nothing in asyncio or in the
   client has to know. Outside of all processes is the tester, whom no fault reaches.
2. A process that doesn't run is handed nothing: what would run is held, in the order in which it came due. A process
   that has died keeps it for ever; its tasks are never stepped again, so no `finally` of its runs, as with kill -9.
3. A clock has a rate and an origin of its own; the world's time is nobody's.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.streams import MemoryTransport

__all__ = ["START", "Clock", "HeldCallback", "Process", "current_process"]

START: Final = 1000.0
"""What clocks show when a simulation begins, in seconds: like a machine's monotonic clock, not 0."""

current_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("everlatch_process", default=None)
"""The process that runs; `None` is the tester."""


class Clock:
    """A host's clock. `rate` 1.01 gains a hundredth."""

    def __init__(self, rate: float = 1.0, shows: float = START) -> None:
        self._rate = rate
        self._shown = shows
        self._since = START
        self._plain = rate == 1.0 and shows == START

    @property
    def rate(self) -> float:
        """How many seconds it shows for one of the world's."""
        return self._rate

    def at(self, time: float) -> float:
        """What it shows at the world's `time`."""
        return time if self._plain else self._shown + (time - self._since) * self._rate

    def when(self, shown: float) -> float:
        """The first of the world's times at which it shows that, or more."""
        if self._plain:
            return shown
        time = self._since + (shown - self._shown) / self._rate
        while self.at(time) < shown:
            time = math.nextafter(time, math.inf)
        return time

    def change_rate(self, rate: float, time: float) -> None:
        """From the world's `time` on; what it shows doesn't jump."""
        self._shown, self._since = self.at(time), time
        self._rate, self._plain = rate, False


class HeldCallback(asyncio.Handle):
    """What a process that doesn't run would have run."""

    __slots__ = ("home", "job")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        home: contextvars.Context,
    ) -> None:
        super().__init__(callback, args, loop, home)
        self.job: tuple[Callable[..., object], tuple[Any, ...]] = (callback, args)
        self.home = home

    def run(self) -> None:
        """To be called within `home`."""
        if not self.cancelled():
            callback, args = self.job
            callback(*args)


class Process:
    """One life of a host's process: from a start to a crash."""

    def __init__(self, host: Host, number: int, clock: Clock, *, background: bool) -> None:
        self.host, self.number, self.clock = host, number, clock
        self.background = background
        """Whether its timers are no reason to go on: a server's."""
        self.running = True
        self.dead = False
        self.held: list[HeldCallback] = []
        self.ends: dict[MemoryTransport, None] = {}
        """Its sockets."""
        self.listeners: dict[int, Callable[[], asyncio.BaseProtocol]] = {}
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """Those that the host began and that aren't done: loops hold tasks weakly only."""
        self.remains: list[asyncio.Task[Any]] = []
        """Tasks of a dead process, kept so that nothing collects them: that would run their `finally`."""
        self.context = contextvars.copy_context()
        self.context.run(current_process.set, self)

    def __repr__(self) -> str:
        return f"<Process {self.host.name} #{self.number}>"

    def hold(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        home: contextvars.Context,
    ) -> HeldCallback:
        """Keeps a callback until the process runs."""
        held = HeldCallback(callback, args, loop, home)
        self.held.append(held)
        return held

    def release(self, loop: asyncio.AbstractEventLoop) -> None:
        """It runs, and gets what was held, in order."""
        self.running = True
        held, self.held = self.held, []
        for each in held:
            loop.call_soon(each.run, context=each.home)
