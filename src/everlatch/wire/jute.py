"""Jute's primitives. Everything is big-endian, and a length of −1 stands for null.

Rules of this file: encoders return bytes; decoders take `(buf, pos, end)`, where `0 <= pos <= end <= len(buf)`, and
return the value with the position behind it. A decoder checks before it reads and allocates.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, TypeVar

from everlatch.errors import InvalidArgumentError, InvalidLengthError, ProtocolError, TruncatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = [
    "decode_bool",
    "decode_buffer",
    "decode_int",
    "decode_long",
    "decode_string",
    "decode_text",
    "decode_vector",
    "encode_bool",
    "encode_buffer",
    "encode_int",
    "encode_long",
    "encode_path",
    "encode_string",
    "encode_vector",
    "invalid_length",
    "repair_text",
    "truncated",
]

T = TypeVar("T")

_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_NULL = _INT.pack(-1)
_FALSE, _TRUE = b"\0", b"\1"


def encode_bool(value: bool) -> bytes:
    """One byte, 0 or 1."""
    return _TRUE if value else _FALSE


def encode_int(value: int) -> bytes:
    """Four bytes, signed."""
    try:
        return _INT.pack(value)
    except struct.error:
        raise InvalidArgumentError(f"not a number of 32 bits, signed: {value!r}") from None


def encode_long(value: int) -> bytes:
    """Eight bytes, signed."""
    try:
        return _LONG.pack(value)
    except struct.error:
        raise InvalidArgumentError(f"not a number of 64 bits, signed: {value!r}") from None


def encode_buffer(value: bytes | None) -> bytes:
    """A length and the bytes."""
    return _NULL if value is None else encode_int(len(value)) + value


def encode_string(value: str | None) -> bytes:
    """A length in bytes and UTF-8. Java reads that beyond U+FFFF too, though it doesn't write it so."""
    if value is None:
        return _NULL
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"text that is not Unicode: {value!r}: {error.reason} at {error.start}") from None
    return encode_int(len(encoded)) + encoded


def encode_path(path: str) -> bytes:
    """`encode_string`, remembered: a program uses the same paths again and again. But not long ones: thousands of them
    may be remembered."""
    return _remembered(path) if len(path) <= _LONGEST_REMEMBERED else encode_string(path)


_LONGEST_REMEMBERED = 1024
_remembered = functools.lru_cache(4096)(encode_string)


def encode_vector(items: Collection[T] | None, encode_item: Callable[[T], bytes]) -> bytes:
    """A count and the items."""
    if items is None:
        return _NULL
    return encode_int(len(items)) + b"".join(map(encode_item, items))


def truncated(pos: int, end: int, size: int) -> TruncatedError:
    """The error for `size` bytes that should be at `pos` and are not."""
    return TruncatedError(f"the record ends after {end - pos} of {size} bytes at offset {pos}")


def invalid_length(pos: int, end: int, length: int) -> InvalidLengthError:
    """The error for the length, or count, at `pos` that is negative or more than the bytes behind it can hold."""
    return InvalidLengthError(f"length {length} at offset {pos}, with {max(end - pos - 4, 0)} bytes behind it")


def decode_bool(buf: bytes, pos: int, end: int) -> tuple[bool, int]:
    """Anything but 0 is true, as for Java."""
    if pos >= end:
        raise truncated(pos, end, 1)
    return buf[pos] != 0, pos + 1


def decode_int(buf: bytes, pos: int, end: int) -> tuple[int, int]:
    """Four bytes, signed."""
    stop = pos + 4
    if stop > end:
        raise truncated(pos, end, 4)
    value: int = _INT.unpack_from(buf, pos)[0]
    return value, stop


def decode_long(buf: bytes, pos: int, end: int) -> tuple[int, int]:
    """Eight bytes, signed."""
    stop = pos + 8
    if stop > end:
        raise truncated(pos, end, 8)
    value: int = _LONG.unpack_from(buf, pos)[0]
    return value, stop


def decode_buffer(buf: bytes, pos: int, end: int) -> tuple[bytes | None, int]:
    """Bytes, or None for null."""
    length, start = decode_int(buf, pos, end)
    stop = start + length
    if length >= 0 and stop <= end:
        return buf[start:stop], stop
    if length == -1:
        return None, start
    raise invalid_length(pos, end, length)


def decode_string(buf: bytes, pos: int, end: int) -> tuple[str | None, int]:
    """Text, or None for null."""
    encoded, stop = decode_buffer(buf, pos, end)
    if encoded is None:
        return None, stop
    try:
        return encoded.decode(), stop
    except UnicodeDecodeError:
        return repair_text(encoded), stop


def decode_text(buf: bytes, pos: int, end: int) -> tuple[str, int]:
    """Text where null makes no sense, such as a path."""
    text, stop = decode_string(buf, pos, end)
    if text is None:
        raise ProtocolError(f"null at offset {pos}, where a text must be")
    return text, stop


def repair_text(encoded: bytes) -> str:
    """Text that is not plain UTF-8: Java writes a character beyond U+FFFF as two surrogates of three bytes each."""
    try:
        # Through UTF-16, where two surrogates are one character again, and one alone is an error.
        return encoded.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"text that is not UTF-8: {error.reason} at byte {error.start} of {len(encoded)}") from None


def decode_vector(
    buf: bytes, pos: int, end: int, decode_item: Callable[[bytes, int, int], tuple[T, int]], *, smallest: int = 1
) -> tuple[list[T] | None, int]:
    """A list, or None for null. `smallest` is the least that an item takes: no count may promise more than fits."""
    count, start = decode_int(buf, pos, end)
    if count == -1:
        return None, start
    if not 0 <= count * smallest <= end - start:
        raise invalid_length(pos, end, count)
    items = []
    for _ in range(count):
        item, start = decode_item(buf, start, end)
        items.append(item)
    return items, start
