"""Promise P7: two members never believe at the same time that they lead; fencing tokens only grow; no fenced write of a
stale leader is accepted; and when all is well again, somebody leads.

How it is known: members say when they believed, and with which node. Leadership rests on a lease, so no fault excuses
two: neither a follower that is cut from its leader, nor a process that stands still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torture.history import CREATE, Ending
from torture.rules.writes import zxid_of
from torture.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torture.history import Belief, Call, History

__all__ = ["judge"]

_RULE: Final = "leaders"


def judge(history: History) -> Iterator[Violation]:
    """All members of the one election that a history has."""
    beliefs = sorted(history.beliefs, key=lambda belief: belief.began)
    yield from _overlaps(beliefs)
    yield from _tokens(beliefs)
    yield from _owners(history, beliefs)
    yield from _fenced_writes(history)
    if history.latches and len(history.leaders_at_end) != 1:
        who = ", ".join(history.leaders_at_end) or "nobody"
        text = f"long after the last fault {who} took themselves for the leader"
        yield Violation(_RULE, history.closing, text)


def _overlaps(beliefs: list[Belief]) -> Iterator[Violation]:
    present: list[Belief] = []
    for belief in beliefs:
        present = [earlier for earlier in present if earlier.ended >= belief.began]
        rival = next((earlier for earlier in present if earlier.member != belief.member), None)
        if rival is not None:
            yield Violation(_RULE, belief.began, f"two believed to lead at {belief.began:.3f} s: {rival} and {belief}")
        present.append(belief)


def _tokens(beliefs: list[Belief]) -> Iterator[Violation]:
    newest: Belief | None = None
    for belief in beliefs:
        if newest is not None and belief.token < newest.token:
            text = f"a token went back: {belief}, and before it {newest}"
            yield Violation(_RULE, belief.began, text)
        if newest is None or belief.token > newest.token:
            newest = belief


def _owners(history: History, beliefs: list[Belief]) -> Iterator[Violation]:
    """Who believes has a node of his own session; and its zxid is his token."""
    if history.log is None:
        return
    made = {
        change.path: (applied.zxid, change.owner)
        for applied in history.log
        for change in applied.changes
        if change.kind == CREATE and change.owner
    }
    for belief in beliefs:
        token, owner = made.get(belief.node, (0, 0))
        if owner != belief.session_id:
            text = f"{belief} believed in session {belief.session_id:#x}, its node {belief.node} is that of {owner:#x}"
            yield Violation(_RULE, belief.began, text)
        elif token != belief.token:
            yield Violation(_RULE, belief.began, f"{belief}: its node {belief.node} was created at {token}")


def _fenced_writes(history: History) -> Iterator[Violation]:
    """In the order in which they were accepted, their tokens only grow."""
    newest: Call | None = None
    for call in sorted(_accepted(history), key=zxid_of):
        if newest is not None and call.token < newest.token:
            text = f"a stale leader's write was accepted: {call} with token {call.token}, behind {newest}"
            yield Violation(_RULE, call.ended, f"{text} with token {newest.token}")
        if newest is None or call.token > newest.token:
            newest = call


def _accepted(history: History) -> Iterator[Call]:
    return (
        call
        for calls in history.calls.values()
        for call in calls
        if call.token and call.ending is Ending.OK and zxid_of(call)
    )
