"""One connection to a server, and all that came on it, in order.

Rules of this file: nothing is decoded but what tells events from answers; nobody waits for ever.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from everlatch.errors import ProtocolError
from everlatch.wire.codes import XID_NOTIFICATION
from everlatch.wire.framing import FrameReader

__all__ = ["LONGEST", "Link"]

LONGEST: Final = 10.0
"""Seconds after which an answer counts as never coming."""
_LONGEST_FRAME = 1 << 26
_EVENT = XID_NOTIFICATION.to_bytes(4, "big", signed=True)


class Link(asyncio.Protocol):
    """A connection. `frames` are payloads, events among them."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.answers = 0
        """How many of the frames are no events."""
        self.is_open = True
        self._reader = FrameReader(_LONGEST_FRAME)
        self._wanted = 0
        self._waiting: asyncio.Future[None] | None = None

    @classmethod
    async def to(cls, address: str) -> Link:
        """Connects."""
        host, _, port = address.rpartition(":")
        _, link = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        return link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            for buf, pos, end in self._reader.feed(data):
                payload = buf[pos:end]
                self.frames.append(payload)
                # The answer to the handshake begins with a 0.
                self.answers += not payload.startswith(_EVENT)
        except ProtocolError:
            self._transport.abort()
        if self.answers >= self._wanted:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._wake()

    def send(self, data: bytes) -> None:
        """Sends."""
        self._transport.write(data)

    async def answered(self, count: int) -> bool:
        """Waits until so many answers have come, or the connection ends; whether they came."""
        self._wanted = count
        while self.answers < count and self.is_open:
            if not await self._change():
                break
        return self.answers >= count

    async def closed(self) -> bool:
        """Waits until the server closes the connection; whether it did."""
        self._wanted = 1 << 62
        while self.is_open and await self._change():
            pass
        return not self.is_open

    def abort(self) -> None:
        """Breaks the connection."""
        self.is_open = False
        self._transport.abort()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _change(self) -> bool:
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(LONGEST):
                await self._waiting
        except TimeoutError:
            return False
        finally:
            self._waiting = None
        return True
