"""The latch rests on the lease: it leads through a blip and no longer than the session certainly lives."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from everlatch import GaveUpError, NotLeaderError, State
from everlatch.recipes import LeaderLatch, leader_latch
from recipes.simulated import PATH, Election, Member, T, election
from scripted_server import ScriptedServer, fail_with
from skipping_loop import simulated

if TYPE_CHECKING:
    from everlatch.client import SessionClient
    from everlatch.testing.simulation import Condition, World

SOON = 0.005


async def lose_the_link(member: Member) -> Condition:
    """The connection breaks, and no other can be made."""
    for server in member.world.servers:
        member.world.network.reset(member.name, server.name)
    cut = member.world.network.isolate(member.name)
    await until_suspended(member)
    return cut


async def until_suspended(member: Member) -> None:
    await member.world.until(lambda: member.client.state is State.SUSPENDED)


async def until_after(world: World, moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - world.loop.moment))


# --- blips --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [1, 3])
def test_it_leads_through_a_blip_and_nobody_notices(servers: int) -> None:
    async def test(this: Election) -> None:
        first, second = await this.joined("first", "second")
        token = first.latch.token
        await asyncio.sleep(10)
        with this.nobody_overlaps():
            cut = await lose_the_link(first)
            assert first.leads
            assert first.latch.token == token
            cut.heal()
            await this.world.until(lambda: first.client.state is State.CONNECTED)
            await asyncio.sleep(2 * T)
        assert first.heard == [True]
        assert second.heard == []
        assert first.latch.token == token

    election(test, servers=servers)


def test_a_connection_that_breaks_costs_one_look() -> None:
    async def test(this: Election) -> None:
        members = await this.joined("first", "second", "third")
        await asyncio.sleep(1)
        for member in members:
            looks, connections = member.looks, member.client.connections
            (await lose_the_link(member)).heal()
            await this.world.until(lambda m=member, c=connections: m.client.connections > c)
            await asyncio.sleep(1)
            assert member.looks == looks + 1
        assert [member.heard for member in members] == [[True], [], []]

    election(test)


def test_with_the_policy_of_curator_it_ends_with_the_link_and_comes_back_after_a_look() -> None:
    async def test(this: Election) -> None:
        first, second = await this.joined("first", "second", error_policy="suspended")
        token = first.latch.token
        await asyncio.sleep(10)
        looks = first.looks
        cut = await lose_the_link(first)
        await asyncio.sleep(SOON)
        assert not first.leads
        assert first.heard == [True, False]
        assert first.looks == looks
        cut.heal()
        assert await first.until_leads() == token
        assert first.heard == [True, False, True]
        assert first.looks > looks
        assert second.heard == []

    election(test)


# --- the end of the lease -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [1, 3])
def test_it_steps_down_when_the_lease_ends_and_tells_it_in_that_moment(servers: int) -> None:
    async def test(this: Election) -> None:
        first, second = await this.joined("first", "second")
        await asyncio.sleep(10)
        with this.nobody_overlaps():
            await lose_the_link(first)
            ends = first.client.lease_until
            await until_after(this.world, ends - SOON)
            assert first.leads
            await until_after(this.world, ends + SOON)
            assert not first.leads
            assert first.heard == [True, False]
            assert abs(first.told[-1][0] + 1000.0 - ends) < SOON  # clocks begin at 1000
            assert not second.leads
            assert await second.until_leads() > 0
            assert this.world.loop.moment < ends + 2 * T
            this.world.network.heal()
            await this.world.until(lambda: first.client.generation == 2 and first.latch.node)
            await asyncio.sleep(T)
        assert first.heard == [True, False]
        assert second.heard == [True]

    election(test, servers=servers)


def test_it_is_told_in_that_moment_also_while_the_member_waits_for_an_answer() -> None:
    """The campaign hangs in a look then: what it asked is on its way to a server that doesn't answer."""

    async def test(this: Election) -> None:
        first, _ = await this.joined("first", "second")
        other = this.world.host("other")
        await asyncio.sleep(10)
        for server in this.world.servers:
            this.world.network.cut_one_way("first", server)

        async def touch() -> None:
            async with other.client() as client:
                await client.set(first.latch.node, b"first")

        looks = first.looks
        await other.run(touch())
        await this.world.until(lambda: first.looks > looks)
        await until_suspended(first)
        ends = first.client.lease_until
        await until_after(this.world, ends + SOON)
        assert first.heard == [True, False]
        assert abs(first.told[-1][0] + 1000.0 - ends) < SOON
        this.world.network.heal()

    election(test)


