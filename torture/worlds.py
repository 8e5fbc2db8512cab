"""What a simulated run is made of, by its seed: the servers, the clients, which faults come, and how often.

Rules of this file: everything follows from the seed. Half of the worlds have no faults that hide anything, so that the
leaders' beliefs are judged at all times; in others watches are re-armed in many small frames.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from everlatch.testing.simulation import faults
from everlatch.testing.simulation.faults import Fault
from torture.workload import Plan, Work

if TYPE_CHECKING:
    from everlatch.testing.simulation import Condition, Stream, World
    from torture.workload import Mode

__all__ = ["FOUNDER", "FOUNDING", "MOODS", "Setting", "hides", "setting_of"]

_SOON: Final = 0.0004
_HANDSHAKE: Final = 41
"""Bytes of its answer."""
FOUNDER: Final = "founder"
"""The host that makes what everybody needs, and reads what is left."""
FOUNDING: Final = 5.0
"""Virtual seconds until the clients begin."""
_STAYING: Final[dict[Work, float]] = {"everything": 60.0, "registers": 35.0}
"""Virtual seconds that they stay: an election takes longer than a reconnect."""


# -- faults that only clients feel


class _AtClients(faults._LinkFault):
    """Between a client and a server."""

    @classmethod
    def pick(cls, world: World, rng: random.Random) -> list[str] | None:
        """In any order."""
        pair = [rng.choice(world.servers).name, rng.choice(_clients(world))]
        rng.shuffle(pair)
        return pair


class ClientLinkCut(_AtClients, faults.LinkCut):
    """As `LinkCut`."""


class ClientLinkCutOneWay(_AtClients, faults.LinkCutOneWay):
    """As `LinkCutOneWay`."""


class ClientLinkSlow(_AtClients, faults.LinkSlow):
    """As `LinkSlow`."""


class ClientLinkInPieces(_AtClients, faults.LinkInPieces):
    """As `LinkInPieces`."""


class ClientLinkDelayed(_AtClients, faults.LinkDelayed):
    """As `LinkDelayed`."""


class ClientCutOff(faults.HostCutOff):
    """As `HostCutOff`."""

    @classmethod
    def pick(cls, world: World, rng: random.Random) -> list[str] | None:
        """A client's host."""
        return [rng.choice(_clients(world))]


class ConnectionBreaksAgain(Fault):
    """A client's connections break, for a while it gets none, and the next ones break again after some bytes: a link
    that flaps when it comes back, a proxy that is restarted and restarted, a server that is overloaded by all who
    return at once. What comes first on a connection is lost halfway."""

    mean_duration = 4.0

    def __init__(self, *targets: str) -> None:
        super().__init__(*targets)
        self._left = 0
        self._known = 0
        self._outage: Condition | None = None

    @classmethod
    def pick(cls, world: World, rng: random.Random) -> list[str] | None:
        """A client's host."""
        return [rng.choice(_clients(world))]

    def apply(self, world: World, rng: random.Random) -> None:
        """All break now, and a few more as they are made."""
        for stream in self._streams(world):
            stream.reset()
            self._known = stream.number
        self._left = rng.randint(1, 3)
        self._outage = world.network.isolate(self.targets[0])
        world.loop.schedule(world.loop.moment + rng.uniform(0.0, 2.0), lambda: self._end_outage(world, rng))

    def heal(self, world: World) -> None:
        """The next one holds."""
        self._left = 0
        if self._outage is not None:
            self._outage.heal()

    def _end_outage(self, world: World, rng: random.Random) -> None:
        assert self._outage is not None
        self._outage.heal()
        self._look(world, rng)

    def _look(self, world: World, rng: random.Random) -> None:
        """Whether there is a new one. Sooner than a server could have answered on it."""
        for stream in self._streams(world):
            if stream.number > self._known and self._left:
                self._left -= 1
                self._known = stream.number
                stream.truncate(stream.server.name, rng.randrange(_HANDSHAKE, 400))
        if self._left:
            world.loop.schedule(world.loop.moment + _SOON, lambda: self._look(world, rng))

    def _streams(self, world: World) -> list[Stream]:
        return [stream for stream in world.network.connections if stream.client.name == self.targets[0]]


def _clients(world: World) -> list[str]:
    return [name for name, host in world.hosts.items() if not host.is_server and name != FOUNDER]


