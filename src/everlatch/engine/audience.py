"""Who hears of changes of state: listeners and subscriptions.

Rules: all of them get every change, in order, from the latest one at the time when they come (subscriptions) or the
next (listeners); in the order in which they came, which is why the collections are ordered. A subscription that
nobody holds any more is forgotten.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from everlatch.engine.dispatch import Lane
from everlatch.engine.subscription import Subscription
from everlatch.types import State, StateChange

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.engine.dispatch import Dispatcher
    from everlatch.types import Remove

__all__ = ["Audience"]


class Audience:
    """The listeners and subscriptions of one client."""

    def __init__(self) -> None:
        self._dispatcher: Dispatcher | None = None
        """`None` until there is a loop; listeners are told then what has happened before."""
        self._listeners: list[Lane[StateChange]] = []
        self._subscriptions: weakref.WeakKeyDictionary[Subscription[StateChange], None] = weakref.WeakKeyDictionary()
        self._latest = StateChange(State.CONNECTING, State.CONNECTING, 0, 0, 0, None, None)

    def attach(self, dispatcher: Dispatcher) -> None:
        """The loop is known now."""
        self._dispatcher = dispatcher
        for lane in self._listeners:
            lane.attach(dispatcher)

    def add_listener(self, listener: Callable[[StateChange], object]) -> Remove:
        """Adds a listener, and returns what removes it."""
        lane = Lane(self._dispatcher, listener)
        self._listeners.append(lane)

        def remove() -> None:
            lane.remove()
            if lane in self._listeners:
                self._listeners.remove(lane)

        return remove

    def subscribe(self) -> Subscription[StateChange]:
        """A subscription that begins with the latest change; after `CLOSED` it ends with it, too."""
        subscription: Subscription[StateChange] = Subscription(self._forget)
        subscription.put(self._latest)
        if self._latest.state is State.CLOSED:
            subscription.end()
        else:
            self._subscriptions[subscription] = None
        return subscription

    def tell(self, change: StateChange) -> None:
        """Tells everybody."""
        self._latest = change
        for lane in self._listeners:
            lane.tell(change)
        for subscription in list(self._subscriptions):
            subscription.put(change)

    def end(self) -> None:
        """Nothing more will come."""
        for subscription in list(self._subscriptions):
            subscription.end()

    def _forget(self, subscription: Subscription[StateChange]) -> None:
        self._subscriptions.pop(subscription, None)
