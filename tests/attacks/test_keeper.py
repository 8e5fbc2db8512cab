"""Attacks on kept nodes: lost replies, cancellations, servers that lie, two keepers of one node, and P4 and P6."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import weakref

import pytest

from everlatch import (
    ACL,
    Absence,
    AuthFailedError,
    CallTimeoutError,
    Client,
    EverlatchError,
    GaveUpError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotReadOnlyError,
    Permission,
    ServerError,
    State,
)
from everlatch.operations import Operations
from everlatch.subscriptions import keeper as keeper_module
from everlatch.testing import misbehaviour
from everlatch.testing.answers import answer_word
from everlatch.testing.misbehaviour import deny_sessions
from everlatch.wire.framing import frame
from everlatch.wire.handshake import decode_connect_response, encode_connect_request
from scripted_server import ScriptedServer, accept, drop_after, drop_before, respond
from skipping_loop import simulated
from subscriptions.kept import PATH, Heard, Scene, T, scene

OPEN = [ACL(Permission.ALL.value, "world", "anyone")]


def nodes_below(server, parent):
    return sorted(path for path in server.znodes.nodes if path.startswith(parent + "/"))


# --- lost replies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [drop_after, drop_before, misbehaviour.go_silent, misbehaviour.reset])
@pytest.mark.parametrize("sequential", [False, True])
@simulated
async def test_whichever_reply_is_lost_there_is_one_node(action, sequential):
    for number in (2, 4, 6, 9):
        async with ScriptedServer() as server, server.client(session_timeout=6.0) as client:
            await client.create("/s")
            for lost in (number, number + 1, number + 3):
                server.at(lost, action)
            async with client.keep("/s/web", b"one", sequential=sequential) as kept:
                first = await kept.wait(timeout=60)
                await kept.update(b"two", timeout=60)
                if first in server.znodes.nodes:
                    server.znodes.delete(first)
                await asyncio.sleep(1)
                await kept.update(b"three", timeout=60)
                server.znodes.end_session(client.session_id)
                await server.until(lambda: client.generation == 2 and kept.is_present)
                assert nodes_below(server, "/s") == [kept.path], number
                assert server.znodes.nodes[kept.path].data == b"three"
            await server.until(lambda: not keeper_module._releases)
            assert nodes_below(server, "/s") == [], number


@pytest.mark.parametrize("sequential", [False, True])
@simulated
async def test_exactly_once_clients_lose_replies_as_well(sequential):
    for number in (5, 8):
        async with (
            ScriptedServer() as server,
            server.client(session_timeout=6.0, exactly_once=True, receipts=1) as client,
        ):
            await client.create("/s")
            server.at(number, drop_after)
            server.at(number + 2, drop_before)
            async with client.keep("/s/web", b"one", sequential=sequential) as kept:
                await kept.wait(timeout=60)
                await kept.update(b"two", timeout=60)
                server.znodes.end_session(client.session_id)
                await server.until(lambda: client.generation == 2 and kept.is_present)
                await kept.update(b"three", timeout=60)
                assert nodes_below(server, "/s") == [kept.path], number
            await server.until(lambda: not keeper_module._releases)
            assert nodes_below(server, "/s") == [], number


# --- cancellation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequential", [False, True])
@scene()
async def test_close_update_and_wait_can_be_cancelled_at_any_turn(this: Scene, sequential: bool) -> None:
    for turn in range(1, 26):
        kept = this.client.keep(PATH, b"one", sequential=sequential)
        await kept.__aenter__()
        calls = [asyncio.create_task(kept.wait()), asyncio.create_task(kept.update(b"%d" % turn))]
        changes = kept.changes()
        calls.append(asyncio.create_task(_next(changes, 2)))
        for _ in range(turn):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await changes.aclose()
        assert not len(kept._changes)
        await this.until(lambda: kept.is_present and kept._held.number == 1)  # noqa: B023
        assert await this.data(kept.path) == b"%d" % turn
        closing = asyncio.create_task(kept.close())
        for _ in range(turn):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await kept.close()
        assert await this.names() == []
        assert not keeper_module._releases


async def _next(changes, count):
    for _ in range(count):
        await anext(changes)


# --- read-only servers --------------------------------------------------------------------------------------------


def serves_read_only(connection, request):
    """A local session for reads, as a server without a quorum gives."""
    said = connection.ask(frame(encode_connect_request(request._replace(session_id=0, password=bytes(16)))))
    response = decode_connect_response(said, 4, len(said))
    respond(connection, response._replace(read_only=True))


def says_read_only(connection, _word):
    said = connection.ask(b"srvr").replace(b"Mode: standalone", b"Mode: read-only")
    connection.send_raw(said)
    connection.flush()


READING = {"read_only": True, "read_only_writes": "queue", "read_write_search_interval": 5.0, "session_timeout": 6.0}


def become_read_only(server):
    server.handshake = lambda connection, request: (
        serves_read_only(connection, request) if request.read_only else deny_sessions(connection, request)
    )
    server.word = says_read_only
    server.connection.close()


@simulated
async def test_on_a_read_only_server_it_is_present_until_the_session_must_be_assumed_lost():
    async with ScriptedServer() as server, server.client(**READING) as client:
        await client.create("/s", b"data")
        async with client.keep("/s/web", b"one") as kept:
            await kept.wait()
            become_read_only(server)
            await server.until(lambda: client.state is State.CONNECTED_READ_ONLY)
            with pytest.raises(CallTimeoutError):
                await kept.update(b"two", timeout=0.5)
            assert (await client.get("/s", timeout=1)).data == b"data"
            assert (kept.is_present, kept.presence.present) == (True, True)
            await asyncio.sleep(10)
            assert client.state is State.CONNECTED_READ_ONLY
            assert not kept.is_present, "nobody tells of the end of the session that is kept aside"
            assert kept.presence.reason is Absence.SESSION_ENDED
            server.handshake, server.word = accept, answer_word
            await kept.wait(timeout=60)
            await server.until(lambda: server.znodes.nodes["/s/web"].data == b"two")


@pytest.mark.parametrize("entered", [State.SUSPENDED, State.CONNECTED_READ_ONLY])
@simulated
async def test_on_a_read_only_server_it_does_not_hold_up_reads(entered):
    async with ScriptedServer() as server, server.client(**READING) as client:
        await client.create("/s", b"data")
        become_read_only(server)
        await server.until(lambda: client.state is entered)
        async with client.keep("/s/web", b"one") as kept:
            reads = [client.get("/s", timeout=10)]
            await server.until(lambda: client.state is State.CONNECTED_READ_ONLY)
            reads.append(client.get("/s", timeout=1))
            assert [node.data for node in await asyncio.gather(*reads)] == [b"data"] * 2
            server.handshake, server.word = accept, answer_word
            await kept.wait(timeout=60)
        assert nodes_below(server, "/s") == []


@pytest.mark.parametrize("closed", [State.SUSPENDED, State.CONNECTED_READ_ONLY])
@pytest.mark.parametrize("sequential", [False, True])
@simulated
async def test_closed_on_a_read_only_server_it_does_not_hold_up_reads(closed, sequential):
    async with ScriptedServer() as server, server.client(**READING) as client:
        await client.create("/s", b"data")
        async with client.keep("/s/web", b"one", sequential=sequential) as kept:
            await kept.wait()
            become_read_only(server)
            await server.until(lambda: client.state is closed)
            await kept.close(timeout=0)
            await server.until(lambda: client.state is State.CONNECTED_READ_ONLY)
            assert (await client.get("/s", timeout=1)).data == b"data"
            server.handshake, server.word = accept, answer_word
            await server.until(lambda: client.state is State.CONNECTED)
            async with asyncio.timeout(60):
                await asyncio.gather(*keeper_module._releases)
            assert nodes_below(server, "/s") == []


# --- one node, always ---------------------------------------------------------------------------------------------


@scene()
async def test_a_numbered_one_whose_session_has_come_back_keeps_its_number(this: Scene) -> None:
    """Nobody may delete below its parent: made anew, there would be two."""
    await this.other(lambda other: other.create("/locked"))
    async with this.client.keep("/locked/n-", b"one", sequential=True) as kept:
        first = await kept.wait()
        await this.other(
            lambda other: other.set_acl(
                "/locked", [ACL((Permission.ALL & ~Permission.DELETE).value, "world", "anyone")]
            )
        )
        for _ in range(3):
            this.world.servers[0].pause()
            await this.until(lambda: this.client.state is State.LOST and not kept.presence.present)
            this.world.servers[0].resume()
            await this.until(lambda: kept.is_present)
            assert this.client.generation == 1
            assert await this.names("/locked") == [kept.path.rpartition("/")[2]]
            assert kept.path == first
        await this.other(lambda other: other.set_acl("/locked", OPEN))
    assert await this.names("/locked") == []


# --- what is told -------------------------------------------------------------------------------------------------


@scene()
async def test_a_refusal_that_is_told_often_does_not_grow(this: Scene) -> None:
    async with this.client.keep("/nowhere/web") as kept:
        depths = []
        for _ in range(100):
            with pytest.raises(NoNodeError) as raised:
                await kept.wait()
            depth, traceback = 0, raised.value.__traceback__
            while traceback is not None:
                depth, traceback = depth + 1, traceback.tb_next
            depths.append(depth)
        assert max(depths) <= depths[0] + 1


@scene()
async def test_an_update_is_not_told_what_another_one_was_refused(this: Scene) -> None:
    """The first one's write is on its way when the second one comes; only that is refused."""
    async with this.client.keep(PATH, b"one") as kept:
        await kept.wait()
        await this.other(
            lambda other: other.set_acl(PATH, [ACL((Permission.READ | Permission.ADMIN).value, "world", "anyone")])
        )
        first = asyncio.create_task(kept.update(b"two"))
        await asyncio.sleep(0.0001)
        given_back = asyncio.create_task(this.client.set_acl(PATH, OPEN))
        second = asyncio.create_task(kept.update(b"three"))
        with pytest.raises(NoAuthError):
            await first
        await given_back
        await second
        assert await this.data() == b"three"


