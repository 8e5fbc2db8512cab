"""kazoo's recipes and watches on the dev server; and what its users see when the server restarts or a session ends."""

from __future__ import annotations

import contextlib
import threading
from asyncio import to_thread
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError, NoNodeError, RolledBackError, RuntimeInconsistency
from kazoo.protocol.states import KazooState
from kazoo.recipe.cache import TreeCache, TreeEvent
from kazoo.security import make_digest_acl

from everlatch.devserver import DevServer
from everlatch.testing import expire_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

LIMIT = 20.0
"""No wait of a test takes longer, in seconds; none should take a tenth of it."""


@pytest.fixture
async def server() -> AsyncIterator[DevServer]:
    async with DevServer(tick=0.1, max_session_timeout=60.0) as server:
        yield server


@contextlib.contextmanager
def kazoo(address: str, **options: Any) -> Iterator[KazooClient]:
    client = KazooClient(address, timeout=LIMIT, **options)
    client.start(LIMIT)
    try:
        yield client
    finally:
        client.stop()
        client.close()


@contextlib.asynccontextmanager
async def two(server: DevServer) -> AsyncIterator[tuple[KazooClient, KazooClient]]:
    """Two clients for the loop, which must not wait for them itself: the server runs there."""
    with contextlib.ExitStack() as stack:
        clients = [await to_thread(stack.enter_context, kazoo(server.address)) for _ in range(2)]
        try:
            yield clients[0], clients[1]
        finally:
            await to_thread(stack.close)


async def with_two(server: DevServer, body: Callable[[KazooClient, KazooClient], None]) -> None:
    """`body` with two clients, in a thread."""
    async with two(server) as clients:
        await to_thread(body, *clients)


