"""Promise P5 for copies of trees in the simulation, under all faults and rolling upgrades."""

from __future__ import annotations

from promises.in_simulation import holds


def test_copies_end_as_the_tree_is_and_have_nothing_that_never_was():
    holds("trees", usually=6)
