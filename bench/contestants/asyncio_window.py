"""Drives an asyncio client: one await after the other, or a sliding window of futures (see `bench.throughput`).

Rules of this file: `submit` starts the next operation. With a window of one its result is awaited at once; with more
it must return something that runs by itself, a future or a task, since the oldest is awaited only when the window is
full.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from bench.stopwatch import Sample, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.workload import Job

__all__ = ["measure_asyncio"]


async def measure_asyncio(job: Job, submit: Callable[[], Awaitable[Any]], check: Callable[[Any], None]) -> Sample:
    """Warm up, then measure."""
    drive = _one_at_a_time if job.window == 1 else _sliding_window
    await drive(job.warm_up, job.window, submit, check)
    with Stopwatch() as watch:
        await drive(job.times, job.window, submit, check)
    return watch.sample(job.times)


async def _one_at_a_time(
    count: int, window: int, submit: Callable[[], Awaitable[Any]], check: Callable[[Any], None]
) -> None:
    for _ in range(count):
        check(await submit())


async def _sliding_window(
    count: int, window: int, submit: Callable[[], Awaitable[Any]], check: Callable[[Any], None]
) -> None:
    outstanding: deque[Awaitable[Any]] = deque()
    for _ in range(count):
        if len(outstanding) == window:
            check(await outstanding.popleft())
        outstanding.append(submit())
    while outstanding:
        check(await outstanding.popleft())