def test_after_a_lapse_it_looks_again_before_it_leads() -> None:
    """The session turns out to be alive, and the node to be there: the same term, in a way, and the same token."""

    async def test(this: Election) -> None:
        first, second = await this.joined("first", "second")
        token = first.latch.token
        await asyncio.sleep(10)
        with this.nobody_overlaps():
            cut = await lose_the_link(first)
            await until_after(this.world, first.client.lease_until + 0.05)
            assert not first.leads
            looks = first.looks
            cut.heal()
            assert await first.until_leads() == token
            assert first.looks > looks
            assert first.client.lease_lapses == 1
            assert first.client.generation == 1
            await asyncio.sleep(T)
        assert first.heard == [True, False, True]
        assert second.heard == []

    election(test)


def test_a_paused_process_does_not_believe_when_it_runs_again() -> None:
    async def test(this: Election) -> None:
        first, second = await this.joined("first", "second")
        believed: list[bool] = []

        async def ask_for_ever() -> None:
            while True:
                believed.append(first.latch.is_leader and second.latch.is_leader)
                await asyncio.sleep(0.01)

        asking = first.host.create_task(ask_for_ever())
        await asyncio.sleep(10)
        with this.nobody_overlaps():
            first.host.pause()
            await second.until_leads()
            assert not first.leads
            assert first.heard == [True], "it could not notice yet"
            await asyncio.sleep(T)
            first.host.resume()
            await asyncio.sleep(T)
        asking.cancel()
        assert True not in believed
        assert first.heard == [True, False]
        assert second.heard == [True]

    election(test)


def test_a_follower_that_is_cut_off_from_its_leader_answers_and_deceives_nobody() -> None:
    """It answers pings for a while; the session ends without it."""

    async def test(this: Election) -> None:
        leader = this.world.leader()
        assert leader is not None
        follower = next(server for server in this.world.servers if server is not leader)
        first = await this.member("first", servers=follower.address).join()
        second = await this.member("second", servers=leader.address).join()
        await first.until_leads()
        await asyncio.sleep(10)
        with this.nobody_overlaps():
            this.world.cut_from_leader(follower)
            await second.until_leads()
        this.world.heal()

    election(test)


def test_a_read_only_server_is_no_refusal_and_lets_nobody_lead_for_longer(caplog: pytest.LogCaptureFixture) -> None:
    """It serves in a session of its own. What belongs to ours waits for a server that takes writes."""

    async def test(this: Election) -> None:
        first = await this.member("first", read_only=True).join()
        token = await first.until_leads()
        await asyncio.sleep(10)
        leader = this.world.leader()
        assert leader is not None
        down = [leader, next(server for server in this.world.servers if server is not leader)]
        for server in down:
            server.crash()
        await this.world.until(lambda: first.client.state is State.CONNECTED_READ_ONLY, every=0.001)
        ends = first.client.lease_until
        await until_after(this.world, ends + SOON)
        assert not first.leads
        await asyncio.sleep(1)
        assert first.client.state is State.CONNECTED_READ_ONLY
        for server in down:
            server.start()
        assert await first.until_leads() == token
        assert first.heard == [True, False, True]

    election(test, read_only_mode=True)
    assert "refused, trying again" not in caplog.text


# --- who keeps the lease ------------------------------------------------------------------------------------------


def test_a_latch_keeps_the_lease_also_when_another_of_its_client_has_kept_it() -> None:
    async def test(this: Election) -> None:
        first = await this.member("first").join()
        await first.until_leads()
        second = LeaderLatch(first.client, "/another")
        told: list[bool] = []
        second.add_listener(told.append)
        await first.run(second.start())
        await this.world.until(lambda: second.is_leader)
        await first.run(first.latch.close())
        await asyncio.sleep(3 * T)
        assert second.is_leader
        assert told == [True]
        assert first.client.lease_lapses == 0
        await first.run(second.close())

    election(test)


def test_only_the_leader_and_the_next_in_line_keep_it() -> None:
    async def test(this: Election) -> None:
        members = await this.joined("first", "second", "third", "fourth")
        await asyncio.sleep(3 * T)
        assert [member.client.lease_time_left > 0 for member in members] == [True, True, False, False]
        await members[0].run(members[0].latch.close())
        await members[1].until_leads()
        await asyncio.sleep(3 * T)  # long enough for the third to see by itself that it has become next
        assert [member.client.lease_time_left > 0 for member in members] == [False, True, True, False]

    election(test)


def test_whoever_did_not_know_that_it_was_next_has_the_lease_with_its_look() -> None:
    """It was not woken when it became the next one. Its first commit travels with the look."""

    async def test(this: Election) -> None:
        members = await this.joined("first", "second", "third")
        await asyncio.sleep(2 * T)
        await members[0].run(members[0].latch.close())
        await members[1].until_leads()
        looks = members[2].looks
        begun = this.world.now
        await members[1].run(members[1].latch.close())
        await members[2].until_leads()
        assert members[2].looks == looks + 1
        assert this.world.now - begun < 0.1

    election(test)


