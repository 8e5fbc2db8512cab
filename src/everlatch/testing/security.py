"""How clients get into the servers of an ensemble: by TLS, and as whom. What that makes of their settings, and of the
arguments of a `Client`.

Rules of this module: without any of it a server's files and command line are what they would be without this module.
The servers among themselves talk as ever: plainly, and unauthenticated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from everlatch.testing.certificates import Certificates, ClientAuth
from everlatch.testing.faults import check_choice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from everlatch.testing.server import Place

__all__ = ["Security"]

_NETTY: Final = "org.apache.zookeeper.server.NettyServerCnxnFactory"


@dataclass(frozen=True)
class Security:
    """What an ensemble was asked for."""

    tls: bool = False
    client_auth: ClientAuth = "want"

    def __post_init__(self) -> None:
        check_choice("client_auth", self.client_auth, ClientAuth)

    def certificates(self, directory: Path, own_hosts: Sequence[str]) -> Certificates | None:
        """For this machine by these names and addresses; servers come later."""
        return Certificates(directory, *own_hosts) if self.tls else None

    def settings(self, name: str, place: Place, certificates: Certificates | None) -> dict[str, str]:
        """What the zoo.cfg of one server says beyond the rest."""
        if certificates is None:
            return {}
        issued = certificates.issue(name, *dict.fromkeys((place.host, "localhost")))
        return {
            # The other factory has no TLS: a server with a secure port doesn't come up with it.
            "serverCnxnFactory": _NETTY,
            "secureClientPort": str(place.secure_port),
            "secureClientPortAddress": place.host,
            "ssl.keyStore.location": str(issued.keystore),
            "ssl.keyStore.type": "PEM",
            "ssl.trustStore.location": str(certificates.ca),
            "ssl.trustStore.type": "PEM",
            "ssl.clientAuth": self.client_auth,
        }

    def client_options(self, certificates: Certificates | None) -> dict[str, Any]:
        """The arguments of a `Client` that gets in."""
        options: dict[str, Any] = {}
        if certificates is not None:
            options["ca"] = certificates.ca
            if self.client_auth != "none":
                options |= {"cert": certificates.client.cert, "key": certificates.client.key}
        return options
