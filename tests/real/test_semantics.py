"""What programs rely on without thinking of it: numbers, versions, permissions, the order of things. On both versions.

What single operations return and are refused is in `test_operations`; here is how they go together.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING

import pytest

from everlatch import (
    ACL,
    CREATOR_ALL_ACL,
    OPEN_ACL_UNSAFE,
    READ_ACL_UNSAFE,
    BadVersionError,
    Client,
    ClientStateError,
    EventType,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    Permission,
    RequestTooLargeError,
    TransactionFailedError,
)
from everlatch.testing import Ensemble
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.multi import CreatePart, CreateResult, decode_multi_reply, encode_multi_request
from everlatch.wire.records import decode_get_children_reply, encode_get_children_request
from real.faults import LONGEST, until
from real.raw import Raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from everlatch import WatchEvent
    from everlatch.testing import Server
    from real_servers import LoopThread

    Act = Callable[[Client, str], Awaitable[object]]

pytestmark = pytest.mark.real

MAX_BUFFER = 1_048_575


@pytest.fixture
async def client(standalone: Server) -> AsyncIterator[Client]:
    async with Client(standalone.address, default_timeout=LONGEST) as client:
        yield client


@pytest.fixture
async def other(standalone: Server) -> AsyncIterator[Client]:
    async with Client(standalone.address, default_timeout=LONGEST) as client:
        yield client


def own_name(request: pytest.FixtureRequest) -> str:
    return "/semantics-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")


@pytest.fixture
async def root(client: Client, request: pytest.FixtureRequest) -> str:
    """A node for this test alone."""
    return (await client.create(own_name(request))).path


# --- sequence numbers ---------------------------------------------------------------------------------------------


async def numbered(client: Client, root: str) -> int:
    path, _ = await client.create(f"{root}/n-", sequential=True)
    return int(path.removeprefix(f"{root}/n-"))


async def test_numbers_count_what_was_ever_created_under_the_parent(client: Client, root: str) -> None:
    assert await numbered(client, root) == 0
    await client.create(f"{root}/plain")
    await client.create(f"{root}/ephemeral", ephemeral=True)
    await client.create(f"{root}/container", container=True)
    assert await numbered(client, root) == 4
    for name in await client.children(root):
        await client.delete(f"{root}/{name}")
    # Deletions don't count, though `cversion` counts them; nor do grandchildren.
    assert await numbered(client, root) == 5
    _, stat = await client.children_and_stat(root)
    assert (stat.cversion, stat.num_children) == (11, 1)
    await client.create(f"{root}/n-0000000005/grandchild")
    assert await numbered(client, root) == 6


async def test_numbers_are_not_used_up_by_what_fails(client: Client, root: str) -> None:
    await client.create(f"{root}/there")
    with pytest.raises(NodeExistsError):
        await client.create(f"{root}/there")
    transaction = client.transaction()
    transaction.create(f"{root}/n-", sequential=True)
    transaction.create(f"{root}/there")
    with pytest.raises(TransactionFailedError):
        await transaction.commit()
    assert await numbered(client, root) == 1


async def test_numbers_of_several_clients_are_all_different(client: Client, other: Client, root: str) -> None:
    calls = [who.create(f"{root}/n-", sequential=True) for _ in range(100) for who in (client, other)]
    paths = [path for path, _ in await asyncio.gather(*calls)]
    assert sorted(paths) == [f"{root}/n-{number:010}" for number in range(200)]
    # Each client's own numbers are in the order of its calls.
    assert paths[::2] == sorted(paths[::2])
    assert paths[1::2] == sorted(paths[1::2])


async def test_a_parent_that_is_made_anew_counts_anew(client: Client, root: str) -> None:
    assert await numbered(client, root) == 0
    await client.delete_tree(root)
    await client.create(root)
    assert await numbered(client, root) == 0


# --- versions -----------------------------------------------------------------------------------------------------


async def test_each_kind_of_change_has_its_own_version(client: Client, root: str) -> None:
    before = await client.exists(root)
    assert before is not None
    data = await client.set(root, b"x")
    assert data == before._replace(mzxid=data.mzxid, mtime=data.mtime, version=1, data_length=1)
    acl = await client.set_acl(root, OPEN_ACL_UNSAFE)
    assert acl == data._replace(aversion=1)
    await client.create(f"{root}/a")
    await client.create(f"{root}/a/grandchild")
    child = await client.exists(root)
    assert child is not None
    assert child == acl._replace(cversion=1, num_children=1, pzxid=child.pzxid)
    assert before.czxid < data.mzxid < child.pzxid


async def test_a_node_that_is_made_anew_has_version_0_and_another_czxid(client: Client, root: str) -> None:
    path, first = await client.create(f"{root}/a")
    changed = await client.set(path, b"x")
    await client.delete(path)
    _, second = await client.create(path)
    assert (second.version, second.czxid > changed.mzxid > first.czxid) == (0, True)
    with pytest.raises(BadVersionError):
        await client.set(path, b"y", version=changed.version)


async def test_conditional_writes_lose_no_update(standalone: Server, root: str) -> None:
    """Eight clients count to 160 together, each by read, compare and write."""
    clients = [Client(standalone.address, default_timeout=LONGEST) for _ in range(8)]
    await asyncio.gather(*[client.start() for client in clients])

    async def count(client: Client) -> int:
        refusals = 0
        for _ in range(20):
            while True:
                data, stat = await client.get(root)
                try:
                    await client.set(root, b"%d" % (int(data or b"0") + 1), version=stat.version)
                except BadVersionError:
                    refusals += 1
                    continue
                break
        return refusals

    try:
        assert sum(await asyncio.gather(*[count(client) for client in clients])) > 0
        data, stat = await clients[0].get(root)
        assert (data, stat.version) == (b"160", 160)
    finally:
        await asyncio.gather(*[client.close() for client in clients])


async def test_the_version_of_an_acl_guards_it(client: Client, root: str) -> None:
    _, stat = await client.get_acl(root)
    first = await client.set_acl(root, (*READ_ACL_UNSAFE, ACL(31, "ip", "127.0.0.1")), version=stat.aversion)
    await client.set(root, b"does not count")
    assert (stat.aversion, first.aversion) == (0, 1)
    with pytest.raises(BadVersionError):
        await client.set_acl(root, OPEN_ACL_UNSAFE, version=stat.aversion)
    assert (await client.set_acl(root, OPEN_ACL_UNSAFE, version=first.aversion)).aversion == 2


# --- permissions --------------------------------------------------------------------------------------------------

# What each bit permits; deleting is a matter of the parent's bits. What `exists` needs depends on the release.
PERMITTED: dict[Permission, set[str]] = {
    Permission.READ: {"get", "children", "get_acl", "check"},
    Permission.WRITE: {"set"},
    Permission.CREATE: {"create"},
    Permission.DELETE: {"delete child"},
    Permission.ADMIN: {"get_acl", "set_acl"},
}


def check_in_transaction(client: Client, path: str) -> Awaitable[object]:
    transaction = client.transaction()
    transaction.check(path)
    return transaction.commit()


ACTS: dict[str, Act] = {
    "get": lambda c, p: c.get(p),
    "children": lambda c, p: c.children(p),
    "get_acl": lambda c, p: c.get_acl(p),
    "check": check_in_transaction,
    "set": lambda c, p: c.set(p, b"x"),
    "create": lambda c, p: c.create(f"{p}/new"),
    "delete child": lambda c, p: c.delete(f"{p}/child"),
    "set_acl": lambda c, p: c.set_acl(p, OPEN_ACL_UNSAFE),
}


@pytest.mark.parametrize("permission", PERMITTED, ids=lambda permission: permission.name)
async def test_what_each_permission_permits(client: Client, root: str, permission: Permission) -> None:
    permitted = set()
    for name, act in ACTS.items():
        path = f"{root}/{name.replace(' ', '-')}"
        await client.create(path)
        # The child's own ACL permits nothing, and doesn't matter.
        await client.create(f"{path}/child", acl=[ACL(Permission.READ.value, "ip", "10.0.0.1")])
        await client.set_acl(path, [ACL(permission.value, "world", "anyone")])
        if await permits(act(client, path)):
            permitted.add(name)
    assert permitted == PERMITTED[permission]


async def test_acls_are_not_inherited(client: Client, root: str) -> None:
    await client.create(f"{root}/a", acl=[ACL(Permission.CREATE.value, "world", "anyone")])
    await client.create(f"{root}/a/b", b"open")
    assert (await client.get_acl(f"{root}/a/b"))[0] == list(OPEN_ACL_UNSAFE)
    with pytest.raises(NoAuthError):
        await client.get(f"{root}/a")
    assert (await client.get(f"{root}/a/b")).data == b"open"


@pytest.mark.parametrize(
    ("identity", "ours"),
    [("127.0.0.1", True), ("127.0.0.0/8", True), ("127.0.0.1/32", True), ("10.0.0.0/8", False), ("127.0.0.2", False)],
)
async def test_acls_by_address(client: Client, root: str, identity: str, ours: bool) -> None:
    path, _ = await client.create(f"{root}/a", b"data", acl=[ACL(31, "ip", identity)])
    if ours:
        assert (await client.get(path)).data == b"data"
    else:
        with pytest.raises(NoAuthError):
            await client.get(path)


async def test_a_digest_is_of_user_and_password_together(standalone: Server, client: Client, root: str) -> None:
    acl = [ACL(31, "digest", "bob:fyVmFCwVbTJYrznoSu1koqYEYF0=")]
    path, _ = await client.create(f"{root}/a", b"for bob", acl=acl)
    for credentials, known in ((b"bob:secret", True), (b"bob:Secret", False), (b"Bob:secret", False)):
        async with Client(standalone.address, auth=[("digest", credentials)], default_timeout=LONGEST) as somebody:
            assert await permits(somebody.get(path)) is known


async def permits(call: Awaitable[object]) -> bool:
    try:
        await call
    except NoAuthError:
        return False
    except TransactionFailedError as refusal:
        if isinstance(refusal.error, NoAuthError):
            return False
        raise
    return True


async def test_creator_all_means_all_that_the_connection_is(standalone: Server, client: Client, root: str) -> None:
    with pytest.raises(InvalidACLError):
        await client.create(f"{root}/a", acl=CREATOR_ALL_ACL)
    await client.add_auth("digest", b"alice:1")
    await client.add_auth("digest", b"bob:2")
    path, _ = await client.create(f"{root}/a", acl=CREATOR_ALL_ACL)
    # What it means was decided then: who comes later has no part in it.
    await client.add_auth("digest", b"carol:3")
    assert sorted(acl.id.partition(":")[0] for acl in (await client.get_acl(path))[0]) == ["alice", "bob"]
    for credentials, known in ((b"alice:1", True), (b"bob:2", True), (b"carol:3", False)):
        async with Client(standalone.address, auth=[("digest", credentials)], default_timeout=LONGEST) as somebody:
            assert await permits(somebody.get(path)) is known


async def test_digests_are_shown_to_who_may_change_them(standalone: Server, client: Client, root: str) -> None:
    digest = "bob:fyVmFCwVbTJYrznoSu1koqYEYF0="
    shown = [ACL(31, "digest", digest), ACL(Permission.READ.value, "world", "anyone")]
    hidden = [ACL(31, "digest", "bob:x"), ACL(Permission.READ.value, "world", "anyone")]
    path, _ = await client.create(f"{root}/a", acl=shown)
    assert (await client.get_acl(path))[0] == hidden
    async with Client(standalone.address, auth=[("digest", b"bob:secret")], default_timeout=LONGEST) as bob:
        assert (await bob.get_acl(path))[0] == shown


async def test_equal_entries_of_an_acl_are_kept_once(client: Client, root: str) -> None:
    acl = [*OPEN_ACL_UNSAFE, ACL(31, "ip", "127.0.0.1"), *OPEN_ACL_UNSAFE]
    path, _ = await client.create(f"{root}/a", acl=acl)
    assert (await client.get_acl(path))[0] == acl[:2]


# --- containers and TTL nodes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reaping_server(zookeeper_version: str, loop_thread: LoopThread) -> Iterator[Server]:
    """A server that looks ten times a second for containers and TTL nodes to delete, not once a minute."""
    ensemble = Ensemble(version=zookeeper_version, java_options=["-Dznode.container.checkIntervalMs=100"])
    loop_thread.run(ensemble.start())
    yield ensemble.servers[0]
    loop_thread.run(ensemble.close())


@pytest.fixture
async def reaper(reaping_server: Server) -> AsyncIterator[Client]:
    async with Client(reaping_server.address, default_timeout=LONGEST) as client:
        yield client


@pytest.fixture
async def reaped_root(reaper: Client, request: pytest.FixtureRequest) -> str:
    return (await reaper.create(own_name(request))).path


async def gone(client: Client, path: str) -> None:
    """Waits until a node is deleted."""
    deleted = asyncio.Event()
    if await client.exists(path, watch=lambda _: deleted.set()) is not None:
        async with asyncio.timeout(LONGEST):
            await deleted.wait()
        assert await client.exists(path) is None


async def used_container(client: Client, path: str) -> None:
    await client.create(path, container=True)
    await client.create(f"{path}/child")
    await client.delete(f"{path}/child")


async def test_containers_stay_while_they_have_children_or_never_had_one(reaper: Client, reaped_root: str) -> None:
    await reaper.create(f"{reaped_root}/never-used", container=True)
    await reaper.create(f"{reaped_root}/in-use", container=True)
    await reaper.create(f"{reaped_root}/in-use/child")
    await used_container(reaper, f"{reaped_root}/used")
    await gone(reaper, f"{reaped_root}/used")
    # Twice, so that the server has looked at all of them since.
    await used_container(reaper, f"{reaped_root}/used")
    await gone(reaper, f"{reaped_root}/used")
    assert sorted(await reaper.children(reaped_root)) == ["in-use", "never-used"]
    await reaper.delete(f"{reaped_root}/in-use/child")
    await gone(reaper, f"{reaped_root}/in-use")
    # It is gone for good: whoever wants a child in it makes it anew.
    with pytest.raises(NoNodeError):
        await reaper.create(f"{reaped_root}/in-use/child")


async def test_a_ttl_node_with_children_stays_and_a_change_begins_its_time_anew(
    reaper: Client, reaped_root: str
) -> None:
    ttl = 1.5
    await reaper.create(f"{reaped_root}/parent", ttl=ttl)
    await reaper.create(f"{reaped_root}/parent/child")
    await reaper.create(f"{reaped_root}/changed", ttl=ttl)
    await reaper.create(f"{reaped_root}/left-alone", ttl=ttl)
    async with asyncio.timeout(LONGEST):
        while await reaper.exists(f"{reaped_root}/left-alone") is not None:
            await reaper.set(f"{reaped_root}/changed", b"still here")
    # All are older than their time now.
    assert sorted(await reaper.children(reaped_root)) == ["changed", "parent"]
    await gone(reaper, f"{reaped_root}/changed")
    assert await reaper.children(f"{reaped_root}/parent") == ["child"]
    await reaper.delete(f"{reaped_root}/parent/child")
    await gone(reaper, f"{reaped_root}/parent")


async def test_nobody_owns_containers_and_ttl_nodes(client: Client, other: Client, root: str) -> None:
    async with Client(client.statistics().server or "", default_timeout=LONGEST) as creator:
        await creator.create(f"{root}/container", container=True)
        await creator.create(f"{root}/ttl", ttl=3600)
        await creator.create(f"{root}/ephemeral", ephemeral=True)
        owners = {name: (await other.get(f"{root}/{name}")).stat.ephemeral_owner for name in await other.children(root)}
        assert owners == {"container": 0, "ttl": 0, "ephemeral": creator.session_id}
    # Its session's end takes only what it owns.
    assert sorted(await client.children(root)) == ["container", "ttl"]
    # Unlike ephemeral nodes, they can have children.
    await client.create(f"{root}/container/child")
    await client.create(f"{root}/ttl/child")


# --- watches ------------------------------------------------------------------------------------------------------


class Log:
    """What watches, and calls, have brought, in the order in which it came."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, EventType | str]] = []

    def watch(self, event: WatchEvent) -> None:
        self.entries.append((event.path, event.type))


