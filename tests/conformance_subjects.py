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


class Secured(NamedTuple):
    """A server that is looked at."""

    address: str
    """Without TLS."""
    tls_address: str
    certificates: Certificates
    version: str
    is_real: bool


@contextlib.contextmanager
def secured(
    version: str, is_real: bool, loop: LoopThread, directory: Path, *, sasl: bool = True, require_auth: bool = False
) -> Iterator[Secured]:
    """Both know the users of `sasl_peer`, with `sasl`; a client's certificate is welcome, and not needed."""
    if is_real:
        with _real(version, loop, sasl, require_auth) as subject:
            yield subject
    else:
        with _dev(version, loop, directory, sasl, require_auth) as subject:
            yield subject


@contextlib.contextmanager
def _real(version: str, loop: LoopThread, sasl: bool, require_auth: bool) -> Iterator[Secured]:
    ensemble = Ensemble(
        version=version,
        tick_time=_TICK,
        config={"minSessionTimeout": "200"},
        tls=True,
        sasl="digest" if sasl else None,
        users=USERS,
        require_auth=require_auth,
    )
    loop.run(ensemble.start())
    try:
        (server,) = ensemble.servers
        yield Secured(server.plain_address, server.address, ensemble.certificates, version, is_real=True)
    finally:
        loop.run(ensemble.close())


@contextlib.contextmanager
def _dev(version: str, loop: LoopThread, directory: Path, sasl: bool, require_auth: bool) -> Iterator[Secured]:
    certificates = Certificates(directory)
    options: dict[str, Any] = {
        "version": version,
        "tick": _TICK,
        "min_session_timeout": 0.2,
        "sasl": USERS if sasl else None,
        "require_auth": require_auth,
    }
    plain, tls = DevServer(**options), DevServer(tls=certificates.server_context(), **options)
    for server in (plain, tls):
        loop.run(server.start())
    try:
        yield Secured(plain.address, tls.address, certificates, version, is_real=False)
    finally:
        for server in (plain, tls):
            loop.run(server.stop())
