"""The leader latch when replies are lost, links break, sessions end, and permissions are missing."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from everlatch import CallTimeoutError, Client
from everlatch.errors import ClientClosedError, ClientStateError, NoAuthError, NotLeaderError
from everlatch.recipes import LeaderLatch, leader_latch
from everlatch.types import ACL, OPEN_ACL_UNSAFE, Permission, State
from everlatch.wire.codes import Op
from real.faults import shut, until
from recipes.election import GUID, LIMIT, Heard, end_session, nodes, started, until_gone, until_nodes

if TYPE_CHECKING:
    from everlatch.testing import Proxy, Server
    from recipes.conftest import Connect

pytestmark = pytest.mark.real

SHORT = 3.0
"""Seconds of a session whose lease is waited for until it ends."""


@pytest.fixture
async def member(connect: Connect, proxy: Proxy) -> Client:
    """A client whose link is in the proxy's hands."""
    return await connect(proxy)


@pytest.fixture
async def made(client: Client, path: str) -> str:
    """A latch path that exists, so that the member's first create is the one that counts."""
    await client.create(path)
    return path


async def until_state(client: Client, state: State) -> None:
    async with asyncio.timeout(LIMIT), client.states() as changes:
        async for change in changes:
            if change.state is state:
                return


async def until_led(latch: LeaderLatch) -> int:
    """Waits for leadership past refusals."""
    while True:
        try:
            return await latch.wait(timeout=LIMIT)
        except NoAuthError:
            await asyncio.sleep(0)


# -- lost replies ------------------------------------------------------------------------------------------------------


async def test_create_applied_and_its_reply_lost(member: Client, proxy: Proxy, client: Client, made: str) -> None:
    """The node is found by its GUID behind a commit; no second one is created."""
    cut = proxy.lose_reply(Op.CREATE2)
    async with LeaderLatch(member, made, "x") as latch:
        token = await latch.wait(timeout=LIMIT)
        assert cut.times == 1
        (name,) = await nodes(client, made)
        assert latch.node == f"{made}/{name}"
        assert token == (await client.get(latch.node)).stat.czxid
        assert len(proxy.seen(Op.CREATE2)) == 1
        assert next(request.op for request in proxy.seen({Op.MULTI, Op.GET_CHILDREN})) is Op.MULTI


async def test_create_lost_unapplied(member: Client, proxy: Proxy, client: Client, made: str) -> None:
    """Nothing is found, so it is created again: one node."""
    cut = proxy.lose_request(Op.CREATE2)
    async with LeaderLatch(member, made) as latch:
        await latch.wait(timeout=LIMIT)
        assert cut.times == 1
        assert len(await nodes(client, made)) == 1
        assert len(proxy.seen(Op.CREATE2)) == 2


async def test_create_lost_again_and_again(member: Client, proxy: Proxy, client: Client, made: str) -> None:
    """The search for the node is cut off too: still one node."""
    cuts = [proxy.lose_reply(Op.CREATE2), proxy.lose_reply(Op.MULTI), proxy.lose_request(Op.GET_CHILDREN)]
    async with LeaderLatch(member, made) as latch:
        await latch.wait(timeout=LIMIT)
        assert [cut.times for cut in cuts] == [1, 1, 1]
        assert len(await nodes(client, made)) == 1


async def test_creation_of_the_path_with_its_reply_lost(member: Client, proxy: Proxy, path: str) -> None:
    """A blip while the path is made is no refusal: `wait` goes on waiting."""
    cut = proxy.lose_reply(Op.CREATE_CONTAINER)
    async with LeaderLatch(member, path) as latch:
        await latch.wait(timeout=LIMIT)
        assert cut.times == 1


async def test_path_vanished_while_the_create_was_in_doubt(
    member: Client, proxy: Proxy, client: Client, made: str
) -> None:
    """The path is gone when the node is looked for: all is made anew."""
    proxy.lose_request(Op.CREATE2)
    held = proxy.hold_reply(Op.EXISTS)  # of the path, when the check has found it missing
    await client.delete(made)
    async with LeaderLatch(member, made) as latch:
        await held.reached()
        held.release()
        await latch.wait(timeout=LIMIT)
        assert len(await nodes(client, made)) == 1


