"""The ensemble that the tests of this directory share; `ensembles` says how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from promises.real.ensembles import USUAL_VERSIONS, client_of, ensemble_of, make_well, new_root, without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch import Client
    from everlatch.testing import NetworkEnsemble


@pytest.fixture(scope="session", params=USUAL_VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def three_hosts(version: str) -> AsyncIterator[NetworkEnsemble]:
    async with ensemble_of(version) as network:
        yield network


@pytest_asyncio.fixture(loop_scope="session")
async def network(three_hosts: NetworkEnsemble) -> AsyncIterator[NetworkEnsemble]:
    """Three servers, all well: whatever a test has done to them is healed before the next."""
    yield three_hosts
    await make_well(three_hosts)


@pytest_asyncio.fixture(loop_scope="session")
async def witness(network: NetworkEnsemble) -> AsyncIterator[Client]:
    """Another client, which sees and does what the one under test can't; at the leader, for what it is told is true."""
    leader = await network.leader()
    async with client_of([leader, *await without(network, leader)], session_timeout=30, close_timeout=0.5) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def root(witness: Client) -> str:
    """A node of the test's own."""
    return await new_root(witness)
