"""One simulated run: a world, its clients and its faults; then everything is healed, and the history is judged.

Rules of this file: the servers' log is what their members committed, each transaction once, and the same at all of
them. What the simulation itself finds (an error in a callback, a task that is left, a deadlock) is a leak.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.devserver.ensemble import Member
from everlatch.devserver.options import Options
from everlatch.devserver.tree import Create, Delete, Kind, SetACL
from everlatch.errors import LinkError
from everlatch.session import rearming
from everlatch.testing.simulation import SimulationError, simulation
from everlatch.testing.simulation.campaign import quiet
from everlatch.testing.simulation.servers import EPOCH, PORT
from torture.checker import check
from torture.history import CREATE, DELETE, SET, Applied, Change, Fault, History
from torture.reading import read_tree
from torture.rivals import worker_of
from torture.workload import found
from torture.worlds import FOUNDER, FOUNDING, MOODS, hides

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from everlatch import Client
    from everlatch.devserver.entries import Entry
    from everlatch.testing.simulation import World
    from everlatch.testing.simulation.hosts import Host
    from everlatch.types import Node
    from torture.violations import Violation
    from torture.workload import Worker
    from torture.worlds import Setting

__all__ = ["Outcome", "run"]

_RECONNECTING: Final = 30.0
_SETTLING: Final = 30.0
_BEFORE_CLOSING: Final = 0.5


class Outcome(NamedTuple):
    """What came of a run."""

    seed: int
    violations: list[Violation]
    virtual_seconds: float
    history: History
    report: str
    """Of the simulation: its faults, and the end of its log."""


class _Log:
    """What the members of an ensemble have committed."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.contradictions: list[str] = []

    def member(self, number: int, numbers: Sequence[int], options: Options, now: float) -> Member:
        """One that writes down what it commits."""
        log = self

        class Recorded(Member):
            def _apply(self, entry: Entry, now: float) -> None:
                log.enter(entry)
                super()._apply(entry, now)

        return Recorded(number, numbers, options, EPOCH, now)

    def enter(self, entry: Entry) -> None:
        """A member commits it."""
        known = self.entries.setdefault(entry.zxid, entry)
        if known is not entry and known.transaction != entry.transaction:
            self.contradictions.append(f"0x{entry.zxid:x} is {known.transaction} and {entry.transaction}")

    def applied(self) -> list[Applied]:
        """For the history."""
        return [_applied(self.entries[zxid]) for zxid in sorted(self.entries)]


def _applied(entry: Entry) -> Applied:
    changes = []
    for change in entry.transaction.changes:
        if isinstance(change, Create):
            owner = change.owner if change.kind is Kind.EPHEMERAL else 0
            changes.append(Change(CREATE, change.path, change.data or b"", owner))
        elif isinstance(change, Delete):
            changes.append(Change(DELETE, change.path))
        elif not isinstance(change, SetACL):
            changes.append(Change(SET, change.path, change.data or b""))
    return Applied(entry.zxid, tuple(changes), ends_session=entry.session is not None)


class _Site:
    """The workload's view of a world."""

    def __init__(self, world: World, setting: Setting, hosts: dict[int, Host]) -> None:
        self._world, self._setting, self._hosts = world, setting, hosts
        self._loop = world.loop

    def now(self) -> float:
        return self._world.now

    def client(self, number: int) -> Client:
        timeouts = self._setting.timeouts
        return self._hosts[number].client(
            session_timeout=timeouts[number % len(timeouts)], **self._setting.plan.options
        )

    def random(self, name: str) -> random.Random:
        return self._world.random(name)


