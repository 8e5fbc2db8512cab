"""How long reads stop when the server in use fails, side by side with other clients.

How it is measured:
- Three servers of ZooKeeper 3.9, `bench.trio`, and sessions of 6 s. A contestant is a process of its own with a fresh
  client that reads one node, one read at a time, the next one at once, and goes on after errors as a user of that
  client would. It is connected to a follower, which the bench makes sure of by asking the servers (`srvr`, `cons`).
- Then that follower fails: `kill` is kill -9, after which the kernel closes its connections; `stop` is SIGSTOP, after
  which they stay open and nothing is answered. What counts is the longest gap between two successive successful reads
  of those that were not over when the fault came. The reads go on until 200 have been answered that were begun when the
  follower could answer no more.
- After each fault the servers are made well again, until the leader says that both followers are in step.
- Contestants take turns; each round begins with another one. Results are medians over the rounds.
- Most of the gap after kill -9 is the kernel's, on any machine: it frees a server's memory before it closes its
  connections, and until then nobody can know. `server_death_ms` in the report is about that.
- `everlatch-tls` reads over TLS, and goes on over TLS: three more servers, of the Netty factory, that run before the
  others do.
- `raw` is a socket that takes its session to the next server at once, when a connection is closed or silent for
  250 ms; what it takes is what the servers take. `java` is ZooKeeper's own client. `kazoo` repeats reads by its own
  `client.retry`, `kazoo-eager` at once. Every client has its default settings.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.circumstances import circumstances, installed
from bench.delays import Bar, to_row
from bench.gaps import SHORTEST_NS, Gap, longest_after
from bench.java_probes import compile_probes
from bench.probe import probe
from bench.process import MeasurementError
from bench.readers import READERS
from bench.reading import READS_AFTER, READS_BEFORE
from bench.server import server_version
from bench.throughput import order
from bench.trio import FAULTS, SESSION_TIMEOUT_S, TICK_S, trio
from bench.workload import NODE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.delays import Row
    from bench.java_probes import JavaProbes
    from bench.probe import Probe
    from bench.trio import Trio

__all__ = ["BARS", "BY_TLS", "CASE", "CONTESTANTS", "FailoverPlan", "run"]

CONTESTANTS = (*READERS, "java")
CASE = "fault"
"""What the results call a case."""
BY_TLS = ("everlatch-tls",)
BARS = (
    Bar("kill", "raw", 1.5),
    Bar("kill", "kazoo", 1 / 4),
    Bar("kill", "java", 1 / 4),
    Bar("stop", None, 1200.0),
    Bar("stop", "kazoo", 1 / 3),
    Bar("stop", "java", 1 / 3),
)


class FailoverPlan(NamedTuple):
    """What a run consists of."""

    contestants: tuple[str, ...]
    rounds: int


async def run(plan: FailoverPlan, say: Callable[[str], None]) -> tuple[list[Row], dict[str, Any]]:
    """Measure; the circumstances as well. Raises `MeasurementError`, and what servers raise that don't come up."""
    delays: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    known: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="everlatch-bench-") as directory:
        java = await compile_probes(Path(directory)) if "java" in plan.contestants else None
        for tls in (True, False):
            contestants = [name for name in plan.contestants if (name in BY_TLS) == tls]
            if not contestants:
                continue
            async with trio(tls=tls) as servers:
                known = _about(plan, servers)
                for number in range(plan.rounds):
                    for contestant in order(contestants, number):
                        for fault in FAULTS:
                            delay = await _measure(contestant, fault, servers, java)
                            delays[contestant, fault].append(delay)
                            say(f"round {number + 1} of {plan.rounds}: {contestant} {fault} {delay:.1f} ms")
                known["server_death_ms"] = median(servers.deaths_ms)
    return [to_row(name, fault, delays[name, fault]) for fault in FAULTS for name in plan.contestants], known


async def _measure(contestant: str, fault: str, servers: Trio, java: JavaProbes | None) -> float:
    """One fault, and how long that reader had no answer, in milliseconds."""
    async with probe(f"the reader {contestant}", _command(contestant, servers, java)) as reader:
        (session_id,) = await reader.expect("ready")
        await servers.check_is_at_victim(session_id)
        try:
            fault_at = await servers.inflict(fault)
            reader.tell("over")
            gaps = await _gaps_of(reader)
            await reader.end()
        finally:
            await servers.heal()
    longest = longest_after(gaps, fault_at)
    if longest is None:
        raise MeasurementError(f"the reader {contestant} noticed nothing of its server's end: {gaps}")
    return longest.milliseconds


async def _gaps_of(reader: Probe) -> list[Gap]:
    gaps: list[Gap] = []
    while (words := await reader.hear())[0] == "gap":
        gaps.append(Gap(int(words[1]), int(words[2])))
    if words != ["done"]:
        raise MeasurementError(f"{reader.name} said {words}")
    return gaps


def _command(contestant: str, servers: Trio, java: JavaProbes | None) -> Sequence[str]:
    where = (servers.connect_string, servers.victim)
    if contestant == "java":
        assert java is not None
        numbers = (str(READS_BEFORE), str(READS_AFTER), str(SHORTEST_NS))
        return java.command("Reader", *where, str(round(SESSION_TIMEOUT_S * 1000)), NODE, *numbers)
    how = ("--ca", servers.ca) if contestant in BY_TLS else ()
    return (sys.executable, "-m", "bench.reader", contestant, *where, str(SESSION_TIMEOUT_S), *how)


def _about(plan: FailoverPlan, servers: Trio) -> dict[str, Any]:
    return {
        **circumstances("failover"),
        "zookeeper": server_version(servers.addresses[0]),
        "clients": {"kazoo": installed("kazoo")},
        "servers": 3,
        "session_timeout_s": SESSION_TIMEOUT_S,
        "tick_s": TICK_S,
        "rounds": plan.rounds,
    }
