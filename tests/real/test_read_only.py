"""Servers without a quorum that go on serving reads, and clients that are content with that."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from everlatch import (
    Client,
    NotReadOnlyError,
    State,
)
from everlatch.testing import Ensemble, Server
from real.faults import States, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.real

T = 30.0
"""Longer than a test: the proper session lives while there is no quorum to end it."""


@contextlib.asynccontextmanager
async def reading_servers(version: str) -> AsyncIterator[Ensemble]:
    async with Ensemble(
        3,
        version=version,
        config={"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "true", "maxSessionTimeout": "60000"},
        java_options=["-Dreadonlymode.enabled=true"],
    ) as ensemble:
        yield ensemble


async def lose_quorum(ensemble: Ensemble, kept: Server) -> list[Server]:
    async with Client(kept.address) as client:
        await client.sync()  # what was written is there as well
    lost = [server for server in ensemble.servers if server is not kept]
    for server in lost:
        await server.kill()
    return lost


async def is_read_only(server: Server) -> None:
    """Waits until it serves without a quorum. Before, it may not have noticed yet, and grant sessions of its own."""
    async with asyncio.timeout(60):
        while await server.mode() != "read-only":
            await asyncio.sleep(0.05)


async def start_again(servers: list[Server]) -> None:
    await asyncio.gather(*(server.start() for server in servers))


@pytest.mark.parametrize("version", ["3.8", "3.9"])
async def test_reads_go_on_without_a_quorum_and_the_session_is_kept_aside(version: str) -> None:
    async with (
        reading_servers(version) as ensemble,
        Client(ensemble.connect_string, session_timeout=T, read_only=True, read_write_search_interval=0.5) as client,
    ):
        seen = States()
        client.add_listener(seen)
        await client.create("/read", b"me", ephemeral=True)
        proper = client.session_id
        # The one that stays is not the client's, so that the attempt to attach is made from scratch.
        lost = await lose_quorum(ensemble, await ensemble.server_of(proper))
        await seen.until(State.CONNECTED_READ_ONLY)
        data, stat = await client.get("/read")
        assert (data, stat.ephemeral_owner) == (b"me", proper)
        assert client.session_id == proper
        with pytest.raises(NotReadOnlyError):
            await client.set("/read", b"you")
        with pytest.raises(NotReadOnlyError):
            await client.sync()
        with pytest.raises(NotReadOnlyError):
            await client.in_session().get("/read")
        left = client.session_time_left
        assert 0 < left < T
        await until(lambda: client.session_time_left < left)  # what is read here proves nothing of that session
        seen.forget()
        await start_again(lost)
        change = await seen.until(State.CONNECTED, timeout=60)
        assert change.session_id == proper
        assert State.LOST not in seen.states
        assert (await client.get("/read")).data == b"me"
        await client.set("/read", b"you")


async def test_writes_wait_if_they_are_to_and_so_does_what_is_behind_them() -> None:
    async with (
        reading_servers("3.9") as ensemble,
        Client(ensemble.connect_string, session_timeout=T, read_only=True, read_only_writes="queue") as client,
    ):
        seen = States()
        client.add_listener(seen)
        await client.create("/read", b"old")
        lost = await lose_quorum(ensemble, ensemble.servers[0])
        await seen.until(State.CONNECTED_READ_ONLY)
        assert (await client.get("/read")).data == b"old"
        write, read = client.set("/read", b"new"), client.get("/read")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(read), 0.5)
        assert not write.done()
        await start_again(lost)
        async with asyncio.timeout(60):
            assert (await read).data == b"new"
            assert (await write).version == 1


async def test_a_client_can_begin_on_a_read_only_server_and_gets_its_session_later() -> None:
    async with reading_servers("3.9") as ensemble:
        async with Client(ensemble.connect_string) as writer:
            await writer.create("/read", b"old")
        lost = await lose_quorum(ensemble, ensemble.servers[0])
        await is_read_only(ensemble.servers[0])
        async with Client(ensemble.connect_string, session_timeout=T, read_only=True, start_timeout=60) as client:
            seen = States()
            client.add_listener(seen)
            assert client.state is State.CONNECTED_READ_ONLY
            assert client.session_id == 0
            assert (await client.get("/read")).data == b"old"
            await start_again(lost)
            change = await seen.until(State.CONNECTED, timeout=60)
            assert change.session_id == client.session_id != 0
            assert State.RENEWED not in seen.states
            await client.set("/read", b"new")


async def test_without_being_asked_nobody_is_content_with_a_read_only_server() -> None:
    async with (
        reading_servers("3.8") as ensemble,
        Client(ensemble.connect_string, session_timeout=T) as client,
    ):
        seen = States()
        client.add_listener(seen)
        await client.create("/read")
        lost = await lose_quorum(ensemble, ensemble.servers[0])
        read = client.get("/read")
        await is_read_only(ensemble.servers[0])
        attempts = client.statistics().connection_attempts
        await until(lambda: client.statistics().connection_attempts > attempts + 6)  # more than a round
        assert State.CONNECTED_READ_ONLY not in seen.states
        assert not read.done()
        await start_again(lost)
        async with asyncio.timeout(60):
            await read