async def test_data_that_stays_equal_is_a_change(client: Client, other: Client, root: str) -> None:
    log = Log()
    await other.set(root, b"same")
    await client.get(root, watch=log.watch)
    await other.set(root, b"same")
    await until(lambda: log.entries)
    assert log.entries == [(root, EventType.DATA_CHANGED)]


async def test_exists_watches_what_is_missing_and_get_does_not(client: Client, other: Client, root: str) -> None:
    log, path = Log(), f"{root}/missing"
    assert await client.exists(path, watch=log.watch) is None
    with pytest.raises(NoNodeError):
        await client.get(path, watch=Log().watch)
    assert client.statistics().watches == 1
    await other.create(path)
    await until(lambda: log.entries)
    assert log.entries == [(path, EventType.CREATED)]
    assert client.statistics().watches == 0


async def test_what_fires_no_watch(client: Client, other: Client, root: str) -> None:
    """Changes of the ACL, of grandchildren, of a sibling; the data for who watches children, and the reverse."""
    data, children = Log(), Log()
    await client.create(f"{root}/child")
    await client.get(root, watch=data.watch)
    await client.children(root, watch=children.watch)
    await other.set_acl(root, OPEN_ACL_UNSAFE)
    await other.create(f"{root}/child/grandchild")
    await other.set(f"{root}/child", b"x")
    await other.delete(f"{root}/child/grandchild")
    await client.sync()
    assert data.entries == children.entries == []
    await other.create(f"{root}/second")
    await until(lambda: children.entries)
    assert data.entries == []
    await other.set(root, b"x")
    await until(lambda: data.entries)
    assert (data.entries, children.entries) == ([(root, EventType.DATA_CHANGED)], [(root, EventType.CHILDREN_CHANGED)])


