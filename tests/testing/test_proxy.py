"""The proxy between peers that are looked at byte by byte, and before scripted and real servers."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from engine.links import closed_port, deaf_port, open_sockets, until
from everlatch import (
    Client,
    EverlatchError,
    InvalidArgumentError,
    NoNodeError,
    NotStartedError,
    OutcomeUnknownError,
)
from everlatch.testing import HANDSHAKE, Ensemble, Held, Op, Proxy, ProxyTimeoutError, RequestFault
from everlatch.wire.framing import frame
from everlatch.wire.headers import frame_request
from scripted_server import ScriptedServer, drop_before, send
from skipping_loop import on_every_loop, on_real_loops
from testing.peers import HELLO, Peer, Wire, get, reply, set_data

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from everlatch.testing import ProxyConnection


# --- nothing wrong ------------------------------------------------------------------------------------------------


@on_every_loop
async def test_clients_work_through_it() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address + "/app") as client:
        async with server.client() as other:
            await other.create("/app")
        events: asyncio.Queue[object] = asyncio.Queue()
        await client.create("/a", b"1")
        assert (await client.get("/a", watch=events.put_nowait)).data == b"1"
        await client.set("/a", b"2")
        await events.get()
        (connection,) = proxy.connections
        assert connection.session_id == client.session_id
        assert not connection.opaque
        greeting = proxy.requests[0]
        assert (greeting.connection, greeting.xid, greeting.op, greeting.path) == (connection, 0, HANDSHAKE, "")
        assert [(request.op, request.path) for request in proxy.seen()] == [
            (Op.CREATE2, "/app/a"),
            (Op.GET_DATA, "/app/a"),
            (Op.SET_DATA, "/app/a"),
        ]
        xids = [request.xid for request in proxy.seen()]
        assert xids == sorted(set(xids))
    assert proxy.seen(Op.CLOSE_SESSION)[0].path == ""


@on_every_loop
async def test_requests_are_remembered_with_their_size_and_the_servers_answer() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        await client.create("/a", bytes(1000))
        with pytest.raises(NoNodeError):
            await client.get("/missing")
        proxy.lose_reply(Op.SET_DATA)
        with pytest.raises(OutcomeUnknownError):
            await client.set("/a", b"1")
        proxy.lose_request(Op.DELETE)
        await client.delete("/a")  # the node shows that it was not executed, and the client sends it again
        settling = {Op.MULTI, Op.EXISTS}
        greeting, *seen = (request for request in proxy.requests if request.op not in {Op.PING, *settling})
        create, get_missing, lost_reply, _, lost_request = seen[:5]
        assert [request.op for request in seen[:5]] == [Op.CREATE2, Op.GET_DATA, Op.SET_DATA, HANDSHAKE, Op.DELETE]
        assert [request.code for request in (greeting, create, get_missing, lost_reply)] == [0, 0, -101, 0]
        assert lost_reply.answered, "the server has executed it, and only the client does not know"
        assert (lost_request.answered, lost_request.code) == (False, None)
        assert create.size > 1000 > get_missing.size == len(get(1, "/missing"))


@on_every_loop
async def test_a_session_that_is_refused_is_an_answer_too() -> None:
    async with Wire() as wire:
        client, server = await wire.connect()
        client.send(HELLO)
        await server.until_received(HELLO)
        server.send(frame(struct.pack(">iiqi16s?", 0, 0, 0, 16, bytes(16), False)))
        (greeting,) = await wire.proxy.wait_for(HANDSHAKE)
        assert not greeting.answered or greeting.code == -112
        await wire.proxy.until(lambda: greeting.answered)
        assert greeting.code == -112


@on_every_loop
async def test_of_so_many_requests_only_the_last_are_remembered() -> None:
    async with Wire(max_requests=10) as wire:
        client, _ = await wire.greet()
        waiting = asyncio.create_task(wire.proxy.wait_for(Op.GET_DATA, count=100))
        for xid in range(1, 101):
            client.send(get(xid))
            await wire.proxy.until(lambda xid=xid: wire.proxy.requests[-1].xid == xid)
            assert len(wire.proxy.requests) <= 10
        assert [request.xid for request in await waiting] == list(range(1, 101)), "who waits sees all of them"
        assert [request.xid for request in wire.proxy.requests][-5:] == [96, 97, 98, 99, 100]
        assert len(wire.proxy.seen(Op.GET_DATA)) == len(await wire.proxy.wait_for(Op.GET_DATA, count=5))
    with pytest.raises(InvalidArgumentError, match="max_requests"):
        Proxy("127.0.0.1:1", max_requests=0)


@on_every_loop
async def test_frames_can_be_altered() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        changes = {get(1): get(7), get(2): b"", reply(7): reply(1, b"!"), reply(8): b"\0garbage"}
        wire.proxy.alter = lambda direction, whole: changes.get(whole, whole)
        client.send(get(1), get(2), get(3))
        await server.until_received(get(7), get(3))
        assert [request.xid for request in wire.proxy.seen()] == [1, 2, 3], "they are what came"
        server.send(reply(7), reply(3), reply(8))
        await client.until_received(reply(1, b"!"), reply(3), b"\0garbage")
        wire.proxy.alter = None
        server.send(reply(8))
        await client.until(lambda: client.received.endswith(reply(8)))


@on_every_loop
async def test_bytes_are_passed_on_unchanged_however_they_are_cut() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        requests = [get(1), set_data(2, data=os.urandom(300_000)), get(3)]
        stream = b"".join(requests)
        client.send(stream[:2], stream[2:9])
        await wire.proxy.until(lambda: wire.proxy.connections)
        for start in range(9, len(stream), 100_000):
            client.send(stream[start : start + 100_000])
        await server.until_received(stream)
        server.send(reply(1), reply(2), reply(3))
        await client.until_received(reply(1), reply(2), reply(3))
        assert [request.xid for request in wire.proxy.seen()] == [1, 2, 3]


@on_every_loop
@pytest.mark.parametrize("first", ["client", "server"])
async def test_one_side_may_end_before_the_other(first: str) -> None:
    async with Wire() as wire:
        ends = await wire.greet()
        ending, other = ends if first == "client" else ends[::-1]
        ending.transport.write_eof()
        assert await other.until_ended() == "fin"
        other.send(reply(1), reply(2))
        await ending.until_received(reply(1), reply(2))
        other.transport.close()
        assert await ending.until_ended() == "fin"
        await wire.proxy.until(lambda: not wire.proxy.connections)


@on_every_loop
@pytest.mark.parametrize("first", ["client", "server"])
async def test_a_reset_is_a_reset_for_the_other_side(first: str) -> None:
    async with Wire() as wire:
        ends = await wire.greet()
        ending, other = ends if first == "client" else ends[::-1]
        _reset(ending)
        assert await other.until_ended() == "rst"
        await wire.proxy.until(lambda: not wire.proxy.connections)


def _reset(peer: Peer) -> None:
    linger = struct.pack("ii", 1, 0)
    peer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    peer.transport.abort()


@on_every_loop
async def test_a_server_that_is_down_resets_clients() -> None:
    async with Proxy(f"127.0.0.1:{closed_port()}") as proxy:
        seen: list[ProxyConnection] = []
        host, port = proxy.address.split(":")
        _, peer = await asyncio.get_running_loop().create_connection(Peer, host, int(port))
        await proxy.until(lambda: seen or seen.extend(proxy.connections) or seen)
        assert await peer.until_ended() == "rst"
        await proxy.until(lambda: not proxy.connections)
        assert isinstance(seen[0].failure, ConnectionRefusedError)
        assert "closed" in repr(seen[0])


# --- connections --------------------------------------------------------------------------------------------------


@on_every_loop
@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_cut_ends_all_connections_on_both_sides(how: Any) -> None:
    async with Wire() as wire:
        peers = [*await wire.greet(), *await wire.greet()]
        assert len(wire.proxy.cut(how)) == 2
        assert [await peer.until_ended() for peer in peers] == [how] * 4
        await wire.proxy.until(lambda: not wire.proxy.connections)
        await wire.greet()  # welcome


@on_every_loop
async def test_cut_of_one_connection_leaves_the_others() -> None:
    async with Wire() as wire:
        first, _ = await wire.greet()
        second, second_server = await wire.greet()
        wire.proxy.connections[0].cut("fin")
        assert await first.until_ended() == "fin"
        second.send(get(1))
        await second_server.until_received(get(1))
        assert [connection.number for connection in wire.proxy.connections] == [2]


@on_every_loop
async def test_what_was_passed_on_before_a_cut_arrives() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        client.send(get(1))
        await server.until_received(get(1))
        fault = wire.proxy.lose_request(Op.SET_DATA, cut="fin")
        client.send(get(2), set_data(3), get(4))
        await fault.happened()
        await server.until_ended()
        assert bytes(server.received) == get(1) + get(2)


async def _fate(wire: Wire) -> str:
    """How a new connection ends; a reset may be there before it is made."""
    try:
        return await (await wire.dial()).until_ended()
    except ConnectionResetError:
        return "rst"


@on_every_loop
@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_refused_connections_end_at_once(how: Any) -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        refused = wire.proxy.refuse(how)
        for number in (1, 2):
            assert await _fate(wire) == how
            await refused.happened(number)
        client.send(get(1))  # present ones stay
        await server.until_received(get(1))
        wire.proxy.accept()
        await wire.greet()
        assert refused.times == 2


# --- black holes and delays ---------------------------------------------------------------------------------------


@on_every_loop
@pytest.mark.parametrize("direction", ["to_server", "to_client", "both"])
async def test_a_black_hole_holds_one_direction_or_both(direction: Any) -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        hole = wire.proxy.black_hole(direction)
        client.send(get(1))
        await wire.proxy.wait_for(Op.GET_DATA)  # it is seen, wherever it goes
        server.send(reply(1))
        if direction == "to_server":
            await client.until_received(reply(1))
        elif direction == "to_client":
            await server.until_received(get(1))
        await hole.happened(2 if direction == "both" else 1)
        assert bytes(server.received) == (get(1) if direction == "to_client" else b"")
        assert bytes(client.received) == (reply(1) if direction == "to_server" else b"")
        wire.proxy.heal()
        await server.until_received(get(1))
        await client.until_received(reply(1))
        assert not client.ended
        assert not server.ended


@on_every_loop
async def test_a_black_hole_holds_ends_too() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        hole = wire.proxy.black_hole()
        client.send(get(1))
        await wire.proxy.wait_for(Op.GET_DATA)
        _reset(client)
        await hole.happened(2)
        assert not server.received
        assert not server.ended
        wire.proxy.heal()
        assert await server.until_ended() == "rst"
        assert bytes(server.received) in (b"", get(1))  # a reset may take with it what wasn't read


@on_every_loop
async def test_a_connection_made_in_a_black_hole_gets_its_answer_when_it_heals() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy:
        hole = proxy.black_hole()
        client = Client(proxy.address, session_timeout=100)
        starting = asyncio.ensure_future(client.start())
        await hole.happened()
        await proxy.wait_for(HANDSHAKE)
        assert server.greetings == []
        proxy.heal()
        await starting
        await client.close()


@on_every_loop
async def test_a_hole_takes_no_more_than_tcp_would() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        wire.proxy.black_hole("to_server")
        requests = [set_data(xid, data=bytes(100_000)) for xid in range(300)]
        client.transport.set_write_buffer_limits(high=0)
        client.send(*requests)
        await wire.proxy.wait_for(Op.SET_DATA, count=11)  # a megabyte
        assert len(wire.proxy.seen()) < 300
        assert client.transport.get_write_buffer_size() > 0
        wire.proxy.heal()
        await server.until_received(*requests)


@on_real_loops
async def test_a_reader_that_is_slow_slows_the_sender() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        client.transport.pause_reading()
        replies = [reply(xid, bytes(100_000)) for xid in range(300)]
        server.send(*replies)
        client.send(get(1))
        await server.until_received(get(1))
        assert server.transport.get_write_buffer_size() > 0
        client.transport.resume_reading()
        await client.until_received(*replies)


@on_every_loop
async def test_cut_ends_connections_in_a_black_hole() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        hole = wire.proxy.black_hole()
        client.send(get(1))
        await hole.happened()
        wire.proxy.cut("fin")
        assert await client.until_ended() == "fin"
        assert await server.until_ended() == "fin"
        assert not server.received


@on_every_loop
async def test_a_delay_is_kept_in_order_and_in_its_direction() -> None:
    loop = asyncio.get_running_loop()
    async with Wire() as wire:
        client, server = await wire.greet()
        slow = wire.proxy.delay(0.05, "to_server")
        started = loop.time()
        client.send(get(1))
        await slow.happened()
        wire.proxy.delay(0)  # what is on its way stays so, and is not overtaken
        client.send(get(2))
        await server.until_received(get(1), get(2))
        assert loop.time() - started >= 0.045
        assert slow.times == 1
        wire.proxy.delay(1000, "to_server")
        server.send(reply(1))
        await client.until_received(reply(1))


@on_every_loop
async def test_a_delay_holds_ends_too() -> None:
    loop = asyncio.get_running_loop()
    async with Wire() as wire:
        client, server = await wire.greet()
        wire.proxy.delay(0.05)
        started = loop.time()
        client.transport.close()
        assert await server.until_ended() == "fin"
        assert loop.time() - started >= 0.045


# --- chosen requests ----------------------------------------------------------------------------------------------


@on_every_loop
@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_lost_reply_is_that_of_an_executed_request(how: Any) -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        fault = proxy.lose_reply(Op.CREATE2, path="/b", cut=how)
        await client.create("/a")
        with pytest.raises(OutcomeUnknownError):
            await client.create("/b")
        await fault.happened()
        assert server.znodes.applied == [("create", "/a"), ("create", "/b")]
        assert (fault.times, fault.seen) == (1, 1)
        await client.set("/b", b"1")  # and the client is back
        await proxy.wait_for(HANDSHAKE, count=2)


@on_every_loop
@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_lost_request_is_not_executed(how: Any) -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        fault = proxy.lose_request(Op.CREATE2, path="/a", cut=how)
        await client.create("/a")  # the client finds that it was not executed, and sends it again
        await fault.happened()
        assert server.paths(Op.CREATE2) == ["/a"]
        assert [(request.path, request.answered) for request in proxy.seen(Op.CREATE2)] == [("/a", False), ("/a", True)]


@on_every_loop
@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_replies_before_the_lost_one_arrive_and_none_behind_it(how: Any) -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        fault = wire.proxy.lose_reply(Op.SET_DATA, cut=how)
        client.send(get(1), set_data(2), get(3))
        await server.until_received(get(1), set_data(2), get(3))
        server.send(reply(1), reply(2), reply(3))
        await fault.happened()
        assert await client.until_ended() == how
        assert bytes(client.received) == reply(1)
        assert await server.until_ended() == how


@on_every_loop
async def test_replies_are_matched_by_xid() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        fault = wire.proxy.lose_reply(Op.SET_DATA)
        ping = frame_request(-2, Op.PING, b"")
        event = reply(-1, b"an event")
        client.send(set_data(1), ping, ping)
        await server.until_received(set_data(1), ping, ping)
        server.send(event, reply(-2), reply(77))
        await client.until_received(event, reply(-2), reply(77))
        assert fault.times == 0
        server.send(reply(1))
        assert await client.until_ended() == "rst"


@on_every_loop
async def test_requests_are_chosen_by_number() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        third = proxy.lose_reply(nth=3)
        await client.create("/a")
        await client.get("/a")
        with pytest.raises(OutcomeUnknownError):
            await client.set("/a", b"")
        assert third.seen == 3
        await client.set("/a", b"")
        assert third.times == 1


@on_every_loop
@pytest.mark.parametrize(("nth", "struck"), [(None, [3, 6, 9]), (2, [2, 5, 8])])
async def test_faults_are_repeated(nth: int | None, struck: list[int]) -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        await client.create("/a")
        fault = proxy.lose_reply(Op.SET_DATA, nth=nth, every=3)
        lost = []
        for number in range(1, 10):
            try:
                await client.set("/a", b"")
            except OutcomeUnknownError:
                lost.append(number)
        assert lost == struck
        await fault.happened(3)
        fault.cancel()
        for _ in range(3):
            await client.set("/a", b"")


@on_every_loop
async def test_requests_are_chosen_by_path_and_operation() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        fault = proxy.hold_reply((Op.CREATE, Op.CREATE2), path=re.compile("/lock-.*"))
        transaction = proxy.hold_reply(Op.MULTI, path="/t")
        fault.release()
        transaction.release()
        await client.create("/a")
        await client.create("/lock-1")
        async with client.transaction() as changes:
            changes.create("/t", b"")
            changes.create("/u", b"")
        assert (fault.seen, fault.times) == (1, 1)
        assert (transaction.seen, transaction.times) == (1, 1)
        assert [request.path for request in proxy.seen(path=re.compile("/[tu]"))] == ["/t"]


@on_every_loop
async def test_the_answer_to_a_handshake_is_lost() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy:
        fault = proxy.lose_reply(HANDSHAKE)
        async with Client(proxy.address, start_timeout=100) as client:
            await fault.happened()
            assert len(server.znodes.session_ids) == 2  # one that nobody knows
            assert client.generation == 1


@on_every_loop
async def test_two_faults_for_one_request() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        await client.create("/a")
        older, newer = proxy.lose_request(Op.SET_DATA), proxy.lose_reply(Op.SET_DATA)
        with pytest.raises(OutcomeUnknownError):  # lost unexecuted it is sent again, and executed loses its reply
            await client.set("/a", b"")
        await older.happened()
        await newer.happened()
        assert len(proxy.seen(Op.SET_DATA)) == 2
        await client.set("/a", b"")
        assert len(server.paths(Op.SET_DATA)) == 2


@on_every_loop
async def test_a_fault_whose_connection_ends_before_waits_for_the_next_request() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        await client.create("/a")
        fault = proxy.lose_reply(Op.SET_DATA)
        server.on(Op.SET_DATA, drop_before)
        with pytest.raises(OutcomeUnknownError):  # the first time it is not executed, and is sent again
            await client.set("/a", b"")
        await fault.happened()
        assert len(server.paths(Op.SET_DATA)) == 2
        await client.set("/a", b"")
        assert server.znodes.applied.count(("set", "/a")) == 2


@on_every_loop
async def test_a_cancelled_fault_does_nothing_more() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        early, late = wire.proxy.lose_reply(Op.SET_DATA), wire.proxy.lose_reply(Op.GET_DATA)
        early.cancel()
        client.send(set_data(1), get(2))
        await server.until_received(set_data(1), get(2))
        late.cancel()
        server.send(reply(1), reply(2))
        await client.until_received(reply(1), reply(2))
        assert (early.seen, early.times, late.seen, late.times) == (0, 0, 1, 0)


@on_every_loop
async def test_a_held_reply_and_all_behind_it_wait() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        await client.create("/a", b"1")
        held = proxy.hold_reply(Op.GET_DATA)
        old = client.get("/a")
        await held.reached()
        await client_of_its_own(server)
        later = asyncio.ensure_future(client.exists("/a"))
        await proxy.wait_for(Op.EXISTS)
        await server.wait_for_requests(len(server.requests))
        assert not later.done()
        held.release()
        held.release()
        assert (await old).data == b"1"  # true when it was given
        assert (await later) is not None


async def client_of_its_own(server: ScriptedServer) -> None:
    async with server.client() as other:
        await other.set("/a", b"2")


@on_every_loop
async def test_what_was_held_goes_in_one_write() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        first, second = wire.proxy.hold_reply(), wire.proxy.hold_reply(nth=2)
        client.send(get(1), get(2), get(3))
        await server.until_received(get(1), get(2), get(3))
        server.send(reply(1))
        await first.reached()
        server.send(reply(2))
        await second.reached()
        second.release()
        server.send(reply(3))
        await first.reached(frames=3)
        assert (first.frames, second.frames) == (3, 1), "the second is released, and stands behind the first"
        assert not client.received
        first.release()
        await client.until_received(reply(1), reply(2), reply(3))
        assert client.reads == 1


@on_every_loop
async def test_a_reply_released_before_it_came_is_not_held() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        held = wire.proxy.hold_reply(Op.GET_DATA)
        held.release()
        client.send(get(1))
        await server.until_received(get(1))
        server.send(reply(1))
        await client.until_received(reply(1))
        await held.reached()


@on_every_loop
async def test_a_held_reply_whose_connection_is_cut_is_lost() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        held = proxy.hold_reply(Op.CREATE2)
        creating = client.create("/a")
        await held.reached()
        proxy.cut()
        with pytest.raises(OutcomeUnknownError):
            await creating
        held.release()
        assert (await client.get("/a")).data == b""


@on_every_loop
async def test_every_frame_is_told() -> None:
    async with Wire() as wire:
        told: list[str] = []
        wire.proxy.on_frame = told.append
        client, server = await wire.greet()
        client.send(get(1))
        await server.until_received(get(1))
        server.send(reply(1))
        await client.until_received(reply(1))
        assert told == ["to_server", "to_client"] * 2


# --- hostile bytes ------------------------------------------------------------------------------------------------

NO_FRAMES = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"ruok",
    b"\xff\xff\xff\xff and more",
    b"\x16\x03\x01\x02\x00\x01\x00",
    bytes(1000),
    frame(b"x") * 3,
    frame(b""),
    frame(bytes(7)) + frame(bytes(15)) + b"\x80\x00\x00\x00",
    HELLO + frame(struct.pack(">iii", 1, Op.GET_DATA, 1 << 30)),
    HELLO + frame(struct.pack(">iii", 1, Op.MULTI, -5)),
    HELLO + frame(struct.pack(">iii", -1, 12345, 0) + b"\xff" * 40),
    HELLO + b"\x00\x00\x00\x09half",
    HELLO + b"\x00\x00",
]


@on_every_loop
@pytest.mark.parametrize("data", NO_FRAMES)
@pytest.mark.parametrize("sender", ["client", "server"])
async def test_bytes_that_are_no_frames_are_passed_on(sender: str, data: bytes) -> None:
    async with Wire() as wire:
        ends = await wire.connect()
        sending, receiving = ends if sender == "client" else ends[::-1]
        wire.proxy.lose_reply((Op.GET_DATA, Op.MULTI, 12345), path="/nobody")
        for byte in data[:20]:
            sending.send(bytes([byte]))
        sending.send(data[20:])
        sending.transport.write_eof()
        assert await receiving.until_ended() == "fin"
        assert bytes(receiving.received) == data
        receiving.send(b"\xf0 also this comes back")
        await sending.until_received(b"\xf0 also this comes back")


@on_every_loop
async def test_an_opaque_connection_is_told_and_can_still_be_cut() -> None:
    async with Wire() as wire:
        client, server = await wire.connect()
        client.send(HELLO, get(1), b"\x80 from here on no frames", get(2))
        await server.until_received(HELLO, get(1), b"\x80 from here on no frames", get(2))
        client.send(get(3))
        await server.until_received(HELLO, get(1), b"\x80 from here on no frames", get(2), get(3))
        assert [request.xid for request in wire.proxy.seen()] == [1]
        (connection,) = wire.proxy.connections
        assert connection.opaque
        assert "opaque" in repr(connection)
        hole = wire.proxy.black_hole("to_client")
        server.send(b"\xffanswer")
        await hole.happened()
        assert not client.received
        wire.proxy.heal()
        await client.until_received(b"\xffanswer")
        wire.proxy.cut("fin")
        assert await client.until_ended() == "fin"


@on_every_loop
async def test_a_server_that_refuses_handshakes_grants_no_session() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy:
        server.handshakes += [send(frame(struct.pack(">iqi", 0, 0, -119))), send(frame(bytes(37)))]
        for _ in range(2):
            _, peer = await asyncio.get_running_loop().create_connection(Peer, *_host_port(proxy.address))
            peer.send(HELLO)
            await peer.until(lambda peer=peer: peer.received)  # type: ignore[misc]
            assert [connection.session_id for connection in proxy.connections] == [0]
            proxy.cut()
            await proxy.until(lambda: not proxy.connections)
            assert await peer.until_ended() == "rst"


def _host_port(address: str) -> tuple[str, int]:
    host, port = address.split(":")
    return host, int(port)


# --- waiting and looking ------------------------------------------------------------------------------------------


@on_every_loop
async def test_waiting_for_requests() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        waiting = asyncio.ensure_future(proxy.wait_for(Op.CREATE2, path="/b", count=2))
        await client.create("/a")
        await client.create("/b")
        assert not waiting.done()
        proxy.requests.clear()
        await client.delete("/b")
        for _ in range(2):
            await client.create("/b")
            await client.delete("/b")
        assert [request.path for request in await waiting] == ["/b", "/b"]
        assert len(await proxy.wait_for()) == 5
        with pytest.raises(ProxyTimeoutError, match=r"2 of 3 requests came \(CREATE2\); .*DELETE '/b' \(waited"):
            await proxy.wait_for(Op.CREATE2, count=3, timeout=0.01)
        with pytest.raises(ProxyTimeoutError, match=r"connections: .*session 0x"):
            await proxy.until(lambda: not proxy.connections, timeout=0.01)


@on_every_loop
async def test_a_fault_that_does_not_happen_says_so() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        lost, held = proxy.lose_reply(Op.SET_DATA, path="/a"), proxy.hold_reply((Op.SYNC, 4711), nth=2)
        await client.create("/a")
        await client.sync("/a")
        with pytest.raises(ProxyTimeoutError, match=r"lose_reply SET_DATA '/a': struck 0 times.*0 requests came"):
            await lost.happened(timeout=0.01)
        with pytest.raises(TimeoutError, match=r"hold_reply 4711 or SYNC: struck 0 times.*1 requests came that fit"):
            await held.reached(timeout=0.01)
        held.cancel()
        with pytest.raises(EverlatchError, match="cancelled"):
            await held.reached(timeout=0.01)
        with pytest.raises(ProxyTimeoutError, match="black_hole both: struck 0 times"):
            await proxy.black_hole().happened(timeout=0)
        proxy.heal()


def test_what_makes_no_sense_is_refused() -> None:
    proxy = Proxy("127.0.0.1:1")
    mistakes: list[Callable[[], object]] = [
        lambda: Proxy("a:1,b:2"),
        lambda: Proxy("a:1/chroot"),
        lambda: Proxy(""),
        lambda: proxy.cut("off"),  # type: ignore[arg-type]
        lambda: proxy.refuse("both"),  # type: ignore[arg-type]
        lambda: proxy.black_hole("up"),  # type: ignore[arg-type]
        lambda: proxy.delay(-1),
        lambda: proxy.delay(float("nan")),
        lambda: proxy.delay(1, "fin"),  # type: ignore[arg-type]
        lambda: proxy.lose_reply(nth=0),
        lambda: proxy.lose_request(every=0),
        lambda: proxy.hold_reply(nth=-1),
        lambda: proxy.lose_reply(cut="both"),  # type: ignore[arg-type]
    ]
    for mistake in mistakes:
        with pytest.raises(InvalidArgumentError):
            mistake()
    with pytest.raises(NotStartedError):
        assert proxy.address
    assert "not started" in repr(proxy)
    assert isinstance(proxy.hold_reply(), Held)
    assert isinstance(proxy.lose_reply(), RequestFault)


@on_every_loop
async def test_it_is_started_once_and_closed_often() -> None:
    proxy = Proxy("127.0.0.1:1")
    await proxy.close()
    async with proxy:
        assert proxy.address in repr(proxy)
        with pytest.raises(InvalidArgumentError):
            await proxy.start()
    await proxy.close()


# --- nothing is left behind ---------------------------------------------------------------------------------------


@on_every_loop
async def test_it_leaves_no_task_and_no_socket() -> None:
    async with ScriptedServer() as server:
        before = open_sockets()
        for trouble in (_leave, _hole, _slow, _hold, _cut_slowly, _storm):
            async with Proxy(server.address) as proxy:
                peers = await trouble(proxy)
            assert _tasks_of_ours() == []
            for peer in peers:
                await peer.until_ended()
                peer.transport.abort()
                await peer.until(lambda peer=peer: peer.gone)  # type: ignore[misc]
            await server.until(lambda: not server.open_connections)
        # What tests before this one had left may go meanwhile.
        await until(lambda: open_sockets() <= before)
    gc.collect()  # ResourceWarnings are errors


def _tasks_of_ours() -> list[asyncio.Task[Any]]:
    """Without those in which asyncio's servers accept."""
    return [task for task in asyncio.all_tasks() if "ProxyConnection" in repr(task.get_coro())]


