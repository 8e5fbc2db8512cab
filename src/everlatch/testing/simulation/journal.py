"""What happened in a run: a log to read, and a digest by which two runs are compared.

Rules: every note and every byte that arrived goes into the digest, with its time. Only the end of a long log is kept.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from everlatch.testing.simulation.process import START

if TYPE_CHECKING:
    from everlatch.testing.simulation.loop import VirtualLoop

__all__ = ["Entry", "Journal"]

_KEPT = 100_000


class Entry(NamedTuple):
    """One line of the log."""

    time: float
    """Virtual seconds since the beginning."""
    host: str
    text: str

    def __str__(self) -> str:
        return f"{self.time:12.6f}  {self.host:<10} {self.text}"


class Journal:
    """The log of one world."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.entries: deque[Entry] = deque(maxlen=_KEPT)
        self._loop = loop
        self._notes = hashlib.blake2b(digest_size=16)
        self._traffic = 0

    def note(self, host: str, text: str) -> None:
        """One line."""
        entry = Entry(self._loop.moment - START, host, text)
        self.entries.append(entry)
        self._notes.update(repr(tuple(entry)).encode())

    def witness(self, number: int, data: bytes) -> None:
        """Bytes of a connection, or anything else that tells one run from another."""
        self._traffic = zlib.crc32(data, (self._traffic + number * 31 + int(self._loop.moment * 1e6)) & 0xFFFFFFFF)

    def digest(self) -> str:
        """The same for two runs that went the same way."""
        together = self._notes.copy()
        together.update(self._traffic.to_bytes(4, "big"))
        return together.hexdigest()

    def tail(self, lines: int) -> list[Entry]:
        """The last lines."""
        return list(self.entries)[-lines:]
