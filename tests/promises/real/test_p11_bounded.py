"""P11, bounded, on real ensembles: `close()` returns within its timeout whatever has become of servers and links, and
never connects only to close; every other call ends within its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import CallTimeoutError, Client, EverlatchError, OutcomeUnknownError, StartError, State
from everlatch.recipes.leader_latch import LeaderLatch
from everlatch.testing import HANDSHAKE
from promises.real.ensembles import T, client_of, now, proxies_of, shut_all, until_gone, watched
from real.faults import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from everlatch.testing import NetworkEnsemble, Proxy

    Strike = Callable[[NetworkEnsemble, list[Proxy]], Awaitable[None]]

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

TIMEOUT = 0.3
SLACK = 0.3
"""Seconds, for a machine that is busy with starting servers."""


# --- what has become of servers and links -------------------------------------------------------------------------


async def nothing(network: NetworkEnsemble, proxies: list[Proxy]) -> None:
    pass


async def all_frozen(network: NetworkEnsemble, proxies: list[Proxy]) -> None:
    for server in network.servers:
        server.pause()


async def all_killed(network: NetworkEnsemble, proxies: list[Proxy]) -> None:
    await asyncio.gather(*[server.kill() for server in network.servers])


async def all_black_holes(network: NetworkEnsemble, proxies: list[Proxy]) -> None:
    for proxy in proxies:
        proxy.black_hole()


async def answers_are_lost(network: NetworkEnsemble, proxies: list[Proxy]) -> None:
    for proxy in proxies:
        proxy.black_hole("to_client")


async def all_refuse(network: NetworkEnsemble, proxies: list[Proxy]) -> None:
    shut_all(proxies)


async def all_accept_and_never_answer(network: NetworkEnsemble, proxies: list[Proxy]) -> None:
    for proxy in proxies:
        proxy.black_hole()
        proxy.cut()


async def no_quorum(network: NetworkEnsemble, proxies: list[Proxy]) -> None:
    await asyncio.gather(*[server.kill() for server in await network.followers()])


async def cables_pulled(network: NetworkEnsemble, proxies: list[Proxy]) -> None:
    for server in network.servers:
        await network.link_down(server)


FAULTS: list[Strike] = [
    nothing,
    all_frozen,
    all_killed,
    all_black_holes,
    answers_are_lost,
    all_refuse,
    all_accept_and_never_answer,
    no_quorum,
    cables_pulled,
]
EACH_FAULT = pytest.mark.parametrize("strike", FAULTS, ids=lambda strike: strike.__name__)


async def close_in_time(client: Client, timeout: float = TIMEOUT) -> None:
    began = now()
    await client.close(timeout)
    assert now() - began <= timeout + SLACK
    assert client.state is State.CLOSED


def greetings(proxies: list[Proxy]) -> int:
    return sum(len(proxy.seen(HANDSHAKE)) for proxy in proxies)


async def all_end(calls: list[Any], *kinds: type[BaseException]) -> None:
    """They have ended already."""
    assert all(call.done() for call in calls)
    errors_of(await asyncio.gather(*calls, return_exceptions=True), *kinds)


def errors_of(ends: list[Any], *kinds: type[BaseException]) -> list[BaseException]:
    errors = [end for end in ends if isinstance(end, BaseException)]
    assert all(isinstance(error, kinds) for error in errors), errors
    return errors


@EACH_FAULT
async def test_closing_and_calling_in_every_state(network: NetworkEnsemble, root: str, strike: Strike) -> None:
    """Of clients with calls on the way and a latch, one is closed at the moment of the fault, and one when it has been
    told of it, or not for some time; a third is started only then, and closed while it connects. What is called
    ends in time, too, and so does `start`."""
    async with proxies_of(network.servers) as proxies, contextlib.AsyncExitStack() as stack:
        at_once, later = client_of(proxies, default_timeout=None), client_of(network.servers, default_timeout=None)
        for client in (at_once, later):
            await client.start()
            stack.push_async_callback(client.close, 0)
            latch = await stack.enter_async_context(LeaderLatch(client, f"{root}/latch"))
            await until(lambda latch=latch: latch.node)  # type: ignore[misc]
        states = later.states()
        await strike(network, proxies)

        calls: list[Any] = [at_once.create(f"{root}/n-", sequential=True), at_once.exists(root)]
        greeted = greetings(proxies)
        await close_in_time(at_once)
        await all_end(calls, EverlatchError)
        # An attempt may have been under way.
        assert greetings(proxies) <= greeted + 1

        await asyncio.gather(
            every_call_ends_in_time(later, root, strike),
            closed_while_connecting(client_of(proxies)),
            closed_while_connecting(client_of(network.servers)),
            started_in_time(client_of(proxies, start_timeout=TIMEOUT)),
            started_in_time(client_of(network.servers, start_timeout=TIMEOUT)),
        )
        calls = [later.create(f"{root}/n-", sequential=True), later.exists(root)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(T / 4):
                async for change in states:
                    if change.state is State.SUSPENDED:
                        break
        await close_in_time(later)
        await all_end(calls, EverlatchError)


OF_PROXIES = (all_black_holes, answers_are_lost, all_refuse, all_accept_and_never_answer)
"""The servers themselves are well."""


async def every_call_ends_in_time(client: Client, root: str, strike: Strike) -> None:
    well = strike is nothing or strike in OF_PROXIES
    timeout = T if well else TIMEOUT  # long enough to be answered, where somebody answers
    began = now()
    calls: list[Any] = [
        client.get(root, timeout=timeout),
        client.create(f"{root}/n-", sequential=True, timeout=timeout),
        client.sync(timeout=timeout),
        client.transaction().commit(timeout=timeout),
        client.ensure_path(f"{root}/a/b", timeout=timeout),
        client.wait_connected(timeout=timeout),
    ]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert now() - began <= timeout + SLACK
    errors = errors_of(ends, CallTimeoutError, OutcomeUnknownError)
    assert bool(errors) is not well


async def closed_while_connecting(client: Client) -> None:
    await client.start(wait=False)
    call = client.exists("/")
    await until(lambda: client.statistics().connection_attempts)
    await asyncio.sleep(0)
    await close_in_time(client)
    await all_end([call], EverlatchError)


async def started_in_time(client: Client) -> None:
    """Or closed, as soon as it is."""
    began = now()
    with contextlib.suppress(StartError):
        await client.start()
    assert now() - began <= TIMEOUT + SLACK
    await close_in_time(client)


async def test_close_when_the_session_is_assumed_lost_never_connects_again(network: NetworkEnsemble, root: str) -> None:
    async with proxies_of(network.servers) as proxies:
        client = client_of(proxies, session_timeout=1.0)
        async with watched(client) as states:
            shut_all(proxies)
            await states.until(State.LOST)
            call = client.create(f"{root}/never")
            for proxy in proxies:
                proxy.requests.clear()
            await close_in_time(client)
            for proxy in proxies:
                proxy.accept()
            with pytest.raises(EverlatchError):
                await call
            assert greetings(proxies) == 0
            assert not any(proxy.connections for proxy in proxies)


async def test_close_ends_the_session_at_the_servers(network: NetworkEnsemble, witness: Client, root: str) -> None:
    """Through the calls that were made before, which are answered."""
    client = client_of(network.servers, session_timeout=30.0)
    await client.start()
    path = (await client.create(f"{root}/ephemeral", ephemeral=True)).path
    calls: list[Any] = [client.create(f"{root}/n-", sequential=True) for _ in range(100)]
    began = now()
    await client.close(timeout=10)
    assert len(await asyncio.gather(*calls)) == 100
    assert await until_gone(witness, path) - began < 5
