"""Certificates for tests: an authority of one's own, what it has issued, and what nobody should accept.

    certificates = Certificates(tmp_path)
    Client("127.0.0.1:2281", ca=certificates.ca, cert=certificates.client.cert, key=certificates.client.key)
    certificates.issue("server", validity="expired")             # in the place of the one that was there

Rules of this module:

- Every certificate has a name, and its files have that of it. Who issues again rotates: the files are replaced, each in
  one step, the paths stay.
- Private keys are made here, never leave the directory, and nobody else can read them. They are worth nothing: no file
  of this module is for anything but a test.
- It needs `trustme` (the extra `testing`), and says so when that is missing.
"""

from __future__ import annotations

import datetime
import os
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from everlatch.errors import EverlatchError, InvalidArgumentError
from everlatch.testing.faults import check_choice

if TYPE_CHECKING:
    from types import ModuleType

    import trustme
    from cryptography import x509

__all__ = ["Certificates", "ClientAuth", "Issued", "TrustmeMissingError", "Validity"]

Validity: TypeAlias = Literal["valid", "expired", "not yet valid"]
"""When a certificate holds: now, until yesterday, from tomorrow on."""
ClientAuth: TypeAlias = Literal["need", "want", "none"]
"""Whether a server asks a client for its certificate: it must have one, it may, it isn't asked. ZooKeeper's
`ssl.clientAuth`."""

