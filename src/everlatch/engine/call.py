"""What an operation returns.

A `Call` is a future that has been submitted already, and a coroutine as well, so that `create_task` and `TaskGroup`
take it like the result of an `async def`. There is no task behind it: nothing runs until the reply arrives.

A task that awaits the only call in flight is resumed in the turn of the loop that reads the reply, not in the next
one: for who waits for each answer before the next question, a turn is a tenth of the time. Only tasks are resumed so;
what `add_done_callback` was given by anybody else runs by the loop, as with every future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context
    from types import TracebackType

    from everlatch.session.requests import Request, Requests

__all__ = ["Call"]

T = TypeVar("T")

if TYPE_CHECKING:
    Waiter: TypeAlias = tuple[Callable[[Any], object], Context]
    """What resumes a task, and the context to run it in."""

_WAKE_UPS = frozenset({"task_wakeup", "__wakeup"})
"""Names of what a task adds to the future that it waits for: in C and in Python, CPython 3.11 to 3.13. Under any other
name it is treated like everybody's callback, which is merely slower."""


class Call(asyncio.Future[T], Coroutine[Any, Any, T]):
    """The result of an operation, on its way: await it, or pass it to whatever of asyncio takes an awaitable.
    (`asyncio.wait` takes tasks and futures only, and refuses what is a coroutine as well: wrap it in `create_task`.)

    It was submitted when the method returned it; awaiting only waits. `cancel()` (a timeout of asyncio's, or the
    end of a task that awaits it, does that too) withdraws it if it has not been sent; otherwise it may still take
    effect, and its reply is dropped.
    """

    # No __init__: it would cost every call a Python frame. `_steps` is there once the coroutine side has started.
    __slots__ = ("_steps", "request", "requests", "waiter")

    request: Request
    """The request behind this call; set, with `requests`, by whoever submits it, so that cancelling reaches it."""
    requests: Requests
    waiter: Waiter | None
    """The task that waits, if the call was alone when it began to; whoever ends the call takes it out."""
    _steps: Generator[Any, Any, T]

    def cancel(self, msg: Any | None = None) -> bool:
        """Withdraws the call if it is unsent; if it is sent, nobody waits for its reply any more."""
        self._wake()
        if not super().cancel(msg):
            return False
        self.requests.withdraw(self.request)
        return True

    # -- the waiting task

    def add_done_callback(self, fn: Callable[[Self], object], /, *, context: Context | None = None) -> None:
        """As for every future."""
        if (
            len(self.requests.in_flight) == 1
            and context is not None
            and getattr(fn, "__name__", None) in _WAKE_UPS
            and self.waiter is None
            and not self.done()
        ):
            self.waiter = fn, context
        else:
            super().add_done_callback(fn, context=context)

    def set_result(self, result: T, /) -> None:
        """As for every future."""
        if self.waiter is not None:
            self._wake()
        super().set_result(result)

    def set_exception(self, exception: type[BaseException] | BaseException, /) -> None:
        """As for every future."""
        self._wake()
        super().set_exception(exception)

    def _wake(self) -> None:
        """Has the loop resume the task: before the callbacks, which were added later."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            self.get_loop().call_soon(waiter[0], self, context=waiter[1])

    # -- the coroutine side: one step that waits for the future

    def send(self, value: Any, /) -> Any:
        """Starts or resumes waiting; for event loops."""
        if not self._started:
            self._steps = self.__await__()
        return self._steps.send(value)

    @property
    def _started(self) -> bool:
        return hasattr(self, "_steps")

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
        /,
    ) -> Any:
        """Ends waiting with an error; before the first step (a task cancelled at birth) it cancels the call."""
        error = typ if isinstance(typ, BaseException) else val if isinstance(val, BaseException) else typ()
        if not self._started:
            self.cancel()
            raise error
        return self._steps.throw(error.with_traceback(tb) if tb is not None else error)

    def close(self) -> None:
        """Stops waiting, and cancels the call if it has not ended."""
        if self._started:
            self._steps.close()
        if not self.done():
            self.cancel()
