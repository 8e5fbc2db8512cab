"""Who the clients of these tests are to the servers: what `promises.access` promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from promises.access import OVER_TLS, expire_at
from promises.real.ensembles import ON_BOTH, client_of, proxies_of
from real.faults import until

if TYPE_CHECKING:
    from everlatch import Client
    from everlatch.testing import NetworkEnsemble

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]


async def schemes(client: Client) -> set[str]:
    return {identity.scheme for identity in await client.who_am_i()}


@ON_BOTH
async def test_they_are_who_they_should_be(network: NetworkEnsemble) -> None:
    """Behind a proxy, too, and in a session after the first."""
    expected = {"ip", "sasl", "x509", "digest"} if OVER_TLS else {"ip"}
    async with proxies_of(network.servers) as proxies:
        for places in (network.servers, proxies):
            async with client_of(places) as client:
                assert await schemes(client) == expected
                await expire_at(client, network.servers[0])
                await until(lambda: client.generation == 2)
                assert await schemes(client) == expected
