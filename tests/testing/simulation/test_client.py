"""The real client and recipes on it: nothing of them knows."""

import asyncio

import pytest

from everlatch import CallTimeoutError, SessionExpiredError, State, admin
from everlatch.devserver import DevServer
from everlatch.recipes import LeaderLatch
from everlatch.testing.simulation import simulation
from everlatch.testing.simulation.faults import EVERY_KIND


def on_app(test, seed=3, **options):
    """Runs `test(world, server, app)` on the host `app`, beside one server."""
    with simulation(seed) as world:
        server, app = world.server(**options), world.host("app")
        return world.run(test(world, server, app), on=app)


def test_operations():
    async def test(world, server, app):
        async with app.client() as client:
            await client.create("/a", b"1")
            assert (await client.get("/a")).data == b"1"
            assert sorted(await client.children("/")) == ["a", "zookeeper"]
            await asyncio.sleep(3600)
            assert client.generation == client.connections == 1

    on_app(test)


def test_it_comes_back_after_a_reset():
    async def test(world, server, app):
        async with app.client() as client:
            assert world.network.reset("app", "zk1") == 1
            await asyncio.sleep(0.001)
            await client.create("/a", b"1")
            assert client.connections == 2
            assert client.generation == 1

    on_app(test)


@pytest.mark.parametrize(
    ("fault", "heal"),
    [
        (lambda world: world.network.cut("app", "zk1"), lambda world: world.network.heal()),
        (lambda world: world.network.cut_one_way("zk1", "app"), lambda world: world.network.heal()),
        (lambda world: world.network.delay("app", "zk1", 20.0), lambda world: world.network.heal()),
        (lambda world: world.network.slow("app", "zk1", 1), lambda world: world.network.heal()),
        (lambda world: world.hosts["zk1"].pause(), lambda world: world.hosts["zk1"].resume()),
        (lambda world: world.hosts["zk1"].crash(), lambda world: world.hosts["zk1"].start()),
        (lambda world: world.hosts["zk1"].power_off(), lambda world: world.hosts["zk1"].start()),
    ],
    ids=["cut", "cut one way", "delay", "slow", "pause", "crash", "power"],
)
@pytest.mark.parametrize("seconds", [1, 8, 60])
def test_it_comes_back_after_every_fault(fault, heal, seconds):
    async def test(world, server, app):
        async with app.client(default_timeout=None) as client:
            await client.create("/a", b"1")
            fault(world)
            call = client.get("/a")
            await asyncio.sleep(seconds)
            heal(world)
            async with asyncio.timeout(10):
                assert (await call).data == b"1"

    on_app(test)


def test_it_works_byte_by_byte():
    async def test(world, server, app):
        world.network.in_pieces("app", "zk1")
        world.network.in_pieces("zk1", "app")
        async with app.client() as client:
            await client.create("/a", b"x" * 1000)
            assert (await client.get("/a")).data == b"x" * 1000

    on_app(test)


def test_a_session_expires_while_its_process_is_paused():
    async def live():
        async with world.hosts["app"].client(session_timeout=6) as client:
            await client.create("/mine", ephemeral=True)
            states.append([])
            client.add_listener(lambda change: states[-1].append(change.state))
            session = client.in_session()
            seen.append(session)
            while not stopped:
                await asyncio.sleep(0.1)
            with pytest.raises(SessionExpiredError):
                await session.get("/")

    async def main():
        nonlocal stopped
        await world.until(lambda: seen)
        app.pause()
        await asyncio.sleep(20)
        assert await observer.run(exists()) is None
        app.resume()
        await asyncio.sleep(5)
        stopped = True
        await asyncio.sleep(1)
        assert [state.name for state in states[0]][-3:] == ["LOST", "RENEWED", "CONNECTED"] or State.RENEWED in states[
            0
        ]

    async def exists():
        async with observer.client() as client:
            return await client.exists("/mine")

    states, seen, stopped = [], [], False
    with simulation(1) as world:
        world.server()
        app, observer = world.host("app", live), world.host("observer")
        world.run(main())


