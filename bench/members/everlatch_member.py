"""everlatch's `LeaderLatch`, on the event loop of the standard library; its listener says that it leads."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from bench.members import say
from everlatch import Client
from everlatch.recipes import LeaderLatch

if TYPE_CHECKING:
    from bench.members import MemberJob

__all__ = ["take_part"]


def take_part(job: MemberJob, *, guardian: bool = False) -> None:
    """Until the end of the input."""
    asyncio.run(_take_part(job, guardian))


async def _take_part(job: MemberJob, guardian: bool) -> None:
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async with Client(job.server, session_timeout=job.timeout_s, guardian=guardian) as client:
        latch: LeaderLatch | None = None
        while order := (await orders.readline()).strip():
            if order == b"join":
                latch = LeaderLatch(client, job.path, job.name)
                latch.add_listener(_on_change)
                await latch.start()
            else:
                assert latch is not None
                began = time.monotonic_ns()
                await latch.close()
                say("resigned", began)


def _on_change(leads: bool) -> None:
    if leads:
        say("leads", time.monotonic_ns())
