"""The dev server on TCP: with everlatch's own client and its leader latch, with kazoo, and byte by byte."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError as KazooNodeExistsError

from everlatch import admin
from everlatch.client import Client
from everlatch.devserver import DevServer, serve
from everlatch.devserver.identities import digest
from everlatch.errors import (
    AlreadyStartedError,
    InvalidArgumentError,
    NoAuthError,
    SessionExpiredError,
    StartError,
    TransactionFailedError,
)
from everlatch.recipes import LeaderLatch
from everlatch.types import CREATOR_ALL_ACL, EventType, State
from everlatch.wire.codes import Op
from real.raw import Raw
from skipping_loop import on_real_loops

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from everlatch.types import StateChange, WatchEvent

LIMIT = 20.0
"""No wait of a test takes longer, in seconds; none should take a tenth of it."""


@pytest.fixture
async def server() -> AsyncIterator[DevServer]:
    async with DevServer(tick=0.1, max_session_timeout=60.0) as server:
        yield server


def client_of(server: DevServer, **options: float) -> Client:
    return Client(server.address, **({"default_timeout": LIMIT, "start_timeout": LIMIT} | options))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.001)


class Events:
    """A watch that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[WatchEvent] = asyncio.Queue()

    def __call__(self, event: WatchEvent) -> None:
        self.heard.put_nowait(event)

    async def next(self) -> tuple[EventType, str]:
        async with asyncio.timeout(LIMIT):
            event = await self.heard.get()
        return event.type, event.path


# --- everlatch ----------------------------------------------------------------------------------------------------


@on_real_loops
async def test_everlatch_does_everything_on_it() -> None:
    async with DevServer() as server, client_of(server) as client:
        created = await client.create("/a", b"1")
        assert created.stat == await client.exists("/a")
        assert (await client.set("/a", b"22")).version == 1
        assert await client.get("/a") == (b"22", await client.exists("/a"))
        await client.create("/a/n-", sequential=True, ephemeral=True)
        await client.create("/a/c", container=True)
        await client.create("/a/t", ttl=10.0)
        assert sorted(await client.children("/a")) == ["c", "n-0000000000", "t"]
        assert await client.count_descendants("/a") == 3
        assert await client.ephemerals() == ["/a/n-0000000000"]
        async with client.transaction() as transaction:
            transaction.check("/a", 1)
            path = transaction.create("/a/n-", sequential=True)
        assert path.result == "/a/n-0000000003"
        transaction = client.transaction()
        transaction.delete("/a/c")
        transaction.delete("/a")
        with pytest.raises(TransactionFailedError):
            await transaction.commit()
        async with client.multi_read() as reads:
            node = reads.get("/a")
            names = reads.children("/a")
        assert node.result.data == b"22"
        assert len(names.result) == 4
        await client.sync("/")
        await client.delete_tree("/a")
        assert await client.exists("/a") is None
        assert await client.get_config() == (b"", await client.exists("/zookeeper/config"))


@pytest.mark.parametrize("version", ["3.8", "3.9"])
async def test_watches_of_all_kinds(version: str) -> None:
    async with DevServer(version=version) as server, client_of(server) as client, client_of(server) as other:
        node, children = Events(), Events()
        await client.create("/a")
        await client.get("/a", watch=node)
        await client.children("/a", watch=children)
        async with client.add_watch("/", recursive=True) as below:
            await other.create("/a/b")
            await other.delete("/a/b")
            await other.set("/a", b"")
            await other.delete("/a")
            seen = [await anext(below) for _ in range(4)]
        assert await node.next() == (EventType.DATA_CHANGED, "/a")
        assert await children.next() == (EventType.CHILDREN_CHANGED, "/a")
        assert [(event.type, event.path) for event in seen] == [
            (EventType.CREATED, "/a/b"),
            (EventType.DELETED, "/a/b"),
            (EventType.DATA_CHANGED, "/a"),
            (EventType.DELETED, "/a"),
        ]
        assert node.heard.empty()
        assert children.heard.empty()


async def test_identities_protect_nodes_and_super_may_do_everything() -> None:
    async with DevServer(super_digest=digest(b"super:pw")) as server, client_of(server) as bob:
        await bob.add_auth("digest", b"bob:secret")
        await bob.create("/bob", b"1", acl=CREATOR_ALL_ACL)
        async with client_of(server) as other:
            with pytest.raises(NoAuthError):
                await other.get("/bob")
            await other.add_auth("digest", b"super:pw")
            assert (await other.get("/bob")).data == b"1"


