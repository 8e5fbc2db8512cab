"""Connections: the protocol that reports to the engine, and who makes them.

`Dialer` is the seam for other ways to connect (TLS, a simulated network): whatever it does, it ends with an asyncio
transport whose protocol is the one it was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Protocol, cast

from everlatch.tls.transport import connect_tls, receive_buffer, reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.session.servers import Address
    from everlatch.tls import TlsSettings

__all__ = ["BufferedLink", "Dialer", "Link", "LinkEvents", "StreamLink", "TcpDialer", "TlsDialer", "link_type"]


class LinkEvents(Protocol):
    """Who hears of a connection."""

    def link_made(self, link: Link) -> None:
        """The connection is there."""
        ...

    def link_received(self, link: Link, data: bytes) -> None:
        """Bytes have come."""
        ...

    def link_lost(self, link: Link, error: Exception | None) -> None:
        """The connection has ended; `None`: the server closed it."""
        ...

    def link_writable(self, link: Link) -> None:
        """The transport takes bytes again."""
        ...


class _Nobody:
    """Hears nothing."""

    def link_made(self, link: Link) -> None:
        pass

    def link_received(self, link: Link, data: bytes) -> None:
        pass

    def link_lost(self, link: Link, error: Exception | None) -> None:
        pass

    def link_writable(self, link: Link) -> None:
        pass


_NOBODY = _Nobody()


class Link(asyncio.BaseProtocol):
    """One connection, numbered as its session numbers it; a subclass says how its bytes come in."""

    def __init__(self, conn: int, events: LinkEvents, closed: asyncio.Future[None]) -> None:
        self.conn = conn
        self.writable = True
        self.reading_paused = False
        self.transport: asyncio.Transport | None = None
        self.closed = closed
        """Done when the socket is."""
        self._events = events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From the loop."""
        # asyncio sets TCP_NODELAY itself.
        self.transport = cast("asyncio.Transport", transport)
        self._events.link_made(self)

    def connection_lost(self, error: Exception | None) -> None:
        """From the loop."""
        self.transport = None
        self._events.link_lost(self, error)
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """From the loop, or from TLS, which has them decrypted."""
        self._events.link_received(self, data)

    def pause_writing(self) -> None:
        """From the loop: the server doesn't read. What waits, waits in our queue."""
        self.writable = False

    def resume_writing(self) -> None:
        """From the loop."""
        self.writable = True
        self._events.link_writable(self)

    def give_up_after(self, seconds: float) -> None:
        """The kernel reports the link as broken when the peer has acknowledged nothing for so long, if it can."""
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if sock is not None and option is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # it is a help, no more: liveness sees the same, later
                sock.setsockopt(socket.IPPROTO_TCP, option, max(1, round(seconds * 1000)))

    @property
    def is_to_itself(self) -> bool:
        """Whether both ends are the same socket: TCP allows that (simultaneous open) when a client dials a port of
        its own machine's outgoing range on which nobody listens. Our own handshake would come back as the answer, and
        read as "session expired"."""
        assert self.transport is not None
        own = self.transport.get_extra_info("sockname")
        return own is not None and own == self.transport.get_extra_info("peername")

    def leave_to_parent(self, dead: socket.socket) -> None:
        """In a forked child: the connection is its parent's. Nobody here hears of it, and our descriptor is made one of
        `dead`, whose other end is closed: the child's loop, which waits for what its parent's does, would read what is
        the parent's; and to close ours by the loop would have it waited for no more, by either."""
        self._events = _NOBODY
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        if sock is not None and sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                os.dup2(dead.fileno(), sock.fileno(), inheritable=False)

    def abort(self) -> None:
        """Closes at once. `closed` tells when it is done. What the kernel has not yet got rid of is dropped: it would
        go on sending for minutes, and a write that is long settled could arrive after all."""
        if self.transport is None:
            return
        reset(self.transport)


class StreamLink(Link, asyncio.Protocol):
    """For uvloop, which reads into a buffer of its own and passes on what has come."""


class BufferedLink(Link, asyncio.BufferedProtocol):
    """For asyncio's own loops, which otherwise allocate 256 KiB anew for every read."""

    def __init__(self, conn: int, events: LinkEvents, closed: asyncio.Future[None]) -> None:
        super().__init__(conn, events, closed)
        self._buffer = receive_buffer(closed.get_loop())

    def get_buffer(self, sizehint: int) -> memoryview:
        """From the loop."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """From the loop."""
        self._events.link_received(self, bytes(self._buffer[:nbytes]))


def link_type(loop: asyncio.AbstractEventLoop) -> type[Link]:
    """The kind of link that is cheapest on `loop`."""
    return BufferedLink if isinstance(loop, asyncio.BaseEventLoop) else StreamLink


class Dialer(Protocol):
    """Makes connections."""

    async def dial(self, address: Address, make_link: Callable[[], Link]) -> None:
        """Connects to `address`, with `make_link()` as the protocol. Raises `OSError`."""
        ...


class TcpDialer:
    """Plain TCP."""

    async def dial(self, address: Address, make_link: Callable[[], Link]) -> None:
        """Connects; the address is numeric, so nothing is resolved."""
        await asyncio.get_running_loop().create_connection(make_link, address.ip, address.port)


class TlsDialer:
    """TLS over TCP. The connection is there when the handshake is done: all of it is within the session's budget."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls

    async def dial(self, address: Address, make_link: Callable[[], Link]) -> None:
        """Connects and shakes hands. The server's certificate must have the name that led to the address."""
        await connect_tls(make_link, address.ip, address.port, self._tls, address.endpoint.host)
