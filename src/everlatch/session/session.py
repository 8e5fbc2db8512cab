"""The session: inputs in; bytes, actions and the next deadline out.

How to use it (the engine does): call one of the inputs, then drain `actions`, send what `data_to_send` returns, and
call `handle_timer` when `next_deadline` has come. Every connection attempt has a number, `conn`; what an abandoned
one still reports is ignored.

The path of a connection:

    IDLE --a round begins--> RESOLVING -> DIALING -> HANDSHAKE -> AUTHENTICATING -> SERVING
      ^                          |           |           |               |             |
      |<------- the whole round failed: back-off --------+---------------+             |
      |<------- otherwise the next address at once <-----------------------------------+

An attempt that takes long has rivals: see `rivals`. A serving connection that is silent is doubted, which means that
other servers are asked whether they live; it is left when one of them does.

Rules:
1. No request is sent before the ConnectResponse: a frozen server may later replay an abandoned handshake together
   with what was pipelined behind it, take the session back, and apply the write.
2. After the ConnectResponse: SASL, step by step; credentials, and their answers; then setWatches; then the queue.
3. The old session id is offered until a server refuses it, also when the session must be assumed lost.
4. Replies come in the order of the requests. Only "unknown operation" (−6) and "authenticate first" (−124) may
   overtake; any other reply out of order ends the connection, because every later one would be matched wrongly.
5. `last_zxid` comes from replies, never from events: one transaction can cause several, and a connection may break
   between them.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import TYPE_CHECKING

from everlatch.errors import (
    AuthFailedError,
    EverlatchError,
    FrameTooLargeError,
    GaveUpError,
    HandshakeRefusedError,
    HandshakeTimeoutError,
    HistoryResetError,
    LinkError,
    ProtocolError,
    ReplyTooLargeError,
    SaslError,
    ServerError,
    ServerLeftError,
    SessionExpiredError,
    SilentLinkError,
    TlsError,
    TruncatedError,
    UnexpectedReplyError,
    describe,
    hex_id,
    server_error,
)
from everlatch.paths import Endpoint, strip_chroot
from everlatch.sasl import SaslRefusedError, SaslTokenError
from everlatch.session.actions import (
    Action,
    Announce,
    AskModes,
    AskServers,
    Closed,
    ComputeToken,
    Dial,
    HangUp,
    LeaseGranted,
    Prepared,
    Resolve,
    RoundFailed,
)
from everlatch.session.answers import Answers
from everlatch.session.commits import COMMIT, COMMIT_BODY, Commits, was_decided
from everlatch.session.credentials import Credentials
from everlatch.session.doubt import Doubt, Step
from everlatch.session.draining import Draining
from everlatch.session.draining import Step as DrainStep
from everlatch.session.endings import (
    auth_refused,
    client_closed,
    gave_up,
    handshake_refused,
    read_only,
)
from everlatch.session.lease import Lease
from everlatch.session.liveness import Liveness
from everlatch.session.looks import LIST
from everlatch.session.options import SessionOptions
from everlatch.session.own import Own
from everlatch.session.read_only import Aside
from everlatch.session.receipts import Receipts
from everlatch.session.requests import Operation, Request, Requests, needs_read_write, no_result
from everlatch.session.rivals import MOST_RIVALS, STAGGER, Attempt, Rivals
from everlatch.session.rounds import SHORTEST_BUDGET, Rounds
from everlatch.session.sasl import XID_SASL, Sasl, SaslStep
from everlatch.session.servers import Address
from everlatch.session.settlement import Settlement
from everlatch.session.states import CONNECTED_STATES, checked
from everlatch.session.watches import PERSISTENT, RECURSIVE
from everlatch.session.watching import Watching
from everlatch.types import EventType, State, StateChange, Statistics, WatchEvent
from everlatch.wire.auth_records import decode_sasl_reply
from everlatch.wire.codes import XID_AUTH, XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import ConnectRequest, decode_connect_response, encode_connect_request
from everlatch.wire.headers import REPLY_HEADER, frame_request
from everlatch.wire.watch_records import decode_watcher_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

    from everlatch.types import Watch, WatchKind

__all__ = ["Phase", "Session", "SessionOptions"]


class Phase(enum.Enum):
    """How far the present connection has come."""

    IDLE = 0
    RESOLVING = 1
    DIALING = 2
    HANDSHAKE = 3
    AUTHENTICATING = 4
    SERVING = 5
    LEAVING = 6
    """It is left for another server, when what was sent is answered."""


_CLOSE_SESSION = Operation("closeSession", Op.CLOSE_SESSION, no_result)
_PING = frame_request(XID_PING, Op.PING, b"")
_DECIDED = frozenset({COMMIT.op, _CLOSE_SESSION.op, Op.SYNC})
"""Beside the writes of users, what the servers answer when their leader has decided it."""

_REPLY_HEADER_SIZE = REPLY_HEADER.size
_IDENTITY = frozenset({XID_AUTH, XID_SASL})
_AUTHENTICATE_FIRST = -124
_REFUSALS = frozenset({-115, _AUTHENTICATE_FIRST})
"""Of SASL tokens: the second one where SASL is demanded (`sessionRequireClientSASLAuth`)."""
_OVERTAKING_ERRORS = frozenset({-6, _AUTHENTICATE_FIRST})

_MISSING = {
    Phase.RESOLVING: "its name did not resolve",
    Phase.DIALING: "no TCP connection",
    Phase.HANDSHAKE: "no answer to the handshake",
    Phase.AUTHENTICATING: "no answer to the credentials",
}

_REFUSAL_HINT = " (it does not serve at the moment, or its port is for TLS)"
_MISSING_BY_TLS = _MISSING | {Phase.DIALING: "no TLS connection"}

_DECIDING = frozenset({"leader", "standalone"})
_SERVED = frozenset({Phase.SERVING, Phase.LEAVING})
_ANSWERING = frozenset({Phase.AUTHENTICATING, *_SERVED})
_SPARE_LIVES = 5.0
"""Seconds that a connection kept in reserve lives at least, unless the server doesn't want it."""


