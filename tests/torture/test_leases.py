"""Trials of the lease: some in the simulation, a few on real servers; `scripts/acceptance` has many of both."""

from __future__ import annotations

import pytest
from torture.leases import Tally, Trial, simulated, trial
from torture.real_leases import on_real_servers

from everlatch.session.lease import Lease


def quietly(_):
    """Nobody wants to know how it is going."""


def test_the_lease_never_outlives_the_session_and_a_naive_one_does():
    tally = simulated(1, 50, 1, quietly)
    assert len(tally.counted) == 50
    assert tally.violations == [], tally.violations[0]
    assert len(tally.caught) >= 3


def test_a_seed_is_a_trial():
    assert trial(7) == trial(7)


def test_a_lease_that_counts_every_answer_at_once_is_found(monkeypatch):
    monkeypatch.setattr(Lease, "lag", property(lambda self: 0.0, lambda self, value: None), raising=False)
    assert simulated(1, 100, 1, quietly).violations


def test_what_is_told():
    trials = [
        Trial("1", "frozen", -0.5, 0.25, True),
        Trial("2", "cut", 0.125, 0.5, True),
        Trial("3", "cut", 9, 9, False),
    ]
    tally = Tally()
    tally.trials += trials
    assert tally.violations == [trials[1]]
    assert len(tally.caught) == 2
    assert str(tally) == (
        "3 trials, in 2 the session ended; the lease outlived 1 (at most +0.125 s), the naive one 2 (at most +0.500 s)"
    )
    assert tally.to_json()["violations"] == ["trial 2, cut: lease +0.125 s, naive lease +0.500 s"]
    assert str(Tally()) == "0 trials, and no session ended"


@pytest.mark.real
async def test_on_real_servers():
    tally = await on_real_servers(1, 2, "3.9", quietly)
    assert len(tally.counted) >= 2
    assert tally.violations == [], tally.violations[0]
