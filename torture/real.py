"""A run on real servers: three of them, client processes, and faults, in real time; then the history is judged.

With root and iproute2 every server and every client process has a host of its own, whose links go down; without, all is
on 127.0.0.1, and only processes and proxies have faults. Some of the processes reach the servers directly, the others
through proxies in this process.

Rules of this file: rounds follow each other on the same servers, each below a path of its own; what was committed is
read from the servers' own transaction logs, and what they hold in the end from each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import random
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch import Client
from everlatch.admin import AdminError, dump
from everlatch.errors import LinkError
from everlatch.testing import Ensemble, Proxy
from everlatch.testing.network import NetworkEnsemble, NetworkUnavailableError
from everlatch.testing.process import ClientProcess
from torture.checker import check
from torture.history import Fault, History
from torture.reading import read_tree
from torture.real_faults import Schedule, Theatre
from torture.servers import differences, fault_of
from torture.txnlog import Logs
from torture.worker import Task
from torture.workload import Plan, found

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator

    from everlatch.testing import Server
    from everlatch.types import Node
    from torture.violations import Violation

__all__ = ["Round", "rounds"]

_TICK: Final = 0.5
_TIMEOUTS: Final = [2.0, 4.0, 6.0]
_PROCESSES: Final = 4
_CLIENTS: Final = 8
_SHORTEST_ROUND: Final = 5.0
_LONGEST_ROUND: Final = 60.0
"""Seconds with faults."""
_STARTING: Final = 3.0
_STAYING: Final = 20.0
_RECONNECTING: Final = 0.75
"""Of that."""
_SETTLING: Final = 20.0
_CLOSING: Final = 30.0
_AROUND: Final = _STARTING + max(_TIMEOUTS) + 3 * _TICK
"""What a round takes besides."""
_READINGS: Final = 10
"""So often each server is read in the end, at most, a second between, until it answers, and until they agree."""
_INTERVAL: Final = 1.0
"""Seconds between two faults, on average."""
_PLAN: Final = Plan()
_ROOT: Final = Path(__file__).parents[1]


class Round(NamedTuple):
    """What came of a round."""

    version: str
    history: History
    violations: list[Violation]
    faults: list[str]
    """Each in a line."""
    seconds: float
    notes: list[str]
    """What the servers did that no client can help."""
    kept: str
    """Where everything is that is known of it, if promises were broken, or servers differ."""
    judged: bool
    """Whether it could be. If not, a note says why, and nothing was found."""


async def rounds(
    seed: int,
    *,
    seconds: float,
    version: str,
    tell: Callable[[str], None],
    staying: float = _STAYING,
    plan: Plan = _PLAN,
    tls: bool = False,
) -> AsyncIterator[Round]:
    """Rounds on one ensemble of this version, for about so many seconds. `staying`: after the last fault of each, in
    seconds, until the clients are closed. `plan`: what they do; who does how much is said here. `tls`: they, and the
    proxies, use TLS."""
    logging.getLogger("everlatch").setLevel(logging.CRITICAL)
    end = time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        ensemble = await _ensemble(stack, version, tell, tls=tls)
        number = 0
        while number == 0 or end - time.monotonic() > _SHORTEST_ROUND + staying + _AROUND:
            number += 1
            length = min(max(end - time.monotonic() - staying - _AROUND, _SHORTEST_ROUND), _LONGEST_ROUND)
            run = _Run(ensemble, f"{seed}/{version}/{number}", number, length, staying, plan)
            yield await run.run()


async def _ensemble(stack: AsyncExitStack, version: str, tell: Callable[[str], None], *, tls: bool) -> Ensemble:
    try:
        return await stack.enter_async_context(NetworkEnsemble(3, version=version, tick_time=_TICK, tls=tls))
    except NetworkUnavailableError as error:
        tell(f"no faults of links, but of processes and proxies: {error}")
        return await stack.enter_async_context(Ensemble(3, version=version, tick_time=_TICK, tls=tls))


class _Run:
    """One round."""

    def __init__(self, ensemble: Ensemble, seed: str, number: int, seconds: float, staying: float, plan: Plan) -> None:
        self._ensemble, self._seed, self._number, self._seconds = ensemble, seed, number, seconds
        self._staying = staying
        self._rng = random.Random(seed)
        self._root = f"/torture-{number}"
        self._wanted = plan._replace(root=self._root)

    async def run(self) -> Round:
        """From its founding to its end."""
        began = time.monotonic()
        options = self._ensemble.client_options
        async with (
            Client(self._ensemble.connect_string, start_timeout=60.0, **options) as founder,
            AsyncExitStack() as stack,
        ):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-")))
            proxies = [await self._proxy(stack, server) for server in self._ensemble.servers]
            started = await found(founder, self._wanted)
            plan = self._plan(time.monotonic() + _STARTING)
            processes = [await self._start(stack, number, plan, proxies, directory) for number in range(_PROCESSES)]
            theatre = Theatre(self._ensemble, proxies, processes)
            schedule = Schedule(theatre, self._rng, hiding=self._number % 2 == 1)
            await schedule.run(plan.works_until - 1.0, _INTERVAL)
            healed = time.monotonic()
            history = History(
                root=self._root,
                latches=[] if plan.registers else [plan.latch],
                registers=plan.registers,
                started_zxid=started,
                healed=healed,
                closing=plan.stays_until - 0.5,
                reconnecting=_RECONNECTING * self._staying,
                settling=_SETTLING,
                reports_zxids=self._ensemble.version == "3.9",
            )
            await asyncio.sleep(max(0.0, history.closing - 1.0 - time.monotonic()))
            await founder.sync()
            await founder.exists("/")
            history.closing_zxid = founder.statistics().last_zxid
            await self._collect(history, processes, directory, plan)
            await self._until_alone(founder)
            trees = await self._read()
            history.final = next(iter(trees.values()))
        logs = Logs.read([(server.data_dir, server.log_path) for server in self._ensemble.servers])
        history.log = logs.committed
        history.faults = [
            Fault(type(fault).__name__, fault.target, begin, end, fault.hides) for fault, begin, end in schedule.applied
        ]
        faults = [f"{begin - began:.3f} to {end - began:.3f}  {fault}" for fault, begin, end in schedule.applied]
        reason = fault_of(history, logs, trees)
        violations = [] if reason else check(history)
        kept = self._keep(history) if violations or differences(trees) else ""
        notes = [*_spoilt(theatre), *self._notes(trees, reason, kept)]
        seconds = time.monotonic() - began
        return Round(self._ensemble.version, history, violations, faults, seconds, notes, kept, judged=not reason)

    def _notes(self, trees: Collection[str], reason: str, kept: str) -> Iterator[str]:
        """What is to be told of the end of a round; `reason`: why it can't be judged."""
        for server in self._ensemble.servers:
            if server.name not in trees:
                yield f"{server.name} could not be read in the end of round {self._number}"
        if reason:
            yield f"round {self._number} can't be judged: {reason}" + (f"; all that is known: {kept}" if kept else "")

    def _keep(self, history: History) -> str:
        """The history, and what the servers have on disk and have said."""
        place = Path(tempfile.mkdtemp(prefix="torture-found-"))
        (place / "history.pickle").write_bytes(pickle.dumps(history))
        for server in self._ensemble.servers:
            shutil.copytree(server.data_dir, place / server.name)
            shutil.copy(server.log_path, place / f"{server.name}.log")
        return str(place)

    def _plan(self, start: float) -> Plan:
        works_until = start + self._seconds
        return self._wanted._replace(
            clients=_CLIENTS,
            members=4,
            burst=self._rng.choice([3.0, 8.0]),
            pause=0.4,
            works_until=works_until,
            stays_until=works_until + self._staying,
        )

    async def _proxy(self, stack: AsyncExitStack, server: Server) -> Proxy:
        host = self._ensemble.address if isinstance(self._ensemble, NetworkEnsemble) else "127.0.0.1"
        return await stack.enter_async_context(Proxy(server.address, host=host, tls=server.certificates))

    async def _start(
        self, stack: AsyncExitStack, number: int, plan: Plan, proxies: list[Proxy], directory: Path
    ) -> ClientProcess:
        """A process with some of the clients. Every other one goes through the proxies."""
        servers = ",".join(proxy.address for proxy in proxies) if number % 2 else self._ensemble.connect_string
        task = Task(
            places=list(range(number + 1, _CLIENTS + 1, _PROCESSES)),
            servers=servers,
            timeouts=_TIMEOUTS,
            seed=self._seed,
            output=str(directory / f"{number}"),
            plan=plan._asdict(),
            files={name: str(path) for name, path in self._ensemble.client_options.items()},
        )
        command = [sys.executable, "-m", "torture.worker", task.to_json()]
        environment = {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'src'}"}
        name = f"r{self._number}c{number}"
        if isinstance(self._ensemble, NetworkEnsemble):
            process = await self._ensemble.start_client(name, command, environment=environment)
        else:
            process = ClientProcess(name, "127.0.0.1", command, directory / f"{name}.log", environment)
            await process.start()
        stack.push_async_callback(process.kill)
        return process

    async def _collect(self, history: History, processes: list[ClientProcess], directory: Path, plan: Plan) -> None:
        """What all processes have seen."""
        deadline = plan.stays_until + _CLOSING
        for number, process in enumerate(processes):
            try:
                code = await process.wait(max(1.0, deadline - time.monotonic()))
            except TimeoutError:
                history.leaks.append(f"process {process.name} has not ended {_CLOSING:g} s after it was told to")
                continue
            if code:
                history.leaks.append(f"process {process.name} ended with {code}: {process.log_tail()}")
                continue
            # Written by our own process, in a directory of our own.
            _merge(history, pickle.loads((directory / f"{number}").read_bytes()))

    async def _until_alone(self, founder: Client) -> None:
        """Returns when the leader knows of no session but this; all have to end by their timeouts, so nothing is waited
        for beyond that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(_TIMEOUTS) + 3 * _TICK):
                while True:
                    if await self._sessions() == {founder.session_id}:
                        return
                    await asyncio.sleep(0.1)

    async def _sessions(self) -> set[int]:
        leader = await self._ensemble.leader()
        try:
            return set((await dump(leader.plain_address)).sessions)
        except AdminError:  # it is slow, or leads no more
            return set()

    async def _read(self) -> dict[str, dict[str, Node]]:
        """What each server holds that answers, by its name. Read again as long as they differ: that has to last."""
        trees: dict[str, dict[str, Node]] = {}
        for _ in range(_READINGS):
            trees = await self._read_once() or trees
            if len(trees) == self._ensemble.size and not differences(trees):
                return trees
            await asyncio.sleep(1.0)
        if not trees:
            raise TimeoutError("no server could be read in the end")
        return trees

    async def _read_once(self) -> dict[str, dict[str, Node]]:
        trees = {}
        for server in self._ensemble.servers:
            with contextlib.suppress(OSError, EOFError, LinkError):
                _, _, port = server.plain_address.rpartition(":")
                trees[server.name] = await read_tree(server.host, int(port), self._root)
        return trees


def _spoilt(theatre: Theatre) -> list[str]:
    return [f"{name} did not start again from what it had on disk; it got all anew" for name in theatre.spoilt]


def _merge(history: History, part: History) -> None:
    history.calls |= part.calls
    history.subscriptions += part.subscriptions
    history.beliefs += part.beliefs
    history.states += part.states
    history.leaks += part.leaks
    history.leaders_at_end += part.leaders_at_end
