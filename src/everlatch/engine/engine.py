"""Owns one session: after every input it sends, performs what the session asks for, and re-arms one timer.

Rules:
1. A session is never touched across an `await`, and only from the loop that started the engine.
2. One flush a loop turn: the calls of one turn go out in one write. A call that finds nothing in flight goes at once,
   so that a caller who waits for each answer does not wait for the turn as well.
3. A task that awaits such a call goes on in the turn that reads the reply, after all else that the read calls for;
   in the next turn, if others have to be told first of what came before the reply.
4. With many calls in flight reading pauses for a millisecond after each read: replies then come in batches, and the
   CPU per call halves. With few in flight it never does.
5. The guardian, if there is one, hears of a session before anybody else does, and before anything is written in it.
6. When a session begins its restorers are called, before anybody is told: they make calls, which go ahead of all that
   waits, and can't wait for anything themselves (promise P6).
7. In a forked child nothing is done: its connections, and what its loop watches, are shared with its parent. Not a byte
   is written, nothing is shut down; what the child closes, as it ends, is its copies of the descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import uuid
import weakref
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

from everlatch.arguments import checked_timeout
from everlatch.engine.audience import Audience
from everlatch.engine.call import Call
from everlatch.engine.clock import clock_of
from everlatch.engine.dispatch import Dispatcher, Lane
from everlatch.engine.lease_keeper import LeaseKeeper
from everlatch.engine.lookups import Lookups
from everlatch.engine.server_search import ServerSearch
from everlatch.engine.server_version import ServerVersions
from everlatch.engine.tokens import Tokens
from everlatch.engine.transport import Dialer, Link, TcpDialer, TlsDialer, link_type
from everlatch.errors import (
    AlreadyStartedError,
    AuthFailedError,
    CallTimeoutError,
    ClientClosedError,
    ConnectFailedError,
    ConnectionClosedByServerError,
    EverlatchError,
    GaveUpError,
    InvalidTypeError,
    LinkError,
    NotStartedError,
    RequestTooLargeError,
    SaslError,
    StartError,
    TlsError,
    WrongLoopError,
    describe,
    hex_id,
)
from everlatch.guardian.guarded import Guarded, tls_words_of, words_of
from everlatch.kerberos import Kerberos
from everlatch.paths import Endpoint
from everlatch.sasl import DigestMd5
from everlatch.session.actions import (
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
from everlatch.session.receipts import LARGEST_RECEIPT
from everlatch.session.requests import Operation, Request
from everlatch.session.session import Phase, Session, SessionOptions
from everlatch.session.states import CONNECTED_STATES, FINAL_STATES
from everlatch.types import UNSET, State, StateChange, Timeout, Unset

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from random import Random

    from everlatch.engine.call import Waiter
    from everlatch.engine.subscription import Subscription
    from everlatch.guardian.ward import Ward
    from everlatch.session.servers import Address
    from everlatch.tls import TlsSettings
    from everlatch.types import Remove, Watch, WatchEvent

__all__ = ["MAX_REQUEST_SIZE", "Engine"]

T = TypeVar("T")

logger = logging.getLogger("everlatch")

MAX_REQUEST_SIZE = 1_048_575
"""The server's default limit for a frame (jute.maxbuffer); over it, it closes the connection without a word."""

_REQUEST_HEADER = 8
_BATCHING_FROM = 100
_BATCHING_PAUSE = 0.001
_TIMER_SLACK = 0.001
_BLOCKED = 0.25
"""A timer that fires so late (seconds) means that something blocks the event loop."""


