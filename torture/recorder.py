"""Makes the calls of one client, and writes down what it is told.

Rules of this file: a call is written down before it is made, and its end in the turn of the loop in which its caller
hears of it. The numbers of the calls are the order in which they are made, and nothing else of the workload makes any.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from everlatch.errors import EverlatchError, OutcomeUnknownError, ServerError, TransactionFailedError
from everlatch.types import Outcome
from torture.history import (
    CHECK,
    CHILDREN,
    CREATE,
    DELETE,
    EXISTS,
    GET,
    SET,
    SYNC,
    TRANSACTION,
    Belief,
    Call,
    Ending,
    Fired,
    Part,
    StateSeen,
    SubscriptionSeen,
    WatchSeen,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from everlatch import Client
    from everlatch.recipes import LeaderLatch
    from everlatch.transaction import Pending
    from everlatch.types import StateChange, WatchEvent
    from torture.history import History

__all__ = ["Recorder"]

_PAUSE: Final = 0.1
"""Seconds until a reading that has failed is tried again."""


class Recorder:
    """The client with this number; `now` tells the time of the run."""

    def __init__(self, history: History, number: int, client: Client, now: Callable[[], float]) -> None:
        self.client = client
        self._session = client._engine.session  # `statistics()` tells the same, and would be dear for each call
        self.number = number
        self._history = history
        self._now = now
        self._step = 0
        self._calls = history.calls[number] = []
        self.open = 0
        """Calls that have not ended."""
        client.add_listener(self._state)

    # -- calls

    def get(self, path: str, *, watch: bool = False, behind: int = 0, timeout: float | None = None) -> Submitted:
        """As the client's; `behind` is the number of the call that brings the server up to date before."""
        call = self._begin(Call(self.number, self._next, GET, path, behind=behind))
        callback = self._watch(call) if watch else None
        return self._submit(call, lambda: self.client.get(path, watch=callback, timeout=timeout))

    def exists(self, path: str, *, watch: bool = False, behind: int = 0, timeout: float | None = None) -> Submitted:
        """As the client's; `behind` is the number of the call that brings the server up to date before."""
        call = self._begin(Call(self.number, self._next, EXISTS, path, behind=behind))
        callback = self._watch(call) if watch else None
        return self._submit(call, lambda: self.client.exists(path, watch=callback, timeout=timeout))

    def children(self, path: str, *, watch: bool = False, timeout: float | None = None) -> Submitted:
        """The client's `children_and_stat`."""
        call = self._begin(Call(self.number, self._next, CHILDREN, path))
        callback = self._watch(call) if watch else None
        return self._submit(call, lambda: self.client.children_and_stat(path, watch=callback, timeout=timeout))

    def sync(self, *, timeout: float | None = None) -> Submitted:
        """As the client's."""
        call = self._begin(Call(self.number, self._next, SYNC, "/"))
        return self._submit(call, lambda: self.client.sync(timeout=timeout))

    def set(self, path: str, *, version: int = -1, timeout: float | None = None) -> Submitted:
        """As the client's, with a value of its own."""
        call = self._begin(Call(self.number, self._next, SET, path, version=version))
        return self._submit(call, lambda: self.client.set(path, call.value, version=version, timeout=timeout))

    def create(
        self, path: str, *, sequential: bool = False, ephemeral: bool = False, timeout: float | None = None
    ) -> Submitted:
        """As the client's, with a value of its own."""
        call = Call(self.number, self._next, CREATE, path, sequential=sequential, ephemeral=ephemeral)
        self._begin(call)
        return self._submit(
            call,
            lambda: self.client.create(path, call.value, sequential=sequential, ephemeral=ephemeral, timeout=timeout),
        )

    def delete(self, path: str, *, version: int = -1, timeout: float | None = None) -> Submitted:
        """As the client's."""
        call = self._begin(Call(self.number, self._next, DELETE, path, version=version))
        return self._submit(call, lambda: self.client.delete(path, version=version, timeout=timeout))

    def transaction(self, parts: Sequence[Part], *, token: int = 0, timeout: float | None = None) -> Submitted:
        """Creations and sets get the value of the call; `token` is that of a fenced write."""
        call = self._begin(Call(self.number, self._next, TRANSACTION, parts[-1].path, parts=tuple(parts), token=token))
        transaction = self.client.transaction()
        pending: list[Pending[Any] | None] = []
        for kind, path, version in parts:
            if kind == CHECK:
                transaction.check(path, version)
                pending.append(None)
            elif kind == SET:
                pending.append(transaction.set(path, call.value, version=version))
            elif kind == CREATE:
                pending.append(transaction.create(path, call.value))
            else:
                transaction.delete(path, version=version)
                pending.append(None)
        return self._submit(call, lambda: transaction.commit(timeout=timeout), pending)

    @property
    def _next(self) -> int:
        return len(self._calls) + 1

    def _begin(self, call: Call) -> Call:
        self._step += 1
        call.began, call.began_step = self._now(), self._step
        self._calls.append(call)
        return call

    def _submit(
        self, call: Call, make: Callable[[], Awaitable[Any]], pending: list[Pending[Any] | None] | None = None
    ) -> Submitted:
        self.open += 1
        try:
            return Submitted(self, call, make(), pending)
        except EverlatchError as error:
            self.failed(call, error)
            return Submitted(self, call, None, None)

    # -- how calls end

    def _ended(self, call: Call) -> None:
        self.open -= 1
        self._step += 1
        call.ended, call.ended_step = self._now(), self._step
        call.seen = self._session.last_zxid

    def succeeded(self, call: Call, result: Any) -> None:
        """The call has its result."""
        self._ended(call)
        call.ending, call.result = Ending.OK, result

    def failed(self, call: Call, error: BaseException) -> None:
        """The call has ended with an error."""
        self._ended(call)
        call.error = type(error).__name__
        outcome = error.outcome if isinstance(error, EverlatchError) else Outcome.UNKNOWN
        call.ending = _ENDINGS[outcome]
        call.is_over = isinstance(error, OutcomeUnknownError) and bool(error.seen)
        if outcome is Outcome.HAPPENED:
            call.zxid = getattr(error, "zxid", 0)
        if isinstance(error, TransactionFailedError):
            call.index, call.code = error.index, error.error.code
        elif isinstance(error, ServerError):
            call.code = error.code

    # -- watches

    def _watch(self, call: Call) -> Callable[[WatchEvent], None]:
        seen = call.watch = WatchSeen(call)
        return partial(self._fired, seen.fired)

    def _fired(self, fired: list[Fired], event: WatchEvent) -> None:
        self._step += 1
        fired.append(Fired(self._now(), self._step, event.type.name, event.path, event.zxid))

    async def subscribe(self, path: str, *, recursive: bool, until: Callable[[], bool]) -> None:
        """A persistent watch, and who reads it, until `until()` or the client's end. Raises what entering it raises."""
        async with self.client.add_watch(path, recursive=recursive, timeout=None) as events:
            seen = SubscriptionSeen(self.number, path, recursive=recursive, entered=self._now())
            self._history.subscriptions.append(seen)
            reading = _Reading(self, seen)
            try:
                async for event in events:
                    self._fired(seen.fired, event)
                    if event.type.name == "MISSED":
                        reading.again()
                    if until():
                        seen.closed = True
                        return
            finally:
                reading.stop()

    # -- beliefs

    def believe(self, belief: Belief | None, latch: LeaderLatch, member: str) -> Belief | None:
        """Asks a latch whether it leads. The time is taken first; returns the belief, new or continued, or `None`."""
        before = self._now()
        if not latch.is_leader:
            return None
        token, node, session_id = latch.token, latch.node, self.client.session_id
        if belief is None or (belief.token, belief.node, belief.session_id) != (token, node, session_id):
            belief = Belief(self.number, member, token, node, session_id, before)
            self._history.beliefs.append(belief)
        belief.ended = before
        return belief

    # -- states

    def _state(self, change: StateChange) -> None:
        seen = StateSeen(self.number, self._now(), change.state.name, change.session_id, change.generation)
        self._history.states.append(seen)


