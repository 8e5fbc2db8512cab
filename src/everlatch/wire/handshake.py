"""The first payload each way, which has no header.

Rules of this file: session ids are signed here, as on the wire. The read-only byte came with 3.4 and may be missing in
either direction; `None` says so. What an answer means (expired, refused) is decided by the session, not here.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from everlatch.errors import InvalidArgumentError, ProtocolError
from everlatch.wire.headers import REPLY_HEADER
from everlatch.wire.jute import decode_bool, decode_buffer, encode_bool, encode_buffer, truncated

__all__ = [
    "ConnectRequest",
    "ConnectResponse",
    "decode_connect_request",
    "decode_connect_response",
    "encode_connect_request",
    "encode_connect_response",
]

_REQUEST = struct.Struct(">iqiq")
_RESPONSE = struct.Struct(">iiq")
_SHORTEST_RESPONSE = 36


class ConnectRequest(NamedTuple):
    """What a client asks for; `session_id` 0 is a new session."""

    protocol_version: int
    last_zxid_seen: int
    timeout_ms: int
    session_id: int
    password: bytes | None
    read_only: bool | None
    """Whether a read-only server will do; `None` leaves the byte out, and the server then does so too."""

    def __repr__(self) -> str:  # whoever has the password has the session
        return _without_password(self)


class ConnectResponse(NamedTuple):
    """What the server grants; `timeout_ms` 0 says that the session has expired."""

    protocol_version: int
    timeout_ms: int
    session_id: int
    password: bytes
    read_only: bool | None
    """Whether this server is read-only; `None` if it didn't say, which means no."""

    def __repr__(self) -> str:
        return _without_password(self)


def _without_password(record: ConnectRequest | ConnectResponse) -> str:
    told = (f"{name}={'…' if name == 'password' else repr(value)}" for name, value in record._asdict().items())
    return f"{type(record).__name__}({', '.join(told)})"


def encode_connect_request(request: ConnectRequest) -> bytes:
    """The payload, without the frame's length."""
    version, zxid, timeout_ms, session_id, password, read_only = request
    try:
        fixed = _REQUEST.pack(version, zxid, timeout_ms, session_id)
    except struct.error as error:
        # Not the request itself: it has the password.
        numbers = f"version {version!r}, zxid {zxid!r}, timeout {timeout_ms!r} ms, session {session_id!r}"
        raise InvalidArgumentError(f"connect request: {numbers}: {error}") from None
    return fixed + encode_buffer(password) + _encode_tail(read_only)


def decode_connect_request(buf: bytes, pos: int, end: int) -> ConnectRequest:
    """The server's side."""
    if end - pos < _REQUEST.size:
        raise truncated(pos, end, _REQUEST.size)
    version, zxid, timeout_ms, session_id = _REQUEST.unpack_from(buf, pos)
    password, pos = decode_buffer(buf, pos + _REQUEST.size, end)
    return ConnectRequest(version, zxid, timeout_ms, session_id, password, _decode_tail(buf, pos, end))


def encode_connect_response(response: ConnectResponse) -> bytes:
    """The server's side; the payload, without the frame's length."""
    version, timeout_ms, session_id, password, read_only = response
    try:
        fixed = _RESPONSE.pack(version, timeout_ms, session_id)
    except struct.error as error:
        numbers = f"version {version!r}, timeout {timeout_ms!r} ms, session {session_id!r}"
        raise InvalidArgumentError(f"connect response: {numbers}: {error}") from None
    return fixed + encode_buffer(password) + _encode_tail(read_only)


def decode_connect_response(buf: bytes, pos: int, end: int) -> ConnectResponse:
    """The server's answer; `ProtocolError` for anything else that came first."""
    size = end - pos
    if size < _SHORTEST_RESPONSE:
        raise ProtocolError(f"the handshake was answered with {_not_a_response(buf, pos, size)}")
    version, timeout_ms, session_id = _RESPONSE.unpack_from(buf, pos)
    password, pos = decode_buffer(buf, pos + _RESPONSE.size, end)
    return ConnectResponse(version, timeout_ms, session_id, password or b"", _decode_tail(buf, pos, end))


def _not_a_response(buf: bytes, pos: int, size: int) -> str:
    # A read-only server that may not make sessions sends a bare header with an error in it.
    if size == REPLY_HEADER.size:
        return f"error {REPLY_HEADER.unpack_from(buf, pos)[2]} instead of a session"
    return f"{size} bytes, too few for a ConnectResponse"


def _encode_tail(read_only: bool | None) -> bytes:
    return b"" if read_only is None else encode_bool(read_only)


def _decode_tail(buf: bytes, pos: int, end: int) -> bool | None:
    return decode_bool(buf, pos, end)[0] if pos < end else None
