"""`scripts/sim`: scenarios over many seeds. Stops at the first failure, and says how to repeat it."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlatch.testing.simulation.campaign import played
from everlatch.testing.simulation.scenarios import PROMISES, SCENARIOS

if TYPE_CHECKING:
    from everlatch.testing.simulation.campaign import Done

__all__ = ["main"]

_HOUR = 3600.0


class _Totals:
    """What all runs were together."""

    def __init__(self) -> None:
        self.seeds: set[int] = set()
        self.runs: dict[str, int] = {}
        """Of each scenario."""
        self.counts: dict[str, Counter[str]] = {}
        """What each scenario has counted."""
        self.faults = self.failures = 0
        self.seconds = 0.0

    def add(self, done: Done) -> None:
        """One more."""
        self.seeds.add(done.seed)
        self.runs[done.name] = self.runs.get(done.name, 0) + 1
        if done.counts:
            self.counts.setdefault(done.name, Counter()).update(done.counts)
        self.faults += done.faults
        self.seconds += done.seconds
        self.failures += bool(done.failure)

    def __str__(self) -> str:
        hours = self.seconds / _HOUR
        seeds = len(self.seeds)
        return f"sim: {seeds} seeds, {self.faults} faults, {hours:.1f} virtual hours, {self.failures} failures"

    def to_json(self) -> dict[str, Any]:
        """For a report."""
        hours = round(self.seconds / _HOUR, 2)
        counts = {name: dict(sorted(counter.items())) for name, counter in self.counts.items()}
        totals = {"runs": self.runs, "faults": self.faults, "virtual_hours": hours, "failures": self.failures}
        return totals | ({"counts": counts} if counts else {})


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="the first one (default 1)")
    parser.add_argument("--minutes", type=float, help="begin no further seed after so many real minutes")
    parser.add_argument("--name", choices=[*SCENARIOS], action="append", help="a scenario (default: all)")
    parser.add_argument("--promises", action="store_true", help="those that are named after promises")
    parser.add_argument("--sasl", action="store_true", help="servers demand SASL (else: a quarter of them)")
    parser.add_argument("--processes", type=int, default=1, help="how many at a time (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="what was run, and what came of it")
    parser.add_argument("--log", action="store_true", help="print the log of every run")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 if nothing failed."""
    arguments = _arguments(argv)
    names = arguments.name or [*(PROMISES.values() if arguments.promises else SCENARIOS)]
    end = time.monotonic() + (arguments.minutes * 60 if arguments.minutes is not None else float("inf"))
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    jobs = ((name, seed) for seed in itertools.takewhile(lambda _: time.monotonic() < end, seeds) for name in names)
    totals = _Totals()
    for done in played(jobs, arguments.processes, with_log=arguments.log, sasl=arguments.sasl):
        totals.add(done)
        sys.stdout.write(done.log + done.failure)
        if done.failure:
            break
    sys.stdout.write(f"{totals}\n")
    if arguments.json is not None:
        report = {"first_seed": arguments.seed, "seeds": len(totals.seeds), "sasl": arguments.sasl} | totals.to_json()
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if totals.failures else 0


if __name__ == "__main__":
    sys.exit(main())
