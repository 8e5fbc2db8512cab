"""What the guardian is told of forks.

Rules:
1. A forked child may be who goes on: a daemon's parent half ends at once. So it is announced, before the fork, by who
   forks; and by the child as the first thing it does, when no descriptor is closed yet. The guardian waits for the end
   of both. The price: while such a child lives, the sessions of a parent that has crashed end by their timeout only.
2. Children that will be another program, and those of `multiprocessing` (and `concurrent.futures`), which never outlive
   their parent by design, are no owners. Who forks is seen in the frame that calls `os.fork`.
3. All that changes in this package is guarded by one lock, which is held over a fork: the child finds everything whole.
4. A fork by native code is announced by nobody: its child is seen by the pipe, which it holds open (see `process`).
5. In the child nothing is left of the guardian but the line by which its own forks are announced.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
from typing import TYPE_CHECKING

from everlatch.guardian.line import LineBrokenError
from everlatch.guardian.owners import own_stat
from everlatch.guardian.told import CHILD, FORK

if TYPE_CHECKING:
    from everlatch.guardian.line import Line
    from everlatch.guardian.told import Message

__all__ = ["Forks", "forks"]

_NO_OWNERS = frozenset({"subprocess", "os", "multiprocessing.popen_fork", "multiprocessing.popen_forkserver"})
"""The modules whose `fork` makes none. (In `os` it is that of `os.spawnv` and the like.)"""


class Forks:
    """The lines on which forks are announced."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.lines: dict[Line, None] = {}
        self._numbers = itertools.count()
        self._number: tuple[int, int] | None = None
        """Of the fork under way; `None` if its child is no owner."""
        self._is_watching = False
        self._is_held = False

    def watch(self) -> None:
        """Hears of all forks from now on."""
        if not self._is_watching:
            self._is_watching = True
            os.register_at_fork(
                before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
            )

    def _before(self) -> None:
        self.lock.acquire()
        self._is_held = True
        self._number = None
        if self.lines and _who_forks() not in _NO_OWNERS:
            self._number = (os.getpid(), next(self._numbers))
            self._tell((FORK, self._number))

    def _after_in_parent(self) -> None:
        self._is_held = False
        self.lock.release()

    def _after_in_child(self) -> None:
        number = self._number if self._is_held else None  # a fork by other code than Python's may be announced by none
        self._is_held = False
        self.lock = threading.RLock()
        if number is not None:
            for line in self.lines:
                line.inherited()
            self._tell((CHILD, number, *own_stat()))
        else:
            for line in self.lines:
                line.close()
            self.lines.clear()

    def _tell(self, message: Message) -> None:
        for line in self.lines:
            with contextlib.suppress(LineBrokenError):  # whose guardian it is finds out by himself
                line.tell(message)


def _who_forks() -> str | None:
    """The module that has called `fork`, seen from a function that is called before it."""
    try:
        return sys._getframe(2).f_globals.get("__name__")
    except ValueError:  # no Python
        return None


forks = Forks()
"""Those of this process."""
