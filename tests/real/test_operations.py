"""Every operation against real servers of both versions: what it returns, what it is refused, and its limits."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import (
    ACL,
    CREATOR_ALL_ACL,
    OPEN_ACL_UNSAFE,
    READ_ACL_UNSAFE,
    AuthFailedError,
    BadArgumentsError,
    BadVersionError,
    Client,
    EventType,
    InvalidACLError,
    InvalidPathError,
    NoAuthError,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    Outcome,
    OutcomeUnknownError,
    Permission,
    QuotaExceededError,
    ReplyTooLargeError,
    RequestTooLargeError,
    ServerError,
    State,
    TransactionFailedError,
    UnimplementedError,
    WatchEvent,
)
from everlatch.testing import Ensemble
from real.faults import RawSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from everlatch.testing import Server
    from real_servers import LoopThread

pytestmark = pytest.mark.real

BIG = 1_048_575
"""jute.maxbuffer as servers have it if they are not told: bytes of a frame, without its length."""


class Fired:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[WatchEvent] = asyncio.Queue()

    def __call__(self, event: WatchEvent) -> None:
        self._events.put_nowait(event)

    async def next(self) -> WatchEvent:
        async with asyncio.timeout(10):
            return await self._events.get()

    @property
    def silent(self) -> bool:
        return self._events.empty()


@pytest.fixture
async def client(standalone: Server) -> AsyncIterator[Client]:
    async with Client(standalone.address, default_timeout=30) as client:
        yield client


@pytest.fixture
async def other(standalone: Server) -> AsyncIterator[Client]:
    async with Client(standalone.address, default_timeout=30) as client:
        yield client


@pytest.fixture
async def root(client: Client, request: pytest.FixtureRequest) -> str:
    """A node for this test alone."""
    return (await client.create("/" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-"))).path


# --- create -------------------------------------------------------------------------------------------------------


async def test_create_persistent(client: Client, other: Client, root: str) -> None:
    path, stat = await client.create(f"{root}/a", b"data")
    assert path == f"{root}/a"
    assert (stat.version, stat.cversion, stat.aversion) == (0, 0, 0)
    assert (stat.ephemeral_owner, stat.data_length, stat.num_children) == (0, 4, 0)
    assert stat.czxid == stat.mzxid == stat.pzxid > 0
    assert await other.get(path) == (b"data", stat)


async def test_create_ephemeral(client: Client, other: Client, root: str) -> None:
    path, stat = await client.create(f"{root}/a", ephemeral=True)
    assert stat.ephemeral_owner == client.session_id != 0
    assert await other.exists(path) == stat


async def test_create_sequential_numbers_all_children_in_order(client: Client, root: str) -> None:
    await client.create(f"{root}/unnumbered")
    created = await asyncio.gather(*[client.create(f"{root}/job-", b"%d" % n, sequential=True) for n in range(20)])
    assert [path for path, _ in created] == [f"{root}/job-{n:010}" for n in range(1, 21)]
    assert (await client.get(f"{root}/job-{7:010}")).data == b"6"


async def test_create_sequential_below_a_slash_has_a_bare_number(client: Client, root: str) -> None:
    assert (await client.create(f"{root}/", sequential=True)).path == f"{root}/0000000000"


async def test_create_ephemeral_sequential(client: Client, root: str) -> None:
    path, stat = await client.create(f"{root}/n-", ephemeral=True, sequential=True)
    assert path == f"{root}/n-0000000000"
    assert stat.ephemeral_owner == client.session_id


async def test_create_container_goes_with_its_last_child(reaper: Client, container_root: str) -> None:
    gone = Fired()
    path, stat = await reaper.create(f"{container_root}/container", b"kept", container=True)
    assert stat.ephemeral_owner == 0
    assert (await reaper.get(path)).data == b"kept"
    assert await reaper.exists(path, watch=gone) == stat
    await reaper.create(f"{path}/child")
    await reaper.delete(f"{path}/child")
    assert (await gone.next())[:2] == (EventType.DELETED, path)


@pytest.mark.parametrize("sequential", [False, True])
async def test_create_with_ttl_goes_when_its_time_is_over(
    reaper: Client, container_root: str, sequential: bool
) -> None:
    gone = Fired()
    path, stat = await reaper.create(f"{container_root}/ttl-", b"kept", ttl=0.3, sequential=sequential)
    assert re.fullmatch(rf"{container_root}/ttl-(\d{{10}})?", path)
    assert path.endswith("-") is not sequential
    assert stat.ephemeral_owner == 0
    if await reaper.exists(path, watch=gone) is not None:
        assert (await gone.next())[:2] == (EventType.DELETED, path)


async def test_create_with_a_long_ttl_stays(client: Client, root: str) -> None:
    path, stat = await client.create(f"{root}/ttl", b"kept", ttl=3600)
    assert await client.get(path) == (b"kept", stat)


# --- get, set, exists, children, delete, sync ---------------------------------------------------------------------


async def test_set_replaces_data_and_counts_versions(client: Client, root: str) -> None:
    first = await client.set(root, b"one")
    second = await client.set(root, b"two", version=first.version)
    assert (first.version, second.version) == (1, 2)
    assert second.mzxid > first.mzxid > second.czxid
    assert await client.get(root) == (b"two", second)
    assert await client.set(root, b"") == await client.exists(root)


async def test_exists_of_a_missing_node_is_none(client: Client, root: str) -> None:
    assert await client.exists(f"{root}/missing") is None
    assert await client.exists(f"{root}/missing/below") is None


async def test_children_and_their_stat(client: Client, root: str) -> None:
    assert await client.children(root) == []
    await asyncio.gather(*[client.create(f"{root}/{name}") for name in "cab"])
    assert sorted(await client.children(root)) == ["a", "b", "c"]
    names, stat = await client.children_and_stat(root)
    assert sorted(names) == ["a", "b", "c"]
    assert stat == await client.exists(root)
    assert (stat.num_children, stat.cversion) == (3, 3)


async def test_the_root_has_the_servers_own_node(client: Client) -> None:
    assert "zookeeper" in await client.children("/")
    assert await client.exists("/") is not None


async def test_delete_with_and_without_version(client: Client, root: str) -> None:
    path, stat = await client.create(f"{root}/a")
    assert await client.delete(path, version=stat.version) is None
    await client.create(path)
    assert await client.delete(path) is None
    assert await client.exists(path) is None


async def test_sync(client: Client, root: str) -> None:
    assert await client.sync() is None
    assert await client.sync(f"{root}/need/not/exist") is None


async def test_calls_take_effect_in_the_order_in_which_they_were_made(client: Client, root: str) -> None:
    calls: list[Any] = []
    for number in range(500):
        calls.append(client.set(root, b"%d" % number))
        calls.append(client.get(root))
    results = await asyncio.gather(*calls)
    assert [stat.version for stat in results[::2]] == list(range(1, 501))
    assert [node.data for node in results[1::2]] == [b"%d" % number for number in range(500)]


async def test_a_cancelled_call_shifts_no_reply(client: Client, root: str) -> None:
    calls = [client.create(f"{root}/n{number}", b"%d" % number) for number in range(100)]
    reads = [client.get(f"{root}/n{number}") for number in range(100)]
    for call in reads[::3]:
        call.cancel()
    await asyncio.gather(*calls)
    for number, call in enumerate(reads):
        if number % 3:
            assert (await call).data == b"%d" % number
    assert client.connections == 1


# --- refusals -----------------------------------------------------------------------------------------------------

Refused = tuple[Callable[[Client, str], Awaitable[object]], str, str, type[ServerError]]

SECRET = ACL(Permission.ALL.value, "digest", "nobody:w5w5w5w5w5w5w5w5w5w5w5w5w5w=")

REFUSALS: dict[str, Refused] = {
    "get: no node": (lambda c, p: c.get(f"{p}/x"), "get", "/x", NoNodeError),
    "set: no node": (lambda c, p: c.set(f"{p}/x", b""), "set", "/x", NoNodeError),
    "children: no node": (lambda c, p: c.children(f"{p}/x"), "children", "/x", NoNodeError),
    "children_and_stat: no node": (lambda c, p: c.children_and_stat(f"{p}/x"), "children_and_stat", "/x", NoNodeError),
    "delete: no node": (lambda c, p: c.delete(f"{p}/x"), "delete", "/x", NoNodeError),
    "get_acl: no node": (lambda c, p: c.get_acl(f"{p}/x"), "get_acl", "/x", NoNodeError),
    "set_acl: no node": (lambda c, p: c.set_acl(f"{p}/x", OPEN_ACL_UNSAFE), "set_acl", "/x", NoNodeError),
    "create: no parent": (lambda c, p: c.create(f"{p}/x/y"), "create", "/x/y", NoNodeError),
    "create ttl: no parent": (lambda c, p: c.create(f"{p}/x/y", ttl=9), "create", "/x/y", NoNodeError),
    "create container: no parent": (lambda c, p: c.create(f"{p}/x/y", container=True), "create", "/x/y", NoNodeError),
    "create: exists": (lambda c, p: c.create(f"{p}/node"), "create", "/node", NodeExistsError),
    "create container: exists": (
        lambda c, p: c.create(f"{p}/node", container=True),
        "create",
        "/node",
        NodeExistsError,
    ),
    "set: version": (lambda c, p: c.set(f"{p}/node", b"", version=7), "set", "/node", BadVersionError),
    "delete: version": (lambda c, p: c.delete(f"{p}/node/child", version=7), "delete", "/node/child", BadVersionError),
    "set_acl: version": (
        lambda c, p: c.set_acl(f"{p}/node", OPEN_ACL_UNSAFE, version=7),
        "set_acl",
        "/node",
        BadVersionError,
    ),
    "delete: children": (lambda c, p: c.delete(f"{p}/node"), "delete", "/node", NotEmptyError),
    "create: ephemeral parent": (
        lambda c, p: c.create(f"{p}/ephemeral/y"),
        "create",
        "/ephemeral/y",
        NoChildrenForEphemeralsError,
    ),
    "create: not permitted": (lambda c, p: c.create(f"{p}/readable/y"), "create", "/readable/y", NoAuthError),
    "set: not permitted": (lambda c, p: c.set(f"{p}/readable", b""), "set", "/readable", NoAuthError),
    "delete: not permitted": (lambda c, p: c.delete(f"{p}/guarded/child"), "delete", "/guarded/child", NoAuthError),
    "set_acl: not permitted": (
        lambda c, p: c.set_acl(f"{p}/readable", OPEN_ACL_UNSAFE),
        "set_acl",
        "/readable",
        NoAuthError,
    ),
    "get: not permitted": (lambda c, p: c.get(f"{p}/hidden"), "get", "/hidden", NoAuthError),
    "children: not permitted": (lambda c, p: c.children(f"{p}/hidden"), "children", "/hidden", NoAuthError),
    "get_acl: not permitted": (lambda c, p: c.get_acl(f"{p}/hidden"), "get_acl", "/hidden", NoAuthError),
    "create: unknown scheme": (
        lambda c, p: c.create(f"{p}/y", acl=[ACL(31, "nosuch", "x")]),
        "create",
        "/y",
        InvalidACLError,
    ),
    "create: no identity": (lambda c, p: c.create(f"{p}/y", acl=CREATOR_ALL_ACL), "create", "/y", InvalidACLError),
    "set_acl: bad digest id": (
        lambda c, p: c.set_acl(f"{p}/node", [ACL(31, "digest", "nocolon")]),
        "set_acl",
        "/node",
        InvalidACLError,
    ),
}


@pytest.fixture
async def refusing(client: Client, root: str) -> str:
    """Nodes of which the servers refuse something."""
    await client.create(f"{root}/node")
    await client.create(f"{root}/node/child")
    await client.create(f"{root}/ephemeral", ephemeral=True)
    await client.create(f"{root}/readable", acl=READ_ACL_UNSAFE)
    await client.create(f"{root}/guarded")
    await client.create(f"{root}/guarded/child")
    await client.set_acl(f"{root}/guarded", READ_ACL_UNSAFE)
    await client.create(f"{root}/hidden", acl=[SECRET])
    return root


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_is_a_typed_error_and_costs_nothing_else(client: Client, refusing: str, name: str) -> None:
    act, operation, path, error = REFUSALS[name]
    before = client.get(f"{refusing}/node")
    call = act(client, refusing)
    after = client.get(f"{refusing}/node")
    with pytest.raises(error) as caught:
        await call
    assert type(caught.value) is error
    assert (caught.value.operation, caught.value.path) == (operation, refusing + path)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert await before == await after
    assert client.connections == 1


async def test_exists_needs_permission_where_the_server_asks_for_it(
    client: Client, refusing: str, standalone: Server
) -> None:
    told = re.search(r"version: (\d+)\.(\d+)\.(\d+)", await standalone.four_letter("srvr"))
    assert told
    version = tuple(map(int, told.groups()))
    if (3, 8, 4) <= version < (3, 9) or version >= (3, 9, 2):
        with pytest.raises(NoAuthError):
            await client.exists(f"{refusing}/hidden")
    else:
        assert await client.exists(f"{refusing}/hidden") is not None


@pytest.mark.parametrize("path", ["/", "/zookeeper", "/zookeeper/quota"])
async def test_delete_of_the_servers_own_nodes_is_bad_arguments(client: Client, path: str) -> None:
    with pytest.raises(BadArgumentsError, match=re.escape(path)):
        await client.delete(path)


async def test_create_of_the_root_says_that_it_exists(client: Client) -> None:
    with pytest.raises(NodeExistsError):
        await client.create("/")


async def test_ttl_is_unimplemented_where_extended_types_are_off(strict: Client) -> None:
    with pytest.raises(UnimplementedError, match="/ttl"):
        await strict.create("/ttl", ttl=10)
    assert await strict.exists("/ttl") is None
    assert strict.connections == 1
    assert (await strict.create("/container-without-extended-types", container=True)).stat.ephemeral_owner == 0


async def test_a_hard_quota_is_kept(strict: Client) -> None:
    await strict.ensure_path("/limited")
    await strict.ensure_path("/zookeeper/quota/limited")
    await strict.create(
        "/zookeeper/quota/limited/zookeeper_limits", b"count=-1,bytes=-1;byteHardLimit=5;countHardLimit=3"
    )
    await strict.create("/zookeeper/quota/limited/zookeeper_stats", b"count=1,bytes=0")
    with pytest.raises(QuotaExceededError):
        await strict.set("/limited", b"123456")
    await strict.set("/limited", b"12345")
    await strict.create("/limited/one")
    await strict.create("/limited/two")
    with pytest.raises(QuotaExceededError):
        await strict.create("/limited/three")


# --- ACLs and identities ------------------------------------------------------------------------------------------


async def test_acl_round_trip_and_its_version(client: Client, root: str) -> None:
    assert (await client.get_acl(root))[0] == list(OPEN_ACL_UNSAFE)
    acl = [ACL(Permission.ALL.value, "ip", "127.0.0.1"), ACL(Permission.READ.value, "world", "anyone")]
    stat = await client.set_acl(root, acl, version=0)
    assert stat.aversion == 1
    assert await client.get_acl(root) == (acl, stat)


async def test_digest_auth_opens_what_it_guards(client: Client, other: Client, root: str) -> None:
    assert await client.add_auth("digest", b"bob:secret") is None
    path = (await client.create(f"{root}/guarded", b"for bob", acl=CREATOR_ALL_ACL)).path
    acl, _ = await client.get_acl(path)
    assert acl == [ACL(31, "digest", "bob:fyVmFCwVbTJYrznoSu1koqYEYF0=")]
    with pytest.raises(NoAuthError):
        await other.get(path)
    # Not awaited: identities count from when they are added.
    auth, read = other.add_auth("digest", b"bob:secret"), other.get(path)
    assert (await read).data == b"for bob"
    assert await auth is None


async def test_auth_of_the_constructor_holds_from_the_first_call(standalone: Server, client: Client, root: str) -> None:
    await client.add_auth("digest", b"alice:pw")
    path = (await client.create(f"{root}/guarded", b"for alice", acl=CREATOR_ALL_ACL)).path
    async with Client(standalone.address, auth=[("digest", b"alice:pw"), ("digest", b"bob:pw")]) as alice:
        assert (await alice.get(path)).data == b"for alice"
        acl, _ = await alice.get_acl((await alice.create(f"{root}/both", acl=CREATOR_ALL_ACL)).path)
        assert sorted(entry.id.partition(":")[0] for entry in acl) == ["alice", "bob"]


async def test_digests_are_hidden_from_who_may_only_read(client: Client, other: Client, root: str) -> None:
    await client.add_auth("digest", b"bob:secret")
    acl = [*CREATOR_ALL_ACL, *READ_ACL_UNSAFE]
    path = (await client.create(f"{root}/guarded", acl=acl)).path
    seen, _ = await other.get_acl(path)
    assert ACL(31, "digest", "bob:x") in seen


async def test_a_default_acl_is_used_for_every_new_node(standalone: Server, root: str) -> None:
    async with Client(standalone.address, acl=READ_ACL_UNSAFE) as client:
        await client.create(f"{root}/plain")
        await client.create(f"{root}/container", container=True)
        await client.create(f"{root}/own", acl=OPEN_ACL_UNSAFE)
        async with client.transaction() as transaction:
            transaction.create(f"{root}/together")
        await client.ensure_path(f"{root}/ensured")
        for name in ("plain", "container", "together", "ensured"):
            assert (await client.get_acl(f"{root}/{name}"))[0] == list(READ_ACL_UNSAFE)
        assert (await client.get_acl(f"{root}/own"))[0] == list(OPEN_ACL_UNSAFE)


async def test_refused_credentials_end_the_client(client: Client, root: str) -> None:
    # Awaited first: the refusal may overtake the replies of what was called before, and the server then closes.
    await client.get(root)
    with pytest.raises(AuthFailedError):
        await client.add_auth("nosuchscheme", b"secret-of-mine")
    assert client.state is State.AUTH_FAILED
    with pytest.raises(AuthFailedError) as caught:
        await client.get(root)
    assert "secret-of-mine" not in repr(caught.value)


async def test_refused_credentials_of_the_constructor_fail_start(standalone: Server) -> None:
    client = Client(standalone.address, auth=[("nosuchscheme", b"secret-of-mine")])
    with pytest.raises(AuthFailedError):
        await client.start()
    assert client.state is State.CLOSED


# --- transactions -------------------------------------------------------------------------------------------------


async def test_transaction_results(client: Client, root: str) -> None:
    """Debian's 3.8.0 sends no `Stat` for a creation, 3.9 does: the result is the path for both."""
    await client.create(f"{root}/old")
    async with client.transaction() as transaction:
        transaction.check(root, version=0)
        plain = transaction.create(f"{root}/plain", b"1")
        numbered = transaction.create(f"{root}/n-", sequential=True)
        ephemeral = transaction.create(f"{root}/e-", ephemeral=True, sequential=True)
        changed = transaction.set(f"{root}/plain", b"22", version=0)
        transaction.delete(f"{root}/old", version=0)
    assert plain.result == f"{root}/plain"
    assert (numbered.result, ephemeral.result) == (f"{root}/n-0000000002", f"{root}/e-0000000003")
    node = await client.get(f"{root}/plain")
    assert node == (b"22", changed.result)
    assert node.stat.version == 1
    stats = [await client.exists(f"{root}/{name}") for name in ("plain", "n-0000000002", "e-0000000003")]
    assert {stat.czxid for stat in stats if stat} == {node.stat.mzxid}
    assert stats[2] is not None
    assert stats[2].ephemeral_owner == client.session_id
    assert await client.exists(f"{root}/old") is None


