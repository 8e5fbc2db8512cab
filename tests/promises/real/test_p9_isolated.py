"""P9, isolated, on real servers and real loops: callbacks that raise, are cancelled, never end, or block the event loop
of the application harm nobody else, and no healthy link is declared dead for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from everlatch import ConnectionClosedByServerError, State, StateChange
from promises.real.ensembles import PATIENCE, T, Traffic, client_of, in_use_first, now, until_time, watched
from real.faults import until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from everlatch.testing import NetworkEnsemble, Server

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

SHORT = 2.2
"""A session timeout that costs little to be blocked for; what is left of it is enough for a busy machine."""
LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


def raising(_: object) -> None:
    raise ZeroDivisionError("a bug of the application")


def cancelled(_: object) -> None:
    raise asyncio.CancelledError


async def raising_later(_: object) -> None:
    await asyncio.sleep(0.01)
    raise ZeroDivisionError("a bug of the application")


async def slow(_: object) -> None:
    await asyncio.sleep(PATIENCE)


BAD: list[Callable[[Any], object]] = [raising, cancelled, raising_later, slow]


async def test_callbacks_that_fail_harm_nobody_through_a_failover(
    network: NetworkEnsemble, root: str, caplog: pytest.LogCaptureFixture
) -> None:
    followers = await network.followers()
    client = client_of(followers)
    heard: list[object] = []
    for bad in BAD:
        client.add_listener(bad)
    async with watched(client) as states, Traffic(client, root) as traffic:
        for bad in BAD:
            await client.get(root, watch=bad)
            await client.exists(f"{root}/later", watch=bad)
        await client.exists(f"{root}/later", watch=heard.append)
        used = in_use_first(client, followers)[0]
        used.pause()
        await states.until(State.CONNECTED)
        await traffic.goes_on()
        used.resume()
        await client.create(f"{root}/later")
        await until(lambda: heard)
        await states.until_told(State.SUSPENDED, State.CONNECTED)
        assert client.generation == 1
        assert traffic.longest_gap < T
    assert caplog.text.count("a bug of the application") >= 2 * len([raising, raising_later])
    end_what_is_slow()
    caplog.clear()


def end_what_is_slow() -> None:
    for task in asyncio.all_tasks():
        if "slow" in repr(task.get_coro()) or "_await" in repr(task.get_coro()):
            task.cancel()


def on_a_loop_of_its_own(new_loop: Any, scenario: Coroutine[Any, Any, Any]) -> Any:
    """The test's loop goes on meanwhile: it is another process's, as it were."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(scenario)


@LOOPS
@pytest.mark.parametrize("share", [0.5, 0.7])
async def test_a_blocked_loop_leaves_no_healthy_link(
    network: NetworkEnsemble, root: str, new_loop: Any, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    """`time.sleep` in a watch's callback, in a listener of a recipe, in any callback of the loop: with requests
    unanswered, and without; for parts of the session timeout in which the servers keep the session."""
    servers = await network.followers()
    scenario = blocked_again_and_again(servers, root, share * SHORT)
    changes, connections = await asyncio.to_thread(on_a_loop_of_its_own, new_loop, scenario)
    assert changes == []
    assert connections == 1
    reports = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("callback" in report and "blocked the event loop" in report for report in reports), reports
    assert any("event loop was blocked" in report for report in reports), reports


async def blocked_again_and_again(servers: list[Server], root: str, seconds: float) -> tuple[list[StateChange], int]:
    client = client_of(servers, session_timeout=SHORT)
    async with watched(client) as states:

        def block(_: object) -> None:
            time.sleep(seconds)

        await client.get(root, watch=block)
        await client.set(root, b"changed")  # while nothing is in flight any more
        await client.get(root)
        async with Traffic(client, root) as traffic:  # while something is
            asyncio.get_running_loop().call_soon(block, None)
            await traffic.goes_on()
        changes, connections = list(states.changes), client.connections
    return changes, connections


@LOOPS
async def test_a_loop_that_is_blocked_for_longer_than_the_session_lives(
    network: NetworkEnsemble, root: str, new_loop: Any
) -> None:
    """The servers have ended the session: that is what it is told, and not that a link was silent."""

    async def scenario() -> list[StateChange]:
        client = client_of(servers, session_timeout=1.0)
        async with watched(client) as states:
            path = (await client.create(f"{root}/ephemeral", ephemeral=True)).path
            asyncio.get_running_loop().call_soon(time.sleep, 2.0)
            await asyncio.sleep(0)
            assert await client.exists(path) is None
            assert client.generation == 2
            await states.until(State.CONNECTED)
            return list(states.changes)

    servers = await network.followers()
    changes = await asyncio.to_thread(on_a_loop_of_its_own, new_loop, scenario())
    assert [change.state for change in changes] == [State.SUSPENDED, State.LOST, State.RENEWED, State.CONNECTED]
    assert isinstance(changes[0].reason, ConnectionClosedByServerError)


async def test_a_blocked_loop_and_a_dead_server_at_once(network: NetworkEnsemble, root: str) -> None:
    """The excuse holds for a moment: a server that is silent once the loop runs again is left all the same."""
    servers = await network.followers()
    client = client_of(servers)
    async with watched(client) as states:
        in_use_first(client, servers)[0].pause()
        asyncio.get_running_loop().call_soon(time.sleep, T / 2)
        began = now()
        assert await client.exists(root) is not None
        assert now() - began < T + 0.5
        assert State.LOST not in states.states
        assert client.generation == 1
        await until_time(began + T / 2)
