"""What a guardian is told of a session: all that it takes to close it, ready to be sent.

Rules: what can be encoded is encoded here, by `everlatch.wire`, so that the guardian needs no codec. All of it is
secret: no repr shows it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from everlatch.guardian.told import SESSION
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, encode_connect_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.guardian.told import Message
    from everlatch.kerberos import Kerberos
    from everlatch.paths import Endpoint
    from everlatch.tls import TlsSettings

__all__ = ["Guarded", "KerberosWords", "TlsWords", "tls_words_of", "words_of"]

KerberosWords: TypeAlias = tuple[str | None, str | bytes | None, str | None, str | bytes | None, str, str | None]
"""Principal, keytab, password, ccache, service and the servers' host."""
TlsWords: TypeAlias = tuple[str | None, str | None, str | None, str | None, bool]
"""Absolute paths of ca, cert and key; the key's password; and whether names are verified."""


class Guarded(NamedTuple):
    """A session, and how to get to servers that can close it."""

    session_id: int
    password: bytes
    timeout: float
    """Seconds; as the servers have granted it."""
    servers: Sequence[Endpoint]
    """In the order in which to try them."""
    used: tuple[str, int, str] | None
    """The address of the one in use, its port, and its host as the user has written it."""
    authentication: Sequence[bytes]
    """Frames to be sent when the session is taken."""
    sasl: tuple[str, str] | None = None
    """User and password for DIGEST-MD5."""
    tls: TlsWords | None = None
    kerberos: KerberosWords | None = None
    """What a `Kerberos` is made of."""

    def __repr__(self) -> str:
        return f"<Guarded session 0x{self.session_id & (1 << 64) - 1:x}>"

    def message(self, key: int) -> Message:
        """As it is told, under the number of its client."""
        # Whatever zxid the client has seen, the server that ends its session need not have.
        request = ConnectRequest(0, 0, round(self.timeout * 1000), self.session_id, self.password, False)
        handshake = frame(encode_connect_request(request))
        servers = [(endpoint.host, endpoint.port) for endpoint in self.servers]
        about = (self.timeout, servers, self.used, handshake, list(self.authentication), self.sasl, self.tls)
        return SESSION, key, *about, self.kerberos


def words_of(kerberos: Kerberos) -> KerberosWords:
    """For a process that runs elsewhere."""
    keytab, ccache = kerberos.keytab, kerberos.ccache
    return kerberos.principal, keytab, kerberos.password, ccache, kerberos.service, kerberos.server_host


def tls_words_of(tls: TlsSettings) -> TlsWords:
    """The same."""
    ca, cert, key = (None if path is None else os.path.abspath(path) for path in (tls.ca, tls.cert, tls.key))
    return ca, cert, key, tls.key_password, tls.check_hostname
