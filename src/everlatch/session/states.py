"""The states of a client as a table, and nothing else.

Rules:
1. What is not in the table can't happen; `Session` changes state through `checked` only.
2. `CONNECTING` is before the first connection, and never comes back.
3. `LOST` follows `SUSPENDED` only: first the link goes, then the session.
4. After `LOST` comes `CONNECTED` with the same session id (it turned out to be alive), or `RENEWED` and at once
   `CONNECTED` with a new one. Nothing else connects a lost client.
5. `AUTH_FAILED` and `GAVE_UP` are final but for `CLOSED`; `CLOSED` is final.
"""

from __future__ import annotations

from typing import Final

from everlatch.types import State

__all__ = ["CONNECTED_STATES", "FINAL_STATES", "TRANSITIONS", "checked"]

_ENDS: Final = frozenset({State.AUTH_FAILED, State.GAVE_UP, State.CLOSED})

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.CONNECTING: frozenset({State.CONNECTED, State.CONNECTED_READ_ONLY}) | _ENDS,
    State.CONNECTED: frozenset({State.SUSPENDED}) | _ENDS,
    State.CONNECTED_READ_ONLY: frozenset({State.SUSPENDED}) | _ENDS,
    State.SUSPENDED: frozenset({State.CONNECTED, State.CONNECTED_READ_ONLY, State.LOST}) | _ENDS,
    State.LOST: frozenset({State.CONNECTED, State.CONNECTED_READ_ONLY, State.RENEWED}) | _ENDS,
    State.RENEWED: frozenset({State.CONNECTED}),
    State.AUTH_FAILED: frozenset({State.CLOSED}),
    State.GAVE_UP: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}
"""State → the states that may follow it."""

CONNECTED_STATES: Final = frozenset({State.CONNECTED, State.CONNECTED_READ_ONLY})
"""A server answers."""

FINAL_STATES: Final = frozenset({State.AUTH_FAILED, State.GAVE_UP, State.CLOSED})
"""No call can succeed any more."""


def checked(present: State, following: State) -> State:
    """Returns `following` if it may follow `present`; anything else is a bug of the session."""
    assert following in TRANSITIONS[present], f"{present.name} -> {following.name} is not in the table"
    return following
