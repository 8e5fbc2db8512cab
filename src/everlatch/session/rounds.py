"""How a server is looked for: in rounds over all of them, with a budget for each, and a pause only between rounds.

Rules:
1. A round tries every address once (`servers` has the order). Only after a whole round that failed comes a pause, or
   the end, as the policy says (`retry`): never while an untried server is left.
2. The time for one address is short, so that one dead server costs little of the session's time; it doubles after
   each round in which some did not answer at all, in case they are merely slow. Who refuses at once needs no more.
3. A connection that lived for a while, or answered some calls, was worth having: after it everything begins anew. One
   that was dropped at once has not earned a new round: were each such loss to start one, the client would spin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from everlatch.session.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random

    from everlatch.paths import Endpoint
    from everlatch.session.retry import RetryPolicy
    from everlatch.session.servers import Address

__all__ = ["SHORTEST_BUDGET", "Rounds"]

SHORTEST_BUDGET: Final = 0.25
"""Seconds."""
_LONGEST_FIRST: Final = 1.0
"""Seconds, after a loss, until the next server is tried. While an ensemble elects its leader, servers have been seen to
accept a connection and its handshake and never answer: with a long session timeout, T/6 was lost at each of them."""
_MOST_DOUBLINGS: Final = 8
_SHORTEST_PAUSE: Final = 0.001
"""Seconds. Servers that refuse at once would otherwise be asked in a loop, if the policy says so."""
_GOOD_CONNECTION: Final = 1.0
"""Rule 3, seconds."""
_GOOD_ANSWERS: Final = 10
"""Rule 3, calls."""


class Rounds:
    """The rounds of one client. Times are in seconds."""

    def __init__(self, endpoints: Sequence[Endpoint], rng: Random, policy: RetryPolicy, *, shuffle: bool) -> None:
        self.retry_at: float | None = None
        """When the next round begins; `None`: one is under way, or nothing is looked for."""
        self.gave_up = False
        """Whether the policy has ended it."""
        self.servers = Servers(endpoints, rng, shuffle=shuffle)
        self._rng = rng
        self._policy = policy
        self._retries = 0
        self._since: float | None = None
        """When the first one since the last good connection began."""
        self._failures: dict[str, BaseException] = {}
        self._is_slow = False
        """Whether an address of this round ran out of time."""
        self._slow_rounds = 0

    @property
    def failures(self) -> dict[str, BaseException]:
        """Why each server was left last, since the last good connection."""
        return dict(self._failures)

    def begin(self, now: float, lost: Address | None = None) -> None:
        """A round; `lost` is the address whose connection has just ended, if there was one."""
        self.retry_at = None
        if self._since is None:
            self._since = now
        self.servers.begin_round(lost)

    def begin_after(self, now: float, lost: Address, reason: BaseException, lived: float, answered: int = 0) -> None:
        """After a connection that was lost: a new round, or the rest of the present one. Rule 3."""
        if lived >= _GOOD_CONNECTION or answered >= _GOOD_ANSWERS:
            self.start_anew()
            self.begin(now, lost)
        else:
            self.failed(lost, reason)

    def start_anew(self) -> None:
        """What was before doesn't count any more. Rule 3."""
        self._slow_rounds = 0
        self._is_slow = False
        self._failures.clear()
        self._retries, self._since = 0, None

    def stop(self) -> None:
        """Nothing is looked for."""
        self.retry_at = None

    def next_target(self) -> Endpoint | Address | None:
        """As `Servers.next_target`."""
        return self.servers.next_target()

    def resolved(self, endpoint: Endpoint, ips: Iterable[str]) -> None:
        """As `Servers.resolved`."""
        self.servers.resolved(endpoint, ips)

    def again(self, address: Address) -> None:
        """As `Servers.again`."""
        self.servers.again(address)

    def failed(self, address: Address | None, reason: BaseException) -> None:
        """That is why this one is left."""
        self._failures[str(address)] = reason

    def ran_out_of_time(self) -> None:
        """The present address did not answer within its budget."""
        self._is_slow = True

    def end(self, now: float) -> None:
        """There was nobody left to try: a pause, or the end."""
        if self._is_slow:
            self._slow_rounds += 1
            self._is_slow = False
        elapsed = 0.0 if self._since is None else now - self._since
        delay = self._policy.next_delay(self._retries, elapsed, self._rng)
        self._retries += 1
        self.gave_up = delay is None
        self.retry_at = None if delay is None else now + max(_SHORTEST_PAUSE, delay)

    def budget(self, session_timeout: float, *, is_first: bool) -> float:
        """Seconds for one address, handshake included; `is_first`: before the first connection. Rule 2."""
        first = session_timeout / 3 if is_first else min(session_timeout / 6, _LONGEST_FIRST)
        longest = max(session_timeout * 2 / 3, SHORTEST_BUDGET)
        return min(max(first, SHORTEST_BUDGET) * 2.0 ** min(self._slow_rounds, _MOST_DOUBLINGS), longest)
