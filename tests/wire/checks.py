"""What holds for every record, whatever is in it: checks of one codec, and the tests that a module makes of them.

A test is made by a function here and gets its name where it is assigned: `test_round_trip = round_trip_test(CODECS)`.
Each call makes a new one, since Hypothesis keeps a state with each.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.errors import ProtocolError
from wire.codecs import distinct

if TYPE_CHECKING:
    from collections.abc import Callable

    from wire.codecs import Codec

HOSTILE_NUMBERS = (-(2**31), -2, -1, 0, 1, 9, 0x00FFFFFF, 2**31 - 1)
JUNK = b"\x7f\xff\xff\xff"


def each(codecs: list[Codec]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("codec", codecs, ids=str)


def round_trip_test(codecs: list[Codec]) -> Callable[..., None]:
    """Any values, with each of the distinct codecs."""

    @each(distinct(codecs))
    @given(draw=st.data())
    def test_round_trip(codec: Codec, draw: st.DataObject) -> None:
        arguments = draw.draw(codec.arguments)
        check_round_trip(codec, arguments)
        check_truncated(codec, arguments)

    return test_round_trip


def sample_test(codecs: list[Codec]) -> Callable[..., None]:
    """All checks with the sample of each codec."""

    @each(codecs)
    def test_one_of_each(codec: Codec) -> None:
        check_round_trip(codec, codec.sample)
        check_truncated(codec, codec.sample)
        check_hostile(codec, codec.sample)

    return test_one_of_each


def hostile_test(codecs: list[Codec]) -> Callable[..., None]:
    """Hostile numbers everywhere in the sample of each codec."""

    @each(codecs)
    def test_hostile_numbers(codec: Codec) -> None:
        check_hostile(codec, codec.sample)

    return test_hostile_numbers


def any_bytes_test(codecs: list[Codec], max_size: int) -> Callable[..., None]:
    """Bytes that nobody encoded, for each of the distinct codecs."""

    @given(st.binary(max_size=max_size))
    def test_any_bytes(buf: bytes) -> None:
        for codec in distinct(codecs):
            survives(codec, buf)

    return test_any_bytes


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
