"""Subscriptions of states, as their users have them, on the scripted server in virtual time."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from everlatch import (
    OPEN_ACL_UNSAFE,
    AlreadyStartedError,
    AuthFailedError,
    ClientClosedError,
    ClientStateError,
    GaveUpError,
    InvalidPathError,
    InvalidTypeError,
    NoAuthError,
    NotStartedError,
    ReplyTooLargeError,
    State,
    WrongLoopError,
)
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, fail_with
from skipping_loop import simulated
from subscriptions.following import CLOSED, after, count, cut, until, writer_of

BOTH = pytest.mark.parametrize("kind", ["watch_data", "watch_children"])


@BOTH
@simulated
async def test_bad_input_before_a_byte_is_sent(kind):
    async with ScriptedServer() as server, server.client() as client:
        for path in ("a", "/a/", "", "/a/../b"):
            with pytest.raises(InvalidPathError):
                getattr(client, kind)(path)
        with pytest.raises(InvalidTypeError):
            getattr(client, kind)(None)
        assert server.requests == []


@BOTH
@simulated
async def test_it_is_entered_first_and_once(kind):
    async with ScriptedServer() as server, server.client() as client:
        states = getattr(client, kind)("/a")
        assert repr(states) == f"<{kind} '/a', not entered>"
        with pytest.raises(ClientStateError, match="enter it first"):
            await anext(states)
        assert server.requests == [], "nothing is asked for before"
        async with states:
            assert repr(states) == f"<{kind} '/a', open>"
            assert await after(states) is None
            with pytest.raises(AlreadyStartedError, match=f"call {kind}.* again for another one"):
                await states.__aenter__()
            await client.create("/a")
            assert await after(states) is not None
        assert repr(states) == f"<{kind} '/a', closed>"
        assert [state async for state in states] == []
        with pytest.raises(AlreadyStartedError):
            await states.__aenter__()


@simulated
async def test_a_client_that_is_not_started_or_is_closed():
    async with ScriptedServer() as server:
        client = server.client()
        states = client.watch_data("/a")
        with pytest.raises(NotStartedError):
            await states.__aenter__()
        async with client:
            async with states:
                assert await after(states) is None
            late = client.watch_data("/a")
        with pytest.raises(ClientClosedError):
            await late.__aenter__()


@simulated
async def test_another_loop():
    async with ScriptedServer() as server, server.client() as client:
        states = client.watch_data("/a")

        async def enter():
            async with states:
                pass

        with pytest.raises(WrongLoopError):
            await asyncio.to_thread(asyncio.run, enter())


# --- the end ----------------------------------------------------------------------------------------------------------


@BOTH
@simulated
async def test_the_client_s_end_is_its_end_behind_what_is_still_to_be_read(kind):
    async with ScriptedServer() as server, server.client() as client:
        one, other = getattr(client, kind)("/a"), getattr(client, kind)("/a")
        async with one, other:
            assert await after(one) is None
            waiting = asyncio.create_task(anext(one, "the end"))
            await asyncio.sleep(0)
            await client.close()
            assert await waiting == "the end"
            assert [state async for state in other] == [None]
            assert [state async for state in other] == []
        assert len(client._feeds) == 0


@simulated
async def test_the_end_while_disconnected():
    async with ScriptedServer() as server, server.client() as client, client.watch_data("/a") as states:
        assert await after(states) is None
        server.refusing = True
        cut(server)
        waiting = asyncio.create_task(anext(states, "the end"))
        await asyncio.sleep(1.0)
        await client.close()
        assert await waiting == "the end"


@simulated
async def test_a_client_whose_credentials_are_refused():
    async with ScriptedServer() as server, server.client(auth=[("digest", b"a:b")]) as client:
        async with client.watch_data("/a") as one, client.watch_data("/a") as other:
            assert await after(one) is None
            server.on(Op.AUTH, fail_with(AuthFailedError.code))
            cut(server)
            for states in (one, other):
                with pytest.raises(AuthFailedError):
                    await until(states, "never")
                assert [state async for state in states] == []
        assert client.state is State.AUTH_FAILED


@simulated
async def test_a_client_that_has_given_up():
    async with ScriptedServer() as server, server.client(max_reconnect_attempts=2) as client:
        async with client.watch_data("/a") as states:
            assert await after(states) is None
            server.refusing = True
            cut(server)
            with pytest.raises(GaveUpError):
                await after(states)
            assert [state async for state in states] == []
        assert client.state is State.GAVE_UP
        with pytest.raises(GaveUpError):
            await client.watch_data("/a").__aenter__()


# --- leaving ----------------------------------------------------------------------------------------------------------


@simulated
async def test_closed_by_somebody_else_while_it_waits():
    async with ScriptedServer() as server, server.client() as client, client.watch_data("/a") as states:
        assert await after(states) is None
        waiting = asyncio.create_task(anext(states, "the end"))
        await asyncio.sleep(0)
        states.close()
        states.close()
        assert await waiting == "the end"
        assert client.statistics().watches == 0


@simulated
async def test_a_wait_that_is_cancelled_loses_nothing():
    async with ScriptedServer() as server, server.client() as client, client.watch_data("/a") as states:
        assert await after(states) is None
        waiting = asyncio.create_task(anext(states))
        await asyncio.sleep(0)
        await client.create("/a", b"1")
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled() or waiting.result() is not None
        if waiting.cancelled():
            assert await after(states) == b"1"


# --- what can't be read -----------------------------------------------------------------------------------------------


@BOTH
@simulated
async def test_refused_once_for_each_subscription(kind):
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await writer.create("/a", acl=CLOSED)
        async with getattr(client, kind)("/a") as one, getattr(client, kind)("/a") as other:
            for states in (one, other):
                with pytest.raises(NoAuthError):
                    await after(states)
            await writer.set_acl("/a", OPEN_ACL_UNSAFE)
            for states in (one, other):
                assert await after(states) is not None
            assert (one.queued, other.queued) == (0, 0)


@simulated
async def test_what_was_queued_before_a_loss_is_read_first():
    async with ScriptedServer() as server, server.client(recheck_interval=1.0) as client, writer_of(server) as writer:
        await writer.create("/a", b"1")
        async with client.watch_data("/a") as slow, client.watch_data("/a") as quick:
            assert await after(quick) == b"1"
            await writer.set_acl("/a", CLOSED)
            with pytest.raises(NoAuthError):
                await after(quick)
            assert await after(slow) == b"1"
            with pytest.raises(NoAuthError):
                await after(slow)


@simulated
async def test_attempts_become_seldomer_up_to_ten_seconds():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await writer.create("/a", acl=CLOSED)
        async with client.watch_data("/a") as states:
            with pytest.raises(NoAuthError):
                await after(states)
            loop, times = asyncio.get_running_loop(), []
            for number in range(2, 9):
                await server.until(lambda: count(server, Op.GET_DATA) >= number)  # noqa: B023
                times.append(loop.time())
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert pauses[0] < 2.6
        assert all(7.4 < pause < 12.6 for pause in pauses[-3:])


@simulated
async def test_children_that_are_too_many_are_an_error_and_go_on_when_they_are_fewer():
    async with ScriptedServer() as server, server.client(max_reply_size=2000) as client, server.client() as writer:
        await writer.create("/a")
        for number in range(200):
            await writer.create(f"/a/child-{number:06}")
        async with client.watch_children("/a") as states:
            with pytest.raises(ReplyTooLargeError):
                await after(states)
            for number in range(199):
                await writer.delete(f"/a/child-{number:06}")
            assert await after(states) == ["child-000199"]


@simulated
async def test_chroot():
    async with ScriptedServer() as server, server.client("/app") as client, server.client() as writer:
        async with client.watch_data("/") as states, client.watch_children("/a") as children:
            assert (await after(states), await after(children)) == (None, None)
            await writer.create("/app", b"1")
            assert await after(states) == b"1"
            await client.create("/a")
            await client.create("/a/b")
            await until(children, ["b"])
        assert client.statistics().watches == 0
