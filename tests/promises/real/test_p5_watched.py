"""P5, subscriptions, on real ensembles: servers killed, links cut, sessions expired, cables pulled, permissions taken
away and given back; each subscription ends on what is, and has told nothing that never was.

What is written is a number of its own each time, so that whatever is told is known to have been, and when.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import (
    OPEN_ACL_UNSAFE,
    Children,
    Client,
    NoAuthError,
    Node,
    NodeExistsError,
    NoNodeError,
    OutcomeUnknownError,
    digest_acl,
)
from everlatch.admin import wchs
from promises.access import expire_at
from promises.real.ensembles import ON_BOTH, PATIENCE, THOROUGH, client_of, proxies_of, without
from real.faults import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from everlatch.subscriptions.states import StateSubscription
    from everlatch.testing import NetworkEnsemble, Proxy, Server

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

STORM = 60.0 if THOROUGH else 2.5
"""Seconds of faults, one after the other."""
SHARED = 5
"""Subscriptions of one path."""
RECHECK = 0.5
WRITER = ("digest", b"writer:secret")
CLOSED = (digest_acl("writer", "secret"),)
"""To all but the writer. (`auth` would be whoever else he is.)"""


class Follower:
    """One subscription, and what it has told."""

    def __init__(self, states: StateSubscription[Any], path: str) -> None:
        self._states, self.path = states, path
        self.told: list[Any] = []
        """Data, names, `None`, or `NoAuthError`."""
        self.zxids: list[int] = []

    async def follow(self) -> None:
        async with self._states:
            while True:
                try:
                    async for state in self._states:
                        self._note(state)
                    return
                except NoAuthError:
                    self.told.append(NoAuthError)

    def _note(self, state: Node | Children | None) -> None:
        self.told.append(None if state is None else state.data if isinstance(state, Node) else sorted(state.names))
        if state is not None:
            self.zxids.append(state.stat.mzxid if isinstance(state, Node) else state.stat.pzxid)

    def ends_on(self, what: object) -> bool:
        return self.told[-1:] == [what]

    def assert_in_order(self) -> None:
        assert self.zxids == sorted(self.zxids), self.told
        data = [int(each) for each in self.told if isinstance(each, bytes)]
        assert data == sorted(data), self.told
        assert len(set(data)) == len(data) or NoAuthError in self.told, self.told


class Writer:
    """Numbers for the nodes of a few paths."""

    def __init__(self, client: Client, root: str) -> None:
        self.client, self.paths = client, [f"{root}/{name}" for name in ("a", "b")]
        self._numbers = itertools.count(1)
        self._rng = random.Random(7)

    async def change(self) -> None:
        """One of them, or none."""
        path, way = self._rng.choice(self.paths), self._rng.randrange(5)
        number = next(self._numbers)
        with contextlib.suppress(NoNodeError, NodeExistsError, OutcomeUnknownError):
            if way == 0:
                await self._delete(path)
            elif way <= 2:
                await self.client.set(path, b"%d" % number)
            elif way == 3:
                await self.client.create(path, b"%d" % number)
            else:
                await self.client.create(f"{path}/{number}")

    async def _delete(self, path: str) -> None:
        for name in await self.client.children(path):
            await self.client.delete(f"{path}/{name}")
        await self.client.delete(path)

    async def until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.change()
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def following(client: Client, paths: list[str]) -> AsyncIterator[list[Follower]]:
    """Many on each path, of both kinds."""
    followers = [
        Follower(watch(path), path)
        for path in paths
        for watch in (client.watch_data, client.watch_children)
        for _ in range(SHARED)
    ]
    tasks = [asyncio.create_task(follower.follow()) for follower in followers]
    try:
        await until(lambda: all(follower.told for follower in followers))
        yield followers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def assert_all_end_on_what_is(followers: list[Follower], witness: Client) -> None:
    await witness.sync()
    for follower in followers:
        node, names = None, None
        with contextlib.suppress(NoNodeError):
            node, names = (await witness.get(follower.path)).data, sorted(await witness.children(follower.path))
        await until(lambda: follower.ends_on(node) or follower.ends_on(names), timeout=PATIENCE)  # noqa: B023
        follower.assert_in_order()


# --- faults -----------------------------------------------------------------------------------------------------------


async def killed(network: NetworkEnsemble, client: Client, proxies: list[Proxy]) -> None:
    server = await network.server_of(client.session_id)
    await server.kill()
    await until(lambda: client.state.name == "CONNECTED", timeout=PATIENCE)
    await server.start()


async def cut(network: NetworkEnsemble, client: Client, proxies: list[Proxy]) -> None:
    before = client.connections
    for proxy in proxies:
        proxy.cut()
    await until(lambda: client.connections > before)


async def expired(network: NetworkEnsemble, client: Client, proxies: list[Proxy]) -> None:
    before = client.generation
    used = await network.server_of(client.session_id)
    await expire_at(client, (await without(network, used))[0])
    await until(lambda: client.generation > before)


async def unplugged(network: NetworkEnsemble, client: Client, proxies: list[Proxy]) -> None:
    """`ip link set … down`, and up again."""
    server = await network.server_of(client.session_id)
    before = client.connections
    await network.link_down(server, "clients")
    try:
        await until(lambda: client.connections > before, timeout=PATIENCE)
    finally:
        await network.link_up(server, "clients")


FAULTS: list[Callable[[NetworkEnsemble, Client, list[Proxy]], Any]] = [killed, cut, expired, unplugged]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_it_ends_on_what_is(network: NetworkEnsemble, witness: Client, root: str, fault: Any) -> None:
    writer, stop = Writer(witness, root), asyncio.Event()
    async with proxies_of(network.servers) as proxies, client_of(_places(network, proxies, fault)) as client:
        async with following(client, writer.paths) as followers:
            writing = asyncio.create_task(writer.until(stop))
            await fault(network, client, proxies)
            await asyncio.sleep(0.05)
            stop.set()
            await writing
            await assert_all_end_on_what_is(followers, witness)
        assert client.statistics().watches == 0


def _places(network: NetworkEnsemble, proxies: list[Proxy], fault: Any) -> Any:
    """Behind the proxies links don't go down; what is behind them does."""
    return proxies if fault is cut else network.servers


