"""The copy of a tree, as its users have it.

Rules:
1. What is read from the copy is read at once, and is a snapshot: the copy changes between two turns of the event loop
   only, and what a method returned doesn't change any more.
2. The iterator and each listener hear of changes on their own account: the first is `READY`, from which on they know
   the whole copy. One who is slow holds nobody up, and is told the later state.
3. A listener is isolated: it is called in a turn of the loop of its own, one change at a time, and what it raises is
   logged (promise P9).
4. The client's end is the subscription's end; the copy can still be looked at until the block is left.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Self

from everlatch.engine.changes import within
from everlatch.engine.subscription import Subscription
from everlatch.errors import (
    AlreadyStartedError,
    ClientClosedError,
    ClientStateError,
    InvalidArgumentError,
    InvalidTypeError,
)
from everlatch.paths import validate_path
from everlatch.subscriptions.tree_changes import PendingChanges, TreeChange, TreeChangeKind
from everlatch.subscriptions.tree_feed import TreeTopic
from everlatch.types import UNSET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from everlatch.engine.engine import Engine
    from everlatch.subscriptions.feeds import Feeds
    from everlatch.subscriptions.tree_copy import TreeCopy
    from everlatch.subscriptions.tree_feed import TreeFeed
    from everlatch.types import Node, Remove, Timeout

__all__ = ["TreeSubscription", "tree_topic"]


def tree_topic(path: str, max_depth: int | None, wanted: Callable[[str], bool] | None) -> TreeTopic:
    """What is subscribed to. Raises `InvalidPathError` and the like."""
    validate_path(path)
    if max_depth is not None and (isinstance(max_depth, bool) or not isinstance(max_depth, int)):
        raise InvalidTypeError(f"watch_tree {path!r}: max_depth is int or None, not {max_depth!r}")
    if max_depth is not None and max_depth < 0:
        raise InvalidArgumentError(f"watch_tree {path!r}: max_depth is at least 0 (the root alone), not {max_depth}")
    if wanted is not None and (not callable(wanted) or inspect.iscoroutinefunction(wanted)):
        raise InvalidTypeError(f"watch_tree {path!r}: a filter is a function of a path, not {wanted!r}")
    try:
        hash(wanted)
    except TypeError:  # such as an object with __eq__ and __call__: not shared then
        return TreeTopic(path, max_depth, lambda path: wanted(path) if wanted is not None else True)
    return TreeTopic(path, max_depth, wanted)


class TreeSubscription(Subscription[TreeChange]):
    """A live copy of a node and all below it, from when `async with` has entered this until it is left.

    See `Client.watch_tree`.
    """

    def __init__(self, feeds: Feeds, engine: Engine, topic: TreeTopic, max_changes: int) -> None:
        if isinstance(max_changes, bool) or not isinstance(max_changes, int) or max_changes < 1:
            raise InvalidArgumentError(
                f"watch_tree {topic.path!r}: max_changes is a number of at least 1, not {max_changes!r}"
            )
        super().__init__(items=PendingChanges(topic.path, max_changes))
        self._feeds = feeds
        self._engine = engine
        self._topic = topic
        self._max_changes = max_changes
        self._feed: TreeFeed | None = None
        self._entered = self._is_ready = False
        self._listeners: dict[_Listener, None] = {}
        self._news = asyncio.Event()
        """Whether `ready` has to look."""
        self._refusal: BaseException | None = None
        self._said: BaseException | None = None
        """The refusal that `ready` has raised."""
        self._reason: BaseException | None = None
        """Why it has ended."""

    def __repr__(self) -> str:
        if self._feed is not None:
            state = f"{len(self)} nodes, {'ready' if self._is_ready else 'not ready'}"
        else:
            state = "closed" if self._entered else "not entered"
        return f"<watch_tree {self._topic.path!r}, {state}>"

    # -- for the feed

    def join(self, feed: TreeFeed) -> None:
        """This is where the copy is kept."""
        self._feed = feed

    def be_ready(self) -> None:
        """The copy is complete."""
        self._is_ready = True
        self._refusal = None
        self._news.set()
        self.put(self._ready_change())

    def refuse(self, error: BaseException) -> None:
        """The root can't be read. Somebody is told once."""
        if type(self._refusal) is type(error):
            return
        self._refusal = error
        self._news.set()
        self.put(TreeChange(TreeChangeKind.UNREADABLE, self._topic.path, None, None, error))

    def put(self, item: TreeChange) -> None:
        """One more change."""
        super().put(item)
        for listener in list(self._listeners):
            listener.put(item)

    def end(self, error: BaseException | None = None) -> None:
        """Nothing will follow what is queued, but `error`, which says why."""
        if not self._ended:
            self._reason = error
        super().end(error)
        self._news.set()

    # -- for the user

    async def __aenter__(self) -> Self:
        if self._entered:
            raise AlreadyStartedError(f"{self!r} was entered before; call watch_tree() again for another one")
        self._feeds.attach(self._topic, self)
        self._entered = True
        return self

    def close(self) -> None:
        """Drops what is queued and ends; the last one takes the watch away from the server, and the copy is gone."""
        super().close()
        for listener in list(self._listeners):
            listener.remove()
        if self._feed is not None:
            self._feed = None
            self._feeds.detach(self._topic, self)

    async def __anext__(self) -> TreeChange:
        if not self._entered:
            raise self._not_open()
        return await super().__anext__()

    async def ready(self, *, timeout: Timeout = UNSET) -> None:
        """Returns when the copy has been complete once: at once, if it was. It is empty then if there is no root.

        Raises `CallTimeoutError` after `timeout` seconds (the client's `default_timeout` if left out); `NoAuthError`
        and the like, once, if the root can't be read (call it again to wait on); `ClientClosedError` and such at the
        end.
        """
        if not self._entered:
            raise self._not_open()
        async with within(self._engine.seconds(timeout), "watch_tree", self._topic.path):
            await self._wait_ready()

    async def _wait_ready(self) -> None:
        while not self._is_ready:
            if self._ended:
                raise self._reason or ClientClosedError(f"{self!r}: it was closed before it was ready")
            if self._refusal is not None and self._refusal is not self._said:
                self._said = self._refusal
                raise self._refusal
            self._news.clear()
            await self._news.wait()

    @property
    def is_ready(self) -> bool:
        """Whether the copy has been complete once."""
        return self._is_ready

    @property
    def is_current(self) -> bool:
        """Whether the copy is in step: connected, and all that is known to have changed has been read."""
        return self._is_ready and self._feed is not None and self._feed.is_current

    @property
    def unreadable(self) -> dict[str, BaseException]:
        """The paths that are left out, with all below them, because they can't be read, and why. (A filter that
        raises counts as a reason.) They are tried again, at last every ten seconds."""
        return self._opened().unreadable

    def get(self, path: str) -> Node | None:
        """A node of the copy. Its data, czxid, mzxid and version are up to date; what `Stat` has of children and ACL
        may be older."""
        return self._copy.nodes.get(path)

    def children(self, path: str) -> list[str]:
        """The names of a node's children, sorted; none if there is no such node."""
        return self._copy.names(path)

    def items(self) -> list[tuple[str, Node]]:
        """All paths and nodes of the copy as it is now, parents before their children."""
        return list(self._copy.nodes.items())

    def __contains__(self, path: object) -> bool:
        return path in self._copy.nodes

    def __len__(self) -> int:
        return len(self._copy.nodes)

    def __bool__(self) -> bool:
        return True  # whatever its length

    def __iter__(self) -> Iterator[str]:
        """All paths of the copy as it is now, parents before their children."""
        return iter(list(self._copy.nodes))

    def add_listener(self, listener: Callable[[TreeChange], object]) -> Remove:
        """Calls `listener` with every change, in order, on the event loop; it may be a coroutine function, whose end
        is waited for before the next call. The first change is `READY`, at once if the copy is. Returns what takes it
        back; leaving the block does too."""
        if not callable(listener):
            raise InvalidTypeError(f"a listener is called with what changes; {listener!r} can't be called")
        self._opened()
        added = _Listener(self._engine, listener, PendingChanges(self._topic.path, self._max_changes), self._listeners)
        if self._is_ready:
            added.put(self._ready_change())
        return added.remove

    # -- inside

    def _ready_change(self) -> TreeChange:
        return TreeChange(TreeChangeKind.READY, self._topic.path, None, None)

    @property
    def _copy(self) -> TreeCopy:
        return self._opened().copy

    def _opened(self) -> TreeFeed:
        if self._feed is None:
            raise self._not_open()
        return self._feed

    def _not_open(self) -> ClientStateError:
        if self._entered:
            return ClientStateError(f"{self!r}: its block has been left, and the copy is gone")
        return ClientStateError(f"{self!r}: enter it first: `async with client.watch_tree(…) as tree:`")


class _Listener:
    """One listener, and what it has yet to be told."""

    def __init__(
        self,
        engine: Engine,
        listener: Callable[[TreeChange], object],
        pending: PendingChanges,
        among: dict[_Listener, None],
    ) -> None:
        self._listener = listener
        self._pending = pending
        self._among = among
        self._call_soon = engine.isolated(self)
        self._coming = 0
        """Calls that are ordered; one for each change, at the most."""
        among[self] = None

    def __repr__(self) -> str:
        return repr(self._listener)

    def put(self, change: TreeChange) -> None:
        self._pending.append(change)
        if self._coming < len(self._pending):
            self._coming += 1
            self._call_soon(None)

    def remove(self) -> None:
        self._pending.clear()
        self._among.pop(self, None)

    def __call__(self, _: None) -> object:
        self._coming -= 1
        return self._listener(self._pending.popleft()) if self._pending else None