class Submitted:
    """A call that was made: `note()`, or await `end()`, exactly one of them."""

    __slots__ = ("_awaited", "_pending", "_recorder", "call")

    def __init__(
        self, recorder: Recorder, call: Call, awaited: Awaitable[Any] | None, pending: list[Pending[Any] | None] | None
    ) -> None:
        self.call = call
        self._recorder, self._awaited, self._pending = recorder, awaited, pending

    def note(self, then: Callable[[Call], None] | None = None) -> Call:
        """Its end is written down when it comes; `then` is told."""
        future: Any = self._awaited
        if future is not None:
            future.add_done_callback(partial(self._done, then))
        elif then is not None:
            then(self.call)
        return self.call

    def cancel(self) -> None:
        """Nobody wants to know any more; it may take effect all the same."""
        if self._awaited is not None:
            future: Any = self._awaited
            future.cancel()

    async def end(self) -> Call:
        """Waits for it."""
        if self._awaited is not None:
            try:
                result = await self._awaited
            except EverlatchError as error:
                self._recorder.failed(self.call, error)
            else:
                self._recorder.succeeded(self.call, self._result(result))
        return self.call

    def _done(self, then: Callable[[Call], None] | None, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._recorder.failed(self.call, asyncio.CancelledError())
        elif (error := future.exception()) is not None:
            self._recorder.failed(self.call, error)
        else:
            self._recorder.succeeded(self.call, self._result(future.result()))
        if then is not None:
            then(self.call)

    def _result(self, result: Any) -> Any:
        if self._pending is None:
            return result
        return tuple(None if pending is None else pending.result for pending in self._pending)


class _Reading:
    """Reads what a subscription watches, until it has been read."""

    def __init__(self, recorder: Recorder, seen: SubscriptionSeen) -> None:
        self._recorder, self._seen = recorder, seen
        self._stopped = False
        self.again()

    def again(self) -> None:
        """From here on no change goes unseen."""
        if self._stopped:
            return
        events = len(self._seen.fired)
        self._recorder.exists(self._seen.path).note(partial(self._ended, events))

    def stop(self) -> None:
        """Nobody wants to know any more."""
        self._stopped = True

    def _ended(self, events: int, call: Call) -> None:
        if call.ending is Ending.OK:
            self._seen.readings.append((events, call.seen))
        elif not self._stopped:
            asyncio.get_running_loop().call_later(_PAUSE, self.again)


_ENDINGS = {
    Outcome.HAPPENED: Ending.OK,
    Outcome.NOT_APPLIED: Ending.REFUSED,
    Outcome.UNKNOWN: Ending.UNKNOWN,
}
