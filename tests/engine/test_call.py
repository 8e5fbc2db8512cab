"""Calls: futures that were submitted already, and coroutines as well."""

from __future__ import annotations

import asyncio
import collections.abc
import gc

import pytest

from everlatch import Call, ClientClosedError, Node, NoNodeError
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, hold, swallow
from skipping_loop import on_every_loop, simulated


@on_every_loop
async def test_can_be_awaited_in_every_way():
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a", b"x")

        def get() -> Call[Node]:
            return client.get("/a")

        assert (await get()).data == b"x"
        assert (await asyncio.create_task(get())).data == b"x"
        assert (await asyncio.ensure_future(get())).data == b"x"
        assert (await asyncio.shield(get())).data == b"x"
        assert (await asyncio.wait_for(get(), 5)).data == b"x"
        async with asyncio.timeout(5):
            assert (await get()).data == b"x"
        assert [node.data for node in await asyncio.gather(get(), get())] == [b"x", b"x"]
        assert [(await node).data for node in asyncio.as_completed([get(), get()])] == [b"x", b"x"]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(get()) for _ in range(3)]
        assert [task.result().data for task in tasks] == [b"x"] * 3
        assert len(server.paths(Op.GET_DATA)) == 13


@on_every_loop
async def test_errors_arrive_in_every_way():
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(NoNodeError):
            await client.get("/none")
        with pytest.raises(NoNodeError):
            await asyncio.create_task(client.get("/none"))
        with pytest.raises(NoNodeError):
            await asyncio.wait_for(client.get("/none"), 5)
        with pytest.raises(ExceptionGroup) as group:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(client.get("/none"))
        assert group.group_contains(NoNodeError)


@simulated
async def test_is_a_coroutine_and_a_future():
    async with ScriptedServer() as server, server.client() as client:
        call = client.exists("/")
        assert asyncio.isfuture(call)
        assert asyncio.iscoroutine(call)
        assert isinstance(call, collections.abc.Coroutine)
        seen: list[Call[object]] = []
        call.add_done_callback(seen.append)
        await call
        assert await call == call.result()
        await asyncio.sleep(0)
        assert seen == [call]


@simulated
async def test_asyncio_wait_takes_it_as_a_task():
    async with ScriptedServer() as server, server.client() as client:
        call = client.exists("/")
        with pytest.raises(TypeError):
            await asyncio.wait([call])
        done, _ = await asyncio.wait([asyncio.create_task(call)])
        assert done.pop().result() is not None


@simulated
async def test_is_submitted_when_called_and_needs_no_await():
    async with ScriptedServer() as server, server.client() as client:
        call = client.create("/a")
        await server.wait_for_requests(1)
        assert server.znodes.applied == [("create", "/a")]
        await call


@simulated
async def test_a_task_cancelled_at_birth_withdraws_the_call():
    async with ScriptedServer() as server, server.client(max_in_flight=1) as client:
        server.next(hold)
        first = client.exists("/")
        task = asyncio.create_task(client.create("/a"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.wait_for_requests(1)
        server.connection.release()
        await first
        await client.sync()
        assert server.znodes.applied == []


@simulated
async def test_throw_before_the_first_step_cancels():
    async with ScriptedServer() as server, server.client() as client:
        call = client.exists("/")
        with pytest.raises(asyncio.CancelledError):
            call.throw(asyncio.CancelledError())
        assert call.cancelled()
        call = client.exists("/")
        with pytest.raises(KeyError):
            call.throw(KeyError)
        assert call.cancelled()


@simulated
async def test_throw_after_the_first_step_raises_where_it_waits():
    async with ScriptedServer() as server, server.client() as client:
        call = client.exists("/")
        call.send(None)
        with pytest.raises(KeyError, match="why"):
            call.throw(KeyError("why"))
        assert not call.cancelled()
        await asyncio.wait_for(asyncio.shield(call), 5)


@simulated
async def test_close_cancels_what_has_not_ended():
    async with ScriptedServer() as server, server.client() as client:
        unstarted, started, ended = client.exists("/"), client.exists("/"), client.exists("/")
        started.send(None)
        await ended
        late = client.exists("/")
        for call in (late, ended):
            call.close()
        assert late.cancelled()
        assert ended.result() is not None
        assert unstarted.done()
        started.close()


@on_every_loop
async def test_cancelled_unsent_it_never_reaches_the_server():
    async with ScriptedServer() as server, server.client(max_in_flight=1) as client:
        server.next(hold)
        first = client.create("/first")
        unsent = client.create("/unsent")
        behind = client.create("/behind")
        assert unsent.cancel()
        assert not unsent.cancel()
        await server.wait_for_requests(1)
        server.connection.release()
        await first
        await behind
        assert server.paths(Op.CREATE2) == ["/first", "/behind"]
        assert client.statistics().queued_calls == 0


@on_every_loop
async def test_cancelled_after_it_was_sent_its_reply_is_swallowed():
    async with ScriptedServer() as server, server.client() as client:
        server.next(hold)
        sent = client.create("/sent", b"1")
        behind = client.get("/sent")
        await server.wait_for_requests(2)
        assert sent.cancel()
        server.connection.release()
        assert (await behind).data == b"1"
        assert client.statistics().in_flight == 0


@simulated
async def test_a_timeout_of_asyncio_cancels_the_call():
    async with ScriptedServer() as server, server.client() as client:
        server.next(swallow)
        call = client.exists("/")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.5)
        assert call.cancelled()


@simulated
async def test_there_is_no_task_and_no_timer_behind_a_call():
    async with ScriptedServer() as server, server.client() as client:
        await client.sync()
        loop = asyncio.get_running_loop()
        tasks, timers = asyncio.all_tasks(), len(loop._scheduled)  # type: ignore[attr-defined]
        calls = [client.get("/", timeout=3) for _ in range(100)] + [client.get("/") for _ in range(100)]
        assert asyncio.all_tasks() == tasks
        assert len(loop._scheduled) <= timers + 1  # type: ignore[attr-defined]
        await asyncio.gather(*calls)


@simulated
async def test_an_ended_call_is_in_no_cycle():
    async with ScriptedServer() as server, server.client() as client:
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                await client.get("/", timeout=3)
            await asyncio.sleep(0)
            assert not [thing for thing in gc.get_objects() if isinstance(thing, Call) and thing.done()]
        finally:
            gc.enable()


@simulated
async def test_calls_that_wait_end_when_the_client_is_closed():
    async with ScriptedServer() as server:
        client = server.client()
        await client.start(wait=False)
        call = client.get("/")
        await client.close()
        with pytest.raises(ClientClosedError):
            await call
