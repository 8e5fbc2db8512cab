"""The log of a member: what is committed, what may be cut off, and what makes one log of another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.devserver.entries import Entry
from everlatch.devserver.log import Log
from everlatch.devserver.tree import Transaction


def entry(zxid: int) -> Entry:
    return Entry(Transaction(zxid, 0))


def log_of(*zxids: int, start: int = 0) -> Log:
    log = Log(start)
    for zxid in zxids:
        log.append(entry(zxid))
    return log


def test_what_is_committed_is_told_once() -> None:
    log = log_of(1, 2, 5)
    assert (log.last, log.committed) == (5, 0)
    assert [each.zxid for each in log.commit(2)] == [1, 2]
    assert log.commit(1) == []
    assert [each.zxid for each in log.pending] == [5]
    assert [each.zxid for each in log.commit(9)] == [5]
    assert log.committed == 5


def test_what_is_not_committed_can_be_cut_off_and_only_that() -> None:
    log = log_of(1, 2, 3)
    log.commit(1)
    log.cut(2)
    assert log.last == 2
    with pytest.raises(AssertionError):
        log.cut(0)
    with pytest.raises(AssertionError):
        log.append(entry(2))


def test_an_empty_log_begins_where_its_snapshot_ends() -> None:
    log = Log(7)
    assert (log.last, log.committed) == (7, 7)
    assert log.difference(6) is None
    assert log.difference(7) == (7, ())


def test_old_entries_are_forgotten() -> None:
    log = log_of(*range(1, 2000))
    log.commit(1999)
    assert log.difference(1) is None
    assert log.difference(1998) == (1998, (entry(1999),))
    assert log.committed == log.last == 1999


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_a_difference_makes_one_log_of_the_other(common: int, mine: int, theirs: int) -> None:
    shared = range(1, common + 1)
    # After what they share, each has entries of an epoch of its own; the leader's is the newer one.
    leader = log_of(*shared, *range(2000, 2000 + mine))
    follower = log_of(*shared, *range(1000, 1000 + theirs))
    difference = leader.difference(follower.last)
    assert difference is not None
    follower.cut(difference.cut_to)
    for each in difference.entries:
        follower.append(each)
    assert follower.difference(0) == leader.difference(0)
