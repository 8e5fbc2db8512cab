"""Attacks on watches, on calls that go on in the read, and on reads in one request."""

from __future__ import annotations

import asyncio
import re
from random import Random
from typing import TYPE_CHECKING

import pytest

from everlatch import AuthFailedError, CallTimeoutError, Client, ClientClosedError, EventType, NoNodeError
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, hold, swallow
from skipping_loop import on_every_loop, on_real_loops, simulated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch import Subscription, WatchEvent
    from everlatch.testing import Server

CREATED, DATA_CHANGED, MISSED = EventType.CREATED, EventType.DATA_CHANGED, EventType.MISSED
CHILDREN_CHANGED, REMOVED = EventType.CHILDREN_CHANGED, EventType.REMOVED


@pytest.fixture
async def other(standalone: Server) -> AsyncIterator[Client]:
    """Who changes things."""
    async with Client(standalone.address, default_timeout=30) as client:
        yield client


@pytest.fixture
async def client(standalone: Server) -> AsyncIterator[Client]:
    async with Client(standalone.address, default_timeout=30) as client:
        yield client


@pytest.fixture
async def root(other: Client, request: pytest.FixtureRequest) -> str:
    """A node for this test alone."""
    return (await other.create("/fresh-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-"))).path


async def settled(client: Client, other: Client) -> None:
    """What `other` has done so far has reached `client`, with its events."""
    await other.sync()
    await client.sync()
    await client.exists("/")


async def drained(events: Subscription[WatchEvent]) -> list[tuple[EventType, str]]:
    return [(event.type, event.path) for event in [await anext(events) for _ in range(events.queued)]]


@pytest.mark.real
async def test_a_one_shot_watch_on_its_node_hides_nothing_below_from_a_recursive_one(
    client: Client, other: Client, root: str
) -> None:
    """On 3.8 it takes the path over at once, not with its event, which may never come."""
    async with client.add_watch(root, recursive=True) as events:
        await client.get(root, watch=lambda _: None)
        await settled(client, other)
        await other.create(f"{root}/a")
        await settled(client, other)
        assert (CREATED, f"{root}/a") in await drained(events)


@pytest.mark.real
async def test_leaving_spares_a_one_shot_watch_whose_reply_is_still_to_come(
    client: Client, other: Client, root: str
) -> None:
    fired = list[EventType]()
    async with client.add_watch(root):
        pass
    await client.get(root, watch=lambda event: fired.append(event.type))
    await settled(client, other)
    await other.set(root, b"1")
    await settled(client, other)
    assert fired == [DATA_CHANGED]


@pytest.mark.real
@pytest.mark.parametrize("recursive", [False, True])
async def test_a_removal_that_nobody_waits_for_any_more_spares_persistent_watches(
    client: Client, other: Client, root: str, recursive: bool
) -> None:
    async with client.add_watch(root, recursive=recursive) as events:
        removed = list[EventType]()
        await client.get(root, watch=lambda event: removed.append(event.type))
        await settled(client, other)
        await drained(events)
        other_call = client.exists("/")  # so that the removal is sent with the next turn
        removal = client.remove_watches(root)
        await asyncio.sleep(0)
        removal.cancel()
        await other_call
        await settled(client, other)
        await other.set(root, b"1")
        await settled(client, other)
        assert (DATA_CHANGED, root) in await drained(events)
        assert removed == [REMOVED]


@pytest.mark.real
async def test_a_one_shot_watch_outlives_a_recursive_one_that_came_later(
    client: Client, other: Client, root: str
) -> None:
    fired = list[EventType]()
    await client.children(root, watch=lambda event: fired.append(event.type))
    async with client.add_watch(root, recursive=True):
        pass
    await settled(client, other)
    await other.create(f"{root}/a")
    await settled(client, other)
    assert fired == [CHILDREN_CHANGED]


@pytest.mark.real
async def test_nothing_is_remembered_of_watches_that_were_left(client: Client, other: Client, root: str) -> None:
    for number in range(5):
        path = f"{root}/{number}"
        async with client.add_watch(path):
            await client.exists(path, watch=print)
    await settled(client, other)
    assert not client._engine.session.watching._persistent._taken_over


@simulated
async def test_a_multi_read_that_is_committed_again_has_the_new_results():
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a", b"old")
        reads = client.multi_read()
        part = reads.get("/a")
        server.next(hold)
        before = client.exists("/")
        task = asyncio.create_task(reads.commit())
        before.add_done_callback(lambda _: task.cancel())
        while client.statistics().in_flight < 2:
            await asyncio.sleep(0.01)
        server.connection.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert part.result.data == b"old"
        await client.set("/a", b"new")
        await reads.commit()
        assert part.result.data == b"new"


