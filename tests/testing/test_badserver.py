"""The part of a bad server that behaves, driven with raw frames, and what scripts can do with it. What a client makes
of its misbehaviour is in tests/attacks/test_bad_server.py."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple, Self

import pytest

from engine.links import open_sockets, until
from everlatch import Client, ClientInfo, admin
from everlatch.testing import BadServer, BadServerTimeoutError, Connection, Received, Znodes, misbehaviour
from everlatch.testing.answers import accept, answer
from everlatch.testing.watch_tables import ONCE, Table, WatchTables
from everlatch.types import OPEN_ACL_UNSAFE
from everlatch.wire.auth_records import decode_who_am_i_reply, encode_auth_request
from everlatch.wire.codes import XID_AUTH, XID_NOTIFICATION, XID_PING, AddWatchMode, CreateMode, Op, WatcherType
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, ConnectResponse, decode_connect_response, encode_connect_request
from everlatch.wire.headers import REPLY_HEADER, frame_request
from everlatch.wire.multi import (
    CheckPart,
    CreatePart,
    DeletePart,
    ErrorResult,
    GetChildrenPart,
    GetChildrenResult,
    GetDataPart,
    GetDataResult,
    SetDataPart,
    decode_multi_reply,
    encode_multi_request,
)
from everlatch.wire.records import (
    decode_create2_reply,
    decode_create_reply,
    decode_get_all_children_number_reply,
    decode_get_children_reply,
    decode_get_data_reply,
    decode_get_ephemerals_reply,
    encode_create_request,
    encode_delete_request,
    encode_get_all_children_number_request,
    encode_get_data_request,
    encode_get_ephemerals_request,
    encode_reconfig_request,
    encode_set_data_request,
)
from everlatch.wire.watch_records import (
    decode_add_watch_reply,
    decode_watcher_event,
    encode_add_watch_request,
    encode_remove_watches_request,
    encode_set_watches2_request,
    encode_set_watches_request,
)
from skipping_loop import on_every_loop, simulated

if TYPE_CHECKING:
    from collections.abc import Iterable

CREATED, DELETED, CHANGED, CHILDREN = 1, 2, 3, 4
PERSISTENT, RECURSIVE = AddWatchMode.PERSISTENT, AddWatchMode.PERSISTENT_RECURSIVE
NEW_SESSION = ConnectRequest(0, 0, 10_000, 0, bytes(16), False)


class Reply(NamedTuple):
    xid: int
    zxid: int
    err: int
    body: bytes

    def decoded(self, decode):
        assert self.err == 0
        return decode(self.body, 0, len(self.body))


class Raw:
    """A client that is nothing but frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.xid = 0
        self.events: list[tuple[int, str]] = []
        """Type and path, since the last look."""
        self.zxids: list[int] = []
        """Of all events."""

    @classmethod
    async def connected(cls, server: BadServer, request: ConnectRequest = NEW_SESSION) -> tuple[Self, ConnectResponse]:
        raw = cls(*await asyncio.open_connection("127.0.0.1", server.port))
        raw.writer.write(frame(encode_connect_request(request)))
        try:
            answered = await raw.payload()
        except asyncio.IncompleteReadError:
            await raw.close()
            raise
        return raw, decode_connect_response(answered, 0, len(answered))

    async def payload(self) -> bytes:
        size = int.from_bytes(await self.reader.readexactly(4), "big")
        return await self.reader.readexactly(size)

    async def reply(self) -> Reply:
        """The next one, with the events before it noted."""
        while True:
            payload = await self.payload()
            xid, zxid, err = REPLY_HEADER.unpack_from(payload)
            body = payload[REPLY_HEADER.size :]
            if xid != XID_NOTIFICATION:
                return Reply(xid, zxid, err, body)
            event, state, path = decode_watcher_event(body, 0, len(body))
            assert state == 3
            self.events.append((event, path))
            self.zxids.append(zxid)

    async def call(self, op: int, body: bytes = b"") -> Reply:
        self.xid += 1
        self.writer.write(frame_request(self.xid, op, body))
        reply = await self.reply()
        assert reply.xid == self.xid
        return reply

    async def seen(self) -> list[tuple[int, str]]:
        """The events that have come by now."""
        self.writer.write(frame_request(XID_PING, Op.PING, b""))
        assert (await self.reply()).xid == XID_PING
        events, self.events = self.events, []
        return events

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    # -- in short

    async def create(self, path: str, flags: int = CreateMode.PERSISTENT, op: int = Op.CREATE2) -> Reply:
        return await self.call(op, encode_create_request(path, b"data", OPEN_ACL_UNSAFE, flags))

    async def get(self, path: str, *, watch: bool = False, op: int = Op.GET_DATA) -> Reply:
        return await self.call(op, encode_get_data_request(path, watch))

    async def set(self, path: str) -> Reply:
        return await self.call(Op.SET_DATA, encode_set_data_request(path, b"more", -1))

    async def delete(self, path: str) -> Reply:
        return await self.call(Op.DELETE, encode_delete_request(path, -1))

    async def add_watch(self, path: str, mode: int) -> Reply:
        return await self.call(Op.ADD_WATCH, encode_add_watch_request(path, mode))

    async def watches(self, op: Op, path: str, watcher_type: int) -> int:
        return (await self.call(op, encode_remove_watches_request(path, watcher_type))).err


