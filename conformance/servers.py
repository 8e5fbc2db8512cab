"""A dev server and a real one with the same settings, side by side.

Rules of this file: nothing ends or is deleted by itself while a sequence runs: no session within the timeouts of
`running`, no container and no TTL node. Nobody else uses these servers.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

from conformance.control import SUPER, Control
from everlatch.admin import srvr
from everlatch.devserver import DevServer
from everlatch.devserver.identities import digest
from everlatch.testing import Ensemble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["TICK", "VERSIONS", "Pair", "pair"]

VERSIONS: Final = ("3.8", "3.9")
TICK: Final = 2.0
_NEVER: Final = 2_000_000
"""Seconds: 23 days. In milliseconds it has to fit into 32 bits, or ZooKeeper takes a minute instead."""


class Pair(NamedTuple):
    """Both, each with its control."""

    version: str
    release: str
    """Of the real one."""
    real: Control
    dev: Control


@contextlib.asynccontextmanager
async def pair(version: str) -> AsyncIterator[Pair]:
    """Starts both, and stops them. Raises what `Ensemble` raises."""
    ensemble = Ensemble(
        version=version,
        tick_time=TICK,
        config={"DigestAuthenticationProvider.superDigest": digest(SUPER), "maxSessionTimeout": "40000"},
        java_options=[f"-Dznode.container.checkIntervalMs={_NEVER}000", "-Xmx512m"],
    )
    dev_server = DevServer(
        version=version,
        tick=TICK,
        min_session_timeout=1.0,
        super_digest=digest(SUPER),
        reap_interval=_NEVER,
    )
    async with ensemble, dev_server:
        real = await Control.to(ensemble.servers[0].address)
        dev = await Control.to(dev_server.address)
        release = ".".join(map(str, (await srvr(real.address)).version.numbers))
        yield Pair(version, release, real, dev)
        await dev.close()
        await real.close()
