"""A TLS server for tests that decides which records it sends, and how it goes wrong; behind it, if wanted, a plain
server that it passes everything on to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_RESET = struct.pack("ii", 1, 0)


def whole(data: bytes) -> Iterable[bytes]:
    """One record, if it holds that much."""
    return [data]


def pieces(size: int) -> Callable[[bytes], Iterable[bytes]]:
    """Pieces of so many bytes."""
    return lambda data: [data[start : start + size] for start in range(0, len(data), size)]


def silent(_: Shaken, __: bytes) -> None:
    """Never answers, and keeps the connection open."""


def says(answer: bytes, *, then_close: bool = False) -> Callable[[Shaken, bytes], None]:
    """Answers with these bytes, whatever it is told."""

    def say(peer: Shaken, _: bytes) -> None:
        peer.transport.write(answer)
        if then_close:
            peer.transport.close()

    return say


def closes(peer: Shaken, _: bytes) -> None:
    """Closes the connection."""
    peer.transport.close()


def resets(peer: Shaken, _: bytes) -> None:
    """Resets the connection."""
    peer.reset()


def begins(count: int, then: Callable[[Shaken, bytes], None] = silent) -> Callable[[Shaken, bytes], None]:
    """Sends the first so many bytes of its answer, and goes on as `then` has it."""

    def begin(peer: Shaken, data: bytes) -> None:
        if peer.begun:
            return
        peer.begun = True
        peer.incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        peer.transport.write(peer.outgoing.read()[:count])
        then(peer, b"")

    return begin


class TlsPeer:
    """Listens on a port of 127.0.0.1, as a context manager."""

    def __init__(self, context: ssl.SSLContext, behind: int | None = None) -> None:
        self.context = context
        """Of the next connections."""
        self.behind = behind
        """The port of the server that everything is passed on to; `None`: nobody, `received` has it."""
        self.behave: Callable[[Shaken, bytes], None] | None = None
        """In place of the handshake, on the next connections."""
        self.records: Callable[[bytes], Iterable[bytes]] = whole
        """What becomes a record each."""
        self.segments: Callable[[bytes], Iterable[bytes]] = whole
        """What is sent by itself."""
        self.holding = False
        """Whether what is to be sent is collected, until `release`."""
        self.connections: list[Shaken] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Shaken(self), "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self.connections:
            connection.end()
        await asyncio.gather(*(connection.closed.wait() for connection in self.connections))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connection(self) -> Shaken:
        """The latest one."""
        return self.connections[-1]

    @property
    def open_connections(self) -> list[Shaken]:
        return [each for each in self.connections if not each.closed.is_set()]

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def changed(self) -> None:
        self._changed.set()


class Shaken(asyncio.Protocol):
    """One connection of a `TlsPeer`."""

    def __init__(self, peer: TlsPeer) -> None:
        self.peer = peer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = peer.context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.behave = peer.behave
        self.begun = False
        self.shaken = False
        self.received = b""
        """What the client has sent, if nobody is behind."""
        self.error: ssl.SSLError | None = None
        """Why the handshake failed."""
        self.held: list[bytes] = []
        self.closed = asyncio.Event()
        self.transport: asyncio.Transport
        self._behind: asyncio.Transport | None = None
        self._for_behind = b""
        self._dialing: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.peer.connections.append(self)
        self.peer.changed()

    def connection_lost(self, _: Exception | None) -> None:
        self.closed.set()
        self.peer.changed()
        if self._dialing is not None:
            self._dialing.cancel()
        if self._behind is not None:
            self._behind.abort()

    def data_received(self, data: bytes) -> None:
        if self.behave is not None:
            self.behave(self, data)
            return
        self.incoming.write(data)
        try:
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
                if self.peer.behind is not None:
                    self._dialing = asyncio.ensure_future(self._dial(self.peer.behind))
            while plain := self.tls.read(1 << 16):
                self._hear(plain)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error
            self._flush()
            self.transport.close()
        self._flush()
        self.peer.changed()

    def _hear(self, plain: bytes) -> None:
        if self.peer.behind is None:
            self.received += plain
        elif self._behind is not None:
            self._behind.write(plain)
        else:
            self._for_behind += plain

    async def _dial(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._behind, _ = await loop.create_connection(lambda: _Behind(self), "127.0.0.1", port)
        except OSError:
            self.transport.close()
            return
        self._behind.write(self._for_behind)

    def send(self, data: bytes) -> None:
        """In records as the peer has it."""
        if self.peer.holding:
            self.held.append(data)
            self.peer.changed()
            return
        for record in self.peer.records(data):
            self.tls.write(record)
        self._flush()

    def release(self) -> None:
        """Sends what was held, at once."""
        held, self.held, self.peer.holding = b"".join(self.held), [], False
        self.send(held)

    def send_raw(self, data: bytes) -> None:
        """Without TLS."""
        self.transport.write(data)

    def encrypted(self, data: bytes) -> bytes:
        """As a record, which has to be sent by the caller."""
        self.tls.write(data)
        return self.outgoing.read()

    def say_goodbye(self) -> None:
        """Sends "close notify"."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self._flush()

    def reset(self) -> None:
        """As a process that is killed."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def end(self) -> None:
        self.transport.abort()

    def _flush(self) -> None:
        for segment in self.peer.segments(self.outgoing.read()):
            if segment:
                self.transport.write(segment)


class _Behind(asyncio.Protocol):
    def __init__(self, front: Shaken) -> None:
        self._front = front

    def data_received(self, data: bytes) -> None:
        if not self._front.closed.is_set():
            self._front.send(data)

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self._front.transport.close()
        else:
            self._front.reset()
