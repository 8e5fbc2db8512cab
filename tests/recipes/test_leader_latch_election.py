"""Elections on a real server, without faults: who leads, what lies in ZooKeeper, who is told what."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from everlatch.errors import NotLeaderError
from everlatch.recipes import LeaderLatch, Participant
from everlatch.wire.codes import Op
from recipes.election import GUID, LIMIT, Heard, nodes, started, until_gone, until_nodes

if TYPE_CHECKING:
    from everlatch import Client
    from everlatch.testing import Proxy
    from recipes.conftest import Connect

pytestmark = pytest.mark.real

NODE = re.compile(r"_c_[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}-latch-[0-9]{10}")


# -- who leads ---------------------------------------------------------------------------------------------------------


async def test_one_of_three_leads_and_tokens_rise(connect: Connect, path: str) -> None:
    """One member leads at a time, in the order of the nodes; the token is its node's czxid and grows."""
    clients = [await connect() for _ in range(3)]
    latches = [await started(client, path, f"m{number}") for number, client in enumerate(clients)]
    tokens = []
    for latch, client in zip(latches, clients, strict=True):
        tokens.append(await latch.wait(timeout=LIMIT))
        assert [other for other in latches if other.is_leader] == [latch]
        assert latch.token == tokens[-1] == (await client.get(latch.node)).stat.czxid
        await latch.close()
    assert tokens == sorted(set(tokens))
    assert await nodes(clients[0], path) == []


