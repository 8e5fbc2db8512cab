"""The log of one member of an ensemble: entries by zxid, of which the first ones are committed. Pure.

Rules of this module:
1. What is committed stays. What isn't may be cut off again, when a new leader has never heard of it.
2. Two logs that have an entry with the same zxid are the same up to there.
3. Old committed entries are forgotten: who lacks them gets a snapshot.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.devserver.entries import Entry

__all__ = ["Difference", "Log"]

_KEPT: Final = 500
"""Committed entries, as on real servers."""


class Difference(NamedTuple):
    """What makes one log of another."""

    cut_to: int
    """A zxid: everything behind it goes."""
    entries: tuple[Entry, ...]
    """And these come."""


class Log:
    """See above."""

    def __init__(self, start: int = 0) -> None:
        self._start = start
        """The zxid of the last entry that is not here any more."""
        self._entries: list[Entry] = []
        self._committed = 0
        """How many of those here are."""

    @property
    def last(self) -> int:
        """The zxid of the newest entry."""
        return self._entries[-1].zxid if self._entries else self._start

    @property
    def committed(self) -> int:
        """The zxid of the newest entry that is committed."""
        return self._entries[self._committed - 1].zxid if self._committed else self._start

    @property
    def pending(self) -> Sequence[Entry]:
        """What is not committed."""
        return self._entries[self._committed :]

    def append(self, entry: Entry) -> None:
        """It is the newest one."""
        assert entry.zxid > self.last, (entry, self.last)
        self._entries.append(entry)

    def commit(self, zxid: int) -> Sequence[Entry]:
        """All up to there are committed; returns those that weren't."""
        end = self._count(zxid)
        fresh = self._entries[self._committed : end]
        self._committed = max(self._committed, end)
        if self._committed > 2 * _KEPT:
            gone = self._committed - _KEPT
            self._start = self._entries[gone - 1].zxid
            del self._entries[:gone]
            self._committed -= gone
        return fresh

    def cut(self, zxid: int) -> None:
        """Everything behind that goes; rule 1."""
        end = self._count(zxid)
        assert end >= self._committed, (zxid, self.committed)
        del self._entries[end:]

    def difference(self, last: int) -> Difference | None:
        """For a log that ends at `last`; `None` if that is too far behind."""
        if last < self._start:
            return None
        count = self._count(last)
        common = self._entries[count - 1].zxid if count else self._start
        return Difference(common, tuple(self._entries[count:]))

    def _count(self, zxid: int) -> int:
        """How many entries are up to there."""
        return bisect_right(self._entries, zxid, key=_zxid)


def _zxid(entry: Entry) -> int:
    return entry.zxid
