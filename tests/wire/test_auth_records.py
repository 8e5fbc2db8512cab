import pytest
from hypothesis import strategies as st

from everlatch.errors import ProtocolError
from everlatch.types import ClientInfo
from everlatch.wire import auth_records
from wire import strategies as wst
from wire.checks import any_bytes_test, round_trip_test, sample_test
from wire.codecs import functions, named

token = wst.nullable_data.map(lambda data: (data,))

CODECS = [
    named(auth_records, *row)
    for row in [
        (
            "auth_request",
            st.tuples(wst.text, wst.nullable_data),
            ("digest", b"bob:secret"),
            auth_records.AuthRequest,
        ),
        ("sasl_request", token, (b"token",), lambda data: data),
        ("sasl_reply", token, (b"token",), lambda data: data),
        (
            "who_am_i_reply",
            wst.identities.map(lambda identities: (identities,)),
            ([ClientInfo("ip", "127.0.0.1"), ClientInfo("digest", "bob")],),
            lambda identities: identities,
        ),
    ]
]

test_round_trip = round_trip_test(CODECS)
test_one_of_each = sample_test(CODECS)
test_any_bytes = any_bytes_test(CODECS, max_size=60)


def test_every_function_is_tested():
    assert {codec.name for codec in CODECS} == functions(auth_records)


def test_the_type_of_an_auth_packet_is_ignored():
    wire = b"\0\0\0\x07" + auth_records.encode_auth_request("digest", b"x")[4:]
    assert auth_records.decode_auth_request(wire, 0, len(wire)) == ("digest", b"x")


def test_an_empty_token_is_not_a_null_one():
    assert auth_records.encode_sasl_request(b"") == b"\0\0\0\0"
    assert auth_records.encode_sasl_request(None) == b"\xff\xff\xff\xff"


def test_credentials_are_not_shown():
    request = auth_records.AuthRequest("digest", b"bob:secret")
    assert repr(request) == "AuthRequest(scheme='digest', credentials=…)"
    assert "secret" not in str(request)


def test_credentials_that_are_cut_are_not_shown():
    wire = auth_records.encode_auth_request("digest", b"bob:secret")
    with pytest.raises(ProtocolError) as caught:
        auth_records.decode_auth_request(wire, 0, len(wire) - 1)
    assert "secret" not in str(caught.value)


def test_identities_with_nulls():
    assert auth_records.decode_who_am_i_reply(b"\xff\xff\xff\xff", 0, 4) == []
    wire = bytes.fromhex("00000001 00000005 7375706572 ffffffff")
    assert auth_records.decode_who_am_i_reply(wire, 0, len(wire)) == [ClientInfo("super", "")]


def test_a_user_as_java_writes_it():
    wire = bytes.fromhex("00000001 00000004 7361736c 00000006 eda0bdedb880")
    assert auth_records.decode_who_am_i_reply(wire, 0, len(wire)) == [ClientInfo("sasl", "\U0001f600")]
