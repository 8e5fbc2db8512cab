"""Promise P5 in the simulation, under all faults and rolling upgrades."""

from __future__ import annotations

from promises.in_simulation import holds


def test_subscriptions_end_on_what_is_and_tell_nothing_that_never_was():
    holds("watched")
