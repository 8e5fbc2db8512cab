"""Scenarios over many seeds, here or on several processes.

Rules: what is found is told with the command that repeats it, and repeats it whoever ran it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import traceback
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple

from everlatch.testing.simulation.scenarios import SCENARIOS
from everlatch.testing.simulation.world import simulation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

__all__ = ["Done", "play", "played", "quiet"]


class Done(NamedTuple):
    """One seed of one scenario. It crosses processes."""

    name: str
    seed: int
    faults: int
    seconds: float
    """Virtual ones."""
    counts: dict[str, int] = {}  # noqa: RUF012 - a tuple's default, never changed
    """What the scenario has counted."""
    failure: str = ""
    """What went wrong, and how to repeat it."""
    log: str = ""


def play(name: str, seed: int, *, with_log: bool = False, sasl: bool = False) -> Done:
    """One seed of one scenario; `sasl`: with servers that demand it, whatever the seed says."""
    failure, log, world = "", "", None
    with quiet():
        try:
            replay = f"scripts/sim --seeds 1 --seed {seed} --name {name}{' --sasl' if sasl else ''}"
            with simulation(seed, replay=replay, sasl=sasl) as world:
                SCENARIOS[name](world)
        except Exception:
            failure = f"{traceback.format_exc()}\nsim: seed {seed} failed in {name}\n"
    assert world is not None
    if with_log:
        log = "".join(f"{entry}\n" for entry in world.log) + f"digest {world.digest()}\n"
    return Done(name, seed, world.faults.count, world.now, dict(world.counts), failure, log)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What clients log about faults is no news here."""
    logger = logging.getLogger("everlatch")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def played(
    jobs: Iterator[tuple[str, int]], processes: int, *, with_log: bool = False, sasl: bool = False
) -> Iterator[Done]:
    """These scenarios with these seeds, as they end."""
    if processes == 1:
        yield from (play(name, seed, with_log=with_log, sasl=sasl) for name, seed in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running: set[Future[Done]] = set()
        try:
            while True:
                for name, seed in itertools.islice(jobs, 2 * processes - len(running)):
                    running.add(pool.submit(play, name, seed, with_log=with_log, sasl=sasl))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for each in done:
                    yield each.result()
        finally:
            pool.shutdown(cancel_futures=True)
