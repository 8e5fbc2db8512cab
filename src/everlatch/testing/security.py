"""How clients get into the servers of an ensemble: by TLS, and as whom. What that makes of the servers' settings.

Rules of this module: without any of it a server's files and command line are what they would be without this module.
The servers among themselves talk as ever: plainly, and unauthenticated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from everlatch.errors import InvalidArgumentError
from everlatch.testing.certificates import ClientAuth
from everlatch.testing.faults import check_choice

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from everlatch.testing.certificates import Certificates
    from everlatch.testing.server import Place

__all__ = ["DEFAULT_USERS", "Sasl", "Security"]

Sasl: TypeAlias = Literal["digest", "kerberos"]
"""By which mechanism clients say who they are: DIGEST-MD5, GSSAPI."""
DEFAULT_USERS: Final[Mapping[str, str]] = {"bob": "secret"}
"""Name and password of who is let in when nobody is named."""

_NETTY: Final = "org.apache.zookeeper.server.NettyServerCnxnFactory"
_SASL_PROVIDER: Final = "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"
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

    def java_options(self, directory: Path) -> list[str]:
        """What the command line says beyond the rest of the server that lives in this directory."""
        if self.sasl is None:
            return []
        jaas = directory / "jaas.conf"
        jaas.write_text(_jaas(_DIGEST_MODULE, {f"user_{name}": password for name, password in self.users.items()}))
        return [f"-Djava.security.auth.login.config={jaas}"]

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


def _jaas(module: str, options: Mapping[str, str]) -> str:
    quoted = (f"\n  {name}={_quoted(value)}" for name, value in options.items())
    return f"Server {{\n  {module} required{''.join(quoted)};\n}};\n"


def _quoted(value: str) -> str:
    return '"{}"'.format(re.sub(r'(["\\])', r"\\\1", value))
