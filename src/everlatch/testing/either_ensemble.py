"""Real servers and dev servers behind the same few methods, so that a test can run on both: what the fixture
`zookeeper_ensemble` is.

Rule of this module: what is asked of a server is asked by its four-letter words, which both have.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from everlatch.admin import AdminError, cons, srvr
from everlatch.devserver import DevEnsemble, DevMember
from everlatch.errors import EverlatchError, hex_id
from everlatch.testing.ensemble import Ensemble

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Self

    from everlatch.client import Client
    from everlatch.testing.server import Server

__all__ = ["EitherEnsemble", "EitherServer", "NoSuchServerError"]

_TICK: Final = 0.2
"""Seconds, of dev servers; elections are quick with it."""
_LONGEST_SESSION: Final = 60.0
_POLL: Final = 0.02
_PROBE_TIMEOUT: Final = 2.0


class NoSuchServerError(EverlatchError):
    """No server of an ensemble is what was asked for, and none became it in time."""


class EitherServer:
    """One server of an `EitherEnsemble`."""

    def __init__(self, server: Server | DevMember) -> None:
        self._server = server

    def __repr__(self) -> str:
        return f"<EitherServer {self.address}{'' if self.running else ', down'}>"

    @property
    def address(self) -> str:
        """`host:port`, also while it is down."""
        return self._server.address

    @property
    def running(self) -> bool:
        """Whether it is up."""
        return self._server.is_running if isinstance(self._server, DevMember) else self._server.running

    async def kill(self) -> None:
        """It is gone without a word, from one moment to the next. Does nothing if it is down."""
        await (self._server.stop() if isinstance(self._server, DevMember) else self._server.kill())

    async def start(self, timeout: float = 30.0) -> None:
        """Brings it back with its data; returns when it serves. Raises `NoSuchServerError` if it doesn't in time, as
        without a quorum, and what the server of its kind raises."""
        await (self._server.start() if isinstance(self._server, DevMember) else self._server.start(wait=False))
        await _found([self], EitherServer.mode, f"{self!r} does not serve", timeout)

    async def mode(self) -> str | None:
        """`leader` or `follower`; `None` while it doesn't serve."""
        try:
            return (await srvr(self.address, timeout=_PROBE_TIMEOUT)).mode if self.running else None
        except (OSError, AdminError):
            return None

    async def _leads(self) -> bool:
        return await self.mode() == "leader"

    async def _has(self, session_id: int) -> bool:
        try:
            return self.running and session_id in [each.session_id for each in await cons(self.address)]
        except (OSError, AdminError):
            return False


class EitherEnsemble:
    """Several servers, real ones of a `version`, or dev servers: `async with EitherEnsemble(3) as ensemble`."""

    def __init__(self, size: int = 3, *, version: str | None = None) -> None:
        self.inner: Ensemble | DevEnsemble = (
            DevEnsemble(size, tick=_TICK, max_session_timeout=_LONGEST_SESSION)
            if version is None
            else Ensemble(size, version=version)
        )
        """What there is behind it, for all that only one of the two can do."""
        self.servers: tuple[EitherServer, ...] = ()
        """From `start` on."""

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        servers = self.inner.members if isinstance(self.inner, DevEnsemble) else self.inner.servers
        self.servers = tuple(map(EitherServer, servers))
        try:
            await self.leader()
        except BaseException:
            await self.inner.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.inner.__aexit__(None, None, None)

    @property
    def address(self) -> str:
        """The connect string of all servers."""
        return ",".join(server.address for server in self.servers)

    async def leader(self, timeout: float = 30.0) -> EitherServer:
        """The server that leads, as soon as one does. Raises `NoSuchServerError`."""
        return await _found(self.servers, EitherServer._leads, "no server leads", timeout)

    async def server_of(self, client: Client, timeout: float = 30.0) -> EitherServer:
        """The server that a client is connected to, as soon as it is. Raises `NoSuchServerError`."""

        async def has_it(server: EitherServer) -> bool:
            return await server._has(client.session_id)

        session = f"session {hex_id(client.session_id)} is connected to no server"
        return await _found(self.servers, has_it, session, timeout)


async def _found(
    servers: tuple[EitherServer, ...] | list[EitherServer],
    is_it: Callable[[EitherServer], Awaitable[object]],
    problem: str,
    timeout: float,
) -> EitherServer:
    try:
        async with asyncio.timeout(timeout):
            while True:
                for server in servers:
                    if await is_it(server):
                        return server
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise NoSuchServerError(f"{problem} after {timeout:g} s: {', '.join(map(repr, servers))}") from None
