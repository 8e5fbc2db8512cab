"""What a client is told of TLS: arguments, files, their rotation, and what errors make of OpenSSL's."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import (
    CertificateFileError,
    Client,
    ClientCertificateError,
    InvalidArgumentError,
    InvalidTypeError,
    NoTlsError,
    ServerCertificateError,
    TlsError,
)
from everlatch.testing import Certificates
from everlatch.tls import TlsSettings
from everlatch.tls.problems import broken, handshake_failed, looks_like_tls

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "correct-horse"


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of a whole module: not to be changed."""
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    certificates.issue("locked", password=SECRET)
    return certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def of(certificates: Certificates, name: str = "client", **more: Any) -> dict[str, Any]:
    return {"ca": certificates.ca, "cert": certificates[name].cert, "key": certificates[name].key} | more


def settings_of(certificates: Certificates, **more: Any) -> TlsSettings:
    settings = TlsSettings.from_arguments(**of(certificates, **more))
    assert settings is not None
    return settings


def problem(**arguments: Any) -> CertificateFileError:
    with pytest.raises(CertificateFileError) as raised:
        Client("127.0.0.1", **arguments)
    assert SECRET not in str(raised.value) + repr(raised.value)
    assert raised.value.__cause__ is None or SECRET not in repr(raised.value.__cause__)
    return raised.value


# --- arguments ----------------------------------------------------------------------------------------------------


def test_without_arguments_there_is_no_tls():
    assert TlsSettings.from_arguments() is None
    assert TlsSettings.from_arguments(False) is None
    assert TlsSettings.from_arguments(False, check_hostname=False) is None
    assert Client("127.0.0.1")._engine.tls is None


def test_any_file_means_tls(issued):
    for arguments in ({"ca": issued.ca}, of(issued), {"cert": issued.client.keystore}, {"tls": True}):
        settings = Client("127.0.0.1", **arguments)._engine.tls
        assert settings is not None
        assert settings.is_plain
        context = settings.context()
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
        assert settings.has_certificate == ("cert" in arguments)


def test_paths_may_be_text(issued):
    settings = TlsSettings.from_arguments(ca=str(issued.ca), cert=str(issued.client.cert), key=str(issued.client.key))
    assert settings is not None
    assert (settings.ca, settings.cert, settings.key) == tuple(
        map(str, (issued.ca, issued.client.cert, issued.client.key))
    )


def test_only_the_given_authority_is_trusted(issued):
    context = settings_of(issued).context()
    assert [dict(part[0] for part in each["subject"])["organizationName"] for each in context.get_ca_certs()] == [
        "everlatch tests"
    ]


def test_the_chain_is_verified_without_the_name_as_well(issued):
    settings = settings_of(issued, check_hostname=False)
    assert not settings.check_hostname
    context = settings.context()
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_REQUIRED)


def test_a_context_of_the_users_own_is_his_own_business():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    settings = TlsSettings.from_arguments(context)
    assert settings is not None
    assert settings.context() is context
    assert (settings.is_plain, settings.check_hostname, settings.has_certificate) == (False, False, None)
    assert context.verify_mode is ssl.CERT_NONE


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"tls": False, "ca": "ca.pem"}, "tls=False says no TLS, and ca "),
    ({"tls": False, "cert": "c", "key": "k"}, "cert, key"),
    ({"tls": ssl.create_default_context(), "ca": "ca.pem"}, "ca can't be given as well"),
    ({"tls": ssl.create_default_context(), "key_password": SECRET}, "key_password can't be given"),
    ({"tls": ssl.create_default_context(), "check_hostname": False}, "check_hostname can't be given"),
    ({"tls": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, "PROTOCOL_TLS_SERVER"),
    ({"key": "key.pem"}, "give cert as well"),
    ({"key_password": SECRET}, "give cert and key as well"),
    ({"tls": True, "ca": "ca.pem", "key_password": SECRET}, "give cert and key as well"),
    ({"check_hostname": False}, "TLS, which is not on"),
    ({"ca": ""}, "path of a PEM file"),
    ({"ca": "a\0b"}, "path of a PEM file"),
]


@pytest.mark.parametrize(("arguments", "text"), CONTRADICTIONS, ids=[text for _, text in CONTRADICTIONS])
def test_what_contradicts_itself_is_refused(arguments, text):
    with pytest.raises(InvalidArgumentError, match=text) as raised:
        Client("127.0.0.1", **arguments)
    assert SECRET not in str(raised.value)


