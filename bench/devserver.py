"""How fast the dev server is on one core.

How it is measured:
- The server is a process of its own, pinned to one core; the load comes from another process on the other cores. So the
  rate is that of one core, and what the load costs is not part of it.
- Loads: one connection with 1000 requests in flight (`get`, `set`, of 100 bytes), by the plain socket of
  `bench.contestants.raw_socket`; and 100 connections with one `get` in flight each, by `bench.crowd`. No load decodes
  replies, so that the server sets the pace.
- Rounds alternate between the loops that the server runs on; results are medians over the rounds. The CPU is the
  server's, user and system, over all requests of the load, its connections and its warming up included.
- The bar: 20 000 gets a second with many in flight, on asyncio's own loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager, contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.circumstances import circumstances, installed
from bench.process import ROOT, environment, measured
from bench.server import prepare
from bench.workload import Job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

__all__ = ["BAR", "LOADS", "Load", "Row", "loops", "passes", "render", "run", "to_json"]

BAR = 20_000
"""Gets a second."""
_END_TIMEOUT_S = 10.0
_CONNECTIONS = 100
_WINDOW = 1000


class Load(NamedTuple):
    """What the server has to do."""

    name: str
    operation: str
    crowd: bool = False
    """Whether many connections with one request each, or one with many."""

    def command(self, address: str, count: int) -> tuple[str, ...]:
        """The module that makes the load, and its arguments."""
        if self.crowd:
            return ("bench.crowd", address, str(_CONNECTIONS), str(count))
        return ("bench.contestant", "raw", self.operation, str(_WINDOW), address, str(count))

    def requests(self, count: int) -> int:
        """How many it makes, those that warm up included."""
        return count + (count // 10 if self.crowd else Job(self.operation, _WINDOW, "", count, "").warm_up)


LOADS = (
    Load(f"get, {_WINDOW} in flight", "get"),
    Load(f"get, {_CONNECTIONS} connections", "get", crowd=True),
    Load(f"set, {_WINDOW} in flight", "set"),
)
_JUDGED = ("asyncio", LOADS[0].name)


class Row(NamedTuple):
    """One load on one loop: medians, and between which values they lie."""

    loop: str
    load: str
    ops_per_s: float
    server_cpu_us_per_op: float
    ops_per_s_range: tuple[float, float]


class _Sample(NamedTuple):
    ops_per_s: float
    server_cpu_us_per_op: float


def loops() -> tuple[str, ...]:
    """Those that are installed."""
    return ("asyncio", "uvloop") if installed("uvloop") else ("asyncio",)


async def run(rounds: int, count: int, say: Callable[[str], None]) -> list[Row]:
    """Measure every load on every loop. Raises `MeasurementError`."""
    samples: dict[tuple[str, str], list[_Sample]] = {(loop, load.name): [] for loop in loops() for load in LOADS}
    for number in range(rounds):
        for loop in loops():
            async with _serving(loop) as server:
                for load in LOADS:
                    samples[loop, load.name].append(await server.bear(load, count))
        say(f"round {number + 1} of {rounds} done")
    return [_row(loop, load, found) for (loop, load), found in samples.items()]


def _row(loop: str, load: str, samples: Sequence[_Sample]) -> Row:
    rates = [sample.ops_per_s for sample in samples]
    cpu = median(sample.server_cpu_us_per_op for sample in samples)
    return Row(loop, load, median(rates), cpu, (min(rates), max(rates)))


class _Serving:
    """A server that runs, and the cores that are left for its load."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, others: set[int]) -> None:
        self._process = process
        self._address = address
        self._others = others

    async def bear(self, load: Load, count: int) -> _Sample:
        before = await self._cpu()
        with _on(self._others):
            sample = await measured(*load.command(self._address, count))
        return _Sample(sample.ops_per_s, (await self._cpu() - before) / load.requests(count) * 1e6)

    async def _cpu(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        return float(await self._process.stdout.readline())


@asynccontextmanager
async def _serving(loop: str) -> AsyncIterator[_Serving]:
    core, *others = sorted(os.sched_getaffinity(0))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.serving", loop, str(core)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        await asyncio.to_thread(prepare, address, with_crowd=False)
        yield _Serving(process, address, set(others) or {core})
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_END_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """Processes that are started meanwhile run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# --- the report -----------------------------------------------------------------------------------------------------


def passes(rows: Sequence[Row]) -> bool:
    """Whether the bar is reached."""
    return any((row.loop, row.load) == _JUDGED and row.ops_per_s >= BAR for row in rows)


def render(rows: Sequence[Row]) -> str:
    """The table and the verdict for people."""
    lines = [f"{'loop':<9}{'load':<24}{'ops/s':>9}  {'(range)':<17}{'server CPU µs/op':>17}"]
    for row in rows:
        ops = "({:.0f}-{:.0f})".format(*row.ops_per_s_range)
        lines.append(f"{row.loop:<9}{row.load:<24}{row.ops_per_s:>9.0f}  {ops:<17}{row.server_cpu_us_per_op:>17.1f}")
    verdict = "PASS" if passes(rows) else "FAIL"
    return "\n".join([*lines, "", f"Bar: {BAR} gets a second on one core: {verdict}"])


def to_json(rows: Sequence[Row], rounds: int, count: int) -> dict[str, Any]:
    """The report of a run."""
    return {
        **circumstances("devserver"),
        "uvloop": installed("uvloop"),
        "rounds": rounds,
        "count": count,
        "results": [row._asdict() for row in rows],
        "bar": {"loop": _JUDGED[0], "load": _JUDGED[1], "ops_per_s": BAR, "passed": passes(rows)},
    }
