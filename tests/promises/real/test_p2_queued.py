"""P2, queued, on real ensembles: calls made while no server is there wait in their order, until their own timeout, and
are sent once; those that are bound to a session end with it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import CallTimeoutError, Client, Created, QueueFullError, SessionExpiredError, State
from everlatch.testing import Op
from promises.real.ensembles import (
    ON_OLDER,
    accept_all,
    client_of,
    proxies_of,
    shut_all,
    until_gone,
    watched,
    without,
)
from real.faults import until

if TYPE_CHECKING:
    from everlatch.testing import NetworkEnsemble, Proxy

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

COUNT = 200


def numbers(made: list[Created]) -> list[int]:
    """What the server has counted."""
    return [int(created.path[-10:]) for created in made]


def writes(proxies: list[Proxy]) -> list[str]:
    """The data of all creates that were sent, in the order in which they came."""
    return [request.path for proxy in proxies for request in proxy.seen(Op.CREATE2)]


@ON_OLDER
async def test_calls_made_during_an_election_run_once_and_in_order(network: NetworkEnsemble, root: str) -> None:
    leader = await network.leader()
    client = client_of([leader, *await without(network, leader)], session_timeout=10.0)
    async with watched(client) as states:
        await leader.kill()
        await states.until(State.SUSPENDED)
        creates: list[Any] = [client.create(f"{root}/n-", b"%d" % number, sequential=True) for number in range(COUNT)]
        counts: list[Any] = [client.exists(root)]
        made = await asyncio.gather(*creates)
        assert numbers(made) == sorted(numbers(made))
        assert (await counts[0]).num_children >= COUNT
        assert len(await client.children(root)) == COUNT
        data = await asyncio.gather(*[client.get(created.path) for created in made])
        assert [int(node.data) for node in data] == list(range(COUNT))
        assert client.generation == 1


async def test_calls_made_while_every_server_is_frozen(network: NetworkEnsemble, root: str) -> None:
    """The link is open and nothing is answered: what was sent may be in doubt, what was not runs once."""
    client = client_of(network.servers, session_timeout=10.0, max_in_flight=10)
    async with watched(client):
        for server in network.servers:
            server.pause()
        creates: list[Any] = [client.create(f"{root}/n-", b"%d" % number, sequential=True) for number in range(COUNT)]
        await until(lambda: client.statistics().in_flight == 10)
        for server in network.servers:
            server.resume()
        ends = await asyncio.gather(*creates, return_exceptions=True)
        assert all(isinstance(end, Created) for end in ends[10:])
        made = [end for end in ends if isinstance(end, Created)]
        assert numbers(made) == sorted(numbers(made))
        assert len(made) <= len(await client.children(root)) <= COUNT


async def test_each_waits_for_its_own_timeout_and_is_never_sent_then(network: NetworkEnsemble, root: str) -> None:
    async with proxies_of(network.servers) as proxies:
        client = client_of(proxies, session_timeout=10.0)
        async with watched(client) as states:
            shut_all(proxies)
            await states.until(State.SUSPENDED)
            timeouts = [0.3, 0.1, 20.0, 0.2, None, 0.0]
            loop = asyncio.get_running_loop()
            began = loop.time()
            calls: list[Any] = [client.create(f"{root}/n{number}", timeout=t) for number, t in enumerate(timeouts)]
            for call, timeout in zip(calls, timeouts, strict=True):
                if timeout is not None and timeout < 1:
                    with pytest.raises(CallTimeoutError) as caught:
                        await call
                    assert caught.value.sent is False
                    assert loop.time() - began >= timeout
            assert loop.time() - began < 1.3
            accept_all(proxies)
            await asyncio.gather(calls[2], calls[4])
            assert sorted(await client.children(root)) == ["n2", "n4"]
            assert writes(proxies) == [f"{root}/n2", f"{root}/n4"]


async def test_a_full_queue_says_so_at_once(network: NetworkEnsemble, root: str) -> None:
    async with proxies_of(network.servers) as proxies:
        for limits in ({"max_queued_calls": 5}, {"max_queued_bytes": 5000}):
            client = client_of(proxies, session_timeout=10.0, **limits)
            async with watched(client) as states:
                shut_all(proxies)
                await states.until(State.SUSPENDED)
                calls: list[Any] = []
                with pytest.raises(QueueFullError):
                    fill(client, root, calls)
                assert 1 < len(calls) <= 5
                accept_all(proxies)
                assert len(await asyncio.gather(*calls)) == len(calls)
                await client.create(f"{root}/n-", sequential=True)


def fill(client: Client, root: str, calls: list[Any]) -> None:
    while len(calls) < 100:
        calls.append(client.create(f"{root}/n-", bytes(900), sequential=True))


async def test_calls_bound_to_a_session_end_with_it(network: NetworkEnsemble, witness: Client, root: str) -> None:
    async with proxies_of(network.servers) as proxies:
        client = client_of(proxies, session_timeout=1.0)
        async with watched(client) as states:
            bound = client.in_session()
            mark = (await client.create(f"{root}/ephemeral", ephemeral=True)).path
            shut_all(proxies)
            await states.until(State.SUSPENDED)
            calls: list[Any] = []
            for number in range(20):
                calls += [bound.create(f"{root}/bound-{number}"), client.create(f"{root}/free-{number}")]
            await until_gone(witness, mark)
            assert not any(call.done() for call in calls), "nobody knows yet whether it lives"
            accept_all(proxies)
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(end, SessionExpiredError) for end in ends[::2])
            assert all(isinstance(end, Created) for end in ends[1::2])
            assert writes(proxies)[1:] == [f"{root}/free-{number}" for number in range(20)]
            with pytest.raises(SessionExpiredError):
                await bound.exists(root)
