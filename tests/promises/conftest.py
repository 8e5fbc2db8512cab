"""What the promises are attacked with on real servers: a proxy of the test's own before one of each version, and a
witness that sees and does what the client under attack can't.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from everlatch import Client
from everlatch.testing import Ensemble
from promises.access import OVER_TLS, of_servers, options_for, proxy_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from everlatch.testing import Proxy, Server
    from real_servers import LoopThread


if OVER_TLS:  # otherwise they are those of all tests

    @pytest.fixture(scope="session")
    def standalone(zookeeper_version: str, loop_thread: LoopThread) -> Iterator[Server]:
        """Like the one that all other tests share."""
        ensemble = Ensemble(version=zookeeper_version, **of_servers())
        loop_thread.run(ensemble.start())
        yield ensemble.servers[0]
        loop_thread.run(ensemble.close())

    @pytest.fixture
    async def ensemble3() -> AsyncIterator[Ensemble]:
        """Like the one that all other tests have."""
        async with Ensemble(3, **of_servers()) as ensemble:
            yield ensemble


@pytest.fixture
async def proxy(standalone: Server) -> AsyncIterator[Proxy]:
    async with proxy_to(standalone) as proxy:
        yield proxy


@pytest.fixture
async def witness(standalone: Server) -> AsyncIterator[Client]:
    """Not behind the proxy."""
    async with Client(standalone.address, **options_for(standalone, session_timeout=30, default_timeout=30)) as client:
        yield client


@pytest.fixture
async def root(witness: Client) -> str:
    """A node of the test's own."""
    return (await witness.create(f"/promise-{uuid.uuid4()}")).path
