"""P5: a subscription ends on the final state, tells nothing that never was, and never goes back.

Clients subscribe to a few paths, many at a time, and leave again, in all ways; writers create, delete, write, and take
the permission to read away; servers crash and come back as another version.

Rules:
1. Without changes of permissions nothing is ever looked at without an event (`recheck_interval=None`): what is told, is
   told by watches alone. With them, servers keep events back, and the clients look again every few seconds.
2. In the end all is calm, and the subscriptions that are open have to tell what is; then every path changes once more,
   and has to be told of at once: watches are as alive after all that as before.
3. Who has left leaves no watch at any server.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch.devserver.identities import digest
from everlatch.devserver.watches import Table
from everlatch.errors import EverlatchError, NoAuthError, NoNodeError, RequestKillsConnectionError
from everlatch.testing.simulation.faults import EVERY_KIND, ServerCrashes
from everlatch.testing.simulation.scenarios.connected import LAST_HEAL_TO_USABLE
from everlatch.testing.simulation.scenarios.past import (
    UNREADABLE,
    Past,
    children_of,
    data_of,
    expect_true,
    state_of,
)
from everlatch.testing.simulation.scenarios.stage import Stage, expect
from everlatch.types import ACL, OPEN_ACL_UNSAFE, Permission

if TYPE_CHECKING:
    from random import Random

    from everlatch.client import Client
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.scenarios.past import State
    from everlatch.testing.simulation.world import World

__all__ = ["ServerChangesVersion", "watched"]

_PATHS: Final = ("/a", "/a/b", "/a/b/c", "/d", "/d/e")
_WRITER: Final = b"writer:secret"
_CLOSED: Final = (ACL(Permission.ALL, "digest", digest(_WRITER)),)
_ACLS: Final = (tuple(OPEN_ACL_UNSAFE), _CLOSED)
_MIXES: Final = (("3.9",), ("3.8",), ("3.5",), ("3.8", "3.9"), ("3.5", "3.8"), ("3.5", "3.8", "3.9"))
_RECHECK: Final = 2.0
_TOLD_AGAIN: Final = 12.5
"""Virtual seconds after which what could not be read is tried again at the latest."""
_SLOWEST: Final = 1.0
_AT_ONCE: Final = 1.0
"""Virtual seconds from a change to its being told while nothing is wrong, and beyond what a reader takes."""
_WAYS: Final = ("cancel", "close", "break")


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
        _become(self._server(world), self._version)
        super().heal(world)


def _become(server: Any, version: str) -> None:
    """Only while it has no connections."""
    server.core.options = dataclasses.replace(server.core.options, version=version)
    server.note(f"is {version} from now on")


class _Plan(NamedTuple):
    """What a run is about."""

    versions: tuple[str, ...]
    with_acls: bool
    with_others: bool
    """Whether the clients have watches of their own on the same paths."""

    @classmethod
    def drawn(cls, rng: Random) -> _Plan:
        return cls(rng.choice(_MIXES), rng.random() < 0.5, rng.random() < 0.4)

    @property
    def recheck(self) -> float | None:
        """Rule 1."""
        return _RECHECK if self.with_acls else None

    @property
    def until_told(self) -> float:
        """Virtual seconds from the last change to when all know it, though nobody may have told them."""
        return _SLOWEST + (3 * _RECHECK + _TOLD_AGAIN if self.with_acls else _AT_ONCE)


class _Subscription:
    """One, and all that it has told."""

    def __init__(self, name: str, kind: str, path: str, rng: Random) -> None:
        self.name, self.path = f"{name}: {kind} {path!r}", path
        self.look = data_of if kind == "watch_data" else children_of
        self.kind, self._rng = kind, rng
        self._slow = rng.choice([0.0, 0.0, 0.1, _SLOWEST])
        self.told: list[State] = []
        self.lost_requests = 0
        self._leaving = ""
        self._open: Any = None

    async def read(self, client: Client) -> None:
        """From entering to leaving."""
        async with getattr(client, self.kind)(self.path) as states:
            self._open = states
            while not self._leaving:
                try:
                    async for state in states:
                        self.told.append(state_of(state))
                        if self._leaving:
                            return
                        await asyncio.sleep(self._rng.random() * self._slow)
                    return
                except NoAuthError:
                    self.told.append(UNREADABLE)
                except RequestKillsConnectionError:
                    self.lost_requests += 1

    async def leave(self, reading: asyncio.Task[None]) -> None:
        """In one of the ways that there are."""
        self._leaving = self._rng.choice(_WAYS)
        if self._leaving == "close" and self._open is not None:
            self._open.close()
        elif self._leaving == "break":
            await asyncio.wait([reading], timeout=_SLOWEST)
        if self._leaving != "close":
            reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()

    def judge(self, past: Past) -> None:
        """What it told, in order."""
        expect_true(self.name, self.told, past.of(self.look, self.path))

    def judge_end(self, past: Past, when: str) -> None:
        """What it told last. That a node may not be read is no change, and need not be told."""
        end, last = past.end_of(self.look, self.path), self.told[-1:]
        known = [end.state] if end.state != UNREADABLE else [end.state, end.hidden]
        expect(last and last[0] in known, f"{self.name} ends with {last} {when}; it is {end}")


class _Reader:
    """A host with one client and many subscriptions."""

    def __init__(self, stage: Stage, host: Host, plan: _Plan) -> None:
        self._stage, self._host, self._plan = stage, host, plan
        self.subscriptions: list[_Subscription] = []
        """All that there have been, those of processes that have died among them."""
        self.open: dict[_Subscription, None] = {}
        self.calm, self.over = asyncio.Event(), asyncio.Event()
        self.has_ended = False
        self._lives = 0

    async def live(self) -> None:
        """One process."""
        self.open.clear()
        self._lives += 1
        rng = self._stage.world.random(f"{self._host.name} {self._lives}")
        async with self._stage.client(self._host, recheck_interval=self._plan.recheck) as client:
            tasks = [asyncio.create_task(self._subscribe(client, rng)) for _ in range(rng.choice([3, 6, 9]))]
            if self._plan.with_others:
                tasks.append(asyncio.create_task(self._watch_otherwise(client, rng)))
            await asyncio.gather(*tasks)
            if not self._plan.with_others:
                await self._expect_no_watches(client)
        self.has_ended = True

    async def _subscribe(self, client: Client, rng: Random) -> None:
        """One after the other; the last one stays until all is over."""
        while not self.over.is_set():
            subscription = self._new(rng)
            self.subscriptions.append(subscription)
            self.open[subscription] = None
            reading = asyncio.create_task(subscription.read(client))
            lasts = rng.choice([0.0, 0.05, 2.0, 10.0, 10.0]) * rng.random()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(lasts):
                    await asyncio.shield(asyncio.wait([asyncio.create_task(self.calm.wait())]))
            if self.calm.is_set():
                await self.over.wait()
            await subscription.leave(reading)
            self.open.pop(subscription, None)
            await asyncio.sleep(rng.choice([0.0, 0.5]))

    def _new(self, rng: Random) -> _Subscription:
        kind = rng.choice(["watch_data", "watch_children"])
        return _Subscription(f"{self._host.name} {self._lives}", kind, rng.choice(_PATHS), rng)

    async def _watch_otherwise(self, client: Client, rng: Random) -> None:
        """Watches of the application's own, of all kinds: servers before 3.9 know one a path."""
        while not self.calm.is_set():
            with contextlib.suppress(EverlatchError):
                path = rng.choice(_PATHS)
                way = rng.randrange(4)
                if way == 0:
                    await client.exists(path, watch=_heard)
                elif way == 1:
                    await client.children(path, watch=_heard)
                elif way == 2:
                    await client.remove_watches(path)
                else:
                    async with client.add_watch(path, recursive=rng.random() < 0.5):
                        await asyncio.sleep(rng.random())
            await asyncio.sleep(rng.expovariate(2.0))

    async def _expect_no_watches(self, client: Client) -> None:
        """Rule 3."""
        expect(not client.statistics().watches, f"{self._host.name} has watches: {client!r}")
        with contextlib.suppress(TimeoutError):
            await self._stage.world.until(lambda: not self._watches_left(client), timeout=_AT_ONCE)
        left = self._watches_left(client)
        expect(not left, f"servers have watches of {self._host.name}, which has left: {left}")

    def _watches_left(self, client: Client) -> list[str]:
        return [
            path
            for server in self._stage.world.servers
            for connection in server.core.connections
            if connection.session is not None and connection.session.id == client.session_id
            for table in Table
            for path in connection.watches.paths(table)
        ]


