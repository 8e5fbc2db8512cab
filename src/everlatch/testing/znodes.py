"""What bad servers know: nodes and sessions, as a dev server keeps them.

Rules of this module: nothing happens by itself. There is no timer, so that no session ends, however long nothing is
heard of it, and no container or TTL node goes, until somebody says so.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from everlatch.devserver.core import Core
from everlatch.devserver.entries import CREATE_SESSION, Ask, Entry, Origin
from everlatch.devserver.identities import Identity
from everlatch.devserver.options import Options
from everlatch.devserver.sessions import password_of
from everlatch.devserver.tree import Create, Delete, SetACL, SetData
from everlatch.devserver.writes import Author, Draft
from everlatch.types import OPEN_ACL_UNSAFE
from everlatch.wire.codes import CreateMode, Op

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everlatch.devserver.connection import Connection
    from everlatch.devserver.tree import Znode

__all__ = ["Link", "Znodes"]

_ANY_TIMEOUT: Final = {"min_session_timeout": 0.0, "max_session_timeout": (2**31 - 1) / 1000}
_SOMEBODY: Final = Author(0, (Identity("super", ""),))
_NAMES: Final = {Create: "create", Delete: "delete", SetData: "set", SetACL: "set_acl"}
_NEW_SESSION_MS: Final = 10_000
_NOBODY: Final = 0
"""No question has this number."""


class Link(Protocol):
    """What brings a connection's bytes to a client."""

    def flush(self) -> None:
        """There is something to send, or the connection is to be closed."""
        ...


class Znodes(Core):
    """Nodes and sessions. Bad servers that share one are an ensemble in which everybody knows everything at once.

    `options` are those of the dev server (`everlatch.devserver.Options`): `version`, limits for session timeouts.
    Unless they say otherwise, every session timeout is granted as it is asked for. Tests may look at everything, and
    change it with `create`, `set`, `delete` and `end_session`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(Options(**(_ANY_TIMEOUT | options)), epoch=0.0, now=time.time())
        self.tree.zxid = 1  # a past, for servers that go back in time
        self.applied: list[tuple[str, str]] = []
        """`create`, `set`, `set_acl` or `delete`, and the path, of every change in the order in which they took effect;
        also of those that nobody asked for, such as at the end of a session."""
        self._links: dict[Connection, Link] = {}

    @property
    def nodes(self) -> dict[str, Znode]:
        """By path, ZooKeeper's own among them."""
        return self.tree.nodes

    @property
    def zxid(self) -> int:
        """Of the last transaction."""
        return self.tree.zxid

    @property
    def session_ids(self) -> list[int]:
        """Of all that are alive, oldest first."""
        return [session.id for session in self.sessions]

    # -- what tests may do

    def create(self, path: str, data: bytes = b"") -> None:
        """Somebody creates a node that is open to all. Raises `NodeExistsError`, `NoNodeError`, and so on."""
        with self._transaction() as draft:
            draft.create(Op.CREATE2, path, data, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT)

    def set(self, path: str, data: bytes) -> None:
        """Somebody writes new data. Raises `NoNodeError`."""
        with self._transaction() as draft:
            draft.set_data(path, data, -1)

    def delete(self, path: str) -> None:
        """Somebody deletes a node. Raises `NoNodeError`, `NotEmptyError`."""
        with self._transaction() as draft:
            draft.delete(path, -1)

    def new_session(self) -> tuple[int, bytes]:
        """Id and password of a session that has no connection."""
        now = time.time()
        session_id = self._ids.next(self.time_ms(now))
        origin = Origin(self.number, _NOBODY)
        self._put(Ask(origin, CREATE_SESSION, session_id, timeout_ms=_NEW_SESSION_MS), now)
        return session_id, password_of(session_id)

    def end_session(self, session_id: int) -> None:
        """It is over, and its ephemeral nodes with it; its connection is closed. Nothing happens if there is none."""
        if self.decider.sessions.get(session_id) is not None:
            self.expire(session_id, time.time())
            self.flush()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Draft]:
        now = time.time()
        with Draft(self.tree, _SOMEBODY, self.time_ms(now)) as draft:
            yield draft
        self._apply(Entry(draft.transaction, tuple(draft.events)), now)
        self.flush()

    # -- for bad servers

    def join(self, link: Link, host: str, port: int) -> Connection:
        """A client has come, from there."""
        connection = self.connect(host, port, time.time())
        self._links[connection] = link
        return connection

    def leave(self, connection: Connection) -> None:
        """It has gone."""
        self.disconnect(connection)
        del self._links[connection]

    def flush(self, but: Connection | None = None) -> None:
        """Whoever has something to hear hears it, but one."""
        for connection in self.take_changed():
            if connection is not but:
                self._links[connection].flush()

    def _apply(self, entry: Entry, now: float) -> None:
        self.applied += [(_NAMES[type(change)], change.path) for change in entry.transaction.changes]
        super()._apply(entry, now)
