"""How long to wait after every server of a round has failed.

Full jitter (uniform between 0 and a growing bound) spreads many clients that lost the same ensemble at once. The
cap is short on purpose: an attempt costs little, and a client that sleeps while the ensemble is back is not
always connected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

__all__ = ["Backoff"]

_FIRST_BOUND = 0.02
_CAP = 0.5


class Backoff:
    """The delays between failed rounds, in seconds."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._bound = _FIRST_BOUND

    def next_delay(self) -> float:
        """The delay before the next round; its bound doubles with every call until `reset`."""
        bound = self._bound
        self._bound = min(_CAP, bound * 2)
        return self._rng.uniform(0.0, bound)

    def reset(self) -> None:
        """A connection proved good: the next failure starts from the first bound again."""
        self._bound = _FIRST_BOUND
