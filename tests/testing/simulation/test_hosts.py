import asyncio

import pytest

from everlatch.testing.simulation import (
    HostState,
    SimulationCallbackError,
    SimulationDeadlockError,
    SimulationUsageError,
    simulation,
)
from testing.simulation.worlds import Two


async def ticks(seen):
    while True:
        await asyncio.sleep(1)
        seen.append(asyncio.get_running_loop().time())


async def stop(task):
    task.cancel()
    await asyncio.wait([task])


def test_a_paused_process_runs_nothing_and_gets_its_timers_late():
    async def main():
        seen = []
        task = host.create_task(ticks(seen))
        await asyncio.sleep(2.5)
        host.pause()
        assert host.state is HostState.PAUSED
        await asyncio.sleep(10)
        assert seen == [1001.0, 1002.0]
        host.resume()
        await asyncio.sleep(2)
        assert seen == [1001.0, 1002.0, 1012.5, 1013.5]
        await stop(task)

    with simulation(1) as world:
        host = world.host("a")
        world.run(main())


def test_what_a_paused_process_missed_comes_in_order():
    async def main():
        seen = []
        with host:
            loop = asyncio.get_running_loop()
            for seconds in (3, 1, 2):
                loop.call_later(seconds, seen.append, seconds)
            cancelled = loop.call_later(2.5, seen.append, "cancelled while held")
        host.pause()
        await asyncio.sleep(10)
        assert seen == []
        cancelled.cancel()
        host.resume()
        await asyncio.sleep(0.1)
        assert seen == [1, 2, 3]

    with simulation(1) as world:
        host = world.host("a")
        world.run(main())


def test_a_crash_runs_no_finally_until_nobody_looks():
    seen = []

    async def work():
        try:
            await asyncio.sleep(1000)
        finally:
            seen.append("finally")

    async def main():
        task = host.create_task(work())
        await asyncio.sleep(1)
        host.crash()
        await asyncio.sleep(2000)
        assert not task.done()
        assert seen == []

    with simulation(1) as world:
        host = world.host("a")
        world.run(main())
    assert seen == ["finally"]


def test_a_crashed_host_runs_nothing_until_it_is_started():
    lives = []

    async def live():
        lives.append(asyncio.get_running_loop().time())
        await asyncio.sleep(5)

    async def main():
        await asyncio.sleep(1)
        host.crash()
        with pytest.raises(SimulationUsageError, match="crashed"):
            host.create_task(asyncio.sleep(1))
        await asyncio.sleep(1)
        host.start()
        host.start()
        await asyncio.sleep(6)
        assert lives == [1000.0, 1002.0]

    with simulation(1) as world:
        host = world.host("a", live)
        world.run(main())


def test_a_main_that_fails_fails_the_run():
    async def broken():
        raise KeyError("main")

    with simulation(1) as world:
        world.host("a", broken)
        with pytest.raises(SimulationCallbackError, match=r"KeyError\('main'\)"):
            world.run(asyncio.sleep(1))


def test_who_waits_for_a_dead_process_is_told():
    async def main():
        task = host.create_task(asyncio.sleep(10))
        await asyncio.sleep(1)
        host.crash()
        await task

    with simulation(1) as world:
        host = world.host("a")
        with pytest.raises(SimulationDeadlockError, match="its process is dead"):
            world.run(main())


def test_clocks_have_rates():
    async def sleeps():
        loop = asyncio.get_running_loop()
        began, real = loop.time(), world.now
        await asyncio.sleep(10)
        return loop.time() - began, world.now - real

    async def main():
        assert await fast.run(sleeps()) == pytest.approx((10, 5))
        assert await slow.run(sleeps()) == pytest.approx((10, 20))
        assert world.now == pytest.approx(25)
        assert fast.time() - 1000 == pytest.approx(50)
        assert slow.time() - 1000 == pytest.approx(12.5)

    with simulation(1) as world:
        fast, slow = world.host("fast", clock_rate=2.0), world.host("slow", clock_rate=0.5)
        world.run(main())


def test_a_rate_may_change_while_timers_wait():
    async def main():
        task = host.create_task(asyncio.sleep(10))
        await asyncio.sleep(5)
        host.clock_rate = 0.1
        assert host.time() == pytest.approx(1005)
        await task
        assert world.now == pytest.approx(55)
        host.clock_rate = 1.0
        await host.run(asyncio.sleep(1))
        assert world.now == pytest.approx(56)

    with simulation(1) as world:
        host = world.host("a")
        world.run(main())


