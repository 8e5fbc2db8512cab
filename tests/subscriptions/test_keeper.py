"""A kept node is there, says when it isn't and why, has the data of the last update, and goes with its keeper."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from everlatch import (
    ACL,
    Absence,
    AlreadyStartedError,
    CallTimeoutError,
    Client,
    ClientClosedError,
    ClientStateError,
    InvalidPathError,
    InvalidTypeError,
    NoAuthError,
    NodeOccupiedError,
    NoNodeError,
    NotStartedError,
    Permission,
    RequestTooLargeError,
    State,
)
from everlatch.subscriptions import keeper as keeper_module
from subscriptions.kept import PATH, Heard, Scene, T, scene

READ_ONLY = [ACL(Permission.READ.value, "world", "anyone")]


# --- there --------------------------------------------------------------------------------------------------------


@scene()
async def test_the_node_is_there_while_the_block_lasts(this: Scene) -> None:
    async with this.client.keep(PATH, b"one") as kept:
        assert (kept.path, kept.is_present, kept.presence.reason) == ("", False, Absence.NOT_YET)
        assert await kept.wait() == PATH
        stat = await this.stat()
        assert stat is not None
        assert stat.ephemeral_owner == this.client.session_id
        assert await this.data() == b"one"
        assert (kept.path, kept.is_present) == (PATH, True)
        assert kept.presence[:2] == (PATH, True)
        assert kept.presence.czxid == stat.czxid
        assert kept.presence.reason is None
    assert await this.stat() is None
    assert (kept.path, kept.is_present) == ("", False)
    assert "closed" in repr(kept)


@scene()
async def test_calls_made_behind_the_entering_see_the_node(this: Scene) -> None:
    async with this.client.keep(PATH):
        assert await this.client.exists(PATH) is not None


@scene()
async def test_entered_before_there_is_a_connection(this: Scene) -> None:
    client = this.app.client(session_timeout=T)
    cut = this.world.network.isolate("app")
    await client.start(wait=False)
    async with client.keep(PATH, b"early") as kept:
        seen = client.exists(PATH)
        await asyncio.sleep(5)
        assert not kept.is_present
        cut.heal()
        await kept.wait(timeout=20)
        assert await seen is not None, "it goes ahead of what was called meanwhile"
    await client.close()


@scene()
async def test_entered_while_the_link_is_lost(this: Scene) -> None:
    cut = await this.lose_the_link()
    before = this.client.create("/services/group")
    async with this.client.keep("/services/group/web") as kept:
        cut.heal()
        await kept.wait(timeout=20)
        assert await before


@scene()
async def test_a_deleted_node_is_made_again_and_it_says_so(this: Scene) -> None:
    async with this.client.keep(PATH, b"one") as kept:
        heard = Heard(kept)
        await kept.wait()
        for _ in range(3):
            czxid = kept.presence.czxid
            await this.other(lambda other: other.delete(PATH))
            await this.until(lambda: kept.is_present and kept.presence.czxid != czxid)  # noqa: B023
            assert await this.data() == b"one"
    assert heard.reasons == [Absence.NOT_YET, True, *[Absence.DELETED, True] * 3]
    assert heard.last.reason is Absence.DELETED, "why there is another one"
    assert heard.last.since > heard.all[1].since


@scene()
async def test_a_new_session_has_it_ahead_of_what_waits(this: Scene) -> None:
    async with this.client.keep(PATH, b"one") as kept:
        heard = Heard(kept)
        await kept.wait()
        old_id = this.client.session_id
        cut = await this.lose_the_link()
        waiting = [this.client.exists(PATH) for _ in range(2000)]
        assert kept.is_present, "nothing is known to the contrary"
        await this.until(lambda: this.client.state is State.LOST)
        assert not kept.is_present
        await asyncio.sleep(T)
        assert await this.stat() is None
        cut.heal()
        stats = await asyncio.gather(*waiting)
        assert {stat.ephemeral_owner for stat in stats if stat is not None} == {this.client.session_id}
        assert None not in stats
        assert this.client.session_id != old_id
        await kept.wait()
    assert heard.reasons == [Absence.NOT_YET, True, Absence.SESSION_ENDED, True]
    assert isinstance(heard.all[2].error, Exception)


@scene()
async def test_a_session_that_was_only_assumed_lost(this: Scene) -> None:
    async with this.client.keep(PATH, b"one") as kept:
        heard = Heard(kept)
        await kept.wait()
        czxid = kept.presence.czxid
        server = this.world.servers[0]
        server.pause()
        await this.until(lambda: this.client.state is State.LOST)
        await this.until(lambda: not kept.presence.present)
        server.resume()
        await this.until(lambda: kept.is_present)
    if this.client.generation == 1:
        assert heard.last.czxid == czxid
    assert heard.reasons == [Absence.NOT_YET, True, Absence.SESSION_ENDED, True]


@scene(client={"max_queued_calls": 3})
async def test_a_full_queue_does_not_keep_it_away(this: Scene) -> None:
    async with this.client.keep(PATH) as kept:
        await kept.wait()
        cut = await this.lose_the_link()
        waiting = [this.client.exists(PATH) for _ in range(3)]
        await this.until(lambda: this.client.state is State.LOST)
        await asyncio.sleep(T)
        cut.heal()
        assert None not in await asyncio.gather(*waiting)


@scene(client={"exactly_once": True, "receipts": 2})
async def test_with_exactly_once_writes(this: Scene) -> None:
    async with (
        this.client.keep(PATH, b"one") as kept,
        this.client.keep("/services/n-", b"n", sequential=True) as numbered,
    ):
        await kept.wait()
        await numbered.wait()
        await this.lose_the_session()
        await kept.wait()
        await numbered.wait()
        await kept.update(b"two")
        await this.other(lambda other: other.delete(PATH))
        await this.until(lambda: kept.presence.reason is Absence.DELETED and kept.is_present)
        assert await this.data() == b"two"
        assert len(await this.names()) == 2
    assert await this.names() == []


@scene(servers=3)
async def test_many_of_them(this: Scene) -> None:
    paths = [f"/services/{number}" for number in range(200)]
    async with contextlib.AsyncExitStack() as stack:
        keepers = [await stack.enter_async_context(this.client.keep(path)) for path in paths]
        await asyncio.gather(*(kept.wait() for kept in keepers))
        await this.lose_the_session()
        renewed_at = this.world.now
        await asyncio.gather(*(kept.wait() for kept in keepers))
        assert this.world.now < renewed_at + 0.1
        assert len(await this.names()) == 200
    assert await this.names() == []


# --- its data -----------------------------------------------------------------------------------------------------


@scene()
async def test_an_update_returns_when_the_node_has_it(this: Scene) -> None:
    async with this.client.keep(PATH, b"one") as kept:
        await kept.update(b"two")
        assert await this.data() == b"two"
        await asyncio.gather(*(kept.update(b"%d" % number) for number in range(50)))
        assert await this.data() == b"49"


@scene()
async def test_the_last_update_counts_whatever_becomes_of_it(this: Scene) -> None:
    async with this.client.keep(PATH, b"one") as kept:
        await kept.wait()
        cut = await this.lose_the_link()
        with pytest.raises(CallTimeoutError, match="update '/services/web' timed out after 1 s"):
            await kept.update(b"two", timeout=1)
        updating = asyncio.create_task(kept.update(b"three"))
        await asyncio.sleep(0)
        updating.cancel()
        last = asyncio.create_task(kept.update(b"four"))
        await asyncio.sleep(3 * T)
        assert not last.done()
        cut.heal()
        await last
        assert await this.data() == b"four"


@scene()
async def test_what_somebody_else_writes_stays_until_the_next_update(this: Scene) -> None:
    async with this.client.keep(PATH, b"one") as kept:
        heard = Heard(kept)
        await kept.wait()
        await this.other(lambda other: other.set(PATH, b"theirs"))
        await asyncio.sleep(100)
        assert await this.data() == b"theirs"
        await kept.update(b"two")
        assert await this.data() == b"two"
        await this.other(lambda other: other.set(PATH, b"theirs"))
        await this.other(lambda other: other.delete(PATH))
        await this.until(lambda: heard.last.reason is Absence.DELETED and heard.last.present)
        assert await this.data() == b"two", "made again, it has the data of the last update"


@scene()
async def test_an_update_in_the_same_moment_as_somebody_else_s_write(this: Scene) -> None:
    async with this.client.keep(PATH, b"one") as kept:
        await kept.wait()
        for number in range(20):
            theirs = asyncio.create_task(this.other(lambda other: other.set(PATH, b"theirs")))
            await asyncio.sleep(0.0001 * number)
            await kept.update(b"%d" % number)
            await theirs
            assert await this.data() in (b"%d" % number, b"theirs")


@scene()
async def test_data_that_no_node_can_have(this: Scene) -> None:
    with pytest.raises(RequestTooLargeError):
        this.client.keep(PATH, bytes(1 << 20))
    with pytest.raises(InvalidTypeError):
        this.client.keep(PATH, "text")  # type: ignore[arg-type]
    largest = bytes((1 << 20) - 300)
    async with this.client.keep(PATH, b"one") as kept:
        with pytest.raises(RequestTooLargeError):
            await kept.update(bytes(1 << 20))
        await kept.wait()
        assert await this.data() == b"one"
        await kept.update(largest)
        await this.lose_the_session()
        await kept.wait()
        assert await this.data() == largest


@scene()
async def test_an_update_that_is_refused_says_so_and_counts_all_the_same(this: Scene) -> None:
    async with this.client.keep(PATH, b"one", acl=READ_ONLY) as kept:
        await kept.wait()
        with pytest.raises(NoAuthError):
            await kept.update(b"two")
        assert kept.is_present
        await this.other(lambda other: other.delete(PATH))
        await this.until(lambda: kept.presence.reason is Absence.DELETED and kept.is_present)
        assert await this.data() == b"two"
        await kept.wait()


# --- in its way ---------------------------------------------------------------------------------------------------


@scene()
async def test_somebody_else_s_node_is_waited_for(this: Scene) -> None:
    await this.other(lambda other: other.create(PATH, b"theirs", ephemeral=True))
    async with this.client.keep(PATH, b"ours") as kept:
        with pytest.raises(CallTimeoutError):
            await kept.wait(timeout=50)
        assert kept.presence.reason is Absence.OCCUPIED
        assert isinstance(kept.presence.error, NodeOccupiedError)
        stat = await this.stat()
        assert stat is not None
        assert kept.presence.error.owner == stat.ephemeral_owner != 0
        assert (await this.data(), stat.version) == (b"theirs", 0)
        await this.other(lambda other: other.delete(PATH))
        before = this.world.now
        await kept.wait()
        assert this.world.now < before + 0.05
        assert await this.data() == b"ours"
        assert kept.presence.reason is Absence.OCCUPIED, "why it was absent before"


@scene()
async def test_a_persistent_node_is_nobody_s_leftover(this: Scene) -> None:
    await this.other(lambda other: other.create(PATH, b"theirs"))
    async with this.client.keep(PATH, b"ours") as kept:
        await this.until(lambda: kept.presence.reason is Absence.OCCUPIED)
        assert "not ephemeral" in str(kept.presence.error)
        await this.lose_the_session()
        await asyncio.sleep(30)
        await kept.close()
    assert await this.data() == b"theirs"


@scene()
async def test_taken_over_while_the_session_was_lost(this: Scene) -> None:
    async with this.client.keep(PATH, b"ours") as kept:
        await kept.wait()
        cut = await this.lose_the_link()
        while await this.stat() is not None:
            await asyncio.sleep(0.1)
        await this.other(lambda other: other.create(PATH, b"theirs", ephemeral=True))
        cut.heal()
        await this.until(lambda: kept.presence.reason is Absence.OCCUPIED)
        await asyncio.sleep(30)
        assert await this.data() == b"theirs"
        with pytest.raises(CallTimeoutError):
            await kept.update(b"more", timeout=5)
    assert await this.data() == b"theirs"


@scene()
async def test_replacing_when_told_to(this: Scene) -> None:
    await this.other(lambda other: other.create(PATH, b"theirs", ephemeral=True))
    async with this.client.keep(PATH, b"ours", replace=True) as kept:
        await kept.wait(timeout=1)
        assert await this.data() == b"ours"


@scene()
async def test_two_that_replace_each_other_take_turns_of_seconds(this: Scene) -> None:
    client = this.app.client(session_timeout=T)
    await client.start()
    async with this.client.keep(PATH, b"ours", replace=True) as kept, client.keep(PATH, replace=True) as rival:
        heard = Heard(kept), Heard(rival)
        await asyncio.sleep(100)
    assert sum(len(each.all) for each in heard) < 60
    assert all(True in each.reasons for each in heard)
    await client.close()


@scene()
async def test_without_a_parent_it_says_so_and_waits_for_one(this: Scene) -> None:
    async with this.client.keep("/nowhere/deep/web") as kept:
        with pytest.raises(NoNodeError):
            await kept.wait()
        assert kept.presence.reason is Absence.NO_PARENT
        await asyncio.sleep(100)
        await this.other(lambda other: other.ensure_path("/nowhere/deep"))
        before = this.world.now
        await this.until(lambda: kept.is_present)
        assert this.world.now < before + 0.05
        await this.other(lambda other: other.delete_tree("/nowhere"))
        await this.until(lambda: kept.presence.reason is Absence.NO_PARENT)
        with pytest.raises(NoNodeError):
            await kept.update(b"x")


@scene()
async def test_parents_are_made_and_made_again(this: Scene) -> None:
    async with this.client.keep("/nowhere/deep/web", b"x", make_parents=True) as kept:
        await kept.wait()
        for _ in range(3):
            czxid = kept.presence.czxid
            await this.other(lambda other: other.delete_tree("/nowhere"))
            await this.until(lambda: kept.is_present and kept.presence.czxid != czxid)  # noqa: B023
        assert await this.data("/nowhere/deep/web") == b"x"


@scene()
async def test_what_is_refused_is_said_and_tried_again(this: Scene) -> None:
    await this.other(
        lambda other: other.create("/locked", acl=[*READ_ONLY, ACL(Permission.ADMIN.value, "world", "anyone")])
    )
    async with this.client.keep("/locked/web") as kept:
        with pytest.raises(NoAuthError):
            await kept.wait()
        assert kept.presence.reason is Absence.REFUSED
        with pytest.raises(NoAuthError):
            await kept.update(b"x")
        sent = this.client.statistics().requests_sent
        await asyncio.sleep(100)
        assert 10 < this.client.statistics().requests_sent - sent < 40, "about every ten seconds"
        await this.other(lambda other: other.set_acl("/locked", [ACL(Permission.ALL.value, "world", "anyone")]))
        await this.until(lambda: kept.is_present, timeout=11)
        assert await this.data("/locked/web") == b"x"


# --- sequential ones ----------------------------------------------------------------------------------------------


@scene()
async def test_a_sequential_one_gets_a_new_number_and_says_so(this: Scene) -> None:
    async with this.client.keep("/services/web-", b"one", sequential=True) as kept:
        heard = Heard(kept)
        first = await kept.wait()
        assert first.startswith("/services/_c_")
        assert first[:-10].endswith("-web-")
        await this.other(lambda other: other.delete(first))
        await this.until(lambda: kept.is_present and kept.path != first)
        second = kept.path
        await this.lose_the_session()
        third = await kept.wait()
        assert len({first, second, third}) == 3
        assert len({path[:-10] for path in (first, second, third)}) == 1, "the same GUID"
        assert [presence.path for presence in heard.all if presence.present] == [first, second, third]
        assert await this.names() == [third.rpartition("/")[2]]
        await kept.update(b"two")
        assert await this.data(third) == b"two"
    assert await this.names() == []


# --- the end ------------------------------------------------------------------------------------------------------


@scene()
async def test_cancelled_at_any_turn_it_leaves_nothing(this: Scene) -> None:
    async def keep(path: str, sequential: bool) -> None:
        async with this.client.keep(path, sequential=sequential, make_parents=True) as kept:
            await kept.wait()
            await kept.update(b"x")

    for sequential in (False, True):
        for turn in range(60):
            task = asyncio.create_task(keep("/services/deep/web", sequential))
            for _ in range(turn):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert await this.names("/services/deep") == [] if await this.stat("/services/deep") else True
    assert not keeper_module._releases


@scene()
async def test_closing_without_a_connection(this: Scene) -> None:
    async with this.client.keep(PATH) as kept, this.client.keep("/services/n", sequential=True) as numbered:
        await kept.wait()
        await numbered.wait()
        cut = await this.lose_the_link()
        before = this.world.now
        await kept.close(timeout=0.5)
        await numbered.close(timeout=0.5)
        assert this.world.now <= before + 1.01
        cut.heal()
        await this.until(lambda: not keeper_module._releases)
        assert this.client.generation == 1
        assert await this.names() == [], "it goes on in the background"


@scene()
async def test_closing_spares_a_node_that_somebody_else_has_made(this: Scene) -> None:
    async with this.client.keep(PATH) as kept:
        await kept.wait()
        cut = await this.lose_the_link()
        await this.other(lambda other: other.delete(PATH))
        await this.other(lambda other: other.create(PATH, b"theirs", ephemeral=True))
        await kept.close(timeout=0.1)
        cut.heal()
        await this.until(lambda: not keeper_module._releases)
        assert await this.data() == b"theirs"


@scene()
async def test_who_waits_is_told_of_the_end(this: Scene) -> None:
    await this.other(lambda other: other.create(PATH, b"theirs"))
    client = this.app.client(session_timeout=T)
    await client.start()
    async with client.keep(PATH) as kept:
        waits = [asyncio.create_task(kept.wait()), asyncio.create_task(kept.update(b"x"))]
        seen = asyncio.create_task(_all(kept.changes()))
        await asyncio.sleep(1)
        await kept.close()
        for wait in waits:
            with pytest.raises(ClientStateError, match="is closed"):
                await wait
        assert (await seen)[-1] == Absence.OCCUPIED
    async with client.keep(PATH) as kept:
        wait = asyncio.create_task(kept.wait())
        seen = asyncio.create_task(_all(kept.changes()))
        await asyncio.sleep(1)
        await client.close()
        with pytest.raises(ClientClosedError):
            await wait
        await seen
        with pytest.raises(ClientClosedError):
            await kept.update(b"x")


async def _all(changes: object) -> list[object]:
    return [presence.present or presence.reason async for presence in changes]  # type: ignore[attr-defined]


@scene()
async def test_its_changes_as_an_iteration(this: Scene) -> None:
    async with this.client.keep(PATH) as kept:
        changes = kept.changes()
        first = await anext(changes)
        assert first.reason is Absence.NOT_YET
        present = await anext(changes)
        assert present.present
        await this.other(lambda other: other.delete(PATH))
        await this.until(lambda: kept.presence.czxid not in (0, present.czxid))
        again = await anext(changes)
        assert (again.present, again.reason) == (True, Absence.DELETED), "a slow reader learns that it is another one"
        await changes.aclose()
    assert not len(kept._changes)


@scene()
async def test_what_is_refused_at_once(this: Scene) -> None:
    with pytest.raises(InvalidPathError):
        this.client.keep("services")
    kept = this.client.keep(PATH)
    for call in (kept.wait(), kept.update(b"x"), anext(kept.changes())):
        with pytest.raises(ClientStateError, match="not entered"):
            await call
    async with kept:
        await kept.wait()
    with pytest.raises(AlreadyStartedError):
        await kept.__aenter__()
    await kept.close()


async def test_a_client_that_is_not_started() -> None:
    with pytest.raises(NotStartedError):
        async with Client("127.0.0.1:1").keep(PATH):
            pass


@scene()
async def test_nothing_is_left_of_those_that_are_gone(this: Scene) -> None:
    before = this.client.statistics().watches
    await this.other(lambda other: other.create(PATH))
    for path in (PATH, "/nowhere/web"):
        async with this.client.keep(path) as kept:
            await this.until(lambda: kept.presence.reason in (Absence.OCCUPIED, Absence.NO_PARENT))
    assert not await this.client.check_watches(PATH)
    assert not await this.client.check_watches("/nowhere")
    for number in range(50):
        async with this.client.keep(f"/services/{number}") as kept:
            await kept.wait()
            await kept.update(b"x")
    assert this.client.statistics().watches == before
    engine = this.client._engine
    assert not engine._restorers
    assert not keeper_module._releases


@scene()
async def test_a_session_that_ends_while_a_node_is_looked_for(this: Scene) -> None:
    """At whatever moment of its steps."""
    for moment in range(6):
        async with this.client.keep(PATH, b"x") as kept:
            await kept.wait()
            await this.other(lambda other: other.delete(PATH))
            await asyncio.sleep(0.0004 * moment)
            await this.lose_the_session()
            await kept.wait()
            stat = await this.stat()
            assert stat is not None
            assert stat.ephemeral_owner == this.client.session_id
    assert await this.stat() is None


def test_the_error_says_whose_node_it_is() -> None:
    assert "occupied by session 0x5" in str(NodeOccupiedError("/x", 5))
    assert "not ephemeral" in str(NodeOccupiedError("/x", 0))
