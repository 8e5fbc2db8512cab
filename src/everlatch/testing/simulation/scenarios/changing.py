"""What changes under those who subscribe: nodes, permissions, and the versions of servers; and what they leave behind.

Rules: writers stop when they are told to, and their values are numbers that nobody writes twice. What a scenario writes
is its own (`Writers.one`); how much of it depends on its plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, Final, Protocol

from everlatch.devserver.identities import digest
from everlatch.devserver.watches import Table
from everlatch.errors import EverlatchError, NoNodeError
from everlatch.testing.simulation.faults import ServerCrashes
from everlatch.testing.simulation.scenarios.connected import LAST_HEAL_TO_USABLE
from everlatch.testing.simulation.scenarios.stage import expect
from everlatch.types import ACL, OPEN_ACL_UNSAFE, Permission

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from random import Random

    from everlatch.client import Client
    from everlatch.testing.simulation.faults import Fault
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.scenarios.stage import Stage
    from everlatch.testing.simulation.world import World

__all__ = [
    "CLOSED_ACL",
    "MIXES",
    "OPEN_ACL",
    "RECHECK",
    "TOLD_AGAIN",
    "ServerChangesVersion",
    "Writers",
    "become",
    "expect_no_watches",
    "under_faults",
]

_WRITER: Final = b"writer:secret"
OPEN_ACL: Final = tuple(OPEN_ACL_UNSAFE)
CLOSED_ACL: Final = (ACL(Permission.ALL, "digest", digest(_WRITER)),)
"""For the writers alone."""
MIXES: Final = (("3.9",), ("3.8",), ("3.5",), ("3.8", "3.9"), ("3.5", "3.8"), ("3.5", "3.8", "3.9"))
"""Versions of servers that form an ensemble."""
RECHECK: Final = 2.0
"""The clients' `recheck_interval` where permissions change."""
TOLD_AGAIN: Final = 12.5
"""Virtual seconds after which what could not be read is tried again at the latest."""


class ServerChangesVersion(ServerCrashes):
    """A server's process ends and starts as another version: a rolling upgrade, or one that is taken back."""

    mean_duration = 2.0
    versions: tuple[str, ...] = ("3.5", "3.8", "3.9")

    def apply(self, world: World, rng: Random) -> None:
        """Gone."""
        super().apply(world, rng)
        self._version = rng.choice(self.versions)

    def heal(self, world: World) -> None:
        """Back, as another one."""
        become(self._server(world), self._version)
        super().heal(world)


def become(server: Any, version: str) -> None:
    """Only while it has no connections."""
    server.core.options = dataclasses.replace(server.core.options, version=version)
    server.note(f"is {version} from now on")


class Writers:
    """Clients that write where the others read."""

    def __init__(self, stage: Stage, paths: Sequence[str], paces: Sequence[float]) -> None:
        self._stage, self._paths, self._paces = stage, paths, paces
        self._numbers = itertools.count()
        self.stopped = False

    async def one(self, client: Client, rng: Random) -> None:
        """Writes something."""
        raise NotImplementedError

    async def write(self, host: Host) -> None:
        """Until they are stopped."""
        rng = self._stage.world.random(host.name)
        async with self.client(host) as client:
            while not self.stopped:
                with contextlib.suppress(EverlatchError):
                    await self.one(client, rng)
                await asyncio.sleep(rng.expovariate(rng.choice(self._paces)))

    def client(self, host: Host) -> Client:
        """One that may do everything."""
        return self._stage.client(host, auth=[("digest", _WRITER)])

    async def delete(self, client: Client, path: str) -> None:
        """With all below it."""
        for below in reversed(self.below(path)):
            with contextlib.suppress(NoNodeError):
                await client.delete(below)

    def below(self, path: str) -> list[str]:
        """The path and all below it, from the top."""
        return [other for other in self._paths if other == path or other.startswith(f"{path}/")]

    def data(self) -> bytes:
        """Written once."""
        return b"%d" % next(self._numbers)

    async def change_unseen(self, client: Client) -> None:
        """What servers don't tell: changes while nobody may read, and that they may."""
        for path in self._paths:
            with contextlib.suppress(NoNodeError):
                await client.set_acl(path, CLOSED_ACL)
                await client.set(path, self.data())
                await client.set_acl(path, OPEN_ACL)


class Reader(Protocol):
    """A host on which somebody subscribes."""

    host: Host
    over: asyncio.Event
    """Whether who subscribes has to leave."""
    has_ended: bool

    @property
    def is_connected(self) -> bool:
        """Whether its client is."""
        ...


async def under_faults(
    stage: Stage,
    rng: Random,
    kinds: Mapping[type[Fault], float],
    hosts: Sequence[Host],
    writers: Writers,
    readers: Sequence[Reader],
    finish: Callable[[], Awaitable[None]],
) -> None:
    """Writers write on their hosts while there are faults; then all is healed and calm, which `finish` judges, and
    who has subscribed leaves."""
    world = stage.world
    writing = [host.create_task(writers.write(host)) for host in hosts]
    await stage.faults(6.0, 12.0, kinds)
    if rng.random() < 0.5:
        world.network.isolate(rng.choice(readers).host)
        await asyncio.sleep(rng.uniform(0.5, 2.0) * stage.session_timeout)
    writers.stopped = True
    world.heal()
    async with asyncio.timeout(LAST_HEAL_TO_USABLE):
        await asyncio.gather(*writing)
        await world.until(lambda: all(reader.is_connected for reader in readers), every=0.1)
    await finish()
    for reader in readers:
        reader.over.set()
    await world.until(lambda: all(reader.has_ended for reader in readers), every=0.1)


async def expect_no_watches(stage: Stage, host: Host, client: Client, within: float) -> None:
    """Who has left leaves no watch, in the client or at a server."""
    expect(not client.statistics().watches, f"{host.name} has watches: {client!r}")
    with contextlib.suppress(TimeoutError):
        await stage.world.until(lambda: not _watches_left(stage, client), timeout=within)
    left = _watches_left(stage, client)
    expect(not left, f"servers have watches of {host.name}, which has left: {left}")


def _watches_left(stage: Stage, client: Client) -> list[str]:
    return [
        path
        for server in stage.world.servers
        for connection in server.core.connections
        if connection.session is not None and connection.session.id == client.session_id
        for table in Table
        for path in connection.watches.paths(table)
    ]
