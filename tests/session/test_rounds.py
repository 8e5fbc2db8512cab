"""Rounds over all servers: how long one may take, and when a pause comes."""

from __future__ import annotations

import random

import pytest

from everlatch.paths import Endpoint
from everlatch.session.retry import FullJitter, RetryForever, RetryNTimes, RetryPolicy, RetryUntilElapsed
from everlatch.session.rounds import Rounds
from everlatch.session.servers import Address

A, B = (Endpoint(f"10.0.0.{number}", 2181) for number in (1, 2))
AT_A, AT_B = (Address(endpoint.host, 2181, endpoint) for endpoint in (A, B))
REASON = OSError("gone")


@pytest.fixture
def rounds() -> Rounds:
    return Rounds([A, B], random.Random(1), FullJitter(), shuffle=False)


def test_a_round_tries_all_and_then_comes_a_pause(rounds: Rounds) -> None:
    rounds.begin(9.0)
    assert [rounds.next_target() for _ in range(3)] == [AT_A, AT_B, None]
    rounds.end(10.0)
    assert rounds.retry_at is not None
    assert 10.0 <= rounds.retry_at <= 10.02
    rounds.begin(11.0)
    assert rounds.retry_at is None


def test_nothing_is_looked_for_when_told_so(rounds: Rounds) -> None:
    rounds.end(10.0)
    rounds.stop()
    assert rounds.retry_at is None


@pytest.mark.parametrize(("timeout", "is_first", "budget"), [(6.0, True, 2.0), (3.0, False, 0.5), (60.0, False, 1.0)])
def test_the_budget(rounds: Rounds, timeout: float, is_first: bool, budget: float) -> None:
    assert rounds.budget(timeout, is_first=is_first) == pytest.approx(budget)


def test_the_budget_doubles_only_after_rounds_in_which_somebody_did_not_answer(rounds: Rounds) -> None:
    rounds.end(0.0)
    assert rounds.budget(6.0, is_first=False) == 1.0
    for expected in (2.0, 4.0, 4.0):
        rounds.ran_out_of_time()
        rounds.end(0.0)
        assert rounds.budget(6.0, is_first=False) == expected


def test_a_good_connection_lets_everything_begin_anew(rounds: Rounds) -> None:
    rounds.ran_out_of_time()
    rounds.failed(AT_B, REASON)
    rounds.end(0.0)
    rounds.begin_after(12.0, AT_A, REASON, lived=1.0)
    assert rounds.failures == {}
    assert rounds.budget(6.0, is_first=False) == 1.0
    assert [rounds.next_target() for _ in range(3)] == [AT_B, AT_A, None]


def test_one_that_was_dropped_at_once_does_not(rounds: Rounds) -> None:
    rounds.begin(11.0)
    rounds.next_target()
    rounds.begin_after(12.0, AT_A, REASON, lived=0.5)
    assert rounds.failures == {str(AT_A): REASON}
    assert [rounds.next_target() for _ in range(2)] == [AT_B, None]


# -- pauses, and the end


class Noting:
    """A policy that keeps what it was asked, and answers what it was told to."""

    def __init__(self, *delays: float) -> None:
        self.asked: list[tuple[int, float]] = []
        self._delays = list(delays)

    def next_delay(self, retries: int, elapsed: float, rng: random.Random) -> float | None:
        self.asked.append((retries, elapsed))
        return self._delays.pop(0)


def with_policy(policy: RetryPolicy) -> Rounds:
    return Rounds([A, B], random.Random(1), policy, shuffle=False)


def test_the_policy_says_how_long_and_is_told_what_was() -> None:
    policy = Noting(1.0, 2.0, 3.0)
    rounds = with_policy(policy)
    rounds.begin(10.0)
    rounds.end(10.5)
    assert rounds.retry_at == 11.5
    rounds.begin(11.5)
    rounds.end(12.0)
    assert rounds.retry_at == 14.0
    assert policy.asked == [(0, 0.5), (1, 2.0)]
    rounds.begin_after(100.0, AT_A, REASON, lived=50.0)
    rounds.end(101.0)
    assert policy.asked[-1] == (0, 1.0), "since the loss"


def test_a_connection_that_was_dropped_at_once_counts_on() -> None:
    policy = Noting(1.0, 1.0)
    rounds = with_policy(policy)
    rounds.begin(10.0)
    rounds.end(11.0)
    rounds.begin(12.0)
    rounds.begin_after(13.0, AT_A, REASON, lived=0.5)
    rounds.end(14.0)
    assert policy.asked == [(0, 1.0), (1, 4.0)]


def test_the_policy_may_give_up() -> None:
    rounds = with_policy(RetryNTimes(1, 0.5))
    rounds.begin(10.0)
    rounds.end(10.0)
    assert (rounds.gave_up, rounds.retry_at) == (False, 10.5)
    rounds.begin(10.5)
    rounds.end(10.5)
    assert (rounds.gave_up, rounds.retry_at) == (True, None)


def test_who_starts_anew_has_all_the_time_again() -> None:
    rounds = with_policy(RetryUntilElapsed(5.0, 0.5))
    rounds.begin(10.0)
    rounds.failed(AT_A, REASON)
    rounds.ran_out_of_time()
    rounds.start_anew()
    assert rounds.failures == {}
    rounds.begin(100.0)
    rounds.end(104.0)
    assert not rounds.gave_up
    assert rounds.budget(6.0, is_first=False) == 1.0


@pytest.mark.parametrize("delay", [0.0, 1e-9])
def test_a_pause_is_a_millisecond_at_least(delay: float) -> None:
    rounds = with_policy(RetryForever(delay))
    rounds.begin(10.0)
    rounds.end(10.0)
    assert rounds.retry_at == 10.001


def test_slowness_of_before_is_forgotten_with_a_good_connection(rounds: Rounds) -> None:
    rounds.begin(9.0)
    rounds.ran_out_of_time()
    rounds.begin_after(20.0, AT_A, REASON, lived=10.0)
    rounds.end(20.0)
    assert rounds.budget(6.0, is_first=False) == 1.0
