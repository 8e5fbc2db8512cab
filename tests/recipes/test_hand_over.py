"""Handing over: who moves, by names; and in elections, with everything that can come between."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch import (
    ACL,
    CallTimeoutError,
    ClientStateError,
    EverlatchError,
    InvalidTypeError,
    MemberInTheWayError,
    NoAuthError,
    NoSuchMemberError,
    NotLeaderError,
    Permission,
    RequestTimeoutError,
    SessionExpiredError,
    StaleLeaderError,
)
from everlatch.recipes import LeaderLatch, Participant
from everlatch.recipes.contenders import ordered, protected_prefix, steps_aside
from everlatch.recipes.hand_over import Plan, plan
from everlatch.testing.simulation.faults import EVERY_KIND, ClientCrashes
from everlatch.wire.codes import Op
from recipes.election import GUID, LIMIT, started, until_nodes
from recipes.simulated import PATH, Election, Member, T, election
from scripted_server import ScriptedServer, Znodes, apply, drop_after, drop_before, fail_with
from skipping_loop import simulated

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch import Client
    from recipes.conftest import Connect

MARKER = "latch-"


def node(number: int, *, curator: bool = False) -> str:
    prefix = f"_c_{GUID}-{MARKER}" if curator else protected_prefix(GUID, MARKER)
    return f"{prefix}{number:010d}"


LINE = [node(number) for number in range(5)]
IDS = dict(zip(LINE, "abcda", strict=True))


# --- names --------------------------------------------------------------------------------------------------------


def test_only_our_own_members_step_aside() -> None:
    assert steps_aside(node(1))
    assert not steps_aside(node(1, curator=True))
    assert not steps_aside(f"{MARKER}0000000001")
    assert not steps_aside("")


@given(st.uuids(version=4).map(str))
def test_the_mark_is_a_version_and_nothing_else_changes(guid: str) -> None:
    marked = protected_prefix(guid, MARKER)
    assert steps_aside(marked + "0000000000")
    assert not steps_aside(f"_c_{guid}-{MARKER}0000000000")
    assert marked[:17] + "4" + marked[18:] == f"_c_{guid}-{MARKER}"


def test_the_next_in_line_needs_nobody_to_move() -> None:
    assert plan("/p", LINE[0], LINE, None, {}) == Plan((), LINE[1])


@pytest.mark.parametrize(("to", "position"), [("b", 1), ("c", 2), ("d", 3)])
def test_those_before_the_heir_move(to: str, position: int) -> None:
    assert plan("/p", LINE[0], LINE, to, IDS) == Plan(tuple(LINE[1:position]), LINE[position])


def test_another_one_with_the_leaders_own_id_may_be_meant() -> None:
    assert plan("/p", LINE[0], LINE, "a", IDS).heir == LINE[4]


def test_of_several_with_that_id_the_first_is_meant() -> None:
    ids = IDS | {LINE[2]: "x", LINE[3]: "x"}
    assert plan("/p", LINE[0], LINE, "x", ids).heir == LINE[2]


@pytest.mark.parametrize(("line", "to"), [(LINE, "z"), (LINE[:1], None), (LINE[:1], "a"), (LINE, "")])
def test_nobody_to_hand_over_to(line: list[str], to: str | None) -> None:
    with pytest.raises(NoSuchMemberError):
        plan("/p", LINE[0], line, to, IDS)


@pytest.mark.parametrize("line", [[], LINE[1:], [LINE[1], LINE[0]]])
def test_who_is_not_first_can_not_hand_over(line: list[str]) -> None:
    with pytest.raises(NotLeaderError):
        plan("/p", LINE[0], line, None, IDS)


def test_a_member_that_would_not_notice_is_never_moved() -> None:
    java = node(2, curator=True)
    line = [*LINE[:2], java, *LINE[3:]]
    ids = dict(zip(line, "abcda", strict=True))
    assert plan("/p", line[0], line, "b", ids) == Plan((), line[1])
    assert plan("/p", line[0], line, "c", ids) == Plan((line[1],), java), "it may be the heir"
    with pytest.raises(MemberInTheWayError) as raised:
        plan("/p", line[0], line, "d", ids)
    assert raised.value.members == ("c",)
    with pytest.raises(MemberInTheWayError) as raised:
        plan("/p", line[0], line, "d", {line[3]: "d"})
    assert raised.value.members == (java,), "one whose id can't be read is named by its node"


# --- elections ----------------------------------------------------------------------------------------------------


async def line_of(this: Election) -> list[str]:
    """The ids of all members, as they stand."""
    member = this.members[-1]
    await member.run(member.client.sync("/"))
    return [participant.id for participant in await member.run(member.latch.participants())]


def test_the_next_in_line_leads_and_the_leader_stands_at_the_end() -> None:
    async def test(this: Election) -> None:
        a, b, c = await this.joined("a", "b", "c")
        first = a.latch.token
        with this.nobody_overlaps():
            handing = a.host.create_task(a.latch.hand_over())
            await asyncio.sleep(0)
            await handing
            assert not a.leads
            assert await b.until_leads() > first
        assert await line_of(this) == ["b", "c", "a"]
        assert (a.heard, b.heard, c.heard) == ([True, False], [True], [])
        await b.run(b.latch.hand_over())
        await c.until_leads()
        await c.run(c.latch.hand_over())
        assert await a.until_leads() > first

    election(test)


@pytest.mark.parametrize(("to", "line"), [("b", "bcdea"), ("c", "cdea?"), ("e", "ea???")])
def test_a_certain_member_leads(to: str, line: str) -> None:
    async def test(this: Election) -> None:
        members = await this.joined(*"abcde")
        await asyncio.sleep(T)
        looks = {member.name: member.looks for member in members}
        token = members[0].latch.token
        with this.nobody_overlaps():
            await members[0].run(members[0].latch.hand_over(to))
            heir = next(member for member in members if member.name == to)
            assert await heir.until_leads() > token
            await asyncio.sleep(1)
        assert [one for one, known in zip(await line_of(this), line, strict=True) if known != "?"] == [
            known for known in line if known != "?"
        ]
        behind = "abcde".partition(to)[2]
        assert {member.name for member in members if member.looks == looks[member.name]} >= set(behind[1:]), (
            "who stands behind the heir's successor is not woken"
        )
        assert [member.heard for member in members if member.name in behind] == [[]] * len(behind)

    election(test)


def test_tokens_rise_whoever_hands_over_to_whom() -> None:
    async def test(this: Election) -> None:
        members = {member.name: member for member in await this.joined(*"abcd")}
        rng = this.world.random("heirs")
        leader, tokens = members["a"], [members["a"].latch.token]
        with this.nobody_overlaps():
            for _ in range(30):
                heir = rng.choice([name for name in members if name != leader.name])
                try:
                    await leader.run(leader.latch.hand_over(heir))
                except NoSuchMemberError:  # it stood back just now, and is on its way to the end of the line
                    await asyncio.sleep(0.1)
                    await leader.run(leader.latch.hand_over(heir))
                leader = members[heir]
                tokens.append(await leader.until_leads())
                await asyncio.sleep(rng.choice([0.0, 0.01, 1.0]))
        assert tokens == sorted(set(tokens))
        assert sorted(await line_of(this)) == list("abcd")

    election(test)


def test_leadership_is_given_up_before_anything_is_sent() -> None:
    async def test(this: Election) -> None:
        a, b = await this.joined("a", "b")
        with this.nobody_overlaps():
            handing = a.host.create_task(a.latch.hand_over())
            await this.world.until(lambda: not a.leads, every=0.0001)
            assert not b.leads
            for server in this.world.servers:  # the answer will not come
                this.world.network.cut_one_way(server, "a")
            await asyncio.sleep(0.1)
            assert not handing.done()
            await b.until_leads()
            assert not a.leads
            this.world.network.heal()
            await handing
        assert await line_of(this) == ["b", "a"]
        assert a.heard == [True, False]

    election(test)


@pytest.mark.parametrize("moment", [number / 2000 for number in range(8)])
def test_a_link_that_breaks_meanwhile(moment: float) -> None:
    """Whether the transaction was applied is found out, and it is done again if it was not: once in all."""

    async def test(this: Election) -> None:
        a, b, c = await this.joined("a", "b", "c")
        with this.nobody_overlaps():
            handing = a.host.create_task(a.latch.hand_over("c"))
            await asyncio.sleep(moment)
            for server in this.world.servers:
                this.world.network.reset("a", server.name)
            await handing
            await c.until_leads()
            await asyncio.sleep(1)
        assert (await line_of(this))[0] == "c"
        assert sorted(await line_of(this)) == ["a", "b", "c"]
        assert b.heard == []

    election(test)


def test_a_session_that_ends_meanwhile_ends_it() -> None:
    async def test(this: Election) -> None:
        a, b = await this.joined("a", "b")
        with this.nobody_overlaps():
            for server in this.world.servers:
                this.world.network.reset("a", server.name)
            cut = this.world.network.isolate("a")
            handing = a.host.create_task(a.latch.hand_over())
            await asyncio.sleep(4 * T)
            cut.heal()
            with pytest.raises((SessionExpiredError, NotLeaderError)):
                await handing
            assert b.leads
            await this.world.until(lambda: a.latch.node)
        assert await line_of(this) == ["b", "a"]

    election(test)


def test_what_can_not_be_is_refused_and_the_leader_leads_on() -> None:
    async def test(this: Election) -> None:
        (a,) = await this.joined("a")
        for to in (None, "b", "a"):
            with pytest.raises(NoSuchMemberError):
                await a.run(a.latch.hand_over(to))
        (b,) = [await this.member("b").join()]
        with pytest.raises(NoSuchMemberError, match="'c'"):
            await a.run(a.latch.hand_over("c"))
        with pytest.raises(NotLeaderError):
            await b.run(b.latch.hand_over())
        with pytest.raises(InvalidTypeError):
            await a.run(a.latch.hand_over(b"b"))  # type: ignore[arg-type]
        assert a.leads
        assert a.heard == [True]

    election(test)


def test_a_member_of_curator_stays_where_it_is() -> None:
    """Before the heir it refuses the hand-over; as the heir it leads, woken by the node before its own."""

    async def test(this: Election) -> None:
        a, b = await this.joined("a", "b")
        java = this.world.host("java")

        async def curator() -> None:
            async with java.client() as client:
                made = await client.create(f"{PATH}/_c_{GUID}-{MARKER}", b"java", ephemeral=True, sequential=True)
                names = ordered(await client.children(PATH), MARKER)
                woken = asyncio.Event()
                before = names[names.index(made.path.rpartition("/")[2]) - 1]
                await client.get(f"{PATH}/{before}", watch=lambda event: events.append(event.type) or woken.set())
                await woken.wait()
                names = ordered(await client.children(PATH), MARKER)
                leads.append(names[0] == made.path.rpartition("/")[2])

        events: list[Any] = []
        leads: list[bool] = []
        playing = java.create_task(curator())
        await asyncio.sleep(1)
        c = await this.member("c").join()
        with pytest.raises(MemberInTheWayError) as raised:
            await a.run(a.latch.hand_over("c"))
        assert raised.value.members == ("java",)
        assert a.heard == [True]
        assert events == []
        await a.run(a.latch.hand_over("java"))
        await playing
        assert [event.name for event in events] == ["DELETED"]
        assert leads == [True]
        await c.until_leads()
        assert b.heard == []

    election(test)


def test_members_that_go_meanwhile_are_no_obstacle() -> None:
    async def test(this: Election) -> None:
        a, b, c, d = await this.joined(*"abcd")
        with this.nobody_overlaps():
            leaving = b.host.create_task(b.latch.close())
            await a.run(a.latch.hand_over("d"))
            await leaving
            await d.until_leads()
        assert sorted(await line_of(this)) == ["a", "c", "d"]
        assert c.heard == []

    election(test)


FENCE = "/app/fence"


async def _lead_for_ever(this: Election, member: Member, refused: list[str], tokens: list[int]) -> None:
    """Writes fenced, also when it should not; and hands over again and again, to whomever."""
    rng = this.world.random(f"what {member.name} does")
    async for term in member.latch.terms():
        begun = term.transaction()
        begun.set(FENCE, b"%d" % term.token)
        while term.is_current:
            with contextlib.suppress(EverlatchError):
                async with term.transaction() as t:
                    t.set(FENCE, b"%d" % term.token)
                tokens.append(term.token)
            await asyncio.sleep(rng.uniform(0.0, 1.0))
            if term.is_current and rng.random() < 0.5:
                try:
                    await member.latch.hand_over(rng.choice([None, *"abcde"]), timeout=rng.choice([None, 0.01, 1.0]))
                except EverlatchError as error:
                    refused.append(type(error).__name__)
        with contextlib.suppress(EverlatchError):
            await begun.commit(timeout=5.0)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_goes_wrong_meanwhile_nobody_overlaps_and_tokens_rise(seed: int) -> None:
    faults = {kind: weight for kind, weight in EVERY_KIND.items() if kind is not ClientCrashes}

    async def test(this: Election) -> None:
        members = await this.joined(*"abcde")
        await members[0].run(members[0].client.create(FENCE))
        written: list[int] = []
        refused: list[str] = []
        tokens: list[int] = []
        tasks = [member.host.create_task(_lead_for_ever(this, member, refused, tokens)) for member in members]
        watcher = this.world.host("watcher")

        async def follow() -> None:
            async with watcher.client() as client:
                while not all(task.done() for task in tasks):
                    written.append(int((await client.get(FENCE)).data or b"0"))
                    await asyncio.sleep(0.05)

        following = watcher.create_task(follow())
        with this.nobody_overlaps():
            await this.world.faults.run(60.0, faults, mean_interval=2.0, duration=0.8)
            this.world.heal()
            await this.world.until(lambda: any(member.leads for member in members), timeout=60.0)
            await asyncio.sleep(20.0)
        for member in members:
            await member.run(member.latch.close())
        await asyncio.wait(tasks)
        await following
        assert written == sorted(written), "what a leader of the past wrote was accepted"
        assert len(set(written)) > 5
        assert set(refused) <= {
            *("NoSuchMemberError", "NotLeaderError", "CallTimeoutError", "SessionExpiredError", "ClientStateError")
        }
        assert [task.exception() for task in tasks] == [None] * len(tasks)

    election(test, seed=seed)


@pytest.mark.parametrize("who", ["b", "c", "a"])
def test_who_goes_between_the_plan_and_its_transaction(who: str) -> None:
    """It is refused as a whole then, and planned anew: nobody leads who was not meant to."""

    async def test(this: Election) -> None:
        members = {member.name: member for member in await this.joined(*"abcd")}
        a, c, d = members["a"], members["c"], members["d"]
        admin = this.world.host("admin")
        planned = a.latch._plan
        node = members[who].latch.node

        async def planned_too_late(session: Any, to: str | None) -> Plan:
            move = await planned(session, to)
            a.latch._plan = planned  # type: ignore[method-assign]

            async def delete() -> None:
                async with admin.client() as client:
                    await client.delete(node)

            await admin.run(delete())
            return move

        a.latch._plan = planned_too_late  # type: ignore[method-assign]
        heard = list(d.heard)
        handing = a.host.create_task(a.latch.hand_over("c"))
        await asyncio.wait({handing})
        if who == "a":
            assert isinstance(handing.exception(), NotLeaderError)
        elif who == "c":
            # It is on its way to the end of the line: unknown for a moment, or behind those who stand back for it.
            assert handing.exception() is None or isinstance(handing.exception(), NoSuchMemberError)
        else:
            assert handing.exception() is None
            await c.until_leads()
        await asyncio.sleep(1)
        assert sorted(await line_of(this)) == list("abcd")
        assert d.heard == heard

    election(test)


# --- calls --------------------------------------------------------------------------------------------------------


def test_a_second_call_is_refused_while_the_first_is_under_way() -> None:
    async def test(this: Election) -> None:
        a, b = await this.joined("a", "b")

        async def twice() -> None:
            first = asyncio.ensure_future(a.latch.hand_over())
            await asyncio.sleep(0)
            with pytest.raises(ClientStateError, match="already"):
                await a.latch.hand_over()
            await first

        await a.run(twice())
        await b.until_leads()

    election(test)


def test_a_call_that_comes_when_the_one_before_has_timed_out_is_carried_out() -> None:
    async def test(this: Election) -> None:
        a, b = await this.joined("a", "b")

        async def twice() -> None:
            with pytest.raises(CallTimeoutError):
                await a.latch.hand_over(timeout=0.0001)
            with contextlib.suppress(NotLeaderError):  # if the first one has gone through all the same
                await a.latch.hand_over(timeout=5)

        await a.run(twice())
        await b.until_leads()

    election(test)


def test_a_client_that_is_closed_ends_it() -> None:
    async def test(this: Election) -> None:
        a, _ = await this.joined("a", "b")
        for server in this.world.servers:
            this.world.network.reset("a", server.name)
        this.world.network.isolate("a")
        handing = a.host.create_task(a.latch.hand_over())
        await asyncio.sleep(0.5)
        await a.run(a.client.close(timeout=0.5))
        with pytest.raises(ClientStateError):
            await handing
        this.world.heal()

    election(test)


def test_a_timeout_before_it_has_begun_leaves_everything_as_it_was() -> None:
    async def test(this: Election) -> None:
        a, b = await this.joined("a", "b")
        await asyncio.sleep(T)
        for server in this.world.servers:
            this.world.network.reset("a", server.name)
        cut = this.world.network.isolate("a")
        with pytest.raises(CallTimeoutError, match=r"hand over '/app/leader' timed out after 0\.5 s"):
            await a.run(a.latch.hand_over(timeout=0.5))
        assert a.leads
        cut.heal()
        await asyncio.sleep(T)
        assert a.heard == [True]
        assert b.heard == []
        await a.run(a.latch.hand_over(timeout=5))
        await b.until_leads()

    election(test)


@pytest.mark.parametrize("moment", [number / 2000 for number in range(8)])
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_cancelled_or_closed_at_any_moment_it_leaves_one_node_or_none(moment: float, how: str) -> None:
    async def test(this: Election) -> None:
        a, b = await this.joined("a", "b")
        with this.nobody_overlaps():
            handing = a.host.create_task(a.latch.hand_over())
            await asyncio.sleep(moment)
            if how == "cancel":
                handing.cancel()
                await asyncio.wait({handing})
            else:
                await a.run(a.latch.close())
                await asyncio.wait({handing})
                assert handing.exception() is None or isinstance(handing.exception(), ClientStateError)
            await asyncio.sleep(1)
            line = await line_of(this)
            assert sorted(line) == (["a", "b"] if how == "cancel" else ["b"])
            assert (a if line[0] == "a" else b).leads

    election(test)


# --- the wire -----------------------------------------------------------------------------------------------------


async def elected(server: ScriptedServer, client: Any, *names: str) -> list[LeaderLatch]:
    latches = []
    for name in names:
        latches.append(LeaderLatch(client, "/latch", name))
        await latches[-1].start()
        await server.until(lambda latch=latches[-1]: latch.node)
    await latches[0].wait(timeout=10)
    return latches


def line(znodes: Znodes) -> list[bytes]:
    paths = sorted((path for path in znodes.nodes if path.startswith("/latch/")), key=lambda path: path[-10:])
    return [znodes.nodes[path].data for path in paths]


def time_out_after(connection: Any, request: Any) -> None:
    """Applied, and answered with an error that says that nobody knows."""
    apply(connection, request)
    connection.reply(request.xid, RequestTimeoutError.code)


@pytest.mark.parametrize("fault", [drop_after, drop_before, time_out_after, fail_with(RequestTimeoutError.code)])
@simulated
async def test_a_lost_reply_is_settled_behind_a_commit(fault: Callable[..., None]):
    async with ScriptedServer() as server, server.client() as client, server.client() as other:
        (a,) = await elected(server, client, "a")
        (b,) = [LeaderLatch(other, "/latch", "b")]
        await b.start()
        await server.until(lambda: b.node)
        lost: list[int] = []

        def lose_the_hand_over(connection: Any, request: Any) -> None:
            if b"_c_" in request.body and not lost:
                lost.append(request.xid)
                fault(connection, request)
            else:
                server.on(Op.MULTI, lose_the_hand_over)
                apply(connection, request)

        server.on(Op.MULTI, lose_the_hand_over)
        await a.hand_over(timeout=30)
        assert lost
        await b.wait(timeout=30)
        assert line(server.znodes) == [b"b", b"a"]
        assert not a.is_leader
        await a.close()
        await b.close()
        assert line(server.znodes) == []


def test_no_permission_is_told_and_the_leader_leads_again() -> None:
    async def test(this: Election) -> None:
        admin = this.world.host("admin")

        async def restrict() -> None:
            async with admin.client() as client:
                await client.ensure_path(PATH.rpartition("/")[0])
                await client.create(PATH, acl=[ACL((Permission.ALL & ~Permission.DELETE).value, "world", "anyone")])

        async def allow() -> None:
            async with admin.client() as client:
                await client.set_acl(PATH, [ACL(Permission.ALL.value, "world", "anyone")])

        await admin.run(restrict())
        a, _ = await this.joined("a", "b")
        token = a.latch.token
        with pytest.raises(NoAuthError):
            await a.run(a.latch.hand_over())
        assert await a.until_leads() == token
        assert a.heard[:2] == [True, False]
        await admin.run(allow())

    election(test)


def test_the_data_of_nodes_is_the_id_before_and_after() -> None:
    async def test(this: Election) -> None:
        a, *_ = await this.joined("a", "b", "c")
        await a.run(a.latch.hand_over("c"))
        await asyncio.sleep(1)
        found = await a.run(a.latch.participants())
        assert found[0] == Participant("c", True)
        assert {participant.id for participant in found} == {"a", "b", "c"}

    election(test)


def test_who_has_to_stand_back_hears_that_before_it_hears_that_the_leader_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It leads at once when the one ahead goes. Were the two events told the other way round, in two packets, it would
    take itself for the leader in between, and so would the heir."""
    heard: list[tuple[LeaderLatch, str]] = []
    on_event = LeaderLatch._on_event

    def hear(latch: LeaderLatch, event: Any) -> None:
        heard.append((latch, event.path))
        on_event(latch, event)

    monkeypatch.setattr(LeaderLatch, "_on_event", hear)

    async def test(this: Election) -> None:
        first, second, third = await this.joined("first", "second", "third")
        await asyncio.sleep(2 * T)
        nodes = [second.latch.node, first.latch.node]
        heard.clear()
        with this.nobody_overlaps():
            await first.run(first.latch.hand_over("third"))
            await third.until_leads()
        assert [path for latch, path in heard if latch is second.latch][:2] == nodes

    election(test)


# --- on a real server ---------------------------------------------------------------------------------------------


@pytest.mark.real
async def test_a_real_server_takes_it_in_one_transaction(connect: Connect, client: Client, path: str) -> None:
    clients = [await connect() for _ in range(4)]
    members = [await started(each, path, name) for each, name in zip(clients, "abcd", strict=True)]
    tokens = [await members[0].wait(timeout=LIMIT)]
    stale = members[0].transaction()
    stale.set(path, b"stale")
    for leader, heir in ((0, 2), (2, 3), (3, 0)):
        await until_nodes(client, path, lambda names: len(names) == 4)
        await members[leader].hand_over("abcd"[heir], timeout=LIMIT)
        tokens.append(await members[heir].wait(timeout=LIMIT))
        assert [member.is_leader for member in members].count(True) == 1
    with pytest.raises(StaleLeaderError):
        await stale.commit()
    async with members[0].transaction() as t:
        t.set(path, b"fresh")
    assert (await client.get(path)).data == b"fresh"
    assert tokens == sorted(set(tokens))
    for member in members:
        await member.close()
