"""What clients sent through a proxy, and how a test says which of it is meant: by kind, by path, by client.

Rules of this module:

- Handshakes and pings are meant only by those who name them.
- A client is asked for its session when a request is compared, not before: a `Client` stays itself when its session
  doesn't.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from everlatch.errors import InvalidArgumentError, InvalidTypeError, hex_id
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from collections.abc import Collection

    from everlatch.testing.relay import ProxyConnection
    from everlatch.testing.waiting import Changes

__all__ = [
    "HANDSHAKE",
    "OPS",
    "HasSession",
    "Request",
    "RequestLog",
    "Wanted",
    "Whose",
    "check_client",
    "client_name",
    "op_name",
]

HANDSHAKE: Final = -10
"""The operation of a connection's first frame, which has none on the wire: asks for a session, or takes it up again.
(The number is that of createSession, which only servers send each other.)"""

OPS: Final = {int(op): op for op in Op}
"""The operations that have a name, by number."""


class HasSession(Protocol):
    """A `Client`, a view that is bound to its session, or a `ProxyConnection`."""

    @property
    def session_id(self) -> int:
        """Its session at this moment, signed; 0: none."""
        ...


Whose: TypeAlias = "HasSession | int | str"
"""Which client is meant: a `Client`; a session id, for clients of other libraries (kazoo: `client.client_id[0]`); an
address, for processes that don't tell theirs (`127.0.0.1:40312`, or an IP address for all that come from there); one of
`Proxy.connections`, for that connection alone.

Who is meant by a session has no connection before it asks for that session: the handshake for a new one is nobody's."""


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
    client: Whose | None

    @classmethod
    def checked(
        cls, op: int | Collection[int] | None, path: str | re.Pattern[str] | None, client: Whose | None
    ) -> Wanted:
        """From the arguments of a method of `Proxy`. Raises `InvalidArgumentError`: what matches nothing would never
        strike, and a test that waits for it would prove nothing."""
        if path is not None and not isinstance(path, (str, re.Pattern)):
            raise InvalidTypeError(f"a path is str or a compiled pattern, not {path!r}")
        check_client(client)
        if op is None:
            return cls(None, path, client)
        ops = (op,) if isinstance(op, int) else tuple(op)
        if not ops or not all(isinstance(one, int) for one in ops):
            raise InvalidTypeError(f"an operation is everlatch.testing.Op or HANDSHAKE, or several of them, not {op!r}")
        return cls(frozenset(ops), path, client)

    def fits(self, request: Request) -> bool:
        """Whether this one is meant."""
        # Pings come by the clock, and handshakes when the client likes: nobody who counts requests means them.
        if request.op in (HANDSHAKE, Op.PING) if self.ops is None else request.op not in self.ops:
            return False
        if self.client is not None and not request.connection.belongs_to(self.client):
            return False
        if isinstance(self.path, re.Pattern):
            return self.path.fullmatch(request.path) is not None
        return self.path is None or self.path == request.path

    def __str__(self) -> str:
        ops = "any request" if self.ops is None else " or ".join(sorted(op_name(op) for op in self.ops))
        path = self.path.pattern if isinstance(self.path, re.Pattern) else self.path
        return ops + ("" if path is None else f" {path!r}") + client_name(self.client)


class RequestLog:
    """The last requests that came, and who waits for one."""

    def __init__(self, max_requests: int, changes: Changes) -> None:
        if max_requests < 1:
            raise InvalidArgumentError(f"max_requests is a number from 1, not {max_requests!r}")
        self.requests: list[Request] = []
        """In the order in which they came. May be cleared by anybody."""
        self._max_requests = max_requests
        self._forgotten = 0
        self._changes = changes

    def add(self, request: Request) -> None:
        """One more; when there are too many, the older half is forgotten."""
        self.requests.append(request)
        if len(self.requests) > self._max_requests:
            oldest = len(self.requests) - max(self._max_requests // 2, 1)
            del self.requests[:oldest]
            self._forgotten += oldest

    async def wait_for(self, wanted: Wanted, count: int, timeout: float | None) -> list[Request]:
        """Returns those that are meant when there are so many. Raises `ProxyTimeoutError`."""
        found: list[Request] = []
        position = self._forgotten

        def enough() -> bool:
            nonlocal position
            if position > self._forgotten + len(self.requests):  # somebody has cleared them
                position = self._forgotten
                found.clear()
            unseen = self.requests[max(position - self._forgotten, 0) :]
            found.extend(request for request in unseen if wanted.fits(request))
            position = self._forgotten + len(self.requests)
            return len(found) >= count

        await self._changes.until(
            enough, timeout, lambda: f"{len(found)} of {count} requests came ({wanted}); {self.summary()}"
        )
        return found

    def summary(self) -> str:
        """The last of them, for messages."""
        last = ", ".join(f"{op_name(request.op)} {request.path!r}" for request in self.requests[-10:])
        return f"the last of {len(self.requests)} requests: {last}" if last else "no request has come"


def op_name(op: int) -> str:
    """As people know it; its number if it has no name."""
    return "HANDSHAKE" if op == HANDSHAKE else OPS[op].name if op in OPS else str(op)


def client_name(client: Whose | None) -> str:
    """For the end of a sentence; nothing for all clients."""
    if client is None:
        return ""
    if isinstance(client, str):
        return f" of {client}"
    return f" of session {hex_id(client if isinstance(client, int) else client.session_id)}"


def check_client(client: Whose | None) -> None:
    """Raises `InvalidArgumentError` for what no client can be."""
    if client is None:
        return
    if isinstance(client, str):
        _check_address(client)
    elif isinstance(client, bool) or not isinstance(getattr(client, "session_id", client), int):
        raise InvalidTypeError(f"a client is a Client, a session id, an address or a ProxyConnection, not {client!r}")
    elif client == 0:
        raise InvalidArgumentError("session id 0 is no session; is the client connected?")


def _check_address(text: str) -> None:
    host, colon, port = text.partition(":")
    try:
        ipaddress.IPv4Address(host)
        int(port if colon else "0")
    except ValueError:
        raise InvalidArgumentError(
            f"a client's address is an IPv4 address, alone or with its port, not {text!r}"
        ) from None
