import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.errors import InvalidArgumentError, InvalidLengthError, ProtocolError, TruncatedError
from everlatch.wire import jute
from wire import strategies as wst
from wire.checks import any_bytes_test, hostile_test, round_trip_test
from wire.codecs import Codec


def first(decode):
    return lambda buf, pos, end: decode(buf, pos, end)[0]


def one(strategy):
    return strategy.map(lambda value: (value,))


def encode_texts(items):
    return jute.encode_vector(items, jute.encode_string)


def decode_texts(buf, pos, end):
    return jute.decode_vector(buf, pos, end, jute.decode_text, smallest=4)


def same(value):
    return value


PRIMITIVES = [
    Codec(jute.encode_bool, first(jute.decode_bool), one(st.booleans()), (True,), same, "bool"),
    Codec(jute.encode_int, first(jute.decode_int), one(wst.int32), (7,), same, "int"),
    Codec(jute.encode_long, first(jute.decode_long), one(wst.int64), (7,), same, "long"),
    Codec(jute.encode_buffer, first(jute.decode_buffer), one(wst.nullable_data), (b"abc",), same, "buffer"),
    Codec(jute.encode_string, first(jute.decode_string), one(wst.nullable_text), ("aé",), same, "string"),
    Codec(jute.encode_path, first(jute.decode_text), one(wst.text), ("/a",), same, "path"),
    Codec(encode_texts, first(decode_texts), one(st.none() | wst.texts), (["a", ""],), same, "vector"),
]

test_round_trip = round_trip_test(PRIMITIVES)
test_hostile_numbers = hostile_test(PRIMITIVES)
test_any_bytes = any_bytes_test(PRIMITIVES, max_size=24)


@pytest.mark.parametrize(
    ("encode", "decode", "value", "encoded"),
    [
        (jute.encode_bool, jute.decode_bool, False, "00"),
        (jute.encode_bool, jute.decode_bool, True, "01"),
        (jute.encode_int, jute.decode_int, -2, "fffffffe"),
        (jute.encode_long, jute.decode_long, -2, "fffffffffffffffe"),
        (jute.encode_buffer, jute.decode_buffer, None, "ffffffff"),
        (jute.encode_buffer, jute.decode_buffer, b"", "00000000"),
        (jute.encode_buffer, jute.decode_buffer, b"hi", "00000002 6869"),
        (jute.encode_string, jute.decode_string, None, "ffffffff"),
        (jute.encode_string, jute.decode_string, "", "00000000"),
        (jute.encode_string, jute.decode_string, "é", "00000002 c3a9"),
        (jute.encode_string, jute.decode_string, "\U0001f600", "00000004 f09f9880"),
        (encode_texts, decode_texts, None, "ffffffff"),
        (encode_texts, decode_texts, [], "00000000"),
        (encode_texts, decode_texts, ["a", ""], "00000002 00000001 61 00000000"),
    ],
)
def test_golden_bytes(encode, decode, value, encoded):
    wire = bytes.fromhex(encoded)
    assert encode(value) == wire
    assert decode(wire, 0, len(wire)) == (value, len(wire))


def test_any_byte_but_0_is_true():
    assert jute.decode_bool(b"\xff", 0, 1) == (True, 1)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, "1", None, 1.5])
def test_what_is_no_int(value):
    with pytest.raises(InvalidArgumentError, match="32 bits"):
        jute.encode_int(value)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "1", None, 1.5])
def test_what_is_no_long(value):
    with pytest.raises(InvalidArgumentError, match="64 bits"):
        jute.encode_long(value)


@pytest.mark.parametrize("encode", [jute.encode_string, jute.encode_path])
@pytest.mark.parametrize("value", ["\ud800", "a\udfff", "\udc00\ud800"])
def test_lone_surrogates_are_not_encoded(encode, value):
    with pytest.raises(InvalidArgumentError, match="surrogates not allowed"):
        encode(value)


def wire_string(encoded: bytes) -> bytes:
    return struct.pack(">i", len(encoded)) + encoded


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("eda0bdedb880", "\U0001f600"),
        ("61 eda080edb080 62", "a\U00010000b"),
        ("edafbfedbfbf", "\U0010ffff"),
        ("eda0bdedb880 eda0bdedb880", "\U0001f600\U0001f600"),
        ("c3a9 eda0bdedb880 e282ac", "é\U0001f600€"),
        ("f09f9880 eda0bdedb880", "\U0001f600\U0001f600"),
    ],
)
def test_characters_as_java_writes_them(encoded, value):
    wire = wire_string(bytes.fromhex(encoded))
    assert jute.decode_string(wire, 0, len(wire)) == (value, len(wire))


@given(wst.text)
def test_any_text_as_java_writes_it(value):
    units = value.encode("utf-16-be")
    encoded = b"".join(chr(unit).encode("utf-8", "surrogatepass") for (unit,) in struct.iter_unpack(">H", units))
    wire = wire_string(encoded)
    assert jute.decode_text(wire, 0, len(wire)) == (value, len(wire))


@pytest.mark.parametrize(
    "encoded", ["80", "ff", "c3", "c080", "eda0bd", "edb880", "edb880eda0bd", "eda0bd61", "f4908080", "eda0"]
)
def test_text_that_is_none(encoded):
    wire = wire_string(bytes.fromhex(encoded))
    with pytest.raises(ProtocolError, match="not UTF-8"):
        jute.decode_string(wire, 0, len(wire))


def test_null_where_text_must_be():
    with pytest.raises(ProtocolError, match="null at offset 2"):
        jute.decode_text(b"  \xff\xff\xff\xff", 2, 6)


@pytest.mark.parametrize("length", [-2, -(2**31), 4, 2**31 - 1])
@pytest.mark.parametrize("decode", [jute.decode_buffer, jute.decode_string, jute.decode_text, decode_texts])
def test_lengths_that_can_not_be(decode, length):
    wire = struct.pack(">i", length) + b"\0\0\0"
    with pytest.raises(InvalidLengthError, match=f"length {length} at offset 0, with 3 bytes"):
        decode(wire, 0, len(wire))


def test_count_is_held_against_the_smallest_item():
    wire = struct.pack(">iii", 3, 0, 0)
    with pytest.raises(InvalidLengthError, match="length 3 at offset 0, with 8 bytes"):
        jute.decode_vector(wire, 0, len(wire), jute.decode_int, smallest=4)
    # A plausible count may still be wrong: that is found at the item.
    with pytest.raises(TruncatedError, match="ends after 0 of 4 bytes at offset 12"):
        jute.decode_vector(wire, 0, len(wire), jute.decode_int)


def test_no_memory_for_what_is_only_announced():
    wire = struct.pack(">i", 2**31 - 1) + bytes(16)
    tracemalloc.start()
    try:
        for decode in (jute.decode_buffer, jute.decode_string, decode_texts):
            with pytest.raises(InvalidLengthError):
                decode(wire, 0, len(wire))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_paths_are_remembered():
    assert jute.encode_path("/remembered") is jute.encode_path("/remembered")


def test_long_paths_are_not_remembered():
    """Thousands of paths may be: those of a megabyte would fill the memory."""
    long = "/" + "x" * 1024
    assert jute.encode_path(long) == jute.encode_string(long)
    assert jute.encode_path(long) is not jute.encode_path(long)
