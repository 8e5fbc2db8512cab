"""What a path is like, for all who subscribe to it.

Rules:
1. However many subscribe, there is one task, one watch and one read for each change. Events only say that there is
   something to read; those that come while a read is on its way cause one more, for it may have been too early.
2. Nothing is told twice: who knows the state hears of the next one. Who comes later waits for a read, with all who come
   at that time: what was read before may be older than what his client has seen since, where events are kept back.
3. What can't be read is said to each once, and tried again: after a second, and then the seldomer, up to ten, and for
   everybody who comes. Permissions come back without an event (setACL causes none).
4. Now and then the path is looked at though no event has come: servers from 3.8.4 and 3.9.2 on don't deliver events of
   nodes that the connection may not read at that moment, and use a one-shot watch up all the same; before 3.9 with it
   the persistent one whose place it took. A change that was not told is a reason to arm ours anew.
5. A server without a quorum (`CONNECTED_READ_ONLY`) may show what is old, or never comes true. Nothing of it is told
   behind what was read elsewhere, and it is replaced by the first thing that is.
"""

from __future__ import annotations

import asyncio
import logging
from copy import copy
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from everlatch.errors import (
    AuthFailedError,
    ClientStateError,
    EverlatchError,
    QueueFullError,
    ThrottledOpError,
    describe,
)
from everlatch.subscriptions.path_watch import PathWatch
from everlatch.types import State

if TYPE_CHECKING:
    from everlatch.engine.engine import Engine
    from everlatch.operations import Operations
    from everlatch.subscriptions.reading import Reading
    from everlatch.subscriptions.states import StateSubscription
    from everlatch.types import WatchEvent

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "PASSING", "Feed"]

T = TypeVar("T")

logger = logging.getLogger("everlatch")

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 10.0
"""Seconds between two attempts to read what is refused."""
PASSING: Final = (ThrottledOpError, QueueFullError)
"""What says nothing of the path, and is over soon."""


class Feed(Generic[T]):
    """One path's data, or children."""

    def __init__(
        self, engine: Engine, operations: Operations, reading: Reading[Any], path: str, recheck: float | None
    ) -> None:
        self._engine = engine
        self._operations = operations
        self._reading = reading
        self._path = path
        self._recheck = recheck
        self._watch = PathWatch(engine, path, operations.server_path(path), self._on_event)
        self._subscribers: dict[StateSubscription[T | None], None] = {}
        self._state: T | None = None
        self._is_known = self._is_from_read_only = False
        self._refusal: EverlatchError | None = None
        """Why the last attempt to read failed, and of what all have been told."""
        self._pause = FIRST_PAUSE
        self._stirred = asyncio.Event()
        """Whether there may be something to read."""
        self._failure: BaseException | None = None
        """What has ended this."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    # -- who subscribes

    def __len__(self) -> int:
        return len(self._subscribers)

    def add(self, subscriber: StateSubscription[T | None]) -> None:
        """Somebody comes: rule 2."""
        self._subscribers[subscriber] = None
        if self._failure is not None:
            subscriber.end(self._failure)
        else:
            self._stirred.set()

    def discard(self, subscriber: StateSubscription[T | None]) -> None:
        """Somebody goes."""
        self._subscribers.pop(subscriber, None)

    def close(self) -> None:
        """Nobody is left."""
        self._task.cancel()
        self._watch.close()

    def end(self, error: BaseException | None) -> None:
        """Nothing will be told any more; `error` says why."""
        self._failure = error
        self.close()
        for subscriber in list(self._subscribers):
            subscriber.end(error)

    # -- what is told

    def _on_event(self, event: WatchEvent) -> None:
        if event.type is not self._reading.unconcerned:
            self._stirred.set()

    async def _run(self) -> None:
        try:
            while True:
                self._stirred.clear()
                pause = await self._read()
                while not await self._stirs_within(pause) and pause is None and not await self._has_changed():
                    pass
        except (ClientStateError, AuthFailedError):
            return  # the client's end, of which all are told
        except Exception as error:  # a bug of ours: nobody shall wait for ever without a word
            logger.exception("%s %r failed", self._reading.name, self._path)
            self.end(error)

    async def _read(self) -> float | None:
        """Reads, and tells what is new. How long to wait until the next attempt, if it failed."""
        try:
            one_shot = None if await self._watch.arm() else self._watch.one_shot(self._path)
            was_read_only = self._is_read_only
            state = await self._reading.read(self._operations, self._path, one_shot)
        except (ClientStateError, AuthFailedError):
            raise
        except PASSING as error:
            logger.debug("%s %r: %s; it is read again", self._reading.name, self._path, describe(error))
            return FIRST_PAUSE
        except EverlatchError as error:
            return self._refused(error)
        self._refusal = None
        if was_read_only or self._is_read_only:
            self._tell_old(state)
            return FIRST_PAUSE
        self._tell(state, read_only=False)
        return None

    @property
    def _is_read_only(self) -> bool:
        return self._engine.session.state is State.CONNECTED_READ_ONLY

    def _tell_old(self, state: T | None) -> None:
        """What a server without a quorum shows: rule 5."""
        if self._is_known and not self._is_from_read_only:
            self._tell(self._state, read_only=False)
        else:
            self._tell(state, read_only=True)

    def _tell(self, state: T | None, *, read_only: bool) -> None:
        stamp_of = self._reading.stamp_of
        is_news = not self._is_known or stamp_of(state) != stamp_of(self._state)
        self._state, self._is_known, self._is_from_read_only = state, True, read_only
        for subscriber in list(self._subscribers):
            if is_news or subscriber.needs_state:
                subscriber.offer(state)

    def _refused(self, error: EverlatchError) -> float:
        """Says so to all who have not been told; how long to wait until the next attempt."""
        is_news = self._refusal is None or type(self._refusal) is not type(error)
        self._pause = FIRST_PAUSE if is_news else min(2 * self._pause, LONGEST_PAUSE)
        self._refusal = error
        for subscriber in list(self._subscribers):
            if is_news or not subscriber.is_refused:
                subscriber.refuse(copy(error))
        return self._pause

    async def _stirs_within(self, pause: float | None) -> bool:
        """Waits until there may be something to read, or until it is time to look again. Whether it is the former."""
        seconds = self._recheck if pause is None else pause
        try:
            async with asyncio.timeout(None if seconds is None else self._engine.jittered(seconds)):
                await self._stirred.wait()
        except TimeoutError:
            return False
        return True

    async def _has_changed(self) -> bool:
        """Whether something has changed of which nobody has told us: rule 4."""
        try:
            stat = await self._operations.exists(self._path, timeout=None)
        except PASSING:
            return False
        except (ClientStateError, AuthFailedError):
            raise
        except EverlatchError:
            return True  # to be found out by a read
        if (stat and self._reading.stamp(stat)) == self._reading.stamp_of(self._state):
            return False
        self._watch.start_over()  # it may be gone as well
        return True
