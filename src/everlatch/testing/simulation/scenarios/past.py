"""P5's judge: what every path was like, by the servers' log, against what a subscription has told of it.

Rules:
1. What is told of a path is judged path by path, so that it doesn't matter who tells it: a subscription of one path,
   or a copy of a tree.
2. A state was true for a span of zxids. What was told in a row has to have been so in that order: each a state that
   was, and none from before the one told before it. States may be passed over.
3. Being refused is a state too: of a node that is there and may not be read. So is its absence.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from everlatch.devserver.identities import may
from everlatch.devserver.tree import Tree
from everlatch.testing.simulation.scenarios.stage import PromiseBrokenError
from everlatch.types import Children, Node, Permission

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from everlatch.devserver.tree import Znode
    from everlatch.testing.simulation.scenarios.stage import CommitLog

__all__ = ["UNREADABLE", "Past", "Span", "Told", "children_of", "data_of", "expect_true", "state_of"]

UNREADABLE: Final = "unreadable"
"""What is told of a node that may not be read."""
Told: TypeAlias = Any
"""(czxid, mzxid, data), or (czxid, pzxid, names); `None`: there is no node; `UNREADABLE`."""


class Span(NamedTuple):
    """What a path was like from one zxid to (but not with) another."""

    state: Told
    hidden: Told
    """The same, but for what could not be read."""
    since: int
    until: float


def data_of(node: Znode) -> Told:
    """What `watch_data` tells."""
    return node.czxid, node.mzxid, node.data or b""


def children_of(node: Znode) -> Told:
    """What `watch_children` tells."""
    return node.czxid, node.pzxid, frozenset(node.children)


def state_of(told: Node | Children | None) -> Told:
    """The same, as a subscription tells it."""
    match told:
        case Node(data, stat):
            return stat.czxid, stat.mzxid, data
        case Children(names, stat):
            return stat.czxid, stat.pzxid, frozenset(names)
    return None


class Past:
    """All that the paths of a run have been, for whom everybody may be."""

    def __init__(self, log: CommitLog, paths: Iterable[str]) -> None:
        self._spans: dict[tuple[Callable[[Znode], Told], str], list[Span]] = {}
        tree, places = Tree(), [(look, path) for path in paths for look in (data_of, children_of)]
        for place in places:
            self._note(tree, *place)
        for entry in log.in_order():
            tree.apply(entry.transaction)
            if entry.transaction.changes:
                for place in places:
                    self._note(tree, *place)

    def of(self, look: Callable[[Znode], Told], path: str) -> list[Span]:
        """What it was, oldest first."""
        return self._spans[look, path]

    def end_of(self, look: Callable[[Znode], Told], path: str) -> Span:
        """What it is."""
        return self._spans[look, path][-1]

    def _note(self, tree: Tree, look: Callable[[Znode], Told], path: str) -> None:
        spans, node = self._spans.setdefault((look, path), []), tree.find(path)
        hidden = None if node is None else look(node)
        state = hidden if node is None or may(node.acl, (), Permission.READ) else UNREADABLE
        if spans and (spans[-1].state, spans[-1].hidden) == (state, hidden):
            return
        if spans:
            spans[-1] = spans[-1]._replace(until=tree.zxid)
        spans.append(Span(state, hidden, tree.zxid, math.inf))


def expect_true(what: str, told: Sequence[Told], spans: Sequence[Span]) -> None:
    """Raises `PromiseBrokenError` if something was told that never was, or was no more; or twice that it can't be
    read, with nothing in between."""
    now, before = 0, None
    for number, state in enumerate(told, 1):
        span = next((span for span in spans if span.state == state and span.until > now), None)
        if span is None:
            raise PromiseBrokenError(
                f"{what} told {_brief(told[:number])}, which was not so at or after 0x{now:x}: {_brief(spans)}"
            )
        if state == before == UNREADABLE:
            raise PromiseBrokenError(f"{what} told {_brief(told[:number])}: one loss of READ twice")
        now, before = max(now, span.since), state


def _brief(things: Sequence[object]) -> str:
    return ", ".join(str(thing) for thing in things[-6:])