# --- chroot -------------------------------------------------------------------------------------------------------


@scene()
async def test_below_a_chroot_that_is_not_there(this: Scene) -> None:
    client = this.app.client("zk1:2181/apps/mine", session_timeout=T)
    async with client:
        for path, sequential in (("/web", False), ("/n-", True), ("/a/b/web", False)):
            async with client.keep(path, b"x", make_parents=True, sequential=sequential) as kept:
                actual = await kept.wait(timeout=10)
                assert await this.data("/apps/mine" + actual) == b"x"
                watches = client.statistics().watches
                await this.other(lambda other: other.delete("/apps/mine" + actual))  # noqa: B023
                await this.until(lambda: kept.presence.reason is Absence.DELETED and kept.is_present)
                assert client.statistics().watches == watches
            await this.until(lambda: not keeper_module._releases)
        assert client.statistics().watches == 0
        assert await this.names("/apps/mine") == ["a"]


# --- two of them --------------------------------------------------------------------------------------------------


@scene()
async def test_two_keepers_of_one_client_and_one_path(this: Scene) -> None:
    async with this.client.keep(PATH, b"one") as one:
        async with this.client.keep(PATH, b"two") as two:
            await asyncio.gather(one.wait(), two.wait())
            await asyncio.gather(one.update(b"1"), two.update(b"2"))
            await asyncio.sleep(1)
            sent = this.client.statistics().requests_sent
            await asyncio.sleep(100)
            assert this.client.statistics().requests_sent - sent < 50
            await this.lose_the_session()
            await asyncio.gather(one.wait(), two.wait())
            await this.other(lambda other: other.delete(PATH))
            await this.until(lambda: one.is_present and two.is_present)
        await this.until(lambda: one.is_present and one.presence.reason is Absence.DELETED)
        assert await this.data() == b"1"
    assert await this.stat() is None


