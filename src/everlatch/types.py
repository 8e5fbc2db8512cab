"""The public values: what calls take and return.

Rules of this file: immutable values only, no behaviour beyond reading them, nothing that knows the wire or a session.
They are NamedTuples, not dataclasses: a `Stat` is made for nearly every reply, and a tuple costs a quarter of a
frozen dataclass there.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

__all__ = [
    "ACL",
    "CREATOR_ALL_ACL",
    "OPEN_ACL_UNSAFE",
    "READ_ACL_UNSAFE",
    "UNSET",
    "Children",
    "ClientInfo",
    "Created",
    "EventType",
    "Node",
    "Outcome",
    "Permission",
    "Remove",
    "ServerFinding",
    "ServerKind",
    "Sighting",
    "Stat",
    "State",
    "StateChange",
    "Statistics",
    "Timeout",
    "Unset",
    "Watch",
    "WatchEvent",
    "WatchKind",
]


class State(enum.Enum):
    """What a client is doing; `everlatch.session.states` has the table of what may follow what."""

    CONNECTING = 1
    """Before the first connection, and only then."""
    CONNECTED = 2
    CONNECTED_READ_ONLY = 3
    SUSPENDED = 4
    """The link is gone; the session may live. Calls wait."""
    LOST = 5
    """T has passed since the last answered request was sent: the session must be assumed gone."""
    RENEWED = 6
    """A new session has replaced the lost one. `CONNECTED` follows at once."""
    AUTH_FAILED = 7
    """The servers refused the credentials. Final: close the client."""
    GAVE_UP = 8
    """The client was told to stop trying, and did. Final: close the client."""
    CLOSED = 9


class EventType(enum.Enum):
    """What a watch saw. The first four are ZooKeeper's own event types, with its numbers."""

    CREATED = 1
    DELETED = 2
    DATA_CHANGED = 3
    CHILDREN_CHANGED = 4
    MISSED = 5
    """Changes may have gone unseen: read again."""
    REMOVED = 6
    """The watch is gone and will not fire again."""


class WatchKind(enum.Enum):
    """One-shot watches to remove or to check: those of `children`, those of `get` and `exists`, or both."""

    CHILDREN = 1
    DATA = 2
    ANY = 3


class Outcome(enum.Enum):
    """Whether a call that ended with an error took effect: `.outcome` of every error of this library."""

    HAPPENED = 0
    NOT_APPLIED = 1
    UNKNOWN = 2


class Permission(enum.IntFlag):
    """ACL permission bits (`ZooDefs.Perms`)."""

    READ = 1
    WRITE = 2
    CREATE = 4
    DELETE = 8
    ADMIN = 16
    ALL = 31


class Stat(NamedTuple):
    """A znode's metadata, as the server keeps it. Times are milliseconds since the epoch, by the leader's clock."""

    czxid: int
    mzxid: int
    ctime: int
    mtime: int
    version: int
    cversion: int
    aversion: int
    ephemeral_owner: int
    """The id of the session that owns an ephemeral node; 0 for all others, container and TTL nodes included."""
    data_length: int
    num_children: int
    pzxid: int
    """The zxid of the last creation or deletion of a child."""


class ACL(NamedTuple):
    """Who (`scheme`, `id`) may do what (`permissions`, bits of `Permission`) with one node."""

    permissions: int
    scheme: str
    id: str

    def __repr__(self) -> str:
        """Without the hash of a password, which servers don't show to everybody either (CVE-2019-0201)."""
        shown = repr(self.id)
        if self.scheme == "digest" and isinstance(self.id, str) and ":" in self.id:
            shown = repr(f"{self.id.partition(':')[0]}:…")
        return f"ACL(permissions={self.permissions!r}, scheme={self.scheme!r}, id={shown})"


