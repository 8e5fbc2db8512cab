"""One client's connection: bytes in, bytes out, everything in its order. Pure.

Rules of this module:
1. Requests are answered in the order in which they came. What only the leader can decide is passed on at once, and
   what comes behind it waits until that is answered: reads, and pings too. So a ping behind a write that can't be
   committed is not answered, as on real servers.
2. Out of that order come the answers to auth and sasl, the refusal of an unknown operation, and that of a client that
   has to authenticate first.
3. What comes behind a ConnectRequest waits until the session is there.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.devserver.entries import CREATE_SESSION
from everlatch.devserver.identities import Identity
from everlatch.devserver.requests import READS, WRITES, Request, is_readable
from everlatch.devserver.sasl import Exchange
from everlatch.devserver.sessions import password_of
from everlatch.devserver.watches import WatchTables
from everlatch.devserver.words import REFUSED_WRITE, LastAnswer, answer_to, is_word
from everlatch.errors import (
    AuthFailedError,
    MarshallingError,
    NotReadOnlyError,
    ProtocolError,
    ServerError,
    SessionClosedRequireAuthError,
    SessionMovedError,
    UnimplementedError,
)
from everlatch.wire.auth_records import encode_sasl_reply
from everlatch.wire.codes import KEEPER_STATE_SYNC_CONNECTED, XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import ConnectResponse, decode_connect_request, encode_connect_response
from everlatch.wire.headers import decode_request_header, encode_reply
from everlatch.wire.watch_records import encode_watcher_event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from everlatch.devserver.core import Server
    from everlatch.types import EventType
    from everlatch.wire.handshake import ConnectRequest

__all__ = ["Attached", "Connection"]

_LONGEST_FRAME: Final = 0xFFFFF
_WORD_SIZE: Final = 4
_LONGEST_WITHOUT_SESSION: Final = 10.0
"""Seconds that a connection may be silent about what it wants."""
_UNKNOWN_ZXID: Final = -1
_REQUEST_HEADER_SIZE: Final = 8
_ANSWERED_HERE: Final = frozenset(READS) - {Op.AUTH, Op.SASL, Op.SYNC}
_AUTHENTICATIONS: Final = (Op.AUTH, Op.SASL)
_REFUSED_READ_ONLY: Final = frozenset({*WRITES, Op.SYNC})


class Attached(NamedTuple):
    """The session that a connection has."""

    id: int
    """Signed, as on the wire."""
    timeout_ms: int

    @property
    def password(self) -> bytes:
        """16 bytes; every server can tell them from the id."""
        return password_of(self.id)


class _Turn(NamedTuple):
    """A request whose turn has not come. With `is_asked` it waits for the leader."""

    xid: int
    request: Request
    is_asked: bool


class Connection:
    """One connection, from its first byte to its last. Made by `Server.connect`."""

    def __init__(self, core: Server, host: str, port: int, now: float) -> None:
        self.core, self.host, self.port, self.since, self.heard = core, host, port, now, now
        self.session: Attached | None = None
        self.greeting: ConnectRequest | None = None
        """What the client wants, as soon as it has said so. Until there is a session, all else waits."""
        self.identities: dict[Identity, None] = {Identity("ip", host): None}
        users = core.options.sasl
        self.exchange = None if users is None else Exchange(users, core.nonce(now))
        """Of SASL, if the server knows that."""
        self.watches = WatchTables(one_mode=not core.options.features.many_modes)
        self.is_closing = False
        """When its output is out it is to be closed. What still comes in is ignored."""
        self.received = self.sent = 0
        """Requests, and everything that went the other way."""
        self.last = LastAnswer()
        self._operations = core.options.features.operations
        self._reader = FrameReader(_LONGEST_FRAME)
        self._first: bytes | None = b""
        """What came before it was clear whether it is a word or a frame; then `None`."""
        self._early: list[bytes] = []
        """What came behind the greeting, before there was a session."""
        self._turns: deque[_Turn] = deque()
        self._output: list[bytes] = []

    @property
    def deadline(self) -> float:
        """When it is closed unless something comes: it may be gone without a word."""
        if self.session is None:
            return self.since + _LONGEST_WITHOUT_SESSION
        return self.heard + self.session.timeout_ms / 1000

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the client."""
        if self.is_closing:
            return
        self.heard = now
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

    # -- from the server

    def welcome(self, session: Attached, now: float, *, read_only: bool = False) -> None:
        """The connection has a session; what waited for it is read now."""
        self.session = session
        if self.greeting is not None and self.greeting.session_id == 0:
            self.last = LastAnswer(CREATE_SESSION, 0, self.core.tree.zxid)
        self._greet_back(ConnectResponse(0, session.timeout_ms, session.id, session.password, read_only))
        early, self._early = self._early, []
        try:
            for payload in early:
                if not self.is_closing:
                    self._read(payload, 0, len(payload), now)
        except ProtocolError:
            self.close()

    def refuse(self) -> None:
        """The session that was asked for has expired, or isn't the client's."""
        self._greet_back(ConnectResponse(0, 0, 0, bytes(16), False))
        self.close()

    def identify(self, gained: Iterable[Identity]) -> None:
        """The client is these, too."""
        # Not updated in place: requests that are on their way to the leader have those that it had.
        self.identities = self.identities | dict.fromkeys(gained)

    def answer(self, code: int, body: bytes, now: float) -> None:
        """What the leader has decided of the oldest request that was passed on."""
        if self.is_closing:
            return
        turn = self._turns.popleft()
        assert turn.is_asked, turn
        if code == SessionMovedError.code:
            self.close()
            return
        self._reply_in_turn(turn.request.op, turn.xid, code, body)
        if turn.request.op == Op.CLOSE_SESSION:
            self.close()
        self._go_on()

    def answer_sync(self) -> None:
        """The oldest request that was passed on, a sync, has come back."""
        if self.is_closing:
            return
        turn = self._turns.popleft()
        assert turn.request.op == Op.SYNC, turn
        self._answer_here(turn.xid, turn.request)
        self._go_on()

    def notify(self, event: EventType, path: str, zxid: int = _UNKNOWN_ZXID) -> None:
        """A watch event."""
        body = encode_watcher_event(event.value, KEEPER_STATE_SYNC_CONNECTED, path)
        self.reply(XID_NOTIFICATION, 0, body, zxid=zxid)

    def reply(self, xid: int, err: int, body: bytes = b"", *, zxid: int | None = None) -> None:
        """An answer, with the present zxid unless told otherwise."""
        self._send(frame(encode_reply(xid, self.core.tree.zxid if zxid is None else zxid, err, body)))

    def close(self) -> None:
        """Behind what is already to be sent."""
        self.is_closing = True
        self._turns.clear()
        self._early.clear()
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

    def _greet_back(self, response: ConnectResponse) -> None:
        assert self.greeting is not None
        if self.greeting.read_only is None:
            response = response._replace(read_only=None)
        self._send(frame(encode_connect_response(response)))

    def _read(self, buf: bytes, pos: int, end: int, now: float) -> None:
        if self.session is None:
            if self.greeting is None:
                self.received += 1
                self.greeting = decode_connect_request(buf, pos, end)
                self.core.greet(self, self.greeting, now)
            else:
                self._early.append(buf[pos:end])
            return
        self.received += 1
        xid, op = decode_request_header(buf, pos, end)
        pos += _REQUEST_HEADER_SIZE
        self.core.touch(self.session, now)
        if op not in _AUTHENTICATIONS and self._must_authenticate:
            self.reply(xid, SessionClosedRequireAuthError.code, zxid=0)
            self.close()
        elif op in _ANSWERED_HERE and op in self._operations:
            self._answer_in_turn(XID_PING if op == Op.PING else xid, Request(op, (buf, pos, end)))
        else:
            self._serve(xid, op, buf[pos:end], now)

    def _answer_in_turn(self, xid: int, request: Request) -> None:
        if self._turns:
            buf, pos, end = request.body
            body = buf[pos:end]
            self._turns.append(_Turn(xid, request._replace(body=(body, 0, len(body))), is_asked=False))
        else:
            self._answer_here(xid, request)

    def _answer_here(self, xid: int, request: Request) -> None:
        try:
            if request.op not in READS:  # a write that can't be read, which is not for the leader
                raise MarshallingError
            body = READS[request.op](self, request)
        except ServerError as refused:
            self._reply_in_turn(request.op, xid, refused.code)
        except ProtocolError:
            self._reply_in_turn(request.op, xid, MarshallingError.code)
        else:
            self._reply_in_turn(request.op, xid, 0, body)

    def _reply_in_turn(self, op: int, xid: int, code: int, body: bytes = b"") -> None:
        noted = op if op in READS or code == 0 else REFUSED_WRITE
        self.last = LastAnswer(noted, xid if xid >= 0 else self.last.xid, self.core.tree.zxid)
        self.reply(xid, code, body)

    def _serve(self, xid: int, op: int, body: bytes, now: float) -> None:
        """Everything but the reads."""
        request = Request(op, (body, 0, len(body)))
        if op in _AUTHENTICATIONS:
            self._authenticate(xid, request)
        elif op not in self._operations:
            if op != Op.CHECK or self.core.options.features.answers_check:
                self.reply(xid, UnimplementedError.code, zxid=_UNKNOWN_ZXID)
                self.close()
        elif self.core.is_read_only and op in _REFUSED_READ_ONLY:
            self.reply(xid, NotReadOnlyError.code)
        elif not self.core.options.features.malformed_counted and not is_readable(op, body):
            self._answer_in_turn(xid, request)
        else:
            self._turns.append(_Turn(xid, request, is_asked=True))
            if op == Op.SYNC:
                self.core.ask_to_sync(self, now)
            else:
                self.core.ask(self, op, body, now)

    @property
    def _must_authenticate(self) -> bool:
        demanded = self.core.options.demanded_scheme
        return demanded is not None and all(identity.scheme != demanded for identity in self.identities)

    def _go_on(self) -> None:
        """Answers what only waited for its turn."""
        while self._turns and not self._turns[0].is_asked:
            turn = self._turns.popleft()
            self._answer_here(turn.xid, turn.request)

    def _authenticate(self, xid: int, request: Request) -> None:
        # A body that can't be read ends the connection (see `receive`).
        try:
            body = READS[request.op](self, request)
        except AuthFailedError as refused:
            if request.op == Op.SASL:
                code = SessionClosedRequireAuthError.code if self.core.options.require_auth else refused.code
                self.reply(xid, code, encode_sasl_reply(None), zxid=0)
            else:
                self.reply(xid, refused.code, zxid=0)
            self.close()
        else:
            self.reply(xid, 0, body, zxid=0)
