"""Sessions: ids, passwords, timeouts, and when they end. Pure: `now` is passed in, in seconds, by any clock that only
goes forward.

Rules of this module: a deadline is rounded up to a multiple of the tick, as on real servers, so that a session ends
between its timeout and a tick later. What a session owns is the tree's business; on which connection it is, that of
the server that has the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from everlatch.devserver.options import Options

__all__ = ["Session", "SessionIds", "Sessions", "negotiated", "password_of"]

_SECRET: Final = 0xB3415C00
_MASK: Final = (1 << 48) - 1
_MULTIPLIER: Final = 0x5DEECE66D
_ALL: Final = (1 << 64) - 1


def password_of(session_id: int) -> bytes:
    """The 16 bytes that ZooKeeper gives to a session: `java.util.Random` with the id as its seed, so no real secret."""
    state = (session_id ^ _SECRET ^ _MULTIPLIER) & _MASK
    password = b""
    for _ in range(4):
        state = (state * _MULTIPLIER + 0xB) & _MASK
        password += (state >> 16).to_bytes(4, "little")
    return password


def negotiated(requested_ms: int, options: Options) -> int:
    """The timeout that a client gets: within the limits, which are 2 and 20 ticks unless set."""
    tick_ms = round(options.tick * 1000)
    shortest, longest = options.min_session_timeout, options.max_session_timeout
    shortest_ms = 2 * tick_ms if shortest is None else round(shortest * 1000)
    longest_ms = 20 * tick_ms if longest is None else round(longest * 1000)
    return max(shortest_ms, min(longest_ms, requested_ms))


class SessionIds:
    """Ids of new sessions: the number of the server, 40 bits of the time, and 16 to count with."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._newest = 0

    def next(self, time_ms: int) -> int:
        """An id, signed as on the wire. The first one's time, since the epoch, keeps it apart from those of an earlier
        run."""
        if not self._newest:
            self._newest = _signed(self._server << 56 | (time_ms << 24 & _ALL) >> 8)
        else:
            self._newest += 1
        return self._newest


class Session:
    """One session that is alive, as the server knows it that tells when sessions end."""

    def __init__(self, session_id: int, timeout_ms: int) -> None:
        self.id = session_id
        """Signed, as on the wire."""
        self.timeout_ms = timeout_ms
        self.deadline = 0.0
        """When it ends unless it is touched before."""
        self.owner: int | None = None
        """The server that has its connection; `None` when nobody has said so since the leader's election."""


class Sessions:
    """All sessions that are alive. `tick` is in seconds."""

    def __init__(self, tick: float) -> None:
        self._tick_ms = max(1, round(tick * 1000))
        self._alive: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._alive)

    @property
    def alive(self) -> tuple[Session, ...]:
        """Oldest first."""
        return tuple(self._alive.values())

    def get(self, session_id: int) -> Session | None:
        """The session, unless it has ended."""
        return self._alive.get(session_id)

    def begin(self, session_id: int, timeout_ms: int, now: float, owner: int | None = None) -> Session:
        """A session is known from now on."""
        session = self._alive[session_id] = Session(session_id, timeout_ms)
        session.owner = owner
        self.touch(session, now)
        return session

    def touch(self, session: Session, now: float) -> None:
        """It was heard of."""
        session.deadline = (int(now * 1000 + session.timeout_ms) // self._tick_ms + 1) * self._tick_ms / 1000

    def end(self, session_id: int) -> None:
        """It is over, if it wasn't already."""
        self._alive.pop(session_id, None)

    def next_deadline(self) -> float | None:
        """When the first one ends unless it is touched."""
        return min((session.deadline for session in self._alive.values()), default=None)

    def expired(self, now: float) -> list[Session]:
        """Those whose time is over; each has to be ended."""
        return [session for session in self._alive.values() if now >= session.deadline]


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
