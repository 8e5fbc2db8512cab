"""Everything that a run can suffer, one class a kind. Each says when it is realistic.

Rules: a fault is made for its targets, by name or by `choose`, which picks some at random and returns `None` if there
are none for it now. It is applied once and healed once; faults may overlap.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from everlatch.testing.simulation.hosts import HostState

if TYPE_CHECKING:
    from random import Random

    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.routes import Condition
    from everlatch.testing.simulation.servers import SimulatedServer
    from everlatch.testing.simulation.world import World

__all__ = [
    "EVERY_KIND",
    "ClientCrashes",
    "ClientPauses",
    "ClockDrifts",
    "ConnectionEndsInTheMiddle",
    "ConnectionsReset",
    "Fault",
    "FollowerCutFromLeader",
    "FollowerLags",
    "HostCutOff",
    "LinkCut",
    "LinkCutOneWay",
    "LinkDelayed",
    "LinkInPieces",
    "LinkSlow",
    "NameFails",
    "NameHangs",
    "NetworkSplit",
    "ServerCrashes",
    "ServerLosesPower",
    "ServerPauses",
]


class Fault(ABC):
    """One thing that goes wrong, and is put right again."""

    mean_duration: ClassVar[float] = 5.0
    """How long it lasts on average, in virtual seconds; 0: it is over at once."""

    def __init__(self, *targets: str) -> None:
        self.targets = targets
        """Names of hosts."""

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.targets)})"

    @classmethod
    def choose(cls, world: World, rng: Random) -> Self | None:
        """One of this kind, with targets for which it makes sense now; `None` if there are none."""
        targets = cls.pick(world, rng)
        return None if targets is None else cls(*targets)

    @classmethod
    @abstractmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """Targets."""

    @abstractmethod
    def apply(self, world: World, rng: Random) -> None:
        """It happens."""

    def heal(self, world: World) -> None:  # noqa: B027 - some are over at once
        """It is over."""


# -- links


class _LinkFault(Fault):
    """Something is wrong with routes, until it is healed."""

    def __init__(self, *targets: str) -> None:
        super().__init__(*targets)
        self._condition: Condition | None = None

    @abstractmethod
    def condition(self, world: World, rng: Random) -> Condition:
        """What is wrong."""

    def apply(self, world: World, rng: Random) -> None:
        """It happens."""
        self._condition = self.condition(world, rng)

    def heal(self, world: World) -> None:
        """It is over."""
        if self._condition is not None:
            self._condition.heal()

    @classmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """A client's host and a server, or two servers, in any order."""
        servers = [server.name for server in world.servers]
        if not servers or len(world.hosts) < 2:
            return None
        server = rng.choice(servers)
        pair = [server, rng.choice([name for name in world.hosts if name != server])]
        rng.shuffle(pair)
        return pair


class LinkCut(_LinkFault):
    """Nothing gets through between two hosts: a switch fails, a firewall rule is wrong, a route is withdrawn. Nobody is
    told; what is sent waits for the link to come back."""

    def condition(self, world: World, rng: Random) -> Condition:
        """Cut both ways."""
        return world.network.cut(*self.targets)


class LinkCutOneWay(_LinkFault):
    """Nothing gets through in one direction: asymmetric routing, a broken transceiver, a stateful firewall that drops
    what it takes for unsolicited. Requests arrive and replies don't, or the other way round."""

    def condition(self, world: World, rng: Random) -> Condition:
        """Cut one way."""
        return world.network.cut_one_way(*self.targets)


class LinkSlow(_LinkFault):
    """A stream carries a few hundred bytes a second: a saturated or lossy line. Frames come bit by bit, and the end of
    one may be late while its beginning was in time."""

    def condition(self, world: World, rng: Random) -> Condition:
        """A low speed."""
        source, target = self.targets
        return world.network.slow(source, target, rng.choice([200.0, 1000.0, 5000.0]))


class LinkInPieces(_LinkFault):
    """Bytes come one by one, or in small pieces: small segments, a proxy that passes on whatever it has. TCP promises
    nothing about where it cuts a stream."""

    def condition(self, world: World, rng: Random) -> Condition:
        """Small pieces."""
        source, target = self.targets
        return world.network.in_pieces(source, target, rng.choice([1, 3, 7]))


