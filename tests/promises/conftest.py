"""What the promises are attacked with on real servers: a proxy of the test's own before one of each version, and a
witness that sees and does what the client under attack can't.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from everlatch import Client
from everlatch.testing import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch.testing import Server


@pytest.fixture
async def proxy(standalone: Server) -> AsyncIterator[Proxy]:
    async with Proxy(standalone.address) as proxy:
        yield proxy


@pytest.fixture
async def witness(standalone: Server) -> AsyncIterator[Client]:
    """Not behind the proxy."""
    async with Client(standalone.address, session_timeout=30, default_timeout=30) as client:
        yield client


@pytest.fixture
async def root(witness: Client) -> str:
    """A node of the test's own."""
    return (await witness.create(f"/promise-{uuid.uuid4()}")).path
