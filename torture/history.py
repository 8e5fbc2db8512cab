"""What the clients of one run did and saw, as plain records. Nothing is judged here.

Rules of this file: records hold what was seen, as it was seen, and no reference to a client, so that a history can be
pickled. Times are monotonic seconds of the run (virtual or real), the same clock for everybody; `step` orders what
happened at one moment, within a client. Every write carries a value that nobody else writes: `value(client, number)`,
or, where it has no data, works on a path that only this call creates or deletes. So whoever sees a value knows the
call that wrote it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.partial_stat import UNKNOWN as NOT_TOLD
from everlatch.types import Stat

if TYPE_CHECKING:
    from typing import Any

    from everlatch.types import Node

__all__ = [
    "CHECK",
    "CHILDREN",
    "CREATE",
    "DELETE",
    "EXISTS",
    "GET",
    "READS",
    "SET",
    "SYNC",
    "TRANSACTION",
    "WRITES",
    "Applied",
    "Belief",
    "Call",
    "Change",
    "Ending",
    "Fault",
    "Fired",
    "History",
    "Part",
    "StateSeen",
    "SubscriptionSeen",
    "WatchSeen",
    "author",
    "told",
    "value",
]

GET: Final = "get"
EXISTS: Final = "exists"
CHILDREN: Final = "children"
SYNC: Final = "sync"
SET: Final = "set"
CREATE: Final = "create"
DELETE: Final = "delete"
TRANSACTION: Final = "transaction"
CHECK: Final = "check"
"""Only as a part of a transaction."""

READS: Final = frozenset({GET, EXISTS, CHILDREN})
WRITES: Final = frozenset({SET, CREATE, DELETE, TRANSACTION})


def value(client: int, number: int) -> bytes:
    """The data that the call with this number of this client writes, and nobody else."""
    return b"%d.%d" % (client, number)


def author(data: bytes | None) -> tuple[int, int] | None:
    """Whose value it is: (client, number of the call); `None` for what no call of a history has written."""
    client, dot, number = (data or b"").partition(b".")
    if not (dot and client.isdigit() and number.isdigit()):
        return None
    return int(client), int(number)


def told(stat: Stat, field: str) -> int | None:
    """This field of a `Stat`; `None` if it is one of which only a part is known, and not this one."""
    known: int = stat[Stat._fields.index(field)]
    return None if known == NOT_TOLD else known


class Ending(enum.Enum):
    """How a call ended, as its caller was told."""

    OPEN = "not ended"
    OK = "acknowledged"
    REFUSED = "not applied"
    UNKNOWN = "outcome unknown"


class Part(NamedTuple):
    """One part of a transaction; `version` −1: any."""

    kind: str
    path: str
    version: int = -1


class Call:
    """One operation, from the call to its end."""

    __slots__ = (
        *("client", "number", "kind", "path", "version", "sequential", "ephemeral", "parts", "token", "behind"),
        *("watch", "began", "began_step", "ended", "ended_step", "ending", "error", "code", "index", "result"),
        *("zxid", "seen", "is_over"),
    )

    def __init__(
        self,
        client: int,
        number: int,
        kind: str,
        path: str,
        *,
        version: int = -1,
        sequential: bool = False,
        ephemeral: bool = False,
        parts: tuple[Part, ...] = (),
        token: int = 0,
        behind: int = 0,
        began: float = 0.0,
        began_step: int = 0,
    ) -> None:
        self.client = client
        self.number = number
        """Counts the calls of this client, in the order in which they were made."""
        self.kind = kind
        self.path = path
        self.version = version
        self.sequential = sequential
        self.ephemeral = ephemeral
        self.parts = parts
        """Of a transaction. Creations and sets among them all write the value of this call."""
        self.token = token
        """The fencing token of a fenced write: a transaction whose first part checks the leader's own node."""
        self.behind = behind
        """Of a read that is to be up to date: the number of the call before it, that brings the server up to date."""
        self.watch: WatchSeen | None = None
        self.began = began
        self.began_step = began_step
        self.ended = 0.0
        self.ended_step = 0
        self.ending = Ending.OPEN
        self.error = ""
        """The name of the error's class, if it ended with one."""
        self.code = 0
        """ZooKeeper's number, if a server said so; of a transaction, what its part `index` was refused with."""
        self.index = 0
        self.result: Any = None
        """As the client returned it: `Node`, `Stat`, `None`, `Children`, `Created`; of a transaction a tuple with the
        result of each part (`Stat` of a set, the path of a create, else `None`)."""
        self.zxid = 0
        """Of a write that ended with an error though it happened: when, if that was told."""
        self.seen = 0
        """The client's last zxid when it heard of the end: at least that of the reply."""
        self.is_over = False
        """Its outcome is unknown, but the client has looked into it: what was not applied by then never will be."""

    @property
    def value(self) -> bytes:
        """What it writes."""
        return value(self.client, self.number)

    @property
    def writes(self) -> tuple[Part, ...]:
        """What it changes, part by part; checks left out."""
        if self.kind == TRANSACTION:
            return tuple(part for part in self.parts if part.kind != CHECK)
        return (Part(self.kind, self.path, self.version),) if self.kind in WRITES else ()

    def __repr__(self) -> str:
        what = f"{self.kind} {self.path}" if not self.parts else f"{self.kind} {[tuple(part) for part in self.parts]}"
        said = self.error or self.ending.value
        return f"call {self.client}.{self.number} ({what}, at {self.began:.3f} s: {said})"


