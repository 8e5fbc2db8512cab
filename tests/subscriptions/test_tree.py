"""Copies of trees as their users have them, on the scripted server in virtual time."""

from __future__ import annotations

import asyncio
import functools

import pytest

from everlatch import (
    AlreadyStartedError,
    CallTimeoutError,
    ClientClosedError,
    ClientStateError,
    InvalidArgumentError,
    InvalidPathError,
    InvalidTypeError,
    NotStartedError,
    TreeChangeKind,
)
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, never
from skipping_loop import simulated
from subscriptions.following import writer_of
from subscriptions.test_tree_feed import make, until

READY, CREATED, CHANGED, DELETED, RESET = (
    TreeChangeKind.READY,
    TreeChangeKind.CREATED,
    TreeChangeKind.CHANGED,
    TreeChangeKind.DELETED,
    TreeChangeKind.RESET,
)


@simulated
async def test_what_is_read_from_a_copy():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a", "/a/c", "/a/b", "/a/b/x", "/elsewhere")
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            assert list(tree) == ["/a", "/a/b", "/a/c", "/a/b/x"]
            assert [path for path, node in tree.items() if node.data != path.encode()] == []
            assert tree.children("/a") == ["b", "c"]
            assert tree.children("/a/b/x") == tree.children("/nowhere") == []
            assert len(tree) == 4
            assert tree
            assert "/a/b" in tree
            assert "/elsewhere" not in tree
            assert tree.get("/a/c").data == b"/a/c"
            assert tree.get("/elsewhere") is None
            assert repr(tree) == "<watch_tree '/a', 4 nodes, ready>"
            for path in tree:  # a snapshot
                await writer.delete_tree(path, missing_ok=True)
                await until(lambda path=path: path not in tree)
            assert list(tree) == []
            assert tree.is_current


@simulated
async def test_paths_are_the_client_s_below_a_chroot():
    async with ScriptedServer() as server, writer_of(server) as writer, server.client("/app") as client:
        await make(writer, "/app", "/app/a", "/app/a/b", "/other")
        async with client.watch_tree("/") as tree:
            await tree.ready()
            assert list(tree) == ["/", "/a", "/a/b"]
            await writer.create("/app/c")
            await until(lambda: tree.children("/") == ["a", "c"])


@simulated
async def test_changes_begin_with_ready_and_are_told_in_order():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a")
        async with client.watch_tree("/a") as tree:
            assert (await anext(tree)).kind is READY
            await writer.create("/a/b")
            created = await anext(tree)
            await writer.set("/a/b", b"new")
            changed = await anext(tree)
            await writer.delete("/a/b")
            deleted = await anext(tree)
            assert [change.kind for change in (created, changed, deleted)] == [CREATED, CHANGED, DELETED]
            assert {change.path for change in (created, changed, deleted)} == {"/a/b"}
            assert (changed.previous, deleted.previous, deleted.node) == (created.node, changed.node, None)


@simulated
async def test_a_slow_reader_is_told_to_look_at_the_whole_copy():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a")
        async with client.watch_tree("/a", max_changes=3) as tree:
            assert (await anext(tree)).kind is READY
            await make(writer, *(f"/a/{number}" for number in range(10)))
            await until(lambda: len(tree) == 11)
            assert tree.queued == 1
            assert (await anext(tree)).kind is RESET
            await writer.delete("/a/3")
            assert (await anext(tree))[:2] == (DELETED, "/a/3")


@simulated
async def test_who_does_not_read_changes_keeps_one():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a")
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            await make(writer, *(f"/a/{number}" for number in range(20)))
            await until(lambda: len(tree) == 21)
            assert tree.queued == 1


@simulated
async def test_listeners_are_told_the_same_and_harm_nobody(caplog):
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a")
        async with client.watch_tree("/a") as tree:
            told, later = [], []

            def bad(change):
                raise ZeroDivisionError

            remove = tree.add_listener(told.append)
            tree.add_listener(bad)
            await tree.ready()
            await writer.create("/a/b")
            await until(lambda: len(told) == 2)
            tree.add_listener(later.append)
            await writer.delete("/a/b")
            await until(lambda: len(told) == 3)
            assert [change.kind for change in told] == [READY, CREATED, DELETED]
            await until(lambda: len(later) == 2)
            assert [change.kind for change in later] == [READY, DELETED]
            remove()
            remove()
            await writer.create("/a/c")
            await until(lambda: len(later) == 3)
            assert len(told) == 3
        await make(writer, "/a/d")
        await client.sync()
        assert len(later) == 3
    assert "ZeroDivisionError" in caplog.text


