"""The command line: `scripts/torture`."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torture.campaign import torture
from torture.leases import simulated
from torture.planted import BUGS
from torture.real_campaign import torture_real
from torture.real_leadership import elect
from torture.real_leases import on_real_servers
from torture.rules.registers import UNKNOWN
from torture.workload import OPTIONS, Plan
from torture.worlds import MOODS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torture.totals import Totals
    from torture.workload import Work

__all__ = ["main"]

_REPORTS: Final = Path("reports")
_ENOUGH_TRIALS: Final = 50
"""Among so many the naive lease has to have been caught."""
_LENGTH: Final = 120.0
_SHORT_LENGTH: Final = 20.0
_EVERY: Final = 10.0
"""Seconds between two lines that tell how it is going."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/torture",
        description="Many clients under all faults, and a judge. Simulated, unless --real. "
        "The exit code is 1 if a promise was broken: the first violation is named, with what replays it.",
    )
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="real ones; default %(default)g")
    parser.add_argument(
        *("--worlds", "--seeds"), type=int, metavar="N", help="so many worlds instead, however long they take"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="of the first world; default: one that is told")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="default %(default)d")
    parser.add_argument("--mood", choices=sorted(MOODS), default="", help="which faults; default: the seed says")
    parser.add_argument(
        "--length",
        type=float,
        metavar="N",
        help=f"virtual seconds of faults in a world; default {_LENGTH:g}, with --linearizable {_SHORT_LENGTH:g}",
    )
    parser.add_argument("--real", action="store_true", help="real servers, in real time")
    parser.add_argument(
        "--linearizable",
        action="store_true",
        help="clients compete for a few nodes, which have to be linearizable",
    )
    parser.add_argument(
        "--writes", choices=sorted(OPTIONS), default="plain", help="how these clients write; default %(default)s"
    )
    parser.add_argument("--election", action="store_true", help="twelve candidates, cruelly; simulated: scripts/sim")
    parser.add_argument("--leases", type=int, metavar="N", help="so many trials of the lease")
    parser.add_argument("--version", choices=["3.8", "3.9"], default="3.9", help="of the real servers")
    parser.add_argument("--tls", action="store_true", help="real servers that clients reach by TLS")
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

    def tell(self, so_far: object) -> None:
        """Maybe."""
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            print(f"torture: {now - self._began:.0f} s, {so_far}", file=sys.stderr, flush=True)


def _run(chosen: argparse.Namespace, seed: int, progress: _Progress) -> Totals:
    work: Work = "registers" if chosen.linearizable else "everything"
    if chosen.real:
        plan = Plan(work=work, writes=chosen.writes)
        seconds, version = chosen.seconds, chosen.version
        return asyncio.run(
            torture_real(seed, seconds=seconds, version=version, plan=plan, tls=chosen.tls, tell=progress.tell)
        )
    length: float = _SHORT_LENGTH if chosen.linearizable else _LENGTH
    return torture(
        seed,
        seconds=chosen.seconds,
        worlds=chosen.worlds,
        processes=chosen.processes,
        mood=chosen.mood,
        length=length if chosen.length is None else chosen.length,
        planted=chosen.planted,
        work=work,
        writes=chosen.writes,
        tell=progress.tell,
    )


def _report(chosen: argparse.Namespace, seed: int, totals: Totals, seconds: float) -> None:
    if chosen.planted and chosen.json is None:
        return
    speed = {"seed": seed, "seconds": round(seconds, 1), "operations_per_second": round(totals.operations / seconds)}
    kind = {"version": chosen.version} if chosen.real else {"processes": chosen.processes}
    if not chosen.linearizable:
        _write(chosen, "torture", kind | speed | totals.to_json())
        return
    asked = {"commit": _commit(), "writes": chosen.writes, "unknown": totals.seen[UNKNOWN]}
    name = "linearizable" + ("" if chosen.writes == "plain" else "-" + chosen.writes.replace("_", "-"))
    _write(chosen, name, asked | kind | speed | totals.to_json())


def _commit() -> str:
    """What is checked out, with a word if something of it has been changed."""
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _write(chosen: argparse.Namespace, name: str, report: dict[str, Any]) -> None:
    path = chosen.json
    if path is None:
        path = _REPORTS / f"{name}{'-real' if chosen.real else ''}.json"
        path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


def _try_leases(chosen: argparse.Namespace, seed: int, progress: _Progress) -> int:
    if chosen.real:
        tally = asyncio.run(on_real_servers(seed, chosen.leases, chosen.version, progress.tell))
    else:
        tally = simulated(seed, chosen.leases, chosen.processes, progress.tell)
    _write(chosen, "leases", {"seed": seed, "seconds": round(progress.seconds, 1)} | tally.to_json())
    for trial in tally.violations:
        print(f"torture: {trial}{'' if chosen.real else f'; again: scripts/torture --leases 1 --seed {trial.name}'}")
    print(f"torture: {tally}", flush=True)
    if len(tally.counted) >= _ENOUGH_TRIALS and not tally.caught:
        print("torture: the naive lease was not caught, so these trials show nothing", flush=True)
        return 1
    return 1 if tally.violations else 0


def _elect(chosen: argparse.Namespace, seed: int, progress: _Progress) -> int:
    verdict = asyncio.run(elect(seed, seconds=chosen.seconds, version=chosen.version, tell=progress.tell))
    _write(chosen, "election", {"version": chosen.version, "seed": seed} | verdict.to_json())
    if verdict.violations:
        print("faults, by seconds since the beginning:", *verdict.faults, sep="\n  ")
    for violation in verdict.violations:
        print(f"torture: {violation}")
    print(f"torture: {verdict}", flush=True)
    return 1 if verdict.violations else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it. The exit code is 1 if something was found."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.real and (chosen.worlds or chosen.mood or chosen.planted):
        parser.error("--worlds, --mood and --planted are for simulated runs")
    if chosen.tls and (not chosen.real or chosen.election or chosen.leases):
        parser.error("--tls is for --real, without --election and --leases")
    if chosen.election and not chosen.real:
        parser.error("--election is for --real; simulated: scripts/sim --name leadership")
    seed = secrets.randbelow(10**6) if chosen.seed is None else chosen.seed
    print(f"torture: seed {seed}", file=sys.stderr, flush=True)
    progress = _Progress()
    if chosen.leases:
        return _try_leases(chosen, seed, progress)
    if chosen.election:
        return _elect(chosen, seed, progress)
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
