"""A short run on real servers, with everything in it: the long ones are `scripts/torture --real`."""

from __future__ import annotations

import pytest
from torture.history import Ending
from torture.real import rounds
from torture.rules.registers import counted
from torture.workload import Plan


@pytest.mark.real
async def test_a_short_round_finds_nothing():
    notes = []
    done = [each async for each in rounds(1, seconds=1.0, version="3.9", tell=notes.append, staying=10.0)]
    assert len(done) == 1
    this = done[0]
    assert this.violations == []
    assert len(this.history.calls) == 8
    assert this.history.log
    assert this.history.final
    endings = {call.ending for calls in this.history.calls.values() for call in calls}
    assert endings >= {Ending.OK, Ending.REFUSED}
    # Without root there are no faults of links, and that is said.
    assert [note for note in notes if "no faults of links" not in note] == []


@pytest.mark.real
async def test_a_short_round_of_rivals_finds_nothing():
    plan = Plan(work="registers")
    notes = []
    done = [each async for each in rounds(2, seconds=1.0, version="3.9", tell=notes.append, staying=5.0, plan=plan)]
    assert [each.violations for each in done] == [[]]
    assert counted(done[0].history)["registers"] == 4
    assert {call.ending for calls in done[0].history.calls.values() for call in calls} >= {Ending.OK, Ending.REFUSED}
