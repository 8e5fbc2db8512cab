"""P3 in the simulation: what each call says of its write is what the servers have done."""

import os

import pytest
from tests.promises.in_simulation import holds

from everlatch.testing.simulation import simulation
from everlatch.testing.simulation.scenarios import PROMISES
from everlatch.testing.simulation.scenarios.exactly_once import exactly_once

WRITES = int(os.environ.get("EVERLATCH_P3_WRITES", "2000"))
"""100 000 in `scripts/acceptance`."""


def test_what_is_said_of_a_write_is_so():
    holds(PROMISES["P3"])


@pytest.mark.parametrize("window", [1, 64])
def test_every_50th_reply_is_lost_and_every_write_is_applied_once(window):
    with simulation(window) as world:
        exactly_once(world, WRITES, window=window)