@contextlib.asynccontextmanager
async def clients(server: BadServer, number: int = 2):
    """So many raw clients: one that looks, and one that does."""
    async with server:
        raws = [(await Raw.connected(server))[0] for _ in range(number)]
        try:
            yield raws
        finally:
            for raw in raws:
                await raw.close()


async def change_everything(raw: Raw, path: str) -> None:
    """Creates a node and a child with a child, changes, and deletes them all."""
    for below in (path, f"{path}/b", f"{path}/b/c"):
        assert (await raw.create(below)).err == 0
    assert (await raw.set(path)).err == 0
    assert (await raw.set(f"{path}/b")).err == 0
    for below in (f"{path}/b/c", f"{path}/b", path):
        assert (await raw.delete(below)).err == 0


# --- persistent watches -------------------------------------------------------------------------------------------


@simulated
async def test_a_persistent_watch_sees_the_node_and_its_list_of_children_for_ever():
    async with clients(BadServer()) as (looks, does):
        assert (await looks.add_watch("/a", PERSISTENT)).decoded(decode_add_watch_reply) == 0
        for _ in range(2):
            await change_everything(does, "/a")
            assert await looks.seen() == [
                (CREATED, "/a"),
                (CHILDREN, "/a"),
                (CHANGED, "/a"),
                (CHILDREN, "/a"),
                (DELETED, "/a"),
            ]


@simulated
async def test_a_recursive_watch_sees_all_nodes_and_no_lists():
    async with clients(BadServer()) as (looks, does):
        assert (await looks.add_watch("/a", RECURSIVE)).err == 0
        await does.create("/ab")
        for _ in range(2):
            await change_everything(does, "/a")
            assert await looks.seen() == [
                (CREATED, "/a"),
                (CREATED, "/a/b"),
                (CREATED, "/a/b/c"),
                (CHANGED, "/a"),
                (CHANGED, "/a/b"),
                (DELETED, "/a/b/c"),
                (DELETED, "/a/b"),
                (DELETED, "/a"),
            ]


@simulated
async def test_a_recursive_watch_of_the_root():
    async with clients(BadServer()) as (looks, does):
        await looks.add_watch("/", RECURSIVE)
        await does.create("/a")
        assert await looks.seen() == [(CREATED, "/a")]


@simulated
async def test_a_path_may_have_all_modes_at_once_and_an_event_comes_once():
    async with clients(BadServer()) as (looks, does):
        await does.create("/a")
        await looks.add_watch("/a", PERSISTENT)
        await looks.add_watch("/a", RECURSIVE)
        await looks.get("/a", watch=True)
        for _ in range(2):
            await does.set("/a")
            assert await looks.seen() == [(CHANGED, "/a")]


@simulated
async def test_before_3_9_a_standard_watch_takes_the_place_of_a_persistent_one():
    async with clients(BadServer(old_watches=True)) as (looks, does):
        await does.create("/a")
        await looks.add_watch("/a", PERSISTENT)
        await looks.get("/a", watch=True)
        await does.set("/a")
        assert await looks.seen() == [(CHANGED, "/a")]
        await does.set("/a")
        assert await looks.seen() == []
        await does.create("/a/b")  # the half in the other table is still there
        assert await looks.seen() == [(CHILDREN, "/a")]


