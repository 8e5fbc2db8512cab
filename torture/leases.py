"""Trials of the lease: while a client behind a follower holds it, that follower is frozen or cut from its leader, at a
random moment; its leader may die as well. The lease has to end before the session does.

Beside it goes the lease that a naive client would believe in: send time of the last answer + T. A set of trials that
does not catch that one shows nothing.

Rules of this file: what a trial came to is told in seconds by which a lease outlived the session; below 0: it did not.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch.errors import EverlatchError
from everlatch.testing.simulation import simulation
from everlatch.testing.simulation.campaign import quiet
from everlatch.testing.simulation.scenarios.stage import CommitLog, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from random import Random

    from everlatch import Client
    from everlatch.devserver.entries import Entry
    from everlatch.testing.simulation import World
    from everlatch.testing.simulation.servers import SimulatedServer

__all__ = ["NODE", "Ends", "Tally", "Trial", "simulated", "trial", "work"]

NODE: Final = "/held"
"""The ephemeral node of who holds the lease."""
_DRIFT: Final = 0.0099
"""Of each clock: together what the lease allows for, 2 %."""
_LOOK: Final = 0.005
_LONGEST: Final = 6.0
"""In session timeouts: by then a session has ended, or it goes on."""


class Trial(NamedTuple):
    """One trial."""

    name: str
    """Its seed, or which it was."""
    misfortune: str
    lease: float
    """Seconds by which the lease outlived the session."""
    naive: float
    """The naive one."""
    had_ended: bool
    """Whether the session ended at all."""

    def __str__(self) -> str:
        return f"trial {self.name}, {self.misfortune}: lease {self.lease:+.3f} s, naive lease {self.naive:+.3f} s"


class Ends:
    """How far a client believed that its session lives: the latest that it ever said, in both ways."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._session_id = client.session_id
        self.lease = self.naive = 0.0

    def look(self) -> None:
        """By the client's own clock."""
        if self._client.session_id != self._session_id:
            return
        liveness: Any = self._client._engine.session.liveness
        self.lease = max(self.lease, self._client.lease_until)
        self.naive = max(self.naive, liveness.lost_at)


class Tally:
    """All trials so far."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []

    @property
    def counted(self) -> list[Trial]:
        """Those in which the session ended."""
        return [trial for trial in self.trials if trial.had_ended]

    @property
    def violations(self) -> list[Trial]:
        """Those whose lease outlived the session."""
        return [trial for trial in self.counted if trial.lease > 0.0]

    @property
    def caught(self) -> list[Trial]:
        """Those that the naive lease would have failed."""
        return [trial for trial in self.counted if trial.naive > 0.0]

    def __str__(self) -> str:
        counted = self.counted
        if not counted:
            return f"{len(self.trials)} trials, and no session ended"
        return (
            f"{len(self.trials)} trials, in {len(counted)} the session ended; "
            f"the lease outlived {len(self.violations)} (at most {max(trial.lease for trial in counted):+.3f} s), "
            f"the naive one {len(self.caught)} (at most {max(trial.naive for trial in counted):+.3f} s)"
        )

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        counted = self.counted
        return {
            "trials": len(self.trials),
            "sessions_ended": len(counted),
            "lease_outlived": len(self.violations),
            "longest": round(max((trial.lease for trial in counted), default=0.0), 4),
            "naive_outlived": len(self.caught),
            "naive_longest": round(max((trial.naive for trial in counted), default=0.0), 4),
            "violations": [str(trial) for trial in self.violations],
        }


async def work(client: Client, rng: Random) -> None:
    """What the holder does besides: nothing, or something now and then."""
    pause = rng.choice([0.05, 0.05, 0.3, 5.0])
    while True:
        await asyncio.sleep(rng.expovariate(1 / pause))
        try:
            await (client.exists(NODE) if rng.random() < 0.5 else client.set("/", b"", timeout=1.0))
        except EverlatchError:
            continue


# -- in the simulation


class _Obituaries(CommitLog):
    """When the first member had committed the end of a session."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.told: dict[int, Callable[[], None]] = {}
        """Called at that moment, by session id."""

    def committed(self, entry: Entry) -> None:
        """Somebody has."""
        change = entry.session
        if change is not None and change.timeout_ms == 0 and change.id in self.told:
            self.told.pop(change.id)()


