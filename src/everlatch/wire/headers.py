"""What stands in front of every request and reply once the handshake is done.

Rules of this file: fixed sizes, one `struct` call each. An xid pairs a reply with its request; the special ones are
in `everlatch.wire.codes`.
"""

from __future__ import annotations

import struct
from typing import Final

from everlatch.errors import InvalidArgumentError
from everlatch.wire.jute import truncated

__all__ = [
    "REPLY_HEADER",
    "REQUEST_HEADER",
    "decode_reply_header",
    "decode_request_header",
    "encode_reply",
    "frame_request",
]

REQUEST_HEADER: Final = struct.Struct(">iii")
"""The frame's length, xid, operation."""
REPLY_HEADER: Final = struct.Struct(">iqi")
"""Xid, zxid, error code; the frame's length is not part of it."""

_REQUEST_HEADER_IN_FRAME = struct.Struct(">ii")
_REQUEST_OVERHEAD = _REQUEST_HEADER_IN_FRAME.size
_REPLY_HEADER_SIZE = REPLY_HEADER.size


def frame_request(xid: int, op: int, body: bytes) -> bytes:
    """A whole request as it is sent, length included."""
    try:
        return REQUEST_HEADER.pack(len(body) + _REQUEST_OVERHEAD, xid, op) + body
    except struct.error as error:
        raise InvalidArgumentError(f"request {xid!r}, operation {op!r}, {len(body)} bytes: {error}") from None


def decode_request_header(buf: bytes, pos: int, end: int) -> tuple[int, int]:
    """Xid and operation of a payload; the body starts 8 bytes behind `pos`."""
    if end - pos < _REQUEST_OVERHEAD:
        raise truncated(pos, end, _REQUEST_OVERHEAD)
    xid, op = _REQUEST_HEADER_IN_FRAME.unpack_from(buf, pos)
    return xid, op


def encode_reply(xid: int, zxid: int, err: int, body: bytes = b"") -> bytes:
    """The payload of a reply or notification, without the frame's length."""
    try:
        return REPLY_HEADER.pack(xid, zxid, err) + body
    except struct.error as error:
        raise InvalidArgumentError(f"reply {xid!r}, zxid {zxid!r}, error {err!r}: {error}") from None


def decode_reply_header(buf: bytes, pos: int, end: int) -> tuple[int, int, int]:
    """Xid, zxid and error code of a payload; the body starts `REPLY_HEADER.size` bytes behind `pos`."""
    if end - pos < _REPLY_HEADER_SIZE:
        raise truncated(pos, end, _REPLY_HEADER_SIZE)
    xid, zxid, err = REPLY_HEADER.unpack_from(buf, pos)
    return xid, zxid, err
