"""What all who subscribe to a path share, on the scripted server in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from everlatch import OPEN_ACL_UNSAFE, NoAuthError, ThrottledOpError
from everlatch.subscriptions.feed import FIRST_PAUSE, LONGEST_PAUSE
from everlatch.subscriptions.feeds import StateTopic
from everlatch.subscriptions.reading import DATA
from everlatch.subscriptions.states import StateSubscription
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, drop_before, fail_with, hold
from skipping_loop import simulated, this_loop
from subscriptions.following import CLOSED, READS, VERSIONS, after, count, cut, is_quiet, until, writer_of

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
