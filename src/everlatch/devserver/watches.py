"""What one connection watches, and what fires. Pure.

    set by                       table      hears
    exists, getData              data       created, changed, deleted; once
    getChildren                  children   children changed, deleted; once
    addWatch, persistent         both       all of it; stays
    addWatch, recursive          data       created, changed, deleted, here and anywhere below; stays
                                            (before 3.9 in both, so that nobody hears of children there: 3.8.0 does so)

Rules of this module: a deletion is one event, whoever of both tables waits for it. Since 3.9 a path may have any number
of modes. Before (`one_mode`) each table has one a path, that which was set last: a one-shot watch takes the place
of a persistent one, and is gone after the next event.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.errors import MarshallingError, NoWatcherError
from everlatch.paths import parent
from everlatch.types import EventType
from everlatch.wire.codes import AddWatchMode, WatcherType

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from everlatch.devserver.tree import Tree
    from everlatch.wire.watch_records import SetWatches2Request

__all__ = ["Missed", "Table", "WatchTables"]

_ONCE: Final = -1
"""The mode of a one-shot watch; the others are those of `AddWatchMode`."""
_RECURSIVE: Final = AddWatchMode.PERSISTENT_RECURSIVE.value


class Table(enum.Enum):
    """What is watched of a path."""

    DATA = "data"
    """The node itself."""
    CHILDREN = "children"
    """The list of its children."""


_BOTH: Final = (Table.DATA, Table.CHILDREN)
_TOLD: Final = {
    EventType.CREATED: (Table.DATA,),
    EventType.DATA_CHANGED: (Table.DATA,),
    EventType.CHILDREN_CHANGED: (Table.CHILDREN,),
    EventType.DELETED: _BOTH,
}
_MEANT: Final = {WatcherType.CHILDREN: (Table.CHILDREN,), WatcherType.DATA: (Table.DATA,)}


class Missed(NamedTuple):
    """What a watch that is armed again has not seen."""

    type: EventType
    path: str


class WatchTables:
    """The watches of one connection."""

    def __init__(self, *, one_mode: bool = False) -> None:
        self._one_mode = one_mode
        self._tables: dict[Table, dict[str, set[int]]] = {table: {} for table in Table}
        self.have_been = False
        """Whether a node was ever watched, be it that none is any more: ZooKeeper counts such connections, unless the
        last watch was removed on request (since 3.9)."""
        self._recursive = 0
        """How many there are, so that nobody looks at ancestors in vain."""

    def __bool__(self) -> bool:
        return bool(self._tables[Table.DATA] or self._tables[Table.CHILDREN])

    def paths(self, table: Table) -> Collection[str]:
        """All that are watched."""
        return self._tables[table].keys()

    def __len__(self) -> int:
        """How many watches there are; a persistent one that is in both tables counts twice, as on real servers."""
        return sum(len(paths) for paths in self._tables.values())

    # -- setting

    def add(self, table: Table, path: str) -> None:
        """A one-shot watch."""
        self._add(table, path, _ONCE)

    def add_persistent(self, path: str, mode: int) -> None:
        """addWatch. `MarshallingError` for a mode that isn't one."""
        if mode not in (AddWatchMode.PERSISTENT, AddWatchMode.PERSISTENT_RECURSIVE):
            raise MarshallingError
        self._add(Table.DATA, path, mode)
        if mode == AddWatchMode.PERSISTENT or self._one_mode:
            self._add(Table.CHILDREN, path, mode)

    def arm_again(self, request: SetWatches2Request, tree: Tree) -> list[Missed]:
        """setWatches, evaluated against the present nodes: what was missed since its zxid, in order; all else is armed.
        For persistent watches nothing is told."""
        missed = [
            *self._arm_data(request.data, tree, request.relative_zxid),
            *self._arm_exist(request.exist, tree),
            *self._arm_children(request.child, tree, request.relative_zxid),
        ]
        for path in request.persistent:
            self.add_persistent(path, AddWatchMode.PERSISTENT)
        for path in request.persistent_recursive:
            self.add_persistent(path, AddWatchMode.PERSISTENT_RECURSIVE)
        return missed

    def _arm_data(self, paths: Collection[str], tree: Tree, zxid: int) -> Iterator[Missed]:
        for path in paths:
            node = tree.find(path)
            if node is None:
                yield Missed(EventType.DELETED, path)
            elif node.mzxid > zxid:
                yield Missed(EventType.DATA_CHANGED, path)
            else:
                self.add(Table.DATA, path)

    def _arm_exist(self, paths: Collection[str], tree: Tree) -> Iterator[Missed]:
        for path in paths:
            if tree.find(path) is not None:
                yield Missed(EventType.CREATED, path)
            else:
                self.add(Table.DATA, path)

    def _arm_children(self, paths: Collection[str], tree: Tree, zxid: int) -> Iterator[Missed]:
        for path in paths:
            node = tree.find(path)
            if node is None:
                yield Missed(EventType.DELETED, path)
            elif node.pzxid > zxid:
                yield Missed(EventType.CHILDREN_CHANGED, path)
            else:
                self.add(Table.CHILDREN, path)

    def _add(self, table: Table, path: str, mode: int) -> None:
        if self._one_mode:
            for other in self._modes(table, path):
                self._discard(table, path, other)
        self.have_been = self.have_been or table is Table.DATA
        modes = self._tables[table].setdefault(path, set())
        if mode not in modes:
            modes.add(mode)
            self._recursive += mode == _RECURSIVE

    # -- firing

    def fire(self, event: EventType, path: str) -> bool:
        """Whether this connection is to hear of it, once. One-shot watches are gone afterwards."""
        fired = False
        for table in _TOLD[event]:
            modes = self._tables[table].get(path, set())
            if modes and not (event is EventType.CHILDREN_CHANGED and modes == {_RECURSIVE}):
                fired = True
                self._discard(table, path, _ONCE)
        if fired or not self._recursive or event is EventType.CHILDREN_CHANGED:
            return fired
        tables = [self._tables[table] for table in _TOLD[event]]
        return any(_RECURSIVE in table.get(above, ()) for above in _above(path) for table in tables)

    # -- asking and removing

    def has(self, path: str, watcher_type: int) -> bool:
        """Whether there is one of this type; `MarshallingError` if there is no such type."""
        return bool(self._found(path, watcher_type))

    def remove(self, path: str, watcher_type: int) -> None:
        """removeWatches: all of this type are gone; `NoWatcherError` if there was none, and else as `has`."""
        found = self._found(path, watcher_type)
        if not found:
            raise NoWatcherError
        for table, mode in found:
            self._discard(table, path, mode)
            if table is Table.DATA and not self._one_mode:
                self.have_been = bool(self._tables[table])

    def _found(self, path: str, watcher_type: int) -> list[tuple[Table, int]]:
        wanted = self._wanted(watcher_type)
        tables = _MEANT.get(WatcherType(watcher_type), _BOTH)
        return [(table, mode) for table in tables for mode in self._modes(table, path) if mode in wanted]

    def _wanted(self, watcher_type: int) -> Collection[int]:
        """The modes that a type means. Types of their own for persistent watches came with 3.9; until then an entry
        went, whatever its mode was."""
        newest = WatcherType.ANY if self._one_mode else WatcherType.PERSISTENT_RECURSIVE
        if not WatcherType.CHILDREN <= watcher_type <= newest:
            raise MarshallingError
        if watcher_type > WatcherType.ANY:
            return (watcher_type - WatcherType.PERSISTENT,)
        every = self._one_mode or watcher_type == WatcherType.ANY
        return (_ONCE, *AddWatchMode) if every else (_ONCE,)

    def _modes(self, table: Table, path: str) -> tuple[int, ...]:
        return tuple(self._tables[table].get(path, ()))

    def _discard(self, table: Table, path: str, mode: int) -> None:
        modes = self._tables[table].get(path, set())
        if mode not in modes:
            return
        modes.discard(mode)
        self._recursive -= mode == _RECURSIVE
        if not modes:
            del self._tables[table][path]


def _above(path: str) -> Iterator[str]:
    while path != "/":
        path = parent(path)
        yield path