async def test_a_one_shot_watch_sees_only_the_first_change(client: Client, other: Client, root: str) -> None:
    log = Log()
    await client.get(root, watch=log.watch)
    await asyncio.gather(*[other.set(root, b"%d" % number) for number in range(10)])
    await until(lambda: log.entries)
    data, stat = await client.get(root)
    assert (data, stat.version) == (b"9", 10)
    assert log.entries == [(root, EventType.DATA_CHANGED)]


async def test_the_event_of_ones_own_change_comes_before_its_reply(client: Client, root: str) -> None:
    log = Log()

    async def noting(name: str, call: Awaitable[object]) -> None:
        await call
        log.entries.append((name, "reply"))

    await client.get(root, watch=log.watch)
    await client.exists(f"{root}/a", watch=log.watch)
    await client.children(root, watch=log.watch)
    await noting("set", client.set(root, b"x"))
    await noting("create", client.create(f"{root}/a"))
    assert log.entries == [
        (root, EventType.DATA_CHANGED),
        ("set", "reply"),
        (f"{root}/a", EventType.CREATED),
        (root, EventType.CHILDREN_CHANGED),
        ("create", "reply"),
    ]


async def test_a_transaction_fires_each_watch_once_and_in_the_order_of_its_parts(
    client: Client, other: Client, root: str, zookeeper_version: str
) -> None:
    events: list[WatchEvent] = []
    await client.create(f"{root}/old")
    await client.exists(f"{root}/new", watch=events.append)
    await client.get(root, watch=events.append)
    await client.get(f"{root}/old", watch=events.append)
    await client.children(root, watch=events.append)
    async with other.transaction() as transaction:
        transaction.delete(f"{root}/old")
        transaction.create(f"{root}/new")
        changed = transaction.set(root, b"x")
        transaction.create(f"{root}/third")
    await until(lambda: len(events) >= 4)
    assert [event[:2] for event in events] == [
        (EventType.DELETED, f"{root}/old"),
        (EventType.CHILDREN_CHANGED, root),
        (EventType.CREATED, f"{root}/new"),
        (EventType.DATA_CHANGED, root),
    ]
    zxid = -1 if zookeeper_version == "3.8" else changed.result.mzxid
    assert {event.zxid for event in events} == {zxid}
    await client.sync()
    assert len(events) == 4


