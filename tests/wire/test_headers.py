import pytest
from hypothesis import strategies as st

from everlatch.errors import InvalidArgumentError, TruncatedError
from everlatch.wire import headers
from everlatch.wire.codes import Op
from wire import strategies as wst
from wire.checks import any_bytes_test, hostile_test, round_trip_test
from wire.codecs import Codec


def request_without_length(xid, op):
    return headers.frame_request(xid, op, b"")[4:]


CODECS = [
    Codec(
        request_without_length,
        headers.decode_request_header,
        st.tuples(wst.int32, wst.int32),
        (1, Op.EXISTS),
        lambda *fields: fields,
        "request",
    ),
    Codec(
        headers.encode_reply,
        headers.decode_reply_header,
        st.tuples(wst.int32, wst.int64, wst.int32),
        (1, 0x100000005, -101),
        lambda *fields: fields,
        "reply",
    ),
]

test_round_trip = round_trip_test(CODECS)
test_hostile_numbers = hostile_test(CODECS)
test_any_bytes = any_bytes_test(CODECS, max_size=24)


def test_the_length_counts_header_and_body():
    assert headers.frame_request(3, Op.CLOSE_SESSION, b"") == bytes.fromhex("00000008 00000003 fffffff5")
    assert headers.frame_request(3, Op.SYNC, b"body")[:4] == b"\0\0\0\x0c"


def test_a_body_follows_the_header():
    payload = headers.encode_reply(5, 6, 0, b"body")
    assert payload[headers.REPLY_HEADER.size :] == b"body"
    request = headers.frame_request(5, Op.PING, b"body")
    assert request[headers.REQUEST_HEADER.size :] == b"body"


def test_a_request_that_has_no_whole_header():
    with pytest.raises(TruncatedError, match="ends after 7 of 8 bytes at offset 1"):
        headers.decode_request_header(bytes(8), 1, 8)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, None])
def test_numbers_that_do_not_fit(number):
    with pytest.raises(InvalidArgumentError, match="operation"):
        headers.frame_request(number, 1, b"")
    with pytest.raises(InvalidArgumentError, match="zxid"):
        headers.encode_reply(number, 1, 0)
