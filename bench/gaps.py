"""Where a row of successful reads was interrupted. Pure, but for the clock that it is given.

Rules of this file: times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share (Java's
`System.nanoTime` is that clock on Linux). A gap lies between two successive successes; what failed between them doesn't
matter.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["SHORTEST_NS", "Gap", "Gaps", "longest_after"]

SHORTEST_NS = 1_000_000
"""What is shorter is the usual time of a read, and not kept."""


class Gap(NamedTuple):
    """Between the end of one successful read and the end of the next."""

    began: int
    ended: int

    @property
    def milliseconds(self) -> float:
        """How long it was."""
        return (self.ended - self.began) / 1e6


class Gaps:
    """Notes the gaps of one reader: tell it every success."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._last: int | None = None
        self.found: list[Gap] = []
        """Those of `SHORTEST_NS` and more, in order."""

    def succeeded(self) -> None:
        """A read has just succeeded."""
        now = self._clock()
        if self._last is not None and now - self._last >= SHORTEST_NS:
            self.found.append(Gap(self._last, now))
        self._last = now


def longest_after(gaps: Iterable[Gap], fault: int) -> Gap | None:
    """The longest of those that were not over when the fault came; None if there is none."""
    return max((gap for gap in gaps if gap.ended >= fault), key=lambda gap: gap.milliseconds, default=None)