@pytest.mark.parametrize(
    ("index", "path", "error"),
    [
        (0, "/checked", BadVersionError),
        (1, "/there", NodeExistsError),
        (2, "/missing", NoNodeError),
        (3, "/full", NotEmptyError),
    ],
)
async def test_a_failing_part_is_named_and_nothing_is_applied(
    client: Client, root: str, index: int, path: str, error: type[ServerError]
) -> None:
    for name in ("checked", "there", "full", "full/child"):
        await client.create(f"{root}/{name}")
    before = await client.children_and_stat(root)
    transaction = client.transaction()
    transaction.check(f"{root}/checked", version=9 if index == 0 else 0)
    created = transaction.create(f"{root}/there" if index == 1 else f"{root}/new")
    transaction.set(f"{root}/missing" if index == 2 else f"{root}/there", b"changed")
    transaction.delete(f"{root}/full" if index == 3 else f"{root}/full/child")
    with pytest.raises(TransactionFailedError) as caught:
        await transaction.commit()
    assert (caught.value.index, caught.value.path) == (index, root + path)
    assert type(caught.value.error) is error
    assert caught.value.outcome is Outcome.NOT_APPLIED
    with pytest.raises(RuntimeError):
        _ = created.result
    after = await client.children_and_stat(root)
    assert (sorted(after.names), after.stat) == (sorted(before.names), before.stat)
    assert (await client.get(f"{root}/there")).data == b""


