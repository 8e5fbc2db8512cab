"""P6, renewed, on real ensembles: wherever the end of a session finds the client, it has a new one, with its
credentials and watches; the application is told once, and then the queue moves.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import (
    CREATOR_ALL_ACL,
    CallTimeoutError,
    Client,
    EventType,
    SessionExpiredError,
    State,
    StateChange,
    WatchEvent,
)
from everlatch.testing import HANDSHAKE, Op
from promises.access import OVER_TLS, expire_at
from promises.real.ensembles import (
    SYNC_LIMIT,
    TICK,
    T,
    accept_all,
    client_of,
    in_use_first,
    proxies_of,
    shut_all,
    until_gone,
    watched,
    without,
)
from real.faults import States, shut, until

if TYPE_CHECKING:
    from everlatch.testing import NetworkEnsemble, Proxy

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

RENEWAL = [State.LOST, State.RENEWED, State.CONNECTED]


def assert_renewed(states: States, client: Client, old_id: int) -> None:
    """Told once, with both ids; nothing of the old session comes later."""
    assert states.states[-3:] == RENEWAL
    assert states.states.count(State.RENEWED) == 1
    renewed = states.changes[states.states.index(State.RENEWED)]
    assert (renewed.previous_session_id, renewed.session_id) == (old_id, client.session_id)
    assert client.session_id != old_id
    assert renewed.generation == client.generation == 2


async def test_the_session_expires_while_connected(network: NetworkEnsemble, witness: Client, root: str) -> None:
    """Its follower is cut off, answers the client all the same, and tells the leader nothing of it."""
    timeout = 1.0
    followers = await network.followers()
    client = client_of(followers, session_timeout=timeout)
    async with watched(client) as states:
        old_id, bound = client.session_id, client.in_session()
        path = (await client.create(f"{root}/ephemeral", ephemeral=True)).path
        gone_at: list[float] = []
        await witness.exists(path, watch=lambda _: gone_at.append(time.monotonic()))
        await network.cut_from_leader(in_use_first(client, followers)[0])
        await until(lambda: gone_at)
        await states.until(State.RENEWED, timeout=SYNC_LIMIT * TICK + 3)
        await states.until(State.CONNECTED)
        assert gone_at[0] < states.times[0], "it was gone before the client was told anything"
        assert_renewed(states, client, old_id)
        with pytest.raises(SessionExpiredError):
            await bound.exists(root)
        assert await client.exists(path) is None


async def test_the_session_expires_while_disconnected(network: NetworkEnsemble, witness: Client, root: str) -> None:
    async with proxies_of(network.servers) as proxies:
        client = client_of(proxies, session_timeout=1.0)
        async with watched(client) as states:
            old_id, bound = client.session_id, client.in_session()
            path = (await client.create(f"{root}/ephemeral", ephemeral=True)).path
            shut_all(proxies)
            await states.until(State.SUSPENDED)
            bound_call, call = bound.exists(root), client.exists(path)
            await until_gone(witness, path)
            assert states.states == [State.SUSPENDED, State.LOST], "before the servers have ended it"
            accept_all(proxies)
            assert await call is None
            with pytest.raises(SessionExpiredError):
                await bound_call
            assert_renewed(states, client, old_id)


async def test_the_session_expires_while_connecting(network: NetworkEnsemble, witness: Client, root: str) -> None:
    """Its handshakes are on the way, and have not come through, when the servers end it."""
    async with proxies_of(network.servers) as proxies:
        client = client_of(proxies, session_timeout=1.0)
        async with watched(client) as states:
            old_id, bound = client.session_id, client.in_session()
            path = (await client.create(f"{root}/ephemeral", ephemeral=True)).path
            for proxy in proxies:
                proxy.black_hole()
            shook = len(handshakes(proxies))
            for proxy in proxies:
                proxy.cut()
            bound_call, call = bound.exists(root), client.exists(path)
            await until_gone(witness, path)
            assert len(handshakes(proxies)) > shook, "it has tried"
            for proxy in proxies:
                proxy.heal()
            assert await call is None
            with pytest.raises(SessionExpiredError):
                await bound_call
            assert_renewed(states, client, old_id)


def handshakes(proxies: list[Proxy]) -> list[Any]:
    return [request for proxy in proxies for request in proxy.seen(HANDSHAKE)]


async def test_what_is_restored_and_in_which_order(network: NetworkEnsemble, witness: Client, root: str) -> None:
    """Credentials, watches, the application, the queue."""
    follower = (await network.followers())[0]
    user = ("digest", b"bob:secret")
    heard: list[object] = []
    async with proxies_of([follower]) as (proxy,):
        client = client_of([proxy], session_timeout=1.0, auth=[user])
        async with watched(client) as states:
            path = (await client.create(f"{root}/guarded", b"old", acl=CREATOR_ALL_ACL)).path
            mark = (await client.create(f"{root}/ephemeral", ephemeral=True)).path
            await client.get(path, watch=heard.append)
            client.add_listener(lambda change: heard.append(change.state) if change.state is State.RENEWED else None)
            shut(proxy)
            await states.until(State.SUSPENDED)
            queued = client.create(f"{root}/queued")
            queued.add_done_callback(lambda _: heard.append("queued"))
            await until_gone(witness, mark)
            await witness.add_auth(*user)
            await witness.set(path, b"new")
            proxy.requests.clear()
            proxy.accept()
            await queued
            await until(lambda: len(heard) == 3)
            sent = [request.op for request in proxy.requests if request.op not in (HANDSHAKE, Op.PING)]
            identity = [Op.SASL, Op.SASL, Op.AUTH, Op.AUTH] if OVER_TLS else [Op.AUTH]
            assert sent[: len(identity) + 2] == [*identity, Op.SET_WATCHES, Op.CREATE2]
            event = next(item for item in heard if isinstance(item, WatchEvent))
            assert (event.type, event.path) == (EventType.DATA_CHANGED, path)
            assert heard.index(State.RENEWED) < heard.index("queued")
            assert (await client.get(path)).data == b"new"


async def test_a_restoring_step_that_hangs_holds_nothing_up(
    network: NetworkEnsemble, witness: Client, root: str
) -> None:
    one, other = (await network.followers())[:2]
    never = asyncio.get_running_loop().create_future()
    began: list[StateChange] = []

    async def restore(change: StateChange) -> None:
        if change.state is State.RENEWED:
            began.append(change)
            await never

    client = client_of([one, other])
    async with watched(client) as states:
        client.add_listener(restore)
        for generation in (2, 3):
            await end_session(client, network)
            await until(lambda: client.generation == generation)  # noqa: B023
            assert (await client.create(f"{root}/{uuid.uuid4()}")).stat.ephemeral_owner == 0
        assert states.states.count(State.RENEWED) == 2
        # A listener is told in order, so the second time waits for the first; nothing else does.
        await until(lambda: began)
        never.cancel()


async def end_session(client: Client, network: NetworkEnsemble) -> None:
    used = await network.server_of(client.session_id)
    await expire_at(client, (await without(network, used))[0])


async def test_who_renews_by_himself(network: NetworkEnsemble, root: str) -> None:
    """With `renew_session=False` it stops at `LOST`, and goes on when it is told to."""
    client = client_of(network.servers, renew_session=False)
    async with watched(client) as states:
        old_id, bound = client.session_id, client.in_session()
        await end_session(client, network)
        await states.until(State.LOST)
        with pytest.raises(SessionExpiredError):
            await bound.exists(root)
        attempts, call = client.statistics().connection_attempts, client.exists(root)
        with pytest.raises(CallTimeoutError):
            await client.wait_connected(timeout=0.5)
        assert (client.state, client.statistics().connection_attempts) == (State.LOST, attempts)
        client.renew()
        assert await call is not None
        assert_renewed(states, client, old_id)


async def test_one_session_after_the_other(network: NetworkEnsemble, root: str) -> None:
    """Each time the new id, the next generation, and one word of it."""
    client = client_of(network.servers, session_timeout=T)
    async with watched(client) as states:
        for generation in (2, 3, 4):
            states.forget()
            old_id = client.session_id
            await end_session(client, network)
            await states.until(State.CONNECTED)
            assert states.states == [State.SUSPENDED, *RENEWAL]
            renewed = states.changes[2]
            assert (renewed.previous_session_id, renewed.session_id) == (old_id, client.session_id)
            assert client.generation == generation
            assert await client.exists(root) is not None
