"""What the clients do, all the time: reads, writes of every kind, watches, an election with fenced writes.

Rules of this file: it is the same in the simulation and on real servers; where it runs, a `Site` says. Everything
random comes from the site. When to stop is told by the plan's clock, so that nobody has to be told. Nobody talks to
anybody but through ZooKeeper: who waits for another's node guesses its name.
"""

from __future__ import annotations

import asyncio
from bisect import bisect
from collections import deque
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from everlatch.errors import CallTimeoutError, EverlatchError
from everlatch.recipes import LeaderLatch
from everlatch.types import Stat
from torture.history import CHECK, CREATE, DELETE, SET, Ending, Part, told
from torture.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from random import Random

    from everlatch import Client
    from torture.history import Belief, Call, History
    from torture.recorder import Submitted

__all__ = ["OPTIONS", "Mode", "Plan", "Site", "Work", "Worker", "found"]

SHARED: Final = 6
"""Nodes of each kind that all clients write to."""
_KEPT: Final = 4
"""Own nodes of a client that are there at a time, of each kind."""
_TIMEOUTS: Final = (0.001, 0.02, 0.3, 3.0)
_CANCELLED: Final = 0.04
_CLOSE_TIMEOUT: Final = 5.0
_SHORTEST_SLEEP: Final = 1e-6
"""Seconds. Less may be nothing at all on a clock that shows large numbers."""
_LAST_LOOK: Final = 0.4
"""Seconds before the end at which it is seen who leads."""


Work = Literal["everything", "registers"]
Mode = Literal["plain", "exactly_once"]
OPTIONS: Final[dict[Mode, dict[str, Any]]] = {"plain": {}, "exactly_once": {"exactly_once": True}}
"""How clients write: the options that they are made with."""


class Plan(NamedTuple):
    """Who does how much, and until when, on the site's clock."""

    root: str = "/torture"
    work: Work = "everything"
    """`registers`: what `torture.rivals` does, instead."""
    writes: Mode = "plain"
    clients: int = 8
    members: int = 4
    """Clients with the lowest numbers take part in the election, those with the highest ones subscribe."""
    subscribers: int = 2
    pause: float = 0.5
    """Seconds between the bursts of a client, on average."""
    burst: float = 3.0
    """Calls in a burst, on average."""
    works_until: float = 60.0
    stays_until: float = 80.0
    """Until then clients stay, and members lead, without anything else to do."""

    @property
    def latch(self) -> str:
        """Where the election is."""
        return f"{self.root}/latch"

    @property
    def fence(self) -> str:
        """What leaders write to."""
        return f"{self.root}/fence"

    @property
    def registers(self) -> str:
        """What the paths of the registers begin with, if there are any."""
        return f"{self.root}/registers/" if self.work == "registers" else ""

    @property
    def options(self) -> dict[str, Any]:
        """Of the clients."""
        return OPTIONS[self.writes]


class Site(Protocol):
    """Where a workload runs."""

    def now(self) -> float:
        """The time of the run: the same everywhere, whatever a host's own clock shows."""
        ...

    def client(self, number: int) -> Client:
        """A new client for this worker, not started."""
        ...

    def random(self, name: str) -> Random:
        """Randomness for one purpose."""
        ...


async def found(client: Client, plan: Plan) -> int:
    """Makes the nodes that everybody writes to; returns the zxid from which on the history counts."""
    if plan.registers:
        await client.ensure_path(plan.registers.rstrip("/"))
    for name in ("plain", "versioned", "left", "right", "numbered", "own", "gone"):
        await client.ensure_path(f"{plan.root}/{name}")
    for name in ("plain", "versioned", "left", "right"):
        for number in range(SHARED):
            await client.create(f"{plan.root}/{name}/{number}")
    await client.create(plan.fence)
    return client.statistics().last_zxid


