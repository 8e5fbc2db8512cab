"""The command line: `scripts/torture`."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torture.campaign import Totals, torture
from torture.planted import BUGS
from torture.worlds import MOODS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_REPORTS: Final = Path("reports")
_MOST_TOLD: Final = 20
_EVERY: Final = 10.0
"""Seconds between two lines that tell how it is going."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/torture",
        description="Many clients under all faults, and a judge. Simulated, unless --real. "
        "The exit code is 1 if a promise was broken: the first violation is named, with what replays it.",
    )
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="real ones; default %(default)g")
    parser.add_argument("--worlds", type=int, metavar="N", help="so many worlds instead, however long they take")
    parser.add_argument("--seed", type=int, metavar="S", help="of the first world; default: one that is told")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="default %(default)d")
    parser.add_argument("--mood", choices=sorted(MOODS), default="", help="which faults; default: the seed says")
    parser.add_argument("--length", type=float, default=120.0, metavar="N", help="virtual seconds of faults in a world")
    parser.add_argument("--planted", choices=sorted(BUGS), default="", help="put this bug into the client first")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="the report; default: in reports/, if none is planted"
    )
    return parser


class _Progress:
    """A line now and then, on stderr."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def tell(self, totals: Totals) -> None:
        """Maybe."""
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            print(f"torture: {now - self._began:.0f} s, {totals.worlds} worlds, {totals}", file=sys.stderr, flush=True)


def _report(chosen: argparse.Namespace, seed: int, totals: Totals, seconds: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "worlds": totals.worlds,
        "operations": totals.operations,
        "faults": totals.faults,
        "virtual_hours": round(totals.virtual_seconds / 3600, 2),
        "real_seconds": round(seconds, 1),
        "processes": chosen.processes,
        "operations_per_second": round(totals.operations / seconds),
        "seen": dict(sorted(totals.seen.items())),
        "violations": [
            {"rule": violation.rule, "text": violation.text, "seed": finding.job.seed, "replay": finding.job.command}
            for finding in totals.findings
            for violation in finding.violations[:_MOST_TOLD]
        ],
    }


def _tell_findings(totals: Totals) -> None:
    for finding in totals.findings:
        print(finding.report)
        for violation in finding.violations[:_MOST_TOLD]:
            print(f"  {violation}")
        left = len(finding.violations) - _MOST_TOLD
        if left > 0:
            print(f"  and {left} more")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it. The exit code is 1 if something was found."""
    chosen = _parser().parse_args(arguments)
    seed = secrets.randbelow(10**6) if chosen.seed is None else chosen.seed
    print(f"torture: seed {seed}", file=sys.stderr, flush=True)
    progress = _Progress()
    totals = torture(
        seed,
        seconds=chosen.seconds,
        worlds=chosen.worlds,
        processes=chosen.processes,
        mood=chosen.mood,
        length=chosen.length,
        planted=chosen.planted,
        tell=progress.tell,
    )
    path = chosen.json or (None if chosen.planted else _REPORTS / "torture.json")
    if path is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(_report(chosen, seed, totals, progress.seconds), indent=2) + "\n")
    _tell_findings(totals)
    print(f"torture: {totals}", flush=not totals.findings)
    if not totals.findings:
        return 0
    first = totals.findings[0]
    print(f"torture: {first.violations[0]} (seed {first.job.seed}; again: {first.job.command})", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