class LinkDelayed(_LinkFault):
    """Everything takes from some milliseconds to some seconds: a congested queue, a detour over another continent."""

    def condition(self, world: World, rng: Random) -> Condition:
        """A high latency that varies."""
        most = rng.choice([0.02, 0.2, 2.0])
        a, b = self.targets
        return world.network.delay(a, b, most / 4, most)


class HostCutOff(_LinkFault):
    """A host reaches nobody: its own network card, cable or switch port."""

    @classmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """Any host."""
        return [rng.choice(list(world.hosts))]

    def condition(self, world: World, rng: Random) -> Condition:
        """Isolated."""
        return world.network.isolate(*self.targets)


class NetworkSplit(_LinkFault):
    """Two halves that don't reach each other, clients in both: the line between two data centres or racks."""

    @classmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """Those of one half."""
        names = list(world.hosts)
        if len(names) < 2:
            return None
        rng.shuffle(names)
        return sorted(names[: rng.randint(1, len(names) - 1)])

    def condition(self, world: World, rng: Random) -> Condition:
        """A partition."""
        return world.network.partition(self.targets, [name for name in world.hosts if name not in self.targets])


class FollowerCutFromLeader(_LinkFault):
    """A follower and its leader lose each other; both still reach everybody else, clients above all. The interface
    between servers fails, or is configured wrongly. For a while the follower still answers what it can by itself."""

    @classmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """A follower and the leader."""
        leader = world.leader()
        followers = [server.name for server in world.servers if leader is not None and server is not leader]
        return [rng.choice(followers), leader.name] if leader is not None and followers else None

    def condition(self, world: World, rng: Random) -> Condition:
        """Cut both ways."""
        return world.network.cut(*self.targets)


# -- connections


class ConnectionsReset(Fault):
    """All connections between two hosts are reset: a load balancer or firewall restarts or forgets them; an idle
    timeout of something in between."""

    mean_duration = 0.0

    @classmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """Two hosts with a connection."""
        streams = world.network.connections
        if not streams:
            return None
        stream = rng.choice(streams)
        return [stream.client.name, stream.server.name]

    def apply(self, world: World, rng: Random) -> None:
        """Reset."""
        world.network.reset(*self.targets)


class ConnectionEndsInTheMiddle(ConnectionsReset):
    """A stream ends in the midst of a frame: a proxy in between dies, or a server while it writes."""

    def apply(self, world: World, rng: Random) -> None:
        """Truncated, soon, in one direction."""
        source, target = rng.sample(self.targets, 2) if len(set(self.targets)) == 2 else self.targets
        world.network.truncate(source, target, after=rng.randrange(60))


# -- processes


class _ServerFault(Fault):
    """Something happens to a server's process or machine."""

    @classmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """A server that runs."""
        running = [server.name for server in world.servers if server.state is HostState.RUNNING]
        return [rng.choice(running)] if running else None

    def _server(self, world: World) -> SimulatedServer:
        server: Any = world.hosts[self.targets[0]]
        return server  # type: ignore[no-any-return]


class ServerPauses(_ServerFault):
    """A server's process stands still: a garbage collection, a live migration, a disk that blocks, SIGSTOP. Its kernel
    accepts connections and takes bytes, which are read when it goes on, whoever has given up meanwhile."""

    def apply(self, world: World, rng: Random) -> None:
        """Paused."""
        self._server(world).pause()

    def heal(self, world: World) -> None:
        """Resumed."""
        self._server(world).resume()


class ServerCrashes(_ServerFault):
    """A server's process dies and is started again: kill -9, out of memory, an upgrade. Its kernel closes its
    connections."""

    def apply(self, world: World, rng: Random) -> None:
        """Crashed."""
        self._server(world).crash()

    def heal(self, world: World) -> None:
        """Started again."""
        self._server(world).start()


class ServerLosesPower(_ServerFault):
    """A machine is gone, and comes back: power, a kernel panic, the host of a virtual machine. Nobody is told, and
    connections are half open until somebody notices."""

    mean_duration = 10.0

    def apply(self, world: World, rng: Random) -> None:
        """Off."""
        self._server(world).power_off()

    def heal(self, world: World) -> None:
        """On, and started."""
        self._server(world).start()


