"""How a path is watched, on servers of all versions."""

from __future__ import annotations

from everlatch.wire.codes import Op
from scripted_server import ScriptedServer
from skipping_loop import simulated
from subscriptions.following import after, become, count


@simulated
async def test_a_server_that_is_too_old_is_asked_for_nothing_that_it_does_not_know():
    """It would cost the connection."""
    async with ScriptedServer(version="3.5") as server, server.client() as client:
        await client.create("/a")
        for _ in range(3):
            async with client.watch_data("/a") as data, client.watch_children("/a") as children:
                assert (await after(data), await after(children)) == (b"", [])
                await client.set("/a", b"")
                assert await after(data) == b""
            async with client.watch_data("/a"):
                pass
        await client.sync()
        assert client.connections == 1
        assert count(server, Op.ADD_WATCH) == 0


@simulated
async def test_a_downgrade_costs_one_connection_more():
    """That for finding out: a server before 3.6 ends it over setWatches2."""
    async with ScriptedServer(version="3.8") as server, server.client() as client, server.client() as writer:
        async with client.watch_data("/a") as data, client.watch_children("/a") as children:
            assert (await after(data), await after(children)) == (None, None)
            become(server, "3.5")
            await writer.create("/a")
            assert (await after(data), await after(children)) == (b"", [])
        await client.sync()
        assert client.connections == 3
        assert count(server, Op.ADD_WATCH) == 2
