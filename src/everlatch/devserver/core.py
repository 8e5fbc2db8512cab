"""A server without its sockets and its clock: bytes of connections in, bytes out. Pure.

    core = Core(Options(), epoch=time.time() - loop.time())
    connection = core.connect("127.0.0.1", 50123, now)
    connection.receive(data, now)                  # whatever came, in pieces of any size
    for changed in core.take_changed():            # all who have something to get, not only who spoke
        … changed.take_output(), changed.is_closing
    core.handle_timer(now)                         # at core.next_deadline()
    core.disconnect(connection)

`Server` is what all servers have in common; `Core` is one that is alone, `ensemble.Member` one among several.

Rules of this module: `now` is passed in, in seconds, and never goes back. Everything that a connection is to get is in
one list, in order: events before the reply that shows the change, replies in the order of requests. What the leader
has decided comes as entries of the log, and here they are applied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from everlatch.devserver.connection import Attached, Connection
from everlatch.devserver.decider import Decider
from everlatch.devserver.entries import CREATE_SESSION, Ask, Origin
from everlatch.devserver.identities import may
from everlatch.devserver.sasl import nonce
from everlatch.devserver.sessions import SessionIds, negotiated, password_of
from everlatch.devserver.tree import Tree
from everlatch.types import Permission

if TYPE_CHECKING:
    from collections.abc import Iterable

    from everlatch.devserver.entries import Entry, SessionChange
    from everlatch.devserver.options import Options
    from everlatch.devserver.sessions import Session
    from everlatch.devserver.tree import Event
    from everlatch.wire.handshake import ConnectRequest

__all__ = ["Core", "Server"]

_UNKNOWN_ZXID: Final = -1
_ALONE: Final = 1
"""The number of a server that has no others to tell it apart from."""


class Server(ABC):
    """One server: its connections, and the nodes as far as it knows them. `epoch` is what makes milliseconds since 1970
    of `now`."""

    def __init__(self, number: int, options: Options, epoch: float) -> None:
        self.number = number
        self.options = options
        self.tree = Tree()
        self.connections: dict[Connection, None] = {}
        self.received = self.sent = 0
        """Of the connections that have ended."""
        self.is_read_only = False
        self._epoch = epoch
        self._changed: dict[Connection, None] = {}
        self._attached: dict[int, Connection] = {}
        """By the id of the session."""
        self._asking: dict[int, Connection] = {}
        """Who waits for the answer to which question."""
        self._questions = 0
        self._nonces = 0
        self._ids = SessionIds(number)

    def time_ms(self, now: float) -> int:
        """Since 1970."""
        return int((now + self._epoch) * 1000)

    def nonce(self, now: float) -> str:
        """For one exchange; never the same twice."""
        self._nonces += 1
        return nonce(self.number, self.time_ms(now), self._nonces)

    # -- for the four-letter words

    @property
    @abstractmethod
    def mode(self) -> str | None:
        """`standalone`, `leader`, `follower` or `read-only`; `None`: it doesn't serve."""

    @property
    @abstractmethod
    def sessions(self) -> tuple[Session, ...]:
        """All that are alive, as far as this server watches over them."""

    # -- for connections

    @abstractmethod
    def touch(self, session: Attached, now: float) -> None:
        """It was heard of."""

    def ask(self, connection: Connection, op: int, body: bytes, now: float) -> None:
        """Something that the leader has to decide; `Connection.answer` follows."""
        assert connection.session is not None
        origin = self._question_of(connection)
        self._put(Ask(origin, op, connection.session.id, body, connection.identities), now)

    @abstractmethod
    def ask_to_sync(self, connection: Connection, now: float) -> None:
        """The connection wants to see what the leader has committed; `Connection.answer_sync` follows."""

    def greet(self, connection: Connection, request: ConnectRequest, now: float) -> None:
        """A client has said what it wants. It gets a session, is refused, or loses the connection."""
        if self.mode is None or request.last_zxid_seen > self.tree.zxid:  # it would go back in time
            connection.close()
        elif request.session_id == 0:
            self._begin_session(connection, request, now)
        else:
            self._reattach_session(connection, request, now)

    def has_changed(self, connection: Connection) -> None:
        """It has something to send, or is to be closed."""
        self._changed[connection] = None

    # -- for whoever has the sockets

    def connect(self, host: str, port: int, now: float) -> Connection:
        """A client has connected from there."""
        connection = Connection(self, host, port, now)
        self.connections[connection] = None
        return connection

    def disconnect(self, connection: Connection) -> None:
        """The connection is gone. Its session lives on."""
        if connection not in self.connections:  # forgotten in a crash
            return
        connection.close()
        del self.connections[connection]
        self._changed.pop(connection, None)
        if connection.session is not None and self._attached.get(connection.session.id) is connection:
            del self._attached[connection.session.id]
        self.received += connection.received
        self.sent += connection.sent

    def take_changed(self) -> Iterable[Connection]:
        """Those that have, since the last time; oldest first."""
        changed, self._changed = self._changed, {}
        return changed

    @abstractmethod
    def next_deadline(self) -> float:
        """When `handle_timer` is next due; it may become earlier with every byte that is received."""

    @abstractmethod
    def handle_timer(self, now: float) -> None:
        """What happens by itself."""

    # -- sessions

    def _begin_session(self, connection: Connection, request: ConnectRequest, now: float) -> None:
        timeout_ms = negotiated(request.timeout_ms, self.options)
        origin = self._question_of(connection)
        self._put(Ask(origin, CREATE_SESSION, self._ids.next(self.time_ms(now)), timeout_ms=timeout_ms), now)

    def _reattach_session(self, connection: Connection, request: ConnectRequest, now: float) -> None:
        former = self._attached.get(request.session_id)
        if former is not None:  # even if the password is wrong
            former.close()
        if request.password != password_of(request.session_id):
            connection.refuse()
            return
        session = Attached(request.session_id, negotiated(request.timeout_ms, self.options))
        self._ask_whether_alive(connection, session, now)

    def _attach(self, connection: Connection, session: Attached, now: float) -> None:
        if connection in self.connections and not connection.is_closing:
            self._attached[session.id] = connection
            connection.welcome(session, now, read_only=self.is_read_only)

    # -- the leader

    @abstractmethod
    def _put(self, ask: Ask, now: float) -> None:
        """The leader is asked; an entry of the log follows."""

    @abstractmethod
    def _ask_whether_alive(self, connection: Connection, session: Attached, now: float) -> None:
        """The leader is asked for a session that comes back; `_attach` follows, or `Connection.refuse`."""

    def _question_of(self, connection: Connection) -> Origin:
        self._questions += 1
        self._asking[self._questions] = connection
        return Origin(self.number, self._questions)

    def _asker(self, origin: Origin | None) -> Connection | None:
        return self._asking.pop(origin.number, None) if origin is not None and origin.server == self.number else None

    # -- the log

    def _apply(self, entry: Entry, now: float) -> None:
        """It is committed, and everybody here hears of it who is to."""
        self._fire(entry.events)
        connection = self._asker(entry.origin)
        if entry.session is not None:
            self._change_session(entry.session, connection, now)
        elif connection is not None:
            connection.answer(entry.code, entry.body, now)

    def _change_session(self, change: SessionChange, connection: Connection | None, now: float) -> None:
        if change.timeout_ms:
            if connection is not None:
                self._attach(connection, Attached(*change), now)
            return
        if connection is not None:
            connection.answer(0, b"", now)
        attached = self._attached.pop(change.id, None)
        if attached is not None and not attached.is_closing:
            attached.close()

    def _fire(self, events: Iterable[Event]) -> None:
        if not events:
            return
        watching = [connection for connection in self.connections if connection.watches and not connection.is_closing]
        features = self.options.features
        for event in events:
            for connection in watching:
                if not connection.watches.fire(event.type, event.path):
                    continue
                # Who may not read the node isn't told, and has lost his watch all the same, as on real servers.
                if not features.events_need_read or may(event.acl, connection.identities, Permission.READ):
                    zxid = event.zxid if features.zxid_in_events else _UNKNOWN_ZXID
                    connection.notify(event.type, event.path, zxid)

    def _close_silent(self, now: float) -> None:
        """Those of whom nothing was heard for too long. Their sessions may have moved, and they themselves be gone."""
        for connection in self.connections:
            if now >= connection.deadline and not connection.is_closing:
                connection.close()

    def _connection_deadlines(self) -> list[float]:
        return [connection.deadline for connection in self.connections if not connection.is_closing]


