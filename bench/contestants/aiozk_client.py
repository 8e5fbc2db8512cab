"""aiozk 0.32. Its methods are coroutines: with a window above one each call is a task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiozk

from bench.contestants.asyncio_window import measure_asyncio
from bench.workload import CROWD, NODE, VALUE, CreatedPaths, Job, check_children, check_get, check_set

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.stopwatch import Sample

__all__ = ["measure"]


def measure(job: Job) -> Sample:
    """Measure aiozk on the event loop of the standard library."""
    return asyncio.run(_measure(job))


async def _measure(job: Job) -> Sample:
    client = aiozk.ZKClient(job.address, session_timeout=10)
    await client.start()
    try:
        call, check = _operation(client, job)
        if job.window == 1:
            return await measure_asyncio(job, call, check)
        create_task = asyncio.get_running_loop().create_task
        return await measure_asyncio(job, lambda: create_task(call()), check)
    finally:
        await client.close()


def _operation(client: Any, job: Job) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """How to start the operation, and how to check its result."""
    if job.operation == "get":
        return lambda: client.get(NODE), check_get
    if job.operation == "set":
        return lambda: client.set(NODE, VALUE, version=-1), check_set
    if job.operation == "children":
        return lambda: client.get_children(CROWD), check_children
    paths = CreatedPaths(job.parent)
    return lambda: client.create(paths.fresh(), VALUE), paths.check