class FollowerLags(_ServerFault):
    """A follower learns of everything later: a slow disk, a long queue. Its clients read old data, in order."""

    def apply(self, world: World, rng: Random) -> None:
        """Behind by a while."""
        self._set(world, rng.choice([0.05, 0.5, 2.0]))

    def heal(self, world: World) -> None:
        """In time again."""
        self._set(world, 0.0)

    def _set(self, world: World, lag: float) -> None:
        server = self._server(world)
        if hasattr(server.core, "lag"):
            server.core.lag = lag
            server.note(f"lags by {lag:g} s")


class ClientPauses(Fault):
    """A client's process stands still: a garbage collection, a laptop's lid, a container that is throttled. When it
    goes on, it may have lost its session without knowing."""

    @classmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """A client's host that runs."""
        running = [host.name for host in _clients(world) if host.state is HostState.RUNNING]
        return [rng.choice(running)] if running else None

    def apply(self, world: World, rng: Random) -> None:
        """Paused."""
        world.hosts[self.targets[0]].pause()

    def heal(self, world: World) -> None:
        """Resumed."""
        world.hosts[self.targets[0]].resume()


class ClientCrashes(Fault):
    """A client's process dies and another takes its place: kill -9, a container that is rescheduled. The session lives
    on until the servers expire it. Only hosts that have a `main` to start again."""

    @classmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """A client's host that runs and can be started again."""
        running = [host.name for host in _clients(world) if host.main is not None and host.process is not None]
        return [rng.choice(running)] if running else None

    def apply(self, world: World, rng: Random) -> None:
        """Crashed."""
        world.hosts[self.targets[0]].crash()

    def heal(self, world: World) -> None:
        """Started again."""
        world.hosts[self.targets[0]].start()


class ClockDrifts(Fault):
    """A host's clock is fast or slow by up to a hundredth: a bad crystal, or a clock that is being slewed."""

    mean_duration = 30.0

    def __init__(self, *targets: str) -> None:
        super().__init__(*targets)
        self._before = 1.0

    @classmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """Any host with a clock that is right."""
        right = [name for name, host in world.hosts.items() if host.clock_rate == 1.0]
        return [rng.choice(right)] if right else None

    def apply(self, world: World, rng: Random) -> None:
        """Wrong."""
        host = world.hosts[self.targets[0]]
        self._before = host.clock_rate
        host.clock_rate = rng.uniform(0.99, 1.01)

    def heal(self, world: World) -> None:
        """Right again; what it shows stays."""
        world.hosts[self.targets[0]].clock_rate = self._before


# -- names


class NameFails(Fault):
    """A server's name doesn't resolve: the name server is down, a record is being changed."""

    @classmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """A server's name."""
        servers = world.servers
        return [rng.choice(servers).name] if servers else None

    def apply(self, world: World, rng: Random) -> None:
        """Fails."""
        world.names.fail(self.targets[0])

    def heal(self, world: World) -> None:
        """Resolves."""
        world.names.restore(self.targets[0])


class NameHangs(NameFails):
    """Looking up a server's name takes for ever: the name server's machine is gone, and the resolver waits for it."""

    def apply(self, world: World, rng: Random) -> None:
        """Hangs."""
        world.names.hang(self.targets[0])


def _clients(world: World) -> list[Host]:
    return [host for host in world.hosts.values() if not host.is_server]


EVERY_KIND: Final[dict[type[Fault], float]] = {
    LinkCut: 3.0,
    LinkCutOneWay: 2.0,
    LinkSlow: 1.0,
    LinkInPieces: 1.0,
    LinkDelayed: 2.0,
    HostCutOff: 2.0,
    NetworkSplit: 1.0,
    FollowerCutFromLeader: 2.0,
    ConnectionsReset: 4.0,
    ConnectionEndsInTheMiddle: 2.0,
    ServerPauses: 3.0,
    ServerCrashes: 3.0,
    ServerLosesPower: 1.0,
    FollowerLags: 1.0,
    ClientPauses: 2.0,
    ClientCrashes: 1.0,
    ClockDrifts: 1.0,
    NameFails: 0.5,
    NameHangs: 0.5,
}
"""All kinds, and how often each happens compared to the others."""
