"""What goes wrong at a proxy on demand, and how a test waits until it has.

    Fault           strikes, and tells how often
    ├── LinkFault       of connections, for as long as it lasts: a black hole, a delay, a slow link
    └── RequestFault    of chosen requests, or of their replies: they are late, slow, cut off, or don't come
        └── Held            they come when the test lets them

Rules of this module:

- A fault counts, matches and announces, and has what is to be done to the bytes: `relay` and `pipe` do it.
- A request belongs to one fault. One that misses its request (an older fault was first, or the connection ended by
  itself) wants the next that fits.
- Names with an underscore on `Fault` and those derived from it are for this package: to users they only report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

from everlatch.errors import InvalidArgumentError
from everlatch.testing.traffic import client_name
from everlatch.testing.waiting import PATIENCE, Changes

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing.pipe import Pipe
    from everlatch.testing.traffic import Request, Wanted, Whose

__all__ = [
    "Direction",
    "Fault",
    "Held",
    "How",
    "LinkFault",
    "LinkFaults",
    "OneWay",
    "Pace",
    "RequestFault",
    "check_choice",
    "ways",
]

OneWay: TypeAlias = Literal["to_server", "to_client"]
"""Requests and what else a client says, or replies and events."""
Direction: TypeAlias = Literal["to_server", "to_client", "both"]
"""Which way bytes go."""
How: TypeAlias = Literal["rst", "fin"]
"""How a connection ends: `rst` breaks it, as a dying machine or a firewall does; `fin` closes it, as a dying process
does."""


class Pace(NamedTuple):
    """How fast bytes pass, and how many at a time."""

    rate: float
    """Bytes a second."""
    piece: int
    """Bytes in one write, at most."""

    @classmethod
    def checked(cls, bytes_per_second: float, piece: int | None = None) -> Pace:
        """From the arguments of a method of `Proxy`. A piece, if it isn't said, is what passes in a fiftieth of a
        second. Raises `InvalidArgumentError`."""
        if not 0 < bytes_per_second < float("inf"):
            raise InvalidArgumentError(f"a rate is a number of bytes a second, above 0, not {bytes_per_second!r}")
        return cls(bytes_per_second, piece or max(1, round(bytes_per_second / 50)))

    @classmethod
    def slowest(cls, *paces: Pace | None) -> Pace | None:
        """That of a way on which all of these hold; `None` if there is none."""
        slow = [pace for pace in paces if pace is not None]
        return cls(min(pace.rate for pace in slow), min(pace.piece for pace in slow)) if slow else None


class Fault:
    """Something that goes wrong on demand; made by the methods of `Proxy`."""

    def __init__(self, name: str) -> None:
        self.times = 0
        """How often it has struck."""
        self._name = name
        self._changes = Changes()
        self._cancelled = False
        self._on_cancel: Callable[[], object] | None = None
        """What goes on when it is no more."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}: struck {self.times} times>"

    async def happened(self, times: int = 1, *, timeout: float | None = PATIENCE) -> None:
        """Returns when it has struck so many times, at once if it has already. Raises `ProxyTimeoutError`."""
        await self._changes.until(
            lambda: self.times >= times, timeout, lambda: f"{self!r}, {times} were waited for: {self._state()}"
        )

    def cancel(self) -> None:
        """Takes it back: it doesn't strike any more, and what nothing else holds up goes on."""
        self._cancelled = True
        if self._on_cancel is not None:
            self._on_cancel()

    def _state(self) -> str:
        return "cancelled" if self._cancelled else "nothing came that it concerns"

    def _strike(self) -> None:
        self.times += 1
        self._changes.notify()


# --- of links -----------------------------------------------------------------------------------------------------


class LinkFault(Fault):
    """What is wrong with connections, all or one client's, until it is cancelled: see `Proxy.black_hole`."""

    def __init__(
        self,
        kind: str,
        direction: Direction,
        client: Whose | None,
        *,
        detail: str = "",
        hole: bool = False,
        delay: float = 0.0,
        pace: Pace | None = None,
    ) -> None:
        super().__init__(f"{kind}{detail} {direction}{client_name(client)}")
        self._kind = kind
        self._client = client
        self._hole = hole
        self._delay = delay
        self._pace = pace