@simulated
async def test_before_3_9_a_persistent_watch_set_last_stays():
    async with clients(BadServer(old_watches=True)) as (looks, does):
        await does.create("/a")
        await looks.get("/a", watch=True)
        await looks.add_watch("/a", PERSISTENT)
        for _ in range(2):
            await does.set("/a")
            assert await looks.seen() == [(CHANGED, "/a")]


@pytest.mark.parametrize("event_zxids", [False, True])
@simulated
async def test_the_zxid_of_an_event(event_zxids):
    server = BadServer(event_zxids=event_zxids)
    async with clients(server) as (looks, does):
        await looks.add_watch("/a", PERSISTENT)
        await does.create("/a")
        await looks.seen()
        assert looks.zxids == [server.znodes.zxid if event_zxids else -1]


@simulated
async def test_unknown_modes_are_refused():
    async with clients(BadServer(), 1) as (raw,):
        assert (await raw.add_watch("/a", 2)).err == -5


# --- arming again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [Op.SET_WATCHES, Op.SET_WATCHES2])
@simulated
async def test_standard_watches_that_have_missed_something_fire_and_the_others_are_armed(op):
    server = BadServer(event_zxids=True)
    async with clients(server) as (looks, does):
        for path in ("/same", "/changed", "/there"):
            await does.create(path)
        zxid = server.znodes.zxid
        await does.set("/changed")
        await does.create("/changed/b")
        paths = ["/same", "/changed", "/gone"]
        if op == Op.SET_WATCHES:
            body = encode_set_watches_request(zxid, paths, ["/there", "/not"], paths)
        else:
            body = encode_set_watches2_request(zxid, paths, ["/there", "/not"], paths, [], [])
        assert (await looks.call(op, body)).err == 0
        missed = [(CHANGED, "/changed"), (DELETED, "/gone"), (CHILDREN, "/changed"), (DELETED, "/gone")]
        assert sorted(looks.events) == sorted([*missed, (CREATED, "/there")])
        assert set(looks.zxids) == {-1}
        looks.events.clear()
        for path in ("/changed", "/gone", "/there", "/not", "/same"):
            await does.create(path)
            await does.set(path)
        assert await looks.seen() == [(CREATED, "/not"), (CHANGED, "/same")]


@simulated
async def test_persistent_watches_are_armed_and_nothing_is_replayed():
    async with clients(BadServer()) as (looks, does):
        await does.create("/a")
        await does.set("/a")
        body = encode_set_watches2_request(0, [], [], [], ["/a", "/gone"], ["/r"])
        assert (await looks.call(Op.SET_WATCHES2, body)).err == 0
        assert await looks.seen() == []
        await change_everything(does, "/r")
        assert len(await looks.seen()) == 8
        await does.set("/a")
        await does.create("/gone")
        assert await looks.seen() == [(CHANGED, "/a"), (CREATED, "/gone")]


@simulated
async def test_watches_end_with_their_connection():
    server = BadServer()
    async with clients(server) as (looks, does):
        await looks.add_watch("/a", PERSISTENT)
        await looks.close()
        await server.until(lambda: len(server.open_connections) == 1)
        await does.create("/a")
        assert await does.seen() == []


# --- removing and checking ----------------------------------------------------------------------------------------


async def set_all(raw: Raw) -> None:
    await raw.get("/a", watch=True)
    await raw.get("/a", watch=True, op=Op.GET_CHILDREN2)
    await raw.add_watch("/a", PERSISTENT)
    await raw.add_watch("/a", RECURSIVE)


