"""The election: a member without a leader.

Everybody says again and again how far its history goes. Who sees a quorum, all of which look too, and is ahead of them
for a while, leads; the others follow whoever says that he leads. Whether he may is settled between those two: what is
known here may be old.

Rules of this module:
1. Nobody follows a leader of an older epoch than it has accepted.
2. Without a leader nothing is served; in read-only mode, after a while, reads are: to clients that ask for it, in
   sessions that only this server knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from everlatch.devserver.messages import Gone, Leave, Vote
from everlatch.devserver.roles import Role
from everlatch.devserver.sessions import Sessions

if TYPE_CHECKING:
    from everlatch.devserver.connection import Attached, Connection
    from everlatch.devserver.ensemble import Member
    from everlatch.devserver.entries import Ask
    from everlatch.devserver.messages import Message
    from everlatch.devserver.sessions import Session

__all__ = ["Looking"]

_SHOUTS_A_TICK: Final = 20
_FRESH: Final = 3
"""Shouts for which a vote is believed."""
_SHORTEST_UNTIL_READ_ONLY: Final = 2.0
"""Seconds."""
_NEVER: Final = float("inf")


class Looking(Role):
    """See above."""

    def __init__(self, member: Member, now: float) -> None:
        super().__init__(member)
        options = member.options
        self._pause = options.tick / _SHOUTS_A_TICK
        self._next_shout = now
        self._votes: dict[int, tuple[float, Vote]] = {}
        """The latest of each other member, and when it came."""
        self._ahead_since: float | None = None
        self._read_only_from = now + max(_SHORTEST_UNTIL_READ_ONLY, options.tick) if options.read_only_mode else _NEVER
        self._local = Sessions(options.tick)

    @property
    def mode(self) -> str | None:
        """`read-only`, if so."""
        return "read-only" if self.member.is_read_only else None

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The local ones."""
        return self._local.alive

    @property
    def deadline(self) -> float:
        """The next shout, or a session that ends."""
        return min(self._next_shout, self._local.next_deadline() or _NEVER)

    def handle_timer(self, now: float) -> None:
        """Shouts, counts, and ends local sessions."""
        member = self.member
        for session in self._local.expired(now):
            self._local.end(session.id)
            member.detach(session.id)
        if now >= self._read_only_from:
            member.is_read_only = True
        if now < self._next_shout:
            return
        self._next_shout = now + self._pause
        self._count(now)
        if member.role is self:
            for other in member.others:
                member.send(other, member.vote(leads=False))

    def _count(self, now: float) -> None:
        member = self.member
        votes = [vote for heard, vote in self._votes.values() if now - heard <= _FRESH * self._pause]
        enough = len(votes) + 1 >= member.quorum
        if not enough or any(vote.standing > member.standing for vote in votes):
            self._ahead_since = None
        elif self._ahead_since is None:
            self._ahead_since = now
        elif now - self._ahead_since >= member.options.election_time:
            member.lead(now)

    def receive(self, sender: int, message: Message, now: float) -> None:
        """Votes count; all else belongs to what is over, and who doesn't know that is told."""
        if not isinstance(message, Vote):
            if not isinstance(message, Leave | Gone):
                self.member.send(sender, Gone(message.link))
        elif not message.leads:
            self._votes[sender] = now, message
        elif message.epoch >= self.member.accepted_epoch:  # rule 1
            self.member.follow(sender, now)

    def lost(self, peer: int, now: float) -> None:
        """Its vote doesn't count."""
        self._votes.pop(peer, None)

    # -- read-only mode

    def touch(self, session: Attached, now: float) -> None:
        """A local one."""
        local = self._local.get(session.id)
        if local is not None:
            self._local.touch(local, now)

    def put(self, ask: Ask, now: float) -> None:
        """Sessions begin and end; writes don't come here."""
        if ask.timeout_ms:
            self._local.begin(ask.session_id, ask.timeout_ms, now)
        else:
            self._local.end(ask.session_id)
        self.member.change_local_session(ask, now)

    def ask_whether_alive(self, connection: Connection, session: Attached, now: float) -> None:
        """A local session can come back; a global one ends the connection."""
        if self._local.get(session.id) is None:
            connection.close()
        else:
            self.touch(session, now)
            self.member.attach(connection, session, now)

    def ask_to_sync(self, connection: Connection, now: float) -> None:
        """Refused before."""
        raise AssertionError(connection)