_OPEN: Final[dict[type[Fault], float]] = {
    ClientLinkCut: 4,
    ClientLinkCutOneWay: 3,
    ClientLinkSlow: 1,
    ClientLinkInPieces: 1,
    ClientLinkDelayed: 2,
    ClientCutOff: 3,
    ConnectionBreaksAgain: 2,
    faults.ConnectionsReset: 4,
    faults.ConnectionEndsInTheMiddle: 3,
    faults.ServerCrashes: 3,
    faults.ServerLosesPower: 1,
    faults.ClientCrashes: 1,
    faults.ClockDrifts: 1,
    faults.NameFails: 0.5,
    faults.NameHangs: 0.5,
}
_LINKS: Final[dict[type[Fault], float]] = {
    ClientLinkInPieces: 2,
    ClientLinkDelayed: 3,
    ClientLinkCut: 1,
    ConnectionBreaksAgain: 16,
    faults.ConnectionsReset: 4,
    faults.ConnectionEndsInTheMiddle: 6,
}
_SESSIONS: Final[dict[type[Fault], float]] = {
    ClientCutOff: 10,
    ClientLinkCutOneWay: 3,
    faults.ServerCrashes: 2,
    faults.ServerLosesPower: 1,
    faults.ClientCrashes: 1,
    faults.ConnectionsReset: 2,
}


class Mood(NamedTuple):
    """Which faults, seconds between two on average, and by what to multiply how long each kind lasts."""

    kinds: dict[type[Fault], float]
    interval: float
    duration: float


MOODS: Final = {
    "all": Mood({**faults.EVERY_KIND, ConnectionBreaksAgain: 2}, 1.2, 0.8),
    "open": Mood(_OPEN, 1.2, 0.8),
    "links": Mood(_LINKS, 0.7, 0.5),
    "sessions": Mood(_SESSIONS, 1.0, 1.0),
}
"""`all`: everything that can happen. `open`: nothing that hides anything. `links`: connections break, and break again.
`sessions`: clients are cut off for long enough to lose their sessions."""
_HIDING: Final = (faults.FollowerCutFromLeader, faults.ServerPauses, faults.ClientPauses, faults.FollowerLags)


def hides(fault: Fault, world: World) -> bool:
    """Whether a server or a process may be behind the others without noticing."""
    if isinstance(fault, _HIDING):
        return True
    if not isinstance(fault, faults._LinkFault) or isinstance(fault, ClientCutOff):
        return False
    servers = sum(world.hosts[name].is_server for name in fault.targets)
    if isinstance(fault, faults.HostCutOff):
        return servers > 0
    if isinstance(fault, faults.NetworkSplit):
        return 0 < servers < len(world.servers)
    return servers == 2


class Setting(NamedTuple):
    """One world."""

    seed: int
    mood: str
    version: Literal["3.5", "3.8", "3.9"]
    tick: float
    timeouts: tuple[float, ...]
    """Session timeouts that clients ask for, in turn."""
    frame_limit: int
    """Bytes of a frame of setWatches."""
    seconds: float
    """For which there are faults."""
    plan: Plan


def setting_of(
    seed: int, *, mood: str = "", seconds: float = 120.0, work: Work = "everything", writes: Mode = "plain"
) -> Setting:
    """What a seed stands for, with clients that do this work and write like that."""
    rng = random.Random(f"{seed}/setting")
    chosen = mood or rng.choice(["all", "all", "open", "links", "sessions"])
    tick = rng.choice([0.5, 1.0, 2.0])
    usual = [(2.0, 4.0)] if chosen == "sessions" else [(4.0, 6.0, 10.0), (2.0, 4.0), (10.0,)]
    timeouts = tuple(max(2 * tick, timeout) for timeout in rng.choice(usual))
    works_until = FOUNDING + seconds + 2.0
    plan = Plan(
        clients=rng.randint(5, 9),
        members=rng.randint(2, 4),
        subscribers=rng.randint(1, 2),
        burst=rng.choice([3.0, 8.0, 12.0]),
        works_until=works_until,
        stays_until=works_until + _STAYING[work],
        work=work,
        writes=writes,
    )
    return Setting(
        seed=seed,
        mood=chosen,
        version=rng.choice(["3.9", "3.9", "3.9", "3.8"]),
        tick=tick,
        timeouts=timeouts,
        frame_limit=80 if chosen == "links" else rng.choice([200, 1 << 17]),
        seconds=seconds,
        plan=plan,
    )
