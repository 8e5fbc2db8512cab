"""Throughput and CPU per operation, side by side with other clients.

How it is measured:
- Every measurement runs in a process of its own (`bench.contestant`), one at a time. A round takes every operation and
  window in turn and lets all contestants do it one after the other; each round starts with another contestant, so that
  none always comes first. Results are medians over the rounds.
- The server is one standalone ZooKeeper 3.8, started for the run, without fsync and snapshots, in a JVM of
  the size that Java would choose. It is
  warmed by 100 000 operations first. Each process warms its own connection before its clock starts.
- Operations: get and set of one node and create of fresh nodes, 100 bytes each, and the children of a node that has
  10 000. Nodes that were created are removed outside of the measured section.
- Every reply is decoded and checked, except by `raw`, a plain socket that only finds the ends of the replies: it shows
  what the server and Python's sockets can do at best.
- A window of N is driven in the same way by all: at most N calls are outstanding; when it is full, the oldest is waited
  for and its reply checked before the next call is made. (The server answers one connection in order, so the oldest is
  also the first to complete.) `raw` does the same by batches: as many new requests as there were replies in a read. A
  window of 1 is the plain loop that people write: a blocking call or an `await` after the other.
- CPU per operation is user plus system time of the client's whole process during the measured section.
- Only ratios between contestants of one run mean something; absolute times depend on the machine and on what else
  it does.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.report import to_row
from bench.server import prepare, remove, server_version, warm
from bench.stopwatch import Sample
from bench.workload import CELLS, DEFAULT_COUNTS, QUICK_COUNTS, Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.report import Row

__all__ = ["ContestantError", "Plan", "circumstances", "order", "run"]

_ROOT = Path(__file__).resolve().parents[1]
_PROCESS_TIMEOUT_S = 120.0


class ContestantError(Exception):
    """A measuring process failed. The run is void: a comparison with holes is none."""


class Plan(NamedTuple):
    """What a run consists of."""

    contestants: tuple[str, ...]
    operations: tuple[str, ...]
    rounds: int
    quick: bool = False

    @property
    def cells(self) -> list[Cell]:
        """The operations and windows to measure."""
        return [cell for cell in CELLS if cell.operation in self.operations]

    @property
    def counts(self) -> Mapping[Cell, int]:
        """How many operations one measurement has."""
        return QUICK_COUNTS if self.quick else DEFAULT_COUNTS

    @property
    def warm_up(self) -> int:
        """How many operations the server does before the first measurement."""
        return 5_000 if self.quick else 100_000


def order(contestants: Sequence[str], number: int) -> list[str]:
    """The order in which the contestants run in round `number`: everybody is first at times."""
    shift = number % len(contestants)
    return [*contestants[shift:], *contestants[:shift]]


async def run(plan: Plan, address: str, say: Callable[[str], None]) -> list[Row]:
    """Prepare the server at `address`, measure, and clean up."""
    await asyncio.to_thread(prepare, address, with_crowd="children" in plan.operations)
    try:
        say(f"warming the server with {plan.warm_up} operations")
        await asyncio.to_thread(warm, address, plan.warm_up)
        return await _measure(plan, address, say)
    finally:
        await asyncio.to_thread(remove, address)


async def _measure(plan: Plan, address: str, say: Callable[[str], None]) -> list[Row]:
    samples: defaultdict[tuple[str, str, int], list[Sample]] = defaultdict(list)
    for number in range(plan.rounds):
        for cell in plan.cells:
            for contestant in order(plan.contestants, number):
                sample = await _measure_one(contestant, cell, address, plan.counts[cell])
                samples[contestant, *cell].append(sample)
        say(f"round {number + 1} of {plan.rounds} done")
    return [
        to_row(contestant, *cell, samples[contestant, *cell]) for cell in plan.cells for contestant in plan.contestants
    ]


async def _measure_one(contestant: str, cell: Cell, address: str, count: int) -> Sample:
    arguments = ("-m", "bench.contestant", contestant, cell.operation, str(cell.window), address, str(count))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=_ROOT,
        env=_environment(),
    )
    try:
        async with asyncio.timeout(_PROCESS_TIMEOUT_S):
            output, errors = await process.communicate()
    except TimeoutError:
        raise ContestantError(f"{contestant} did not finish {cell} within {_PROCESS_TIMEOUT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        reason = errors.decode(errors="replace").strip()[-2000:]
        raise ContestantError(f"{contestant} failed at {cell} with exit code {process.returncode}:\n{reason}")
    return Sample(**json.loads(output))


def _environment() -> dict[str, str]:
    """The processes import what this one imports: this checkout, wherever its sources were found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}


def circumstances(plan: Plan, address: str) -> dict[str, Any]:
    """What somebody needs to know to read the numbers."""
    return {
        "benchmark": "throughput",
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
        "zookeeper": server_version(address),
        "clients": {name: _version(name) for name in ("kazoo", "aiozk", "uvloop")},
        "rounds": plan.rounds,
        "quick": plan.quick,
        "server_warm_up": plan.warm_up,
        "counts": [{**cell._asdict(), "count": plan.counts[cell]} for cell in plan.cells],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this checkout, with `-dirty` if anything differs from it; None outside of a checkout."""
    commit = _git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and _git("status", "--porcelain") else commit or None


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
