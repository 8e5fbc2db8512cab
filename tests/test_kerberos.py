"""`everlatch.kerberos`: what is checked before any ticket is asked for. With a KDC: tests/real/test_kerberos.py."""

import builtins

import pytest

from everlatch import InvalidArgumentError, InvalidTypeError, kerberos
from everlatch.kerberos import Kerberos, KerberosNotInstalledError
from everlatch.sasl import SaslRefusedError, SaslTokenError


@pytest.mark.parametrize(
    "arguments",
    [
        {"keytab": "/k", "password": "s3cret"},
        {"keytab": "/k", "ccache": "/c"},
        {"password": "s3cret"},
    ],
)
def test_tickets_come_from_one_place(arguments):
    with pytest.raises(InvalidArgumentError) as raised:
        Kerberos(**arguments)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("arguments", [{"principal": b"bob"}, {"service": ""}, {"server_host": 1}])
def test_types(arguments):
    with pytest.raises(InvalidTypeError):
        Kerberos(**arguments)


def test_the_password_is_in_no_repr():
    assert repr(Kerberos("bob@A", password="s3cret")) == "Kerberos('bob@A', service='zookeeper')"


def test_without_the_package_it_says_what_to_install(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("gssapi"):
            raise ImportError("no module named gssapi")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(KerberosNotInstalledError, match=r"pip install 'everlatch\[kerberos\]'"):
        Kerberos()


def test_only_own_tickets_are_kept_fresh():
    assert Kerberos().keep_fresh() is None
    assert Kerberos(ccache="/c").keep_fresh() is None
    assert Kerberos("bob@A", keytab="/k").keep_fresh() is not None
    assert Kerberos("bob@A", password="x").keep_fresh() is not None


class Ticket:
    def __init__(self, lifetime):
        self.lifetime = lifetime


def with_tickets(monkeypatch, *outcomes, **source):
    """A `Kerberos` that gets these, one after the other; what has been asked for is counted."""
    made = Kerberos("bob@A", **(source or {"keytab": "/k"}))
    left = list(outcomes)

    def acquire(*_):
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(made, "_from_keytab", acquire)
    monkeypatch.setattr(made, "_from_password", acquire)
    return made, left


def test_tickets_that_ran_out_while_the_machine_was_suspended(monkeypatch):
    """Time by `monotonic` stood still; a client that went by that would be refused for hours."""
    first, second = Ticket(36000), Ticket(36000)
    made, _ = with_tickets(monkeypatch, first, second)
    assert made._credentials() is first
    assert made._credentials() is first
    first.lifetime = 0
    assert made._credentials() is second
    assert made._renew() > 3600
    second.lifetime = 0
    with pytest.raises(IndexError):  # there is no third
        made._renew()


def test_tickets_without_an_end(monkeypatch):
    made, left = with_tickets(monkeypatch, Ticket(None), Ticket(None))
    assert made._renew() == float("inf")
    assert made._renew() == float("inf")
    assert len(left) == 1


class KdcError(Exception):
    """As the library raises them."""

    maj_code = 1 << 16

    def __init__(self, code):
        self.min_code = code

    def get_all_statuses(self, code, _is_major):
        return ["refused"]


def test_a_refused_password_is_never_offered_again(monkeypatch):
    """Not by a renewal, nor by other clients with the same mechanism, nor later. Their errors are their own."""
    made, left = with_tickets(monkeypatch, KdcError(-1765328360), Ticket(1), password="x")
    monkeypatch.setattr(Kerberos, "library_error", KdcError)
    raised = []
    for ask in (made._credentials, made._renew, made._renew):
        with pytest.raises(SaslRefusedError) as found:
            ask()
        raised.append(found.value)
        monkeypatch.setattr(kerberos.time, "monotonic", lambda: 1e9)
    assert len({*map(id, raised)}) == 3
    assert len({*map(str, raised)}) == 1
    assert len(left) == 1


def test_a_refused_key_may_be_replaced(monkeypatch):
    made, left = with_tickets(monkeypatch, KdcError(-1765328360), Ticket(100))
    monkeypatch.setattr(Kerberos, "library_error", KdcError)
    for _ in range(2):
        with pytest.raises(SaslTokenError):
            made._renew()
    assert len(left) == 1
    monkeypatch.setattr(kerberos.time, "monotonic", lambda: 1e9)
    assert made._renew() == pytest.approx(80)
