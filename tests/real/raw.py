"""A connection by hand, built on everlatch's own encoders: for what the client itself refuses to send (promise P10),
and for what it doesn't show of an answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple

from everlatch.wire.auth_records import encode_auth_request
from everlatch.wire.codes import XID_AUTH, Op
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, decode_connect_response, encode_connect_request
from everlatch.wire.headers import REPLY_HEADER, decode_reply_header, frame_request

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

LONGEST = 30.0
"""Seconds after which an answer counts as never coming."""


class Reply(NamedTuple):
    """One frame that is no handshake; events are replies with xid −1."""

    xid: int
    zxid: int
    code: int
    body: bytes


class Raw:
    """A session on one connection. Every wait ends with `TimeoutError` instead of never."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._xid = 0
        self.session_id = 0
        self.password = b""
        self.timeout_ms = 0
        self.read_only: bool | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, address: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Raw]:
        """A connection without ZooKeeper's handshake."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        address: str,
        *,
        session: tuple[int, bytes] = (0, bytes(16)),
        read_only: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[Raw]:
        """A connection with a session: a new one, or somebody's `(session_id, password)`."""
        async with cls.connect(address, tls) as raw:
            await raw.shake_hands(session, read_only=read_only)
            yield raw

    async def shake_hands(
        self, session: tuple[int, bytes] = (0, bytes(16)), *, read_only: bool = False, timeout_ms: int = 30_000
    ) -> None:
        session_id, password = session
        request = ConnectRequest(0, 0, timeout_ms, session_id, password, read_only)
        self._writer.write(frame(encode_connect_request(request)))
        payload = await self._payload()
        response = decode_connect_response(payload, 0, len(payload))
        self.session_id, self.password = response.session_id, response.password
        self.timeout_ms, self.read_only = response.timeout_ms, response.read_only

    def send(self, op: int, body: bytes = b"", *, xid: int | None = None) -> int:
        """Sends a request and returns its xid, the next one if none is given; nothing waits for the answer."""
        if xid is None:
            self._xid += 1
            xid = self._xid
        self._writer.write(frame_request(xid, op, body))
        return xid

    async def receive(self) -> Reply:
        payload = await self._payload()
        xid, zxid, code = decode_reply_header(payload, 0, len(payload))
        return Reply(xid, zxid, code, payload[REPLY_HEADER.size :])

    async def request(self, op: int, body: bytes = b"") -> Reply:
        """A request and its answer, which must be the next thing that comes."""
        xid = self.send(op, body)
        reply = await self.receive()
        assert reply.xid == xid
        return reply

    async def code(self, op: int, body: bytes = b"") -> int:
        """The error code that a request is answered with."""
        return (await self.request(op, body)).code

    async def authenticate(self, scheme: str, credentials: bytes) -> int:
        """The error code of the answer to credentials."""
        self.send(Op.AUTH, encode_auth_request(scheme, credentials), xid=XID_AUTH)
        reply = await self.receive()
        assert reply.xid == XID_AUTH
        return reply.code

    async def hung_up(self) -> bool:
        """Waits for the server to close the connection; whether it said nothing before."""
        async with asyncio.timeout(LONGEST):
            try:
                return await self._reader.read(1) == b""
            except ConnectionResetError:
                return True

    async def close_session(self) -> None:
        assert await self.code(Op.CLOSE_SESSION) == 0

    async def _payload(self) -> bytes:
        async with asyncio.timeout(LONGEST):
            size = int.from_bytes(await self._reader.readexactly(4), "big", signed=True)
            return await self._reader.readexactly(size)
