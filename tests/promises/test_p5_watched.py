"""P5, subscriptions: each ends on the state that is, tells nothing that never was, and never goes back.

By hand, on the scripted server as each version, in virtual time; `test_p5_simulated` has the same under random faults,
`real/test_p5_watched` on real servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import sys
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import OPEN_ACL_UNSAFE, NoAuthError
from everlatch.devserver.watches import Table
from everlatch.subscriptions.feed import LONGEST_PAUSE
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, expire
from skipping_loop import simulated
from subscriptions.following import CLOSED, READS, VERSIONS, after, become, count, cut, until, writer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from everlatch import Client

EVERY_VERSION = pytest.mark.parametrize("version", VERSIONS)
SINCE_3_6 = pytest.mark.parametrize("version", VERSIONS[1:])


def watched_at(server: ScriptedServer) -> list[str]:
    """The paths of the watches that the server has, for whomever."""
    return [
        path for connection in server.znodes.connections for table in Table for path in connection.watches.paths(table)
    ]


async def until_nothing_is_watched(server: ScriptedServer, client: Client) -> None:
    assert client.statistics().watches == 0
    for _ in range(3):  # a removal that an old server refuses is followed by another one
        await client.sync()
    assert watched_at(server) == []


# --- what changes -----------------------------------------------------------------------------------------------------


@EVERY_VERSION
@simulated
async def test_the_present_state_and_then_each_that_lasts(version: str) -> None:
    async with ScriptedServer(version=version) as server, server.client() as client, server.client() as writer:
        async with client.watch_data("/a") as data, client.watch_children("/a") as children:
            assert await after(data) is None, "missing at first"
            assert await after(children) is None
            await writer.create("/a", b"1")
            assert (await after(data), await after(children)) == (b"1", [])
            await writer.set("/a", b"2")
            assert await after(data) == b"2"
            await writer.create("/a/b")
            assert await after(children) == ["b"]
            await writer.delete("/a/b")
            assert await after(children) == []
            await writer.delete("/a")
            assert (await after(data), await after(children)) == (None, None)
            await writer.create("/a", b"2")
            assert (await after(data), await after(children)) == (b"2", [])
            assert (data.queued, children.queued) == (0, 0), "changes of the other kind are none"
        await until_nothing_is_watched(server, client)


@EVERY_VERSION
@simulated
async def test_those_who_come_late_are_told_what_is_by_one_read(version: str) -> None:
    async with ScriptedServer(version=version) as server, server.client() as client:
        await client.create("/a", b"1")
        async with client.watch_data("/a") as first:
            assert await after(first) == b"1"
            reads = count(server, *READS)
            async with client.watch_data("/a") as second, client.watch_data("/a") as third:
                assert await after(second) == await after(third) == b"1"
            assert count(server, *READS) == reads + 1
            assert first.queued == 0, "it knows"
            await client.set("/a", b"2")
            async with client.watch_data("/a") as fourth:
                assert await after(fourth) == b"2", "what this client has written it finds"


@EVERY_VERSION
@simulated
async def test_a_slow_reader_finds_the_latest_state_only(version: str) -> None:
    async with ScriptedServer(version=version) as server, server.client() as client, server.client() as writer:
        await writer.create("/a", b"0")
        async with client.watch_data("/a") as slow, client.watch_data("/a") as quick:
            assert await after(slow) == b"0"
            await until(quick, b"0")
            for number in range(1, 20):
                await writer.set("/a", b"%d" % number)
                await until(quick, b"%d" % number)
                assert slow.queued == 1
            assert await after(slow) == b"19"


# --- connections, sessions, versions ----------------------------------------------------------------------------------


@EVERY_VERSION
@pytest.mark.parametrize("loses_session", [False, True])
@simulated
async def test_what_was_missed_is_found_behind_every_loss(version: str, loses_session: bool) -> None:
    async with ScriptedServer(version=version) as server, server.client() as client:
        async with client.watch_data("/a") as data, client.watch_children("/a") as children:
            assert (await after(data), await after(children)) == (None, None)
            changes = (("create", "/a", b"1"), ("create", "/a/b", b""), ("delete", "/a/b"), ("set", "/a", b"2"))
            expected = ((b"1", []), (None, ["b"]), (None, []), (b"2", None))
            for (what, *args), (node, names) in zip(changes, expected, strict=True):
                if loses_session:
                    server.handshakes.append(expire)
                cut(server)
                getattr(server.znodes, what)(*args)
                if node is not None:
                    assert await after(data) == node
                if names is not None:
                    assert await after(children) == names
            cut(server)
            server.znodes.delete("/a")
            server.znodes.create("/a", b"2")
            assert await after(data) == b"2", "another node"
            assert await after(children) == []
            await client.sync()
            assert (data.queued, children.queued) == (0, 0)
        await until_nothing_is_watched(server, client)


@simulated
async def test_through_a_rolling_upgrade_and_back() -> None:
    async with ScriptedServer(version="3.5") as server, server.client() as client, server.client() as writer:
        await writer.create("/a", b"0")
        async with client.watch_data("/a") as data, client.watch_children("/a") as children:
            numbers = itertools.count(1)
            for version in ("3.5", "3.8", "3.9", "3.5", "3.9", "3.8", "3.5", "3.5"):
                become(server, version)
                for _ in range(2):
                    number = next(numbers)
                    await writer.set("/a", b"%d" % number)
                    await until(data, b"%d" % number)
                    await writer.create(f"/a/{number}")
                    await until(children, sorted(map(str, range(1, number + 1))))
        await until_nothing_is_watched(server, client)


@SINCE_3_6
@simulated
async def test_watches_of_the_application_s_own_take_nothing_from_it(version: str) -> None:
    """Before 3.9 a path has one mode at a time: that of whoever came last."""
    async with ScriptedServer(version=version) as server, server.client() as client, server.client() as writer:
        await writer.create("/a", b"0")
        fired: list[object] = []
        async with client.watch_data("/a") as data, client.watch_children("/a") as children:
            assert (await after(data), await after(children)) == (b"0", [])
            async with client.add_watch("/a", recursive=True):
                for number in range(1, 4):
                    await client.get("/a", watch=fired.append)
                    await client.children("/a", watch=fired.append)
                    await writer.set("/a", b"%d" % number)
                    await until(data, b"%d" % number)
                    await writer.create(f"/a/{number}")
                    await until(children, sorted(map(str, range(1, number + 1))))
            await client.get("/a", watch=fired.append)
            await client.remove_watches("/a")
            await writer.set("/a", b"last")
            await until(data, b"last")
            await writer.create("/a/last")
            await until(children, ["1", "2", "3", "last"])
            assert fired
        await until_nothing_is_watched(server, client)


# --- permissions ------------------------------------------------------------------------------------------------------


@EVERY_VERSION
@simulated
async def test_a_loss_of_read_is_said_once_and_its_return_is_found(version: str) -> None:
    async with (
        ScriptedServer(version=version) as server,
        server.client(recheck_interval=2.0) as client,
        writer_of(server) as writer,
    ):
        await writer.create("/a", b"0")
        async with client.watch_data("/a") as data, client.watch_children("/a") as children:
            assert (await after(data), await after(children)) == (b"0", [])
            for number in (1, 2):
                await writer.set_acl("/a", CLOSED)
                await writer.set("/a", b"%d" % number)
                await writer.create(f"/a/{number}")
                for states in (data, children):
                    with pytest.raises(NoAuthError):
                        await after(states)
                    with pytest.raises(TimeoutError):
                        await after(states, within=3 * LONGEST_PAUSE)
                await writer.set_acl("/a", OPEN_ACL_UNSAFE)
                assert await after(data, within=1.3 * LONGEST_PAUSE) == b"%d" % number
                assert await after(children, within=1.3 * LONGEST_PAUSE) == sorted(map(str, range(1, number + 1)))
            await writer.set("/a", b"3")
            assert await after(data, within=0.1) == b"3", "events come again"


@EVERY_VERSION
@simulated
async def test_what_changed_while_nobody_was_told_is_found(version: str) -> None:
    """READ was lost and is back before anybody has looked."""
    async with (
        ScriptedServer(version=version) as server,
        server.client(recheck_interval=2.0) as client,
        writer_of(server) as writer,
    ):
        await writer.create("/a", b"0")
        async with client.watch_data("/a") as data, client.watch_data("/b") as other:
            assert (await after(data), await after(other)) == (b"0", None)
            await writer.set_acl("/a", CLOSED)
            await writer.set("/a", b"1")
            await writer.set_acl("/a", OPEN_ACL_UNSAFE)
            await writer.create("/b", b"1", acl=CLOSED)
            await writer.set_acl("/b", OPEN_ACL_UNSAFE)
            with contextlib.suppress(NoAuthError):
                await until(data, b"1")
            with contextlib.suppress(NoAuthError):
                await until(other, b"1")


@simulated
async def test_one_who_reads_late_finds_the_state_instead_of_a_loss_that_is_over() -> None:
    async with ScriptedServer() as server, server.client() as client, writer_of(server) as writer:
        await writer.create("/a", b"0", acl=CLOSED)
        async with client.watch_data("/a") as slow, client.watch_data("/a") as quick:
            with pytest.raises(NoAuthError):
                await after(quick)
            await writer.set_acl("/a", OPEN_ACL_UNSAFE)
            assert await after(quick) == b"0"
            assert await after(slow) == b"0"


# --- leaving ----------------------------------------------------------------------------------------------------------


async def _first(client: Client) -> object:
    async with client.watch_data("/a") as states:
        return await anext(states)


async def _two_with_a_change(client: Client) -> None:
    async with client.watch_children("/a") as states:
        async for state in states:
            if state is not None and state.names:
                break
            await client.create("/a/b")
    await client.delete("/a/b")


async def _wait(client: Client) -> object:
    return await client.wait_exists("/a", timeout=5.0)


@EVERY_VERSION
@pytest.mark.parametrize("what", [_first, _wait, _two_with_a_change])
@simulated
async def test_cancelled_at_every_turn_of_the_loop(
    version: str, what: Callable[[Client], Coroutine[Any, Any, object]]
) -> None:
    async with ScriptedServer(version=version) as server, server.client() as client:
        await client.create("/a")
        await _first(client)  # the question for the server's version goes on for others, and is asked once
        turns, ended = 0, False
        while not ended:
            task = asyncio.create_task(what(client))
            for _ in range(turns):
                await asyncio.sleep(0)
                if task.done():
                    break
            ended = not task.cancel()
            await asyncio.wait([task])
            with contextlib.suppress(asyncio.CancelledError):
                task.result()
            assert len(client._feeds) == 0
            await client.sync()
            await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) == 1
            if what is _two_with_a_change and await client.exists("/a/b"):
                await client.delete("/a/b")
            turns += 1
        assert turns > 5
        await until_nothing_is_watched(server, client)


# --- many -------------------------------------------------------------------------------------------------------------


@EVERY_VERSION
@simulated
async def test_a_thousand_subscriptions_of_one_path_cost_one_watch_and_one_read_for_each_change(version: str) -> None:
    async with ScriptedServer(version=version) as server, server.client() as client, server.client() as writer:
        await writer.create("/a", b"0")
        told: dict[int, list[bytes]] = {number: [] for number in range(1000)}

        async def follow(number: int) -> None:
            async with client.watch_data("/a") as states:
                async for node in states:
                    assert node is not None
                    told[number].append(node.data)

        following = [asyncio.create_task(follow(number)) for number in told]
        await server.until(lambda: all(told.values()))
        assert set(watched_at(server)) == {"/a"}
        assert len(watched_at(server)) <= 2, "a persistent watch is in two tables, as on real servers"
        assert client.statistics().watches == 1
        reads = count(server, Op.GET_DATA)
        for number in (1, 2, 3):
            await writer.set("/a", b"%d" % number)
            await server.until(lambda: all(len(each) > number for each in told.values()))  # noqa: B023
        assert all(each == [b"0", b"1", b"2", b"3"] for each in told.values())
        assert count(server, Op.GET_DATA) == reads + 3
        assert len(watched_at(server)) <= 2
        for task in following:
            task.cancel()
        await asyncio.wait(following)
        await until_nothing_is_watched(server, client)


@pytest.mark.parametrize("version", ["3.5", "3.9"])
@simulated
async def test_thousands_of_paths_with_a_short_queue(version: str) -> None:
    """All are read again behind a loss; the queue takes a tenth of them."""
    many = 600
    async with ScriptedServer(version=version) as server, server.client(max_queued_calls=many // 10) as client:
        async with contextlib.AsyncExitStack() as stack:
            followed = [await stack.enter_async_context(client.watch_data(f"/{number}")) for number in range(many)]
            for states in followed:
                assert await after(states) is None
            assert len(set(watched_at(server))) == many
            cut(server)
            for number in range(0, many, 2):
                server.znodes.create(f"/{number}", b"new")
            for states in followed[::2]:
                assert await after(states) == b"new"
            assert not any(states.queued for states in followed)
        await until_nothing_is_watched(server, client)


async def _go_round(client: Client, rounds: int) -> None:
    """Ten subscribe and leave each time; some wait for what is, others don't."""
    for number in range(rounds):
        async with contextlib.AsyncExitStack() as stack:
            kinds = (client.watch_data, client.watch_children)
            entered = [await stack.enter_async_context(kinds[each % 2]("/a")) for each in range(10)]
            for states in entered[: number % 4]:
                with contextlib.suppress(NoAuthError):
                    await anext(states)
    await client.sync()


