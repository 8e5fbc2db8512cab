"""Persistent watches on real servers of both versions: what they hear, what they miss, and what 3.8 does to them."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from everlatch import Client, EventType, NoWatcherError, WatchEvent, WatchKind
from everlatch.session.watches import CHILD, DATA
from everlatch.testing import Proxy, expire_session
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch import Subscription
    from everlatch.testing import Server

pytestmark = pytest.mark.real

CREATED, DELETED, DATA_CHANGED = EventType.CREATED, EventType.DELETED, EventType.DATA_CHANGED
CHILDREN_CHANGED, MISSED, REMOVED = EventType.CHILDREN_CHANGED, EventType.MISSED, EventType.REMOVED


@pytest.fixture
async def other(standalone: Server) -> AsyncIterator[Client]:
    """Who changes things."""
    async with Client(standalone.address, default_timeout=30) as client:
        yield client


@pytest.fixture
async def proxy(standalone: Server) -> AsyncIterator[Proxy]:
    async with Proxy(standalone.address) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    async with Client(proxy.address, default_timeout=30) as client:
        yield client


@pytest.fixture
async def root(other: Client, request: pytest.FixtureRequest) -> str:
    """A node for this test alone."""
    return (await other.create("/watch-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-"))).path


async def take(events: Subscription[WatchEvent], count: int) -> list[tuple[EventType, str]]:
    async with asyncio.timeout(20):
        return [(event.type, event.path) for event in [await anext(events) for _ in range(count)]]


async def settled(client: Client, other: Client) -> None:
    """What `other` has done so far has reached `client`, with its events."""
    await other.sync()
    await client.sync()
    await client.exists("/")


async def test_it_hears_of_the_node_and_of_its_children(client: Client, other: Client, root: str) -> None:
    path = f"{root}/a"
    async with client.add_watch(path) as events:
        await other.create(path)
        await other.set(path, b"1")
        await other.create(f"{path}/b")
        await other.set(f"{path}/b", b"unheard of")
        await other.delete(f"{path}/b")
        await other.delete(path)
        seen = await take(events, 5)
        assert seen == [(event, path) for event in (CREATED, DATA_CHANGED, CHILDREN_CHANGED, CHILDREN_CHANGED, DELETED)]


async def test_recursively_it_hears_of_all_below(client: Client, other: Client, root: str) -> None:
    async with client.add_watch(root, recursive=True) as events:
        await other.create(f"{root}/a")
        await other.create(f"{root}/a/b")
        await other.set(f"{root}/a/b", b"1")
        await other.set(root, b"1")
        await other.delete(f"{root}/a/b")
        assert await take(events, 5) == [
            (CREATED, f"{root}/a"),
            (CREATED, f"{root}/a/b"),
            (DATA_CHANGED, f"{root}/a/b"),
            (DATA_CHANGED, root),
            (DELETED, f"{root}/a/b"),
        ]


async def test_events_of_3_9_tell_their_zxid(client: Client, other: Client, root: str, zookeeper_version: str) -> None:
    async with client.add_watch(root) as events:
        stat = await other.set(root, b"1")
        (event,) = [await anext(events)]
        assert event.zxid == (stat.mzxid if zookeeper_version == "3.9" else -1)


@pytest.mark.parametrize("recursive", [False, True])
async def test_what_happens_while_it_is_cut_off_is_told_as_missed(
    client: Client, other: Client, proxy: Proxy, root: str, recursive: bool
) -> None:
    async with client.add_watch(root, recursive=recursive) as events:
        fault = proxy.refuse()
        proxy.cut()
        await other.set(root, b"unseen")
        await fault.happened()
        proxy.accept()
        assert await take(events, 1) == [(MISSED, root)]
        assert (await client.get(root)).data == b"unseen"
        await other.set(root, b"seen")
        assert await take(events, 1) == [(DATA_CHANGED, root)]


@pytest.mark.parametrize("recursive", [False, True])
async def test_it_goes_on_in_a_new_session(
    client: Client, other: Client, standalone: Server, root: str, recursive: bool
) -> None:
    async with client.add_watch(root, recursive=recursive) as events:
        await expire_session(client, standalone.address)
        assert await take(events, 1) == [(MISSED, root)]
        await client.get(root)
        await other.set(root, b"1")
        assert await take(events, 1) == [(DATA_CHANGED, root)]
        assert client.generation == 2


async def test_many_of_them_are_armed_again(client: Client, other: Client, proxy: Proxy, root: str) -> None:
    """More than fit into one frame."""
    paths = [f"{root}/{'x' * 1000}-{number:04d}" for number in range(300)]
    subscriptions = [client.add_watch(path, recursive=bool(number % 2)) for number, path in enumerate(paths)]
    await asyncio.gather(*[subscription.__aenter__() for subscription in subscriptions])
    proxy.cut()
    for subscription, path in zip(subscriptions, paths, strict=True):
        assert await take(subscription, 1) == [(MISSED, path)]
    await client.sync()
    await asyncio.gather(*[other.create(path) for path in paths])
    for subscription, path in zip(subscriptions, paths, strict=True):
        assert await take(subscription, 1) == [(CREATED, path)]
        subscription.close()
    await client.sync()
    assert client.statistics().watches == 0


@pytest.mark.parametrize("recursive", [False, True])
async def test_the_last_one_to_leave_takes_it_away_from_the_server(client: Client, root: str, recursive: bool) -> None:
    async with client.add_watch(root, recursive=recursive):
        async with client.add_watch(root, recursive=recursive):
            pass
        await client.sync()
        assert await client.check_watches(root)
    await client.sync()  # 3.8 refuses the first removal
    assert not await client.check_watches(root)


async def test_one_shot_watches_beside_it_cost_no_event(
    client: Client, other: Client, root: str, zookeeper_version: str
) -> None:
    """A one-shot watch takes the path over on servers before 3.9."""
    fired = list[EventType]()
    async with client.add_watch(root, recursive=True) as tree, client.add_watch(root) as node:
        for number in range(3):
            await client.get(root, watch=lambda event: fired.append(event.type))
            await client.children(root, watch=lambda event: fired.append(event.type))
            await other.set(root, b"%d" % number)
            await settled(client, other)
            await other.create(f"{root}/{number}")
            await settled(client, other)
        await client.sync()
        assert fired == [DATA_CHANGED, CHILDREN_CHANGED] * 3
        seen = await take(tree, tree.queued)
        heard = [event for event, _ in seen]
        assert (heard.count(CREATED), heard.count(DATA_CHANGED)) == (3, 3), seen
        # One because the other watch came behind it, and on 3.8 more of them.
        assert (heard.count(MISSED) == 1) == (zookeeper_version == "3.9"), seen
        beside = [event for event, _ in await take(node, node.queued)]
        assert (beside.count(CHILDREN_CHANGED), beside.count(DATA_CHANGED)) == (3, 3), beside


async def test_both_modes_on_one_path_in_either_order(client: Client, other: Client, root: str) -> None:
    for first in (False, True):
        async with client.add_watch(root, recursive=first) as one, client.add_watch(root, recursive=not first) as two:
            node, tree = (two, one) if first else (one, two)
            await client.sync()
            for number in range(2):
                await other.create(f"{root}/{number}")
                await other.set(root, b"")
                await other.delete(f"{root}/{number}")
            await settled(client, other)
            changes = [event for event in await take(tree, tree.queued) if event[0] is not MISSED]
            assert changes == [
                change
                for number in range(2)
                for change in ((CREATED, f"{root}/{number}"), (DATA_CHANGED, root), (DELETED, f"{root}/{number}"))
            ]
            beside = [event for event, _ in await take(node, node.queued) if event is not MISSED]
            assert beside == [CHILDREN_CHANGED, DATA_CHANGED, CHILDREN_CHANGED] * 2
        await client.sync()
        assert not await client.check_watches(root)


async def test_removing_one_shot_watches_spares_it(client: Client, other: Client, root: str) -> None:
    fired = list[EventType]()
    async with client.add_watch(root) as events:
        await client.get(root, watch=lambda event: fired.append(event.type))
        await client.remove_watches(root)
        await settled(client, other)
        await other.set(root, b"1")
        await settled(client, other)
        assert fired == [REMOVED]
        assert (await take(events, events.queued))[-1] == (DATA_CHANGED, root)


async def test_one_shot_watches_can_be_checked_and_removed_by_kind(client: Client, other: Client, root: str) -> None:
    fired = list[tuple[EventType, str]]()
    await client.get(root, watch=lambda event: fired.append((event.type, "data")))
    await client.children(root, watch=lambda event: fired.append((event.type, "children")))
    assert [await client.check_watches(root, kind) for kind in WatchKind] == [True, True, True]
    await client.remove_watches(root, WatchKind.DATA)
    assert [await client.check_watches(root, kind) for kind in WatchKind] == [True, False, True]
    with pytest.raises(NoWatcherError):
        await client.remove_watches(root, WatchKind.DATA)
    await other.set(root, b"1")
    await other.create(f"{root}/a")
    await settled(client, other)
    assert fired == [(REMOVED, "data"), (CHILDREN_CHANGED, "children")]
    assert not await client.check_watches(root)


async def test_a_removal_whose_reply_is_lost_succeeds(client: Client, proxy: Proxy, root: str) -> None:
    await client.get(root, watch=print)
    fault = proxy.lose_reply(Op.REMOVE_WATCHES)
    await client.remove_watches(root)
    assert fault.times == 1
    assert not await client.check_watches(root)


async def test_one_shot_watches_that_are_left_leave_nothing_at_the_server(client: Client, root: str) -> None:
    def callback(_: WatchEvent) -> None:
        """Nobody hears of anything."""

    missing, engine = f"{root}/missing", client._engine
    await client.get(root, watch=callback)
    await client.children(root, watch=callback)
    await client.exists(missing, watch=callback)
    engine.leave_one_shot(DATA, root, callback)
    engine.leave_one_shot(DATA, missing, callback)
    await client.sync()  # goes at once, what is left with the next turn
    kinds = (WatchKind.CHILDREN, WatchKind.DATA)
    assert [await client.check_watches(root, kind) for kind in kinds] == [True, False]
    assert not await client.check_watches(missing)
    engine.leave_one_shot(CHILD, root, callback)
    await client.sync()
    assert not await client.check_watches(root)
    reading = client.exists(root, watch=callback)
    reading.cancel()
    engine.leave_one_shot(DATA, root, callback)
    await client.sync()
    assert not await client.check_watches(root), "it was set by the answer that nobody waited for"


async def test_leaving_a_one_shot_watch_spares_persistent_ones(client: Client, other: Client, root: str) -> None:
    async with client.add_watch(root, recursive=True) as below, client.add_watch(root) as events:
        await client.get(root, watch=print)
        client._engine.leave_one_shot(DATA, root, print)
        await client.sync()
        await settled(client, other)
        for subscription in (below, events):
            await take(subscription, subscription.queued)
        await other.set(root, b"1")
        await other.create(f"{root}/a")
        await settled(client, other)
        assert (DATA_CHANGED, root) in await take(below, below.queued)
        assert await take(events, events.queued) == [(DATA_CHANGED, root), (CHILDREN_CHANGED, root)]