def test_a_frozen_server_reads_an_abandoned_handshake_when_it_goes_on():
    """The session has moved on to another connection; the handshake that the client gave up comes from the kernel of
    the server that was frozen, and takes the session back. The client has to survive that."""

    async def test(world, server, app):
        async with app.client(default_timeout=None) as client:
            await client.create("/mine", ephemeral=True)
            world.network.reset("app", "zk1")
            server.pause()
            await asyncio.sleep(3)
            server.resume()
            async with asyncio.timeout(10):
                stat = await client.exists("/mine")
            assert stat is not None
            assert stat.ephemeral_owner == client.session_id
            assert client.generation == 1
            return [entry.text for entry in world.log if "made" in entry.text]

    assert len(on_app(test)) > 2


def test_the_next_member_leads_when_the_leader_crashes():
    def member(name):
        async def live():
            async with (
                world.hosts[name].client(session_timeout=6) as client,
                LeaderLatch(client, "/latch", name) as latch,
            ):
                while not stopped:
                    await latch.wait()
                    terms.append((name, latch.token, world.now))
                    await latch.wait_lost()

        return live

    async def main():
        await world.until(lambda: terms)
        first = terms[0][0]
        crashed_at = world.now
        world.hosts[first].crash()
        await world.until(lambda: len(terms) == 2)
        second, token, at = terms[1]
        assert second != first
        assert token > terms[0][1]
        assert 5 < at - crashed_at < 10
        world.hosts[first].start()
        await asyncio.sleep(20)
        assert len(terms) == 2
        for name in ("a", "b"):
            world.hosts[name].crash()

    terms, stopped = [], False
    with simulation(2) as world:
        world.server()
        for name in ("a", "b"):
            world.host(name, member(name))
        world.run(main())


def test_a_name_that_hangs_is_waited_for():
    async def test(world, server, app):
        async with app.client() as client:
            world.names.hang("zk1")
            world.network.reset("app", "zk1")
            with pytest.raises(CallTimeoutError):
                await client.get("/", timeout=5)
            world.names.restore("zk1")
            async with asyncio.timeout(5):
                await client.get("/")

    on_app(test)


def test_a_server_may_move_to_another_address():
    async def test(world, server, app):
        standby = world.server("zk2")
        async with app.client("zk1:2181") as client:
            world.names["zk1"] = [standby.ip]
            server.power_off()
            async with asyncio.timeout(30):
                await client.get("/")
            assert client.generation == 2

    on_app(test)


def test_a_client_with_a_slow_clock_keeps_its_session():
    async def test(world, server, app):
        app.clock_rate = 0.95
        async with app.client() as client:
            await asyncio.sleep(600)
            assert client.generation == client.connections == 1

    on_app(test)


def test_four_letter_words_and_versions():
    async def test(world, server, app):
        async with app.client() as client:
            assert (await admin.srvr("zk1:2181")).version.text.startswith("3.8")
            await client.get("/")

    on_app(test, version="3.8")


def test_the_dev_server_with_sockets_runs_on_it_too():
    async def serve():
        async with DevServer(2181) as server:
            listening.set()
            await stop.wait()
            assert server.core is not None

    async def use():
        await listening.wait()
        async with app.client("zk:2181") as client:
            await client.create("/a")

    async def main():
        serving = zk.create_task(serve())
        await app.run(use())
        stop.set()
        await serving

    with simulation(1) as world:
        zk, app = world.host("zk"), world.host("app")
        listening, stop = asyncio.Event(), asyncio.Event()
        world.run(main())


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.__name__)
def test_it_survives_every_kind_of_fault(kind):
    """Twenty of each, one after the other, on an ensemble; and everything is well soon after the last."""

    async def work(host):
        async with host.client(start_timeout=600, default_timeout=None) as client:
            while not stopped:
                await client.exists("/")
                await asyncio.sleep(0.2)
            async with asyncio.timeout(30):
                await client.exists("/")

    async def main():
        nonlocal stopped
        tasks = [app.create_task(work(app))]
        await world.until(lambda: world.leader() is not None)
        await asyncio.sleep(2)
        count = await world.faults.run(100, {kind: 1}, mean_interval=5)
        assert count > 3
        stopped = True
        for task in tasks:
            await task
        await asyncio.sleep(60)

    async def restarted():
        await work(world.hosts["worker"])

    stopped = False
    with simulation(4) as world:
        world.ensemble(3)
        app = world.host("app")
        world.host("worker", restarted)
        world.run(main())
