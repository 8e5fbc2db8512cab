"""P6, renewed, on real ensembles: kept nodes are back within a tenth of a second of the new session, with the present
data, exactly one for each keeper, and before what waits is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from everlatch import Absence, Client, EventType, State
from promises.access import expire_at
from promises.real.ensembles import (
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
    from everlatch import Keeper, WatchEvent
    from everlatch.testing import NetworkEnsemble

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

KEPT = 100
SOON = 0.1
"""Seconds from the new session to the nodes, as others see them."""
UNDER_LOAD = 2.0
"""What is asserted: the machine may have other things to do."""


async def owners(witness: Client, root: str) -> dict[str, int]:
    await witness.sync(root)
    names = await witness.children(root)
    stats = await asyncio.gather(*(witness.exists(f"{root}/{name}") for name in names))
    return {name: stat.ephemeral_owner for name, stat in zip(names, stats, strict=True) if stat is not None}


@contextlib.asynccontextmanager
async def keeping(client: Client, root: str, count: int):
    """Named ones, and one that is numbered."""
    async with contextlib.AsyncExitStack() as stack:
        paths = [f"{root}/{number}" for number in range(count)]
        keepers: list[Keeper] = [await stack.enter_async_context(client.keep(path, b"old")) for path in paths]
        keepers.append(await stack.enter_async_context(client.keep(f"{root}/n-", b"old", sequential=True)))
        await asyncio.gather(*(keeper.wait(timeout=10) for keeper in keepers))
        yield keepers


async def test_they_are_back_within_a_tenth_of_a_second(network: NetworkEnsemble, witness: Client, root: str) -> None:
    async with proxies_of(network.servers) as proxies:
        client = client_of(proxies, session_timeout=1.0)
        async with watched(client) as states, keeping(client, root, KEPT) as keepers:
            shut_all(proxies)
            await states.until(State.SUSPENDED)
            updates = [asyncio.ensure_future(keeper.update(b"new", timeout=None)) for keeper in keepers]
            await asyncio.sleep(0)
            waiting = [client.get(f"{root}/{number}") for number in range(KEPT)]
            await until_gone(witness, f"{root}/0")
            seen: list[tuple[float, WatchEvent]] = []
            async with witness.add_watch(root, recursive=True) as events:

                async def see() -> None:
                    async for event in events:
                        if event.type is EventType.CREATED:
                            seen.append((time.monotonic(), event))

                seeing = asyncio.create_task(see())
                accept_all(proxies)
                await until(lambda: len(seen) == KEPT + 1)
                seeing.cancel()
                await asyncio.wait([seeing])
            renewed_at = states.times[states.states.index(State.RENEWED)]
            took = max(at for at, _ in seen) - renewed_at
            print(f"{KEPT + 1} kept nodes were seen by another client {took * 1000:.1f} ms after the new session began")
            assert took < UNDER_LOAD
            nodes = await asyncio.gather(*waiting)
            assert {(node.data, node.stat.ephemeral_owner) for node in nodes} == {(b"new", client.session_id)}
            await asyncio.gather(*updates)
            assert set((await owners(witness, root)).values()) == {client.session_id}
            assert len(await owners(witness, root)) == KEPT + 1
            assert {keeper.presence.reason for keeper in keepers} == {Absence.SESSION_ENDED}
        assert await witness.children(root) == []


async def test_the_former_session_s_nodes_are_still_there(network: NetworkEnsemble, witness: Client, root: str) -> None:
    """The servers take a wrong password for an ended session, and the one that they guard so well lives on."""
    client = client_of(network.servers, session_timeout=10.0)
    async with watched(client) as states, keeping(client, root, 3) as keepers:
        old_id, old_password, before = client.session_id, client.session_password, await owners(witness, root)
        assert set(before.values()) == {old_id}
        client._engine.session.password = bytes(16)
        client._engine._link.abort()
        await states.until(State.RENEWED)
        began = time.monotonic()
        await asyncio.gather(*(keeper.wait(timeout=10) for keeper in keepers))
        took = time.monotonic() - began
        print(f"what the former session had left was replaced {took * 1000:.1f} ms after the new one began")
        assert took < UNDER_LOAD, "and not when that had expired"
        after = await owners(witness, root)
        assert set(after.values()) == {client.session_id} != {old_id}
        assert len(after) == 4
        # It was alive all the time, so that something had to be replaced.
        await expire_at((old_id, old_password), network.servers[0])
        assert await owners(witness, root) == after


async def test_one_session_after_the_other(network: NetworkEnsemble, witness: Client, root: str) -> None:
    client = client_of(network.servers)
    times: list[float] = []
    async with watched(client) as states, keeping(client, root, 1) as (named, numbered):
        paths = {numbered.path}
        for number in range(5):
            states.forget()
            data = b"%d" % number
            used = await network.server_of(client.session_id)
            await expire_at(client, (await without(network, used))[0])
            await states.until(State.RENEWED)
            began = time.monotonic()
            await named.update(data, timeout=10)
            paths.add(await numbered.wait(timeout=10))
            times.append(time.monotonic() - began)
            assert set((await owners(witness, root)).values()) == {client.session_id}
            assert len(await owners(witness, root)) == 2
            assert (await witness.get(named.path)).data == data
        assert len(paths) == 6, "a new number each time"
        print(f"back and updated after {', '.join(f'{seconds * 1000:.1f}' for seconds in times)} ms")
    assert min(times) < SOON
