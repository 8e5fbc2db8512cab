"""Persistent watches as async iterators, on the scripted server."""

from __future__ import annotations

import asyncio

import pytest

from everlatch import (
    AlreadyStartedError,
    AuthFailedError,
    CallTimeoutError,
    Client,
    ClientClosedError,
    ClientStateError,
    EventType,
    InvalidArgumentError,
    InvalidPathError,
    NotStartedError,
    NoWatcherError,
    Subscription,
    UnsupportedByServerError,
    WatchEvent,
    WatchKind,
    WrongLoopError,
)
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, answer, drop_before, expire, fail_with, hold, swallow
from skipping_loop import on_every_loop, simulated
from srvr_answers import SrvrAnswers

CREATED, DELETED, DATA_CHANGED = EventType.CREATED, EventType.DELETED, EventType.DATA_CHANGED
CHILDREN_CHANGED, MISSED, REMOVED = EventType.CHILDREN_CHANGED, EventType.MISSED, EventType.REMOVED


async def take(events: Subscription[WatchEvent], count: int) -> list[tuple[EventType, str]]:
    """The next events; `asyncio.timeout` turns a missing one into a failure."""
    async with asyncio.timeout(5):
        return [(event.type, event.path) for event in [await anext(events) for _ in range(count)]]


def count(server: ScriptedServer, op: int) -> int:
    return sum(request.op == op for request in server.requests)


def cut(server: ScriptedServer) -> None:
    """(The newest connection may be that of a question for the version.)"""
    for connection in server.open_connections:
        connection.reset()


async def reconnected(server: ScriptedServer, client: Client) -> None:
    before = client.connections
    cut(server)
    await server.until(lambda: client.connections > before)
    await client.sync()


@on_every_loop
async def test_every_change_is_an_event_until_it_is_left():
    async with ScriptedServer() as server, server.client() as client:
        async with client.add_watch("/a") as events:
            await client.create("/a")
            await client.set("/a", b"1")
            await client.create("/a/b")
            await client.delete("/a/b")
            await client.delete("/a")
            seen = await take(events, 5)
            assert [event for event, _ in seen] == [CREATED, DATA_CHANGED, CHILDREN_CHANGED, CHILDREN_CHANGED, DELETED]
            assert {path for _, path in seen} == {"/a"}
            assert await client.check_watches("/a")
            assert client.statistics().watches == 1
        assert [event async for event in events] == []
        assert client.statistics().watches == 0
        assert not await client.check_watches("/a")


@on_every_loop
async def test_recursively_below_a_chroot():
    async with ScriptedServer() as server, server.client("/app") as client:
        await client.ensure_path("/")
        async with client.add_watch("/", recursive=True) as events:
            await client.create("/a")
            await client.create("/a/b")
            await client.delete("/a/b")
            assert await take(events, 3) == [(CREATED, "/a"), (CREATED, "/a/b"), (DELETED, "/a/b")]


@on_every_loop
async def test_after_a_reconnect_it_has_missed_what_happened_and_goes_on():
    async with ScriptedServer() as server, server.client() as client, client.add_watch("/a") as events:
        await reconnected(server, client)
        await client.create("/a")
        assert await take(events, 2) == [(MISSED, "/a"), (CREATED, "/a")]
        server.handshakes.append(expire)
        cut(server)
        await server.until(lambda: client.generation == 2)
        await client.set("/a", b"")
        assert await take(events, 2) == [(MISSED, "/a"), (DATA_CHANGED, "/a")]


@simulated
async def test_who_does_not_read_has_one_missed_at_the_end_of_many_reconnects():
    async with ScriptedServer() as server, server.client() as client, client.add_watch("/a") as events:
        await client.create("/a")
        for _ in range(3):
            await reconnected(server, client)
        assert await take(events, 2) == [(CREATED, "/a"), (MISSED, "/a")]
        await client.delete("/a")
        assert await take(events, 1) == [(DELETED, "/a")]


@simulated
async def test_a_slow_reader_misses_but_knows_it():
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a")
        async with client.add_watch("/a", max_events=3) as events:
            for _ in range(4):
                await client.set("/a", b"")
            assert await take(events, 1) == [(MISSED, "/a")]
            for _ in range(3):
                await client.set("/a", b"")
            assert await take(events, 3) == [(DATA_CHANGED, "/a")] * 3


