"""Whose turn it is in an exchange of SASL tokens."""

import pytest

from everlatch.errors import SaslError
from everlatch.sasl import DigestMd5
from everlatch.session.sasl import XID_SASL, Sasl
from everlatch.wire.auth_records import decode_sasl_request
from everlatch.wire.codes import Op
from everlatch.wire.headers import decode_request_header

SERVER = "10.0.0.1:2181"


def test_without_a_mechanism_there_is_nothing_to_do():
    sasl = Sasl(None)
    assert sasl.begin("10.0.0.1") is None
    assert (sasl.is_open, sasl.awaits_reply, sasl.name) == (False, False, "SASL")


def test_one_token_at_a_time_until_it_is_done():
    sasl = Sasl(DigestMd5("bob", "secret"))
    step = sasl.begin("10.0.0.1")
    assert step.challenge == b""
    data = sasl.send(b"token")
    assert decode_request_header(data, 4, len(data)) == (XID_SASL, Op.SASL)
    assert decode_sasl_request(data, 12, len(data)) == b"token"
    assert (sasl.is_open, sasl.awaits_reply, sasl.name) == (True, True, "DIGEST-MD5")
    assert sasl.answered(b"challenge", SERVER) == (step.exchange, b"challenge")
    assert (sasl.is_open, sasl.awaits_reply) == (True, False)
    assert sasl.send(None) is None
    assert (sasl.is_open, sasl.awaits_reply) == (False, False)


def test_a_server_without_sasl_has_nothing_to_say():
    sasl = Sasl(DigestMd5("bob", "secret"))
    sasl.begin("10.0.0.1")
    sasl.send(b"")
    with pytest.raises(SaslError, match=r"10\.0\.0\.1:2181 is not set up for SASL"):
        sasl.answered(None, SERVER)


def test_nothing_to_say_later_is_for_the_exchange_to_judge():
    sasl = Sasl(DigestMd5("bob", "secret"))
    step = sasl.begin("10.0.0.1")
    sasl.send(b"")
    sasl.answered(b"challenge", SERVER)
    sasl.send(b"response")
    assert sasl.answered(None, SERVER) == (step.exchange, None)


def test_each_connection_begins_anew():
    sasl = Sasl(DigestMd5("bob", "secret"))
    first = sasl.begin("10.0.0.1")
    sasl.send(b"")
    sasl.disconnected()
    assert (sasl.is_open, sasl.awaits_reply) == (False, False)
    assert sasl.begin("10.0.0.1").exchange is not first.exchange
