"""Sessions: ids, passwords, timeouts, and when they end. Pure: `now` is passed in, in seconds, by any clock that only
goes forward.

Rules of this module: a deadline is rounded up to a multiple of the tick, as on real servers, so that a session ends
between its timeout and a tick later. What a session owns is the tree's business, on which connection it is the
server's.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Session", "Sessions", "password_of"]

_SECRET: Final = 0xB3415C00
_MASK: Final = (1 << 48) - 1
_MULTIPLIER: Final = 0x5DEECE66D


def password_of(session_id: int) -> bytes:
    """The 16 bytes that ZooKeeper gives to a session: `java.util.Random` with the id as its seed, so no real secret."""
    state = (session_id ^ _SECRET ^ _MULTIPLIER) & _MASK
    password = b""
    for _ in range(4):
        state = (state * _MULTIPLIER + 0xB) & _MASK
        password += (state >> 16).to_bytes(4, "little")
    return password


class Session:
    """One session that is alive."""

    def __init__(self, session_id: int, timeout_ms: int) -> None:
        self.id = session_id
        """Signed, as on the wire."""
        self.password = password_of(session_id)
        self.timeout_ms = timeout_ms
        self.deadline = 0.0
        """When it ends unless it is touched before."""


class Sessions:
    """All sessions that are alive. `tick` is in seconds; the limits of timeouts are 2 and 20 ticks unless given, in
    seconds too."""

    def __init__(
        self, tick: float, shortest: float | None = None, longest: float | None = None, *, server_id: int = 1
    ) -> None:
        self._tick_ms = max(1, round(tick * 1000))
        self._shortest_ms = 2 * self._tick_ms if shortest is None else round(shortest * 1000)
        self._longest_ms = 20 * self._tick_ms if longest is None else round(longest * 1000)
        self._server_id = server_id
        self._newest = 0
        self._alive: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._alive)

    @property
    def alive(self) -> tuple[Session, ...]:
        """Oldest first."""
        return tuple(self._alive.values())

    def negotiated(self, requested_ms: int) -> int:
        """The timeout that a client gets."""
        return max(self._shortest_ms, min(self._longest_ms, requested_ms))

    def open(self, requested_ms: int, now: float, time_ms: int) -> Session:
        """A new session. `time_ms`, since the epoch, makes its id differ from those of an earlier run."""
        # The server's number, 40 bits of the time, and 16 to count with.
        self._newest = (
            self._newest + 1 if self._newest else _signed(self._server_id << 56 | (time_ms << 24 & _ALL) >> 8)
        )
        session = Session(self._newest, self.negotiated(requested_ms))
        self._alive[session.id] = session
        self.touch(session, now)
        return session

    def reattach(self, session_id: int, password: bytes | None, requested_ms: int, now: float) -> Session | None:
        """The session, with its timeout negotiated anew; `None` if it has ended or the password is wrong."""
        session = self._alive.get(session_id)
        if session is None or session.password != password:
            return None
        session.timeout_ms = self.negotiated(requested_ms)
        self.touch(session, now)
        return session

    def touch(self, session: Session, now: float) -> None:
        """It was heard of."""
        session.deadline = (int(now * 1000 + session.timeout_ms) // self._tick_ms + 1) * self._tick_ms / 1000

    def end(self, session: Session) -> None:
        """It is over."""
        del self._alive[session.id]

    def next_deadline(self) -> float | None:
        """When the first one ends unless it is touched."""
        return min((session.deadline for session in self._alive.values()), default=None)

    def expired(self, now: float) -> list[Session]:
        """Those whose time is over; each has to be ended."""
        return [session for session in self._alive.values() if now >= session.deadline]


_ALL: Final = (1 << 64) - 1


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
