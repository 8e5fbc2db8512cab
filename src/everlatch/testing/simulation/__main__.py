"""`scripts/sim`: scenarios over many seeds. Stops at the first failure, and says how to repeat it."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback

from everlatch.testing.simulation.scenarios import SCENARIOS
from everlatch.testing.simulation.world import simulation

__all__ = ["main"]

_HOUR = 3600.0


class _Totals:
    """What all runs were together."""

    def __init__(self) -> None:
        self.seeds = self.faults = self.failures = 0
        self.seconds = 0.0

    def __str__(self) -> str:
        hours = self.seconds / _HOUR
        return f"sim: {self.seeds} seeds, {self.faults} faults, {hours:.1f} virtual hours, {self.failures} failures"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="the first one (default 1)")
    parser.add_argument("--minutes", type=float, help="begin no further seed after so many real minutes")
    parser.add_argument("--name", choices=[*SCENARIOS], help="one scenario (default: all, for every seed)")
    parser.add_argument("--log", action="store_true", help="print the log of every run")
    return parser.parse_args(argv)


def _run(name: str, seed: int, totals: _Totals, *, with_log: bool) -> bool:
    """Whether it went well."""
    try:
        with simulation(seed, replay=f"scripts/sim --seeds 1 --seed {seed} --name {name}") as world:
            try:
                SCENARIOS[name](world)
            finally:
                totals.faults += world.faults.count
                totals.seconds += world.now
                if with_log:
                    sys.stdout.writelines(f"{entry}\n" for entry in world.log)
                    sys.stdout.write(f"digest {world.digest()}\n")
    except Exception:
        totals.failures += 1
        sys.stdout.write(f"{traceback.format_exc()}\nsim: seed {seed} failed in {name}\n")
        return False
    return True


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 if nothing failed."""
    arguments = _arguments(argv)
    logging.disable(logging.CRITICAL)  # what clients log about faults is no news here
    names = [arguments.name] if arguments.name else [*SCENARIOS]
    totals = _Totals()
    end = time.monotonic() + (arguments.minutes * 60 if arguments.minutes is not None else float("inf"))
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        if time.monotonic() >= end:
            break
        totals.seeds += 1
        if not all(_run(name, seed, totals, with_log=arguments.log) for name in names):
            break
    sys.stdout.write(f"{totals}\n")
    return 1 if totals.failures else 0


if __name__ == "__main__":
    sys.exit(main())
