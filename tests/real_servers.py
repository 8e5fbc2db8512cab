"""Real servers as fixtures, for all tests. A build that is missing fails the test and says how to install it.

The servers of `standalone` run on an event loop of their own, in a thread: they are shared by the whole session,
while every test has a loop of its own.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from everlatch.testing import Ensemble, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

T = TypeVar("T")

VERSIONS = ("3.8", "3.9")


class LoopThread:
    """An event loop that runs in a thread; coroutines are run on it from anywhere."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # The servers live as long as the thread that started them.
        self._thread = threading.Thread(target=self._loop.run_forever, name="shared servers", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session", params=VERSIONS)
def zookeeper_version(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


@pytest.fixture(scope="session")
def standalone(zookeeper_version: str, loop_thread: LoopThread) -> Iterator[Server]:
    """A standalone server of each version in turn, shared by all tests: use paths of your own, don't hurt it."""
    ensemble = Ensemble(version=zookeeper_version)
    loop_thread.run(ensemble.start())
    yield ensemble.servers[0]
    loop_thread.run(ensemble.close())


@pytest.fixture
async def ensemble3() -> AsyncIterator[Ensemble]:
    """Three fresh servers of 3.8, for this test alone: do what you like to them."""
    async with Ensemble(3) as ensemble:
        yield ensemble
