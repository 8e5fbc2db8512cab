"""Persistent watches: who wants which, and who hears of an event.

Rules:
1. A watch is *wanted* from the moment somebody asks for it until the last one leaves, whether or not the server has
   armed it yet; only then is it removed at the server. It is *heard* from the reply of its request on.
2. A persistent watch hears everything of its path. A recursive one hears of its path and of all below it, but never
   CHILDREN_CHANGED: servers send that to the connection for the sake of other watches.
3. After a reconnect servers arm them anew and replay nothing: what happened meanwhile was missed, and is told so.
4. Servers before 3.9 know one mode for a path. A one-shot watch set there takes it over, and with the next event
   persistent watches lose it: such paths are remembered, and armed again. Where both modes are wanted the recursive
   one is armed last, and wins; what others would hear of children there follows from what the recursive one hears.
   (Servers from 3.9 on keep all modes apart. Seen on 3.8.0 and 3.9.5.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.session.watches import PERSISTENT, RECURSIVE
from everlatch.types import EventType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everlatch.types import Watch

__all__ = ["PersistentWatches"]

_KINDS = (PERSISTENT, RECURSIVE)


class PersistentWatches:
    """The registry; paths are the server's, chroot included."""

    def __init__(self) -> None:
        self._wanted: dict[tuple[int, str], tuple[Watch, ...]] = {}
        self._heard: dict[tuple[int, str], tuple[Watch, ...]] = {}
        self._lengths: set[int] | None = None
        """Of the paths with a recursive watch; `None` if they have changed."""
        self._taken_over: set[str] = set()
        """Paths on which a one-shot watch was set on this connection, after the persistent one."""

    def __len__(self) -> int:
        return sum(map(len, self._heard.values()))

    # -- who

    def want(self, kind: int, path: str, callback: Watch) -> None:
        """Somebody asks for a watch, with a callback of his own."""
        self._wanted[kind, path] = (*self._wanted.get((kind, path), ()), callback)

    def leave(self, kind: int, path: str, callback: Watch) -> bool:
        """He has gone, whether or not he heard anything. Whether he was the last: remove it at the server then."""
        self._lengths_may_change(kind)
        _take_out(self._heard, (kind, path), callback)
        _take_out(self._wanted, (kind, path), callback)
        if not self.is_wanted(path):
            self._taken_over.discard(path)
        return (kind, path) not in self._wanted

    def armed(self, kind: int, path: str, callback: Watch) -> None:
        """The server has armed it. He may have left meanwhile."""
        self.taken_back(path)
        if callback in self._wanted.get((kind, path), ()):
            self._heard[kind, path] = (*self._heard.get((kind, path), ()), callback)
        self._lengths_may_change(kind)

    def clear(self) -> list[tuple[str, tuple[Watch, ...]]]:
        """Forgets who hears; who does, by path. They still have to leave."""
        heard = self.everybody()
        self._heard.clear()
        self._lengths = None
        return heard

    def is_wanted(self, path: str) -> bool:
        """Whether any kind is."""
        return bool(self.kinds_wanted(path))

    def kinds_wanted(self, path: str) -> list[int]:
        """In the order in which servers before 3.9 have to be told: rule 4."""
        return [kind for kind in _KINDS if (kind, path) in self._wanted]

    # -- what

    def paths(self, kind: int) -> Iterator[str]:
        """What setWatches2 has to list."""
        return (path for found, path in self._heard if found == kind)

    def hearing(self, event: EventType, path: str) -> list[Watch]:
        """Who hears of an event."""
        if not self._heard:
            return []
        callbacks = list(self._heard.get((PERSISTENT, path), ()))
        if event is not EventType.CHILDREN_CHANGED:
            for above in self._places_above(path):
                callbacks += self._heard.get((RECURSIVE, above), ())
        return callbacks

    def _places_above(self, path: str) -> Iterator[str]:
        """The path and those above it at which a recursive watch may be. By the lengths that occur, and not from
        slash to slash: whoever sends a megabyte of slashes would keep us busy."""
        if self._lengths is None:
            self._lengths = {len(place) for kind, place in self._heard if kind == RECURSIVE}
        for length in self._lengths:
            if length == 1 or length == len(path) or path[length : length + 1] == "/":
                yield path[:length]

    def _lengths_may_change(self, kind: int) -> None:
        """Thousands of watches on single nodes come and go without every event after that looking at them all."""
        if kind == RECURSIVE:
            self._lengths = None

    def listening_at(self, kind: int, path: str) -> list[Watch]:
        """Who has a watch of this kind on exactly this path."""
        return list(self._heard.get((kind, path), ()))

    def everybody(self) -> list[tuple[str, tuple[Watch, ...]]]:
        """All who hear, with the path of their watch."""
        return [(path, callbacks) for (_, path), callbacks in self._heard.items()]

    # -- servers with one mode for a path

    def one_shot_set(self, path: str) -> None:
        """A one-shot watch was armed on the path, for whomever."""
        if self._wanted and self.is_wanted(path):
            self._taken_over.add(path)

    def lost_by_event(self, path: str) -> bool:
        """Whether an event on the path may have ended its persistent watches: then they are to be armed anew."""
        return path in self._taken_over and self.is_wanted(path)

    def taken_back(self, path: str) -> None:
        """They are being armed anew."""
        self._taken_over.discard(path)

    def disconnected(self) -> None:
        """The next connection arms persistent watches behind the one-shot ones, as it must be."""
        self._taken_over.clear()


def _take_out(registry: dict[tuple[int, str], tuple[Watch, ...]], place: tuple[int, str], callback: Watch) -> None:
    left = tuple(found for found in registry.pop(place, ()) if found != callback)
    if left:
        registry[place] = left
