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
- Over TLS (`…-tls`) it is another server, of the Netty factory, at which the same client works plainly as well
  (`…-netty`): the ratio of the two is what TLS costs. Versions and ciphers are what both ends prefer, and the server's
  certificate is verified, its name included.
- Only ratios between contestants of one run mean something; absolute times depend on the machine and on what else
  it does.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.circumstances import circumstances, installed
from bench.process import measured
from bench.report import to_row
from bench.server import prepare, remove, server_version, warm
from bench.workload import CELLS, DEFAULT_COUNTS, NETTY, QUICK_COUNTS, Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.report import Row
    from bench.stopwatch import Sample
    from bench.workload import Where

__all__ = ["Plan", "about", "order", "run"]


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

    def those_who_do(self, cell: Cell) -> list[str]:
        """The contestants of one line."""
        return [name for name in self.contestants if cell.operation in NETTY.get(name, self.operations)]

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


async def run(plan: Plan, where: Where, say: Callable[[str], None]) -> list[Row]:
    """Prepare the servers, measure, and clean up."""
    addresses = [where.address, where.netty] if where.netty else [where.address]
    for address in addresses:
        await asyncio.to_thread(prepare, address, with_crowd="children" in plan.operations)
    try:
        say(f"warming the server with {plan.warm_up} operations")
        for address in addresses:
            await asyncio.to_thread(warm, address, plan.warm_up)
        if where.tls:
            await asyncio.to_thread(warm, where.tls, plan.warm_up, where.ca)
        return await _measure(plan, where, say)
    finally:
        for address in addresses:
            await asyncio.to_thread(remove, address)


async def _measure(plan: Plan, where: Where, say: Callable[[str], None]) -> list[Row]:
    samples: defaultdict[tuple[str, str, int], list[Sample]] = defaultdict(list)
    for number in range(plan.rounds):
        for cell in plan.cells:
            for contestant in order(plan.those_who_do(cell), number):
                address, *how = where.of(contestant)
                words = (contestant, cell.operation, str(cell.window), address, str(plan.counts[cell]), *how)
                samples[contestant, *cell].append(await measured("bench.contestant", *words))
        say(f"round {number + 1} of {plan.rounds} done")
    return [
        to_row(contestant, *cell, samples[contestant, *cell])
        for cell in plan.cells
        for contestant in plan.those_who_do(cell)
    ]


def about(plan: Plan, address: str) -> dict[str, Any]:
    """What somebody needs to know to read the numbers."""
    return {
        **circumstances("throughput"),
        "zookeeper": server_version(address),
        "clients": {name: installed(name) for name in ("kazoo", "aiozk", "uvloop")},
        "rounds": plan.rounds,
        "quick": plan.quick,
        "server_warm_up": plan.warm_up,
        "counts": [{**cell._asdict(), "count": plan.counts[cell]} for cell in plan.cells],
    }
