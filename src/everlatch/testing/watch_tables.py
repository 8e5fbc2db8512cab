"""What one connection watches, as a server keeps it.

Rules of this module: a path has any number of modes, as since 3.9; with `one_mode`, as in 3.6 to 3.8, only the one
that was set last: a standard watch set on a path that has a persistent one takes its place, and is gone after the
next event. Nothing here knows a connection; whoever fires says whether somebody is to be told.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from everlatch.paths import parent
from everlatch.wire.codes import AddWatchMode, WatcherType

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["ONCE", "Table", "WatchTables"]

ONCE: Final = -1
"""The mode of a standard watch, which fires once; the others are those of `AddWatchMode`."""


class Table(enum.Enum):
    """What is watched of a path."""

    DATA = "data"
    """Creation, change, deletion."""
    CHILDREN = "children"
    """The list of its children, and its deletion."""


class WatchTables:
    """The watches of one connection, by table and path."""

    def __init__(self, *, one_mode: bool = False) -> None:
        self.one_mode = one_mode
        self._tables: dict[Table, dict[str, set[int]]] = {table: {} for table in Table}

    def add(self, table: Table, path: str, mode: int = ONCE) -> None:
        """Sets a watch, a standard one unless told otherwise."""
        modes = self._tables[table].setdefault(path, set())
        if self.one_mode:
            modes.clear()
        modes.add(mode)

    def add_persistent(self, path: str, mode: int) -> None:
        """addWatch. A recursive one is in the data table alone: it hears of the children themselves."""
        self.add(Table.DATA, path, mode)
        if mode == AddWatchMode.PERSISTENT:
            self.add(Table.CHILDREN, path, mode)

    def modes(self, table: Table, path: str) -> Collection[int]:
        """What is set on a path."""
        return frozenset(self._tables[table].get(path, ()))

    def fire(self, table: Table, path: str) -> bool:
        """Whether anybody watches that, be it recursively from above. Standard watches are gone afterwards."""
        found = bool(self.modes(table, path))
        self._discard(table, path, ONCE)
        recursive = AddWatchMode.PERSISTENT_RECURSIVE
        return found or (table is Table.DATA and any(recursive in self.modes(table, above) for above in _above(path)))

    def knows(self, watcher_type: int) -> bool:
        """Whether this is a type to check or remove: the persistent ones came with 3.9."""
        newest = WatcherType.ANY if self.one_mode else WatcherType.PERSISTENT_RECURSIVE
        return WatcherType.CHILDREN <= watcher_type <= newest

    def check(self, path: str, watcher_type: int) -> bool:
        """Whether there are watches of a type that it `knows`."""
        return bool(self._found(path, watcher_type))

    def remove(self, path: str, watcher_type: int) -> bool:
        """Takes watches of a type that it `knows` away; whether there were any."""
        found = self._found(path, watcher_type)
        for table, mode in found:
            self._discard(table, path, mode)
        return bool(found)

    def _found(self, path: str, watcher_type: int) -> list[tuple[Table, int]]:
        wanted = self._wanted(watcher_type)
        tables = {WatcherType.CHILDREN: (Table.CHILDREN,), WatcherType.DATA: (Table.DATA,)}.get(
            WatcherType(watcher_type), tuple(Table)
        )
        return [(table, mode) for table in tables for mode in self.modes(table, path) if mode in wanted]

    def _wanted(self, watcher_type: int) -> Collection[int]:
        if watcher_type in (WatcherType.PERSISTENT, WatcherType.PERSISTENT_RECURSIVE):
            return (watcher_type - WatcherType.PERSISTENT,)
        if self.one_mode or watcher_type == WatcherType.ANY:  # before 3.9 a table's entry was removed, whatever it was
            return (ONCE, *AddWatchMode)
        return (ONCE,)

    def _discard(self, table: Table, path: str, mode: int) -> None:
        modes = self._tables[table].get(path)
        if modes is not None:
            modes.discard(mode)
            if not modes:
                del self._tables[table][path]


def _above(path: str) -> Iterator[str]:
    while path != "/":
        path = parent(path)
        yield path
