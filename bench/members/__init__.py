"""The members of `bench.handover`, one file a client: each a process with one session, and part of one election.

What a member is told, and what it says, both a line each:

    → join            it takes part from now on
    ← leads NS        since that moment, on CLOCK_MONOTONIC, it has been told that it leads, or has found out
    → resign          it gives up leadership, as one should with that client, and takes part no more
    ← resigned NS     the moment just before it began to; said when it is done

The end of its input ends it. The members in Java do the same.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GUARDED", "MEMBERS", "MemberJob", "load", "say"]

MEMBERS = ("raw", "everlatch", "kazoo")
"""Those in Python."""
GUARDED = "everlatch_guarded"
"""everlatch's once more, with a guardian."""


class MemberJob(NamedTuple):
    """What one process has to do."""

    server: str
    """The address of the one server that it uses."""
    path: str
    """Of the election."""
    name: str
    timeout_s: float
    """Of the session."""


def load(contestant: str) -> Callable[[MemberJob], None]:
    """The function that takes part. Clients are imported when they are asked for."""
    take_part: Callable[[MemberJob], None] = import_module(f"bench.members.{contestant}_member").take_part
    return take_part


def say(word: str, time_ns: int) -> None:
    """To the bench."""
    print(word, time_ns, flush=True)
