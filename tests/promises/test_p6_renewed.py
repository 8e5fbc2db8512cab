"""Promise P6 in the simulation, under all faults."""

from __future__ import annotations

from promises.in_simulation import holds


def test_a_new_session_comes_in_one_order():
    holds("renewed")