@pytest.mark.parametrize("watcher_type", list(WatcherType))
@simulated
async def test_watches_of_a_type_are_found_and_removed(watcher_type):
    async with clients(BadServer()) as (looks, does):
        await does.create("/a")
        for op in (Op.CHECK_WATCHES, Op.REMOVE_WATCHES):
            assert await looks.watches(op, "/a", watcher_type) == -121
        await set_all(looks)
        assert await looks.watches(Op.CHECK_WATCHES, "/a", watcher_type) == 0
        assert await looks.watches(Op.CHECK_WATCHES, "/b", watcher_type) == -121
        assert await looks.watches(Op.REMOVE_WATCHES, "/a", watcher_type) == 0
        left = [other for other in WatcherType if await looks.watches(Op.CHECK_WATCHES, "/a", other) == 0]
        gone = set(WatcherType) if watcher_type == WatcherType.ANY else {watcher_type}
        assert set(left) == set(WatcherType) - gone
        assert await looks.watches(Op.REMOVE_WATCHES, "/a", watcher_type) == -121
        await does.set("/a")
        assert await looks.seen() == ([] if watcher_type == WatcherType.ANY else [(CHANGED, "/a")])


@pytest.mark.parametrize("watcher_type", [0, 6, -1, 4, 5])
@pytest.mark.parametrize("op", [Op.CHECK_WATCHES, Op.REMOVE_WATCHES])
@simulated
async def test_types_that_a_server_does_not_know(op, watcher_type):
    async with clients(BadServer(old_watches=True), 1) as (raw,):
        await raw.add_watch("/a", PERSISTENT)
        assert await raw.watches(op, "/a", watcher_type) == -5
        assert await raw.watches(Op.CHECK_WATCHES, "/a", WatcherType.ANY) == 0


@simulated
async def test_before_3_9_type_3_removes_all_kinds():
    async with clients(BadServer(old_watches=True)) as (looks, does):
        await does.create("/a")
        await set_all(looks)
        assert await looks.watches(Op.REMOVE_WATCHES, "/a", WatcherType.ANY) == 0
        await does.set("/a")
        await does.create("/a/b")
        assert await looks.seen() == []


def test_watch_tables_of_two_paths_are_apart():
    tables = WatchTables()
    tables.add(Table.DATA, "/a")
    tables.add_persistent("/a", PERSISTENT)
    assert tables.modes(Table.DATA, "/a") == {ONCE, PERSISTENT}
    assert tables.modes(Table.CHILDREN, "/a") == {PERSISTENT}
    assert not tables.fire(Table.DATA, "/a/b")
    assert not tables.fire(Table.DATA, "/")
    assert tables.modes(Table.DATA, "/a") == {ONCE, PERSISTENT}


# --- the other operations -----------------------------------------------------------------------------------------


@simulated
async def test_who_am_i_tells_users_without_passwords_once():
    async with clients(BadServer(), 1) as (raw,):
        for credentials in (b"bob:secret", b"bob:secret", b"\xff:x"):
            raw.writer.write(frame_request(XID_AUTH, Op.AUTH, encode_auth_request("digest", credentials)))
            assert await raw.reply() == Reply(XID_AUTH, 0, 0, b"")
        assert (await raw.call(Op.WHO_AM_I)).decoded(decode_who_am_i_reply) == [
            ClientInfo("ip", "127.0.0.1"),
            ClientInfo("digest", "bob"),
            ClientInfo("digest", "\ufffd"),
        ]


@pytest.mark.parametrize(("prefix", "found"), [(None, 2), ("", 2), ("/", 2), ("/a", 1), ("/a/e", 1), ("/x", 0)])
@simulated
async def test_ephemerals_are_those_of_the_session(prefix, found):
    async with clients(BadServer()) as (raw, other):
        await raw.create("/a")
        await raw.create("/a/e", CreateMode.EPHEMERAL)
        await raw.create("/e", CreateMode.EPHEMERAL)
        await other.create("/a/other", CreateMode.EPHEMERAL)
        reply = await raw.call(Op.GET_EPHEMERALS, encode_get_ephemerals_request(prefix))
        assert sorted(reply.decoded(decode_get_ephemerals_reply)) == ["/a/e", "/e"][:found]


@simulated
async def test_descendants_are_counted():
    async with clients(BadServer(), 1) as (raw,):
        for path in ("/a", "/a/b", "/a/b/c", "/ab"):
            await raw.create(path)
        counted = {}
        for path in ("/", "/a", "/a/b/c"):
            reply = await raw.call(Op.GET_ALL_CHILDREN_NUMBER, encode_get_all_children_number_request(path))
            counted[path] = reply.decoded(decode_get_all_children_number_reply)
        assert counted == {"/": 4, "/a": 2, "/a/b/c": 0}
        missing = await raw.call(Op.GET_ALL_CHILDREN_NUMBER, encode_get_all_children_number_request("/no"))
        assert missing.err == -101


