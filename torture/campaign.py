"""Many worlds, one after the other, on several processes, until the time is over or something is found.

Rules of this file: a world is made from its seed alone; so what is found is told with the seed, and found again with
it.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, NamedTuple

from torture.planted import BUGS
from torture.simulated import run
from torture.worlds import setting_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from torture.history import History
    from torture.violations import Violation

__all__ = ["Finding", "Job", "Totals", "torture"]

_HOUR: Final = 3600.0


class Job(NamedTuple):
    """What a process is to do."""

    seed: int
    mood: str
    seconds: float
    """Virtual ones, in which there are faults."""
    planted: str = ""
    """A bug to put into the client first."""

    @property
    def command(self) -> str:
        """What does the same again."""
        words = ["scripts/torture", "--worlds", "1", "--seed", str(self.seed), "--length", f"{self.seconds:g}"]
        words += ["--mood", self.mood] if self.mood else []
        words += ["--planted", self.planted] if self.planted else []
        return " ".join(words)


class Finding(NamedTuple):
    """A world in which promises were broken."""

    job: Job
    violations: list[Violation]
    report: str
    """Of the simulation: its faults, and the end of its log."""


class _Done(NamedTuple):
    """A world, as far as the parent has to know."""

    operations: int
    faults: int
    virtual_seconds: float
    seen: Counter[str]
    finding: Finding | None


class Totals:
    """All worlds so far."""

    def __init__(self) -> None:
        self.worlds = self.operations = self.faults = 0
        self.virtual_seconds = 0.0
        self.seen: Counter[str] = Counter()
        """What happened, how often: kinds of calls and how they ended, faults, states, events."""
        self.findings: list[Finding] = []

    def add(self, done: _Done) -> None:
        """One more."""
        self.worlds += 1
        self.operations += done.operations
        self.faults += done.faults
        self.virtual_seconds += done.virtual_seconds
        self.seen += done.seen
        if done.finding is not None:
            self.findings.append(done.finding)

    def __str__(self) -> str:
        hours = self.virtual_seconds / _HOUR
        found = sum(len(finding.violations) for finding in self.findings)
        return f"{self.operations} operations, {self.faults} faults, {hours:.1f} virtual hours, {found} violations"


def _do(job: Job) -> _Done:
    with BUGS[job.planted].planted() if job.planted else nullcontext():
        outcome = run(setting_of(job.seed, mood=job.mood, seconds=job.seconds), job.command)
    history = outcome.history
    finding = Finding(job, outcome.violations, outcome.report) if outcome.violations else None
    return _Done(history.operations, len(history.faults), outcome.virtual_seconds, _seen(history), finding)


def _seen(history: History) -> Counter[str]:
    seen: Counter[str] = Counter()
    for calls in history.calls.values():
        for call in calls:
            seen[f"{call.kind}: {call.error or call.ending.value}"] += 1
            if call.watch is not None:
                seen[f"watch: {call.watch.fired[0].type if call.watch.fired else 'never fired'}"] += 1
            if call.token:
                seen[f"fenced write: {call.error or call.ending.value}"] += 1
    for state in history.states:
        seen[f"state: {state.state}"] += 1
    for fault in history.faults:
        seen[f"fault: {fault.kind}"] += 1
    for subscription in history.subscriptions:
        for event in subscription.fired:
            seen[f"subscription: {event.type}"] += 1
    seen["beliefs to lead"] += len(history.beliefs)
    return seen


def torture(
    seed: int,
    *,
    seconds: float,
    worlds: int | None,
    processes: int,
    mood: str = "",
    length: float,
    planted: str = "",
    tell: Callable[[Totals], None] = lambda totals: None,
) -> Totals:
    """Runs worlds from `seed` on: so many, or until so many real seconds are over, or until something is found. `tell`
    hears after each."""
    totals = Totals()
    end = time.monotonic() + seconds
    jobs = (Job(each, mood, length, planted) for each in range(seed, seed + (worlds or 1 << 62)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running: set[Future[_Done]] = set()
        while True:
            while len(running) < processes and not totals.findings and (worlds or time.monotonic() < end):
                job = next(jobs, None)
                if job is None:
                    break
                running.add(pool.submit(_do, job))
            if not running:
                return totals
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                totals.add(each.result())
            tell(totals)