class Fired(NamedTuple):
    """One event, as a callback or a reader of a subscription got it. `type` is the name of its `EventType`."""

    time: float
    step: int
    type: str
    path: str
    zxid: int


class WatchSeen:
    """A one-shot watch: what it was set with, and what it was told."""

    __slots__ = ("call", "fired")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.fired: list[Fired] = []

    def __repr__(self) -> str:
        return f"the watch of {self.call}"


class SubscriptionSeen:
    """A persistent watch. After it was entered, and after each `MISSED`, its reader reads: `readings` has, for each,
    how many events it had then, and the client's last zxid when the reading was done. Changes behind that have to be
    told."""

    __slots__ = ("client", "closed", "entered", "fired", "path", "readings", "recursive")

    def __init__(self, client: int, path: str, *, recursive: bool, entered: float) -> None:
        self.client = client
        self.path = path
        self.recursive = recursive
        self.entered = entered
        self.fired: list[Fired] = []
        self.readings: list[tuple[int, int]] = []
        self.closed = False
        """Whether it was left before the end: it has then heard less than happened."""

    def __repr__(self) -> str:
        below = " and below" if self.recursive else ""
        return f"the subscription of client {self.client} to {self.path}{below}, entered at {self.entered:.3f} s"


class Belief:
    """A member of an election took itself for the leader, from the first to the last time that it asked. Times are
    taken before it asks."""

    __slots__ = ("began", "client", "ended", "member", "node", "session_id", "token")

    def __init__(self, client: int, member: str, token: int, node: str, session_id: int, began: float) -> None:
        self.client = client
        self.member = member
        self.token = token
        self.node = node
        self.session_id = session_id
        self.began = self.ended = began

    def __repr__(self) -> str:
        return f"{self.member} (token {self.token}, {self.began:.3f} to {self.ended:.3f} s)"


class StateSeen(NamedTuple):
    """A change of state, as a listener heard it. `state` is the name of the `State`."""

    client: int
    time: float
    state: str
    session_id: int
    generation: int


class Fault(NamedTuple):
    """One fault. `hides`: a server or process may have been behind the rest without noticing, for as long as it lasted:
    a follower cut from its leader, a paused process, a clock that is too slow."""

    kind: str
    target: str
    began: float
    ended: float
    hides: bool = False


class Change(NamedTuple):
    """What a transaction did to one node. `owner`: the session of an ephemeral one, else 0."""

    kind: str
    path: str
    data: bytes | None = None
    owner: int = 0


class Applied(NamedTuple):
    """One transaction, as the servers committed it."""

    zxid: int
    changes: tuple[Change, ...]
    ends_session: bool = False
    """Whether it was the end of a session: its ephemeral nodes go, without anybody's call."""


@dataclass
class History:
    """All of one run."""

    calls: dict[int, list[Call]] = field(default_factory=dict)
    """Of each client, in the order of the calls."""
    subscriptions: list[SubscriptionSeen] = field(default_factory=list)
    beliefs: list[Belief] = field(default_factory=list)
    states: list[StateSeen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    latches: list[str] = field(default_factory=list)
    """Paths below which the members of elections keep their nodes."""
    registers: str = ""
    """The beginning of the paths of nodes that come and go by nothing but calls of this history, one node a call."""
    started_zxid: int = 0
    """Of the last transaction before the clients began: what was before is nobody's."""
    healed: float = 0.0
    """When the last fault ended."""
    reconnecting: float = 0.0
    """So long after the last fault a client may take to be connected."""
    settling: float = 0.0
    """So long after a fault that hides something, its effects may last: what was behind catches up."""
    died: dict[int, float] = field(default_factory=dict)
    """When clients were killed with their processes, by number: what they had not heard of by then they never will."""
    closing: float = 0.0
    """When the clients were told to close; everything is judged by what was seen until then."""
    closing_zxid: int = 0
    """Of the last transaction until then."""
    leaders_at_end: list[str] = field(default_factory=list)
    """The members that took themselves for the leader at `closing`."""
    final: dict[str, Node] | None = None
    """The whole tree, when all clients were closed and their sessions over, as an honest fresh session reads it."""
    log: list[Applied] | None = None
    """All that the servers committed, if that is known; the first transaction is the first of the servers' life."""
    leaks: list[str] = field(default_factory=list)
    """What was left behind when all clients were closed: tasks, sockets, requests."""
    root: str = "/"
    """What lies outside of it is none of this run's business."""
    reports_zxids: bool = True
    """Whether events tell their zxid (servers from 3.9 on)."""

    @property
    def hidden(self) -> list[tuple[float, float]]:
        """From when to when a server or process may have been behind the rest without noticing."""
        return [(fault.began, fault.ended + self.settling) for fault in self.faults if fault.hides]

    @property
    def operations(self) -> int:
        """How many calls there are."""
        return sum(map(len, self.calls.values()))