@simulated
async def test_the_parts_of_a_multi_read_fail_one_by_one():
    async with clients(BadServer(), 1) as (raw,):
        await raw.create("/a")
        await raw.create("/a/b")
        parts = [GetDataPart("/a"), GetChildrenPart("/no"), GetChildrenPart("/a")]
        data, missing, names = (await raw.call(Op.MULTI_READ, encode_multi_request(parts))).decoded(decode_multi_reply)
        assert isinstance(data, GetDataResult)
        assert data.node.data == b"data"
        assert missing == ErrorResult(-101)
        assert names == GetChildrenResult(["b"])


@pytest.mark.parametrize(
    ("op", "part"), [(Op.MULTI, GetDataPart("/")), (Op.MULTI_READ, DeletePart("/a", -1)), (Op.MULTI_READ, None)]
)
@simulated
async def test_reads_and_writes_do_not_mix(op, part):
    async with clients(BadServer(), 1) as (raw,):
        await raw.create("/a")
        reply = await raw.call(op, encode_multi_request([part]) if part else b"\0\0")
        assert reply.err == -5
        assert (await raw.get("/a")).err == 0


def transaction(*behind: CheckPart) -> bytes:
    create = CreatePart(Op.CREATE, "/a/b", b"", OPEN_ACL_UNSAFE, 0)
    return encode_multi_request([SetDataPart("/a", b"new", -1), create, *behind])


@simulated
async def test_a_transaction_that_is_refused_tells_nobody():
    async with clients(BadServer()) as (looks, does):
        await does.create("/a")
        await looks.add_watch("/a", PERSISTENT)
        refused = (await does.call(Op.MULTI, transaction(CheckPart("/a", 7)))).decoded(decode_multi_reply)
        assert refused == [ErrorResult(0), ErrorResult(0), ErrorResult(-103)]
        assert await looks.seen() == []
        assert (await does.get("/a")).decoded(decode_get_data_reply).data == b"data"
        assert (await does.call(Op.MULTI, transaction())).err == 0
        assert await looks.seen() == [(CHANGED, "/a"), (CHILDREN, "/a")]


@simulated
async def test_creates_with_and_without_a_stat():
    async with clients(BadServer(), 1) as (raw,):
        assert (await raw.create("/a", op=Op.CREATE)).decoded(decode_create_reply) == "/a"
        assert (await raw.create("/b", op=Op.CREATE2)).decoded(decode_create2_reply).stat.version == 0
        assert (await raw.get("/", op=Op.GET_CHILDREN)).decoded(decode_get_children_reply) == ["a", "b"]


@pytest.mark.parametrize("op", [Op.WHO_AM_I, Op.CHECK, 999])
@simulated
async def test_an_operation_that_is_not_known_costs_the_connection(op):
    server = BadServer(unknown_ops={Op.WHO_AM_I})
    async with clients(server, 1) as (raw,):
        assert (await raw.call(op)).err == -6
        with pytest.raises(asyncio.IncompleteReadError):
            await raw.reply()
        assert list(server.znodes.sessions) == [server.connections[0].session_id]


@simulated
async def test_not_known_overtakes_what_is_held():
    server = BadServer(unknown_ops={Op.WHO_AM_I})
    async with clients(server, 1) as (raw,):
        server.next(misbehaviour.hold)
        raw.writer.write(frame_request(1, Op.EXISTS, encode_get_data_request("/", False)))
        raw.writer.write(frame_request(2, Op.WHO_AM_I, b""))
        reply = await raw.reply()
        assert (reply.xid, reply.err) == (2, -6)


@simulated
async def test_reconfig_is_disabled_as_by_default():
    async with clients(BadServer(), 1) as (raw,):
        assert (await raw.call(Op.RECONFIG, encode_reconfig_request(None, None, "", -1))).err == -123
        assert await raw.seen() == []


