"""A file descriptor that may have become somebody else's.

Programs close all descriptors that they don't know (daemons do), and their numbers are given out again. What we write
is secret, and what we close must be ours: so it is looked at before that it is still the same file.
"""

from __future__ import annotations

import os

__all__ = ["Descriptor"]


class Descriptor:
    """One of ours, by its number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._identity = _identity(number)

    @property
    def is_ours(self) -> bool:
        """Whether it is still what it was."""
        return self.number >= 0 and _identity(self.number) == self._identity

    def duplicate(self) -> Descriptor:
        """Another one for the same file. Raises `OSError`."""
        return Descriptor(os.dup(self.number))

    def close(self) -> None:
        """Closes it, unless it is another's, or closed."""
        if self.is_ours:
            os.close(self.number)
        self.number = -1


def _identity(number: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino
