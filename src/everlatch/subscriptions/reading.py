"""How a node's data and its children are read, with what it takes to hear of the next change.

Rules:
1. A read that finds nothing is no error here: the state is `None`. A one-shot watch for the node's creation is set by
   `exists` then; if that finds the node, it has come meanwhile, and is read.
2. Two states with the same stamp are the same one. A node that was deleted and made again has another czxid; times are
   in it because servers that were emptied and set up anew by the same script may come to the same zxids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from everlatch.errors import NoNodeError
from everlatch.types import Children, EventType, Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.engine.call import Call
    from everlatch.operations import Operations
    from everlatch.types import Stat, Watch

__all__ = ["CHILDREN", "DATA", "Reading"]

T = TypeVar("T", Node, Children)


class Reading(NamedTuple, Generic[T]):
    """What is read of a path."""

    name: str
    submit: Callable[..., Call[T]]
    """(operations, path, watch=)"""
    stamp: Callable[[Stat], tuple[int, ...]]
    """What is the same as long as nothing has changed."""
    unconcerned: EventType
    """What may happen at the path without changing it."""

    async def read(self, operations: Operations, path: str, watch: Watch | None) -> T | None:
        """The present state. Raises what calls raise."""
        while True:
            try:
                return await self.submit(operations, path, watch=watch)
            except NoNodeError:
                if watch is None or await operations.exists(path, watch=watch, timeout=None) is None:
                    return None

    def stamp_of(self, state: T | None) -> Any:
        """Of a state; `None` if there is no node."""
        return state and self.stamp(state.stat)


def _get(operations: Operations, path: str, *, watch: Watch | None) -> Call[Node]:
    return operations.get(path, watch=watch, timeout=None)


def _children(operations: Operations, path: str, *, watch: Watch | None) -> Call[Children]:
    return operations.children_and_stat(path, watch=watch, timeout=None)


def _data_stamp(stat: Stat) -> tuple[int, ...]:
    return stat.czxid, stat.mzxid, stat.ctime, stat.mtime, stat.version


def _children_stamp(stat: Stat) -> tuple[int, ...]:
    return stat.czxid, stat.pzxid, stat.ctime, stat.cversion


DATA: Reading[Node] = Reading("watch_data", _get, _data_stamp, EventType.CHILDREN_CHANGED)
CHILDREN: Reading[Children] = Reading("watch_children", _children, _children_stamp, EventType.DATA_CHANGED)