async def test_a_refused_transaction_fires_nothing(client: Client, other: Client, root: str) -> None:
    log = Log()
    await client.get(root, watch=log.watch)
    await client.children(root, watch=log.watch)
    transaction = other.transaction()
    transaction.set(root, b"x")
    transaction.create(f"{root}/a")
    transaction.delete(f"{root}/missing")
    with pytest.raises(TransactionFailedError):
        await transaction.commit()
    await client.sync()
    assert log.entries == []
    await client.create(f"{root}/a")
    assert log.entries == [(root, EventType.CHILDREN_CHANGED)]


async def test_an_event_of_what_may_not_be_read_is_lost_and_so_is_its_watch(
    client: Client, other: Client, root: str
) -> None:
    log = Log()
    await client.get(root, watch=log.watch)
    await other.set_acl(root, [ACL(31 & ~Permission.READ.value, "world", "anyone")])
    await other.set(root, b"unseen")
    await other.set_acl(root, OPEN_ACL_UNSAFE)
    await other.set(root, b"seen, but by nobody")
    await client.sync()
    assert log.entries == []


async def test_the_end_of_a_session_fires_the_watches_of_its_nodes(
    standalone: Server, client: Client, root: str
) -> None:
    log = Log()
    async with Client(standalone.address, default_timeout=LONGEST) as owner:
        await owner.create(f"{root}/e", ephemeral=True)
        await client.exists(f"{root}/e", watch=log.watch)
        await client.children(root, watch=log.watch)
    await until(lambda: len(log.entries) >= 2)
    assert log.entries == [(f"{root}/e", EventType.DELETED), (root, EventType.CHILDREN_CHANGED)]