_ORGANISATION: Final = "everlatch tests"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_DAY: Final = datetime.timedelta(days=1)
_CLIENT_AUTH: Final = {"need": ssl.CERT_REQUIRED, "want": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


class TrustmeMissingError(EverlatchError, ImportError):
    """Certificates can't be made without `trustme`. Install `everlatch[testing]`."""

    def __init__(self) -> None:
        super().__init__("certificates for tests are made with trustme: pip install 'everlatch[testing]'")


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate and its key, in files. `password` is that of the key file, `None` if it has none."""

    name: str
    cert: Path
    """PEM: the certificate."""
    key: Path
    """PEM, PKCS #8: its key, encrypted if there is a password."""
    keystore: Path
    """PEM: the certificate and the key, which is never encrypted here: a Java server's key store."""
    subject: str
    """The distinguished name as ZooKeeper has it for the scheme `x509`."""
    serial: int
    """The certificate's number; another one each time."""
    password: str | None = field(default=None, repr=False)


class Certificates:
    """An authority, and what it issues, in a directory, which is made if need be. `hosts` (names and IP addresses) is
    what certificates are for when nothing else is said; left out: this machine, by each of its names.

    `server` and `client` are there from the start. Raises `TrustmeMissingError`.
    """

    def __init__(self, directory: str | os.PathLike[str], *hosts: str) -> None:
        self.directory = Path(directory)
        self.hosts = hosts or _LOOPBACK
        self.ca = self.directory / "ca.pem"
        """What clients and servers are told to trust."""
        self.other_ca = self.directory / "other-ca.pem"
        """An authority that nobody trusts: see `issue`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._other_authority = _trustme().CA(organization_name=f"{_ORGANISATION}, of somebody else")
        _write(self.other_ca, self._other_authority.cert_pem.bytes())
        self._issued: dict[str, Issued] = {}
        self._kits: list[Issued] = []
        """What the kit itself has got of each authority."""
        self._new_authority(b"")
        self.issue("server")
        self.issue("client")

    def __repr__(self) -> str:
        return f"<Certificates in {self.directory}>"

    def __getitem__(self, name: str) -> Issued:
        """What was issued with this name last. Raises `KeyError`."""
        return self._issued[name]

    @property
    def server(self) -> Issued:
        """A server's, for `hosts`."""
        return self._issued["server"]

    @property
    def client(self) -> Issued:
        """A client's."""
        return self._issued["client"]

    @property
    def client_cert(self) -> Path:
        """The certificate of `client`."""
        return self.client.cert

    @property
    def client_key(self) -> Path:
        """The key of `client`."""
        return self.client.key

    def issue(
        self,
        name: str,
        *hosts: str,
        validity: Validity = "valid",
        trusted: bool = True,
        password: str | None = None,
    ) -> Issued:
        """A new certificate with a new key, for these `hosts`, in the place of the one that has this name.

        Another host than the server's: a wrong name. Not `trusted`: it comes from `other_ca`. With a `password` the key
        file is encrypted. A server reads its files when it starts: see `restart` of `Server`. ZooKeeper 3.9.5 reads its
        own certificate for each connection, but whom it trusts when it starts.
        """
        check_choice("validity", validity, Validity)
        if not name or set(name) & set("/\\\0"):
            raise InvalidArgumentError(f"a certificate's name is that of a file, not {name!r}")
        not_before, not_after = _period(validity)
        leaf = (self._authority if trusted else self._other_authority).issue_cert(
            *(hosts or self.hosts),
            common_name=name,
            organization_name=_ORGANISATION,
            organization_unit_name="tests",
            not_before=not_before,
            not_after=not_after,
        )
        chain = b"".join(part.bytes() for part in leaf.cert_chain_pems)
        certificate = _parsed(chain)
        issued = Issued(
            name=name,
            cert=self.directory / f"{name}.crt",
            key=self.directory / f"{name}.key",
            keystore=self.directory / f"{name}.pem",
            subject=certificate.subject.rfc4514_string(),
            serial=certificate.serial_number,
            password=password,
        )
        # The certificate last: who watches it finds its key there already.
        _write(issued.keystore, chain + _private_key(leaf, None))
        _write(issued.key, _private_key(leaf, password))
        _write(issued.cert, chain)
        self._issued[name] = issued
        return issued

    def replace_authority(self, *, trust_former: bool = True) -> None:
        """From here on another authority issues; `ca` holds it, and the former ones too if `trust_former`. What was
        issued before stays as it is: issue it again."""
        self._new_authority(self.ca.read_bytes() if trust_former else b"")

    def server_context(self, name: str = "server", *, client_auth: ClientAuth = "want") -> ssl.SSLContext:
        """For a server of this process: it has the certificate of this name, and asks clients for one of `ca`."""
        check_choice("client_auth", client_auth, ClientAuth)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.verify_mode = _CLIENT_AUTH[client_auth]
        _load(context, self._issued[name])
        return context

    def client_context(self, name: str | None = "client") -> ssl.SSLContext:
        """For a client that trusts `ca`, checks the server's name, and has the certificate of this name, or none."""
        context = ssl.create_default_context(cafile=self.ca)
        if name is not None:
            _load(context, self._issued[name])
        return context

    def kit_contexts(self) -> list[ssl.SSLContext]:
        """For the kit's own questions: whatever certificate a server has, it wants to be asked, and whichever authority
        it has heard of last, it is to take one of these."""
        return [_asking(kit) for kit in reversed(self._kits)]

    def _new_authority(self, former: bytes) -> None:
        self._authority: trustme.CA = _trustme().CA(organization_name=_ORGANISATION)
        _write(self.ca, self._authority.cert_pem.bytes() + former)
        self._kits.append(self.issue(f"kit-{len(self._kits) + 1}"))


def _asking(kit: Issued) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _load(context, kit)
    return context


def _load(context: ssl.SSLContext, issued: Issued) -> None:
    context.load_cert_chain(issued.cert, issued.key, issued.password)


def _period(validity: Validity) -> tuple[datetime.datetime | None, datetime.datetime | None]:
    now = datetime.datetime.now(datetime.UTC)
    if validity == "expired":
        return now - 30 * _DAY, now - _DAY
    if validity == "not yet valid":
        return now + _DAY, now + 30 * _DAY
    return now - _DAY, now + 3650 * _DAY


def _private_key(leaf: trustme.LeafCert, password: str | None) -> bytes:
    """As PKCS #8, the only form that Java reads."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), password=None)
    encryption: serialization.KeySerializationEncryption = (
        serialization.NoEncryption()
        if password is None
        else serialization.BestAvailableEncryption(password.encode("utf-8"))
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _parsed(pem: bytes) -> x509.Certificate:
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem)


def _trustme() -> ModuleType:
    # Here, and not above: who tests without TLS doesn't need it.
    try:
        import trustme
    except ModuleNotFoundError as error:
        raise TrustmeMissingError from error
    return trustme


def _write(path: Path, content: bytes) -> None:
    """In one step: nobody ever reads half of it."""
    # mkstemp: nobody else can read it, from the beginning.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
