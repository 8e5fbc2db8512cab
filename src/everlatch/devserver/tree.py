"""The znodes: what changes them, what a change tells, and what is read. Pure, and the same everywhere.

A `Transaction` is all that a server needs to be where the one that made it is: it has passed every check, its numbers
and names are settled, and applying it never fails. So one tree can be written to and others can follow, later.

Rules of this module: no permissions, no versions to compare, no sessions beyond an owner's number: `writes` checks, and
here it is done. What comes from the clock comes with the transaction.
"""

from __future__ import annotations

import copy
import enum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, assert_never

from everlatch.errors import NoNodeError
from everlatch.paths import parent
from everlatch.types import ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE, EventType, Stat

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "SPECIAL_PATHS",
    "Change",
    "Create",
    "Delete",
    "Event",
    "Kind",
    "SetACL",
    "SetData",
    "Transaction",
    "Tree",
    "Znode",
]

SPECIAL_PATHS: Final = frozenset({"/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"})
"""There from the beginning, and never deleted."""

_ACLs: TypeAlias = tuple[ACL, ...]


class Kind(enum.Enum):
    """What becomes of a node by itself."""

    PERSISTENT = enum.auto()
    EPHEMERAL = enum.auto()
    """It goes with its session."""
    CONTAINER = enum.auto()
    """It goes when its last child has gone."""
    TTL = enum.auto()
    """It goes when it has no child and was not written to for so long."""


class Create(NamedTuple):
    """A new node, its number already in its path. `owner` is a session, `ttl_ms` belongs to `Kind.TTL`."""

    path: str
    data: bytes | None
    acl: _ACLs
    kind: Kind = Kind.PERSISTENT
    owner: int = 0
    ttl_ms: int = 0


class Delete(NamedTuple):
    """A node without children goes."""

    path: str


class SetData(NamedTuple):
    """New data, and the next version."""

    path: str
    data: bytes | None


class SetACL(NamedTuple):
    """A new ACL, and its next version."""

    path: str
    acl: _ACLs


Change: TypeAlias = Create | Delete | SetData | SetACL


class Transaction(NamedTuple):
    """Changes with one zxid. Without any it only moves the zxid: a refused write, or a new session."""

    zxid: int
    time_ms: int
    """Since the epoch."""
    changes: tuple[Change, ...] = ()


class Event(NamedTuple):
    """What whoever watches `path` may hear of a transaction, if `acl` lets him read."""

    type: EventType
    path: str
    zxid: int
    acl: _ACLs


class Znode:
    """One node. Null data stays null."""

    __slots__ = (
        *("acl", "aversion", "children", "creates", "ctime", "czxid", "data", "kind", "mtime", "mzxid", "owner"),
        *("pzxid", "ttl_ms", "version"),
    )

    def __init__(self, made: Create, zxid: int, time_ms: int) -> None:
        self.data, self.acl, self.kind, self.owner, self.ttl_ms = (
            made.data,
            made.acl,
            made.kind,
            made.owner,
            made.ttl_ms,
        )
        self.czxid = self.mzxid = self.pzxid = zxid
        self.ctime = self.mtime = time_ms
        self.version = self.aversion = 0
        self.creates = 0
        """How many children were ever made: the next sequential one's number."""
        self.children: dict[str, None] = {}
        """Names, oldest first."""

    def copy(self) -> Znode:
        """Another one that is the same, for now."""
        other = copy.copy(self)
        other.children = dict(self.children)
        return other

    @property
    def stat(self) -> Stat:
        """As a client gets it: `cversion` counts creations and deletions, and only ephemeral nodes have an owner."""
        children = len(self.children)
        return Stat(
            *(self.czxid, self.mzxid, self.ctime, self.mtime),
            *(self.version, _int32(2 * self.creates - children), self.aversion),
            *(self.owner, len(self.data or b""), children, self.pzxid),
        )


