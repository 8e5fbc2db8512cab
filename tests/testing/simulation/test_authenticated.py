"""Servers that demand SASL, in the simulation: the client proves itself on every connection, whatever happens."""

import asyncio

import pytest

from everlatch import DigestMd5, NoAuthError, State
from everlatch.testing.simulation import simulation
from everlatch.testing.simulation.scenarios.stage import Stage
from everlatch.types import CREATOR_ALL_ACL, ClientInfo

USERS = {"bob": "secret"}
BOB = DigestMd5("bob", "secret")


def run(test, seed=3, size=1, **options):
    """Runs `test(world, app)` on the host `app`, beside servers that demand SASL; what the run was like."""
    with simulation(seed) as world:
        world.ensemble(size, sasl=USERS, require_auth=True) if size > 1 else world.server(sasl=USERS, require_auth=True)
        app = world.host("app")
        world.run(test(world, app), on=app)
        return world.digest()


async def owned(client):
    """It is still Bob's, and still his alone."""
    await client.set("/mine", b"x")
    assert ClientInfo("sasl", "bob") in await client.who_am_i()


@pytest.mark.parametrize(
    ("fault", "heal"),
    [
        (lambda world: world.network.reset("app", "zk1"), lambda world: None),
        (lambda world: world.network.cut("app", "zk1"), lambda world: world.network.heal()),
        (lambda world: world.network.delay("app", "zk1", 20.0), lambda world: world.network.heal()),
        (lambda world: world.hosts["zk1"].pause(), lambda world: world.hosts["zk1"].resume()),
        (lambda world: world.hosts["zk1"].crash(), lambda world: world.hosts["zk1"].start()),
    ],
    ids=["reset", "cut", "delay", "pause", "crash"],
)
@pytest.mark.parametrize("seconds", [0.01, 8])
def test_it_proves_itself_again_after_every_fault(fault, heal, seconds):
    async def test(world, app):
        async with app.client(sasl=BOB, default_timeout=None) as client:
            await client.create("/mine", acl=CREATOR_ALL_ACL)
            fault(world)
            await asyncio.sleep(seconds)
            heal(world)
            async with asyncio.timeout(20):
                await owned(client)

    run(test)


@pytest.mark.parametrize("seed", range(5))
def test_a_fault_at_any_moment_of_the_exchange(seed):
    """Answers get lost, all of them in turn: none of that is a refusal."""

    async def test(world, app):
        async with app.client(sasl=BOB, default_timeout=None) as client:
            await client.create("/mine", acl=CREATOR_ALL_ACL)
            said = 0
            for number in range(40):
                await world.until(lambda: app.process.ends, every=0.0001)
                await asyncio.sleep(number * 0.0002)  # up to 8 ms: some four round trips
                connections = world.servers[0].core.connections
                said += any(connection.exchange.user is None and connection.session for connection in connections)
                world.network.reset("app", "zk1")
            async with asyncio.timeout(20):
                await owned(client)
            assert said >= 2, "the exchange was on its way"

    run(test, seed)


def test_in_an_ensemble_that_loses_its_leader():
    async def test(world, app):
        async with app.client(sasl=BOB, default_timeout=None, start_timeout=60) as client:
            await client.create("/mine", acl=CREATOR_ALL_ACL)
            for server in world.servers:
                server.crash()
                async with asyncio.timeout(60):
                    await owned(client)
                server.start()
                await world.until(lambda: any(other.is_leading for other in world.servers))

    run(test, size=3)


def test_whoever_else_comes_is_not_let_in():
    async def test(world, app):
        async with app.client(sasl=BOB) as client:
            await client.create("/mine", acl=CREATOR_ALL_ACL)
            other = app.client(sasl=DigestMd5("bob", "wrong"))
            await other.start(wait=False)
            await world.until(lambda: other.state is State.AUTH_FAILED)
            await other.close()
            await owned(client)

    run(test)


def test_acls_without_a_demand():
    with simulation(3) as world:
        world.server(sasl=USERS)
        app = world.host("app")

        async def test():
            async with app.client(sasl=BOB) as client, app.client() as other:
                await client.create("/mine", acl=CREATOR_ALL_ACL)
                with pytest.raises(NoAuthError):
                    await other.get("/mine")

        world.run(test(), on=app)


def test_the_same_seed_is_the_same_run():
    async def test(world, app):
        async with app.client(sasl=BOB) as client:
            await client.create("/mine", acl=CREATOR_ALL_ACL)
            world.network.reset("app", "zk1")
            await owned(client)

    assert run(test) == run(test) != run(test, seed=4)


def test_scenarios_play_on_servers_of_both_kinds():
    demanded = 0
    for seed in range(40):
        with simulation(seed) as world:
            stage = Stage.of(world)
            options = world.servers[0].core.options
            assert (options.demanded_scheme == "sasl") == (stage.mechanism is not None)
            demanded += stage.mechanism is not None
    assert 4 <= demanded <= 20
