"""Ids, passwords, timeouts and the end of sessions, on a clock that the test is."""

from __future__ import annotations

import pytest

from everlatch.devserver.options import Options
from everlatch.devserver.sessions import SessionIds, Sessions, negotiated, password_of

NOON = 1_795_302_091_005


def test_passwords_are_those_of_zookeeper() -> None:
    assert password_of(0x100000FDEE30000).hex() == "7f7606d8a0bfdff4f522ef58e948b8fc"


def test_ids_begin_with_the_servers_number_and_count() -> None:
    ids = SessionIds(5)
    first, second = (ids.next(NOON) for _ in range(2))
    assert first >> 56 == 5
    assert second == first + 1
    assert password_of(first) != password_of(second)
    assert SessionIds(5).next(NOON + 1) == first + 0x10000
    assert SessionIds(255).next(NOON) < 0


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
def test_timeouts_are_negotiated(limits: tuple[float | None, ...], requested: int, granted: int) -> None:
    names = ("min_session_timeout", "max_session_timeout")
    assert negotiated(requested, Options(tick=2.0, **dict(zip(names, limits, strict=False)))) == granted


@pytest.mark.parametrize("now", [0.0, 0.1, 99.999, 100.0, 100.7])
def test_a_session_ends_between_its_timeout_and_a_tick_later(now: float) -> None:
    sessions = Sessions(1.0)
    session = sessions.begin(1, 4_000, now)
    assert now + 4.0 < session.deadline <= now + 5.0
    assert session.deadline == int(session.deadline)
    assert sessions.next_deadline() == session.deadline
    assert sessions.expired(session.deadline - 0.001) == []
    assert sessions.expired(session.deadline) == [session]


def test_a_touched_session_lives_longer_than_one_that_is_not() -> None:
    sessions = Sessions(1.0)
    silent, heard = (sessions.begin(number, 4_000, 0.0, owner=7) for number in (1, 2))
    assert sessions.alive == (silent, heard)
    assert sessions.get(2) is heard
    assert heard.owner == 7
    sessions.touch(heard, 3.5)
    assert (silent.deadline, heard.deadline) == (5.0, 8.0)
    assert sessions.next_deadline() == 5.0
    assert sessions.expired(7.9) == [silent]
    sessions.end(silent.id)
    sessions.end(silent.id)
    assert sessions.get(1) is None
    assert len(sessions) == 1
    assert sessions.next_deadline() == 8.0
    sessions.end(heard.id)
    assert sessions.next_deadline() is None
    assert sessions.expired(1e9) == []
