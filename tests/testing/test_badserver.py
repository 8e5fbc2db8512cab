"""What a bad server adds to the dev server, driven with raw frames: scripts, and what actions can do. What the dev
server does by itself is in tests/devserver; what a client makes of misbehaviour in tests/attacks/test_bad_server.py."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

import pytest

from engine.links import open_sockets, until
from everlatch import Client, InvalidArgumentError, NodeExistsError, NoNodeError, NotEmptyError, admin
from everlatch.testing import BadServer, BadServerTimeoutError, Connection, Received, Reply, Znodes, misbehaviour
from everlatch.testing.answers import accept, answer, apply
from everlatch.types import OPEN_ACL_UNSAFE
from everlatch.wire.auth_records import decode_sasl_reply, encode_auth_request, encode_sasl_request
from everlatch.wire.codes import XID_AUTH, XID_NOTIFICATION, XID_PING, AddWatchMode, CreateMode, Op
from everlatch.wire.digest_md5 import is_proof, respond
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, ConnectResponse, decode_connect_response, encode_connect_request
from everlatch.wire.headers import REPLY_HEADER, frame_request
from everlatch.wire.multi import CheckPart, CreatePart, DeletePart, SetDataPart, encode_multi_request
from everlatch.wire.records import (
    encode_create_request,
    encode_delete_request,
    encode_get_data_request,
    encode_set_data_request,
    encode_sync_request,
)
from everlatch.wire.watch_records import decode_watcher_event, encode_add_watch_request
from skipping_loop import on_every_loop, simulated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CREATED, DELETED, CHANGED = 1, 2, 3
NEW_SESSION = ConnectRequest(0, 0, 10_000, 0, bytes(16), False)


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

    async def create(self, path: str, flags: int = CreateMode.PERSISTENT) -> Reply:
        return await self.call(Op.CREATE2, encode_create_request(path, b"data", OPEN_ACL_UNSAFE, flags))

    async def get(self, path: str, *, op: int = Op.GET_DATA) -> Reply:
        return await self.call(op, encode_get_data_request(path, False))

    async def set(self, path: str) -> Reply:
        return await self.call(Op.SET_DATA, encode_set_data_request(path, b"more", -1))

    async def delete(self, path: str) -> Reply:
        return await self.call(Op.DELETE, encode_delete_request(path, -1))

    async def add_watch(self, path: str) -> Reply:
        return await self.call(Op.ADD_WATCH, encode_add_watch_request(path, AddWatchMode.PERSISTENT_RECURSIVE))


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


# --- a dev server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.8", "3.9"])
@simulated
async def test_it_is_a_dev_server_of_the_version_that_is_asked_for(version):
    """Watches, and the order of events and replies, on the connection that does it and on another one."""
    server = BadServer(version=version)
    async with clients(server) as (looks, does):
        await looks.add_watch("/a")
        await does.add_watch("/a")
        for change in (does.create("/a"), does.set("/a"), does.delete("/a")):
            assert (await change).err == 0
            zxid = server.znodes.zxid if version == "3.9" else -1
            assert does.events == await looks.seen()
            assert (does.zxids.pop(), looks.zxids.pop()) == (zxid, zxid)
            does.events.clear()


@simulated
async def test_options_belong_to_the_znodes():
    with pytest.raises(InvalidArgumentError, match="tick"):
        BadServer(Znodes(), tick=1.0)
    with pytest.raises(InvalidArgumentError, match=r"not '3\.4'"):
        BadServer(version="3.4")


@pytest.mark.parametrize("op", [Op.WHO_AM_I, Op.CHECK, 999])
@simulated
async def test_an_operation_that_is_not_known_costs_the_connection(op):
    server = BadServer(version="3.5" if op == Op.WHO_AM_I else "3.9")
    async with clients(server, 1) as (raw,):
        assert (await raw.call(op)).err == -6
        with pytest.raises(asyncio.IncompleteReadError):
            await raw.reply()
        assert server.znodes.session_ids == [server.connections[0].session_id]


@simulated
async def test_not_known_overtakes_what_is_held():
    server = BadServer()
    async with clients(server, 1) as (raw,):
        server.next(misbehaviour.hold)
        raw.writer.write(frame_request(1, Op.EXISTS, encode_get_data_request("/", False)))
        raw.writer.write(frame_request(2, 999, b""))
        reply = await raw.reply()
        assert (reply.xid, reply.err) == (2, -6)
        # The connection is as good as closed, but what was to be told first is.
        server.connection.release()
        assert (await raw.reply()).xid == 1
        with pytest.raises(asyncio.IncompleteReadError):
            await raw.reply()


@simulated
async def test_a_body_that_can_not_be_read_is_an_error():
    async with clients(BadServer(), 1) as (raw,):
        assert (await raw.call(Op.GET_DATA, b"\0\0")).err == -5
        assert (await raw.get("/")).err == 0


@simulated
async def test_credentials_that_can_not_be_read_cost_the_connection():
    async with clients(BadServer(), 1) as (raw,):
        with pytest.raises(asyncio.IncompleteReadError):
            await raw.call(Op.AUTH, b"\0\0")


@simulated
async def test_credentials_are_answered_without_a_zxid():
    async with clients(BadServer(), 1) as (raw,):
        raw.writer.write(frame_request(XID_AUTH, Op.AUTH, encode_auth_request("digest", b"bob:secret")))
        assert await raw.reply() == Reply(XID_AUTH, 0, 0)


@simulated
async def test_nothing_happens_by_itself():
    """Not in an hour of silence, though the session's timeout is ten seconds."""
    async with clients(server := BadServer(), 1) as (raw,):
        await raw.create("/e", CreateMode.EPHEMERAL)
        await asyncio.sleep(3000)
        assert (await raw.get("/e")).err == 0
        assert server.znodes.session_ids == [server.connection.session_id]


