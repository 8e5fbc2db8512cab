"""Name resolution that outlives the attempt that asked for it.

Rules:
1. A name is looked up once at a time. A lookup is a thread of the loop's executor and can't be cancelled: were every
   attempt to begin its own, a name server that hangs would soon have all threads, the application's included.
2. An attempt that runs out of time leaves its lookup behind, and the next one for that name takes it up: otherwise a
   name that takes longer to resolve than an attempt may take would never do so.
3. An answer is used once, and what was left behind is forgotten when the client is connected: names move.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlatch.paths import Endpoint

__all__ = ["Lookups"]


class Lookups:
    """The lookups of one client."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: dict[Endpoint, asyncio.Task[Any]] = {}

    async def resolve(self, endpoint: Endpoint) -> list[str]:
        """The addresses of a name, each once. Raises what `getaddrinfo` raises, and `InterruptedError` after
        `forget`."""
        lookup = self._running.get(endpoint)
        if lookup is None:
            lookup = self._running[endpoint] = self._loop.create_task(self._look_up(endpoint))
            # An attempt that has gone doesn't ask how it ended; asyncio would complain.
            lookup.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        found = await self._taken_up(endpoint, lookup)
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))

    async def _taken_up(self, endpoint: Endpoint, lookup: asyncio.Task[Any]) -> Any:
        await asyncio.wait({lookup})  # cancelling this leaves it running
        if self._running.get(endpoint) is lookup:
            del self._running[endpoint]
        if lookup.cancelled():  # not by whoever waits here: he goes on
            raise InterruptedError(f"looking {endpoint.host!r} up was ended: there is a connection")
        return lookup.result()

    async def _look_up(self, endpoint: Endpoint) -> Any:
        return await self._loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)

    def forget(self) -> None:
        """Rule 3. A thread that is still at it goes on; nobody hears of what it finds."""
        for lookup in self._running.values():
            lookup.cancel()
        self._running.clear()