@pytest.mark.parametrize("op", sorted(set(Op) - {Op.ERROR, Op.PING, Op.CHECK, Op.SASL, Op.WHO_AM_I, Op.AUTH}))
@simulated
async def test_a_body_that_can_not_be_read_is_an_error(op):
    async with clients(BadServer(), 1) as (raw,):
        expected = 0 if op == Op.CLOSE_SESSION else -5
        assert (await raw.call(op, b"\0\0")).err == expected


@simulated
async def test_credentials_that_can_not_be_read_cost_the_connection():
    async with clients(BadServer(), 1) as (raw,):
        with pytest.raises(asyncio.IncompleteReadError):
            await raw.call(Op.AUTH, b"\0\0")


# --- sessions -----------------------------------------------------------------------------------------------------


async def greeted(server: BadServer, request: ConnectRequest) -> ConnectResponse:
    raw, response = await Raw.connected(server, request)
    await raw.close()
    return response


@simulated
async def test_a_session_is_taken_up_again_with_its_password():
    async with BadServer(session_timeout_ms=7000) as server:
        first = await greeted(server, NEW_SESSION)
        assert first.timeout_ms == 7000
        again = NEW_SESSION._replace(session_id=first.session_id, password=first.password)
        assert await greeted(server, again) == first
        assert (await greeted(server, again._replace(password=b"wrong"))).timeout_ms == 0


@simulated
async def test_a_client_that_has_seen_more_is_turned_away():
    async with BadServer() as server:
        with pytest.raises(asyncio.IncompleteReadError):
            await greeted(server, NEW_SESSION._replace(last_zxid_seen=99))


@pytest.mark.parametrize("known", [False, True])
@simulated
async def test_thirty_six_bytes_are_a_session_too(known):
    async with BadServer() as server:
        first = await greeted(server, NEW_SESSION)
        request = NEW_SESSION._replace(session_id=first.session_id, password=first.password) if known else NEW_SESSION
        server.handshakes.append(misbehaviour.without_read_only_byte)
        response = await greeted(server, request)
        assert response.read_only is None
        assert (response.session_id == first.session_id) == known
        assert server.znodes.sessions[response.session_id] == response.password


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", frame(b""), frame(b"short")])
@pytest.mark.parametrize("greet", [False, True])
@simulated
async def test_what_can_not_be_read_ends_the_connection(data, greet):
    async with BadServer() as server:
        if greet:
            raw, _ = await Raw.connected(server)
        else:
            raw = Raw(*await asyncio.open_connection("127.0.0.1", server.port))
        raw.writer.write(data)
        with pytest.raises(asyncio.IncompleteReadError):
            await raw.payload()
        await raw.close()
        assert server.requests == []


# --- scripts ------------------------------------------------------------------------------------------------------


@simulated
async def test_scripts_go_by_number_then_by_operation():
    async with clients(server := BadServer(), 1) as (raw,):
        server.on(Op.EXISTS, misbehaviour.fail_with(-1), times=2)
        server.at(2, misbehaviour.fail_with(-2))
        server.next(misbehaviour.fail_with(-3))
        codes = [(await raw.get("/", op=op)).err for op in (Op.EXISTS, Op.EXISTS, Op.GET_DATA, *[Op.EXISTS] * 3)]
        assert codes == [-3, -2, 0, -1, -1, 0]
        assert server.paths(Op.GET_DATA) == ["/"]


@simulated
async def test_an_action_of_ones_own():
    def twice(connection: Connection, request: Received) -> None:
        connection.reply(request.xid, -101)
        answer(connection, request)

    async with clients(server := BadServer(), 1) as (raw,):
        server.next(twice)
        assert (await raw.get("/")).err == -101
        assert (await raw.reply()).err == 0


@simulated
async def test_what_is_held_is_released_in_any_order():
    async with clients(server := BadServer(), 1) as (raw,):
        server.next(misbehaviour.hold)
        for xid in (1, 2, 3):
            raw.writer.write(frame_request(xid, Op.SYNC, encode_get_all_children_number_request("/")))
        await server.wait_for_requests(3)
        server.connection.release([2, 0, 1])
        assert [(await raw.reply()).xid for _ in range(3)] == [3, 1, 2]


