"""Every error code of ZooKeeper: provoked on real servers, or the reason why no client can provoke it.

Through `Client` wherever it lets one; where it refuses to send such a thing at all, by hand, over `Raw`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from everlatch import (
    ACL,
    OPEN_ACL_UNSAFE,
    BadArgumentsError,
    BadVersionError,
    Client,
    EphemeralOnLocalSessionError,
    HandshakeRefusedError,
    InvalidACLError,
    NewConfigNoQuorumError,
    NoAuthError,
    Node,
    NoWatcherError,
    Outcome,
    QuotaExceededError,
    ReconfigDisabledError,
    ReconfigInProgressError,
    ServerError,
    SessionClosedRequireAuthError,
    SessionExpiredError,
    StartError,
    State,
    ThrottledOpError,
    TransactionFailedError,
    UnimplementedError,
    UnknownServerError,
    WatchKind,
)
from everlatch.admin import srvr
from everlatch.errors import SERVER_ERRORS
from everlatch.testing import Ensemble, expire_session
from everlatch.wire.codes import XID_PING, CreateMode, Op
from everlatch.wire.jute import encode_int, encode_long, encode_string
from everlatch.wire.multi import (
    CheckPart,
    CreatePart,
    DeletePart,
    ErrorResult,
    GetDataPart,
    SetDataPart,
    decode_multi_reply,
    encode_multi_request,
)
from everlatch.wire.records import (
    encode_check_request,
    encode_create_request,
    encode_create_ttl_request,
    encode_delete_request,
    encode_exists_request,
    encode_get_acl_request,
    encode_get_children_request,
    encode_get_data_request,
    encode_reconfig_request,
    encode_set_acl_request,
    encode_set_data_request,
    encode_sync_request,
)
from everlatch.wire.watch_records import (
    encode_add_watch_request,
    encode_check_watches_request,
    encode_remove_watches_request,
)
from real.faults import LONGEST, States
from real.raw import Raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from everlatch import Call, Stat
    from everlatch.testing import Server
    from everlatch.wire.multi import Part
    from real_servers import LoopThread

pytestmark = pytest.mark.real

REFUSALS = "test_operations::test_a_refusal_is_a_typed_error_and_costs_nothing_else"

PROVOKED: dict[int, tuple[str, ...]] = {
    -2: ("test_errors::test_behind_the_culprit_of_a_transaction_nothing_is_executed",),
    -5: ("test_errors::test_a_request_that_can_not_be_decoded",),
    -6: (
        "test_errors::test_an_unknown_operation_costs_the_connection_but_not_the_session",
        "test_errors::test_check_outside_of_a_transaction_is_refused_or_not_even_answered",
        "test_errors::test_reconfig_of_a_standalone_server",
        "test_operations::test_ttl_is_unimplemented_where_extended_types_are_off",
    ),
    -8: (
        "test_errors::test_bad_arguments",
        "test_errors::test_a_bad_flag_in_a_transaction",
        "test_errors::test_reconfig_is_refused_for_what_it_asks",
        "test_operations::test_delete_of_the_servers_own_nodes_is_bad_arguments",
    ),
    -13: ("test_errors::test_reconfig_is_refused_for_what_it_asks",),
    -14: ("test_errors::test_a_reconfig_while_another_is_in_progress",),
    -101: (REFUSALS,),
    -102: (REFUSALS, "test_errors::test_reconfig_is_refused_for_what_it_asks"),
    -103: (REFUSALS, "test_errors::test_reconfig_is_refused_for_what_it_asks"),
    -108: (REFUSALS,),
    -110: (REFUSALS, "test_operations::test_create_of_the_root_says_that_it_exists"),
    -111: (REFUSALS,),
    -112: (
        "test_errors::test_a_session_that_is_over",
        "test_errors::test_what_is_sent_behind_the_end_of_the_session_is_not_done",
        "test_failover::test_a_lost_session_is_replaced_and_its_watches_go_on",
    ),
    -114: (REFUSALS, "test_errors::test_an_acl_that_servers_refuse", "test_errors::test_an_acl_without_entries"),
    -115: (
        "test_errors::test_refused_credentials_cost_the_connection",
        "test_operations::test_refused_credentials_end_the_client",
    ),
    -118: ("test_errors::test_a_session_that_has_moved_may_read_but_not_write",),
    -119: ("test_errors::test_a_read_only_server",),
    -120: ("test_errors::test_an_ephemeral_node_of_a_local_session",),
    -121: ("test_errors::test_no_such_watch",),
    -123: ("test_errors::test_reconfig_is_disabled_by_default",),
    -124: ("test_errors::test_authentication_is_demanded", "test_errors::test_a_ping_without_authentication"),
    -125: ("test_errors::test_a_quota_holds_in_a_transaction", "test_operations::test_a_hard_quota_is_kept"),
    -127: ("test_errors::test_a_server_that_throttles",),
}
"""By code, the tests that provoke it, each on 3.8 and 3.9."""

OF_CLIENTS = "made by ZooKeeper's own clients, never sent by a server"
BEYOND_CLIENTS: dict[int, str] = {
    -1: "marks the range of system errors; servers answer what surprises them with -5",
    -3: "no server sends it",
    -4: OF_CLIENTS,
    -7: OF_CLIENTS,
    -9: OF_CLIENTS,
    -12: "answers only what is sent behind the end of the session, sometimes: see that test",
    -15: OF_CLIENTS,
    -100: "marks the range of API errors",
    -113: OF_CLIENTS,
    -116: OF_CLIENTS,
    -117: OF_CLIENTS,
    -122: OF_CLIENTS,
}
"""By code, why no client can provoke it."""

SUPER = b"super:pw"
SUPER_DIGEST = "super:0bX78nEegDzJM3ju0iLBEJdWzjg="
ANY = -1


def test_the_tables_are_complete() -> None:
    assert PROVOKED.keys() | BEYOND_CLIENTS.keys() == SERVER_ERRORS.keys()
    assert not PROVOKED.keys() & BEYOND_CLIENTS.keys()
    assert {cls.code for cls in all_below(ServerError) if cls is not UnknownServerError} == SERVER_ERRORS.keys()


def test_the_tests_of_the_table_exist_and_run_on_both_versions() -> None:
    for reference in {reference for references in PROVOKED.values() for reference in references}:
        module, _, name = reference.partition("::")
        tests = functions(Path(__file__).with_name(f"{module}.py"))
        assert name in tests, f"{reference} is gone"
        assert "zookeeper_version" in fixtures_behind(tests[name], tests), f"{reference} runs on one version only"


def all_below(cls: type[ServerError]) -> Iterator[type[ServerError]]:
    for below in cls.__subclasses__():
        yield below
        yield from all_below(below)


@functools.cache
def functions(path: Path) -> dict[str, list[str]]:
    """The functions of a test module and the shared fixtures, with the names of their arguments."""
    shared = path.parents[1] / "real_servers.py"
    trees = [ast.parse(source.read_text("utf-8")) for source in (shared, path)]
    return {
        node.name: [argument.arg for argument in node.args.args] + versions(node)
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def versions(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """A fixture with the two versions as its own parameters is as good as `zookeeper_version`."""
    own = any("params=['3.8', '3.9']" in ast.unparse(decorator) for decorator in node.decorator_list)
    return ["zookeeper_version"] if own else []


def fixtures_behind(names: list[str], known: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += known.get(name, [])
    return found


# --- one server with the usual settings ---------------------------------------------------------------------------


@pytest.fixture
async def client(standalone: Server) -> AsyncIterator[Client]:
    async with Client(standalone.address, default_timeout=LONGEST) as client:
        yield client


@pytest.fixture
async def raw(standalone: Server) -> AsyncIterator[Raw]:
    async with Raw.open(standalone.address) as raw:
        yield raw
        # Whatever a test has been refused, the session has survived it.
        await raw.close_session()


@pytest.fixture
async def root(client: Client, request: pytest.FixtureRequest) -> str:
    """A node for this test alone."""
    return (await client.create("/errors-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()))).path


async def test_behind_the_culprit_of_a_transaction_nothing_is_executed(raw: Raw, client: Client, root: str) -> None:
    """The server's whole answer; `Transaction` tells only of the culprit."""
    parts: list[Part] = [
        CheckPart(root, 0),
        CreatePart(Op.CREATE, f"{root}/new", b"", OPEN_ACL_UNSAFE, 0),
        SetDataPart(f"{root}/missing", b"", ANY),
        DeletePart(root, ANY),
        CheckPart(f"{root}/missing", ANY),
    ]
    reply = await raw.request(Op.MULTI, encode_multi_request(parts))
    assert reply.code == 0
    results = decode_multi_reply(reply.body, 0, len(reply.body))
    assert results == [ErrorResult(0), ErrorResult(0), ErrorResult(-101), ErrorResult(-2), ErrorResult(-2)]
    assert await client.children(root) == []


