"""Ensembles of real servers and of dev servers, behind the same methods."""

from __future__ import annotations

import asyncio

import pytest

from everlatch.client import Client
from everlatch.testing.either_ensemble import EitherEnsemble, NoSuchServerError

LIMIT = 30.0


@pytest.mark.parametrize("version", [None, pytest.param("3.8", marks=pytest.mark.real)])
async def test_a_server_is_killed_and_comes_back(version: str | None) -> None:
    async with (
        EitherEnsemble(3, version=version) as ensemble,
        Client(ensemble.address, default_timeout=LIMIT, start_timeout=LIMIT) as client,
    ):
        assert len(ensemble.servers) == 3
        await client.create("/a", b"1", ephemeral=True)
        session, former, leader = client.session_id, await ensemble.server_of(client), await ensemble.leader()
        assert await leader.mode() == "leader"
        for server in {former, leader}:
            await server.kill()
            assert not server.running
            assert await server.mode() is None
            assert await client.get("/a")
            assert await ensemble.server_of(client) is not server
            await server.start()
            assert server.running
            assert await server.mode() in ("leader", "follower")
        assert client.session_id == session


async def test_without_a_quorum_nobody_leads_or_serves() -> None:
    async with EitherEnsemble(3) as ensemble, Client(ensemble.address, default_timeout=LIMIT) as client:
        first, second, last = ensemble.servers
        await first.kill()
        await second.kill()
        async with asyncio.timeout(LIMIT):
            while await last.mode():
                await asyncio.sleep(0.01)
        with pytest.raises(NoSuchServerError, match="no server leads after"):
            await ensemble.leader(timeout=0.3)
        with pytest.raises(NoSuchServerError, match="is connected to no server after"):
            await ensemble.server_of(client, timeout=0.1)
        await first.start()
        await client.exists("/")
        assert repr(first) == f"<EitherServer {first.address}>"
        assert repr(second) == f"<EitherServer {second.address}, down>"


async def test_one_server_alone_of_three_does_not_serve_when_it_is_started() -> None:
    async with EitherEnsemble(3) as ensemble:
        for server in ensemble.servers:
            await server.kill()
        with pytest.raises(NoSuchServerError, match="does not serve after"):
            await ensemble.servers[0].start(timeout=0.3)
