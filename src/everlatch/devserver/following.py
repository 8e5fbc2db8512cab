"""A follower: has its leader's history, logs what that proposes, applies what is committed, and passes questions on.

Rules of this module:
1. The leader hears of a session that was touched only when it next asks how things are (design of ZooKeeper: the
   answer to its ping). A question that is passed on is no touch.
2. Pings of clients are answered here, and so are reads: also while the leader can't be reached, until it is given up.
3. A follower may lag: what is committed, and the end of a sync, take effect only after `Member.lag`, in order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

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
    from everlatch.devserver.connection import Attached, Connection
    from everlatch.devserver.ensemble import Member
    from everlatch.devserver.entries import Ask
    from everlatch.devserver.messages import Message

__all__ = ["Following"]

_NEVER: Final = float("inf")
_Delayed: TypeAlias = Commit | SyncDone | Serve


class Following(Role):
    """See above."""

    def __init__(self, member: Member, leader: int, link: int, now: float) -> None:
        super().__init__(member)
        self.leader = leader
        self._link = link
        self._serves = False
        self._give_up_at = now + member.options.init_limit * member.options.tick
        self._touched: dict[int, Attached] = {}
        self._delayed: deque[tuple[float, _Delayed]] = deque()
        member.send(leader, Join(link, member.accepted_epoch))

    @property
    def mode(self) -> str | None:
        """`follower` as soon as it may serve."""
        return "follower" if self._serves else None

    @property
    def deadline(self) -> float:
        """What was delayed, or the end of patience."""
        return min(self._give_up_at, self._delayed[0][0] if self._delayed else _NEVER)

    def handle_timer(self, now: float) -> None:
        """Applies what was delayed, and gives a silent leader up."""
        while self._delayed and now >= self._delayed[0][0]:
            self._take_effect(self._delayed.popleft()[1], now)
        if now >= self._give_up_at:
            self.member.look(now)

    def lost(self, peer: int, now: float) -> None:
        """No leader, no follower."""
        if peer == self.leader:
            self.member.look(now)

    def leave(self, now: float) -> None:
        """As a connection that is closed tells it."""
        self.member.send(self.leader, Leave(self._link))

    # -- from the leader

    def receive(self, sender: int, message: Message, now: float) -> None:
        """What belongs to this link counts."""
        if isinstance(message, Vote):
            return
        if sender != self.leader or message.link != self._link:
            if not isinstance(message, Leave | Gone):
                self.member.send(sender, Gone(message.link))
            return
        limit = self.member.options.sync_limit if self._serves else self.member.options.init_limit
        self._give_up_at = now + limit * self.member.options.tick
        member = self.member
        match message:
            case Gone():
                member.look(now)
            case NewEpoch():
                self._accept(message.epoch, now)
            case Sync():
                member.take_history(message)
                self._tell(Synced(self._link, member.log.last))
            case Proposal():
                member.log.append(message.entry)
                self._tell(Logged(self._link, member.log.last))
            case Ping():
                touched, self._touched = self._touched, {}
                self._tell(Pong(self._link, tuple(touched.values())))
            case Alive():
                member.answer_whether_alive(message.number, message.is_alive, now)
            case Serve() | Commit() | SyncDone():
                self._delay(message, now)

    def _accept(self, epoch: int, now: float) -> None:
        member = self.member
        if epoch < member.accepted_epoch:
            member.look(now)
            return
        is_new = epoch > member.accepted_epoch
        member.accepted_epoch = epoch
        self._tell(EpochAccepted(self._link, member.standing, is_new))

    def _delay(self, message: _Delayed, now: float) -> None:
        if self._delayed or self.member.lag:
            self._delayed.append((now + self.member.lag, message))
        else:
            self._take_effect(message, now)

    def _take_effect(self, message: _Delayed, now: float) -> None:
        member = self.member
        match message:
            case Commit():
                member.commit(message.zxid, now)
            case SyncDone():
                member.answer_sync(message.number)
            case Serve():
                member.commit(message.committed, now)
                member.tree.zxid = max(member.tree.zxid, message.shown)
                self._serves = True

    def _tell(self, message: Message) -> None:
        self.member.send(self.leader, message)

    # -- from connections

    def touch(self, session: Attached, now: float) -> None:
        """Rule 1."""
        self._touched[session.id] = session

    def put(self, ask: Ask, now: float) -> None:
        """Passed on."""
        self._tell(Question(self._link, ask))

    def ask_whether_alive(self, connection: Connection, session: Attached, now: float) -> None:
        """Passed on."""
        self._tell(AskAlive(self._link, self.member.question_about(connection, session), session))

    def ask_to_sync(self, connection: Connection, now: float) -> None:
        """Passed on."""
        self._tell(AskSync(self._link, self.member.question_of(connection)))
