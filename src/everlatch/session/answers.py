"""What becomes of a request that was answered.

Rules:
1. A reply that can't be read leaves its request unanswered, at the head of what is in flight: the loss of the
   connection, which follows, judges it like the others.
2. A write that was sent again and is refused because of the state of its node may have been applied before: it is
   looked into once more (`Reconsideration`), and nothing is said until then.
3. What an idempotent write wants may be there already: then that is its success.
4. A watch is registered with the reply that arms it; of a caller who has gone the server is to know that, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.errors import (
    EverlatchError,
    ProtocolError,
    ServerError,
    StaleLeaderError,
    TransactionFailedError,
    WriteNotAppliedError,
    server_error,
)
from everlatch.session.endings import existing, settle
from everlatch.session.looks import LOOK, look_body
from everlatch.session.own import Own
from everlatch.session.requests import Request
from everlatch.session.settlement import Reconsideration
from everlatch.session.watches import EXIST
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.session.receipts import Receipts
    from everlatch.session.requests import Completion, Requests
    from everlatch.session.watching import Watching
    from everlatch.types import Stat

__all__ = ["Answers"]

_NO_NODE = -101
_BAD_VERSION = -103
_NODE_EXISTS = -110
_NOT_EMPTY = -111
_NO_WATCHER = -121
_ABOUT_STATE = frozenset({_NO_NODE, _BAD_VERSION, _NODE_EXISTS, _NOT_EMPTY})
"""Refusals that a write may get because it has been applied already."""
_CREATES = frozenset({Op.CREATE2, Op.CREATE_CONTAINER, Op.CREATE_TTL})


class Answers:
    """Ends the requests of one session. `zxid`: where the server is, as the reply says."""

    def __init__(
        self,
        requests: Requests,
        watching: Watching,
        server_path: Callable[[str], str],
        ask: Callable[[Request], None],
        session_id: Callable[[], int],
    ) -> None:
        self._requests = requests
        self._watching = watching
        self._server_path = server_path
        self._ask = ask
        """Sends a request of our own, before what is called from now on."""
        self._session_id = session_id

    def well(self, request: Request, call: Completion, buf: bytes, pos: int, end: int, zxid: int) -> None:
        """The server has done what was asked, and somebody waits for it. Raises `ProtocolError`: rule 1."""
        operation = request.operation
        try:
            result = operation.decode(buf, pos, end)
        except ProtocolError:
            self._requests.in_flight.appendleft(request)
            raise
        except EverlatchError as error:
            self._end_refused(request, error)
            return
        if request.watch is not None:
            self._register(request, operation.watch, zxid)
        if operation.is_write:
            self._requests.written = zxid
        request.call = None
        request.body = b""
        if not call.done():
            call.set_result(result)

    def otherwise(self, request: Request, err: int, zxid: int) -> None:
        """It was refused, or nobody waits for it. Raises what makes the connection useless."""
        if request.call is None:
            self._without_call(request, err, zxid)
        else:
            self._refuse(request, err, zxid)

    def _without_call(self, request: Request, err: int, zxid: int) -> None:
        """Our own requests, and those whose caller has gone."""
        operation = request.operation
        request.body = b""
        if operation.is_write:
            self._requests.written = zxid
        elif operation.watch is not None:
            # The caller has gone; the server may have armed its watch all the same.
            if request.watch is not None and (not err or (err == _NO_NODE and operation.missing_is_none)):
                self._watching.armed(operation.watch, self.watched_path(request), None, zxid)
        elif operation.no_watcher is not None:
            # A removal took effect all the same: it may have hit more than its caller had in mind.
            if not err or err == _NO_WATCHER:
                operation.decode(b"", 0, 0)
        elif self._watching.is_fatal_answer(request, err, zxid):
            raise server_error(err, operation.name)

    def receipted(self, request: Request, err: int, buf: bytes, pos: int, end: int, zxid: int) -> None:
        """A write that has travelled with a receipt, however it was answered. Raises `ProtocolError`: rule 1."""
        receipts = self._requests.receipts
        assert receipts is not None
        assert request.receipt is not None
        try:
            answer = receipts.answered(request, err, buf, pos, end)
        except ProtocolError:
            self._requests.in_flight.appendleft(request)
            raise
        if answer.is_receipts:
            self._receipt_refused(request, receipts, server_error(answer.code, "set", request.receipt.slot.path))
        elif request.call is None:
            self._without_call(request, err, zxid)
        elif answer.code and (err or request.operation.op != Op.MULTI):
            self._refuse(request, answer.code, zxid)
        else:
            self.well(request, request.call, *answer.reply, zxid)

    def _receipt_refused(self, request: Request, receipts: Receipts, error: ServerError) -> None:
        """The slot is not as we left it: a write that was sent again may have been applied before."""
        why = f"the node of its receipt was changed or deleted by somebody else ({error})"
        not_applied = WriteNotAppliedError(request.operation.name, request.path, why)
        if request.repeated:
            self._reconsider(request, not_applied)
            return
        receipts.abandon(request)
        request.fail(not_applied)

    def _end_refused(self, request: Request, error: EverlatchError) -> None:
        """Unless the refusal may come of the write itself, applied before."""
        cause = error.error if isinstance(error, TransactionFailedError | StaleLeaderError) else error
        is_about_state = isinstance(cause, ServerError) and cause.code in _ABOUT_STATE
        is_in_doubt = is_about_state and request.operation.is_write and not request.operation.is_receipted
        if request.repeated and is_in_doubt:
            self._reconsider(request, error)
        elif request.operation.may_have_happened and request.call is not None:
            self._requests.end_unknown(request, error)
        else:
            request.fail(error)

    def _reconsider(self, request: Request, error: EverlatchError) -> None:
        request.refusal = error
        self._requests.unsettled.append(request)
        Reconsideration(
            request, self._requests, self._requests.receipts, self._session_id(), ask=self._ask, done=_nothing
        ).start()

    def _is_brought_about(self, request: Request, err: int) -> bool:
        """Whether a refusal says that what an idempotent write wants is there already."""
        operation = request.operation
        if operation.op == Op.DELETE and err == _NO_NODE:
            request.complete(None)
            return True
        if operation.op in _CREATES and err == _NODE_EXISTS:
            self._find_existing(request)
            return True
        return False

    def _find_existing(self, request: Request) -> None:
        """The node that an idempotent create has found, for what it returns."""
        path = self._server_path(request.path)
        request.refusal = server_error(_NODE_EXISTS, request.operation.name, request.path)
        self._requests.unsettled.append(request)

        def found(stat: Stat | ServerError | None) -> None:
            self._requests.unsettled.remove(request)
            settle(request, lambda _: existing(request, path, stat))

        self._ask(Request(Own(found), LOOK, path, look_body(path)))

    def _refuse(self, request: Request, err: int, zxid: int) -> None:
        operation = request.operation
        if err == _NO_NODE and operation.missing_is_none:
            if request.watch is not None:
                self._register(request, EXIST, zxid)
            request.complete(None)
        elif err == _NO_WATCHER and operation.no_watcher is not None:
            settle(request, operation.no_watcher)
        elif not (operation.is_idempotent and self._is_brought_about(request, err)):
            self._end_refused(request, server_error(err, operation.name, request.path))

    def _register(self, request: Request, kind: int | None, zxid: int) -> None:
        if kind is not None and request.call is not None:
            # A cancelled caller has no use for the watch; the server's event will find nobody.
            callback = None if request.call.done() else request.watch
            self._watching.armed(kind, self.watched_path(request), callback, zxid)

    def watched_path(self, request: Request) -> str:
        """Where a request sets a watch, as the servers call it."""
        return request.path if request.operation.unrooted else self._server_path(request.path)


def _nothing() -> None:
    """Who reconsiders need not be told of the end."""