# --- text and sizes -----------------------------------------------------------------------------------------------


async def test_identities_beyond_the_basic_plane(client: Client, root: str) -> None:
    """Java writes such characters as two surrogates of three bytes each, which is not UTF-8."""
    user = "größe-\U0001f600-日本"
    await client.add_auth("digest", f"{user}:secret".encode())
    path, _ = await client.create(f"{root}/a", acl=CREATOR_ALL_ACL)
    acl, _ = await client.get_acl(path)
    assert [entry.id.partition(":")[0] for entry in acl] == [user]
    # What was read can be written, and still means the same.
    await client.set_acl(path, acl)
    assert (await client.get_acl(path))[0] == acl
    assert sorted(await client.who_am_i()) == [("digest", user), ("ip", "127.0.0.1")]


async def test_an_answer_may_be_longer_than_any_request(standalone: Server, client: Client, root: str) -> None:
    names = [f"{number:04}-" + "x" * 500 for number in range(3000)]
    for start in range(0, len(names), 500):
        async with client.transaction() as transaction:
            for name in names[start : start + 500]:
                transaction.create(f"{root}/{name}")
    assert sum(map(len, names)) > MAX_BUFFER
    assert sorted(await client.children(root)) == names
    async with Raw.open(standalone.address) as raw:
        reply = await raw.request(Op.GET_CHILDREN, encode_get_children_request(root, False))
        assert len(reply.body) > MAX_BUFFER
        assert len(decode_get_children_reply(reply.body, 0, len(reply.body))) == 3000
        await raw.close_session()
    for start in range(0, len(names), 500):
        async with client.transaction() as transaction:
            for name in names[start : start + 500]:
                transaction.delete(f"{root}/{name}")