async def test_transaction_only_of_checks_and_an_empty_one(client: Client, root: str) -> None:
    async with client.transaction() as transaction:
        transaction.check(root)
    await client.transaction().commit()
    transaction = client.transaction()
    transaction.check(f"{root}/missing")
    with pytest.raises(TransactionFailedError, match="no such node"):
        await transaction.commit()


async def test_transaction_of_a_thousand_parts(client: Client, root: str) -> None:
    async with client.transaction() as transaction:
        parts = [transaction.create(f"{root}/n-", b"%d" % number, sequential=True) for number in range(1000)]
    assert [part.result for part in parts] == [f"{root}/n-{number:010}" for number in range(1000)]
    assert (await client.get(f"{root}/n-0000000999")).data == b"999"


async def test_a_transaction_left_by_an_exception_sends_nothing(client: Client, root: str) -> None:
    async def leave() -> None:
        async with client.transaction() as transaction:
            transaction.create(f"{root}/a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await leave()
    assert await client.exists(f"{root}/a") is None


# --- composed operations ------------------------------------------------------------------------------------------


async def test_ensure_path_creates_what_is_missing(client: Client, root: str) -> None:
    await client.set(root, b"kept")
    await client.ensure_path(f"{root}/a/b/c")
    await client.ensure_path(f"{root}/a/b/c")
    assert await client.exists(f"{root}/a/b/c") is not None
    assert (await client.get(root)).data == b"kept"
    await client.ensure_path("/")


async def test_ensure_path_of_containers_with_an_acl(reaper: Client, container_root: str) -> None:
    acl = [ACL(31, "ip", "127.0.0.1")]
    gone = Fired()
    await reaper.ensure_path(f"{container_root}/outer/inner", container=True, acl=acl)
    assert (await reaper.get_acl(f"{container_root}/outer"))[0] == acl
    await reaper.exists(f"{container_root}/outer", watch=gone)
    await reaper.delete(f"{container_root}/outer/inner")
    assert (await gone.next()).type is EventType.DELETED


async def test_ensure_path_by_many_at_once(client: Client, other: Client, root: str) -> None:
    paths = [f"{root}/a/b/c/d/{number % 3}" for number in range(30)]
    await asyncio.gather(*[who.ensure_path(path) for path in paths for who in (client, other)])
    assert sorted(await client.children(f"{root}/a/b/c/d")) == ["0", "1", "2"]


async def test_ensure_path_says_what_stops_it(client: Client, root: str) -> None:
    await client.create(f"{root}/readable", acl=READ_ACL_UNSAFE)
    with pytest.raises(NoAuthError):
        await client.ensure_path(f"{root}/readable/a/b")
    await client.create(f"{root}/ephemeral", ephemeral=True)
    with pytest.raises(NoChildrenForEphemeralsError):
        await client.ensure_path(f"{root}/ephemeral/a/b")


async def test_delete_tree_wide_and_nested(client: Client, root: str) -> None:
    tree = f"{root}/tree"
    await client.create(tree)
    await asyncio.gather(*[client.create(f"{tree}/{number}") for number in range(1000)])
    await asyncio.gather(
        *[client.create(f"{tree}/{number}/{leaf}") for number in range(0, 1000, 10) for leaf in range(9)]
    )
    await asyncio.gather(*[client.create(f"{tree}/500/{number}/deeper") for number in range(9)])
    await client.delete_tree(tree)
    assert await client.children(root) == []


async def test_delete_tree_deeper_than_python_recurses(client: Client, root: str) -> None:
    depth = 1200
    calls, path = [], root
    for _ in range(depth):
        path += "/d"
        calls.append(client.create(path))
    await asyncio.gather(*calls)
    await client.delete_tree(f"{root}/d", timeout=60)
    assert await client.children(root) == []


async def test_delete_tree_of_a_missing_node(client: Client, root: str) -> None:
    with pytest.raises(NoNodeError):
        await client.delete_tree(f"{root}/missing")
    await client.delete_tree(f"{root}/missing", missing_ok=True)


async def test_delete_tree_by_two_at_once_while_a_third_creates(
    client: Client, other: Client, root: str, standalone: Server
) -> None:
    tree = f"{root}/tree"
    await client.create(tree)
    await asyncio.gather(*[client.create(f"{tree}/{number}") for number in range(500)])
    async with Client(standalone.address) as creator:
        late = [creator.create(f"{tree}/{number}/late") for number in range(0, 500, 7)]
        await asyncio.gather(*[who.delete_tree(tree, missing_ok=True) for who in (client, other)])
        created = await asyncio.gather(*late, return_exceptions=True)
    assert {type(result) for result in created if isinstance(result, BaseException)} <= {NoNodeError}
    assert await client.children(root) == []


async def test_delete_tree_stops_at_what_it_may_not_delete(client: Client, root: str) -> None:
    await client.ensure_path(f"{root}/tree/a/b")
    await client.set_acl(f"{root}/tree/a", READ_ACL_UNSAFE)
    with pytest.raises(NoAuthError):
        await client.delete_tree(f"{root}/tree")
    assert await client.exists(f"{root}/tree/a/b") is not None


# --- watches ------------------------------------------------------------------------------------------------------

Act = Callable[[Client, str], Awaitable[object]]
Arm = Callable[[Client, str, Fired], Awaitable[object]]


async def arm_get(client: Client, path: str, watch: Fired) -> None:
    await client.get(path, watch=watch)


async def arm_exists(client: Client, path: str, watch: Fired) -> None:
    await client.exists(path, watch=watch)


async def arm_children(client: Client, path: str, watch: Fired) -> None:
    await client.children(path, watch=watch)


async def arm_children_and_stat(client: Client, path: str, watch: Fired) -> None:
    await client.children_and_stat(path, watch=watch)


async def change(client: Client, path: str) -> None:
    await client.set(path, b"changed")


async def remove(client: Client, path: str) -> None:
    await client.delete(path)


async def add_child(client: Client, path: str) -> None:
    await client.create(f"{path}/child")


async def add_node(client: Client, path: str) -> None:
    await client.create(path)


ONE_SHOTS: list[tuple[Arm, bool, Act, EventType]] = [
    (arm_get, True, change, EventType.DATA_CHANGED),
    (arm_get, True, remove, EventType.DELETED),
    (arm_exists, True, change, EventType.DATA_CHANGED),
    (arm_exists, True, remove, EventType.DELETED),
    (arm_exists, False, add_node, EventType.CREATED),
    (arm_children, True, add_child, EventType.CHILDREN_CHANGED),
    (arm_children, True, remove, EventType.DELETED),
    (arm_children_and_stat, True, add_child, EventType.CHILDREN_CHANGED),
    (arm_children_and_stat, True, remove, EventType.DELETED),
]


@pytest.mark.parametrize(("arm", "there", "act", "kind"), ONE_SHOTS)
async def test_a_one_shot_watch_fires_once(
    client: Client, other: Client, root: str, arm: Arm, there: bool, act: Act, kind: EventType
) -> None:
    path, fired = f"{root}/watched", Fired()
    if there:
        await client.create(path)
    await arm(client, path, fired)
    await act(other, path)
    event = await fired.next()
    assert event[:2] == (kind, path)
    # Whatever else can happen to the node happens now, to a watch that is used up: an event of the client's own
    # changes would come before their replies.
    await client.ensure_path(f"{path}/again")
    await client.set(path, b"again")
    await client.delete_tree(path)
    assert fired.silent
    assert client.statistics().watches == 0


async def test_the_event_tells_the_zxid_where_the_server_does(
    client: Client, other: Client, root: str, zookeeper_version: str
) -> None:
    fired = Fired()
    await client.get(root, watch=fired)
    stat = await other.set(root, b"changed")
    assert (await fired.next()).zxid == (-1 if zookeeper_version == "3.8" else stat.mzxid)


async def test_a_refused_read_sets_no_watch(client: Client, other: Client, root: str) -> None:
    fired = Fired()
    with pytest.raises(NoNodeError):
        await client.get(f"{root}/missing", watch=fired)
    with pytest.raises(NoNodeError):
        await client.children(f"{root}/missing", watch=fired)
    assert client.statistics().watches == 0
    await other.create(f"{root}/missing")
    await client.delete(f"{root}/missing")
    assert fired.silent


async def test_one_callback_under_two_kinds_is_called_once(client: Client, root: str) -> None:
    fired, second = Fired(), Fired()
    await client.create(f"{root}/a")
    await asyncio.gather(
        client.get(f"{root}/a", watch=fired),
        client.exists(f"{root}/a", watch=fired),
        client.children(f"{root}/a", watch=fired),
        client.get(f"{root}/a", watch=second),
    )
    await client.delete(f"{root}/a")
    assert (await fired.next()).type is EventType.DELETED
    assert (await second.next()).type is EventType.DELETED
    assert fired.silent
    assert second.silent


async def test_the_event_comes_before_the_reply_that_shows_the_change(client: Client, other: Client, root: str) -> None:
    fired = Fired()
    await client.get(root, watch=fired)
    writer = asyncio.ensure_future(other.set(root, b"changed"))
    async with asyncio.timeout(10):
        while (await client.get(root)).data != b"changed":
            assert fired.silent
    assert not fired.silent
    await writer


# --- chroot -------------------------------------------------------------------------------------------------------


async def test_chroot_holds_for_every_operation(standalone: Server, client: Client, root: str) -> None:
    async with Client(f"{standalone.address}{root}/inside") as inside:
        with pytest.raises(NoNodeError):
            await inside.create("/a")
        assert await inside.exists("/") is None
        await inside.ensure_path("/")
        assert (await inside.create("/a", b"1")).path == "/a"
        assert (await inside.create("/n-", sequential=True)).path == "/n-0000000001"
        assert (await inside.create("/e", ephemeral=True)).path == "/e"
        assert (await inside.create("/c", container=True)).path == "/c"
        assert (await inside.create("/t", ttl=100)).path == "/t"
        assert sorted(await inside.children("/")) == ["a", "c", "e", "n-0000000001", "t"]
        assert (await inside.children_and_stat("/")).stat.num_children == 5
        assert (await client.get(f"{root}/inside/a")).data == b"1"
        await inside.set("/a", b"2")
        await inside.set_acl("/a", OPEN_ACL_UNSAFE)
        assert (await inside.get_acl("/a"))[1].aversion == 1
        async with inside.transaction() as transaction:
            transaction.check("/a", version=1)
            numbered = transaction.create("/m-", sequential=True)
            transaction.delete("/c")
        assert numbered.result == "/m-0000000005"
        await inside.sync("/a")
        await inside.ensure_path("/deep/er")
        await inside.delete_tree("/deep")
        with pytest.raises(NoNodeError, match="'/gone'"):
            await inside.get("/gone")
        # The chroot itself can't be deleted from inside.
        with pytest.raises(BadArgumentsError):
            await inside.delete("/")


async def test_chroot_is_taken_off_the_paths_of_events(standalone: Server, client: Client, root: str) -> None:
    async with Client(f"{standalone.address}{root}") as inside:
        data, children = Fired(), Fired()
        await inside.exists("/a", watch=data)
        await inside.children("/", watch=children)
        await client.create(f"{root}/a")
        assert (await data.next())[:2] == (EventType.CREATED, "/a")
        assert (await children.next())[:2] == (EventType.CHILDREN_CHANGED, "/")


# --- limits -------------------------------------------------------------------------------------------------------


async def test_data_of_the_maximal_size_and_one_byte_over(client: Client, root: str) -> None:
    path = f"{root}/big"
    # xid and type, path, data's length, one ACL, flags.
    room = BIG - 8 - (4 + len(path)) - 4 - (4 + 4 + 4 + len("world") + 4 + len("anyone")) - 4
    data = bytes(range(256)) * 4096
    data = data[:room]
    assert (await client.create(path, data)).stat.data_length == room
    assert (await client.get(path)).data == data
    sent = client.statistics().requests_sent
    with pytest.raises(RequestTooLargeError, match=re.escape(path)):
        await client.create(path, data + b"x")
    room = BIG - 8 - (4 + len(path)) - 4 - 4
    await client.set(path, bytes(room))
    assert (await client.get(path)).data == bytes(room)
    with pytest.raises(RequestTooLargeError):
        await client.set(path, bytes(room + 1))
    assert client.statistics().requests_sent == sent + 2
    assert client.connections == 1


async def test_a_write_that_the_server_hangs_up_on_ends_by_name_and_is_not_repeated(
    standalone: Server, root: str
) -> None:
    """`max_request_size` beyond the server's jute.maxbuffer: it closes the connection without a word."""
    async with Client(standalone.address, max_request_size=2 * BIG, default_timeout=30) as client:
        with pytest.raises(OutcomeUnknownError, match=re.escape(root)):
            await client.set(root, bytes(BIG + 1))
        assert (await client.get(root)).stat.version == 0
        assert (client.connections, client.generation) == (2, 1)


async def test_a_reply_over_the_clients_own_limit_fails_that_read_only(standalone: Server, root: str) -> None:
    async with Client(standalone.address, max_reply_size=50_000, default_timeout=30) as client:
        await client.set(root, bytes(60_000))
        before, big, after = client.exists(root), client.get(root), client.exists(root)
        with pytest.raises(ReplyTooLargeError, match=re.escape(root)):
            await big
        assert await before == await after
        assert client.generation == 1


async def test_ten_thousand_children(client: Client, root: str) -> None:
    names = [f"child-with-a-name-of-some-length-{number}" for number in range(10_000)]
    await asyncio.gather(*[client.create(f"{root}/{name}") for name in names])
    assert sorted(await client.children(root)) == sorted(names)
    found, stat = await client.children_and_stat(root)
    assert sorted(found) == sorted(names)
    assert stat.num_children == 10_000
    await client.delete_tree(root)


@pytest.mark.parametrize(
    "name", ["größe", "日本語", "тест", "é", "e\u0301", "…", "a b", "%41", "0", "…" * 200, "\uf900"]
)
async def test_names_beyond_ascii(client: Client, other: Client, root: str, name: str) -> None:
    fired = Fired()
    path = f"{root}/{name}"
    await other.exists(path, watch=fired)
    assert (await client.create(path, name.encode())).path == path
    assert await client.children(root) == [name]
    assert (await fired.next())[:2] == (EventType.CREATED, path)
    assert (await other.get(path)).data.decode() == name
    assert (await client.create(f"{path}/", sequential=True)).path == f"{path}/0000000000"
    async with client.transaction() as transaction:
        created = transaction.create(f"{path}/{name}")
    assert created.result == f"{path}/{name}"
    await client.delete_tree(path)


@pytest.mark.parametrize(
    "path", ["", "a", "/a/", "//", "/a//b", "/a/./b", "/a/..", "/\0", "/\x1f", "/\ue000", "/\U0001f600"]
)
async def test_paths_that_a_server_would_refuse_never_leave(client: Client, path: str) -> None:
    sent = client.statistics().requests_sent
    with pytest.raises(InvalidPathError):
        client.create(path)
    with pytest.raises(InvalidPathError):
        client.get(path)
    assert client.statistics().requests_sent == sent


async def test_null_data_of_other_clients_reads_as_empty(client: Client, standalone: Server, root: str) -> None:
    path = f"{root}/null".encode()
    acl = struct.pack(">iii5si6s", 1, 31, 5, b"world", 6, b"anyone")
    body = struct.pack(f">i{len(path)}si", len(path), path, -1) + acl + struct.pack(">i", 0)
    async with RawSession.open(standalone.address) as session:
        code, _ = await session.request(1, body)
        assert code == 0
        code, reply = await session.request(4, struct.pack(f">i{len(path)}s?", len(path), path, False))
        assert (code, reply[:4]) == (0, struct.pack(">i", -1)), "the server should have kept null"
        await session.close_session()
    data, stat = await client.get(f"{root}/null")
    assert (data, stat.data_length) == (b"", 0)
    await client.set(f"{root}/null", b"x", version=0)


# --- servers with other settings ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reaping_server(zookeeper_version: str, loop_thread: LoopThread) -> Iterator[Server]:
    """A server that looks for containers and TTL nodes to delete five times a second, not once a minute."""
    ensemble = Ensemble(version=zookeeper_version, java_options=["-Dznode.container.checkIntervalMs=200"])
    loop_thread.run(ensemble.start())
    yield ensemble.servers[0]
    loop_thread.run(ensemble.close())


@pytest.fixture
async def reaper(reaping_server: Server) -> AsyncIterator[Client]:
    async with Client(reaping_server.address, default_timeout=30) as client:
        yield client


@pytest.fixture
async def container_root(reaper: Client, request: pytest.FixtureRequest) -> str:
    return (await reaper.create("/" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-"))).path


@pytest.fixture(scope="module")
def strict_server(zookeeper_version: str, loop_thread: LoopThread) -> Iterator[Server]:
    """A server without TTL nodes, as they are by default, and with quotas that hold."""
    settings = {"extendedTypesEnabled": "false", "enforceQuota": "true"}
    ensemble = Ensemble(version=zookeeper_version, config=settings)
    loop_thread.run(ensemble.start())
    yield ensemble.servers[0]
    loop_thread.run(ensemble.close())


@pytest.fixture
async def strict(strict_server: Server) -> AsyncIterator[Client]:
    async with Client(strict_server.address, default_timeout=30) as client:
        yield client
