import asyncio

import pytest

from everlatch.testing.simulation import HostState, SimulationDeadlockError, simulation
from everlatch.testing.simulation.faults import (
    EVERY_KIND,
    ClientCrashes,
    ConnectionsReset,
    Fault,
    LinkCut,
    NameHangs,
    ServerPauses,
)


async def idle():
    await asyncio.Event().wait()


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.__name__)
def test_every_kind_says_when_it_is_realistic(kind):
    assert len(kind.__doc__.split()) > 10
    assert kind.__doc__ != Fault.__doc__
    assert EVERY_KIND[kind] > 0


def test_a_schedule_applies_faults_and_heals_them_all():
    async def main():
        count = await world.faults.run(1000, mean_interval=2)
        assert 400 < count < 600
        assert world.now == pytest.approx(1000)
        assert all(applied.healed_at is not None for applied in world.faults.applied)
        assert world.faults.last_heal == pytest.approx(1000, abs=20)
        kinds = {type(applied.fault) for applied in world.faults.applied}
        assert len(kinds) == len(EVERY_KIND) - 2  # there are no connections to reset or truncate

    with simulation(1) as world:
        world.ensemble(3)
        for number in range(3):
            world.host(f"app{number}", idle)
        world.run(main())
        assert all(host.state is HostState.RUNNING and host.clock_rate == 1 for host in world.hosts.values())
        assert not any(route.blocked or route.in_pieces for route in world.network._routes.values())
        for host in world.hosts.values():
            host.crash()


def test_a_kind_without_targets_is_left_out():
    async def main():
        assert world.faults.apply_random({ConnectionsReset: 1, ClientCrashes: 1}) is None
        assert await world.faults.run(100, {ConnectionsReset: 1}) == 0
        assert isinstance(world.faults.apply_random({ConnectionsReset: 1000, ServerPauses: 1}).fault, ServerPauses)

    with simulation(1) as world:
        world.server()
        world.host("app")
        world.run(main())


def test_faults_by_hand():
    with simulation(1) as world:
        server, _ = world.server(), world.host("app")
        cut, pause = world.faults.apply(LinkCut("app", "zk1")), world.faults.apply(ServerPauses("zk1"))
        world.faults.apply(NameHangs("zk1"))
        assert server.state is HostState.PAUSED
        world.faults.heal(pause)
        world.faults.heal(pause)
        assert server.state is HostState.RUNNING
        assert cut.healed_at is None
        assert str(cut) == "0.000  LinkCut(app, zk1)"
        world.heal()
        assert str(cut) == "0.000 to 0.000  LinkCut(app, zk1)"
        assert world.faults.count == 3


def test_a_schedule_may_be_cancelled_and_heals():
    async def main():
        task = asyncio.create_task(world.faults.run(1000, {ServerPauses: 1}, mean_interval=1, duration=1000))
        await asyncio.sleep(100)
        assert server.state is HostState.PAUSED
        task.cancel()
        await asyncio.wait([task])
        assert server.state is HostState.RUNNING

    with simulation(1) as world:
        server = world.server()
        world.run(main())


def test_a_failure_tells_how_to_replay_it_its_faults_and_its_log():
    async def main():
        await world.faults.run(30, mean_interval=1)
        world.note("something of my own")
        await idle()

    with simulation(17, replay="make replay SEED=17") as world:
        world.server()
        with pytest.raises(SimulationDeadlockError) as caught:
            world.run(main())
    (report,) = caught.value.__notes__
    assert "replay: make replay SEED=17" in report
    assert "simulation of seed 17" in report
    assert "something of my own" in report
    assert str(world.faults.applied[-1]) in report


def test_the_seed_may_come_from_the_environment(monkeypatch):
    with simulation() as one, simulation() as other:
        assert one.seed != other.seed
    monkeypatch.setenv("EVERLATCH_SEED", "99")
    with simulation(7) as world:
        assert world.seed == "99"
        assert world.random("x").random() == simulated_random("99")
    monkeypatch.delenv("EVERLATCH_SEED")
    assert simulated_random(99) == simulated_random("99")


def simulated_random(seed):
    with simulation(seed) as world:
        return world.random("x").random()
