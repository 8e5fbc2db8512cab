"""Which subscriptions share what, on the scripted server in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from everlatch import ClientClosedError
from everlatch.subscriptions.feeds import StateTopic
from everlatch.subscriptions.reading import CHILDREN, DATA
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, hold
from skipping_loop import simulated
from subscriptions.following import after, count


def test_topics_are_the_same_by_what_they_are_about():
    assert StateTopic(DATA, "/a") == StateTopic(DATA, "/a")
    assert len({StateTopic(DATA, "/a"), StateTopic(CHILDREN, "/a"), StateTopic(DATA, "/b")}) == 3
    assert (StateTopic(CHILDREN, "/a").name, StateTopic(DATA, "/a").path) == ("watch_children", "/a")


@simulated
async def test_a_feed_begins_with_the_first_and_goes_with_the_last():
    async with ScriptedServer() as server, server.client() as client:
        first, second = client.watch_data("/a"), client.watch_data("/a")
        assert len(client._feeds) == 0
        async with first:
            async with second, client.watch_children("/a"):
                assert len(client._feeds) == 2
                assert await after(first) is None
                assert await after(second) is None
            assert len(client._feeds) == 1
            await client.create("/a")
            assert await after(first) == b""
        assert len(client._feeds) == 0
        await client.sync()
        assert not await client.check_watches("/a")


@simulated
async def test_many_who_come_at_once_share_the_read():
    async with ScriptedServer() as server, server.client() as client:
        subscriptions = [client.watch_data("/a") for _ in range(20)]
        for states in subscriptions:
            await states.__aenter__()
        for states in subscriptions:
            assert await after(states) is None
        assert count(server, Op.GET_DATA) == 1
        assert count(server, Op.ADD_WATCH) == 1
        for states in subscriptions:
            states.close()


@simulated
async def test_one_that_begins_while_the_last_one_s_watch_is_removed_has_its_own():
    async with ScriptedServer() as server, server.client() as client, server.client() as writer:
        for number in range(5):
            server.on(Op.REMOVE_WATCHES, hold)
            async with client.watch_data("/a") as states:
                await after(states)
            async with client.watch_data("/a") as states:
                await server.until(lambda: count(server, Op.REMOVE_WATCHES) > number)  # noqa: B023
                for connection in server.open_connections:
                    connection.release()
                await after(states)
                await (writer.set if number else writer.create)("/a", b"%d" % number)
                assert await after(states) == b"%d" % number


@simulated
async def test_all_end_with_the_client():
    async with ScriptedServer() as server:
        async with server.client() as client:
            subscriptions = [client.watch_data(f"/{number}") for number in range(10)]
            for states in subscriptions:
                await states.__aenter__()
        for states in subscriptions:
            assert await anext(states, "the end") == "the end"
            states.close()
        assert len(client._feeds) == 0
        with pytest.raises(ClientClosedError):
            await client.watch_data("/a").__aenter__()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
