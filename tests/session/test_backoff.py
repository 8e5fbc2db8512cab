import random

from hypothesis import given
from hypothesis import strategies as st

from everlatch.session.backoff import Backoff

BOUNDS = [0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5, 0.5]


class Longest(random.Random):
    """Always at the upper bound; notes the lower one."""

    lower = 0.0

    def uniform(self, a, b):
        self.lower = max(self.lower, a)
        return b


def test_the_bound_doubles_up_to_the_cap():
    rng = Longest()
    backoff = Backoff(rng)
    assert [backoff.next_delay() for _ in BOUNDS] == BOUNDS
    assert rng.lower == 0.0, "full jitter begins at nothing"


def test_reset_starts_from_the_first_bound():
    backoff = Backoff(Longest())
    for _ in range(10):
        backoff.next_delay()
    backoff.reset()
    assert [backoff.next_delay() for _ in BOUNDS] == BOUNDS


@given(st.integers())
def test_delays_are_within_their_bounds(seed):
    backoff = Backoff(random.Random(seed))
    assert all(0.0 <= backoff.next_delay() <= bound for bound in BOUNDS)


def test_delays_come_from_the_generator_passed_in():
    def delays(seed):
        backoff = Backoff(random.Random(seed))
        return [backoff.next_delay() for _ in range(5)]

    assert delays(1) == delays(1) != delays(2)
