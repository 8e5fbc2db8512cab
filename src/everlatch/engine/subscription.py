"""Async iterators over what happens."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Subscription"]

T = TypeVar("T")


class _Items(Protocol[T]):
    """What waits to be read, as a `deque` has it."""

    def __len__(self) -> int: ...
    def append(self, item: T, /) -> None: ...
    def popleft(self) -> T: ...
    def clear(self) -> None: ...


class Subscription(AsyncIterator[T]):
    """Yields items in order; ends when its source does, or when it is closed.

    Use it as `async with client.states() as changes: async for change in changes: …`, which closes it on `break`,
    `return` and cancellation. Cancelling a wait loses no item. One consumer at a time.
    """

    def __init__(
        self, on_close: Callable[[Subscription[T]], None] | None = None, items: _Items[T] | None = None
    ) -> None:
        self._items: _Items[T] = deque() if items is None else items
        self._ended = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_close = on_close

    @property
    def queued(self) -> int:
        """How many items wait to be read."""
        return len(self._items)

    def put(self, item: T) -> None:
        """For the source: one more item."""
        if not self._ended:
            self._items.append(item)
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """For the source: nothing will follow what is queued, but `error`, which says why."""
        if not self._ended:
            self._ended = True
            self._error = error
        self._wake()

    def close(self) -> None:
        """Drops what is queued and ends."""
        self._items.clear()
        self.end()
        if self._on_close is not None:
            self._on_close(self)
            self._on_close = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            self._check()
            if self._waiter is None or self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiter)
        return self._items.popleft()

    def _check(self) -> None:
        """Before a wait for the next item: raises what comes instead of it, if anything does."""
        if self._ended:
            error, self._error = self._error, None
            raise StopAsyncIteration if error is None else error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
