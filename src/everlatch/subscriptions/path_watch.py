"""Tells when something may have changed at a path, or at it and all below it.

Rules:
1. A persistent watch is used where the server in use has them (3.6). `arm` finds that out, and returns when it is
   armed: what is read afterwards is as new as what has been told.
2. Where it has not, reads carry one-shot watches: `arm` returns the callback for them. A server that is too old is seen
   to be so on its connection; on the next one `arm` tries again, for ensembles are upgraded server by server.
3. A persistent watch that the server in use can't arm again (`REMOVED`) is asked for anew by the next `arm`.
4. The last one who leaves takes the watch away from the server, be it persistent or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.engine.watch_subscription import ADD_WATCH, SINCE, add_watch_body
from everlatch.errors import UnsupportedByServerError
from everlatch.session.watches import CHILD, DATA, PERSISTENT, RECURSIVE
from everlatch.types import EventType

if TYPE_CHECKING:
    from everlatch.engine.engine import Engine
    from everlatch.types import Watch, WatchEvent

__all__ = ["PathWatch"]


class PathWatch:
    """Calls `changed` with every event of a path; `MISSED` (and `REMOVED`) says that there may have been others."""

    def __init__(self, engine: Engine, path: str, server_path: str, changed: Watch, *, recursive: bool = False) -> None:
        self._engine = engine
        self._path = path
        self._changed = changed
        self._kind = RECURSIVE if recursive else PERSISTENT
        self._body = add_watch_body(server_path, self._kind)
        self._is_wanted = False
        """Whether the session has been told that we want a persistent watch."""
        self._is_armed = False
        self._too_old_on = 0
        """The connection whose server has no persistent watches."""
        self._one_shots: dict[str, None] = {}
        """The paths on which one-shot watches may be."""

    @property
    def is_persistent(self) -> bool:
        """Whether a persistent watch is armed, so that reads need not carry one."""
        return self._is_armed

    async def arm(self) -> bool:
        """Returns when changes will be told: whether by a persistent watch; else reads have to carry `one_shot`.

        Waits for a connection if there is none. Raises what calls raise at the client's end.
        """
        engine = self._engine
        operation = ADD_WATCH[self._kind]
        while not self._is_armed and self._too_old_on != engine.session.conn:
            try:
                await engine.versions.require(operation.name, SINCE, path=self._path, timeout=None, op=operation.op)
            except UnsupportedByServerError:
                # Nothing was wanted yet, so nothing is taken back: a server so old can't be told either.
                self._too_old_on = engine.session.conn
                break
            if not self._is_wanted:
                self._is_wanted = True
                engine.watch_wanted(self._kind, self._path, self._tell)
            try:
                self._is_armed = True  # from the reply on; a loss behind it is told as an event
                await engine.versions.submit(SINCE, operation, self._path, self._body, self._tell, None, 0)
            except UnsupportedByServerError:
                self._stop_wanting()
                self._too_old_on = engine.session.conn
            except BaseException:
                self._is_armed = False
                raise
        return self._is_armed

    def one_shot(self, path: str) -> Watch:
        """What a read of this path has to carry if `arm` says so."""
        self._one_shots[path] = None
        return self._tell

    def leave(self, path: str) -> None:
        """Nothing is to be told of this path any more by one-shot watches."""
        if self._one_shots.pop(path, self) is None:
            for kind in (DATA, CHILD):
                self._engine.leave_one_shot(kind, path, self._tell)

    def start_over(self) -> None:
        """The next `arm` arms it anew, though nobody has said that it is gone."""
        self._stop_wanting()

    def close(self) -> None:
        """Nothing is told any more. May be called again."""
        self._stop_wanting()
        for path in list(self._one_shots):
            self.leave(path)

    def _stop_wanting(self) -> None:
        self._is_armed = False
        if self._is_wanted:
            self._is_wanted = False
            self._engine.watch_left(self._kind, self._path, self._tell)

    def _tell(self, event: WatchEvent) -> None:
        if event.type is EventType.REMOVED and self._is_armed:
            self._stop_wanting()
        self._changed(event)
