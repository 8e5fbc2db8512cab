"""What goes wrong at a proxy on demand: which requests a fault is meant for, and how a test waits until it has struck.

Rules of this module:

- A fault only counts, matches and announces. Who holds the bytes does what it says: `relay` for one connection,
  `proxy` for all of them.
- A request belongs to one fault. One that misses its request (an older fault was first, or the connection ended by
  itself) wants the next that fits.
- Handshakes and pings are meant only by those who name them.
- Whoever waits is woken by a change, never by the clock, and is told what did come when the time is over.
- Names with an underscore on `Fault` and those derived from it are for this package: to users they only report.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, get_args

from everlatch.errors import EverlatchError, InvalidArgumentError, InvalidTypeError
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from everlatch.testing.relay import Pipe, ProxyConnection

__all__ = [
    "HANDSHAKE",
    "OPS",
    "PATIENCE",
    "Changes",
    "Direction",
    "Fault",
    "Held",
    "How",
    "ProxyTimeoutError",
    "Request",
    "RequestFault",
    "Wanted",
    "check_choice",
    "op_name",
]

Direction: TypeAlias = Literal["to_server", "to_client", "both"]
"""Which way bytes go."""
How: TypeAlias = Literal["rst", "fin"]
"""How a connection ends: `rst` breaks it, as a dying machine or a firewall does; `fin` closes it, as a dying process
does."""

HANDSHAKE: Final = -10
"""The operation of a connection's first frame, which has none on the wire: asks for a session, or takes it up again.
(The number is that of createSession, which only servers send each other.)"""

OPS: Final = {int(op): op for op in Op}
"""The operations that have a name, by number."""
PATIENCE: Final = 30.0
"""For how many seconds a test waits if it doesn't say."""


class ProxyTimeoutError(EverlatchError, TimeoutError):
    """What a test waited for at a proxy didn't come; the message says what did."""


# --- what came, and what is looked for ----------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Request:
    """One request as it arrived at the proxy, and what the server said to it; whether it went on, and whether the
    client heard of the answer, is up to the faults."""

    connection: ProxyConnection
    xid: int
    op: int
    """An `Op`, `HANDSHAKE`, or a number that has no name."""
    path: str
    """As on the wire: with the chroot, sequential ones without their number. That of the first part, of a multi; `""`
    for operations that have none."""
    size: int
    """Bytes on the wire, the length in front included."""
    code: int | None = None
    """The server's answer as it came to the proxy: 0 if it was done (a transaction says 0 even if a part of it failed),
    else the number of an error (`ServerError.code`; a session that isn't granted counts as expired). `None`: there is
    none yet, or there never will be."""

    @property
    def answered(self) -> bool:
        """Whether the server has executed or refused it, as far as the proxy knows."""
        return self.code is not None


class Wanted(NamedTuple):
    """Which requests are meant."""

    ops: frozenset[int] | None
    path: str | re.Pattern[str] | None

    @classmethod
    def checked(cls, op: int | Collection[int] | None, path: str | re.Pattern[str] | None) -> Wanted:
        """From the arguments of a method of `Proxy`. Raises `InvalidTypeError`: what matches nothing would never
        strike, and a test that waits for it would prove nothing."""
        if path is not None and not isinstance(path, (str, re.Pattern)):
            raise InvalidTypeError(f"a path is str or a compiled pattern, not {path!r}")
        if op is None:
            return cls(None, path)
        ops = (op,) if isinstance(op, int) else tuple(op)
        if not ops or not all(isinstance(one, int) for one in ops):
            raise InvalidTypeError(f"an operation is everlatch.testing.Op or HANDSHAKE, or several of them, not {op!r}")
        return cls(frozenset(ops), path)

    def fits(self, request: Request) -> bool:
        """Whether this one is meant."""
        # Pings come by the clock, and handshakes when the client likes: nobody who counts requests means them.
        if request.op in (HANDSHAKE, Op.PING) if self.ops is None else request.op not in self.ops:
            return False
        if isinstance(self.path, re.Pattern):
            return self.path.fullmatch(request.path) is not None
        return self.path is None or self.path == request.path

    def __str__(self) -> str:
        ops = "any request" if self.ops is None else " or ".join(sorted(op_name(op) for op in self.ops))
        path = self.path.pattern if isinstance(self.path, re.Pattern) else self.path
        return ops if path is None else f"{ops} {path!r}"


