"""The guardian's process: holds the sessions of another process, and closes them when that one has certainly died.

Run by `everlatch.guardian.child` as a program, with four numbers as its arguments: the pipe that messages come by, the
one that says whether we live, a pidfd of the owner that it has opened itself (−1: there are none here), and its pid.

Rules of this file:
1. It is small, in memory above all: nothing of everlatch is imported, no asyncio, `ssl` only for who uses TLS. All that
   takes time is done when a session is registered, not when its owner has died.
2. Nothing is done to a session while an owner lives. The owner is the process that has started us; and each child that
   it has forked and that has said so, for the half of a daemon that goes on is such a child. The end of the pipe says
   nothing: daemons close descriptors, and programs are replaced (`exec`).
3. A session is closed as its client would do it: handshake, credentials, closeSession. Servers that don't answer soon
   get rivals; all is tried again until the session's timeout has passed since the death.
4. Secrets come through the pipe and go to the servers, nowhere else: no message or traceback is printed.
5. Signals that can be blocked are: the owner has blocked them for us before we began.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import select
import socket
import sys
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    Told = tuple[Any, ...]
    """A message: its kind, and what belongs to it."""
    Script = Generator[bytes, bytes, bool]

__all__ = ["CHILD", "FORK", "OVER", "SESSION", "UP", "main", "own_stat"]

SESSION = "session"
"""`(SESSION, key, timeout, servers, used, handshake, authentication, tls)`: a client's session, from now on.

`servers`: (host, port) in the order in which to try them; `used`: (ip, port, host), the one in use, or `None`.
`handshake`, and those in `authentication`, are whole frames.
"""
OVER = "over"
"""`(OVER, key)`: the client is closed; its session is nobody's concern any more."""
FORK = "fork"
"""`(FORK, number)`: an owner is about to fork."""
CHILD = "child"
"""`(CHILD, number, pid, start)`: the child that came of it, and when it started, in clock ticks since boot."""
UP = b"u"
"""What we say when we have begun."""

STAGGER = 0.02
"""Seconds after which a server that says nothing gets a rival."""
SLOW = 0.25
"""The same when it has taken the session, and has only to commit its end."""
SILENCE = 1.5
"""Seconds without a byte after which an attempt is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
"""Seconds between two rounds over all servers in which none has closed the session."""
MOST_AT_ONCE = 48
"""Sessions that are closed at a time: servers take 60 connections from one address, unless told otherwise."""
FORK_TAKES = 5.0
"""Seconds after which a fork that was announced has failed, or its child has died before it could say a word."""
LOOK_EVERY = 0.05
"""Seconds between two looks at the owners, where there are no pidfds."""
LARGEST_FRAME = 1 << 20

_CLOSE_SESSION = b"\0\0\0\x08\0\0\0\x01\xff\xff\xff\xf5"
_XID_CLOSE, _XID_AUTH = 1, -4
_SESSION_EXPIRED = -112


class Session:
    """What is known of a client's session."""

    def __init__(
        self,
        timeout: float,
        servers: list[tuple[str, int]],
        used: tuple[str, int, str] | None,
        handshake: bytes,
        authentication: list[bytes],
        tls: Any,
    ) -> None:
        self.timeout = timeout
        self.servers = servers
        self.used = used
        self.handshake = handshake
        self.authentication = authentication
        self.tls = tls


class FailedError(Exception):
    """An attempt has failed; another server may do better."""


# -- owners ------------------------------------------------------------------------------------------------------------


class Owners:
    """The processes that the sessions belong to."""

    def __init__(self, pidfd: int, pid: int) -> None:
        self._pidfds = {pidfd} if pidfd >= 0 else set()
        self._parent = pid if pidfd < 0 else 0
        """Where there are no pidfds: it lives as long as we are its child."""
        self._children: set[int] = set()
        self._forks: dict[object, float] = {}

    @property
    def descriptors(self) -> set[int]:
        """To be polled."""
        return self._pidfds

    def forking(self, number: object, now: float) -> None:
        """There will be a child, which has yet to say so."""
        self._forks[number] = now + FORK_TAKES

    def forked(self, number: object, pid: int, start: int) -> None:
        """It is an owner, too, unless it has died already and its pid is another's."""
        self._forks.pop(number, None)
        if self._parent:
            self._children.add(pid)
            return
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return
        if start and _stat(pid)[1] not in (0, start):
            os.close(descriptor)
        else:
            self._pidfds.add(descriptor)

    def ended(self, descriptor: int) -> None:
        """The process of that pidfd has."""
        self._pidfds.discard(descriptor)
        os.close(descriptor)

    def look(self, now: float) -> bool:
        """Whether one of them lives, or may."""
        self._forks = {number: end for number, end in self._forks.items() if now < end}
        if self._parent and os.getppid() != self._parent:
            self._parent = -1
        self._children = {pid for pid in self._children if is_there(pid)}
        return bool(self._pidfds or self._parent > 0 or self._children or self._forks)

    def wait(self) -> float | None:
        """Seconds after which to look again though nothing was told."""
        if self._parent:
            return LOOK_EVERY
        return LOOK_EVERY if self._forks and not self._pidfds else None


