"""What a checker says when a promise was broken."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Violation"]


class Violation(NamedTuple):
    """One broken promise. `rule` says which: writes, order, late (a case of order), reads, watches, subscriptions,
    linearizable, leaders, connected, calls, states, leaks; servers, if they contradict themselves; stuck, if a run has
    no end. `time` is when it can first be seen in the history."""

    rule: str
    time: float
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"
