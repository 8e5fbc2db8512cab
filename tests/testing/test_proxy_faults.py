"""Slow, late, truncated and chosen: what each fault does to the bytes, looked at from both ends, in skipped time."""

from __future__ import annotations

import asyncio
import re
import struct
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import Client, InvalidArgumentError, OutcomeUnknownError
from everlatch.testing import HANDSHAKE, Op, Proxy, ProxyTimeoutError, RequestFault
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, encode_connect_request
from scripted_server import ScriptedServer
from skipping_loop import on_every_loop, simulated, this_loop
from testing.peers import HELLO, Peer, Wire, get, reply, set_data

if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTIONS = ["to_server", "to_client"]
SECOND = 0x78
"""Another session than the one of `Wire.greet`."""


def along(direction: str, client: Peer, server: Peer) -> tuple[Peer, Peer]:
    """Who sends and who receives."""
    return (client, server) if direction == "to_server" else (server, client)


def stamps(peer: Peer) -> list[tuple[float, int]]:
    """Fills up with when each read came, and its size."""
    seen: list[tuple[float, int]] = []
    received = peer.data_received

    def stamped(data: bytes) -> None:
        seen.append((asyncio.get_running_loop().time(), len(data)))
        received(data)

    peer.data_received = stamped  # type: ignore[method-assign]
    peer.transport.set_protocol(peer)
    return seen


async def greet_as(wire: Wire, session_id: int, *, known: bool = False) -> tuple[Peer, Peer]:
    """Both ends of a connection of this session, which takes up an old one if it is known."""
    client, server = await wire.connect()
    hello = frame(encode_connect_request(ConnectRequest(0, 0, 10_000, session_id if known else 0, bytes(16), False)))
    welcome = frame(struct.pack(">iiqi16s?", 0, 10_000, session_id, 16, bytes(16), False))
    client.send(hello)
    await server.until_received(hello)
    server.send(welcome)
    await client.until_received(welcome)
    client.received.clear()
    server.received.clear()
    return client, server


async def handshake_of(wire: Wire, client: Peer, server: Peer) -> None:
    """The handshake of a connection that is there already."""
    client.send(HELLO)
    await server.until_received(HELLO)
    server.received.clear()


# --- throttle -----------------------------------------------------------------------------------------------------


@simulated
@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_a_throttled_link_passes_so_many_bytes_a_second(direction: Any) -> None:
    async with Wire() as wire:
        sender, receiver = along(direction, *await wire.greet())
        slow = wire.proxy.throttle(1000, direction)
        seen = stamps(receiver)
        started = this_loop().time()
        data = reply(1, bytes(380))
        sender.send(data)
        await receiver.until_received(data)
        assert [size for _, size in seen] == [20] * 20
        times = [time - started for time, _ in seen]
        assert times == pytest.approx([0.02 * number for number in range(1, 21)], abs=0.001)
        assert slow.times == 1


@simulated
async def test_the_other_direction_of_a_throttled_link_is_quick() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        wire.proxy.throttle(1, "to_server")
        server.send(reply(1, bytes(10_000)))
        started = this_loop().time()
        await client.until_received(reply(1, bytes(10_000)))
        assert this_loop().time() == started


@simulated
async def test_each_connection_has_the_throttled_rate_for_itself() -> None:
    async with Wire() as wire:
        first, second = await wire.greet(), await wire.greet()
        wire.proxy.throttle(100)
        started = this_loop().time()
        for client, _ in (first, second):
            client.send(get(1))
        for _, server in (first, second):
            await server.until_received(get(1))
        assert this_loop().time() - started == pytest.approx(len(get(1)) / 100, abs=0.01)


@simulated
async def test_an_end_of_the_throttle_lets_go_what_has_piled_up() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        slow = wire.proxy.throttle(1)
        client.send(set_data(1, data=bytes(1000)))
        await server.until(lambda: server.received)
        started = this_loop().time()
        slow.cancel()
        await server.until_received(set_data(1, data=bytes(1000)))
        assert this_loop().time() == started