def own_stat() -> tuple[int, int]:
    """This process's pid, as `/proc` has it (it need not be that of a namespace of its own), and when it started, in
    clock ticks since boot; 0: that isn't known."""
    pid, start = _stat("self")
    return (pid, start) if start else (os.getpid(), 0)


def _stat(pid: int | str) -> tuple[int, int]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
            return int(line.partition(b" ")[0]), int(line.rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0, 0


def is_there(pid: int) -> bool:
    """Whether there is a process with this pid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


# -- messages ----------------------------------------------------------------------------------------------------------


class Messages:
    """What comes through the pipe. Each message has its size before it, in four bytes."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self.ended = False
        self._buffer = b""
        os.set_blocking(pipe, False)

    def read(self) -> list[Told]:
        """All that has come."""
        while not self.ended:
            try:
                data = os.read(self.pipe, 1 << 16)
            except BlockingIOError:
                break
            self.ended = not data
            self._buffer += data
        told = []
        while len(self._buffer) >= 4 and len(self._buffer) >= (end := 4 + int.from_bytes(self._buffer[:4], "big")):
            told.append(marshal.loads(self._buffer[4:end]))  # noqa: S302 (our owner's, and nobody else can write there)
            self._buffer = self._buffer[end:]
        return told


# -- the exchange ------------------------------------------------------------------------------------------------------


def goodbye(session: Session) -> Script:
    """What is said to a server: yields frames, is sent payloads. Returns whether the session is gone, or raises
    `FailedError`."""
    reply = yield session.handshake
    if len(reply) < 16:
        raise FailedError
    if int.from_bytes(reply[4:8], "big", signed=True) <= 0 or reply[8:16] != session.handshake[20:28]:
        return True  # it had ended before
    for frame in session.authentication:
        if _error(_XID_AUTH, (yield frame)):
            raise FailedError
    error = _error(_XID_CLOSE, (yield _CLOSE_SESSION))
    if error not in (0, _SESSION_EXPIRED):
        raise FailedError
    return True


def _error(xid: int, reply: bytes) -> int:
    if len(reply) < 16 or int.from_bytes(reply[:4], "big", signed=True) != xid:
        raise FailedError
    return int.from_bytes(reply[12:16], "big", signed=True)


class Attempt:
    """A connection to one server, on which one session is to be closed."""

    def __init__(self, session: Session, ip: str, port: int, host: str) -> None:
        self.has_session = False
        """Whether the server has taken the session, and has only to commit its end."""
        self._script = goodbye(session)
        self._is_connected = False
        self._in = b""
        self._out = b""
        self.socket = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            problem = self.socket.connect_ex((ip, port))
            if problem not in (0, errno.EINPROGRESS):
                raise OSError(problem, "connect")
        except BaseException:
            self.socket.close()
            raise

    def events(self) -> int:
        """What to poll for."""
        return select.POLLIN | (select.POLLOUT if self._out or not self._is_connected else 0)

    def go_on(self) -> bool:
        """There is something to do. Whether the session is gone. Raises `OSError`, `FailedError`."""
        if not self._is_connected:
            return self._connected()
        if self._out:
            self._send()
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        if not data:
            raise FailedError
        return self._received(data)

    def _connected(self) -> bool:
        problem = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, "connect")
        if self.socket.getsockname() == self.socket.getpeername():
            raise FailedError  # to ourselves: TCP allows that where nobody listens, and our words would be the answer
        self._is_connected = True
        self._out = next(self._script)
        self._send()
        return False

    def _send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._out = self._out[self.socket.send(self._out) :]

    def _received(self, data: bytes) -> bool:
        self._in += data
        while len(self._in) >= 4:
            size = int.from_bytes(self._in[:4], "big", signed=True)
            if not 0 <= size <= LARGEST_FRAME:
                raise FailedError
            if len(self._in) < 4 + size:
                break
            payload, self._in = self._in[4 : 4 + size], self._in[4 + size :]
            self.has_session = True
            try:
                self._out += self._script.send(payload)
            except StopIteration as ended:
                return bool(ended.value)
        if self._out:
            self._send()
        return False