class _Writers:
    """Two clients that write where the others read."""

    def __init__(self, stage: Stage, plan: _Plan) -> None:
        self._stage, self._plan = stage, plan
        self._numbers = itertools.count()
        self.stopped = False

    async def write(self, host: Host) -> None:
        """Until they are stopped."""
        rng = self._stage.world.random(host.name)
        async with self.client(host) as client:
            while not self.stopped:
                with contextlib.suppress(EverlatchError):
                    await self._one(client, rng)
                await asyncio.sleep(rng.expovariate(rng.choice([2.0, 20.0])))

    def client(self, host: Host) -> Client:
        """One that may do everything."""
        return self._stage.client(host, auth=[("digest", _WRITER)])

    async def _one(self, client: Client, rng: Random) -> None:
        path, way = rng.choice(_PATHS), rng.random()
        if way < 0.35:
            await client.create(path, self._data(), acl=self._acl(rng))
        elif way < 0.6:
            await client.set(path, self._data())
        elif way < 0.75:
            await self._delete(client, path)
        elif way < 0.9 or not self._plan.with_acls:
            async with client.transaction() as transaction:
                transaction.delete(path)
                transaction.create(path, self._data(), acl=self._acl(rng))
        else:
            await client.set_acl(path, self._acl(rng))

    async def _delete(self, client: Client, path: str) -> None:
        for below in reversed([other for other in _PATHS if other == path or other.startswith(f"{path}/")]):
            with contextlib.suppress(NoNodeError):
                await client.delete(below)

    def _acl(self, rng: Random) -> tuple[ACL, ...]:
        return rng.choice(_ACLS) if self._plan.with_acls else _ACLS[0]

    def _data(self) -> bytes:
        return b"%d" % next(self._numbers)

    async def open_all(self, client: Client) -> None:
        """Everything may be read."""
        for path in _PATHS:
            with contextlib.suppress(NoNodeError):
                await client.set_acl(path, _ACLS[0])

    async def change_all(self, client: Client) -> None:
        """Every path, its data and its children."""
        for path in _PATHS:
            try:
                await client.set(path, self._data())
            except NoNodeError:
                await client.create(path, self._data())
        for path in _PATHS:
            await client.create(f"{path}/{self._data().decode()}")


