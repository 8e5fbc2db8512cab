"""What servers tell their leader, and what it has decided.

Every write request, new session and end of a session is an `Ask`, and exactly one `Entry` of the log is made of it:
refused ones change nothing, but are counted. A server that alone is the whole ensemble is its own leader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from everlatch.devserver.identities import Identity
    from everlatch.devserver.tree import Event, Transaction

__all__ = ["CREATE_SESSION", "Ask", "Entry", "Origin", "SessionChange"]

CREATE_SESSION = -10
"""The operation of an `Ask` for a new session; no client may send it."""


class Origin(NamedTuple):
    """Whose question it was."""

    server: int
    number: int
    """As that server counts its questions."""


class Ask(NamedTuple):
    """Something that only the leader can decide."""

    origin: Origin
    op: int
    session_id: int
    body: bytes = b""
    """As the client sent it, not looked at."""
    identities: Collection[Identity] = ()
    timeout_ms: int = 0
    """Of a new session."""


class SessionChange(NamedTuple):
    """A session begins, or (`timeout_ms` 0) ends."""

    id: int
    timeout_ms: int


class Entry(NamedTuple):
    """One line of the log, the same on all servers."""

    transaction: Transaction
    events: tuple[Event, ...] = ()
    """What the transaction tells: as applying it to a tree does."""
    session: SessionChange | None = None
    origin: Origin | None = None
    """Who gets the answer; `None`: nobody asked."""
    code: int = 0
    """Of the answer, like its body."""
    body: bytes = b""

    @property
    def zxid(self) -> int:
        """Its place in the log."""
        return self.transaction.zxid