async def test_a_transaction_over_the_limit_never_leaves_and_stays_open(client: Client, root: str) -> None:
    sent = client.statistics().requests_sent
    transaction = client.transaction()
    for number in range(11):
        transaction.create(f"{root}/{number}", bytes(100_000))
    with pytest.raises(RequestTooLargeError):
        transaction.commit()
    assert client.statistics().requests_sent == sent
    smaller = client.transaction()
    for number in range(10):
        smaller.create(f"{root}/{number}", bytes(100_000))
    await smaller.commit()
    assert len(await client.children(root)) == 10
    with pytest.raises(ClientStateError):
        await smaller.commit()


# --- transactions -------------------------------------------------------------------------------------------------


async def test_what_the_server_says_of_creations_in_a_transaction(
    standalone: Server, root: str, zookeeper_version: str
) -> None:
    """Debian's 3.8.0 leaves out the `Stat` of create2, and of nothing else."""
    parts = [
        CreatePart(Op.CREATE, f"{root}/1", b"", OPEN_ACL_UNSAFE, CreateMode.PERSISTENT),
        CreatePart(Op.CREATE2, f"{root}/2", b"", OPEN_ACL_UNSAFE, CreateMode.PERSISTENT),
        CreatePart(Op.CREATE_CONTAINER, f"{root}/3", b"", OPEN_ACL_UNSAFE, CreateMode.CONTAINER),
        CreatePart(Op.CREATE_TTL, f"{root}/4", b"", OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_WITH_TTL, 3_600_000),
    ]
    async with Raw.open(standalone.address) as raw:
        reply = await raw.request(Op.MULTI, encode_multi_request(parts))
        results = decode_multi_reply(reply.body, 0, len(reply.body))
        await raw.close_session()
    created = [result for result in results if isinstance(result, CreateResult)]
    assert [result.path for result in created] == [f"{root}/{number}" for number in range(1, 5)]
    with_stat = [result.stat is not None for result in created]
    assert with_stat == [False, zookeeper_version != "3.8", True, True]


