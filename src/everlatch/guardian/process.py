"""The guardian's process: holds the sessions of another process, and ends them when that one has certainly died.

Run by `everlatch.guardian.child` as a program, with four numbers as its arguments: the pipe that messages come by, the
one that says whether we live, a pidfd of the owner that it has opened itself (−1: there are none here), and its pid.

Rules of this module, and of those that it imports:
1. The process is small: nothing of everlatch is imported beside what `child` sends along, no asyncio, not even
   `typing`; `ssl` only for who uses TLS. All that takes time is done when a session is told, not when its owner has
   died.
2. Nothing is done to a session while an owner lives: see `owners`. The end of the pipe alone says nothing: daemons
   close descriptors, and programs are replaced (`exec`). But as long as it has not ended, somebody lives who was forked
   off an owner and whom nobody has announced (native code forks without Python's knowledge): who knows but that he
   goes on with the sessions. Children that own nothing have closed it.
3. Secrets come through the pipe and go to the servers, nowhere else: no message or traceback is printed.
4. Signals that can be blocked are: the owner has blocked them for us before we began.
"""

import contextlib
import marshal
import os
import select
import time

from everlatch.guardian.connection import Certificates
from everlatch.guardian.deputy import Deputy
from everlatch.guardian.exchange import Session, load_digest_md5
from everlatch.guardian.farewell import close_sessions
from everlatch.guardian.owners import Owners
from everlatch.guardian.told import CHILD, DEPUTY, DIGEST_MD5, FORK, OVER, SESSION, UP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from everlatch.guardian.told import Message

__all__ = ["Messages", "Watch", "main"]


class Messages:
    """What comes through the pipe."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self.ended = False
        """Whether nobody can write to it any more."""
        self._buffer = b""
        os.set_blocking(pipe, False)

    def read(self) -> "list[Message]":
        """All that has come."""
        while not self.ended:
            try:
                data = os.read(self.pipe, 1 << 16)
            except BlockingIOError:
                break
            self.ended = not data
            self._buffer += data
        messages, pos, size = [], 0, len(self._buffer)
        while size - pos >= 4 and size >= (end := pos + 4 + int.from_bytes(self._buffer[pos : pos + 4], "big")):
            messages.append(marshal.loads(self._buffer[pos + 4 : end]))  # noqa: S302 (our owner's, and nobody else's)
            pos = end
        self._buffer = self._buffer[pos:]
        return messages


class Watch:
    """Waits for the end of the last owner."""

    def __init__(self, messages: Messages, owners: Owners, clock: "Callable[[], float]" = time.monotonic) -> None:
        self.sessions: dict[int, Session] = {}
        """By client."""
        self.certificates: dict[Any, Certificates] = {}
        """By what sessions have of TLS."""
        self.deputy: tuple[Any, ...] | None = None
        """How one is started, if a session may need it."""
        self._messages = messages
        self._owners = owners
        self._clock = clock
        self._leaves_at: float | None = None
        """Set at the end of the pipe, when nothing can be told us any more."""

    def wait(self) -> bool:
        """Returns whether the owners are dead; if not, they have other things to do than to need us."""
        while True:
            self._hear()
            now = self._clock()
            if not self._owners.live(now):
                self._hear()  # what was said last; perhaps by another owner
                if self._messages.ended and not self._owners.live(now):
                    return True
            if self._leaves_at is not None and now >= self._leaves_at:
                return False
            self._poll(now)

    def _poll(self, now: float) -> None:
        poller = select.poll()
        if self._leaves_at is None:
            poller.register(self._messages.pipe, select.POLLIN)
        for descriptor in self._owners.descriptors:
            poller.register(descriptor, select.POLLIN)
        waits = [] if self._leaves_at is None else [self._leaves_at - now]
        if self._owners.look_again_after is not None:
            waits.append(self._owners.look_again_after)
        for descriptor, _ in poller.poll(max(0.0, min(waits)) * 1000 if waits else None):
            if descriptor != self._messages.pipe:
                self._owners.ended(descriptor)

    def _hear(self) -> None:
        for message in self._messages.read():
            self._take(*message)
        if self._messages.ended and self._leaves_at is None:
            # The owner has become another program, or has closed what it doesn't know: if it is still our client, it
            # starts another guardian when we end. Its sessions can't outlive the end of its connections for longer.
            longest = max([session.timeout for session in self.sessions.values()], default=0.0)
            self._leaves_at = self._clock() + longest

    def _take(self, kind: str, *rest: "Any") -> None:
        if kind == SESSION:
            session = self.sessions[rest[0]] = Session(*rest[1:])
            self._prepare(session)
        elif kind == OVER:
            self.sessions.pop(rest[0], None)
        elif kind == FORK:
            self._owners.forking(rest[0], self._clock())
        elif kind == CHILD:
            self._owners.forked(*rest)
        elif kind == DIGEST_MD5:
            load_digest_md5(*rest)
        elif kind == DEPUTY:
            self.deputy = rest

    def _prepare(self, session: Session) -> None:
        if session.tls is not None and session.tls not in self.certificates:
            certificates = self.certificates[session.tls] = Certificates(session.tls)
            with contextlib.suppress(OSError, ValueError):  # they may be there when they are needed
                certificates.context()


def main(arguments: "list[str]") -> None:
    """Guards until there is nothing left to guard. Doesn't return."""
    try:
        _guard(*map(int, arguments))
    except BaseException:  # rule 3: a traceback could show a secret
        os._exit(70)
    os._exit(0)


def _guard(pipe: int, status: int, pidfd: int, pid: int) -> None:
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # our code came from there
    watch = Watch(Messages(pipe), Owners(pidfd, pid))
    with contextlib.suppress(OSError):  # whoever wanted to know has died
        os.write(status, UP)
    if watch.wait():
        died_at = time.monotonic()
        deputy = None if watch.deputy is None else Deputy(died_at, *watch.deputy)
        close_sessions(list(watch.sessions.values()), watch.certificates, died_at, deputy=deputy)
        if deputy is not None:
            deputy.finish()
