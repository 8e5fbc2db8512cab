"""everlatch, on asyncio's own event loop and on uvloop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from bench.contestants.asyncio_window import measure_asyncio
from bench.workload import CROWD, NODE, VALUE, CreatedPaths, Job, check_children, check_get, check_set
from everlatch import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.stopwatch import Sample

__all__ = ["measure_exactly_once", "measure_on_asyncio", "measure_on_uvloop", "measure_with_lease"]


def measure_on_asyncio(job: Job) -> Sample:
    """Measure on the event loop of the standard library."""
    return asyncio.run(_measure(job))


def measure_on_uvloop(job: Job) -> Sample:
    """Measure on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(job))


def measure_with_lease(job: Job) -> Sample:
    """Measure on the event loop of the standard library, while somebody rests on the session's lease."""
    return asyncio.run(_measure_holding(job))


def measure_exactly_once(job: Job) -> Sample:
    """Measure on the event loop of the standard library, with a receipt for every write."""
    return asyncio.run(_measure(job, exactly_once=True))


async def _measure_holding(job: Job) -> Sample:
    async with Client(job.address, session_timeout=10) as client:
        client.hold_lease()
        await client.wait_lease()
        return await measure_asyncio(job, *_operation(client, job))


async def _measure(job: Job, *, exactly_once: bool = False) -> Sample:
    async with Client(job.address, session_timeout=10, exactly_once=exactly_once, ca=job.ca or None) as client:
        return await measure_asyncio(job, *_operation(client, job))


def _operation(client: Client, job: Job) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """How to submit the operation, and how to check its result."""
    if job.operation == "get":
        return lambda: client.get(NODE), check_get
    if job.operation == "set":
        return lambda: client.set(NODE, VALUE), check_set
    if job.operation == "children":
        return lambda: client.children(CROWD), check_children
    paths = CreatedPaths(job.parent)
    return lambda: client.create(paths.fresh(), VALUE), lambda created: paths.check(created.path)