@simulated
async def test_a_link_that_was_held_up_is_not_faster_afterwards() -> None:
    """What waited in a black hole is throttled from when it heals, not from when it came."""
    async with Wire() as wire:
        client, server = await wire.greet()
        hole = wire.proxy.black_hole()
        wire.proxy.throttle(10)
        client.send(get(1))
        await hole.happened()
        this_loop().skip(1000)
        hole.cancel()
        started = this_loop().time()
        await server.until_received(get(1))
        assert this_loop().time() - started == pytest.approx(len(get(1)) / 10, abs=0.01)


@simulated
async def test_an_end_passes_a_throttled_link_behind_the_data() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        wire.proxy.throttle(100, "to_server")
        client.send(get(1))
        client.transport.write_eof()
        assert await server.until_ended() == "fin"
        assert bytes(server.received) == get(1)


@simulated
async def test_a_delay_and_a_throttle_add_up() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        wire.proxy.delay(5)
        wire.proxy.throttle(10)
        started = this_loop().time()
        client.send(get(1))
        await server.until_received(get(1))
        assert this_loop().time() - started == pytest.approx(5 + len(get(1)) / 10, abs=0.01)


@simulated
async def test_a_client_behind_a_narrow_link_does_not_take_it_for_a_silent_one() -> None:
    async with (
        ScriptedServer() as server,
        Proxy(server.address) as proxy,
        Client(proxy.address, session_timeout=6) as client,
    ):
        await client.create("/a", bytes(1500))
        proxy.throttle(500, "to_client")
        started = this_loop().time()
        assert (await client.get("/a")).data == bytes(1500)
        assert this_loop().time() - started > 3  # longer than it lets a link be silent
        assert client.statistics().connections == 1
        proxy.heal()


# --- byte by byte -------------------------------------------------------------------------------------------------


@on_every_loop
@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_each_byte_comes_alone(direction: Any) -> None:
    async with Wire() as wire:
        sender, receiver = along(direction, *await wire.greet())
        wire.proxy.byte_by_byte(direction, bytes_per_second=1000)
        sender.send(get(1))
        await receiver.until_received(get(1))
        assert receiver.reads == len(get(1))
        wire.proxy.heal()
        receiver.received.clear()
        sender.send(get(2))
        await receiver.until_received(get(2))
        assert receiver.reads == len(get(1)) + 1


@simulated
async def test_a_client_works_byte_by_byte() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy:
        proxy.byte_by_byte()
        async with Client(proxy.address, session_timeout=30) as client:
            await client.create("/a", b"1")
            assert (await client.get("/a")).data == b"1"


# --- truncate -----------------------------------------------------------------------------------------------------


@on_every_loop
@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("after", [0, 1, len(get(1)), len(get(1)) + 3])
async def test_a_truncated_stream_ends_behind_so_many_bytes(after: int, direction: Any, how: Any) -> None:
    async with Wire() as wire:
        sender, receiver = along(direction, *await wire.greet())
        fault = wire.proxy.truncate(after, direction, cut=how)
        if after:
            sender.send(get(1), get(2))
        assert await receiver.until_ended() == how
        assert bytes(receiver.received) == (get(1) + get(2))[:after]
        assert await sender.until_ended() == how
        await fault.happened()
        await wire.proxy.until(lambda: not wire.proxy.connections)
        sender, receiver = along(direction, *await wire.greet())  # a new connection is whole
        sender.send(get(3), get(4))
        await receiver.until_received(get(3), get(4))
        assert fault.times == 1


