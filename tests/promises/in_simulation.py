"""Promises in the simulation: the scenarios of `scripts/sim`, with all faults, over many seeds.

EVERLATCH_PROMISE_SEEDS says how many; `scripts/acceptance` has 2000 of each promise. What fails here is repeated by the
command that the failure tells.
"""

from __future__ import annotations

import os

from everlatch.testing.simulation.campaign import play

SEEDS = int(os.environ.get("EVERLATCH_PROMISE_SEEDS", "20"))


def holds(name: str, *, usually: int = SEEDS) -> None:
    """The scenario with that name, seed by seed; `usually` so many, unless more than usual are asked for."""
    faults, seeds = 0, SEEDS if SEEDS > 50 else usually
    for seed in range(1, seeds + 1):
        done = play(name, seed)
        assert not done.failure, done.failure
        faults += done.faults
    assert faults > 3 * seeds