# --- znodes -------------------------------------------------------------------------------------------------------


@simulated
async def test_what_was_applied_is_noted_in_its_order():
    async with clients(server := BadServer(), 1) as (raw,):
        await raw.create("/a")
        assert (await raw.create("/a")).err == -110
        parts = [CreatePart(Op.CREATE, "/a/e", b"", OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL), SetDataPart("/a", b"2", -1)]
        await raw.call(Op.MULTI, encode_multi_request([*parts, CheckPart("/a", 7)]))
        await raw.call(Op.MULTI, encode_multi_request([*parts, CheckPart("/a", 1)]))
        await raw.call(Op.MULTI, encode_multi_request([DeletePart("/none", -1)]))
        await raw.call(Op.CLOSE_SESSION)
        assert server.znodes.applied == [("create", "/a"), ("create", "/a/e"), ("set", "/a"), ("delete", "/a/e")]


@simulated
async def test_tests_may_change_nodes_and_watchers_hear_of_it():
    async with clients(server := BadServer(), 1) as (raw,):
        await raw.add_watch("/a")
        znodes = server.znodes
        znodes.create("/a", b"1")
        znodes.create("/a/b")
        znodes.set("/a", b"2")
        with pytest.raises(NodeExistsError):
            znodes.create("/a")
        with pytest.raises(NoNodeError):
            znodes.set("/none", b"")
        with pytest.raises(NotEmptyError):
            znodes.delete("/a")
        assert (await raw.get("/a")).zxid == znodes.zxid == 2 + 6
        znodes.delete("/a/b")
        assert await raw.seen() == [(CREATED, "/a"), (CREATED, "/a/b"), (CHANGED, "/a"), (DELETED, "/a/b")]
        assert znodes.nodes["/a"].data == b"2"


@simulated
async def test_tests_may_end_sessions():
    async with clients(server := BadServer()) as (raw, other):
        znodes = server.znodes
        await raw.create("/e", CreateMode.EPHEMERAL)
        await other.add_watch("/e")
        unseen, _ = znodes.new_session()
        first, second = (connection.session_id for connection in server.connections)
        assert znodes.session_ids == [first, second, unseen]
        zxid = znodes.zxid
        znodes.end_session(first)
        with pytest.raises(asyncio.IncompleteReadError):
            await raw.reply()
        assert await other.seen() == [(DELETED, "/e")]
        znodes.end_session(unseen)
        znodes.end_session(unseen)
        assert (znodes.session_ids, znodes.zxid) == ([second], zxid + 2)


# --- sessions -----------------------------------------------------------------------------------------------------


async def greeted(server: BadServer, request: ConnectRequest) -> ConnectResponse:
    raw, response = await Raw.connected(server, request)
    await raw.close()
    return response


@simulated
async def test_a_session_timeout_is_granted_as_it_is_asked_for():
    async with BadServer() as server:
        for timeout_ms in (1, 2**31 - 1):
            assert (await greeted(server, NEW_SESSION._replace(timeout_ms=timeout_ms))).timeout_ms == timeout_ms


