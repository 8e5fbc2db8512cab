"""Promise P6 in the simulation: kept nodes, under all faults."""

from __future__ import annotations

from promises.in_simulation import holds


def test_kept_nodes_are_there_before_what_waits():
    holds("kept", usually=4)
