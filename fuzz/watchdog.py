"""How a hang becomes a finding.

Rules of this file: time is CPU time of this process, so that a slow or busy machine is no hang; nothing that is fuzzed
sleeps or waits for anything outside. `Hang` is no `Exception`: what is fuzzed must not take it for one of its own. It
is raised again and again, in case something takes it all the same. What doesn't come back to Python at all is ended by
`faulthandler`, with a trace.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["Hang", "Watchdog"]

_AGAIN = 0.2
_LAST_RESORT = 60


class Hang(BaseException):
    """It took too long."""


class Watchdog:
    """Interrupts what takes more CPU than `seconds`; for the main thread only."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self._is_last_resort = False

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While it is, `start` and `stop` may be called. Another handler of the signal is put back at the end."""
        before = signal.signal(signal.SIGPROF, self._bite)
        try:
            yield
        finally:
            self.stop()
            signal.signal(signal.SIGPROF, before)

    def start(self) -> None:
        """Before what may hang."""
        signal.setitimer(signal.ITIMER_PROF, self.seconds, _AGAIN)

    def stop(self) -> None:
        """After it."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """`start` and `stop` around a block."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    @contextlib.contextmanager
    def last_resort(self) -> Iterator[None]:
        """For a process of its own: ends it when nothing else does. `postpone` while all is well."""
        self._is_last_resort = True
        self.postpone()
        try:
            yield
        finally:
            self._is_last_resort = False
            faulthandler.cancel_dump_traceback_later()

    def postpone(self) -> None:
        """All is well until now; does nothing outside of `last_resort`."""
        if self._is_last_resort:
            limit = _LAST_RESORT + 10 * self.seconds
            faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__ or sys.stderr)

    def _bite(self, _signal: int, _frame: FrameType | None) -> None:
        raise Hang(f"not done after {self.seconds:g} s of CPU time")
