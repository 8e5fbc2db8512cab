"""What changes in the copy of a tree, as it is told, and what waits to be told to somebody who is slow.

Rules:
1. States, not edges, for each path: what happens to a path before it is read becomes one change, from what its reader
   knows to what is there now; if that is the same, there is none.
2. A node comes behind the one above it, and goes before it. (A change keeps its place when another one joins it; it
   goes to the end if the node is gone then, or comes and this reader didn't know it.)
3. `READY` and `RESET` say "look at the whole copy": as long as one of them isn't read, nothing else needs to wait.
   `RESET` takes the place of all that waits when that gets too much, so memory is bounded.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from everlatch.subscriptions.reading import DATA

if TYPE_CHECKING:
    from everlatch.types import Node

__all__ = ["PendingChanges", "TreeChange", "TreeChangeKind"]


class TreeChangeKind(enum.Enum):
    """What has happened to the copy of a tree."""

    READY = 1
    """The copy is complete for the first time: look at all of it. What follows are changes of that."""
    CREATED = 2
    CHANGED = 3
    """Other data; or another node, with another `czxid`, in the place of one that was deleted."""
    DELETED = 4
    UNREADABLE = 5
    """The node can't be read any more, or never could be: it and all below it are left out until it can."""
    RESET = 6
    """There were more changes than are kept for a slow reader: look at the whole copy again."""


class TreeChange(NamedTuple):
    """One change of a copy. For `READY` and `RESET` the path is the tree's own, and there is no node."""

    kind: TreeChangeKind
    path: str
    node: Node | None
    """What is in the copy now."""
    previous: Node | None
    """What was there when this reader was told last."""
    error: BaseException | None = None
    """Why, if it is `UNREADABLE`."""


_WHOLE = (TreeChangeKind.READY, TreeChangeKind.RESET)


class PendingChanges:
    """What one reader has yet to be told."""

    def __init__(self, root: str, most: int) -> None:
        self._root = root
        self._most = most
        self._changes: OrderedDict[str, TreeChange] = OrderedDict()
        self._is_whole = False
        """Whether the one that waits says it all: rule 3."""

    def __len__(self) -> int:
        return len(self._changes)

    def append(self, change: TreeChange) -> None:
        """One more."""
        if change.kind in _WHOLE:
            self._say_all(change)
        elif self._is_whole:
            pass
        elif change.path in self._changes:
            self._join(change)
        elif len(self._changes) < self._most:
            self._changes[change.path] = change
        else:
            self._say_all(TreeChange(TreeChangeKind.RESET, self._root, None, None))

    def popleft(self) -> TreeChange:
        """The next one to tell."""
        self._is_whole = False
        return self._changes.popitem(last=False)[1]

    def clear(self) -> None:
        """There is nothing to tell."""
        self._is_whole = False
        self._changes.clear()

    def _say_all(self, change: TreeChange) -> None:
        self._changes.clear()
        self._changes[change.path] = change
        self._is_whole = True

    def _join(self, change: TreeChange) -> None:
        path = change.path
        waiting = self._changes[path]
        joined = _joined(waiting.previous, change)
        if joined is None:
            del self._changes[path]
            return
        self._changes[path] = joined
        if joined.node is None or (waiting.node is None and joined.previous is None):
            self._changes.move_to_end(path)


def _joined(previous: Node | None, change: TreeChange) -> TreeChange | None:
    """From what a reader knows to what is there now; `None`: it is the same."""
    node = change.node
    if change.kind is TreeChangeKind.UNREADABLE:
        return change._replace(previous=previous)
    if node is None:
        return None if previous is None else change._replace(previous=previous)
    if previous is None:
        return change._replace(kind=TreeChangeKind.CREATED, previous=None)
    if DATA.stamp(previous.stat) == DATA.stamp(node.stat):
        return None
    return change._replace(kind=TreeChangeKind.CHANGED, previous=previous)
