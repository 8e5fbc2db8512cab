"""The bodies of the operations on identities: auth, sasl, whoAmI.

Rules of this file: as in `everlatch.wire.records`; and no error message has credentials or a token in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from everlatch.types import ClientInfo
from everlatch.wire.jute import (
    decode_buffer,
    decode_int,
    decode_string,
    decode_text,
    decode_vector,
    encode_buffer,
    encode_int,
    encode_string,
    encode_vector,
)

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "AuthRequest",
    "decode_auth_request",
    "decode_sasl_reply",
    "decode_sasl_request",
    "decode_who_am_i_reply",
    "encode_auth_request",
    "encode_sasl_reply",
    "encode_sasl_request",
    "encode_who_am_i_reply",
]


class AuthRequest(NamedTuple):
    """An identity to add to the connection. Its `repr` leaves the credentials out."""

    scheme: str
    credentials: bytes | None

    def __repr__(self) -> str:
        return f"AuthRequest(scheme={self.scheme!r}, credentials=…)"


def encode_auth_request(scheme: str, credentials: bytes | None) -> bytes:
    """A type, which the server ignores, scheme and credentials."""
    return encode_int(0) + encode_string(scheme) + encode_buffer(credentials)


def decode_auth_request(buf: bytes, pos: int, end: int) -> AuthRequest:
    """The server's side."""
    _, pos = decode_int(buf, pos, end)
    scheme, pos = decode_text(buf, pos, end)
    return AuthRequest(scheme, decode_buffer(buf, pos, end)[0])


def encode_sasl_request(token: bytes | None) -> bytes:
    """The client's next token; the first one of DIGEST-MD5 is empty, not null."""
    return encode_buffer(token)


def decode_sasl_request(buf: bytes, pos: int, end: int) -> bytes | None:
    """The server's side."""
    return decode_buffer(buf, pos, end)[0]


# One buffer each way. The reply is null when the server has nothing more to say, or knows no SASL.
encode_sasl_reply = encode_sasl_request
decode_sasl_reply = decode_sasl_request


def encode_who_am_i_reply(identities: Collection[ClientInfo]) -> bytes:
    """The server's side; the request has no body."""
    return encode_vector(identities, _encode_client_info)


def decode_who_am_i_reply(buf: bytes, pos: int, end: int) -> list[ClientInfo]:
    """The connection's identities, in no order."""
    return decode_vector(buf, pos, end, _decode_client_info, smallest=8)[0] or []


def _encode_client_info(identity: ClientInfo) -> bytes:
    return encode_string(identity.scheme) + encode_string(identity.user)


def _decode_client_info(buf: bytes, pos: int, end: int) -> tuple[ClientInfo, int]:
    scheme, pos = decode_text(buf, pos, end)
    user, pos = decode_string(buf, pos, end)
    return ClientInfo(scheme, user or ""), pos
