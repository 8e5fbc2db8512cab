"""Persistent watches as async iterators.

Rules:
1. A watch is asked for when its subscription is entered, and left when that is closed, by whatever way.
2. What happens is queued, up to a bound. When a reader is so slow that it is reached, everything queued is dropped and
   one `MISSED` takes its place: a reader who hears that has to read again anyway. Nothing is lost silently (P5, P11).
3. The client's end is the subscription's end: what is queued can still be read, then the iteration stops, or raises
   why it can't go on.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Self

from everlatch.engine.subscription import Subscription
from everlatch.errors import AlreadyStartedError, ClientStateError
from everlatch.session.requests import Operation
from everlatch.session.watches import PERSISTENT, RECURSIVE
from everlatch.types import EventType, WatchEvent
from everlatch.wire.codes import AddWatchMode, Op
from everlatch.wire.watch_records import decode_add_watch_reply, encode_add_watch_request

if TYPE_CHECKING:
    from everlatch.engine.engine import Engine
    from everlatch.types import Remove, Timeout

__all__ = ["ADD_WATCH", "SINCE", "WatchSubscription", "add_watch_body"]

SINCE = "3.6.0"
"""The first version of ZooKeeper that has persistent watches."""

ADD_WATCH: Final = {
    kind: Operation("add_watch", Op.ADD_WATCH, decode_add_watch_reply, watch=kind) for kind in (PERSISTENT, RECURSIVE)
}
"""The operation that arms a watch of each kind."""


def add_watch_body(server_path: str, kind: int) -> bytes:
    """What is sent with it."""
    mode = AddWatchMode.PERSISTENT_RECURSIVE if kind == RECURSIVE else AddWatchMode.PERSISTENT
    return encode_add_watch_request(server_path, mode)


class WatchSubscription(Subscription[WatchEvent]):
    """What happens at a node, or at it and all below it, from when `async with` has entered this until it is left.

    See `Client.add_watch`.
    """

    def __init__(
        self,
        engine: Engine,
        path: str,
        server_path: str,
        *,
        recursive: bool,
        max_events: int,
        timeout: Timeout,
        generation: int,
    ) -> None:
        self._queue: deque[WatchEvent] = deque()
        super().__init__(items=self._queue)
        self._engine = engine
        self._path = path
        self._kind = RECURSIVE if recursive else PERSISTENT
        self._body = add_watch_body(server_path, self._kind)
        self._max_events = max_events
        self._timeout = timeout
        self._generation = generation
        self._entered = self._wants = False
        self._no_longer_told: Remove | None = None

    def __repr__(self) -> str:
        state = "closed" if self._ended else "open" if self._wants else "not entered"
        return f"<WatchSubscription {self._path!r}{' and below' if self._kind == RECURSIVE else ''}, {state}>"

    # -- entering and leaving

    async def __aenter__(self) -> Self:
        if self._entered:
            raise AlreadyStartedError(f"{self!r} was entered before; call add_watch() again for another one")
        engine = self._engine
        engine.check_usable(f"add_watch {self._path!r}")
        self._entered = True
        engine.watch_wanted(self._kind, self._path, self._tell)
        self._no_longer_told = engine.tell_end(self.end)
        self._wants = True
        try:
            await engine.versions.submit(
                SINCE, ADD_WATCH[self._kind], self._path, self._body, self._tell, self._timeout, self._generation
            )
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Drops what is queued and ends; the last one takes the watch away from the server."""
        super().close()
        if self._wants:
            self._wants = False
            if self._no_longer_told is not None:
                self._no_longer_told()
            self._engine.watch_left(self._kind, self._path, self._tell)

    async def __anext__(self) -> WatchEvent:
        if not self._entered:
            raise ClientStateError(f"{self!r}: enter it first, with `async with client.add_watch(…) as events:`")
        return await super().__anext__()

    # -- events

    def _tell(self, event: WatchEvent) -> None:
        """From the session, in a turn of the loop of its own."""
        if event.type is EventType.MISSED:
            self._miss(event)
        elif len(self._items) >= self._max_events:
            self._items.clear()
            self._miss(WatchEvent(EventType.MISSED, self._path, event.zxid))
        else:
            self.put(event)
        if event.type is EventType.REMOVED:
            self.end()

    def _miss(self, event: WatchEvent) -> None:
        """One at the end of the queue says it all."""
        if not self._queue or self._queue[-1].type is not EventType.MISSED:
            self.put(event)