class Changes:
    """Lets tasks wait for conditions, which are looked at whenever something has changed."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Something has changed."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def until(
        self, condition: Callable[[], object], timeout: float | None = None, problem: Callable[[], str] = str
    ) -> None:
        """Returns when the condition holds. Raises `ProxyTimeoutError` with the problem."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    await self._next()
        except TimeoutError:
            raise ProxyTimeoutError(f"{problem()} (waited {timeout:g} s)") from None

    async def _next(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)


# --- faults -------------------------------------------------------------------------------------------------------


class Fault:
    """Something that goes wrong on demand; made by the methods of `Proxy`."""

    def __init__(self, name: str) -> None:
        self.times = 0
        """How often it has struck."""
        self._name = name
        self._changes = Changes()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}: struck {self.times} times>"

    async def happened(self, times: int = 1, *, timeout: float | None = PATIENCE) -> None:
        """Returns when it has struck so many times, at once if it has already. Raises `ProxyTimeoutError`."""
        await self._changes.until(
            lambda: self.times >= times, timeout, lambda: f"{self!r}, {times} were waited for: {self._state()}"
        )

    def _state(self) -> str:
        return "nothing came that it concerns"

    def _strike(self) -> None:
        self.times += 1
        self._changes.notify()


class RequestFault(Fault):
    """A fault that waits for certain requests: see `Proxy.lose_reply`."""

    def __init__(
        self, name: str, wanted: Wanted, *, nth: int | None, every: int | None, how: How, on_request: bool
    ) -> None:
        super().__init__(f"{name} {wanted}")
        if any(number is not None and number < 1 for number in (nth, every)):
            raise InvalidArgumentError(f"requests are counted from 1: nth={nth!r}, every={every!r}")
        self.seen = 0
        """How many requests have come that fit."""
        self._wanted = wanted
        self._next = nth or every or 1
        self._every = every or 0
        self._how: How = how
        self._on_request = on_request
        self._cancelled = False

    def cancel(self) -> None:
        """Takes it back: it doesn't strike any more."""
        self._cancelled = True

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
    """A reply that is kept back, and all that comes behind it on its connection: see `Proxy.hold_reply`."""

    def __init__(self, wanted: Wanted, nth: int) -> None:
        super().__init__("hold_reply", wanted, nth=nth, every=None, how="rst", on_request=False)
        self.frames = 0
        """How many frames have been kept back: the reply, and those behind it, until it was released."""
        self._released = False
        self._pipe: Pipe | None = None

    async def reached(self, *, frames: int = 1, timeout: float | None = PATIENCE) -> None:
        """Returns when the reply is here (the server has executed the request), and so many frames with it, itself
        included. Raises `ProxyTimeoutError`."""
        await self._changes.until(
            lambda: self.frames >= frames,
            timeout,
            lambda: f"{self!r}, {self.frames} of {frames} frames are held: {self._state()}",
        )

    def release(self) -> None:
        """Lets everything go, in one write. A reply that isn't here yet won't be held."""
        self._released = True
        if self._pipe is not None:
            self._pipe.flush()

    def _catch(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.frames = 1
        self._strike()

    def _keep(self) -> None:
        """One more frame has come behind it."""
        if not self._released:
            self.frames += 1
            self._changes.notify()


# --- arguments and names ------------------------------------------------------------------------------------------


def check_choice(name: str, value: object, allowed: object) -> None:
    """Raises `InvalidArgumentError` if it is none of the strings that a `Literal` has."""
    if value not in get_args(allowed):
        raise InvalidArgumentError(f"{name} is one of {', '.join(map(repr, get_args(allowed)))}, not {value!r}")


def op_name(op: int) -> str:
    """As people know it; its number if it has no name."""
    return "HANDSHAKE" if op == HANDSHAKE else OPS[op].name if op in OPS else str(op)