def test_settings_that_are_made_directly_are_checked_as_well(issued):
    assert TlsSettings(ca=issued.ca).is_plain
    for arguments in ({"key": "key.pem"}, {"key_password": SECRET}, {"ca": issued.client.key}):
        with pytest.raises(InvalidArgumentError):
            TlsSettings(**arguments)
    with pytest.raises(InvalidArgumentError, match="ca can't be given"):
        TlsSettings(ssl.create_default_context(), ca=issued.ca)


@pytest.mark.parametrize(
    "arguments", [{"tls": "yes"}, {"tls": 1}, {"ca": 5}, {"ca": b"ca.pem"}, {"cert": "c", "key_password": b"correct"}]
)
def test_what_has_the_wrong_type_is_refused(arguments):
    with pytest.raises(InvalidTypeError) as raised:
        Client("127.0.0.1", **arguments)
    assert "correct" not in str(raised.value)


# --- files --------------------------------------------------------------------------------------------------------


def test_files_that_are_not_there(issued, tmp_path):
    gone = tmp_path / "gone.pem"
    error = problem(ca=gone)
    assert (error.argument, error.path, error.problem) == ("ca", str(gone), "No such file or directory")
    assert problem(cert=gone).path == str(gone)
    assert problem(**of(issued) | {"key": gone}).problem == f"{gone}: No such file or directory"
    assert problem(**of(issued) | {"cert": gone}).problem == f"{gone}: No such file or directory"
    assert "directory" in problem(ca=tmp_path).problem.lower()


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\xff\xfe\0", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_files_that_hold_something_else(issued, tmp_path, content):
    other = tmp_path / "other.pem"
    other.write_bytes(content)
    assert problem(ca=other).problem == "it holds no certificate in PEM form"
    assert problem(**of(issued) | {"cert": other}).problem.startswith("it is no certificate with its key in PEM form")
    assert problem(**of(issued) | {"key": other}).problem.startswith("it is no certificate with its key in PEM form")


def test_a_key_of_another_certificate(issued):
    assert problem(**of(issued) | {"key": issued.server.key}).problem == "the key is not that of the certificate"


def test_a_certificate_without_its_key(issued):
    assert "key" in problem(ca=issued.ca, cert=issued.client.cert).problem


def test_an_encrypted_key(issued):
    assert settings_of(issued, name="locked", key_password=SECRET).has_certificate
    assert problem(**of(issued, "locked")).problem == "the key is encrypted: give key_password"
    assert problem(**of(issued, "locked", key_password="wrong")).problem == "key_password does not open the key"
    assert problem(**of(issued, "locked", key_password=SECRET * 500)).argument == "cert and key"
    assert settings_of(issued, key_password=SECRET).has_certificate, "one that isn't encrypted needs none"


# --- secrets ------------------------------------------------------------------------------------------------------


def test_the_password_is_in_no_text(issued, caplog):
    client = Client("127.0.0.1", **of(issued, "locked", key_password=SECRET))
    settings = client._engine.tls
    assert settings is not None
    assert settings.key_password == SECRET, "whoever needs it can have it"
    for each in (settings, client, client.statistics(), client._engine._dialer):
        assert SECRET not in repr(each) + str(each)
    assert "key_password=<secret>" in repr(settings)
    with pytest.raises(TypeError, match="pickled") as raised:
        pickle.dumps(settings)
    assert SECRET not in str(raised.value)
    assert SECRET not in caplog.text
    assert "own" in repr(TlsSettings(ssl.create_default_context()))


# --- rotation -----------------------------------------------------------------------------------------------------


def test_files_that_stay_are_read_once(certificates):
    settings = settings_of(certificates)
    assert settings.context() is settings.context()


@pytest.mark.parametrize("name", ["ca", "client"])
def test_files_that_change_are_read_again(certificates, name, caplog):
    settings = settings_of(certificates)
    before = settings.context()
    if name == "ca":
        certificates.replace_authority(trust_former=True)
    else:
        certificates.issue("client")
    with caplog.at_level("INFO", "everlatch"):
        after = settings.context()
    assert after is not before
    assert settings.context() is after
    assert len(after.get_ca_certs()) == (2 if name == "ca" else 1)
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_file_of_the_same_size_and_time_is_told_by_its_inode(certificates):
    settings = settings_of(certificates)
    before = settings.context()
    status, content = os.stat(certificates.ca), certificates.ca.read_bytes()
    replacement = certificates.directory / "new"
    replacement.write_bytes(content)
    os.utime(replacement, ns=(status.st_atime_ns, status.st_mtime_ns))
    replacement.rename(certificates.ca)
    assert settings.context() is not before


