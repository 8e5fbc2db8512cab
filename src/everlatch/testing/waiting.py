"""How a test waits at a proxy: for conditions, which are looked at whenever something has changed.

Rules of this module: whoever waits is woken by a change, never by the clock, and is told what did come when the time is
over.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from everlatch.errors import EverlatchError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATIENCE", "Changes", "ProxyTimeoutError"]

PATIENCE: Final = 30.0
"""For how many seconds a test waits if it doesn't say."""


class ProxyTimeoutError(EverlatchError, TimeoutError):
    """What a test waited for at a proxy didn't come; the message says what did."""


class Changes:
    """Lets tasks wait for conditions, which are looked at whenever something has changed."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Something has changed."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def until(
        self, condition: Callable[[], object], timeout: float | None = None, problem: Callable[[], str] = str
    ) -> None:
        """Returns when the condition holds. Raises `ProxyTimeoutError` with the problem."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    await self._next()
        except TimeoutError:
            raise ProxyTimeoutError(f"{problem()} (waited {timeout:g} s)") from None

    async def _next(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)