# -- names -------------------------------------------------------------------------------------------------------------


class Names:
    """Looks names up, each in a thread of its own: that may hang. `wake` is readable when one has ended."""

    def __init__(self) -> None:
        self.wake, self._end = os.pipe()
        os.set_blocking(self.wake, False)
        self._found: dict[str, list[str] | None] = {}

    def ask(self, host: str) -> None:
        """Begins, unless it has."""
        if self._found.get(host, ()) is None:
            return
        import _thread

        self._found[host] = None
        _thread.start_new_thread(self._look_up, (host,))

    def answer(self, host: str) -> list[str] | None:
        """Its addresses; `None`: not yet."""
        return self._found[host]

    def heard(self) -> None:
        """Makes `wake` quiet."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)

    def _look_up(self, host: str) -> None:
        ips: list[str] = []
        with contextlib.suppress(OSError, UnicodeError):
            # As bytes: text is looked up by a codec that takes a megabyte.
            name: Any = host.encode("ascii") if host.isascii() else host
            ips = [str(address[0]) for *_, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
        self._found[host] = ips
        os.write(self._end, b".")


def is_ip(host: str) -> bool:
    """Whether a host is an address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host.partition("%")[0])
            return True
    return False


# -- closing -----------------------------------------------------------------------------------------------------------


class Farewell:
    """Closes one session, by as many attempts as it takes."""

    def __init__(self, session: Session, names: Names, died_at: float) -> None:
        self._session = session
        self._names = names
        self.deadline = died_at + session.timeout
        self.attempts: dict[Attempt, float] = {}
        """Those under way, and when each is given up."""
        self._waiting: deque[tuple[str, int, str]] = deque()
        self._unresolved: list[tuple[str, int]] = []
        self._tried: set[tuple[str, int]] = set()
        self._next_at = 0.0
        """When the next one may begin."""
        self._pause = FIRST_PAUSE
        self._begin_round(with_used=True)

    def _begin_round(self, *, with_used: bool) -> None:
        self._tried.clear()
        if with_used and self._session.used is not None:
            self._waiting.append(self._session.used)
        for host, port in self._session.servers:
            if is_ip(host):
                self._waiting.append((host, port, host))
            else:
                self._unresolved.append((host, port))
                self._names.ask(host)

    def _take_resolved(self) -> None:
        left = []
        for host, port in self._unresolved:
            ips = self._names.answer(host)
            if ips is None:
                left.append((host, port))
            else:
                self._waiting += [(ip, port, host) for ip in ips]
        self._unresolved = left

    def move_on(self, now: float) -> float:
        """Begins what is due, and gives up what takes too long. Returns when to be called again."""
        for attempt in [attempt for attempt, end in self.attempts.items() if now >= end]:
            self.leave(attempt, now)
        self._take_resolved()
        if now >= self._next_at:
            self._attempt(now)
        soonest = [self.deadline, *self.attempts.values()]
        if self._waiting or not (self.attempts or self._unresolved):
            soonest.append(self._next_at)
        return min(soonest)

    def _attempt(self, now: float) -> None:
        while self._waiting:
            ip, port, host = self._waiting.popleft()
            if (ip, port) in self._tried:
                continue
            self._tried.add((ip, port))
            try:
                attempt = Attempt(self._session, ip, port, host)
            except (OSError, ValueError):  # no route, no descriptor left, an address that is none
                continue
            self.attempts[attempt] = now + SILENCE
            self._next_at = now + STAGGER
            return
        if not self.attempts and not self._unresolved:
            self._next_at = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._begin_round(with_used=True)

    def heard(self, attempt: Attempt, now: float) -> None:
        """It goes on well."""
        self.attempts[attempt] = now + SILENCE
        self._next_at = max(self._next_at, now + (SLOW if attempt.has_session else STAGGER))

    def leave(self, attempt: Attempt, now: float) -> None:
        """It has failed: the next one at once, if there is one left in this round."""
        del self.attempts[attempt]
        attempt.socket.close()
        if self._waiting or self._unresolved or self.attempts:
            self._next_at = now
        else:
            self._next_at = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._begin_round(with_used=True)

    def stop(self) -> None:
        """It is done, or too late."""
        for attempt in self.attempts:
            attempt.socket.close()
        self.attempts.clear()


