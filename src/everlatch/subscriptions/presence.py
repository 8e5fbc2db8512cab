"""What a keeper tells of its node: that it is there, or that it isn't, and why."""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = ["Absence", "Presence"]


class Absence(enum.Enum):
    """Why a kept node is, or was, not there. It is being worked on, except where it says that something is waited
    for."""

    NOT_YET = "not yet"
    """The keeper has just begun."""
    SESSION_ENDED = "session ended"
    """The session that owned it has ended, or must be assumed to have; the next one makes it again."""
    DELETED = "deleted"
    """Somebody has deleted it; it is made again at once."""
    NO_PARENT = "no parent"
    """There is no node that it could be made below; it waits for one (or makes it, with `make_parents`)."""
    OCCUPIED = "occupied"
    """Another session's node, or a persistent one, has the path; it waits for that to go."""
    REFUSED = "refused"
    """The servers refuse it: no permission, a quota, an ACL that they don't take. It is tried again."""


class Presence(NamedTuple):
    """A kept node, as its keeper knows it."""

    path: str
    """Its path, with the number of a sequential one; that of the last one while there is none, empty before the
    first."""
    present: bool
    """Whether it is there, and the present session's own."""
    since: float
    """Seconds on `CLOCK_BOOTTIME`."""
    reason: Absence | None
    """Why it is absent; of one that is present: why it was, before (`None`: this is the first)."""
    error: BaseException | None
    """More of the reason: the servers' refusal, what ended the session, `NodeOccupiedError`."""
    czxid: int
    """The zxid at which it was created, which no other node has under that path; 0 while there is none."""
