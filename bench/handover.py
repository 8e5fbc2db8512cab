"""How long until the next of six members leads, side by side with other clients.

How it is measured:
- Three servers of ZooKeeper 3.9, `bench.trio`; each member is a process of its own with one session of 6 s. Of every
  contestant member number i uses server number i mod 3, so that all have the same ways to go.
- `resign`: from just before the leader begins to give up leadership, as one should with that client, until the next
  member is told that it leads. It joins again behind the others. Each member has led once before the first round.
  Rounds begin a session timeout apart at least: where leaders stay, as usual, a member has not led for long when its
  turn comes, and whatever it held while it led is gone; and it has had time to notice that it has become next, if it
  cares.
- `crash`: from just before the leader's process is killed with SIGKILL until the next member is told that it leads.
  That takes as long as the servers keep the session of the dead one: the session timeout, less the time since they
  heard of it last, rounded up to their ticks. Another process takes its place behind the others.
- `crash-guardian`: the same with members that have a guardian (`Client(guardian=True)`), which ends the session of the
  dead one. No other client has such a thing.
- Both ends of a delay are read from CLOCK_MONOTONIC, which all processes of a machine share.
- Before each measurement all six members are there, and each watches the one before, as the servers tell.
- Contestants take turns; each round begins with another one; first all rounds of `resign`, then those of `crash`,
  then those of `crash-guardian`.
  Results are medians over the rounds.
- everlatch: `LeaderLatch`. kazoo: `Election`. curator: `LeaderLatch`. `raw`: a socket that deletes its node, and on the
  other side one that has a watch on it and then lists the members once more, with nothing that makes it safe; what it
  takes is what the servers take. Every client has its default settings.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.circumstances import circumstances, installed
from bench.delays import JUDGED, Bar, to_row
from bench.java_probes import compile_probes, curator_version
from bench.members import GUARDED
from bench.members import MEMBERS as PYTHON_MEMBERS
from bench.ring import MEMBERS, Ring
from bench.server import server_version
from bench.throughput import order
from bench.trio import SESSION_TIMEOUT_S, TICK_S, trio
from bench.workload import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.delays import Row
    from bench.java_probes import JavaProbes
    from bench.trio import Trio

__all__ = ["BARS", "CASE", "CONSTANT", "CONTESTANTS", "HOW", "HandoverPlan", "run"]

CONTESTANTS = (*PYTHON_MEMBERS, "curator")
GUARDIAN = "crash-guardian"
HOW = ("resign", "crash", GUARDIAN)
CASE = "how"
"""What the results call a case."""
CONSTANT = {"members": MEMBERS}
"""What each result has besides."""
_ROUND_S = SESSION_TIMEOUT_S
BARS = (Bar("resign", None, 3.0), Bar("resign", "kazoo", 1.0), Bar("resign", "curator", 1.0), Bar(GUARDIAN, None, 30.0))


class HandoverPlan(NamedTuple):
    """What a run consists of."""

    contestants: tuple[str, ...]
    how: tuple[str, ...]
    rounds: int

    @property
    def guarded(self) -> tuple[str, ...]:
        """Who takes part in `crash-guardian`."""
        return (GUARDED,) if GUARDIAN in self.how and JUDGED in self.contestants else ()

    def of(self, how: str) -> tuple[str, ...]:
        """Who takes part in a case."""
        return self.guarded if how == GUARDIAN else self.contestants


async def run(plan: HandoverPlan, say: Callable[[str], None]) -> tuple[list[Row], dict[str, Any]]:
    """Measure; the circumstances as well. Raises `MeasurementError`, and what servers raise that don't come up."""
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="everlatch-bench-"))
        java = await compile_probes(Path(directory)) if "curator" in plan.contestants else None
        servers = await stack.enter_async_context(trio())
        rings = {}
        for name in (*plan.contestants, *plan.guarded):
            ring = Ring(name, servers.addresses, f"{ROOT}/election-{name}", partial(_command, name, java))
            rings[name] = await stack.enter_async_context(ring)
            say(f"{name}: {MEMBERS} members are there")
        return await _measure(plan, rings, say), _about(plan, servers)


async def _measure(plan: HandoverPlan, rings: Mapping[str, Ring], say: Callable[[str], None]) -> list[Row]:
    for _ in range(MEMBERS):
        pause = asyncio.create_task(asyncio.sleep(_ROUND_S))
        for ring in rings.values():
            await ring.resign()
        await pause
    delays: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for how in filter(plan.of, plan.how):
        for number in range(plan.rounds):
            pause = asyncio.create_task(asyncio.sleep(_ROUND_S))
            for name in order(plan.of(how), number):
                delay = await (rings[name].resign() if how == "resign" else rings[name].crash())
                delays[name, how].append(delay)
                say(f"round {number + 1} of {plan.rounds}: {name} {how} {delay:.2f} ms")
            await pause
    return [to_row(_called(name), how, delays[name, how]) for how in plan.how for name in plan.of(how)]


def _called(name: str) -> str:
    """In the results."""
    return JUDGED if name == GUARDED else name


def _command(contestant: str, java: JavaProbes | None, address: str, path: str, name: str) -> Sequence[str]:
    if contestant == "curator":
        assert java is not None
        return java.command("Member", address, path, name, str(round(SESSION_TIMEOUT_S * 1000)))
    return (sys.executable, "-m", "bench.member", contestant, address, path, name, str(SESSION_TIMEOUT_S))


def _about(plan: HandoverPlan, servers: Trio) -> dict[str, Any]:
    return {
        **circumstances("handover"),
        "zookeeper": server_version(servers.victim),
        "clients": {"kazoo": installed("kazoo"), "curator": curator_version()},
        "servers": 3,
        "session_timeout_s": SESSION_TIMEOUT_S,
        "tick_s": TICK_S,
        "rounds": plan.rounds,
    }
