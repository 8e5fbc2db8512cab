"""Whether a link that is silent is to be left.

Rules:
1. What we notice late may have been our own standstill: what has arrived is read first, for which `GRACE` is given.
2. A silent link is doubted, which means that the servers are asked whether they live. It is left when another one
   does, and the link still is silent `GRACE` later: whatever held up all of them may just have ended.
3. The server in use may be slow rather than cut off when it answers that question but not on the link. It is left for
   that as well, but only when it has been silent for as long as the slowest may.
4. Without any answer the link is left when it is dead: nobody knows better then.
5. A link that is heard again was doubted too early, and so was one whose server answers when it has just been left;
   `Liveness` is more patient from then on.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from everlatch.session.liveness import Liveness
    from everlatch.session.servers import Address

__all__ = ["GRACE", "Doubt", "Step"]

GRACE: Final = 0.05
"""Seconds for what has arrived to be read."""


class Step(enum.Enum):
    """What is to be done about a silent link."""

    WAIT = 0
    ASK = 1
    """The servers, whether they live."""
    LEAVE = 2


class Doubt:
    """The doubt about the present link of one client. Times are in seconds."""

    def __init__(self, liveness: Liveness) -> None:
        self._liveness = liveness
        self.is_open = False
        """Whether the servers are asked."""
        self.is_felt = False
        """Whether there is anything that hearing from the link would end."""
        self.alternative: Address | None = None
        """The first other server that has answered."""
        self._grace_until: float | None = None
        self._verdict_at = math.inf

    def look(self, now: float) -> Step:
        """The link is silent."""
        if self._grace_until is None and self._liveness.was_late(self.deadline(), now):
            self._grace_until = now + GRACE
            self.is_felt = True
        if self._grace_until is not None and now < self._grace_until:
            return Step.WAIT
        self._grace_until = None
        if self._liveness.is_dead(now) or now >= self._verdict_at:
            return Step.LEAVE
        if self.is_open:
            return Step.WAIT
        self.is_open = self.is_felt = True
        return Step.ASK

    def answered(self, address: Address, now: float, *, in_use: bool) -> None:
        """A server lives; `in_use`: the one at the other end of the link."""
        verdict_at = now + GRACE
        if in_use:
            verdict_at = max(verdict_at, self._liveness.slow_until)
        elif self.alternative is None:
            self.alternative = address
        self._verdict_at = min(self._verdict_at, verdict_at)

    def heard(self, now: float) -> None:
        """Bytes have come, and the link is not silent any more."""
        if self.is_open:
            self._liveness.false_alarm(now)
        self.reset()

    def silence_has_ended(self) -> None:
        """Without a byte, for what was sent meanwhile has its own time: a grace left over would be due for ever."""
        self._grace_until = None

    def reset(self) -> None:
        """There is no doubt, or no link."""
        self.is_open = self.is_felt = False
        self.alternative = self._grace_until = None
        self._verdict_at = math.inf

    def deadline(self) -> float:
        """When to look again."""
        if self._grace_until is not None:
            return self._grace_until
        if not self.is_open:
            return self._liveness.next_deadline()
        return min(self._liveness.dead_at, self._verdict_at)
