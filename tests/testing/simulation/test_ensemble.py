import asyncio
import math

import pytest

from everlatch.testing.simulation import SimulationUsageError, simulation
from everlatch.testing.simulation.faults import FollowerCutFromLeader, FollowerLags


class FakeMember:
    """Says "hello, <n>" to everybody once a second, and writes down what it hears."""

    def __init__(self, number, numbers, now):
        self.number, self.numbers = number, list(numbers)
        self.heard, self.lost, self.restarted = [], [], []
        self.due, self.said, self.outbox = now + 1, 0, []
        self.delivered_at = {}

    def connect(self, host, port, now):
        raise AssertionError("nobody connects")

    disconnect = connect

    def take_changed(self):
        return ()

    def next_deadline(self):
        return self.due

    def handle_timer(self, now):
        assert now >= self.due
        self.due = now + 1
        self.say("hello")

    def say(self, text):
        self.said += 1
        self.outbox += [(number, (text, self.said)) for number in self.numbers if number != self.number]

    def take_messages(self):
        outbox, self.outbox = self.outbox, []
        return outbox

    def deliver(self, sender, message, now):
        self.heard.append((sender, message[1]))
        self.delivered_at[sender, message[1]] = now

    def peer_lost(self, peer, now):
        self.lost.append(peer)

    def restart(self, now):
        self.restarted.append(now)
        self.heard.clear()
        self.lost.clear()
        self.outbox.clear()
        self.due = now + 1

    def from_(self, number):
        return [said for sender, said in self.heard if sender == number]


def three(test, seed=9):
    with simulation(seed) as world:
        servers = world.ensemble(3, member=FakeMember)
        return world.run(test(world, servers, [server.core for server in servers]))


def is_gapless(numbers):
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_messages_come_in_order():
    async def test(world, servers, cores):
        await asyncio.sleep(10.5)
        for core in cores:
            for other in cores:
                assert core.from_(other.number) == ([] if core is other else list(range(1, 11)))

    three(test)


def test_messages_are_held_by_a_cut_and_come_after_it():
    async def test(world, servers, cores):
        await asyncio.sleep(2.5)
        cut = world.network.cut("zk1", "zk2")
        await asyncio.sleep(10)
        assert cores[0].from_(2) == [1, 2]
        assert len(cores[2].from_(2)) == 12
        cut.heal()
        await asyncio.sleep(1.2)
        assert cores[0].from_(2) == list(range(1, 14))
        assert cores[0].lost == cores[1].lost == []

    three(test)


def test_messages_wait_for_a_paused_member():
    async def test(world, servers, cores):
        await asyncio.sleep(2.5)
        servers[0].pause()
        await asyncio.sleep(10)
        assert len(cores[0].heard) == 4
        assert cores[0].said == 2
        servers[0].resume()
        await asyncio.sleep(0)
        assert cores[0].from_(2) == list(range(1, 13))
        assert cores[0].from_(3) == list(range(1, 13))

    three(test)


def test_a_crash_is_heard_behind_the_messages():
    async def test(world, servers, cores):
        await asyncio.sleep(2.5)
        with servers[0]:
            cores[0].say("last words")
            servers[0]._settle()
        servers[0].crash()
        assert cores[1].lost == []
        await asyncio.sleep(0.1)
        assert cores[1].from_(1) == cores[2].from_(1) == [1, 2, 3]
        assert cores[1].lost == cores[2].lost == [1]
        await asyncio.sleep(5)
        servers[0].start()
        await asyncio.sleep(3.5)
        assert cores[0].restarted == [pytest.approx(1007.6)]
        assert cores[1].from_(1) == [1, 2, 3, 4, 5, 6]
        assert is_gapless(cores[0].from_(2))
        assert len(cores[0].from_(2)) in (3, 4)

    three(test)