@pytest.mark.parametrize("harm", ["half", "gone", "other key"])
def test_files_that_can_not_be_loaded_leave_the_last_good_ones_in_force(certificates, harm, caplog):
    settings = settings_of(certificates, name="client", key_password=SECRET)
    before = settings.context()
    cert, key = certificates.client.cert, certificates.client.key
    whole = cert.read_bytes(), key.read_bytes()
    if harm == "half":
        key.write_bytes(whole[1][: len(whole[1]) // 2])
    elif harm == "gone":
        cert.unlink()
    else:
        key.write_bytes(certificates.server.key.read_bytes())
    for _ in range(3):
        assert settings.context() is before
    assert [record.levelname for record in caplog.records] == ["WARNING"], "once for each state of the files"
    assert str(key) in caplog.text
    assert SECRET not in caplog.text

    key.write_bytes(b"worse")
    assert settings.context() is before
    assert len(caplog.records) == 2

    cert.write_bytes(whole[0])
    key.write_bytes(whole[1])
    after = settings.context()
    assert after is not before
    assert settings.context() is after
    assert len(caplog.records) == 2


def test_files_that_come_back_as_they_were_are_no_change(certificates, caplog):
    settings = settings_of(certificates)
    before, aside = settings.context(), certificates.directory / "aside"
    certificates.ca.rename(aside)
    assert settings.context() is before
    aside.rename(certificates.ca)
    assert settings.context() is before
    certificates.ca.rename(aside)
    assert settings.context() is before
    assert len(caplog.records) == 1


# --- errors -------------------------------------------------------------------------------------------------------


def handshake(
    certificates: Certificates, name: str = "server", *, host: str = "localhost", client_auth: str = "none", **more: Any
) -> TlsError | None:
    """What becomes of a handshake in memory; and with TLS 1.3, of the first read after it."""
    server_in, server_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = certificates.server_context(name, client_auth=client_auth)  # type: ignore[arg-type]
    if "version" in more:
        context.maximum_version = more["version"]
    server = context.wrap_bio(server_in, server_out, server_side=True)
    settings = TlsSettings(ca=more.get("ca", certificates.ca), check_hostname=more.get("check_hostname", True))
    client = settings.context().wrap_bio(server_out, server_in, server_hostname=host)
    heard = b""
    try:
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
            with contextlib.suppress(ssl.SSLError):  # the alert tells the client
                server.do_handshake()
            heard = heard or b"\x16\x03"
    except ssl.SSLError as error:
        return handshake_failed(error, heard, host, has_certificate=False)
    try:
        client.read(1)
    except ssl.SSLWantReadError:
        return None
    except ssl.SSLError as error:
        found = broken(error, answered=False, has_certificate=False)
        assert isinstance(found, TlsError)
        return found
    return None


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    certificates = Certificates(tmp_path_factory.mktemp("bad"))
    certificates.issue("expired", validity="expired")
    certificates.issue("early", validity="not yet valid")
    certificates.issue("stranger", trusted=False)
    certificates.issue("elsewhere", "elsewhere.example", "10.9.8.7")
    return certificates


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("expired", "has expired: renew it"),
        ("early", "is not valid yet: is a clock wrong"),
        ("stranger", "is not trusted .* does ca hold the authority"),
        ("elsewhere", "is not for 'localhost'; name the server in the connect string as its certificate does"),
    ],
)
def test_why_a_servers_certificate_is_refused(bad, name, text):
    error = handshake(bad, name)
    assert isinstance(error, ServerCertificateError)
    error_text = pytest.raises(ServerCertificateError, match=text)
    with error_text:
        raise error
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


