"""Promise P7 in the simulation, under all faults."""

from __future__ import annotations

from promises.in_simulation import holds


def test_never_two_leaders_and_soon_one():
    holds("one-leader")
