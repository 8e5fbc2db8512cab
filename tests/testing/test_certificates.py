"""Certificates for tests: each is what it says, for a client and a server that talk to each other in memory."""

from __future__ import annotations

import ssl
import stat
import sys
from typing import TYPE_CHECKING

import pytest

from everlatch.errors import InvalidArgumentError
from everlatch.testing import Certificates, TrustmeMissingError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str = "localhost") -> ssl.SSLObject:
    """A handshake without sockets; returns the server's end."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_server_and_client_are_who_they_say(certificates: Certificates, host: str) -> None:
    server = certificates.server_context(client_auth="need")
    end = shake_hands(certificates.client_context(), server, host)
    peer = end.getpeercert()
    assert peer is not None
    assert int(str(peer["serialNumber"]), 16) == certificates.client.serial
    assert certificates.client.subject == "CN=client,OU=tests,O=everlatch tests"


@pytest.mark.parametrize(
    ("validity", "trusted", "hosts", "said"),
    [
        ("expired", True, (), "certificate has expired"),
        ("not yet valid", True, (), "not yet valid"),
        ("valid", False, (), "unable to get local issuer"),
        ("valid", True, ("elsewhere.example", "10.0.0.1"), "Hostname mismatch"),
    ],
)
def test_what_nobody_should_accept_is_not_accepted(
    certificates: Certificates, validity: str, trusted: bool, hosts: tuple[str, ...], said: str
) -> None:
    certificates.issue("server", *hosts, validity=validity, trusted=trusted)  # type: ignore[arg-type]
    with pytest.raises(ssl.SSLCertVerificationError, match=said):
        shake_hands(certificates.client_context(), certificates.server_context())


def test_a_client_without_a_certificate_is_asked_for_one_or_not(certificates: Certificates) -> None:
    nobody = certificates.client_context(None)
    for client_auth in ("want", "none"):
        end = shake_hands(nobody, certificates.server_context(client_auth=client_auth))  # type: ignore[arg-type]
        assert end.getpeercert() is None
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake_hands(nobody, certificates.server_context(client_auth="need"))


def test_who_issues_again_rotates(certificates: Certificates) -> None:
    first = certificates.client
    former_server, former_client = certificates.server_context(), certificates.client_context()
    certificates.replace_authority()
    second = certificates.issue("client")
    certificates.issue("server")
    assert (second.cert, second.key, second.keystore) == (first.cert, first.key, first.keystore)
    assert second.serial != first.serial
    assert certificates["client"] is certificates.client is second
    # The former authority is still trusted, by those who read `ca` anew.
    shake_hands(certificates.client_context(None), former_server)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(certificates.client_context(), former_server)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(former_client, certificates.server_context())
    certificates.replace_authority(trust_former=False)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(certificates.client_context(), certificates.server_context())


def test_an_encrypted_key_needs_its_password_and_the_password_is_shown_nowhere(certificates: Certificates) -> None:
    issued = certificates.issue("client", password="s3cret")
    context = ssl.create_default_context(cafile=certificates.ca)
    with pytest.raises(ssl.SSLError):
        context.load_cert_chain(issued.cert, issued.key, "another")
    context.load_cert_chain(issued.cert, issued.key, issued.password)
    assert b"ENCRYPTED" in issued.key.read_bytes()
    assert b"ENCRYPTED" not in issued.keystore.read_bytes()
    assert "s3cret" not in repr(issued) + repr(certificates)


def test_nobody_else_can_read_the_keys_and_nothing_else_is_left_there(certificates: Certificates) -> None:
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in certificates.directory.iterdir()}
    pairs = {f"{name}.{ending}" for name in ("server", "client", "kit-1") for ending in ("crt", "key", "pem")}
    assert names == dict.fromkeys({"ca.pem", "other-ca.pem"} | pairs, 0o600)


@pytest.mark.parametrize("name", ["", "../server", "a/b"])
def test_a_name_that_is_no_file_is_refused(certificates: Certificates, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="name"):
        certificates.issue(name)


def test_without_trustme_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(TrustmeMissingError, match=r"everlatch\[testing\]"):
        Certificates(tmp_path)
