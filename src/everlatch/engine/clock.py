"""Which clock a loop is read by.

Sessions expire while a machine sleeps, so their clock has to count that time: `CLOCK_BOOTTIME` where there is one.
The loop's own clock is `CLOCK_MONOTONIC`, which stands still meanwhile. A loop whose time is not the machine's (a
simulation) says so with an attribute `virtual_time = True`; its own clock is used then.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["clock_of"]


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """A function that returns seconds from an arbitrary origin."""
    if getattr(loop, "virtual_time", False):
        return loop.time
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return time.monotonic
    # Not a lambda: this runs several times a call, and a partial needs no Python frame.
    return functools.partial(time.clock_gettime, boottime)
