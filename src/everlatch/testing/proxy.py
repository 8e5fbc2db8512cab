"""A proxy between clients and one server that knows ZooKeeper's frames, and fails when and how it is told to.

    async with Proxy("127.0.0.1:2181") as proxy, Client(proxy.address) as client:
        fault = proxy.lose_reply(Op.CREATE2)      # the next create is applied, nobody will hear of it
        with pytest.raises(OutcomeUnknownError):
            await client.create("/a")
        await fault.happened()

`proxy_faults` has what can be made to go wrong.

Rules of this module:

- What happens to one connection is `relay`'s business, what a fault is that of `faults`, whom it wants that of
  `traffic`. Here is what belongs to all connections: who is let in, and what was seen.
- It belongs to one event loop, blocks nothing, and leaves no task or socket behind.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from everlatch.errors import InvalidArgumentError, NotStartedError
from everlatch.paths import parse_connect_string
from everlatch.testing.proxy_faults import ProxyFaults
from everlatch.testing.relay import RESET_ON_CLOSE, ProxyConnection
from everlatch.testing.traffic import RequestLog, Wanted
from everlatch.testing.waiting import PATIENCE, Changes

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Collection
    from typing import Self

    from everlatch.testing.certificates import Certificates
    from everlatch.testing.faults import OneWay, RequestFault
    from everlatch.testing.traffic import Request, Whose

__all__ = ["Proxy"]

_LOOPBACK: Final = "127.0.0.1"


class Proxy(ProxyFaults):
    """Stands between clients and one server (`host:port`): `async with Proxy(server.address) as proxy`.

    Clients connect to `proxy.address`; for an ensemble, make one proxy for each server. Left alone it passes
    everything on. Faults hold for present and future connections, unless they say otherwise. The methods that wait
    raise `ProxyTimeoutError` after `timeout` seconds; `None` waits for ever.

    `host`: the IPv4 address of this machine that it listens on; another than 127.0.0.1 lets others in, too.
    `max_requests`: how many of the requests that it has seen it remembers at most. `tls`: it serves by TLS, with the
    certificate `server` of these, and reaches its server by TLS, as `client` if its own client has a certificate.
    Without it TLS passes through as it is, and faults see bytes, but no requests.

    `client`, wherever it can be said, means one client's connections only: a `Client`, a session id, an address, or one
    of `connections`. See `everlatch.testing.Whose`.
    """

    def __init__(
        self, server: str, *, host: str = _LOOPBACK, max_requests: int = 100_000, tls: Certificates | None = None
    ) -> None:
        endpoints, chroot = parse_connect_string(server)
        if len(endpoints) != 1 or chroot:
            raise InvalidArgumentError(f"a proxy has one server, host:port, not {server!r}; make one for each server")
        super().__init__()
        self._changes = Changes()
        self._log = RequestLog(max_requests, self._changes)
        self.on_frame: Callable[[OneWay], object] | None = None
        """Called with `to_server` or `to_client` for every frame that has arrived, before it is passed on."""
        self.alter: Callable[[OneWay, bytes], bytes] | None = None
        """Called with every frame, its length in front included, that is to be passed on; what it returns goes in its
        place, `b""` for nothing. Faults, `requests` and `on_frame` see what has come, not what it is altered to.

        Real: a server with a bug, a box in between that changes what it doesn't understand."""
        self._target = endpoints[0]
        self._host = host
        self._tls = tls
        self._address = ""
        self._listener: socket.socket | None = None
        self._open: dict[int, ProxyConnection] = {}
        self._count = 0

    def __repr__(self) -> str:
        return f"<Proxy {self._address or 'not started'} to {self._target}, {len(self._open)} connections>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listens, on a port of its own. Raises `OSError` if this machine doesn't have the `host` address."""
        if self._address:
            raise InvalidArgumentError(f"{self!r} was started already; make another one")
        self._listener = socket.create_server((self._host, 0), backlog=1000)
        self._listener.setblocking(False)
        self._address = "{}:{}".format(*self._listener.getsockname())
        # Not a task that accepts: when it is cancelled, a connection could be lost between the two.
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def close(self) -> None:
        """Breaks all connections and listens no more. Returns when everything is closed; may be called again."""
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self.cut()
        await self._changes.until(lambda: not self._open)

    @property
    def certificates(self) -> Certificates | None:
        """What it was given as `tls`."""
        return self._tls

    @property
    def address(self) -> str:
        """`127.0.0.1:port` (or the `host`), for clients."""
        if not self._address:
            raise NotStartedError("a proxy has no address before it is started: async with Proxy(…) as proxy")
        return self._address

    # -- what is going on

    @property
    def connections(self) -> tuple[ProxyConnection, ...]:
        """Those that are open, oldest first."""
        return tuple(self._open.values())

    @property
    def requests(self) -> list[Request]:
        """Everything that clients sent, in the order in which it arrived, handshakes and pings included. Yours to
        clear; when there are more than `max_requests`, the older half is dropped."""
        return self._log.requests

    def seen(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        client: Whose | None = None,
    ) -> list[Request]:
        """Those of `requests` with this operation (or one of these), path and client. Without `op`: all but handshakes
        and pings. A compiled pattern has to match the whole path."""
        wanted = Wanted.checked(op, path, client)
        return [request for request in self.requests if wanted.fits(request)]

    async def wait_for(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        client: Whose | None = None,
        count: int = 1,
        timeout: float | None = PATIENCE,
    ) -> list[Request]:
        """Returns what `seen` does when there are at least `count` of them."""
        return await self._log.wait_for(Wanted.checked(op, path, client), count, timeout)

    async def until(self, condition: Callable[[], object], *, timeout: float | None = PATIENCE) -> None:
        """Returns when a condition holds that depends on `requests` or `connections`:
        `await proxy.until(lambda: not proxy.connections)`."""
        await self._changes.until(
            condition,
            timeout,
            lambda: f"the condition does not hold; connections: {list(self.connections)}; {self._log.summary()}",
        )

    # -- from connections

    def _tap(self, way: OneWay) -> None:
        if self.on_frame is not None:
            self.on_frame(way)

    def _noted(self, request: Request) -> RequestFault | None:
        """Counts a request that has come; returns the fault that strikes it."""
        self._log.add(request)
        fault = self._fault_for(request)
        self._changes.notify()
        return fault

    def _answered(self, request: Request, code: int) -> None:
        request.code = code
        self._changes.notify()

    def _ended(self, connection: ProxyConnection) -> None:
        self._open.pop(connection.number, None)
        self._changes.notify()

    # -- inside

    def _accept(self) -> None:
        while self._listener is not None:
            try:
                accepted, client = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            refusal = self._refusal
            if refusal is None:
                accepted.setblocking(False)
                # asyncio does it only for sockets that say that they are TCP, which accept() doesn't.
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._count += 1
                self._open[self._count] = ProxyConnection(self, self._count, accepted, client)
            else:
                how, fault = refusal
                if how == "rst":
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                accepted.close()
                fault._strike()
            self._changes.notify()
