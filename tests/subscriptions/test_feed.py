"""What all who subscribe to a path share, on the scripted server in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from everlatch import OPEN_ACL_UNSAFE, NoAuthError, State, ThrottledOpError
from everlatch.subscriptions.feeds import StateTopic
from everlatch.subscriptions.reading import DATA
from everlatch.subscriptions.states import StateSubscription
from everlatch.testing.simulation import simulation
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, drop_before, fail_with
from skipping_loop import simulated
from subscriptions.following import CLOSED, after, count, cut, until, writer_of

NO_AUTH = NoAuthError.code
THROTTLED = ThrottledOpError.code


@simulated
async def test_a_newcomer_is_not_told_what_is_old_while_reads_are_throttled():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await writer.create("/a", b"1")
        async with client.watch_data("/a") as states:
            assert await after(states) == b"1"
            server.on(Op.GET_DATA, fail_with(THROTTLED))
            await writer.set("/a", b"2")
            await server.until(lambda: count(server, Op.GET_DATA) == 2)
            await client.sync()
            async with client.watch_data("/a") as late:
                assert await after(late) == b"2"
            assert await after(states) == b"2"


@simulated
async def test_a_newcomer_is_told_what_he_would_find_though_it_could_not_be_read_before():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await writer.create("/a", b"1", acl=CLOSED)
        async with client.watch_data("/a") as states:
            with pytest.raises(NoAuthError):
                await after(states)
            await writer.set_acl("/a", OPEN_ACL_UNSAFE)
            await client.sync()
            async with client.watch_data("/a") as late:
                assert await after(late, within=0.5) == b"1"
            assert await after(states, within=0.5) == b"1"


@simulated
async def test_a_look_that_is_blamed_for_lost_connections_ends_nothing():
    async with ScriptedServer() as server, server.client(recheck_interval=5.0) as client, writer_of(server) as writer:
        await writer.create("/a", b"1")
        async with client.watch_data("/a") as states:
            assert await after(states) == b"1"
            server.on(Op.EXISTS, drop_before, times=3)
            await server.until(lambda: count(server, Op.EXISTS) >= 3)
            await writer.set("/a", b"2")
            assert await after(states) == b"2"


@simulated
async def test_one_refusal_is_raised_by_all_without_growing():
    """An error has one traceback, to which everybody who raises it adds."""
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await writer.create("/a", b"1", acl=CLOSED)
        async with client.watch_data("/a") as states:
            lengths = []
            for _ in range(5):
                with pytest.raises(NoAuthError) as caught:
                    await client.wait_exists("/a")
                lengths.append(len(caught.traceback))
            assert lengths[0] == lengths[-1]
            with pytest.raises(NoAuthError):
                await after(states)


@simulated
async def test_a_feed_that_has_failed_tells_everybody_so(caplog):
    async with ScriptedServer() as server, server.client() as client:
        broken = StateTopic(DATA._replace(submit=_fails), "/a")
        await client.create("/a")
        async with StateSubscription(client._feeds, broken) as states:
            with pytest.raises(ZeroDivisionError):
                await after(states)
            async with StateSubscription(client._feeds, broken) as late:
                with pytest.raises(ZeroDivisionError):
                    await after(late)
        assert "watch_data '/a' failed" in caplog.text
        async with client.watch_data("/a") as states:
            assert await after(states) == b""


def _fails(*_, **__):
    return 1 / 0


@simulated
async def test_a_watch_that_the_server_has_given_up_unheard_is_armed_again():
    """Before 3.9 the application's own one-shot watch takes the place of ours; if its event is kept back, nobody tells
    us that both are gone. What shows it is a change that was not told."""
    async with (
        ScriptedServer(version="3.8") as server,
        server.client(recheck_interval=5.0) as client,
        writer_of(server) as writer,
    ):
        await writer.create("/a", b"1")
        async with client.watch_data("/a") as states:
            assert await after(states) == b"1"
            await client.exists("/a", watch=lambda _: None)
            await writer.set_acl("/a", CLOSED)
            await writer.set("/a", b"2")
            await writer.set_acl("/a", OPEN_ACL_UNSAFE)
            await until(states, b"2")
            await writer.set("/a", b"3")
            assert await after(states, within=0.1) == b"3"


@simulated
async def test_another_history_with_the_same_numbers_is_another_state():
    """Servers that were emptied and set up anew by the same script may come to the same zxids."""
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a", b"1")
        node = server.znodes.tree.nodes["/a"]
        async with client.watch_data("/a") as states:
            assert await after(states) == b"1"
            node.data, node.mtime, node.ctime = b"2", node.mtime + 1000, node.ctime + 1000
            cut(server)
            assert await after(states) == b"2"


# --- servers without a quorum -----------------------------------------------------------------------------------------


def in_an_ensemble(scene):
    """Runs it on a host of a simulated ensemble whose servers go on serving reads when they are alone."""

    def test():
        with simulation(5) as world:
            world.ensemble(3, read_only_mode=True, tick=0.5)
            app = world.host("app")

            def client():
                return app.client(read_only=True, session_timeout=2.0, start_timeout=60.0)

            world.run(scene(world, client), on=app)

    test.__name__ = scene.__name__
    return test


def leave_alone(world, server):
    """Only this server lives."""
    for other in world.servers:
        if other is server:
            other.start()
        else:
            other.crash()


async def together_again(world, client):
    for server in world.servers:
        server.start()
    await world.until(lambda: client.state is State.CONNECTED, timeout=120.0)


@in_an_ensemble
async def test_a_server_without_a_quorum_tells_nothing_new_of_what_is_known(world, new_client):
    async with new_client() as client:
        await client.create("/a", b"1")
        async with client.watch_data("/a") as states:
            assert await after(states) == b"1"
            await client.sync()
            leave_alone(world, world.leader())
            await world.until(lambda: client.state is State.CONNECTED_READ_ONLY)
            async with client.watch_data("/a") as late:
                assert await after(late) == b"1"
                await asyncio.sleep(5.0)
                assert (states.queued, late.queued) == (0, 0)
                await together_again(world, client)
                await client.set("/a", b"2")
                assert await after(states) == await after(late) == b"2"


@in_an_ensemble
async def test_what_is_first_known_from_an_old_server_is_replaced_by_what_is(world, new_client):
    async with new_client() as client:
        await client.create("/a", b"1")
        await client.sync()
        follower = next(server for server in world.servers if not server.is_leading)
        follower.crash()
        await client.set("/a", b"2")
    leave_alone(world, follower)
    async with new_client() as client, client.watch_data("/a") as states:
        assert await after(states) == b"1"
        assert client.state is State.CONNECTED_READ_ONLY
        await together_again(world, client)
        assert await after(states) == b"2"
