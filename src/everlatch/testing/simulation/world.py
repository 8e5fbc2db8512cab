"""`simulation()`: the world of one run, from its seed to its verdict.

Rules:
1. All randomness comes from the seed, by names (`world.random("…")`): a new use of it changes nothing for the others.
2. A run fails by what its main coroutine raises, by what reaches the loop's exception handler, by tasks left behind,
   and when nothing can happen any more. Whatever it fails by tells how to replay it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import random
import shlex
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from everlatch.devserver import Options
from everlatch.devserver.core import Core
from everlatch.devserver.ensemble import Member
from everlatch.testing.simulation.errors import (
    SimulationCallbackError,
    SimulationError,
    SimulationLeakError,
    SimulationUsageError,
)
from everlatch.testing.simulation.hosts import Host
from everlatch.testing.simulation.journal import Journal
from everlatch.testing.simulation.loop import VirtualLoop, waiting
from everlatch.testing.simulation.names import Names
from everlatch.testing.simulation.network import LATENCY, Network
from everlatch.testing.simulation.peering import Peering
from everlatch.testing.simulation.process import START
from everlatch.testing.simulation.schedule import Faults
from everlatch.testing.simulation.servers import EPOCH, SimulatedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from everlatch.client import Client
    from everlatch.testing.simulation.journal import Entry
    from everlatch.testing.simulation.process import Process
    from everlatch.testing.simulation.routes import Condition

__all__ = ["World", "simulation"]

T = TypeVar("T")

_SEED: Final = "EVERLATCH_SEED"
"""The environment variable that replaces all seeds."""
_DAY: Final = 86400.0
_GRACE: Final = 100
"""Turns of the loop in which tasks may end that were told to."""
_BURIAL: Final = 60.0
"""Virtual seconds that dead processes' tasks get to come to an end, when nobody looks any more."""
_TAIL: Final = 40
_FAULTS: Final = 40
"""Lines of a report."""


