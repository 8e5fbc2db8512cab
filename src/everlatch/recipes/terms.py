"""A term of leadership, as the one who leads holds it in his hands.

Rules: a term ends once, and a later one of the same member is another. Whoever works under it learns of its end in the
moment in which that is noticed; `is_current` reads the clock and knows it at any time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from everlatch.arguments import checked_timeout
from everlatch.errors import CallTimeoutError, ClientStateError, EverlatchError, NotLeaderError

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.transaction import Transaction

__all__ = ["Term"]


class Term:
    """One term of leadership.

        async for term in latch.terms():
            async with term:                            # what runs in here is cancelled when the term ends
                while True:
                    async with term.transaction() as t: # refused by ZooKeeper when another leads already
                        t.set("/app/state", await next_state())

    The block is left quietly then; one that ends by itself ends the term not. `is_current` and `ended` serve those who
    don't want to be cancelled.
    """

    def __init__(self, path: str, token: int, holds: Callable[[], bool], begin: Callable[[], Transaction]) -> None:
        self.token = token
        """The fencing token: what is written with it can be told from what a later leader writes, who has a larger
        one."""
        self._path = path
        self._holds = holds
        self._begin = begin
        self._over = asyncio.Event()
        self._block: _Block | None = None

    def __repr__(self) -> str:
        return f"<Term of {self._path}, token {self.token}, {'current' if self.is_current else 'over'}>"

    @property
    def is_current(self) -> bool:
        """Whether it lasts, now, by the clock too."""
        return not self._over.is_set() and self._holds()

    def transaction(self) -> Transaction:
        """As `LeaderLatch.transaction`, bound to this term. Raises `NotLeaderError` when it is over."""
        if not self.is_current:
            raise NotLeaderError(f"the term of leadership of {self._path!r} with token {self.token} is over")
        return self._begin()

    async def ended(self, *, timeout: float | None = None) -> None:
        """Returns when it is over. Raises `CallTimeoutError`."""
        seconds = None if timeout is None else checked_timeout(timeout)
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError as error:
            if seconds is None or isinstance(error, EverlatchError):
                raise
            raise CallTimeoutError("wait for the end of the term of", self._path, seconds, sent=None) from None

    def end(self) -> None:
        """For the latch: it is over."""
        self._over.set()
        if self._block is not None:
            self._block.interrupt()

    # -- as a block

    async def __aenter__(self) -> Self:
        if self._block is not None:
            raise ClientStateError(f"a block of {self!r} runs already")
        self._block = _Block()
        if not self.is_current:
            self._block.interrupt()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *exc: object) -> bool:
        block, self._block = self._block, None
        assert block is not None
        return block.leave(exc_type)


class _Block:
    """A stretch of a task's work that can be interrupted from outside."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._handle: asyncio.Handle | None = None
        self._is_interrupted = False

    def interrupt(self) -> None:
        # In a turn of its own: the task may be the one that ends the term, by closing the latch, say.
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        self._is_interrupted = True
        self._task.cancel()

    def leave(self, exc_type: type[BaseException] | None) -> bool:
        """Whether what ends the block was the interruption, and nothing else."""
        if self._handle is not None:
            self._handle.cancel()
        if not self._is_interrupted:
            return False
        return self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError
