"""P5: a subscription ends on the final state, tells nothing that never was, and never goes back.

Clients subscribe to a few paths, many at a time, and leave again, in all ways; writers create, delete, write, and take
the permission to read away; servers crash and come back as another version.

Rules:
1. Without changes of permissions nothing is ever looked at without an event (`recheck_interval=None`): what is told, is
   told by watches alone. With them, servers keep events back, and the clients look again every few seconds.
2. In the end all is calm, and the subscriptions that are open have to tell what is; then every path changes once more,
   and has to be told of at once: watches are as alive after all that as before.
3. Who has left leaves no watch at any server. No connection is lost by what is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch.errors import EverlatchError, NoAuthError, NodeExistsError, NoNodeError, RequestKillsConnectionError
from everlatch.testing.simulation.faults import EVERY_KIND
from everlatch.testing.simulation.scenarios.changing import (
    CLOSED_ACL,
    MIXES,
    OPEN_ACL,
    RECHECK,
    TOLD_AGAIN,
    ServerChangesVersion,
    Writers,
    become,
    expect_no_watches,
    under_faults,
)
from everlatch.testing.simulation.scenarios.past import (
    UNREADABLE,
    Past,
    children_of,
    data_of,
    expect_true,
    state_of,
)
from everlatch.testing.simulation.scenarios.stage import Stage, expect
from everlatch.types import ACL, State

if TYPE_CHECKING:
    from random import Random

    from everlatch.client import Client
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.scenarios.past import Told
    from everlatch.testing.simulation.world import World

__all__ = ["watched"]

_PATHS: Final = ("/a", "/a/b", "/a/b/c", "/d", "/d/e")
_SLOWEST: Final = 1.0
_AT_ONCE: Final = 1.0
"""Virtual seconds from a change to its being told while nothing is wrong, and beyond what a reader takes."""
_LASTS: Final = (0.0, 0.001, 0.5, 2.0, 10.0, None, None)
"""Virtual seconds for which somebody subscribes; `None`: to the end."""
_ROUNDS: Final = 2
_UNTIL_IT_BREAKS: Final = 6
"""Calls."""
_WAYS: Final = ("cancel", "close", "break")


class _Plan(NamedTuple):
    """What a run is about."""

    versions: tuple[str, ...]
    with_acls: bool
    with_others: bool
    """Whether the clients have watches of their own on the same paths."""

    @classmethod
    def drawn(cls, rng: Random) -> _Plan:
        return cls(rng.choice(MIXES), rng.random() < 0.5, rng.random() < 0.4)

    @property
    def recheck(self) -> float | None:
        """Rule 1."""
        return RECHECK if self.with_acls else None

    @property
    def until_told(self) -> float:
        """Virtual seconds from the last change to when all know it, though nobody may have told them."""
        return _SLOWEST + (3 * RECHECK + TOLD_AGAIN if self.with_acls else _AT_ONCE)


class _Subscription:
    """One, and all that it has told."""

    def __init__(self, name: str, kind: str, path: str, rng: Random) -> None:
        self.name, self.path = f"{name}: {kind} {path!r}", path
        self.look = data_of if kind == "watch_data" else children_of
        self.kind, self._rng = kind, rng
        self._slow = rng.choice([0.0, 0.0, 0.1, _SLOWEST])
        self.told: list[Told] = []
        self.known: list[Told] = []
        """What its client had read by itself, right before."""
        self.lost_requests = 0
        self._leaving = ""
        self._open: Any = None

    async def read(self, client: Client) -> None:
        """From entering to leaving."""
        await self._look_before(client)
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

    async def _look_before(self, client: Client) -> None:
        """Now and then."""
        if self._rng.random() < 0.5:
            return
        read = client.get if self.look is data_of else client.children_and_stat
        try:
            found: Any = await read(self.path)
        except NoNodeError:
            found = None
        except (NoAuthError, RequestKillsConnectionError):
            return
        self.known = [state_of(found)]

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
        expect_true(self.name, self.known + self.told, past.of(self.look, self.path))

    def lags(self, past: Past) -> str:
        """What is wrong with what it told last. That a node may not be read is no change, and need not be told."""
        end, last = past.end_of(self.look, self.path), self.told[-1:]
        known = [end.state] if end.state != UNREADABLE else [end.state, end.hidden]
        return "" if last and last[0] in known else f"{self.name} ends with {last}; it is {end}"


class _Reader:
    """A host with one client and many subscriptions."""

    def __init__(self, stage: Stage, host: Host, plan: _Plan) -> None:
        self._stage, self.host, self._plan = stage, host, plan
        self.subscriptions: list[_Subscription] = []
        """All that there have been, those of processes that have died among them."""
        self.open: dict[_Subscription, None] = {}
        self.calm, self.over = asyncio.Event(), asyncio.Event()
        self.is_changing = asyncio.Event()
        """Whether nodes change in quick succession."""
        self.has_ended = False
        self._client: Client | None = None
        self.connections = 0
        """How many there had been when all was calm."""
        self._lives = 0

    async def live(self) -> None:
        """One process."""
        self.open.clear()
        self._lives += 1
        rng = self._stage.world.random(f"{self.host.name} {self._lives}")
        self._client = None
        async with self._stage.client(self.host, recheck_interval=self._plan.recheck) as client:
            self._client = client
            tasks = [asyncio.create_task(self._subscribe(client, rng)) for _ in range(rng.choice([2, 5, 8]))]
            tasks.append(asyncio.create_task(self._drop_in(client, rng)))
            if self._plan.with_others:
                tasks.append(asyncio.create_task(self._watch_otherwise(client, rng)))
            await asyncio.gather(*tasks)
            lost = client.connections - self.connections
            expect(not lost, f"{self.host.name} has lost {lost} connections, though nothing was wrong any more")
            if not self._plan.with_others:
                await expect_no_watches(self._stage, self.host, client, _AT_ONCE)
        self.has_ended = True

    @property
    def is_connected(self) -> bool:
        """Whether its client is."""
        return self._client is not None and self._client.state is State.CONNECTED

    async def note_connections(self) -> None:
        """All is calm, but for a link that is yet to break behind so many more bytes."""
        assert self._client is not None
        for _ in range(_UNTIL_IT_BREAKS):
            await self._client.exists("/")
        await asyncio.sleep(_AT_ONCE)
        await self._client.sync()
        self.connections = self._client.connections

    async def _subscribe(self, client: Client, rng: Random) -> None:
        """One after the other; the last one stays until all is over."""
        calm = asyncio.create_task(self.calm.wait())
        while not self.over.is_set():
            subscription = self._new(rng)
            self.subscriptions.append(subscription)
            self.open[subscription] = None
            reading = asyncio.create_task(subscription.read(client))
            await asyncio.wait([calm], timeout=rng.choice(_LASTS))
            if self.calm.is_set():
                await self.over.wait()
            await subscription.leave(reading)
            self.open.pop(subscription, None)
            await asyncio.sleep(rng.choice([0.0, 0.5]))

    async def _drop_in(self, client: Client, rng: Random) -> None:
        """While nodes change others come, want to know how it is, and go."""
        while await self._changes_again():
            subscription = self._new(rng)
            self.subscriptions.append(subscription)
            reading = asyncio.create_task(subscription.read(client))
            await asyncio.wait([reading], timeout=rng.uniform(0.002, 0.01))
            await subscription.leave(reading)

    async def _changes_again(self) -> bool:
        """Waits for it; no longer than till all is over."""
        waits = [asyncio.create_task(event.wait()) for event in (self.is_changing, self.over)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return not self.over.is_set()

    def _new(self, rng: Random) -> _Subscription:
        kind = rng.choice(["watch_data", "watch_children"])
        return _Subscription(f"{self.host.name} {self._lives}", kind, rng.choice(_PATHS), rng)

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


class _Writers(Writers):
    """Two clients that write where the others read."""

    def __init__(self, stage: Stage, plan: _Plan) -> None:
        super().__init__(stage, _PATHS, (2.0, 10.0))
        self._with_acls = plan.with_acls

    async def one(self, client: Client, rng: Random) -> None:
        """In one of the ways that there are."""
        path, way = rng.choice(_PATHS), rng.random()
        if way < 0.35:
            await client.create(path, self.data(), acl=self._acl(rng))
        elif way < 0.6:
            await client.set(path, self.data())
        elif way < 0.75:
            await self.delete(client, path)
        elif way < 0.9 or not self._with_acls:
            async with client.transaction() as transaction:
                transaction.delete(path)
                transaction.create(path, self.data(), acl=self._acl(rng))
        else:
            await client.set_acl(path, self._acl(rng))

    def _acl(self, rng: Random) -> tuple[ACL, ...]:
        return rng.choice((OPEN_ACL, CLOSED_ACL)) if self._with_acls else OPEN_ACL

    async def change_all(self, client: Client, rng: Random) -> None:
        """Every path, its data and its children, several times in so quick a row that reads cross the events."""
        for path in _PATHS:
            with contextlib.suppress(NodeExistsError):
                await client.create(path, self.data())
        for _ in range(3):
            for path in _PATHS:
                await client.set(path, self.data())
                await client.create(f"{path}/{self.data().decode()}")
                await asyncio.sleep(rng.uniform(0.0, 0.001))


def _heard(_: object) -> None:
    """Somebody else's watch."""


