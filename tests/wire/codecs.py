"""Checks that hold for every record, whatever is in it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from everlatch.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from hypothesis import strategies as st

HOSTILE_NUMBERS = (-(2**31), -2, -1, 0, 1, 9, 0x00FFFFFF, 2**31 - 1)
JUNK = b"\x7f\xff\xff\xff"


@dataclass
class Codec:
    """One record: how it is encoded from arguments, and what the decoder makes of it."""

    encode: Callable[..., bytes]
    decode: Callable[[bytes, int, int], Any]
    arguments: st.SearchStrategy[tuple[Any, ...]]
    sample: tuple[Any, ...]
    expected: Callable[..., Any]
    name: str = ""

    def __str__(self) -> str:
        return self.name


def named(
    module: ModuleType,
    name: str,
    arguments: st.SearchStrategy[tuple[Any, ...]],
    sample: tuple[Any, ...],
    expected: Callable[..., Any],
) -> Codec:
    """The codec made of `encode_<name>` and `decode_<name>` of a module."""
    return Codec(
        getattr(module, f"encode_{name}"), getattr(module, f"decode_{name}"), arguments, sample, expected, name
    )


def functions(module: ModuleType) -> set[str]:
    """What a module can encode or decode, by name."""
    return {name.partition("_")[2] for name in module.__all__ if name.startswith(("encode_", "decode_"))}


def distinct(codecs: list[Codec]) -> list[Codec]:
    """Without those that are other names of the same two functions: trying many values with one of them will do."""
    return list({(codec.encode, codec.decode): codec for codec in reversed(codecs)}.values())


def check_round_trip(codec: Codec, arguments: tuple[Any, ...]) -> None:
    encoded = codec.encode(*arguments)
    expected = codec.expected(*arguments)
    # In the middle of a larger buffer, as it comes from the network, and with fields of a newer server behind it.
    buf = JUNK + encoded + JUNK
    stop = len(JUNK) + len(encoded)
    assert_same(codec.decode(encoded, 0, len(encoded)), expected)
    assert_same(codec.decode(buf, len(JUNK), stop), expected)
    assert_same(codec.decode(buf, len(JUNK), len(buf)), expected)


def assert_same(value: object, expected: object) -> None:
    assert value == expected
    # Tuples of different kinds are equal when their items are.
    assert type(value) is type(expected)


def check_truncated(codec: Codec, arguments: tuple[Any, ...]) -> None:
    encoded = codec.encode(*arguments)
    for end in range(len(encoded)):
        # The rest is still there, but out of bounds: reading it would go unnoticed otherwise.
        try:
            value = codec.decode(encoded, 0, end)
        except ProtocolError:
            continue
        pytest.fail(f"{end} of {len(encoded)} bytes were decoded to {value!r}")


def check_hostile(codec: Codec, arguments: tuple[Any, ...]) -> None:
    encoded = codec.encode(*arguments)
    for pos in range(len(encoded) - 3):
        for number in HOSTILE_NUMBERS:
            survives(codec, encoded[:pos] + struct.pack(">i", number) + encoded[pos + 4 :])


def survives(codec: Codec, buf: bytes) -> None:
    """Either outcome is right; any other exception, or a read behind the end, is not."""
    outcomes = []
    for rest in (b"", JUNK):
        try:
            outcomes.append(repr(codec.decode(buf + rest, 0, len(buf))))
        except ProtocolError as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    # The same with other bytes behind the end: nobody looked at those.
    assert outcomes[0] == outcomes[1]
