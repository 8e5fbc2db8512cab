"""The command line: `python -m conformance`."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.campaign import hunt
from conformance.servers import VERSIONS, pair
from everlatch.errors import EverlatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance.campaign import Outcome

__all__ = ["main"]

_OPERATIONS = 10_000
_REPORT = Path("reports") / "conformance.json"


def _versions(text: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in chosen:
        if name not in VERSIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(VERSIONS)}")
    return chosen


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is not a number of operations")
    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/conformance",
        description="Sends random sequences of requests to the dev server and to real ones, and compares what they say."
        " The exit code is 1 if something differs for no known reason; with each difference comes a script.",
    )
    parser.add_argument(
        "--operations", type=_count, default=_OPERATIONS, metavar="N", help=f"at least so many each; {_OPERATIONS}"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="default: a random one, which is told")
    parser.add_argument("--versions", type=_versions, default=VERSIONS, help=f"some of {','.join(VERSIONS)}")
    parser.add_argument("--json", type=Path, default=_REPORT, metavar="FILE", help=f"the report; {_REPORT}")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def _hunt(version: str, seed: int, operations: int) -> Outcome:
    async with pair(version) as servers:
        return await hunt(servers, seed, operations, _say)


def _summary(outcomes: Sequence[Outcome]) -> str:
    done = ", ".join(
        f"{outcome.operations}{'' if index else ' operations'} against {outcome.release}"
        for index, outcome in enumerate(outcomes)
    )
    count = sum(len(outcome.findings) for outcome in outcomes)
    return f"conformance: {done}, {count} unexplained difference{'' if count == 1 else 's'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaigns, one version after the other. The exit code is 1 if something was found, 2 if it could not
    run."""
    chosen = _parser().parse_args(arguments)
    seed = secrets.randbelow(2**32) if chosen.seed is None else chosen.seed
    _say(f"conformance: seed {seed}")
    try:
        outcomes = [asyncio.run(_hunt(version, seed, chosen.operations)) for version in chosen.versions]
    except (EverlatchError, ConnectionError, TimeoutError) as error:
        _say(f"error: {error}")
        return 2
    report = {"seed": seed, "versions": {outcome.version: outcome.to_json() for outcome in outcomes}}
    chosen.json.parent.mkdir(exist_ok=True)
    chosen.json.write_text(json.dumps(report, indent=2) + "\n")
    for outcome in outcomes:
        for finding in outcome.findings:
            print(finding.render())
    print(_summary(outcomes), flush=True)
    return 1 if any(outcome.findings for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
