"""A proxy between clients and one server that knows ZooKeeper's frames, and fails when and how it is told to.

    async with Proxy("127.0.0.1:2181") as proxy, Client(proxy.address) as client:
        fault = proxy.lose_reply(Op.CREATE2)      # the next create is applied, nobody will hear of it
        with pytest.raises(OutcomeUnknownError):
            await client.create("/a")
        await fault.happened()

Every fault says what happens, and which real event does the same. What TCP never does is not offered: a byte lost out
of the middle of a stream, or overtaken by later ones. A stream is late, or it ends. What a broken server or a box in
between might do to the bytes themselves is for `Proxy.alter`.

Rules of this module:

- What happens to one connection is `relay`'s business, what a fault is and whom it wants that of `faults`. Here is
  what belongs to all connections: who is let in, what was seen, which faults wait.
- It listens on 127.0.0.1, belongs to one event loop, blocks nothing, and leaves no task or socket behind.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from everlatch.errors import InvalidArgumentError, NotStartedError
from everlatch.paths import parse_connect_string
from everlatch.testing.faults import (
    PATIENCE,
    Changes,
    Direction,
    Fault,
    Held,
    How,
    Request,
    RequestFault,
    Wanted,
    check_choice,
    op_name,
)
from everlatch.testing.relay import RESET_ON_CLOSE, ProxyConnection, Way

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Collection
    from typing import Self

__all__ = ["Proxy"]


class Proxy:
    """Stands between clients and one server (`host:port`): `async with Proxy(server.address) as proxy`.

    Clients connect to `proxy.address`; for an ensemble, make one proxy for each server. Left alone it passes
    everything on. Faults hold for present and future connections, unless they say otherwise. The methods that wait
    raise `ProxyTimeoutError` after `timeout` seconds; `None` waits for ever.

    `max_requests`: how many of the requests that it has seen it remembers at most.
    """

    def __init__(self, server: str, *, max_requests: int = 100_000) -> None:
        endpoints, chroot = parse_connect_string(server)
        if len(endpoints) != 1 or chroot:
            raise InvalidArgumentError(f"a proxy has one server, host:port, not {server!r}; make one for each server")
        if max_requests < 1:
            raise InvalidArgumentError(f"max_requests is a number from 1, not {max_requests!r}")
        self.requests: list[Request] = []
        """Everything that clients sent, in the order in which it arrived, handshakes and pings included. Yours to
        clear; when there are more than `max_requests`, the older half is dropped."""
        self.on_frame: Callable[[Direction], object] | None = None
        """Called with `to_server` or `to_client` for every frame that has arrived, before it is passed on."""
        self.alter: Callable[[Direction, bytes], bytes] | None = None
        """Called with every frame, its length in front included, that is to be passed on; what it returns goes in its
        place, `b""` for nothing. Faults, `requests` and `on_frame` see what has come, not what it is altered to.

        Real: a server with a bug, a box in between that changes what it doesn't understand."""
        self._max_requests = max_requests
        self._forgotten = 0
        self._target = endpoints[0]
        self._address = ""
        self._listener: socket.socket | None = None
        self._open: dict[int, ProxyConnection] = {}
        self._count = 0
        self._ways = {"to_server": Way(), "to_client": Way()}
        self._refusing: tuple[How, Fault] | None = None
        self._faults: list[RequestFault] = []
        self._changes = Changes()

    def __repr__(self) -> str:
        return f"<Proxy {self._address or 'not started'} to {self._target}, {len(self._open)} connections>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listens, on a port of its own."""
        if self._address:
            raise InvalidArgumentError(f"{self!r} was started already; make another one")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
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
    def address(self) -> str:
        """`127.0.0.1:port`, for clients."""
        if not self._address:
            raise NotStartedError("a proxy has no address before it is started: async with Proxy(…) as proxy")
        return self._address

    # -- what is going on

    @property
    def connections(self) -> tuple[ProxyConnection, ...]:
        """Those that are open, oldest first."""
        return tuple(self._open.values())

    def seen(
        self, op: int | Collection[int] | None = None, *, path: str | re.Pattern[str] | None = None
    ) -> list[Request]:
        """Those of `requests` with this operation (or one of these) and path. Without `op`: all but handshakes and
        pings. A compiled pattern has to match the whole path."""
        wanted = Wanted.checked(op, path)
        return [request for request in self.requests if wanted.fits(request)]

    async def wait_for(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        count: int = 1,
        timeout: float | None = PATIENCE,
    ) -> list[Request]:
        """Returns what `seen` does when there are at least `count` of them."""
        wanted = Wanted.checked(op, path)
        found: list[Request] = []
        position = self._forgotten

        def enough() -> bool:
            nonlocal position
            if position > self._forgotten + len(self.requests):  # somebody has cleared them
                position = self._forgotten
                found.clear()
            unseen = self.requests[max(position - self._forgotten, 0) :]
            found.extend(request for request in unseen if wanted.fits(request))
            position = self._forgotten + len(self.requests)
            return len(found) >= count

        await self._changes.until(
            enough, timeout, lambda: f"{len(found)} of {count} requests came ({wanted}); {self._last_requests()}"
        )
        return found

    async def until(self, condition: Callable[[], object], *, timeout: float | None = PATIENCE) -> None:
        """Returns when a condition holds that depends on `requests` or `connections`:
        `await proxy.until(lambda: not proxy.connections)`."""
        await self._changes.until(
            condition,
            timeout,
            lambda: f"the condition does not hold; connections: {list(self.connections)}; {self._last_requests()}",
        )

    # -- faults of all connections

    def cut(self, how: How = "rst") -> tuple[ProxyConnection, ...]:
        """Ends all connections, on both sides, and returns them. What waits in the proxy is lost. New connections
        are welcome: see `refuse`.

        Real: `rst`: a machine crashed and is back, a firewall or load balancer dropped its tables, a server was
        killed while it had requests to read. `fin`: a server was stopped or killed, or has closed the connection for
        reasons of its own (a peer that sends in that very moment gets a reset, as from a real one).
        """
        check_choice("how", how, How)
        connections = self.connections
        for connection in connections:
            connection.cut(how)
        return connections

    def refuse(self, how: How = "rst") -> Fault:
        """New connections are ended as soon as they are made, until `accept()`; with `rst` the client may find that
        connecting has failed. Present ones stay: see `cut`. The fault strikes for each.

        Real: `rst`: the server behind a load balancer or a container's port is down; nearly the same for a client is
        a machine where nobody listens. `fin`: a server that has reached maxClientCnxns, or that is not serving.
        """
        check_choice("how", how, How)
        fault = Fault(f"refuse {how}")
        self._refusing = how, fault
        return fault

    def accept(self) -> None:
        """New connections are welcome again."""
        self._refusing = None

    def black_hole(self, direction: Direction = "both") -> Fault:
        """Nothing passes in this direction, data or end, while all connections stay open; new ones can be made, and
        get no answer. It is held, not swallowed, and delivered at `heal()`: TCP repeats what isn't acknowledged, so
        bytes that vanish while the connection lives on exist in no network. The fault strikes for each piece that is
        stopped; `requests` has what falls into the hole.

        Real: `both`: a cable that is pulled and put back, a partition that heals, a server stopped with SIGSTOP or
        in a long garbage collection (then connections can be made indeed: the kernel makes them; behind a pulled
        cable, connecting would hang). One direction: asymmetric routes, a firewall rule for one way (a real TCP
        sender would, without acknowledgements, in the end stop sending in the other direction too).
        To end as such links mostly do, without anything delivered: `cut()` instead of `heal()`.
        """
        fault = Fault(f"black_hole {direction}")
        for way in self._chosen(direction):
            way.hole = fault
        return fault

    def heal(self) -> None:
        """Ends black holes; what they held is delivered, in order."""
        for way in self._ways.values():
            way.hole = None
        self._flush()

    def delay(self, seconds: float, direction: Direction = "both") -> Fault:
        """All that comes from now on, data or end, is delivered so much later, in order; replaces an earlier delay
        of this direction, 0 ends it. Throughput is not limited. The fault strikes for each piece.

        Real: a long way (both directions), a server with a slow disk or a busy one (`to_client`).
        """
        if not 0 <= seconds < float("inf"):
            raise InvalidArgumentError(f"a delay is a number of seconds from 0, not {seconds!r}")
        fault = Fault(f"delay {seconds:g} s {direction}")
        for way in self._chosen(direction):
            way.delay = seconds
            way.slowness = fault
        return fault

    # -- faults of chosen requests

    def lose_reply(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        nth: int | None = None,
        every: int | None = None,
        cut: How = "rst",
    ) -> RequestFault:
        """A matching request is delivered, the server executes it, its reply is dropped and the connection cut.
        Replies to earlier requests arrive; nothing behind this one does.

        Requests match as in `seen`, counted from now: `nth`: the one with this number, 1 if left out. `every=50`:
        the 50th, the 100th, …; with both, the nth and every 50th after it. A connection that ends by itself before
        the fault can strike doesn't count: it waits for the next match. Where two faults want the same request, the
        older one has it.

        Real: the server, or the network, dies after the transaction is committed and before the reply is out: what
        makes a write's outcome unknown. With `op=HANDSHAKE`: a session that was granted and nobody knows.
        """
        return self._add("lose_reply", op, path, nth, every, cut, on_request=False)

    def lose_request(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        nth: int | None = None,
        every: int | None = None,
        cut: How = "rst",
    ) -> RequestFault:
        """A matching request never reaches the server, nor does anything behind it: the connection is cut in its
        place. Earlier requests were passed on; their replies are lost if they are not through. For `nth`, `every`
        and what matches see `lose_reply`.

        Real: the connection breaks, or the server dies, while the request is on its way. The client can't tell this
        from `lose_reply`.
        """
        return self._add("lose_request", op, path, nth, every, cut, on_request=True)

    def hold_reply(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        nth: int = 1,
    ) -> Held:
        """The reply to a matching request, and all that comes behind it on its connection, watch events too, waits
        for `Held.release()`; the server has executed the request. For `nth` and what matches see `lose_reply`.

        Real: a lost packet that TCP repeats later, a client or proxy that is slow to read, a slow link: an answer
        that was true when it was given, and is old when it arrives.
        """
        held = Held(Wanted.checked(op, path), nth)
        self._faults.append(held)
        return held

    def _add(
        self,
        name: str,
        op: int | Collection[int] | None,
        path: str | re.Pattern[str] | None,
        nth: int | None,
        every: int | None,
        how: How,
        *,
        on_request: bool,
    ) -> RequestFault:
        check_choice("cut", how, How)
        wanted = Wanted.checked(op, path)
        fault = RequestFault(name, wanted, nth=nth, every=every, how=how, on_request=on_request)
        self._faults.append(fault)
        return fault

    # -- from connections

    def _tap(self, direction: Direction) -> None:
        if self.on_frame is not None:
            self.on_frame(direction)

    def _noted(self, request: Request) -> RequestFault | None:
        """Counts a request that has come; returns the fault that strikes it."""
        self.requests.append(request)
        if len(self.requests) > self._max_requests:
            oldest = len(self.requests) - max(self._max_requests // 2, 1)
            del self.requests[:oldest]
            self._forgotten += oldest
        self._faults = [fault for fault in self._faults if not fault._over]
        aiming = [fault for fault in self._faults if fault._aims_at(request)]
        for late in aiming[1:]:
            late._missed()
        for first in aiming[:1]:
            first._taken()
        self._changes.notify()
        return aiming[0] if aiming else None

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
                accepted, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            if self._refusing is None:
                accepted.setblocking(False)
                # asyncio does it only for sockets that say that they are TCP, which accept() doesn't.
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._count += 1
                self._open[self._count] = ProxyConnection(self, self._count, accepted)
            else:
                how, fault = self._refusing
                if how == "rst":
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                accepted.close()
                fault._strike()
            self._changes.notify()

    def _chosen(self, direction: Direction) -> list[Way]:
        check_choice("direction", direction, Direction)
        return list(self._ways.values()) if direction == "both" else [self._ways[direction]]

    def _flush(self) -> None:
        for connection in self.connections:
            connection._to_server.flush()
            connection._to_client.flush()

    def _last_requests(self) -> str:
        last = ", ".join(f"{op_name(request.op)} {request.path!r}" for request in self.requests[-10:])
        return f"the last of {len(self.requests)} requests: {last}" if last else "no request has come"
