import asyncio
import itertools
import random

import pytest

from everlatch.testing.simulation import SimulationUsageError, simulation
from testing.simulation.worlds import PORT, Peer, Two


def in_two(test, **options):
    """Runs `test(two)` on two connected hosts."""
    with simulation(seed=5, **options) as world:
        two = Two(world)
        return world.run(test(two))


def test_bytes_come_in_order_and_take_their_time():
    async def test(two):
        client, server = await two.connect()
        began = two.world.now
        for number in range(100):
            client.transport.write(b"%d," % number)
            await asyncio.sleep(0.0001 * (number % 3))
        await asyncio.sleep(1)
        assert server.data == b"".join(b"%d," % number for number in range(100))
        first = server.pieces[0][0] - 1000 - began
        assert 0.01 <= first <= 0.03
        assert server.transport.get_extra_info("peername") == client.transport.get_extra_info("sockname")
        assert client.transport.get_extra_info("peername") == (two.b.ip, PORT)

    in_two(test, latency=(0.01, 0.03))


def test_what_is_written_at_one_moment_comes_together():
    async def test(two):
        client, server = await two.connect()
        for _ in range(10):
            client.transport.write(b"x")
        await asyncio.sleep(1)
        assert [data for _, data in server.pieces] == [b"x" * 10]

    in_two(test)


def test_close_comes_behind_the_bytes():
    async def test(two):
        client, server = await two.connect()
        client.transport.write(b"bye")
        client.transport.close()
        client.transport.write(b"ignored")
        await asyncio.sleep(1)
        assert server.happened == ["made", "data", "eof", "lost"]
        assert server.data == b"bye"
        assert client.happened == ["made", "lost"]
        assert client.error is None
        assert two.network.connections == []

    in_two(test)


def test_half_of_a_stream_may_end():
    async def test(two):
        client, server = await two.connect()
        server.keeps_open = True
        client.transport.write_eof()
        await asyncio.sleep(1)
        assert server.happened == ["made", "eof"]
        server.transport.write(b"still here")
        await asyncio.sleep(1)
        assert client.data == b"still here"
        server.transport.close()
        await asyncio.sleep(1)
        assert client.is_lost
        assert server.is_lost

    in_two(test)


def test_a_cut_holds_bytes_and_delivers_them_after_the_heal():
    async def test(two):
        client, server = await two.connect()
        cut = two.network.cut("a", "b")
        client.transport.write(b"to b")
        server.transport.write(b"to a")
        await asyncio.sleep(100)
        client.transport.write(b", later")
        await asyncio.sleep(100)
        assert client.data == server.data == b""
        cut.heal()
        cut.heal()
        await asyncio.sleep(1.1)
        assert client.data == b"to a"
        assert server.data == b"to b, later"

    in_two(test)


def test_a_cut_one_way_stops_one_direction():
    async def test(two):
        client, server = await two.connect()
        two.network.cut_one_way("a", "b")
        client.transport.write(b"to b")
        server.transport.write(b"to a")
        await asyncio.sleep(10)
        assert client.data == b"to a"
        assert server.data == b""
        dialling = two.a.create_task(two.dial())
        await asyncio.sleep(10)
        assert not dialling.done()
        two.network.heal()
        await asyncio.sleep(2.1)
        assert server.data == b"to b"
        await dialling

    in_two(test)


def test_overlapping_cuts_heal_one_by_one():
    async def test(two):
        client, server = await two.connect()
        first, second = two.network.cut("a", "b"), two.network.isolate("b")
        client.transport.write(b"x")
        first.heal()
        await asyncio.sleep(10)
        assert server.data == b""
        second.heal()
        await asyncio.sleep(1.1)
        assert server.data == b"x"

    in_two(test)


def test_a_close_over_a_cut_is_heard_after_the_heal():
    async def test(two):
        client, server = await two.connect()
        cut = two.network.cut("a", "b")
        client.transport.write(b"bye")
        client.transport.abort()
        await asyncio.sleep(10)
        assert client.is_lost
        assert server.happened == ["made"]
        server.transport.write(b"anybody there?")
        await asyncio.sleep(10)
        cut.heal()
        await asyncio.sleep(2.1)
        assert server.data == b"bye"
        assert server.is_lost

    in_two(test)


def test_a_dialler_may_give_up():
    async def test(two):
        two.network.cut("a", "b")
        with pytest.raises(TimeoutError):
            await two.a.run(asyncio.wait_for(two.dial(), 5))
        two.network.heal()
        await asyncio.sleep(10)
        assert two.accepted == []

    in_two(test)


def test_a_connection_that_comes_too_late_is_closed():
    async def test(two):
        dialling = two.a.create_task(two.dial())
        await asyncio.sleep(0.0015)
        two.a.pause()
        await asyncio.sleep(1)
        dialling.cancel()
        two.a.resume()
        await asyncio.sleep(1)
        assert dialling.cancelled()
        assert two.accepted[0].happened == ["made", "eof", "lost"]

    in_two(test, latency=(0.001, 0.001))


