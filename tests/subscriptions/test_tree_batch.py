"""Many nodes read by one request, and what happens where that can't be."""

from __future__ import annotations

import dataclasses

import pytest

from everlatch import Client, EventType, NoAuthError, NoNodeError, ProtocolError, TreeChangeKind
from everlatch.devserver import DevServer
from everlatch.errors import ThrottledOpError
from everlatch.subscriptions import tree_batch
from everlatch.subscriptions.tree_batch import read_nodes
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, fail_with
from skipping_loop import simulated
from subscriptions.following import CLOSED, count, writer_of
from subscriptions.test_tree_feed import make, until

PATHS = [f"/a/{number}" for number in range(20)]


@simulated
async def test_each_node_has_its_own_end():
    async with ScriptedServer() as server, writer_of(server) as writer, server.client("/app") as client:
        await make(writer, "/app", "/app/a", "/app/b")
        await writer.create("/app/closed", acl=CLOSED)
        found = await read_nodes(client._engine, client, ["/a", "/missing", "/closed", "/b"])
        assert [found[0].data, found[3].data] == [b"/app/a", b"/app/b"]
        assert [type(each) for each in found[1:3]] == [NoNodeError, NoAuthError]
        assert found[1].path == "/missing"


@simulated
async def test_a_reply_of_another_length_or_kind_is_an_error_of_the_server():
    async with ScriptedServer() as server, server.client() as client:
        await make(client, "/a", "/b")
        call = read_nodes(client._engine, client, ["/a", "/b"])
        decode = call.request.operation.decode
        await call
        one, children = client.multi_read(), client.multi_read()
        for reads in (one, children):
            reads._decode = lambda *reply: replies.append(reply)
        replies = []
        one.get("/a")
        children.get("/a")
        children.children("/a")
        await one.commit()
        await children.commit()
        for reply in replies:
            with pytest.raises(ProtocolError):
                decode(*reply)


@pytest.mark.parametrize(("version", "batches"), [("3.9", 1), ("3.5", 0)])
@simulated
async def test_a_tree_is_read_in_batches_where_there_are_any(version, batches):
    async with ScriptedServer(version=version) as server, server.client() as client:
        await make(client, "/a", *PATHS)
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            assert len(tree) == 21
            assert count(server, Op.MULTI_READ) == batches
            assert [tree.get(path).data for path in PATHS] == [path.encode() for path in PATHS]


@simulated
async def test_a_few_nodes_are_read_one_by_one():
    async with ScriptedServer() as server, server.client() as client:
        await make(client, "/a", *PATHS[: tree_batch.FEWEST - 1])
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            assert count(server, Op.MULTI_READ) == 0
            assert count(server, Op.GET_DATA) == tree_batch.FEWEST


@simulated
async def test_what_is_wrong_with_one_node_harms_no_other():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a", *PATHS)
        await writer.create("/a/closed", acl=CLOSED)
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            assert len(tree) == 21
            assert list(tree.unreadable) == ["/a/closed"]
            assert (await anext(tree)).kind is TreeChangeKind.READY
            async with writer.transaction() as transaction:
                for path in PATHS:
                    transaction.delete(path)
            await until(lambda: list(tree) == ["/a"])


@simulated
async def test_a_batch_whose_reply_is_too_large_is_read_one_by_one():
    async with ScriptedServer() as server, server.client(max_reply_size=4000) as client, writer_of(server) as writer:
        await make(writer, "/a")
        for path in PATHS:
            await writer.create(path, bytes(1000))
        async with client.watch_tree("/a") as tree:
            await tree.ready(timeout=20)
            assert len(tree) == 21
            assert count(server, Op.MULTI_READ) == 1


@simulated
async def test_a_batch_that_is_throttled_is_read_again():
    async with ScriptedServer() as server, server.client() as client:
        await make(client, "/a", *PATHS)
        server.on(Op.MULTI_READ, fail_with(ThrottledOpError.code), times=2)
        async with client.watch_tree("/a") as tree:
            await tree.ready(timeout=10)
            assert count(server, Op.MULTI_READ) == 3
            assert len(tree) == 21


@simulated
async def test_a_batch_that_meets_an_older_server_is_read_one_by_one():
    async with DevServer(version="3.9") as server, Client(server.address) as client:
        await make(client, "/a", *PATHS)
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            await server.stop()
            for path in PATHS:
                tree._feed._reader.changed(EventType.DATA_CHANGED, path)
            tree._feed._pump()
            server.core.options = server.options = dataclasses.replace(server.options, version="3.5")
            await server.start()
            await client.set("/a/3", b"new")
            await until(lambda: tree.is_current)
            await until(lambda: tree.get("/a/3").data == b"new")
