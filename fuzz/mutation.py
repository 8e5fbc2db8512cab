"""Bytes, and streams of frames, made slightly or badly wrong.

Rules of this file: everything comes from the `Random` that is passed in. A mutation costs about a microsecond: level 1
lives on numbers, so positions are made of `random()`, which is ten times as fast as `randrange()`. No result is longer
than `MAX_SIZE`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from everlatch.wire.framing import frame
from everlatch.wire.headers import REPLY_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

__all__ = ["MAX_SIZE", "Mutator", "StreamMutator"]

MAX_SIZE = 1 << 15
"""Bytes of the longest mutant: in hexadecimal it still is an argument of a command line."""

_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_NUMBERS = (-(2**31), -(2**16), -3, -2, -1, 0, 1, 2, 3, 4, 7, 16, 63, 64, 65, 127, 128, 255, 256)
_LARGE_NUMBERS = (0xFFFF, 0x1_0000, 0xFF_FFFF, 0x100_0000, 0x7FFF_FFFC, 0x7FFF_FFFF)
_INTS = _NUMBERS + _LARGE_NUMBERS
_LONGS = (*_INTS, -(2**63), -(2**32), 2**32, 2**40, 2**62, 2**63 - 1)
_BYTES = (0, 1, 2, 0x0A, 0x2F, 0x7F, 0x80, 0xC0, 0xE0, 0xED, 0xF0, 0xFE, 0xFF)
_GOES_ON = 0.45
"""How likely one more change is."""
_SHORT = 24


class Mutator:
    """Makes mutants; `pool` is what slices of other inputs are taken from."""

    def __init__(self, rng: Random, pool: Sequence[bytes]) -> None:
        self._random = rng.random
        self._randbytes = rng.randbytes
        self._pool = pool
        self._steps: tuple[Callable[[bytearray], None], ...] = (
            *(self._set_length, self._set_length, self._add_to_length, self._flip, self._flip, self._set_byte),
            *(self._set_int, self._set_long, self._truncate, self._delete, self._duplicate, self._splice, self._insert),
            *(self._junk, self._move),
        )

    def mutate(self, data: bytes) -> bytes:
        """`data` with one change, or several."""
        random, steps = self._random, self._steps
        buf = bytearray(data)
        while True:
            if buf:
                steps[int(random() * len(steps))](buf)
            else:
                self._insert(buf)
            if random() >= _GOES_ON:
                break
        return bytes(buf) if len(buf) <= MAX_SIZE else bytes(buf[:MAX_SIZE])

    # -- where

    def _length_at(self, buf: bytearray) -> int:
        """Where a length may be: they are small, so they begin with zero bytes; and so do other numbers."""
        found = buf.find(b"\0\0", int(self._random() * len(buf)))
        return found if found >= 0 else int(self._random() * len(buf))

    def _slice(self, size: int) -> tuple[int, int]:
        """Mostly short, sometimes all the rest."""
        start = int(self._random() * size)
        longest = min(_SHORT, size - start) if self._random() < 0.8 else size - start
        return start, start + 1 + int(self._random() * longest)

    # -- what

    def _flip(self, buf: bytearray) -> None:
        buf[int(self._random() * len(buf))] ^= 1 << int(self._random() * 8)

    def _set_byte(self, buf: bytearray) -> None:
        buf[int(self._random() * len(buf))] = _BYTES[int(self._random() * len(_BYTES))]

    def _set_int(self, buf: bytearray) -> None:
        self._put(buf, int(self._random() * len(buf)), _INTS[int(self._random() * len(_INTS))])

    def _set_length(self, buf: bytearray) -> None:
        """What a decoder compares with the bytes that are left: one too many, one too few, a count of them."""
        at = self._length_at(buf)
        left = len(buf) - at - 4
        choice = int(self._random() * 8)
        if choice < 4:
            number = _INTS[int(self._random() * len(_INTS))]
        elif choice < 6:
            number = left + int(self._random() * 3) - 1
        else:
            number = left // (4, 8, 9, 12, 68)[int(self._random() * 5)] + int(self._random() * 3) - 1
        self._put(buf, at, number)

    def _add_to_length(self, buf: bytearray) -> None:
        at = self._length_at(buf)
        if at + 4 <= len(buf):
            number: int = _INT.unpack_from(buf, at)[0]
            self._put(buf, at, max(-(2**31), min(2**31 - 1, number + int(self._random() * 17) - 8)))

    @staticmethod
    def _put(buf: bytearray, at: int, number: int) -> None:
        if at + 4 <= len(buf):
            _INT.pack_into(buf, at, number)

    def _set_long(self, buf: bytearray) -> None:
        at = int(self._random() * len(buf))
        if at + 8 <= len(buf):
            _LONG.pack_into(buf, at, _LONGS[int(self._random() * len(_LONGS))])

    def _truncate(self, buf: bytearray) -> None:
        del buf[int(self._random() * len(buf)) :]

    def _delete(self, buf: bytearray) -> None:
        start, stop = self._slice(len(buf))
        del buf[start:stop]

    def _duplicate(self, buf: bytearray) -> None:
        start, stop = self._slice(len(buf))
        piece = buf[start:stop]
        times = 1 if self._random() < 0.8 else 1 + int(self._random() * 20)
        if len(piece) * times <= MAX_SIZE:
            buf[stop:stop] = piece * times

    def _move(self, buf: bytearray) -> None:
        start, stop = self._slice(len(buf))
        piece = buf[start:stop]
        del buf[start:stop]
        at = int(self._random() * (len(buf) + 1))
        buf[at:at] = piece

    def _splice(self, buf: bytearray) -> None:
        other = self._other()
        del buf[int(self._random() * len(buf)) :]
        buf += other[int(self._random() * len(other)) :]

    def _insert(self, buf: bytearray) -> None:
        other = self._other()
        at = int(self._random() * (len(buf) + 1))
        start, stop = self._slice(len(other))
        buf[at:at] = other[start:stop]

    def _junk(self, buf: bytearray) -> None:
        at = int(self._random() * (len(buf) + 1))
        buf[at:at] = self._randbytes(1 + int(self._random() * _SHORT))

    def _other(self) -> bytes:
        return self._pool[int(self._random() * len(self._pool))] or b"\0"


class StreamMutator:
    """What a server sends on one connection: whole frames come in, in order; what is to be delivered comes out.

    The first frames pass as they are; from a random one on, any may be changed, lost, doubled, or followed by others.
    """

    def __init__(self, rng: Random, pool: Sequence[bytes], *, first: int) -> None:
        self._rng = rng
        self._pool = pool
        self._bytes = Mutator(rng, pool)
        self._passing = first
        self._rate = rng.choice((0.05, 0.2, 0.5, 1.0))
        self._held: list[bytes] = []

    def pass_on(self, payload: bytes) -> tuple[bytes, bool]:
        """What is delivered for one payload, and whether that is its frame and nothing else."""
        if self._passing > 0:
            self._passing -= 1
            return frame(payload), True
        if self._rng.random() >= self._rate:
            # Behind the first change nothing is "as it was": the stream may be shifted.
            return b"".join([*self._late(), frame(payload)]), False
        return b"".join([*self._changed(payload), *self._late()]), False

    def _late(self) -> list[bytes]:
        held, self._held = self._held, []
        return held

    def _changed(self, payload: bytes) -> list[bytes]:
        choice = self._rng.random()
        if choice < 0.35:
            return [frame(self._bytes.mutate(payload))]
        if choice < 0.5:
            return [self._bytes.mutate(frame(payload))]
        if choice < 0.7:
            return [frame(self._other_header(payload))]
        if choice < 0.76:
            return [frame(payload), frame(payload)]
        if choice < 0.86:
            return [frame(payload), frame(self._rng.choice(self._pool))]
        if choice < 0.92:  # out of order
            self._held.append(frame(payload))
            return []
        if choice < 0.96:
            return [frame(payload), self._rng.randbytes(self._rng.randint(1, 40))]
        return []

    def _other_header(self, payload: bytes) -> bytes:
        """A valid frame, but for what its header says."""
        if len(payload) < REPLY_HEADER.size:
            return self._bytes.mutate(payload)
        xid, zxid, err = REPLY_HEADER.unpack_from(payload)
        rng = self._rng
        match rng.randrange(4):
            case 0:
                xid = rng.choice((-8, -4, -2, -1, 0, xid - 1, min(xid, 2**31 - 2) + 1, rng.choice(_INTS)))
            case 1:
                zxid = rng.choice((-1, 0, zxid - 1, zxid - 1000, rng.choice(_LONGS)))
                zxid = max(zxid, -(2**63))
            case 2:
                err = rng.choice((-6, -124, -101, -4, -112, -115, -118, -9999, 5, rng.choice(_INTS)))
            case _:
                err = rng.choice((-6, -124))
                xid += rng.randrange(3) if xid < 2**31 - 3 else 0
        return REPLY_HEADER.pack(max(xid, -(2**31)), zxid, err) + payload[REPLY_HEADER.size :]
