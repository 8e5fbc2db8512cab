"""A server without its sockets and its clock: bytes of connections in, bytes out. Pure.

    core = Core(Options(), epoch=time.time() - loop.time())
    connection = core.connect("127.0.0.1", 50123, now)
    connection.receive(data, now)                  # whatever came, in pieces of any size
    for changed in core.take_changed():            # all who have something to get, not only who spoke
        … changed.take_output(), changed.is_closing
    core.handle_timer(now)                         # at core.next_deadline()
    core.disconnect(connection)

Rules of this module: `now` is passed in, in seconds, and never goes back. Everything that a connection is to get is in
one list, in order: events before the reply that shows the change, replies in the order of requests. What a request
does is in `requests`; what the tree is told, `writes` has checked.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from everlatch.devserver.identities import Identity, may
from everlatch.devserver.requests import HANDLERS, Request
from everlatch.devserver.sessions import Sessions
from everlatch.devserver.tree import Transaction, Tree
from everlatch.devserver.watches import WatchTables
from everlatch.devserver.words import answer_to, is_word
from everlatch.devserver.writes import Author, Draft, end_of_session, reaping
from everlatch.errors import (
    AuthFailedError,
    InvalidArgumentError,
    MarshallingError,
    ProtocolError,
    ServerError,
    UnimplementedError,
)
from everlatch.types import Permission
from everlatch.wire.codes import KEEPER_STATE_SYNC_CONNECTED, XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import ConnectResponse, decode_connect_request, encode_connect_response
from everlatch.wire.headers import decode_request_header, encode_reply
from everlatch.wire.watch_records import encode_watcher_event

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from everlatch.devserver.sessions import Session
    from everlatch.devserver.tree import Event
    from everlatch.types import EventType
    from everlatch.wire.handshake import ConnectRequest

__all__ = ["Connection", "Core", "Options"]

_LONGEST_FRAME: Final = 0xFFFFF
_REQUEST_HEADER_SIZE: Final = 8
_WORD_SIZE: Final = 4
_LONGEST_WITHOUT_SESSION: Final = 10.0
"""Seconds that a connection may be silent about what it wants."""
_UNKNOWN_ZXID: Final = -1


@dataclass(frozen=True)
class Options:
    """How a server behaves. Times are in seconds."""

    version: Literal["3.8", "3.9"] = "3.9"
    """Of which ZooKeeper: the last releases of 3.8, or those of 3.9."""
    tick: float = 2.0
    min_session_timeout: float | None = None
    """`None`: two ticks."""
    max_session_timeout: float | None = None
    """`None`: 20 ticks."""
    super_digest: str | None = None
    """Who may do everything: `identities.digest(b"super:password")`."""
    reap_interval: float = 60.0
    """How often empty containers and old TTL nodes are looked for."""

    def __post_init__(self) -> None:
        if self.version not in ("3.8", "3.9"):
            raise InvalidArgumentError(f"the dev server is a 3.8 or a 3.9, not {self.version!r}")
        if not (self.tick > 0 and self.reap_interval > 0):
            raise InvalidArgumentError(f"tick {self.tick!r} and reap_interval {self.reap_interval!r}: must be over 0")

    @property
    def is_3_8(self) -> bool:
        """One watch mode a path and table, no watcher types of their own for persistent watches, no zxid in events,
        no IPv6 in ACLs."""
        return self.version == "3.8"


class Connection:
    """One connection, from its first byte to its last. Made by `Core.connect`."""

    def __init__(self, core: Core, host: str, port: int, now: float) -> None:
        self.core, self.host, self.port, self.since = core, host, port, now
        self.session: Session | None = None
        self.identities: dict[Identity, None] = {Identity("ip", host): None}
        self.watches = WatchTables(one_mode=core.options.is_3_8)
        self.is_closing = False
        """When its output is out it is to be closed. What still comes in is ignored."""
        self.received = self.sent = 0
        """Requests, and everything that went the other way."""
        self.last_op: int | None = None
        self.last_xid = 0
        self._reader = FrameReader(_LONGEST_FRAME)
        self._first: bytes | None = b""
        """What came before it was clear whether it is a word or a frame; then `None`."""
        self._output: list[bytes] = []

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the client."""
        if self.is_closing:
            return
        if self._first is not None:
            self._first += data
            if len(self._first) < _WORD_SIZE:
                return
            data, self._first = self._first, None
            if is_word(data[:_WORD_SIZE]):
                self._answer_word(data[:_WORD_SIZE].decode(), now)
                return
        # What can't be cut into frames, or has no whole header, ends the connection without a word.
        try:
            for buf, pos, end in self._reader.feed(data):
                self._read(buf, pos, end, now)
                if self.is_closing:
                    return
        except ProtocolError:
            self.close()

    def take_output(self) -> bytes:
        """All that is to be sent, once."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    # -- for requests and the core

    def reply(self, xid: int, err: int, body: bytes = b"", *, zxid: int | None = None) -> None:
        """An answer, with the present zxid unless told otherwise."""
        self._send(frame(encode_reply(xid, self.core.tree.zxid if zxid is None else zxid, err, body)))

    def notify(self, event: EventType, path: str, zxid: int = _UNKNOWN_ZXID) -> None:
        """A watch event."""
        body = encode_watcher_event(event.value, KEEPER_STATE_SYNC_CONNECTED, path)
        self.reply(XID_NOTIFICATION, 0, body, zxid=zxid)

    def close(self) -> None:
        """Behind what is already to be sent."""
        self.is_closing = True
        self.core.has_changed(self)

    # -- reading

    def _send(self, data: bytes) -> None:
        self._output.append(data)
        self.sent += 1
        self.core.has_changed(self)

    def _answer_word(self, word: str, now: float) -> None:
        self.received += 1
        self._send(answer_to(word, self.core, now).encode())
        self.close()

    def _read(self, buf: bytes, pos: int, end: int, now: float) -> None:
        self.received += 1
        if self.session is None:
            self._greet(decode_connect_request(buf, pos, end), now)
            return
        xid, op = decode_request_header(buf, pos, end)
        self.core.sessions.touch(self.session, now)
        self.last_op, self.last_xid = op, xid
        request = Request(op, (buf, pos + _REQUEST_HEADER_SIZE, end), now)
        if op == Op.AUTH:
            self._authenticate(xid, request)
        else:
            self._serve(XID_PING if op == Op.PING else xid, request)

    def _greet(self, request: ConnectRequest, now: float) -> None:
        core = self.core
        if request.last_zxid_seen > core.tree.zxid:  # the client would go back in time
            self.close()
            return
        read_only = None if request.read_only is None else False
        self.session = core.session_for(request, now)
        if self.session is None:
            response = ConnectResponse(0, 0, 0, bytes(16), read_only)
            self._send(frame(encode_connect_response(response)))
            self.close()
            return
        response = ConnectResponse(0, self.session.timeout_ms, self.session.id, self.session.password, read_only)
        self._send(frame(encode_connect_response(response)))

    def _authenticate(self, xid: int, request: Request) -> None:
        # Answered outside of the queue of requests: a body that can't be read ends the connection (see `receive`).
        try:
            HANDLERS[Op.AUTH](self, request)
        except AuthFailedError as refused:
            self.reply(xid, refused.code, zxid=0)
            self.close()
        else:
            self.reply(xid, 0, zxid=0)

    def _serve(self, xid: int, request: Request) -> None:
        handler = HANDLERS.get(request.op)
        if handler is None:
            self.reply(xid, UnimplementedError.code)
            self.close()
            return
        try:
            body = handler(self, request)
        except ServerError as refused:
            self.reply(xid, refused.code)
        except ProtocolError:
            self.reply(xid, MarshallingError.code)
        else:
            self.reply(xid, 0, body)
        if request.op == Op.CLOSE_SESSION:
            self.close()


class Core:
    """The server: nodes, sessions, connections. `epoch` is what makes milliseconds since 1970 of `now`."""

    def __init__(self, options: Options, epoch: float, now: float) -> None:
        self.options = options
        self.tree = Tree()
        self.sessions = Sessions(options.tick, options.min_session_timeout, options.max_session_timeout)
        self.connections: dict[Connection, None] = {}
        self.received = self.sent = 0
        """Of the connections that have ended."""
        self._epoch = epoch
        self._reap_at = now + options.reap_interval
        self._changed: dict[Connection, None] = {}

    def time_ms(self, now: float) -> int:
        """Since 1970."""
        return int((now + self._epoch) * 1000)

    # -- connections

    def connect(self, host: str, port: int, now: float) -> Connection:
        """A client has connected from there."""
        connection = Connection(self, host, port, now)
        self.connections[connection] = None
        return connection

    def disconnect(self, connection: Connection) -> None:
        """The connection is gone. Its session lives on."""
        del self.connections[connection]
        self._changed.pop(connection, None)
        self.received += connection.received
        self.sent += connection.sent

    def has_changed(self, connection: Connection) -> None:
        """It has something to send, or is to be closed."""
        self._changed[connection] = None

    def take_changed(self) -> Iterable[Connection]:
        """Those that have, since the last time; oldest first."""
        changed, self._changed = self._changed, {}
        return changed

    # -- time

    def next_deadline(self) -> float:
        """When `handle_timer` is next due; it may become earlier with every byte that is received."""
        waiting = [connection.since + _LONGEST_WITHOUT_SESSION for connection in self._without_session()]
        ends = self.sessions.next_deadline()
        deadlines: list[float] = [self._reap_at, *waiting]
        return min(deadlines if ends is None else [*deadlines, ends])

    def handle_timer(self, now: float) -> None:
        """Ends sessions that have not been heard of, connections that never said what they want, and nodes that go by
        themselves."""
        for session in self.sessions.expired(now):
            for connection in self._connections_of(session.id):
                connection.close()
            self.end_session(session, now)
        for connection in self._without_session():
            if now >= connection.since + _LONGEST_WITHOUT_SESSION:
                connection.close()
        if now >= self._reap_at:
            self._reap_at = now + self.options.reap_interval
            self.reap(now)

    def reap(self, now: float) -> None:
        """Containers that have become empty and TTL nodes whose time is over go, now."""
        for transaction in reaping(self.tree, self.time_ms(now)):
            self._apply(transaction)

    # -- sessions

    def session_for(self, request: ConnectRequest, now: float) -> Session | None:
        """A new session, or the one that is asked for; `None` if that has ended or isn't the client's. Whoever had it
        until now loses the connection, in either case."""
        if request.session_id == 0:
            self._apply(Transaction(self.tree.zxid + 1, self.time_ms(now)))
            return self.sessions.open(request.timeout_ms, now, self.time_ms(now))
        for connection in self._connections_of(request.session_id):
            connection.close()
        return self.sessions.reattach(request.session_id, request.password, request.timeout_ms, now)

    def end_session(self, session: Session, now: float) -> None:
        """It is over, and its ephemeral nodes are gone. Its connection is for the caller to close."""
        self.sessions.end(session)
        self._apply(end_of_session(self.tree, session.id, self.time_ms(now)))

    # -- writes

    @contextlib.contextmanager
    def writing(self, connection: Connection, now: float) -> Iterator[Draft]:
        """A transaction of this connection, whose watchers are told when it is done."""
        assert connection.session is not None
        author = Author(connection.session.id, connection.identities, ipv6=not self.options.is_3_8)
        draft = Draft(self.tree, author, self.time_ms(now))
        with draft:
            yield draft
        self._fire(draft.events)

    def _apply(self, transaction: Transaction) -> None:
        self._fire(self.tree.apply(transaction))

    def _fire(self, events: Collection[Event]) -> None:
        if not events:
            return
        watching = [connection for connection in self.connections if connection.watches and not connection.is_closing]
        for event in events:
            for connection in watching:
                # Who may not read the node isn't told, and has lost his watch all the same, as on real servers.
                if connection.watches.fire(event.type, event.path) and may(
                    event.acl, connection.identities, Permission.READ
                ):
                    zxid = _UNKNOWN_ZXID if self.options.is_3_8 else event.zxid
                    connection.notify(event.type, event.path, zxid)

    def _connections_of(self, session_id: int) -> list[Connection]:
        return [each for each in self.connections if each.session is not None and each.session.id == session_id]

    def _without_session(self) -> list[Connection]:
        return [each for each in self.connections if each.session is None and not each.is_closing]
