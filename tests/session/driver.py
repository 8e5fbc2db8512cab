"""A session under test: an engine that only keeps books, a server that says what the test tells it to, and a clock
that the test sets.

Every input is followed by what the engine does: the actions are performed (noted here), and what the session wants to
send is taken apart as the server would.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any, NamedTuple

from everlatch.errors import ConnectFailedError, ConnectionClosedByServerError
from everlatch.paths import Endpoint
from everlatch.session.actions import Announce, AskServers, Closed, Dial, HangUp, Resolve, RoundFailed
from everlatch.session.requests import Operation, Request
from everlatch.session.servers import Address
from everlatch.session.session import Phase, Session, SessionOptions
from everlatch.session.watches import CHILD, DATA
from everlatch.types import EventType, Node, Stat, State
from everlatch.wire.auth_records import encode_auth_request
from everlatch.wire.codes import KEEPER_STATE_SYNC_CONNECTED, XID_AUTH, XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import ConnectResponse, decode_connect_request, encode_connect_response
from everlatch.wire.headers import decode_request_header, encode_reply
from everlatch.wire.multi import CheckResult, encode_multi_reply
from everlatch.wire.records import (
    decode_exists_reply,
    decode_get_children_reply,
    decode_get_data_reply,
    encode_exists_reply,
    encode_get_children_reply,
    encode_get_data_reply,
    encode_set_data_request,
)
from everlatch.wire.watch_records import SetWatchesRequest, decode_set_watches_request, encode_watcher_event

STAT = Stat(1, 2, 0, 0, 3, 0, 0, 0, 5, 0, 1)
NODE = Node(b"value", STAT)
PASSWORD = bytes(range(16))

GET = Operation("get", Op.GET_DATA, decode_get_data_reply, watch=DATA)
EXISTS = Operation("exists", Op.EXISTS, decode_exists_reply, watch=DATA, missing_is_none=True)
CHILDREN = Operation("children", Op.GET_CHILDREN, decode_get_children_reply, watch=CHILD)
SET = Operation("set", Op.SET_DATA, decode_exists_reply, is_write=True)
ADD_AUTH = Operation("add_auth", Op.AUTH, lambda _buf, _pos, _end: None)

BODIES = {
    Op.GET_DATA: encode_get_data_reply(*NODE),
    Op.EXISTS: encode_exists_reply(STAT),
    Op.GET_CHILDREN: encode_get_children_reply(["a", "b"]),
    Op.SET_DATA: encode_exists_reply(STAT),
    Op.MULTI: encode_multi_reply([CheckResult()]),
}
"""What the server answers when all is well; nothing to other operations."""


def body_of(operation: Operation, path: str) -> bytes:
    """Of a request on a node. That of a write can be decoded, as settlement does; reads have the bare path."""
    return encode_set_data_request(path, b"", -1) if operation.op == Op.SET_DATA else path.encode()


def path_in(body: bytes) -> str:
    """The node that a request is about: real bodies begin with the length of its path."""
    return body.decode() if body.startswith(b"/") else body[4 : 4 + int.from_bytes(body[:4], "big")].decode()


class Call:
    """The caller's end of a request, which counts how often it was ended."""

    def __init__(self) -> None:
        self.ends = 0
        self.cancelled = False
        self.result: Any = None
        self.error: BaseException | None = None

    def done(self) -> bool:
        return self.ends > 0 or self.cancelled

    def set_result(self, result: Any, /) -> None:
        self.ends += 1
        self.result = result

    def set_exception(self, exception: BaseException, /) -> None:
        self.ends += 1
        self.error = exception


class Sent(NamedTuple):
    """One request as the server sees it."""

    conn: int
    xid: int
    op: int
    body: bytes


