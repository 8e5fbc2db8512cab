"""What the fixtures of the pytest plugin are made of; the plugin itself is the module `everlatch_pytest`, so that
pytest can load it without this package.

Rules of this module: what isn't on the loop of a test runs on a loop of its own, in a thread, and so serves tests that
have no loop as well. What a test has made in its chroot goes with it; what can't be removed is told if it is left on a
server that isn't ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import threading
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

from everlatch.client import Client
from everlatch.devserver import DevServer
from everlatch.errors import EverlatchError
from everlatch.paths import parse_connect_string
from everlatch.testing.ensemble import Ensemble
from everlatch.testing.sessions import expire_session

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from everlatch.testing.simulation import World

__all__ = ["Chroot", "LoopThread", "Simulations", "ZooKeeper", "client_for", "entered", "real_version", "running"]

T = TypeVar("T")

_DEV_SERVER: Final = "devserver"
_VERSION: Final = re.compile(r"\d+\.\d+")
_TICK: Final = 0.1
"""Seconds. Sessions as short as two ticks: tests wait for their end."""
_LONGEST_SESSION: Final = 60.0
_PATIENCE: Final = 30.0
"""Seconds after which a call counts as stuck; so a test that would hang fails instead."""
_REMOVAL_TIMEOUT: Final = 10.0
_SEED: Final = "EVERLATCH_SEED"
"""The environment variable that sets the seed of all simulations."""


# --- servers --------------------------------------------------------------------------------------------------------


class LoopThread:
    """An event loop that runs in a thread, for as long as the `with` block; anybody can run something on it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="everlatch: zookeeper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result, when it is done. Not from the thread itself."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @contextlib.contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """`async with manager` on this loop."""
        value = self.run(_enter(manager))
        try:
            yield value
        finally:
            self.run(_leave(manager))


class Chroot(NamedTuple):
    """A node of a test's own."""

    path: str
    """`/test-…`, on the server."""
    address: str
    """The connect string that has it as the chroot."""


class ZooKeeper:
    """The ZooKeeper of a test run; made by the fixture `zookeeper`."""

    def __init__(self, address: str, thread: LoopThread, *, is_ours: bool) -> None:
        self.address = address
        """The connect string: `host:port,host:port/chroot`."""
        self.servers = tuple(map(str, parse_connect_string(address).endpoints))
        """Each server's `host:port`."""
        self._thread = thread
        self._is_ours = is_ours

    def __repr__(self) -> str:
        return f"<ZooKeeper {self.address}>"

    async def expire_session(self, session: Client | tuple[int, bytes]) -> None:
        """Ends the session of a client: see `everlatch.testing.expire_session`, which this is, on the first server."""
        await expire_session(session, self.servers[0])

    @contextlib.contextmanager
    def chroot(self) -> Iterator[Chroot]:
        """A new node, removed with all below it at the end of the block."""
        path = f"/test-{uuid.uuid4().hex}"
        self._thread.run(self._make(path))
        base = parse_connect_string(self.address).chroot
        try:
            yield Chroot(base + path, f"{self.address.removesuffix('/')}{path}")
        finally:
            self._thread.run(self._remove(path))

    def _client(self) -> Client:
        return Client(self.address, default_timeout=_REMOVAL_TIMEOUT)

    async def _make(self, path: str) -> None:
        async with self._client() as client:
            await client.ensure_path(path)

    async def _remove(self, path: str) -> None:
        try:
            async with self._client() as client:
                await client.delete_tree(path, missing_ok=True)
        except (EverlatchError, TimeoutError) as error:
            # What belongs to somebody may not be removable. On a server of ours it goes with the server.
            if not self._is_ours:
                error.add_note(f"{path} of a test is left on {self.address}")
                raise


@contextlib.contextmanager
def running(which: str) -> Iterator[ZooKeeper]:
    """The ZooKeeper that `which` names: `devserver`, a version, or the connect string of one that runs.

    Raises `ZooKeeperNotFoundError` for a version that is not on this machine; `InvalidConnectStringError`.
    """
    version = real_version(which)
    with LoopThread() as thread:
        if which == _DEV_SERVER:
            with thread.entered(DevServer(tick=_TICK, max_session_timeout=_LONGEST_SESSION)) as server:
                yield ZooKeeper(server.address, thread, is_ours=True)
        elif version is not None:
            with thread.entered(Ensemble(version=version)) as ensemble:
                yield ZooKeeper(ensemble.connect_string, thread, is_ours=True)
        else:
            yield ZooKeeper(which, thread, is_ours=False)


def real_version(which: str) -> str | None:
    """The version that an option names, if it names one."""
    return which if _VERSION.fullmatch(which) else None


# --- on the loop of a test ------------------------------------------------------------------------------------------


def client_for(chroot: Chroot) -> Client:
    """A client for one test."""
    return Client(chroot.address, default_timeout=_PATIENCE)


@contextlib.contextmanager
def entered(manager: AbstractAsyncContextManager[T], loop: asyncio.AbstractEventLoop) -> Iterator[T]:
    """`async with manager` on a loop that stands still outside of what is run on it here and by its owner."""
    value = loop.run_until_complete(_enter(manager))
    try:
        yield value
    finally:
        loop.run_until_complete(_leave(manager))


async def _enter(manager: AbstractAsyncContextManager[T]) -> T:
    return await manager.__aenter__()


async def _leave(manager: AbstractAsyncContextManager[object]) -> None:
    await manager.__aexit__(None, None, None)


# --- simulations ----------------------------------------------------------------------------------------------------


class Simulations:
    """Makes the simulations of one test, all with one seed; made by the fixture `zookeeper_simulation`."""

    def __init__(self, test: str, seed: str | None) -> None:
        self._told = os.environ.get(_SEED) or seed
        self.seed = self._told or str(random.SystemRandom().getrandbits(32))
        """Of simulations that are made without one."""
        self._test = test

    @property
    def replay_command(self) -> str:
        """What runs this test with this seed again."""
        return self._command(self.seed)

    def __call__(self, seed: int | str | None = None, **options: Any) -> AbstractContextManager[World]:
        """`everlatch.testing.simulation.simulation`, which has the options. A `seed` given here is for this
        simulation; that of the command line, or of EVERLATCH_SEED, comes first."""
        from everlatch.testing.simulation import simulation

        chosen = self.seed if seed is None or self._told else str(seed)
        return simulation(chosen, **({"replay": self._command(chosen)} | options))

    def _command(self, seed: str) -> str:
        return f"pytest '{self._test}' --zookeeper-seed={seed}"