@on_every_loop
async def test_two_reads_of_one_turn_tell_of_events_before_replies_go_on():
    """uvloop reads again in the same turn when a read has filled its buffer."""
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a")
        order = list[str]()
        await client.get("/a", watch=lambda _: order.append("event"))
        engine = client._engine
        received = engine.link_received

        def in_two(link, data):
            """What has come, in reads of one frame each."""
            while data:
                size = 4 + int.from_bytes(data[:4], "big")
                received(link, data[:size])
                data = data[size:]

        engine.link_received = in_two
        await client.set("/a", b"1")
        order.append("reply")
        assert order == ["event", "reply"]


def _python_tasks(loop: asyncio.AbstractEventLoop, coro, **more) -> asyncio.Task:
    return asyncio.tasks._PyTask(coro, loop=loop, **more)


_FACTORIES = [None, _python_tasks, *([asyncio.eager_task_factory] if hasattr(asyncio, "eager_task_factory") else [])]


async def _in_some_way(random: Random, client: Client, path: str) -> bytes | None:
    """Reads a node as users do; `None`: it was given up."""
    call = client.get(path)
    way = random.randrange(9)
    try:
        if way == 0:
            return (await asyncio.wait_for(call, random.choice([0, 0.0005, 5]))).data
        if way == 1:
            async with asyncio.timeout(random.choice([0, 0.0005, 5])):
                return (await call).data
        if way == 2:
            return (await asyncio.shield(call)).data
        if way == 3:
            first, second = await asyncio.gather(call, client.get(path))
            assert first.data == second.data
            return first.data
        if way == 4:
            (first,) = [await some for some in asyncio.as_completed([call])]
            return first.data
        if way == 5:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(call), group.create_task(_waiting_for(call))]
            return tasks[random.randrange(2)].result().data
        if way == 6:
            task = asyncio.create_task(_waiting_for(call))
            await asyncio.sleep(random.choice([0, 0.0005]))
            task.cancel()
            await asyncio.wait([task])
            return None if task.cancelled() else task.result().data
        if way == 7:
            with pytest.raises(NoNodeError):
                await client.get(path + "/none")
        return (await call).data
    except TimeoutError:
        return None


async def _waiting_for(call):
    return await call


@pytest.mark.parametrize("factory", _FACTORIES)
@pytest.mark.parametrize("debug", [False, True])
@on_real_loops
async def test_calls_end_as_they_should_however_they_are_awaited(factory, debug):
    random = Random(7)
    loop = asyncio.get_running_loop()
    async with ScriptedServer() as server, server.client() as client:
        for name in "abc":
            await client.create(f"/{name}", name.encode())
        # uvloop hands the eager factory what it doesn't take.
        loop.set_task_factory(factory if isinstance(loop, asyncio.BaseEventLoop) or factory is _python_tasks else None)
        loop.set_debug(debug)
        loop.slow_callback_duration = 10.0
        ended = 0

        async def user(name: str) -> None:
            nonlocal ended
            for _ in range(50):
                assert await _in_some_way(random, client, f"/{name}") in (None, name.encode())
                ended += 1
                if random.random() < 0.01:
                    server.connection.reset()
                if random.random() < 0.3:
                    await asyncio.sleep(random.choice([0, 0.001]))

        async with asyncio.timeout(60):
            await user("a")  # alone, then with others
            await asyncio.gather(*[user(name) for name in "abc"])
        assert ended == 200
        assert client.statistics().in_flight == 0 == client.statistics().queued_calls
        loop.set_debug(False)
        loop.set_task_factory(None)


@simulated
async def test_the_client_keeps_no_call_that_ended_without_a_reply():
    """Its error holds the frames of whoever awaited it."""
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        server.next(hold)
        with pytest.raises(CallTimeoutError):
            await client.get("/", timeout=0.5)
        assert client._engine._alone is None
        server.connection.release()
        await client.sync()
        server.next(hold)
        waiting = asyncio.create_task(_waiting_for(client.get("/")))
        await asyncio.sleep(0)
        await client.close(timeout=0.1)
        with pytest.raises(ClientClosedError):
            await waiting
        assert client._engine._alone is None


@simulated
async def test_what_came_before_the_end_can_still_be_read():
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        async with client.add_watch("/a") as events:
            server.on(Op.AUTH, swallow)
            call = client.add_auth("digest", b"a:b")
            await server.until(lambda: any(request.op == Op.AUTH for request in server.requests))
            server.connection.notify(EventType.DATA_CHANGED.value, "/a")
            server.connection.reply(-4, -115)
            with pytest.raises(AuthFailedError):
                await call
            assert (await anext(events)).type is DATA_CHANGED
            with pytest.raises(AuthFailedError):
                await anext(events)
        await client.close()


@pytest.mark.real
async def test_one_shot_watches_of_both_kinds_outlive_a_recursive_one(client: Client, other: Client, root: str) -> None:
    """On 3.8 the second would end the recursion on which the first rests."""
    fired = list[EventType]()
    await client.children(root, watch=lambda event: fired.append(event.type))
    async with client.add_watch(root, recursive=True):
        pass
    await settled(client, other)
    await client.get(root, watch=lambda event: fired.append(event.type))
    await other.create(f"{root}/a")
    await settled(client, other)
    assert fired == [CHILDREN_CHANGED]
