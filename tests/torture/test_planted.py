"""Bugs that are put into the client: the torture finds each of them, and names a promise that it breaks.

What counts is CPU time, so that a busy machine fails nobody.
"""

from __future__ import annotations

import time

import pytest
from torture.planted import BUGS, Edit
from torture.simulated import run
from torture.worlds import setting_of

from everlatch.session.requests import Requests

LONGEST = 60.0
"""Seconds that a bug may stay unfound."""


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name):
    bug = BUGS[name]
    began = time.process_time()
    violations = []
    seed = bug.seed - 1
    with bug.planted():
        while not violations:
            assert time.process_time() - began < LONGEST, f"not found until world {seed}"
            seed += 1
            violations = run(setting_of(seed, mood=bug.mood, seconds=bug.seconds, work=bug.work), "").violations
    assert {violation.rule for violation in violations} & bug.rules, violations[0]


def test_a_bug_is_gone_afterwards():
    function = Requests.take_batch
    with BUGS["reordered-queue"].planted():
        assert Requests.take_batch is not function
    assert Requests.take_batch is function


def test_a_bug_that_no_longer_fits_says_so():
    with (
        pytest.raises(ValueError, match="plant another bug"),
        Edit(Requests, "take_batch", "no such text", "").made(),
    ):
        pass