def trial(seed: int) -> Trial:
    """One, in the simulation: everything follows from the seed."""
    with quiet(), simulation(seed, replay=f"scripts/torture --leases 1 --seed {seed}") as world:
        return world.run(_Trial(world, seed).run())


class _Trial:
    """One holder behind one follower, and what happens to that."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed, self.rng = world, seed, world.random("trial")
        self.log = _Obituaries(world)
        self.stage = Stage.of(world, self.log, ticks=(2, 3, 4), size=3)
        for host in world.hosts.values():
            host.clock_rate = self._some_rate()
        self.host = world.host("holder", clock_rate=self._some_rate())
        self.ended_at: float | None = None
        """By the holder's clock."""

    def _some_rate(self) -> float:
        return self.rng.choice([1.0, self.rng.uniform(1.0 - _DRIFT, 1.0 + _DRIFT)])

    async def run(self) -> Trial:
        """All of it."""
        world, timeout = self.world, self.stage.session_timeout
        await world.until(lambda: all(server.core.mode for server in world.servers))
        follower = self.rng.choice([server for server in world.servers if not server.is_leading])
        await asyncio.sleep(self.rng.uniform(0.0, self.stage.tick))
        options = {"session_timeout": timeout, "close_timeout": 0.0, "sasl": self.stage.mechanism}
        client = self.host.client(follower.address, **options)
        ends = await self.host.run(self._begin(client))
        self.log.told[client.session_id] = self._session_ended
        working = self.host.create_task(work(client, world.random("work")))
        looking = self.host.create_task(self._look(ends))
        await asyncio.sleep(self.rng.uniform(0.0, 2 * timeout))
        name = self._misfortune(follower)
        with contextlib.suppress(TimeoutError):
            await world.until(lambda: self.ended_at is not None, timeout=_LONGEST * timeout, every=_LOOK)
        await asyncio.sleep(timeout)  # whether it believes even then
        for task in (working, looking):
            task.cancel()
        await asyncio.wait([working, looking])
        world.heal()
        await self.host.run(client.close())
        end = self.ended_at
        return Trial(str(self.seed), name, ends.lease - (end or 0.0), ends.naive - (end or 0.0), end is not None)

    async def _begin(self, client: Client) -> Ends:
        await client.start()
        await client.create(NODE, ephemeral=True)
        client.hold_lease()
        await client.wait_lease()
        return Ends(client)

    async def _look(self, ends: Ends) -> None:
        while True:
            ends.look()
            await asyncio.sleep(_LOOK)

    def _session_ended(self) -> None:
        self.ended_at = self.host.time()

    def _misfortune(self, follower: SimulatedServer) -> str:
        world = self.world
        leader = world.leader()
        assert leader is not None
        match self.rng.randrange(6):
            case 0 | 1:
                follower.pause()
                return "follower frozen"
            case 2 | 3:
                world.network.cut(follower, leader)
                return "follower cut from its leader"
            case 4:
                world.network.partition([follower.name, self.host.name], [each.name for each in self._others(follower)])
                return "follower cut from all"
            case _:
                follower.pause()
                dies_at = world.loop.moment + self.rng.uniform(0.0, 1.0)
                world.loop.schedule(dies_at, leader.crash)
                world.loop.schedule(dies_at + self.rng.uniform(0.1, 1.0), leader.start)
                return "follower frozen, then the leader dead"

    def _others(self, follower: SimulatedServer) -> Iterable[SimulatedServer]:
        return (server for server in self.world.servers if server is not follower)


def simulated(first: int, count: int, processes: int, tell: Callable[[Tally], None]) -> Tally:
    """So many trials, with the seeds from `first` on; stops at a violation."""
    tally = Tally()
    for each in _tried(iter(range(first, first + count)), processes):
        tally.trials.append(each)
        tell(tally)
        if tally.violations:
            break
    return tally


def _tried(seeds: Iterator[int], processes: int) -> Iterator[Trial]:
    if processes == 1:
        yield from map(trial, seeds)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        running: set[Future[Trial]] = set()
        try:
            while True:
                running |= {pool.submit(trial, seed) for seed in itertools.islice(seeds, 2 * processes - len(running))}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for each in done:
                    yield each.result()
        finally:
            pool.shutdown(cancel_futures=True)