@on_every_loop
async def test_the_connection_that_is_truncated_ends_without_a_byte_more() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        other, other_server = await wire.greet()
        fault = wire.proxy.truncate(len(reply(1)))
        server.send(reply(1))
        assert await client.until_ended() == "fin"
        assert bytes(client.received) == reply(1)
        other_server.send(reply(2)[:9])
        other_server.send(reply(2)[9:], reply(3))
        assert await other.until_ended() == "fin"
        assert bytes(other.received) == reply(2)
        await fault.happened(2)


@on_every_loop
async def test_a_truncation_that_is_taken_back_does_not_strike() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        healed, cancelled = wire.proxy.truncate(3, "to_client"), wire.proxy.truncate(3, "to_server")
        cancelled.cancel()
        client.send(get(1))
        await server.until_received(get(1))
        wire.proxy.heal()
        server.send(reply(1))
        await client.until_received(reply(1))
        replaced, last = wire.proxy.truncate(2), wire.proxy.truncate(len(reply(2)))
        replaced.cancel()
        server.send(reply(2))
        assert await client.until_ended() == "fin"
        assert (healed.times, cancelled.times, replaced.times, last.times) == (0, 0, 0, 1)


@simulated
async def test_a_throttled_stream_is_truncated_to_the_byte() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        wire.proxy.byte_by_byte()
        wire.proxy.truncate(5, "to_server")
        client.send(get(1))
        assert await server.until_ended() == "fin"
        assert bytes(server.received) == get(1)[:5]


# --- one client's links -------------------------------------------------------------------------------------------


@on_every_loop
@pytest.mark.parametrize("meant_by", ["session", "object", "connection", "address"])
async def test_one_clients_connections_are_chosen(meant_by: str) -> None:
    async with Wire() as wire:
        first, second = await greet_as(wire, 0x77), await greet_as(wire, SECOND)
        connection = wire.proxy.connections[1]
        address = "{}:{}".format(*second[0].transport.get_extra_info("sockname"))
        assert connection.client_address == address
        who = {"session": SECOND, "object": HasSession(SECOND), "connection": connection, "address": address}[meant_by]
        hole = wire.proxy.black_hole(client=who)
        for client, server in (first, second):
            client.send(get(1))
            server.send(reply(1))
        await first[1].until_received(get(1))
        await first[0].until_received(reply(1))
        await hole.happened(2)
        assert not second[0].received
        assert not second[1].received
        assert [request.connection for request in wire.proxy.seen(client=who)] == [connection]
        wire.proxy.heal()
        await second[1].until_received(get(1))
        await second[0].until_received(reply(1))
        assert wire.proxy.cut(client=who) == (connection,)
        assert await second[0].until_ended() == "rst"
        first[0].send(get(2))
        await first[1].until_received(get(1), get(2))


class HasSession:
    def __init__(self, session_id: int) -> None:
        self.session_id = session_id


@on_every_loop
async def test_a_host_is_all_that_come_from_there() -> None:
    async with Wire() as wire:
        client, _ = await wire.greet()
        assert wire.proxy.cut(client="127.0.0.2") == ()
        assert len(wire.proxy.cut(client="127.0.0.1")) == 1
        assert await client.until_ended() == "rst"


@on_every_loop
async def test_a_session_is_meant_from_the_handshake_on_in_which_it_is_asked_for() -> None:
    async with Wire() as wire:
        hole = wire.proxy.black_hole(client=SECOND)
        first, _ = await greet_as(wire, 0x77)
        client, server = await wire.connect()
        client.send(frame(encode_connect_request(ConnectRequest(0, 0, 10_000, SECOND, bytes(16), False))))
        await hole.happened()
        assert not server.received
        (greeting,) = wire.proxy.seen(HANDSHAKE, client=SECOND)
        assert greeting.connection is wire.proxy.connections[1]
        assert not first.ended


