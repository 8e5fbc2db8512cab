"""One-shot watches: who waits for what.

Rules:
1. A watch is registered when the reply of its request arrives, never before: a server arms it with the reply.
   exists on a node that is there, and getData, wait as *data*; exists on a missing node as *exist*; getChildren as
   *child* (the bookkeeping of ZooKeeper's own client, on which setWatches rests).
2. An event takes its watchers out; one callback is called once, though it may be registered under several kinds.
3. There may be 100 000 of them, mostly one callback to a path and kind: that one is kept as it is, and only several
   have a tuple around them. Their paths are those of the requests; nothing else is kept of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.types import EventType

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from everlatch.types import Watch

    Watchers: TypeAlias = Watch | tuple[Watch, ...]
    """One, or several; a tuple is one itself only if it can be called."""

__all__ = ["CHILD", "DATA", "EXIST", "PERSISTENT", "RECURSIVE", "OneShotWatches"]

DATA, EXIST, CHILD, PERSISTENT, RECURSIVE = range(5)
"""The kinds of watches, in the order of setWatches2. The last two are not in this module's registry."""

_TAKES: dict[EventType, tuple[int, ...]] = {
    EventType.CREATED: (DATA, EXIST),
    EventType.DATA_CHANGED: (DATA, EXIST),
    EventType.DELETED: (DATA, EXIST, CHILD),
    EventType.CHILDREN_CHANGED: (CHILD,),
}


class OneShotWatches:
    """The registry; paths are the server's, chroot included."""

    def __init__(self) -> None:
        self._watches: tuple[dict[str, Watchers], ...] = ({}, {}, {})
        self._count = 0
        """Of the callbacks: whoever asks for it again and again should not have all of them looked at."""

    def __len__(self) -> int:
        return self._count

    def __contains__(self, path: str) -> bool:
        return any(path in kind for kind in self._watches)

    def add(self, kind: int, path: str, callback: Watch) -> None:
        """Registers a callback; the same one twice under a path and kind counts once."""
        watches = self._watches[kind]
        present = watches.get(path)
        if present is None:
            watches[path] = callback
        elif callback not in _each(present):
            watches[path] = (*_each(present), callback)
        else:
            return
        self._count += 1

    def waits(self, kinds: Iterable[int], path: str) -> bool:
        """Whether somebody waits for one of these kinds under the path."""
        return any(path in self._watches[kind] for kind in kinds)

    def discard(self, path: str, callback: Watch, kinds: Iterable[int] = (DATA, EXIST, CHILD)) -> bool:
        """Takes a callback out that waits for one of these kinds under the path. Whether it did."""
        found = False
        for kind in kinds:
            watches = self._watches[kind]
            present = _each(watches.get(path, ()))
            if callback not in present:
                continue
            found = True
            left = tuple(other for other in present if other != callback)
            self._count -= len(present) - len(left)
            if left:
                watches[path] = left if len(left) > 1 else left[0]
            else:
                del watches[path]
        return found

    def take(self, event: EventType, path: str) -> list[Watch]:
        """Takes out the callbacks that an event calls, each once."""
        return self.take_kinds(_TAKES[event], path)

    def take_kinds(self, kinds: Iterable[int], path: str) -> list[Watch]:
        """Takes out the callbacks of some kinds on a path, each once."""
        callbacks: list[Watch] = []
        for kind in kinds:
            watchers = self._watches[kind].pop(path, None)
            if watchers is not None:
                taken = _each(watchers)
                self._count -= len(taken)
                callbacks += [found for found in taken if found not in callbacks]
        return callbacks

    def paths(self, kind: int) -> Iterable[str]:
        """What setWatches has to list."""
        return self._watches[kind]


def _each(watchers: Watchers) -> tuple[Watch, ...]:
    """All of them, the only one as well."""
    return watchers if isinstance(watchers, tuple) and not callable(watchers) else (watchers,)
