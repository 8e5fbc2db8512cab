"""everlatch, on the event loop of the standard library. It repeats reads by itself; what else it raises is an error."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bench.reading import Reading
from bench.workload import NODE, check_get
from everlatch import Client

if TYPE_CHECKING:
    from bench.readers import ReaderJob

__all__ = ["read"]


def read(job: ReaderJob) -> None:
    """Read until told."""
    asyncio.run(_read(job))


async def _read(job: ReaderJob) -> None:
    while True:
        async with Client(job.servers, session_timeout=job.timeout_s, ca=job.ca or None) as client:
            if client.statistics().server != job.first:
                continue
            reading = Reading(client.session_id)
            while reading.goes_on():
                check_get(await client.get(NODE))
                reading.succeeded()
            reading.tell()
            return