class Seen:
    """What callbacks of any thread were given."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._changed = threading.Condition()

    def add(self, value: Any) -> None:
        with self._changed:
            self.all.append(value)
            self._changed.notify_all()

    def wait_for(self, value: Any) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: value in self.all, LIMIT), self.all


# --- watches --------------------------------------------------------------------------------------------------------


async def test_watches_of_a_node_that_comes_and_goes_and_of_its_children(server: DevServer) -> None:
    def body(zk: KazooClient, other: KazooClient) -> None:
        data, children = Seen(), Seen()
        zk.DataWatch("/a", lambda value, _: data.add(value))
        data.wait_for(None)
        other.create("/a", b"1")
        data.wait_for(b"1")
        zk.ChildrenWatch("/a", lambda names: children.add(sorted(names)))
        for name in ("b", "c"):
            other.create(f"/a/{name}")
        children.wait_for(["b", "c"])
        other.delete("/a/b")
        children.wait_for(["c"])
        other.delete("/a", recursive=True)
        with data._changed:
            assert data._changed.wait_for(lambda: data.all == [None, b"1", None], LIMIT)

    await with_two(server, body)


async def test_a_tree_cache_follows(server: DevServer) -> None:
    def body(zk: KazooClient, other: KazooClient) -> None:
        zk.create("/a/b", b"1", makepath=True)
        events = Seen()
        cache = TreeCache(zk, "/a")
        cache.listen(lambda event: events.add((event.event_type, event.event_data and event.event_data.path)))
        cache.start()
        events.wait_for((TreeEvent.INITIALIZED, None))
        assert cache.get_data("/a/b").data == b"1"
        other.set("/a/b", b"2")
        events.wait_for((TreeEvent.NODE_UPDATED, "/a/b"))
        assert cache.get_data("/a/b").data == b"2"
        other.create("/a/c")
        events.wait_for((TreeEvent.NODE_ADDED, "/a/c"))
        assert sorted(cache.get_children("/a")) == ["b", "c"]
        other.delete("/a/b")
        events.wait_for((TreeEvent.NODE_REMOVED, "/a/b"))
        cache.close()

    await with_two(server, body)


# --- recipes --------------------------------------------------------------------------------------------------------


async def test_a_transaction_is_applied_whole_or_not_at_all(server: DevServer) -> None:
    def body(zk: KazooClient, _: KazooClient) -> None:
        transaction = zk.transaction()
        transaction.create("/a", b"1")
        transaction.create("/a/s-", sequence=True)
        transaction.set_data("/a", b"2")
        created, numbered, stat = transaction.commit()
        assert (created, numbered, stat.version) == ("/a", "/a/s-0000000000", 1)
        transaction = zk.transaction()
        transaction.create("/b")
        transaction.check("/a", 7)
        transaction.delete("/a")
        results = transaction.commit()
        assert isinstance(results[0], RolledBackError)
        assert results[1].__class__.__name__ == "BadVersionError"
        assert isinstance(results[2], RuntimeInconsistency)
        assert zk.exists("/b") is None
        assert zk.get("/a")[0] == b"2"

    await with_two(server, body)


async def test_queues_counters_and_semaphores(server: DevServer) -> None:
    def body(zk: KazooClient, other: KazooClient) -> None:
        queue = zk.Queue("/queue")
        for value in (b"1", b"2"):
            queue.put(value)
        queue.put(b"0", priority=1)
        assert [other.Queue("/queue").get() for _ in range(4)] == [b"0", b"1", b"2", None]
        locking = other.LockingQueue("/locking")
        zk.LockingQueue("/locking").put(b"1")
        assert locking.get(LIMIT) == b"1"
        assert locking.consume()
        for each in (zk, other):
            counter = each.Counter("/counter")
            counter += 2
        assert zk.Counter("/counter").value == 4
        semaphores = [each.Semaphore("/semaphore", max_leases=1) for each in (zk, other)]
        assert semaphores[0].acquire(timeout=LIMIT)
        assert not semaphores[1].acquire(blocking=False)
        semaphores[0].release()
        assert semaphores[1].acquire(timeout=LIMIT)
        semaphores[1].release()

    await with_two(server, body)


async def test_parties_and_barriers(server: DevServer) -> None:
    def body(zk: KazooClient, other: KazooClient) -> None:
        party = [each.Party("/party", name) for each, name in ((zk, "one"), (other, "two"))]
        for member in party:
            member.join()
        assert set(party[0]) == {"one", "two"}
        for member in party:
            member.leave()
        assert len(party[0]) == 0
        barrier = zk.Barrier("/barrier")
        barrier.create()
        assert not other.Barrier("/barrier").wait(0)
        barrier.remove()
        assert other.Barrier("/barrier").wait(LIMIT)
        meeting = [each.DoubleBarrier("/meeting", 2) for each in (zk, other)]
        for step in ("enter", "leave"):
            threads = [threading.Thread(target=getattr(each, step)) for each in meeting]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LIMIT)
                assert not thread.is_alive()

    await with_two(server, body)


async def test_a_read_lock_shares_and_a_write_lock_does_not(server: DevServer) -> None:
    def body(zk: KazooClient, other: KazooClient) -> None:
        first, second = zk.ReadLock("/lock"), other.ReadLock("/lock")
        assert first.acquire(timeout=LIMIT)
        assert second.acquire(timeout=LIMIT)
        writer = zk.WriteLock("/lock")
        assert not writer.acquire(blocking=False)
        first.release()
        second.release()
        assert writer.acquire(timeout=LIMIT)
        writer.release()

    await with_two(server, body)


async def test_acls_and_identities(server: DevServer) -> None:
    def body(zk: KazooClient, other: KazooClient) -> None:
        zk.create("/bobs", b"1", acl=[make_digest_acl("bob", "secret", all=True)])
        with pytest.raises(NoAuthError):
            zk.get("/bobs")
        zk.add_auth("digest", "bob:secret")
        assert zk.get("/bobs")[0] == b"1"
        with kazoo(server.address, auth_data=[("digest", "bob:secret")]) as bob:
            assert bob.get("/bobs")[0] == b"1"
        with pytest.raises(NoAuthError):
            other.set("/bobs", b"2")

    await with_two(server, body)


# --- what goes wrong ------------------------------------------------------------------------------------------------


async def test_who_leads_is_followed_when_his_session_ends(server: DevServer) -> None:
    led = Seen()
    ended = threading.Event()

    def lead(name: str) -> None:
        led.add(name)
        if name == "one":
            ended.wait(LIMIT)

    async with two(server) as (one, other):
        states = Seen()
        one.add_listener(states.add)
        threads = [
            threading.Thread(target=each.Election("/election", name).run, args=(lead, name))
            for each, name in ((one, "one"), (other, "two"))
        ]
        threads[0].start()
        await to_thread(led.wait_for, "one")
        threads[1].start()
        await expire_session(one.client_id, server.address)
        await to_thread(led.wait_for, "two")
        await to_thread(states.wait_for, KazooState.LOST)
        await to_thread(states.wait_for, KazooState.CONNECTED)
        ended.set()
        for thread in threads:
            await to_thread(thread.join, LIMIT)
            assert not thread.is_alive()


async def test_a_restart_costs_a_client_nothing_but_the_connection(server: DevServer) -> None:
    async with two(server) as (zk, other):
        states, data = Seen(), Seen()
        zk.add_listener(states.add)
        await to_thread(zk.create, "/a", b"1")
        await to_thread(zk.create, "/e", b"", ephemeral=True)
        await to_thread(zk.DataWatch, "/a", lambda value, _: data.add(value))
        await to_thread(data.wait_for, b"1")
        session = zk.client_id
        await server.stop()
        await to_thread(states.wait_for, KazooState.SUSPENDED)
        await server.start()
        await to_thread(states.wait_for, KazooState.CONNECTED)
        assert KazooState.LOST not in states.all
        assert zk.client_id == session
        assert await to_thread(zk.exists, "/e")
        await to_thread(other.retry, other.set, "/a", b"2")
        await to_thread(data.wait_for, b"2")


async def test_errors_are_those_that_kazoo_knows(server: DevServer) -> None:
    def body(zk: KazooClient, _: KazooClient) -> None:
        with pytest.raises(NoNodeError):
            zk.get("/missing")
        with pytest.raises(NoNodeError):
            zk.create("/missing/a")
        assert zk.command(b"ruok") == "imok"

    await with_two(server, body)