UNDECODABLE: dict[str, tuple[int, bytes]] = {
    "a body that ends too early": (Op.GET_DATA, encode_get_data_request("/", False)[:-2]),
    "no body": (Op.SET_DATA, b""),
    "a null path": (Op.EXISTS, encode_string(None) + b"\0"),
    "a null list of watches": (Op.SET_WATCHES, encode_long(0) + 3 * encode_int(-1)),
    "an unknown kind of watch": (Op.REMOVE_WATCHES, encode_remove_watches_request("/", 9)),
    "an unknown mode of watch": (Op.ADD_WATCH, encode_add_watch_request("/", 9)),
    "a read in a transaction": (Op.MULTI, encode_multi_request([GetDataPart("/")])),
    "a write in a multi-read": (Op.MULTI_READ, encode_multi_request([DeletePart("/", ANY)])),
}


@pytest.mark.parametrize("name", UNDECODABLE)
async def test_a_request_that_can_not_be_decoded(raw: Raw, name: str) -> None:
    assert await raw.code(*UNDECODABLE[name]) == -5
    assert await raw.code(Op.EXISTS, encode_exists_request("/", False)) == 0


async def test_an_unknown_operation_costs_the_connection_but_not_the_session(standalone: Server) -> None:
    async with Raw.open(standalone.address) as raw:
        assert await raw.code(999) == -6
        assert await raw.hung_up()
    async with Raw.open(standalone.address, session=(raw.session_id, raw.password)) as again:
        assert again.session_id == raw.session_id
        await again.close_session()


