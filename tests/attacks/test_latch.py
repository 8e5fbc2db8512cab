"""Attacks on the leader latch: lost replies in a row, refusals at the worst moment, a client that closes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import pytest

from everlatch import ClientStateError, EverlatchError
from everlatch.recipes import LeaderLatch
from everlatch.wire.codes import XID_PING, Op
from scripted_server import ScriptedServer, Znodes, answer, apply, drop_after, fail_with, hold
from skipping_loop import simulated

if TYPE_CHECKING:
    from collections.abc import Callable

LATCH = "/latch"


def members(znodes: Znodes) -> list[str]:
    return [path for path in znodes.nodes if path.startswith(LATCH + "/")]


async def led(latch: LeaderLatch) -> int:
    """Leadership, past refusals."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await latch.wait()
            except ClientStateError:
                raise
            except EverlatchError:
                await asyncio.sleep(0.1)


@simulated
async def test_a_node_whose_search_was_refused_is_searched_again():
    """Were another node created instead, the forgotten one would stay first, and nobody would ever lead."""
    async with ScriptedServer() as server, server.client() as client:
        await client.create(LATCH)
        server.on(Op.CREATE2, drop_after)
        server.on(Op.GET_CHILDREN, fail_with(-102))
        async with LeaderLatch(client, LATCH) as latch:
            await led(latch)
            assert members(server.znodes) == [latch.node]
        assert members(server.znodes) == []


@simulated
async def test_a_create_that_timed_out_is_searched_however_often_that_times_out():
    """With a default timeout a stalled ensemble lets the create, and the search for it, end unanswered."""
    async with ScriptedServer() as server, server.client(default_timeout=0.5, session_timeout=30.0) as client:
        await client.create(LATCH)
        server.on(Op.CREATE2, hold)
        async with LeaderLatch(client, LATCH) as latch:
            await server.until(lambda: server.connection.holding)
            await asyncio.sleep(3.0)
            server.connection.release()
            await led(latch)
            assert members(server.znodes) == [latch.node]
        assert members(server.znodes) == []


@simulated
async def test_closing_after_a_refused_search_leaves_no_node():
    async with ScriptedServer() as server, server.client() as client:
        await client.create(LATCH)
        server.on(Op.CREATE2, drop_after)
        server.on(Op.GET_CHILDREN, fail_with(-102))
        latch = LeaderLatch(client, LATCH)
        await latch.start()
        await server.until(lambda: server.paths(Op.GET_CHILDREN))
        for _ in range(20):
            await asyncio.sleep(0)
        await latch.close()
        assert members(server.znodes) == []


@simulated
async def test_a_link_lost_while_the_parent_is_made_is_no_refusal():
    """`wait` hides what passes by itself."""
    async with ScriptedServer() as server, server.client() as client:
        server.on(Op.CREATE_CONTAINER, drop_after)
        async with LeaderLatch(client, LATCH) as latch:
            assert await latch.wait(timeout=30)


@simulated
async def test_nobody_believes_to_lead_while_the_client_ends_its_session():
    """From the moment at which the session's end is on its way another member may lead."""
    znodes = Znodes()
    async with ScriptedServer(znodes) as one, ScriptedServer(znodes) as two:
        first, second = one.client(), two.client()
        async with second:
            await first.start()
            await first.create(LATCH)
            latch, other = LeaderLatch(first, LATCH), LeaderLatch(second, LATCH)
            await latch.start()
            await latch.wait(timeout=10)
            await other.start()
            await two.until(lambda: len(members(znodes)) == 2)
            one.on(Op.CLOSE_SESSION, applied_then_silent)
            closing = asyncio.ensure_future(first.close())
            await other.wait(timeout=10)
            assert not closing.done()
            assert other.is_leader
            assert not latch.is_leader
            await closing
            await other.close()


def applied_then_silent(connection, request) -> None:
    """Applied, and nothing more is heard on this connection."""
    connection.silent = True
    apply(connection, request)


async def _told_while_the_link_goes(
    meddle: Callable[[LeaderLatch, ScriptedServer], None], policy: Literal["session", "suspended"]
) -> list[bool]:
    told: list[bool] = []
    async with ScriptedServer() as server, server.client() as client:
        await client.create(LATCH)
        async with LeaderLatch(client, LATCH, error_policy=policy) as latch:
            latch.add_listener(told.append)
            await latch.wait(timeout=10)
            before = len(server.connections)
            meddle(latch, server)
            await server.wait_for_connections(before + 1)
            await latch.wait(timeout=10)
    for _ in range(5):
        await asyncio.sleep(0)
    return told


@simulated
@pytest.mark.parametrize(("policy", "expected"), [("session", [True, False]), ("suspended", [True, False] * 2)])
async def test_listeners_hear_of_every_end(policy, expected):
    """The link goes in the turn in which a leader's second look is answered."""

    def meddle(latch: LeaderLatch, server: ScriptedServer) -> None:
        def answer_and_close(connection, request):
            drop_after_answer(connection, request)

        server.on(Op.GET_CHILDREN, answer_and_close)
        server.znodes.set(latch.node, b"touched")

    assert await _told_while_the_link_goes(meddle, policy) == expected


def drop_after_answer(connection, request) -> None:
    """The reply is out, and right behind it the connection ends."""
    answer(connection, request)
    connection.close()


@simulated
async def test_members_that_come_and_go_leave_no_watches():
    """One that closes is of no interest to its predecessor's node any more."""
    async with ScriptedServer() as server, server.client() as client:
        await client.create(LATCH)
        async with LeaderLatch(client, LATCH) as leader:
            await leader.wait(timeout=10)
            before = client.statistics().watches
            for _ in range(20):
                latch = LeaderLatch(client, LATCH)
                await latch.start()
                await server.until(lambda: len(members(server.znodes)) == 2)
                for _ in range(20):
                    await client.sync()
                await latch.close()
            assert client.statistics().watches <= before + 1


@simulated
async def test_leadership_that_has_ended_by_the_clock_does_not_come_back_by_itself():
    """Answers that come too late prove the session for a moment that is long past. Somebody else may lead since."""
    told: list[bool] = []
    async with ScriptedServer() as server, server.client(session_timeout=6.0) as client:
        await client.create(LATCH)
        async with LeaderLatch(client, LATCH) as latch:
            latch.add_listener(told.append)
            await latch.wait(timeout=10)
            server.ping = lambda connection: None
            connection = server.connection
            server.on(Op.EXISTS, hold)
            calls = [client.exists("/") for _ in range(12)]
            await server.until(lambda: len(connection.held) == 12)
            for _ in range(7):
                await asyncio.sleep(0.95)
                connection.send_raw(connection.held.pop(0))
            assert client.session_time_left == 0
            assert not latch.is_leader
            server.ping = lambda connection: connection.reply(XID_PING)
            connection.reply(XID_PING)
            connection.release()
            await asyncio.gather(*calls)
            assert server.connection is connection
            await latch.wait(timeout=10)
            assert latch.is_leader
    for _ in range(5):
        await asyncio.sleep(0)
    assert told == [True, False, True, False]