def test_nobody_there():
    async def dial(ip, port):
        await asyncio.get_running_loop().create_connection(Peer, ip, port)

    async def test(two):
        with pytest.raises(ConnectionRefusedError):
            await two.a.run(dial("b", 1))
        began = two.world.now
        with pytest.raises(TimeoutError):
            await two.a.run(dial("10.99.99.99", PORT))
        assert 120 < two.world.now - began < 140

    in_two(test)


def test_a_partition_separates_groups_only():
    async def test(two):
        world = two.world
        c = world.host("c")
        client, server = await two.connect()
        third = await c.run(two.dial())
        partition = world.network.partition({"a"}, {two.b})
        client.transport.write(b"x")
        third.transport.write(b"y")
        await asyncio.sleep(10)
        assert server.data == b""
        assert two.accepted[1].data == b"y"
        partition.heal()
        await asyncio.sleep(1.1)
        assert server.data == b"x"

    in_two(test)


def test_a_reset_is_heard_by_both_and_loses_what_is_under_way():
    async def test(two):
        client, server = await two.connect()
        client.transport.write(b"lost")
        assert two.network.reset("a", "b") == 1
        await asyncio.sleep(1)
        assert server.data == b""
        assert isinstance(client.error, ConnectionResetError)
        assert isinstance(server.error, ConnectionResetError)
        assert two.network.reset("a", "b") == 0

    in_two(test)


def test_truncation_ends_the_stream_in_the_middle():
    async def test(two):
        client, server = await two.connect()
        client.transport.write(b"before ")
        assert two.network.truncate("a", "b", after=3) == 1
        client.transport.write(b"abc")
        client.transport.write(b"def")
        await asyncio.sleep(1)
        assert server.data == b"before abc"
        assert server.is_lost
        assert client.is_lost

    in_two(test)


def test_truncation_at_once():
    async def test(two):
        client, server = await two.connect()
        two.network.truncate("b", "a", after=0)
        await asyncio.sleep(1)
        assert client.is_lost
        assert server.is_lost

    in_two(test)


def test_a_slow_route_carries_so_many_bytes_a_second():
    async def test(two):
        client, server = await two.connect()
        slow = two.network.slow("a", "b", 100)
        client.transport.write(bytes(1000))
        await asyncio.sleep(5)
        assert 450 <= len(server.data) <= 520
        await asyncio.sleep(6)
        assert len(server.data) == 1000
        assert len(server.pieces) > 100
        slow.heal()
        client.transport.write(bytes(1000))
        await asyncio.sleep(1)
        assert len(server.data) == 2000

    in_two(test)


def test_a_route_that_is_slow_no_more_has_no_queue_either():
    """What had been sent into it would come for minutes otherwise."""

    async def test(two):
        client, server = await two.connect()
        slow = two.network.slow("a", "b", 100)
        client.transport.write(bytes(10_000))
        await asyncio.sleep(5)
        slow.heal()
        client.transport.write(b"last")
        await asyncio.sleep(1)
        assert server.data == bytes(10_000) + b"last"

    in_two(test)


def test_byte_by_byte():
    async def test(two):
        client, server = await two.connect()
        two.network.in_pieces("a", "b")
        client.transport.write(b"hello")
        server.transport.write(b"hello")
        client.transport.close()
        await asyncio.sleep(1)
        assert [data for _, data in server.pieces] == [b"h", b"e", b"l", b"l", b"o"]
        assert server.is_lost
        assert client.data == b""

    in_two(test)


def test_latency_changes():
    async def test(two):
        client, server = await two.connect()
        delay = two.network.delay("a", "b", 2.0)
        client.transport.write(b"slow")
        delay.heal()
        client.transport.write(b"fast, and yet behind it")
        began = two.world.now
        await two.world.until(lambda: server.data.endswith(b"it"))
        assert two.world.now - began == pytest.approx(2.0, abs=0.05)
        assert server.data == b"slowfast, and yet behind it"

    in_two(test)


def test_who_does_not_read_is_not_written_to_for_ever():
    async def test(two):
        client, server = await two.connect()
        server.transport.pause_reading()
        chunk = bytes(1 << 16)
        while "pause" not in client.happened:
            client.transport.write(chunk)
        written = client.transport.get_write_buffer_size()
        assert written > 1 << 16
        await asyncio.sleep(10)
        assert server.data == b""
        server.transport.resume_reading()
        await asyncio.sleep(1)
        assert client.happened == ["made", "pause", "resume"]
        assert client.transport.get_write_buffer_size() == 0
        assert len(server.data) == (1 << 18) + written

    in_two(test)