@simulated
async def test_a_session_is_taken_up_again_with_its_password():
    async with BadServer(max_session_timeout=7) as server:
        first = await greeted(server, NEW_SESSION)
        assert first.timeout_ms == 7000
        again = NEW_SESSION._replace(session_id=first.session_id, password=first.password)
        assert await greeted(server, again) == first
        assert (await greeted(server, again._replace(password=b"wrong"))).timeout_ms == 0
        assert server.znodes.session_ids == [first.session_id]


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
        assert server.znodes.session_ids[-1] == response.session_id


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
async def test_an_action_on_the_way_in():
    def elsewhere(connection: Connection, request: Received) -> None:
        answer(connection, request._replace(body=request.body.replace(b"/a", b"/b")))

    async with clients(server := BadServer(), 1) as (raw,):
        server.next(elsewhere)
        assert (await raw.create("/a")).err == 0
        assert server.paths(Op.CREATE2) == ["/a"]
        assert server.znodes.applied == [("create", "/b")]


@simulated
async def test_an_action_on_the_way_out():
    def be_slow_and_lie(connection: Connection, request: Received) -> None:
        for reply in apply(connection, request):
            asyncio.get_running_loop().call_later(5, connection.send, reply._replace(err=-101, body=b""))

    async with clients(server := BadServer()) as (looks, does):
        await looks.add_watch("/a")
        await does.add_watch("/a")
        server.next(be_slow_and_lie)
        began = asyncio.get_running_loop().time()
        told = asyncio.create_task(does.create("/a"))
        await server.wait_for_requests(3)
        assert await looks.seen() == [(CREATED, "/a")]
        assert asyncio.get_running_loop().time() - began < 1
        assert (await told).err == -101
        assert asyncio.get_running_loop().time() - began == pytest.approx(5, abs=0.1)
        assert does.events == [(CREATED, "/a")]


@simulated
async def test_an_answer_that_comes_late_ends_what_it_has_to_end():
    def later(connection: Connection, request: Received) -> None:
        asyncio.get_running_loop().call_later(5, answer, connection, request)

    async with clients(server := BadServer()) as (raw, gone):
        server.next(later, later)
        assert (await raw.call(Op.CLOSE_SESSION)).err == 0
        with pytest.raises(asyncio.IncompleteReadError):
            await raw.reply()
        gone.writer.write(frame_request(1, Op.CLOSE_SESSION, b""))
        await server.wait_for_requests(2)
        await gone.close()
        await server.until(lambda: not server.open_connections)
        session_ids = server.znodes.session_ids
        await asyncio.sleep(6)
        assert server.znodes.session_ids == session_ids == [server.connections[1].session_id]


