"""What is asked of the tree becomes a transaction, or is refused, as the server that leads does it.

    with Draft(tree, author, time_ms) as draft:
        path, stat = draft.create(Op.CREATE2, "/a", b"", acls, flags)
    draft.transaction, draft.events

Every write request makes exactly one transaction, refused ones an empty one: servers count those, too. A refusal is the
`ServerError` with the code that the client gets.

Rule of this module: checks are made in ZooKeeper's order, so that of several reasons a client is told the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from everlatch.devserver.identities import Identity, demand, settled_acl
from everlatch.devserver.tree import SPECIAL_PATHS, Create, Delete, Event, Kind, SetACL, SetData, Transaction
from everlatch.devserver.versions import FEATURES, Features
from everlatch.errors import (
    BadArgumentsError,
    BadVersionError,
    InvalidPathError,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NotEmptyError,
)
from everlatch.paths import validate_path
from everlatch.types import Created, Permission
from everlatch.wire.codes import CreateMode, Op

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType

    from everlatch.devserver.tree import Change, Tree, Znode
    from everlatch.types import ACL, Stat

__all__ = ["Author", "Draft", "end_of_session", "reaping"]

_LONGEST_TTL_MS: Final = (1 << 40) - 1
_SEQUENTIAL: Final = frozenset(
    {CreateMode.PERSISTENT_SEQUENTIAL, CreateMode.EPHEMERAL_SEQUENTIAL, CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL}
)
_EPHEMERAL: Final = frozenset({CreateMode.EPHEMERAL, CreateMode.EPHEMERAL_SEQUENTIAL})
_TTL: Final = frozenset({CreateMode.PERSISTENT_WITH_TTL, CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL})


class Author(NamedTuple):
    """Who writes."""

    session_id: int
    identities: Collection[Identity]
    features: Features = FEATURES["3.9"]
    """Of the server that leads, like `schemes`."""
    schemes: frozenset[str] = frozenset()
    """Of identities, which ACLs may name besides those that every server knows."""

    def settled(self, acls: Collection[ACL]) -> tuple[ACL, ...]:
        """An ACL as it is kept. Raises `InvalidACLError`."""
        return settled_acl(acls, self.identities, ipv6=self.features.ipv6_acls, schemes=self.schemes)


class Draft:
    """A transaction in the making. Its changes are in the tree at once, so that its later parts see them; an error on
    the way out takes all of them back."""

    def __init__(self, tree: Tree, author: Author, time_ms: int) -> None:
        self.tree, self.author = tree, author
        self.zxid, self.time_ms = tree.zxid + 1, time_ms
        self.events: list[Event] = []
        """What the changes so far tell, in order."""
        self._changes: list[Change] = []
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.roll_back()
        self.tree.zxid = self.zxid

    @property
    def transaction(self) -> Transaction:
        """For servers that follow."""
        return Transaction(self.zxid, self.time_ms, tuple(self._changes))

    def roll_back(self) -> None:
        """The tree is as it was, and the transaction empty."""
        for undo in reversed(self._undo):
            undo()
        self._changes, self._undo, self.events = [], [], []

    # -- operations

    def create(
        self, op: int, path: str, data: bytes | None, acls: Collection[ACL], flags: int, ttl_ms: int | None = None
    ) -> Created:
        """`op` says what is made, `flags` (`CreateMode`) whether it is numbered; `ttl_ms` comes with `CREATE_TTL`."""
        mode = _mode(flags)
        _check_ttl(mode, ttl_ms)
        above_path = _parent_of_new(path)
        acl = self.author.settled(acls)
        above = self.tree.node(above_path)
        self._demand(above, Permission.CREATE)
        if mode in _SEQUENTIAL:
            path += f"{above.creates:010d}"
        _validate(path)
        if path in self.tree.nodes:
            raise NodeExistsError
        if above.kind is Kind.EPHEMERAL:
            raise NoChildrenForEphemeralsError
        kind = _kind(op, mode)
        owner = self.author.session_id if kind is Kind.EPHEMERAL else 0
        self._change(Create(path, data, acl, kind, owner, ttl_ms or 0))
        return Created(path, self.tree.nodes[path].stat)

    def delete(self, path: str, version: int) -> None:
        """A node without children."""
        if "/" not in path or "\0" in path or path in SPECIAL_PATHS:
            raise BadArgumentsError
        self._demand(self.tree.node(path[: path.rindex("/")] or "/"), Permission.DELETE)
        node = self.tree.node(path)
        _compare(node.version, version)
        if node.children:
            raise NotEmptyError
        self._change(Delete(path))

    def set_data(self, path: str, data: bytes | None, version: int) -> Stat:
        """New data, be it the same."""
        node = self._existing(path, Permission.WRITE)
        _compare(node.version, version)
        self._change(SetData(path, data))
        return node.stat

    def set_acl(self, path: str, acls: Collection[ACL], version: int) -> Stat:
        """A new ACL; `version` is that of the present one."""
        _validate(path)
        acl = self.author.settled(acls)
        node = self._existing(path, Permission.ADMIN)
        _compare(node.aversion, version)
        self._change(SetACL(path, acl))
        return node.stat

    def check(self, path: str, version: int) -> None:
        """The node is there and has this version."""
        _compare(self._existing(path, Permission.READ).version, version)

    def _existing(self, path: str, permission: Permission) -> Znode:
        _validate(path)
        node = self.tree.node(path)
        self._demand(node, permission)
        return node

    def _demand(self, node: Znode, permission: Permission) -> None:
        demand(node.acl, self.author.identities, permission)

    def _change(self, change: Change) -> None:
        self.events += self.tree.change(change, self.zxid, self.time_ms, self._undo)
        self._changes.append(change)


def _mode(flags: int) -> CreateMode:
    try:
        return CreateMode(flags)
    except ValueError:
        raise BadArgumentsError from None


def _check_ttl(mode: CreateMode, ttl_ms: int | None) -> None:
    # A TTL create without a TTL's flags ends some real servers; here it is refused.
    if (mode in _TTL) != (ttl_ms is not None):
        raise BadArgumentsError
    if ttl_ms is not None and not 0 < ttl_ms <= _LONGEST_TTL_MS:
        raise BadArgumentsError


def _parent_of_new(path: str) -> str:
    if "/" not in path or "\0" in path:
        raise BadArgumentsError
    return path[: path.rindex("/")] or "/"


def _validate(path: str) -> None:
    try:
        validate_path(path)
    except InvalidPathError:
        raise BadArgumentsError from None


def _compare(version: int, expected: int) -> None:
    if expected not in (-1, version):
        raise BadVersionError


def _kind(op: int, mode: CreateMode) -> Kind:
    if op == Op.CREATE_CONTAINER:
        return Kind.CONTAINER
    if op == Op.CREATE_TTL:
        return Kind.TTL
    return Kind.EPHEMERAL if mode in _EPHEMERAL else Kind.PERSISTENT


# --- what nobody asks for -----------------------------------------------------------------------------------------


def end_of_session(tree: Tree, session_id: int, time_ms: int) -> Transaction:
    """Its ephemeral nodes go, all at once."""
    return Transaction(tree.zxid + 1, time_ms, tuple(map(Delete, tree.ephemerals(session_id))))


def reaping(tree: Tree, time_ms: int) -> list[Transaction]:
    """Containers that have become empty, and TTL nodes whose time is over, go: a transaction each."""
    due = [path for path in tree.reapable if _is_due(tree.nodes[path], time_ms)]
    return [Transaction(zxid, time_ms, (Delete(path),)) for zxid, path in enumerate(due, tree.zxid + 1)]


def _is_due(node: Znode, time_ms: int) -> bool:
    if node.children:
        return False
    # A container that has never had a child is kept: somebody is about to make its first.
    return node.creates > 0 if node.kind is Kind.CONTAINER else time_ms - node.mtime > node.ttl_ms
