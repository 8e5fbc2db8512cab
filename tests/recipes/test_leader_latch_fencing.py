"""Fenced transactions: what a leader of the past still sends is refused by ZooKeeper, whatever it believes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import (
    ACL,
    ClientStateError,
    NodeExistsError,
    NoNodeError,
    NotLeaderError,
    Outcome,
    OutcomeUnknownError,
    Permission,
    SessionExpiredError,
    StaleLeaderError,
    TransactionFailedError,
)
from recipes.simulated import Election, Member, T, election

if TYPE_CHECKING:
    from everlatch.recipes import Term

LOG = "/app/log"


async def write(member: Member, text: bytes = b"", term: Term | None = None) -> Any:
    """A fenced write with its token, by the present term or another one."""
    async with (member.latch if term is None else term).transaction() as t:
        created = t.create(f"{LOG}/entry-", text or member.name.encode(), sequential=True)
    return created.result


async def founded(this: Election, *names: str) -> list[Member]:
    members = await this.joined(*names)
    await members[0].run(members[0].client.ensure_path(LOG))
    return members


async def entries(member: Member) -> list[bytes]:
    async def read() -> list[bytes]:
        await member.client.sync("/")
        names = sorted(await member.client.children(LOG))
        return [(await member.client.get(f"{LOG}/{name}")).data for name in names]

    return await member.run(read())


def test_a_leader_writes_and_its_parts_are_counted_as_it_knows_them() -> None:
    async def test(this: Election) -> None:
        (a,) = await founded(this, "a")

        async def steps() -> None:
            assert await write(a) == f"{LOG}/entry-0000000000"
            t = a.latch.transaction()
            t.check(LOG)
            changed = t.set(LOG, b"x")
            t.create(LOG)
            with pytest.raises(TransactionFailedError) as raised:
                await t.commit()
            assert (raised.value.index, raised.value.path) == (2, LOG)
            assert type(raised.value.error) is NodeExistsError
            with pytest.raises(ClientStateError):
                changed.result  # noqa: B018
            await a.latch.transaction().commit()  # nothing but the question whether it still leads

        await a.run(steps())
        assert await entries(a) == [b"a"]

    election(test)


def test_who_does_not_lead_can_not_even_begin() -> None:
    async def test(this: Election) -> None:
        _, b = await founded(this, "a", "b")
        with pytest.raises(NotLeaderError, match="b does not lead"):
            b.latch.transaction()

    election(test)


def test_what_was_begun_in_a_term_that_is_over_is_refused() -> None:
    async def test(this: Election) -> None:
        a, b = await founded(this, "a", "b")

        async def begun_and_handed_over() -> None:
            node, token = a.latch.node, a.latch.token
            t = a.latch.transaction()
            changed = t.set(LOG, b"stale")
            await a.latch.hand_over()
            with pytest.raises(StaleLeaderError) as raised:
                await t.commit()
            error = raised.value
            assert isinstance(error, NotLeaderError)
            assert (error.node, error.term, error.outcome) == (node, token, Outcome.NOT_APPLIED)
            assert isinstance(error.error, NoNodeError)
            with pytest.raises(ClientStateError):
                changed.result  # noqa: B018

        await a.run(begun_and_handed_over())
        await b.until_leads()
        assert (await b.run(b.client.get(LOG))).data == b""
        await b.run(write(b))
        assert await entries(b) == [b"b"]

    election(test)


def test_the_next_term_of_the_same_member_does_not_cover_it() -> None:
    async def test(this: Election) -> None:
        a, b = await founded(this, "a", "b")
        old = a.latch.transaction()
        old.set(LOG, b"stale")
        await a.run(a.latch.hand_over())
        await b.until_leads()
        await b.run(b.latch.hand_over())
        await a.until_leads()
        with pytest.raises(StaleLeaderError):
            await a.run(old.commit())
        await a.run(write(a))

    election(test)


def test_a_paused_leader_gets_nothing_through() -> None:
    """It believes nothing when it runs again; what it had begun, or sends all the same, is refused."""

    async def test(this: Election) -> None:
        a, b = await founded(this, "a", "b")
        await a.run(write(a, b"a 1"))
        begun = a.latch.transaction()
        begun.create(f"{LOG}/entry-", b"a 2", sequential=True)
        with this.nobody_overlaps():
            a.host.pause()
            await b.until_leads()
            await b.run(write(b, b"b 1"))
            a.host.resume()
            with pytest.raises(NotLeaderError):
                a.latch.transaction()
            with pytest.raises((StaleLeaderError, SessionExpiredError, OutcomeUnknownError)):
                await a.run(begun.commit())
            await b.run(write(b, b"b 2"))
        assert await entries(b) == [b"a 1", b"b 1", b"b 2"]

    election(test)


def test_what_was_on_its_way_while_another_took_over_is_refused() -> None:
    """Sent in good faith, and held up until the session had ended: the new leader's history stays its own."""

    async def test(this: Election) -> None:
        a, b = await founded(this, "a", "b")
        for server in this.world.servers:
            this.world.network.cut_one_way("a", server)
        late = a.host.create_task(write(a, b"late"))
        await b.until_leads()
        await b.run(write(b, b"b"))
        this.world.network.heal()
        with pytest.raises((StaleLeaderError, SessionExpiredError, OutcomeUnknownError)):
            await late
        await asyncio.sleep(2 * T)
        assert await entries(b) == [b"b"]

    election(test)


def test_a_node_that_may_not_be_read_guards_nothing_and_says_so() -> None:
    async def test(this: Election) -> None:
        (a,) = await founded(this, "a")
        await a.run(a.client.set_acl(a.latch.node, [ACL(Permission.ADMIN.value, "world", "anyone")]))
        with pytest.raises(TransactionFailedError) as raised:
            await a.run(write(a))
        assert (raised.value.index, raised.value.path) == (-1, a.latch.node)

    election(test)
