import struct

import pytest

from everlatch.errors import InvalidArgumentError, InvalidLengthError, ProtocolError, TruncatedError
from everlatch.types import ACL, OPEN_ACL_UNSAFE, Permission, Stat
from everlatch.wire import structures
from wire import strategies as wst
from wire.checks import any_bytes_test, hostile_test, round_trip_test
from wire.codecs import Codec

STAT = Stat(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)


def first(decode):
    return lambda buf, pos, end: decode(buf, pos, end)[0]


def one(strategy):
    return strategy.map(lambda value: (value,))


CODECS = [
    Codec(structures.encode_stat, first(structures.decode_stat), one(wst.stats), (STAT,), lambda stat: stat, "stat"),
    Codec(
        structures.encode_acls,
        first(structures.decode_acls),
        one(wst.acls),
        (OPEN_ACL_UNSAFE,),
        list,
        "acls",
    ),
    Codec(
        structures.encode_names,
        first(structures.decode_names),
        one(wst.texts),
        (["a", "bc", "é"],),
        list,
        "names",
    ),
]

test_round_trip = round_trip_test(CODECS)
test_hostile_numbers = hostile_test(CODECS)
test_any_bytes = any_bytes_test(CODECS, max_size=80)


def test_stat_in_the_order_of_the_wire():
    wire = b"".join(
        value.to_bytes(size, "big") for value, size in zip(STAT, (8, 8, 8, 8, 4, 4, 4, 8, 4, 4, 8), strict=True)
    )
    assert structures.encode_stat(STAT) == wire
    assert structures.decode_stat(wire, 0, len(wire)) == (STAT, 68)


def test_stat_that_does_not_fit():
    with pytest.raises(InvalidArgumentError, match="version=2147483648"):
        structures.encode_stat(STAT._replace(version=2**31))


@pytest.mark.parametrize("decode", [structures.decode_acls, structures.decode_names])
def test_a_null_list_is_empty(decode):
    assert decode(b"\xff\xff\xff\xff", 0, 4) == ([], 4)


def test_acl_bits_may_be_flags():
    flags = structures.encode_acls([ACL(Permission.READ | Permission.WRITE, "ip", "::1")])
    assert flags == structures.encode_acls([ACL(3, "ip", "::1")])


def test_an_acl_id_as_java_writes_it():
    wire = struct.pack(">iii", 1, 31, 6) + b"digest" + struct.pack(">i", 6) + bytes.fromhex("eda0bdedb880")
    assert structures.decode_acls(wire, 0, len(wire)) == ([ACL(31, "digest", "\U0001f600")], len(wire))


def test_a_null_acl_id_is_empty():
    wire = struct.pack(">iii", 1, 31, 5) + b"super" + struct.pack(">i", -1)
    assert structures.decode_acls(wire, 0, len(wire)) == ([ACL(31, "super", "")], len(wire))


def test_names_as_java_writes_them():
    wire = struct.pack(">ii", 1, 7) + b"a" + bytes.fromhex("eda0bdedb880")
    assert structures.decode_names(wire, 0, len(wire)) == (["a\U0001f600"], len(wire))


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (struct.pack(">i", 2**31 - 1) + bytes(40), InvalidLengthError),
        (struct.pack(">i", -2) + bytes(40), InvalidLengthError),
        (struct.pack(">ii", 1, -1), InvalidLengthError),
        (struct.pack(">ii", 1, 1), InvalidLengthError),
        (struct.pack(">ii", 2, 3) + b"abc", InvalidLengthError),
        (struct.pack(">ii", 2, 4) + b"abcd", TruncatedError),
        (struct.pack(">ii", 1, 1) + b"\xff", ProtocolError),
    ],
)
def test_lists_of_names_that_can_not_be(wire, error):
    with pytest.raises(error):
        structures.decode_names(wire, 0, len(wire))
