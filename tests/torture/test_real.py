"""A short run on real servers, with everything in it: the long ones are `scripts/torture --real`."""

from __future__ import annotations

import pytest
from torture.history import Ending
from torture.real import rounds
from torture.rules.registers import counted
from torture.workload import Plan

ATTEMPTS = 3
"""So many times in a row servers don't lose what they hold: see `torture.servers`."""


async def judged_round(seed, plan, *, staying):
    """A round that could be judged, and what was told meanwhile."""
    told, reasons = [], []
    for attempt in range(ATTEMPTS):
        found = rounds(seed + attempt, seconds=1.0, version="3.9", tell=told.append, staying=staying, plan=plan)
        (this,) = [each async for each in found]
        if this.judged:
            return this, told
        reasons += this.notes
    pytest.fail(f"no round could be judged: {reasons}")


@pytest.mark.real
async def test_a_short_round_finds_nothing():
    this, told = await judged_round(1, Plan(), staying=10.0)
    assert this.violations == []
    assert len(this.history.calls) == 8
    assert this.history.log
    assert this.history.final
    endings = {call.ending for calls in this.history.calls.values() for call in calls}
    assert endings >= {Ending.OK, Ending.REFUSED}
    # Without root there are no faults of links, and that is said.
    assert [note for note in told if "no faults of links" not in note] == []


@pytest.mark.real
async def test_a_short_round_of_rivals_finds_nothing():
    this, _ = await judged_round(2, Plan(work="registers"), staying=5.0)
    assert this.violations == []
    assert counted(this.history)["registers"] == 4
    assert {call.ending for calls in this.history.calls.values() for call in calls} >= {Ending.OK, Ending.REFUSED}
