"""`everlatch.kerberos`: what is checked before any ticket is asked for. With a KDC: tests/real/test_kerberos.py."""

import builtins

import pytest

from everlatch import InvalidArgumentError, InvalidTypeError
from everlatch.kerberos import Kerberos, KerberosNotInstalledError


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
