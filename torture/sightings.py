"""A truth put together from what was seen, where the servers' log is not known.

Rules of this file: an acknowledged creation or set tells of one state, and so does each read, and the final tree. Of
deletions nobody is told a zxid, so that they are not in it.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from everlatch.types import Children, Created, EventType, Node, Stat
from torture.history import SET, Ending
from torture.truth import ChildrenState, DataState, Told, Truth

if TYPE_CHECKING:
    from torture.history import Call, History

__all__ = ["gathered"]


class _Sightings:
    """States by path and zxid."""

    def __init__(self) -> None:
        self.data: dict[str, dict[int, DataState]] = {}
        self.children: dict[str, dict[int, ChildrenState]] = {}

    def node(self, path: str, stat: Stat, data: bytes | None) -> None:
        """A node with this Stat was seen; `None`: not its data."""
        states = self.data.setdefault(path, {})
        known = states.get(stat.mzxid)
        if known is None or (known.data is None and data is not None):
            states[stat.mzxid] = DataState(stat.mzxid, True, data, stat.version, stat.czxid, stat.ephemeral_owner)
        self.children.setdefault(path, {}).setdefault(stat.pzxid, ChildrenState(stat.pzxid, stat.num_children))

    def note(self, call: Call) -> None:
        """What an acknowledged call tells of."""
        match call.result:
            case Node(data, stat):
                self.node(call.path, stat, data)
            case Children(_, stat):
                self.node(call.path, stat, None)
            case Created(path, stat):
                self.node(path, stat, call.value)
            case Stat():
                self.node(call.path, call.result, call.value if call.kind == SET else None)
            case tuple():
                for part, result in zip(call.parts, call.result, strict=True):
                    if part.kind == SET and isinstance(result, Stat):
                        self.node(part.path, result, call.value)


def gathered(history: History) -> Truth:
    """All that was seen."""
    found = _Sightings()
    for calls in history.calls.values():
        for call in calls:
            if call.ending is Ending.OK:
                found.note(call)
    for path, node in (history.final or {}).items():
        found.node(path, node.stat, node.data)
    truth = Truth(complete=False)
    for path, states in found.data.items():
        for zxid in sorted(states):
            truth.line(path).data.add(states[zxid])
            happened = EventType.CREATED if zxid == states[zxid].czxid else EventType.DATA_CHANGED
            truth.tell(truth.line(path), Told(zxid, happened, path))
    truth.told.sort(key=attrgetter("zxid"))
    for path, counts in found.children.items():
        for zxid in sorted(counts):
            truth.line(path).children.add(counts[zxid])
    return truth
