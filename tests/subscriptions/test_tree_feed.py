"""How a copy of a tree is kept, on the scripted server in virtual time."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest

from everlatch import OPEN_ACL_UNSAFE, Client, NoAuthError, State, StateChange, ThrottledOpError, TreeChangeKind
from everlatch.devserver import DevServer
from everlatch.subscriptions.tree_feed import TreeFeed
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, fail_with
from skipping_loop import simulated, this_loop
from subscriptions.following import CLOSED, READS, VERSIONS, count, cut, writer_of

READY, CREATED, UNREADABLE = TreeChangeKind.READY, TreeChangeKind.CREATED, TreeChangeKind.UNREADABLE


async def make(client, *paths):
    for path in paths:
        await client.create(path, path.encode())


async def until(condition, *, within=30.0):
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.05)


async def next_of(tree, *kinds, within=30.0):
    async with asyncio.timeout(within):
        async for change in tree:
            if change.kind in kinds:
                return change
    raise AssertionError("it has ended")


@simulated
async def test_all_share_one_watch_and_one_read_for_each_change():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a", "/a/b")
        async with client.watch_tree("/a") as one, client.watch_tree("/a") as other:
            await one.ready()
            await other.ready()
            assert count(server, *READS) == 3  # two nodes, one list
            assert count(server, Op.ADD_WATCH) == client.statistics().watches == 1
            assert [(await anext(tree)).kind for tree in (one, other)] == [READY, READY]
            await writer.set("/a/b", b"new")
            assert [(await anext(tree)).node.data for tree in (one, other)] == [b"new", b"new"]
            assert count(server, *READS) == 4
            assert not one.queued
            assert not other.queued


@simulated
async def test_what_differs_in_depth_or_filter_is_a_copy_of_its_own():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a", "/a/b", "/a/b/c")
        ways = ({}, {"max_depth": 1}, {"filter": lambda path: path != "/a/b"})
        trees = [client.watch_tree("/a", **way) for way in ways]
        for tree in trees:
            await tree.__aenter__()
            await tree.ready()
        assert [list(tree) for tree in trees] == [["/a", "/a/b", "/a/b/c"], ["/a", "/a/b"], ["/a"]]
        for tree in trees:
            tree.close()


@simulated
async def test_a_newcomer_is_ready_at_once_or_when_the_copy_is_in_step():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a")
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            before = count(server, *READS)
            async with client.watch_tree("/a") as late:
                assert late.is_ready
                assert count(server, *READS) == before
            await client.set("/a", b"own")
            async with client.watch_tree("/a") as later:
                await later.ready()
                assert later.get("/a").data == b"own"


@simulated
async def test_reads_that_are_throttled_are_made_again():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a", "/a/b")
        server.on(Op.GET_DATA, fail_with(ThrottledOpError.code), times=2)
        async with client.watch_tree("/a") as tree:
            await tree.ready(timeout=5)
            assert list(tree) == ["/a", "/a/b"]
            assert tree.unreadable == {}


@simulated
async def test_a_small_queue_is_enough():
    async with ScriptedServer() as server, server.client(max_queued_calls=6, max_in_flight=2) as client:
        async with writer_of(server) as writer:
            await make(writer, "/a", *(f"/a/{number}" for number in range(50)))
        async with client.watch_tree("/a") as tree:
            await tree.ready(timeout=20)
            assert len(tree) == 51


@simulated
async def test_a_root_that_may_not_be_read():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await writer.create("/a", b"1", acl=CLOSED)
        async with client.watch_tree("/a") as tree, client.watch_tree("/a") as other:
            for each in (tree, other):
                with pytest.raises(NoAuthError):
                    await each.ready()
                assert (await anext(each)).kind is UNREADABLE
            assert list(tree.unreadable) == ["/a"]
            assert not tree.is_ready
            await writer.set_acl("/a", OPEN_ACL_UNSAFE)
            await tree.ready(timeout=15)
            await other.ready(timeout=1)
            assert list(tree) == ["/a"]
            assert tree.unreadable == {}


@simulated
async def test_what_may_not_be_read_is_told_once_left_out_and_comes_back():
    async with ScriptedServer() as server, server.client(recheck_interval=5.0) as client, writer_of(server) as writer:
        await make(writer, "/a", "/a/b", "/a/b/c", "/a/d")
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            await anext(tree)
            await writer.set_acl("/a/b", CLOSED)
            told = [await next_of(tree, UNREADABLE), await next_of(tree, UNREADABLE)]
            assert [change.path for change in told] == ["/a/b/c", "/a/b"]
            assert isinstance(told[1].error, NoAuthError)
            assert list(tree) == ["/a", "/a/d"]
            assert list(tree.unreadable) == ["/a/b"]
            await asyncio.sleep(60)
            assert not tree.queued
            await writer.set_acl("/a/b", OPEN_ACL_UNSAFE)
            assert (await next_of(tree, CREATED, within=15)).path == "/a/b"
            assert (await next_of(tree, CREATED)).path == "/a/b/c"
            assert tree.unreadable == {}


@simulated
async def test_what_was_not_told_is_found_and_the_watch_is_armed_anew():
    async with ScriptedServer() as server, server.client(recheck_interval=5.0) as client, writer_of(server) as writer:
        await make(writer, "/a", "/a/b")
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            await writer.set_acl("/a/b", CLOSED)
            await writer.set("/a/b", b"unseen")
            await writer.set_acl("/a/b", OPEN_ACL_UNSAFE)
            await until(lambda: tree.get("/a/b").data == b"unseen", within=8)
            await until(lambda: tree.is_current)
            assert count(server, Op.ADD_WATCH) == 2
            await writer.set("/a/b", b"seen")
            await until(lambda: tree.get("/a/b").data == b"seen", within=0.1)


@simulated
async def test_sweeps_are_slow_and_have_pauses():
    async with ScriptedServer() as server, server.client(recheck_interval=10.0) as client, writer_of(server) as writer:
        await make(writer, "/a", *(f"/a/{number}" for number in range(199)))
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            before = count(server, *READS)
            await asyncio.sleep(7.4)
            assert count(server, *READS) == before
            await until(lambda: count(server, *READS) > before)
            began = this_loop().time()
            assert count(server, *READS) - before <= 50
            await until(lambda: count(server, *READS) == before + 200)
            assert 0.2 < this_loop().time() - began < 0.6
            await asyncio.sleep(7.0)
            assert count(server, *READS) == before + 200
            assert tree.is_current


@simulated
async def test_after_a_loss_each_node_is_looked_at_once_and_differences_are_told():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a", "/a/b", "/a/c", "/a/d")
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            assert (await anext(tree)).kind is READY
            cut(server)
            await writer.set("/a/b", b"new")
            await writer.delete("/a/c")
            told = {change.path: change.kind for change in [await anext(tree), await anext(tree)]}
            await until(lambda: tree.is_current)
            assert told == {"/a/b": TreeChangeKind.CHANGED, "/a/c": TreeChangeKind.DELETED}
            before = count(server, *READS)
            connections = client.connections
            cut(server)
            await until(lambda: client.connections > connections and tree.is_current)
            assert count(server, *READS) == before + 3
            assert not tree.queued


@pytest.mark.parametrize("version", VERSIONS)
@simulated
async def test_a_root_that_comes_goes_and_comes_again(version):
    async with ScriptedServer(version=version) as server, server.client() as client, writer_of(server) as writer:
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            assert list(tree) == []
            for _ in range(3):
                await make(writer, "/a", "/a/b")
                await until(lambda: list(tree) == ["/a", "/a/b"], within=1)
                await writer.delete_tree("/a")
                await until(lambda: list(tree) == [], within=1)
            await until(lambda: tree.is_current)
        await until(lambda: client.statistics().watches == 0)


@pytest.mark.parametrize("before", VERSIONS)
@pytest.mark.parametrize("after", VERSIONS)
@simulated
async def test_a_server_that_comes_back_as_another_version(before, after):
    async with DevServer(version=before) as server, Client(server.address) as client, Client(server.address) as writer:
        await make(writer, "/a", "/a/b")
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            for version in (after, before):
                await server.stop()
                server.core.options = server.options = dataclasses.replace(server.options, version=version)
                await server.start()
                await writer.create(f"/a/b/{version}")
                await until(lambda path=f"/a/b/{version}": path in tree)
                await until(lambda: tree.is_current)
                await writer.set("/a/b", version.encode())
                await writer.delete(f"/a/b/{version}")
                await until(lambda version=version: tree.get("/a/b").data == version.encode(), within=1)
                await until(lambda version=version: f"/a/b/{version}" not in tree, within=1)
        await until(lambda: client.statistics().watches == 0)


@pytest.mark.parametrize("version", ["3.5", "3.9"])
@simulated
async def test_whoever_goes_at_any_moment_leaves_nothing(version):
    async with ScriptedServer(version=version) as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a", "/a/b")
        await client.get("/a")
        for turns in range(0, 40, 3):

            async def follow():
                async with client.watch_tree("/a") as tree:
                    async for _ in tree:
                        pass

            following = asyncio.create_task(follow())
            for _ in range(turns):
                await asyncio.sleep(0)
            following.cancel()
            await asyncio.wait([following])
            await client.sync()
            await until(lambda: client.statistics().watches == 0, within=1)
            assert len(client._feeds) == 0
        before = client.statistics().events_received
        await writer.set("/a/b", b"nobody looks")
        await writer.create("/a/c")
        await client.sync()
        assert client.statistics().events_received == before


@simulated
async def test_a_node_that_changes_without_end_is_followed():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a")
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            for number in range(200):
                await writer.set("/a", b"%d" % number)
            assert int(tree.get("/a").data) > 150


@simulated
async def test_churn_grows_nothing():
    """With one-shot watches every path is remembered as long as it is watched."""
    async with ScriptedServer(version="3.5") as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a")
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            for number in range(50):
                await writer.create(f"/a/{number}")
                await until(lambda path=f"/a/{number}": path in tree, within=1)
                await writer.delete(f"/a/{number}")
                await until(lambda: len(tree) == 1, within=1)
            await until(lambda: tree.is_current)
            feed = tree._feed
            assert list(feed._watch._one_shots) == ["/a"]
            assert client.statistics().watches == 2
            assert feed._reader._listed_anew == set()


@simulated
async def test_a_bug_of_ours_ends_the_subscription_and_is_logged(caplog):
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a")
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            tree._feed._reader.read = lambda *_: 1 / 0
            await writer.set("/a", b"new")
            await anext(tree)
            with pytest.raises(ZeroDivisionError):
                await anext(tree)
            assert "watch_tree '/a' failed" in caplog.text
            async with client.watch_tree("/a") as other:
                with pytest.raises(ZeroDivisionError):
                    await other.ready()


def test_ten_thousand_nodes_are_read_in_no_time():
    """No task for each node, nothing quadratic: a second or two, where either would take a minute."""

    @simulated
    async def follow():
        async with DevServer() as server, Client(server.address) as client:
            await client.create("/a")
            for first in range(0, 5000, 1000):
                async with client.transaction() as transaction:
                    for number in range(first, first + 1000):
                        transaction.create(f"/a/{number}")
            async with client.watch_tree("/a") as tree:
                await tree.ready()
                assert len(tree) == 5001
                began = time.process_time()
                async with client.transaction() as transaction:
                    for number in range(2500):
                        transaction.delete(f"/a/{number}")
                await until(lambda: len(tree) == 2501)
                assert time.process_time() - began < 20

    follow()


@pytest.mark.parametrize("version", ["3.5", "3.9"])
@simulated
async def test_servers_that_have_lost_their_history(version):
    """The same zxids, other nodes: what was there is gone, whatever its numbers say."""
    async with DevServer(version=version) as server, Client(server.address, session_timeout=4.0) as client:
        async with Client(server.address) as writer:
            await make(writer, "/a", "/a/b", "/a/c")
            for number in range(20):
                await writer.set("/a/c", b"%d" % number)
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            await server.stop()
            async with DevServer(server.port, version=version) as other, Client(other.address) as writer:
                await make(writer, "/x", "/a", "/a/d")
                await until(lambda: list(tree) == ["/a", "/a/d"], within=60)
                await until(lambda: tree.is_current)
                await writer.create("/a/d/e")
                await until(lambda: "/a/d/e" in tree, within=1)


@pytest.mark.parametrize("begins_there", [False, True])
@simulated
async def test_a_server_without_a_quorum_shows_nothing_behind_what_others_have_shown(begins_there, monkeypatch):
    read_only = [begins_there]
    monkeypatch.setattr(TreeFeed, "_is_read_only", property(lambda _: read_only[0]))
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await make(writer, "/a")
        async with client.watch_tree("/a") as tree:
            await tree.ready()
            read_only[0] = True
            await writer.set("/a", b"old, or never true")
            await asyncio.sleep(5)
            assert tree.get("/a").data == (b"old, or never true" if begins_there else b"/a")
            before = count(server, *READS)
            read_only[0] = False
            tree._feed._on_state(StateChange(State.CONNECTED, State.CONNECTED_READ_ONLY, 1, 1, 1, None, None))
            await until(lambda: tree.get("/a").data == b"old, or never true")
            await until(lambda: count(server, *READS) == before + 1)
            await until(lambda: tree.is_current)
