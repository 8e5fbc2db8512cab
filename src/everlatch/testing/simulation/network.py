"""The network between the hosts of a world: connections, and everything that can be wrong with them.

Rules:
1. A blocked route loses nothing: bytes, FIN and RST are sent again until it is open, unless somebody has given up the
   connection meanwhile. A handshake over it is tried again every second, for 130 seconds.
2. A host on which nobody listens refuses; one that is off, and an address that nobody has, say nothing.
3. The kernel accepts connections for a process that listens, even if it is paused.
4. What is wrong is a `Condition`; several may overlap, and each ends with its own `heal()`, or all with the network's.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
from typing import TYPE_CHECKING, Any, Final

from everlatch.testing.simulation.errors import SimulationUsageError
from everlatch.testing.simulation.routes import Condition, Route
from everlatch.testing.simulation.streams import ACCEPT, RST, MemoryTransport, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.journal import Journal
    from everlatch.testing.simulation.loop import VirtualLoop
    from everlatch.testing.simulation.peering import Peering
    from everlatch.testing.simulation.process import Process

__all__ = ["LATENCY", "Listener", "Network"]

LATENCY: Final = (0.0002, 0.001)
"""Seconds that a packet takes, unless told otherwise: within one data centre."""
_OWN_LATENCY: Final = (0.00002, 0.00005)
"""On one host."""
_SYN_INTERVAL: Final = 1.0
_LONGEST_HANDSHAKE: Final = 130.0
_EPHEMERAL: Final = 32768


class Network:
    """See the module. Hosts are named, or given as objects."""

    def __init__(
        self, loop: VirtualLoop, rng: Random, journal: Journal, hosts: dict[str, Host], latency: tuple[float, float]
    ) -> None:
        self.loop = loop
        self._rng, self._journal, self._hosts, self._latency = rng, journal, hosts, latency
        self._routes: dict[tuple[str, str], Route] = {}
        self._streams: dict[Stream, None] = {}
        self._made = 0
        self._conditions: dict[Condition, None] = {}
        self.peerings: list[Peering] = []
        """Of ensembles."""

    # -- what there is

    @property
    def connections(self) -> list[Stream]:
        """Those that at least one end still has, oldest first."""
        return list(self._streams)

    def between(self, a: Host | str, b: Host | str) -> list[Stream]:
        """The connections between two hosts, whoever made them."""
        names = {_name(a), _name(b)}
        return [each for each in self._streams if {each.client.name, each.server.name} == names]

    def route(self, source: Host, target: Host) -> Route:
        """The way from one host to another."""
        key = (source.name, target.name)
        route = self._routes.get(key)
        if route is None:
            latency = _OWN_LATENCY if source is target else self._latency
            route = self._routes[key] = Route(self.loop, self._rng, source, target, latency)
            route.conditions_changed()
        return route

    def routes_to(self, target: Host) -> list[Route]:
        """All that are known to lead to a host."""
        return [route for route in self._routes.values() if route.target is target]

    def _host(self, host: Host | str) -> Host:
        found = self._hosts.get(_name(host))
        if found is None:
            raise SimulationUsageError(f"there is no host {_name(host)!r} in this world, only {', '.join(self._hosts)}")
        return found

    def _both(self, a: Host | str, b: Host | str) -> list[Route]:
        one, other = self._host(a), self._host(b)
        return [self.route(one, other), self.route(other, one)]

    # -- what can be wrong

    def cut(self, a: Host | str, b: Host | str) -> Condition:
        """Nothing gets from one to the other, in either direction."""
        return self._impose(f"{_name(a)} and {_name(b)} are cut off from each other", self._both(a, b), cut=True)

    def cut_one_way(self, source: Host | str, target: Host | str) -> Condition:
        """Nothing gets from `source` to `target`; the other way is open."""
        route = self.route(self._host(source), self._host(target))
        return self._impose(f"nothing gets from {_name(source)} to {_name(target)}", [route], cut=True)

    def isolate(self, host: Host | str) -> Condition:
        """Nothing gets to a host or away from it, as far as the other hosts exist by now."""
        others = [each for each in self._hosts.values() if each.name != _name(host)]
        routes = [route for other in others for route in self._both(host, other)]
        return self._impose(f"{_name(host)} is cut off", routes, cut=True)

    def partition(self, *groups: Iterable[Host | str]) -> Condition:
        """Hosts of different groups don't reach each other; those in no group reach everybody."""
        parts = [sorted(_name(host) for host in group) for group in groups]
        routes = [
            route
            for number, part in enumerate(parts)
            for other in parts[number + 1 :]
            for a in part
            for b in other
            for route in self._both(a, b)
        ]
        sides = " | ".join(", ".join(part) for part in parts)
        return self._impose(f"partition: {sides}", routes, cut=True)

    def slow(self, source: Host | str, target: Host | str, bytes_per_second: float) -> Condition:
        """A stream from one to the other carries no more than that; what members of an ensemble tell each other isn't
        bytes, and isn't slowed down."""
        route = self.route(self._host(source), self._host(target))
        what = f"{bytes_per_second:g} bytes a second from {_name(source)} to {_name(target)}"
        return self._impose(what, [route], bytes_per_second=bytes_per_second)

    def in_pieces(self, source: Host | str, target: Host | str, size: int = 1) -> Condition:
        """Bytes from one to the other come in pieces of `size`."""
        route = self.route(self._host(source), self._host(target))
        return self._impose(f"pieces of {size} bytes from {_name(source)} to {_name(target)}", [route], piece=size)

    def delay(self, a: Host | str, b: Host | str, least: float, most: float | None = None) -> Condition:
        """Everything between the two takes that long, in seconds."""
        latency = (least, least if most is None else most)
        what = f"{latency[0]:g} to {latency[1]:g} s between {_name(a)} and {_name(b)}"
        return self._impose(what, self._both(a, b), latency=latency)

    def reset(self, a: Host | str, b: Host | str) -> int:
        """Resets all connections between the two, those between servers as well; returns how many of clients."""
        streams = self.between(a, b)
        for stream in streams:
            stream.reset()
        for peering in self.peerings:
            peering.reset(_name(a), _name(b))
        return len(streams)

    def truncate(self, source: Host | str, target: Host | str, after: int) -> int:
        """All connections between the two carry `after` more bytes from `source`, then end; returns how many."""
        streams = self.between(source, target)
        for stream in streams:
            stream.truncate(_name(source), after)
        return len(streams)

    def heal(self) -> None:
        """All routes are as they were at first."""
        for condition in list(self._conditions):
            condition.heal()

    def _impose(self, what: str, routes: list[Route], **kwargs: Any) -> Condition:
        def healed() -> None:
            del self._conditions[condition]
            self.note(f"healed: {what}")

        self.note(what)
        condition = Condition(routes, healed=healed, **kwargs)
        self._conditions[condition] = None
        return condition

    # -- the log

    def note(self, text: str) -> None:
        """Something for the log."""
        self._journal.note("network", text)

    def witness(self, number: int, data: bytes) -> None:
        """Bytes have arrived: they are part of what two runs are compared by."""
        self._journal.witness(number, data)

    # -- listening

    def listen(self, process: Process, port: int, factory: Callable[[], asyncio.BaseProtocol]) -> Listener:
        """From now on the process' kernel accepts connections there. Raises `OSError` for a port that is taken."""
        if not port:
            port = next(each for each in range(_EPHEMERAL, 65536) if each not in process.listeners)
        if port in process.listeners:
            raise OSError(errno.EADDRINUSE, f"port {port} of {process.host.name} is taken")
        process.listeners[port] = factory
        return Listener(self.loop, process, port)

    # -- connecting

    async def connect(
        self, process: Process, factory: Callable[[], Any], ip: str, port: int
    ) -> tuple[MemoryTransport, Any]:
        """Makes a connection. Raises `OSError`; takes as long as TCP does."""
        handshake = _Handshake(self, process, ip, port)
        try:
            end = await handshake.done
        except asyncio.CancelledError:
            handshake.give_up()
            raise
        end.context = contextvars.copy_context()
        return end, end.begin(factory())

    def establish(self, process: Process, target: Host, port: int) -> MemoryTransport:
        """The client's end of a new connection; the server's kernel has yet to get the last packet."""
        self._made += 1
        own = (process.host.ip, _EPHEMERAL + self._made % 28000)
        there = self.route(process.host, target)
        back = self.route(target, process.host)
        client = MemoryTransport(self, process, there, own, (target.ip, port), contextvars.copy_context())
        server = MemoryTransport(self, None, back, (target.ip, port), own, contextvars.copy_context())
        client.peer, server.peer = server, client
        client.stream = server.stream = Stream(self, self._made, client, server)
        self._streams[client.stream] = None
        process.ends[client] = None
        client.lane.send(ACCEPT)
        self.note(f"{client.stream} made")
        return client

    def accept(self, end: MemoryTransport) -> None:
        """The last packet of a handshake has come."""
        process = self._hosts[end.name].process
        factory = process.listeners.get(end.port) if process is not None else None
        if process is None or factory is None:
            end.is_gone = True
            end.lane.send(RST)
            return
        end.process = process
        end.context = process.context.copy()
        process.ends[end] = None
        self.loop.call_soon(_serve, end, factory, context=end.context)

    def left(self, end: MemoryTransport) -> None:
        """A socket is closed."""
        if end.peer.is_gone or end.peer.process is None:
            self._streams.pop(end.stream, None)

    def find(self, ip: str) -> Host | None:
        """Who has that address."""
        return next((host for host in self._hosts.values() if host.ip == ip), None)


