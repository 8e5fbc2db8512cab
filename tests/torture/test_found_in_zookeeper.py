"""What the torture has found in real servers, reduced: what no client can rely on.

A client that has left a follower with writes unanswered, and has written over another server since, must not offer its
session to that follower again as long as it may still hold those writes: they would be applied, behind the later one.
The leader takes the session for moved back as soon as it hears so, and looks at the writes that came before afterwards.
Ours has such a follower let go of them first (`session/draining.py`).
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from torture.planted import BUGS

from everlatch import Client
from everlatch.admin import srvr
from everlatch.testing import NetworkEnsemble, Proxy
from everlatch.testing.namespaces import _NOWHERE, _ip
from everlatch.wire.codes import Op
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, encode_connect_request
from everlatch.wire.records import encode_set_data_request
from real.raw import Raw

if TYPE_CHECKING:
    from everlatch.testing import Server
    from everlatch.types import Node

pytestmark = pytest.mark.real

COUNT = 50
LONGEST = 30.0
TRIES = 10
ATTEMPTS = 3


def setting(data: bytes) -> bytes:
    return encode_set_data_request("/a", data, -1)


async def leave_writes(stack: AsyncExitStack, network: NetworkEnsemble, follower: Server) -> tuple[int, bytes]:
    """A session over a follower that is cut from its leader, with writes that the leader doesn't get."""
    raw = await stack.enter_async_context(Raw.open(follower.address))
    await raw.request(Op.SET_DATA, setting(b"first"))
    await network.cut_from_leader(follower)
    for _ in range(COUNT):
        raw.send(Op.SET_DATA, setting(b"old"))
    await holds(follower, COUNT)
    return raw.session_id, raw.password


async def holds(follower: Server, count: int) -> None:
    """Waits until it has so many requests that it can't bring to the leader."""
    async with asyncio.timeout(LONGEST):
        while (await srvr(follower.address)).outstanding < count:
            await asyncio.sleep(0.02)


async def offer(follower: Server, session: tuple[int, bytes]) -> None:
    """A handshake that is given up, for it isn't answered."""
    _, writer = await asyncio.open_connection(follower.host, follower.port)
    writer.write(frame(encode_connect_request(ConnectRequest(0, 0, 10_000, *session, False))))
    await is_offered(follower, 0)
    writer.close()


def offers(follower: Server) -> int:
    """How often it was offered a session that it didn't have."""
    return follower.log_path.read_text("utf-8", "replace").count("Revalidating client")


async def is_offered(follower: Server, before: int) -> None:
    """Waits until that has happened more often."""
    async with asyncio.timeout(LONGEST):
        while offers(follower) <= before:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("offered", [False, True], ids=["not offered", "offered"])
async def test_a_session_offered_again_to_a_follower_brings_old_writes_back(offered):
    async with NetworkEnsemble(3, version="3.9", tick_time=2.0) as network, AsyncExitStack() as stack:
        leader, follower = await network.leader(), (await network.followers())[0]
        client = await stack.enter_async_context(Client(leader.address))
        await client.create("/a")
        session = await leave_writes(stack, network, follower)
        elsewhere = await stack.enter_async_context(Raw.open(leader.address, session=session))
        assert (await elsewhere.request(Op.SET_DATA, setting(b"new"))).code == 0
        if offered:
            await offer(follower, session)
        await network.link_up(follower)
        # A write over the same follower comes behind all that it had held.
        behind = await stack.enter_async_context(Client(follower.address, start_timeout=LONGEST))
        await behind.create("/behind", timeout=LONGEST)
        data, stat = await client.get("/a")
        if offered:
            assert data == b"old"
            assert stat.version > 2
        else:
            assert (data, stat.version) == (b"new", 2)


async def mute(network: NetworkEnsemble, follower: Server, leader: Server, *, on: bool = True) -> None:
    """What the follower says to its leader vanishes. What the leader says arrives, for some 200 ms: then it does
    nothing but repeat what it takes for lost, as nobody acknowledges it."""
    virtual = network._started()
    here, there = virtual.host(follower.name), virtual.host(leader.name)
    neighbour = f"{virtual.address(there, 'peers')} lladdr {_NOWHERE} dev peers nud permanent"
    everything = f"to {virtual.address(there, 'peers')} dev peers nud permanent"
    await _ip([f"neigh replace {neighbour}" if on else f"neigh flush {everything}"], here.namespace)


async def has_heard(follower: Server, zxid: int) -> bool:
    """Whether what the leader has committed gets to the follower all the same."""
    for _ in range(20):
        if (await srvr(follower.address)).zxid >= zxid:
            return True
        await asyncio.sleep(0.02)
    return False


async def leave_and_write(client: Client, network: NetworkEnsemble, follower: Server, proxy: Proxy) -> bool:
    """The client leaves writes at the follower and writes over the leader. Whether the follower has heard of that: it
    would not take a client who has seen more than itself."""
    leader = await network.leader()
    client.update_servers(proxy.address)
    await client.set("/a", b"first", timeout=LONGEST)
    await proxy.until(lambda: proxy.connections)
    await mute(network, follower, leader)
    writes = asyncio.gather(*(client.set("/a", b"old") for _ in range(COUNT)), return_exceptions=True)
    await holds(follower, COUNT)
    client.update_servers(f"{proxy.address},{leader.address}")
    proxy.cut()
    await writes
    await client.set("/a", b"new", timeout=LONGEST)
    return await has_heard(follower, client.statistics().last_zxid)


async def come_back(*, drains: bool) -> tuple[Node, Node]:
    """The node before our client is back at a follower with old writes, and when that has let go of them."""
    async with NetworkEnsemble(3, version="3.9", tick_time=2.0) as network, AsyncExitStack() as stack:
        leader, follower = await network.leader(), (await network.followers())[0]
        proxy = await stack.enter_async_context(Proxy(follower.address))
        watcher = await stack.enter_async_context(Client(leader.address))
        client = await stack.enter_async_context(Client(proxy.address, session_timeout=40.0))
        await client.create("/a")
        for _ in range(TRIES):
            if await leave_and_write(client, network, follower, proxy):
                break
            await mute(network, follower, leader, on=False)
        before = await watcher.get("/a")
        assert before.data == b"new"
        known = offers(follower)
        client.update_servers(proxy.address)
        # What it holds then is the beginning of another session, or it knows that ours wants to come to it.
        await (holds(follower, COUNT + 1) if drains else is_offered(follower, known))
        await mute(network, follower, leader, on=False)
        await client.create("/behind", timeout=LONGEST)
        assert client.statistics().server == proxy.address
        return before, await watcher.get("/a")


async def test_our_client_comes_back_to_that_follower():
    before, after = await come_back(drains=True)
    assert after == before


async def test_without_draining_our_client_would_bring_old_writes_back():
    with BUGS["not-drained"].planted():
        # On a busy machine the leader may have given the follower up, and the writes with it.
        for _ in range(ATTEMPTS):
            before, after = await come_back(drains=False)
            if after != before:
                break
    assert after.data == b"old"