LIES: dict[Callable[..., Any], tuple[Callable[[Reply], object], object]] = {
    misbehaviour.answer_with_unknown_xid: (lambda reply: reply.xid, 1_000_002),
    misbehaviour.answer_with_zxid_gone_back: (lambda reply: reply.zxid, 1),
    misbehaviour.answer_with_truncated_body: (lambda reply: len(reply.body), 4 + 4 + 68 - 1),
    misbehaviour.answer_with_trailing_bytes: (lambda reply: reply.body[-4:], b"more"),
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
@simulated
async def test_lies_are_the_dev_servers_answer_but_for_one_thing(lie):
    part, expected = LIES[lie]
    async with clients(server := BadServer(), 1) as (raw,):
        await raw.create("/a")
        server.next(lie)
        raw.writer.write(frame_request(2, Op.GET_DATA, encode_get_data_request("/a", False)))
        reply = await raw.reply()
        assert part(reply) == expected
        assert reply.body.startswith(b"\0\0\0\4data")
        truth = await raw.get("/a")
        assert sum(mine != its for mine, its in zip(reply[1:], truth[1:], strict=True)) == (reply.xid == 2)


@simulated
async def test_an_answer_that_comes_twice():
    async with clients(server := BadServer(), 1) as (raw,):
        server.next(misbehaviour.answer_twice)
        first, second, third = await raw.get("/"), await raw.reply(), await raw.get("/")
        assert first == second == third._replace(xid=1)


@simulated
async def test_what_is_said_to_tokens_of_sasl():
    async with clients(server := BadServer(sasl={"bob": "secret"}), 1) as (raw,):

        async def say(token: bytes, action: Callable[[Connection, Received], None]) -> tuple[int, int, bytes | None]:
            server.on(Op.SASL, action)
            reply = await raw.call(Op.SASL, encode_sasl_request(token))
            return reply.zxid, reply.err, decode_sasl_reply(reply.body, 0, len(reply.body))

        assert await say(b"", misbehaviour.no_sasl) == (0, 0, None)
        assert await say(b"x", misbehaviour.answer_with_token(b"y")) == (0, 0, b"y")
        challenges = [(await say(b"x", misbehaviour.challenge_again))[2] for _ in range(3)]
        assert len(set(challenges)) == 3
        *_, asked = await say(b"", answer)
        assert asked is not None
        response, proof = respond(asked, "bob", "secret", "cnonce")
        *_, wrong = await say(response, misbehaviour.answer_with_wrong_proof)
        assert wrong is not None
        assert (wrong[:-1], is_proof(wrong, proof)) == (b"rspauth=" + proof[:-1], False)
        assert (await say(b"x", misbehaviour.fail_with(-124)))[1:] == (-124, None)
        assert await raw.reader.read() == b""


@simulated
async def test_the_end_of_a_session_waits_for_its_answer():
    async with clients(server := BadServer(), 1) as (raw,):
        server.next(misbehaviour.hold)
        raw.writer.write(frame_request(1, Op.CLOSE_SESSION, b""))
        await server.wait_for_requests(1)
        assert server.znodes.session_ids == []
        assert server.connection.is_open
        server.connection.release()
        assert (await raw.reply()).xid == 1
        with pytest.raises(asyncio.IncompleteReadError):
            await raw.reply()


@simulated
async def test_the_end_of_a_session_is_that_of_the_connection_whatever_the_answer():
    async with clients(server := BadServer(), 1) as (raw,):
        server.next(misbehaviour.answer_with_trailing_bytes)
        assert (await raw.call(Op.CLOSE_SESSION)).body == b"more"
        with pytest.raises(asyncio.IncompleteReadError):
            await raw.reply()


@pytest.mark.parametrize("end", [misbehaviour.go_silent, misbehaviour.drop_before, misbehaviour.reset])
@simulated
async def test_what_came_behind_the_end_does_not_count(end):
    async with clients(server := BadServer(), 1) as (raw,):
        server.next(end)
        request = frame_request(1, Op.SYNC, encode_sync_request("/"))
        raw.writer.write(request + request)
        await server.wait_for_requests(1)
        await asyncio.sleep(1)
        assert len(server.requests) == 1


@simulated
async def test_who_is_silent_is_silent_to_the_end():
    def do_it_silently(connection: Connection, request: Received) -> None:
        connection.silent = True
        apply(connection, request)

    async with clients(server := BadServer(), 1) as (raw,):
        server.next(do_it_silently)
        raw.writer.write(frame_request(1, Op.CLOSE_SESSION, b""))
        await server.wait_for_requests(1)
        assert server.znodes.session_ids == []
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.reply(), 60)
        assert server.connection.is_open


@simulated
async def test_what_is_held_is_released_in_any_order():
    async with clients(server := BadServer(), 1) as (raw,):
        server.next(misbehaviour.hold)
        for xid in (1, 2, 3):
            raw.writer.write(frame_request(xid, Op.SYNC, encode_sync_request("/")))
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
    async with clients(server := BadServer(version="3.8"), 1):
        server.znodes.create("/a")
        first = server.connection
        status = await admin.srvr(server.address)
        assert (status.version.numbers[:2], status.connections) == ((3, 8), 2)
        assert (status.mode, status.zxid) == ("standalone", server.znodes.zxid)
        assert server.words == ["srvr"]
        assert server.connections == [first]


@simulated
async def test_words_that_are_not_answered():
    async with BadServer() as server:
        server.word = misbehaviour.drop_before
        raw = Raw(*await asyncio.open_connection("127.0.0.1", server.port))
        raw.writer.write(b"srvr")
        assert await raw.reader.read() == b""
        await raw.close()
        assert (server.words, server.connections) == (["srvr"], [])


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
        assert server.znodes.session_ids == [response.session_id]
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
    assert server.znodes._links == server.znodes.connections == {}
    await quiet.close()
    await until(lambda: open_sockets() == sockets)
    assert asyncio.all_tasks() == tasks
