"""One server of an ensemble, without its sockets and its clock. Pure.

    members = {n: Member(n, (1, 2, 3), Options(), epoch, now) for n in (1, 2, 3)}

Besides what every `Server` has: `take_messages` for the other members, to be brought to their `deliver` in order;
`peer_lost` when the connection to one breaks; `restart` after a crash. It is a model of ZooKeeper's atomic broadcast
(Junqueira, Reed, Serafini: Zab, DSN 2011) that is simpler in what clients can't see: votes, snapshots, disks. What
clients can see is to be as on real servers: who answers what during a partition, an election, or a pause.

    looking    who has no leader
    following  who has one
    leader     who is one
    log        what each of them has on its disk
    messages   what they tell each other

Rules of this module:
1. On disk are the log, the committed tree and the epochs; a crash takes everything else.
2. Only what is committed is in the tree; so a new leader never has to take anything back there.
3. Who has no leader has no clients: their connections are closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.devserver.core import Server
from everlatch.devserver.decider import Decider
from everlatch.devserver.entries import Ask, Entry, SessionChange
from everlatch.devserver.following import Following
from everlatch.devserver.leader import Leader
from everlatch.devserver.log import Difference, Log
from everlatch.devserver.looking import Looking
from everlatch.devserver.messages import Snapshot, Standing, Sync, Vote

if TYPE_CHECKING:
    from collections.abc import Collection

    from everlatch.devserver.connection import Attached, Connection
    from everlatch.devserver.messages import Message
    from everlatch.devserver.options import Options
    from everlatch.devserver.roles import Role
    from everlatch.devserver.sessions import Session
    from everlatch.wire.handshake import ConnectRequest

__all__ = ["Member"]


class Member(Server):
    """See above. `numbers` are those of all members, its own among them."""

    def __init__(self, number: int, numbers: Collection[int], options: Options, epoch: float, now: float) -> None:
        super().__init__(number, options, epoch)
        self.others = tuple(other for other in numbers if other != number)
        self.quorum = len(numbers) // 2 + 1
        self.lag = 0.0
        """Seconds by which it is behind while it follows. May be set at any time."""
        self.log = Log()
        self.accepted_epoch = self.current_epoch = 0
        """The newest one that it has promised to follow, and that of the history in its log."""
        self._known: dict[int, int] = {}
        """Timeouts in milliseconds of all sessions, by id; as far as the tree goes."""
        self._links = 0
        self._outbox: list[tuple[int, Message]] = []
        self._coming_back: dict[int, tuple[Connection, Attached]] = {}
        """Whose sessions the leader was asked about, by the number of the question."""
        self.role: Role = Looking(self, now)

    # -- for whoever has the network

    def take_messages(self) -> list[tuple[int, Message]]:
        """What goes to which member, once."""
        messages, self._outbox = self._outbox, []
        return messages

    def deliver(self, sender: int, message: Message, now: float) -> None:
        """From another member."""
        self.role.receive(sender, message, now)

    def peer_lost(self, peer: int, now: float) -> None:
        """The connection to that member has broken."""
        self.role.lost(peer, now)

    def restart(self, now: float) -> None:
        """After a crash: what is on disk is there. Connections are not, without `disconnect`."""
        self.connections.clear()
        self._outbox.clear()
        self._forget_clients()
        self._changed.clear()
        self.role = Looking(self, now)

    def next_deadline(self) -> float:
        """When `handle_timer` is next due; it may become earlier with everything that comes."""
        return min([self.role.deadline, *self._connection_deadlines()])

    def handle_timer(self, now: float) -> None:
        """What happens by itself."""
        self.role.handle_timer(now)
        self._close_silent(now)

    # -- for tests

    @property
    def is_leading(self) -> bool:
        """Whether it believes so."""
        return self.mode == "leader"

    def expire(self, session_id: int, now: float) -> bool:
        """The session ends, now, as if it had been silent for too long. Only a leader can; whether it is one."""
        return isinstance(self.role, Leader) and self.role.expire(session_id, now)

    # -- roles

    def look(self, now: float) -> None:
        """It has no leader."""
        self._change_role(now)
        self.role = Looking(self, now)

    def follow(self, leader: int, now: float) -> None:
        """It has found one."""
        self._change_role(now)
        self._links += 1
        self.role = Following(self, leader, self._links, now)

    def lead(self, now: float) -> None:
        """It tries to be one."""
        self._change_role(now)
        self.role = Leader(self, now)

    def _change_role(self, now: float) -> None:
        self.role.leave(now)
        self.is_read_only = False
        for connection in self.connections:
            connection.close()
        self._forget_clients()

    def _forget_clients(self) -> None:
        self._asking.clear()
        self._coming_back.clear()
        self._attached.clear()

    # -- for roles

    @property
    def standing(self) -> Standing:
        """How far its history goes."""
        return Standing(self.current_epoch, self.log.last, self.number)

    def vote(self, *, leads: bool) -> Vote:
        """What it says of itself."""
        return Vote(self.standing, leads, self.accepted_epoch)

    def send(self, to: int, message: Message) -> None:
        """To another member."""
        self._outbox.append((to, message))

    def history_for(self, last: int) -> tuple[Snapshot | None, Difference]:
        """What makes this member's history of one that ends at the zxid `last`."""
        difference = self.log.difference(last)
        if difference is not None:
            return None, difference
        committed = self.log.committed
        difference = self.log.difference(committed)
        assert difference is not None
        return Snapshot(self.tree.copy(), dict(self._known), committed), difference

    def take_history(self, sync: Sync) -> None:
        """That of a leader."""
        if sync.snapshot is not None:
            self.tree, self._known = sync.snapshot.tree, sync.snapshot.sessions
            self.log = Log(sync.snapshot.zxid)
        self.log.cut(sync.difference.cut_to)
        for entry in sync.difference.entries:
            self.log.append(entry)
        self.current_epoch = sync.epoch

    def commit(self, zxid: int, now: float) -> None:
        """Everything in the log up to there takes effect."""
        for entry in self.log.commit(zxid):
            self._apply(entry, now)

    def new_decider(self, now: float) -> Decider:
        """For a new leader: all sessions have their whole time again."""
        decider = Decider(self.options, self.tree.copy(), self._epoch, now)
        for session_id, timeout_ms in self._known.items():
            decider.sessions.begin(session_id, timeout_ms, now)
        return decider

    def question_of(self, connection: Connection) -> int:
        """A number for a question that this connection has."""
        return self._question_of(connection).number

    def question_about(self, connection: Connection, session: Attached) -> int:
        """A number for the question whether a session is alive that wants to come to this connection."""
        self._questions += 1
        self._coming_back[self._questions] = connection, session
        return self._questions

    def answer_whether_alive(self, number: int, is_alive: bool, now: float) -> None:
        """To a question of `question_about`."""
        connection, session = self._coming_back.pop(number)
        if is_alive:
            self.attach(connection, session, now)
        elif not connection.is_closing:
            connection.refuse()

    def answer_sync(self, number: int) -> None:
        """To a question of `question_of`."""
        connection = self._asking.pop(number, None)
        if connection is not None:
            connection.answer_sync()

    def attach(self, connection: Connection, session: Attached, now: float) -> None:
        """The session is on this connection from now on."""
        self._attach(connection, session, now)

    def detach(self, session_id: int) -> None:
        """The session has ended."""
        connection = self._attached.pop(session_id, None)
        if connection is not None:
            connection.close()

    def change_local_session(self, ask: Ask, now: float) -> None:
        """A session that only this server knows begins or ends."""
        self._change_session(SessionChange(ask.session_id, ask.timeout_ms), self._asker(ask.origin), now)

    # -- Server

    @property
    def mode(self) -> str | None:
        """`leader`, `follower`, `read-only`; `None`: it has no leader."""
        return self.role.mode

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All that are alive; only a leader watches over them."""
        return self.role.sessions

    def touch(self, session: Attached, now: float) -> None:
        """It was heard of."""
        self.role.touch(session, now)

    def ask_to_sync(self, connection: Connection, now: float) -> None:
        """Its turn comes when the leader says so."""
        self.role.ask_to_sync(connection, now)

    def greet(self, connection: Connection, request: ConnectRequest, now: float) -> None:
        """As every server does; one that is read-only only those who know it, with nothing but local sessions."""
        if self.is_read_only and not request.read_only:
            connection.close()
        else:
            super().greet(connection, request, now)

    def _put(self, ask: Ask, now: float) -> None:
        self.role.put(ask, now)

    def _ask_whether_alive(self, connection: Connection, session: Attached, now: float) -> None:
        self.role.ask_whether_alive(connection, session, now)

    def _apply(self, entry: Entry, now: float) -> None:
        self.tree.apply(entry.transaction)
        if entry.session is not None:
            if entry.session.timeout_ms:
                self._known[entry.session.id] = entry.session.timeout_ms
            else:
                self._known.pop(entry.session.id, None)
        super()._apply(entry, now)