def _heard(_: object) -> None:
    """Somebody else's watch."""


async def _expect_end(stage: Stage, readers: list[_Reader], observer: Client, when: str) -> None:
    """Every open subscription has told what is: what the log says, and a reader who asks."""
    await observer.sync()
    past = Past(stage.log, _PATHS)
    for path in _PATHS:
        for look, read in ((data_of, observer.get), (children_of, observer.children_and_stat)):
            found: Any = None
            with contextlib.suppress(NoNodeError):
                found = await read(path)
            expect(state_of(found) == past.end_of(look, path).hidden, f"{path} is {found}, not {past.of(look, path)}")
    for reader in readers:
        expect(reader.open, f"{reader._host.name} subscribes to nothing")
        for subscription in reader.open:
            subscription.judge_end(past, when)


def watched(world: World) -> None:
    """Subscriptions of data and children, under all faults and rolling upgrades: each tells states that were, in their
    order, and ends on what is."""
    setup = world.random("watched")
    plan = _Plan.drawn(setup)
    stage = Stage.of(world)
    for server in world.servers:
        _become(server, setup.choice(plan.versions))
    kinds = EVERY_KIND | ({ServerChangesVersion: 4.0} if len(plan.versions) > 1 else {})
    readers = [stage.inhabited(f"app{number}", lambda s, h: _Reader(s, h, plan)) for number in (1, 2)]
    writers, observer = _Writers(stage, plan), world.host("observer")
    hosts = [world.host(f"writer{number}") for number in (1, 2)]

    async def finish() -> None:
        async with writers.client(observer) as client:
            for reader in readers:
                reader.calm.set()
            await asyncio.sleep(plan.until_told)
            await _expect_end(stage, readers, client, "after all faults")
            await writers.open_all(client)
            await asyncio.sleep(plan.until_told)
            await _expect_end(stage, readers, client, "when all may be read")
            await writers.change_all(client)
            await asyncio.sleep(_SLOWEST + _AT_ONCE)
            await _expect_end(stage, readers, client, "after one more change")

    async def main() -> None:
        writing = [host.create_task(writers.write(host)) for host in hosts]
        await stage.faults(8.0, 15.0, kinds)
        world.heal()
        await asyncio.sleep(setup.uniform(0.0, 2.0))
        writers.stopped = True
        async with asyncio.timeout(LAST_HEAL_TO_USABLE):
            await asyncio.gather(*writing, asyncio.sleep(LAST_HEAL_TO_USABLE - 1.0))
        await observer.run(finish())
        for reader in readers:
            reader.over.set()
        await world.until(lambda: all(reader.has_ended for reader in readers))

    world.run(main())
    past = Past(stage.log, _PATHS)
    for reader in readers:
        for subscription in reader.subscriptions:
            subscription.judge(past)
            _count(world, subscription)


def _count(world: World, subscription: _Subscription) -> None:
    world.counts["subscriptions"] += 1
    world.counts["told"] += len(subscription.told)
    world.counts["told that it can't be read"] += subscription.told.count(UNREADABLE)
    world.counts["lost requests"] += subscription.lost_requests
