"""Ending sessions from outside.

Rules of this module: no error message has a password in it; it returns only when a server has said that the session
is over.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from everlatch.errors import ConnectFailedError, EverlatchError, InvalidArgumentError, LinkError, describe, hex_id
from everlatch.paths import parse_connect_string
from everlatch.wire.codes import Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import ConnectRequest, decode_connect_response, encode_connect_request
from everlatch.wire.headers import decode_reply_header, frame_request

if TYPE_CHECKING:
    from everlatch.client import Client
    from everlatch.paths import Endpoint
    from everlatch.wire.handshake import ConnectResponse

__all__ = ["SessionNotEndedError", "expire_session"]

_XID: Final = 1
_MAX_FRAME: Final = 1 << 20
_PAUSE: Final = 0.02


class SessionNotEndedError(EverlatchError):
    """A session could not be ended; the message says why."""


async def expire_session(session: Client | tuple[int, bytes], server_address: str, *, timeout: float = 10.0) -> None:
    """Ends a session on the servers, as its expiry does; returns when it is over and its ephemeral nodes are deleted.

    `session`: a `Client`, or `(session_id, session_password)`. `server_address`: `host:port` of any server of the
    ensemble: of a real one, not of a proxy that cuts.

    A second connection takes the session up, as a client that reconnects, and closes it. To everybody else this is
    an expiry: ephemeral nodes vanish, watches fire, and the client is told at its next handshake that its session has
    ended. Two things differ. No time has to pass: a real session expires when its client was unheard for the session
    timeout. And the server cuts the client's connection when the session is taken up elsewhere, so that the client
    notices at once; a client whose session really expires is mostly cut off, and learns it when it is back.

    Raises `SessionNotEndedError`, after `timeout` seconds at the latest: also when the session had ended before, or
    the password isn't its own (servers don't tell these apart).
    """
    session_id, password = session if isinstance(session, tuple) else (session.session_id, session.session_password)
    name = f"session {hex_id(session_id)}"
    if session_id == 0:
        raise InvalidArgumentError("there is no session to end: the id is 0; is the client connected?")
    takeover = _Takeover(_endpoint(server_address), session_id, password, timeout)
    try:
        async with asyncio.timeout(timeout):
            await takeover.run()
    except TimeoutError:
        raise SessionNotEndedError(f"{name} could not be ended at {server_address} within {timeout:g} s") from None
    except _UnknownSessionError:
        # After it was ours once, its end is our doing: the answer to the close was cut off.
        if not takeover.granted:
            raise SessionNotEndedError(
                f"the server at {server_address} does not know {name} with this password: it has ended already, "
                "or the password is that of another session"
            ) from None
    except LinkError as error:
        raise SessionNotEndedError(f"{name} could not be ended at {server_address}: {describe(error)}") from error


class _UnknownSessionError(Exception):
    """The server's answer to the handshake is that there is no such session."""


def _endpoint(address: str) -> Endpoint:
    endpoints, chroot = parse_connect_string(address)
    if len(endpoints) != 1 or chroot:
        raise InvalidArgumentError(f"one server, host:port, is needed to end a session, not {address!r}")
    return endpoints[0]


class _Takeover:
    """Connections that take up somebody's session in order to close it."""

    def __init__(self, endpoint: Endpoint, session_id: int, password: bytes, timeout: float) -> None:
        self.granted = False
        """Whether the server has ever taken us for the session's owner."""
        self._endpoint = endpoint
        self._session_id = session_id
        handshake = ConnectRequest(0, 0, round(timeout * 1000), session_id, password, False)
        # Together: the owner shall have no time to come back between the two.
        self._data = frame(encode_connect_request(handshake)) + frame_request(_XID, Op.CLOSE_SESSION, b"")

    async def run(self) -> None:
        """Returns when the session is closed."""
        while True:
            if await self._attempt():
                return
            # Its owner was faster and took the session back, which cut our connection; or the server isn't serving.
            await asyncio.sleep(_PAUSE)

    async def _attempt(self) -> bool:
        """Whether the server has closed the session; `False` if it closed the connection instead."""
        try:
            reader, writer = await asyncio.open_connection(*self._endpoint)
        except OSError as error:
            raise ConnectFailedError(f"no connection to {self._endpoint}: {describe(error)}") from error
        try:
            writer.write(self._data)
            return await self._closed(reader)
        except (ConnectionResetError, BrokenPipeError):
            return False
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _closed(self, reader: asyncio.StreamReader) -> bool:
        frames = FrameReader(_MAX_FRAME)
        answered = False
        while data := await reader.read(1 << 16):
            for buf, start, end in frames.feed(data):
                if not answered:
                    answered = True
                    self._check_granted(decode_connect_response(buf, start, end))
                elif decode_reply_header(buf, start, end)[0] == _XID:
                    return True
        return False

    def _check_granted(self, response: ConnectResponse) -> None:
        if response.timeout_ms <= 0 or response.session_id != self._session_id:
            raise _UnknownSessionError
        self.granted = True
