"""The calls of a client on their way: *never sent*, *sent, unanswered*, or, when the connection broke, *unsettled*.

Rules:
1. Calls are sent in the order in which they were submitted, and each is sent once; only a read whose connection
   broke, and a write that is known not to have been applied, go back to where they stood in that order.
2. A call is *sent* from the moment its bytes are handed to the transport. Before that it can be withdrawn without a
   trace; after it the reply is awaited, and swallowed if nobody wants it any more, so that no other reply shifts.
3. The queue is bounded by calls and bytes; a call over a bound is refused at once.
4. When a connection breaks with writes unanswered, all that was in flight is unsettled, in its order, until
   `settlement` has found out about the writes. Until then nothing else is sent.
5. A request ends once, by `complete` or `fail`; it lets go of its call then, so that the two make no cycle, and of
   its body: its deadline may be kept for long, and a thousand of them with a megabyte each. A write that has been
   sent keeps its body until it is answered or settled, though its caller may have gone: it tells what it may do.
6. What restores a session's nodes goes *ahead* of all that waits, in its own order, and is not refused for a full
   queue (promise P6); but behind writes that are sent again, for those were called before (promise P4). Sent and lost,
   it has its place among what was sent, like everything else.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from everlatch.errors import (
    CallTimeoutError,
    NodeExistsError,
    OutcomeUnknownError,
    QueueFullError,
    RequestKillsConnectionError,
    SessionExpiredError,
    WriteTimeoutError,
)
from everlatch.session.own import Own
from everlatch.wire.codes import Op
from everlatch.wire.headers import REQUEST_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from everlatch.errors import EverlatchError
    from everlatch.session.receipts import Receipt, Receipts
    from everlatch.types import Sighting, Watch
    from everlatch.wire.multi import Result

__all__ = ["HEADER_BYTES", "POISON_LOSSES", "Completion", "Operation", "Request", "Requests", "no_result"]

HEADER_BYTES = 12
"""Length prefix, xid and type before each body."""

POISON_LOSSES = 3
"""A read that was the first unanswered request in so many lost connections is not sent again."""

_MAX_XID = 2**31 - 1
_GAPS = 1024
"""So many dead entries a container may always keep before it is worth sweeping."""


class Completion(Protocol):
    """What a call must offer; `asyncio.Future` does."""

    def done(self) -> bool:
        """Whether it was answered or cancelled."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Ends it well."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """Ends it with an error."""
        ...


class Operation(NamedTuple):
    """What is the same for every request of a kind."""

    name: str
    op: int
    decode: Callable[[bytes, int, int], Any]
    """(buffer, start, end) → result. Raises `ProtocolError` (the connection is dropped) or the call's own error."""
    is_write: bool = False
    watch: int | None = None
    """The kind of watch that it can set (`everlatch.session.watches`)."""
    missing_is_none: bool = False
    """"No node" is a result (`None`), not an error: exists."""
    no_watcher: Callable[[Request], Any] | None = None
    """What "no watcher" means, if it is no error; it may raise one all the same."""
    unrooted: bool = False
    """The path is the server's own, whatever the chroot: get_config."""
    is_idempotent: bool = False
    """A write that may be applied twice, as its caller says; what it wants to bring about may be there already."""
    is_protected: bool = False
    """The node to be created has a name that nobody else uses: it is found by it."""
    is_guarded: bool = False
    """A write that is sent again with versions that its caller didn't demand."""
    may_have_happened: bool = False
    """A write that is sent again although nobody knows whether it was applied before: its caller allows that."""
    is_receipted: bool = False
    """A write that travels with a receipt (`everlatch.session.receipts`)."""
    restore: Callable[[list[Result | None]], Any] | None = None
    """A transaction's: what it returns, given the results of its parts as far as they are known; used when the reply
    was lost."""


def no_result(_buf: bytes, _pos: int, _end: int) -> None:
    """Decodes a reply without a body, or one that nobody needs."""


