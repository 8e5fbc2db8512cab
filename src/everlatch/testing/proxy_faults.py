"""What can be made to go wrong at a proxy, and to what.

    connections     cut  refuse                                   at once; all, or one client's
    links           black_hole  delay  throttle  byte_by_byte     while it lasts; all connections, or one client's
                    truncate
    a request       lose_request  hold_request                    the k-th of a kind, a path, a client
    its reply       lose_reply  hold_reply
    either, both    delay  throttle  byte_by_byte  truncate       with `op`, `path`, `nth` or `every`

Rules of this module: every fault says what happens, and which real event does the same. Here is what belongs to all
connections of a proxy: which faults hold, and which wait for their request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeVar

from everlatch.errors import InvalidArgumentError
from everlatch.testing.faults import (
    Direction,
    Fault,
    Held,
    How,
    LinkFault,
    LinkFaults,
    OneWay,
    Pace,
    RequestFault,
    check_choice,
)
from everlatch.testing.traffic import Wanted, check_client, client_name

if TYPE_CHECKING:
    import re
    from collections.abc import Collection

    from everlatch.testing.relay import ProxyConnection
    from everlatch.testing.traffic import Request, Whose

__all__ = ["ProxyFaults"]

_AnyRequestFault = TypeVar("_AnyRequestFault", bound=RequestFault)


class ProxyFaults(ABC):
    """The faults of a `Proxy`, which has the connections."""

    def __init__(self) -> None:
        self._links = LinkFaults()
        self._refusing: tuple[How, Fault] | None = None
        self._faults: list[RequestFault] = []

    @property
    @abstractmethod
    def connections(self) -> tuple[ProxyConnection, ...]:
        """Those that are open, oldest first."""

    # -- faults of connections

    def cut(self, how: How = "rst", *, client: Whose | None = None) -> tuple[ProxyConnection, ...]:
        """Ends all connections, on both sides, and returns them. What waits in the proxy is lost. New connections
        are welcome: see `refuse`.

        Real: `rst`: a machine crashed and is back, a firewall or load balancer dropped its tables, a server was
        killed while it had requests to read. `fin`: a server was stopped or killed, or has closed the connection for
        reasons of its own (a peer that sends in that very moment gets a reset, as from a real one).
        """
        check_choice("how", how, How)
        connections = self._connections_of(client)
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

    # -- faults of links

    def black_hole(self, direction: Direction = "both", *, client: Whose | None = None) -> Fault:
        """Nothing passes in this direction, data or end, while all connections stay open; new ones can be made, and
        get no answer. It is held, not swallowed, and delivered at `heal()`: TCP repeats what isn't acknowledged, so
        bytes that vanish while the connection lives on exist in no network. The fault strikes for each piece that is
        stopped; `requests` has what falls into the hole.

        Real: `both`: a cable that is pulled and put back, a partition that heals, a server stopped with SIGSTOP or
        in a long garbage collection (then connections can be made indeed: the kernel makes them; behind a pulled
        cable, connecting would hang). One direction: asymmetric routes, a firewall rule for one way (a real TCP
        sender would, without acknowledgements, in the end stop sending in the other direction too). One client's: a
        machine that is cut off while others aren't.
        To end as such links mostly do, without anything delivered: `cut()` instead of `heal()`.
        """
        return self._link_fault("black_hole", direction, client, hole=True)

    def heal(self) -> None:
        """Ends the faults of all links: black holes, whose bytes are delivered, in order; delays and slowness; a
        truncation that hasn't struck. One alone is ended by its `cancel()`."""
        self._links.end_all()
        for connection in self.connections:
            connection._to_server.endless()
            connection._to_client.endless()
        self._flush()

    def delay(
        self,
        seconds: float,
        direction: Direction = "both",
        *,
        op: int | Collection[int] | None = None,
        path: str | re.Pattern[str] | None = None,
        client: Whose | None = None,
        nth: int | None = None,
        every: int | None = None,
    ) -> Fault:
        """All that comes from now on, data or end, is delivered so much later, in order; replaces an earlier delay
        of this direction (and client), 0 ends it. Throughput is not limited. The fault strikes for each piece.

        With `op`, `path`, `nth` or `every`: chosen requests, their replies, or both are late, and so is what comes
        behind them on their connection. Which ones, see `lose_reply`; it strikes once for each.

        Real: a long way (both directions), a server with a slow disk or a busy one (`to_client`). Of single requests: a
        packet that got lost and was repeated; the request that waits for a garbage collection or an fsync.
        """
        if not 0 <= seconds < float("inf"):
            raise InvalidArgumentError(f"a delay is a number of seconds from 0, not {seconds!r}")
        if _chosen(op, path, nth, every):
            wanted = Wanted.checked(op, path, client)
            name = f"delay {seconds:g} s {direction}"
            check_choice("direction", direction, Direction)
            return self._add(RequestFault(name, wanted, direction, nth=nth, every=every, delay=seconds))
        fault = self._link_fault("delay", direction, client, detail=f" {seconds:g} s", delay=seconds)
        if not seconds:
            fault.cancel()
        return fault

    def throttle(
        self,
        bytes_per_second: float,
        direction: Direction = "both",
        *,
        op: int | Collection[int] | None = None,
        path: str | re.Pattern[str] | None = None,
        client: Whose | None = None,
        nth: int | None = None,
        every: int | None = None,
    ) -> Fault:
        """No more than so many bytes a second pass in this direction, on each connection for itself, what waits there
        already included; in pieces of what passes in 20 ms. Replaces an earlier one of this direction (and client);
        `cancel()` or `heal()` ends it, and what has piled up goes at once. The fault strikes for each frame.

        With `op`, `path`, `nth` or `every`: chosen requests, their replies, or both pass so slowly, and what comes
        behind them waits. Which ones, see `lose_reply`; it strikes once for each.

        Real: a narrow or crowded link, a mobile network, a server or client that is short of CPU; of single replies: a
        large one over such a link, on which pings and small answers are quick. Liveness has to go by bytes that come,
        not by answers that are complete.
        """
        pace = Pace.checked(bytes_per_second)
        return self._slow("throttle", pace, direction, op, path, client, nth, every)

    def byte_by_byte(
        self,
        direction: Direction = "both",
        *,
        bytes_per_second: float = 1000.0,
        op: int | Collection[int] | None = None,
        path: str | re.Pattern[str] | None = None,
        client: Whose | None = None,
        nth: int | None = None,
        every: int | None = None,
    ) -> Fault:
        """Like `throttle`, but each byte goes in a write, and a segment, of its own, at most a thousand a second. Who
        reads fast enough sees each alone; TCP promises that to nobody.

        Real: TCP has no messages; a path with a small MTU, a TLS or SSH tunnel, a reader that was busy: each may cut a
        stream anywhere. This cuts it everywhere.
        """
        pace = Pace.checked(bytes_per_second, piece=1)
        return self._slow("byte_by_byte", pace, direction, op, path, client, nth, every)

    def truncate(
        self,
        after: int,
        direction: OneWay = "to_client",
        *,
        op: int | Collection[int] | None = None,
        path: str | re.Pattern[str] | None = None,
        client: Whose | None = None,
        nth: int | None = None,
        every: int | None = None,
        cut: How = "fin",
    ) -> Fault:
        """`after` more bytes pass in this direction, then the connection ends, on both sides: in the middle of a frame
        if it falls so. Of all connections that are open now; new ones are welcome. The fault strikes for each.

        With `op`, `path`, `nth` or `every`: so many bytes of a chosen request or of its reply pass, its length in front
        included, then the connection ends. Which ones, see `lose_reply`; it strikes once for each. A server that gets
        the beginning of a request doesn't execute it; whose reply is truncated, it has executed.

        Real: a process that is killed while it writes, a crash of the machine or of a box in between, with data on the
        way: frames end where packets do, not where messages do.
        """
        check_choice("direction", direction, OneWay)
        check_choice("cut", cut, How)
        if after < 0:
            raise InvalidArgumentError(f"bytes are counted from 0, not {after!r}")
        name = f"truncate after {after} {direction}"
        if _chosen(op, path, nth, every):
            wanted = Wanted.checked(op, path, client)
            return self._add(RequestFault(name, wanted, direction, nth=nth, every=every, after=after, how=cut))
        fault = Fault(name + client_name(client))
        undo = [one._end_after(after, direction, cut, fault) for one in self._connections_of(client)]
        fault._on_cancel = lambda: [take_back() for take_back in undo]
        return fault

    # -- faults of chosen requests

    def lose_reply(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        client: Whose | None = None,
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
        check_choice("cut", cut, How)
        wanted = Wanted.checked(op, path, client)
        return self._add(RequestFault("lose_reply", wanted, "to_client", nth=nth, every=every, how=cut))

    def lose_request(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        client: Whose | None = None,
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
        check_choice("cut", cut, How)
        wanted = Wanted.checked(op, path, client)
        return self._add(RequestFault("lose_request", wanted, "to_server", nth=nth, every=every, how=cut))

    def hold_reply(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        client: Whose | None = None,
        nth: int = 1,
    ) -> Held:
        """The reply to a matching request, and all that comes behind it on its connection, watch events too, waits
        for `Held.release()`; the server has executed the request. For `nth` and what matches see `lose_reply`.

        Real: a lost packet that TCP repeats later, a client or proxy that is slow to read, a slow link: an answer
        that was true when it was given, and is old when it arrives.
        """
        return self._add(Held("hold_reply", Wanted.checked(op, path, client), "to_client", nth))

    def hold_request(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        client: Whose | None = None,
        nth: int = 1,
    ) -> Held:
        """A matching request, and all that comes behind it on its connection, pings too, waits for `Held.release()`
        before the server sees it. For `nth` and what matches see `lose_reply`.

        Real: a lost packet that TCP repeats later, a server that reads late (a garbage collection, a frozen process):
        a write that is executed long after it was sent. A client that gives up meanwhile doesn't take it back: what it
        has sent is executed all the same when it is released, as by a server that reads its sockets late.
        """
        return self._add(Held("hold_request", Wanted.checked(op, path, client), "to_server", nth))

    # -- inside

    @property
    def _refusal(self) -> tuple[How, Fault] | None:
        """How new connections end, and by what."""
        return None if self._refusing is None or self._refusing[1]._cancelled else self._refusing

    def _fault_for(self, request: Request) -> RequestFault | None:
        """Counts a request that has come; returns the fault that strikes it."""
        self._faults = [fault for fault in self._faults if not fault._over]
        aiming = [fault for fault in self._faults if fault._aims_at(request)]
        for late in aiming[1:]:
            late._missed()
        for first in aiming[:1]:
            first._taken()
        return aiming[0] if aiming else None

    def _connections_of(self, client: Whose | None) -> tuple[ProxyConnection, ...]:
        check_client(client)
        return tuple(one for one in self.connections if client is None or one.belongs_to(client))

    def _link_fault(
        self,
        kind: str,
        direction: Direction,
        client: Whose | None,
        *,
        detail: str = "",
        hole: bool = False,
        delay: float = 0.0,
        pace: Pace | None = None,
    ) -> LinkFault:
        check_choice("direction", direction, Direction)
        check_client(client)
        fault = LinkFault(kind, direction, client, detail=detail, hole=hole, delay=delay, pace=pace)
        fault._on_cancel = self._flush
        self._links.add(fault, direction)
        return fault

    def _slow(
        self,
        kind: str,
        pace: Pace,
        direction: Direction,
        op: int | Collection[int] | None,
        path: str | re.Pattern[str] | None,
        client: Whose | None,
        nth: int | None,
        every: int | None,
    ) -> Fault:
        check_choice("direction", direction, Direction)
        detail = f" {pace.rate:g} bytes/s"
        if _chosen(op, path, nth, every):
            wanted = Wanted.checked(op, path, client)
            name = f"{kind}{detail} {direction}"
            return self._add(RequestFault(name, wanted, direction, nth=nth, every=every, pace=pace))
        return self._link_fault(kind, direction, client, detail=detail, pace=pace)

    def _add(self, fault: _AnyRequestFault) -> _AnyRequestFault:
        self._faults.append(fault)
        return fault

    def _flush(self) -> None:
        for connection in self.connections:
            connection._to_server.flush()
            connection._to_client.flush()


def _chosen(*which: object) -> bool:
    """Whether requests are chosen, and not a whole link."""
    return any(part is not None for part in which)
