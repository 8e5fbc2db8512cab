"""What the torture has found in real servers, reduced: what no client can rely on.

A client that has left a follower with writes unanswered, and has written over another server since, must not offer its
session to that follower again as long as it may still hold those writes: they would be applied, behind the later one.
The leader takes the session for moved back as soon as it hears so, and looks at the writes that came before afterwards.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from everlatch import Client
from everlatch.admin import srvr
from everlatch.testing import NetworkEnsemble
from everlatch.wire.codes import Op
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, encode_connect_request
from everlatch.wire.records import encode_set_data_request
from real.raw import Raw

if TYPE_CHECKING:
    from everlatch.testing import Server

pytestmark = pytest.mark.real

COUNT = 50
LONGEST = 30.0


def setting(data: bytes) -> bytes:
    return encode_set_data_request("/a", data, -1)


async def leave_writes(stack: AsyncExitStack, network: NetworkEnsemble, follower: Server) -> tuple[int, bytes]:
    """A session over a follower that is cut from its leader, with writes that the leader doesn't get."""
    raw = await stack.enter_async_context(Raw.open(follower.address))
    await raw.request(Op.SET_DATA, setting(b"first"))
    await network.cut_from_leader(follower)
    for _ in range(COUNT):
        raw.send(Op.SET_DATA, setting(b"old"))
    async with asyncio.timeout(LONGEST):
        while (await srvr(follower.address)).outstanding < COUNT:
            await asyncio.sleep(0.02)
    return raw.session_id, raw.password


async def offer(follower: Server, session: tuple[int, bytes]) -> None:
    """A handshake that is given up, for it isn't answered."""
    _, writer = await asyncio.open_connection(follower.host, follower.port)
    writer.write(frame(encode_connect_request(ConnectRequest(0, 0, 10_000, *session, False))))
    async with asyncio.timeout(LONGEST):
        while "Revalidating client" not in follower.log_path.read_text("utf-8", "replace"):
            await asyncio.sleep(0.02)
    writer.close()


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
