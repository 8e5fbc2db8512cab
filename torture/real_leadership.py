"""The torture of the election on real servers: twelve candidates in processes that are killed, stopped for longer than
their sessions last, and unplugged, on servers that suffer as well; then quiet, in which there has to be a leader.

Rules of this file: rounds follow each other on the same servers, with the same candidates; all is judged at the end of
each, from the beginning on.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from everlatch.testing import Ensemble
from everlatch.testing.network import NetworkEnsemble, NetworkUnavailableError
from everlatch.testing.process import ClientProcess
from torture.candidate import Task
from torture.leadership import Quiet, Record, judge, read, seen_in
from torture.real_faults import (
    ClientsPaused,
    ClientsUnplugged,
    RealFault,
    Schedule,
    ServerKilled,
    ServerPaused,
    ServerUnplugged,
    Split,
    Theatre,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator
    from random import Random

    from torture.violations import Violation

__all__ = ["Verdict", "elect"]

_TICK: Final = 0.5
_TIMEOUT: Final = 4.0
_PROCESSES: Final = 6
_IN_EACH: Final = 2
_LONGEST: Final = _TIMEOUT + 2 * _TICK + 2.0
"""Seconds until there has to be a leader when all could lead."""
_FAULTS: Final = 30.0
_QUIET: Final = 15.0
_INTERVAL: Final = 1.2
"""Seconds between two faults, on average."""
_STALE: Final = ("StaleLeaderError", "TransactionFailedError", "SessionExpiredError")
_LONGER: Final = 30.0
"""Seconds for which a quiet may be drawn out."""
_ENDING: Final = 2 * _LONGER
"""Seconds for which the candidates go on, for a last round that takes longer."""
_ROOT: Final = Path(__file__).parents[1]


class _PausedForLong(ClientsPaused):
    """SIGSTOP, for longer than the sessions last, and SIGCONT."""

    mean_duration: ClassVar[float] = 2 * _TIMEOUT


class _ProcessKilled(ClientsPaused):
    """kill -9, and started again."""

    async def apply(self, rng: Random) -> None:
        await self.process.kill()

    async def heal(self) -> None:
        await _start_again(self.process)


async def _start_again(process: ClientProcess) -> None:
    if not process.running:
        await process.start()


_KINDS: Final[dict[type[RealFault], float]] = {
    ServerKilled: 3.0,
    ServerPaused: 4.0,
    ServerUnplugged: 4.0,
    Split: 1.5,
    ClientsPaused: 2.0,
    _PausedForLong: 2.0,
    _ProcessKilled: 1.0,
    ClientsUnplugged: 3.0,
}


class Verdict(NamedTuple):
    """What came of it so far."""

    violations: list[Violation]
    faults: list[str]
    seen: dict[str, int]
    rounds: int
    seconds: float

    def __str__(self) -> str:
        refused = sum(self.seen.get(f"fenced write: {error}", 0) for error in _STALE)
        return (
            f"{self.rounds} rounds, {len(self.faults)} faults, {self.seen.get('terms', 0)} terms, "
            f"{self.seen.get('fenced write: taken', 0)} fenced writes taken and {refused} refused, "
            f"{len(self.violations)} violations"
        )

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "rounds": self.rounds,
            "seconds": round(self.seconds, 1),
            "faults": len(self.faults),
            "seen": self.seen,
            "violations": [str(violation) for violation in self.violations],
        }


async def elect(
    seed: int,
    *,
    seconds: float,
    version: str,
    tell: Callable[[Verdict], None],
    faults: float = _FAULTS,
    quiet: float = _QUIET,
    enough: Callable[[Counter[str]], bool] = lambda _: True,
) -> Verdict:
    """Rounds for about so many seconds, or until something is found. `tell` hears after each. `faults`, `quiet`: how
    many seconds of each a round has. The quiet lasts longer when what was seen so far isn't `enough`, for half a minute
    at most."""
    async with AsyncExitStack() as stack:
        try:
            ensemble: Ensemble = await stack.enter_async_context(NetworkEnsemble(3, version=version, tick_time=_TICK))
        except NetworkUnavailableError:
            ensemble = await stack.enter_async_context(Ensemble(3, version=version, tick_time=_TICK))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="election-")))
        rng = random.Random(f"election/{seed}")
        election = _Election(ensemble, directory, rng, seconds, (faults, quiet), enough)
        await election.begin(stack)
        verdict = await election.round()
        tell(verdict)
        while not verdict.violations and election.has_time:
            verdict = await election.round()
            tell(verdict)
        return verdict


class _Election:
    """The servers, the processes, and what has happened to them."""

    def __init__(
        self,
        ensemble: Ensemble,
        directory: Path,
        rng: Random,
        seconds: float,
        lengths: tuple[float, float],
        enough: Callable[[Counter[str]], bool],
    ) -> None:
        self._ensemble, self._directory, self._rng = ensemble, directory, rng
        self._enough = enough
        self._with_faults, self._without = lengths
        self._began = time.monotonic()
        self._until = self._began + max(seconds, sum(lengths) + 1.0)
        self._processes: list[ClientProcess] = []
        self._names: dict[ClientProcess, list[str]] = {}
        self._faults: list[str] = []
        self._quiet: list[Quiet] = []

    async def begin(self, stack: AsyncExitStack) -> None:
        """Starts all candidates."""
        for number in range(_PROCESSES):
            names = [f"c{number}{letter}" for letter in "ab"[:_IN_EACH]]
            process = await self._process(number, names)
            stack.push_async_callback(process.kill)
            self._processes.append(process)
            self._names[process] = names

    async def _process(self, number: int, names: list[str]) -> ClientProcess:
        task = Task(
            names=names,
            servers=self._ensemble.connect_string,
            timeout=_TIMEOUT,
            output=str(self._directory / f"{number}.jsonl"),
            until=self._until + _ENDING,
        )
        command = [sys.executable, "-m", "torture.candidate", task.to_json()]
        environment = {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'src'}"}
        name = f"p{number}"
        if isinstance(self._ensemble, NetworkEnsemble):
            return await self._ensemble.start_client(name, command, environment=environment)
        process = ClientProcess(name, "127.0.0.1", command, self._directory / f"{name}.log", environment)
        await process.start()
        return process

    @property
    def has_time(self) -> bool:
        """For another round."""
        return self._until - time.monotonic() > self._with_faults + self._without

    async def round(self) -> Verdict:
        """Faults, then quiet; and what is to be said of all so far."""
        theatre = Theatre(self._ensemble, [], self._processes)
        schedule = Schedule(theatre, self._rng, hiding=True, kinds=_KINDS)
        await schedule.run(time.monotonic() + self._with_faults, _INTERVAL)
        self._faults += [
            f"{begin - self._began:.3f} to {end - self._began:.3f}  {fault}" for fault, begin, end in schedule.applied
        ]
        began = time.monotonic()
        for process in self._processes:
            await _start_again(process)
        alive = frozenset(f"{name}.{process.pid}" for process in self._processes for name in self._names[process])
        await asyncio.sleep(self._without)
        await self._until_enough()
        self._quiet.append(Quiet(began, time.monotonic(), alive))
        return self._verdict()

    async def _until_enough(self) -> None:
        for _ in range(round(_LONGER)):
            if self._enough(seen_in(self._records())):
                return
            await asyncio.sleep(1.0)

    def _verdict(self) -> Verdict:
        records = list(self._records())
        violations = judge(records, self._quiet, _LONGEST)
        took = time.monotonic() - self._began
        return Verdict(violations, self._faults, dict(seen_in(records)), len(self._quiet), took)

    def _records(self) -> Iterator[Record]:
        for path in sorted(self._directory.glob("*.jsonl")):
            yield from read(path.read_text())
