"""Three real servers, each on a host of its own, and what the promises are attacked with there.

One ensemble of each version serves the tests of all promises, for starting one takes longer than most tests. The
fixture `network` heals what a test has hurt; every test has paths of its own.

`EVERLATCH_HYPOTHESIS=thorough`, which `scripts/acceptance` sets, decides which versions and how long: with it every
test runs on both, and those that take a minute take it. Otherwise a test runs on the newer one, or on the older one
(`ON_OLDER`), or on both if versions matter to it (`ON_BOTH`). `promises.access` says what else may be chosen.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import time
import uuid
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pytest

from everlatch import Client, OutcomeUnknownError, State, WriteNotAppliedError
from everlatch.testing import NetworkEnsemble, Proxy, Server
from promises.access import of_servers, options_for, proxy_to
from real.faults import States, shut, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

THOROUGH = os.environ.get("EVERLATCH_HYPOTHESIS") == "thorough"
VERSIONS = ("3.8", "3.9")
USUAL_VERSIONS = VERSIONS if THOROUGH else VERSIONS[-1:]
ON_OLDER = pytest.mark.parametrize("version", VERSIONS if THOROUGH else VERSIONS[:1], indirect=True, scope="session")
ON_BOTH = pytest.mark.parametrize("version", VERSIONS, indirect=True, scope="session")

TICK = 0.2
SYNC_LIMIT = 10
"""Ticks after which a follower and its leader give each other up."""
T = 2.0
"""The session timeout, where a test needs no other."""
PATIENCE = 30.0
_PAUSE = 0.004
"""Seconds between two calls of steady traffic."""
SUPER = ("digest", b"super:secret")
SETTINGS = {
    "minSessionTimeout": "400",
    "initLimit": "25",
    "syncLimit": str(SYNC_LIMIT),
    "DigestAuthenticationProvider.superDigest": "super:" + base64.b64encode(hashlib.sha1(SUPER[1]).digest()).decode(),
}


def now() -> float:
    """What sessions are measured by: it counts the time for which a machine was suspended, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def ensemble_of(version: str) -> NetworkEnsemble:
    """Three servers, not started."""
    return NetworkEnsemble(3, version=version, tick_time=TICK, config=SETTINGS, **of_servers())


def addresses_of(servers: Iterable[Server | Proxy]) -> list[str]:
    return [server.address for server in servers]


def client_of(servers: Sequence[Server | Proxy], **options: Any) -> Client:
    """A client that tries these servers in this order."""
    usual = {"session_timeout": T, "default_timeout": PATIENCE, "shuffle": False}
    return Client(addresses_of(servers), **options_for(servers[0], **usual | options))


@contextlib.asynccontextmanager
async def watched(client: Client) -> AsyncIterator[States]:
    """Starts a client, and keeps its changes of state from its first connection on."""
    states = States()
    async with client:
        client.add_listener(states)
        yield states


Place = TypeVar("Place", Server, Proxy)


def in_use_first(client: Client, places: Sequence[Place]) -> list[Place]:
    """The one that a client is connected to, and the others. It need not be the first of its list: the next one is
    asked when the first takes too long to answer, as on a busy machine."""
    used = client.statistics().server
    assert used in addresses_of(places)
    return sorted(places, key=lambda place: place.address != used)


@contextlib.asynccontextmanager
async def proxies_of(servers: Iterable[Server]) -> AsyncIterator[list[Proxy]]:
    """A proxy before each server."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(proxy_to(server)) for server in servers]


def shut_all(proxies: Iterable[Proxy]) -> None:
    for proxy in proxies:
        shut(proxy)


def accept_all(proxies: Iterable[Proxy]) -> None:
    for proxy in proxies:
        proxy.accept()


async def make_well(network: NetworkEnsemble) -> None:
    """Links, processes and data as at the beginning; the data are whatever they are."""
    await network.heal()
    for server in network.servers:
        server.resume()
        if not server.running:
            await server.start(wait=False)
    await network.wait_serving()
    await network.leader()
    async with asyncio.timeout(PATIENCE):
        while len(await network.followers()) < len(network.servers) - 1:
            await asyncio.sleep(0.02)


async def new_root(client: Client) -> str:
    """A node of a test's own."""
    return (await client.create(f"/promise-{uuid.uuid4()}")).path


async def without(network: NetworkEnsemble, server: Server) -> list[Server]:
    """The others, followers first."""
    leader = await network.leader()
    return sorted((one for one in network.servers if one is not server), key=lambda one: one is leader)


async def until_gone(witness: Client, path: str, *, timeout: float = PATIENCE) -> float:
    """When a node had vanished; it is there when this is called."""
    async with asyncio.timeout(timeout):
        while await witness.exists(path) is not None:
            await asyncio.sleep(0.01)
    return now()


async def until_time(moment: float) -> None:
    """Lets an outage last until then, by the clock of sessions."""
    await until(lambda: now() >= moment, timeout=max(1.0, moment - now() + PATIENCE))


class Traffic:
    """Reads and writes, one after the other each, as long as its block lasts: steady traffic, and what came of it."""

    def __init__(self, client: Client, path: str) -> None:
        self._client, self._path = client, path
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._read_at = 0.0
        self.longest_gap = 0.0
        """Seconds between two reads that were answered."""
        self.reads = self.writes = self.unknown = 0
        self.last_written = -1
        """The number that was last acknowledged."""

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(work()) for work in (self._read, self._write)]
        await self.goes_on()
        self.longest_gap = 0.0
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopping = True
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self._tasks)

    async def goes_on(self, *, timeout: float = PATIENCE) -> None:
        """Waits until reads and writes are answered that were made from now on."""
        reads, writes = self.reads, self.writes
        await until(lambda: self.reads > reads + 3 and self.writes > writes + 3, timeout=timeout)

    async def _read(self) -> None:
        while not self._stopping:
            await self._client.get(self._path)
            moment = now()
            if self._read_at:
                self.longest_gap = max(self.longest_gap, moment - self._read_at)
            self._read_at = moment
            self.reads += 1
            await asyncio.sleep(_PAUSE)

    async def _write(self) -> None:
        number = 0
        while not self._stopping:
            number += 1
            try:
                await self._client.set(self._path, b"%d" % number)
            except (OutcomeUnknownError, WriteNotAppliedError):
                self.unknown += 1
            else:
                self.last_written = number
                self.writes += 1
            await asyncio.sleep(_PAUSE)


def assert_never_lost(states: States) -> None:
    assert set(states.states) <= {State.SUSPENDED, State.CONNECTED}, states.changes
