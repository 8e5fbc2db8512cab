"""What many runs came to together, and what was found."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from torture.rules.registers import counted

if TYPE_CHECKING:
    from torture.history import History
    from torture.violations import Violation

__all__ = ["Done", "Finding", "Totals", "seen_in", "words_for"]

_HOUR: Final = 3600.0
_MOST_TOLD: Final = 20


class Finding(NamedTuple):
    """A run in which promises were broken."""

    seed: int
    command: str
    """What does the same again, as far as that is possible."""
    violations: list[Violation]
    report: str
    """The faults, and what else helps."""

    def __str__(self) -> str:
        told = [f"  {violation}" for violation in self.violations[:_MOST_TOLD]]
        left = len(self.violations) - _MOST_TOLD
        return "\n".join([self.report, *told, *([f"  and {left} more"] if left > 0 else [])])


class Done(NamedTuple):
    """A run, as far as the parent has to know. It crosses processes."""

    operations: int
    faults: int
    seconds: float
    """Of its own time."""
    seen: Counter[str]
    finding: Finding | None
    notes: tuple[str, ...] = ()
    """What is no broken promise of a client's, and has to be known."""


class Totals:
    """All runs so far; `time` says whose hours are counted."""

    def __init__(self, time: str = "virtual") -> None:
        self.time = time
        self.runs = self.operations = self.faults = 0
        self.seconds = 0.0
        self.seen: Counter[str] = Counter()
        """What happened, how often: kinds of calls and how they ended, faults, states, events."""
        self.findings: list[Finding] = []
        self.notes: list[str] = []

    def add(self, done: Done) -> None:
        """One more."""
        self.runs += 1
        self.operations += done.operations
        self.faults += done.faults
        self.seconds += done.seconds
        self.seen += done.seen
        self.notes += done.notes
        if done.finding is not None:
            self.findings.append(done.finding)

    def __str__(self) -> str:
        hours = f"{self.seconds / _HOUR:.1f}" if self.time == "virtual" else f"{self.seconds / _HOUR:.3f}"
        found = sum(len(finding.violations) for finding in self.findings)
        return f"{self.operations} operations, {self.faults} faults, {hours} {self.time} hours, {found} violations"

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "runs": self.runs,
            "operations": self.operations,
            "faults": self.faults,
            f"{self.time}_hours": round(self.seconds / _HOUR, 3),
            "seen": dict(sorted(self.seen.items())),
            "notes": self.notes,
            "violations": [
                {"rule": violation.rule, "text": violation.text, "seed": finding.seed, "again": finding.command}
                for finding in self.findings
                for violation in finding.violations[:_MOST_TOLD]
            ],
        }


def words_for(work: str, writes: str) -> list[str]:
    """What the command line of another workload than the usual one has in it."""
    if work == "everything":
        return []
    return ["--linearizable", *(["--writes", writes] if writes != "plain" else [])]


def seen_in(history: History) -> Counter[str]:
    """What happened in a run, how often."""
    seen: Counter[str] = Counter()
    for calls in history.calls.values():
        for call in calls:
            seen[f"{call.kind}: {call.error or call.ending.value}"] += 1
            if call.watch is not None:
                seen[f"watch: {call.watch.fired[0].type if call.watch.fired else 'never fired'}"] += 1
            if call.token:
                seen[f"fenced write: {call.error or call.ending.value}"] += 1
    seen.update(f"state: {state.state}" for state in history.states)
    seen.update(f"fault: {fault.kind}" for fault in history.faults)
    seen.update(f"subscription: {event.type}" for each in history.subscriptions for event in each.fired)
    seen["beliefs to lead"] += len(history.beliefs)
    seen += counted(history)
    return seen
