"""Dev servers on TCP: one that is alone, and several that are an ensemble.

Rules of this module: everything happens on the loop that started it, in this process. What members of an ensemble tell
each other goes from hand to hand, in order, a turn of the loop later; faults of a network are for the simulation.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Self

from everlatch.devserver.core import Core
from everlatch.devserver.ensemble import Member
from everlatch.devserver.listener import Listener
from everlatch.devserver.options import Options
from everlatch.errors import AlreadyStartedError, InvalidArgumentError, NotStartedError
from everlatch.paths import Endpoint

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from everlatch.devserver.messages import Message

__all__ = ["DevEnsemble", "DevMember", "DevServer", "serve"]

_LOOPBACK: Final = "127.0.0.1"


class DevServer:
    """A ZooKeeper server in memory, for development and tests; never for production.

        async with DevServer() as server, Client(server.address) as client:
            ...

    `port` 0 takes a free one. `tls` is a context for servers (`ssl.PROTOCOL_TLS_SERVER`) with a certificate: then all
    clients have to speak TLS, and one whose certificate is asked for (`verify_mode`) has its subject as an identity.
    `options` are the fields of `Options`. What it holds is gone with the object; `stop` and `start` in between are a
    restart: nodes and sessions are there, connections and watches are not.
    """

    def __init__(
        self, port: int = 0, host: str = _LOOPBACK, *, tls: ssl.SSLContext | None = None, **options: Any
    ) -> None:
        self.host = host
        self.port = port
        """Where it listens, as soon as it does."""
        self.options = Options(**({"x509": tls is not None} | options))
        self._tls = tls
        self.core: Core | None = None
        """What the server knows, from `start` on. Tests may look, and change only what they have read the rules of."""
        self._listener: Listener | None = None

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
        now = asyncio.get_running_loop().time()
        if self.core is None:
            self.core = Core(self.options, time.time() - now, now)
        for session in self.core.sessions:
            self.core.decider.touch(session.id, session.timeout_ms, now)  # nobody could reach it
        listener = Listener(self.core, self.host, self.port, _nothing, self._tls)
        await listener.start()
        self._listener, self.port = listener, listener.port

    async def stop(self) -> None:
        """Breaks all connections and listens no more. Does nothing if it doesn't listen."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.stop()

    def expire_session(self, session_id: int) -> None:
        """Ends a session, now, as if it had been silent for too long: its connection is closed, its ephemeral nodes go,
        and its client hears of it when it is back. One that has ended already is left alone.

        Raises `NotStartedError` if the server has never been started.
        """
        if self.core is None:
            raise NotStartedError("the dev server has no sessions: start it first")
        self.core.expire(session_id, asyncio.get_running_loop().time())
        if self._listener is not None:
            self._listener.acted()


def _nothing() -> None:
    """A server that is alone has nobody to tell."""


class DevMember:
    """One server of a `DevEnsemble`. `stop` is a crash of the server and of nothing else; `start` brings it back with
    what it had on its disk."""

    def __init__(
        self,
        core: Member,
        host: str,
        has_acted: Callable[[], None],
        has_stopped: Callable[[], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.core = core
        """What the server knows. Tests may look, and change only what they have read the rules of."""
        self._host = host
        self._port = 0
        self._tls = tls
        self._has_acted, self._has_stopped = has_acted, has_stopped
        self._listener: Listener | None = None

    @property
    def address(self) -> str:
        """`host:port`, the same after a restart."""
        return str(Endpoint(self._host, self._port))

    @property
    def is_running(self) -> bool:
        """Between `start` and `stop`."""
        return self._listener is not None

    @property
    def is_leader(self) -> bool:
        """Whether it runs and leads."""
        return self.is_running and self.core.is_leading

    async def start(self) -> None:
        """Raises `AlreadyStartedError`, or an `OSError` if its port has been taken meanwhile."""
        if self._listener is not None:
            raise AlreadyStartedError(f"the dev server already listens on {self.address}: one start, then stop")
        self.core.restart(asyncio.get_running_loop().time())
        listener = Listener(self.core, self._host, self._port, self._has_acted, self._tls)
        await listener.start()
        self._listener, self._port = listener, listener.port

    async def stop(self) -> None:
        """The others notice at once. Does nothing if it doesn't run."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.stop()
            self._has_stopped()

    def deliver(self, sender: int, message: Message) -> None:
        """From another member."""
        if self._listener is not None:
            self.core.deliver(sender, message, asyncio.get_running_loop().time())

    def lose(self, peer: int) -> None:
        """That member has gone."""
        if self._listener is not None:
            self.core.peer_lost(peer, asyncio.get_running_loop().time())

    def settle(self) -> None:
        """Sends what there is to send, and sets the timer."""
        if self._listener is not None:
            self._listener.acted()
            self._listener.arm()


class DevEnsemble:
    """Several dev servers that are one ensemble, each on a port of its own.

        async with DevEnsemble(3) as ensemble, Client(ensemble.address) as client:
            former = ensemble.leader
            await former.stop()         # the client moves, another server leads
            await former.start()        # it comes back as a follower

    `tls` and `options` are those of `DevServer`; `tick` is short unless given, so that elections are quick. Among
    themselves the servers need no TLS.
    """

    def __init__(
        self, size: int = 3, host: str = _LOOPBACK, *, tls: ssl.SSLContext | None = None, **options: Any
    ) -> None:
        if size < 1:
            raise InvalidArgumentError(f"an ensemble of {size!r} servers: it takes one at least")
        self._size, self._host = size, host
        self.options = Options(**({"tick": 0.5, "x509": tls is not None} | options))
        self._tls = tls
        self.members: tuple[DevMember, ...] = ()
        """From `start` on."""
        self._delivering = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts all servers that don't run. Clients wait until they have a leader. Raises the `OSError` for a port
        that has been taken since."""
        if not self.members:
            now = asyncio.get_running_loop().time()
            epoch = time.time() - now
            numbers = range(1, self._size + 1)
            self.members = tuple(self._member(Member(each, numbers, self.options, epoch, now)) for each in numbers)
        for member in self.members:
            if not member.is_running:
                await member.start()

    async def stop(self) -> None:
        """Stops all servers that run."""
        for member in self.members:
            await member.stop()

    @property
    def address(self) -> str:
        """A connect string with all servers."""
        return ",".join(member.address for member in self.members)

    @property
    def leader(self) -> DevMember | None:
        """Who leads; `None` while there is an election."""
        return next((member for member in self.members if member.is_leader), None)

    def expire_session(self, session_id: int) -> bool:
        """Ends a session, now, as if it had been silent for too long; whether there was a leader to do so."""
        leader = self.leader
        done = leader is not None and leader.core.expire(session_id, asyncio.get_running_loop().time())
        if leader is not None:
            leader.settle()
        return done

    def _member(self, core: Member) -> DevMember:
        return DevMember(core, self._host, self._schedule, lambda: self._lose(core.number), self._tls)

    def _lose(self, number: int) -> None:
        for member in self.members:
            member.lose(number)
            member.settle()

    def _schedule(self) -> None:
        if not self._delivering:
            self._delivering = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        for member in self.members:
            for to, message in member.core.take_messages():
                receiver = self.members[to - 1]
                receiver.deliver(member.core.number, message)
                receiver.settle()


async def serve(port: int = 2181, host: str = _LOOPBACK, **options: Any) -> None:
    """Serves until it is cancelled; for development and tests, never for production. See `DevServer`."""
    async with DevServer(port, host, **options):
        await asyncio.get_running_loop().create_future()