class LinkFaults:
    """The link faults of a proxy that hold at this moment, each way."""

    def __init__(self) -> None:
        self._faults: dict[OneWay, list[LinkFault]] = {"to_server": [], "to_client": []}

    def add(self, fault: LinkFault, direction: Direction) -> None:
        """In place of one of the same kind for the same client."""
        self.end(direction, fault._kind, fault._client)
        for way in ways(direction):
            self._faults[way].append(fault)

    def end(self, direction: Direction, kind: str, client: Whose | None) -> None:
        """One of this kind for this client holds no more."""
        for way in ways(direction):
            kept = [one for one in self._faults[way] if one._kind != kind or one._client != client]
            self._faults[way] = [one for one in kept if not one._cancelled]

    def end_all(self) -> None:
        """None holds any more."""
        for way in self._faults:
            self._faults[way] = []

    def of(self, way: OneWay, belongs_to: Callable[[Whose], bool]) -> list[LinkFault]:
        """Those that hold this way for one connection."""
        faults = self._faults[way]
        if not faults:
            return faults
        active = (fault for fault in faults if not fault._cancelled)
        return [fault for fault in active if fault._client is None or belongs_to(fault._client)]


# --- of requests --------------------------------------------------------------------------------------------------


class RequestFault(Fault):
    """A fault that waits for certain requests: see `Proxy.lose_reply`."""

    def __init__(
        self,
        name: str,
        wanted: Wanted,
        direction: Direction,
        *,
        nth: int | None = None,
        every: int | None = None,
        delay: float = 0.0,
        pace: Pace | None = None,
        after: int = 0,
        how: How | None = None,
    ) -> None:
        super().__init__(f"{name} {wanted}")
        if any(number is not None and number < 1 for number in (nth, every)):
            raise InvalidArgumentError(f"requests are counted from 1: nth={nth!r}, every={every!r}")
        self.seen = 0
        """How many requests have come that fit."""
        self._wanted = wanted
        self._ways = ways(direction)
        self._next = nth or every or 1
        self._every = every or 0
        self._delay = delay
        self._pace = pace
        self._after = after
        self._how: How | None = how
        """The connection ends so, behind so many bytes of the frame; `None`: it doesn't."""

    @property
    def _over(self) -> bool:
        return self._cancelled or (self.times > 0 and not self._every)

    def _aims_at(self, request: Request) -> bool:
        """Counts the request; whether it is the one."""
        if self._over or not self._wanted.fits(request):
            return False
        self.seen += 1
        return self.seen == self._next

    def _taken(self) -> None:
        """It has its request."""
        self._next = self.seen + self._every if self._every else 0

    def _missed(self) -> None:
        """Another fault was first, or the connection ended before: the next one, then."""
        self._next = self.seen + 1

    def _state(self) -> str:
        return "cancelled" if self._cancelled else f"{self.seen} requests came that fit"


class Held(RequestFault):
    """A request or a reply that is kept back, with all behind it on its connection: see `Proxy.hold_reply`."""

    def __init__(self, name: str, wanted: Wanted, way: OneWay, nth: int) -> None:
        super().__init__(name, wanted, way, nth=nth)
        self.frames = 0
        """How many frames have been kept back: that one, and those behind it, until it was released."""
        self._released = False
        self._pipe: Pipe | None = None
        self._on_cancel = self.release

    async def reached(self, *, frames: int = 1, timeout: float | None = PATIENCE) -> None:
        """Returns when it is here, and so many frames with it, itself included. If it is a reply, the server has
        executed the request; if it is a request, the server doesn't know of it. Raises `ProxyTimeoutError`."""
        await self._changes.until(
            lambda: self.frames >= frames,
            timeout,
            lambda: f"{self!r}, {self.frames} of {frames} frames are held: {self._state()}",
        )

    def release(self) -> None:
        """Lets everything go, in one write. What isn't here yet won't be held."""
        self._released = True
        if self._pipe is not None:
            self._pipe.flush()

    def _catch(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.frames = 1

    def _keep(self) -> None:
        """One more frame has come behind it."""
        if not self._released:
            self.frames += 1
            self._changes.notify()


# --- arguments ----------------------------------------------------------------------------------------------------


def ways(direction: Direction) -> tuple[OneWay, ...]:
    """One, or the two that both are."""
    return ("to_server", "to_client") if direction == "both" else (direction,)


def check_choice(name: str, value: object, allowed: object) -> None:
    """Raises `InvalidArgumentError` if it is none of the strings that a `Literal` has."""
    if value not in get_args(allowed):
        raise InvalidArgumentError(f"{name} is one of {', '.join(map(repr, get_args(allowed)))}, not {value!r}")