def _serve(end: MemoryTransport, factory: Callable[[], Any]) -> None:
    """The server's process takes a connection that its kernel has accepted."""
    end.begin(factory())


class _Handshake:
    """SYN, SYN-ACK, and again until somebody gives up: the kernel's part, which goes on while the process is paused."""

    def __init__(self, network: Network, process: Process, ip: str, port: int) -> None:
        self._network, self._process, self._ip, self._port = network, process, ip, port
        self._loop = network.loop
        self._began = self._loop.moment
        self.done: asyncio.Future[MemoryTransport] = self._loop.create_future()
        self._try()

    def give_up(self) -> None:
        """Nobody wants the connection."""
        if self.done.done() and not self.done.cancelled() and self.done.exception() is None:
            self.done.result().leave()

    @property
    def _over(self) -> bool:
        return self.done.done() or self._process.dead

    def _try(self) -> None:
        if self._over:
            return
        target = self._network.find(self._ip)
        if self._loop.moment - self._began >= _LONGEST_HANDSHAKE:
            self.done.set_exception(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
        elif target is None or self._is_blocked(target):
            self._loop.schedule(self._loop.moment + _SYN_INTERVAL, self._try)
        else:
            delay = self._route(target).delay() + self._network.route(target, self._process.host).delay()
            self._loop.schedule(self._loop.moment + delay, self._answered)

    def _answered(self) -> None:
        target = self._network.find(self._ip)
        if self._over:
            return
        if target is None or self._is_blocked(target):
            self._loop.schedule(self._loop.moment + _SYN_INTERVAL, self._try)
        elif target.process is None or self._port not in target.process.listeners:
            self.done.set_exception(
                ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed ({self._ip!r}, {self._port})")
            )
        else:
            self.done.set_result(self._network.establish(self._process, target, self._port))

    def _route(self, target: Host) -> Route:
        return self._network.route(self._process.host, target)

    def _is_blocked(self, target: Host) -> bool:
        return self._route(target).blocked or self._network.route(target, self._process.host).blocked


class Listener(asyncio.AbstractServer):
    """What `loop.create_server` returns."""

    def __init__(self, loop: VirtualLoop, process: Process, port: int) -> None:
        self._loop, self._process, self._port = loop, process, port
        self._closed = loop.create_future()
        self.sockets: tuple[_Name, ...] = (_Name((process.host.ip, port)),)
        """One, of which no more than its name is there."""

    def close(self) -> None:
        """Listens no more; connections stay."""
        self._process.listeners.pop(self._port, None)
        self.sockets = ()
        if not self._closed.done():
            self._closed.set_result(None)

    def get_loop(self) -> VirtualLoop:
        """The loop."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it listens."""
        return bool(self.sockets)

    async def start_serving(self) -> None:
        """It does so from the beginning."""

    async def serve_forever(self) -> None:
        """Until it is closed or cancelled."""
        try:
            await asyncio.shield(self._closed)
        finally:
            self.close()

    async def wait_closed(self) -> None:
        """Returns when it is closed."""
        await asyncio.shield(self._closed)


class _Name:
    """The name of a socket."""

    def __init__(self, name: tuple[str, int]) -> None:
        self._name = name

    def getsockname(self) -> tuple[str, int]:
        """Address and port."""
        return self._name


def _name(host: Host | str) -> str:
    return host if isinstance(host, str) else host.name
