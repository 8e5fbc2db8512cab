"""The one guardian of an OS process, for all clients and event loops in it.

Rules:
1. It runs while there is a client that wants it. Each event loop that has one watches it: whoever sees first that it
   has died starts another one and tells it all that is known, and the others watch that one.
2. One that is stuck, or can't be told anything any more, is killed and replaced at once, by whoever had something to
   tell. Nothing here waits, but for the end of a process that has been killed.
3. One that dies again and again is replaced after pauses that grow. Each death is logged, and each that can't be
   mended.
4. Nothing is done in a forked child: it is not its guardian. It has another one if it needs it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from typing import TYPE_CHECKING

from everlatch.errors import GuardianUnavailableError
from everlatch.guardian.child import Child
from everlatch.guardian.forks import forks
from everlatch.guardian.line import FLUSH_EVERY, LineBrokenError
from everlatch.guardian.told import OVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.guardian.descriptor import Descriptor
    from everlatch.guardian.guarded import Guarded

__all__ = ["Guardian", "Lookout", "gone", "here"]

logger = logging.getLogger("everlatch")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
_LIVES = 5.0
"""Seconds after which one that dies was not broken from the beginning."""


class Guardian:
    """All clients that are guarded, and the process that does it."""

    def __init__(self) -> None:
        self.process = os.getpid()
        """Whose guardian it is."""
        self.restarts = 0
        self._child: Child | None = None
        self._told: dict[int, Guarded] = {}
        """What each client has said last."""
        self._clients: set[int] = set()
        self._lookouts: dict[asyncio.AbstractEventLoop, Lookout] = {}
        self._keys = itertools.count(1)
        self._pause = 0.0
        self._not_before = 0.0

    @property
    def pid(self) -> int | None:
        """Of the process; `None`: there is none now."""
        return None if self._child is None else self._child.pid

    def join(self, loop: asyncio.AbstractEventLoop) -> int:
        """A client is to be guarded; returns its number. Raises `GuardianUnavailableError`."""
        with forks.lock:
            if self._child is None:
                self._start()
            key = next(self._keys)
            self._clients.add(key)
            lookout = self._lookouts.get(loop)
            if lookout is None:
                lookout = self._lookouts[loop] = Lookout(self, loop)
            lookout.clients.add(key)
            try:
                lookout.watch()
            except NotImplementedError:
                last = self._forget(loop, key)
                if last is not None:
                    last.reap()
                raise GuardianUnavailableError("there is no guardian on an event loop without add_reader") from None
            return key

    def tell(self, key: int, guarded: Guarded) -> None:
        """What a client's session is now."""
        with forks.lock:
            if self._told.get(key) != guarded:
                self._told[key] = guarded
                self._say(lambda child: child.tell_session(key, guarded))

    def forget(self, key: int) -> None:
        """A client's session is nobody's concern any more."""
        with forks.lock:
            if self._told.pop(key, None) is not None:
                self._say(lambda child: child.tell((OVER, key)))

    def leave(self, loop: asyncio.AbstractEventLoop, key: int) -> Child | None:
        """A client is closed. Returns the process if it was the last one: it was killed, and wants to be reaped."""
        with forks.lock:
            self.forget(key)
            return self._forget(loop, key)

    def _forget(self, loop: asyncio.AbstractEventLoop, key: int) -> Child | None:
        self._clients.discard(key)
        lookout = self._lookouts.get(loop)
        if lookout is not None:
            lookout.clients.discard(key)
            if not lookout.clients:
                lookout.stop()
                del self._lookouts[loop]
        if self._clients or self._child is None:
            return None
        child, self._child = self._child, None
        forks.lines.pop(child.line, None)
        child.kill()
        return child

    # -- the process -----------------------------------------------------------------------------------------------

    def _start(self) -> Child:
        forks.watch()
        child = self._child = Child()
        forks.lines[child.line] = None
        try:
            for key, guarded in self._told.items():
                child.tell_session(key, guarded)
        except LineBrokenError as error:
            self._child = None
            child.kill()
            child.reap()
            raise GuardianUnavailableError(f"starting the guardian failed: {error}") from None
        self._flush_later(child)
        return child

    def _flush_later(self, child: Child) -> None:
        if child.line.keeps:
            asyncio.get_running_loop().call_later(FLUSH_EVERY, self._flush, child)

    def _flush(self, child: Child) -> None:
        with forks.lock:
            if child is self._child and self.process == os.getpid():
                self._say(lambda child: child.line.flush())

    def _say(self, tell: Callable[[Child], None]) -> None:
        child = self._child
        if child is None:
            return  # the next one is told everything
        try:
            tell(child)
        except LineBrokenError as error:
            child.kill()
            self.ended(child, str(error))
            self.ensure()
        else:
            self._flush_later(child)

    def ended(self, child: Child, why: str = "") -> None:
        """That process has died, or was killed."""
        with forks.lock:
            if child is not self._child:
                return
            self._child = None
            forks.lines.pop(child.line, None)
            child.reap()
            now = time.monotonic()
            lived = now - child.began
            self._pause = 0.0 if lived >= _LIVES else min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
            self._not_before = now + (self._pause if self._pause > _FIRST_PAUSE else 0.0)
            why = why or _how(child)
            logger.warning("the guardian (pid %d) of %s is gone: %s", child.pid, self._how_many, why)

    def ensure(self) -> Child | float:
        """The process; one is started if there is none. If that can't be: the seconds after which to try again."""
        with forks.lock:
            if self._child is not None:
                return self._child
            now = time.monotonic()
            if now < self._not_before:
                return self._not_before - now
            try:
                child = self._start()
            except GuardianUnavailableError as error:
                self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                self._not_before = now + self._pause
                message = "%s without a guardian; trying again in %.3g s: %s"
                logger.error(message, self._how_many, self._pause, error)
                return self._pause
            self.restarts += 1
            sessions = _counted(len(self._told), "session")
            logger.warning("another guardian (pid %d) has taken over, with %s", child.pid, sessions)
            return child

    @property
    def _how_many(self) -> str:
        return _counted(len(self._clients), "client")


