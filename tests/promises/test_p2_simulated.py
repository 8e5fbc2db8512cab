"""Promise P2 in the simulation, under all faults."""

from __future__ import annotations

from promises.in_simulation import holds


def test_calls_wait_in_order_and_are_sent_once():
    holds("queued")
