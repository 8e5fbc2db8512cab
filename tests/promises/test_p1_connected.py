"""Promise P1 in the simulation, under all faults."""

from __future__ import annotations

from promises.in_simulation import holds


def test_usable_again_after_every_outage():
    holds("connected")