@simulated
async def test_a_slow_listener_holds_nobody_up_and_is_told_what_is():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a")
        async with client.watch_tree("/a", max_changes=4) as tree:
            told, running = [], []

            async def slow(change):
                running.append(change)
                assert len(running) == 1
                await asyncio.sleep(10)
                told.append(change)
                running.clear()

            tree.add_listener(slow)
            await tree.ready()
            await writer.create("/a/b")
            for number in range(20):
                await writer.set("/a/b", b"%d" % number)
            await until(lambda: tree.get("/a/b").data == b"19", within=1)
            await asyncio.sleep(30)
            assert [change.kind for change in told][:2] == [READY, CREATED]
            assert told[-1].node.data == b"19"
            await make(writer, *(f"/a/more{number}" for number in range(20)))
            await asyncio.sleep(60)
            assert told[-1].kind is RESET


@simulated
async def test_waiting_until_it_is_ready_has_a_timeout():
    async with ScriptedServer() as server, server.client(default_timeout=2.0) as client:
        server.on(Op.GET_DATA, never, times=1000)
        async with client.watch_tree("/a") as tree:
            with pytest.raises(CallTimeoutError, match=r"watch_tree '/a' timed out after 0\.5 s"):
                await tree.ready(timeout=0.5)
            with pytest.raises(CallTimeoutError, match="after 2 s"):
                await tree.ready()
            assert not tree.is_ready
            assert not tree.is_current
            assert not tree.queued


@simulated
async def test_the_client_s_end_is_its_end():
    async with ScriptedServer() as server:
        async with server.client() as client:
            await client.create("/a")
            async with client.watch_tree("/a") as tree, client.watch_tree("/b", filter=bool) as other:
                await tree.ready()
                waiting = asyncio.create_task(collect(tree))
                server.on(Op.GET_DATA, never, times=1000)
                unready = client.watch_tree("/c")
                await unready.__aenter__()
                late = asyncio.create_task(unready.ready())
                await other.ready()
                await client.close()
                assert [change.kind for change in await waiting] == [READY]
                with pytest.raises(ClientClosedError):
                    await late
                assert list(tree) == ["/a"]
                assert not tree.is_current
                unready.close()
        with pytest.raises(ClientClosedError):
            await client.watch_tree("/a").__aenter__()


async def collect(tree):
    return [change async for change in tree]


@simulated
async def test_before_and_after_its_block():
    async with ScriptedServer() as server, server.client() as client:
        tree = client.watch_tree("/a")
        uses = (tree.items, lambda: len(tree), lambda: tree.unreadable, lambda: tree.add_listener(print))
        for use in uses:
            with pytest.raises(ClientStateError, match="enter it first"):
                use()
        for wait in (tree.ready, tree.__anext__):
            with pytest.raises(ClientStateError, match="enter it first"):
                await wait()
        assert repr(tree) == "<watch_tree '/a', not entered>"
        async with tree:
            assert "not ready" in repr(tree)
            with pytest.raises(AlreadyStartedError):
                await tree.__aenter__()
            with pytest.raises(InvalidTypeError):
                tree.add_listener(None)
        tree.close()
        for use in uses:
            with pytest.raises(ClientStateError, match="left"):
                use()
        with pytest.raises(ClientClosedError):
            await tree.ready()
        assert await collect(tree) == []
        assert repr(tree) == "<watch_tree '/a', closed>"


async def test_what_can_t_be_meant_is_refused_at_once():
    async with ScriptedServer() as server:
        client = server.client()

        async def later(path):
            return True

        for path, options, error in (
            ("a", {}, InvalidPathError),
            ("/a", {"max_depth": -1}, InvalidArgumentError),
            ("/a", {"max_depth": True}, InvalidTypeError),
            ("/a", {"max_depth": "1"}, InvalidTypeError),
            ("/a", {"filter": "x"}, InvalidTypeError),
            ("/a", {"filter": later}, InvalidTypeError),
            ("/a", {"max_changes": 0}, InvalidArgumentError),
            ("/a", {"max_changes": None}, InvalidArgumentError),
        ):
            with pytest.raises(error):
                client.watch_tree(path, **options)
        with pytest.raises(NotStartedError):
            await client.watch_tree("/a").__aenter__()


class Unhashable:
    def __eq__(self, other):
        return True

    __hash__ = None

    def __call__(self, path):
        return path != "/a/b"


class Raises(Unhashable):
    def __call__(self, path):
        raise ZeroDivisionError


@pytest.mark.parametrize("wanted", [Unhashable(), functools.partial(Unhashable.__call__, None)])
@simulated
async def test_any_callable_is_a_filter(wanted):
    async with ScriptedServer() as server, server.client() as client:
        await make(client, "/a", "/a/b", "/a/c")
        async with client.watch_tree("/a", filter=wanted) as tree, client.watch_tree("/a", filter=Raises()) as other:
            await tree.ready()
            await other.ready()
            assert list(tree) == ["/a", "/a/c"]
            assert list(other) == ["/a"]
            assert {path: type(error) for path, error in other.unreadable.items()} == {
                "/a/b": ZeroDivisionError,
                "/a/c": ZeroDivisionError,
            }