@scene()
async def test_two_clients_that_both_replace(this: Scene) -> None:
    async def keep_there(other):
        async with other.keep(PATH, b"other", replace=True) as theirs:
            await asyncio.sleep(300)
            changes.append(theirs.presence)

    changes: list = []
    there = asyncio.create_task(this.other(keep_there))
    async with this.client.keep(PATH, b"mine", replace=True) as kept:
        heard = Heard(kept)
        await asyncio.sleep(250)
        assert len(heard.all) < 120
        await there
        await this.until(lambda: kept.is_present)
    assert await this.stat() is None


# --- servers that lie ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [NodeExistsError, NoNodeError, NotReadOnlyError], ids=lambda error: error.__name__)
@pytest.mark.parametrize("sequential", [False, True])
@scene()
async def test_a_server_that_lies_is_not_asked_as_fast_as_it_answers(
    this: Scene, error: type[ServerError], sequential: bool
) -> None:
    """The node exists, it says, but there is none; there is no parent, but there is one."""
    asked = 0

    def refuse(_: Operations, path: str, *__: object, **___: object) -> asyncio.Future[object]:
        nonlocal asked
        asked += 1
        refused: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        refused.set_exception(error("create", path))
        return refused

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Operations, "create", refuse)
        async with this.client.keep(PATH, make_parents=True, sequential=sequential) as kept:
            await asyncio.sleep(20)
            assert 3 < asked < 80
            assert not kept.is_present
            monkeypatch.undo()
            await this.until(lambda: kept.is_present, timeout=11)
            sent = this.client.statistics().requests_sent
            for _ in range(30):
                czxid = kept.presence.czxid
                began = this.world.now
                await this.other(lambda other: other.delete(kept.path))
                await this.until(lambda: kept.is_present and kept.presence.czxid != czxid)  # noqa: B023
                assert this.world.now < began + 0.1, "what is deleted often is made again at once"
            assert this.client.statistics().requests_sent - sent < 200