class Worker:
    """One client, from its start to its end. `number` is the client's in the history, `place` whose turn it takes."""

    def __init__(self, site: Site, plan: Plan, history: History, number: int, place: int) -> None:
        self.number = number
        self._site, self._plan, self._place = site, plan, place
        self._rng = site.random(f"worker {number}")
        self._client = site.client(place)
        self.recorder = Recorder(history, number, self._client, site.now)
        self._history = history
        self._leading: LeaderLatch | None = None
        self._versions: dict[str, int] = {}
        """Of nodes that everybody writes to, as far as was seen."""
        self._own: deque[str] = deque()
        """Nodes that only this client creates and deletes."""
        self._made = 0
        kinds = self._kinds()
        self._ways = list(kinds)
        self._weights = list(accumulate(kinds.values()))

    async def run(self) -> None:
        """All of it."""
        await self._client.start(wait=False)
        await self._client.sync()
        running = [asyncio.create_task(task) for task in self._tasks()]
        await self._until(self._plan.stays_until - _LAST_LOOK)
        if self._leading is not None and self._leading.is_leader:
            self._history.leaders_at_end.append(f"member {self.number}")
        await self._until(self._plan.stays_until)
        for task in running:
            task.cancel()
        for ended in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        await self._close()

    def _tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What it does at the same time."""
        tasks = [self._work(self._bursts), self._work(self._chains)]
        if self._place <= self._plan.members:
            tasks.append(self._take_part())
        if self._place > self._plan.clients - self._plan.subscribers:
            tasks += [self._subscribe(self._plan.root, recursive=True), self._come_and_go()]
        return tasks

    async def _until(self, time: float) -> None:
        """By the site's clock, whatever ours shows."""
        while (left := time - self._site.now()) > 0:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(max(left, _SHORTEST_SLEEP))

    async def _close(self) -> None:
        began = self._site.now()
        if self._leading is not None:
            await self._leading.close()
        await self._client.close(_CLOSE_TIMEOUT)
        took = self._site.now() - began
        if took > 3 * _CLOSE_TIMEOUT:
            self._history.leaks.append(f"client {self.number} took {took:.1f} s to close")
        left = self._client.statistics()
        if left.queued_calls or left.in_flight:
            self._history.leaks.append(
                f"client {self.number} is closed and has {left.queued_calls} calls, {left.in_flight} sent"
            )

    # -- what to do

    @property
    def _works(self) -> bool:
        return self._site.now() < self._plan.works_until

    async def _work(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Again and again."""
        while self._works:
            await step()
            await asyncio.sleep(self._rng.expovariate(1 / self._plan.pause))

    def _kinds(self) -> dict[Callable[[], Submitted], float]:
        return {
            self._get: 16,
            self._exists: 8,
            self._await_other: 6,
            self._children: 4,
            self._sync: 2,
            self._set: 16,
            self._set_version: 8,
            self._create: 6,
            self._create_numbered: 8,
            self._create_ephemeral: 2,
            self._delete: 12,
            self._set_pair: 8,
            self._set_checked: 6,
        }

    async def _bursts(self) -> None:
        """Calls that nobody waits for, made at once."""
        count = 1 + int(self._rng.expovariate(1 / self._plan.burst))
        if self._rng.random() < 0.02:
            count *= 10
        for _ in range(count):
            submitted = self._one()
            submitted.note(self._learn)
            if self._rng.random() < _CANCELLED:
                asyncio.get_running_loop().call_later(self._rng.choice(_TIMEOUTS), submitted.cancel)

    async def _chains(self) -> None:
        """Each call when the one before it has ended."""
        for _ in range(self._rng.randint(1, 3)):
            self._learn(await self._one().end())
        if self._rng.random() < 0.5:
            await self._read_and_write()

    async def _read_and_write(self) -> None:
        recorder, path = self.recorder, self._somewhere("versioned")
        call = await recorder.get(path).end()
        if call.ending is Ending.OK:
            await recorder.set(path, version=call.result.stat.version).end()
            self._learn(await recorder.get(path, watch=True).end())

    def _one(self) -> Submitted:
        ways = self._ways
        return ways[bisect(self._weights, self._rng.random() * self._weights[-1])]()

    # -- one call

    def _somewhere(self, kind: str) -> str:
        return f"{self._plan.root}/{kind}/{int(self._rng.random() * SHARED)}"

    def _timeout(self) -> float | None:
        return self._rng.choice(_TIMEOUTS) if self._rng.random() < 0.1 else None

    def _anywhere(self) -> str:
        return self._somewhere(self._rng.choice(("plain", "versioned", "left", "right")))

    def _get(self) -> Submitted:
        return self.recorder.get(self._anywhere(), watch=self._rng.random() < 0.3, timeout=self._timeout())

    def _exists(self) -> Submitted:
        return self.recorder.exists(self._anywhere(), watch=self._rng.random() < 0.3, timeout=self._timeout())

    def _await_other(self) -> Submitted:
        """A node that another client has made, or will make, or has deleted by now."""
        other = self._rng.randint(1, self._plan.clients)
        number = max(1, self._made + self._rng.randint(-_KEPT, 3))
        return self.recorder.exists(self._own_path(other, number), watch=True, timeout=self._timeout())

    def _children(self) -> Submitted:
        path = f"{self._plan.root}/{self._rng.choice(('numbered', 'own', 'gone', 'plain/1'))}"
        return self.recorder.children(path, watch=self._rng.random() < 0.5, timeout=self._timeout())

    def _sync(self) -> Submitted:
        return self.recorder.sync(timeout=self._timeout())

    def _set(self) -> Submitted:
        return self.recorder.set(self._somewhere("plain"), timeout=self._timeout())

    def _set_version(self) -> Submitted:
        path = self._somewhere("versioned")
        return self.recorder.set(path, version=self._versions.get(path, 0), timeout=self._timeout())

    def _own_path(self, client: int, number: int) -> str:
        return f"{self._plan.root}/own/{client}-{number}"

    def _create(self) -> Submitted:
        self._made += 1
        path = self._own_path(self.number, self._made)
        self._own.append(path)
        if self._rng.random() < 0.3:
            return self.recorder.transaction(
                [Part(CREATE, path), Part(SET, self._somewhere("plain"))], timeout=self._timeout()
            )
        return self.recorder.create(path, timeout=self._timeout())

    def _create_numbered(self) -> Submitted:
        return self.recorder.create(f"{self._plan.root}/numbered/n-", sequential=True, timeout=self._timeout())

    def _create_ephemeral(self) -> Submitted:
        self._made += 1
        path = f"{self._plan.root}/gone/{self.number}-{self._made}"
        self._own.append(path)
        return self.recorder.create(path, ephemeral=True, timeout=self._timeout())

    def _delete(self) -> Submitted:
        """The oldest own node, if there are enough; else somebody's node, which is too much of an effort: it has to
        fail."""
        if len(self._own) > _KEPT:
            path = self._own.popleft()
            if self._rng.random() < 0.2:
                return self.recorder.transaction([Part(DELETE, path), Part(SET, self._somewhere("plain"))])
            return self.recorder.delete(path, timeout=self._timeout())
        return self.recorder.delete(f"{self._plan.root}/numbered", version=1)

    def _set_pair(self) -> Submitted:
        number = int(self._rng.random() * SHARED)
        parts = [Part(SET, f"{self._plan.root}/{side}/{number}") for side in ("left", "right")]
        return self.recorder.transaction(parts, timeout=self._timeout())

    def _set_checked(self) -> Submitted:
        """Refused if somebody else was faster."""
        path = self._somewhere("versioned")
        parts = [Part(CHECK, path, self._versions.get(path, 0)), Part(SET, self._somewhere("plain"))]
        return self.recorder.transaction(parts, timeout=self._timeout())

    def _learn(self, call: Call) -> None:
        """Versions for later writes, and nodes to delete."""
        if call.ending is not Ending.OK:
            if call.kind == DELETE and call.error in ("CallTimeoutError", "WriteNotAppliedError"):
                self._own.append(call.path)
            return
        if call.sequential and call.result is not None:
            self._own.append(call.result.path)
        stat = getattr(call.result, "stat", call.result)
        if "/versioned/" in call.path and isinstance(stat, Stat) and (version := told(stat, "version")) is not None:
            self._versions[call.path] = version

    # -- subscriptions

    async def _subscribe(self, path: str, *, recursive: bool) -> None:
        await self.recorder.subscribe(path, recursive=recursive, until=lambda: False)

    async def _come_and_go(self) -> None:
        """Short subscriptions, one after the other; the last one stays."""
        while self._works:
            until = self._site.now() + self._rng.expovariate(1 / 10)
            path = f"{self._plan.root}/{self._rng.choice(('numbered', 'own', 'plain/2'))}"
            over = partial(self._is_over, until)
            await self.recorder.subscribe(path, recursive=self._rng.random() < 0.5, until=over)
            await asyncio.sleep(self._rng.expovariate(1.0))

    def _is_over(self, time: float) -> bool:
        return self._works and self._site.now() >= time

    # -- the election

    async def _take_part(self) -> None:
        """Joins, and leads when it can, for a while; then lets others lead."""
        while True:
            latch = self._leading = LeaderLatch(self._client, self._plan.latch, f"member {self.number}")
            await latch.start()
            until = self._site.now() + self._rng.expovariate(1 / 20)
            while self._site.now() < until or not self._works:
                try:
                    await latch.wait(timeout=1.0)
                except CallTimeoutError:
                    continue
                except EverlatchError:  # taking part is refused, or the client's end has come
                    await asyncio.sleep(1.0)
                await self._lead(latch, until)
            await latch.close()
            await asyncio.sleep(self._rng.expovariate(1.0))

    async def _lead(self, latch: LeaderLatch, until: float) -> None:
        """As long as it believes; and once more than it should."""
        belief: Belief | None = None
        while (asked := self.recorder.believe(belief, latch, f"member {self.number}")) is not None:
            belief = asked
            if self._works and self._rng.random() < 0.2:
                self._write_fenced(belief)
            if self._works and self._site.now() >= until:
                break
            await asyncio.sleep(self._rng.uniform(0.02, 0.2))
        if belief is not None and self._works and self._rng.random() < 0.7:
            await asyncio.sleep(self._rng.choice((0.0, 0.1, 2.0)))
            self._write_fenced(belief)

    def _write_fenced(self, belief: Belief) -> None:
        parts = [Part(CHECK, belief.node), Part(SET, self._plan.fence)]
        self.recorder.transaction(parts, token=belief.token, timeout=self._timeout()).note()
