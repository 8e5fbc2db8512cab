"""The judge of an election: what it says of good and of bad ones; and a short one on real servers."""

from __future__ import annotations

import pytest
from torture.leadership import Believed, Changed, Quiet, Wrote, judge, line, read, seen_in
from torture.real_leadership import elect

A, B = "a.1", "b.2"
LONGEST = 7.0
TAKEN = "fenced write: taken"


def believes(name, token, began, ended, seen=100):
    """With a look every tenth of a second."""
    looks = round((ended - began) * 10)
    return [Believed(name, began + number / 10, token, seen) for number in range(looks + 1)]


def connected(*names, time=0.0):
    return [Changed(name, time, "CONNECTED") for name in names]


def said(records, quiet=()):
    return [violation.text for violation in judge(records, quiet, LONGEST)]


GOOD = [
    *connected(A, B),
    *believes(A, 10, 1.0, 3.0, seen=10),
    Wrote(A, 2.0, 10, 12, ""),
    *believes(B, 11, 3.1, 9.0, seen=13),
    Wrote(A, 4.0, 10, 0, "TransactionFailedError"),
    Wrote(B, 5.0, 11, 14, ""),
]


def test_one_after_the_other():
    assert said(GOOD, [Quiet(4.0, 20.0, frozenset({A, B}))]) == []
    assert seen_in(GOOD)["terms"] == 2
    assert seen_in(GOOD)[TAKEN] == 2


def test_what_is_written_down_is_read_but_for_a_torn_line():
    text = "".join(map(line, GOOD))
    assert list(read(text)) == GOOD
    assert list(read(text[:-5])) == GOOD[:-1]


def test_two_at_a_time():
    (text,) = said([*believes(A, 10, 1.0, 3.0), *believes(B, 11, 2.95, 4.0)])
    assert text.startswith("two believed to lead at 2.950 s")


def test_who_stood_still_said_nothing_meanwhile():
    paused = [*believes(A, 10, 1.0, 3.0), *believes(B, 11, 3.1, 4.0), *believes("c.3", 12, 4.1, 5.0)]
    assert said(paused) == []
    assert said([*paused, *believes(A, 10, 4.5, 4.6)])[0].startswith("two believed")
    assert "c.3" in said([*paused, *believes(A, 10, 5.5, 5.6)])[0], "its token went back"


def test_a_token_with_two_owners():
    assert said([*believes(A, 10, 1.0, 2.0), *believes(B, 10, 3.0, 4.0)])[0].startswith("one token, two owners")


def test_a_stale_write_that_was_taken():
    assert said([Wrote(B, 1.0, 11, 20, ""), Wrote(A, 2.0, 10, 21, "")])[0].startswith("a stale leader's write")


def test_a_stale_write_before_the_new_leader_wrote():
    new_leader = believes(B, 11, 1.0, 2.0, seen=20)
    assert said([*new_leader, Wrote(A, 1.5, 10, 21, "")])[0].startswith("a stale leader's write")
    assert said([*new_leader, Wrote(A, 1.5, 10, 19, "")]) == []


def test_who_has_seen_nothing_yet_shows_nothing():
    """It leads by the news that the one ahead is gone; its first look comes later, and counts from then on."""
    begins = believes(B, 11, 1.0, 2.0, seen=0)
    assert said([*begins, Wrote(A, 0.9, 10, 21, "")]) == []
    assert said([*begins, *believes(B, 11, 2.1, 3.0, seen=20), Wrote(A, 2.5, 10, 21, "")]) != []


def test_nobody_leads_for_too_long():
    quiet = [Quiet(10.0, 30.0, frozenset({A, B}))]
    late = [*connected(A), *connected(B, time=12.0), *believes(A, 10, 19.2, 29.0)]
    assert said(late, quiet) == ["nobody leads 7 s after all could, at 12.000 s"]
    assert said([*connected(A), *connected(B, time=12.3), *believes(A, 10, 19.2, 29.0)], quiet) == []


def test_one_that_is_not_connected_when_all_is_well():
    quiet = [Quiet(10.0, 30.0, frozenset({A, B}))]
    (text,) = said([*connected(A), *believes(A, 10, 12.0, 30.0)], quiet)
    assert text == "['b.2'] are not connected 20.0 s after all is"


@pytest.mark.real
async def test_a_short_election_on_real_servers():
    # Leaders write when they like to, half of them nothing at first: so it goes on until one has.
    verdict = await elect(
        1, seconds=1.0, version="3.9", tell=lambda _: None, faults=8.0, quiet=8.0, enough=lambda seen: seen[TAKEN] > 0
    )
    assert verdict.violations == []
    assert verdict.seen["terms"] >= 1
    assert verdict.seen.get(TAKEN, 0) >= 1
    assert verdict.faults
