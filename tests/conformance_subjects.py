"""Servers for the conformance suite whose clients authenticate: dev servers, and real ones with the same settings.

`secured(version, is_real, …)` has two addresses, one of them over TLS. A real server has both; of dev servers there are
two then, which is no difference for whom each test asks one of them only.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from everlatch.devserver import DevServer
from everlatch.testing import Ensemble
from everlatch.testing.certificates import Certificates
from sasl_peer import USERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from real_servers import LoopThread

__all__ = ["SUBJECTS", "Secured", "secured"]

SUBJECTS = [
    pytest.param((version, is_real), id=f"{'real' if is_real else 'devserver'}-{version}", marks=marks)
    for is_real, marks in ((False, ()), (True, pytest.mark.real))
    for version in ("3.8", "3.9")
]
_TICK = 0.1
_PROVIDER = "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"
_LOGIN = "org.apache.zookeeper.server.auth.DigestLoginModule"


class Secured(NamedTuple):
    """A server that is looked at."""

    address: str
    """Without TLS."""
    tls_address: str
    certificates: Certificates
    is_real: bool


@contextlib.contextmanager
def secured(version: str, is_real: bool, loop: LoopThread, directory: Path, *, require_auth: bool) -> Iterator[Secured]:
    """Both know the users of `sasl_peer`; a client's certificate is welcome, and not needed."""
    if is_real:
        with _real(version, loop, directory, require_auth) as subject:
            yield subject
    else:
        with _dev(version, loop, directory, require_auth) as subject:
            yield subject


@contextlib.contextmanager
def _real(version: str, loop: LoopThread, directory: Path, require_auth: bool) -> Iterator[Secured]:
    users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
    login = directory / "jaas.conf"
    login.write_text(f"Server {{ {_LOGIN} required {users}; }};\n")
    config = {"authProvider.sasl": _PROVIDER, "minSessionTimeout": "200"}
    if require_auth:
        config["sessionRequireClientSASLAuth"] = "true"
    options = [f"-Djava.security.auth.login.config={login}"]
    ensemble = Ensemble(version=version, tick_time=_TICK, config=config, java_options=options, tls=True)
    loop.run(ensemble.start())
    try:
        (server,) = ensemble.servers
        yield Secured(server.plain_address, server.address, ensemble.certificates, is_real=True)
    finally:
        loop.run(ensemble.close())


@contextlib.contextmanager
def _dev(version: str, loop: LoopThread, directory: Path, require_auth: bool) -> Iterator[Secured]:
    certificates = Certificates(directory)
    options: dict[str, Any] = {
        "version": version,
        "tick": _TICK,
        "min_session_timeout": 0.2,
        "sasl": USERS,
        "require_auth": require_auth,
    }
    context = certificates.server_context(client_auth="want")
    plain, tls = DevServer(**options), DevServer(tls=context, **options)
    for server in (plain, tls):
        loop.run(server.start())
    try:
        yield Secured(plain.address, tls.address, certificates, is_real=False)
    finally:
        for server in (plain, tls):
            loop.run(server.stop())