class _Run:
    """One world from its founding to its end."""

    def __init__(self, world: World, setting: Setting) -> None:
        self.world, self.setting, self.plan = world, setting, setting.plan
        self.log = _Log()
        self.history = History(
            root=self.plan.root,
            latches=[] if self.plan.registers else [self.plan.latch],
            registers=self.plan.registers,
            reconnecting=_RECONNECTING,
            settling=_SETTLING,
            reports_zxids=setting.version == "3.9",
        )
        options = Options(version=setting.version, tick=setting.tick)
        world.ensemble(3, member=lambda number, numbers, now: self.log.member(number, numbers, options, now))
        self.hosts: dict[int, Host] = {}
        self.site = _Site(world, setting, self.hosts)
        self.workers: dict[int, Worker] = {}
        """Of each place, the one that lives."""
        self._made = 0
        self._over = 0

    async def main(self) -> None:
        """Everything; after it the history is complete."""
        world, history = self.world, self.history
        founder = world.host(FOUNDER)
        history.started_zxid = await founder.run(self._found(founder))
        await asyncio.sleep(FOUNDING - world.now)
        for place in range(1, self.plan.clients + 1):
            self._settle(place)
        mood = MOODS[self.setting.mood]
        await world.faults.run(self.setting.seconds, mood.kinds, mean_interval=mood.interval, duration=mood.duration)
        world.heal()
        history.healed = world.now
        await asyncio.sleep(self.plan.stays_until - _BEFORE_CLOSING - world.now)
        self._note_end()
        await world.until(lambda: self._over == self.plan.clients, timeout=120.0)
        await asyncio.sleep(
            max(self.setting.timeouts) + 3 * self.setting.tick
        )  # until the sessions of the dead are over
        history.final = await founder.run(self._read())

    async def _found(self, founder: Host) -> int:
        async with founder.client(start_timeout=60.0) as client:
            return await found(client, self.plan)

    def _settle(self, place: int) -> None:
        """A host, whose process is a worker; and after a crash another one."""
        self.hosts[place] = host = self.world.host(f"app{place}")
        host.main = lambda: self._live(place)
        host.boot()

    async def _live(self, place: int) -> None:
        if place in self.workers:
            self.history.died[self.workers[place].number] = self.world.now
        self._made += 1
        worker = self.workers[place] = worker_of(self.plan)(self.site, self.plan, self.history, self._made, place)
        await worker.run()
        self._over += 1

    def _note_end(self) -> None:
        history = self.history
        history.closing = self.world.now
        history.closing_zxid = max(self.log.entries)

    async def _read(self) -> dict[str, Node]:
        for _ in range(10):
            for server in self.world.servers:
                try:
                    return await read_tree(server.name, PORT, self.plan.root)
                except (OSError, EOFError, LinkError):
                    await asyncio.sleep(1.0)
        raise SimulationError("no server could be read in the end")

    def complete(self) -> None:
        """What is known without waiting."""
        history, world = self.history, self.world
        history.log = self.log.applied()
        history.faults = [
            Fault(
                type(each.fault).__name__,
                ", ".join(each.fault.targets),
                each.at,
                each.healed_at or world.now,
                hides(each.fault, world),
            )
            for each in world.faults.applied
        ]
        history.leaks += [f"{stream} is still open" for stream in world.network.connections]
        history.leaks += self.log.contradictions


@contextmanager
def _frames_of(limit: int) -> Iterator[None]:
    """Watches are re-armed in frames of that size."""
    usual = rearming.FRAME_LIMIT
    rearming.FRAME_LIMIT = limit
    try:
        yield
    finally:
        rearming.FRAME_LIMIT = usual


def run(setting: Setting, replay: str) -> Outcome:
    """One run. `replay` is the command that repeats it, for the report."""
    failure = ""
    with quiet(), _frames_of(setting.frame_limit):
        made: list[_Run] = []
        try:
            with simulation(setting.seed, replay=replay) as world:
                made.append(_Run(world, setting))
                world.run(made[0].main())
        except SimulationError as error:
            failure = f"{type(error).__name__}: {error}"
    this = made[0]
    this.complete()
    if failure:
        this.history.leaks.append(failure)
    return Outcome(setting.seed, check(this.history), this.world.now, this.history, this.world.report())