class World:
    """Hosts, the network between them, names, faults, a log. Made by `simulation`."""

    def __init__(
        self,
        seed: int | str,
        *,
        limit: float = _DAY,
        latency: tuple[float, float] = LATENCY,
        replay: str | None = None,
        sasl: bool = False,
    ) -> None:
        self.seed = seed
        self.demands_sasl = sasl
        """Whether a scenario's servers demand SASL in any case."""
        self.loop = VirtualLoop(limit)
        self.journal = Journal(self.loop)
        self.hosts: dict[str, Host] = {}
        """By name, in the order in which they were made."""
        self.names = Names(lambda text: self.journal.note("names", text))
        self.network = Network(self.loop, self.random("network"), self.journal, self.hosts, latency)
        self.loop.network, self.loop.names = self.network, self.names
        self.faults = Faults(self)
        self.counts: Counter[str] = Counter()
        """What a scenario wants to have counted over all runs."""
        self._replay = replay
        self._dead: list[Process] = []
        self._explained: BaseException | None = None
        self._was_cut_short = False
        """Whether the last main was left where it was: then what it began isn't left behind."""

    # -- what there is

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning, by nobody's clock."""
        return self.loop.moment - START

    @property
    def log(self) -> list[Entry]:
        """What happened: (time, host, text). Of a long log the end."""
        return list(self.journal.entries)

    def digest(self) -> str:
        """A text that is the same for two runs if all their notes and all bytes that arrived were."""
        return self.journal.digest()

    def note(self, text: str, host: str = "") -> None:
        """A line for the log."""
        self.journal.note(host, text)

    def random(self, name: str) -> random.Random:
        """Randomness for one purpose, from the seed."""
        return random.Random(f"{self.seed}/{name}")  # noqa: S311 - guards no secret

    @property
    def servers(self) -> list[SimulatedServer]:
        """The ZooKeeper servers, oldest first."""
        return [host for host in self.hosts.values() if isinstance(host, SimulatedServer)]

    @property
    def address(self) -> str:
        """The connect string of all servers. Raises `SimulationUsageError` if there are none."""
        if not self.servers:
            raise SimulationUsageError("this world has no servers yet: world.server() or world.ensemble(3)")
        return ",".join(server.address for server in self.servers)

    # -- making hosts

    def host(
        self, name: str, main: Callable[[], Coroutine[Any, Any, object]] | None = None, *, clock_rate: float = 1.0
    ) -> Host:
        """A machine for clients. `main`, if there is one, makes what its process does: now, and after every crash."""
        host = Host(self, name, self._new_ip(name), main, clock_rate)
        self._enter(host)
        return host

    def server(
        self, name: str = "zk1", *, core: Callable[[float], Any] | None = None, clock_rate: float = 1.0, **options: Any
    ) -> SimulatedServer:
        """A dev server that stands alone, on port 2181. `options` are those of `devserver.Options`; `core` makes
        another `ServerCore`, given its clock."""
        make = core or (lambda now: Core(Options(**options), EPOCH, now))
        server = SimulatedServer(self, name, self._new_ip(name), make, clock_rate)
        self._enter(server)
        return server

    def ensemble(
        self, size: int = 3, *, member: Callable[[int, Sequence[int], float], Any] | None = None, **options: Any
    ) -> list[SimulatedServer]:
        """Servers `zk1`, `zk2`, … that are one ensemble. `options` are those of `devserver.Options`; `member` makes
        another `MemberCore`, given its number, all numbers, and its clock."""
        numbers = range(1, size + 1)

        def new_member(number: int, everybody: Sequence[int], now: float) -> Any:
            return Member(number, tuple(everybody), Options(**options), EPOCH, now)

        make = member or new_member
        servers: dict[int, SimulatedServer] = {}
        peering = Peering(self.network, servers)
        for number in numbers:
            name = f"zk{number}"
            server = SimulatedServer(self, name, self._new_ip(name), functools.partial(make, number, numbers))
            server.number, server.peering = number, peering
            servers[number] = server
            self._register(server)
        self.network.peerings.append(peering)
        for server in servers.values():
            server.boot()
        return list(servers.values())

    def leader(self) -> SimulatedServer | None:
        """The server that leads its ensemble: believes so, lives, and has the newest history, if several do."""
        leading = [server for server in self.servers if server.is_leading]
        return max(leading, key=lambda server: int(getattr(server.core, "current_epoch", 0)), default=None)

    def cut_from_leader(self, follower: SimulatedServer | str) -> Condition:
        """A follower and the leader lose each other; clients reach both. Raises `SimulationUsageError` if nobody leads,
        or it does itself."""
        leader = self.leader()
        name = follower if isinstance(follower, str) else follower.name
        if leader is None or leader.name == name:
            raise SimulationUsageError(f"{name} can't be cut off from its leader: that is {leader and leader.name}")
        return self.network.cut(name, leader)

    def client(self, host: Host, servers: str | None = None, **options: Any) -> Client:
        """As `host.client`."""
        return host.client(servers, **options)

    def _new_ip(self, name: str) -> str:
        if name in self.hosts:
            raise SimulationUsageError(f"there is a host {name!r} already")
        number = len(self.hosts) + 1
        return f"10.0.{number // 250}.{number % 250 + 1}"

    def _enter(self, host: Host) -> None:
        self._register(host)
        host.boot()

    def _register(self, host: Host) -> None:
        self.hosts[host.name] = host
        self.names[host.name] = [host.ip]

    # -- running

    def run(self, main: Coroutine[Any, Any, T], *, on: Host | None = None) -> T:
        """Runs `main` to its end, on a host or outside of all, and returns its result. May be called again.

        Raises what `main` raises; `SimulationDeadlockError`, `SimulationTimeLimitError`, `SimulationCallbackError`.
        """
        context = self._context_of(on, main)
        task = self.loop.create_task(main, name="main", context=context)
        try:
            result = self.loop.run_until_complete(task)
        except BaseException as error:
            self._was_cut_short = not task.done()
            self.explain(error)
            raise
        self._check_callbacks()
        return result

    def _context_of(self, host: Host | None, main: Coroutine[Any, Any, object]) -> contextvars.Context:
        if host is None:
            return contextvars.copy_context()
        try:
            with host:
                return contextvars.copy_context()
        except SimulationUsageError:
            main.close()
            raise

    async def until(self, condition: Callable[[], object], *, timeout: float = 60.0, every: float = 0.01) -> None:
        """Returns when `condition()` is true; looks every so often. Raises `TimeoutError` after virtual seconds."""
        end = self.loop.moment + timeout
        while not condition():
            if self.loop.moment >= end:
                raise TimeoutError(f"{condition!r} was not true within {timeout:g} virtual seconds")
            await asyncio.sleep(every)

    def heal(self) -> None:
        """Everything is as it was at first: routes, names, processes; and all faults are over."""
        self.faults.heal_all()
        self.network.heal()
        self.names.restore_all()
        for host in self.hosts.values():
            host.heal()

    def bury(self, process: Process) -> None:
        """A process has died; its tasks are kept until the end."""
        self._dead.append(process)

    # -- the end

    def finish(self) -> None:
        """Raises `SimulationLeakError` for tasks that are left, `SimulationCallbackError`."""
        self.loop.run_until_complete(self._settled())
        left = [task for task in self.loop.tasks() if task.process is None or not task.process.dead]
        self._check_callbacks()
        if left and not self._was_cut_short:
            names = ", ".join(task.get_name() for task in left)
            error = SimulationLeakError(f"left behind when main was done: {names}; they wait:{waiting(self.loop)}")
            self.explain(error)
            raise error

    async def _settled(self) -> None:
        for _ in range(_GRACE):
            if not [task for task in self.loop.tasks() if task.process is None or not task.process.dead][1:]:
                return
            await asyncio.sleep(0)

    def close(self) -> None:
        """Takes everything down, whatever state it is in; nobody looks any more."""
        self.loop.set_exception_handler(lambda *_: None)
        tasks = self.loop.tasks()
        for host in self.hosts.values():
            host.ghost()
        for task in tasks:
            task.cancel()
        for process in self._dead:
            process.release(self.loop)
        if tasks:
            self.loop.allow_more(2 * _BURIAL)
            with contextlib.suppress(SimulationError):
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=_BURIAL))
        self._dead.clear()
        self.loop.close()

    def _check_callbacks(self) -> None:
        if not self.loop.errors:
            return
        context = self.loop.errors[0]
        cause = context.get("exception")
        error = SimulationCallbackError(
            f"{len(self.loop.errors)} times something reached the loop's exception handler, first: "
            f"{context.get('message')}: {cause!r}"
        )
        error.__cause__ = cause
        self.loop.errors.clear()
        self.explain(error)
        raise error

    # -- reports

    @property
    def replay_command(self) -> str:
        """What replays this run."""
        if self._replay is not None:
            return self._replay
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        what = f"pytest '{test}'" if test else f"python {shlex.join(sys.argv)}"
        return f"{_SEED}={self.seed} {what}"

    def report(self) -> str:
        """How to replay the run, its faults, and the end of its log."""
        lines = [f"simulation of seed {self.seed!r}, {self.now:.3f} virtual seconds", f"replay: {self.replay_command}"]
        faults = self.faults.applied[-_FAULTS:]
        lines.append(f"faults: {self.faults.count}, the last {len(faults)}:" if faults else "faults: none")
        lines += [f"  {fault}" for fault in faults]
        if self.loop.errors:
            lines.append(f"{len(self.loop.errors)} times something reached the loop's exception handler:")
            lines += [f"  {each.get('message')}: {each.get('exception')!r}" for each in self.loop.errors[:_FAULTS]]
        tail = self.journal.tail(_TAIL)
        lines += [f"the last {len(tail)} lines of the log:", *(f"  {entry}" for entry in tail)]
        return "\n".join(lines)

    def explain(self, error: BaseException) -> None:
        """Adds the report to an error, once."""
        if error is not self._explained:
            self._explained = error
            error.add_note(self.report())


@contextlib.contextmanager
def simulation(
    seed: int | str | None = None,
    *,
    limit: float = _DAY,
    latency: tuple[float, float] = LATENCY,
    replay: str | None = None,
    sasl: bool = False,
) -> Iterator[World]:
    """A world to run clients, servers and faults in.

        with simulation(seed=7) as world:
            server, app = world.server(), world.host("app")

            async def main() -> None:
                async with app.client() as client:
                    await client.create("/a", b"1")
                    server.pause()
                    …

            world.run(main(), on=app)

    `seed`: the same gives the same run; without one there is a new one each time (the environment variable
    EVERLATCH_SEED sets it for all). `limit`: virtual seconds that the run may take. `latency`: seconds that a packet
    takes, least and most. `replay`: the command that a failure tells to repeat the run with. `sasl`: the servers of
    scenarios demand it, whatever the seed says.
    """
    chosen = os.environ.get(_SEED) or seed
    if chosen is None:
        chosen = random.SystemRandom().getrandbits(32)
    world = World(chosen, limit=limit, latency=latency, replay=replay, sasl=sasl)
    try:
        yield world
        world.finish()
    except BaseException as error:
        world.explain(error)
        raise
    finally:
        world.close()