class Session:
    """One client's relation to its ensemble, through any number of connections and sessions in the narrow sense."""

    def __init__(
        self, options: SessionOptions, rng: Random, fire_watches: Callable[[list[Watch], WatchEvent], None]
    ) -> None:
        # What we are made of.
        self._options = options
        self._chroot = options.chroot
        self._fire_watches = fire_watches
        self.requests = Requests(
            max_in_flight=options.max_in_flight,
            max_queued_calls=options.max_queued_calls,
            max_queued_bytes=options.max_queued_bytes,
        )
        self.watching = Watching(self._fire, self._ask, self._coming_one_shots)
        self._answers = Answers(self.requests, self.watching, self._server_path, self._ask, lambda: self.session_id)
        self.credentials = Credentials()
        self._missing = _MISSING_BY_TLS if options.tls else _MISSING
        self._refusal_hint = "" if options.tls else _REFUSAL_HINT
        self._sasl = Sasl(options.sasl)
        self.liveness = Liveness(options.session_timeout, options.silence_budget)
        self.lease = Lease(drift=options.lease_drift, strict=options.lease_strict)
        self._commits = Commits(options.link_check_interval)
        self._spare_at = math.inf
        """When one is dialled to be kept in reserve."""
        self._rounds = Rounds(options.endpoints, rng, options.retry_policy, shuffle=options.shuffle)
        self._draining = Draining(self._rounds.servers)
        # Output that waits for the engine.
        self.actions: deque[Action] = deque()
        self._urgent: list[bytes | Request] = []
        """What goes before the queue: handshake, credentials, ping, and requests of our own."""
        # The session.
        self.state = State.CONNECTING
        self.session_id = 0
        self.password = b""
        self.generation = 0
        self.last_zxid = 0
        self._announced_id = 0
        self._may_renew = True
        """Whether a new session may be asked for."""
        self._awaits_renewal = False
        """Whether nothing is done before `renew`."""
        self._renewed_for: BaseException | None = None
        """What the next renewal is announced with."""
        self._ended: Callable[[Request], EverlatchError] | None = None
        """Set when no further call is taken: makes the error that it ends with."""
        self._closing = False
        self._close_sent = False
        self._receipts: Receipts | None = None
        if options.receipts:
            self._receipts = Receipts(options.receipts_place, options.receipts, options.receipts_acl, self._ask)
            self.requests.receipts = self._receipts
        self._is_preparing = False
        """Whether the queue is held up, until writes are settled and there are receipts."""
        self._queues_all = self._receipts is not None
        """Whether even a call that finds nothing in flight has to pass the queue."""
        self._aside: Aside | None = None
        """What is kept while a read-only server serves us."""
        self._read_only_at: Address | None = None
        """Who is known to serve read-only, and will be offered a session of its own."""
        self._read_write_search_at = math.inf
        self._history_held_at = -math.inf
        """When a server was last seen not to be behind us."""
        self._behind_since: float | None = None
        """Since when servers that decide are."""
        # The present connection.
        self.phase = Phase.IDLE
        self._conn = self._last_conn = 0
        self._address: Address | None = None
        self._reader = FrameReader(options.max_reply_size)
        self._handshake_sent_at = 0.0
        self._serving_since = 0.0
        self._replies_before = 0
        """How many there had been when the queue began to move."""
        self._doubt = Doubt(self.liveness)
        self._left: tuple[int, Address | None] | None = None
        """The connection that was left last because it was silent, and its server: it may prove alive."""
        self._attempt_deadline = 0.0
        self._rivals = Rivals()
        self._stagger_at: float | None = None
        """When another one is dialled beside the present attempt; `None`: there is nobody left."""
        # Counts.
        self.connections = self._attempts = self._events = self._replies = 0
        self._bytes_sent = self._bytes_received = 0

    # -- inputs: the application -----------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begins to connect. To be called once."""
        self._begin_round(now)

    def submit(self, request: Request, now: float | None = None, *, at_once: bool = False) -> bytes:
        """Takes a call; `now` is needed if it has a timeout or may go `at_once`, which says that the engine could
        write it this moment: if nothing goes before it, its frame is returned, and counts as sent. Otherwise it is
        queued. Raises `QueueFullError`, or why no call is taken."""
        if self._ended is not None:
            raise self._ended(request)
        if request.generation and (request.generation != self.generation or not self.session_id):
            raise SessionExpiredError(request.operation.name, request.path)
        requests = self.requests
        waits = self.phase is not Phase.SERVING or requests.in_flight or requests.queued_calls or self._urgent
        if not at_once or now is None or waits or self._queues_all:
            if self._aside is not None and self._refuses_writes and needs_read_write(request):
                raise read_only(request)
            requests.submit(request, now)
            return b""
        data = requests.submit_at_once(request, now, self.last_zxid)
        self._bytes_sent += len(data)
        self.liveness.sent(now)
        return data

    def authenticate(self, scheme: str, body: bytes, request: Request | None, now: float) -> None:
        """Adds an identity, now and on every later connection; `request` ends with the server's answer."""
        if request is not None:
            if self._ended is not None:
                raise self._ended(request)
            self.requests.track(request, XID_AUTH, now)
        credential = self.credentials.add(scheme, body, request)
        if self.phase is Phase.SERVING:
            # Behind what was called before, so that identities count from when they were added.
            self._urgent = [*self._take_urgent(now), *self._take_queued(now)]
        if self.phase in (Phase.AUTHENTICATING, Phase.SERVING) and not self._sasl.is_open:
            self._urgent.append(self.credentials.send(credential))

    def close(self, now: float) -> None:
        """Takes no more calls; ends the session when those made before are answered. `Closed` says when."""
        if self._closing:
            return
        self._closing = True
        self._ended = client_closed
        self._plan_spare(math.inf)
        self._commits.stop()
        if self.phase is Phase.LEAVING:
            self.phase = Phase.SERVING
        if self.phase not in (Phase.AUTHENTICATING, Phase.SERVING):
            self.abort(now)

    def abort(self, now: float) -> None:
        """Closes at once: what is unanswered ends as it stands, and the server is left to expire the session."""
        if self.state is State.CLOSED:
            return
        self._closing = True
        self._ended = client_closed
        self._awaits_renewal = False
        self._hang_up()
        self._fail_all(client_closed)
        self._announce(State.CLOSED, None)
        self.actions.append(Closed())

    def renew(self, now: float) -> None:
        """A new session may be asked for, once, if the present one is over."""
        self._may_renew = True
        if self._awaits_renewal:
            self._awaits_renewal = False
            self._rounds.start_anew()
            self._begin_round(now)

    def update_servers(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Another list. The server in use is left if it is not on it, or if it takes that to spread the clients; an
        attempt at one that is not on it is given up; what is new is tried without a pause."""
        servers = self._rounds.servers
        is_new = not set(endpoints) <= set(servers)
        serves = self.phase in _SERVED
        must_leave = servers.update(endpoints, self._address if serves else None)
        self._leave_removed(now)
        if serves:
            if must_leave:
                self.leave(now)
        elif self.phase is not Phase.IDLE and not self._closing:
            assert self._address is not None
            if not servers.has(self._address):
                self._drop(ServerLeftError(f"{self.server} is no longer one of the servers"), now)
            elif is_new and self._stagger_at is None:
                self._stagger_at = now + STAGGER
        elif is_new and self._rounds.retry_at is not None:
            self._rounds.stop()
            self._next_attempt(now)

    def _leave_removed(self, now: float) -> None:
        """Nobody waits any more for servers that are not on the list."""
        has = self._rounds.servers.has
        for rival in [rival for rival in self._rivals if not has(rival.address)]:
            self.actions.append(HangUp(self._rivals.remove(rival.conn).conn))
            if self.phase in _SERVED:
                self._plan_spare(now)
        if self._doubt.alternative is not None and not has(self._doubt.alternative):
            self._doubt.alternative = None

    def leave(self, now: float) -> None:
        """Goes to another server, as soon as what was sent is answered; it may take T/3."""
        if self.phase is Phase.SERVING and not self._closing:
            self.phase = Phase.LEAVING
            self._attempt_deadline = min(now + self.liveness.timeout / 3, self.liveness.dead_at)
            self._leave_when_answered(now)

    def _leave_when_answered(self, now: float) -> None:
        if not self.requests.in_flight or now >= self._attempt_deadline:
            self._drop(ServerLeftError(f"{self.server} is left for another server"), now)

    def prefer(self, serving: Iterable[Address], others: Iterable[Address]) -> None:
        """What was found out about the servers."""
        self._rounds.servers.prefer(serving, others)

    # -- inputs: the engine ----------------------------------------------------------------------------------------

    def resolved(self, conn: int, ips: Iterable[str], now: float) -> None:
        """The addresses of the name that `Resolve` asked for."""
        if conn in self._rivals:
            self._rounds.resolved(self._rivals.remove(conn).address.endpoint, ips)
            self._add_rival(now)
        elif conn == self._conn and self.phase is Phase.RESOLVING:
            assert self._address is not None
            self._rounds.resolved(self._address.endpoint, ips)
            self._next_attempt(now)

    def connection_made(self, conn: int, now: float) -> None:
        """The connection that `Dial` asked for is there."""
        if conn in self._rivals:
            self._rival_made(self._rivals.remove(conn), now)
        elif conn == self._conn and self.phase is Phase.DIALING:
            self._shake_hands(now)

    def _rival_lost(self, rival: Attempt, reason: BaseException, now: float) -> None:
        if self.phase in _SERVED:
            # Servers close connections that say nothing after 10 s or so. One that closes it at once doesn't want it.
            self._plan_spare(now if now >= rival.deadline + _SPARE_LIVES else now + _SPARE_LIVES)
        else:
            self._rounds.failed(rival.address, reason)
            self._add_rival(now)

    def is_wanted(self, conn: int) -> bool:
        """Whether the connection is of use: the present one, or one that may become it."""
        return conn == self._conn or conn in self._rivals

    def _rival_made(self, rival: Attempt, now: float) -> None:
        rival.is_made = True
        if self.phase in (Phase.RESOLVING, Phase.DIALING):
            assert self._address is not None
            is_name = self.phase is Phase.RESOLVING
            self._rivals.add(Attempt(self._conn, self._address, is_name, self._attempt_deadline))
            self._make_present(rival, now)
        else:
            self._rivals.add(rival)
            self._look_after_patience()

    def _look_after_patience(self) -> None:
        """A handshake that keeps somebody waiting may take a third of T at most: of servers that never answer, as many
        as an ensemble can do without then cost no session, however slow the rounds before were."""
        if self.phase is Phase.HANDSHAKE and self._rivals.has_connection:
            latest = self._handshake_sent_at + max(self.liveness.timeout / 3, SHORTEST_BUDGET)
            self._attempt_deadline = min(self._attempt_deadline, latest)

    def _shake_hands(self, now: float) -> None:
        self.phase = Phase.HANDSHAKE
        self._attempt_deadline = now + self._attempt_budget()
        self._handshake_sent_at = now
        self._look_after_patience()
        timeout_ms = round(self._options.session_timeout * 1000)
        assert self._address is not None
        if self._is_for_reading:
            request = ConnectRequest(0, self.last_zxid, timeout_ms, 0, bytes(16), True)
        elif self._draining.begin(self._address):
            request = ConnectRequest(0, self.last_zxid, timeout_ms, 0, bytes(16), False)
        else:
            password = self.password or bytes(16)
            request = ConnectRequest(0, self.last_zxid, timeout_ms, self.session_id, password, False)
        self._urgent.append(frame(encode_connect_request(request)))

    def connection_lost(self, conn: int, reason: BaseException, now: float) -> None:
        """The connection has ended, could not be made, or its name could not be resolved."""
        if conn in self._rivals:
            self._rival_lost(self._rivals.remove(conn), reason, now)
        elif conn == self._conn and self.phase is not Phase.IDLE:
            if self.phase in (Phase.HANDSHAKE, Phase.AUTHENTICATING):
                reason = handshake_refused(reason, self._refusal_hint)
            self._link_down(reason, now)

    def bytes_received(self, conn: int, data: bytes, now: float) -> None:
        """Bytes from the server. Completes calls directly; never raises, whatever they are."""
        if conn != self._conn:
            return
        self._bytes_received += len(data)
        try:
            self._read(conn, data, now)
        except FrameTooLargeError as error:
            self._blame_for(error)
            self._drop(error, now)
        except (LinkError, ServerError) as error:
            self._drop(error, now)
        # Bytes alone are no answer: were they to end the grace, a link that brings only events would get it for ever.
        if self._doubt.is_felt and not self.liveness.is_silent(now):
            self._doubt.heard(now)

    def handle_timer(self, now: float) -> None:
        """Does what is due. Calling it early is harmless."""
        self.requests.expire(now)
        if self.phase is Phase.SERVING:
            self._give_up_rivals(now)
            self._check_link(now)
            if now >= self._commits.due_at:
                self._commit(now)
            if now >= self._spare_at:
                self._dial_spare(now)
            if now >= self._read_write_search_at:
                self._search_read_write(now)
        elif self.phase is Phase.LEAVING:
            self._give_up_rivals(now)
            self._leave_when_answered(now)
        elif self._rounds.retry_at is not None:
            if now >= self._rounds.retry_at:
                self._begin_round(now)
        elif self.phase is not Phase.IDLE:
            self._look_after_attempts(now)
        if self.state is State.SUSPENDED and self.session_id and now >= self.liveness.lost_at:
            self._announce(State.LOST, self._lost_locally(now))

    # -- outputs ---------------------------------------------------------------------------------------------------

    def data_to_send(self, now: float) -> bytes:
        """What is to be written to the present connection now; it counts as sent from here on."""
        if self.watching.left:
            self.watching.remove_left()
        frames = self._take_urgent(now) if self._urgent else []
        if self.phase is Phase.SERVING:
            frames += self._take_queued(now)
            if self._closing and not self._close_sent and self._is_done:
                self._close_sent = True
                frames.append(self.requests.send_now(Request(None, _CLOSE_SESSION, "/", b""), now))
        if not frames:
            return b""
        self.liveness.sent(now)
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        self._bytes_sent += len(data)
        return data

    @property
    def _is_done(self) -> bool:
        """Whether the session's end may be asked for: nothing is to be sent or looked at any more."""
        requests = self.requests
        waits = requests.queued_calls or self._is_preparing or requests.unsettled
        return not waits and not any(request.may_need_look for request in requests.in_flight)

    def _take_queued(self, now: float) -> list[bytes]:
        if self._is_preparing:
            return []
        if self._aside is not None:
            return self.requests.take_reads(now, self.last_zxid)
        return self.requests.take_batch(now, self.generation, self.last_zxid)

    def _take_urgent(self, now: float) -> list[bytes]:
        urgent, self._urgent = self._urgent, []
        for item in urgent:
            if isinstance(item, Request) and item.operation is COMMIT:
                self.lease.commit_sent(now)
        return [self.requests.send_now(item, now) if isinstance(item, Request) else item for item in urgent]

    @property
    def has_output(self) -> bool:
        """Whether `actions` or `data_to_send` may have something."""
        return bool(self.actions or self._urgent or self.requests.queued_calls or self.watching.left or self._closing)

    def next_deadline(self) -> float | None:
        """When `handle_timer` is to be called at the latest; `None`: not before the next input."""
        deadlines = [self.requests.next_deadline(), self._rounds.retry_at]
        if self.phase is Phase.SERVING:
            deadlines += [self._doubt.deadline(), self._commits.due_at, self._spare_at]
            deadlines += [self._read_write_search_at, self._rivals.next_deadline()]
        elif self.phase is Phase.LEAVING:
            deadlines += [self._attempt_deadline, self._rivals.next_deadline()]
        elif self.phase is not Phase.IDLE:
            deadlines += [self._attempt_deadline, self._stagger_at, self._rivals.next_deadline()]
        if self.state is State.SUSPENDED and self.session_id:
            deadlines.append(self.liveness.lost_at)
        first = min((deadline for deadline in deadlines if deadline is not None), default=math.inf)
        return None if first == math.inf else first

    @property
    def conn(self) -> int:
        """The number of the present connection; 0 before the first."""
        return self._conn

    @property
    def server(self) -> str | None:
        """The server of the present connection or attempt."""
        return str(self._address) if self._address is not None else None

    @property
    def address(self) -> Address | None:
        """The address of that server."""
        return self._address

    @property
    def endpoints(self) -> list[Endpoint]:
        """The servers, in the order in which they are tried."""
        return list(self._rounds.servers)

    @property
    def is_closing(self) -> bool:
        """Whether the session's end has been asked for: nothing may rest on it any more."""
        return self._closing

    @property
    def lost_at(self) -> float:
        """When the session must be assumed lost unless something is answered before."""
        return self.liveness.lost_at if self._aside is None else self._aside.lost_at

    def statistics(self) -> Statistics:
        """A snapshot."""
        requests = self.requests
        return Statistics(
            state=self.state,
            session_id=self.session_id,
            generation=self.generation,
            server=self.server if self.state in CONNECTED_STATES else None,
            queued_calls=requests.queued_calls,
            queued_bytes=requests.queued_bytes,
            in_flight=len(requests.in_flight),
            watches=len(self.watching),
            requests_sent=requests.sent,
            replies_received=self._replies,
            requests_repeated=requests.repeated,
            unsettled=len(requests.unsettled),
            outcomes_settled=requests.settled,
            writes_resent=requests.resent,
            outcomes_unknown=requests.unknown,
            events_received=self._events,
            connections=self.connections,
            connection_attempts=self._attempts,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            last_zxid=self.last_zxid,
        )

    # -- attempts --------------------------------------------------------------------------------------------------

    def _begin_round(self, now: float) -> None:
        self._rounds.begin(now)
        self._next_attempt(now)

    def _next_attempt(self, now: float) -> None:
        """A rival that has a connection takes over; else the next address of the round is tried, beside the rivals
        that are still at it; when there is none left, it waits."""
        attempt = self._rivals.take() if self._rivals.has_connection else None
        if attempt is None:
            attempt = self._new_attempt(now) or self._rivals.take()
        if attempt is None:
            self._round_failed(now)
        else:
            self._make_present(attempt, now)

    def _new_attempt(self, now: float) -> Attempt | None:
        """At the next address of the round, if there is one left."""
        target = self._rounds.next_target()
        if target is None:
            return None
        conn, budget = self._new_conn(), self._attempt_budget()
        if isinstance(target, Endpoint):
            self.actions.append(Resolve(conn, target, budget))
            return Attempt(conn, Address(target.host, target.port, target), True, now + budget)
        self._attempts += 1
        self.actions.append(Dial(conn, target))
        return Attempt(conn, target, False, now + budget)

    def _make_present(self, attempt: Attempt, now: float) -> None:
        self._conn, self._address = attempt.conn, attempt.address
        self._attempt_deadline = attempt.deadline
        self._stagger_at = now + STAGGER if self._rounds.servers.has_more else None
        if attempt.is_made:
            self._shake_hands(now)
        else:
            self.phase = Phase.RESOLVING if attempt.is_name else Phase.DIALING

    def _give_up_rivals(self, now: float) -> None:
        """Those that ran out of their budget."""
        for rival in self._rivals.overdue(now):
            self.actions.append(HangUp(self._rivals.remove(rival.conn).conn))
            if self.phase not in _SERVED:
                self._rounds.ran_out_of_time()
            self._rival_lost(rival, self._timed_out(Phase.RESOLVING if rival.is_name else Phase.DIALING), now)

    def _look_after_attempts(self, now: float) -> None:
        self._give_up_rivals(now)
        if now >= self._attempt_deadline:
            self._rounds.ran_out_of_time()
            self._drop(self._no_token(now) if self._sasl.is_computing else self._timed_out(self.phase), now)
        elif self._stagger_at is not None and now >= self._stagger_at:
            self._add_rival(now)

    def _add_rival(self, now: float) -> None:
        """Another one beside the present attempt, unless one waits already."""
        if self.phase not in (Phase.RESOLVING, Phase.DIALING, Phase.HANDSHAKE):
            self._stagger_at = None  # somebody is taking us
            return
        self._stagger_at = now + STAGGER
        if self._rivals.has_connection or len(self._rivals) >= MOST_RIVALS:
            return
        rival = self._new_attempt(now)
        if rival is not None:
            self._rivals.add(rival)
        if not self._rounds.servers.has_more:
            self._stagger_at = None

    def _keep_spare(self, now: float) -> None:
        """A rival that has a connection is kept in reserve, if one is wanted; the others are of no use any more."""
        spare = self._rivals.take() if self._options.warm_spare and self._rivals.has_connection else None
        self._drop_rivals()
        if spare is None:
            self._plan_spare(now)
        else:
            self._rivals.add(spare)

    def _dial_spare(self, now: float) -> None:
        """A connection to another server, to be kept in reserve."""
        self._plan_spare(now + _SPARE_LIVES)
        address = self._rounds.servers.spare(self._address)
        if address is None:
            return
        self._plan_spare(math.inf)
        conn = self._new_conn()
        self.actions.append(Dial(conn, address))
        self._rivals.add(Attempt(conn, address, False, now + self._attempt_budget()))

    def _plan_spare(self, at: float) -> None:
        self._spare_at = at if self._options.warm_spare and not self._closing else math.inf

    def _new_conn(self) -> int:
        self._last_conn += 1
        return self._last_conn

    def _round_failed(self, now: float) -> None:
        self.phase = Phase.IDLE
        self._address = None
        self._rounds.end(now)
        if self.state is State.CONNECTING:
            self.actions.append(RoundFailed(list(self._rounds.failures.items())))
        if self._rounds.gave_up:
            self._give_up()
        elif self._options.read_only or (self.state is State.LOST and self.session_id and self._is_refused()):
            self.actions.append(AskModes())

    def _give_up(self) -> None:
        self._ended = gave_up
        self._fail_all(gave_up)
        reasons = [f"{server}: {describe(reason)}" for server, reason in self._rounds.failures.items()]
        self._announce(State.GAVE_UP, GaveUpError("no server within the retry policy: " + "; ".join(reasons)))

    def _attempt_budget(self) -> float:
        return self._rounds.budget(self.liveness.timeout, is_first=self.state is State.CONNECTING)

    def _timed_out(self, phase: Phase) -> LinkError:
        missing = (phase is Phase.HANDSHAKE and self._draining.missing) or self._missing[phase]
        return HandshakeTimeoutError(f"{missing} in {self._attempt_budget():.3g} s")

    def _no_token(self, now: float) -> LinkError:
        """Which is not the server's fault."""
        return HandshakeTimeoutError(f"{self._sasl.name} had no token in {now - self._handshake_sent_at:.3g} s")

    def failures(self) -> list[tuple[str, BaseException]]:
        """Why each server did not connect so far; the one that is being tried comes last."""
        failures = self._rounds.failures
        for rival in [] if self.phase in _SERVED else self._rivals:
            phase = Phase.RESOLVING if rival.is_name else Phase.HANDSHAKE if rival.is_made else Phase.DIALING
            failures[str(rival.address)] = HandshakeTimeoutError(f"{self._missing[phase]} so far")
        if self.phase in _MISSING:
            missing = self._draining.missing or self._missing[self.phase]
            if self._sasl.is_computing:
                missing = f"no token of {self._sasl.name}"
            failures[str(self._address)] = HandshakeTimeoutError(f"{missing} so far")
        return list(failures.items())

    # -- the end of a connection -----------------------------------------------------------------------------------

    def _drop(self, reason: BaseException, now: float) -> None:
        """Ends the connection from our side."""
        self.actions.append(HangUp(self._conn))
        self._link_down(reason, now)

    def _hang_up(self) -> None:
        """Leaves the present connection and every attempt; what they still report is ignored."""
        if self.phase is not Phase.IDLE:
            self.actions.append(HangUp(self._conn))
        self._drop_rivals()
        self._forget_link()
        self._rounds.stop()

    def _drop_rivals(self) -> None:
        self.actions += [HangUp(rival.conn) for rival in self._rivals.take_all()]

    def _forget_link(self) -> None:
        if self._aside is not None:
            self.liveness.resume(self._aside.proven, self._aside.timeout)
            self.last_zxid = self._aside.last_zxid
            self._aside = None
        if self._address == self._read_only_at:
            self._read_only_at = None
        self._read_write_search_at = math.inf
        self._conn = self._new_conn()
        self.phase = Phase.IDLE
        self._commits.stop()
        self._spare_at = math.inf
        self._doubt.reset()
        self._urgent.clear()
        self._is_preparing = False
        self._queues_all = self._receipts is not None
        self._draining.stop()
        self._reader = FrameReader(self._options.max_reply_size)
        self.credentials.disconnected()
        self._sasl.disconnected()
        self.lease.disconnected()

    def _link_down(self, reason: BaseException, now: float) -> None:
        """The connection is gone: settles what was on it, tells, and goes on to the next server."""
        phase, address, alternative = self.phase, self._address, self._doubt.alternative
        self._forget_link()
        if phase not in _SERVED:
            self._rounds.failed(address, reason)
            if self._closing:
                self.abort(now)
            else:
                self._next_attempt(now)
            return
        assert address is not None
        self._draining.left(address, self.requests.in_flight)
        self.watching.link_lost(self.last_zxid)
        self.requests.connection_lost(reason, blames_first=self._may_be_a_request(reason, now))
        self.liveness.disconnected()
        if self._closing:
            self.abort(now)
            return
        self._announce(State.SUSPENDED, reason)
        self._rounds.begin_after(now, address, reason, now - self._serving_since, self._replies - self._replies_before)
        if alternative is not None:
            self._drop_rivals()  # one kept in reserve may lead to a server that is as silent
            self._rounds.again(alternative)
        self._next_attempt(now)

    def _may_be_a_request(self, reason: BaseException, now: float) -> bool:
        """Whether a request can have ended the connection: not if we left it, unless the server was silent for as long
        as the slowest may be."""
        if isinstance(reason, SilentLinkError):
            return now >= self.liveness.slow_until
        return not isinstance(reason, ServerLeftError)

    def _blame_for(self, error: FrameTooLargeError) -> None:
        """A frame over our limit: if it answers the first request in flight, that one is not repeated."""
        head = self._reader.pending_head
        in_flight = self.requests.in_flight
        if not in_flight or len(head) < 4 or int.from_bytes(head, "big") != in_flight[0].xid:
            return
        request = in_flight[0]
        if isinstance(request.call, Own):  # whoever asked begins anew on the next connection; without a list like that
            self.requests.can_list = self.requests.can_list and request.operation is not LIST
        elif not request.operation.is_write:
            request.fail(ReplyTooLargeError(request.operation.name, request.path, error.size, error.limit))

    # -- handshake -------------------------------------------------------------------------------------------------

    def _handle_handshake(self, buf: bytes, start: int, end: int, now: float) -> None:
        if self._draining.step is not None:
            self._drain(buf, start, end, now)
            return
        response = decode_connect_response(buf, start, end)
        # First: what a read-only server says of sessions says nothing of ours.
        if response.read_only:
            if not self._is_for_reading or response.timeout_ms <= 0:
                raise HandshakeRefusedError(f"{self.server} is read-only")
            self._attach_read_only(response.timeout_ms / 1000, now)
            return
        if self._is_for_reading and self.session_id:
            # The session that it has just begun will expire; ours is the one to be offered.
            raise HandshakeRefusedError(f"{self.server} is not read-only any more")
        # ClientCnxn decides by the timeout, the C client by the id; look-alikes have been seen to hand out a fresh id.
        if response.timeout_ms <= 0 or (self.session_id and response.session_id != self.session_id):
            self._session_refused(now)
            return
        if not response.session_id:
            raise ProtocolError(f"{self.server} granted a session without an id")
        if not self.session_id:
            self.session_id = response.session_id
            self.generation += 1
            self.lease.new_session(response.timeout_ms / 1000)
        self.password = response.password
        self.connections += 1
        self.liveness.connected(self._handshake_sent_at, now, response.timeout_ms / 1000)
        self.lease.connected(self._handshake_sent_at, self.liveness.timeout, self._touch_lag(None))
        self._authenticate_first(now)

    def _drain(self, buf: bytes, start: int, end: int, now: float) -> None:
        """Another session, which is not ours, and the credentials; then the commit that goes through when nothing of
        ours is left there; then our session is offered to the same server. See `draining`."""
        draining = self._draining
        awaited = draining.step
        answer = draining.answered(buf, start, end, str(self.server))
        if answer is not None:
            xid, err = answer
            self._handle_identity(xid, err, buf, start + _REPLY_HEADER_SIZE, end, now)
        elif awaited is DrainStep.SESSION:
            self._authenticate(now)
        if draining.step is DrainStep.DONE:
            self._offer_to_drained(now)

    def _offer_to_drained(self, now: float) -> None:
        assert self._address is not None
        self._rounds.again(self._address)
        self.actions.append(HangUp(self._conn))
        self._forget_link()
        self._next_attempt(now)

    def _authenticate_first(self, now: float) -> None:
        self.phase = Phase.AUTHENTICATING
        self._authenticate(now)

    # -- authentication --------------------------------------------------------------------------------------------
    #
    # On a connection that is to serve, and on one that drains a server; what comes after it differs.

    def _authenticate(self, now: float) -> None:
        assert self._address is not None
        try:
            step = self._sasl.begin(self._address.endpoint.host)
        except Exception as error:  # a mechanism may be anybody's code
            self._step_failed(error, now)
            return
        if step is None:
            self._replay_credentials(now)
        else:
            self._make_step(step, now)

    def _make_step(self, step: SaslStep, now: float) -> None:
        mechanism = self._sasl.mechanism
        if mechanism is not None and mechanism.is_blocking:
            # That it takes its time is not the server's fault. The session needs to be heard of before it expires, and
            # counts from the handshake: tokens don't touch it.
            timeout = self.liveness.timeout
            latest = min(now + timeout / 2, self._handshake_sent_at + timeout * 2 / 3)
            self._attempt_deadline = max(self._attempt_deadline, latest)
            self.actions.append(ComputeToken(self._conn, step))
            return
        try:
            token = step.exchange.step(step.challenge)
        except Exception as error:  # a mechanism may be anybody's code
            self._step_failed(error, now)
        else:
            self._send_token(token, now)

    def token_computed(self, conn: int, token: bytes | None, now: float) -> None:
        """What the step has come to that `ComputeToken` asked for."""
        if conn == self._conn and self._sasl.is_computing:
            session_ends = self._handshake_sent_at + self.liveness.timeout
            self._attempt_deadline = min(now + self._attempt_budget(), session_ends)
            self._send_token(token, now)

    def token_failed(self, conn: int, error: BaseException, now: float) -> None:
        """It could not be made."""
        if conn == self._conn and self._sasl.is_computing:
            self._step_failed(error, now)

    def _step_failed(self, error: BaseException, now: float) -> None:
        failure = self._sasl_failure(error)
        if isinstance(error, SaslRefusedError):
            self._auth_failed(failure, now)
        else:
            self._drop(failure, now)

    def _sasl_failure(self, error: BaseException) -> SaslError:
        failure = SaslError(f"{self._sasl.name} with {self.server} failed: {describe(error)}")
        failure.__cause__ = error
        return failure

    def _send_token(self, token: bytes | None, now: float) -> None:
        try:
            data = self._sasl.send(token)
        except SaslTokenError as error:
            self._step_failed(error, now)
            return
        if data is None:
            self._replay_credentials(now)
        else:
            self._urgent.append(data)

    def _replay_credentials(self, now: float) -> None:
        self._urgent += self.credentials.replay()
        self._go_on_when_authenticated(now)

    def _handle_identity(self, xid: int, err: int, buf: bytes, pos: int, end: int, now: float) -> None:
        """The answer to credentials, or to a token. A refusal ends it all; an answer that is lost is none."""
        if xid != XID_SASL:
            self._handle_auth(err, now)
        elif not self._sasl.awaits_reply:
            raise UnexpectedReplyError(f"{self.server} answered a SASL token that was not sent")
        elif err:
            self._token_refused(err, now)
        else:
            self._make_step(self._sasl.answered(decode_sasl_reply(buf, pos, end), str(self.server)), now)

    def _token_refused(self, err: int, now: float) -> None:
        try:
            is_final = err in _REFUSALS and self._sasl.refused()
        except Exception as error:  # a mechanism may be anybody's code
            raise self._sasl_failure(error) from error
        if not is_final:
            raise self._sasl_failure(server_error(err, "sasl"))
        self._auth_failed(AuthFailedError("sasl", self._sasl.name), now)

    def _go_on_when_authenticated(self, now: float) -> None:
        if self._sasl.is_open or self.credentials:
            return
        if self._draining.step is DrainStep.CREDENTIALS:
            self._urgent.append(self._draining.authenticated())
        elif self.phase is Phase.AUTHENTICATING:
            self._serve(now)

    @property
    def _is_for_reading(self) -> bool:
        """Whether the present server is tried as one that serves read-only."""
        return self._read_only_at is not None and self._address == self._read_only_at

    def _attach_read_only(self, timeout: float, now: float) -> None:
        """A local session, for reads. The proper one is kept aside."""
        self._aside = Aside(self.liveness.proven, self.liveness.timeout, self.last_zxid)
        self._queues_all = True
        self.connections += 1
        self.liveness.connected(self._handshake_sent_at, now, timeout)
        self._authenticate_first(now)

    def _serve_read_only(self, now: float) -> None:
        self._read_write_search_at = now + self._options.read_write_search_interval
        self.requests.release_reads()
        if self._refuses_writes:
            self.requests.refuse_writes(read_only)
        self._announce(State.CONNECTED_READ_ONLY, None)

    @property
    def _refuses_writes(self) -> bool:
        return self._options.read_only_writes == "refuse"

    def _search_read_write(self, now: float) -> None:
        self._read_write_search_at = now + self._options.read_write_search_interval
        self.actions.append(AskModes())

    def _session_refused(self, now: float) -> None:
        """The server says that the session is over: a new one, with the same server, for it does answer."""
        if not self.session_id:
            raise HandshakeRefusedError(f"{self.server} refused a new session")
        self._end_session(SessionExpiredError("session", hex_id(self.session_id)))
        assert self._address is not None
        self._rounds.again(self._address)
        self._drop_rivals()
        self.actions.append(HangUp(self._conn))
        self._forget_link()
        if self._may_renew:
            self._next_attempt(now)
        else:
            self._awaits_renewal = True
            self._rounds.stop()

    def _end_session(self, reason: BaseException) -> None:
        """It is over. What was called for it fails; for the rest there will be another one."""
        if self.state is State.SUSPENDED:
            self._announce(State.LOST, reason)
        self._renewed_for = reason
        self.requests.fail_bound(self.generation)
        self.lease.session_over()
        self._draining.session_over()
        self.session_id = 0
        self.password = b""

    # -- what the servers are --------------------------------------------------------------------------------------
    #
    # A server refuses a client that has seen a later zxid than the server has: its data is behind, or it has lost its
    # quorum, or the ensemble was wiped or restored from a backup. Only in the last case will that never change.

    def _is_refused(self) -> bool:
        return any(isinstance(reason, HandshakeRefusedError) for reason in self._rounds.failures.values())

    def server_is(self, address: Address, mode: str | None, zxid: int | None, now: float) -> None:
        """What a server has told of itself, because of `AskModes`: its mode and zxid, as `srvr` has them."""
        if not self._rounds.servers.has(address):
            return  # removed since it was asked
        if mode == "read-only":
            if zxid is None or zxid >= self.last_zxid:  # else it refuses us, and is no reason to cut a pause short
                self._read_only_found(address, now)
        elif mode is not None and self._aside is not None and self.phase is Phase.SERVING:
            self._doubt.alternative = address
            self.leave(now)
        elif mode is not None and zxid is not None:
            self._history_told(mode, zxid, now)

    def _history_told(self, mode: str, zxid: int, now: float) -> None:
        """By a server that serves. One that decides and is behind may have been deposed and not know yet, so its word
        counts only when it has stood for half a session timeout (a tick at least), and when nobody who is not behind
        has been met for a whole one."""
        if zxid >= self.last_zxid:
            self._history_held_at, self._behind_since = now, None
        elif mode not in _DECIDING or now < self._history_held_at + self.liveness.timeout:
            return
        elif self._behind_since is None:
            self._behind_since = now
        elif now >= self._behind_since + self.liveness.timeout / 2:
            self._history_was_reset(zxid, now)

    def _read_only_found(self, address: Address, now: float) -> None:
        """Better than nothing, if the user thinks so; unless somebody is taking us just now."""
        if not self._options.read_only or self.phase in (Phase.HANDSHAKE, *_ANSWERING):
            return
        if self._ended is not None or self._awaits_renewal:
            return
        self._read_only_at = address
        self._rounds.again(address)
        if self.phase is Phase.IDLE:
            self._rounds.stop()
            self._next_attempt(now)

    def _history_was_reset(self, zxid: int, now: float) -> None:
        """One that decides for the ensemble is behind what we have seen: data was lost, and neither our session nor
        our zxid will ever be accepted again. Everything begins from zxid 0, once the session can't live any more."""
        if self.state is not State.LOST or not self.session_id or not self._may_renew:
            return
        if self.phase is Phase.AUTHENTICATING:
            return  # somebody has just taken our session and our zxid: the one that told leads no more
        reason = HistoryResetError(
            f"the ensemble has lost data: its zxid is 0x{zxid:x}, and 0x{self.last_zxid:x} had been seen; session "
            f"{hex_id(self.session_id)} is gone, and what was read or written since may be gone"
        )
        self._end_session(reason)
        self.last_zxid = 0
        self.watching.history_reset()
        self._hang_up()
        self.requests.give_up_unsettled(reason)
        self._begin_round(now)

    def _serve(self, now: float) -> None:
        self.phase = Phase.SERVING
        self._serving_since = now
        self._replies_before = self._replies
        self._behind_since = None
        self._keep_spare(now)
        self.requests.expire(now)  # after a pause of our own process the timer may not have been handled yet
        self.watching.rearm()
        if self._aside is not None:
            self._serve_read_only(now)
            return
        if self._announced_id != self.session_id:  # what `renew` has allowed is used up
            self._may_renew = self._options.renew
        if not self._closing:
            self._commits.connected(now)
            if self._commits.holders:
                self._commit(now)
        if self._announced_id and self._announced_id != self.session_id:
            reason, self._renewed_for = self._renewed_for, None
            self._announce(State.RENEWED, reason)
        self._announce(State.CONNECTED, None)
        self._prepare()

    # -- before the queue moves ------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Receipts first: what is sent again may need them."""
        receipts = self._receipts
        self._is_preparing = self._queues_all = True
        if receipts is not None and not receipts.is_complete(self.generation):
            receipts.make(self.generation, self.session_id, self._settle)
        else:
            self._settle()

    def _settle(self) -> None:
        if self.requests.unsettled:
            Settlement(self.requests, self._receipts, self.session_id, ask=self._ask, done=self._prepared).start()
        else:
            self._prepared()

    def _prepared(self) -> None:
        self._is_preparing = False
        self._queues_all = self._receipts is not None
        self._replies_before = self._replies
        if self._receipts is not None:
            self.actions.append(Prepared())

    @property
    def receipts_error(self) -> EverlatchError | None:
        """Why writes can't be exactly once."""
        receipts = self._receipts
        return None if receipts is None or receipts.error is None else receipts.error_for(None)

    # -- replies ---------------------------------------------------------------------------------------------------

    def _read(self, conn: int, data: bytes, now: float) -> None:
        """Takes apart one read. This is the hot path: what is common is written out here, the rest behind a call."""
        in_flight = self.requests.in_flight
        unpack = REPLY_HEADER.unpack_from
        answered: Request | None = None
        believed = self.last_zxid
        try:
            for buf, start, end in self._reader.feed(data):
                if self.phase is Phase.HANDSHAKE:
                    self._handle_handshake(buf, start, end, now)
                else:
                    if end - start < _REPLY_HEADER_SIZE:
                        raise TruncatedError(f"a reply of {end - start} bytes from {self.server} has no whole header")
                    xid, zxid, err = unpack(buf, start)
                    if in_flight and in_flight[0].xid == xid:
                        if zxid > self.last_zxid:
                            self.last_zxid = zxid
                        elif zxid != self.last_zxid:
                            self._note_zxid(zxid)  # first: a reply from the past leaves its request unanswered
                        answered = in_flight.popleft()
                        self._replies += 1
                        call = answered.call
                        if answered.operation is COMMIT:
                            self._commit_answered(answered, err, buf, start + _REPLY_HEADER_SIZE, end, now)
                        elif answered.receipt is not None:
                            self._answers.receipted(answered, err, buf, start + _REPLY_HEADER_SIZE, end, self.last_zxid)
                            if err == _AUTHENTICATE_FIRST:
                                self._leave_who_demands_authentication(answered)
                        elif err or call is None:
                            self._answer_otherwise(answered, err, now)
                            if err == _AUTHENTICATE_FIRST:
                                self._leave_who_demands_authentication(answered)
                        else:
                            self._answers.well(answered, call, buf, start + _REPLY_HEADER_SIZE, end, self.last_zxid)
                    else:
                        self._handle_special(xid, zxid, err, buf, start + _REPLY_HEADER_SIZE, end, now)
                if conn != self._conn:  # that frame has ended the connection
                    return
                believed = self.last_zxid
        except ProtocolError:
            # A zxid from a frame that is wrong otherwise may be wrong too, and one from the future would have every
            # server refuse us for ever.
            self.last_zxid = believed
            raise
        finally:  # what was answered was answered, though a later frame may have ended the connection
            if answered is not None:
                self.liveness.answered(answered.sent_at, now)
                self.lease.answered(answered.sent_at, now)
        self.liveness.received(now, unanswered=bool(in_flight))
        if self.phase is Phase.LEAVING:
            self._leave_when_answered(now)

    def _answer_otherwise(self, request: Request, err: int, now: float) -> None:
        if request.operation is _CLOSE_SESSION:
            self.abort(now)
        else:
            self._answers.otherwise(request, err, self.last_zxid)

    def _leave_who_demands_authentication(self, request: Request) -> None:
        """The server closes the connection behind that answer: a write put onto it now would be in doubt for nothing.
        (One that has overtaken others is waited for: they may still be answered.)"""
        if self.phase is Phase.SERVING:
            raise server_error(_AUTHENTICATE_FIRST, request.operation.name, request.path)

    def _handle_special(self, xid: int, zxid: int, err: int, buf: bytes, pos: int, end: int, now: float) -> None:
        if xid == XID_NOTIFICATION:
            self._handle_event(zxid, buf, pos, end)
        elif xid == XID_PING:
            self._handle_pong(zxid, err, now)
        elif xid in _IDENTITY:
            self._handle_identity(xid, err, buf, pos, end, now)
        else:
            self._handle_overtaking(xid, err, now)

    def _handle_event(self, zxid: int, buf: bytes, pos: int, end: int) -> None:
        number, _, path = decode_watcher_event(buf, pos, end)
        try:
            event = EventType(number)
        except ValueError:
            raise ProtocolError(f"{self.server} sent an event of the unknown type {number}") from None
        if event in (EventType.MISSED, EventType.REMOVED):  # ours: never on the wire
            raise ProtocolError(f"{self.server} sent an event of type {number}, which servers don't")
        self._events += 1
        self.watching.event(event, path, zxid)

    def _handle_pong(self, zxid: int, err: int, now: float) -> None:
        if self.liveness.ping_sent_at is None:
            raise UnexpectedReplyError(f"{self.server} answered a ping that was not sent")
        if err:
            raise server_error(err, "ping")
        self._note_zxid(zxid)
        self.liveness.answered(max(self.liveness.proven, self.liveness.ping_sent_at), now)
        self.lease.answered(self.liveness.ping_sent_at, now)
        self.liveness.ping_sent_at = None

    def _handle_auth(self, err: int, now: float) -> None:
        credential = self.credentials.answered()
        if credential is None:
            raise UnexpectedReplyError(f"{self.server} answered credentials that were not sent")
        if err:
            self._auth_failed(server_error(err, "add_auth", credential.scheme), now)
            return
        for request in credential.waiting:
            request.complete(None)
        credential.waiting.clear()
        self._go_on_when_authenticated(now)

    def _auth_failed(self, error: EverlatchError, now: float) -> None:
        self._hang_up()
        self._ended = auth_refused
        self._fail_all(auth_refused)
        self._announce(State.AUTH_FAILED, error)
        if self._closing:
            self.abort(now)

    def _handle_overtaking(self, xid: int, err: int, now: float) -> None:
        # Its zxid is not noted: the replies that it has overtaken may be older.
        in_flight = self.requests.in_flight
        request = next((request for request in in_flight if request.xid == xid), None)
        if request is None or err not in _OVERTAKING_ERRORS:
            expected = f"{in_flight[0].xid} is expected" if in_flight else "none is expected"
            raise UnexpectedReplyError(f"{self.server} sent a reply with xid {xid}, error {err}; {expected}")
        in_flight.remove(request)
        self._replies += 1
        self._answer_otherwise(request, err, now)

    def _note_zxid(self, zxid: int) -> None:
        if zxid > self.last_zxid:
            self.last_zxid = zxid
        elif 0 < zxid < self.last_zxid:
            raise ProtocolError(f"{self.server} went back in time, from zxid 0x{self.last_zxid:x} to 0x{zxid:x}")

    # -- time ------------------------------------------------------------------------------------------------------

    def _check_link(self, now: float) -> None:
        liveness = self.liveness
        if not self._doubt.is_open:
            liveness.waits_for_commit = any(_needs_commit(request) for request in self.requests.in_flight)
        if liveness.is_silent(now):
            step = self._doubt.look(now)
            if step is Step.LEAVE:
                self._left = (self._conn, self._address)
                self._drop(self._silence(now), now)
            elif step is Step.ASK and not self._closing:  # who says goodbye goes to nobody else
                self.actions.append(AskServers(self._conn))
            return
        self._doubt.silence_has_ended()
        if liveness.ping_due(now):
            self._urgent.append(_PING)
            liveness.ping_sent(now)

    def server_answered(self, conn: int, address: Address, now: float) -> None:
        """A server lives; asked because of `AskServers`, over a connection of its own. `conn` is the one in doubt."""
        if (conn, address) == self._left:  # it lived all the time, or stood still for no longer than that
            self._left = None
            self.liveness.false_alarm(now)
        # It may have been removed since it was asked: nobody goes there, so it is no reason to leave.
        elif conn == self._conn and self._doubt.is_open and self._rounds.servers.has(address):
            self._doubt.answered(address, now, in_use=address == self._address)

    @property
    def doubts_link(self) -> bool:
        """Whether the link is silent, and the servers are asked whether they live."""
        return self._doubt.is_open

    def _silence(self, now: float) -> SilentLinkError:
        since = now - (self.liveness.waiting_since or self.liveness.proven)
        return SilentLinkError(f"{self.server} has not answered for {since:.3g} s")

    def _lost_locally(self, now: float) -> SilentLinkError:
        """Not the words of an expiry: no server has said so. What has to be mended by somebody is said as well."""
        tls = (f"; {server}: {reason}" for server, reason in self.failures() if isinstance(reason, TlsError))
        return SilentLinkError(
            f"no answer for {now - self.liveness.proven:.3g} s: session {hex_id(self.session_id)} "
            f"must be assumed gone, its timeout is {self.liveness.timeout:g} s{''.join(tls)}"
        )

    # -- the lease -------------------------------------------------------------------------------------------------

    def hold_lease(self, now: float) -> None:
        """Somebody rests on the lease: it is extended until `release_lease`."""
        if self._commits.hold():
            self.lease.begin(now)
            if self.phase is Phase.SERVING and self._aside is None:
                self._commit(now)

    def release_lease(self) -> None:
        """He does no more."""
        self._commits.release()

    @property
    def lease_end(self) -> float:
        """Until when the session certainly lives; 0: that isn't known, or its end was asked for."""
        return 0.0 if self._closing else self.lease.end

    def server_told(self, conn: int, mode: str) -> None:
        """What the server of a connection is, as `srvr` tells it. Touches take less time through some than others."""
        if conn == self._conn:
            self.lease.lag = self._touch_lag(mode)

    def _touch_lag(self, mode: str | None) -> float:
        """How long it takes until the leader has counted what this server has answered. Servers grant no timeout
        below two ticks, unless told to: that bounds a tick that isn't known."""
        if mode in ("leader", "standalone"):
            return 0.0
        tick = self._options.tick or self.liveness.timeout / 2
        return (tick / 2 if mode == "follower" else tick) + self._options.lease_jitter

    def _commit(self, now: float) -> None:
        """For the lease, or to see whether the server still has a quorum behind it."""
        self._commits.sent(now, self.liveness.timeout)
        self._urgent.append(Request(None, COMMIT, "/", COMMIT_BODY))

    def _commit_answered(self, request: Request, err: int, buf: bytes, pos: int, end: int, now: float) -> None:
        lease = self.lease
        if not was_decided(err, buf, pos, end):
            lease.commit_refused()
            if err == _AUTHENTICATE_FIRST:
                self._leave_who_demands_authentication(request)
            if request.call is not None:  # what was lost can't be settled here
                raise ServerLeftError(f"{self.server} has refused a commit (error {err})")
            return
        if request.call is not None:
            request.call.set_result(self.last_zxid)
        did_run, lapses = lease.runs(now), lease.lapses
        lease.committed(now)
        if lease.runs(now) and not did_run:
            self.actions.append(LeaseGranted())
        elif lease.lapses > lapses and not lease.lag and not self._closing:
            self._commit(now)  # the second of two, which need no time between them here

    # -- telling ---------------------------------------------------------------------------------------------------

    def _announce(self, state: State, reason: BaseException | None) -> None:
        previous, self.state = self.state, checked(self.state, state)
        previous_id, self._announced_id = self._announced_id, self.session_id or self._announced_id
        change = StateChange(state, previous, self._announced_id, previous_id, self.generation, self.server, reason)
        self.actions.append(Announce(change))

    def _fail_all(self, error: Callable[[Request], EverlatchError]) -> None:
        for request in self.credentials.take_waiting():
            request.fail(error(request))
        self.requests.fail_all(error)

    # -- watches

    def forget_watch(self, path: str, callback: Watch) -> None:
        """Takes a callback out, however often it is registered under the path; the server's event finds nobody."""
        self.watching.discard(self._server_path(path), callback)

    def leave_one_shot(self, kind: int, path: str, callback: Watch) -> None:
        """A callback waits no longer for one kind, `DATA` or `CHILD` of `everlatch.session.watches`; the last one takes
        the watch away from the server. Cancel the call first that is to set it."""
        self.watching.leave_one_shot(kind, self._server_path(path), callback)

    def want_watch(self, kind: int, path: str, callback: Watch) -> None:
        """A persistent watch is about to be asked for; `leave_watch` has to follow, whatever becomes of it."""
        self.watching.want(kind, self._server_path(path), callback)

    def leave_watch(self, kind: int, path: str, callback: Watch) -> None:
        """Nobody listens with this callback any more; the last one takes the watch away from the server."""
        self.watching.leave(kind, self._server_path(path), callback)

    def removal(self, which: WatchKind, path: str) -> Operation:
        """The operation that removes one-shot watches on a path, at the server and then here."""
        return self.watching.removal(which, self._server_path(path))

    def _fire(self, callbacks: list[Watch], event: EventType, path: str, zxid: int) -> None:
        if callbacks:
            self._fire_watches(callbacks, WatchEvent(event, strip_chroot(self._chroot, path), zxid))

    def _ask(self, request: Request) -> None:
        if self.phase is Phase.SERVING:
            self._urgent.append(request)

    def _coming_one_shots(self) -> set[str]:
        """The paths on which the server may have armed one-shot watches of which the replies are still to come."""
        return {
            self._answers.watched_path(request)
            for request in self.requests.in_flight
            if request.watch is not None and request.operation.watch not in (None, PERSISTENT, RECURSIVE)
        }

    def _server_path(self, path: str) -> str:
        if not self._chroot:
            return path
        return self._chroot if path == "/" else self._chroot + path


def _needs_commit(request: Request) -> bool:
    """Whether only a quorum can answer it."""
    return request.operation.is_write or request.operation.op in _DECIDED
