"""What an ensemble knows, as far as tests need it: a tree of nodes, sessions, the last zxid, who is to be told.

Rules of this module: no bytes and no sockets; what a server would refuse raises `RefusedError` with ZooKeeper's code.
There are no ACL checks, no quotas, no times: what needs them is tested on a real server.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple, Protocol

from everlatch.paths import parent
from everlatch.testing.watch_tables import Table
from everlatch.types import OPEN_ACL_UNSAFE, EventType, Node, Stat
from everlatch.wire.codes import CreateMode
from everlatch.wire.multi import (
    CheckPart,
    CheckResult,
    CreatePart,
    CreateResult,
    DeletePart,
    DeleteResult,
    ErrorResult,
    GetChildrenPart,
    GetChildrenResult,
    GetDataPart,
    GetDataResult,
    SetDataPart,
    SetDataResult,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.testing.watch_tables import WatchTables
    from everlatch.types import ACL
    from everlatch.wire.multi import Part, Result

__all__ = ["RefusedError", "Watcher", "Znode", "Znodes"]

_READS = (GetDataPart, GetChildrenPart)
_SEQUENTIAL = frozenset(
    {CreateMode.PERSISTENT_SEQUENTIAL, CreateMode.EPHEMERAL_SEQUENTIAL, CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL}
)
_EPHEMERAL = frozenset({CreateMode.EPHEMERAL, CreateMode.EPHEMERAL_SEQUENTIAL})


class RefusedError(Exception):
    """An error code, by ZooKeeper's number, that a client is to get."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"refused with error {code}")


class Watcher(Protocol):
    """Who has watches: a connection."""

    @property
    def watches(self) -> WatchTables:
        """What it watches."""
        ...

    def fired(self, event: int, path: str, zxid: int) -> None:
        """It is told what happened, and in which transaction."""
        ...


class Znode:
    """One node."""

    def __init__(self, data: bytes, acl: Sequence[ACL], owner: int, zxid: int) -> None:
        self.data, self.acl, self.owner = data, acl, owner
        self.czxid = self.mzxid = self.pzxid = zxid
        self.version = self.cversion = self.aversion = self.creations = 0
        self.children: dict[str, None] = {}
        """Names, in the order of their creation."""

    @property
    def stat(self) -> Stat:
        """As a client gets it; the times are 0."""
        sizes = (len(self.data), len(self.children))
        versions = (self.version, self.cversion, self.aversion)
        return Stat(self.czxid, self.mzxid, 0, 0, *versions, self.owner, *sizes, self.pzxid)


class _Event(NamedTuple):
    type: EventType
    path: str
    tables: tuple[Table, ...]