class Request:
    """One call on its way."""

    __slots__ = (
        "ahead",
        "body",
        "call",
        "generation",
        "losses",
        "operation",
        "path",
        "receipt",
        "refusal",
        "repeated",
        "sent_at",
        "timeout",
        "watch",
        "xid",
        "zxid",
    )

    def __init__(
        self,
        call: Completion | None,
        operation: Operation,
        path: str,
        body: bytes,
        watch: Watch | None = None,
        generation: int = 0,
        timeout: float | None = None,
    ) -> None:
        self.call = call
        """`None` once it has ended."""
        self.operation = operation
        self.path = path
        """As the user wrote it, for errors and watches."""
        self.body = body
        self.watch = watch
        self.generation = generation
        """The session that it is bound to; 0: none."""
        self.timeout = timeout
        self.ahead = False
        """Whether it goes before all that waits: rule 6."""
        self.xid = 0
        """0 while it is not sent."""
        self.sent_at = 0.0
        self.repeated = False
        """Whether it had been sent on an earlier connection."""
        self.losses = 0
        """In how many lost connections it was the first unanswered request."""
        self.zxid = -1
        """A write, once sent: the latest that had been seen then, so that whatever it brings about is later."""
        self.receipt: Receipt | None = None
        self.refusal: EverlatchError | None = None
        """Why the servers have refused it, while it is found out whether that is all: it is not sent again, whatever
        becomes of the connection, for later writes may have been applied since."""

    @property
    def has_found_node(self) -> bool:
        """Whether it is an idempotent creation that was answered: there was such a node."""
        return self.operation.is_idempotent and isinstance(self.refusal, NodeExistsError)

    @property
    def may_need_look(self) -> bool:
        """Whether its refusal may have to be looked into."""
        return self.call is not None and self.operation.is_write and (self.repeated or self.operation.is_idempotent)

    def __repr__(self) -> str:
        where = f"sent as {self.xid}" if self.xid else "waiting"
        return f"<Request {self.operation.name} {self.path!r} {'ended' if self.call is None else where}>"

    def complete(self, result: Any) -> None:
        """Ends the call well, unless it has ended or was cancelled."""
        call, self.call = self.call, None
        self.body = b""
        if call is not None and not call.done():
            call.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Ends the call with an error, unless it has ended or was cancelled."""
        self.body = b""
        self.end_call(error)

    def end_call(self, error: BaseException) -> None:
        """`fail`, of a write that has been sent and is still to be answered, or judged."""
        call, self.call = self.call, None
        if call is not None and not call.done():
            call.set_exception(error)


class Requests:
    """The queue, what is in flight, and the deadlines of both."""

    def __init__(self, *, max_in_flight: int, max_queued_calls: int, max_queued_bytes: int) -> None:
        self._max_in_flight = max_in_flight
        self._max_calls = max_queued_calls
        self._max_bytes = max_queued_bytes
        self._waiting: deque[Request] = deque()
        self._ahead: deque[Request] = deque()
        """What goes before all of that, with what is put back into it. Counted with it."""
        self._withdrawn = 0
        """Requests in these two that have ended."""
        self.queued_calls = 0
        self.queued_bytes = 0
        self.in_flight: deque[Request] = deque()
        self.unsettled: list[Request] = []
        """Writes of lost connections whose fate is to be found out, and the reads between them."""
        self.can_list = True
        """Whether names may be listed to find one; no longer once a list was too large for a reply."""
        self.loss: BaseException | None = None
        """Why the last connection was lost."""
        self.receipts: Receipts | None = None
        """For writes that travel with one."""
        self.written = 0
        """The zxid of the last write that was answered."""
        self._deadlines: list[tuple[float, int, Request]] = []
        self._deadline_count = 0
        self._last_xid = 0
        # Counts for `Client.statistics()`.
        self.sent = 0
        self.repeated = 0
        self.settled = 0
        self.resent = 0
        self.unknown = 0

    def __len__(self) -> int:
        return self.queued_calls + len(self.in_flight) + len(self.unsettled)

    # -- in

    def submit(self, request: Request, now: float | None = None) -> None:
        """Queues a request; with a `timeout` its time runs from `now`. Raises `QueueFullError`, but not for one that
        goes ahead."""
        size = len(request.body) + HEADER_BYTES
        is_full = self.queued_calls >= self._max_calls or self.queued_bytes + size > self._max_bytes
        if is_full and not request.ahead:
            raise QueueFullError(
                f"{request.operation.name} {request.path!r}: {self.queued_calls} calls with {self.queued_bytes} bytes "
                f"are waiting to be sent, the limits are {self._max_calls} and {self._max_bytes}; "
                "wait for some, or raise max_queued_calls or max_queued_bytes"
            )
        self.queued_calls += 1
        self.queued_bytes += size
        (self._ahead if request.ahead else self._waiting).append(request)
        if request.timeout is not None and now is not None:
            self._set_deadline(request, now)

    def submit_at_once(self, request: Request, now: float, zxid: int) -> bytes:
        """The frame of a request that need not wait: nothing does, and there is room in flight."""
        self.sent += 1
        request.zxid = zxid
        if request.timeout is not None:
            self._set_deadline(request, now)
        return self.send_now(request, now)

    def track(self, request: Request, xid: int, now: float) -> None:
        """Watches the deadline of a request that is sent under a special xid, outside of the queue."""
        request.xid = xid
        if request.timeout is not None:
            self._set_deadline(request, now)

    def withdraw(self, request: Request) -> None:
        """The caller has cancelled: unsent, the request vanishes; sent, its reply will be swallowed."""
        if request.call is None:
            return
        if not request.xid:
            self._end_unsent(request, None)
            return
        request.call = None
        if not request.operation.is_write:
            request.body = b""

    # -- out

    def take_batch(self, now: float, generation: int, zxid: int = 0) -> list[bytes]:
        """The frames that may be sent now: as many as fit in flight, and up to the first write for which there is no
        receipt left. They count as sent from here on. `zxid`: the latest that was seen."""
        self._line_up()
        frames: list[bytes] = []
        waiting, in_flight = self._waiting, self.in_flight
        receipts = self.receipts
        room = self._max_in_flight - len(in_flight)
        while waiting and room > 0:
            request = waiting.popleft()
            call = request.call
            if call is None:
                self._withdrawn -= 1
                continue
            body, op = request.body, request.operation.op
            self.queued_calls -= 1
            self.queued_bytes -= len(body) + HEADER_BYTES
            if request.generation and request.generation != generation:
                self._give_receipt_back(request)
                self._fail_unsent(request, _session_ended(request))
                continue
            if receipts is not None and request.operation.is_receipted:
                if receipts.error is not None:
                    self._fail_unsent(request, receipts.error_for(request))
                    continue
                if not receipts.has_for(request) and not self._takes_slot_of_another(receipts):
                    self._return(request)
                    break
                body, op = receipts.wrap(request), Op.MULTI
            self._last_xid = xid = self._last_xid % _MAX_XID + 1
            request.xid = xid
            request.sent_at = now
            if request.zxid < 0:
                request.zxid = zxid
            in_flight.append(request)
            frames.append(REQUEST_HEADER.pack(len(body) + 8, xid, op) + body)
            room -= 1
        self.sent += len(frames)
        return frames

    def send_now(self, request: Request, now: float) -> bytes:
        """The frame of a request of the session's own, which goes before everything that waits."""
        self._last_xid = request.xid = self._last_xid % _MAX_XID + 1
        request.sent_at = now
        self.in_flight.append(request)
        return REQUEST_HEADER.pack(len(request.body) + 8, request.xid, request.operation.op) + request.body

    def _takes_slot_of_another(self, receipts: Receipts) -> bool:
        """Writes that are sent again keep their slots; one before them must not wait for those in vain."""
        for other in self._waiting:
            if not (other.repeated or other.ahead):
                return False
            if receipts.has_one(other):
                self._give_receipt_back(other)
                return True
        return False

    def _line_up(self) -> None:
        """Puts what goes ahead in its place: now, for all that was to be put back before it has been."""
        if not self._ahead:
            return
        waiting, passed, place = self._waiting, list[Request](), 0
        while waiting and (waiting[0].repeated or waiting[0].ahead):
            request = waiting.popleft()
            passed.append(request)
            if request.ahead or request.operation.is_write:
                place = len(passed)
        waiting.extendleft(reversed([*passed[:place], *self._ahead, *passed[place:]]))
        self._ahead.clear()

    def _return(self, request: Request) -> None:
        """Back to the head of the queue."""
        self.queued_calls += 1
        self.queued_bytes += len(request.body) + HEADER_BYTES
        self._waiting.appendleft(request)

    def take_reads(self, now: float, zxid: int) -> list[bytes]:
        """`take_batch` on a read-only server: nothing from the first request on that has to wait for another one."""
        self._line_up()
        waiting = self._waiting
        blocked = next((i for i, request in enumerate(waiting) if request.call and needs_read_write(request)), None)
        if blocked is None:
            return self.take_batch(now, 0, zxid)
        held = deque(waiting.pop() for _ in range(len(waiting) - blocked))
        frames = self.take_batch(now, 0, zxid)
        waiting.extend(reversed(held))
        return frames

    def refuse_writes(self, error: Callable[[Request], BaseException]) -> None:
        """Ends what waits and has to wait for another server than a read-only one."""
        for request in (*self._ahead, *self._waiting):
            if request.call is not None and needs_read_write(request):
                self._end_unsent(request, error(request))

    # -- the end of a connection, of a session, of everything

    def connection_lost(self, reason: BaseException | None, *, blames_first: bool = True) -> None:
        """Judges what was in flight: the session's own requests are forgotten; with a write among the rest all of it is
        unsettled, otherwise reads go back to the head of the queue. `blames_first`: the first may be the reason."""
        sent, self.in_flight = self.in_flight, deque()
        self.loss = reason
        # The first may be what ended the connection; those behind it are not to blame, whoever it was for.
        if sent and blames_first:
            sent[0].losses += 1
        for request in sent:  # what stands behind an answered write is later than that
            request.zxid = max(request.zxid, self.written)
        self.unsettled += [request for request in sent if not _is_forgotten(request)]
        for request in self.unsettled:
            if request.losses >= POISON_LOSSES and not request.operation.is_write:
                request.fail(self.killer(request))
        # Also those that nobody waits for: as long as they may still be applied, nodes show nothing of later ones.
        if not any(request.operation.is_write for request in self.unsettled):
            self.settle([])

    def killer(self, request: Request) -> RequestKillsConnectionError:
        """It is not sent again."""
        return RequestKillsConnectionError(request.operation.name, request.path, request.losses, self.loss)

    def settle(self, again: Collection[Request]) -> None:
        """What was unsettled no longer is: the reads, and these writes, go back to the head of the queue. All other
        writes have ended."""
        unsettled, self.unsettled = self.unsettled, []
        for request in reversed(unsettled):
            if request.call is not None and (not request.operation.is_write or request in again):
                self._put_back(request)
            else:
                request.body = b""

    def release_reads(self) -> None:
        """The reads among the unsettled need not wait for the writes: a server without a quorum answers them."""
        reads = [request for request in self.unsettled if not needs_read_write(request)]
        self.unsettled = [request for request in self.unsettled if needs_read_write(request)]
        for request in reversed(reads):
            if request.call is not None:
                self._put_back(request)

    def give_up_unsettled(self, reason: BaseException) -> None:
        """Nothing can be found out any more: the history that they belong to is gone."""
        for request in self.unsettled:
            if request.call is not None and request.operation.is_write:
                self.end_unknown(request, reason)
        self.settle([])
        self.written = 0
        for request in self._waiting:  # those that were to be sent again: all that comes is later
            request.zxid = -1

    def end_unknown(self, request: Request, reason: BaseException | None, seen: Sequence[Sighting] = ()) -> None:
        """Nobody can say whether it was applied."""
        self.unknown += 1
        request.fail(OutcomeUnknownError(request.operation.name, request.path, reason, seen))

    def fail_bound(self, generation: int) -> None:
        """A session has ended: the waiting calls that are bound to it fail."""
        for request in (*self._ahead, *self._waiting):
            if request.call is not None and request.generation == generation:
                self._end_unsent(request, _session_ended(request))

    def fail_all(self, error: Callable[[Request], BaseException]) -> None:
        """Ends everything: what waits, and the reads in flight, with `error(request)`; sent writes as unknown."""
        ended = [*self.unsettled, *self.in_flight, *self._ahead, *self._waiting]
        self.unsettled.clear()
        self.in_flight.clear()
        self._ahead.clear()
        self._waiting.clear()
        self._deadlines.clear()
        self.queued_calls = self.queued_bytes = self._withdrawn = 0
        for request in ended:
            if isinstance(request.call, Own):
                request.call = None
            elif request.call is not None and request.xid and request.operation.is_write:
                self.end_unknown(request, error(request))
            else:
                self._fail_unsent(request, error(request))

    # -- deadlines

    def next_deadline(self) -> float | None:
        """When the next call times out."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][2].call is None:
            heapq.heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def expire(self, now: float) -> None:
        """Ends the calls whose time has run out."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            request = heapq.heappop(deadlines)[2]
            if request.call is not None:
                self._time_out(request)

    def _set_deadline(self, request: Request, now: float) -> None:
        assert request.timeout is not None
        self._deadline_count += 1
        heapq.heappush(self._deadlines, (now + request.timeout, self._deadline_count, request))
        self._forget_ended_deadlines()

    def _time_out(self, request: Request) -> None:
        assert request.timeout is not None
        name, path = request.operation.name, request.path
        if request.xid and request.operation.is_write:
            self.unknown += 1
            request.end_call(WriteTimeoutError(name, path, request.timeout))
        elif request.operation.may_have_happened:
            self.unknown += 1
            self._take_out(request)
            request.fail(WriteTimeoutError(name, path, request.timeout))
        elif not request.xid:
            self._end_unsent(request, CallTimeoutError(name, path, request.timeout, sent=False))
        else:
            request.fail(CallTimeoutError(name, path, request.timeout, sent=True))

    def _put_back(self, request: Request) -> None:
        request.xid = 0
        request.repeated = True
        if request.operation.is_write:
            self.resent += 1
        else:
            self.repeated += 1
        self._return(request)

    def _fail_unsent(self, request: Request, error: BaseException) -> None:
        """It is not sent; but a repetition may have been applied the first time."""
        if request.call is not None and request.operation.may_have_happened:
            self.end_unknown(request, error)
        else:
            request.fail(error)

    def _end_unsent(self, request: Request, error: BaseException | None) -> None:
        """Takes a waiting request out of the counts at once, and out of the deque when such gaps prevail."""
        self._take_out(request)
        if error is None:
            request.call = None
            request.body = b""
        else:
            self._fail_unsent(request, error)
        self._sweep()

    def _take_out(self, request: Request) -> None:
        self._give_receipt_back(request)
        self.queued_calls -= 1
        self.queued_bytes -= len(request.body) + HEADER_BYTES
        self._withdrawn += 1

    def _give_receipt_back(self, request: Request) -> None:
        """A write that was to be sent again has kept its own; it was not applied."""
        if self.receipts is not None:
            self.receipts.give_back(request)

    def _sweep(self) -> None:
        if self._withdrawn > _GAPS and self._withdrawn * 2 > len(self._waiting) + len(self._ahead):
            self._waiting = deque(waiting for waiting in self._waiting if waiting.call is not None)
            self._ahead = deque(waiting for waiting in self._ahead if waiting.call is not None)
            self._withdrawn = 0

    def _forget_ended_deadlines(self) -> None:
        """Answered calls leave their deadline behind; drop those when they prevail, at a constant cost per call."""
        if len(self._deadlines) > _GAPS + 4 * len(self):
            self._deadlines = [entry for entry in self._deadlines if entry[2].call is not None]
            heapq.heapify(self._deadlines)


def _is_forgotten(request: Request) -> bool:
    """Whether nobody asks for it any more, and it has changed nothing."""
    return isinstance(request.call, Own) or (request.call is None and not request.operation.is_write)


def needs_read_write(request: Request) -> bool:
    """Whether a read-only server can do nothing with it: writes, what is bound to the session, and sync."""
    operation = request.operation
    return operation.is_write or request.generation != 0 or operation.op == Op.SYNC


def _session_ended(request: Request) -> SessionExpiredError:
    return SessionExpiredError(request.operation.name, request.path)
