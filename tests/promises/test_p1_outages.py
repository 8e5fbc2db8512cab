"""Promise P1: outages that a client has to get over, one by one, in virtual time. Each has its own bound."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from everlatch.devserver.ensemble import Member
from everlatch.devserver.options import Options
from everlatch.errors import HistoryResetError, OutcomeUnknownError
from everlatch.testing.simulation import simulation
from everlatch.testing.simulation.servers import EPOCH
from everlatch.types import State

T = 10.0
TICK = 2.0


class Stage:
    """Three servers, and a client on a host of its own that was connected a moment ago."""

    def __init__(self, world):
        self.world = world
        self.servers = world.ensemble(3, tick=TICK)
        self.host = world.host("app")
        self.changes = []

    async def connect(self, servers=None, **options):
        await self.world.until(lambda: all(server.core.mode for server in self.servers))
        client = self.host.client(servers, **({"session_timeout": T} | options))
        client.add_listener(self.changes.append)
        await self.host.run(client.start())
        await self.host.run(client.create("/node"))
        self.client = client
        return client

    @property
    def states(self):
        return [change.state for change in self.changes]

    @property
    def in_use(self):
        """The server behind the connection."""
        name = self.client.statistics().server.partition(":")[0]
        return self.world.hosts[name]

    @property
    def others(self):
        return [server for server in self.servers if server is not self.in_use]

    async def suspended(self):
        """It has noticed."""
        await self.world.until(lambda: self.client.state is State.SUSPENDED)

    async def usable_within(self, seconds):
        """A write is answered; returns how long it took."""
        began = self.world.now
        async with asyncio.timeout(seconds):
            await self.host.run(_write(self.client))
        return self.world.now - began

    async def close(self):
        await self.host.run(self.client.close())


async def _write(client):
    """Until one is known to have happened."""
    while True:
        with contextlib.suppress(OutcomeUnknownError):
            return await client.set("/node", b"x")


def staged(scene):
    """A scene is a coroutine function of a stage; it is played with three seeds."""

    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test(seed, monkeypatch):
        with simulation(seed) as world:
            stage = Stage(world)
            stage.monkeypatch = monkeypatch

            async def play():
                await scene(stage)
                await stage.close()

            world.run(play())

    test.__name__ = scene.__name__
    return test


# -- servers


@staged
async def test_all_servers_down_for_a_minute_and_the_session_lives(stage):
    client = await stage.connect()
    session_id = client.session_id
    for server in stage.servers:
        server.crash()
    await stage.suspended()
    waiting = stage.host.create_task(client.create("/queued"))
    await asyncio.sleep(60.0)
    for server in stage.servers:
        server.start()
    await stage.usable_within(8.0)
    assert stage.states == [State.CONNECTED, State.SUSPENDED, State.LOST, State.CONNECTED]
    assert client.session_id == session_id
    assert (await waiting).path == "/queued"


@staged
async def test_all_servers_down_for_a_minute_and_the_session_has_expired(stage):
    client = await stage.connect()
    session_id = client.session_id
    for server in stage.servers:
        server.crash()
    outage = stage.world.network.isolate(stage.host)
    await stage.suspended()
    waiting = stage.host.create_task(client.create("/queued"))
    await asyncio.sleep(60.0)
    for server in stage.servers:
        server.start()
    await asyncio.sleep(3 * T)
    outage.heal()
    await stage.usable_within(8.0)
    assert stage.states == [State.CONNECTED, State.SUSPENDED, State.LOST, State.RENEWED, State.CONNECTED]
    assert stage.changes[3].previous_session_id == session_id != stage.changes[3].session_id
    assert (await waiting).path == "/queued"


@staged
async def test_the_first_server_is_a_black_hole(stage):
    await stage.world.until(lambda: all(server.core.mode for server in stage.servers))
    stage.servers[0].power_off()
    await asyncio.sleep(30.0)  # the others elect a leader, if it was that
    began = stage.world.now
    stage.client = client = stage.host.client(session_timeout=T, shuffle=False)
    await stage.host.run(client.start())
    assert stage.world.now - began < 1.0
    await stage.host.run(client.create("/node"))


@staged
async def test_the_first_server_accepts_and_never_answers(stage):
    await stage.world.until(lambda: all(server.core.mode for server in stage.servers))
    stage.servers[0].pause()
    await asyncio.sleep(30.0)  # the others elect a leader, if it was that
    began = stage.world.now
    stage.client = client = stage.host.client(session_timeout=T, shuffle=False)
    await stage.host.run(client.start())
    assert stage.world.now - began < T / 3 + 1.0
    await stage.host.run(client.create("/node"))


@staged
async def test_the_server_in_use_accepts_and_never_answers(stage):
    client = await stage.connect()
    if stage.in_use.is_leading:
        stage.world.network.reset(stage.host, stage.in_use)
        await stage.world.until(lambda: client.state is State.CONNECTED and not stage.in_use.is_leading)
    stage.in_use.pause()
    assert await stage.usable_within(T) < T / 3 + 1.0
    assert State.LOST not in stage.states


@staged
async def test_the_leader_is_lost(stage):
    client = await stage.connect()
    session_id = client.session_id
    stage.world.leader().crash()
    await stage.usable_within(6.0)
    assert client.session_id == session_id
    assert State.LOST not in stage.states


@staged
async def test_quorum_is_lost_for_less_than_the_session_timeout(stage):
    await _lose_quorum(stage, T / 2)
    assert State.LOST not in stage.states


@staged
async def test_quorum_is_lost_for_more_than_the_session_timeout(stage):
    await _lose_quorum(stage, 3 * T)
    assert stage.states[-2:] == [State.LOST, State.CONNECTED]


async def _lose_quorum(stage, seconds):
    client = await stage.connect()
    session_id = client.session_id
    down = stage.others
    for server in down:
        server.crash()
    waiting = stage.host.create_task(_write(client))
    await asyncio.sleep(seconds)
    assert not waiting.done()
    for server in down:
        server.start()
    await stage.usable_within(8.0)
    await waiting
    assert client.session_id == session_id


@staged
async def test_a_follower_that_is_cut_off_from_its_leader(stage):
    await stage.world.until(lambda: all(server.core.mode for server in stage.servers))
    followers = [server for server in stage.servers if not server.is_leading]
    client = await stage.connect(",".join(server.address for server in followers))
    session_id = client.session_id
    stage.world.cut_from_leader(stage.in_use)
    assert await stage.usable_within(T) < 2 * T / 3 + 1.0
    assert client.session_id == session_id
    assert State.LOST not in stage.states


@staged
async def test_all_servers_stall_twice_for_a_third_of_the_session_timeout(stage):
    """No client reconnects more than once: the servers answer again, and a client that runs from one to the other only
    adds to what they have to do."""
    first = await stage.connect()
    hosts = [stage.world.host(f"app{number}") for number in range(4)]
    clients = [host.client(session_timeout=T) for host in hosts]
    working = []
    for number, (host, client) in enumerate(zip(hosts, clients, strict=True)):
        await host.run(client.start())
        working.append(host.create_task(_work(client, number)))
    for _ in range(2):
        await asyncio.sleep(1.7 * T)
        for server in stage.servers:
            server.pause()
        await asyncio.sleep(T / 3)
        for server in stage.servers:
            server.resume()
    await asyncio.sleep(T)
    for task in working:
        task.cancel()
    await asyncio.wait(working)
    for host, client in zip(hosts, clients, strict=True):
        assert client.connections <= 2
        assert client.generation == 1
        await host.run(client.close())
    assert first.connections <= 2


async def _work(client, number):
    """Nothing, reads, writes, or both."""
    while True:
        await asyncio.sleep(0.1)
        if number & 1:
            await client.get("/node")
        if number & 2:
            with contextlib.suppress(OutcomeUnknownError):
                await client.set("/node", b"x")


@staged
async def test_data_that_was_wiped(stage):
    """All servers come back with nothing: none will ever accept what the client knows. It begins anew when its session
    can't live any more."""
    client = await stage.connect()
    for _ in range(20):
        await stage.host.run(client.set("/node", b"x"))
    for server in stage.servers:
        server.crash()
    numbers = [server.number for server in stage.servers]
    await asyncio.sleep(1.0)
    for server in stage.servers:
        server.core = Member(server.number, numbers, Options(tick=TICK), EPOCH, server.time())
        server.start()
    async with asyncio.timeout(2 * T):
        assert (await stage.host.run(client.create("/node"))).path == "/node"
    assert stage.states[-3:] == [State.LOST, State.RENEWED, State.CONNECTED]
    assert isinstance(stage.changes[-2].reason, HistoryResetError)
    assert client.generation == 2


