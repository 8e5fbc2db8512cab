"""What records are made of: Stat, ACL lists, lists of names.

Rules of this file: as in `everlatch.wire.jute`. A Stat comes with nearly every reply, and a node may have a hundred
thousand children: neither is decoded with a Python call a field.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Final

from everlatch.errors import InvalidArgumentError
from everlatch.types import ACL, Stat
from everlatch.wire.jute import (
    decode_int,
    decode_string,
    decode_text,
    decode_vector,
    encode_int,
    encode_string,
    encode_vector,
    invalid_length,
    repair_text,
    truncated,
)

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["STAT", "decode_acls", "decode_names", "decode_stat", "encode_acls", "encode_names", "encode_stat"]

STAT: Final = struct.Struct(">qqqqiiiqiiq")
"""The 68 bytes of a Stat, in the order of `types.Stat`."""

_STAT_SIZE = STAT.size
_unpack_stat = STAT.unpack_from
_unpack_int = struct.Struct(">i").unpack_from


def encode_stat(stat: Stat) -> bytes:
    """68 bytes."""
    try:
        return STAT.pack(*stat)
    except struct.error as error:
        raise InvalidArgumentError(f"{stat!r}: {error}") from None


def decode_stat(buf: bytes, pos: int, end: int) -> tuple[Stat, int]:
    """68 bytes, and the position behind them."""
    stop = pos + _STAT_SIZE
    if stop > end:
        raise truncated(pos, end, _STAT_SIZE)
    return tuple.__new__(Stat, _unpack_stat(buf, pos)), stop


def encode_acls(acls: Collection[ACL]) -> bytes:
    """A list of ACLs, remembered: a program has few of them, and sends one with every create."""
    return _encode_acl_tuple(tuple(acls))


@functools.lru_cache(256)
def _encode_acl_tuple(acls: tuple[ACL, ...]) -> bytes:
    return encode_vector(acls, _encode_acl)


def _encode_acl(acl: ACL) -> bytes:
    return encode_int(acl.permissions) + encode_string(acl.scheme) + encode_string(acl.id)


def decode_acls(buf: bytes, pos: int, end: int) -> tuple[list[ACL], int]:
    """A null list is an empty one: the server refuses both alike."""
    acls, pos = decode_vector(buf, pos, end, _decode_acl, smallest=12)
    return acls or [], pos


def _decode_acl(buf: bytes, pos: int, end: int) -> tuple[ACL, int]:
    permissions, pos = decode_int(buf, pos, end)
    scheme, pos = decode_text(buf, pos, end)
    identity, pos = decode_string(buf, pos, end)
    return ACL(permissions, scheme, identity or ""), pos


def encode_names(names: Collection[str]) -> bytes:
    """A list of names, or of paths."""
    return encode_vector(names, encode_string)


_MANY = 64
"""From so many names on, a quick look at all of them pays."""


def decode_names(buf: bytes, pos: int, end: int) -> tuple[list[str], int]:
    """A list of names; a null one is empty."""
    count, pos = decode_int(buf, pos, end)
    if not -1 <= count <= (end - pos) >> 2:
        raise invalid_length(pos - 4, end, count)
    if count > _MANY:
        names = _plain_names(buf, pos, end)
        if len(names) == count:
            return names, end
    return _names_one_by_one(buf, pos, end, count)


def _plain_names(buf: bytes, pos: int, end: int) -> list[str]:
    """The names up to `end` if all are plain ASCII shorter than 128 bytes, nothing follows them, and none is empty;
    else an empty list.

    A node may have a hundred thousand children, and nearly all have such names: the three zero bytes of each length
    cut them apart then, in a third less time than reading one by one takes.
    """
    try:
        pieces = buf[pos:end].decode("ascii").split("\0\0\0")
    except UnicodeDecodeError:
        return []
    if pieces.pop(0):
        return []
    names = [piece[1:] for piece in pieces]
    lengths = [ord(piece[0]) if piece else 0 for piece in pieces]
    return names if lengths == [len(name) or -1 for name in names] else []


def _names_one_by_one(buf: bytes, pos: int, end: int, count: int) -> tuple[list[str], int]:
    """One loop without calls into Python code."""
    unpack_int = _unpack_int
    names: list[str] = []
    append = names.append
    for _ in range(count):
        start = pos + 4
        if start > end:
            raise truncated(pos, end, 4)
        (length,) = unpack_int(buf, pos)
        stop = start + length
        if length < 0 or stop > end:
            raise invalid_length(pos, end, length)
        try:
            append(buf[start:stop].decode())
        except UnicodeDecodeError:
            append(repair_text(buf[start:stop]))
        pos = stop
    return names, pos
