"""Random sequences of watching, changing and losing connections on real servers, against what `add_watch` promises.

Rules: a run is made of rounds. In each, two tasks of the watching client and one of another client do random things
at the same time; then everything has arrived, and is judged:
1. Every change that a subscription concerns and that began after it was entered was heard, or it heard MISSED, and a
   read that followed saw the server at the change or later.
2. A one-shot watch that was set before a change of its node began was called (if no connection broke meanwhile).
3. In the end nothing is left, here or at the server.

The sequences are seeded; how they interleave is up to the servers. EVERLATCH_WATCH_SEED gives other ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from everlatch import Client, EventType, NoWatcherError, ServerError, WatchKind
from everlatch.testing import Proxy, expire_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from everlatch import Subscription, WatchEvent
    from everlatch.testing import Server

pytestmark = pytest.mark.real

CREATED, DELETED, DATA_CHANGED = EventType.CREATED, EventType.DELETED, EventType.DATA_CHANGED
CHILDREN_CHANGED, MISSED = EventType.CHILDREN_CHANGED, EventType.MISSED
ROUNDS = 25
SEED = int(os.environ.get("EVERLATCH_WATCH_SEED", "1"))


class Change(NamedTuple):
    """What the other client has done."""

    zxid: int
    begun: int
    events: tuple[tuple[EventType, str], ...]


class Watcher:
    """A subscription and its reader, who reads the node again on MISSED."""

    def __init__(self, world: World, path: str, recursive: bool) -> None:
        self.path, self.recursive = path, recursive
        self.entered: int | None = None
        self.left = False
        self.covered = 0
        self.heard: Counter[tuple[EventType, str]] = Counter()
        """Events that don't tell their zxid; those of 3.9 do."""
        self.heard_at = set[tuple[EventType, str, int]]()
        self.history = list[str]()
        self._world = world
        self.subscription: Subscription[WatchEvent] = world.client.add_watch(path, recursive=recursive)
        self._reader: asyncio.Task[None] | None = None
        self.busy = False

    async def enter(self) -> None:
        await self.subscription.__aenter__()
        self.entered = self._world.tick()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.subscription:
            self.history.append(f"{event.type.name} {event.path}")
            if event.type is not MISSED:
                if event.zxid == -1:
                    self.heard[event.type, event.path] += 1
                else:
                    self.heard_at.add((event.type, event.path, event.zxid))
                continue
            self.busy = True
            await self._world.client.exists(self.path)
            self.covered = self._world.client.statistics().last_zxid
            self.busy = False

    def leave(self) -> None:
        self.left = True
        self.subscription.close()

    def concerns(self, event: EventType, path: str) -> bool:
        if not self.recursive:
            return path == self.path
        return event is not CHILDREN_CHANGED and (path + "/").startswith(self.path + "/")

    def unheard(self, changes: list[Change]) -> Counter[tuple[EventType, str]]:
        """Rule 1."""
        assert self.entered is not None
        wanted = Counter(
            event
            for change in changes
            if change.begun > self.entered and change.zxid > self.covered
            for event in change.events
            if self.concerns(*event) and (*event, change.zxid) not in self.heard_at
        )
        return wanted - self.heard


class OneShot:
    """A one-shot watch."""

    def __init__(self, path: str, events: frozenset[EventType]) -> None:
        self.path, self.events = path, events
        self.set_at: int | None = None
        self.fired = list[EventType]()

    def __call__(self, event: WatchEvent) -> None:
        self.fired.append(event.type)