async def test_a_part_sees_what_the_parts_before_it_have_done(client: Client, root: str) -> None:
    async with client.transaction() as transaction:
        transaction.create(f"{root}/parent", b"0")
        transaction.create(f"{root}/parent/child")
        transaction.check(f"{root}/parent", version=0)
        transaction.set(f"{root}/parent", b"1", version=0)
        transaction.check(f"{root}/parent", version=1)
        transaction.delete(f"{root}/parent/child")
        transaction.delete(f"{root}/parent", version=1)
        again = transaction.create(f"{root}/parent", b"again")
        first = transaction.create(f"{root}/parent/n-", sequential=True)
        second = transaction.create(f"{root}/parent/n-", sequential=True)
    assert again.result == f"{root}/parent"
    assert [first.result, second.result] == [f"{root}/parent/n-{number:010}" for number in (0, 1)]
    data, stat = await client.get(f"{root}/parent")
    assert (data, stat.version, stat.num_children) == (b"again", 0, 2)


async def test_a_check_guards_other_nodes_against_a_change_in_between(client: Client, other: Client, root: str) -> None:
    """A fencing write: it is done only if the lease is still what it was when it was read."""
    lease, _ = await client.create(f"{root}/lease", b"mine")
    version = (await client.get(lease)).stat.version
    await other.set(lease, b"theirs")
    transaction = client.transaction()
    written = transaction.create(f"{root}/job")
    transaction.check(lease, version=version)
    with pytest.raises(TransactionFailedError) as caught:
        await transaction.commit()
    assert (caught.value.index, caught.value.path) == (1, lease)
    assert isinstance(caught.value.error, BadVersionError)
    with pytest.raises(ClientStateError, match="refused"):
        _ = written.result
    assert await client.children(root) == ["lease"]


