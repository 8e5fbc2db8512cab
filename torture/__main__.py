"""The command line: `scripts/torture`."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torture.campaign import torture
from torture.planted import BUGS
from torture.real_campaign import torture_real
from torture.worlds import MOODS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torture.totals import Totals

__all__ = ["main"]

_REPORTS: Final = Path("reports")
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
    parser.add_argument("--real", action="store_true", help="three real servers, in real time")
    parser.add_argument("--version", choices=["3.8", "3.9"], default="3.9", help="of the real servers")
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
            print(f"torture: {now - self._began:.0f} s, {totals.runs} runs, {totals}", file=sys.stderr, flush=True)


def _run(chosen: argparse.Namespace, seed: int, progress: _Progress) -> Totals:
    if chosen.real:
        return asyncio.run(torture_real(seed, seconds=chosen.seconds, version=chosen.version, tell=progress.tell))
    return torture(
        seed,
        seconds=chosen.seconds,
        worlds=chosen.worlds,
        processes=chosen.processes,
        mood=chosen.mood,
        length=chosen.length,
        planted=chosen.planted,
        tell=progress.tell,
    )


def _report(chosen: argparse.Namespace, seed: int, totals: Totals, seconds: float) -> None:
    path = chosen.json
    if path is None:
        if chosen.planted:
            return
        path = _REPORTS / ("torture-real.json" if chosen.real else "torture.json")
        path.parent.mkdir(exist_ok=True)
    speed = {"seed": seed, "seconds": round(seconds, 1), "operations_per_second": round(totals.operations / seconds)}
    kind = {"version": chosen.version} if chosen.real else {"processes": chosen.processes}
    path.write_text(json.dumps(kind | speed | totals.to_json(), indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it. The exit code is 1 if something was found."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.real and (chosen.worlds or chosen.mood or chosen.planted):
        parser.error("--worlds, --mood and --planted are for simulated runs")
    seed = secrets.randbelow(10**6) if chosen.seed is None else chosen.seed
    print(f"torture: seed {seed}", file=sys.stderr, flush=True)
    progress = _Progress()
    totals = _run(chosen, seed, progress)
    _report(chosen, seed, totals, progress.seconds)
    for finding in totals.findings:
        print(finding)
    for note in totals.notes:
        print(f"torture: {note}")
    print(f"torture: {totals}", flush=True)
    if not totals.findings:
        return 0
    first = totals.findings[0]
    print(f"torture: {first.violations[0]} (seed {first.seed}; again: {first.command})", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
