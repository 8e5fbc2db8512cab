"""Attacks on the engine: slow names, clocks that jump, eager tasks, debug mode."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

from everlatch import CallTimeoutError, Client, Created, State, StateChange
from scripted_server import ScriptedServer, expire
from skipping_loop import simulated, this_loop

if TYPE_CHECKING:
    from everlatch.engine.call import Call


@simulated
async def test_a_name_that_resolves_slower_than_an_attempt_may_take_resolves_all_the_same():
    """One dead name server costs five seconds a lookup. Attempts that each begin anew would never get an answer."""
    lookups = 0

    async def slowly() -> list[str]:
        nonlocal lookups
        lookups += 1
        await asyncio.sleep(8.0)
        return ["127.0.0.1"]

    async with ScriptedServer() as server:
        this_loop().names["zk"] = slowly
        client = Client(f"zk:{server.port}", session_timeout=3.0)
        await client.start(wait=False)
        await client.wait_connected(timeout=60.0)
        assert lookups == 1
        await client.close()


@simulated
async def test_a_name_server_that_hangs_is_asked_once_at_a_time():
    """Lookups are threads of the loop's executor, which the application needs as well: they can't be cancelled."""
    running = most = 0

    async def hang() -> list[str]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(3000.0)
        finally:
            running -= 1
        return []

    this_loop().names["zk"] = hang
    lookups = []
    client = Client("zk:2181", session_timeout=3.0)
    await client.start(wait=False)
    original = this_loop().getaddrinfo

    async def uncancellable(host, port, **more):
        lookups.append(asyncio.ensure_future(original(host, port, **more)))
        return await asyncio.shield(lookups[-1])

    this_loop().getaddrinfo = uncancellable
    await asyncio.sleep(60.0)
    assert most == 1
    await client.close()
    for lookup in lookups:
        lookup.cancel()


@simulated
async def test_an_old_answer_is_not_used_again():
    """What a lookup brought too late is forgotten when the client is connected: names move."""
    answers = iter([["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"]])
    lookups = 0

    async def resolve() -> list[str]:
        nonlocal lookups
        lookups += 1
        return next(answers)

    async with ScriptedServer() as server:
        this_loop().names["zk"] = resolve
        async with Client(f"zk:{server.port}", session_timeout=3.0) as client:
            await asyncio.sleep(2.0)
            server.connection.reset()
            await server.wait_for_connections(2)
            await client.wait_connected(timeout=10.0)
            assert lookups == 2


async def test_a_clock_that_jumps_does_not_hold_up_timeouts():
    """A machine that was suspended: the time of sessions went on, the loop's stood still, and with it our timer."""
    async with ScriptedServer() as server, server.client(session_timeout=60.0) as client:
        await client.sync()
        clock = client._engine._clock
        client._engine._clock = lambda: clock() + 30.0
        server.ping = lambda connection: None
        server.connection.silent = True
        async with asyncio.timeout(3.0):
            with pytest.raises(CallTimeoutError):
                await client.exists("/", timeout=0.1)
        server.connection.reset()  # or closing waits for its answer, in real time


async def eager_tasks():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        async with ScriptedServer() as server, server.client() as client:
            await client.create("/a", b"1")
            data, _ = await asyncio.create_task(client.get("/a"))
            assert data == b"1"
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(client.get("/a")) for _ in range(10)]
            assert all(task.result().data == b"1" for task in tasks)
            task = asyncio.create_task(client.get("/a"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            server.connection.reset()
            await client.get("/a")
    finally:
        loop.set_task_factory(None)


if sys.version_info >= (3, 12):  # they came with it
    test_eager_tasks = eager_tasks


async def test_debug_mode():
    asyncio.get_running_loop().set_debug(True)
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a", b"1")
        task = asyncio.create_task(client.get("/a"))
        repr(task)
        await task
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                repr(group.create_task(client.get("/a")))
        assert (await asyncio.wait_for(client.get("/a"), 5)).data == b"1"


@simulated
async def test_the_application_is_told_of_a_new_session_before_the_queue_moves():
    """So that it can take back what makes no sense in another session (promise P6)."""
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a")
        waiting: list[Call[Created]] = []

        def take_back(change: StateChange) -> None:
            if change.state is State.RENEWED:
                waiting[0].cancel()

        client.add_listener(take_back)
        server.handshakes.append(expire)
        server.connection.reset()
        async with client.states() as changes:
            async for change in changes:
                if change.state is State.SUSPENDED:
                    break
        waiting += [client.create("/old"), client.create("/new")]
        assert client.statistics().queued_calls == 2
        await waiting[1]
        assert waiting[0].cancelled()
        assert [path for _, path in server.znodes.applied] == ["/a", "/new"]
