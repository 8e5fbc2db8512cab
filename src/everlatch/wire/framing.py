"""The stream as frames: a length of four bytes, then that many bytes of payload.

Rules of this file: no byte is looked at twice, and none is copied while a frame fits into what was fed; a frame that
comes in pieces is put together once, when its last piece is there. Memory is used for bytes that have arrived, never
for bytes that were announced.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING

from everlatch.errors import FrameTooLargeError, InvalidLengthError
from everlatch.wire.jute import encode_buffer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["FrameReader", "frame"]

_PREFIX = struct.Struct(">i")
_PREFIX_SIZE = 4
_HEAD_SIZE = 4


def frame(payload: bytes) -> bytes:
    """The payload with its length in front."""
    return encode_buffer(payload)


class FrameReader:
    """Cuts the bytes of one connection into frames of at most `limit` bytes.

    After an error the stream can't be followed any further: each `feed` raises the same error again.
    """

    __slots__ = ("_held", "_held_size", "_limit", "_wanted")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: list[bytes] = []
        self._held_size = 0
        # How many held bytes it takes to get any further: a prefix, or the whole frame once its length is known.
        self._wanted = _PREFIX_SIZE

    @property
    def pending(self) -> int:
        """The bytes held back, of a frame that is not complete."""
        return self._held_size

    @property
    def pending_head(self) -> bytes:
        """The first bytes, four at most, of the payload of the frame that was refused, or is not complete."""
        # No piece is empty, so that many of them are enough.
        pieces = itertools.islice(self._held, _PREFIX_SIZE + _HEAD_SIZE)
        return b"".join(pieces)[_PREFIX_SIZE : _PREFIX_SIZE + _HEAD_SIZE]

    def feed(self, data: bytes) -> Iterable[tuple[bytes, int, int]]:
        """Gives `(buffer, start, end)` for each payload that `data` completes; run it to its end before the next.

        Raises `InvalidLengthError` or `FrameTooLargeError` at a bad length, when the frames before it are out.
        """
        size = len(data)
        # One whole frame and nothing else: what a caller reads who waits for each answer. Worth the few lines.
        if (
            not self._held
            and size >= _PREFIX_SIZE
            and _PREFIX.unpack_from(data)[0] == size - _PREFIX_SIZE <= self._limit
        ):
            return ((data, _PREFIX_SIZE, size),)
        return self._cut(data)

    def _cut(self, data: bytes) -> Iterator[tuple[bytes, int, int]]:
        if self._held:
            data = self._joined(data)
        size = len(data)
        pos = 0
        while pos + _PREFIX_SIZE <= size:
            (length,) = _PREFIX.unpack_from(data, pos)
            start = pos + _PREFIX_SIZE
            if not 0 <= length <= self._limit:
                self._hold(data[pos : start + _HEAD_SIZE], _PREFIX_SIZE)
                raise self._refusal(length)
            end = start + length
            if end > size:
                self._hold(data[pos:], end - pos)
                return
            yield data, start, end
            pos = end
        if pos < size:
            self._hold(data[pos:], _PREFIX_SIZE)

    def _joined(self, data: bytes) -> bytes:
        """All that is held and `data` if that leads any further; otherwise nothing, and all of it is held."""
        if data:
            self._held.append(data)
            self._held_size += len(data)
        if self._held_size < self._wanted:
            return b""
        data = b"".join(self._held)
        self._held.clear()
        self._held_size = 0
        return data

    def _hold(self, data: bytes, wanted: int) -> None:
        self._held.append(data)
        self._held_size = len(data)
        self._wanted = wanted

    def _refusal(self, length: int) -> InvalidLengthError | FrameTooLargeError:
        if length < 0:
            return InvalidLengthError(f"a frame of {length} bytes was announced")
        return FrameTooLargeError(length, self._limit)
