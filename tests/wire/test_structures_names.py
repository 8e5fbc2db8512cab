"""`decode_names` has a quick path for many plain names; whatever it is fed, the result is that of the slow one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.errors import ProtocolError
from everlatch.wire.structures import _names_one_by_one, decode_names, encode_names

PLAIN = [f"node-{number:010d}" for number in range(100)]


@pytest.mark.parametrize(
    "odd",
    ["", "é", "a" * 127, "a" * 128, "a" * 70000, "\0", "\0\0\0a", "\0\0\0", "😀"],
    ids=["empty", "not ascii", "127", "128", "huge", "nul", "a length inside", "nuls", "beyond the BMP"],
)
@pytest.mark.parametrize("place", [0, 50, 100])
def test_names_that_are_not_plain_are_read_all_the_same(odd: str, place: int) -> None:
    names = [*PLAIN[:place], odd, *PLAIN[place:]]
    data = encode_names(names)
    assert decode_names(data, 0, len(data)) == (names, len(data))


def test_trailing_bytes_are_left_alone() -> None:
    data = encode_names(PLAIN)
    assert decode_names(data + b"\0\0\0\1x", 0, len(data) + 5) == (PLAIN, len(data))
    assert decode_names(data + b"\0\0\0\1x", 0, len(data)) == (PLAIN, len(data))


@given(st.binary(max_size=12), st.integers(0, len(encode_names(PLAIN))), st.integers(0, 12))
def test_damaged_lists_end_as_they_do_one_by_one(junk: bytes, at: int, cut: int) -> None:
    data = encode_names(PLAIN)
    data = data[:4] + (data[4:at] + junk + data[at + cut :])[: len(data) * 2]

    def outcome(decode: object) -> object:
        try:
            return decode()  # type: ignore[operator]
        except ProtocolError as error:
            return type(error)

    quick = outcome(lambda: decode_names(data, 0, len(data)))
    slow = outcome(lambda: _names_one_by_one(data, 4, len(data), 100))
    if int.from_bytes(data[:4], "big") == 100:
        assert quick == slow
