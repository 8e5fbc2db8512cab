"""What these tests have in common: protocols that write down what they hear."""

from __future__ import annotations

import asyncio

PORT = 7000


class Peer(asyncio.Protocol):
    """One end of a connection, and when what came."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.data = b""
        self.pieces: list[tuple[float, bytes]] = []
        self.happened: list[str] = []
        self.error: Exception | None = None
        self.keeps_open = False
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport):
        self.transport = transport
        self.happened.append("made")

    def data_received(self, data):
        self.data += data
        self.pieces.append((self.loop.time(), data))
        self.happened.append("data")

    def eof_received(self):
        self.happened.append("eof")
        return self.keeps_open

    def connection_lost(self, exc):
        self.error = exc
        self.happened.append("lost")

    def pause_writing(self):
        self.happened.append("pause")

    def resume_writing(self):
        self.happened.append("resume")

    @property
    def is_lost(self):
        return "lost" in self.happened


class Two:
    """Hosts `a` and `b`; `b` listens."""

    def __init__(self, world) -> None:
        self.world = world
        self.accepted: list[Peer] = []
        self.a, self.b = world.host("a"), world.host("b", self.listen)
        self.network = world.network

    def accept(self):
        self.accepted.append(Peer())
        return self.accepted[-1]

    async def listen(self):
        await asyncio.get_running_loop().create_server(self.accept, None, PORT)

    async def dial(self):
        _, peer = await asyncio.get_running_loop().create_connection(Peer, "b", PORT)
        return peer

    async def connect(self):
        """Both ends of a new connection."""
        before = len(self.accepted)
        client = await self.a.run(self.dial())
        await self.world.until(lambda: len(self.accepted) > before)
        return client, self.accepted[-1]
