"""The dev server on TCP, with asyncio.

Rules of this module: everything happens on the loop that started it; nothing is left behind after `stop`: no socket, no
timer, no task. A client that doesn't read isn't read from either. One timer serves all deadlines.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Self, cast

from everlatch.devserver.core import Core
from everlatch.devserver.options import Options
from everlatch.errors import AlreadyStartedError, NotStartedError
from everlatch.paths import Endpoint

if TYPE_CHECKING:
    from everlatch.devserver.connection import Connection

__all__ = ["DevServer", "serve"]

_LOOPBACK: Final = "127.0.0.1"
_NOWHERE: Final = ("0.0.0.0", 0)  # noqa: S104
"""Where a client was that has gone already."""


class DevServer:
    """A ZooKeeper server in memory, for development and tests; never for production.

        async with DevServer() as server, Client(server.address) as client:
            ...

    `port` 0 takes a free one. `options` are the fields of `Options`. What it holds is gone with the object; `stop` and
    `start` in between are a restart: nodes and sessions are there, connections and watches are not.
    """

    def __init__(self, port: int = 0, host: str = _LOOPBACK, **options: Any) -> None:
        self.host = host
        self.port = port
        """Where it listens, as soon as it does."""
        self.options = Options(**options)
        self.core: Core | None = None
        """What the server knows, from `start` on. Tests may look, and change only what they have read the rules of."""
        self._listener: asyncio.Server | None = None
        self._links: dict[Connection, _Link] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        """`host:port`, for clients."""
        return str(Endpoint(self.host, self.port))

    async def start(self) -> None:
        """Listens. Raises `AlreadyStartedError`, or the `OSError` for a port that is taken."""
        if self._listener is not None:
            raise AlreadyStartedError(f"the dev server already listens on {self.address}: one start, then stop")
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self.core is None:
            self.core = Core(self.options, time.time() - now, now)
        for session in self.core.sessions:
            self.core.decider.touch(session.id, session.timeout_ms, now)  # nobody could reach it
        core = self.core
        self._listener = await loop.create_server(lambda: _Link(self, core), self.host, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]
        self._arm()

    async def stop(self) -> None:
        """Breaks all connections and listens no more. Does nothing if it doesn't listen."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for link in self._links.values():
            link.abort()
        while self._links:
            self._idle.clear()
            await self._idle.wait()
        await listener.wait_closed()

    def expire_session(self, session_id: int) -> None:
        """Ends a session, now, as if it had been silent for too long: its connection is closed, its ephemeral nodes go,
        and its client hears of it when it is back. One that has ended already is left alone.

        Raises `NotStartedError` if the server has never been started.
        """
        if self.core is None:
            raise NotStartedError("the dev server has no sessions: start it first")
        self.core.expire(session_id, asyncio.get_running_loop().time())
        self._flush(self.core)

    # -- from connections

    def _joined(self, connection: Connection, link: _Link) -> None:
        self._links[connection] = link
        if self._listener is None:  # accepted while `stop` was at work
            link.abort()
        else:
            self._arm()

    def _left(self, connection: Connection) -> None:
        del self._links[connection]
        self._idle.set()

    def _flush(self, core: Core) -> None:
        for connection in core.take_changed():
            self._links[connection].flush(connection)

    # -- time

    def _arm(self) -> None:
        """Sets the timer if something is due earlier than it."""
        assert self.core is not None
        due = self.core.next_deadline()
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._on_timer, self.core)

    def _on_timer(self, core: Core) -> None:
        self._timer = None
        core.handle_timer(asyncio.get_running_loop().time())
        self._flush(core)
        self._arm()


class _Link(asyncio.Protocol):
    """One connection's socket."""

    def __init__(self, server: DevServer, core: Core) -> None:
        self._server, self._core = server, core
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        host, port = (transport.get_extra_info("peername") or _NOWHERE)[:2]
        self._connection = self._core.connect(host, port, self._loop.time())
        self._server._joined(self._connection, self)

    def data_received(self, data: bytes) -> None:
        had_session = self._connection.session is not None
        self._connection.receive(data, self._loop.time())
        self._server._flush(self._core)
        if not had_session and self._server._timer is not None:
            self._server._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._core.disconnect(self._connection)
        self._server._left(self._connection)

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


async def serve(port: int = 2181, host: str = _LOOPBACK, **options: Any) -> None:
    """Serves until it is cancelled; for development and tests, never for production. See `DevServer`."""
    async with DevServer(port, host, **options):
        await asyncio.get_running_loop().create_future()