class World:
    """One run."""

    def __init__(self, random: Random, client: Client, other: Client, proxy: Proxy, server: Server, root: str) -> None:
        self.random, self.client, self.other, self.proxy, self.server = random, client, other, proxy, server
        self.paths = [root, f"{root}/a", f"{root}/a/b", f"{root}/c"]
        self.watchers = list[Watcher]()
        self.one_shots = list[OneShot]()
        self.changes = list[Change]()
        self.cut_off = False
        self.log = list[str]()
        self._ticks = 0

    def tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def note(self, what: str) -> None:
        self.log.append(f"{self._ticks}: {what}")

    # -- the other client

    async def change(self) -> None:
        path = self.random.choice(self.paths)
        above = path.rpartition("/")[0]
        begun = self.tick()
        deed = self.random.choice(["set", "set", "create", "delete"])
        with contextlib.suppress(ServerError):
            if deed == "set":
                zxid = (await self.other.set(path, b"")).mzxid
                events: tuple[tuple[EventType, str], ...] = ((DATA_CHANGED, path),)
            elif deed == "create":
                zxid = (await self.other.create(path)).stat.czxid
                events = (CREATED, path), (CHILDREN_CHANGED, above)
            else:
                await self.other.delete(path)
                zxid = self.other.statistics().last_zxid
                events = (DELETED, path), (CHILDREN_CHANGED, above)
            self.changes.append(Change(zxid, begun, events))
            self.note(f"{deed} {path} 0x{zxid:x}")

    # -- the watching client

    async def watch(self) -> None:
        deeds = [self.enter, self.enter, self.leave, self.leave, self.one_shot, self.one_shot, self.one_shot]
        given_up = [self.give_up_removing, self.give_up_entering, self.give_up_one_shot]
        await self.random.choice([*deeds, self.remove, *given_up])()

    async def enter(self) -> None:
        if len(self.watchers) >= 5:
            await self.leave()
        watcher = Watcher(self, self.random.choice(self.paths), self.random.random() < 0.5)
        await watcher.enter()
        self.watchers.append(watcher)
        self.note(f"enter {watcher.subscription!r}")

    async def leave(self) -> None:
        if self.watchers:
            watcher = self.watchers.pop(self.random.randrange(len(self.watchers)))
            self.note(f"leave {watcher.subscription!r}")
            watcher.leave()

    async def one_shot(self) -> None:
        path = self.random.choice(self.paths)
        kind = self.random.choice(["get", "exists", "children"])
        waits_for = {CHILDREN_CHANGED, DELETED} if kind == "children" else {CREATED, DELETED, DATA_CHANGED}
        watch = OneShot(path, frozenset(waits_for))
        with contextlib.suppress(ServerError):
            await getattr(self.client, kind)(path, watch=watch)
            watch.set_at = self.tick()
            self.one_shots.append(watch)
            self.note(f"{kind} {path} with a watch")

    async def remove(self) -> None:
        path, kind = self.random.choice(self.paths), self.random.choice([*WatchKind])
        self.note(f"remove {kind} {path}")
        with contextlib.suppress(NoWatcherError):
            await self.client.remove_watches(path, kind)

    async def give_up_removing(self) -> None:
        path = self.random.choice(self.paths)
        self.note(f"remove and cancel {path}")
        await self._give_up(self.client.remove_watches(path))

    async def give_up_entering(self) -> None:
        watcher = Watcher(self, self.random.choice(self.paths), self.random.random() < 0.5)
        self.note(f"enter and cancel {watcher.subscription!r}")
        await self._give_up(asyncio.create_task(watcher.subscription.__aenter__()))
        watcher.leave()

    async def give_up_one_shot(self) -> None:
        path = self.random.choice(self.paths)
        self.note(f"get {path} with a watch and cancel")
        await self._give_up(self.client.get(path, watch=lambda _: None))

    async def _give_up(self, call: asyncio.Future[Any]) -> None:
        """Cancels it unsent, sent or answered."""
        await asyncio.wait([asyncio.shield(call)], timeout=self.random.choice([0, 0, 0.0005, 0.001]))
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    async def lose(self) -> None:
        chance = self.random.random()
        if chance < 0.2:
            self.cut_off = True
            self.note("cut")
            self.proxy.cut()
        elif chance < 0.23:
            self.cut_off = True
            self.note("expire")
            await expire_session(self.client, self.server.address)

    # -- rounds

    async def round(self) -> None:
        await asyncio.gather(
            self._several(self.watch, 3), self._several(self.watch, 2), self._several(self.change, 5), self.lose()
        )
        await self.settle()
        self.judge()
        self.one_shots = [watch for watch in self.one_shots if not watch.fired]
        self.changes.clear()
        self.cut_off = False
        for watcher in self.watchers:
            watcher.heard.clear()
            watcher.heard_at.clear()

    async def _several(self, deed: Callable[[], Awaitable[None]], most: int) -> None:
        for _ in range(self.random.randint(0, most)):
            await deed()

    async def settle(self) -> None:
        """What was done has arrived, with its events, and was read."""
        for _ in range(3):  # an answer may lead to another request
            await self.other.sync()
            await self.client.sync()
            await self.client.exists("/")
        while any(watcher.busy or watcher.subscription.queued for watcher in self.watchers):
            await asyncio.sleep(0.001)
        await self.client.exists("/")

    def judge(self) -> None:
        for watcher in self.watchers:
            unheard = watcher.unheard(self.changes)
            assert not unheard, (watcher.subscription, unheard, watcher.history[-20:], self.log[-40:])
        if self.cut_off:
            return
        for watch in self.one_shots:
            assert watch.set_at is not None
            for change in self.changes:
                if change.begun > watch.set_at:
                    due = any(path == watch.path and event in watch.events for event, path in change.events)
                    assert not due or watch.fired, (watch.path, watch.events, change, self.log[-40:])

    async def end(self) -> None:
        while self.watchers:
            await self.leave()
        await self.settle()
        for path in self.paths:
            with contextlib.suppress(NoWatcherError):
                await self.client.remove_watches(path)
        await self.settle()
        assert self.client.statistics().watches == 0
        persistent = self.client._engine.session.watching._persistent
        assert persistent._wanted == persistent._heard == {}
        assert persistent._taken_over == set()


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
async def test_no_change_goes_unseen_whatever_happens_to_watches(standalone: Server, seed: int) -> None:
    random = Random(seed)
    async with (
        asyncio.timeout(60),
        Client(standalone.address, default_timeout=30) as other,
        Proxy(standalone.address) as proxy,
        Client(proxy.address, default_timeout=30) as client,
    ):
        root = (await other.create("/model-", sequential=True)).path
        world = World(random, client, other, proxy, standalone, root)
        for _ in range(ROUNDS):
            await world.round()
        await world.end()
