"""User callbacks, kept away from each other and from the engine (promise P9).

Rules:
1. A callback never runs inside the engine: always in a loop turn of its own, in the order of what it is told.
2. What it raises is logged, and reaches nobody else. If it returns something awaitable, that is awaited in a task.
3. A lane (one listener) is told one thing at a time: the next when an asynchronous callback has finished.
4. One that blocks the event loop is reported; nobody can be protected from it, so it must at least be known.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Dispatcher", "Lane"]

T = TypeVar("T")

logger = logging.getLogger("everlatch")

_TOO_LONG = 0.1

_tasks: set[asyncio.Task[None]] = set()
"""Of asynchronous callbacks, while they run. The loop holds tasks weakly only; and not in the dispatcher, for they may
outlive their client: what was begun for a callback is finished."""


class Dispatcher:
    """Runs callbacks on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call(self, callback: Callable[[T], object], argument: T) -> None:
        """Runs a callback soon."""
        self._loop.call_soon(self._run, callback, argument, None)

    def run_in_lane(self, lane: Lane[T], argument: T) -> None:
        """Runs a lane's callback soon, unless it is removed before, and `lane.finished` when it is through."""
        self._loop.call_soon(self._run_in_lane, lane, argument)

    def _run_in_lane(self, lane: Lane[T], argument: T) -> None:
        if not lane.removed:
            self._run(lane.callback, argument, lane.finished)

    def _run(self, callback: Callable[[T], object], argument: T, finished: Callable[[], None] | None) -> None:
        result = self._call(callback, argument)
        if inspect.isawaitable(result):
            task = self._loop.create_task(_await(callback, result))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)
            if finished is not None:
                task.add_done_callback(lambda _: finished())
        elif finished is not None:
            finished()

    def _call(self, callback: Callable[[T], object], argument: T) -> object:
        started = time.monotonic()
        try:
            return callback(argument)
        except (Exception, asyncio.CancelledError):
            logger.exception("callback %r raised on %r", callback, argument)
            return None
        finally:
            took = time.monotonic() - started
            if took > _TOO_LONG:
                logger.warning(
                    "callback %r blocked the event loop for %.3g s; make it asynchronous, or use a thread",
                    callback,
                    took,
                )


async def _await(callback: Callable[[Any], object], result: Awaitable[object]) -> None:
    try:
        await result
    except (Exception, asyncio.CancelledError):
        logger.exception("callback %r raised", callback)


class Lane(Generic[T]):
    """One listener and what it has yet to be told."""

    def __init__(self, dispatcher: Dispatcher | None, callback: Callable[[T], object]) -> None:
        self.callback = callback
        self._dispatcher = dispatcher
        """`None` until there is a loop; nothing happens before."""
        self._waiting: deque[T] = deque()
        self._busy = False
        self.removed = False

    def attach(self, dispatcher: Dispatcher) -> None:
        """The loop is known now."""
        self._dispatcher = dispatcher

    def tell(self, argument: T) -> None:
        """Queues one call."""
        self._waiting.append(argument)
        self._next()

    def remove(self) -> None:
        """It is told nothing more."""
        self.removed = True
        self._waiting.clear()

    def finished(self) -> None:
        """The present call is through."""
        self._busy = False
        self._next()

    def _next(self) -> None:
        if self._waiting and not self._busy and not self.removed and self._dispatcher is not None:
            self._busy = True
            self._dispatcher.run_in_lane(self, self._waiting.popleft())
