"""`everlatch.sasl`: what is checked, and that the password stays where it is."""

import pytest

from everlatch import Client, DigestMd5, InvalidArgumentError, InvalidTypeError, SaslTokenError
from everlatch.errors import GuardianUnavailableError
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


class Incomplete:
    """Looks like a mechanism, and lacks something; its repr has a secret, as that of a dataclass would."""

    name = "PLAIN"
    is_blocking = False

    def begin(self, host):
        return self

    def keep_fresh(self):
        return None

    def __repr__(self):
        return "Incomplete(password='s3cret')"


@pytest.mark.parametrize("missing", ["name", "is_blocking", "begin", "keep_fresh"])
def test_a_mechanism_is_looked_at_before_it_is_needed(missing, monkeypatch):
    Client("127.0.0.1", sasl=Incomplete())
    monkeypatch.delattr(Incomplete, missing)
    with pytest.raises(InvalidTypeError) as raised:
        Client("127.0.0.1", sasl=Incomplete())
    assert "s3cret" not in str(raised.value)


def test_no_repr_of_somebody_elses_mechanism_is_shown():
    with pytest.raises(GuardianUnavailableError) as raised:
        Client("127.0.0.1", sasl=Incomplete(), guardian=True)
    assert "s3cret" not in str(raised.value)
