"""Promises P1, P6 and P11, and that nothing leaks: soon after the last fault every client is connected, and stays so;
every call ends, and with an error that it may end with; states follow each other as they may; what was opened is
closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torture.history import Ending
from torture.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torture.history import History, StateSeen

__all__ = ["judge"]

_CONNECTED: Final = "connected"
_CALLS: Final = "calls"
_STATES: Final = "states"
_LEAKS: Final = "leaks"

_EXPECTED: Final = frozenset(
    {
        *("NoNodeError", "NodeExistsError", "BadVersionError", "NotEmptyError", "TransactionFailedError"),
        *("CallTimeoutError", "WriteTimeoutError", "OutcomeUnknownError", "RequestKillsConnectionError"),
        *("WriteNotAppliedError", "ResultLostError", "SessionExpiredError", "QueueFullError", "CancelledError"),
    }
)
"""What may become of calls that are made properly, by a client that isn't closed."""


def judge(history: History) -> Iterator[Violation]:
    """All clients."""
    yield from _calls(history)
    for client in history.calls.keys() - history.died.keys():
        states = [state for state in history.states if state.client == client]
        yield from _connected(history, client, [state for state in states if state.time <= history.closing])
        yield from _follow(client, states)
    yield from _left(history)


def _calls(history: History) -> Iterator[Violation]:
    for client, calls in history.calls.items():
        for call in calls:
            if call.ending is Ending.OPEN and client not in history.died:
                text = (
                    f"{call} had not ended at {history.closing:.3f} s, {history.closing - history.healed:.3f} s after"
                )
                yield Violation(_CALLS, call.began, f"{text} the last fault")
            elif call.error and call.error not in _EXPECTED:
                yield Violation(_CALLS, call.ended, f"{call} ended with an error that it can't end with ({call.code})")


def _connected(history: History, client: int, states: list[StateSeen]) -> Iterator[Violation]:
    deadline = history.healed + history.reconnecting
    last = next((state for state in reversed(states) if state.time <= deadline), None)
    if last is None or last.state != "CONNECTED":
        found = last.state if last is not None else "in no state at all"
        text = f"client {client} was {found} at {deadline:.3f} s, {history.reconnecting:g} s after the last fault"
        yield Violation(_CONNECTED, deadline, text)
    for state in states:
        if state.time > deadline and state.state != "CONNECTED":
            text = f"client {client} was {state.state} again at {state.time:.3f} s, after the last fault"
            yield Violation(_CONNECTED, state.time, text)
            return


def _follow(client: int, states: list[StateSeen]) -> Iterator[Violation]:
    """A new session is told once, with the state that goes with it."""
    generation, session_id = 1, 0
    for before, state in zip([None, *states], states, strict=False):
        renewed = state.state == "RENEWED"
        if renewed != (bool(session_id) and state.session_id != session_id):
            text = f"client {client}: {state}, and the session before was {session_id:#x}"
            yield Violation(_STATES, state.time, text)
        if state.generation != generation + renewed and session_id:
            yield Violation(_STATES, state.time, f"client {client}: {state}, behind session number {generation}")
        if before is not None and before.state == "RENEWED" and state.state != "CONNECTED":
            yield Violation(_STATES, state.time, f"client {client} went from RENEWED to {state.state}")
        generation, session_id = state.generation, state.session_id


def _left(history: History) -> Iterator[Violation]:
    for leak in history.leaks:
        yield Violation(_LEAKS, history.closing, leak)
    for path, node in (history.final or {}).items():
        if node.stat.ephemeral_owner and path.startswith(history.root):
            text = f"{path} is left, of session {node.stat.ephemeral_owner:#x}; all sessions should be over"
            yield Violation(_LEAKS, history.closing, text)