async def _dialled(proxy: Proxy) -> Peer:
    _, peer = await asyncio.get_running_loop().create_connection(Peer, *_host_port(proxy.address))
    await proxy.until(lambda: proxy.connections)
    return peer


async def _leave(proxy: Proxy) -> list[Peer]:
    """Closed while it accepts and dials."""
    return [await _dialled(proxy) for _ in range(3)]


async def _hole(proxy: Proxy) -> list[Peer]:
    hole = proxy.black_hole()
    peer = await _dialled(proxy)
    peer.send(HELLO, get(1))
    await hole.happened(2)
    return [peer]


async def _slow(proxy: Proxy) -> list[Peer]:
    slow = proxy.delay(1000)
    peer = await _dialled(proxy)
    peer.send(HELLO, get(1))
    await slow.happened(2)
    return [peer]


async def _hold(proxy: Proxy) -> list[Peer]:
    held = proxy.hold_reply(HANDSHAKE)
    peer = await _dialled(proxy)
    peer.send(HELLO)
    await held.reached()
    return [peer]


async def _cut_slowly(proxy: Proxy) -> list[Peer]:
    """A FIN that can't get out, behind what nobody reads."""
    peer = await _dialled(proxy)
    peer.transport.pause_reading()
    peer.send(HELLO, *(get(xid) for xid in range(1, 1000)))
    await proxy.wait_for(Op.GET_DATA, count=999)
    proxy.cut("fin")
    peer.transport.resume_reading()
    return [peer]


