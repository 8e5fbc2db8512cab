"""The processes that the sessions belong to, and whether one of them lives.

Part of the guardian's process; see `process`.
"""

import os

__all__ = ["FORK_TAKES", "LOOK_EVERY", "Owners", "own_stat"]

FORK_TAKES = 5.0
"""Seconds after which a fork that was announced has failed, or its child has died before it could say a word."""
LOOK_EVERY = 0.05
"""Seconds between two looks at the owners, where there are no pidfds."""


class Owners:
    """Who has started us, and the children that he has forked and that have said so.

    A pidfd of the first is given by himself: nobody who has his pid later is taken for him. Where there are none, he
    lives as long as we are his child.
    """

    def __init__(self, pidfd: int, pid: int) -> None:
        self.descriptors = {pidfd} if pidfd >= 0 else set()
        """Pidfds, to be polled: each is readable when its process has ended."""
        self._parent = pid if pidfd < 0 else 0
        self._children: set[int] = set()
        self._forks: dict[object, float] = {}

    def forking(self, number: object, now: float) -> None:
        """There will be a child, which has yet to say so."""
        self._forks[number] = now + FORK_TAKES

    def forked(self, number: object, pid: int, start: int) -> None:
        """It has, and is an owner, too; unless it has died already, and its pid is another's."""
        self._forks.pop(number, None)
        if self._parent:
            self._children.add(pid)
            return
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except OSError:  # no descriptor is left: it lives nevertheless
            self._children.add(pid)
            return
        if start and _stat(pid)[1] not in (0, start):
            os.close(descriptor)
        else:
            self.descriptors.add(descriptor)

    def ended(self, descriptor: int) -> None:
        """The process of that pidfd has."""
        self.descriptors.discard(descriptor)
        os.close(descriptor)

    def live(self, now: float) -> bool:
        """Whether one of them does, or may."""
        self._forks = {number: end for number, end in self._forks.items() if now < end}
        if self._parent and os.getppid() != self._parent:
            self._parent = -1
        self._children = {pid for pid in self._children if _is_there(pid)}
        return bool(self.descriptors or self._parent > 0 or self._children or self._forks)

    @property
    def look_again_after(self) -> float | None:
        """Seconds after which to look though no descriptor was readable; `None`: they tell everything."""
        return LOOK_EVERY if self._parent or ((self._forks or self._children) and not self.descriptors) else None


def own_stat() -> tuple[int, int]:
    """This process's pid, as `/proc` has it (it need not be that of a namespace of its own), and when it started, in
    clock ticks since boot; 0: that isn't known."""
    pid, start = _stat("self")
    return (pid, start) if start else (os.getpid(), 0)


def _stat(pid: "int | str") -> tuple[int, int]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
        return int(line.partition(b" ")[0]), int(line.rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0, 0


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's now
        pass
    return True
