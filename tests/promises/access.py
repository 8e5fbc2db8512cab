"""How the clients of these tests get at real servers: plainly, or by TLS, as somebody who has to say who he is.

`EVERLATCH_PROMISES_OVER=tls`, which `scripts/acceptance` sets, makes every ensemble one that listens by TLS (and Netty)
and demands SASL of everybody; clients have a certificate, too, and are a user of the scheme `digest` as well.
Otherwise, or with `plain`, nothing of the kind is there. What tests assert is the same.

Whoever makes a client, a proxy or an ensemble asks here. Which authority a server's certificates come from the server
or the proxy itself says; a client has the whole rest from here.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

from everlatch import DigestMd5
from everlatch.testing import Proxy, expire_session

if TYPE_CHECKING:
    from everlatch import Client
    from everlatch.testing import Server

OVER: Final = os.environ.get("EVERLATCH_PROMISES_OVER", "plain")
if OVER not in ("plain", "tls"):
    raise ValueError(f"EVERLATCH_PROMISES_OVER is plain or tls, not {OVER!r}")
OVER_TLS: Final = OVER == "tls"

NAME: Final = "localhost"
"""The only name that certificates of the kit have, for tests of names: what its addresses are, the test says."""
USER: Final = ("digest", b"everybody:secret")
"""Who all clients are, beside whoever a test makes of them."""

_SASL: Final = {"promises": "kept"}
_OPTIONS: Final = "EVERLATCH_PROMISES_OPTIONS"


def of_servers() -> dict[str, Any]:
    """Arguments of an `Ensemble`."""
    return {"tls": True, "sasl": "digest", "require_auth": True, "users": _SASL} if OVER_TLS else {}


def options_for(place: Server | Proxy, **own: Any) -> dict[str, Any]:
    """Arguments of a `Client` of this server or proxy; `own` are those that a test gives it."""
    certificates = place.certificates
    if certificates is None:
        return own
    usual = {"ca": certificates.ca, "cert": certificates.client_cert, "key": certificates.client_key, "sasl": sasl()}
    return usual | own | {"auth": [USER, *own.get("auth", ())]}


def proxy_to(server: Server, **options: Any) -> Proxy:
    """A proxy that sees requests, also those by TLS."""
    return Proxy(server.address, tls=server.certificates, **options)


async def expire_at(session: Client | tuple[int, bytes], server: Server) -> None:
    """`expire_session`, as somebody to whom the servers listen."""
    await expire_session(session, server, sasl=sasl() if OVER_TLS else None)


def environment_for(server: Server) -> dict[str, str]:
    """By which another process finds `options_of_process`."""
    if server.certificates is None:
        return {}
    files = {name: str(value) for name, value in options_for(server).items() if name in ("ca", "cert", "key")}
    return {_OPTIONS: json.dumps(files)}


def options_of_process() -> dict[str, Any]:
    """Arguments of a `Client` in a process that was given `environment_for`."""
    files = os.environ.get(_OPTIONS)
    return {} if files is None else json.loads(files) | {"sasl": sasl(), "auth": [USER]}


def sasl() -> DigestMd5:
    """Who all clients are to servers that demand it."""
    ((name, password),) = _SASL.items()
    return DigestMd5(name, password)