@on_every_loop
async def test_a_client_object_is_followed_into_its_next_session() -> None:
    async with Wire() as wire:
        somebody = HasSession(0)
        fault = wire.proxy.lose_reply(Op.GET_DATA, client=somebody)
        client, server = await greet_as(wire, 0x77)
        client.send(get(1))
        server.send(reply(1))
        await client.until_received(reply(1))
        somebody.session_id = SECOND
        client, server = await greet_as(wire, SECOND)
        client.send(get(1))
        await server.until_received(get(1))
        server.send(reply(1))
        await fault.happened()
        assert await client.until_ended() == "rst"
        assert (fault.seen, fault.times) == (1, 1)


@on_every_loop
async def test_link_faults_of_one_kind_replace_each_other_for_the_same_client_only() -> None:
    async with Wire() as wire:
        slow, quick = await greet_as(wire, SECOND), await greet_as(wire, 0x77)
        wire.proxy.delay(1000, client=SECOND)
        wire.proxy.delay(1000)
        wire.proxy.delay(0)
        for client, _ in (slow, quick):
            client.send(get(1))
        await quick[1].until_received(get(1))
        await wire.proxy.wait_for(Op.GET_DATA, client=SECOND)
        assert not slow[1].received
        wire.proxy.delay(0, client=SECOND)
        slow[1].send(reply(1))
        await slow[0].until_received(reply(1))


@on_every_loop
async def test_a_refusal_that_is_cancelled_is_over() -> None:
    async with Wire() as wire:
        wire.proxy.refuse().cancel()
        await wire.greet()


# --- chosen requests ----------------------------------------------------------------------------------------------


@simulated
async def test_a_chosen_request_is_late_and_its_reply_is_not() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        late = wire.proxy.delay(5, "to_server", op=Op.SET_DATA, path="/slow", nth=2)
        seen = stamps(server)
        started = this_loop().time()
        client.send(set_data(1, "/slow"), set_data(2, "/a"))
        await server.until_received(set_data(1, "/slow"), set_data(2, "/a"))
        client.send(set_data(3, "/slow"), get(4))
        await late.happened()
        server.send(reply(1), reply(2))
        await client.until_received(reply(1), reply(2))
        assert this_loop().time() == started
        await server.until(lambda: server.received.endswith(get(4)))
        assert seen[-1][0] - started == pytest.approx(5, abs=0.001)
        server.send(reply(3), reply(4))
        await client.until_received(reply(1), reply(2), reply(3), reply(4))
        assert this_loop().time() - started == pytest.approx(5, abs=0.001)
        assert isinstance(late, RequestFault)
        assert (late.seen, late.times) == (2, 1)


@simulated
async def test_the_reply_to_a_chosen_request_is_late_with_all_behind_it() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        wire.proxy.delay(5, "to_client", op=Op.GET_DATA)
        started = this_loop().time()
        client.send(get(1), set_data(2))
        await server.until_received(get(1), set_data(2))
        assert this_loop().time() == started
        server.send(reply(-1, b"an event"), reply(1), reply(2))
        await client.until(lambda: client.received)
        assert this_loop().time() == started
        assert bytes(client.received) == reply(-1, b"an event")
        await client.until_received(reply(-1, b"an event"), reply(1), reply(2))
        assert this_loop().time() - started == pytest.approx(5, abs=0.001)


@simulated
async def test_a_request_and_its_reply_may_both_be_late() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        late = wire.proxy.delay(2, op=Op.GET_DATA, every=2)
        started = this_loop().time()
        client.send(get(1), get(2))
        await server.until_received(get(1), get(2))
        server.send(reply(1), reply(2))
        await client.until_received(reply(1), reply(2))
        assert this_loop().time() - started == pytest.approx(4, abs=0.001)
        assert late.times == 1


@on_every_loop
async def test_every_reply_that_is_late_is_counted_though_several_are_on_their_way() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        late = wire.proxy.delay(0.001, "to_client", op=Op.GET_DATA, every=2)
        client.send(*(get(xid) for xid in range(1, 7)))
        await server.until_received(*(get(xid) for xid in range(1, 7)))
        server.send(*(reply(xid) for xid in range(1, 7)))
        await client.until_received(*(reply(xid) for xid in range(1, 7)))
        assert late.times == 3