async def _storm(proxy: Proxy) -> list[Peer]:
    """Connections that are cut as soon as they are there, in every stage of being made."""
    peers = []
    for _ in range(20):
        peers.append(await _dialled(proxy))
        proxy.cut()
    return peers


@on_every_loop
async def test_it_closes_while_connecting_hangs() -> None:
    with deaf_port() as port:
        async with Proxy(f"127.0.0.1:{port}") as proxy:
            peer, other = await _dialled(proxy), await _dialled(proxy)
            other.send(HELLO)
            await proxy.wait_for(HANDSHAKE)
            proxy.connections[0].cut()
            assert await peer.until_ended() == "rst"
        assert await other.until_ended() == "rst"
    assert _tasks_of_ours() == []


# --- real servers -------------------------------------------------------------------------------------------------


def on_real_loops(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    factories = [asyncio.SelectorEventLoop, uvloop.new_event_loop]

    def wrapper(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test())

    return pytest.mark.parametrize("loop_factory", factories, ids=["asyncio", "uvloop"])(wrapper)


@pytest.mark.real
@on_real_loops
async def test_before_a_real_server() -> None:
    async with Ensemble() as ensemble, Proxy(ensemble.connect_string) as proxy, Client(proxy.address) as client:
        lost_reply, lost_request = proxy.lose_reply(Op.CREATE2, path="/a"), proxy.lose_request(Op.CREATE2, path="/b")
        with pytest.raises(OutcomeUnknownError):
            await client.create("/a")
        await lost_reply.happened()
        assert await client.exists("/a")
        assert (await client.create("/b")).path == "/b", "sent again, for it was not applied"
        await lost_request.happened()
        held = proxy.hold_reply(Op.GET_DATA)
        old = client.get("/a")
        await held.reached()
        async with Client(ensemble.connect_string) as other:
            await other.set("/a", b"new")
        held.release()
        assert (await old).data == b""
        session_id = client.session_id
        hole = proxy.black_hole()
        setting = client.set("/a", b"late")
        await proxy.wait_for(Op.SET_DATA)
        await hole.happened()
        assert not setting.done()
        proxy.heal()
        await setting
        refused = proxy.refuse()
        proxy.cut()
        await refused.happened()
        proxy.accept()
        assert (await client.get("/a")).data == b"late"
        assert client.session_id == session_id
        (connection,) = proxy.connections
        assert connection.session_id == session_id


@pytest.mark.parametrize("op", ["set", [], "", ["set"], [Op.SET_DATA, "set"]])
def test_operations_that_match_nothing_are_refused(op: Any) -> None:
    proxy = Proxy("127.0.0.1:2181")
    for method in (proxy.lose_reply, proxy.lose_request, proxy.hold_reply):
        with pytest.raises(InvalidArgumentError, match="an operation is"):
            method(op)
    with pytest.raises(InvalidArgumentError, match="a path is"):
        proxy.lose_reply(path=b"/a")  # type: ignore[arg-type]
