"""One server on one TCP port, with asyncio; with TLS or without.

Rules of this module: everything happens on the loop that started it; nothing is left behind after `stop`: no socket, no
timer, no task. A client that doesn't read isn't read from either. One timer serves all deadlines.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from everlatch.devserver.identities import Identity
from everlatch.devserver.tls import Shielding

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from everlatch.devserver.connection import Connection
    from everlatch.devserver.core import Server

__all__ = ["Listener"]

_BUFFER_SIZE: Final = 1 << 16
_NOWHERE: Final = ("0.0.0.0", 0)  # noqa: S104
"""Where a client was that has gone already."""


class Listener:
    """Brings bytes to a server and back. `has_acted` is called whenever the server has done something; with `tls`, who
    doesn't speak TLS isn't heard."""

    def __init__(
        self, core: Server, host: str, port: int, has_acted: Callable[[], None], tls: ssl.SSLContext | None = None
    ) -> None:
        self.core = core
        self.host = host
        self.port = port
        """0: a free one; as soon as it listens, that one."""
        self._has_acted = has_acted
        self._tls = tls
        self._listening: asyncio.Server | None = None
        self._links: dict[Connection, _Link] = {}
        self._timer: asyncio.Handle | None = None
        self._due = 0.0
        """When the timer goes off. uvloop's can't always tell."""
        self._idle = asyncio.Event()
        self.buffer = memoryview(bytearray(_BUFFER_SIZE))
        """For all connections: what is read is taken out at once. (Otherwise asyncio allocates 256 KiB for every read,
        which can double the CPU of a request that comes alone.)"""

    async def start(self) -> None:
        """Listens. Raises the `OSError` for a port that is taken."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._link, self.host, self.port)
        self.port = self._listening.sockets[0].getsockname()[1]
        self.arm()

    def _link(self) -> _Link:
        return _Link(self) if self._tls is None else _TlsLink(self, self._tls)

    async def stop(self) -> None:
        """Breaks all connections and listens no more. Does nothing if it doesn't listen."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        listening.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for link in self._links.values():
            link.abort()
        while self._links:
            self._idle.clear()
            await self._idle.wait()
        await listening.wait_closed()

    def acted(self) -> None:
        """The server has done something: what there is to send is sent."""
        for connection in self.core.take_changed():
            self._links[connection].flush(connection)
        self._has_acted()

    def arm(self) -> None:
        """Sets the timer if something is due earlier than it."""
        if self._listening is None:
            return
        due = self.core.next_deadline()
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = asyncio.get_running_loop().call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.core.handle_timer(asyncio.get_running_loop().time())
        self.acted()
        self.arm()

    # -- from connections

    def joined(self, connection: Connection, link: _Link) -> None:
        """A client has come."""
        self._links[connection] = link
        if self._listening is None:  # accepted while `stop` was at work
            link.abort()
        else:
            self.arm()

    def left(self, connection: Connection) -> None:
        """It has gone."""
        self.core.disconnect(connection)
        del self._links[connection]
        self._idle.set()


class _Link(asyncio.BufferedProtocol):
    """One connection's socket."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        host, port = (transport.get_extra_info("peername") or _NOWHERE)[:2]
        self._connection = self._listener.core.connect(host, port, self._loop.time())
        self._listener.joined(self._connection, self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._receive(bytes(self._listener.buffer[:nbytes]))

    def _receive(self, data: bytes) -> None:
        had_session = self._connection.session is not None
        self._connection.receive(data, self._loop.time())
        self._listener.acted()
        if not had_session:
            self._listener.arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.left(self._connection)

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def flush(self, connection: Connection) -> None:
        """Writes what there is to write."""
        output = connection.take_output()
        if output:
            self._transport.write(output)
        if connection.is_closing:
            self._transport.close()

    def abort(self) -> None:
        """Breaks the connection."""
        self._transport.abort()


class _TlsLink(_Link):
    """One connection's socket, with TLS on it."""

    def __init__(self, listener: Listener, context: ssl.SSLContext) -> None:
        super().__init__(listener)
        self._shielding = Shielding(context)

    def buffer_updated(self, nbytes: int) -> None:
        shielding = self._shielding
        was_shaken = shielding.is_shaken
        data = shielding.unwrap(bytes(self._listener.buffer[:nbytes]))
        if shielding.is_shaken and not was_shaken and shielding.subject is not None:
            self._connection.identify([Identity("x509", shielding.subject)])
        if data:
            self._receive(data)
        self._send()
        if shielding.has_ended:
            self._transport.close()

    def flush(self, connection: Connection) -> None:
        output = connection.take_output()
        if output:
            self._shielding.wrap(output)
        if connection.is_closing:
            self._shielding.end()
        self._send()
        if connection.is_closing:
            self._transport.close()

    def _send(self) -> None:
        output = self._shielding.take_output()
        if output:
            self._transport.write(output)