async def test_a_session_that_expires_loses_its_nodes_and_others_hear_of_it(server: DevServer) -> None:
    changes: list[StateChange] = []
    async with client_of(server) as watcher, client_of(server) as owner:
        owner.add_listener(changes.append)
        await owner.create("/e", ephemeral=True)
        gone = Events()
        await watcher.exists("/e", watch=gone)
        bound = owner.in_session()
        server.expire_session(owner.session_id)
        assert await gone.next() == (EventType.DELETED, "/e")
        await until(lambda: any(change.state is State.RENEWED for change in changes))
        with pytest.raises(SessionExpiredError):
            await bound.exists("/e")
        assert await owner.exists("/e") is None


async def test_a_silent_client_expires_by_the_clock(server: DevServer) -> None:
    async with client_of(server) as watcher, Raw.connect(server.address) as raw:
        core = server.core
        assert core is not None
        await raw.shake_hands(timeout_ms=1_000)
        gone = Events()
        assert (
            await raw.code(Op.CREATE, b"\0\0\0\2/e\0\0\0\0\0\0\0\1\0\0\0\x1f\0\0\0\5world\0\0\0\6anyone\0\0\0\1") == 0
        )
        await watcher.exists("/e", watch=gone)
        assert await gone.next() == (EventType.DELETED, "/e")
        assert await raw.hung_up()
        assert len(core.sessions) == 1


async def test_latches_elect_on_it_and_the_next_one_leads_when_a_session_ends(server: DevServer) -> None:
    async with client_of(server) as first, client_of(server) as second:
        one, two = LeaderLatch(first, "/latch", "one"), LeaderLatch(second, "/latch", "two")
        async with one:
            token = await one.wait(LIMIT)
            async with two:
                await until(lambda: two.node)
                assert [each.id for each in await two.participants()] == ["one", "two"]
                assert not two.is_leader
                await one.close()
                assert await two.wait(LIMIT) > token
                assert two.is_leader


async def test_a_restart_keeps_nodes_and_sessions_and_clients_come_back(server: DevServer) -> None:
    async with client_of(server) as client:
        session_id = client.session_id
        await client.create("/e", b"1", ephemeral=True)
        port = server.port
        await server.stop()
        await server.stop()
        await server.start()
        assert server.port == port
        assert (await client.get("/e")).data == b"1"
        assert client.session_id == session_id
        with pytest.raises(AlreadyStartedError):
            await server.start()


async def test_nobody_listens_before_the_start_and_after_the_stop() -> None:
    server = DevServer()
    await server.stop()
    async with server:
        address = server.address
    with pytest.raises(StartError):
        await Client(address, start_timeout=0.5).start()


async def test_options_are_checked_before_anything_listens() -> None:
    with pytest.raises(InvalidArgumentError):
        DevServer(version="2.0")


async def test_serve_serves_until_it_is_cancelled() -> None:
    async with DevServer() as other:
        port = other.port
    serving = asyncio.create_task(serve(port))
    async with Client(f"127.0.0.1:{port}", start_timeout=LIMIT) as client:
        await client.create("/a")
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)


# --- the wire -----------------------------------------------------------------------------------------------------


@on_real_loops
async def test_twenty_thousand_gets_at_once() -> None:
    async with DevServer() as server, client_of(server, max_queued_calls=30_000) as client:
        await client.create("/a", b"x" * 100)
        nodes = await asyncio.gather(*(client.get("/a") for _ in range(20_000)))
        assert len(nodes) == 20_000
        assert {node.data for node in nodes} == {b"x" * 100}


@on_real_loops
async def test_who_does_not_read_is_not_read_from() -> None:
    async with DevServer() as server, client_of(server) as client, Raw.open(server.address) as raw:
        await client.create("/a", bytes(1_000_000))
        core = server.core
        assert core is not None
        (greedy,) = (each for each in core.connections if each.session and each.session.id == raw.session_id)
        received = []
        # Thirty answers are more than all buffers on the way hold.
        for _ in range(2):
            xids = [raw.send(Op.GET_DATA, b"\0\0\0\2/a\0") for _ in range(30)]
            for _ in range(20):  # so often the server has had the chance to read
                await client.sync("/")
            received.append(greedy.received)
        assert received[0] == received[1] < 61
        for xid in range(1, xids[-1] + 1):
            assert (await raw.receive()).xid == xid
        assert greedy.received == 61