class Znodes:
    """Nodes and sessions. Servers that share one are an ensemble; tests may read and change it directly."""

    def __init__(self) -> None:
        self.zxid = 1
        """Of the last transaction."""
        self.nodes: dict[str, Znode] = {"/": Znode(b"", OPEN_ACL_UNSAFE, 0, 0)}
        self.sessions: dict[int, bytes] = {}
        """Passwords by id."""
        self.connections: list[Watcher] = []
        self.applied: list[tuple[str, str]] = []
        """Operation and path of every write, in the order in which they took effect."""
        self._next_session = 0x1_0000_0001
        self._unfired: list[_Event] | None = None
        """The events of a transaction that may yet be refused."""

    # -- sessions

    def new_session(self) -> tuple[int, bytes]:
        """Id and password."""
        self.zxid += 1
        session_id = self._next_session
        self._next_session += 1
        password = b"secret-%09d" % (session_id & 0xFFFF)
        self.sessions[session_id] = password
        return session_id, password

    def end_session(self, session_id: int) -> None:
        """It is over, and its ephemeral nodes with it. Nothing happens if there is no such session."""
        if self.sessions.pop(session_id, None) is None:
            return
        self.zxid += 1
        for path in self.ephemerals(session_id):
            self._remove(path)

    # -- reads

    def node(self, path: str) -> Znode:
        """The node, or −101."""
        if path not in self.nodes:
            raise RefusedError(-101)
        return self.nodes[path]

    def checked(self, path: str, version: int) -> Znode:
        """The node if it has this version (−1: any), or −103, −101."""
        node = self.node(path)
        if version not in (-1, node.version):
            raise RefusedError(-103)
        return node

    def ephemerals(self, session_id: int, prefix: str = "") -> list[str]:
        """The paths of a session's ephemeral nodes; the prefix is one of text."""
        return [path for path, node in self.nodes.items() if node.owner == session_id and path.startswith(prefix)]

    def descendants(self, path: str) -> list[str]:
        """The paths of all nodes below one, or −101."""
        self.node(path)
        below = path.rstrip("/") + "/"
        return [other for other in self.nodes if other.startswith(below) and other != path]

    def multi_read(self, parts: list[Part]) -> list[Result]:
        """Each part has its own result; −5 for anything that is no read."""
        if not all(isinstance(part, _READS) for part in parts):
            raise RefusedError(-5)
        return [self._read(part) for part in parts]

    # -- writes

    def create(self, session_id: int, path: str, data: bytes | None, acl: Sequence[ACL], flags: int) -> str:
        """The new node's path, with its number if the flags (`CreateMode`) say so."""
        if path == "/":
            raise RefusedError(-110)
        above = self.node(parent(path))
        if above.owner:
            raise RefusedError(-108)
        if flags in _SEQUENTIAL:
            path += f"{above.creations:010d}"
        if path in self.nodes:
            raise RefusedError(-110)
        self.zxid += 1
        self.nodes[path] = Znode(data or b"", acl, session_id if flags in _EPHEMERAL else 0, self.zxid)
        above.children[path.rpartition("/")[2]] = None
        above.creations += 1
        above.cversion += 1
        above.pzxid = self.zxid
        self.applied.append(("create", path))
        self._fire(EventType.CREATED, path, Table.DATA)
        self._fire(EventType.CHILDREN_CHANGED, parent(path), Table.CHILDREN)
        return path

    def set(self, path: str, data: bytes | None, version: int) -> Stat:
        """New data."""
        node = self.checked(path, version)
        self.zxid += 1
        node.data = data or b""
        node.version += 1
        node.mzxid = self.zxid
        self.applied.append(("set", path))
        self._fire(EventType.DATA_CHANGED, path, Table.DATA)
        return node.stat

    def delete(self, path: str, version: int) -> None:
        """A node without children."""
        if path == "/":
            raise RefusedError(-8)
        if self.checked(path, version).children:
            raise RefusedError(-111)
        self.zxid += 1
        self._remove(path)

    def set_acl(self, path: str, acl: Sequence[ACL], version: int) -> Stat:
        """A new ACL, which is remembered and never asked."""
        node = self.node(path)
        if version not in (-1, node.aversion):
            raise RefusedError(-103)
        self.zxid += 1
        node.acl = acl
        node.aversion += 1
        return node.stat

    def multi(self, session_id: int, parts: list[Part]) -> list[Result]:
        """All parts or none. Watches fire when all are done. Creates have no Stat, as before 3.8.2."""
        if any(isinstance(part, _READS) for part in parts):
            raise RefusedError(-5)
        before = copy.deepcopy(self.nodes), self.zxid, len(self.applied)
        self._unfired = []
        results: list[Result] = []
        for index, part in enumerate(parts):
            try:
                results.append(self._write(session_id, part))
            except RefusedError as refused:
                self.nodes, self.zxid = before[:2]
                del self.applied[before[2] :]
                self._unfired = None
                behind = len(parts) - index - 1
                return [*[ErrorResult(0)] * index, ErrorResult(refused.code), *[ErrorResult(-2)] * behind]
        unfired, self._unfired = self._unfired, None
        for event, path, tables in unfired:
            self._fire(event, path, *tables)
        return results

    def _write(self, session_id: int, part: Part) -> Result:
        match part:
            case CheckPart(path, version):
                self.checked(path, version)
                return CheckResult()
            case CreatePart(_, path, data, acls, flags):
                return CreateResult(self.create(session_id, path, data, acls, flags), None)
            case SetDataPart(path, data, version):
                return SetDataResult(self.set(path, data, version))
            case DeletePart(path, version):
                self.delete(path, version)
                return DeleteResult()
        raise AssertionError(part)

    def _read(self, part: Part) -> Result:
        try:
            node = self.node(part.path)
        except RefusedError as refused:
            return ErrorResult(refused.code)
        if isinstance(part, GetDataPart):
            return GetDataResult(Node(node.data, node.stat))
        return GetChildrenResult(list(node.children))

    def _remove(self, path: str) -> None:
        del self.nodes[path]
        above = self.nodes[parent(path)]
        del above.children[path.rpartition("/")[2]]
        above.cversion += 1
        above.pzxid = self.zxid
        self.applied.append(("delete", path))
        self._fire(EventType.DELETED, path, Table.DATA, Table.CHILDREN)
        self._fire(EventType.CHILDREN_CHANGED, parent(path), Table.CHILDREN)

    def _fire(self, event: EventType, path: str, *tables: Table) -> None:
        if self._unfired is not None:
            self._unfired.append(_Event(event, path, tables))
            return
        for connection in self.connections:
            fired = [connection.watches.fire(table, path) for table in tables]
            if any(fired):  # one event, whatever the number of tables
                connection.fired(event.value, path, self.zxid)
