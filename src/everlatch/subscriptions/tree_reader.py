"""What has to be read, and read again, so that the copy of a tree ends as the tree is.

Rules:
1. Events say that there is something to read; what the copy holds comes from reads alone. (All reads go over one
   connection at a time and are answered in order, each as new as the one before: so the latest answer is right.) That
   holds for deletions as well: a transaction may delete a node and make it again, which then was never away.
2. A path that an event names while it is being read is read once more.
3. A node that is new in the copy has its children listed, if it has any; those that come later are told by events. With
   one-shot watches every node is listed, for its list carries the watch.
4. When events may have been missed, everything that is being read is read afresh, and every node is looked at: one
   request for each, and another one for what has changed.
5. What can't be read is left out with all below it; it is said why, once, and tried again (`retry`).
6. Nothing is read below what is left out: if it comes, it is new, and listed.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from everlatch.errors import NoAuthError
from everlatch.paths import parent
from everlatch.subscriptions.reading import DATA
from everlatch.subscriptions.tree_changes import TreeChange, TreeChangeKind
from everlatch.types import EventType

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.subscriptions.tree_copy import TreeCopy
    from everlatch.types import Children, Node, Stat

__all__ = ["Read", "ReadKind", "TreeReader"]

_FEW: Final = 1000
"""Nodes that wait to be read; more are looked for when there are fewer."""


class ReadKind(enum.Enum):
    """What is read of a path."""

    NODE = 1
    CHILDREN = 2
    LOOK = 3
    """Whether it is still as the copy has it: its children and `Stat`; where children are no matter, its `Stat`."""
    AWAIT = 4
    """Whether there is a root, of which there was none: with one-shot watches only this has its creation told."""


Read: TypeAlias = tuple[ReadKind, str]
"""One request: what, and of which path."""


class _Progress(enum.Enum):
    """How far a read is."""

    WAITING = 1
    SENT = 2
    AGAIN = 3
    """Sent, and to be repeated: rule 2."""
    AFRESH = 4
    """Sent, and its answer is of no use: rule 4."""


class _Reads(dict[str, _Progress]):
    """Reads of one kind."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: deque[str] = deque()

    def need(self, path: str) -> None:
        progress = self.get(path)
        if progress is None:
            self[path] = _Progress.WAITING
            self.queue.append(path)
        elif progress is _Progress.SENT:
            self[path] = _Progress.AGAIN

    def answered(self, path: str) -> bool:
        """Whether the answer is of use."""
        progress = self.pop(path, _Progress.SENT)
        if progress is not _Progress.SENT:
            self.need(path)
        return progress is not _Progress.AFRESH

    def begin_afresh(self) -> None:
        for path, progress in self.items():
            if progress is not _Progress.WAITING:
                self[path] = _Progress.AFRESH


