"""Level 2: the session as a plain object, with servers that answer wrongly, late, in pieces, or not at all.

What is promised: no input raises, whatever the server says, but `submit` and `authenticate` with the errors that they
name; every call ends exactly once, unless it was cancelled; while a server speaks as it should, every answer reaches
the call that it is for; the bounds are kept; the timer never asks to be called again at once for ever; after `close`
there is an end. With SASL: before the server has proven itself it hears nothing but tokens, nobody is told a secret,
and of any token whatever the client makes an answer or a `DigestMd5Error`.

Rules of this file: a case is made from its seed and number alone. The session's clock is a number here. On each
connection the server is the `Line` of a bad one.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from everlatch.errors import (
    AuthFailedError,
    ClientClosedError,
    ConnectFailedError,
    ConnectionClosedByServerError,
    EverlatchError,
    GaveUpError,
    NotReadOnlyError,
    QueueFullError,
    SessionExpiredError,
)
from everlatch.paths import Endpoint
from everlatch.sasl import SaslTokenError
from everlatch.session.actions import Closed, ComputeToken, Dial, HangUp, Resolve
from everlatch.session.requests import Operation, Request
from everlatch.session.retry import AttemptPlan, FullJitter, RetryForever, RetryNTimes
from everlatch.session.servers import Address
from everlatch.session.session import Phase, Session, SessionOptions
from everlatch.session.watches import CHILD, DATA, PERSISTENT, RECURSIVE
from everlatch.types import ACL, OPEN_ACL_UNSAFE, Children, Created, Node, State
from everlatch.wire import records
from everlatch.wire.auth_records import decode_who_am_i_reply, encode_auth_request
from everlatch.wire.codes import AddWatchMode, Op
from everlatch.wire.digest_md5 import DigestMd5Error, is_proof, respond
from everlatch.wire.multi import CheckPart, decode_multi_reply, encode_multi_request
from everlatch.wire.watch_records import decode_add_watch_reply, encode_add_watch_request
from fuzz.findings import BrokenPromiseError, Finding, described
from fuzz.line import Line
from fuzz.secrecy import PASSWORD, USER, Mechanism, Secrets
from fuzz.server import World
from fuzz.tokens import SEEDS, mutated
from fuzz.watchdog import Hang

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.findings import Findings
    from fuzz.recordings import Corpus
    from fuzz.watchdog import Watchdog

__all__ = ["SaslSessions", "Sessions"]

_MOST_STEPS = 120
_BLOCKING = 4
"""In one case of so many with SASL its steps take their time."""
_TOKENS = 64
_REPLY_LIMIT = 1 << 15
_LINKED = (Phase.HANDSHAKE, Phase.AUTHENTICATING, Phase.SERVING, Phase.LEAVING)
_OWN_REQUESTS = 200
"""Requests of the session's own, in flight beside those of the callers: setWatches, addWatch, closeSession, …"""
_CLOSING_STEPS = 200
_TIMER_STEPS = 100
_REFUSALS = (
    QueueFullError,
    ClientClosedError,
    AuthFailedError,
    SessionExpiredError,
    GaveUpError,
    NotReadOnlyError,
)
_POLICIES = (FullJitter(), FullJitter(), FullJitter(), RetryForever(0.0), AttemptPlan(2.0, 3), RetryNTimes(5, 0.1))


def _address(ip: str) -> Address:
    return Address(ip, 2181, Endpoint(ip, 2181))


def _nothing(_buf: bytes, _pos: int, _end: int) -> None:
    """For replies without a body."""


def _paths(path: str, watch: bool) -> bytes:
    return records.encode_get_data_request(path, watch)


class _Kind(NamedTuple):
    """One kind of call."""

    operation: Operation
    encode: Callable[[str, bool], bytes]
    shown: Callable[[Any], object] | None = None
    """The path of the request, from a well-behaved server's answer to it."""


def _create(path: str, _watch: bool) -> bytes:
    return records.encode_create_request(path, b"", OPEN_ACL_UNSAFE, 0)


def _first_acl(found: tuple[list[ACL], object]) -> str:
    return found[0][0].id


def _first_name(names: list[str]) -> str:
    return names[0]


def _first_child(children: Children) -> str:
    return children.names[0]


def _data(node: Node) -> str:
    return node.data.decode()


def _path(created: Created) -> str:
    return created.path


