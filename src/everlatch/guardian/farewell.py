"""Ends sessions: each at the server that it was used with, and at others if that doesn't answer soon.

Part of the guardian's process; see `process`. Rules: a server that says nothing gets a rival; after a round in which no
server has done it there is a short pause, and all names are looked up anew; all ends when the session's timeout has
passed since its owner died. What a server has taken and not ended, for it demands Kerberos, is the deputy's.
"""

import select
import time
from collections import deque

from everlatch.guardian.connection import Attempt, Certificates
from everlatch.guardian.exchange import FailedError, Session
from everlatch.guardian.names import Names, is_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from everlatch.guardian.deputy import Deputy

__all__ = ["Farewell", "close_sessions"]

STAGGER = 0.02
"""Seconds after which a server that says nothing gets a rival."""
STAGGER_TLS = 0.2
"""The same where a server has to shake hands by TLS first: that is work, and ten sessions are ten times as much. Rivals
would only be more of it."""
SLOW = 0.25
"""The same when it has taken the session, and has only to commit its end."""
SILENCE = 1.5
"""Seconds without a byte after which an attempt is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
"""Seconds between two rounds."""
MOST_AT_ONCE = 48
"""Sessions that are ended at a time, for each ensemble: servers take 60 connections from one address, unless told
otherwise. An ensemble that is down holds up no other."""


class Farewell:
    """Ends one session, by as many attempts as it takes."""

    def __init__(self, session: Session, names: Names, certificates: "Certificates | None", died_at: float) -> None:
        self.session = session
        self._names = names
        self._certificates = certificates
        self._stagger = STAGGER if certificates is None else STAGGER_TLS
        self.ensemble = frozenset(session.servers)
        self.deadline = died_at + session.timeout
        self.attempts: dict[Attempt, float] = {}
        """Those under way, and when each is given up."""
        self._waiting: deque[tuple[str, int, str]] = deque()
        self._unresolved: list[tuple[str, int]] = []
        self._tried: set[tuple[str, int]] = set()
        self._next_at = 0.0
        """When the next one may begin."""
        self._pause = FIRST_PAUSE
        self._begin_round()

    def _begin_round(self) -> None:
        self._tried.clear()
        if self.session.used is not None:
            self._waiting.append(self.session.used)
        for host, port in self.session.servers:
            if is_ip(host):
                self._waiting.append((host, port, host))
            else:
                self._unresolved.append((host, port))
                self._names.ask(host)

    def _take_resolved(self) -> None:
        asked, self._unresolved = self._unresolved, []
        for host, port in asked:
            ips = self._names.answer(host)
            if ips is None:
                self._unresolved.append((host, port))
            else:
                self._waiting += [(ip, port, host) for ip in ips]

    def move_on(self, now: float) -> float:
        """Begins what is due, and gives up what takes too long. Returns when to be called again."""
        for attempt in [attempt for attempt, end in self.attempts.items() if now >= end]:
            self.failed(attempt, now)
        self._take_resolved()
        if now >= self._next_at:
            self._attempt(now)
        due = [self.deadline, *self.attempts.values()]
        if self._waiting or not (self.attempts or self._unresolved):
            due.append(self._next_at)
        return min(due)

    def _attempt(self, now: float) -> None:
        while self._waiting:
            ip, port, host = self._waiting.popleft()
            if (ip, port) in self._tried:
                continue
            self._tried.add((ip, port))
            try:
                attempt = Attempt(self.session, ip, port, host, self._certificates)
            except (OSError, ValueError):  # no route, no descriptor left, an address that is none, no certificates
                continue
            self.attempts[attempt] = now + SILENCE
            self._next_at = now + self._stagger
            return
        if not self.attempts and not self._unresolved:
            self._next_at = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._begin_round()

    def heard(self, attempt: Attempt, now: float) -> None:
        """It goes on well."""
        self.attempts[attempt] = now + SILENCE
        self._next_at = max(self._next_at, now + (SLOW if attempt.has_answered else self._stagger))

    def failed(self, attempt: Attempt, now: float) -> None:
        """The next one at once."""
        del self.attempts[attempt]
        attempt.socket.close()
        self._next_at = now

    def takes_kerberos(self, attempt: Attempt) -> bool:
        """Whether this one, which has failed, may have done so for want of it."""
        return attempt.has_answered and self.session.kerberos is not None and self.session.prove is None

    def stop(self) -> None:
        """It is done, or too late."""
        for attempt in self.attempts:
            attempt.socket.close()
        self.attempts.clear()


def close_sessions(
    sessions: "list[Session]",
    certificates: "dict[Any, Certificates]",
    died_at: float,
    clock: "Callable[[], float]" = time.monotonic,
    deputy: "Deputy | None" = None,
    names: "Names | None" = None,
) -> None:
    """Ends them all. Returns when that is done, or the time of the last one has passed, and the others are the
    deputy's. `certificates`: by what a session has of TLS. `names`: those of this thread."""
    names = names or Names()
    waiting: dict[Any, deque[Farewell]] = {}
    for session in sessions:
        farewell = Farewell(session, names, certificates.get(session.tls), died_at)
        waiting.setdefault(farewell.ensemble, deque()).append(farewell)
    active: list[Farewell] = []
    try:
        while _take_on(active, waiting):
            now = clock()
            due = min([farewell.move_on(now) for farewell in active])
            gone = _handle_events(active, names, max(0.0, due - now), clock, deputy)
            now = clock()
            for farewell in [one for one in active if one in gone or now >= one.deadline]:
                farewell.stop()
                active.remove(farewell)
    finally:
        for farewell in active:
            farewell.stop()


def _take_on(active: "list[Farewell]", waiting: "dict[Any, deque[Farewell]]") -> bool:
    """Whether there is anything to do."""
    for ensemble, queue in waiting.items():
        room = MOST_AT_ONCE - sum(one.ensemble == ensemble for one in active)
        active += [queue.popleft() for _ in range(min(room, len(queue)))]
    return bool(active)


def _handle_events(
    active: "list[Farewell]",
    names: Names,
    timeout: float,
    clock: "Callable[[], float]",
    deputy: "Deputy | None",
) -> "set[Farewell]":
    """Waits, and does what there is to do. Returns those that are done, or are the deputy's now."""
    poller = select.poll()
    poller.register(names.wake, select.POLLIN)
    attempts = {attempt.socket.fileno(): (one, attempt) for one in active for attempt in one.attempts}
    for descriptor, (_, attempt) in attempts.items():
        poller.register(descriptor, attempt.events)
    gone = set()
    for descriptor, _ in poller.poll(timeout * 1000):
        if descriptor == names.wake:
            names.heard()
            continue
        farewell, attempt = attempts[descriptor]
        try:
            if attempt.go_on():
                gone.add(farewell)
            else:
                farewell.heard(attempt, clock())
        except (OSError, ValueError, FailedError):
            farewell.failed(attempt, clock())
            if deputy is not None and farewell.takes_kerberos(attempt) and farewell not in gone:
                gone.add(farewell)
                deputy.take(farewell.session)
    return gone
