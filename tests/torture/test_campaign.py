"""Many worlds: what one process does for its parent."""

from __future__ import annotations

import itertools

import pytest
from torture.campaign import Job
from torture.totals import Totals

from torture import campaign


def test_a_world_that_has_no_end_is_a_finding(monkeypatch):
    def go_round(*_):
        for _ in itertools.count():
            pass

    monkeypatch.setattr(campaign, "run", go_round)
    monkeypatch.setattr(campaign, "_LONGEST", 0.05)
    done = campaign._do(Job(7, "open", 0.0))
    assert done.finding is not None
    assert [violation.rule for violation in done.finding.violations] == ["stuck"]
    assert "go_round" in str(done.finding)
    assert done.finding.command == "scripts/torture --worlds 1 --seed 7 --length 0 --mood open"


def test_an_interruption_by_the_user_is_none(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        campaign._do(Job(7, "open", 10.0))


def test_what_was_done_adds_up():
    totals = Totals()
    for seed in (1, 2):
        totals.add(campaign._do(Job(seed, "links", 5.0)))
    assert totals.runs == 2
    assert totals.operations > 500
    assert totals.findings == []
    assert str(totals).endswith(" 0 violations")
    told = totals.to_json()
    assert told["operations"] == totals.operations
    assert sum(count for what, count in told["seen"].items() if what.startswith("fault: ")) == totals.faults
