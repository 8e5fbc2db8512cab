"""The policies: how long they pause, and when they give up."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.session.retry import (
    AttemptPlan,
    BoundedExponentialBackoffRetry,
    ExponentialBackoffRetry,
    FullJitter,
    RetryForever,
    RetryNTimes,
    RetryPolicy,
    RetryUntilElapsed,
)

BOUNDS = [0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5, 0.5]


class Longest(random.Random):
    """Always at the upper bound; notes the lower one."""

    lower = 0.0

    def uniform(self, a: float, b: float) -> float:
        self.lower = max(self.lower, a)
        return b

    def randrange(self, start: int, *_: Any) -> int:  # type: ignore[override]
        return start - 1


class Shortest(random.Random):
    """Always at the lower bound."""

    def uniform(self, a: float, b: float) -> float:
        return a

    def randrange(self, start: int, *_: Any) -> int:  # type: ignore[override]
        return 0


def delays(policy: RetryPolicy, count: int, rng: random.Random | None = None) -> list[float | None]:
    rng = rng or Longest()
    return [policy.next_delay(retries, 0.0, rng) for retries in range(count)]


# -- the default


def test_the_bound_doubles_up_to_the_cap() -> None:
    rng = Longest()
    assert delays(FullJitter(), len(BOUNDS), rng) == BOUNDS
    assert rng.lower == 0.0, "full jitter begins at nothing"


@given(st.integers(), st.integers(0, 10**9))
def test_delays_are_within_their_bounds_however_often(seed: int, retries: int) -> None:
    delay = FullJitter().next_delay(retries, 1e9, random.Random(seed))
    assert delay is not None
    assert 0.0 <= delay <= BOUNDS[min(retries, len(BOUNDS) - 1)]


def test_delays_come_from_the_generator_passed_in() -> None:
    def of(seed: int) -> list[float | None]:
        return delays(FullJitter(), 5, random.Random(seed))

    assert of(1) == of(1) != of(2)


# -- the plan


def test_a_plan_pauses_shortly_within_an_attempt_and_long_between_attempts() -> None:
    plan = AttemptPlan(time_between_attempts=5.0, max_consecutive_retries=3)
    assert delays(plan, 7, Shortest()) == [0.0, 0.0, 5.0, 0.0, 0.0, 5.0, 0.0]
    assert delays(plan, 4) == [0.02, 0.04, 5.02, 0.02], "a little jitter, so that not all come at once"


@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_plan_gives_up_after_so_many_attempts(rounds: int, attempts: int) -> None:
    found = delays(AttemptPlan(1.0, rounds, attempts), rounds * attempts + 3)
    assert found.index(None) == rounds * attempts - 1
    assert found[-1] is None or rounds > 1
    assert None not in found[: rounds * attempts - 1]


def test_a_plan_without_a_limit_never_gives_up() -> None:
    assert None not in delays(AttemptPlan(), 1000)


# -- Curator's


def test_forever() -> None:
    assert delays(RetryForever(0.7), 1000) == [0.7] * 1000


def test_so_many_times() -> None:
    assert delays(RetryNTimes(2, 0.3), 4) == [0.3, 0.3, None, None]
    assert delays(RetryNTimes(0, 0.3), 1) == [None]


@pytest.mark.parametrize(("elapsed", "delay"), [(0.0, 0.3), (9.9, 0.3), (10.0, None), (11.0, None)])
def test_until_elapsed(elapsed: float, delay: float | None) -> None:
    assert RetryUntilElapsed(10.0, 0.3).next_delay(7, elapsed, Longest()) == delay


def test_exponential() -> None:
    policy = ExponentialBackoffRetry(0.1, 4)
    assert delays(policy, 6) == pytest.approx([0.1, 0.3, 0.7, 1.5, None, None])
    assert delays(policy, 4, Shortest()) == pytest.approx([0.1] * 4), "once the base at least"


def test_the_bounded_one_is_the_same_with_a_bound() -> None:
    assert delays(BoundedExponentialBackoffRetry(0.1, 0.5, 4), 5) == pytest.approx([0.1, 0.3, 0.5, 0.5, None])
    assert delays(ExponentialBackoffRetry(0.1, 4, 0.5), 5) == pytest.approx([0.1, 0.3, 0.5, 0.5, None])


def test_exponents_are_bounded() -> None:
    delay = ExponentialBackoffRetry(1.0, 10**9).next_delay(10**6, 0.0, Longest())
    assert delay == float((1 << 29) - 1)
