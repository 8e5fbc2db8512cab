"""Promise P11 in the simulation, under all faults."""

from __future__ import annotations

from promises.in_simulation import holds


def test_everything_ends_in_time():
    holds("bounded")
