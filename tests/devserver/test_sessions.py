"""Ids, passwords, timeouts and the end of sessions, on a clock that the test is."""

from __future__ import annotations

import pytest

from everlatch.devserver.sessions import Sessions, password_of

NOON = 1_795_302_091_005


def test_passwords_are_those_of_zookeeper() -> None:
    assert password_of(0x100000FDEE30000).hex() == "7f7606d8a0bfdff4f522ef58e948b8fc"


def test_ids_begin_with_the_servers_number_and_count() -> None:
    sessions = Sessions(1.0, server_id=5)
    first, second = (sessions.open(10_000, 0.0, NOON) for _ in range(2))
    assert first.id >> 56 == 5
    assert second.id == first.id + 1
    assert first.password != second.password
    later = Sessions(1.0, server_id=5).open(10_000, 0.0, NOON + 1)
    assert later.id == first.id + 0x10000
    assert Sessions(1.0, server_id=255).open(10_000, 0.0, NOON).id < 0
    assert sessions.alive == (first, second)
    assert len(sessions) == 2


@pytest.mark.parametrize(
    ("limits", "requested", "granted"),
    [
        ((), 10_000, 10_000),
        ((), 1, 4_000),
        ((), -5, 4_000),
        ((), 1_000_000, 40_000),
        ((0.5, 1.5), 1, 500),
        ((0.5, 1.5), 1_000, 1_000),
        ((0.5, 1.5), 9_000, 1_500),
        ((None, 5.0), 9_000, 5_000),
    ],
)
def test_timeouts_are_negotiated(limits: tuple[float, ...], requested: int, granted: int) -> None:
    sessions = Sessions(2.0, *limits)
    assert sessions.negotiated(requested) == granted
    session = sessions.open(requested, 0.0, NOON)
    assert session.timeout_ms == granted
    session.timeout_ms = 1
    assert sessions.reattach(session.id, session.password, requested, 0.0) is session
    assert session.timeout_ms == granted


@pytest.mark.parametrize("now", [0.0, 0.1, 99.999, 100.0, 100.7])
def test_a_session_ends_between_its_timeout_and_a_tick_later(now: float) -> None:
    sessions = Sessions(1.0)
    session = sessions.open(4_000, now, NOON)
    assert now + 4.0 < session.deadline <= now + 5.0
    assert session.deadline == int(session.deadline)
    assert sessions.next_deadline() == session.deadline
    assert sessions.expired(session.deadline - 0.001) == []
    assert sessions.expired(session.deadline) == [session]


def test_a_touched_session_lives_longer_than_one_that_is_not() -> None:
    sessions = Sessions(1.0)
    silent, heard = (sessions.open(4_000, 0.0, NOON) for _ in range(2))
    sessions.touch(heard, 3.5)
    assert (silent.deadline, heard.deadline) == (5.0, 8.0)
    assert sessions.next_deadline() == 5.0
    assert sessions.expired(7.9) == [silent]
    sessions.end(silent)
    assert sessions.next_deadline() == 8.0
    sessions.end(heard)
    assert sessions.next_deadline() is None
    assert sessions.expired(1e9) == []


def test_who_may_have_a_session_back() -> None:
    sessions = Sessions(1.0)
    session = sessions.open(4_000, 0.0, NOON)
    assert sessions.reattach(session.id, bytes(16), 4_000, 1.0) is None
    assert sessions.reattach(session.id, None, 4_000, 1.0) is None
    assert sessions.reattach(session.id + 1, session.password, 4_000, 1.0) is None
    assert session.deadline == 5.0
    assert sessions.reattach(session.id, session.password, 9_000, 1.0) is session
    assert session.deadline == 11.0
    sessions.end(session)
    assert sessions.reattach(session.id, session.password, 4_000, 1.0) is None