class Engine:
    """Runs one session on the loop that starts it."""

    def __init__(
        self,
        options: SessionOptions,
        rng: Random,
        *,
        default_timeout: float | None,
        start_timeout: float | None,
        close_timeout: float,
        max_request_size: int = MAX_REQUEST_SIZE,
        search_interval: float | None = None,
        tls: TlsSettings | None = None,
        dialer: Dialer | None = None,
        ward: Ward | None = None,
    ) -> None:
        self.session = Session(options, rng, self._fire_watches)
        self._requests = self.session.requests
        self._max_queued_calls = options.max_queued_calls
        self._user_timeout = options.session_timeout * 2 / 3
        self._default_timeout = default_timeout
        self._start_timeout = start_timeout
        self._close_timeout = close_timeout
        self._has_receipts = options.receipts > 0
        self._max_body = max_request_size - _REQUEST_HEADER
        if self._has_receipts:
            self._max_body -= LARGEST_RECEIPT + len(options.receipts_place.encode())
        self._rng = rng
        self.tls = tls
        """How the servers are talked to; `None`: plainly."""
        self._dialer: Dialer = dialer or (TcpDialer() if tls is None else TlsDialer(tls))
        self._mechanism = options.sasl
        self.ward = ward
        """Our place with the guardian, if there is to be one."""
        self._is_inherited = False
        """Whether this is a forked child, and all of this its parent's. Rule 7."""
        # Set by start().
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock: Callable[[], float] = _no_clock
        self._dispatcher: Dispatcher | None = None
        self._lookups: Lookups | None = None
        # The present connection, those that may become it, and attempts that are still being made or taken down.
        self._link: Link | None = None
        self._rivals: dict[int, Link] = {}
        self._attempts: dict[int, asyncio.Task[None]] = {}
        self._open: set[asyncio.Future[None]] = set()
        self._alone: Call[Any] | None = None
        """The last call that found nothing in flight; rule 3."""
        self._turns_to_tell = 0
        """Whether somebody has yet to be told of an event or a change of state: in the next turn of the loop."""
        # One flush and one timer at most.
        self._flush_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        # Who waits for what; in dicts, not sets, so that they are told in the order in which they came.
        self._start_waiter: asyncio.Future[None] | None = None
        self._connect_waiters: dict[asyncio.Future[None], None] = {}
        self._closed: asyncio.Future[None] | None = None
        self._close_task: asyncio.Task[None] | None = None
        self._audience = Audience()
        self._restorers: dict[Callable[[StateChange], None], None] = {}
        self._refusal: BaseException | None = None
        """Why the client has stopped, if its credentials were refused."""
        self._restored = 0
        """The generation that they were called for last."""
        self._goes_ahead = False
        """Whether the calls that are being made go ahead of all that waits."""
        self.versions = ServerVersions(self)
        """Tells operations that older servers lack whether the server in use has them."""
        self.lease = LeaseKeeper(self)
        self.search = ServerSearch(self, search_interval)
        self._tokens = Tokens(self, options.sasl) if options.sasl is not None else None
        self._told_of_end: dict[Callable[[BaseException | None], object], None] = {}

    # -- calls -----------------------------------------------------------------------------------------------------

    def submit(
        self,
        operation: Operation,
        path: str,
        body: bytes,
        watch: Watch | None = None,
        timeout: Timeout = UNSET,
        generation: int = 0,
    ) -> Call[Any]:
        """Queues one request and returns its call. Raises what `Client`'s methods say they raise."""
        loop = self._loop
        # `_checked_loop` written out: a frame less on the path of every call.
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is not loop or loop is None:
            raise self._wrong_loop()
        if len(body) > self._max_body:
            raise self._too_large(operation.name, path, body)
        if watch is not None:
            _check_callable("a watch", watch)
        if timeout is UNSET:
            timeout = self._default_timeout
        call: Call[Any] = Call(loop=loop)
        call.requests = requests = self._requests
        call.waiter = None
        if timeout is None:
            now = None
            call.request = request = Request(call, operation, path, body, watch, generation)
        else:
            seconds = checked_timeout(timeout)
            now = self._clock()
            call.request = request = Request(call, operation, path, body, watch, generation, seconds)
            self._arm(now + seconds, now)
        link = self._link
        if link is None or requests.in_flight or not link.writable or self._goes_ahead:
            request.ahead = self._goes_ahead
            self.session.submit(request, now)
        else:
            if now is None:
                now = self._clock()
            data = self.session.submit(request, now, at_once=True)
            if data:
                assert link.transport is not None
                link.transport.write(data)
                self._alone = call
                if self._timer_at > now + self.session.liveness.first_budget:
                    self._look_after_timer(now, acted=False)
                return call
        if link is not None and not self._flush_scheduled:
            self._flush_scheduled = True
            loop.call_soon(self._flush)
        return call

    def authenticate(self, scheme: str, body: bytes, operation: Operation, timeout: Timeout) -> Call[None]:
        """Adds an identity; the call ends with the server's answer."""
        loop = self._checked_loop()
        self._check_credentials(scheme, body)
        call: Call[None] = Call(loop=loop)
        seconds = self.seconds(timeout)
        request = Request(call, operation, scheme, b"", timeout=seconds)
        now = self._clock()
        self.session.authenticate(scheme, body, request, now)
        if seconds is not None:
            self._arm(now + seconds, now)
        call.request = request
        call.requests = self._requests
        call.waiter = None
        self._tell_guardian()
        self.pump()
        return call

    def add_credentials(self, scheme: str, body: bytes) -> None:
        """An identity known before `start()`."""
        self._check_credentials(scheme, body)
        self.session.authenticate(scheme, body, None, 0.0)

    @property
    def has_receipts(self) -> bool:
        """Whether writes that can are exactly once."""
        return self._has_receipts

    def new_guid(self) -> str:
        """See `Client.new_guid`."""
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    @property
    def server_address(self) -> Endpoint | None:
        """Where the present connection goes, if it goes over IP."""
        transport = self._link.transport if self._link is not None else None
        peer = transport.get_extra_info("peername") if transport is not None else None
        return Endpoint(peer[0], peer[1]) if isinstance(peer, tuple) else None

    @property
    def max_queued_calls(self) -> int:
        """How many calls may wait."""
        return self._max_queued_calls

    def renew(self) -> None:
        """See `Client.renew`."""
        self.check_usable("renew()")
        self.session.renew(self._clock())
        self.hurry()

    def update_servers(self, endpoints: Sequence[Endpoint]) -> None:
        """See `Client.update_servers`."""
        if self._loop is None:
            self.session.update_servers(endpoints, 0.0)
        elif self.session.state not in FINAL_STATES:
            self._checked_loop()
            self.session.update_servers(endpoints, self._clock())
            self._tell_guardian()
            self.hurry()

    async def resolve(self, endpoint: Endpoint) -> list[str]:
        """The addresses of a server's name. Raises what `getaddrinfo` raises."""
        if self._lookups is None:
            raise self._wrong_loop()
        return await self._lookups.resolve(endpoint)

    def check_usable(self, what: str) -> None:
        """Raises what any call would raise here and now, but for a full queue."""
        self._checked_loop()
        if self.session.state in FINAL_STATES or self.session.is_closing:
            raise self._final_error(what)

    def check_size(self, operation: str, path: str, body: bytes) -> None:
        """Raises `RequestTooLargeError` for what no call could send."""
        if len(body) > self._max_body:
            raise self._too_large(operation, path, body)

    def seconds(self, timeout: Timeout) -> float | None:
        """A call's timeout, with the default in place of `UNSET`."""
        seconds = self._default_timeout if isinstance(timeout, Unset) else timeout
        return None if seconds is None else checked_timeout(seconds)

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self, *, wait: bool) -> None:
        """See `Client.start`."""
        if self._loop is not None:
            raise AlreadyStartedError("start(): this client was started before; a client is used once, make a new one")
        if self.session.state is State.CLOSED:
            raise ClientClosedError("start(): this client was closed before it was started; make a new one")
        loop = asyncio.get_running_loop()
        if self.ward is not None:
            self.ward.begin(loop)
        self._loop = loop
        _started.add(self)
        self._clock = clock_of(loop)
        self._dispatcher = Dispatcher(loop)
        self._lookups = Lookups(loop)
        self._closed = loop.create_future()
        self._audience.attach(self._dispatcher)
        self.session.start(self._clock())
        if wait:
            self._start_waiter = loop.create_future()
        self.pump()
        if self._start_waiter is not None:
            await self._wait_started(self._start_waiter)

    async def _wait_started(self, waiter: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(self._start_timeout):
                await waiter
        except BaseException as error:
            failures = self.session.failures()
            self._abort()
            await self._all_closed()
            if isinstance(error, TimeoutError) and not isinstance(error, EverlatchError):
                raise StartError(failures) from None
            raise
        finally:
            self._start_waiter = None

    async def close(self, timeout: Timeout) -> None:
        """See `Client.close`."""
        seconds = self._close_timeout if isinstance(timeout, Unset) else timeout
        if seconds is not None:
            seconds = checked_timeout(seconds)
        if self._is_inherited:
            return
        if self._loop is None:
            self._close_unstarted(asyncio.get_running_loop())
            return
        if self.session.state is State.CLOSED and asyncio.get_running_loop() is not self._loop:
            return  # all is done, or being done where it belongs
        self._checked_loop()
        if self._close_task is None:
            self._close_task = self._loop.create_task(self._close(seconds))
        await asyncio.shield(self._close_task)

    def leave_to_parent(self, dead: socket.socket) -> None:
        """In a forked child, from when it begins; `dead`: see `Link.leave_to_parent`. Rule 7."""
        self._is_inherited = True
        for link in [*([] if self._link is None else [self._link]), *self._rivals.values()]:
            link.leave_to_parent(dead)
        self._link = None
        self._rivals.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _close_unstarted(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing is open, but some may listen already."""
        self._audience.attach(Dispatcher(loop))
        self.session.abort(0.0)
        while self.session.actions:
            self._perform()

    async def _close(self, timeout: float | None) -> None:
        assert self._closed is not None
        self.session.close(self._clock())
        self.pump()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._closed)
        except TimeoutError:
            self._abort()
        await self._all_closed()

    def _abort(self) -> None:
        self.session.abort(self._clock())
        self.pump()

    async def _all_closed(self) -> None:
        """Waits until no socket or task of ours is left; the transports were aborted, so it takes a loop turn."""
        for task in self._attempts.values():
            task.cancel()
        if self._attempts or self._open:
            await asyncio.wait([*self._attempts.values(), *self._open], timeout=1.0)
        await self.search.close()
        await self.lease.close()
        await self.versions.close()
        if self._tokens is not None:
            await self._tokens.close()
        if self.ward is not None:
            await self.ward.end()

    # -- states ----------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The engine's clock: seconds, suspended time included."""
        return self._clock()

    def add_listener(self, listener: Callable[[StateChange], object]) -> Remove:
        """See `Client.add_listener`."""
        _check_callable("a listener", listener)
        return self._audience.add_listener(listener)

    def add_restorer(self, restorer: Callable[[StateChange], None]) -> Remove:
        """Calls `restorer` when a session begins, the first one included, before listeners are told of it: whatever
        calls it makes go ahead of all that waits. It must not wait. Returns what takes it back."""
        self._restorers[restorer] = None
        return lambda: self._restorers.pop(restorer, None)

    @contextlib.contextmanager
    def ahead(self) -> Iterator[None]:
        """The calls that are made within, without an `await`, go ahead of all that waits: for what a session that has
        just begun still lacks."""
        before, self._goes_ahead = self._goes_ahead, True
        try:
            yield
        finally:
            self._goes_ahead = before

    def isolated(self, callback: Callable[[T], object]) -> Callable[[T], None]:
        """See `Client.isolated`. Raises `NotStartedError`."""
        if self._dispatcher is None:
            raise self._wrong_loop()
        return Lane(self._dispatcher, callback).tell

    def states(self) -> Subscription[StateChange]:
        """See `Client.states`."""
        return self._audience.subscribe()

    def tell_end(self, callback: Callable[[BaseException | None], object]) -> Remove:
        """Has a callback told of the client's end, behind all that is still to be told: `None` after `CLOSED`, by the
        user's own will, else why there will never be a server. Returns what takes it back."""
        self._told_of_end[callback] = None
        return lambda: self._told_of_end.pop(callback, None) and None

    def jittered(self, seconds: float) -> float:
        """About so many, so that not all do the same at the same time."""
        return seconds * self._rng.uniform(0.75, 1.25)

    def watch_wanted(self, kind: int, path: str, callback: Watch) -> None:
        """A persistent watch is about to be asked for; `watch_left` has to follow."""
        self.session.want_watch(kind, path, callback)

    def watch_left(self, kind: int, path: str, callback: Watch) -> None:
        """Nobody listens with this callback any more."""
        self.session.leave_watch(kind, path, callback)
        if self.session.state not in FINAL_STATES:
            self.pump()

    def leave_one_shot(self, kind: int, path: str, callback: Watch) -> None:
        """A one-shot callback waits no longer for one kind, `DATA` (which has what `exists` waits for) or `CHILD` of
        `everlatch.session.watches`; if nobody else does, the server is told, of all at once that are left in a turn of
        the loop. First cancel the call that is to set it, if it isn't answered."""
        self.session.leave_one_shot(kind, path, callback)
        if self._link is not None and not self._flush_scheduled:
            assert self._loop is not None
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    async def wait_connected(self, timeout: Timeout) -> None:
        """See `Client.wait_connected`."""
        loop = self._checked_loop()
        seconds = self.seconds(timeout)
        if self.session.state in CONNECTED_STATES:
            return
        if self.session.state in FINAL_STATES:
            raise self._final_error("wait_connected()")
        waiter = loop.create_future()
        self._connect_waiters[waiter] = None
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError as error:
            if seconds is None or isinstance(error, EverlatchError):
                raise
            raise CallTimeoutError("wait_connected", "/", seconds, sent=None) from None
        finally:
            self._connect_waiters.pop(waiter, None)

    # -- from the loop ---------------------------------------------------------------------------------------------

    def link_made(self, link: Link) -> None:
        """A connection is there; it may no longer be wanted."""
        if not self.session.is_wanted(link.conn):
            link.abort()
            return
        if link.is_to_itself:
            link.abort()
            reason = ConnectFailedError("nobody listens there: the connection reached our own socket")
            self.session.connection_lost(link.conn, reason, self._clock())
            self.pump()
            return
        link.give_up_after(self._user_timeout)
        self._rivals[link.conn] = link
        self.session.connection_made(link.conn, self._clock())
        self.pump()

    def link_received(self, link: Link, data: bytes) -> None:
        """Bytes have come."""
        now = self._clock()
        session = self.session
        alone, waiter = self._alone, None
        if alone is not None:
            waiter, alone.waiter = alone.waiter, None
        try:
            session.bytes_received(link.conn, data, now)
            if len(self._requests.in_flight) >= _BATCHING_FROM:
                self._pause_reading(link)
            if session.has_output:
                self.pump()
            elif self._timer is None or self._timer_at > now + session.liveness.ping_interval:
                self._look_after_timer(now, acted=False)
        finally:
            if alone is not None:
                self._resume(alone, waiter)

    def _resume(self, call: Call[Any], waiter: Waiter | None) -> None:
        """Has the task that waits for the only call go on, if the call has ended: last of all, for it may do anything
        that a user does."""
        if not call.done():
            call.waiter = waiter
            return
        self._alone = None
        if waiter is None:
            return
        assert self._loop is not None
        wake_up, context = waiter
        # Events come before the replies that show the change, and who hears of them hears them first. And a transport
        # may report from within a task.
        if self._turns_to_tell or asyncio.current_task(self._loop) is not None:
            self._loop.call_soon(wake_up, call, context=context)
            return
        try:
            context.run(wake_up, call)
        except (KeyboardInterrupt, SystemExit) as error:  # what ended the task ends the loop, not the connection
            self._loop.call_soon(_raise, error)

    def link_lost(self, link: Link, error: Exception | None) -> None:
        """A connection has ended."""
        if self._link is link:
            self._link = None
        self._rivals.pop(link.conn, None)
        self._open.discard(link.closed)
        self.session.connection_lost(link.conn, _loss(error), self._clock())
        self.pump()

    def link_writable(self, link: Link) -> None:
        """The transport takes bytes again."""
        if self._link is link:
            self.pump()

    # -- the pump --------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_scheduled = False
        self.pump()

    def pump(self) -> None:
        """After any input: performs what the session asks for, sends, and looks after the timer."""
        if self._is_inherited:
            return
        acted = bool(self.session.actions)
        while self.session.actions:
            self._perform()
        if self._alone is not None and self._alone.done():  # by its timeout, or by the end: hold on to it no longer
            self._alone = None
        now = self._clock()
        if self._link is None and self._rivals:
            self._link = self._rivals.pop(self.session.conn, None)
        if self._link is not None:
            self._send(self._link, now)
        self._look_after_timer(now, acted=acted)

    def hurry(self) -> None:
        """`pump`, after an input that may have brought a deadline forward."""
        self.pump()
        deadline = self.session.next_deadline()
        if deadline is not None:
            self._arm(deadline, self._clock())

    def _send(self, link: Link, now: float) -> None:
        if link.writable and link.transport is not None:
            data = self.session.data_to_send(now)
            if data:
                link.transport.write(data)

    def _look_after_timer(self, now: float, *, acted: bool) -> None:
        """Sending and receiving move most deadlines back, and a timer that fires too early does no harm. So it is
        looked after only when something else has happened, or when it is farther off than what these two bring about:
        a link that has just been asked something is doubted soon, and a ping is due when an answer has come. Without
        a server that serves, everything is something else: a round that has failed asks for nothing, and sets a
        deadline all the same."""
        session = self.session
        serving = session.phase is Phase.SERVING
        soonest = min(session.liveness.first_budget, session.liveness.ping_interval)
        if acted or not serving or self._timer is None or self._timer_at > now + soonest:
            deadline = session.next_deadline()
            if deadline is not None:
                self._arm(deadline, now)

    def _arm(self, deadline: float, now: float) -> None:
        """One timer: moved when something is due earlier; when it fires too early it is simply armed again."""
        if self._timer is not None:
            if deadline >= self._timer_at - _TIMER_SLACK:
                if self._timer_at > now - _BLOCKED:
                    return
                # Overdue: we come before it in this turn, or the machine was suspended; unlike our clock, the loop's
                # stood still then.
                _report_late(now - self._timer_at)
                deadline = now
            self._timer.cancel()
        assert self._loop is not None
        self._timer_at = max(deadline, now)  # what is due already, such as a ping that was held back, is not late
        self._timer = self._loop.call_later(self._timer_at - now, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._clock()
        _report_late(now - self._timer_at)
        self.session.handle_timer(now)
        self.pump()

    def _pause_reading(self, link: Link) -> None:
        transport = link.transport
        if link.reading_paused or transport is None or transport.is_closing():
            return
        assert self._loop is not None
        link.reading_paused = True
        transport.pause_reading()
        self._loop.call_later(_BATCHING_PAUSE, self._resume_reading, link)

    def _resume_reading(self, link: Link) -> None:
        link.reading_paused = False
        if link.transport is not None and not link.transport.is_closing():
            link.transport.resume_reading()

    # -- what the session asks for ---------------------------------------------------------------------------------

    def _perform(self) -> None:
        action = self.session.actions.popleft()
        match action:
            case Announce(change):
                self._announce(change)
            case Dial(conn):
                self._attempt(conn, self._dial(action))
            case Resolve(conn):
                self._attempt(conn, self._resolve(action))
            case HangUp(conn):
                self._hang_up(conn)
            case ComputeToken():
                assert self._tokens is not None
                self._tokens.compute(action)
            case AskServers(conn):
                self.search.doubt(conn)
            case AskModes():
                self.search.ask_modes()
            case RoundFailed(failures):
                self._round_failed(failures)
            case LeaseGranted():
                self.lease.granted()
            case Prepared():
                self._prepared()
            case Closed():
                self._finish()
            case _:
                assert_never(action)

    def _attempt(self, conn: int, steps: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        task = self._attempts[conn] = self._loop.create_task(steps)
        task.add_done_callback(lambda _: self._attempts.pop(conn, None))

    async def _dial(self, request: Dial) -> None:
        assert self._loop is not None
        loop, made, new_link = self._loop, list[Link](), link_type(self._loop)

        def make_link() -> Link:
            link = new_link(request.conn, self, loop.create_future())
            made.append(link)
            self._open.add(link.closed)
            return link

        logger.debug("connecting to %s", request.address)
        try:
            await self._dialer.dial(request.address, make_link)
        except Exception as error:  # whatever a dialer raises, the client goes on to the next server
            self.session.connection_lost(request.conn, _not_connected(request.address, error), self._clock())
            self.pump()
        finally:
            # Loops close a socket that did not get connected, and some (uvloop) ask for the link before. One that did
            # is closed by whoever hung up.
            for link in made:
                if link.transport is None:
                    self._open.discard(link.closed)
                    if not link.closed.done():
                        link.closed.set_result(None)

    async def _resolve(self, request: Resolve) -> None:
        assert self._lookups is not None
        endpoint: Endpoint = request.endpoint
        try:
            ips = await self._lookups.resolve(endpoint)
        except Exception as error:  # not OSError alone: names that can't be encoded, executors that are shut down
            failed = ConnectFailedError(f"{endpoint.host!r} did not resolve: {describe(error)}")
            failed.__cause__ = error
            self.session.connection_lost(request.conn, failed, self._clock())
        else:
            self.session.resolved(request.conn, ips, self._clock())
        self.pump()

    def _hang_up(self, conn: int) -> None:
        link = self._link
        if link is not None and link.conn == conn:
            self._link = None
        else:
            link = self._rivals.pop(conn, None)
        if link is not None:
            link.abort()
            return  # what made it ends by itself; cancelled now, uvloop would never say that the connection is closed
        attempt = self._attempts.get(conn)
        if attempt is not None:
            attempt.cancel()

    def _round_failed(self, failures: list[tuple[str, BaseException]]) -> None:
        waiter = self._start_waiter
        if waiter is not None and self._start_timeout is None and not waiter.done():
            waiter.set_exception(StartError(failures))

    def _announce(self, change: StateChange) -> None:
        _log(change)
        if change.state is State.CONNECTED:
            self._tell_guardian()
        # Listeners are told one change a turn, and there may be several of one read.
        self._goes_first(self._turns_to_tell + 1)
        if self._lookups is not None and (change.state in CONNECTED_STATES or change.state in FINAL_STATES):
            self._lookups.forget()
        if change.state in CONNECTED_STATES:
            self._wake(None)
            self.lease.connected()
            self.search.connected()
            if self._tokens is not None:
                self._tokens.connected()
        elif change.state in FINAL_STATES:
            self._refusal = change.reason if change.state is State.AUTH_FAILED else None
            self._wake(change)
            if self._tokens is not None:
                self._tokens.ended()
            self.lease.ended(self._final_error("waiting for the lease"))
            self._tell_end(change)
        if change.state in (State.RENEWED, State.CONNECTED) and change.generation != self._restored:
            self._restore(change)
        self._audience.tell(change)
        if change.state is State.RENEWED:
            self._let_listeners_go_first()

    def _tell_guardian(self) -> None:
        """Of a new session, or what has changed about how to close this one."""
        if self.ward is not None and self.session.session_id:
            self.ward.guard(self._guarded())

    def _guarded(self) -> Guarded:
        session, mechanism = self.session, self._mechanism
        used = session.address if session.state in CONNECTED_STATES else None
        return Guarded(
            session.session_id,
            session.password,
            session.liveness.timeout,
            session.endpoints,
            None if used is None else (used.ip, used.port, used.endpoint.host),
            session.credentials.frames(),
            (mechanism.username, mechanism.password) if isinstance(mechanism, DigestMd5) else None,
            None if self.tls is None else tls_words_of(self.tls),
            words_of(mechanism) if isinstance(mechanism, Kerberos) else None,
        )

    def _tell_end(self, final: StateChange) -> None:
        for callback in self._told_of_end:
            assert self._dispatcher is not None
            self._dispatcher.call(callback, None if final.state is State.CLOSED else self._final_error("watching"))

    def _restore(self, change: StateChange) -> None:
        self._restored = change.generation
        for restorer in list(self._restorers):
            try:
                with self.ahead():
                    restorer(change)
            except Exception:  # it must not keep the others from it, nor the client from going on
                logger.exception("restoring what session %s had: %r failed", hex_id(change.session_id), restorer)

    def _let_listeners_go_first(self) -> None:
        """They restore what the old session had (promise P6); the queue moves when they have been told."""
        link = self._link
        if link is not None and link.writable:
            assert self._loop is not None
            link.writable = False
            self._loop.call_soon(link.resume_writing)

    def _wake(self, final: StateChange | None) -> None:
        """Ends the waits for a connection: it is there, or will never be."""
        waiters = [*self._connect_waiters]
        if self._start_waiter is not None and (final is not None or not self._has_receipts):
            waiters.append(self._start_waiter)
        for waiter in waiters:
            if waiter.done():
                continue
            if final is None:
                waiter.set_result(None)
            elif waiter is self._start_waiter and final.state is State.GAVE_UP:
                waiter.set_exception(StartError(self.session.failures()))
            else:
                waiter.set_exception(self._final_error("waiting for a connection"))

    def _prepared(self) -> None:
        """The queue moves; a client whose writes are to be exactly once has started only now, if they can be."""
        waiter, error = self._start_waiter, self.session.receipts_error
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
        elif error is not None:
            logger.error("%s", error)

    def _finish(self) -> None:
        self._audience.end()
        if self.ward is not None:
            self.ward.forget()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def _fire_watches(self, callbacks: list[Watch], event: WatchEvent) -> None:
        assert self._dispatcher is not None
        self._goes_first()
        for callback in callbacks:
            self._dispatcher.call(callback, event)

    def _goes_first(self, turns: int = 1) -> None:
        """What is about to be told goes before the replies that come after it: until the next turn, or for several,
        and not for this read alone. uvloop reads again in the same turn when a read has filled its buffer, or when it
        has written."""
        if self._loop is None:
            return
        if not self._turns_to_tell:
            self._loop.call_soon(self._turn_is_over)
        self._turns_to_tell = max(self._turns_to_tell, turns)

    def _turn_is_over(self) -> None:
        self._turns_to_tell -= 1
        if self._turns_to_tell:
            assert self._loop is not None
            self._loop.call_soon(self._turn_is_over)

    # -- refusals --------------------------------------------------------------------------------------------------

    def _checked_loop(self) -> asyncio.AbstractEventLoop:
        """The loop, if this is it."""
        loop = self._loop
        try:
            if asyncio.get_running_loop() is loop and loop is not None:
                return loop
        except RuntimeError:
            pass
        raise self._wrong_loop()

    def _wrong_loop(self) -> EverlatchError:
        if self.session.state is State.CLOSED:
            return ClientClosedError("the client is closed; make a new one")
        if self._loop is None:
            return NotStartedError(
                "the client is not started: use `async with client:` or `await client.start()` first"
            )
        return WrongLoopError(
            "a client belongs to the event loop and thread that started it; from another thread use "
            "asyncio.run_coroutine_threadsafe(…, loop), in another loop start a client of its own"
        )

    def _check_credentials(self, scheme: str, body: bytes) -> None:
        """They are sent first on every connection: none would live if they were too large."""
        self.check_size("add_auth", scheme, body)

    def _too_large(self, operation: str, path: str, body: bytes) -> RequestTooLargeError:
        return RequestTooLargeError(
            f"{operation} {path!r} has {len(body) + _REQUEST_HEADER} bytes, over the limit of "
            f"{self._max_body + _REQUEST_HEADER}: a server would close the connection without a word; "
            "if its jute.maxbuffer is larger, raise max_request_size"
        )

    def _final_error(self, what: str) -> EverlatchError:
        if self.session.state is State.AUTH_FAILED:
            error = AuthFailedError(what)
            if isinstance(self._refusal, SaslError):  # which has more to say
                error.args = (f"{error}: {self._refusal}",)
            error.__cause__ = self._refusal
            return error
        if self.session.state is State.GAVE_UP:
            return GaveUpError(f"{what}: the client has given up; close it")
        return ClientClosedError(f"{what}: the client is closed")


_started: weakref.WeakSet[Engine] = weakref.WeakSet()
"""All engines of this process that were started."""


def _leave_all_to_parent() -> None:
    if _started:
        dead, other_end = socket.socketpair()
        other_end.close()
        for engine in _started:
            engine.leave_to_parent(dead)
        dead.close()
        _started.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)


def _check_callable(what: str, callback: object) -> None:
    if not callable(callback):
        raise InvalidTypeError(f"{what} is called with what happens; {callback!r} can't be called")


def _report_late(late: float) -> None:
    if late > _BLOCKED:
        logger.warning("the event loop was blocked for %.3g s: something in this process holds it up", late)


def _not_connected(address: Address, error: Exception) -> ConnectFailedError:
    if isinstance(error, TlsError):
        return error
    failed = ConnectFailedError(f"connecting to {address} failed: {describe(error)}")
    failed.__cause__ = error
    return failed


def _loss(error: Exception | None) -> LinkError:
    if error is None:
        return ConnectionClosedByServerError("the server closed the connection")
    if isinstance(error, TlsError):
        return error
    reason = ConnectionClosedByServerError(f"the connection broke: {describe(error)}")
    reason.__cause__ = error
    return reason


def _log(change: StateChange) -> None:
    """One line per state change; the password is no field of it."""
    level = logging.WARNING if change.state in (State.LOST, State.AUTH_FAILED, State.GAVE_UP) else logging.INFO
    logger.log(
        level,
        "%s -> %s, session %s, server %s%s",
        change.previous.name,
        change.state.name,
        hex_id(change.session_id),
        change.server,
        f": {describe(change.reason)}" if change.reason is not None else "",
    )


def _raise(error: BaseException) -> None:
    raise error


def _no_clock() -> float:
    raise NotStartedError("the client is not started")
