"""Waiting until a node is as somebody wants it, on the scripted server in virtual time."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from everlatch import (
    CallTimeoutError,
    ClientClosedError,
    InvalidArgumentError,
    InvalidPathError,
    InvalidTypeError,
    NoAuthError,
    NotStartedError,
)
from scripted_server import ScriptedServer
from skipping_loop import simulated, this_loop
from subscriptions.following import CLOSED, VERSIONS, become, cut, writer_of


def nothing_is_left(client):
    return client.statistics().watches == 0 and len(client._feeds) == 0


@pytest.mark.parametrize("version", VERSIONS)
@simulated
async def test_each_at_once_and_later(version):
    async with ScriptedServer(version=version) as server, server.client() as client, server.client() as writer:
        await client.wait_deleted("/a")
        exists = asyncio.create_task(client.wait_exists("/a"))
        third = asyncio.create_task(client.wait_for("/a", lambda node: node is not None and node.stat.version == 2))
        await asyncio.sleep(1.0)
        await writer.create("/a", b"0")
        assert (await exists).data == b"0"
        assert (await client.wait_exists("/a")).data == b"0"
        deleted = asyncio.create_task(client.wait_deleted("/a"))
        for number in (1, 2):
            await writer.set("/a", b"%d" % number)
        assert (await third).data == b"2"
        assert not deleted.done()
        await writer.delete("/a")
        await deleted
        assert await client.wait_for("/a", lambda node: node is None) is None
        assert nothing_is_left(client)


@simulated
async def test_timeouts():
    async with ScriptedServer() as server, server.client(default_timeout=3.0) as client:
        for timeout, seconds in (({}, 3.0), ({"timeout": 0.5}, 0.5), ({"timeout": 0}, 0.0)):
            started = this_loop().time()
            with pytest.raises(CallTimeoutError, match=r"wait_exists '/a' timed out"):
                await client.wait_exists("/a", **timeout)
            assert this_loop().time() - started == pytest.approx(seconds, abs=0.1)
        waiting = asyncio.create_task(client.wait_exists("/a", timeout=None))
        await asyncio.sleep(60.0)
        assert not waiting.done()
        await client.create("/a")
        await waiting
        async with client.watch_data("/a") as states:
            await anext(states)
            assert (await client.wait_exists("/a", timeout=0.5)).data == b""
        assert nothing_is_left(client)


@simulated
async def test_a_predicate_that_raises_ends_the_wait():
    async with ScriptedServer() as server, server.client() as client:
        for error in (ZeroDivisionError, TimeoutError, asyncio.CancelledError):

            def raises(_, error=error):
                raise error("mine")

            with pytest.raises(error, match="mine"):
                await client.wait_for("/a", raises, timeout=5.0)
        assert nothing_is_left(client)


@simulated
async def test_bad_input_before_a_byte_is_sent():
    async with ScriptedServer() as server:
        client = server.client()
        with pytest.raises(NotStartedError):
            await client.wait_exists("/a")
        async with client:
            for wait in (client.wait_exists, client.wait_deleted):
                with pytest.raises(InvalidPathError):
                    await wait("a")
                for timeout in ("1", -1):
                    with pytest.raises(InvalidArgumentError):
                        await wait("/a", timeout=timeout)
            with pytest.raises(InvalidTypeError, match="can't be called"):
                await client.wait_for("/a", "predicate")
            assert server.requests == []


@simulated
async def test_cancelled_disconnected_and_closed():
    async with ScriptedServer() as server, server.client() as client:
        waiting = [asyncio.create_task(client.wait_exists("/a")) for _ in range(3)]
        await client.sync()
        server.refusing = True
        cut(server)
        waiting.append(asyncio.create_task(client.wait_exists("/b", timeout=2.0)))
        await asyncio.sleep(1.0)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        with pytest.raises(CallTimeoutError):
            await waiting[3]
        server.refusing = False
        become(server, "3.8")
        server.znodes.create("/a", b"1")
        assert (await waiting[1]).data == (await waiting[2]).data == b"1"
        last = asyncio.create_task(client.wait_deleted("/a"))
        await client.sync()
        await client.close()
        with pytest.raises(ClientClosedError, match="wait_deleted '/a'"):
            await last


@simulated
async def test_what_may_not_be_read_ends_the_wait():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await writer.create("/a", acl=CLOSED)
        for _ in range(2):
            with pytest.raises(NoAuthError):
                await client.wait_exists("/a")
        async with client.watch_data("/a") as states:
            with contextlib.suppress(NoAuthError):
                await anext(states)
            with pytest.raises(NoAuthError):
                await client.wait_deleted("/a")
