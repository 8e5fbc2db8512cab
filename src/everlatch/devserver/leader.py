"""The leader: gets a quorum to follow, has entries logged by a quorum, and says what is committed.

    joining      until a quorum wants to follow, for a tick at most; then the epoch is one more than any has accepted
    promising    until a quorum has promised to follow nobody of an older epoch
    syncing      until a quorum has this member's history
    established  everything in that history is committed; from now on it serves

Rules of this module:
1. It leads as long as it hears of a quorum: one that is cut off believes for `sync_limit` ticks that it still leads.
   Until then it answers reads and, with nothing to commit, syncs: they prove nothing.
2. After an election all sessions have their whole time again, and nobody owns them until he writes or comes back.
3. What followers ask it to decide waits in a queue until everything is read that has come; the question whether a
   session is alive is answered as it is read, and moves the session at once. So a session that comes back to a
   follower brings the writes back to life that had piled up on the way from there before it. Real leaders do so
   (seen with 3.8.0 and 3.9.5): one thread reads what a follower says, another one decides.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from everlatch.devserver.messages import (
    Alive,
    AskAlive,
    AskSync,
    Commit,
    EpochAccepted,
    Gone,
    Join,
    Leave,
    Logged,
    NewEpoch,
    Ping,
    Pong,
    Proposal,
    Question,
    Serve,
    Sync,
    SyncDone,
    Synced,
    Vote,
)
from everlatch.devserver.roles import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.devserver.connection import Attached, Connection
    from everlatch.devserver.decider import Decider
    from everlatch.devserver.ensemble import Member
    from everlatch.devserver.entries import Ask, Entry
    from everlatch.devserver.messages import Message
    from everlatch.devserver.sessions import Session

__all__ = ["Leader"]


class _Follower:
    """What is known of one."""

    def __init__(self, link: int, epoch: int, now: float) -> None:
        self.link = link
        self.epoch = epoch
        """That it had accepted when it came."""
        self.heard = now
        self.last = 0
        """Of its log, when it promised."""
        self.has_answered = False
        """About the epoch."""
        self.has_promised = False
        """And nobody else before."""
        self.gets_entries = False
        """It was sent the history, and is sent everything that follows."""
        self.is_synced = False
        self.logged = 0


class Leader(Role):
    """See above."""

    def __init__(self, member: Member, now: float) -> None:
        super().__init__(member)
        self._followers: dict[int, _Follower] = {}
        self._epoch: int | None = None
        """As soon as it is chosen."""
        self._syncs = False
        """Whether a quorum has promised."""
        self._decider: Decider | None = None
        """When established."""
        self._waiting: list[tuple[int, int, int]] = []
        """Syncs: the zxid that has to be committed first, the server, its question."""
        self._asked: deque[tuple[int, Question | AskSync]] = deque()
        """What followers want decided, in order, and who each of them is. Rule 3."""
        self._asked_at = 0.0
        """When the first of them came."""
        self._give_up_at = now + member.options.tick
        self._next_ping = now
        for other in member.others:
            member.send(other, member.vote(leads=True))
        self._choose_epoch(now)

    @property
    def mode(self) -> str | None:
        """`leader` when established."""
        return None if self._decider is None else "leader"

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All that are alive."""
        return () if self._decider is None else self._decider.sessions.alive

    @property
    def decider(self) -> Decider | None:
        """What decides, when established."""
        return self._decider

    @property
    def deadline(self) -> float:
        """What was asked, the next ping, or what ends by itself."""
        if self._asked:
            return self._asked_at
        return self._next_ping if self._decider is None else min(self._next_ping, self._decider.next_deadline())

    def handle_timer(self, now: float) -> None:
        """Decides what was asked, pings, counts who is there, and ends what ends by itself."""
        self._decide_what_was_asked(now)
        if now >= self._next_ping:
            self._next_ping = now + self.member.options.tick / 2
            self._look_after_followers(now)
        if self.member.role is self and self._decider is not None:
            for entry in self._decider.handle_timer(now):
                self._propose(entry, now)

    def _look_after_followers(self, now: float) -> None:
        options = self.member.options
        for number, follower in list(self._followers.items()):
            if now - follower.heard > options.sync_limit * options.tick:
                self._drop(number)
        if (self._decider is None and now >= self._give_up_at) or (
            self._decider is not None and self._count(lambda follower: follower.is_synced) < self.member.quorum
        ):
            self.member.look(now)
            return
        for number, follower in self._followers.items():
            self.member.send(number, Ping(follower.link))
        if self._decider is None:
            for other in self.member.others:
                if other not in self._followers:
                    self.member.send(other, self.member.vote(leads=True))

    def _drop(self, number: int) -> None:
        self.member.send(number, Gone(self._followers.pop(number).link))

    def lost(self, peer: int, now: float) -> None:
        """One less; whether there are enough is looked at with the next ping."""
        self._followers.pop(peer, None)

    def leave(self, now: float) -> None:
        """Followers are told."""
        for number in list(self._followers):
            self._drop(number)

    # -- from followers

    def receive(self, sender: int, message: Message, now: float) -> None:
        """What belongs to a link that is known counts."""
        if isinstance(message, Vote):
            self._hear_vote(sender, message, now)
            return
        if isinstance(message, Join):
            self._join(sender, message, now)
            return
        follower = self._followers.get(sender)
        if follower is None or follower.link != message.link:
            if not isinstance(message, Leave | Gone):
                self.member.send(sender, Gone(message.link))
            return
        follower.heard = now
        match message:
            case EpochAccepted():
                self._promised(sender, follower, message, now)
            case Synced():
                self._synced(sender, follower, message, now)
            case Logged():
                follower.logged = message.zxid
                self._advance(now)
            case Pong():
                self._touch(message.touched, now)
            case Question() | AskSync():
                self._put_off(sender, message, now)
            case AskAlive():
                self._tell_whether_alive(sender, follower, message, now)
            case Leave() | Gone():
                del self._followers[sender]

    def _hear_vote(self, sender: int, vote: Vote, now: float) -> None:
        if not vote.leads:
            self.member.send(sender, self.member.vote(leads=True))
        elif self._decider is None and vote.epoch >= self.member.accepted_epoch:
            self.member.look(now)  # somebody is further

    def _join(self, sender: int, message: Join, now: float) -> None:
        self._followers[sender] = _Follower(message.link, message.epoch, now)
        if self._epoch is None:
            self._choose_epoch(now)
        elif message.epoch > self._epoch:
            # It may follow nobody of this epoch; with a newer one all can go on together.
            self.member.look(now)
        else:
            self.member.send(sender, NewEpoch(message.link, self._epoch))

    def _choose_epoch(self, now: float) -> None:
        member = self.member
        if len(self._followers) + 1 < member.quorum:
            return
        known = [member.accepted_epoch, *(follower.epoch for follower in self._followers.values())]
        self._epoch = member.accepted_epoch = max(known) + 1
        self._give_up_at = now + member.options.init_limit * member.options.tick
        for number, follower in self._followers.items():
            member.send(number, NewEpoch(follower.link, self._epoch))
        self._begin_to_sync(now)

    def _promised(self, sender: int, follower: _Follower, message: EpochAccepted, now: float) -> None:
        mine = self.member.standing
        if self._decider is None and message.standing[:2] > mine[:2]:
            self.member.look(now)
            return
        follower.last = message.standing.zxid
        follower.has_answered, follower.has_promised = True, message.is_new
        if self._syncs:
            self._send_history(sender, follower)
        else:
            self._begin_to_sync(now)

    def _begin_to_sync(self, now: float) -> None:
        if self._syncs or self._count(lambda follower: follower.has_promised) < self.member.quorum:
            return
        assert self._epoch is not None
        self._syncs = True
        self.member.current_epoch = self._epoch
        for number, follower in self._followers.items():
            if follower.has_answered:
                self._send_history(number, follower)
        self._establish(now)

    def _send_history(self, number: int, follower: _Follower) -> None:
        assert self._epoch is not None
        follower.gets_entries = True
        snapshot, difference = self.member.history_for(follower.last)
        self.member.send(number, Sync(follower.link, self._epoch, snapshot, difference))

    def _synced(self, sender: int, follower: _Follower, message: Synced, now: float) -> None:
        follower.is_synced = True
        follower.logged = message.zxid
        if self._decider is None:
            self._establish(now)
        else:
            self.member.send(sender, Serve(follower.link, self.member.log.committed, self.member.tree.zxid))
            self._advance(now)

    def _establish(self, now: float) -> None:
        member = self.member
        if self._decider is not None or self._count(lambda follower: follower.is_synced) < member.quorum:
            return
        assert self._epoch is not None
        member.commit(member.log.last, now)
        # It shows the new epoch at once, its followers only with the first entry: seen with 3.8.0.
        member.tree.zxid = self._epoch << 32
        self._decider = member.new_decider(now)
        for number, follower in self._followers.items():
            if follower.is_synced:
                member.send(number, Serve(follower.link, member.log.last, 0))

    # -- decisions

    def expire(self, session_id: int, now: float) -> bool:
        """The session ends, now; whether that can be decided."""
        self._decide_what_was_asked(now)
        if self._decider is None:
            return False
        self._propose(self._decider.expire(session_id, now), now)
        return True

    def put(self, ask: Ask, now: float) -> None:
        """Decided, and proposed, behind what was asked before."""
        self._decide_what_was_asked(now)
        self._decide(ask, now)

    def _decide(self, ask: Ask, now: float) -> None:
        if self._decider is not None:
            self._propose(self._decider.decide(ask, now), now)

    def _put_off(self, sender: int, question: Question | AskSync, now: float) -> None:
        if not self._asked:
            self._asked_at = now
        self._asked.append((sender, question))

    def _decide_what_was_asked(self, now: float) -> None:
        """Rule 3."""
        while self._asked:
            sender, question = self._asked.popleft()
            if isinstance(question, Question):
                self._decide(question.ask, now)
            else:
                self._sync(sender, question.number)

    def _propose(self, entry: Entry, now: float) -> None:
        self.member.log.append(entry)
        for number, follower in self._followers.items():
            if follower.gets_entries:
                self.member.send(number, Proposal(follower.link, entry))
        self._advance(now)

    def _advance(self, now: float) -> None:
        """What a quorum has logged is committed."""
        member = self.member
        if self._decider is None:
            return
        logged = [member.log.last, *(each.logged for each in self._followers.values() if each.is_synced)]
        if len(logged) < member.quorum:
            return
        zxid = sorted(logged, reverse=True)[member.quorum - 1]
        if zxid <= member.log.committed:
            return
        ready = [wait for wait in self._waiting if wait[0] <= zxid]
        self._waiting = [wait for wait in self._waiting if wait[0] > zxid]
        for before, server, number in ready:
            self._commit(before, now)  # no further: what was asked behind the sync is answered behind it
            self._tell_synced(server, number)
        self._commit(zxid, now)

    def _commit(self, zxid: int, now: float) -> None:
        member = self.member
        if zxid > member.log.committed:
            member.commit(zxid, now)
            for number, follower in self._followers.items():
                if follower.is_synced:
                    member.send(number, Commit(follower.link, zxid))

    def _sync(self, server: int, number: int) -> None:
        log = self.member.log
        if log.last == log.committed:
            self._tell_synced(server, number)  # rule 1: nobody else is asked
        else:
            self._waiting.append((log.last, server, number))

    def _tell_synced(self, server: int, number: int) -> None:
        if server == self.member.number:
            self.member.answer_sync(number)
        elif server in self._followers:
            self.member.send(server, SyncDone(self._followers[server].link, number))

    # -- sessions

    def touch(self, session: Attached, now: float) -> None:
        """Of a client that is connected here."""
        self._touch((session,), now)

    def _touch(self, sessions: tuple[Attached, ...], now: float) -> None:
        if self._decider is not None:
            for session in sessions:
                self._decider.touch(session.id, session.timeout_ms, now)

    def _tell_whether_alive(self, sender: int, follower: _Follower, message: AskAlive, now: float) -> None:
        if self._decider is not None:
            session = message.session
            is_alive = self._decider.may_reattach(session.id, session.timeout_ms, sender, now)
            self.member.send(sender, Alive(follower.link, message.number, is_alive))

    def ask_whether_alive(self, connection: Connection, session: Attached, now: float) -> None:
        """Known here."""
        assert self._decider is not None
        number = self.member.question_about(connection, session)
        is_alive = self._decider.may_reattach(session.id, session.timeout_ms, self.member.number, now)
        self.member.answer_whether_alive(number, is_alive, now)

    def ask_to_sync(self, connection: Connection, now: float) -> None:
        """As for those who follow."""
        self._decide_what_was_asked(now)
        self._sync(self.member.number, self.member.question_of(connection))

    def _count(self, condition: Callable[[_Follower], bool]) -> int:
        """Those of whom it is true, and this member itself."""
        return 1 + sum(map(condition, self._followers.values()))
