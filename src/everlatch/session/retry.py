"""How long to pause after a failed round over all servers, and when to give up.

A *round* tries every server once; within it there is no pause. The policies have Curator's names and shapes, with
times in seconds; what they count are rounds since the connection was lost (or since the start).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from random import Random

__all__ = [
    "AttemptPlan",
    "BoundedExponentialBackoffRetry",
    "ExponentialBackoffRetry",
    "FullJitter",
    "RetryForever",
    "RetryNTimes",
    "RetryPolicy",
    "RetryUntilElapsed",
]

_FIRST_BOUND: Final = 0.02
_LAST_BOUND: Final = 0.5
_MOST_DOUBLINGS: Final = 29
"""Beyond, Curator's numbers overflow; here they would only grow."""


class RetryPolicy(Protocol):
    """Decides after every failed round. Anything with this method will do."""

    def next_delay(self, retries: int, elapsed: float, rng: Random) -> float | None:
        """Seconds to wait before the next round; `None` gives up: the client's state becomes `GAVE_UP`, for good.

        `retries`: how many rounds have followed the first failed one so far; `elapsed`: seconds since the loss.
        """
        ...


class FullJitter(NamedTuple):
    """The default: never gives up; waits between nothing and a bound that doubles from 0.02 to 0.5 s, so that the
    clients of an ensemble don't come back all at once."""

    def next_delay(self, retries: int, elapsed: float, rng: Random) -> float | None:
        """See `RetryPolicy`."""
        return rng.uniform(0.0, min(_LAST_BOUND, _FIRST_BOUND * 2.0 ** min(retries, _MOST_DOUBLINGS)))


class AttemptPlan(NamedTuple):
    """Rounds come in attempts: up to `max_consecutive_retries` rounds (1 if not given) with only a short pause between
    them, then `time_between_attempts` seconds until the next attempt; after `max_reconnect_attempts` attempts (`None`:
    any number) it gives up. finagle-zookeeper's retry plan, counted in rounds over all servers."""

    time_between_attempts: float = 0.0
    max_consecutive_retries: int = 1
    max_reconnect_attempts: int | None = None

    def next_delay(self, retries: int, elapsed: float, rng: Random) -> float | None:
        """See `RetryPolicy`."""
        attempts, rounds = divmod(retries + 1, self.max_consecutive_retries)
        if rounds:
            return FullJitter().next_delay(rounds - 1, elapsed, rng)
        if self.max_reconnect_attempts is not None and attempts >= self.max_reconnect_attempts:
            return None
        return self.time_between_attempts + rng.uniform(0.0, _FIRST_BOUND)


class RetryForever(NamedTuple):
    """Always after the same time."""

    interval: float

    def next_delay(self, retries: int, elapsed: float, rng: Random) -> float | None:
        """See `RetryPolicy`."""
        return self.interval


class RetryNTimes(NamedTuple):
    """So many times, always after the same time."""

    n: int
    sleep: float

    def next_delay(self, retries: int, elapsed: float, rng: Random) -> float | None:
        """See `RetryPolicy`."""
        return self.sleep if retries < self.n else None


class RetryUntilElapsed(NamedTuple):
    """Until so much time has passed since the loss, always after the same time."""

    max_elapsed: float
    sleep: float

    def next_delay(self, retries: int, elapsed: float, rng: Random) -> float | None:
        """See `RetryPolicy`."""
        return self.sleep if elapsed < self.max_elapsed else None


class ExponentialBackoffRetry(NamedTuple):
    """So many times, after a random multiple of `base_sleep` whose bound doubles, up to `max_sleep`."""

    base_sleep: float
    max_retries: int
    max_sleep: float = float("inf")

    def next_delay(self, retries: int, elapsed: float, rng: Random) -> float | None:
        """See `RetryPolicy`."""
        if retries >= self.max_retries:
            return None
        return min(self.max_sleep, self.base_sleep * max(1, rng.randrange(1 << min(retries + 1, _MOST_DOUBLINGS))))


class BoundedExponentialBackoffRetry(NamedTuple):
    """`ExponentialBackoffRetry` with its arguments in Curator's order for the bounded one."""

    base_sleep: float
    max_sleep: float
    max_retries: int

    def next_delay(self, retries: int, elapsed: float, rng: Random) -> float | None:
        """See `RetryPolicy`."""
        return ExponentialBackoffRetry(self.base_sleep, self.max_retries, self.max_sleep).next_delay(
            retries, elapsed, rng
        )
