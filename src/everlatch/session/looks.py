"""What the session reads for itself."""

from __future__ import annotations

from typing import Final

from everlatch.session.requests import Operation
from everlatch.wire.codes import Op
from everlatch.wire.records import (
    decode_exists_reply,
    decode_get_children_reply,
    decode_get_data_reply,
    encode_exists_request,
    encode_get_children_request,
    encode_get_data_request,
)

__all__ = ["LIST", "LOOK", "READ", "list_body", "look_body", "read_body"]

LOOK: Final = Operation("exists", Op.EXISTS, decode_exists_reply, missing_is_none=True)
READ: Final = Operation("get", Op.GET_DATA, decode_get_data_reply)
LIST: Final = Operation("children", Op.GET_CHILDREN, decode_get_children_reply)


def look_body(path: str) -> bytes:
    """Of `LOOK`."""
    return encode_exists_request(path, False)


def read_body(path: str) -> bytes:
    """Of `READ`."""
    return encode_get_data_request(path, False)


def list_body(path: str) -> bytes:
    """Of `LIST`."""
    return encode_get_children_request(path, False)