async def test_replies_come_in_order_and_the_connection_ends_behind_the_last(server: DevServer) -> None:
    async with Raw.open(server.address) as raw:
        xids = [raw.send(Op.SYNC, b"\0\0\0\1/") for _ in range(5)]
        xids.append(raw.send(Op.CLOSE_SESSION))
        assert [(await raw.receive()).xid for _ in xids] == xids
        assert await raw.hung_up()


async def test_a_frame_that_is_too_long_ends_the_connection_without_a_word(server: DevServer) -> None:
    async with Raw.open(server.address) as raw:
        raw.send(Op.SET_DATA, bytes(0xFFFFF))
        assert await raw.hung_up()
    async with client_of(server) as client:
        assert await client.exists("/") is not None


async def test_the_words_are_those_that_administrators_tools_read(server: DevServer) -> None:
    async with client_of(server) as client:
        await client.create("/e", ephemeral=True)
        await client.exists("/e", watch=Events())
        assert await admin.ruok(server.address)
        assert await admin.isro(server.address) is False
        status = await admin.srvr(server.address)
        assert (status.version.numbers, status.mode, status.node_count) == ((3, 9, 5), "standalone", 6)
        assert (await admin.mntr(server.address))["zk_ephemerals_count"] == 1
        assert client.session_id in [each.session_id for each in await admin.cons(server.address)]
        assert len(await admin.stat(server.address)) >= 2
        dump = await admin.dump(server.address)
        assert dump.sessions == [client.session_id]
        assert dump.ephemerals == {client.session_id: ["/e"]}
        assert await admin.wchs(server.address) == (1, 1, 1)
        with pytest.raises(admin.NotWhitelistedError):
            await admin.conf(server.address)


# --- kazoo --------------------------------------------------------------------------------------------------------


def creates(zk: KazooClient) -> None:
    assert zk.create("/app/config", b"1", makepath=True) == "/app/config"
    with pytest.raises(KazooNodeExistsError):
        zk.create("/app/config")
    assert zk.set("/app/config", b"22").version == 1
    assert zk.get("/app/config")[0] == b"22"
    assert zk.create("/app/n-", sequence=True, ephemeral=True) == "/app/n-0000000001"
    assert sorted(zk.get_children("/app")) == ["config", "n-0000000001"]
    transaction = zk.transaction()
    transaction.check("/app/config", 1)
    transaction.create("/app/new", b"")
    transaction.delete("/app/config")
    assert transaction.commit() == [True, "/app/new", True]
    zk.delete("/app", recursive=True)
    assert zk.exists("/app") is None


def locks(zk: KazooClient, other: KazooClient) -> None:
    held = zk.Lock("/lock", "one")
    assert held.acquire(timeout=LIMIT)
    wanted = other.Lock("/lock", "two")
    assert not wanted.acquire(blocking=False)
    assert held.contenders() == ["one"]
    got = threading.Thread(target=wanted.acquire, kwargs={"timeout": LIMIT})
    got.start()
    held.release()
    got.join(LIMIT)
    assert wanted.is_acquired
    wanted.release()


def elects(zk: KazooClient, other: KazooClient) -> None:
    led: list[str] = []
    elections = [(each.Election("/election", name), name) for each, name in ((zk, "one"), (other, "two"))]
    threads = [threading.Thread(target=each.run, args=(led.append, name)) for each, name in elections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(led) == ["one", "two"]


def watches(zk: KazooClient, other: KazooClient) -> None:
    zk.create("/watched", b"1")
    seen: list[bytes | None] = []
    changed = threading.Condition()

    @zk.DataWatch("/watched")
    def look(data: bytes | None, _: object) -> None:
        with changed:
            seen.append(data)
            changed.notify()

    for count, write in enumerate(
        (lambda: other.set("/watched", b"2"), lambda: other.set("/watched", b"3"), lambda: other.delete("/watched")), 2
    ):
        write()
        with changed:
            assert changed.wait_for(lambda count=count: len(seen) >= count, LIMIT)
    assert seen == [b"1", b"2", b"3", None]


def with_kazoo(address: str) -> None:
    zk, other = KazooClient(address, timeout=LIMIT), KazooClient(address, timeout=LIMIT)
    for client in (zk, other):
        client.start(LIMIT)
    try:
        creates(zk)
        locks(zk, other)
        elects(zk, other)
        watches(zk, other)
    finally:
        for client in (zk, other):
            client.stop()
            client.close()


async def test_kazoo_creates_locks_elects_and_watches_on_it(server: DevServer) -> None:
    await asyncio.to_thread(with_kazoo, server.address)
