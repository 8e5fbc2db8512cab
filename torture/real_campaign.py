"""Rounds on real servers, until the time is over or something is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torture.real import rounds
from torture.totals import Done, Finding, Totals, seen_in, words_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from torture.real import Round
    from torture.workload import Plan

__all__ = ["torture_real"]


async def torture_real(
    seed: int,
    *,
    seconds: float,
    version: str,
    plan: Plan,
    tls: bool = False,
    tell: Callable[[Totals], None] = lambda totals: None,
) -> Totals:
    """For about so many seconds, or until something is found; `tell` hears after each round."""
    totals = Totals("real")
    words = ["scripts/torture", "--real", "--version", version, "--seconds", f"{seconds:g}", "--seed", str(seed)]
    words += ["--tls"] if tls else []
    command = " ".join(words + words_for(plan.work, plan.writes))
    async for each in rounds(seed, seconds=seconds, version=version, tell=totals.notes.append, plan=plan, tls=tls):
        totals.add(_done(each, seed, command))
        tell(totals)
        if totals.findings:
            break
    return totals


def _done(this: Round, seed: int, command: str) -> Done:
    history = this.history
    finding = None
    if this.violations:
        faults = "\n".join(f"  {line}" for line in this.faults)
        report = f"{this.version}, faults by seconds since the beginning:\n{faults}\nall that is known: {this.kept}"
        finding = Finding(seed, command, this.violations, report)
    seen = seen_in(history)
    return Done(history.operations, len(history.faults), this.seconds, seen, finding, tuple(this.notes))