def test_who_has_led_before_does_not_wait_for_the_lease_when_its_turn_comes_again() -> None:
    async def test(this: Election) -> None:
        members = await this.joined("first", "second", "third")
        for turn in range(6):
            leader, heir = members[turn % 3], members[(turn + 1) % 3]
            await asyncio.sleep(2 * T)
            begun = this.world.now
            await leader.run(leader.latch.hand_over())
            await heir.until_leads()
            assert this.world.now - begun < 0.1

    election(test)


# --- the rest -----------------------------------------------------------------------------------------------------


@simulated
async def test_a_session_that_a_thawed_server_has_taken_for_a_moment_is_no_refusal(caplog: pytest.LogCaptureFixture):
    """−118 until the connection ends: a blip, and the lease says how long it may last."""
    async with ScriptedServer() as server, server.client() as client:
        await client.create(PATH.rpartition("/")[0])
        await client.create(PATH)
        async with LeaderLatch(client, PATH) as latch:
            told: list[bool] = []
            latch.add_listener(told.append)
            await latch.wait(timeout=10)
            server.next(fail_with(-118))
            server.znodes.set(latch.node, b"touched")
            await asyncio.sleep(5)
            assert latch.is_leader
            assert told == [True]
            assert "refused" not in caplog.text


def test_a_client_that_has_given_up_ends_the_campaign_and_keeps_nobody_from_closing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No call can succeed any more: nothing is tried again, and the node is left to the session's end."""

    async def test(this: Election) -> None:
        first = await this.member("first", max_reconnect_attempts=1).join()
        await first.until_leads()
        await lose_the_link(first)
        await this.world.until(lambda: first.client.state is State.GAVE_UP)
        with pytest.raises(GaveUpError):
            await first.run(first.latch.wait())
        await asyncio.sleep(T)
        assert first.heard == [True, False]
        begun = this.world.now
        await first.run(first.latch.close())
        assert this.world.now - begun < SOON
        assert not leader_latch._releases
        this.world.network.heal()

    election(test)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@simulated
async def test_a_term_that_has_ended_by_the_clock_is_not_taken_up_again() -> None:
    """The lease lapses and runs again before anybody has noticed, as when the machine sleeps: the loop's timers do,
    too. Who has seen his term end waits for the next one, and it has to come."""
    async with ScriptedServer() as server, server.client() as client, LeaderLatch(client, "/latch") as latch:
        told: list[bool] = []
        latch.add_listener(told.append)
        terms = latch.terms()
        term = await anext(terms)
        client._engine.session.lease.lapses += 1
        assert not term.is_current
        server.znodes.set(latch.node, b"look")  # before the next look at the clock
        second = await asyncio.wait_for(anext(terms), 10)
        assert second is not term
        assert second.is_current
        assert not term.is_current
        async with asyncio.timeout(10):
            while len(told) < 3:  # listeners hear in turns of their own
                await asyncio.sleep(0)
        assert (second.token, told) == (term.token, [True, False, True])
        await terms.aclose()


@simulated
async def test_nobody_inherits_with_a_number_that_has_overflowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer members come before older ones there: that the one ahead is gone doesn't make anybody the first."""
    async with ScriptedServer() as server, server.client() as client:
        await client.ensure_path(PATH)
        ahead = f"{PATH}/_c_5e2c8f5f-6a55-4f1e-8d0e-000000000000-latch--2147483647"
        await client.create(ahead)
        latch = LeaderLatch(client, PATH)
        create = latch._create

        async def create_overflowed(session: SessionClient) -> None:
            await create(session)
            negative = latch._node.rpartition("latch-")[0] + "latch--2147483648"
            await client.create(negative, ephemeral=True)
            await client.delete(latch._node)
            latch._node = negative

        monkeypatch.setattr(latch, "_create", create_overflowed)
        async with latch:
            told: list[bool] = []
            latch.add_listener(told.append)
            await server.until(lambda: client.statistics().watches == 2)
            await asyncio.sleep(1)
            await client.delete(ahead)
            with pytest.raises(NotLeaderError, match="overflowed"):
                await latch.wait(10)
            assert told == []


def test_a_closing_client_ends_a_wait_for_the_lease_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody may be told of an error that nobody asked for."""

    async def test(this: Election) -> None:
        first = this.member("first")
        await first.join()
        await first.until_leads()
        await asyncio.sleep(10)
        cut = await lose_the_link(first)
        await until_after(this.world, first.client.lease_until + 0.05)
        cut.heal()
        await this.world.until(lambda: first.client.lease_lapses == 1, every=0.001)
        assert not first.leads
        await first.run(first.client.close())
        await asyncio.sleep(1)

    election(test)
    assert "never retrieved" not in caplog.text