@simulated
async def test_a_chosen_reply_comes_slowly_and_the_others_do_not() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        wire.proxy.throttle(100, "to_client", op=Op.GET_DATA, nth=2)
        client.send(get(1), get(2), get(3))
        await server.until_received(get(1), get(2), get(3))
        server.send(reply(1, bytes(1000)))
        started = this_loop().time()
        await client.until_received(reply(1, bytes(1000)))
        assert this_loop().time() == started
        server.send(reply(2, bytes(80)), reply(3))
        await client.until_received(reply(1, bytes(1000)), reply(2, bytes(80)), reply(3))
        assert this_loop().time() - started == pytest.approx(1, abs=0.01)


@on_every_loop
async def test_a_chosen_request_comes_byte_by_byte() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        wire.proxy.byte_by_byte("to_server", op=Op.SET_DATA, bytes_per_second=1000)
        client.send(get(1), set_data(2), get(3))
        await server.until_received(get(1), set_data(2), get(3))
        assert len(set_data(2)) + 1 <= server.reads <= len(set_data(2)) + 2


@on_every_loop
@pytest.mark.parametrize("after", [1, 4, 11])
async def test_a_truncated_reply_is_that_of_an_executed_request(after: int) -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        fault = proxy.truncate(after, op=Op.CREATE2, path=re.compile("/b.*"), nth=2)
        await client.create("/a")
        await client.create("/b1")
        with pytest.raises(OutcomeUnknownError):
            await client.create("/b2")
        await fault.happened()
        assert server.znodes.applied == [("create", "/a"), ("create", "/b1"), ("create", "/b2")]
        assert await client.exists("/b2")


@on_every_loop
async def test_a_truncated_request_is_not_executed() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        fault = proxy.truncate(20, "to_server", op=Op.CREATE2, path="/a")
        await client.create("/a")  # the client finds that it was not executed, and sends it again
        await fault.happened()
        assert server.paths(Op.CREATE2) == ["/a"]
        assert [request.answered for request in proxy.seen(Op.CREATE2)] == [False, True]


@on_every_loop
async def test_so_many_bytes_of_a_truncated_frame_pass_and_none_behind_it() -> None:
    async with Wire() as wire:
        for after in (0, 7, 1000):
            client, server = await wire.greet()
            wire.proxy.truncate(after, "to_server", op=Op.SET_DATA)
            client.send(get(1), set_data(2), get(3))
            assert await server.until_ended() == "fin"
            assert bytes(server.received) == get(1) + set_data(2)[:after]
            assert await client.until_ended() == "fin"


@on_every_loop
async def test_the_answer_to_a_handshake_is_truncated_anywhere_and_the_client_gets_there() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy:
        for after in (0, 2, 4, 20, 40):
            fault = proxy.truncate(after, op=HANDSHAKE)
            async with Client(proxy.address, start_timeout=100) as client:
                await fault.happened()
                assert client.generation == 1


@on_every_loop
async def test_a_held_request_is_executed_when_it_is_released() -> None:
    async with ScriptedServer() as server, Proxy(server.address) as proxy, Client(proxy.address) as client:
        await client.create("/a")
        held = proxy.hold_request(Op.SET_DATA, path="/a")
        setting = client.set("/a", b"late")
        reading = client.get("/a")
        await held.reached(frames=2)
        assert server.paths(Op.SET_DATA) == []
        async with server.client() as other:
            assert (await other.get("/a")).data == b""
        held.release()
        await setting
        assert (await reading).data == b"late"


@on_every_loop
async def test_a_held_request_is_executed_though_its_client_has_gone() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        held = wire.proxy.hold_request(Op.SET_DATA)
        client.send(set_data(1))
        await held.reached()
        client.transport.close()
        await client.until(lambda: client.gone)
        held.release()
        assert await server.until_ended() == "fin"
        assert bytes(server.received) == set_data(1)


