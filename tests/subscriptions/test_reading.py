"""How a path is read, on the scripted server in virtual time."""

from __future__ import annotations

import pytest

from everlatch import EventType, NoAuthError, Stat
from everlatch.subscriptions.reading import CHILDREN, DATA
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, answer
from skipping_loop import simulated
from subscriptions.following import CLOSED, writer_of

STAT = Stat(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)


def test_what_makes_a_state_another_one():
    for field in ("czxid", "mzxid", "ctime", "mtime", "version"):
        assert DATA.stamp(STAT) != DATA.stamp(STAT._replace(**{field: 99}))
    for field in ("czxid", "pzxid", "ctime", "cversion"):
        assert CHILDREN.stamp(STAT) != CHILDREN.stamp(STAT._replace(**{field: 99}))
    others = STAT._replace(aversion=99)
    assert DATA.stamp(STAT) == DATA.stamp(others._replace(pzxid=99, cversion=99, num_children=99))
    assert CHILDREN.stamp(STAT) == CHILDREN.stamp(others._replace(mzxid=99, version=99, mtime=99))
    assert DATA.stamp_of(None) is CHILDREN.stamp_of(None) is None


@simulated
async def test_nothing_is_a_state_and_with_a_watch_its_creation_is_told():
    async with ScriptedServer() as server, server.client() as client:
        for reading in (DATA, CHILDREN):
            told = []
            assert await reading.read(client, "/a", None) is None
            assert server.paths(Op.EXISTS) == []
            assert await reading.read(client, "/a", told.append) is None
            await client.create("/a", b"1")
            assert [event.type for event in told] == [EventType.CREATED]
            state = await reading.read(client, "/a", told.append)
            assert state is not None
            assert reading.stamp_of(state) == reading.stamp(state.stat)
            await client.delete("/a")
            assert [event.type for event in told] == [EventType.CREATED, EventType.DELETED]
            server.requests.clear()


@simulated
async def test_a_node_that_comes_between_the_two_looks_is_read():
    async with ScriptedServer() as server, server.client() as client:

        def create_first(connection, request):
            server.znodes.create("/a", b"1")
            answer(connection, request)

        server.on(Op.EXISTS, create_first)
        told = []
        node = await DATA.read(client, "/a", told.append)
        assert node is not None
        assert node.data == b"1"
        await client.set("/a", b"2")
        assert [event.type for event in told] == [EventType.DATA_CHANGED]


@simulated
async def test_what_may_not_be_read_is_an_error():
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await writer.create("/a", acl=CLOSED)
        for reading in (DATA, CHILDREN):
            for watch in (None, print):
                with pytest.raises(NoAuthError):
                    await reading.read(client, "/a", watch)
        assert client.statistics().watches == 0
