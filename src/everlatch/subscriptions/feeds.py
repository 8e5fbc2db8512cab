"""The feeds of one client: what somebody subscribes to, each once.

Rules: a feed begins with its first subscriber and goes with its last, and its watch with it. All end with the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from everlatch.subscriptions.feed import Feed

if TYPE_CHECKING:
    from everlatch.engine.engine import Engine
    from everlatch.operations import Operations
    from everlatch.subscriptions.reading import Reading

__all__ = ["Feeds", "StateTopic", "Topic"]

T = TypeVar("T")


class _AnyFeed(Protocol):
    def __len__(self) -> int: ...
    def add(self, subscriber: Any) -> None: ...
    def discard(self, subscriber: Any) -> None: ...
    def close(self) -> None: ...
    def end(self, error: BaseException | None) -> None: ...


class Topic(Protocol):
    """What can be subscribed to; the same for all who share a feed."""

    @property
    def name(self) -> str:
        """Of the method that subscribes to it."""
        ...

    @property
    def path(self) -> str:
        """Of the node."""
        ...

    def open(self, engine: Engine, operations: Operations, recheck: float | None) -> _AnyFeed:
        """Begins its feed."""
        ...


class StateTopic(NamedTuple, Generic[T]):
    """The data, or the children, of a path."""

    reading: Reading[Any]
    path: str

    @property
    def name(self) -> str:
        """Of the method that subscribes to it."""
        return self.reading.name

    def open(self, engine: Engine, operations: Operations, recheck: float | None) -> Feed[T]:
        """Begins its feed."""
        return Feed(engine, operations, self.reading, self.path, recheck)


class Feeds:
    """All feeds that have subscribers."""

    def __init__(self, engine: Engine, operations: Operations, recheck: float | None) -> None:
        self._engine = engine
        self._operations = operations
        self._recheck = recheck
        self._feeds: dict[Topic, _AnyFeed] = {}

    def __len__(self) -> int:
        return len(self._feeds)

    def attach(self, topic: Topic, subscriber: Any) -> None:
        """Somebody subscribes; `detach` has to follow. Raises what any call would raise here and now."""
        self._engine.check_usable(f"{topic.name} {topic.path!r}")
        feed = self._feeds.get(topic)
        if feed is None:
            if not self._feeds:
                self._engine.tell_end(self._end)
            feed = self._feeds[topic] = topic.open(self._engine, self._operations, self._recheck)
        feed.add(subscriber)

    def detach(self, topic: Topic, subscriber: Any) -> None:
        """Somebody goes."""
        feed = self._feeds.get(topic)
        if feed is None:
            return
        feed.discard(subscriber)
        if not len(feed):
            del self._feeds[topic]
            feed.close()

    def _end(self, error: BaseException | None) -> None:
        """The client's end."""
        while self._feeds:
            _, feed = self._feeds.popitem()
            feed.end(error)