class TreeReader:
    """Decides what to read next, and takes the answers to the copy."""

    def __init__(
        self,
        copy: TreeCopy,
        max_depth: int | None,
        is_wanted: Callable[[str], bool] | None,
        let_go: Callable[[str], None],
    ) -> None:
        self._copy = copy
        self._max_depth = max_depth
        self._top = 0 if copy.root == "/" else copy.root.count("/")
        self._is_wanted = is_wanted
        """The user's; what it raises counts as a reason why a node can't be read."""
        self._let_go = let_go
        """Told of paths of which nothing more needs to be heard."""
        self.is_one_shot = False
        """Whether reads carry one-shot watches: rule 3."""
        self.refused: dict[str, tuple[ReadKind, BaseException]] = {}
        """What can't be read, and why."""
        self._nodes = _Reads()
        self._lists = _Reads()
        self._listed_anew: set[str] = set()
        """What has to be listed when it could be read."""
        self._is_root_awaited = False
        """Whether `AWAIT` is to be read next; until its answer is there the root counts as being read."""
        self._has_taken_out = False
        """Whether some of what waits to be read may be below what has been taken out: rule 6."""
        self._unseen: deque[str] = deque()
        """What has yet to be looked at: rule 4, and `sweep`."""
        self._looks = 0
        """How many are under way."""
        self._is_catching_up = False
        self.has_found_untold = False
        """Whether a sweep has found a change that was not told: the watch may be gone."""
        self.may_look = 0
        """How many nodes may be looked at now, if nothing was missed."""
        self._nodes.need(copy.root)

    # -- what to read

    @property
    def is_settled(self) -> bool:
        """Whether nothing is known to be unread."""
        return not (self._nodes or self._lists or self._is_catching_up)

    @property
    def is_sweeping(self) -> bool:
        """Whether nodes are looked at though nothing was missed."""
        return bool(self._unseen or self._looks) and not self._is_catching_up

    def next_read(self) -> Read | None:
        """What to read next; its answer goes to `read`, `listed`, `looked_at`, `missing`, `refuse` or `not_read`."""
        nodes, lists = self._nodes, self._lists
        while True:
            if self._is_root_awaited:
                self._is_root_awaited = False
                return (ReadKind.AWAIT, self._copy.root)
            if lists.queue and len(nodes.queue) < _FEW:
                path = lists.queue.popleft()
                if path in self._copy.nodes:
                    lists[path] = _Progress.SENT
                    return (ReadKind.CHILDREN, path)
                del lists[path]
                self._release(path)
            elif nodes.queue:
                path = nodes.queue.popleft()
                if not self._has_taken_out or self._is_reachable(path):
                    nodes[path] = _Progress.SENT
                    return (ReadKind.NODE, path)
                del nodes[path]
                self._release(path)
            elif self._has_taken_out:
                self._has_taken_out = False
            elif not self._unseen or not (self._is_catching_up or self.may_look):
                return None
            else:
                look = self._next_look()
                if look is not None:
                    return look

    def next_nodes(self, most: int) -> list[str]:
        """Nodes to read next, after one that `next_read` has told of, as it would tell of them."""
        nodes, paths = self._nodes, list[str]()
        while nodes.queue and len(paths) < most:
            path = nodes.queue.popleft()
            if not self._has_taken_out or self._is_reachable(path):
                nodes[path] = _Progress.SENT
                paths.append(path)
            else:
                del nodes[path]
                self._release(path)
        return paths

    def _next_look(self) -> Read | None:
        path = self._unseen.popleft()
        if path not in self._copy.nodes:
            self._look_is_over()
            return None
        if self._is_catching_up and self.is_one_shot:
            self._nodes.need(path)
            self._need_list(path)
            self._look_is_over()
            return None
        self.may_look = max(0, self.may_look - 1)
        self._looks += 1
        return (ReadKind.LOOK, path)

    def _look_is_over(self) -> None:
        if not self._unseen and not self._looks:
            self._is_catching_up = False

    def has_children(self, path: str) -> bool:
        """Whether a node's children belong to the tree."""
        return self._max_depth is None or self._depth(path) < self._max_depth

    def _depth(self, path: str) -> int:
        return path.count("/") - self._top if path != self._copy.root else 0

    def _is_reachable(self, path: str) -> bool:
        if path == self._copy.root:
            return True
        above = parent(path)
        return above in self._copy.nodes or above in self._nodes

    def _need_list(self, path: str) -> None:
        if self.has_children(path):
            self._lists.need(path)

    # -- what happens

    def changed(self, event: EventType, path: str) -> None:
        """An event tells of a change."""
        copy = self._copy
        if event is EventType.CHILDREN_CHANGED:
            if path in copy.nodes:
                self._need_list(path)
        elif path in self._nodes or path in copy.nodes or path == copy.root:
            self._nodes.need(path)
        elif event is EventType.DELETED:
            self.refused.pop(path, None)
        elif self._is_reachable(path) and self.has_children(parent(path)):
            self._consider(path)

    def missed(self) -> None:
        """Events may have been missed, or the watches are others: rule 4."""
        self._nodes.begin_afresh()
        self._lists.begin_afresh()
        self._is_catching_up = True
        self._begin_looking()
        self.retry()

    def sweep(self) -> None:
        """Every node is to be looked at, as `may_look` says, though nothing is known to have changed."""
        self._begin_looking()

    def _begin_looking(self) -> None:
        self._unseen = deque(self._copy.nodes)
        if not self._unseen:
            self._nodes.need(self._copy.root)
            self._look_is_over()

    def retry(self) -> None:
        """What couldn't be read is tried again."""
        for path, (kind, _) in list(self.refused.items()):
            if not self._is_reachable(path):
                del self.refused[path]
            elif kind is ReadKind.CHILDREN:
                self._lists.need(path)
            elif path == self._copy.root:
                self._nodes.need(path)
            elif path not in self._nodes:
                self._consider(path)

    def unreadable(self) -> dict[str, BaseException]:
        """What is left out because it can't be read, and why."""
        return {path: error for path, (_, error) in self.refused.items() if self._is_reachable(path)}

    def _consider(self, path: str) -> None:
        """There is a node that isn't in the copy."""
        if self._is_wanted is not None:
            try:
                if not self._is_wanted(path):
                    self.refused.pop(path, None)
                    return
            except (Exception, asyncio.CancelledError) as error:  # it is anybody's code
                self._leave_out(path, error)
                return
        self._nodes.need(path)

    # -- answers

    def not_read(self, read: Read) -> None:
        """There was no answer, for a reason that passes: it has to be read again."""
        kind, path = read
        if kind is ReadKind.LOOK:
            self._looks -= 1
            self._unseen.append(path)
        else:
            reads = self._lists if kind is ReadKind.CHILDREN else self._nodes
            reads.pop(path, None)
            reads.need(path)

    def read(self, path: str, node: Node) -> None:
        """This is what it is."""
        if not self._nodes.answered(path):
            return
        copy = self._copy
        above = path[: path.rindex("/")] or "/"
        if path != copy.root and above not in copy.nodes:
            self._release(path)
            return
        if self.refused and self.refused.get(path, _NO_REFUSAL)[0] is ReadKind.NODE:
            del self.refused[path]
        previous = copy.nodes.get(path)
        copy.put(path, above, node)
        if previous is not None and _are_one(previous.stat, node.stat):
            if path in self._listed_anew:
                self._listed_anew.discard(path)
                self._need_list(path)
            return
        if self.is_one_shot or node.stat.num_children:
            self._need_list(path)
        # Another node in the place of one that was deleted: what was below that one was deleted, too.
        for child in copy.children(path):
            if copy.nodes[child].stat.czxid < node.stat.czxid:
                self._nodes.need(child)

    def listed(self, path: str, children: Children) -> None:
        """These are its children."""
        if self._lists.answered(path):
            self._compare(path, children.names, children.stat)
        self._release(path)

    def looked_at(self, path: str, names: list[str] | None, stat: Stat) -> None:
        """This is what it looks like; without names if its children are no matter."""
        self._looks -= 1
        is_known = path in self._nodes or path in self._lists or self._is_catching_up
        if self._compare(path, names, stat):
            self.has_found_untold = self.has_found_untold or not is_known
            self._need_list(path)  # which carries a one-shot watch again, where there are such
        self._look_is_over()

    def _compare(self, path: str, names: list[str] | None, stat: Stat) -> bool:
        """Whether anything is to be read, or gone."""
        copy = self._copy
        node = copy.nodes.get(path)
        if node is None:
            return False
        differs = DATA.stamp(node.stat) != DATA.stamp(stat)
        if differs:
            self._nodes.need(path)
        if names is None:
            return differs
        if self.refused and self.refused.get(path, _NO_REFUSAL)[0] is ReadKind.CHILDREN:
            del self.refused[path]
        start = "/" if path == "/" else path + "/"
        found = dict.fromkeys([start + name for name in sorted(names)])
        for child in [known for known in copy.children(path) if known not in found]:
            self._take_out(child)
            differs = True
        for child in found:
            if child not in copy.nodes and child not in self._nodes and child not in self.refused:
                self._consider(child)
                differs = differs or child in self._nodes
        return differs

    def missing(self, read: Read) -> None:
        """There is no such node."""
        kind, path = read
        is_root = path == self._copy.root
        if kind is ReadKind.NODE and is_root and self.is_one_shot and self._nodes.get(path) is _Progress.SENT:
            self._is_root_awaited = True
            is_of_use = True
        elif kind is ReadKind.LOOK:
            self._looks -= 1
            is_of_use = True
        else:
            is_of_use = (self._lists if kind is ReadKind.CHILDREN else self._nodes).answered(path)
        if is_of_use:
            self.refused.pop(path, None)
            self._take_out(path)
        if kind in (ReadKind.LOOK, ReadKind.CHILDREN):
            self._see_to_root(path)
        if kind is ReadKind.LOOK:
            self._look_is_over()
        self._release(path)

    def _see_to_root(self, path: str) -> None:
        """The root has gone: with one-shot watches only reads have it told that it comes."""
        if self.is_one_shot and path == self._copy.root:
            self._nodes.need(path)

    def refuse(self, read: Read, error: BaseException) -> None:
        """It can't be read: rule 5."""
        kind, path = read
        if kind in (ReadKind.NODE, ReadKind.AWAIT):
            if self._nodes.answered(path) and (path == self._copy.root or parent(path) in self._copy.nodes):
                self._leave_out(path, error)
            self._release(path)
            return
        if kind is ReadKind.LOOK:
            self._looks -= 1
            if path in self._copy.nodes:  # reads find out what is refused
                self._nodes.need(path)
                self._need_list(path)
            self._look_is_over()
        elif self._lists.answered(path) and path in self._copy.nodes:
            if isinstance(error, NoAuthError):  # then the node can't be read either, which is found out by reading it
                self._listed_anew.add(path)
                self._nodes.need(path)
            elif self.has_children(path):
                self._leave_children_out(path, error)

    def _leave_out(self, path: str, error: BaseException) -> None:
        is_news = type(self.refused.get(path, _NO_REFUSAL)[1]) is not type(error)
        is_told = path in self._copy.nodes
        self._take_out(path, error)
        self.refused[path] = (ReadKind.NODE, error)
        if is_news and not is_told and self._copy.tell is not None:
            self._copy.tell(TreeChange(TreeChangeKind.UNREADABLE, path, None, None, error))

    def _leave_children_out(self, path: str, error: BaseException) -> None:
        """The list of its children is refused, and not the node."""
        is_news = type(self.refused.get(path, _NO_REFUSAL)[1]) is not type(error)
        for child in list(self._copy.children(path)):
            self._take_out(child, error)
        self.refused[path] = (ReadKind.CHILDREN, error)
        if is_news and self._copy.tell is not None:
            node = self._copy.nodes[path]
            self._copy.tell(TreeChange(TreeChangeKind.UNREADABLE, path, node, node, error))

    # -- what is gone

    def _take_out(self, path: str, error: BaseException | None = None) -> None:
        gone = self._copy.take_out(path, error)
        self._has_taken_out = True
        for each in gone:
            self._listed_anew.discard(each)
            self._release(each)

    def _release(self, path: str) -> None:
        copy = self._copy
        if path not in copy.nodes and path not in self._nodes and path not in self._lists and path != copy.root:
            self._let_go(path)


def _are_one(former: Stat, stat: Stat) -> bool:
    """Whether this is one node, or another one that was made in its place."""
    return former.czxid == stat.czxid and former.ctime == stat.ctime


_NO_REFUSAL: Final[tuple[ReadKind | None, BaseException | None]] = (None, None)
