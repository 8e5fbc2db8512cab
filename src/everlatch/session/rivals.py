"""The attempts that run beside the present one: dialled because it takes long, or kept in reserve.

Rules:
1. The session has one present connection or attempt; only that one ever says anything to a server. So no server is
   offered the session while another may be about to take it.
2. When the present attempt takes longer than `STAGGER`, the next server is dialled beside it; a server that does not
   answer thus costs no more than that.
3. A rival whose connection is made takes the place of a present one that is not, and waits behind one that is.
4. A rival has a budget for becoming a connection; one that is may wait as long as it is of use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from everlatch.session.servers import Address

__all__ = ["MOST_RIVALS", "STAGGER", "Attempt", "Rivals"]

STAGGER: Final = 0.25
"""Seconds. A connection within a continent is made in less; SYNs that are lost are sent again after a second."""
MOST_RIVALS: Final = 4
"""A name may have any number of addresses; servers count connections."""


@dataclass(slots=True)
class Attempt:
    """One attempt at a server; with a name still to be resolved, `address` has it in place of the IP."""

    conn: int
    address: Address
    is_name: bool
    deadline: float
    is_made: bool = False
    """Whether the connection is there."""


class Rivals:
    """The attempts beside the present one, oldest first. Times are in seconds."""

    def __init__(self) -> None:
        self._attempts: dict[int, Attempt] = {}

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self._attempts.values())

    def __contains__(self, conn: int) -> bool:
        return conn in self._attempts

    @property
    def has_connection(self) -> bool:
        """Whether one waits that is made."""
        return any(attempt.is_made for attempt in self)

    def add(self, attempt: Attempt) -> None:
        """One more."""
        self._attempts[attempt.conn] = attempt

    def remove(self, conn: int) -> Attempt:
        """It has ended, or becomes the present one."""
        return self._attempts.pop(conn)

    def take(self) -> Attempt | None:
        """The best one, to become the present one: a connection that is made, else the oldest attempt."""
        best = next((attempt for attempt in self if attempt.is_made), next(iter(self), None))
        return None if best is None else self.remove(best.conn)

    def take_all(self) -> Iterable[Attempt]:
        """All of them: they are of no use any more."""
        attempts, self._attempts = self._attempts, {}
        return attempts.values()

    def overdue(self, now: float) -> list[Attempt]:
        """Those that ran out of their budget. Rule 4."""
        return [attempt for attempt in self if not attempt.is_made and now >= attempt.deadline]

    def next_deadline(self) -> float | None:
        """When the first one runs out of its budget."""
        return min((attempt.deadline for attempt in self if not attempt.is_made), default=None)