class Driver:
    """Drives one session; `now` is what the clock shows."""

    def __init__(self, hosts: str = "10.0.0.1", *, seed: int = 0, start: bool = True, **options: Any) -> None:
        endpoints = [Endpoint(host, 2181) for host in hosts.split(",")]
        options = {"shuffle": False, "session_timeout": 6.0} | options
        self.now = 100.0
        self.fired: list[Any] = []
        self.session = Session(
            SessionOptions(endpoints, **options),
            random.Random(seed),
            lambda callbacks, event: self.fired.append((callbacks, event)),
        )
        # What the engine was told, in order, and what of it matters most.
        self.actions: list[Any] = []
        self.changes: list[Any] = []
        self.attempts: list[Any] = []
        """Dial and Resolve."""
        self.open: set[int] = set()
        """Attempts and connections that have not ended."""
        # What the server got.
        self.handshakes: list[Any] = []
        self.offered: list[int] = []
        """The connections that they were sent on."""
        self.sent: list[Sent] = []
        self.unanswered: deque[Sent] = deque()
        """Of the present connection."""
        self._reader = FrameReader(1 << 30)
        self._reading = 0
        self._shaken = False
        self.zxid = 1000
        self.session_id = 0x1234
        if start:
            self.session.start(self.now)
            self.pump()

    # -- the engine

    def pump(self) -> None:
        session = self.session
        has_output = session.has_output
        while session.actions:
            assert has_output
            action = session.actions.popleft()
            self.actions.append(action)
            if isinstance(action, Announce):
                self.changes.append(action.change)
            elif isinstance(action, (Dial, Resolve)):
                assert action.conn not in self.open, "every attempt has a number of its own"
                self.attempts.append(action)
                self.open.add(action.conn)
            elif isinstance(action, HangUp):
                assert action.conn in self.open, "what has ended is not hung up"
                self.open.remove(action.conn)
        assert self.open == self.wanted, "what is of no use is hung up, and nothing else"
        if session.phase in (Phase.HANDSHAKE, Phase.AUTHENTICATING, Phase.SERVING, Phase.LEAVING):
            data = session.data_to_send(self.now)
            assert has_output or not data, "an engine that trusts `has_output` would not have sent this"
            self._take(session.conn, data)
        else:
            assert session.data_to_send(self.now) == b"", "bytes without a connection"

    @property
    def wanted(self) -> set[int]:
        """Attempts and connections that the session has a use for."""
        session = self.session
        return {*self.rivals, *([] if session.phase is Phase.IDLE else [session.conn])}

    @property
    def rivals(self) -> list[int]:
        return [rival.conn for rival in self.session._rivals]

    def _take(self, conn: int, data: bytes) -> None:
        if conn != self._reading:
            self._reading, self._reader, self._shaken = conn, FrameReader(1 << 30), False
            self.unanswered.clear()
        for buf, start, end in self._reader.feed(data):
            if not self._shaken:
                self._shaken = True
                assert not self.open & {*self.offered} - {conn}, "one ConnectRequest at a time"
                self.offered.append(conn)
                self.handshakes.append(decode_connect_request(buf, start, end))
                continue
            request = Sent(conn, *decode_request_header(buf, start, end), buf[start + 8 : end])
            self.sent.append(request)
            self.unanswered.append(request)
        assert self._reader.pending == 0, "only whole frames are sent"

    def tick(self, seconds: float) -> None:
        """Lets time pass, in one step, and handles the timer."""
        self.now += seconds
        self.session.handle_timer(self.now)
        self.pump()

    def run(self, seconds: float) -> None:
        """Lets time pass as an engine would: the timer is handled whenever it is due."""
        end = self.now + seconds
        while (deadline := self.session.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.session.handle_timer(self.now)
            self.pump()
        self.now = end

    def wake(self) -> None:
        """Lets time pass until the timer is due, and handles it."""
        deadline = self.session.next_deadline()
        assert deadline is not None
        self.tick(max(0.0, deadline - self.now))

    def made(self, conn: int | None = None) -> None:
        """The present attempt, or another one, reaches its server; if a back-off is before it, that passes."""
        while conn is None and self.session.phase is Phase.IDLE:
            self.wake()
        self.session.connection_made(self.session.conn if conn is None else conn, self.now)
        self.pump()

    def lose(self, reason: BaseException | None = None, conn: int | None = None) -> None:
        """The server closes the present connection, or another one."""
        conn = self.session.conn if conn is None else conn
        self.open.discard(conn)
        self.session.connection_lost(conn, reason or ConnectionClosedByServerError("gone"), self.now)
        self.pump()

    def refuse(self, conn: int | None = None) -> None:
        """The attempt fails."""
        self.lose(ConnectFailedError("refused"), conn)

    def resolve(self, *ips: str, conn: int | None = None) -> None:
        conn = self.session.conn if conn is None else conn
        if self.session.phase is Phase.RESOLVING or conn in self.rivals:
            self.open.discard(conn)
        self.session.resolved(conn, ips, self.now)
        self.pump()

    def until_hung_up(self) -> None:
        """Time passes until the present attempt is given up; its rivals may be before it."""
        conn = self.session.conn
        while conn in self.open:
            self.wake()

    # -- other servers

    def lives(self, ip: str) -> None:
        """A server has answered, asked over a connection of its own because the link is in doubt."""
        self.session.server_answered(self.session.conn, Address(ip, 2181, Endpoint(ip, 2181)), self.now)
        self.pump()

    def tells(self, ip: str, mode: str | None, zxid: int | None) -> None:
        """A server has told what it is."""
        self.session.server_is(Address(ip, 2181, Endpoint(ip, 2181)), mode, zxid, self.now)
        self.pump()

    def update(self, hosts: str) -> None:
        """Another list of servers."""
        self.session.update_servers([Endpoint(host, 2181) for host in hosts.split(",")], self.now)
        self.pump()

    # -- the server

    def feed(self, *payloads: bytes) -> None:
        """Frames from the server, in one read."""
        self.session.bytes_received(self.session.conn, b"".join(map(frame, payloads)), self.now)
        self.pump()

    def grant(
        self, session_id: int | None = None, timeout_ms: int = 6000, read_only: bool | None = False, version: int = 0
    ) -> None:
        """Answers the ConnectRequest; without an id, with the one that was offered, or a new one."""
        if session_id is None:
            session_id = self.handshakes[-1].session_id or self.session_id
        self.feed(encode_connect_response(ConnectResponse(version, timeout_ms, session_id, PASSWORD, read_only)))

    def expire(self) -> None:
        """Answers the ConnectRequest with a refusal."""
        self.feed(encode_connect_response(ConnectResponse(0, 0, 0, bytes(16), False)))

    def connect(self, session_id: int | None = None, timeout_ms: int = 6000) -> None:
        """From an attempt to a session."""
        self.made()
        self.grant(session_id, timeout_ms)

    def answer(self, count: int = 1) -> None:
        """Answers so many requests, each in a read of its own."""
        for _ in range(count):
            self.feed(self.reply_to(self.unanswered[0]))

    def reply_to(self, request: Sent, err: int = 0, zxid: int | None = None, body: bytes | None = None) -> bytes:
        """A reply, ready to be fed."""
        self.unanswered.remove(request)
        if zxid is None:
            self.zxid += 1
            zxid = 0 if request.xid == XID_AUTH else self.zxid
        if body is None:
            body = BODIES.get(request.op, b"")  # type: ignore[call-overload]
        return encode_reply(request.xid, zxid, err, b"" if err else body)

    def event(self, event: EventType | int, path: str, zxid: int = -1) -> None:
        number = event.value if isinstance(event, EventType) else event
        body = encode_watcher_event(number, KEEPER_STATE_SYNC_CONNECTED, path)
        self.feed(encode_reply(XID_NOTIFICATION, zxid, 0, body))

    # -- the application

    def call(self, operation: Operation = GET, path: str = "/node", body: bytes | None = None, **more: Any) -> Call:
        """Submits a request that nobody will cancel."""
        return self.submit(operation, path, body, **more)[0]

    def submit(
        self,
        operation: Operation = GET,
        path: str = "/node",
        body: bytes | None = None,
        at_once: bool = False,
        **more: Any,
    ) -> tuple[Call, Request]:
        call = Call()
        request = Request(call, operation, path, body_of(operation, path) if body is None else body, **more)
        data = self.session.submit(request, self.now, at_once=at_once)
        if data:
            self._take(self.session.conn, data)
        self.pump()
        return call, request

    def cancel(self, call: Call, request: Request) -> None:
        """What cancelling a call does."""
        call.cancelled = True
        self.session.requests.withdraw(request)

    def authenticate(self, credentials: bytes = b"me:secret", **more: Any) -> Call:
        """Adds an identity with a call that nobody will cancel."""
        return self.add_identity(credentials, **more)[0]

    def add_identity(self, credentials: bytes, **more: Any) -> tuple[Call, Request]:
        call = Call()
        request = Request(call, ADD_AUTH, "digest", b"", **more)
        self.session.authenticate("digest", encode_auth_request("digest", credentials), request, self.now)
        self.pump()
        return call, request

    def close(self) -> None:
        self.session.close(self.now)
        self.pump()

    def abort(self) -> None:
        self.session.abort(self.now)
        self.pump()

    # -- what to look at

    @property
    def states(self) -> list[State]:
        return [change.state for change in self.changes]

    @property
    def dialled(self) -> list[str]:
        return [attempt.address.ip for attempt in self.attempts if isinstance(attempt, Dial)]

    @property
    def is_closed(self) -> bool:
        closed = [isinstance(action, Closed) for action in self.actions]
        return sum(closed) == 1 and closed[-1]

    @property
    def hung_up(self) -> list[int]:
        return [action.conn for action in self.actions if isinstance(action, HangUp)]

    @property
    def doubts(self) -> list[int]:
        """The connections in doubt."""
        return [action.conn for action in self.actions if isinstance(action, AskServers)]

    @property
    def failed_rounds(self) -> list[RoundFailed]:
        return [action for action in self.actions if isinstance(action, RoundFailed)]

    @property
    def pings(self) -> int:
        return sum(request.xid == XID_PING for request in self.sent)

    def ops(self, since: int = 0) -> list[int]:
        """The operations that the server got."""
        return [request.op for request in self.sent[since:]]

    def paths(self, since: int = 0) -> list[str]:
        """What the server got on nodes, by path, commits left out."""
        return [path_in(request.body) for request in self.sent[since:] if request.xid > 0 and request.op != Op.MULTI]

    @staticmethod
    def watches_in(request: Sent) -> SetWatchesRequest:
        return decode_set_watches_request(request.body, 0, len(request.body))


def connected(hosts: str = "10.0.0.1", **options: Any) -> Driver:
    """A driver whose session is up."""
    driver = Driver(hosts, **options)
    driver.connect()
    return driver
