"""How clients get into the servers of an ensemble: by TLS, and as whom.

`Security` is what was asked for, and what that makes of the servers' settings. `Access` is what there is of it while an
ensemble runs: certificates, a KDC, and the arguments of a client that gets in.

Rules of this module: without any of it a server's files and command line are what they would be without this module.
The servers among themselves talk as ever: plainly, and unauthenticated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from everlatch.errors import InvalidArgumentError
from everlatch.kerberos import Kerberos
from everlatch.sasl import DigestMd5
from everlatch.testing.certificates import Certificates, ClientAuth
from everlatch.testing.faults import check_choice
from everlatch.testing.kdc import Kdc

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from everlatch.testing.kdc import ServicePrincipal
    from everlatch.testing.server import Place

__all__ = ["DEFAULT_USERS", "Access", "Sasl", "Security"]

Sasl: TypeAlias = Literal["digest", "kerberos"]
"""By which mechanism clients say who they are: DIGEST-MD5, GSSAPI."""
DEFAULT_USERS: Final[Mapping[str, str]] = {"bob": "secret"}
"""Name and password of who is let in when nobody is named."""

_LOOPBACK: Final = ("127.0.0.1", "localhost")
_NETTY: Final = "org.apache.zookeeper.server.NettyServerCnxnFactory"
_SASL_PROVIDER: Final = "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"
_KERBEROS_MODULE: Final = "com.sun.security.auth.module.Krb5LoginModule"
_DIGEST_MODULE: Final = "org.apache.zookeeper.server.auth.DigestLoginModule"
# What Java's parser takes as one word.
_USER: Final = re.compile(r"[A-Za-z0-9_.-]+")
# It expands ${…}, and ends a text at the end of a line.
_BAD_PASSWORD: Final = re.compile(r"\$\{|[\x00-\x1f]")


@dataclass(frozen=True)
class Security:
    """What an ensemble was asked for."""

    tls: bool = False
    client_auth: ClientAuth = "want"
    sasl: Sasl | None = None
    require_auth: bool = False
    users: Mapping[str, str] = field(default_factory=lambda: DEFAULT_USERS, repr=False)

    def __post_init__(self) -> None:
        check_choice("client_auth", self.client_auth, ClientAuth)
        if self.sasl is not None:
            check_choice("sasl", self.sasl, Sasl)
        if not self.users:
            raise InvalidArgumentError("users: at least one name with its password")
        for name, password in self.users.items():
            if not _USER.fullmatch(name):
                raise InvalidArgumentError(f"a user's name has letters, digits, '_', '.' and '-', not {name!r}")
            if _BAD_PASSWORD.search(password):
                raise InvalidArgumentError(f"the password of {name!r} has '${{' or a control character in it")

    def settings(self, issued: tuple[Certificates, str] | None, place: Place) -> dict[str, str]:
        """What a server's zoo.cfg says beyond the rest. `issued`: its certificate, by name."""
        settings: dict[str, str] = {}
        if issued is not None:
            settings |= self._tls_settings(*issued, place)
        if self.sasl is not None:
            settings["authProvider.sasl"] = _SASL_PROVIDER
        if self.require_auth and self.sasl is not None:
            settings["sessionRequireClientSASLAuth"] = "true"
        elif self.require_auth:
            settings |= {"enforce.auth.enabled": "true", "enforce.auth.schemes": "digest"}
        return settings

    def java_options(self, directory: Path, service: ServicePrincipal | None) -> list[str]:
        """What the command line says beyond the rest of the server that lives in this directory. `service`: the
        server's principal, if it has one."""
        if service is not None:
            options = {
                "useKeyTab": "true",
                "keyTab": str(service.keytab),
                "storeKey": "true",
                "principal": service.name,
                # It gets no ticket for itself, and so comes up without the KDC as well, wherever that is.
                "isInitiator": "false",
            }
            login = _login(directory, _KERBEROS_MODULE, options)
            return [*login, f"-Djava.security.krb5.conf={service.krb5_conf}"]
        if self.sasl == "digest":
            passwords = {f"user_{name}": password for name, password in self.users.items()}
            return _login(directory, _DIGEST_MODULE, passwords)
        return []

    def _tls_settings(self, certificates: Certificates, name: str, place: Place) -> dict[str, str]:
        return {
            # The other factory has no TLS: a server with a secure port doesn't come up with it.
            "serverCnxnFactory": _NETTY,
            "secureClientPort": str(place.secure_port),
            "secureClientPortAddress": place.host,
            "ssl.keyStore.location": str(certificates[name].keystore),
            "ssl.keyStore.type": "PEM",
            "ssl.trustStore.location": str(certificates.ca),
            "ssl.trustStore.type": "PEM",
            "ssl.clientAuth": self.client_auth,
        }