class Lookout:
    """Watches the guardian from one event loop."""

    def __init__(self, guardian: Guardian, loop: asyncio.AbstractEventLoop) -> None:
        self.clients: set[int] = set()
        """Those of this loop."""
        self._guardian = guardian
        self._loop = loop
        self._status: Descriptor | None = None
        """A duplicate of the child's: what another loop closes must not vanish under this one."""
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Watches, unless it does already. Raises `NotImplementedError`."""
        with forks.lock:
            if self._status is not None or self._timer is not None:
                return
            found = self._guardian.ensure()
            if isinstance(found, float):
                self._timer = self._loop.call_later(found, self._again)
                return
            try:
                status = found.status.duplicate()
            except OSError as error:  # no descriptor is left
                logger.error("nobody watches the guardian on %r; trying again: %s", self._loop, error)
                self._timer = self._loop.call_later(_FIRST_PAUSE, self._again)
                return
            try:
                self._loop.add_reader(status.number, self._on_status, found)
            except BaseException:
                status.close()
                raise
            self._status = status

    def _again(self) -> None:
        self._timer = None
        if self._is_ours:
            self.watch()

    def _on_status(self, child: Child) -> None:
        if self._status is None or not self._is_ours or child.read_status(self._status):
            return
        self._let_go()
        self._guardian.ended(child)
        self.watch()

    @property
    def _is_ours(self) -> bool:
        return self._guardian.process == os.getpid()

    def _let_go(self) -> None:
        if self._status is not None:
            self._loop.remove_reader(self._status.number)
            self._status.close()
            self._status = None

    def stop(self) -> None:
        """Nobody on this loop needs it any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._let_go()


async def gone(child: Child) -> None:
    """Waits for the end of a process that was killed, and takes it away."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def on_status() -> None:
        if not child.read_status(child.status) and not done.done():
            done.set_result(None)

    loop.add_reader(child.status.number, on_status)
    try:
        await done
    finally:
        loop.remove_reader(child.status.number)
        child.reap()


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _how(child: Child) -> str:
    code = child.how_it_ended or 0
    if code < 0:
        return f"killed by signal {-code}"
    return f"exit code {code}" + ("" if child.is_up else " before it was up")


_here: Guardian | None = None


def here() -> Guardian:
    """That of this process."""
    global _here
    with forks.lock:
        if _here is None or _here.process != os.getpid():
            _here = Guardian()
        return _here
