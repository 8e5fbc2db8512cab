"""What happened to each node, and when.

Rules of this file: a node's *data* changes when it is created, written to or deleted, its *children* when one of them
comes or goes; each such change has the zxid of its transaction, and holds until the next one. A truth that was put
together from what was seen (`torture.sightings`), and not from the servers' log, is not complete: a state holds at
most until the next change that somebody saw, and nothing follows from what is missing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from everlatch.paths import parent
from everlatch.types import EventType
from torture.history import CREATE, SET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torture.history import Applied, Change

__all__ = ["FOREVER", "ChildrenState", "DataState", "Timeline", "Told", "Track", "Truth", "Window", "fingerprint"]

FOREVER: Final = 1 << 63
"""Beyond every zxid."""


class Window(NamedTuple):
    """From the first to the last zxid at which something holds."""

    first: int
    last: int


class DataState(NamedTuple):
    """A node from one change of its data to the next. `data` `None`: nobody saw it."""

    zxid: int
    exists: bool
    data: bytes | None = None
    version: int = 0
    czxid: int = 0
    owner: int = 0


class ChildrenState(NamedTuple):
    """A node's children from one change to the next; of their names only the fingerprint is kept. −1: there is no
    node that could have any."""

    zxid: int
    children: int = 0
    names: int = 0


class Told(NamedTuple):
    """What who watches a path is told of a transaction."""

    zxid: int
    type: EventType
    path: str


def fingerprint(names: Iterable[str]) -> int:
    """The same for the same names in any order; good within one process."""
    total = 0
    for name in names:
        total ^= hash(name)
    return total


S = TypeVar("S", DataState, ChildrenState)


class Track(Generic[S]):
    """States in the order of their zxids."""

    __slots__ = ("states", "zxids")

    def __init__(self) -> None:
        self.zxids: list[int] = []
        self.states: list[S] = []

    def add(self, state: S) -> None:
        """Behind all others; of one transaction the last one counts."""
        if self.zxids and self.zxids[-1] == state.zxid:
            self.states[-1] = state
        else:
            self.zxids.append(state.zxid)
            self.states.append(state)

    def find(self, zxid: int) -> tuple[S, Window] | None:
        """The state that began with this transaction."""
        index = bisect_left(self.zxids, zxid)
        if index == len(self.zxids) or self.zxids[index] != zxid:
            return None
        return self.states[index], Window(zxid, self._until(index))

    def held(self, zxid: int) -> Window | None:
        """How long that state held."""
        found = self.find(zxid)
        return found and found[1]

    def first(self, since: int, fits: Callable[[S], bool], before: S) -> Window | None:
        """The first time, at `since` or later, at which such a state holds; `before` holds before the first one."""
        index = bisect_right(self.zxids, since) - 1
        if index < 0:
            if fits(before):
                return Window(0, self._until(-1))
            index = 0
        for later in range(index, len(self.zxids)):
            if fits(self.states[later]):
                return Window(self.zxids[later], self._until(later))
        return None

    def _until(self, index: int) -> int:
        return self.zxids[index + 1] - 1 if index + 1 < len(self.zxids) else FOREVER


_NOTHING: Final = DataState(0, exists=False)
_CHILDLESS: Final = ChildrenState(0)


class Timeline:
    """All that happened at one path."""

    __slots__ = ("children", "data", "told")

    def __init__(self) -> None:
        self.data: Track[DataState] = Track()
        self.children: Track[ChildrenState] = Track()
        self.told: list[Told] = []
        """What a persistent watch of this path is told."""

    def absent(self, since: int) -> Window | None:
        """The first time, at `since` or later, at which there is no such node."""
        return self.data.first(since, lambda state: not state.exists, _NOTHING)

    def present(self, since: int, *, unlike: int = -1) -> Window | None:
        """… at which there is one, and with another version than `unlike`."""
        return self.data.first(since, lambda state: state.exists and state.version != unlike, _NOTHING)

    def peopled(self, since: int) -> Window | None:
        """… at which it has children."""
        return self.children.first(since, lambda state: state.children > 0, _CHILDLESS)


_NEVER: Final = Timeline()


class Truth:
    """The timelines of all paths."""

    def __init__(self, *, complete: bool) -> None:
        self.complete = complete
        self.timelines: dict[str, Timeline] = {}
        self.told: list[Told] = []
        """What all persistent watches together are told."""

    @classmethod
    def of_log(cls, log: Iterable[Applied]) -> Truth:
        """All that the servers committed."""
        truth = cls(complete=True)
        for applied in log:
            for change in applied.changes:
                truth._apply(applied.zxid, change)
        return truth

    def at(self, path: str) -> Timeline:
        """Of a path; empty if nothing ever happened there. Not to be changed."""
        return self.timelines.get(path, _NEVER)

    def line(self, path: str) -> Timeline:
        """Of a path, to be filled."""
        line = self.timelines.get(path)
        if line is None:
            line = self.timelines[path] = Timeline()
        return line

    def _apply(self, zxid: int, change: Change) -> None:
        line = self.line(change.path)
        if change.kind == SET:
            before = line.data.states[-1] if line.data.states else _NOTHING
            line.data.add(before._replace(zxid=zxid, data=change.data, version=before.version + 1))
            self.tell(line, Told(zxid, EventType.DATA_CHANGED, change.path))
            return
        created = change.kind == CREATE
        if created:
            line.data.add(DataState(zxid, True, change.data, 0, zxid, change.owner))
            line.children.add(ChildrenState(zxid))
        else:
            line.data.add(DataState(zxid, exists=False))
            line.children.add(ChildrenState(zxid, children=-1))
        self.tell(line, Told(zxid, EventType.CREATED if created else EventType.DELETED, change.path))
        self._count(zxid, change.path, created=created)

    def _count(self, zxid: int, path: str, *, created: bool) -> None:
        """A child has come or gone."""
        above = parent(path)
        line = self.line(above)
        before = line.children.states[-1] if line.children.states else _CHILDLESS
        count = before.children + (1 if created else -1)
        line.children.add(ChildrenState(zxid, count, before.names ^ hash(path.rpartition("/")[2])))
        self.tell(line, Told(zxid, EventType.CHILDREN_CHANGED, above))

    def tell(self, line: Timeline, told: Told) -> None:
        """Who watches is told this."""
        line.told.append(told)
        self.told.append(told)