def test_an_address_that_the_certificate_does_not_have(bad):
    assert "'127.0.0.1'" in str(handshake(bad, "elsewhere", host="127.0.0.1"))
    assert handshake(bad, "elsewhere", host="10.9.8.7") is None
    assert handshake(bad, "elsewhere", host="elsewhere.example") is None
    assert handshake(bad, "elsewhere", check_hostname=False) is None
    assert isinstance(handshake(bad, "stranger", check_hostname=False), ServerCertificateError)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_a_client_certificate(bad, version):
    error = handshake(bad, client_auth="need", version=version)
    assert isinstance(error, ClientCertificateError)
    assert "wants a client certificate: give cert and key" in str(error)
    assert handshake(bad, client_auth="want", version=version) is None


def test_no_version_that_both_speak(bad):
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        error = handshake(bad, version=ssl.TLSVersion.TLSv1_1)
    assert type(error) is TlsError
    assert "no version of TLS" in str(error) or "refused the TLS handshake" in str(error)


def openssl(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] {reason.lower()} (_ssl.c:1006)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "heard", "has_certificate", "kind", "text"),
    [
        (None, b"", None, NoTlsError, "plain port"),
        (ConnectionResetError(104, "reset"), b"", None, NoTlsError, "reset.*secureClientPort"),
        (openssl("WRONG_VERSION_NUMBER"), b"This ZooK", None, NoTlsError, "This ZooK.*plain port"),
        (openssl("RECORD_LAYER_FAILURE"), b"\0\0\0\x25", None, NoTlsError, "does not speak TLS"),
        (None, b"\x16\x03\x03", None, TlsError, "in the middle of the TLS handshake"),
        (openssl("SSLV3_ALERT_CERTIFICATE_UNKNOWN"), b"\x16\x03", True, ClientCertificateError, "does it trust"),
        (openssl("TLSV1_ALERT_UNKNOWN_CA"), b"\x16\x03", True, ClientCertificateError, "unknown ca"),
        (openssl("TLSV1_ALERT_UNKNOWN_CA"), b"\x16\x03", None, ClientCertificateError, "refuses the client cert"),
        (openssl("SSLV3_ALERT_HANDSHAKE_FAILURE"), b"\x16\x03", False, ClientCertificateError, "give cert and key"),
        (openssl("SSLV3_ALERT_HANDSHAKE_FAILURE"), b"\x16\x03", True, TlsError, "does it refuse the client cert"),
        (openssl("SSLV3_ALERT_HANDSHAKE_FAILURE"), b"\x15\x03", False, TlsError, "nothing that both allow"),
        (openssl("TLSV1_ALERT_PROTOCOL_VERSION"), b"\x15\x03", False, TlsError, "no version of TLS"),
        (openssl("BAD_SIGNATURE"), b"\x16\x03", False, TlsError, "bad signature"),
    ],
)
def test_why_a_handshake_fails(error, heard, has_certificate, kind, text):
    failed = handshake_failed(error, heard, "zk1", has_certificate)
    assert type(failed) is kind
    assert failed.__cause__ is error
    with pytest.raises(kind, match=text):
        raise failed


def test_how_a_connection_ends_whose_handshake_was_done():
    assert broken(None, answered=False, has_certificate=False) is None
    assert broken(ConnectionResetError(), answered=True, has_certificate=False) is None
    early = broken(ConnectionResetError(), answered=False, has_certificate=False)
    assert type(early) is TlsError
    assert "right after the TLS handshake (ConnectionResetError): a server that wants a client" in str(early)
    late = broken(openssl("DECRYPTION_FAILED_OR_BAD_RECORD_MAC"), answered=True, has_certificate=False)
    assert type(late) is TlsError
    refused = broken(openssl("TLSV13_ALERT_CERTIFICATE_REQUIRED"), answered=False, has_certificate=False)
    assert type(refused) is ClientCertificateError


def test_what_looks_like_tls():
    for heard in (b"", b"\x16", b"\x16\x03", b"\x15\x03\x03\0\x02"):
        assert looks_like_tls(heard)
    for heard in (b"\0", b"HTTP/1.1", b"\x17\x03", b"\x16\x04", b"\0\0\0\x25"):
        assert not looks_like_tls(heard)


def test_certificates_of_this_module_hold_for_a_while(issued):
    """Were they to end while the tests run, these would fail for another reason than they say."""
    decoded = ssl._ssl._test_decode_cert(str(issued.server.cert))  # type: ignore[attr-defined]
    assert ssl.cert_time_to_seconds(decoded["notAfter"]) > datetime.datetime.now(datetime.UTC).timestamp() + 3600
