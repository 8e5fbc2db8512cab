"""A proxy between peers that are looked at byte by byte."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any, Self, cast

from everlatch.testing import Op, Proxy
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, encode_connect_request
from everlatch.wire.headers import frame_request
from everlatch.wire.records import encode_get_data_request, encode_set_data_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing import Certificates

HELLO = frame(encode_connect_request(ConnectRequest(0, 0, 10_000, 0, bytes(16), False)))
WELCOME = frame(struct.pack(">iiqi16s?", 0, 10_000, 0x77, 16, bytes(16), False))


def get(xid: int, path: str = "/a") -> bytes:
    return frame_request(xid, Op.GET_DATA, encode_get_data_request(path, False))


def set_data(xid: int, path: str = "/a", data: bytes = b"") -> bytes:
    return frame_request(xid, Op.SET_DATA, encode_set_data_request(path, data, -1))


def reply(xid: int, body: bytes = b"") -> bytes:
    return frame(struct.pack(">iqi", xid, 1, 0) + body)


class Peer(asyncio.Protocol):
    """One end of a connection: keeps what comes, and how it ended."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.reads = 0
        self.ended = ""
        """How the other side ended it: `fin` or `rst`."""
        self.transport = cast("asyncio.Transport", None)
        self.gone = False
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.reads += 1
        self._changed.set()

    def eof_received(self) -> bool:
        self.ended = "fin"
        self._changed.set()
        return not self.is_by_tls

    def connection_lost(self, error: Exception | None) -> None:
        if isinstance(error, ConnectionError):
            self.ended = "rst"
        elif self.is_by_tls and not self.ended:
            self.ended = "fin"  # without a word: TLS has one for it
        self.gone = True
        self._changed.set()

    @property
    def is_by_tls(self) -> bool:
        return self.transport is not None and self.transport.get_extra_info("ssl_object") is not None

    def send(self, *data: bytes) -> None:
        self.transport.write(b"".join(data))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_received(self, *data: bytes) -> None:
        """Exactly this, and nothing else."""
        expected = b"".join(data)
        await self.until(lambda: len(self.received) >= len(expected) or self.ended)
        assert bytes(self.received) == expected

    async def until_ended(self) -> str:
        await self.until(lambda: self.ended)
        return self.ended


class Wire:
    """A server that says nothing by itself, a proxy before it, and connections through both; by TLS with the
    certificates of `ends`, for the two ends, and of the option `tls`, for the proxy."""

    def __init__(self, ends: Certificates | None = None, **options: Any) -> None:
        self._ends = ends
        self.accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self.peers: list[Peer] = []
        self._options = options

    async def __aenter__(self) -> Self:
        context = None if self._ends is None else self._ends.server_context()
        self._server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0, ssl=context)
        self.proxy = Proxy(_address(self._server.sockets[0]), **self._options)
        await self.proxy.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.proxy.close()
        assert self.proxy.connections == ()
        self._server.close()
        for peer in self.peers:
            peer.transport.abort()
            await peer.until(lambda peer=peer: peer.gone)  # type: ignore[misc]
        await self._server.wait_closed()

    def _accept(self) -> Peer:
        peer = Peer()
        peer_made = peer.connection_made

        def made(transport: asyncio.BaseTransport) -> None:
            peer_made(transport)
            self.peers.append(peer)
            self.accepted.put_nowait(peer)

        peer.connection_made = made  # type: ignore[method-assign]
        return peer

    async def dial(self, *, certificate: str | None = None) -> Peer:
        """A client that has connected to the proxy, with the certificate of this name."""
        host, port = self.proxy.address.split(":")
        context = None if self._ends is None else self._ends.client_context(certificate)
        _, peer = await asyncio.get_running_loop().create_connection(Peer, host, int(port), ssl=context)
        self.peers.append(peer)
        return peer

    async def connect(self, *, certificate: str | None = None) -> tuple[Peer, Peer]:
        """Both ends of a connection without ZooKeeper's handshake."""
        client = await self.dial(certificate=certificate)
        return client, await self.accepted.get()

    async def greet(self) -> tuple[Peer, Peer]:
        """Both ends of a connection after the handshake, with nothing received yet."""
        client, server = await self.connect()
        client.send(HELLO)
        await server.until_received(HELLO)
        server.send(WELCOME)
        await client.until_received(WELCOME)
        for peer in (client, server):
            peer.received.clear()
            peer.reads = 0
        return client, server


def _address(listener: Any) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"
