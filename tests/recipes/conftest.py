"""One real server for all tests of the recipes, and clients that are closed behind the test."""

from __future__ import annotations

import contextlib
import re
import uuid
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import pytest_asyncio

from everlatch import Client
from everlatch.testing import Ensemble, Proxy, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Connect(Protocol):
    """Makes a started client: of the server itself, or through a proxy."""

    async def __call__(self, proxy: Proxy | None = None, chroot: str = "", **options: Any) -> Client: ...


# The server is a process: it goes on while the loop that started it stands still between the tests.
@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[Server]:
    async with Ensemble(1, version="3.8", tick_time=0.5) as ensemble:
        yield ensemble.servers[0]


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(server.address) as proxy:
        yield proxy


@pytest.fixture
async def connect(server: Server) -> AsyncIterator[Connect]:
    async with contextlib.AsyncExitStack() as clients:

        async def started(proxy: Proxy | None = None, chroot: str = "", **options: Any) -> Client:
            client = Client((server.address if proxy is None else proxy.address) + chroot, **options)
            return await clients.enter_async_context(client)

        yield started


@pytest.fixture
async def client(connect: Connect) -> Client:
    """A client without a proxy, to look and to meddle."""
    return await connect()


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    """A latch path of the test's own."""
    return f"/{re.sub(r'[^a-z0-9_]', '-', request.node.name)}-{uuid.uuid4().hex[:8]}"