_KINDS = (
    _Kind(Operation("get", Op.GET_DATA, records.decode_get_data_reply, watch=DATA), _paths, _data),
    _Kind(Operation("children", Op.GET_CHILDREN, records.decode_get_children_reply, watch=CHILD), _paths, _first_name),
    _Kind(
        Operation("children_and_stat", Op.GET_CHILDREN2, records.decode_get_children2_reply, watch=CHILD),
        _paths,
        _first_child,
    ),
    _Kind(Operation("exists", Op.EXISTS, records.decode_exists_reply, watch=DATA, missing_is_none=True), _paths),
    _Kind(Operation("create", Op.CREATE2, records.decode_create2_reply, is_write=True), _create, _path),
    _Kind(
        Operation("get_acl", Op.GET_ACL, records.decode_get_acl_reply),
        lambda path, _: records.encode_get_acl_request(path),
        _first_acl,
    ),
    _Kind(
        Operation("set", Op.SET_DATA, records.decode_set_data_reply, is_write=True),
        lambda path, _: records.encode_set_data_request(path, b"x", -1),
    ),
    _Kind(
        Operation("delete", Op.DELETE, _nothing, is_write=True),
        lambda path, _: records.encode_delete_request(path, -1),
    ),
    _Kind(
        Operation("multi", Op.MULTI, decode_multi_reply, is_write=True),
        lambda path, _: encode_multi_request([CheckPart(path, -1)]),
    ),
    _Kind(Operation("who_am_i", Op.WHO_AM_I, decode_who_am_i_reply), lambda _path, _: b""),
)
_ADD_WATCH = tuple(
    Operation("add_watch", Op.ADD_WATCH, decode_add_watch_reply, watch=kind) for kind in (PERSISTENT, RECURSIVE)
)
_ADD_AUTH = Operation("add_auth", Op.AUTH, _nothing)


class _Call:
    """The caller's end, which checks how and how often it is ended."""

    def __init__(self, case: _Case, path: str, kind: _Kind | None) -> None:
        self._case = case
        self._path = path
        self._kind = kind
        self.ends = 0
        self.cancelled = False

    def done(self) -> bool:
        return self.ends > 0 or self.cancelled

    def set_result(self, result: Any, /) -> None:
        self._end()
        repr(result)
        kind = self._kind
        if self._case.clean and kind is not None and kind.shown is not None and kind.shown(result) != self._path:
            raise BrokenPromiseError(f"{kind.operation.name} {self._path!r} was answered with {result!r}")

    def set_exception(self, exception: BaseException, /) -> None:
        self._end()
        self._case.listen(exception)
        if not isinstance(exception, EverlatchError):
            raise BrokenPromiseError(f"{self._path!r} ended with {exception!r}")

    def _end(self) -> None:
        self.ends += 1
        if self.ends > 1 or self.cancelled:
            raise BrokenPromiseError(f"the call on {self._path!r} was ended {self.ends} times, {self.cancelled=}")


