"""The command line of the fuzzer: `python -m fuzz`, `python -m fuzz --replay …`, `python -m fuzz record`."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz import campaign
from fuzz.record import record_all
from fuzz.recordings import DIRECTORY, load
from fuzz.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuzz.findings import Findings

__all__ = ["main"]

_SECONDS = 60.0
_MEMORY = 1 << 30
"""Bytes of address space, at most: an allocation that only a number asked for fails, and is found."""


def _levels(text: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in chosen:
        if name not in campaign.LEVELS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(campaign.LEVELS)}")
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Mutates the streams of real servers, for every decoder, the session and the whole client. "
        "The exit code is 1 if something was found; each finding comes with the command that shows it again.",
    )
    parser.add_argument(
        "what", nargs="?", choices=["run", "record"], default="run", help="record: make the corpus anew"
    )
    parser.add_argument("--seconds", type=float, metavar="N", help=f"for at least so long; default {_SECONDS:g}")
    parser.add_argument("--inputs", type=int, metavar="N", help="at least so many, however long it takes")
    parser.add_argument("--seed", type=int, metavar="S", help="default: a random one, which is told")
    parser.add_argument("--levels", type=_levels, default=campaign.LEVELS, help=f"some of {','.join(campaign.LEVELS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a report to this file, too")
    parser.add_argument("--replay", metavar="INPUT", help="one input again, as a finding names it")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _run(chosen: argparse.Namespace, watchdog: Watchdog) -> Findings:
    seed = secrets.randbelow(2**32) if chosen.seed is None else chosen.seed
    seconds = chosen.seconds if chosen.seconds is not None else _SECONDS if chosen.inputs is None else 0.0
    _say(f"fuzz: seed {seed}")
    outcome = campaign.run(
        load(), watchdog, seed, seconds=seconds, inputs=chosen.inputs or 0, levels=chosen.levels, tell=_say
    )
    if chosen.json:
        chosen.json.write_text(json.dumps(outcome.to_json(), indent=2) + "\n")
    for finding in outcome.findings:
        print(finding.render())
    print(outcome.render(), flush=True)
    return outcome.findings


def _replay(which: str, watchdog: Watchdog) -> Findings:
    findings = campaign.replay(load(), watchdog, which)
    for finding in findings:
        print(finding.render())
    if not findings:
        print("nothing found")
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the fuzzer, one input, or the recorder. The exit code is 1 if something was found, 2 if it could not run."""
    chosen = _parser().parse_args(arguments)
    if chosen.what == "record":
        asyncio.run(record_all())
        print(f"written to {DIRECTORY.name}/")
        return 0
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    watchdog = Watchdog()
    try:
        with watchdog.last_resort():
            found = _replay(chosen.replay, watchdog) if chosen.replay else _run(chosen, watchdog)
    except (ValueError, FileNotFoundError) as error:
        _say(f"error: {error}")
        return 2
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