async def test_all_of_it_for_a_while(network: NetworkEnsemble, witness: Client, root: str) -> None:
    """Behind proxies and not, one fault after the other, with writers all the time."""
    writer, stop, rng = Writer(witness, root), asyncio.Event(), random.Random(11)
    end = time.monotonic() + STORM
    async with (
        proxies_of(network.servers) as proxies,
        client_of(network.servers) as plain,
        client_of(proxies) as behind,
        following(plain, writer.paths) as some,
        following(behind, writer.paths) as others,
    ):
        writing = asyncio.create_task(writer.until(stop))
        while time.monotonic() < end:
            fault = rng.choice(FAULTS)
            await fault(network, behind if fault is cut else plain, proxies)
            await asyncio.sleep(rng.uniform(0.0, 0.5))
        stop.set()
        await writing
        await until(lambda: plain.state.name == behind.state.name == "CONNECTED", timeout=PATIENCE)
        await assert_all_end_on_what_is([*some, *others], witness)


# --- permissions ------------------------------------------------------------------------------------------------------


@ON_BOTH
async def test_a_loss_of_read_is_said_once_and_its_return_is_found(network: NetworkEnsemble, root: str) -> None:
    async with (
        client_of(network.servers, auth=[WRITER]) as writer,
        client_of(network.servers, recheck_interval=RECHECK) as client,
    ):
        path = (await writer.create(f"{root}/closed", b"0")).path
        async with following(client, [path]) as followers:
            for number in (1, 2):
                await writer.set_acl(path, CLOSED)
                await writer.set(path, b"%d" % number)
                await writer.create(f"{path}/{number}")
                await until(lambda: all(follower.ends_on(NoAuthError) for follower in followers))
                await writer.set_acl(path, OPEN_ACL_UNSAFE)
                await assert_all_end_on_what_is(followers, writer)
            for follower in followers:
                assert follower.told.count(NoAuthError) == 2, follower.told


@ON_BOTH
async def test_what_changed_while_nobody_was_told_is_found(network: NetworkEnsemble, root: str) -> None:
    async with (
        client_of(network.servers, auth=[WRITER]) as writer,
        client_of(network.servers, recheck_interval=RECHECK) as client,
    ):
        path = (await writer.create(f"{root}/closed", b"0")).path
        async with following(client, [path]) as followers:
            await writer.set_acl(path, CLOSED)
            await writer.set(path, b"1")
            await writer.create(f"{path}/1")
            await writer.set_acl(path, OPEN_ACL_UNSAFE)
            await assert_all_end_on_what_is(followers, writer)


# --- many -------------------------------------------------------------------------------------------------------------


async def test_a_thousand_subscriptions_of_one_path_cost_the_server_one_watch(standalone: Server) -> None:
    async with client_of([standalone], session_timeout=30) as client, client_of([standalone]) as writer:
        path = (await writer.create("/promise-5-", sequential=True)).path
        before = await wchs(standalone.plain_address)
        followers = [Follower(client.watch_data(path), path) for _ in range(1000)]
        tasks = [asyncio.create_task(follower.follow()) for follower in followers]
        await until(lambda: all(follower.told for follower in followers))
        during = await wchs(standalone.plain_address)
        assert during.watches - before.watches <= 2, "a persistent watch is in both tables of the server"
        assert during.paths - before.paths == 1
        for number in range(1, 4):
            await writer.set(path, b"%d" % number)
            await until(lambda: all(follower.ends_on(b"%d" % number) for follower in followers))  # noqa: B023
        assert all(follower.told == [b"", b"1", b"2", b"3"] for follower in followers), "each was woken once"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await client.sync()
        await until(lambda: client.statistics().watches == 0)
        after = await wchs(standalone.plain_address)
        for _ in range(100):
            if after.watches == before.watches:
                break
            await asyncio.sleep(0.01)
            after = await wchs(standalone.plain_address)
        assert after.watches == before.watches
