"""The attempts beside the present one."""

from __future__ import annotations

import pytest

from everlatch.paths import Endpoint
from everlatch.session.rivals import Attempt, Rivals
from everlatch.session.servers import Address

ENDPOINT = Endpoint("10.0.0.1", 2181)


def attempt(conn: int, deadline: float = 10.0, *, is_made: bool = False) -> Attempt:
    return Attempt(conn, Address("10.0.0.1", 2181, ENDPOINT), False, deadline, is_made)


@pytest.fixture
def rivals() -> Rivals:
    return Rivals()


def test_none_at_first(rivals: Rivals) -> None:
    assert len(rivals) == 0
    assert list(rivals) == []
    assert not rivals.has_connection
    assert rivals.take() is None
    assert list(rivals.take_all()) == []
    assert rivals.overdue(1e9) == []
    assert rivals.next_deadline() is None


def test_they_are_known_by_their_numbers(rivals: Rivals) -> None:
    first, second = attempt(3), attempt(4)
    rivals.add(first)
    rivals.add(second)
    assert 3 in rivals
    assert 5 not in rivals
    assert len(rivals) == 2
    assert list(rivals) == [first, second]
    assert rivals.remove(3) is first
    assert 3 not in rivals
    assert list(rivals.take_all()) == [second]
    assert len(rivals) == 0


def test_the_best_is_one_with_a_connection_else_the_oldest(rivals: Rivals) -> None:
    for conn in (1, 2, 3, 4):
        rivals.add(attempt(conn, is_made=conn in (2, 3)))
    assert rivals.has_connection
    taken = [rivals.take() for _ in range(4)]
    assert [rival.conn for rival in taken if rival is not None] == [2, 3, 1, 4]
    assert not rivals.has_connection


def test_only_those_without_a_connection_run_out_of_time(rivals: Rivals) -> None:
    late, later, made = attempt(1, 10.0), attempt(2, 12.0), attempt(3, 5.0, is_made=True)
    for rival in (later, made, late):
        rivals.add(rival)
    assert rivals.next_deadline() == 10.0
    assert rivals.overdue(9.9) == []
    assert rivals.overdue(10.0) == [late]
    assert rivals.overdue(12.0) == [later, late]
    late.is_made = later.is_made = True
    assert rivals.next_deadline() is None
    assert rivals.overdue(100.0) == []
