"""What members of an ensemble tell each other.

`link` is the number of a follower's attempt to follow, as it counts them: what belongs to an earlier one is ignored, as
if it had come over a connection that is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from everlatch.devserver.connection import Attached
    from everlatch.devserver.entries import Ask, Entry
    from everlatch.devserver.log import Difference
    from everlatch.devserver.tree import Tree

__all__ = [
    "Alive",
    "AskAlive",
    "AskSync",
    "Commit",
    "EpochAccepted",
    "Gone",
    "Join",
    "Leave",
    "Logged",
    "Message",
    "NewEpoch",
    "Ping",
    "Pong",
    "Proposal",
    "Question",
    "Serve",
    "Snapshot",
    "Standing",
    "Sync",
    "SyncDone",
    "Synced",
    "Vote",
]


class Standing(NamedTuple):
    """How far a member's history goes: who is ahead is to lead."""

    epoch: int
    """Of the leader that it followed last."""
    zxid: int
    """Of the newest entry in its log."""
    number: int


class Vote(NamedTuple):
    """From everybody to everybody during an election, and from a leader to who still looks for one."""

    standing: Standing
    leads: bool
    epoch: int
    """The newest one that the sender has accepted."""


class Join(NamedTuple):
    """I want to follow you."""

    link: int
    epoch: int
    """The newest one that the sender has accepted."""


class NewEpoch(NamedTuple):
    """To a follower: promise to follow nobody of an older one."""

    link: int
    epoch: int


class EpochAccepted(NamedTuple):
    """To the leader."""

    link: int
    standing: Standing
    is_new: bool
    """Not already promised, to whomever."""


class Snapshot(NamedTuple):
    """Everything that is committed."""

    tree: Tree
    sessions: dict[int, int]
    """Timeouts in milliseconds, by id."""
    zxid: int
    """Of the newest entry in it."""


class Sync(NamedTuple):
    """To a follower: have my history. `snapshot` goes first, if there is one."""

    link: int
    epoch: int
    snapshot: Snapshot | None
    difference: Difference


class Synced(NamedTuple):
    """To the leader."""

    link: int
    zxid: int


class Serve(NamedTuple):
    """To a follower: begin. What is in your log up to `committed` is."""

    link: int
    committed: int
    shown: int
    """The zxid that the leader shows, for those who come late; 0: as far as you are."""


class Proposal(NamedTuple):
    """To a follower: log it."""

    link: int
    entry: Entry


class Logged(NamedTuple):
    """To the leader: all up to there is in my log."""

    link: int
    zxid: int


class Commit(NamedTuple):
    """To a follower: all up to there is committed."""

    link: int
    zxid: int


class Ping(NamedTuple):
    """To a follower."""

    link: int


class Pong(NamedTuple):
    """To the leader, with the sessions that were heard of since the last one: the only way in which it learns."""

    link: int
    touched: tuple[Attached, ...]


class Question(NamedTuple):
    """To the leader; the answer is an entry of the log."""

    link: int
    ask: Ask


class AskAlive(NamedTuple):
    """To the leader: a session wants to come to me."""

    link: int
    number: int
    session: Attached


class Alive(NamedTuple):
    """To a follower."""

    link: int
    number: int
    is_alive: bool


class AskSync(NamedTuple):
    """To the leader: tell me when I have everything that was decided until now."""

    link: int
    number: int


class SyncDone(NamedTuple):
    """To a follower, behind everything that it waits for. The leader asks nobody whether it still is one."""

    link: int
    number: int


class Leave(NamedTuple):
    """To the leader: I don't follow you any more."""

    link: int


class Gone(NamedTuple):
    """To who thinks that it follows: you don't."""

    link: int


Message: TypeAlias = (
    Vote
    | Join
    | NewEpoch
    | EpochAccepted
    | Sync
    | Synced
    | Serve
    | Proposal
    | Logged
    | Commit
    | Ping
    | Pong
    | Question
    | AskAlive
    | Alive
    | AskSync
    | SyncDone
    | Leave
    | Gone
)
