"""What a member of the demonstration tells its parent: one event, one line of JSON.

Rule: `at` is `time.monotonic()`, which all processes of a machine share, and for beliefs it is read *before* the
belief: whatever pause follows, the member did believe at that time or later.
"""

from __future__ import annotations

import enum
import json
from typing import NamedTuple

__all__ = ["Event", "Kind", "decode", "encode"]


class Kind(enum.Enum):
    """What happened."""

    STARTED = "started"
    """The process runs."""
    WAITING = "waiting"
    """It has a session and takes part."""
    LEADING = "leading"
    """It believes that it leads: the first time in this term."""
    BELIEVING = "believing"
    """It still does."""
    LOST = "lost"
    """It does no more; it was alive to notice."""
    REFUSED = "refused"
    """What it wrote all the same, after it had been paused, was refused."""
    ACCEPTED = "accepted"
    """It was not."""


class Event(NamedTuple):
    """One event of one member. `session_id` and `token` are 0 where they have no meaning."""

    member: str
    kind: Kind
    at: float
    session_id: int = 0
    token: int = 0


def encode(event: Event) -> bytes:
    """The event as a line."""
    return json.dumps(event._asdict() | {"kind": event.kind.value}).encode() + b"\n"


def decode(line: bytes) -> Event:
    """The event of a line; raises `ValueError` for anything else."""
    try:
        fields = json.loads(line)
        return Event(**(fields | {"kind": Kind(fields["kind"])}))
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"not an event of a member: {line!r}") from error