@scene()
async def test_a_foreign_node_that_is_written_all_the_time_is_replaced(this: Scene) -> None:
    async def writes(other: Client) -> None:
        await other.create(PATH, b"theirs")
        with contextlib.suppress(NodeExistsError):
            while True:
                await other.set(PATH, b"theirs", version=-1)
                await asyncio.sleep(0.003)

    writing = asyncio.create_task(this.other(writes))
    await asyncio.sleep(1)
    async with this.client.keep(PATH, b"mine", replace=True) as kept:
        await kept.wait(timeout=5)
        writing.cancel()
        await asyncio.wait([writing])
        assert kept.is_present


@scene(version="3.9")
async def test_a_numbered_one_that_even_its_keeper_may_not_read(this: Scene) -> None:
    acl = [ACL((Permission.WRITE | Permission.ADMIN).value, "world", "anyone")]
    async with this.client.keep("/services/n-", b"one", acl=acl, sequential=True) as kept:
        first = await kept.wait(timeout=5)
        await kept.update(b"two")
        await asyncio.sleep(200)
        assert kept.path == first
        await this.lose_the_session()
        assert await kept.wait(timeout=5) != first
        assert await this.names() == [kept.path.rpartition("/")[2]]
    assert await this.names() == []


# --- meddlers, pauses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequential", [False, True])
@scene()
async def test_parents_that_are_deleted_again_and_again(this: Scene, sequential: bool) -> None:
    async def deletes(other: Client) -> None:
        for number in range(12):
            with contextlib.suppress(ServerError):
                await other.delete_tree("/services/a", missing_ok=True)
            await asyncio.sleep(0.001 * (number % 7))

    async with this.client.keep("/services/a/b/web", b"one", make_parents=True, sequential=sequential) as kept:
        meddling = asyncio.create_task(this.other(deletes))
        for number in range(20):
            await kept.update(b"%d" % number, timeout=30)
            await asyncio.sleep(0.01)
        await meddling
        await asyncio.sleep(3)
        assert kept.is_present
        assert await this.data(kept.path) == b"19"
        assert len(await this.names("/services/a/b")) == 1
    assert await this.names("/services/a/b") == []


