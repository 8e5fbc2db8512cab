"""One-shot watches: who waits for what, and the frames that re-arm them after a reconnect.

Rules:
1. A watch is registered when the reply of its request arrives, never before: a server arms it with the reply.
   exists on a node that is there, and getData, wait as *data*; exists on a missing node as *exist*; getChildren as
   *child* (the bookkeeping of ZooKeeper's own client, on which setWatches rests).
2. An event takes its watchers out; one callback is called once, though it may be registered under several kinds.
3. After a reconnect everything left is re-armed by setWatches relative to the zxid *frozen* at the loss. It stays
   frozen until every frame is answered: were it to advance with the first reply, a second loss would hide the
   events of the later frames (a flaw of the Java client).
4. A frame has at most 128 KiB (ZOOKEEPER-706: one of a megabyte would be over the server's limit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.types import EventType
from everlatch.wire.watch_records import encode_set_watches_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everlatch.types import Watch

__all__ = ["CHILD", "DATA", "EXIST", "FRAME_LIMIT", "OneShotWatches"]

DATA, EXIST, CHILD = range(3)
"""The kinds, in the order of setWatches."""

FRAME_LIMIT = 128 * 1024
"""Bytes of one setWatches frame, its length and header included."""

_FRAME_OVERHEAD = 4 + 8 + 8 + 3 * 4  # length, request header, relativeZxid, three counts
_TAKES: dict[EventType, tuple[int, ...]] = {
    EventType.CREATED: (DATA, EXIST),
    EventType.DATA_CHANGED: (DATA, EXIST),
    EventType.DELETED: (DATA, EXIST, CHILD),
    EventType.CHILDREN_CHANGED: (CHILD,),
}


class OneShotWatches:
    """The registry; paths are the server's, chroot included."""

    def __init__(self) -> None:
        self._watches: tuple[dict[str, tuple[Watch, ...]], ...] = ({}, {}, {})
        self._frozen_zxid: int | None = None
        self._unanswered_frames = 0

    def __len__(self) -> int:
        return sum(len(callbacks) for kind in self._watches for callbacks in kind.values())

    def add(self, kind: int, path: str, callback: Watch) -> None:
        """Registers a callback; the same one twice under a path and kind counts once."""
        present = self._watches[kind].get(path, ())
        if callback not in present:
            self._watches[kind][path] = (*present, callback)

    def discard(self, path: str, callback: Watch) -> None:
        """Takes a callback out, whatever it waits for under the path."""
        for watches in self._watches:
            left = tuple(found for found in watches.get(path, ()) if found != callback)
            if left:
                watches[path] = left
            else:
                watches.pop(path, None)

    def take(self, event: EventType, path: str) -> list[Watch]:
        """Takes out the callbacks that an event calls, each once."""
        callbacks: list[Watch] = []
        for kind in _TAKES[event]:
            callbacks += [found for found in self._watches[kind].pop(path, ()) if found not in callbacks]
        return callbacks

    def freeze(self, last_zxid: int) -> None:
        """The link is gone: what `last_zxid` doesn't cover may have been missed. Kept if frozen already (rule 3)."""
        self._unanswered_frames = 0
        if self._frozen_zxid is None:
            self._frozen_zxid = last_zxid

    def rearm(self) -> list[bytes]:
        """The bodies of the setWatches requests to send now; call `rearmed` for each answer."""
        zxid = self._frozen_zxid
        if zxid is None:
            return []
        bodies = [encode_set_watches_request(zxid, *lists) for lists in self._batches()]
        self._unanswered_frames = len(bodies)
        if not bodies:
            self._frozen_zxid = None
        return bodies

    def rearmed(self) -> None:
        """One setWatches request was answered."""
        self._unanswered_frames -= 1
        if not self._unanswered_frames:
            self._frozen_zxid = None

    def _batches(self) -> Iterator[tuple[list[str], list[str], list[str]]]:
        batch: tuple[list[str], list[str], list[str]] = ([], [], [])
        size = _FRAME_OVERHEAD
        for kind, watches in enumerate(self._watches):
            for path in watches:
                needed = 4 + len(path.encode())
                if size + needed > FRAME_LIMIT and any(batch):
                    yield batch
                    batch, size = ([], [], []), _FRAME_OVERHEAD
                batch[kind].append(path)
                size += needed
        if any(batch):
            yield batch
