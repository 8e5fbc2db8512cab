"""The errors that calls and attempts end with when it is not the server's answer that ends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everlatch.errors import (
    AuthFailedError,
    ClientClosedError,
    ConnectFailedError,
    EverlatchError,
    GaveUpError,
    HandshakeRefusedError,
    HandshakeTimeoutError,
    NotReadOnlyError,
    ResultLostError,
)
from everlatch.types import Stat
from everlatch.wire.records import encode_create2_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.errors import ServerError
    from everlatch.session.requests import Request

__all__ = [
    "auth_refused",
    "client_closed",
    "created",
    "existing",
    "gave_up",
    "handshake_refused",
    "read_only",
    "settle",
]


def settle(request: Request, result_of: Callable[[Request], Any]) -> None:
    """Ends the call with what `result_of` returns or raises."""
    try:
        request.complete(result_of(request))
    except EverlatchError as error:
        request.fail(error)


def created(request: Request, path: str, stat: Stat) -> Any:
    """What a creation returns that has made this node: `path` is the servers'."""
    reply = encode_create2_reply(path, stat)
    return request.operation.decode(reply, 0, len(reply))


def existing(request: Request, path: str, stat: Stat | ServerError | None) -> Any:
    """What an idempotent creation returns that has found its node there: `path`, the servers', was looked at
    afterwards. Raises `ResultLostError`."""
    if isinstance(stat, Stat):
        return created(request, path, stat)
    what = "it was deleted before it could be looked at" if stat is None else f"can't be looked at: {stat}"
    raise ResultLostError(request.operation.name, request.path, 0, f"the node exists, but {what}")


def client_closed(request: Request) -> EverlatchError:
    """After `close()`."""
    return ClientClosedError(f"{request.operation.name} {request.path!r}: the client is closed")


def read_only(request: Request) -> EverlatchError:
    """What a read-only server can do nothing with."""
    return NotReadOnlyError(request.operation.name, request.path)


def gave_up(request: Request) -> EverlatchError:
    """The retry policy has ended it."""
    return GaveUpError(f"{request.operation.name} {request.path!r}: the client has given up; close it")


def auth_refused(request: Request) -> EverlatchError:
    """The servers have refused the credentials."""
    return AuthFailedError(request.operation.name, request.path)


def handshake_refused(reason: BaseException, hint: str = "") -> BaseException:
    """A connection that ends during the handshake was refused; a failure to connect stays what it is. `hint`: what may
    be behind it."""
    if isinstance(reason, (ConnectFailedError, HandshakeTimeoutError)):
        return reason
    refused = HandshakeRefusedError(f"the connection ended during the handshake: {reason}{hint}")
    refused.__cause__ = reason
    return refused
