"""One server on one TCP port, with asyncio.

Rules of this module: everything happens on the loop that started it; nothing is left behind after `stop`: no socket, no
timer, no task. A client that doesn't read isn't read from either. One timer serves all deadlines.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.devserver.connection import Connection
    from everlatch.devserver.core import Server

__all__ = ["Listener"]

_BUFFER_SIZE: Final = 1 << 16
_NOWHERE: Final = ("0.0.0.0", 0)  # noqa: S104
"""Where a client was that has gone already."""


class Listener:
    """Brings bytes to a server and back. `has_acted` is called whenever the server has done something."""

    def __init__(self, core: Server, host: str, port: int, has_acted: Callable[[], None]) -> None:
        self.core = core
        self.host = host
        self.port = port
        """0: a free one; as soon as it listens, that one."""
        self._has_acted = has_acted
        self._listening: asyncio.Server | None = None
        self._links: dict[Connection, _Link] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self.buffer = memoryview(bytearray(_BUFFER_SIZE))
        """For all connections: what is read is taken out at once. (Otherwise asyncio allocates 256 KiB for every read,
        which can double the CPU of a request that comes alone.)"""

    async def start(self) -> None:
        """Listens. Raises the `OSError` for a port that is taken."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: _Link(self), self.host, self.port)
        self.port = self._listening.sockets[0].getsockname()[1]
        self.arm()

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
            if self._timer.when() <= due:
                return
            self._timer.cancel()
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
        had_session = self._connection.session is not None
        self._connection.receive(bytes(self._listener.buffer[:nbytes]), self._loop.time())
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