async def test_closing_wakes_exactly_the_next(connect: Connect, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No herd: of five members, only the one behind the leader hears of its end and asks again."""
    # Now and then the others look how far they are; not in this test, however long it takes.
    monkeypatch.setattr("everlatch.recipes.leader_latch._LOOK_INTERVAL", 10 * LIMIT)
    clients = [await connect() for _ in range(5)]
    latches = [await started(client, path, str(number)) for number, client in enumerate(clients)]
    await latches[0].wait(timeout=LIMIT)
    for client, watches in zip(clients, [1, 2, 2, 2, 2], strict=True):  # its own node, and the one ahead
        while client.statistics().watches < watches:
            await client.sync("/")
    before = [client.statistics() for client in clients]
    await latches[0].close()
    await latches[1].wait(timeout=LIMIT)
    # What the server had to tell the others, it told before it answers this.
    for client in clients[2:]:
        await client.get(path)
    after = [client.statistics() for client in clients]
    events = [new.events_received - old.events_received for old, new in zip(before, after, strict=True)]
    assert events[1:] == [1, 0, 0, 0]
    asked = [new.requests_sent - old.requests_sent for old, new in zip(before, after, strict=True)]
    assert asked[2:] == [1, 1, 1]
    assert [latch.is_leader for latch in latches] == [False, True, False, False, False]
    for latch in latches:
        await latch.close()


async def test_who_has_become_next_notices_by_itself_and_holds_the_lease(
    connect: Connect, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells it: the leader's end wakes one member alone. Its turn costs one round trip all the same."""
    monkeypatch.setattr("everlatch.recipes.leader_latch._LOOK_INTERVAL", 0.05)
    clients = [await connect() for _ in range(3)]
    latches = [await started(client, path, str(number)) for number, client in enumerate(clients)]
    async with asyncio.timeout(LIMIT):
        while not clients[1].lease_time_left:
            await clients[1].sync("/")
        assert not clients[2].lease_time_left
        await latches[0].close()
        await latches[1].wait()
        while not clients[2].lease_time_left:
            await clients[2].sync("/")
    assert latches[1].is_leader
    for latch in latches:
        await latch.close()


async def test_who_has_not_noticed_takes_over_all_the_same(connect: Connect, path: str) -> None:
    """Several leaders leave, one right after the other."""
    clients = [await connect() for _ in range(4)]
    latches = [await started(client, path, str(number)) for number, client in enumerate(clients)]
    for latch in latches:
        await latch.wait(timeout=LIMIT)
        await latch.close()
    assert await nodes(clients[0], path) == []


async def next_in_line(client: Client, path: str) -> LeaderLatch:
    """The second of two members: it has looked, has both watches, and holds the lease."""
    latch = await started(client, path, "second")
    async with asyncio.timeout(LIMIT):
        while client.statistics().watches < 2 or not client.lease_time_left:
            await client.sync("/")
    return latch


async def test_the_next_in_line_leads_with_the_news_alone(
    connect: Connect, client: Client, proxy: Proxy, path: str
) -> None:
    """Nobody can have come before it since it looked: it asks nothing before it leads, and looks afterwards."""
    first = await started(client, path, "first")
    second = await next_in_line(await connect(proxy), path)
    look = proxy.hold_request(Op.GET_CHILDREN)
    await first.close()
    token = await second.wait(timeout=LIMIT)
    assert token == (await client.get(second.node)).stat.czxid
    await look.reached()
    look.release()
    await until_nodes(client, path, lambda names: len(names) == 1)
    assert second.is_leader
    await second.close()


async def test_the_next_in_line_whose_node_was_touched_looks_before_it_leads(
    connect: Connect, client: Client, proxy: Proxy, path: str
) -> None:
    """The watch on it is spent: it may be gone, and nobody would have told."""
    first = await started(client, path, "first")
    member = await connect(proxy)
    second = await next_in_line(member, path)
    look = proxy.hold_request(Op.GET_CHILDREN)
    await client.set(second.node, b"touched")
    await look.reached()
    await first.close()
    async with asyncio.timeout(LIMIT):
        while member.statistics().events_received < 2:
            await client.sync("/")
    assert not second.is_leader
    look.release()
    await second.wait(timeout=LIMIT)
    await second.close()


async def test_six_members_resign_in_turn(connect: Connect, path: str) -> None:
    """Everyone leads once, and no two of them at once: each stamps its term before it trusts `is_leader`."""
    loop = asyncio.get_running_loop()
    terms: list[tuple[float, float, int]] = []

    async def member(number: int) -> None:
        client = await connect()
        async with LeaderLatch(client, path, f"m{number}") as latch:
            token = await latch.wait(timeout=LIMIT)
            begin = end = loop.time()
            for _ in range(20):
                await client.exists(latch.node)
                stamp = loop.time()
                if latch.is_leader:
                    end = stamp
            assert end > begin
            terms.append((begin, end, token))

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(member(number))
    assert len(terms) == 6
    for (_, end, token), (begin, _, next_token) in zip(sorted(terms), sorted(terms)[1:], strict=False):
        assert end < begin
        assert token < next_token


async def test_two_latches_of_one_client(client: Client, path: str) -> None:
    """Two members may share a client, and even a path: they are two nodes, and one leads."""
    async with LeaderLatch(client, path, "a") as first:
        await first.wait(timeout=LIMIT)
        async with LeaderLatch(client, path, "b") as second, LeaderLatch(client, f"{path}-other", "c") as elsewhere:
            await elsewhere.wait(timeout=LIMIT)
            await until_nodes(client, path, lambda names: len(names) == 2)
            assert (first.is_leader, second.is_leader) == (True, False)
            await first.close()
            await second.wait(timeout=LIMIT)
            assert elsewhere.is_leader


# -- what lies in ZooKeeper --------------------------------------------------------------------------------------------


async def test_the_layout_is_curators(client: Client, path: str) -> None:
    """Name, data, owner and number of the node are what Curator's members write and expect."""
    async with LeaderLatch(client, path, "wörker-1") as latch:
        await latch.wait(timeout=LIMIT)
        (name,) = await nodes(client, path)
        assert NODE.fullmatch(name)
        assert name.endswith("-latch-0000000000")
        assert latch.node == f"{path}/{name}"
        data, stat = await client.get(latch.node)
        assert data == "wörker-1".encode()
        assert stat.ephemeral_owner == client.session_id


async def test_no_id_is_no_data(client: Client, path: str) -> None:
    """Curator's default id is empty, and so is its node."""
    async with LeaderLatch(client, path) as latch:
        await latch.wait(timeout=LIMIT)
        assert (await client.get(latch.node)).data == b""


async def test_the_path_is_made_of_containers(connect: Connect, client: Client, proxy: Proxy, path: str) -> None:
    """The latch path and its ancestors are created as containers, which the servers reap when they are empty."""
    deep = f"{path}/of/the/latch"
    async with LeaderLatch(await connect(proxy), deep) as latch:
        await latch.wait(timeout=LIMIT)
    assert len(proxy.seen(Op.CREATE_CONTAINER)) >= 4
    assert not proxy.seen(Op.CREATE)
    for ancestor in (path, f"{path}/of", f"{path}/of/the", deep):
        assert (await client.get(ancestor)).stat.ephemeral_owner == 0  # a container says 0 since 3.5.4


async def test_under_a_chroot(connect: Connect, client: Client, path: str) -> None:
    """All paths are the client's own; the chroot is made if it is missing."""
    below = await connect(chroot=path)
    async with LeaderLatch(below, "/leader", "x") as latch:
        await latch.wait(timeout=LIMIT)
        assert latch.node.startswith("/leader/_c_")
        assert (await client.get(path + latch.node)).data == b"x"
        # The self-watch compares paths as well.
        await client.delete(path + latch.node)
        await latch.wait_lost()
        await latch.wait(timeout=LIMIT)


async def test_a_curator_member_takes_part(client: Client, connect: Connect, path: str) -> None:
    """A node with Curator's name is waited for, and listed."""
    await client.create(path, container=True)
    curator = await client.create(f"{path}/_c_{GUID}-latch-", b"java", ephemeral=True, sequential=True)
    member = await connect()
    async with LeaderLatch(member, path, "python") as latch:
        await until_nodes(client, path, lambda names: len(names) == 2)
        with pytest.raises(TimeoutError):
            await latch.wait(timeout=0.1)
        assert await latch.participants() == [Participant("java", True), Participant("python", False)]
        await client.delete(curator.path)
        assert await latch.wait(timeout=LIMIT) > curator.stat.czxid


async def test_strangers_dont_block(client: Client, path: str) -> None:
    """Children that are no contenders (kazoo's locks, say) neither hold up a member nor count as one."""
    await client.create(path)
    await client.create(f"{path}/00000000__lock__", ephemeral=True, sequential=True)
    await client.create(f"{path}/config")
    async with LeaderLatch(client, path, "me") as latch:
        await latch.wait(timeout=LIMIT)
        assert await latch.participants() == [Participant("me", True)]


# -- changes of the nodes ----------------------------------------------------------------------------------------------


async def test_own_node_deleted_by_a_stranger(client: Client, connect: Connect, path: str) -> None:
    """Leadership ends at once; the member comes back with a new node and a larger token."""
    latch = LeaderLatch(await connect(), path)
    heard = Heard()
    latch.add_listener(heard)
    await latch.start()
    token = await latch.wait(timeout=LIMIT)
    first = latch.node
    await client.delete(first)
    await heard.until(True, False, True)
    assert latch.token > token
    assert latch.node != first
    assert await nodes(client, path) == [latch.node.rpartition("/")[2]]
    await latch.close()


async def test_waiting_node_deleted_by_a_stranger(client: Client, connect: Connect, path: str) -> None:
    """A member that waits notices as well, and queues up again at the end."""
    first = await started(await connect(), path, "1")
    second = await started(await connect(), path, "2")
    third = await started(await connect(), path, "3")
    await client.delete(second.node)
    await until_nodes(client, path, lambda names: len(names) == 3)
    assert [member.id for member in await first.participants()] == ["1", "3", "2"]
    await first.close()
    await third.wait(timeout=LIMIT)
    assert not second.is_leader
    await third.close()
    await second.wait(timeout=LIMIT)
    await second.close()


async def test_predecessor_deleted_in_the_middle(client: Client, connect: Connect, path: str) -> None:
    """When the one ahead goes, but was not the leader, the member watches the next one ahead, and leads later."""
    first = await started(await connect(), path, "1")
    second = await started(await connect(), path, "2")
    third = await started(await connect(), path, "3")
    await first.wait(timeout=LIMIT)
    await second.close()
    await until_nodes(client, path, lambda names: len(names) == 2)
    assert (first.is_leader, third.is_leader) == (True, False)
    await first.close()
    await third.wait(timeout=LIMIT)
    await third.close()


async def test_latch_path_deleted_while_waiting(client: Client, connect: Connect, path: str) -> None:
    """Somebody wipes the whole path: both members make it anew and one leads (CURATOR-724)."""
    first = await started(await connect(), path, "1")
    second = await started(await connect(), path, "2")
    token = await first.wait(timeout=LIMIT)
    lost = asyncio.ensure_future(first.wait_lost())
    async with client.transaction() as wipe:
        wipe.delete(first.node)
        wipe.delete(second.node)
        wipe.delete(path)
    await asyncio.wait_for(lost, LIMIT)
    await until_nodes(client, path, lambda names: len(names) == 2)
    waits = [asyncio.ensure_future(latch.wait(timeout=LIMIT)) for latch in (first, second)]
    done, others = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    assert done.pop().result() > token
    assert [first.is_leader, second.is_leader].count(True) == 1
    for wait in others:
        wait.cancel()
    await first.close()
    await second.close()


async def test_data_of_the_own_node_changed(client: Client, connect: Connect, path: str) -> None:
    """Somebody writes to the leader's node: it goes on leading, and still notices its deletion."""
    latch = LeaderLatch(await connect(), path)
    heard = Heard()
    latch.add_listener(heard)
    await latch.start()
    await latch.wait(timeout=LIMIT)
    for _ in range(3):
        await client.set(latch.node, b"scribble")
    token = latch.token
    await client.delete(latch.node)
    await heard.until(True, False, True)
    assert latch.token > token
    await latch.close()


# -- asking ------------------------------------------------------------------------------------------------------------


async def test_participants_of_nothing(client: Client, path: str) -> None:
    """A latch path that is missing, or empty, has no members and no leader."""
    latch = LeaderLatch(client, path)
    assert await latch.participants() == []
    assert await latch.leader() is None
    await client.create(path)
    assert await latch.participants() == []
    assert await latch.leader() is None


async def test_participants_that_vanish_meanwhile(client: Client, connect: Connect, proxy: Proxy, path: str) -> None:
    """A node that goes between the list and its reading is left out; the next one counts as the leader."""
    await client.create(path)
    made = [
        (await client.create(f"{path}/_c_{GUID}-latch-", name, ephemeral=True, sequential=True)).path
        for name in (b"a", b"b", b"c")
    ]
    latch = LeaderLatch(await connect(proxy), path)
    held = proxy.hold_reply(Op.GET_CHILDREN)
    asked = asyncio.ensure_future(latch.participants())
    await held.reached()
    await client.delete(made[0])
    held.release()
    assert await asked == [Participant("b", True), Participant("c", False)]
    assert await latch.leader() == Participant("b", True)


async def test_participant_id_that_is_no_text(client: Client, path: str) -> None:
    """Other programs may write any bytes: they are shown, not raised."""
    await client.create(path)
    await client.create(f"{path}/_c_{GUID}-latch-", b"\xff\xfe", ephemeral=True, sequential=True)
    assert await LeaderLatch(client, path).leader() == Participant("��", True)


async def test_listeners_are_told_in_order(client: Client, connect: Connect, path: str) -> None:
    """Synchronous, raising and slow asynchronous listeners all get every change, in order, whatever the others do."""
    latch = LeaderLatch(await connect(), path)
    gate = asyncio.Event()
    slow_told: list[bool] = []
    slow_done = asyncio.Event()

    def raising(leads: bool) -> None:
        raise RuntimeError(f"told {leads}")

    async def slow(leads: bool) -> None:
        await gate.wait()
        slow_told.append(leads)
        if len(slow_told) == 3:
            slow_done.set()

    heard = Heard()
    removed = Heard()
    latch.add_listener(raising)
    latch.add_listener(slow)
    remove = latch.add_listener(removed)
    latch.add_listener(heard)
    await latch.start()
    await heard.until(True)
    await removed.until(True)
    remove()
    remove()
    await client.delete(latch.node)
    await heard.until(True, False, True)
    assert slow_told == []
    gate.set()
    await asyncio.wait_for(slow_done.wait(), LIMIT)
    assert slow_told == [True, False, True]
    assert removed.told == [True]
    await latch.close()
    await heard.until(True, False, True, False)


async def test_no_token_without_leadership(client: Client, connect: Connect, path: str) -> None:
    """`token` is only for the leader: before, while another leads, and after closing it raises."""
    async with LeaderLatch(client, path, "first") as first:
        await first.wait(timeout=LIMIT)
        latch = LeaderLatch(await connect(), path, "second")
        with pytest.raises(NotLeaderError, match="second"):
            _ = latch.token
        await latch.start()
        await until_nodes(client, path, lambda names: len(names) == 2)
        with pytest.raises(NotLeaderError, match=re.escape(path)):
            _ = latch.token
        await latch.close()
    with pytest.raises(NotLeaderError):
        _ = first.token
    await until_gone(client, path)