class Access:
    """While an ensemble runs. `kdc` is somebody else's, and stays; without one it starts its own if one is needed."""

    def __init__(self, security: Security, kdc: Kdc | None = None) -> None:
        self.certificates: Certificates | None = None
        self.kdc = kdc
        self._security = security
        self._own_kdc: Kdc | None = None
        self._client_keytab: Path | None = None

    async def open(self, directory: Path, address: str) -> None:
        """In this directory, which somebody else deletes. `address`: that of this process, for all servers."""
        if self._security.tls:
            self.certificates = Certificates(directory / "certificates", *dict.fromkeys((address, *_LOOPBACK)))
        if self._security.sasl != "kerberos":
            return
        if self.kdc is None:
            self.kdc = self._own_kdc = Kdc(host=address)
            await self._own_kdc.start()
        for name, password in self._security.users.items():
            await self.kdc.add_principal(name, password)
        self._client_keytab = await self.kdc.keytab(self._user)

    async def close(self) -> None:
        """Ends what it has started."""
        if self._own_kdc is not None:
            await self._own_kdc.close()
            self.kdc = self._own_kdc = None
        self.certificates = None

    async def settings(self, name: str, place: Place) -> dict[str, str]:
        """What the zoo.cfg of the server of this name says beyond the rest."""
        if self.certificates is None:
            return self._security.settings(None, place)
        self.certificates.issue(name, *dict.fromkeys((place.host, "localhost")))
        return self._security.settings((self.certificates, name), place)

    async def java_options(self, directory: Path, place: Place) -> list[str]:
        """What the command line says beyond the rest of the server that lives in this directory."""
        wanted = self._security.sasl == "kerberos"
        service = await self.kdc.service(place.host) if wanted and self.kdc is not None else None
        return self._security.java_options(directory, service)

    @property
    def client_options(self) -> dict[str, Any]:
        """The arguments of a `Client` that gets in, as the first user."""
        security, options = self._security, dict[str, Any]()
        if self.certificates is not None:
            options["ca"] = self.certificates.ca
            if security.client_auth != "none":
                options |= {"cert": self.certificates.client_cert, "key": self.certificates.client_key}
        if self._client_keytab is not None and self.kdc is not None:
            options["sasl"] = Kerberos(self.kdc.full_name(self._user), keytab=self._client_keytab)
        elif security.sasl == "digest":
            options["sasl"] = DigestMd5(self._user, security.users[self._user])
        elif security.require_auth:
            options["auth"] = [("digest", f"{self._user}:{security.users[self._user]}".encode())]
        return options

    @property
    def _user(self) -> str:
        return next(iter(self._security.users))


def _login(directory: Path, module: str, options: Mapping[str, str]) -> list[str]:
    """Writes the configuration of Java's login; returns what makes a server read it."""
    quoted = (f"\n  {name}={_quoted(value)}" for name, value in options.items())
    jaas = directory / "jaas.conf"
    jaas.write_text(f"Server {{\n  {module} required{''.join(quoted)};\n}};\n")
    return [f"-Djava.security.auth.login.config={jaas}"]


def _quoted(value: str) -> str:
    return '"{}"'.format(re.sub(r'(["\\])', r"\\\1", value))
