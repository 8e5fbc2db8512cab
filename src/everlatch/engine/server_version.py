"""Which version of ZooKeeper the server in use has, for the operations that older servers lack.

A server answers an operation that it doesn't know with −6 and closes the connection, and the replies to earlier
requests may be lost with it. Nothing on a session's wire tells the version, so the server is asked `srvr` (the one
four-letter word that every server answers by default) over a connection of its own.

Rules:
1. Nothing is asked before somebody needs to know; then once for each connection of the session, for the next may go to
   another server, or to the same one after its upgrade.
2. There is one question at a time, shared by all who wait for it. It goes on when they go away; `close` ends it.
3. Who can't be asked (no such word, a proxy, another protocol on that port) has an unknown version, and every
   operation is tried there. One that was refused is not tried again for ten minutes: each attempt costs the connection.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from everlatch.admin import parse_version, srvr
from everlatch.errors import (
    CallTimeoutError,
    EverlatchError,
    UnimplementedError,
    UnsupportedByServerError,
    WriteTimeoutError,
    describe,
)
from everlatch.session.states import CONNECTED_STATES
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from everlatch.admin import ServerStatus, ServerVersion
    from everlatch.engine.engine import Engine
    from everlatch.paths import Endpoint
    from everlatch.session.requests import Operation
    from everlatch.tls import TlsSettings
    from everlatch.types import Timeout, Watch

__all__ = ["ServerVersions"]

logger = logging.getLogger("everlatch")

_PATIENCE: Final = 2.0
"""Seconds to wait for an answer. A server that serves gives it in milliseconds; one that hangs will be left."""
_CLOSING_PATIENCE: Final = 1.0
_UNTIL_TRIED_AGAIN: Final = 600.0


class ServerVersions:
    """Knows the version of the server that an engine is connected to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._conn = 0
        """The connection that `_lookup` belongs to."""
        self._lookup: asyncio.Task[ServerStatus | None] | None = None
        self._in_vain: dict[int, float] = {}
        """Until when an operation isn't tried again where the version is unknown: rule 3."""

    async def require(self, operation: str, since: str, *, path: str, timeout: float | None, op: int = 0) -> None:
        """Returns when a server is in use that has `operation`, which came with the version `since`, or of which that
        is unknown. Waits for a connection if there is none.

        Raises `UnsupportedByServerError` when it is older; `CallTimeoutError` after `timeout` seconds; and why no call
        is taken, if none is.
        """
        try:
            async with asyncio.timeout(timeout):
                version = await self._in_use()
        except TimeoutError as error:
            if timeout is None or isinstance(error, EverlatchError):
                raise
            raise CallTimeoutError(operation, path, timeout, sent=False) from None
        if version is None:
            if self._engine.now() < self._in_vain.get(op, 0.0):
                raise UnsupportedByServerError(operation, None, since, path)
        elif _release(version) < _release(parse_version(since)):
            raise UnsupportedByServerError(operation, ".".join(map(str, version.numbers)), since, path)

    async def submit(
        self,
        since: str,
        operation: Operation,
        path: str,
        body: bytes,
        watch: Watch | None,
        timeout: Timeout,
        generation: int,
    ) -> Any:
        """Submits what servers know since a version, if the server in use is not known to be older, and returns the
        result. `timeout` is for both. Raises what `Client`'s methods say they raise."""
        seconds = self._engine.seconds(timeout)
        started = self._engine.now()
        await self.require(operation.name, since, path=path, timeout=seconds, op=operation.op)
        left = None if seconds is None else max(0.0, seconds - (self._engine.now() - started))
        try:
            return await self._engine.submit(operation, path, body, watch, left, generation)
        except CallTimeoutError as error:
            assert seconds is not None
            raise _timed_out(error, seconds) from None
        except UnimplementedError:
            if operation.op == Op.RECONFIG:  # a standalone server says the same
                raise
            self._in_vain[operation.op] = self._engine.now() + _UNTIL_TRIED_AGAIN
            raise UnsupportedByServerError(operation.name, None, since, path) from None

    async def close(self) -> None:
        """Ends the question that is being asked, if any."""
        lookup, self._lookup = self._lookup, None
        if lookup is not None and not lookup.done():
            lookup.cancel()
            await asyncio.wait({lookup}, timeout=_CLOSING_PATIENCE)

    async def _in_use(self) -> ServerVersion | None:
        """The version of the server in use at the moment when this returns; `None`: unknown."""
        session = self._engine.session
        while True:
            await self._engine.wait_connected(None)
            if session.state not in CONNECTED_STATES:
                continue  # lost again before it was our turn
            conn = session.conn
            status = await self.status_of(conn)
            if session.conn == conn:
                return status.version if status is not None and status.version.numbers else None

    async def status_of(self, conn: int) -> ServerStatus | None:
        """What the server of this connection, the present one, told of itself when it was asked; `None`: nothing."""
        lookup = self._lookup
        if lookup is None or self._conn != conn:
            if lookup is not None:
                lookup.cancel()  # who waits for it looks again, for its connection has gone
            self._conn = conn
            lookup = self._lookup = asyncio.create_task(_ask(*self._whom()))
        if not lookup.done():
            await asyncio.wait({lookup})
        return None if lookup.cancelled() else lookup.result()

    def _whom(self) -> tuple[Endpoint | None, TlsSettings | None, str | None]:
        address = self._engine.session.address
        return self._engine.server_address, self._engine.tls, address.endpoint.host if address is not None else None


async def _ask(server: Endpoint | None, tls: TlsSettings | None = None, host: str | None = None) -> ServerStatus | None:
    if server is None:
        return None
    try:
        return await srvr(server, timeout=_PATIENCE, tls=tls, server_hostname=host)
    except Exception as error:  # rule 3, whatever the reason
        logger.debug("nothing is known of %s: %s", server, describe(error))
        return None


def _timed_out(error: CallTimeoutError, timeout: float) -> CallTimeoutError:
    """The error of a request that was given what was left of a timeout, in the terms of the whole."""
    if isinstance(error, WriteTimeoutError):
        return WriteTimeoutError(error.operation, error.path, timeout)
    return CallTimeoutError(error.operation, error.path, timeout, sent=error.sent)


def _release(version: ServerVersion) -> tuple[int, ...]:
    """Three numbers: 3.7 is no less than 3.7.0."""
    return (*version.numbers, 0, 0)[:3]