@pytest.mark.parametrize("sequential", [False, True])
@scene()
async def test_a_process_that_stands_still_at_any_moment(this: Scene, sequential: bool) -> None:
    """Once for a second, once for longer than its session lives."""
    for moment in range(12):
        async with this.client.keep(PATH, b"one", sequential=sequential) as kept:
            await asyncio.sleep(0.0004 * moment)
            await this.other(functools.partial(_stand_still, this, 1.0 if moment % 2 else 2 * T))
            await kept.update(b"two", timeout=30)
            assert await this.names() == [kept.path.rpartition("/")[2]]
            assert await this.data(kept.path) == b"two"
        await this.until(lambda: not keeper_module._releases)
        assert await this.names() == []


async def _stand_still(this: Scene, seconds: float, _: Client) -> None:
    this.app.pause()
    await asyncio.sleep(seconds)
    this.app.resume()


@scene()
async def test_a_client_whose_credentials_are_refused(this: Scene) -> None:
    client = this.app.client(session_timeout=T)
    await client.start()
    async with client.keep(PATH) as kept, client.keep("/nowhere/web") as refused:
        await kept.wait()
        waiting = asyncio.create_task(_next(refused.changes(), 99))
        with contextlib.suppress(EverlatchError):
            await client.add_auth("nonsense", b"x")
        await this.until(lambda: client.state is State.AUTH_FAILED)
        with pytest.raises(AuthFailedError):
            await waiting
        for keeper in (kept, refused):
            with pytest.raises(AuthFailedError):
                await keeper.update(b"two")
            assert not keeper.is_present
    await client.close()
    assert not keeper_module._releases


# --- P4 and P6 ------------------------------------------------------------------------------------------------------


@scene()
async def test_a_restorer_that_raises_holds_up_nobody(this: Scene) -> None:
    def raises(_change):
        raise RuntimeError("for a test")

    this.client._engine.add_restorer(raises)
    async with this.client.keep(PATH) as kept:
        await kept.wait()
        await this.lose_the_session()
        await kept.wait(timeout=1)


@scene()
async def test_a_write_that_is_sent_again_is_not_overtaken(this: Scene) -> None:
    """It was called before the new session's node, and takes effect before that; what was never sent comes after."""
    async with this.client.keep(PATH, b"one") as kept:
        await kept.wait()
        cut = this.world.network.isolate("app")
        sent = this.client.set("/services", b"sent before")
        await this.until(lambda: this.client.state is State.LOST)
        queued, seen = this.client.set("/services", b"queued"), this.client.exists(PATH)
        await asyncio.sleep(T)
        cut.heal()
        first, second, stat = await asyncio.gather(sent, queued, seen)
        assert this.client.statistics().writes_resent == 1
        await kept.wait(timeout=5)
        assert first.mzxid < kept.presence.czxid < second.mzxid
        assert stat is not None


# --- ends ---------------------------------------------------------------------------------------------------------


@scene(client={"renew_session": False})
async def test_without_renewal_it_waits_for_the_word(this: Scene) -> None:
    async with this.client.keep(PATH) as kept, this.client.keep("/services/n-", sequential=True) as numbered:
        await kept.wait()
        await numbered.wait()
        cut = await this.lose_the_link()
        await this.until(lambda: this.client.state is State.LOST)
        await asyncio.sleep(T)
        cut.heal()
        updating = asyncio.create_task(kept.update(b"two"))
        await asyncio.sleep(30)
        assert (kept.is_present, numbered.is_present, await this.names()) == (False, False, [])
        with pytest.raises(CallTimeoutError):
            await kept.wait(timeout=1)
        this.client.renew()
        await updating
        await numbered.wait()
        assert len(await this.names()) == 2