@simulated
async def test_many_on_one_path_share_a_watch_and_the_last_one_removes_it():
    async with ScriptedServer() as server, server.client() as client:
        async with client.add_watch("/a", recursive=True) as first:
            async with client.add_watch("/a", recursive=True) as second:
                await client.create("/a")
                assert await take(first, 1) == await take(second, 1) == [(CREATED, "/a")]
            await client.sync()
            assert count(server, Op.REMOVE_WATCHES) == 0
            await client.delete("/a")
            assert await take(first, 1) == [(DELETED, "/a")]
        await client.sync()
        assert count(server, Op.REMOVE_WATCHES) == 1


@simulated
async def test_on_servers_before_3_9_a_one_shot_watch_costs_no_event():
    async with ScriptedServer(version="3.8") as server, server.client() as client:
        await client.create("/a")
        fired = list[EventType]()
        async with client.add_watch("/a", recursive=True) as events:
            await client.get("/a", watch=lambda event: fired.append(event.type))
            await client.set("/a", b"1")
            assert await take(events, 1) == [(DATA_CHANGED, "/a")]
            assert fired == [DATA_CHANGED]
            await client.create("/a/b")
            await client.set("/a", b"2")
            assert await take(events, 2) == [(CREATED, "/a/b"), (DATA_CHANGED, "/a")]
        await client.sync()  # the first removal is refused, and another sent
        assert not await client.check_watches("/a")


# -- entering


@simulated
async def test_it_has_to_be_entered_and_only_once():
    async with ScriptedServer() as server, server.client() as client:
        events = client.add_watch("/a")
        assert "not entered" in repr(events)
        with pytest.raises(ClientStateError, match="enter it first"):
            await anext(events)
        async with events:
            assert repr(events) == "<WatchSubscription '/a', open>"
            with pytest.raises(AlreadyStartedError):
                await events.__aenter__()
        assert repr(events) == "<WatchSubscription '/a', closed>"
        with pytest.raises(AlreadyStartedError):
            await events.__aenter__()
        assert repr(client.add_watch("/a", recursive=True)) == "<WatchSubscription '/a' and below, not entered>"


@simulated
async def test_bad_arguments_are_refused_before_a_byte_is_sent():
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(InvalidPathError):
            client.add_watch("a")
        for bound in (0, -1, 1.5, True, None):
            with pytest.raises(InvalidArgumentError):
                client.add_watch("/a", max_events=bound)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError):
            client.add_watch("/a", timeout=-1)
        with pytest.raises(InvalidArgumentError):
            client.remove_watches("/a", 3)  # type: ignore[arg-type]
        assert server.requests == []


@simulated
async def test_a_client_that_can_not_be_used_can_not_be_watched_with():
    async with ScriptedServer() as server:
        client = server.client()
        events = client.add_watch("/a")
        with pytest.raises(NotStartedError):
            await events.__aenter__()
        async with client:
            async with events:
                await client.create("/a")
                assert await take(events, 1) == [(CREATED, "/a")]
            with pytest.raises(WrongLoopError):
                await asyncio.to_thread(asyncio.run, client.add_watch("/a").__aenter__())
        with pytest.raises(ClientClosedError):
            await client.add_watch("/a").__aenter__()
        assert client.statistics().watches == 0


@simulated
async def test_a_server_known_to_be_too_old_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    SrvrAnswers(monkeypatch, "3.5.9")
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(UnsupportedByServerError, match=r"add_watch needs ZooKeeper 3\.6\.0.* 3\.5\.9"):
            await client.add_watch("/a").__aenter__()
        assert server.requests == []
        assert client.connections == 1


@simulated
async def test_a_server_that_turns_out_to_be_too_old_refuses_it():
    async with ScriptedServer(version="3.5") as server, server.client() as client:
        server.word = drop_before
        events = client.add_watch("/a")
        with pytest.raises(UnsupportedByServerError):
            await events.__aenter__()
        assert [event async for event in events] == []
        assert await client.exists("/") is not None