class Core(Server):
    """A server that is alone: what is asked of it, it decides at once."""

    def __init__(self, options: Options, epoch: float, now: float) -> None:
        super().__init__(_ALONE, options, epoch)
        # One tree for both: what is decided is committed.
        self.decider = Decider(options, self.tree, epoch, now)

    @property
    def mode(self) -> str:
        """Always `standalone`."""
        return "standalone"

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All that are alive."""
        return self.decider.sessions.alive

    def touch(self, session: Attached, now: float) -> None:
        """It was heard of."""
        self.decider.touch(session.id, session.timeout_ms, now)

    def ask_to_sync(self, connection: Connection, now: float) -> None:
        """There is nothing to wait for."""
        connection.answer_sync()

    def next_deadline(self) -> float:
        """When `handle_timer` is next due; it may become earlier with every byte that is received."""
        return min([self.decider.next_deadline(), *self._connection_deadlines()])

    def handle_timer(self, now: float) -> None:
        """Ends sessions that have not been heard of, connections that never said what they want, and nodes that go by
        themselves."""
        for entry in self.decider.handle_timer(now):
            self._apply(entry, now)
        self._close_silent(now)

    def expire(self, session_id: int, now: float) -> None:
        """The session ends, now, as if it had been silent for too long."""
        self._apply(self.decider.expire(session_id, now), now)

    def reap(self, now: float) -> None:
        """Containers that have become empty and TTL nodes whose time is over go, now."""
        for entry in self.decider.reap(now):
            self._apply(entry, now)

    def _put(self, ask: Ask, now: float) -> None:
        self._apply(self.decider.decide(ask, now), now)

    def _ask_whether_alive(self, connection: Connection, session: Attached, now: float) -> None:
        if self.decider.may_reattach(session.id, session.timeout_ms, self.number, now):
            self._attach(connection, session, now)
        else:
            connection.refuse()
