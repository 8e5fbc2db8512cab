"""Waiting for something that changes by itself, and no longer than somebody wants to.

Rules:
1. Who waits for the next change hears of it once, in the order in which they came, and then looks for himself: how it
   is by then may be another matter.
2. A timeout is told from what is raised within: a `TimeoutError` of the caller's own code stays what it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from everlatch.errors import CallTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Changes", "within"]


class Changes:
    """Those who wait for the next change of one thing."""

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[None], None] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def notify(self) -> None:
        """It has changed."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def next(self) -> None:
        """Returns when it has."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)


@contextlib.asynccontextmanager
async def within(seconds: float | None, what: str, path: str) -> AsyncIterator[None]:
    """Raises `CallTimeoutError` if the block takes longer than that; `None`: it may."""
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if seconds is None or not timeout.expired():
            raise
        raise CallTimeoutError(what, path, seconds, sent=None) from None