@pytest.mark.parametrize("rate", [0.1, 0.99, 1 / 3, 1.01, 7.0])
def test_a_timer_never_fires_early_by_its_own_clock(rate):
    async def main():
        loop = asyncio.get_running_loop()
        for number in range(1, 200):
            when = loop.time() + number / 7
            fired = loop.create_future()
            loop.call_at(when, lambda fired=fired: fired.set_result(loop.time()))
            assert when <= await fired < when + 1e-6

    with simulation(1) as world:
        world.run(main(), on=world.host("a", clock_rate=rate))


def test_a_client_is_started_on_its_own_host():
    async def main():
        with pytest.raises(SimulationUsageError, match="outside of all hosts"):
            await app.client().start()
        with pytest.raises(SimulationUsageError, match="on other"):
            await other.run(app.client().start())

    with simulation(1) as world:
        world.server()
        app, other = world.host("app"), world.host("other")
        world.run(main())


def test_names_are_given_once():
    with simulation(1) as world:
        world.host("a")
        with pytest.raises(SimulationUsageError, match="already"):
            world.host("a")
        with pytest.raises(SimulationUsageError, match="no servers"):
            _ = world.address
        with pytest.raises(SimulationUsageError, match="no host 'x'"):
            world.network.cut("a", "x")


def test_the_kernel_of_a_paused_host_accepts_and_keeps():
    """What makes a frozen server replay a handshake that was given up long ago."""

    async def main():
        two.b.pause()
        client = await two.a.run(two.dial())
        client.transport.write(b"hello")
        await asyncio.sleep(1)
        client.transport.write(b", anybody there?")
        await asyncio.sleep(1)
        client.transport.abort()
        await asyncio.sleep(10)
        assert client.is_lost
        assert two.accepted == []
        two.b.resume()
        await asyncio.sleep(1)
        (server,) = two.accepted
        assert server.data == b"hello, anybody there?"
        assert server.happened == ["made", "data", "eof", "lost"]

    with simulation(1) as world:
        two = Two(world)
        world.run(main())


def test_an_answer_to_who_has_given_up_is_answered_by_a_reset():
    async def main():
        client, server = await two.connect()
        server.keeps_open = True
        two.b.pause()
        client.transport.abort()
        await asyncio.sleep(1)
        two.b.resume()
        await asyncio.sleep(0)
        server.transport.write(b"an answer")
        await asyncio.sleep(1)
        assert server.happened == ["made", "eof", "lost"]
        assert isinstance(server.error, ConnectionResetError)

    with simulation(1) as world:
        two = Two(world)
        world.run(main())


def test_a_crash_closes_connections():
    async def main():
        client, server = await two.connect()
        two.b.crash()
        await asyncio.sleep(1)
        assert client.happened == ["made", "eof", "lost"]
        assert server.happened == ["made"]
        with pytest.raises(ConnectionRefusedError):
            await two.a.run(two.dial())
        two.b.start()
        await asyncio.sleep(0.1)
        await two.connect()

    with simulation(1) as world:
        two = Two(world)
        world.run(main())


def test_what_the_kernel_had_taken_comes_out_of_a_crashed_host():
    async def main():
        client, server = await two.connect()
        server.transport.write(b"last words")
        two.b.crash()
        await asyncio.sleep(1)
        assert client.data == b"last words"
        assert client.is_lost

    with simulation(1) as world:
        two = Two(world)
        world.run(main())


def test_who_had_not_read_everything_resets():
    async def main():
        client, server = await two.connect()
        two.b.pause()
        client.transport.write(b"unread")
        await asyncio.sleep(1)
        two.b.crash()
        await asyncio.sleep(1)
        assert isinstance(client.error, ConnectionResetError)
        assert server.data == b""

    with simulation(1) as world:
        two = Two(world)
        world.run(main())


def test_a_machine_without_power_says_nothing_until_it_is_back():
    async def main():
        client, _ = await two.connect()
        two.b.power_off()
        assert two.b.state is HostState.OFF
        client.transport.write(b"anybody there?")
        await asyncio.sleep(100)
        assert client.happened == ["made"]
        dialling = two.a.create_task(two.dial())
        await asyncio.sleep(10)
        assert not dialling.done()
        two.b.start()
        await asyncio.sleep(2.1)
        assert isinstance(client.error, ConnectionResetError)
        assert (await dialling).happened == ["made"]

    with simulation(1) as world:
        two = Two(world)
        world.run(main())


def test_a_handshake_goes_on_while_its_process_is_paused():
    async def main():
        dialling = two.a.create_task(two.dial())
        await asyncio.sleep(0.0015)  # the name is found, the first packet is on its way
        two.a.pause()
        await asyncio.sleep(5)
        assert len(two.accepted) == 1
        assert not dialling.done()
        two.a.resume()
        await dialling

    with simulation(1, latency=(0.001, 0.001)) as world:
        two = Two(world)
        world.run(main())