# -- links and names


@staged
async def test_a_half_open_link_under_steady_traffic(stage):
    client = await stage.connect()
    reads = stage.host.create_task(_work(client, 1))
    await asyncio.sleep(1.0)
    stage.world.network.cut_one_way(stage.in_use, stage.host)
    assert await stage.usable_within(T) < T / 3 + 1.0
    assert State.LOST not in stage.states
    reads.cancel()
    await asyncio.wait([reads])


@staged
async def test_a_name_that_moves_fails_and_returns(stage):
    world = stage.world
    one, two, three = stage.servers
    world.names["zk"] = [one.ip]
    client = await stage.connect("zk:2181")
    session_id = client.session_id
    world.names["zk"] = [two.ip]
    one.crash()
    await stage.usable_within(6.0)
    world.names.fail("zk")
    two.crash()
    one.start()
    await asyncio.sleep(3.0)
    assert client.state is State.SUSPENDED
    world.names.restore("zk")
    world.names["zk"] = [three.ip]
    await stage.usable_within(6.0)
    assert client.session_id == session_id
    assert State.LOST not in stage.states


@staged
async def test_a_name_that_hangs_is_no_hindrance(stage):
    await stage.connect()
    lost = stage.in_use
    stage.world.names.hang(stage.others[0].name)
    lost.crash()
    await stage.usable_within(8.0)
    assert State.LOST not in stage.states


