"""One client's place with the guardian of its process: what the engine has.

Rules: in a forked child nothing is done here, whatever is called (see `forks`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from everlatch.guardian.child import check_available
from everlatch.guardian.guardian import gone, here

if TYPE_CHECKING:
    import asyncio

    from everlatch.guardian.guarded import Guarded
    from everlatch.guardian.guardian import Guardian

__all__ = ["Ward"]


class Ward:
    """A client that wants a guardian. Raises `GuardianUnavailableError` if there can be none here."""

    def __init__(self) -> None:
        check_available()
        self._guardian: Guardian | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._key = 0

    @property
    def pid(self) -> int | None:
        """Of the guardian; `None`: there is none now."""
        return None if self._guardian is None else self._guardian.pid

    @property
    def restarts(self) -> int:
        """How often this process has had to start another one."""
        return 0 if self._guardian is None else self._guardian.restarts

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """The client starts: there is a guardian from now on. Takes a few milliseconds if it is the first client.
        Raises `GuardianUnavailableError`."""
        guardian = here()
        self._key = guardian.join(loop)
        self._guardian, self._loop = guardian, loop

    def guard(self, guarded: Guarded) -> None:
        """What the client's session is now; call it before the first write of a session. Cheap, and never waits."""
        guardian = self._ours()
        if guardian is not None:
            guardian.tell(self._key, guarded)

    def forget(self) -> None:
        """The session is not to be closed any more: the client has done so, or leaves it to the servers."""
        guardian = self._ours()
        if guardian is not None:
            guardian.forget(self._key)

    async def end(self) -> None:
        """The client is closed. With the last one the guardian ends; returns when it has."""
        guardian, self._guardian = self._ours(), None
        if guardian is not None:
            assert self._loop is not None
            last = guardian.leave(self._loop, self._key)
            if last is not None:
                await gone(last)

    def _ours(self) -> Guardian | None:
        guardian = self._guardian
        return guardian if guardian is not None and guardian.process == os.getpid() else None