OPEN_ACL_UNSAFE: Final = (ACL(Permission.ALL.value, "world", "anyone"),)
"""Everybody may do everything: the default, and unsafe, as its name in ZooKeeper says."""
CREATOR_ALL_ACL: Final = (ACL(Permission.ALL.value, "auth", ""),)
"""All that the connection has authenticated as may do everything. Needs `add_auth` first."""
READ_ACL_UNSAFE: Final = (ACL(Permission.READ.value, "world", "anyone"),)
"""Everybody may read, nobody may write."""


class Node(NamedTuple):
    """What `get` returns: `data, stat = await client.get(path)`. Null data reads as `b""`."""

    data: bytes
    stat: Stat


class Children(NamedTuple):
    """The names of a node's children, in no order, and the node's own `stat`."""

    names: list[str]
    stat: Stat


class Created(NamedTuple):
    """What `create` returns: the path, with its number if sequential, and the new node's `stat`."""

    path: str
    stat: Stat


class ClientInfo(NamedTuple):
    """One identity of a connection: whoAmI."""

    scheme: str
    user: str


class WatchEvent(NamedTuple):
    """One change that a watch saw. `zxid` is −1 when the server doesn't tell (before 3.9, and after a reconnect)."""

    type: EventType
    path: str
    zxid: int


class StateChange(NamedTuple):
    """One change of state; listeners get every one, in order."""

    state: State
    previous: State
    session_id: int
    """0 while there is none."""
    previous_session_id: int
    """The id before this change; differs from `session_id` only in `RENEWED` and at the first connection."""
    generation: int
    """How many sessions this client has had, the present one included."""
    server: str | None
    """`host:port` in use or being tried, or the one just lost."""
    reason: BaseException | None


class ServerKind(enum.Enum):
    """What a server was found to be when it was asked."""

    READ_WRITE = 1
    READ_ONLY = 2
    """Cut off from its quorum, and serving reads."""
    NOT_SERVING = 3
    """Up, but starting or without a quorum."""
    REACHABLE = 4
    """Up; it tells no more, because its four-letter words are off."""
    UNREACHABLE = 5


class ServerFinding(NamedTuple):
    """What one server told, asked over a connection of its own."""

    server: str
    kind: ServerKind
    round_trip: float | None
    """Seconds for connection, question and answer; `None`: there was no answer."""
    mode: str | None
    """`leader`, `follower`, `observer`, `standalone` or `read-only`, if it told."""
    zxid: int | None
    reason: BaseException | None
    """Why it is not known to serve."""


class Sighting(NamedTuple):
    """What a node was found to be when the fate of a write was looked for."""

    path: str
    stat: Stat | None
    """`None`: there was no such node."""
    error: Exception | None = None
    """The server's error, if it could not be looked at."""


class Statistics(NamedTuple):
    """A snapshot of what a client has done and has to do; counts are since `start()`."""

    state: State
    session_id: int
    generation: int
    server: str | None
    queued_calls: int
    queued_bytes: int
    in_flight: int
    unsettled: int
    """Writes of a lost connection whose fate is being found out, and the reads between them."""
    watches: int
    requests_sent: int
    replies_received: int
    requests_repeated: int
    """Reads that were sent again because a connection broke before the answer."""
    outcomes_settled: int
    """Writes whose reply was lost, and whose fate was found out: they happened, or were not applied."""
    writes_resent: int
    """Writes that were sent again, because they had not been applied."""
    outcomes_unknown: int
    """Writes that ended as `OutcomeUnknownError`."""
    events_received: int
    connections: int
    """Completed handshakes."""
    connection_attempts: int
    bytes_sent: int
    bytes_received: int
    last_zxid: int


class Unset(enum.Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return self.value


UNSET: Final = Unset.UNSET
"""As a timeout: use the client's `default_timeout` (`close`: its `close_timeout`)."""

Timeout: TypeAlias = float | Unset | None
"""Seconds; `None` waits for ever."""
Watch: TypeAlias = Callable[[WatchEvent], object]
"""Called once with the event, on the client's event loop; may be a coroutine function."""
Remove: TypeAlias = Callable[[], None]
"""Takes back what returned it; calling it again does nothing."""