class _Case:
    """One session from its start to its end."""

    def __init__(
        self, rng: random.Random, corpus: Corpus, pool: list[bytes], mechanism: Mechanism | None = None
    ) -> None:
        self._pool = pool
        self.secrets = None if mechanism is None else Secrets()
        self._tokens: list[ComputeToken] = []
        """That are to be computed."""
        self.clean = False
        """Whether what is being delivered is as the server meant it."""
        self.delivered = bytearray()
        """All that was, on all connections: the input of this case."""
        self._rng = rng
        self._corpus = corpus
        self._world = World()
        self._max_in_flight = rng.choice((1, 2, 10, 1000))
        self._max_queued = rng.choice((3, 20, 1000))
        hosts = [f"10.0.0.{number}" for number in range(1, rng.randint(2, 4))] + ["named"] * (rng.random() < 0.2)
        self._chroot = rng.choice(("", "", "/app"))
        self._session = Session(
            SessionOptions(
                [Endpoint(host, 2181) for host in hosts],
                chroot=self._chroot,
                session_timeout=rng.choice((1.0, 6.0, 30.0)),
                max_in_flight=self._max_in_flight,
                max_queued_calls=self._max_queued,
                max_reply_size=_REPLY_LIMIT,
                silence_budget=rng.choice((None, None, 0.02, 5.0)),
                retry_policy=rng.choice(_POLICIES),
                renew=rng.random() < 0.8,
                link_check_interval=rng.choice((None, None, 0.7)),
                warm_spare=rng.random() < 0.3,
                read_only=rng.random() < 0.3,
                read_only_writes=rng.choice(("refuse", "queue")),
                read_write_search_interval=rng.choice((0.5, 60.0)),
                sasl=mechanism,
            ),
            random.Random(rng.random()),
            self._fire,
        )
        self._now = 1000.0
        self._calls: list[tuple[_Call, Request]] = []
        self._line: Line | None = None
        self._line_of = 0
        self._open: dict[int, bool] = {}
        """The attempts and connections that have not ended; whether it is a name that is being resolved."""
        self._made: set[int] = set()
        self._leases = 0
        self._wanted: list[tuple[int, str, Any]] = []
        """The persistent watches that are wanted."""
        self._closed = 0
        self._serial = 0
        self._steps: tuple[Callable[[], None], ...] = (
            *(self._submit,) * 5,
            *(self._deliver,) * 6,
            *(self._pass_time, self._pass_time, self._progress, self._progress),
            *(self._cancel, self._rarely, self._rival, self._find_out),
            *(() if mechanism is None else (self._compute, self._compute)),
        )

    def run(self) -> None:
        """Raises what must not happen."""
        self._session.start(self._now)
        self._pump()
        for _ in range(self._rng.randint(10, _MOST_STEPS)):
            self._rng.choice(self._steps)()
            self._check_bounds()
        self._end()

    # -- the engine's part

    def _pump(self) -> None:
        session = self._session
        while session.actions:
            action = session.actions.popleft()
            self.listen(repr(action))
            if isinstance(action, ComputeToken):
                self._tokens.append(action)
            self._closed += isinstance(action, Closed)
            if isinstance(action, Dial | Resolve):
                self._open[action.conn] = isinstance(action, Resolve)
            elif isinstance(action, HangUp):
                if self._open.pop(action.conn, None) is None:
                    raise BrokenPromiseError(f"{action} of what is not open")
                self._made.discard(action.conn)
        self._check_open()
        if session.conn != self._line_of:
            self._line, self._line_of = None, session.conn
        if self._line is None and session.conn in self._made:
            self._line = Line(self._rng, self._corpus, self._pool, self._world, secrets=self.secrets)
        data = session.data_to_send(self._now)
        if data:
            if session.phase not in _LINKED or self._line is None:
                raise BrokenPromiseError(f"{len(data)} bytes to send in phase {session.phase}")
            self._line.receive(data)

    def _progress(self) -> None:
        """What the session waits for outside of a connection comes, or fails."""
        conn = self._session.conn
        if self._session.phase is Phase.IDLE:
            self._to_deadline()
        elif self._rng.random() < 0.1 or conn not in self._made:
            self._attempt(conn)
        self._pump()

    def _rival(self) -> None:
        """Of the attempts any one goes on."""
        if self._open:
            self._attempt(self._rng.choice(list(self._open)))
            self._pump()

    def _attempt(self, conn: int) -> None:
        """It succeeds, or ends."""
        session, rng = self._session, self._rng
        if rng.random() < 0.1 or conn in self._made:
            self._lost(conn, ConnectFailedError("refused"))
        elif self._open[conn]:
            del self._open[conn]
            session.resolved(conn, [f"10.1.0.{number}" for number in range(rng.randrange(3))], self._now)
        else:
            self._made.add(conn)
            session.connection_made(conn, self._now)

    def _lost(self, conn: int, reason: Exception) -> None:
        self._open.pop(conn, None)
        self._made.discard(conn)
        self._session.connection_lost(conn, reason, self._now)

    def _check_open(self) -> None:
        """Nobody is left open, and nobody is dialled that is not waited for."""
        session = self._session
        wanted = {conn for conn in range(session.conn + 200) if session.is_wanted(conn)}
        if session.phase is Phase.IDLE:
            wanted.discard(session.conn)
        if wanted != self._open.keys():
            raise BrokenPromiseError(f"{sorted(self._open)} are open, {sorted(wanted)} are of use, {session.phase}")

    def _find_out(self) -> None:
        """What is told of the servers, and what the user has to say of them."""
        session, rng = self._session, self._rng
        addresses = [_address(f"10.0.0.{number}") for number in range(1, 5)]
        rng.shuffle(addresses)
        match rng.randrange(9):
            case 0 | 1:
                session.server_answered(session.conn - rng.randrange(2), addresses[0], self._now)
            case 2 | 3:
                mode = rng.choice((None, "leader", "follower", "read-only"))
                session.server_is(addresses[0], mode, rng.choice((None, 1, 1 << 62)), self._now)
            case 4:
                session.prefer(addresses[:2], addresses[2:3])
            case 5 if rng.random() < 0.5:
                session.update_servers([address.endpoint for address in addresses[: rng.randint(1, 4)]], self._now)
            case 6 if rng.random() < 0.5:
                session.leave(self._now)
            case 7:
                session.renew(self._now)
            case 8 if self._leases and rng.random() < 0.5:
                self._leases -= 1
                session.release_lease()
            case 8:
                self._leases += 1
                session.hold_lease(self._now)
        self._pump()

    def _to_deadline(self) -> None:
        deadline = self._session.next_deadline()
        if deadline is not None:
            self._now = max(self._now, deadline)
            self._handle_timer()

    def _handle_timer(self) -> None:
        """As long as something is due: it must come to an end."""
        for _ in range(_TIMER_STEPS):
            self._session.handle_timer(self._now)
            self._pump()
            deadline = self._session.next_deadline()
            if deadline is None or deadline > self._now:
                return
        due = self._session.next_deadline()
        raise BrokenPromiseError(f"the timer is always due: {due} at {self._now}, {self._session.phase}")

    def _pass_time(self) -> None:
        self._now += self._rng.choice((0.0, 0.001, 0.1, 1.0, 5.0)) * self._rng.random()
        self._handle_timer()

    def _deliver(self) -> None:
        line = self._line
        if line is None or not line.waiting:
            self._progress()
            return
        size = self._rng.choice((1, 4, 7, 20, 100, 1000, 100_000, 100_000))
        data, self.clean = line.take(size)
        self.delivered += data
        self._now += self._rng.random() * 0.001
        self._session.bytes_received(self._line_of, data, self._now)
        self.clean = False
        self._pump()

    def _rarely(self) -> None:
        session, rng = self._session, self._rng
        match rng.randrange(8):
            case 0 if session.phase is not Phase.IDLE:
                self._lost(session.conn, ConnectionClosedByServerError("gone"))
            case 1:
                session.bytes_received(session.conn - 1, b"from before", self._now)
            case 2:
                self._authenticate()
            case 3:
                self.listen(f"{session.statistics()!r} {session.failures()}")
            case 4 | 5:
                self._add_watch()
            case 6 if self._wanted:
                session.leave_watch(*self._wanted.pop(rng.randrange(len(self._wanted))))
            case 7:
                self._now += rng.choice((10.0, 100.0))
                self._handle_timer()
            case _:
                if session.phase is not Phase.IDLE and rng.random() < 0.2:
                    session.close(self._now)
        self._pump()

    # -- the application's part

    def listen(self, said: str | BaseException) -> None:
        """Nobody may be told a secret."""
        if self.secrets is None:
            str(said)
        elif isinstance(said, str):
            self.secrets.check(said, "a text")
        else:
            self.secrets.check_error(said)

    def _compute(self) -> None:
        """A step that takes its time is done, be it of a connection that is long gone."""
        if not self._tokens:
            return
        conn, (exchange, challenge) = self._tokens.pop(self._rng.randrange(len(self._tokens)))
        try:
            token = exchange.step(challenge)
        except SaslTokenError as error:
            self._session.token_failed(conn, error, self._now)
        else:
            self._session.token_computed(conn, token, self._now)
        self._pump()

    def _submit(self) -> None:
        rng = self._rng
        for _ in range(rng.choice((1, 1, 3, 20))):
            kind = rng.choice(_KINDS)
            self._serial += 1
            path = f"/n{self._serial}"
            watch = _watch if kind.operation.watch is not None and rng.random() < 0.5 else None
            call = _Call(self, self._chroot + path, kind)
            body = kind.encode(self._chroot + path, watch is not None)
            generation = self._session.generation if rng.random() < 0.1 else 0
            timeout = rng.choice((None, None, None, 0.5, 10.0))
            request = Request(call, kind.operation, path, body, watch, generation, timeout)
            try:
                data = self._session.submit(request, self._now, at_once=self._line is not None and rng.random() < 0.5)
            except _REFUSALS:
                continue
            self._calls.append((call, request))
            if data:
                assert self._line is not None
                self._line.receive(data)
        if rng.random() < 0.7:
            self._pump()

    def _authenticate(self) -> None:
        call = _Call(self, "digest", None)
        request = Request(call, _ADD_AUTH, "digest", b"", timeout=self._rng.choice((None, 5.0)))
        body = encode_auth_request("digest", b"me:%d" % self._rng.randrange(3))
        try:
            self._session.authenticate("digest", body, request, self._now)
        except _REFUSALS:
            return
        self._calls.append((call, request))

    def _add_watch(self) -> None:
        kind, path = self._rng.choice((PERSISTENT, RECURSIVE)), self._rng.choice(("/", "/n1", "/n2"))
        wanted = (kind, path, _watch)
        call = _Call(self, path, None)
        mode = AddWatchMode.PERSISTENT_RECURSIVE if kind == RECURSIVE else AddWatchMode.PERSISTENT
        body = encode_add_watch_request(self._chroot + path, mode)
        request = Request(call, _ADD_WATCH[kind == RECURSIVE], path, body, _watch)
        self._session.want_watch(*wanted)
        self._wanted.append(wanted)
        try:
            self._session.submit(request, self._now)
        except _REFUSALS:
            return
        self._calls.append((call, request))

    def _cancel(self) -> None:
        if self._calls:
            call, request = self._rng.choice(self._calls)
            if not call.done():
                call.cancelled = True
                self._session.requests.withdraw(request)

    def _fire(self, callbacks: list[Any], event: Any) -> None:
        if not callbacks:
            raise BrokenPromiseError(f"{event} is told to nobody")
        repr(event)

    # -- what must hold

    def _check_bounds(self) -> None:
        requests = self._session.requests
        if len(requests.in_flight) > self._max_in_flight + _OWN_REQUESTS:
            raise BrokenPromiseError(f"{len(requests.in_flight)} in flight, at most {self._max_in_flight}")
        # Reads that a loss puts back were taken before.
        if not 0 <= requests.queued_calls <= self._max_queued + self._max_in_flight or requests.queued_bytes < 0:
            raise BrokenPromiseError(f"{requests.queued_calls} calls with {requests.queued_bytes} bytes are queued")
        if self._session._reader.pending > _REPLY_LIMIT + 4:
            raise BrokenPromiseError(f"{self._session._reader.pending} bytes are held back")

    def _end(self) -> None:
        session = self._session
        if self._rng.random() < 0.7:
            session.close(self._now)
            self._pump()
            for _ in range(_CLOSING_STEPS):
                if self._closed:
                    break
                self._deliver()
                self._to_deadline()
        if not self._closed:
            session.abort(self._now)
            self._pump()
        if self._closed != 1 or session.state is not State.CLOSED:
            raise BrokenPromiseError(f"the end was told {self._closed} times, the state is {session.state}")
        if session.next_deadline() is not None:
            raise BrokenPromiseError(f"a closed session waits for {session.next_deadline()}")
        for call, request in self._calls:
            if call.ends != (0 if call.cancelled else 1):
                raise BrokenPromiseError(f"{request!r} was ended {call.ends} times, {call.cancelled=}")


