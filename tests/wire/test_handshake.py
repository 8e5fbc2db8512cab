import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.errors import InvalidArgumentError, InvalidLengthError, ProtocolError
from everlatch.wire import handshake, headers
from everlatch.wire.handshake import ConnectRequest, ConnectResponse
from wire import strategies as wst
from wire.checks import any_bytes_test, assert_same, check_round_trip, check_truncated, each, hostile_test
from wire.codecs import Codec

PASSWORD = bytes.fromhex("7f7606d8a0bfdff4f522ef58e948b8fc")
NEW_SESSION = ConnectRequest(0, 0, 10_000, 0, bytes(16), False)
GRANTED = ConnectResponse(0, 10_000, -0x7FFF_0000_0000_0001, PASSWORD, True)

# With the last byte: without it, one can't tell a shorter record from a longer one that was cut.
requests = st.builds(ConnectRequest, wst.int32, wst.int64, wst.int32, wst.int64, wst.nullable_data, st.booleans())
responses = st.builds(
    ConnectResponse, wst.int32, wst.int32, wst.int64, st.binary(min_size=16, max_size=20), st.booleans()
)

CODECS = [
    Codec(
        handshake.encode_connect_request,
        handshake.decode_connect_request,
        requests.map(lambda request: (request,)),
        (NEW_SESSION,),
        lambda request: request,
        "request",
    ),
    Codec(
        handshake.encode_connect_response,
        handshake.decode_connect_response,
        responses.map(lambda response: (response,)),
        (GRANTED,),
        lambda response: response,
        "response",
    ),
]
codecs = each(CODECS)

test_hostile_numbers = hostile_test(CODECS)
test_any_bytes = any_bytes_test(CODECS, max_size=60)


@codecs
@given(draw=st.data())
def test_round_trip(codec, draw):
    check_round_trip(codec, draw.draw(codec.arguments))


@codecs
@given(draw=st.data())
def test_the_read_only_byte_may_be_missing(codec, draw):
    (record,) = draw.draw(codec.arguments)
    without = record._replace(read_only=None)
    encoded = codec.encode(record)
    assert codec.encode(without) == encoded[:-1]
    assert_same(codec.decode(encoded, 0, len(encoded) - 1), without)

    short = Codec(lambda _: encoded[:-1], codec.decode, codec.arguments, codec.sample, codec.expected)
    check_truncated(short, (without,))


def test_response_sizes():
    assert len(handshake.encode_connect_response(GRANTED)) == 37
    assert len(handshake.encode_connect_response(GRANTED._replace(read_only=None))) == 36


def test_null_passwords():
    request = handshake.encode_connect_request(NEW_SESSION._replace(password=None))
    assert handshake.decode_connect_request(request, 0, len(request)).password is None
    response = bytes(16) + b"\xff\xff\xff\xff" + bytes(16)
    assert handshake.decode_connect_response(response, 0, len(response)).password == b""


def test_a_read_only_server_that_makes_no_sessions():
    answer = headers.encode_reply(0, 0x100000005, -119)
    with pytest.raises(ProtocolError, match="answered with error -119 instead of a session"):
        handshake.decode_connect_response(answer, 0, len(answer))


def test_an_answer_that_is_too_short():
    with pytest.raises(ProtocolError, match="answered with 35 bytes, too few"):
        handshake.decode_connect_response(bytes(40), 5, 40)


def test_an_answer_that_is_something_else():
    with pytest.raises(InvalidLengthError):
        handshake.decode_connect_response(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", 0, 46)


@pytest.mark.parametrize(
    ("encode", "record"),
    [
        (handshake.encode_connect_request, NEW_SESSION._replace(session_id=2**63)),
        (handshake.encode_connect_request, NEW_SESSION._replace(timeout_ms=2**31)),
        (handshake.encode_connect_response, GRANTED._replace(session_id=2**63)),
        (handshake.encode_connect_response, GRANTED._replace(timeout_ms=2**31)),
    ],
)
def test_numbers_that_do_not_fit(encode, record):
    secret = b"the password"
    with pytest.raises(InvalidArgumentError, match="session") as caught:
        encode(record._replace(password=secret))
    assert secret.decode() not in str(caught.value)