def close_sessions(sessions: list[Session], died_at: float, clock: Callable[[], float] = time.monotonic) -> None:
    """Closes them all. Returns when that is done, or the time of the last one has passed."""
    names = Names()
    waiting = deque(sessions)
    active: list[Farewell] = []
    while waiting or active:
        while waiting and len(active) < MOST_AT_ONCE:
            active.append(Farewell(waiting.popleft(), names, died_at))
        now = clock()
        soonest = min([farewell.move_on(now) for farewell in active])
        gone = _handle_events(active, names, max(0.0, soonest - now), clock)
        now = clock()
        for farewell in [one for one in active if one in gone or now >= one.deadline]:
            farewell.stop()
            active.remove(farewell)


def _handle_events(active: list[Farewell], names: Names, timeout: float, clock: Callable[[], float]) -> set[Farewell]:
    """Waits, and does what there is to do. Returns those that are done."""
    poller = select.poll()
    poller.register(names.wake, select.POLLIN)
    attempts = {attempt.socket.fileno(): (one, attempt) for one in active for attempt in one.attempts}
    for descriptor, (_, attempt) in attempts.items():
        poller.register(descriptor, attempt.events())
    gone = set()
    for descriptor, _ in poller.poll(timeout * 1000):
        if descriptor == names.wake:
            names.heard()
            continue
        farewell, attempt = attempts[descriptor]
        if attempt not in farewell.attempts:
            continue
        try:
            if attempt.go_on():
                gone.add(farewell)
            else:
                farewell.heard(attempt, clock())
        except (OSError, FailedError):
            farewell.leave(attempt, clock())
    return gone


# -- the watch ---------------------------------------------------------------------------------------------------------


class Watch:
    """Waits for the end of the last owner."""

    def __init__(self, messages: Messages, owners: Owners, clock: Callable[[], float] = time.monotonic) -> None:
        self.sessions: dict[int, Session] = {}
        self._messages = messages
        self._owners = owners
        self._clock = clock
        self._alone_until: float | None = None
        """Set at the end of the pipe, when nothing can be told us any more."""

    def wait(self) -> bool:
        """Returns whether the owners are dead; if not, nobody needs us any more."""
        while True:
            self._hear()
            now = self._clock()
            if not self._owners.look(now):
                self._hear()  # what was said last
                return True
            if self._alone_until is not None and now >= self._alone_until:
                return False
            self._poll(now)

    def _poll(self, now: float) -> None:
        poller = select.poll()
        if self._alone_until is None:
            poller.register(self._messages.pipe, select.POLLIN)
        for descriptor in self._owners.descriptors:
            poller.register(descriptor, select.POLLIN)
        waits = [wait for wait in (self._owners.wait(), self._alone_until and self._alone_until - now) if wait]
        for descriptor, _ in poller.poll(max(0.0, min(waits)) * 1000 if waits else None):
            if descriptor != self._messages.pipe:
                self._owners.ended(descriptor)

    def _hear(self) -> None:
        for told in self._messages.read():
            self._take(told)
        if self._messages.ended and self._alone_until is None:
            # The owner has become another program, or has closed what it doesn't know: if it is still our client, it
            # starts another guardian when we end. Its sessions can't outlive the end of its connections for longer.
            longest = max([session.timeout for session in self.sessions.values()], default=0.0)
            self._alone_until = self._clock() + longest

    def _take(self, told: Told) -> None:
        kind, *rest = told
        if kind == SESSION:
            key, *about = rest
            self.sessions[key] = Session(*about)
        elif kind == OVER:
            self.sessions.pop(rest[0], None)
        elif kind == FORK:
            self._owners.forking(rest[0], self._clock())
        elif kind == CHILD:
            self._owners.forked(*rest)


def main(arguments: list[str]) -> None:
    """Guards for as long as there is something to guard; when that ends otherwise than by death, we are killed."""
    pipe, status, pidfd, pid = map(int, arguments)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # our code came from there
    watch = Watch(Messages(pipe), Owners(pidfd, pid))
    with contextlib.suppress(OSError):  # whoever wanted to know has died
        os.write(status, UP)
    if watch.wait():
        close_sessions(list(watch.sessions.values()), time.monotonic())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BaseException:
        os._exit(70)
    os._exit(0)
