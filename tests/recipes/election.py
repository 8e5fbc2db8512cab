"""What the tests of the leader latch have in common: a look at the server, and things done behind a member's back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from everlatch.errors import NoNodeError
from everlatch.recipes import LeaderLatch
from everlatch.wire.codes import Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import ConnectRequest, decode_connect_response, encode_connect_request
from everlatch.wire.headers import frame_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch import Client
    from everlatch.testing import Server

LIMIT = 10.0
"""No wait of a test takes longer, in seconds; none should take a tenth of it."""

GUID = "6f1c1d5e-0c3a-4f9c-9a55-0d5d3c6c0f11"


async def nodes(client: Client, path: str) -> list[str]:
    """The names under the latch path now, as the leader of the ensemble has them."""
    client.sync("/")
    try:
        return await client.children(path)
    except NoNodeError:
        return []


async def until_nodes(client: Client, path: str, wanted: Callable[[list[str]], bool]) -> list[str]:
    """Waits until the names under the latch path are as wanted, and returns them."""
    async with asyncio.timeout(LIMIT):
        while True:
            changed = asyncio.Event()
            names: list[str] = []
            there = await client.exists(path, watch=lambda _, event=changed: event.set())
            if there is not None:
                with contextlib.suppress(NoNodeError):
                    names = await client.children(path, watch=lambda _, event=changed: event.set())
            if wanted(names):
                return names
            await changed.wait()


async def until_gone(client: Client, path: str) -> None:
    """Waits until no node is left under the latch path."""
    await until_nodes(client, path, lambda names: not names)


async def started(client: Client, path: str, name: str = "") -> LeaderLatch:
    """A latch that has its node. (It is not looked for with watches: those would count as the member's own.)"""
    latch = LeaderLatch(client, path, name)
    await latch.start()
    async with asyncio.timeout(LIMIT):
        while not latch.node:
            await client.sync("/")
    return latch


async def end_session(server: Server, client: Client) -> None:
    """Ends a client's session at the server, with its id and password, as an administrator's tool would; if it has not
    expired meanwhile."""
    request = ConnectRequest(0, 0, 10_000, client.session_id, client.session_password, False)
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        async with asyncio.timeout(LIMIT):
            writer.write(frame(encode_connect_request(request)))
            replies = 0
            frames = FrameReader(1 << 20)
            while replies < 2:
                data = await reader.read(1 << 16)
                assert data, "the server hung up before it had ended the session"
                for answer in frames.feed(data):
                    replies += 1
                    if replies == 1:
                        if decode_connect_response(*answer).session_id == 0:
                            return
                        writer.write(frame_request(1, Op.CLOSE_SESSION, b""))
    finally:
        writer.close()
        await writer.wait_closed()


class Heard:
    """A listener that keeps what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.told: list[bool] = []
        self._changed = asyncio.Event()

    def __call__(self, leads: bool) -> None:
        self.told.append(leads)
        self._changed.set()

    async def until(self, *expected: bool) -> None:
        """Waits until this is what was told, so far."""
        async with asyncio.timeout(LIMIT):
            while self.told != list(expected):
                self._changed.clear()
                await self._changed.wait()