def test_what_was_sent_to_a_dead_process_does_not_reach_the_next():
    async def test(world, servers, cores):
        await asyncio.sleep(2.5)
        cut = world.network.cut("zk1", "zk2")
        await asyncio.sleep(2)  # 3 and 4 wait
        servers[0].crash()
        servers[0].start()
        cut.heal()
        await asyncio.sleep(1.2)
        assert 3 not in cores[0].from_(2)
        assert 4 not in cores[0].from_(2)
        assert cores[1].lost == [1]
        await asyncio.sleep(3)
        assert cores[0].from_(2)

    three(test)


def test_a_member_without_power_is_heard_of_when_it_is_back():
    async def test(world, servers, cores):
        await asyncio.sleep(2.5)
        servers[0].power_off()
        await asyncio.sleep(20)
        assert cores[1].lost == cores[2].lost == []
        servers[0].start()
        await asyncio.sleep(3.5)
        assert cores[1].lost == cores[2].lost == [1]
        assert is_gapless(cores[0].from_(2))
        assert cores[0].from_(2)[0] > 20

    three(test)


def test_a_reset_is_heard_by_both():
    async def test(world, servers, cores):
        await asyncio.sleep(2.5)
        world.network.reset("zk1", "zk2")
        await asyncio.sleep(0.2)
        assert cores[0].lost == [2]
        assert cores[1].lost == [1]
        assert cores[2].lost == []
        await asyncio.sleep(2)
        assert cores[0].from_(2) == cores[2].from_(2)

    three(test)


def test_members_live_by_their_own_clocks():
    async def test(world, servers, cores):
        servers[0].clock_rate = 2.0
        await asyncio.sleep(10.25)
        assert cores[0].said == 20
        assert cores[1].said == 10

    three(test)


def test_an_ensemble_elects_serves_and_survives_its_leader():
    async def test(world, app):
        async with app.client(start_timeout=60) as client:
            await client.create("/a", b"1")
            first = world.leader()
            first.crash()
            assert world.leader() is not first
            async with asyncio.timeout(60):
                while True:
                    await client.sync("/")
                    if world.leader() is not None:
                        break
            assert (await client.get("/a")).data == b"1"
            first.start()
            await world.until(lambda: not math.isinf(first.core.next_deadline()))

    with simulation(3) as world:
        world.ensemble(3)
        app = world.host("app")
        world.run(test(world, app), on=app)


def test_a_follower_cut_from_its_leader_keeps_its_clients_for_a_while():
    async def test(world, app):
        await world.until(world.leader)
        await asyncio.sleep(2)
        leader = world.leader()
        follower = next(server for server in world.servers if server is not leader)
        with pytest.raises(SimulationUsageError, match="can't be cut off"):
            world.cut_from_leader(leader)
        async with app.client(follower.address, start_timeout=60) as client:
            cut = world.cut_from_leader(follower)
            await client.exists("/")
            assert client.connections == 1
            await asyncio.sleep(60)
            cut.heal()
            async with asyncio.timeout(30):
                await client.sync("/")
            assert client.connections > 1

    with simulation(3) as world:
        world.ensemble(3)
        app = world.host("app")
        world.run(test(world, app), on=app)


def test_faults_of_ensembles_find_their_targets():
    async def test(world):
        rng = world.random("test")
        assert FollowerCutFromLeader.choose(world, rng) is None
        await world.until(world.leader)
        fault = FollowerCutFromLeader.choose(world, rng)
        assert fault.targets[1] == world.leader().name
        assert fault.targets[0] != fault.targets[1]
        lagging = world.faults.apply(FollowerLags("zk1"))
        assert world.hosts["zk1"].core.lag > 0
        world.faults.heal(lagging)
        assert world.hosts["zk1"].core.lag == 0

    with simulation(3) as world:
        world.ensemble(3)
        world.run(test(world))


def test_a_server_that_loses_its_power_in_the_moment_in_which_something_is_due():
    with simulation(1) as world:
        first, *others = world.ensemble(3)

        async def main():
            first.power_off()
            await world.until(lambda: all(server.core.mode for server in others))

        world.run(main())