def create(path: str, flags: int = 0) -> bytes:
    return encode_create_request(path, b"", OPEN_ACL_UNSAFE, flags)


def create_ttl(path: str, ttl_ms: int) -> bytes:
    return encode_create_ttl_request(path, b"", OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_WITH_TTL, ttl_ms)


BAD_PATHS = ["", "a", "//", "//a", "/zookeeper/", "/zookeeper/..", "/.", "/\0", "/\x01", "/\x7f", "/\ue000", "/\ufff0"]
"""Their parents exist: a missing one would be noticed first."""
BAD_ARGUMENTS: dict[str, tuple[int, bytes]] = {
    **{f"create {path!r}": (Op.CREATE2, create(path)) for path in BAD_PATHS},
    "create with unknown flags": (Op.CREATE2, create("/bad", 7)),
    "create with the flags of a TTL node": (Op.CREATE2, create("/bad", CreateMode.PERSISTENT_WITH_TTL)),
    "create a container with unknown flags": (Op.CREATE_CONTAINER, create("/bad", 99)),
    "create with a TTL of 0": (Op.CREATE_TTL, create_ttl("/bad", 0)),
    "create with a TTL below 0": (Op.CREATE_TTL, create_ttl("/bad", -5)),
    "create with a TTL of more than five bytes": (Op.CREATE_TTL, create_ttl("/bad", 1 << 40)),
    "set at a bad path": (Op.SET_DATA, encode_set_data_request("a", b"", ANY)),
    "set_acl at a bad path": (Op.SET_ACL, encode_set_acl_request("a", OPEN_ACL_UNSAFE, ANY)),
    "delete of no path": (Op.DELETE, encode_delete_request("", ANY)),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
async def test_bad_arguments(raw: Raw, name: str) -> None:
    assert await raw.code(*BAD_ARGUMENTS[name]) == -8
    assert await raw.code(Op.EXISTS, encode_exists_request("/bad", False)) == -101


async def test_a_bad_flag_in_a_transaction(raw: Raw, zookeeper_version: str) -> None:
    """Debian's 3.8.0 blames the part, 3.9 can't decode the whole."""
    part = CreatePart(Op.CREATE, "/bad", b"", OPEN_ACL_UNSAFE, 7)
    reply = await raw.request(Op.MULTI, encode_multi_request([part]))
    if zookeeper_version == "3.8":
        assert reply.code == 0
        assert decode_multi_reply(reply.body, 0, len(reply.body)) == [ErrorResult(-8)]
    else:
        assert (reply.code, reply.body) == (-5, b"")


BAD_ACLS = [
    ACL(31, "nosuch", "x"),
    ACL(31, "world", "somebody"),
    ACL(31, "digest", "nocolon"),
    ACL(31, "digest", "a:b:c"),
    ACL(31, "ip", "not-an-address"),
    ACL(31, "ip", "127.0.0.1/99"),
    ACL(31, "auth", ""),
    ACL(31, "super", ""),
    ACL(31, "sasl", "bob"),
]


@pytest.mark.parametrize("acl", BAD_ACLS, ids=lambda acl: f"{acl.scheme}:{acl.id}")
async def test_an_acl_that_servers_refuse(client: Client, root: str, acl: ACL) -> None:
    good = OPEN_ACL_UNSAFE[0]
    for call in (
        client.create(f"{root}/a", acl=[acl]),
        client.create(f"{root}/a", acl=[good, acl]),
        client.create(f"{root}/a", container=True, acl=[acl]),
        client.create(f"{root}/a", ttl=60, acl=[acl]),
        client.set_acl(root, [good, acl]),
    ):
        with pytest.raises(InvalidACLError):
            await call
    transaction = client.transaction()
    transaction.create(f"{root}/a")
    transaction.create(f"{root}/b", acl=[acl])
    with pytest.raises(TransactionFailedError) as caught:
        await transaction.commit()
    assert (caught.value.index, type(caught.value.error)) == (1, InvalidACLError)
    assert await client.children(root) == []
    assert (await client.get_acl(root))[0] == [good]


async def test_an_acl_without_entries(raw: Raw, root: str) -> None:
    """The client doesn't send one: `InvalidACLArgumentError`."""
    null = encode_string(f"{root}/a") + encode_int(0) + encode_int(-1) + encode_int(0)
    assert await raw.code(Op.CREATE2, encode_create_request(f"{root}/a", b"", [], 0)) == -114
    assert await raw.code(Op.CREATE2, null) == -114
    assert await raw.code(Op.SET_ACL, encode_set_acl_request(root, [], ANY)) == -114


@pytest.mark.parametrize("scheme", ["nosuch", "world", "sasl"])
async def test_refused_credentials_cost_the_connection(standalone: Server, scheme: str) -> None:
    async with Raw.open(standalone.address) as raw:
        assert await raw.authenticate(scheme, b"bob:secret") == -115
        assert await raw.hung_up()
    async with Raw.open(standalone.address, session=(raw.session_id, raw.password)) as again:
        assert again.session_id == raw.session_id
        await again.close_session()


@pytest.mark.parametrize("kind", [WatchKind.CHILDREN, WatchKind.DATA, WatchKind.ANY])
async def test_no_such_watch(client: Client, raw: Raw, root: str, kind: WatchKind) -> None:
    with pytest.raises(NoWatcherError):
        await client.remove_watches(root, kind)
    assert not await client.check_watches(root, kind)
    # A watch of somebody else is none of ours.
    assert await raw.code(Op.GET_DATA, encode_get_data_request(root, True)) == 0
    assert await raw.code(Op.GET_CHILDREN, encode_get_children_request(root, True)) == 0
    with pytest.raises(NoWatcherError):
        await client.remove_watches(root, kind)
    assert await raw.code(Op.REMOVE_WATCHES, encode_remove_watches_request(root, kind.value)) == 0
    assert await raw.code(Op.REMOVE_WATCHES, encode_remove_watches_request(root, kind.value)) == -121
    assert await raw.code(Op.CHECK_WATCHES, encode_check_watches_request(root, kind.value)) == -121


async def test_reconfig_is_disabled_by_default(client: Client) -> None:
    with pytest.raises(ReconfigDisabledError):
        await client.reconfig(leaving="1")


async def test_a_session_that_is_over(standalone: Server, root: str) -> None:
    """No server says −112 in a reply: it drops the connection, and says at the next handshake what has happened."""
    states = States()
    async with Client(standalone.address, default_timeout=LONGEST) as client:
        client.add_listener(states)
        bound = client.in_session()
        session = client.session_id, client.session_password
        await expire_session(client, standalone.address)
        await states.until(State.RENEWED)  # a client that still offers it has the server close other offers
        async with Raw.open(standalone.address, session=session) as late:
            assert (late.session_id, late.timeout_ms, late.password) == (0, 0, bytes(16))
            assert await late.hung_up()
        for act in (lambda: bound.get(root), lambda: bound.create(f"{root}/a", ephemeral=True)):
            with pytest.raises(SessionExpiredError) as caught:
                await act()
            assert caught.value.outcome is Outcome.NOT_APPLIED
        assert await client.children(root) == []


async def test_what_is_sent_behind_the_end_of_the_session_is_not_done(standalone: Server, root: str) -> None:
    """Mostly the connection is closed before it is answered. In 600 tries on 3.8.0 and 3.9.5 it was 39 times
    -112, and 25 times -12."""
    async with Raw.open(standalone.address) as raw:
        closing = raw.send(Op.CLOSE_SESSION)
        late = raw.send(Op.CREATE2, create(f"{root}/late"))
        reply = await raw.receive()
        assert (reply.xid, reply.code) == (closing, 0)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            reply = await raw.receive()
            assert reply.xid == late
            assert reply.code in (-112, -12)
            assert await raw.hung_up()
    async with Raw.open(standalone.address) as other:
        assert await other.code(Op.EXISTS, encode_exists_request(f"{root}/late", False)) == -101
        await other.close_session()


# --- a server that demands authentication, and keeps quotas -------------------------------------------------------


@pytest.fixture(scope="module")
def guarded_server(zookeeper_version: str, loop_thread: LoopThread) -> Iterator[Server]:
    settings = {
        "enforce.auth.enabled": "true",
        "enforce.auth.schemes": "digest",
        "enforceQuota": "true",
        "reconfigEnabled": "true",
    }
    ensemble = Ensemble(version=zookeeper_version, config=settings)
    loop_thread.run(ensemble.start())
    yield ensemble.servers[0]
    loop_thread.run(ensemble.close())


@pytest.fixture
async def guarded_raw(guarded_server: Server) -> AsyncIterator[Raw]:
    async with Raw.open(guarded_server.address) as raw:
        assert await raw.authenticate("digest", b"bob:secret") == 0
        yield raw


async def test_authentication_is_demanded(guarded_server: Server) -> None:
    async with Client(guarded_server.address, default_timeout=LONGEST) as client:
        session_id = client.session_id
        for act in (lambda: client.get("/"), lambda: client.create("/refused")):
            with pytest.raises(SessionClosedRequireAuthError) as caught:
                await act()
            assert caught.value.outcome is Outcome.NOT_APPLIED
            # It closes the connection each time, which the client has left by then; the session stays the same.
        await client.add_auth("digest", b"bob:secret")
        assert await client.exists("/refused") is None
        assert (client.session_id, client.generation) == (session_id, 1)
    async with Client(guarded_server.address, auth=[("digest", b"bob:secret")], default_timeout=LONGEST) as client:
        assert await client.exists("/refused") is None
        assert client.connections == 1


async def test_a_ping_without_authentication(guarded_server: Server) -> None:
    async with Raw.open(guarded_server.address) as raw:
        raw.send(Op.PING, xid=XID_PING)
        reply = await raw.receive()
        assert (reply.xid, reply.code) == (XID_PING, -124)
        assert await raw.hung_up()


async def test_an_idle_client_without_authentication_says_what_is_wrong(guarded_server: Server) -> None:
    """Its pings are refused as well: that is the reason of its loss, and it stays alive to be given credentials."""
    states = States()
    async with Client(guarded_server.address, session_timeout=1, default_timeout=LONGEST) as client:
        client.add_listener(states)
        change = await states.until(State.SUSPENDED)
        assert isinstance(change.reason, SessionClosedRequireAuthError)
        await client.add_auth("digest", b"bob:secret")
        assert await client.exists("/") is not None


async def test_check_outside_of_a_transaction_is_refused_or_not_even_answered(
    guarded_raw: Raw, zookeeper_version: str
) -> None:
    xid = guarded_raw.send(Op.CHECK, encode_check_request("/", ANY))
    if zookeeper_version == "3.8":
        # Debian's 3.8.0 has no answer and goes on: a client that waits for one would wait for ever.
        assert await guarded_raw.code(Op.EXISTS, encode_exists_request("/", False)) == 0
        await guarded_raw.close_session()
    else:
        reply = await guarded_raw.receive()
        assert (reply.xid, reply.code) == (xid, -6)
        assert await guarded_raw.hung_up()


async def test_reconfig_of_a_standalone_server(guarded_server: Server) -> None:
    """Unlike operations that it doesn't know, this one doesn't cost the connection."""
    async with Client(guarded_server.address, auth=[("digest", b"bob:secret")], default_timeout=LONGEST) as client:
        with pytest.raises(UnimplementedError) as caught:
            await client.reconfig(leaving="1")
        assert type(caught.value) is UnimplementedError
        assert await client.exists("/") is not None
        assert client.connections == 1


async def test_a_quota_holds_in_a_transaction(guarded_server: Server) -> None:
    async with Client(guarded_server.address, auth=[("digest", b"bob:secret")], default_timeout=LONGEST) as client:
        await client.ensure_path("/limited")
        await client.ensure_path("/zookeeper/quota/limited")
        limits = b"count=-1,bytes=-1;byteHardLimit=-1;countHardLimit=2"
        await client.create("/zookeeper/quota/limited/zookeeper_limits", limits)
        await client.create("/zookeeper/quota/limited/zookeeper_stats", b"count=1,bytes=0")
        await client.create("/limited/one")
        transaction = client.transaction()
        transaction.check("/limited")
        transaction.create("/limited/two")
        with pytest.raises(TransactionFailedError) as caught:
            await transaction.commit()
        assert (caught.value.index, type(caught.value.error)) == (1, QuotaExceededError)
        assert await client.children("/limited") == ["one"]


# --- a server that throttles --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def throttling_server(zookeeper_version: str, loop_thread: LoopThread) -> Iterator[Server]:
    """It does one request at a time, and none that has waited for longer than 10 ms."""
    options = ["-Dzookeeper.request_throttle_max_requests=1", "-Dzookeeper.throttled_op_wait_time=10"]
    ensemble = Ensemble(version=zookeeper_version, java_options=options)
    loop_thread.run(ensemble.start())
    yield ensemble.servers[0]
    loop_thread.run(ensemble.close())


async def test_a_server_that_throttles(throttling_server: Server) -> None:
    """So much work at once that what comes last can't be begun in time; and then it is not executed."""
    # So long a session, because the work may keep a busy server from answering at all for ten seconds.
    async with Client(throttling_server.address, session_timeout=60, default_timeout=LONGEST) as client:
        # Each part takes the server some microseconds, each transaction far more than 10 ms.
        work = [refused_work(client) for _ in range(3)]
        late = client.create("/late")
        assert {type(result) for result in await asyncio.gather(*work, return_exceptions=True)} <= {
            TransactionFailedError,
            ThrottledOpError,
        }
        with pytest.raises(ThrottledOpError) as caught:
            await late
        assert caught.value.outcome is Outcome.NOT_APPLIED
        assert await patiently(client, "/late") is None
        assert client.connections == 1


def refused_work(client: Client) -> Call[None]:
    """A long transaction of which nothing is kept."""
    transaction = client.transaction()
    for _ in range(6_000):
        transaction.create("/n-", sequential=True)
    transaction.delete("/never-there")
    return transaction.commit()


async def patiently(client: Client, path: str) -> Stat | None:
    """Asks again when it is throttled."""
    async with asyncio.timeout(LONGEST):
        while True:
            with contextlib.suppress(ThrottledOpError):
                return await client.exists(path)


# --- three servers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ensemble(zookeeper_version: str, loop_thread: LoopThread) -> Iterator[Ensemble]:
    """Three servers with a super user, for reconfig; tests leave all of them running."""
    settings = {"DigestAuthenticationProvider.superDigest": SUPER_DIGEST}
    ensemble = Ensemble(3, version=zookeeper_version, config=settings)
    loop_thread.run(ensemble.start())
    yield ensemble
    loop_thread.run(ensemble.close())


async def members(client: Client) -> tuple[dict[int, str], int]:
    """The servers of the present configuration by their numbers, and its version."""
    data, stat = await client.get_config()
    return {int(number): spec for number, spec in re.findall(r"server\.(\d+)=(.*)\n", data.decode())}, stat.mzxid


def servers(specs: dict[int, str]) -> list[str]:
    return [f"server.{number}={spec}" for number, spec in specs.items()]


async def test_reconfig_is_refused_for_what_it_asks(ensemble: Ensemble) -> None:
    leader = await ensemble.leader()
    async with Client(leader.address, default_timeout=LONGEST) as client:
        specs, version = await members(client)
        assert specs.keys() == {1, 2, 3}
        with pytest.raises(NoAuthError):
            await client.reconfig(new_members=servers(specs))
        await client.add_auth("digest", SUPER)
        with pytest.raises(BadArgumentsError):
            await client.reconfig(joining="nonsense")
        with pytest.raises(BadVersionError):
            await client.reconfig(new_members=servers(specs), from_config=version + 1)
        # The leader and two servers that nobody has started.
        absent = {number: f"127.0.0.1:{number}:{number + 10}:participant;127.0.0.1:{number + 20}" for number in (8, 9)}
        with pytest.raises(NewConfigNoQuorumError):
            await client.reconfig(new_members=servers({leader.id: specs[leader.id], **absent}))
        assert await members(client) == (specs, version)
        assert client.connections == 1


async def test_a_reconfig_while_another_is_in_progress(ensemble: Ensemble) -> None:
    """The first one waits for followers that are frozen; the second comes meanwhile."""
    leader = await ensemble.leader()
    others = [server for server in ensemble.servers if server is not leader]
    async with Client(leader.address, auth=[("digest", SUPER)], default_timeout=LONGEST) as client:
        specs, version = await members(client)
        try:
            for server in others:
                server.pause()
            calls = [asyncio.create_task(client.reconfig(new_members=servers(specs))) for _ in range(2)]
            async with asyncio.timeout(LONGEST):
                while (await srvr(leader.address)).outstanding < 2:
                    await asyncio.sleep(0.005)
        finally:
            for server in others:
                server.resume()
        first, second = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(first, Node)
        assert first.stat.mzxid > version
        assert isinstance(second, ReconfigInProgressError)
        assert await members(client) == (specs, first.stat.mzxid)


async def test_a_session_that_has_moved_may_read_but_not_write(ensemble: Ensemble) -> None:
    """No server says −118: it closes the connection. The client takes its session back, finds that the write was not
    applied, and sends it again."""
    one, two = (await ensemble.followers())[:2]
    async with Client(one.address, default_timeout=LONGEST) as client:
        await client.ensure_path("/moved")
        session = client.session_id, client.session_password
        async with Raw.open(two.address, session=session) as elsewhere:
            assert elsewhere.session_id == client.session_id
            assert await client.exists("/moved") is not None
            assert client.connections == 1
            assert (await client.set("/moved", b"there")).version == 1
            assert client.statistics().writes_resent == 1
        assert (await client.set("/moved", b"again")).version == 2
        assert (client.connections, client.session_id) == (2, session[0])
        await client.delete("/moved")


# --- three servers with local sessions, of which one can serve alone ----------------------------------------------


@pytest.fixture(scope="module")
def local_ensemble(zookeeper_version: str, loop_thread: LoopThread) -> Iterator[Ensemble]:
    ensemble = Ensemble(
        3,
        version=zookeeper_version,
        config={"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "false"},
        java_options=["-Dreadonlymode.enabled=true"],
    )
    loop_thread.run(ensemble.start())
    yield ensemble
    loop_thread.run(ensemble.close())


@pytest.fixture
def local_sessions(local_ensemble: Ensemble, loop_thread: LoopThread) -> Ensemble:
    """All three servers serve."""

    async def heal() -> None:
        for server in local_ensemble.servers:
            if not server.running:
                await server.start(wait=False)
        await local_ensemble.wait_serving()
        await local_ensemble.leader()

    loop_thread.run(heal())
    return local_ensemble


@pytest.fixture
def read_only_server(local_sessions: Ensemble, loop_thread: LoopThread) -> Server:
    """The last server that is left serves, but takes no writes."""
    last, *others = local_sessions.servers

    async def leave_alone() -> None:
        await asyncio.gather(*(server.kill() for server in others))
        async with asyncio.timeout(LONGEST):
            while await last.mode() != "read-only":
                await asyncio.sleep(0.05)

    loop_thread.run(leave_alone())
    return last


async def test_an_ephemeral_node_of_a_local_session(local_sessions: Ensemble) -> None:
    for server in local_sessions.servers:
        async with Client(server.address, default_timeout=LONGEST) as client:
            await client.ensure_path("/local")
            for call in (
                client.create("/local/e", ephemeral=True),
                client.create("/local/e-", ephemeral=True, sequential=True),
            ):
                with pytest.raises(EphemeralOnLocalSessionError):
                    await call
            assert await client.children("/local") == []
            assert client.connections == 1


REFUSED_READ_ONLY: dict[str, tuple[int, bytes]] = {
    "create": (Op.CREATE, create("/a")),
    "create2": (Op.CREATE2, create("/a")),
    "create a container": (Op.CREATE_CONTAINER, create("/a", CreateMode.CONTAINER)),
    "create with a TTL": (Op.CREATE_TTL, create_ttl("/a", 1000)),
    "delete": (Op.DELETE, encode_delete_request("/a", ANY)),
    "set": (Op.SET_DATA, encode_set_data_request("/a", b"", ANY)),
    "set_acl": (Op.SET_ACL, encode_set_acl_request("/a", OPEN_ACL_UNSAFE, ANY)),
    "reconfig": (Op.RECONFIG, encode_reconfig_request(None, "1", None, ANY)),
    "a transaction": (Op.MULTI, encode_multi_request([CheckPart("/", ANY)])),
    "sync": (Op.SYNC, encode_sync_request("/")),
}


async def test_a_read_only_server(read_only_server: Server, standalone: Server) -> None:
    async with Raw.open(read_only_server.address, read_only=True) as raw:
        assert raw.read_only is True
        assert await raw.code(Op.GET_DATA, encode_get_data_request("/", True)) == 0
        assert await raw.code(Op.GET_ACL, encode_get_acl_request("/")) == 0
        codes = {name: await raw.code(*request) for name, request in REFUSED_READ_ONLY.items()}
        assert codes == dict.fromkeys(REFUSED_READ_ONLY, -119)
    # Who doesn't say that read-only will do is not even answered.
    async with Raw.connect(read_only_server.address) as raw:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await raw.shake_hands()
    # The client is such a one.
    with pytest.raises(StartError) as caught:
        await Client(read_only_server.address).start()
    ((address, reason),) = caught.value.failures
    assert address == read_only_server.address
    assert isinstance(reason, HandshakeRefusedError)
    async with Client([read_only_server.address, standalone.address], shuffle=False) as client:
        assert client.statistics().server == standalone.address