@simulated
async def test_what_was_refused_is_not_tried_again_for_ten_minutes():
    async with ScriptedServer(version="3.5") as server, server.client() as client:
        server.word = drop_before  # nobody tells which version it is
        for _ in range(3):
            with pytest.raises(UnsupportedByServerError):
                await client.add_watch("/a").__aenter__()
            await client.sync()
        assert count(server, Op.ADD_WATCH) == 1, "each would have cost the connection"
        assert client.connections == 2
        await asyncio.sleep(601)
        with pytest.raises(UnsupportedByServerError):
            await client.add_watch("/a").__aenter__()
        assert count(server, Op.ADD_WATCH) == 2


@simulated
async def test_a_timeout_is_for_the_whole_of_entering():
    async with ScriptedServer() as server, server.client() as client:
        loop = asyncio.get_running_loop()
        server.on(Op.ADD_WATCH, swallow)
        started = loop.time()
        with pytest.raises(CallTimeoutError):
            await client.add_watch("/a", timeout=0.5).__aenter__()
        assert loop.time() - started < 0.6
        await server.stop()
        with pytest.raises(CallTimeoutError):
            await client.add_watch("/a", timeout=0.5).__aenter__()


@simulated
async def test_cancelled_while_entering_leaves_nothing_behind():
    async with ScriptedServer() as server, server.client() as client:
        server.on(Op.ADD_WATCH, hold)
        entering = asyncio.create_task(client.add_watch("/a").__aenter__())
        await server.until(lambda: count(server, Op.ADD_WATCH) == 1)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        server.open_connections[-1].release()
        await server.until(lambda: count(server, Op.REMOVE_WATCHES) == 1)
        assert not await client.check_watches("/a")
        assert client.statistics().watches == 0


@simulated
async def test_the_servers_refusal_ends_entering():
    async with ScriptedServer() as server, server.client() as client:
        server.on(Op.ADD_WATCH, fail_with(-127))
        with pytest.raises(Exception, match=r"-127"):
            await client.add_watch("/a").__aenter__()
        assert client.statistics().watches == 0


# -- the end


@simulated
async def test_the_clients_end_is_its_end():
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        async with client.add_watch("/a") as events:
            await client.create("/a")
            await client.sync()
            await client.close()
            assert [event.type async for event in events] == [CREATED]
        with pytest.raises(ClientClosedError):
            await client.add_watch("/b").__aenter__()


@simulated
async def test_refused_credentials_are_its_end_and_the_reason():
    async with ScriptedServer() as server, server.client() as client, client.add_watch("/a") as events:
        server.on(Op.AUTH, fail_with(-115))
        with pytest.raises(AuthFailedError):
            await client.add_auth("digest", b"me:secret")
        with pytest.raises(AuthFailedError):
            await anext(events)
        with pytest.raises(StopAsyncIteration):
            await anext(events)


@simulated
async def test_a_server_without_set_watches_2_ends_it_and_nothing_else():
    async with ScriptedServer() as server, server.client() as client, client.add_watch("/a") as events:
        for op in (Op.SET_WATCHES2, Op.ADD_WATCH):
            server.on(op, lambda connection, request: answer(connection, request._replace(op=999)))
        cut(server)
        assert await take(events, 2) == [(MISSED, "/a"), (REMOVED, "/a")]
        assert [event async for event in events] == []
        assert await client.exists("/") is not None


# -- one-shot watches, removed and checked


@on_every_loop
async def test_one_shot_watches_are_removed_and_told():
    async with ScriptedServer() as server, server.client() as client:
        fired = list[WatchEvent]()
        await client.get("/", watch=fired.append)
        await client.children("/", watch=fired.append)
        assert await client.check_watches("/", WatchKind.CHILDREN)
        await client.remove_watches("/", WatchKind.CHILDREN)
        assert not await client.check_watches("/", WatchKind.CHILDREN)
        assert await client.check_watches("/", WatchKind.DATA)
        await client.remove_watches("/")
        with pytest.raises(NoWatcherError):
            await client.remove_watches("/")
        await client.sync()
        assert fired == [WatchEvent(REMOVED, "/", -1)] * 2
        assert client.statistics().watches == 0


@simulated
async def test_removing_survives_a_lost_reply():
    async with ScriptedServer() as server, server.client() as client:
        await client.get("/", watch=print)
        server.next(swallow)
        removing = client.remove_watches("/")
        await server.until(lambda: count(server, Op.REMOVE_WATCHES) == 1)
        cut(server)
        await removing
        assert client.statistics().watches == 0
