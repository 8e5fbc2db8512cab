"""DIGEST-MD5 on real servers: who gets in, as whom, on every connection, and what is said of who doesn't."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import (
    ACL,
    AuthFailedError,
    Client,
    DigestMd5,
    NoAuthError,
    Permission,
    SaslError,
    SessionClosedRequireAuthError,
    StartError,
    State,
)
from everlatch.testing import Ensemble, Op, Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from everlatch import StateChange
    from everlatch.testing import Server
    from real_servers import LoopThread

pytestmark = pytest.mark.real

LONGEST = 30.0
USERS = {"bob": "correct horse", "quotes": 'b"a\\ck, slash = x'}


@pytest.fixture(scope="module")
def guarded(zookeeper_version: str, loop_thread: LoopThread) -> Iterator[Server]:
    """Lets in who has authenticated by SASL, and nobody else."""
    ensemble = Ensemble(version=zookeeper_version, sasl="digest", require_auth=True, users=USERS)
    loop_thread.run(ensemble.start())
    yield ensemble.servers[0]
    loop_thread.run(ensemble.close())


def client_of(server: Any, password: str = USERS["bob"], user: str = "bob", **options: Any) -> Client:
    options = {"session_timeout": 4.0, "default_timeout": LONGEST} | options
    return Client(server.address, sasl=DigestMd5(user, password), **options)


@contextlib.asynccontextmanager
async def through(server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(server.address) as proxy:
        yield proxy


@pytest.mark.parametrize("user", USERS)
async def test_who_knows_the_password_is_who_he_says(guarded: Server, user: str) -> None:
    async with client_of(guarded, USERS[user], user) as client:
        assert ("sasl", user) in await client.who_am_i()
        acl = [ACL(Permission.ALL.value, "sasl", user)]
        path = (await client.create(f"/{uuid.uuid4().hex}", b"mine", acl=acl)).path
        assert (await client.get(path)).data == b"mine"
        assert client.connections == 1
        async with client_of(guarded, USERS["quotes"] if user == "bob" else USERS["bob"], *_others(user)) as other:
            with pytest.raises(NoAuthError):
                await other.get(path)


def _others(user: str) -> list[str]:
    return ["quotes"] if user == "bob" else ["bob"]


@pytest.mark.parametrize(("user", "password"), [("bob", "wrong horse"), ("nobody", "no password"), ("bob", "")])
async def test_who_does_not_is_told_and_stops(
    guarded: Server, user: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = client_of(guarded, password, user)
    states: list[StateChange] = []
    told = asyncio.Event()
    client.add_listener(lambda change: states.append(change) or (change.state is State.CLOSED and told.set()))
    with pytest.raises(AuthFailedError):
        await client.start()
    await asyncio.wait_for(told.wait(), LONGEST)
    assert [change.state for change in states] == [State.AUTH_FAILED, State.CLOSED]
    reason = states[0].reason
    assert str(reason) == "sasl 'DIGEST-MD5': the credentials were refused (-115)"
    assert not password or password not in caplog.text + repr(reason) + repr(client) + repr(states)


async def test_who_does_not_try_is_told_what_is_asked_for(guarded: Server) -> None:
    async with Client(guarded.address, session_timeout=4.0, default_timeout=LONGEST) as client:
        with pytest.raises(SessionClosedRequireAuthError, match="demands authentication"):
            await client.get("/")


async def test_every_connection_is_authenticated(guarded: Server) -> None:
    async with through(guarded) as proxy, client_of(proxy, auth=[("digest", b"eve:x")]) as client:
        path = (await client.create(f"/{uuid.uuid4().hex}", ephemeral=True)).path
        for connections in (2, 3):
            proxy.cut()
            assert await client.exists(path) is not None
            assert {("sasl", "bob"), ("digest", "eve")} <= set(await client.who_am_i())
            assert client.connections == connections
        assert client.generation == 1


@pytest.mark.parametrize("number", [1, 2])
async def test_a_lost_answer_refuses_nothing(guarded: Server, number: int) -> None:
    """Of the first token, or of the second."""
    async with through(guarded) as proxy:
        lost = proxy.lose_reply(Op.SASL, nth=number)
        async with client_of(proxy, start_timeout=LONGEST) as client:
            assert lost.times == 1
            assert ("sasl", "bob") in await client.who_am_i()


async def test_a_new_session_is_authenticated(guarded: Server) -> None:
    async with through(guarded) as proxy, client_of(proxy, session_timeout=1.0) as client, client_of(guarded) as other:
        first, path = client.session_id, f"/{uuid.uuid4().hex}"
        await client.create(path, ephemeral=True)
        proxy.refuse()
        proxy.cut()
        await other.wait_deleted(path)
        proxy.accept()
        assert ("sasl", "bob") in await client.who_am_i()
        assert (client.session_id != first, client.generation) == (True, 2)


async def test_a_server_without_sasl(standalone: Server) -> None:
    client = client_of(standalone)
    with pytest.raises(StartError) as raised:
        await client.start()
    ((_, reason),) = raised.value.failures
    assert isinstance(reason.__cause__ or reason, SaslError)
    assert "not set up for SASL" in str(raised.value)


async def test_exactly_once_writes(guarded: Server) -> None:
    async with through(guarded) as proxy, client_of(proxy, exactly_once=True) as client:
        await client.create("/counted-" + uuid.uuid4().hex, b"")
        lost = proxy.lose_reply(Op.MULTI)
        root = (await client.create(f"/{uuid.uuid4().hex}-", sequential=True)).path
        assert lost.times == 1
        assert await client.exists(root) is not None
        assert client.statistics().outcomes_settled == 1
