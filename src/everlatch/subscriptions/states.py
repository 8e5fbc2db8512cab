"""Subscriptions of states, as their users have them.

Rules:
1. States, not edges: the present one first, then the latest after every change. A reader who is slow finds the latest
   only; what he has not read by then is replaced.
2. That the state can't be read is said once, by raising why; the subscription stays open and tries again by itself.
   Who iterates again goes on. If it could be read again before he came to hear of it, he finds the state.
3. The client's end is the subscription's end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

from everlatch.engine.subscription import Subscription
from everlatch.errors import AlreadyStartedError, ClientStateError

if TYPE_CHECKING:
    from everlatch.subscriptions.feeds import Feeds, Topic

__all__ = ["StateSubscription"]

T = TypeVar("T")


class StateSubscription(Subscription[T]):
    """What is at a path, from when `async with` has entered this until it is left.

    See `Client.watch_data` and `Client.watch_children`.
    """

    def __init__(self, feeds: Feeds, topic: Topic) -> None:
        super().__init__()
        self._feeds = feeds
        self._topic = topic
        self._entered = self._is_attached = False
        self._refusal: BaseException | None = None
        self.needs_state, self.is_refused = True, False
        """For the feed: whether it has to be told the state, though it may not be new; whether it was told last that it
        can't be."""

    def __repr__(self) -> str:
        state = "closed" if self._ended else "open" if self._entered else "not entered"
        return f"<{self._topic.name} {self._topic.path!r}, {state}>"

    # -- for the feed

    def offer(self, state: T) -> None:
        """The state is this now."""
        self.needs_state = self.is_refused = False
        self._refusal = None
        self._items.clear()
        self.put(state)

    def refuse(self, error: BaseException) -> None:
        """The state can't be read now."""
        self._refusal = error
        self.needs_state = self.is_refused = True
        self._wake()

    # -- for the user

    async def __aenter__(self) -> Self:
        if self._entered:
            raise AlreadyStartedError(f"{self!r} was entered before; call {self._topic.name}() again for another one")
        self._feeds.attach(self._topic, self)
        self._entered = self._is_attached = True
        return self

    def close(self) -> None:
        """Drops what is queued and ends; the last one takes the watch away from the server."""
        self._refusal = None
        super().close()
        if self._is_attached:
            self._is_attached = False
            self._feeds.detach(self._topic, self)

    async def __anext__(self) -> T:
        if not self._entered:
            raise ClientStateError(f"{self!r}: enter it first: `async with client.{self._topic.name}(…) as states:`")
        return await super().__anext__()

    def _check(self) -> None:
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal
        super()._check()