async def _expect_end(stage: Stage, readers: list[_Reader], observer: Client, when: str, within: float) -> None:
    """Every open subscription soon has told what is: what the log says, and a reader who asks."""
    await observer.sync()
    past = Past(stage.log, _PATHS)
    for path in _PATHS:
        for look, read in ((data_of, observer.get), (children_of, observer.children_and_stat)):
            found: Any = None
            with contextlib.suppress(NoNodeError):
                found = await read(path)
            expect(state_of(found) == past.end_of(look, path).hidden, f"{path} is {found}, not {past.of(look, path)}")

    def lagging() -> list[str]:
        return [lag for reader in readers for subscription in reader.open if (lag := subscription.lags(past))]

    await stage.world.until(lambda: all(reader.open for reader in readers))
    with contextlib.suppress(TimeoutError):
        await stage.world.until(lambda: not lagging(), timeout=within, every=0.1)
    expect(not lagging(), f"{when}, and {within:g} s later, {lagging()[:1]}")


def watched(world: World) -> None:
    """Subscriptions of data and children, under all faults and rolling upgrades: each tells states that were, in their
    order, and ends on what is."""
    setup = world.random("watched")
    plan = _Plan.drawn(setup)
    stage = Stage.of(world)
    for server in world.servers:
        become(server, setup.choice(plan.versions))
    kinds = EVERY_KIND | ({ServerChangesVersion: 4.0} if len(plan.versions) > 1 else {})
    readers = [stage.inhabited(f"app{number}", lambda s, h: _Reader(s, h, plan)) for number in (1, 2)]
    writers, observer = _Writers(stage, plan), world.host("observer")
    hosts = [world.host(f"writer{number}") for number in (1, 2)]

    async def finish() -> None:
        async with writers.client(observer) as client:
            for reader in readers:
                reader.calm.set()
            await _expect_end(stage, readers, client, "after all faults", plan.until_told)
            for reader in readers:
                await reader.host.run(reader.note_connections())
            if plan.with_acls:
                await writers.change_unseen(client)
                await _expect_end(stage, readers, client, "when all may be read", plan.until_told)
            for _ in range(_ROUNDS):
                for reader in readers:
                    reader.is_changing.set()
                await writers.change_all(client, setup)
                for reader in readers:
                    reader.is_changing.clear()
                await _expect_end(stage, readers, client, "after one more change", _SLOWEST + _AT_ONCE)

    world.run(under_faults(stage, setup, kinds, hosts, writers, readers, lambda: observer.run(finish())))
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