@pytest.mark.parametrize("sequential", [False, True])
@scene(client={"renew_session": False})
async def test_closed_while_the_session_is_lost(this: Scene, sequential: bool) -> None:
    """Once it ends, once it comes back."""
    async with this.client.keep(PATH, sequential=sequential) as kept:
        await kept.wait()
        this.world.servers[0].pause()
        await this.until(lambda: this.client.state is State.LOST)
        await kept.close(timeout=1)
        this.world.servers[0].resume()
        await this.until(lambda: not keeper_module._releases)
        assert this.client.generation == 1
        assert await this.names() == []
    async with this.client.keep(PATH, sequential=sequential) as kept:
        await kept.wait()
        cut = await this.lose_the_link()
        await this.until(lambda: this.client.state is State.LOST)
        await kept.close(timeout=1)
        await asyncio.sleep(T)
        cut.heal()
        await this.until(lambda: not keeper_module._releases)
        assert await this.names() == []


@scene()
async def test_who_gives_up_tells_all_who_wait(this: Scene) -> None:
    client = this.app.client(session_timeout=T, max_reconnect_attempts=3)
    await client.start()
    async with client.keep(PATH) as kept:
        await kept.wait()
        cut = this.world.network.isolate("app")
        await this.until(lambda: client.state is not State.CONNECTED)
        calls = [asyncio.create_task(kept.update(b"x", timeout=None)), asyncio.create_task(_next(kept.changes(), 99))]
        await this.until(lambda: client.state is State.GAVE_UP, timeout=600)
        for call in calls:
            with pytest.raises(GaveUpError):
                await call
        assert (kept.is_present, kept.presence.present) == (False, False)
        cut.heal()
    await client.close()
    assert not keeper_module._releases


@scene()
async def test_a_deletion_that_is_refused_is_tried_ever_more_seldom(this: Scene) -> None:
    await this.other(lambda other: other.create("/locked"))
    async with this.client.keep("/locked/web") as kept:
        await kept.wait()
        no_delete = ACL((Permission.ALL & ~Permission.DELETE).value, "world", "anyone")
        await this.other(lambda other: other.set_acl("/locked", [no_delete]))
    sent = this.client.statistics().requests_sent
    await asyncio.sleep(100)
    assert 10 < this.client.statistics().requests_sent - sent < 60
    await this.other(lambda other: other.set_acl("/locked", OPEN))
    await this.until(lambda: not keeper_module._releases, timeout=11)
    assert await this.names("/locked") == []


# --- no leaks -----------------------------------------------------------------------------------------------------


@scene()
async def test_nothing_is_left_of_many_rounds(this: Scene) -> None:
    engine = this.client._engine
    gone = []
    tasks = None
    for number in range(120):
        kept = this.client.keep(PATH, sequential=number % 2 == 0, make_parents=True)
        async with kept:
            kept.add_listener(lambda presence: None)
            if number % 3:
                await kept.wait()
            if number % 5 == 0:
                updating = asyncio.create_task(kept.update(b"x"))
                await asyncio.sleep(0)
                updating.cancel()
        gone.append(weakref.ref(kept))
        if number == 10:
            tasks = len(asyncio.all_tasks())
    del kept, updating
    await asyncio.sleep(1)
    assert len(asyncio.all_tasks()) <= tasks
    assert not engine._restorers
    assert not engine._audience._listeners if hasattr(engine._audience, "_listeners") else True
    assert this.client.statistics().watches == 0
    gc.collect()
    assert not [ref for ref in gone if ref() is not None]