async def test_node_in_doubt_behind_a_refused_search(
    connect: Connect, member: Client, proxy: Proxy, client: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The create was applied, its reply lost, and the node may not be looked for: no second node is created, for the
    member would wait behind its own first one."""
    monkeypatch.setattr(leader_latch, "_RETRY_DELAY", 0.02)
    blind = Permission.CREATE | Permission.DELETE | Permission.ADMIN
    await client.create(path, acl=[ACL(blind.value, "world", "anyone")])
    proxy.lose_reply(Op.CREATE2)
    async with LeaderLatch(member, path) as latch:
        with pytest.raises(NoAuthError):
            await latch.wait(timeout=LIMIT)
        await client.set_acl(path, OPEN_ACL_UNSAFE)
        await until_led(latch)
        assert len(await nodes(client, path)) == 1


async def test_default_timeout_of_the_client_is_not_the_latchs(
    connect: Connect, proxy: Proxy, client: Client, made: str
) -> None:
    """A member waits for its place however long the link is away, whatever timeout its client has for calls; and it
    still knows its node by its GUID afterwards."""
    member = await connect(proxy, default_timeout=0.05)
    cut = proxy.lose_reply(Op.CREATE2)
    async with LeaderLatch(member, made) as latch:
        await cut.happened()
        shut(proxy)
        with pytest.raises(CallTimeoutError, match=r"wait for leadership of .* timed out after 0\.2 s$"):
            await latch.wait(timeout=0.2)
        proxy.accept()
        await latch.wait(timeout=LIMIT)
        assert len(await nodes(client, made)) == 1


# -- closing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["lose_reply", "lose_request"])
async def test_delete_lost_in_close(
    member: Client, proxy: Proxy, client: Client, path: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Applied or not: the node is gone in the end, and a blip is no error worth a log entry."""
    latch = LeaderLatch(member, path)
    await latch.start()
    await latch.wait(timeout=LIMIT)
    cut = getattr(proxy, fault)(Op.DELETE)
    await latch.close(timeout=LIMIT)
    assert cut.times == 1
    assert await nodes(client, path) == []
    assert "can't delete" not in caplog.text


@pytest.mark.parametrize("ending", ["answered", "cut"])
async def test_close_while_the_create_is_in_flight(
    member: Client, proxy: Proxy, client: Client, made: str, ending: str
) -> None:
    """Nobody has seen the reply to the create; the node is deleted all the same."""
    held = proxy.hold_reply(Op.CREATE2)
    latch = LeaderLatch(member, made)
    await latch.start()
    await held.reached()
    closing = asyncio.ensure_future(latch.close(timeout=LIMIT))
    await until_nodes(client, made, lambda names: len(names) == 1)
    if ending == "answered":
        held.release()
    else:
        proxy.cut()
    await closing
    assert await nodes(client, made) == []


async def test_close_while_disconnected(member: Client, proxy: Proxy, client: Client, path: str) -> None:
    """It returns within its timeout; the node is deleted after the reconnect."""
    latch = LeaderLatch(member, path)
    await latch.start()
    await latch.wait(timeout=LIMIT)
    shut(proxy)
    await until_state(member, State.SUSPENDED)
    begun = time.monotonic()
    await latch.close(timeout=0.1)
    assert 0.1 <= time.monotonic() - begun < 1.0
    assert len(await nodes(client, path)) == 1
    proxy.accept()
    await until_gone(client, path)


async def test_close_cancelled(member: Client, proxy: Proxy, client: Client, path: str) -> None:
    """Cancelling `close` doesn't stop the deletion."""
    latch = LeaderLatch(member, path)
    await latch.start()
    await latch.wait(timeout=LIMIT)
    held = proxy.hold_reply(Op.DELETE)
    closing = asyncio.ensure_future(latch.close(timeout=None))
    await held.reached()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    proxy.cut()
    await until_gone(client, path)


async def test_close_without_a_connection_ever(connect: Connect, proxy: Proxy, client: Client, path: str) -> None:
    """A latch that never got as far as a session closes at once, and leaves nothing for later."""
    shut(proxy)
    cold = Client(proxy.address)
    await cold.start(wait=False)
    latch = LeaderLatch(cold, path)
    await latch.start()
    await latch.close(timeout=None)
    proxy.accept()
    await cold.wait_connected(timeout=LIMIT)
    await cold.sync("/")
    assert await client.exists(path) is None
    await cold.close()


async def test_no_permission_to_delete(
    member: Client, client: Client, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The deletion is refused: that is said, tried again, and succeeds when it is allowed."""
    monkeypatch.setattr(leader_latch, "_RETRY_DELAY", 0.02)
    await client.create(path, acl=[ACL((Permission.ALL & ~Permission.DELETE).value, "world", "anyone")])
    latch = LeaderLatch(member, path, "me")
    await latch.start()
    await latch.wait(timeout=LIMIT)
    await latch.close(timeout=0.1)
    await until(lambda: "can't delete its node" in caplog.text)
    assert len(await nodes(client, path)) == 1
    await client.set_acl(path, OPEN_ACL_UNSAFE)
    await until_gone(client, path)


# -- links and sessions ------------------------------------------------------------------------------------------------


async def test_a_lost_link_ends_leadership_until_it_is_back(member: Client, proxy: Proxy, path: str) -> None:
    """`SUSPENDED` ends it at once; on the new connection it comes back, with the same node and token."""
    latch = LeaderLatch(member, path, error_policy="suspended")
    heard = Heard()
    latch.add_listener(heard)
    await latch.start()
    token, node = await latch.wait(timeout=LIMIT), latch.node
    shut(proxy)
    await latch.wait_lost()
    assert member.state is State.SUSPENDED
    with pytest.raises(NotLeaderError):
        _ = latch.token
    proxy.accept()
    assert await latch.wait(timeout=LIMIT) == token
    assert latch.node == node
    await heard.until(True, False, True)
    await latch.close()


async def test_a_quick_blip_is_not_overlooked(member: Client, proxy: Proxy, path: str) -> None:
    """The link breaks and is back at once, several times: every loss is told, and the token stays."""
    latch = LeaderLatch(member, path, error_policy="suspended")
    heard = Heard()
    latch.add_listener(heard)
    await latch.start()
    token = await latch.wait(timeout=LIMIT)
    expected = [True]
    for _ in range(3):
        proxy.cut()
        expected += [False, True]
        await heard.until(*expected)
        assert latch.token == token
    await latch.close()


async def test_ended_session(server: Server, proxy: Proxy, client: Client, connect: Connect, path: str) -> None:
    """In the new session there is a new node and a larger token; meanwhile the next member leads, never both."""
    member = await connect(proxy, session_timeout=SHORT)
    overlap: list[bool] = []
    first, second = LeaderLatch(member, path, "1"), LeaderLatch(await connect(), path, "2")
    for latch, other in ((first, second), (second, first)):
        latch.add_listener(lambda leads, other=other: overlap.append(leads and other.is_leader))
    await first.start()
    token, node = await first.wait(timeout=LIMIT), first.node
    await second.start()
    await until_nodes(client, path, lambda names: len(names) == 2)
    old_session = member.session_id
    shut(proxy)
    await first.wait_lost()
    await end_session(server, member)
    second_token = await second.wait(timeout=LIMIT)
    proxy.accept()
    await until_nodes(client, path, lambda names: len(names) == 2)
    assert member.session_id != old_session
    assert not first.is_leader
    await second.close()
    third_token = await first.wait(timeout=LIMIT)
    assert first.node != node
    assert token < second_token < third_token
    await first.close()
    assert True not in overlap


async def test_half_open_link(connect: Connect, proxy: Proxy, client: Client, path: str) -> None:
    """Nothing comes through, and nobody says so: the leader stops believing before the next one begins."""
    member = await connect(proxy, session_timeout=1.5)
    first, second = LeaderLatch(member, path, "1"), LeaderLatch(await connect(), path, "2")
    believed = asyncio.get_running_loop().create_future()
    second.add_listener(lambda leads: leads and not believed.done() and believed.set_result(first.is_leader))
    await first.start()
    token = await first.wait(timeout=LIMIT)
    await second.start()
    await until_nodes(client, path, lambda names: len(names) == 2)
    proxy.black_hole()
    # Soon, that is: how soon to the millisecond, a busy machine can't tell.
    await first.wait_lost(timeout=2 * 1.5)
    assert not second.is_leader
    assert await second.wait(timeout=LIMIT) > token
    assert await believed is False
    proxy.cut()
    proxy.heal()
    await until_nodes(client, path, lambda names: len(names) == 2)
    await second.close()
    assert await first.wait(timeout=LIMIT) > token
    await first.close()


async def test_a_lingering_node_of_another_session(member: Client, proxy: Proxy, client: Client, made: str) -> None:
    """A node with our GUID that another session owns gives no leadership (CURATOR-696): one of our own is created,
    behind it."""
    proxy.lose_request(Op.CREATE2)
    held = proxy.hold_reply(Op.MULTI)
    async with LeaderLatch(member, made) as latch:
        heard = Heard()
        latch.add_listener(heard)
        await held.reached()
        lingering = await client.create(f"{made}/{latch._prefix}", ephemeral=True, sequential=True)
        held.release()
        await until_nodes(client, made, lambda names: len(names) == 2)
        assert heard.told == []
        await client.delete(lingering.path)
        assert await latch.wait(timeout=LIMIT) > lingering.stat.czxid
        assert (await client.get(latch.node)).stat.ephemeral_owner == member.session_id


# -- time --------------------------------------------------------------------------------------------------------------


def forward(client: Client, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """As if the process had been paused for so long."""
    clock = client._engine._clock
    monkeypatch.setattr(client._engine, "_clock", lambda: clock() + seconds)


async def test_a_paused_process_doesnt_believe(client: Client, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause longer than the session timeout `is_leader` is false at once, before the loop has run; when the
    session proves to be alive, leadership comes back."""
    latch = LeaderLatch(client, path)
    heard = Heard()
    latch.add_listener(heard)
    await latch.start()
    token = await latch.wait(timeout=LIMIT)
    forward(client, monkeypatch, 11.0)
    assert client.state is State.CONNECTED
    assert not latch.is_leader
    with pytest.raises(NotLeaderError):
        _ = latch.token
    await heard.until(True, False, True)
    assert latch.token == token
    await latch.close()


async def test_paused_while_the_leader_looks_again(
    member: Client, proxy: Proxy, client: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause falls between a leader's reads and their replies: its end of leadership is told all the same."""
    latch = LeaderLatch(member, path)
    heard = Heard()
    latch.add_listener(heard)
    await latch.start()
    await latch.wait(timeout=LIMIT)
    lost = asyncio.ensure_future(latch.wait_lost())
    held = proxy.hold_reply(Op.GET_CHILDREN)
    await client.set(latch.node, b"")
    await held.reached()
    forward(member, monkeypatch, 11.0)
    held.release()
    await asyncio.wait_for(lost, LIMIT)
    await heard.until(True, False, True)
    await latch.close()


async def test_node_deleted_while_its_replies_are_on_their_way(
    member: Client, proxy: Proxy, client: Client, made: str
) -> None:
    """Replies that say "first" and the news of the own node's deletion come together: the member never leads with the
    deleted node."""
    held = proxy.hold_reply(Op.GET_CHILDREN)
    latch = LeaderLatch(member, made)
    heard = Heard()
    latch.add_listener(heard)
    await latch.start()
    await held.reached()
    deleted = (await client.get(latch.node)).stat.czxid
    await client.delete(latch.node)
    await held.reached(frames=2)
    held.release()
    assert await latch.wait(timeout=LIMIT) > deleted
    await heard.until(True)
    await latch.close()


# -- permissions -------------------------------------------------------------------------------------------------------


async def test_no_permission_to_take_part(
    member: Client, client: Client, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`wait` raises the refusal instead of waiting for ever; once the ACL is repaired it takes part by itself."""
    monkeypatch.setattr(leader_latch, "_RETRY_DELAY", 0.02)
    await client.create(path, acl=[ACL((Permission.READ | Permission.ADMIN).value, "world", "anyone")])
    async with LeaderLatch(member, path, "me") as latch:
        heard = Heard()
        latch.add_listener(heard)
        with pytest.raises(NoAuthError):
            await latch.wait(timeout=LIMIT)
        assert "trying again" in caplog.text
        await client.set_acl(path, OPEN_ACL_UNSAFE)
        await heard.until(True)
        assert await latch.wait() == latch.token
    assert "can't delete" not in caplog.text


async def test_a_past_refusal_is_forgotten(
    member: Client, client: Client, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it takes part, a member that has to wait its turn just waits."""
    monkeypatch.setattr(leader_latch, "_RETRY_DELAY", 0.02)
    ahead = await client.create(f"{made}/_c_{GUID}-latch-", ephemeral=True, sequential=True)
    await client.set_acl(made, [ACL((Permission.READ | Permission.ADMIN).value, "world", "anyone")])
    async with LeaderLatch(member, made) as latch:
        with pytest.raises(NoAuthError):
            await latch.wait(timeout=LIMIT)
        await client.set_acl(made, OPEN_ACL_UNSAFE)
        async with asyncio.timeout(LIMIT):
            while member.statistics().watches < 2:  # its own node, and the one ahead
                await member.sync("/")
        await member.sync("/")
        waiting = asyncio.ensure_future(latch.wait(timeout=LIMIT))
        await client.delete(ahead.path)
        assert await waiting == latch.token


async def test_closed_without_permission_to_take_part(
    member: Client, client: Client, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was never created needn't be looked for where one may not look."""
    await client.create(path, acl=[ACL(Permission.ADMIN.value, "world", "anyone")])
    async with LeaderLatch(member, path, "me") as latch:
        with pytest.raises(NoAuthError):
            await latch.wait(timeout=LIMIT)
    assert "can't delete" not in caplog.text
    assert member.statistics().in_flight == member.statistics().queued_calls == 0


# -- the client goes ---------------------------------------------------------------------------------------------------


async def test_client_closed_under_the_latch(connect: Connect, client: Client, path: str) -> None:
    """Who waits is told, whoever asks later too, and closing the latch then does no harm."""
    async with LeaderLatch(client, path) as leader:
        await leader.wait(timeout=LIMIT)
        other = await connect()
        latch = await started(other, path)
        waiting = asyncio.ensure_future(latch.wait())
        await other.sync("/")
        await other.close()
        with pytest.raises(ClientClosedError):
            await asyncio.wait_for(waiting, LIMIT)
        with pytest.raises(ClientClosedError):
            await latch.wait(timeout=LIMIT)
        await asyncio.wait_for(latch.close(timeout=None), LIMIT)
        with pytest.raises(ClientStateError, match="closed"):
            await latch.wait(timeout=LIMIT)


async def test_closing_client_doesnt_believe(member: Client, proxy: Proxy, path: str) -> None:
    """Once the end of the session is asked for, the next member may lead at any moment: before the reply is here."""
    latch = LeaderLatch(member, path)
    await latch.start()
    await latch.wait(timeout=LIMIT)
    proxy.black_hole()
    closing = asyncio.ensure_future(member.close(timeout=0.1))
    await asyncio.sleep(0)  # the closing's first step
    await asyncio.sleep(0)  # the step of the task that it has started
    assert member.state is State.CONNECTED
    assert not latch.is_leader
    await closing
    await asyncio.wait_for(latch.close(timeout=None), LIMIT)


async def test_close_after_the_session_has_ended(
    server: Server, connect: Connect, proxy: Proxy, client: Client, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The node went with its session: nothing is left to do, and nothing goes on in the background."""
    member = await connect(proxy, session_timeout=SHORT)
    latch = LeaderLatch(member, path)
    await latch.start()
    await latch.wait(timeout=LIMIT)
    shut(proxy)
    await latch.wait_lost()
    await end_session(server, member)
    closing = asyncio.ensure_future(latch.close(timeout=None))
    proxy.accept()
    await asyncio.wait_for(closing, LIMIT)
    await until_gone(client, path)
    assert "can't delete" not in caplog.text
