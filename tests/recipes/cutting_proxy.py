"""A proxy between a client and a real server that understands frames, and fails at the chosen moment.

    async with CuttingProxy(host, port) as proxy:
        client = Client(proxy.address)
        cut = proxy.lose_reply(Op.CREATE2)   # the next create is applied, its reply is lost, the link breaks
        await cut.wait()

Faults are set before they happen and strike once; what strikes tells so by an event.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.headers import decode_reply_header, decode_request_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.wire.codes import Op

_LIMIT = 1 << 26


class Hold:
    """A reply, and all that comes behind it on its connection, kept back."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        """Set when the reply is here."""
        self._link: _Link | None = None
        self._frames = asyncio.Semaphore(0)

    async def frames(self, count: int) -> None:
        """Waits until so many frames are held, the reply included; can be used once."""
        for _ in range(count):
            await self._frames.acquire()

    def keep(self) -> None:
        self._frames.release()

    def catch(self, link: _Link) -> None:
        self._link = link
        self.reached.set()

    def release(self) -> None:
        """Lets everything go, in one write."""
        if self._link is not None:
            self._link.let_go()


class CuttingProxy:
    """Listens on a port of its own; `requests` has the operations of all requests that came."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[_Link] = set()
        self._refusing = self._deaf = False
        self.requests: list[int] = []
        self.on_frame: Callable[[], None] = _nothing
        """Called with every frame that is about to pass, either way."""
        self.lost_requests: dict[int, asyncio.Event] = {}
        self.lost_replies: dict[int, asyncio.Event] = {}
        self.holds: dict[int, Hold] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def address(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    def lose_request(self, op: Op) -> asyncio.Event:
        """The next request of this kind never reaches the server; the connection breaks."""
        return self.lost_requests.setdefault(op, asyncio.Event())

    def lose_reply(self, op: Op) -> asyncio.Event:
        """The next request of this kind is executed; the connection breaks instead of answering."""
        return self.lost_replies.setdefault(op, asyncio.Event())

    def hold(self, op: Op) -> Hold:
        """The reply to the next request of this kind, and all behind it, waits until it is released."""
        return self.holds.setdefault(op, Hold())

    def cut(self) -> None:
        """Breaks all connections."""
        for link in list(self._links):
            link.cut()

    def refuse(self) -> None:
        """Breaks all connections, and every new one at once, until `heal`."""
        self._refusing = True
        self.cut()

    def black_hole(self) -> None:
        """Connections stay open, and nothing passes any more, on new ones neither, until `heal`."""
        self._deaf = True
        for link in self._links:
            link.deaf = True

    def heal(self) -> None:
        """New connections work again; those that fell into the black hole are broken."""
        self._refusing = self._deaf = False
        for link in list(self._links):
            if link.deaf:
                link.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._refusing:
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        link = _Link(self, writer, server_writer)
        link.deaf = self._deaf
        self._links.add(link)
        try:
            await asyncio.gather(
                _pump(reader, link.from_client, link.cut), _pump(server_reader, link.from_server, link.cut)
            )
        finally:
            self._links.discard(link)


class _Link:
    """A client's connection and ours to the server for it."""

    def __init__(self, proxy: CuttingProxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._asked = self._granted = False
        """Whether the handshake, which has no header, is through."""
        self._ops: dict[int, int] = {}
        self._kept: list[bytes] | None = None
        self._hold: Hold | None = None
        self.deaf = False

    def cut(self) -> None:
        self._client.transport.abort()
        self._server.transport.abort()

    def let_go(self) -> None:
        kept, self._kept = self._kept or [], None
        self._client.write(b"".join(kept))

    def from_client(self, payload: bytes) -> None:
        if self.deaf:
            return
        if self._asked:
            xid, op = decode_request_header(payload, 0, len(payload))
            self._proxy.requests.append(op)
            lost = self._proxy.lost_requests.pop(op, None)
            if lost is not None:
                self.deaf = True
                self.cut()
                lost.set()
                return
            self._ops[xid] = op
        self._asked = True
        self._proxy.on_frame()
        self._server.write(frame(payload))

    def from_server(self, payload: bytes) -> None:
        if self.deaf:
            return
        if self._granted:
            xid, _, _ = decode_reply_header(payload, 0, len(payload))
            op = self._ops.pop(xid, 0)
            lost = self._proxy.lost_replies.pop(op, None)
            if lost is not None:
                self.deaf = True
                self.cut()
                lost.set()
                return
            hold = self._proxy.holds.pop(op, None)
            if hold is not None:
                self._kept, self._hold = [], hold
                hold.catch(self)
        self._granted = True
        self._proxy.on_frame()
        if self._kept is None:
            self._client.write(frame(payload))
        else:
            self._kept.append(frame(payload))
            if self._hold is not None:
                self._hold.keep()


def _nothing() -> None:
    """The hook of a proxy that nobody listens to."""


async def _pump(reader: asyncio.StreamReader, deliver: Callable[[bytes], None], cut: Callable[[], None]) -> None:
    """Hands on every frame; when one side has ended, so does the other."""
    frames = FrameReader(_LIMIT)
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            for buf, start, end in frames.feed(data):
                deliver(buf[start:end])
    cut()
