"""Ending sessions from outside.

Rules of this module: no error message has a password in it; it returns only when a server has said that the session
is over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final

from everlatch.errors import (
    ConnectFailedError,
    EverlatchError,
    InvalidArgumentError,
    LinkError,
    SessionMovedError,
    describe,
    hex_id,
)
from everlatch.paths import parse_connect_string
from everlatch.sasl import SaslTokenError
from everlatch.wire.auth_records import decode_sasl_reply, encode_auth_request, encode_sasl_request
from everlatch.wire.codes import XID_AUTH, Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import ConnectRequest, decode_connect_response, encode_connect_request
from everlatch.wire.headers import REPLY_HEADER, decode_reply_header, frame_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.client import Client
    from everlatch.paths import Endpoint
    from everlatch.sasl import SaslExchange, SaslMechanism
    from everlatch.testing.server import Server
    from everlatch.wire.handshake import ConnectResponse

__all__ = ["SessionNotEndedError", "expire_session"]

_XID: Final = 1
_SASL_XID: Final = 2
_MAX_FRAME: Final = 1 << 20
_PAUSE: Final = 0.02


class SessionNotEndedError(EverlatchError):
    """A session could not be ended; the message says why."""


async def expire_session(
    session: Client | tuple[int, bytes],
    server: str | Server,
    *,
    timeout: float = 10.0,
    auth: Sequence[tuple[str, bytes]] = (),
    sasl: SaslMechanism | None = None,
) -> None:
    """Ends a session on the servers, as its expiry does; returns when it is over and its ephemeral nodes are deleted.

    `session`: a `Client`, or `(session_id, session_password)`. `server`: any server of the ensemble, or `host:port`:
    a real one, not a proxy that cuts, and not its TLS port (of a `Server` the other one is taken). `auth` and `sasl`
    are those of a `Client`, for servers that listen to nobody else.

    A second connection takes the session up, as a client that reconnects, and closes it. To everybody else this is
    an expiry: ephemeral nodes vanish, watches fire, and the client is told at its next handshake that its session has
    ended. Two things differ. No time has to pass: a real session expires when its client was unheard for the session
    timeout. And the server cuts the client's connection when the session is taken up elsewhere, so that the client
    notices at once; a client whose session really expires is mostly cut off, and learns it when it is back.

    Raises `SessionNotEndedError`, after `timeout` seconds at the latest: also when the session had ended before, or
    the password isn't its own (servers don't tell these apart), and when the server refuses to end it.
    """
    session_id, password = session if isinstance(session, tuple) else (session.session_id, session.session_password)
    name = f"session {hex_id(session_id)}"
    if session_id == 0:
        raise InvalidArgumentError("there is no session to end: the id is 0; is the client connected?")
    address = server if isinstance(server, str) else server.plain_address
    takeover = _Takeover(_endpoint(address), session_id, password, timeout, auth, sasl)
    try:
        async with asyncio.timeout(timeout):
            await takeover.run()
    except TimeoutError:
        raise SessionNotEndedError(f"{name} could not be ended at {address} within {timeout:g} s") from None
    except _UnknownSessionError:
        # After it was ours once, its end is our doing: the answer to the close was cut off.
        if not takeover.granted:
            raise SessionNotEndedError(
                f"the server at {address} does not know {name} with this password: it has ended already, "
                "or the password is that of another session"
            ) from None
    except _RefusedError as refused:
        raise SessionNotEndedError(
            f"the server at {address} does not end {name}, error {refused.code}; does it demand `auth` or `sasl` first?"
        ) from None
    except (LinkError, SaslTokenError) as error:
        raise SessionNotEndedError(f"{name} could not be ended at {address}: {describe(error)}") from error


class _UnknownSessionError(Exception):
    """The server's answer to the handshake is that there is no such session."""


class _RefusedError(Exception):
    """The server's answer is this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _endpoint(address: str) -> Endpoint:
    endpoints, chroot = parse_connect_string(address)
    if len(endpoints) != 1 or chroot:
        raise InvalidArgumentError(f"one server, host:port, is needed to end a session, not {address!r}")
    return endpoints[0]


class _Takeover:
    """Connections that take up somebody's session in order to close it."""

    def __init__(
        self,
        endpoint: Endpoint,
        session_id: int,
        password: bytes,
        timeout: float,
        auth: Sequence[tuple[str, bytes]],
        sasl: SaslMechanism | None,
    ) -> None:
        self.granted = False
        """Whether the server has ever taken us for the session's owner."""
        self._endpoint = endpoint
        self._session_id = session_id
        self._sasl = sasl
        self._handshake = frame(
            encode_connect_request(ConnectRequest(0, 0, round(timeout * 1000), session_id, password, False))
        )
        identities = (frame_request(XID_AUTH, Op.AUTH, encode_auth_request(*each)) for each in auth)
        self._close = b"".join(identities) + frame_request(_XID, Op.CLOSE_SESSION, b"")

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
            await self._take_up(_Answers(reader), writer)
            return True
        except (ConnectionResetError, BrokenPipeError, EOFError):
            return False
        except _RefusedError as refused:
            if refused.code == SessionMovedError.code:
                return False
            raise
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _take_up(self, answers: _Answers, writer: asyncio.StreamWriter) -> None:
        # Together: the owner shall have no time to come back between the two. With SASL it has some.
        writer.write(self._handshake if self._sasl is not None else self._handshake + self._close)
        self._check_granted(decode_connect_response(*await answers.next()))
        if self._sasl is not None:
            await self._authenticate(self._sasl.begin(self._endpoint.host), answers, writer)
            writer.write(self._close)
        await answers.of(_XID)

    async def _authenticate(self, exchange: SaslExchange, answers: _Answers, writer: asyncio.StreamWriter) -> None:
        # In a thread: Kerberos asks its KDC.
        token = await asyncio.to_thread(exchange.step, b"")
        while token is not None:
            writer.write(frame_request(_SASL_XID, Op.SASL, encode_sasl_request(token)))
            token = await asyncio.to_thread(exchange.step, decode_sasl_reply(*await answers.of(_SASL_XID)))

    def _check_granted(self, response: ConnectResponse) -> None:
        if response.timeout_ms <= 0 or response.session_id != self._session_id:
            raise _UnknownSessionError
        self.granted = True


class _Answers:
    """What comes from a server, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._frames = FrameReader(_MAX_FRAME)
        self._payloads: deque[bytes] = deque()

    async def next(self) -> tuple[bytes, int, int]:
        """The next payload. Raises `EOFError` when there is none."""
        while not self._payloads:
            data = await self._reader.read(1 << 16)
            if not data:
                raise EOFError
            self._payloads.extend(buf[start:end] for buf, start, end in self._frames.feed(data))
        payload = self._payloads.popleft()
        return payload, 0, len(payload)

    async def of(self, xid: int) -> tuple[bytes, int, int]:
        """The body of the answer with this xid; what else comes is of no interest, unless it refuses something. Raises
        `_RefusedError`."""
        while True:
            payload, start, end = await self.next()
            answered, _, code = decode_reply_header(payload, start, end)
            if code != 0 and answered in (xid, XID_AUTH):
                raise _RefusedError(code)
            if answered == xid:
                return payload, REPLY_HEADER.size, end