def test_close_waits_until_everything_is_written():
    async def test(two):
        client, server = await two.connect()
        server.transport.pause_reading()
        client.transport.write(bytes(1 << 20))
        client.transport.close()
        await asyncio.sleep(5)
        assert not client.is_lost
        server.transport.resume_reading()
        await asyncio.sleep(1)
        assert client.is_lost
        assert len(server.data) == 1 << 20
        assert server.happened[-2:] == ["eof", "lost"]

    in_two(test)


def test_a_reset_reaches_who_waits_to_close():
    async def test(two):
        client, server = await two.connect()
        server.transport.pause_reading()
        client.transport.write(bytes(1 << 20))
        client.transport.close()
        two.network.reset("a", "b")
        await asyncio.sleep(1)
        assert client.is_lost
        server.transport.resume_reading()
        await asyncio.sleep(1)
        assert isinstance(server.error, ConnectionResetError)

    in_two(test)


class Buffered(Peer, asyncio.BufferedProtocol):
    def __init__(self):
        super().__init__()
        self.buffer = bytearray(4)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data_received(bytes(self.buffer[:nbytes]))


def test_protocols_with_a_buffer_of_their_own():
    async def dial():
        return (await asyncio.get_running_loop().create_connection(Buffered, "b", PORT))[1]

    async def test(two):
        client = await two.a.run(dial())
        await asyncio.sleep(0.1)
        two.accepted[0].transport.write(b"hello there")
        two.accepted[0].transport.close()
        await asyncio.sleep(1)
        assert [data for _, data in client.pieces] == [b"hell", b"o th", b"ere"]
        assert client.happened[-2:] == ["eof", "lost"]

    in_two(test)


def test_a_protocol_that_raises_loses_its_connection_and_fails_the_run():
    class Raises(Peer):
        def data_received(self, data):
            raise ValueError("not for me")

    async def dial():
        return (await asyncio.get_running_loop().create_connection(Raises, "b", PORT))[1]

    async def test(two):
        client = await two.a.run(dial())
        await asyncio.sleep(0.1)
        two.accepted[0].transport.write(b"x")
        await asyncio.sleep(1)
        assert isinstance(client.error, ValueError)
        assert two.accepted[0].is_lost

    with pytest.raises(Exception, match="not for me"):
        in_two(test)


def test_streams_and_servers_of_asyncio_work():
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def serve():
        return await asyncio.start_server(answer, port=0)

    async def ask(port):
        reader, writer = await asyncio.open_connection("b", port)
        writer.write(b"hello\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def test(two):
        server = await two.b.run(serve())
        port = server.sockets[0].getsockname()[1]
        assert await two.a.run(ask(port)) == b"HELLO\n"
        with pytest.raises(OSError, match="taken"):
            await two.b.run(asyncio.start_server(answer, port=port))
        server.close()
        await server.wait_closed()
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await two.a.run(ask(port))

    in_two(test)


def test_no_tls():
    async def test(two):
        with pytest.raises(SimulationUsageError, match="ssl"):
            await two.a.run(asyncio.open_connection("b", PORT, ssl=True))

    in_two(test)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_on_the_way_a_stream_is_a_prefix_of_what_was_written(seed):
    """A connection may break, and then the end is missing; but nothing is lost before, doubled or reordered."""
    rng = random.Random(seed)

    async def trouble(two):
        network = two.network
        for _ in range(30):
            await asyncio.sleep(rng.uniform(0, 2))
            choices = [
                lambda: network.cut("a", "b"),
                lambda: network.cut_one_way("a", "b"),
                lambda: network.cut_one_way("b", "a"),
                lambda: network.slow("a", "b", rng.choice([50, 1000, 100_000])),
                lambda: network.in_pieces("a", "b", rng.randint(1, 50)),
                lambda: network.delay("a", "b", 0.1, 3.0),
                two.b.pause,
                two.b.resume,
                two.a.pause,
                two.a.resume,
                network.heal,
                network.heal,
            ]
            rng.choice(choices)()
        two.world.heal()

    async def write(peer):
        for number in itertools.count():
            peer.transport.write(b"%d " % number * rng.randint(1, 40))
            written.append(b"%d " % number)
            await asyncio.sleep(rng.uniform(0, 0.5))
            if stopped:
                return

    async def test(two):
        nonlocal stopped
        client, server = await two.connect()
        writing = two.a.create_task(write(client))
        await trouble(two)
        stopped = True
        await writing
        await asyncio.sleep(60)
        client.transport.close()
        await asyncio.sleep(5)
        numbers = [int(number) for number in server.data.split()]
        assert numbers == sorted(numbers)
        assert sorted(set(numbers)) == list(range(len(written)))
        assert server.happened[-2:] == ["eof", "lost"]

    written, stopped = [], False
    in_two(test)
