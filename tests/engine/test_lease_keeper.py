"""Who rests on the lease, in a world whose time is virtual: what it costs, when it is granted, and how waits end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import AuthFailedError, ClientClosedError, NotStartedError, State
from everlatch.testing.simulation import simulation
from srvr_answers import SrvrAnswers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from everlatch import Client
    from everlatch.testing.simulation import World
    from everlatch.testing.simulation.hosts import Host

T = 10.0
TICK = 1.0


def beside_one_server(test: Callable[[World, Host], Awaitable[None]], **options: Any) -> None:
    """Runs `test(world, app)` on the host `app`."""
    with simulation(5) as world:
        world.server(tick=TICK, **options)
        app = world.host("app")
        world.run(test(world, app), on=app)  # type: ignore[arg-type]


def lag(client: Client) -> float:
    return client._engine.session.lease.lag


async def settled(client: Client) -> None:
    """When what the keeper asks has been answered."""
    asking = client._engine.lease._asking
    if asking is not None:
        await asyncio.wait({asking})


# --- holding ------------------------------------------------------------------------------------------------------


def test_it_costs_nothing_while_nobody_rests_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(_: World, app: Host) -> None:
        answers = SrvrAnswers(monkeypatch)
        async with app.client() as client:
            await asyncio.sleep(60)
            assert (client.lease_until, client.lease_time_left, client.lease_lapses) == (0.0, 0.0, 0)
            assert client.statistics().requests_sent == 0
            assert answers.asked == []

    beside_one_server(test)


def test_it_runs_while_it_is_held_and_ends_when_nobody_does() -> None:
    async def test(_: World, app: Host) -> None:
        async with app.client(session_timeout=T) as client:
            release = client.hold_lease()
            await client.wait_lease()
            await asyncio.sleep(60.3)  # no commit is under way then
            assert client.lease_until > app.time() + T / 2
            assert 0 < client.lease_time_left <= T
            assert client.lease_lapses == 0
            release()
            sent = client.statistics().requests_sent
            left = client.lease_time_left
            await asyncio.sleep(left)
            assert client.lease_time_left == 0.0
            assert client.statistics().requests_sent == sent

    beside_one_server(test)


def test_several_rest_on_one_and_each_lets_go_once() -> None:
    async def test(_: World, app: Host) -> None:
        async with app.client(session_timeout=T) as client:
            first, second = client.hold_lease(), client.hold_lease()
            await client.wait_lease()
            first()
            first()  # says it twice, and counts once
            await asyncio.sleep(60)
            assert client.lease_time_left > 0
            second()
            await asyncio.sleep(T)
            assert client.lease_time_left == 0.0
            third = client.hold_lease()
            await client.wait_lease()
            assert client.lease_lapses == 0
            third()

    beside_one_server(test)


def test_it_is_held_across_outages_and_sessions() -> None:
    async def test(world: World, app: Host) -> None:
        async with app.client(session_timeout=T) as client:
            release = client.hold_lease()
            await client.wait_lease()
            for seconds, generation in ((1.0, 1), (3 * T, 2)):
                cut = world.network.isolate("app")
                await asyncio.sleep(seconds)
                assert (client.lease_time_left > 0) == (seconds < T / 2)
                cut.heal()
                await client.wait_connected()
                await client.wait_lease()
                assert client.generation == generation
            release()

    beside_one_server(test)


def test_a_paused_process_sees_that_it_has_ended() -> None:
    async def test(world: World, app: Host) -> None:
        async with app.client(session_timeout=T) as client:
            release = client.hold_lease()
            await client.wait_lease()
            world.loop.schedule(world.loop.moment + 2 * T, app.resume)
            app.pause()
            await asyncio.sleep(0)
            assert client.lease_time_left == 0.0
            release()

    beside_one_server(test)


def test_nobody_can_hold_what_is_not_there() -> None:
    async def test(_: World, app: Host) -> None:
        client = app.client()
        with pytest.raises(NotStartedError):
            client.hold_lease()
        await client.start()
        release = client.hold_lease()
        await client.close()
        with pytest.raises(ClientClosedError):
            client.hold_lease()
        with pytest.raises(ClientClosedError):
            await client.wait_lease()
        assert client.lease_until == 0.0
        release()

    beside_one_server(test)


# --- waiting ------------------------------------------------------------------------------------------------------


def test_who_waits_before_there_is_a_connection_is_told_when_it_runs() -> None:
    async def test(world: World, app: Host) -> None:
        cut = world.network.isolate("app")
        client = app.client()
        await client.start(wait=False)
        release = client.hold_lease()
        waits = [asyncio.ensure_future(client.wait_lease()) for _ in range(3)]
        await asyncio.sleep(5)
        assert not any(wait.done() for wait in waits)
        cut.heal()
        await asyncio.gather(*waits)
        assert client.lease_time_left > 0
        await client.wait_lease()
        release()
        await client.close()

    beside_one_server(test)


def test_closing_ends_the_waits_and_they_end_by_name() -> None:
    async def test(world: World, app: Host) -> None:
        client = app.client()
        await client.start()
        wait = asyncio.ensure_future(client.wait_lease())  # nobody holds it, so it never comes
        cancelled = asyncio.ensure_future(client.wait_lease())
        await asyncio.sleep(1)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        assert len(client._engine.lease._waiters) == 1
        await client.close()
        with pytest.raises(ClientClosedError, match="waiting for the lease"):
            await wait
        assert client._engine.lease._waiters == {}

    beside_one_server(test)


def test_refused_credentials_end_the_waits() -> None:
    async def test(world: World, app: Host) -> None:
        async with app.client() as client:
            wait = asyncio.ensure_future(client.wait_lease())
            await asyncio.sleep(0)
            with pytest.raises(AuthFailedError):
                await client.add_auth("nonsense", b"x")
            assert client.state is State.AUTH_FAILED
            with pytest.raises(AuthFailedError):
                await wait

    beside_one_server(test)


# --- what the server is -------------------------------------------------------------------------------------------


def test_a_server_that_stands_alone_has_no_lag() -> None:
    async def test(_: World, app: Host) -> None:
        async with app.client(session_timeout=T) as client:
            release = client.hold_lease()
            assert lag(client) == T / 2 + 0.25
            await settled(client)
            assert lag(client) == 0.0
            release()

    beside_one_server(test)


def test_followers_have_one_and_the_leader_has_none() -> None:
    async def main() -> None:
        await world.until(world.leader)
        for server in world.servers:
            async with app.client(server.address, session_timeout=T) as client:
                release = client.hold_lease()
                await settled(client)
                assert lag(client) == (0.0 if server is world.leader() else T / 4 + 0.25)
                release()

    with simulation(6) as world:
        world.ensemble(3, tick=TICK)
        app = world.host("app")
        world.run(main(), on=app)


def test_it_is_asked_once_a_connection_by_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World, app: Host) -> None:
        answers = SrvrAnswers(monkeypatch)
        async with app.client() as client:
            releases = [client.hold_lease() for _ in range(3)]
            await settled(client)
            releases.append(client.hold_lease())
            await settled(client)
            assert len(answers.asked) == 1
            for release in releases[:2]:
                release()
            for connections in (2, 3):
                world.network.reset("app", "zk1")
                await world.until(lambda count=connections: client.connections == count)
                await client.wait_connected()
                await settled(client)
                assert len(answers.asked) == connections
                assert lag(client) == 0.0
            for release in releases[2:]:
                release()
            world.network.reset("app", "zk1")
            await world.until(lambda: client.connections == 4)
            await asyncio.sleep(1)
            assert len(answers.asked) == 3, "nobody rests on it any more"

    beside_one_server(test)


def test_a_server_that_does_not_answer_is_taken_for_the_slowest_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(_: World, app: Host) -> None:
        SrvrAnswers(monkeypatch, version=None)
        async with app.client(session_timeout=T) as client:
            release = client.hold_lease()
            await client.wait_lease()
            await settled(client)
            await asyncio.sleep(60)
            assert lag(client) == T / 2 + 0.25
            assert 0.0 < client.lease_time_left < T / 2
            assert client.lease_lapses == 0
            release()

    beside_one_server(test)


def test_a_connection_that_comes_while_the_last_one_is_asked_is_asked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World, app: Host) -> None:
        answers = SrvrAnswers(monkeypatch)
        answers.answering.clear()
        async with app.client(session_timeout=T) as client:
            release = client.hold_lease()
            await answers.until_asked(1)
            world.network.reset("app", "zk1")
            await world.until(lambda: client.connections == 2)
            await client.wait_connected()
            answers.answering.set()
            await settled(client)
            assert len(answers.asked) == 2
            assert lag(client) == 0.0
            release()

    beside_one_server(test)


def test_closing_does_not_wait_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World, app: Host) -> None:
        answers = SrvrAnswers(monkeypatch)
        answers.answering.clear()
        client = app.client()
        await client.start()
        client.hold_lease()
        await answers.until_asked(1)
        begun = world.now
        await client.close()
        assert world.now < begun + 0.1
        assert answers.running == 0

    beside_one_server(test)
