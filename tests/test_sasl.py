"""`everlatch.sasl`: what is checked, and that the password stays where it is."""

import pytest

from everlatch import Client, DigestMd5, InvalidArgumentError, InvalidTypeError, SaslTokenError
from everlatch.wire.digest_md5 import challenge, verify


@pytest.mark.parametrize(("username", "password"), [(b"bob", "x"), ("bob", None), ("bob", b"secret")])
def test_types(username, password):
    with pytest.raises(InvalidTypeError) as raised:
        DigestMd5(username, password)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("username", "password"), [("", "x"), ("b\0b", "x"), ("bob", "secret\0"), ("\ud800", "x")])
def test_values(username, password):
    with pytest.raises(InvalidArgumentError) as raised:
        DigestMd5(username, password)
    assert "secret" not in str(raised.value)


def test_the_password_is_in_no_repr():
    mechanism = DigestMd5("bob", "s3cret")
    assert repr(mechanism) == "DigestMd5('bob', …)"
    assert mechanism.password == "s3cret"
    assert "s3cret" not in repr(mechanism.begin("zk1")) + str(vars(Client("zk1", sasl=mechanism)))


def test_an_exchange():
    exchange = DigestMd5("bob", "pw").begin("zk1")
    assert exchange.step(b"") == b""
    response = exchange.step(challenge("n"))
    _, proof = verify(response, "n", {"bob": "pw"})
    assert exchange.step(proof) is None


@pytest.mark.parametrize("token", [None, b"", b"nonsense"])
def test_what_is_no_challenge(token):
    exchange = DigestMd5("bob", "pw").begin("zk1")
    exchange.step(b"")
    with pytest.raises(SaslTokenError):
        exchange.step(token)


@pytest.mark.parametrize("sasl", ["secret", DigestMd5, ("bob", "secret"), object()])
def test_a_client_takes_mechanisms_only(sasl):
    with pytest.raises(InvalidTypeError) as raised:
        Client("zk1", sasl=sasl)
    kind = "the class DigestMd5" if sasl is DigestMd5 else f"a {type(sasl).__name__}"
    assert str(raised.value).endswith(f", not {kind}"), "and not what it is: it may be a password"
