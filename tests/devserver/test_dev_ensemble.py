"""Several dev servers on TCP that are one ensemble, with the real client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from kazoo.client import KazooClient

from everlatch import Client, State
from everlatch.devserver import DevEnsemble
from everlatch.errors import AlreadyStartedError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LIMIT = 20.0


@pytest.fixture
async def ensemble() -> AsyncIterator[DevEnsemble]:
    async with DevEnsemble(3, tick=0.2) as ensemble:
        yield ensemble


def client_of(ensemble: DevEnsemble) -> Client:
    return Client(ensemble.address, session_timeout=4.0, default_timeout=LIMIT, start_timeout=LIMIT)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_client_outlives_every_server_in_turn(ensemble: DevEnsemble) -> None:
    async with client_of(ensemble) as client:
        await client.create("/a", b"0", ephemeral=True)
        session = client.session_id
        for number, member in enumerate(ensemble.members):
            await until(lambda: ensemble.leader)
            await member.stop()
            # A write that was under way might be lost with the server; a read is repeated.
            await client.get("/a")
            await client.set("/a", str(number).encode())
            await member.start()
            await until(lambda member=member: member.core.mode is not None)
        assert (await client.get("/a")).data == b"2"
        assert client.session_id == session


async def test_without_a_quorum_nothing_is_served(ensemble: DevEnsemble) -> None:
    async with client_of(ensemble) as client:
        await client.create("/a")
        await until(lambda: ensemble.leader)
        for member in ensemble.members[:2]:
            await member.stop()
        await until(lambda: client.state is State.SUSPENDED)
        await until(lambda: not ensemble.leader)  # the last one may have led, and takes a moment to notice
        assert not ensemble.expire_session(client.session_id)
        for member in ensemble.members[:2]:
            await member.start()
        assert await client.exists("/a") is not None


async def test_a_session_that_is_made_to_expire(ensemble: DevEnsemble) -> None:
    async with client_of(ensemble) as client:
        await client.create("/a", ephemeral=True)
        assert ensemble.expire_session(client.session_id)
        await until(lambda: client.generation == 2)
        assert await client.exists("/a") is None


async def test_everything_is_there_after_a_restart_of_all(ensemble: DevEnsemble) -> None:
    async with client_of(ensemble) as client:
        await client.create("/a")
        await ensemble.stop()
        assert ensemble.leader is None
        await ensemble.start()
        assert await client.exists("/a") is not None
        with pytest.raises(AlreadyStartedError):
            await ensemble.members[0].start()


async def test_kazoo_on_it(ensemble: DevEnsemble) -> None:
    def use_kazoo() -> list[str]:
        kazoo = KazooClient(ensemble.address, timeout=4.0)
        kazoo.start(LIMIT)
        try:
            kazoo.ensure_path("/k/a")
            return kazoo.get_children("/k")
        finally:
            kazoo.stop()
            kazoo.close()

    assert await asyncio.to_thread(use_kazoo) == ["a"]


def test_an_ensemble_of_none() -> None:
    with pytest.raises(InvalidArgumentError):
        DevEnsemble(0)
