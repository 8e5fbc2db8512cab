"""A process that ends sessions where Kerberos is demanded, for which the guardian's own is too small.

Part of the guardian's process; see `process`. Rules:
1. It is started when the owner has died and a server has refused to end a session without authentication: not before,
   for it takes twenty-five megabytes.
2. It is told sessions by its standard input, with their secrets; its command line and environment have none.
3. One that doesn't end well is replaced, after pauses that grow, until the time of the last session has passed.
"""

import contextlib
import marshal
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from everlatch.guardian.exchange import Session

__all__ = ["Deputy"]

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 4.0
"""Seconds before another one is started."""


class Deputy:
    """Started when it is needed; `command`, `environment` and `places` are what for, see `child`."""

    def __init__(
        self,
        died_at: float,
        command: "list[str]",
        environment: "dict[str, str]",
        places: "tuple[Any, ...]",
        clock: "Callable[[], float]" = time.monotonic,
    ) -> None:
        self._command = command
        self._environment = environment
        self._places = places
        self._died_at = died_at
        self._clock = clock
        self._sessions: list[Session] = []
        self._pid = 0
        self._pipe = -1

    def take(self, session: "Session") -> None:
        """This one is its business."""
        self._sessions.append(session)
        with contextlib.suppress(OSError):  # `finish` starts another one
            if not self._pid:
                self._start()
            self._tell(session)

    def finish(self) -> None:
        """There are no more. Returns when it has ended them, or their time has passed."""
        if not self._sessions:
            return
        end = self._died_at + max([session.timeout for session in self._sessions])
        pause = FIRST_PAUSE
        while not self._ends_well() and self._clock() + pause < end:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            with contextlib.suppress(OSError):
                self._start()
                for session in self._sessions:
                    self._tell(session)

    def _start(self) -> None:
        theirs, self._pipe = os.pipe()
        try:
            actions = [(os.POSIX_SPAWN_DUP2, theirs, 0)]
            self._pid = os.posix_spawn(self._command[0], self._command, self._environment, file_actions=actions)
        except OSError:
            os.close(self._pipe)
            self._pipe = -1
            raise
        finally:
            os.close(theirs)
        self._write(self._places)

    def _tell(self, session: "Session") -> None:
        self._write((self._died_at, session.about()))

    def _write(self, message: "tuple[Any, ...]") -> None:
        """It may wait for the process to begin: it reads before it does anything else."""
        data = marshal.dumps(message)
        while data:
            data = data[os.write(self._pipe, data) :]

    def _ends_well(self) -> bool:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        if not self._pid:
            return False
        pid, self._pid = self._pid, 0
        return os.waitpid(pid, 0)[1] == 0
