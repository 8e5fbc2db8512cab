"""The three servers of a run, the fault that one of them suffers, and how they get well again.

Rules of this file:
- What is waited for is a condition that the servers tell of themselves, never a time.
- It is always the same follower that suffers: those that clients go to instead have run since the beginning, so no
  contestant meets a server that has only just started.
- A frozen follower is not dropped by its leader (`syncLimit`), so that it goes on where it was when it is thawed.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bench.plain import PlainConnection
from bench.process import MeasurementError
from bench.server import prepare, warm
from bench.wire_session import WireSession
from everlatch.admin import MalformedAnswerError, mntr
from everlatch.testing.ensemble import Ensemble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch.testing.server import Server

__all__ = ["FAULTS", "SESSION_TIMEOUT_S", "TICK_S", "Trio", "trio"]

FAULTS = ("kill", "stop")
"""kill -9, and SIGSTOP."""
SESSION_TIMEOUT_S = 6.0
TICK_S = 0.5
_SETTINGS = {"syncLimit": "120"}
# A process that is killed closes its connections only when its memory has been freed: the less, the sooner.
_SMALL_HEAP = ("-Xmx64m",)
_POLL_S = 0.02
_PATIENCE_S = 60.0
_REATTACHMENTS = 100
_OPERATIONS = 10_000
"""Of each kind, at each server."""


class Trio:
    """Three servers that run."""

    def __init__(self, ensemble: Ensemble, victim: Server) -> None:
        self._ensemble = ensemble
        self._victim = victim
        self.deaths_ms: list[float] = []
        """How long it took the victim to die, each time."""

    @property
    def connect_string(self) -> str:
        """Of all three."""
        return self._ensemble.connect_string

    @property
    def ca(self) -> str:
        """The file of the authority that has issued the servers' certificates; empty where there is no TLS."""
        return str(self._ensemble.client_options.get("ca", ""))

    @property
    def addresses(self) -> list[str]:
        """Of all three, in the order of their ids; without TLS."""
        return [server.plain_address for server in self._ensemble.servers]

    @property
    def victim(self) -> str:
        """The address of the follower that suffers."""
        return self._victim.address

    async def check_is_at_victim(self, session_id: int) -> None:
        """Raises `MeasurementError` unless this session's server is the victim, and that a follower."""
        mode = await self._victim.mode()
        server = await self._ensemble.server_of(session_id)
        if server is not self._victim or mode != "follower":
            raise MeasurementError(f"the session is at {server}, to suffer is {self._victim}, which is a {mode}")

    async def inflict(self, fault: str) -> int:
        """The time just before it, on CLOCK_MONOTONIC in ns. When it returns, the victim answers nobody any more."""
        began = time.monotonic_ns()
        if fault == "kill":
            await self._victim.kill()
            self.deaths_ms.append((time.monotonic_ns() - began) / 1e6)
        else:
            self._victim.pause()
        return began

    async def heal(self) -> None:
        """Returns when all three serve, and the leader has both followers."""
        if self._victim.paused:
            self._victim.resume()
        if not self._victim.running:
            await self._victim.start()
        await self.wait_whole()

    async def wait_whole(self) -> None:
        """As `heal`."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                if await self._is_whole():
                    return
                await asyncio.sleep(_POLL_S)

    async def _is_whole(self) -> bool:
        leader = await self._ensemble.leader()
        try:
            synced = (await mntr(leader.plain_address)).get("zk_synced_followers")
        except (OSError, MalformedAnswerError):
            return False
        return synced == 2 and len(await self._ensemble.followers()) == 2


@asynccontextmanager
async def trio(*, tls: bool = False) -> AsyncIterator[Trio]:
    """Three servers of ZooKeeper 3.9, with the nodes of the workload, and warm; `tls`: clients are to come by TLS.
    Raises `EnsembleError`, …"""
    async with Ensemble(
        3,
        version="3.9",
        tick_time=TICK_S,
        config=_SETTINGS,
        java_options=_SMALL_HEAP,
        tls=tls,
        client_auth="none",
    ) as ensemble:
        servers = Trio(ensemble, (await ensemble.followers())[0])
        await servers.wait_whole()
        await asyncio.to_thread(_warm, servers.addresses)
        if tls:
            await asyncio.to_thread(_warm_tls, [server.address for server in ensemble.servers], servers.ca)
        yield servers


def _warm(addresses: list[str]) -> None:
    for address in addresses:
        prepare(address, with_crowd=False)
        warm(address, _OPERATIONS)
    # Sessions that come from elsewhere, which is what failover is: at every server, again and again.
    with WireSession(addresses, SESSION_TIMEOUT_S) as session:
        for _ in range(_REATTACHMENTS):
            session.reattach()


def _warm_tls(addresses: list[str], ca: str) -> None:
    for address in addresses:
        warm(address, _OPERATIONS, ca)
        for _ in range(_REATTACHMENTS):
            with PlainConnection(address, ca):
                pass