@pytest.mark.parametrize("version", ["3.5", "3.9"])
@pytest.mark.parametrize("is_refused", [False, True])
@simulated
async def test_ten_thousand_subscriptions_that_come_and_go_leave_nothing(version: str, is_refused: bool) -> None:
    async with ScriptedServer(version=version) as server, server.client() as client, writer_of(server) as writer:
        await writer.create("/a", acl=CLOSED if is_refused else OPEN_ACL_UNSAFE)
        await _go_round(client, 20)
        tasks, connections = len(asyncio.all_tasks()), client.connections
        with memory_that_stays(server) as grown:
            await _go_round(client, 1000)
        assert grown[0] < 32 * 1024, f"{grown} bytes"
        assert len(asyncio.all_tasks()) == tasks
        assert len(client._feeds) == 0
        assert client.connections == connections
        await until_nothing_is_watched(server, client)


@contextlib.contextmanager
def memory_that_stays(server: ScriptedServer) -> Iterator[list[int]]:
    """The bytes by which there is more in the end, but for what the server has written down."""
    grown: list[int] = []
    gc.collect()
    before = sum(map(sys.getsizeof, gc.get_objects()))
    yield grown
    server.requests.clear()
    gc.collect()
    grown.append(sum(map(sys.getsizeof, gc.get_objects())) - before)


# --- what has nothing to do with it -----------------------------------------------------------------------------------


@simulated
async def test_a_short_default_timeout_is_not_theirs() -> None:
    async with (
        ScriptedServer() as server,
        server.client(default_timeout=0.05) as client,
        client.watch_data("/a") as states,
    ):
        assert await after(states) is None
        server.refusing = True
        cut(server)
        await asyncio.sleep(20.0)
        server.znodes.create("/a", b"1")
        server.refusing = False
        assert await after(states) == b"1"