async def test_the_parts_of_a_transaction_share_a_zxid(client: Client, root: str) -> None:
    async with client.transaction() as transaction:
        changed = transaction.set(root, b"x")
        transaction.create(f"{root}/a")
        transaction.create(f"{root}/a/b")
    stats = [await client.exists(f"{root}/{name}") for name in ("a", "a/b")]
    assert [stat.czxid for stat in stats if stat] == [changed.result.mzxid] * 2
    parent = await client.exists(root)
    assert parent is not None
    assert parent.pzxid == changed.result.mzxid


async def test_a_transaction_only_of_checks_is_committed_like_a_write(reaper: Client) -> None:
    """That is why it proves contact with the quorum, which `sync` doesn't: it uses up a zxid. A read doesn't."""
    # On the server where no session is left to expire meanwhile, which would use one up as well.
    await reaper.get("/")
    before = reaper.statistics().last_zxid
    await reaper.get("/")
    await reaper.sync()
    assert reaper.statistics().last_zxid == before
    async with reaper.transaction() as transaction:
        transaction.check("/")
    assert reaper.statistics().last_zxid == before + 1


async def test_transactions_of_several_clients_do_not_mix(
    standalone: Server, client: Client, other: Client, root: str
) -> None:
    """Each moves one of two counters up and the other one down; who reads both at once never sees another sum."""
    await asyncio.gather(*[client.create(f"{root}/{name}", b"1000") for name in "ab"])
    async with Client(standalone.address, default_timeout=LONGEST) as observer:
        seen = [await both(observer, root)]
        moving = [move(client, root, "a", "b"), move(other, root, "b", "a"), move(client, root, "a", "b")]
        all_moved = asyncio.gather(*moving)
        while not all_moved.done():
            seen.append(await both(observer, root))
        await all_moved
        seen.append(await both(observer, root))
    assert (seen[0], seen[-1]) == ((1000, 1000), (980, 1020))
    assert {a + b for a, b in seen} == {2000}


async def both(client: Client, root: str) -> tuple[int, int]:
    async with client.multi_read() as reads:
        a, b = reads.get(f"{root}/a"), reads.get(f"{root}/b")
    return int(a.result.data), int(b.result.data)


async def move(client: Client, root: str, source: str, target: str) -> None:
    """Moves 20 from one counter to the other, one at a time."""
    moved = 0
    while moved < 20:
        nodes = await asyncio.gather(client.get(f"{root}/{source}"), client.get(f"{root}/{target}"))
        (taken, one), (given, two) = nodes
        transaction = client.transaction()
        transaction.set(f"{root}/{source}", b"%d" % (int(taken) - 1), version=one.version)
        transaction.set(f"{root}/{target}", b"%d" % (int(given) + 1), version=two.version)
        with contextlib.suppress(TransactionFailedError):
            await transaction.commit()
            moved += 1


# --- what others have written -------------------------------------------------------------------------------------


async def test_a_read_behind_sync_sees_what_was_written_before(client: Client, other: Client, root: str) -> None:
    """Both are called before either is answered: they need not wait for each other."""
    for number in range(50):
        await other.set(root, b"%d" % number)
        synced, node = client.sync(root), client.get(root)
        assert (await node).data == b"%d" % number
        await synced