def _watch(_event: object) -> None:
    """Never called: `_Case._fire` stands before it."""


class Sessions:
    """Level 2."""

    name = "sessions"
    has_sasl = False

    def __init__(self, corpus: Corpus, watchdog: Watchdog) -> None:
        self._corpus = corpus
        self._pool = corpus.payloads
        self._watchdog = watchdog

    def run(self, seed: int, number: int, findings: Findings) -> int:
        """One case; returns 1."""
        case = _Case(
            random.Random(f"{seed} {self.name} {number}"),
            self._corpus,
            self._pool,
            Mechanism(f"{number}", is_blocking=number % _BLOCKING == 0) if self.has_sasl else None,
        )
        self._watchdog.start()
        try:
            case.run()
        except (Exception, Hang) as error:
            self._watchdog.stop()
            what, trace = described(error)
            where = "" if isinstance(error, Hang) else trace
            replay = f"{self.name}/{seed}/{number}"
            findings.add(Finding(self.name, f"case {number}", what, where, bytes(case.delivered), replay))
        finally:
            self._watchdog.stop()
        return 1


class SaslSessions(Sessions):
    """Level 2, of sessions that authenticate by SASL, to servers that demand it, rightly or in hostile words; and with
    each of them tokens for the client's part alone."""

    name = "sasl"
    has_sasl = True

    def run(self, seed: int, number: int, findings: Findings) -> int:
        """One case, and its tokens."""
        self._watchdog.start()
        rng = random.Random(f"{seed} tokens {number}")
        token: bytes | None = None
        try:
            for _ in range(_TOKENS):
                token = mutated(rng.choice(SEEDS), rng)
                _try_token(token or b"")
        except (Exception, Hang) as error:
            self._watchdog.stop()
            what, trace = described(error)
            findings.add(Finding(self.name, f"tokens of {number}", what, trace, token or b"", f"sasl/{seed}/{number}"))
        finally:
            self._watchdog.stop()
        return _TOKENS + super().run(seed, number, findings)


def _try_token(token: bytes) -> None:
    secrets = Secrets()
    for answer in (lambda: respond(token, USER, PASSWORD, "cnonce"), lambda: is_proof(token, b"0" * 32)):
        try:
            answer()
        except DigestMd5Error as error:
            secrets.check(repr(error), "an error")