class Tree:
    """All nodes of a server, and the zxid of what it applied last. Starts with ZooKeeper's own nodes."""

    def __init__(self) -> None:
        self.zxid = 0
        self.nodes: dict[str, Znode] = {}
        self.owned: dict[int, dict[str, None]] = {}
        """The paths of the ephemeral nodes of each session that has any, oldest first."""
        self.reapable: dict[str, None] = {}
        """The paths of container and TTL nodes."""
        for path in sorted(SPECIAL_PATHS):
            self.nodes[path] = Znode(Create(path, b"", OPEN_ACL_UNSAFE), 0, 0)
        # They are nobody's creations, and so uncounted: the root of a fresh server has cversion −1.
        self.nodes["/"].children["zookeeper"] = None
        self.nodes["/zookeeper"].children.update({"config": None, "quota": None})
        self.nodes["/zookeeper/config"].acl = READ_ACL_UNSAFE
        self.nodes["/zookeeper/config"].aversion = -1

    def copy(self) -> Tree:
        """Another one that is the same, for now."""
        other = Tree()
        other.zxid = self.zxid
        other.nodes = {path: node.copy() for path, node in self.nodes.items()}
        other.owned = {owner: dict(paths) for owner, paths in self.owned.items()}
        other.reapable = dict(self.reapable)
        return other

    # -- reads

    def find(self, path: str) -> Znode | None:
        """The node, if there is one. Servers know the root by the empty path, too."""
        return self.nodes.get(path or "/")

    def node(self, path: str) -> Znode:
        """The node, or `NoNodeError`."""
        node = self.find(path)
        if node is None:
            raise NoNodeError
        return node

    def count_below(self, path: str) -> int:
        """How many nodes are below this one, at any depth."""
        self.node(path)
        below = path.rstrip("/") + "/"
        return sum(1 for other in self.nodes if other.startswith(below) and other != path)

    def ephemerals(self, session_id: int, prefix: str = "") -> list[str]:
        """The paths of a session's ephemeral nodes that begin with this text."""
        return [path for path in self.owned.get(session_id, ()) if path.startswith(prefix)]

    # -- changes

    def apply(self, transaction: Transaction) -> list[Event]:
        """All changes; returns who is to hear what, in order."""
        zxid, time_ms, changes = transaction
        events = [event for change in changes for event in self.change(change, zxid, time_ms)]
        self.zxid = zxid
        return events

    def change(
        self, change: Change, zxid: int, time_ms: int, undo: list[Callable[[], None]] | None = None
    ) -> list[Event]:
        """One change of a transaction that may yet be refused: what takes it back is appended to `undo`, and has to be
        called in reverse order. The tree's own zxid stays."""
        match change:
            case Create():
                events, back = self._create(change, zxid, time_ms)
            case Delete():
                events, back = self._delete(change, zxid)
            case SetData():
                events, back = self._set_data(change, zxid, time_ms)
            case SetACL():
                events, back = self._set_acl(change)
            case _:
                assert_never(change)
        if undo is not None:
            undo.append(back)
        return events

    def _create(self, change: Create, zxid: int, time_ms: int) -> tuple[list[Event], Callable[[], None]]:
        path = change.path
        above = self.nodes[parent(path)]
        creates, pzxid = above.creates, above.pzxid
        node = self._put(path, Znode(change, zxid, time_ms))
        above.creates, above.pzxid = _int32(creates + 1), zxid

        def undo() -> None:
            self._take(path)
            above.creates, above.pzxid = creates, pzxid

        created = Event(EventType.CREATED, path, zxid, node.acl)
        return [created, Event(EventType.CHILDREN_CHANGED, parent(path), zxid, above.acl)], undo

    def _delete(self, change: Delete, zxid: int) -> tuple[list[Event], Callable[[], None]]:
        path = change.path
        above = self.nodes[parent(path)]
        pzxid = above.pzxid
        node = self._take(path)
        above.pzxid = zxid

        def undo() -> None:
            self._put(path, node)
            above.pzxid = pzxid

        deleted = Event(EventType.DELETED, path, zxid, node.acl)
        return [deleted, Event(EventType.CHILDREN_CHANGED, parent(path), zxid, above.acl)], undo

    def _set_data(self, change: SetData, zxid: int, time_ms: int) -> tuple[list[Event], Callable[[], None]]:
        node = self.nodes[change.path]
        before = node.data, node.version, node.mzxid, node.mtime
        node.data, node.version, node.mzxid, node.mtime = change.data, _int32(node.version + 1), zxid, time_ms

        def undo() -> None:
            node.data, node.version, node.mzxid, node.mtime = before

        return [Event(EventType.DATA_CHANGED, change.path, zxid, node.acl)], undo

    def _set_acl(self, change: SetACL) -> tuple[list[Event], Callable[[], None]]:
        node = self.nodes[change.path]
        before = node.acl, node.aversion
        node.acl, node.aversion = change.acl, _int32(node.aversion + 1)

        def undo() -> None:
            node.acl, node.aversion = before

        return [], undo

    def _put(self, path: str, node: Znode) -> Znode:
        self.nodes[path] = node
        self.nodes[parent(path)].children[_name(path)] = None
        if node.kind is Kind.EPHEMERAL:
            self.owned.setdefault(node.owner, {})[path] = None
        elif node.kind is not Kind.PERSISTENT:
            self.reapable[path] = None
        return node

    def _take(self, path: str) -> Znode:
        node = self.nodes.pop(path)
        del self.nodes[parent(path)].children[_name(path)]
        self.reapable.pop(path, None)
        if node.kind is Kind.EPHEMERAL:
            del self.owned[node.owner][path]
            if not self.owned[node.owner]:
                del self.owned[node.owner]
        return node


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _int32(number: int) -> int:
    """As a counter of 32 bits with a sign has it, which wraps."""
    return (number + 0x8000_0000 & 0xFFFF_FFFF) - 0x8000_0000