@on_every_loop
async def test_a_held_fault_that_is_cancelled_lets_go() -> None:
    async with Wire() as wire:
        client, server = await wire.greet()
        held = wire.proxy.hold_request(Op.SET_DATA)
        client.send(set_data(1))
        await held.reached()
        held.cancel()
        await server.until_received(set_data(1))


@on_every_loop
async def test_the_kth_request_of_one_client_is_chosen() -> None:
    async with Wire() as wire:
        first, second = await greet_as(wire, 0x77), await greet_as(wire, SECOND)
        fault = wire.proxy.lose_request(Op.SET_DATA, client=SECOND, nth=2, cut="fin")
        for xid in (1, 2, 3):
            first[0].send(set_data(xid))
            second[0].send(set_data(xid))
        assert await second[1].until_ended() == "fin"
        assert bytes(second[1].received) == set_data(1)
        await first[1].until_received(set_data(1), set_data(2), set_data(3))
        assert fault.times == 1


# --- what makes no sense ------------------------------------------------------------------------------------------


@simulated
async def test_a_fault_of_one_client_says_whose_it_is() -> None:
    async with Wire() as wire:
        with pytest.raises(ProxyTimeoutError, match=r"lose_reply SET_DATA '/a' of session 0x78: struck 0 times"):
            await wire.proxy.lose_reply(Op.SET_DATA, path="/a", client=SECOND).happened(timeout=1)
        with pytest.raises(ProxyTimeoutError, match=r"throttle 10 bytes/s both of 10\.0\.0\.1: struck 0 times"):
            await wire.proxy.throttle(10, client="10.0.0.1").happened(timeout=1)
        with pytest.raises(ProxyTimeoutError, match=r"truncate after 3 to_client GET_DATA: struck 0.*0 requests"):
            await wire.proxy.truncate(3, op=Op.GET_DATA).happened(timeout=1)


def test_what_makes_no_sense_is_refused() -> None:
    proxy = Proxy("127.0.0.1:1")
    mistakes: list[Callable[[], object]] = [
        lambda: proxy.throttle(0),
        lambda: proxy.throttle(float("inf"), op=Op.SET_DATA),
        lambda: proxy.throttle(1, "fin"),  # type: ignore[arg-type]
        lambda: proxy.throttle(1, "fin", op=Op.SET_DATA),  # type: ignore[arg-type]
        lambda: proxy.byte_by_byte(bytes_per_second=-1),
        lambda: proxy.truncate(-1),
        lambda: proxy.truncate(1, "both"),  # type: ignore[arg-type]
        lambda: proxy.truncate(1, cut="both"),  # type: ignore[arg-type]
        lambda: proxy.delay(-1, op=Op.SET_DATA),
        lambda: proxy.delay(1, "up", op=Op.SET_DATA),  # type: ignore[arg-type]
        lambda: proxy.delay(1, nth=0),
        lambda: proxy.hold_request("set"),  # type: ignore[arg-type]
        lambda: proxy.cut(client=0),
        lambda: proxy.black_hole(client=True),
        lambda: proxy.lose_reply(client=b"127.0.0.1"),  # type: ignore[arg-type]
        lambda: proxy.seen(client="localhost"),
        lambda: proxy.seen(client="127.0.0.1:"),
        lambda: proxy.truncate(1, client="127.0.0.1:x"),
    ]
    for mistake in mistakes:
        with pytest.raises(InvalidArgumentError):
            mistake()


@on_every_loop
async def test_it_listens_where_it_is_told() -> None:
    async with ScriptedServer() as server, Proxy(server.address, host="127.0.0.2") as proxy:
        assert proxy.address.startswith("127.0.0.2:")
        async with Client(proxy.address) as client:
            await client.create("/a")