@simulated
async def test_connections_are_met_as_they_arrive():
    async with BadServer() as server:
        server.arrivals += [misbehaviour.drop_before, misbehaviour.garbage]
        first, second, third = [Raw(*await asyncio.open_connection("127.0.0.1", server.port)) for _ in range(3)]
        assert await first.reader.read() == b""
        assert (await second.reader.read(100)).startswith(b"HTTP/1.1")
        third.writer.write(frame(encode_connect_request(NEW_SESSION)))
        assert len(await third.payload()) == 37
        server.refusing = True
        fourth = Raw(*await asyncio.open_connection("127.0.0.1", server.port))
        assert await fourth.reader.read() == b""
        for raw in (first, second, third, fourth):
            await raw.close()


@simulated
async def test_what_happens_now():
    async with clients(server := BadServer(), 1) as (raw,):
        server.connection.notify(CHANGED, "/a", zxid=9)
        assert await raw.seen() == [(CHANGED, "/a")]
        assert raw.zxids == [9]
        server.connection.reset()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await raw.reply()


@simulated
async def test_the_version_is_told_to_who_asks():
    """And the connection that asks is none of the clients'."""
    async with clients(server := BadServer(version="3.8.4"), 1):
        server.znodes.create(0, "/a", b"", OPEN_ACL_UNSAFE, 0)
        first = server.connection
        status = await admin.srvr(server.address)
        assert (status.version.numbers, status.connections) == ((3, 8, 4), 2)
        assert (status.mode, status.node_count, status.zxid) == ("standalone", 2, server.znodes.zxid)
        assert server.words == ["srvr"]
        assert server.connections == [first]


@pytest.mark.parametrize("word", ["srvr", "ruok"])
@simulated
async def test_words_that_are_not_answered(word):
    async with BadServer(version=None if word == "srvr" else "3.9.5") as server:
        raw = Raw(*await asyncio.open_connection("127.0.0.1", server.port))
        raw.writer.write(word.encode())
        assert await raw.reader.read() == b""
        await raw.close()
        assert (server.words, server.connections) == ([word], [])


@simulated
async def test_whoever_waits_in_vain_is_told_what_came():
    async with clients(server := BadServer(), 1) as (raw,):
        await raw.get("/")
        await raw.call(999)
        with pytest.raises(BadServerTimeoutError, match=r"not in 3 s: .*1 connections, .*: GET_DATA, 999$"):
            await server.until(lambda: len(server.requests) == 3, timeout=3.0)


@simulated
async def test_an_error_of_the_condition_itself_comes_through():
    def fails() -> Iterable[object]:
        raise TimeoutError("mine")

    async with BadServer() as server:
        with pytest.raises(TimeoutError, match="mine") as raised:
            await server.until(fails)
        assert not isinstance(raised.value, BadServerTimeoutError)


@simulated
async def test_it_starts_again_where_it_was():
    server = BadServer()
    async with server:
        port = server.port
        raw, response = await Raw.connected(server)
        await raw.create("/a")
    await raw.close()
    async with server:
        assert server.port == port
        assert list(server.znodes.sessions) == [response.session_id]
        assert "/a" in server.znodes.nodes


@on_every_loop
async def test_servers_with_the_same_znodes_are_an_ensemble():
    znodes = Znodes()
    async with BadServer(znodes) as one, BadServer(znodes) as two, one.client() as writer, two.client() as reader:
        events: asyncio.Queue[object] = asyncio.Queue()
        await reader.exists("/a", watch=events.put_nowait)
        await writer.create("/a", b"1")
        assert (await events.get()).path == "/a"
        assert (await reader.get("/a")).data == b"1"
        assert znodes.applied == [("create", "/a")]


@on_every_loop
async def test_nothing_stays_behind():
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    async with BadServer() as server:
        server.arrivals.append(misbehaviour.go_silent)
        quiet = Raw(*await asyncio.open_connection("127.0.0.1", server.port))
        client = Client(server.address)
        server.handshake = accept
        await client.start()
        await client.create("/a")
        await client.close()
    await quiet.close()
    await until(lambda: open_sockets() == sockets)
    assert asyncio.all_tasks() == tasks