# -- sessions


@staged
async def test_a_session_that_is_expired_while_connected(stage):
    client = await stage.connect()
    _expire(stage, client)
    await stage.world.until(lambda: State.RENEWED in stage.states, timeout=2.0)
    await stage.usable_within(1.0)
    assert client.generation == 2


@staged
async def test_a_session_that_is_expired_while_disconnected(stage):
    client = await stage.connect()
    outage = stage.world.network.isolate(stage.host)
    await stage.suspended()
    _expire(stage, client)
    outage.heal()
    await stage.usable_within(6.0)
    assert client.generation == 2
    assert stage.states.count(State.RENEWED) == 1


@staged
async def test_a_session_that_is_expired_while_connecting(stage):
    client = await stage.connect()
    for server in stage.servers:
        stage.world.network.delay(stage.host, server, 0.3)
    stage.world.network.reset(stage.host, stage.in_use)
    await stage.world.until(lambda: client._engine.session.phase.name == "HANDSHAKE")
    _expire(stage, client)
    await stage.usable_within(8.0)
    assert client.generation == 2
    assert stage.states.count(State.RENEWED) == 1


def _expire(stage, client):
    leader = stage.world.leader()
    with leader:
        assert leader.core.expire(client.session_id, leader.time())
        leader._settle()


# -- the client itself


@staged
async def test_a_client_that_stands_still_for_longer_than_its_session_lives(stage):
    client = await stage.connect()
    release = await stage.host.run(_leased(client))
    stage.host.pause()
    await asyncio.sleep(2.5 * T)
    with stage.host:
        assert client.session_time_left == client.lease_time_left == 0.0
    stage.host.resume()
    await stage.usable_within(4.0)
    assert stage.states[-2:] == [State.RENEWED, State.CONNECTED]
    assert client.generation == 2
    release()


async def _leased(client):
    release = client.hold_lease()
    await client.wait_lease()
    return release


@staged
async def test_a_loop_that_is_blocked_for_half_the_session_timeout(stage):
    client = await stage.connect()
    for _ in range(3):
        stage.host.pause()
        await asyncio.sleep(T / 2)
        stage.host.resume()
        await asyncio.sleep(T / 2)
    assert client.connections == 1
    assert stage.states == [State.CONNECTED]


@staged
async def test_a_calendar_that_jumps(stage):
    """Nobody looks at it."""
    client = await stage.connect()
    release = await stage.host.run(_leased(client))
    real = time.time
    for jump in (3600.0, -86400.0, 1e9):
        stage.monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        await asyncio.sleep(T)
        with stage.host:
            assert client.lease_time_left > 0.0
    assert client.connections == 1
    release()
