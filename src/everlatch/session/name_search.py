"""Finds the names of sequential nodes whose creation was never answered.

Servers number the children of a node by how many were ever created there, so a later number means a later czxid. The
parent's Stat tells how many there were (`cversion` counts creations and deletions, `num_children` the difference), and
the search goes down from the latest: ours are among the last ones, however many siblings there are. When there were
many since, all names are listed once, and the first that is young enough is found by halving.

Rules:
1. Only what `exists` tells counts: a number whose node isn't there says nothing.
2. The search ends at the first node that is older than what is looked for.
3. It gives up rather than guess: no permission, a parent that is gone, too many younger siblings, a list of names that
   is too large for a reply.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.errors import ServerError
from everlatch.paths import join, parent
from everlatch.session.looks import LIST, LOOK, list_body, look_body
from everlatch.session.own import Own
from everlatch.session.requests import Request
from everlatch.types import Stat

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Found", "NameSearch"]

_FIRST_GUESSES: Final = 32
_MOST_GUESSES: Final = 512
"""Numbers that are tried before all names are listed."""
_MOST_LISTED: Final = 4096
"""Names of the list that are looked at, from the first one that is young enough."""


class Found(NamedTuple):
    """One node, as it was just seen."""

    path: str
    stat: Stat


class NameSearch:
    """One search: for at most `most` nodes `prefix` + number with `is_ours(stat)`, none of them older than `oldest` (a
    czxid).

    `ask` sends a request of the session's own; `found` is told the nodes, in the order of their numbers, when the
    search has ended; `None`: it could not be brought to an end.
    """

    def __init__(
        self,
        prefix: str,
        oldest: int,
        is_ours: Callable[[Stat], bool],
        most: int,
        *,
        ask: Callable[[Request], None],
        found: Callable[[list[Found] | None], None],
        may_list: bool = True,
    ) -> None:
        self._prefix = prefix
        self._oldest = oldest
        self._is_ours = is_ours
        self._most = most
        self._ask = ask
        self._found = found
        self._may_list = may_list
        self._nodes: dict[int, Found] = {}
        self._names: list[tuple[int, str]] = []
        self._tried = 0
        self._waiting = 0
        self._has_ended_below = False

    def start(self, above: Stat | ServerError | None) -> None:
        """`above`: what the parent was found to be."""
        if not isinstance(above, Stat):
            self._found(None)
            return
        created = (above.cversion + above.num_children) // 2
        if created < 0:  # the count has overflowed
            self._list()
        else:
            self._guess(created - 1)

    def start_with_list(self) -> None:
        """For a prefix that is so rare that all names that have it may be looked at."""
        self._list()

    # -- by guessing

    def _guess(self, last: int) -> None:
        """Looks at a batch of numbers, from `last` down."""
        numbers = range(last, max(last - max(self._tried, _FIRST_GUESSES), -1), -1)
        if not numbers or self._has_ended_below or len(self._nodes) >= self._most:
            self._end()
        elif self._tried >= _MOST_GUESSES:
            self._list()
        else:
            self._tried += len(numbers)
            paths = {number: f"{self._prefix}{number:010d}" for number in numbers}
            self._look_at(paths, lambda: self._guess(numbers[-1] - 1))

    def _look_at(self, paths: dict[int, str], then: Callable[[], None]) -> None:
        self._waiting = len(paths)

        def looked(number: int, path: str, stat: Stat | ServerError | None) -> None:
            self._waiting -= 1
            self._note(number, path, stat)
            if not self._waiting:
                then()

        for number, path in paths.items():
            self._ask(Request(Own(functools.partial(looked, number, path)), LOOK, path, look_body(path)))

    def _note(self, number: int, path: str, stat: Stat | ServerError | None) -> None:
        if not isinstance(stat, Stat):
            return
        if stat.czxid < self._oldest:
            self._has_ended_below = True
        elif self._is_ours(stat):
            self._nodes[number] = Found(path, stat)

    # -- by all names

    def _list(self) -> None:
        if not self._may_list:
            self._found(None)
            return
        path = parent(self._prefix)
        self._ask(Request(Own(self._listed), LIST, path, list_body(path)))

    def _listed(self, names: list[str] | ServerError) -> None:
        if isinstance(names, ServerError):
            self._found(None)
            return
        self._nodes.clear()
        above = parent(self._prefix)
        prefix = self._prefix[len(above.rstrip("/")) + 1 :]
        numbered = ((name[len(prefix) :], name) for name in names if name.startswith(prefix))
        self._names = sorted((int(digits), join(above, name)) for digits, name in numbered if _is_number(digits))
        self._halve(0, len(self._names))

    def _halve(self, low: int, high: int) -> None:
        """The first that is young enough is at `low` or above, and at `high` or below."""
        if low >= high:
            self._read_on(low)
            return
        middle = (low + high) // 2
        path = self._names[middle][1]

        def looked(stat: Stat | ServerError | None) -> None:
            if isinstance(stat, ServerError):
                self._found(None)
            elif stat is None:  # deleted since: as if it had never been listed
                del self._names[middle]
                self._halve(low, min(high - 1, len(self._names)))
            elif stat.czxid < self._oldest:
                self._halve(middle + 1, high)
            else:
                self._halve(low, middle)

        self._ask(Request(Own(looked), LOOK, path, look_body(path)))

    def _read_on(self, first: int) -> None:
        young = dict(self._names[first:])
        if len(young) > _MOST_LISTED:
            self._found(None)
        elif not young:
            self._end()
        else:
            self._look_at(young, self._end)

    def _end(self) -> None:
        self._found([self._nodes[number] for number in sorted(self._nodes)])


def _is_number(digits: str) -> bool:
    """Ten digits; a counter that has overflowed writes a minus."""
    return digits.isascii() and digits.removeprefix("-").isdigit() and len(digits) >= 10
