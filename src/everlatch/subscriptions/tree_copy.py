"""The copy of a tree: its nodes by path, and what changes when one is put in or taken out.

Rules:
1. Every node but the root has its parent in the copy. So a node is put in after its parent, and all below a node is
   taken out before it; and the order of `nodes` has parents before their children.
2. A node's data, czxid, mzxid and version are as they were read last; what `Stat` has of its children and its ACL may
   be older, for no event tells of it. `children` is up to date, whatever `num_children` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.subscriptions.reading import DATA
from everlatch.subscriptions.tree_changes import TreeChange, TreeChangeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from everlatch.types import Node

__all__ = ["TreeCopy"]

_NONE: dict[str, None] = {}


class TreeCopy:
    """A root and all below it, as far as is known."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.nodes: dict[str, Node] = {}
        self._below: dict[str, dict[str, None]] = {}
        """The paths of a node's children, which are the very texts that `nodes` has; leaves have no entry."""
        self.tell: Callable[[TreeChange], None] | None = None
        """Who is told of changes."""

    def children(self, path: str) -> Iterable[str]:
        """The paths of a node's children. Don't hold on to it."""
        return self._below.get(path, _NONE)

    def names(self, path: str) -> list[str]:
        """The names of a node's children, sorted."""
        start = 1 if path == "/" else len(path) + 1
        return sorted(child[start:] for child in self.children(path))

    def put(self, path: str, above: str, node: Node) -> Node | None:
        """This is what a node is now; `above` is its parent's path. What it was."""
        previous = self.nodes.get(path)
        self.nodes[path] = node
        if previous is None:
            if path != self.root:
                siblings = self._below.get(above)
                if siblings is None:
                    siblings = self._below[above] = {}
                siblings[path] = None
            if self.tell is not None:
                self.tell(TreeChange(TreeChangeKind.CREATED, path, node, None))
        elif self.tell is not None and DATA.stamp(previous.stat) != DATA.stamp(node.stat):
            self.tell(TreeChange(TreeChangeKind.CHANGED, path, node, previous))
        return previous

    def take_out(self, path: str, error: BaseException | None = None) -> list[str]:
        """A node is gone, or can't be read because of `error`, and so is all below it. What was taken out."""
        if path not in self.nodes:
            return []
        gone = self._with_all_below(path)
        gone.reverse()
        kind = TreeChangeKind.DELETED if error is None else TreeChangeKind.UNREADABLE
        for each in gone:
            self._below.pop(each, None)
            previous = self.nodes.pop(each)
            if self.tell is not None:
                self.tell(TreeChange(kind, each, None, previous, error))
        siblings = self._below.get(path[: path.rindex("/")] or "/")
        if siblings is not None and path != self.root:
            siblings.pop(path, None)
            if not siblings:
                del self._below[path[: path.rindex("/")] or "/"]
        return gone

    def _with_all_below(self, path: str) -> list[str]:
        """Parents first."""
        found = [path]
        for each in found:
            found += self.children(each)
        return found
