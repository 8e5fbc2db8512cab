"""Promise P9 in the simulation, under all faults."""

from __future__ import annotations

from promises.in_simulation import holds


def test_bad_callbacks_harm_nobody():
    holds("isolated")
