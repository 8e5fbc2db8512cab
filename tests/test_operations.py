"""Every operation: what it sends, what it returns, what it refuses before a byte is sent."""

from __future__ import annotations

import asyncio
import contextlib
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
    CallTimeoutError,
    Children,
    Client,
    ClientInfo,
    Created,
    EventType,
    InvalidACLArgumentError,
    InvalidArgumentError,
    InvalidPathError,
    InvalidTypeError,
    MultiRead,
    NoAuthError,
    NoChildrenForEphemeralsError,
    Node,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    OutcomeUnknownError,
    ReconfigDisabledError,
    RequestTooLargeError,
    SessionExpiredError,
    Stat,
    UnimplementedError,
    UnsupportedByServerError,
    WatchEvent,
)
from everlatch.devserver.tree import SPECIAL_PATHS
from everlatch.operations import Operations
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.records import (
    decode_create_request,
    decode_create_ttl_request,
    decode_reconfig_request,
    encode_reconfig_reply,
)
from scripted_server import Connection, Received, ScriptedServer, drop_after, fail_with, hold, swallow
from skipping_loop import on_every_loop, simulated, this_loop
from srvr_answers import SrvrAnswers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

BOB = [("digest", b"bob:secret")]
ACLS = [*OPEN_ACL_UNSAFE, *READ_ACL_UNSAFE]
CHROOTS = pytest.mark.parametrize("chroot", ["", "/app", "/deep/er"])


@contextlib.asynccontextmanager
async def with_chroot(server: ScriptedServer, chroot: str) -> AsyncIterator[Client]:
    """A client whose chroot exists."""
    async with server.client(chroot) as client:
        await client.ensure_path("/")
        server.requests.clear()
        yield client


def own_nodes(chroot: str) -> list[str]:
    """What ZooKeeper itself has below the client's root."""
    return [] if chroot else ["zookeeper"]


# --- reads --------------------------------------------------------------------------------------------------------


@CHROOTS
@simulated
async def test_reads(chroot):
    async with ScriptedServer() as server, with_chroot(server, chroot) as client:
        await client.create("/a", b"x")
        await client.create("/a/b")
        node = await client.get("/a")
        assert isinstance(node, Node)
        assert isinstance(node.stat, Stat)
        assert node.data == b"x"
        assert await client.exists("/a") == node.stat
        assert await client.exists("/none") is None
        assert await client.children("/a") == ["b"]
        children = await client.children_and_stat("/a")
        assert children == Children(["b"], node.stat)
        assert await client.get_acl("/a") == (list(OPEN_ACL_UNSAFE), node.stat)
        assert await client.sync("/a") is None
        assert await client.sync() is None
        assert await client.children("/") == [*own_nodes(chroot), "a"]
        assert {request.path for request in server.requests} == {
            chroot + path for path in ("/a", "/a/b", "/none", "" if chroot else "/")
        }


@CHROOTS
@simulated
async def test_missing_nodes(chroot):
    async with ScriptedServer() as server, with_chroot(server, chroot) as client:
        calls = [
            client.get("/none"),
            client.children("/none"),
            client.children_and_stat("/none"),
            client.get_acl("/none"),
            client.set("/none", b""),
            client.delete("/none"),
            client.set_acl("/none", OPEN_ACL_UNSAFE),
        ]
        names = ["get", "children", "children_and_stat", "get_acl", "set", "delete", "set_acl"]
        for call, name in zip(calls, names, strict=True):
            with pytest.raises(NoNodeError) as raised:
                await call
            # The path is the caller's, whatever the chroot.
            assert (raised.value.operation, raised.value.path) == (name, "/none")


@simulated
async def test_a_nodes_null_data_reads_as_nothing():
    async with ScriptedServer() as server, server.client() as client:
        assert (await client.get("/")).data == b""


# --- writes -------------------------------------------------------------------------------------------------------


@CHROOTS
@simulated
async def test_create_returns_path_and_stat(chroot):
    async with ScriptedServer() as server, with_chroot(server, chroot) as client:
        created = await client.create("/a", b"x")
        assert created == Created("/a", (await client.get("/a")).stat)
        first = await client.create("/a/n-", sequential=True)
        second = await client.create("/a/n-", sequential=True, ephemeral=True)
        assert (first.path, second.path) == ("/a/n-0000000000", "/a/n-0000000001")
        assert first.stat.ephemeral_owner == 0
        assert second.stat.ephemeral_owner == client.session_id
        bare = await client.create("/a/", sequential=True)
        assert bare.path == "/a/0000000002"
        assert all(path.startswith(chroot + "/a") for path in server.paths(Op.CREATE2))


@pytest.mark.parametrize(
    ("options", "op", "mode"),
    [
        ({}, Op.CREATE2, CreateMode.PERSISTENT),
        ({"ephemeral": True}, Op.CREATE2, CreateMode.EPHEMERAL),
        ({"sequential": True}, Op.CREATE2, CreateMode.PERSISTENT_SEQUENTIAL),
        ({"sequential": True, "ephemeral": True}, Op.CREATE2, CreateMode.EPHEMERAL_SEQUENTIAL),
        ({"container": True}, Op.CREATE_CONTAINER, CreateMode.CONTAINER),
        ({"ttl": 1.5}, Op.CREATE_TTL, CreateMode.PERSISTENT_WITH_TTL),
        ({"ttl": 1.5, "sequential": True}, Op.CREATE_TTL, CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL),
    ],
)
@simulated
async def test_create_modes(options, op, mode):
    async with ScriptedServer() as server, server.client(acl=READ_ACL_UNSAFE, auth=BOB) as client:
        server.requests.clear()
        await client.create("/a", b"x", **options)
        await client.create("/b", b"x", acl=CREATOR_ALL_ACL, **options)
        first, second = server.requests
        assert first.op == second.op == op
        decode: Callable[[bytes, int, int], Any] = (
            decode_create_ttl_request if op == Op.CREATE_TTL else decode_create_request
        )
        for request, path, acl in ((first, "/a", READ_ACL_UNSAFE), (second, "/b", CREATOR_ALL_ACL)):
            sent = decode(request.body, 0, len(request.body))
            assert sent[:4] == (path, b"x", list(acl), mode)
            assert sent[4:] == ((1500,) if op == Op.CREATE_TTL else ())


@simulated
async def test_create_refusals():
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a", ephemeral=True)
        with pytest.raises(NodeExistsError):
            await client.create("/a")
        with pytest.raises(NoChildrenForEphemeralsError):
            await client.create("/a/b")
        with pytest.raises(NoNodeError):
            await client.create("/none/b")


@CHROOTS
@simulated
async def test_set_and_delete_with_versions(chroot):
    async with ScriptedServer() as server, with_chroot(server, chroot) as client:
        await client.create("/a")
        stat = await client.set("/a", b"1", version=0)
        assert (stat.version, stat.data_length) == (1, 1)
        assert (await client.set("/a", b"2")).version == 2
        for call in (client.set("/a", b"3", version=1), client.delete("/a", version=1)):
            with pytest.raises(BadVersionError):
                await call
        await client.create("/a/b")
        with pytest.raises(NotEmptyError):
            await client.delete("/a")
        assert await client.delete("/a/b") is None
        await client.delete("/a", version=2)
        assert await client.exists("/a") is None


@CHROOTS
@simulated
async def test_delete_never_deletes_the_chroot(chroot):
    async with ScriptedServer() as server, with_chroot(server, chroot) as client:
        with pytest.raises(BadArgumentsError):
            await client.delete("/")
        assert server.paths(Op.DELETE) == ["/"]


@simulated
async def test_acls():
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a")
        stat = await client.set_acl("/a", [ACL(1 | 16, "world", "anyone")], version=0)
        assert stat.aversion == 1
        assert (await client.get_acl("/a"))[0] == [ACL(1 | 16, "world", "anyone")]
        with pytest.raises(BadVersionError):
            await client.set_acl("/a", OPEN_ACL_UNSAFE, version=0)


# --- watches ------------------------------------------------------------------------------------------------------


@CHROOTS
@on_every_loop
async def test_watches_fire_once_with_the_callers_path(chroot):
    async with ScriptedServer(version="3.8") as server, with_chroot(server, chroot) as client:
        await client.create("/a")
        events: list[tuple[str, WatchEvent]] = []

        def watcher(name: str) -> Callable[[WatchEvent], None]:
            return lambda event: events.append((name, event))

        await client.get("/a", watch=watcher("get"))
        await client.exists("/a", watch=watcher("exists"))
        await client.exists("/b", watch=watcher("missing"))
        await client.children("/a", watch=watcher("children"))
        await client.children_and_stat("/", watch=watcher("root"))
        assert client.statistics().watches == 5
        for _ in range(2):
            await client.set("/a", b"1")
            await client.create("/a/c")
            await client.create("/b")
            await client.delete("/b")
            await client.delete("/a/c")
        await client.sync()
        assert dict(events) == {
            "get": WatchEvent(EventType.DATA_CHANGED, "/a", -1),
            "exists": WatchEvent(EventType.DATA_CHANGED, "/a", -1),
            "children": WatchEvent(EventType.CHILDREN_CHANGED, "/a", -1),
            "missing": WatchEvent(EventType.CREATED, "/b", -1),
            "root": WatchEvent(EventType.CHILDREN_CHANGED, "/", -1),
        }
        assert len(events) == 5
        assert client.statistics().watches == 0


@simulated
async def test_the_event_of_a_neighbour_of_the_chroot_is_none_of_ours():
    """/ab is not below /a."""
    async with ScriptedServer() as server, server.client("/a") as client, server.client() as outside:
        for path in ("/a", "/ab", "/ab/c"):
            await outside.create(path)
        events: list[WatchEvent] = []
        await client.children("/", watch=events.append)
        server.connections[0].notify(EventType.CHILDREN_CHANGED.value, "/ab")
        await client.sync()
        assert events == []
        await outside.create("/a/c")
        await client.sync()
        assert [event.path for event in events] == ["/"]


@simulated
async def test_a_get_that_fails_sets_no_watch():
    async with ScriptedServer() as server, server.client() as client:
        events: list[WatchEvent] = []
        with pytest.raises(NoNodeError):
            await client.get("/a", watch=events.append)
        assert client.statistics().watches == 0


# --- identity -----------------------------------------------------------------------------------------------------


@simulated
async def test_who_am_i(monkeypatch):
    SrvrAnswers(monkeypatch, "3.7.0")
    async with ScriptedServer() as server, server.client(auth=[("digest", b"bob:secret")]) as client:
        identities = await client.who_am_i()
        assert set(identities) == {("ip", "127.0.0.1"), ("digest", "bob")}
        assert all(isinstance(identity, ClientInfo) for identity in identities)


@simulated
async def test_add_auth_now_and_on_every_later_connection():
    async with ScriptedServer() as server, server.client(auth=[("digest", b"first:1")]) as client:
        assert await client.add_auth("digest", b"second:2") is None
        both = [("ip", "127.0.0.1"), ("digest", "first"), ("digest", "second")]
        assert await client.who_am_i() == both
        server.connection.reset()
        await server.wait_for_connections(2)
        assert await client.who_am_i() == both


@simulated
async def test_refused_credentials_end_the_client():
    async with ScriptedServer() as server, server.client() as client:
        server.on(Op.AUTH, fail_with(-115))
        with pytest.raises(AuthFailedError) as raised:
            await client.add_auth("digest", b"bob:secret")
        assert "secret" not in str(raised.value)
        with pytest.raises(AuthFailedError):
            await client.get("/")
        with pytest.raises(AuthFailedError):
            await client.wait_connected()


# --- what older servers lack --------------------------------------------------------------------------------------

NEWER: dict[str, tuple[str, str, int, Callable[[Client], Coroutine[Any, Any, Any]]]] = {
    "who_am_i": ("3.7.0", "3.6.4", Op.WHO_AM_I, lambda client: client.who_am_i()),
    "ephemerals": ("3.6.0", "3.5.10", Op.GET_EPHEMERALS, lambda client: client.ephemerals()),
    "count_descendants": ("3.6.0", "3.5.10", Op.GET_ALL_CHILDREN_NUMBER, lambda client: client.count_descendants("/")),
    "multi_read": ("3.6.0", "3.5.10", Op.MULTI_READ, lambda client: reading(client).commit()),
    "reconfig": ("3.5.0", "3.4.14", Op.RECONFIG, lambda client: client.reconfig(leaving="3")),
}
"""Operation → the first version that has it, the last one that lacks it, its number, and one call."""


def reading(client: Client) -> MultiRead:
    reads = client.multi_read()
    reads.get("/")
    return reads


@pytest.mark.parametrize("name", NEWER)
@simulated
async def test_a_server_that_is_too_old_is_sent_nothing(monkeypatch, name):
    since, before, _, call = NEWER[name]
    SrvrAnswers(monkeypatch, before)
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(UnsupportedByServerError) as raised:
            await call(client)
        error = raised.value
        assert (error.operation, error.version, error.since) == (name, before, since)
        assert server.requests == []
        assert client.connections == 1


@pytest.mark.parametrize("name", NEWER)
@simulated
async def test_a_server_of_unknown_version_is_sent_the_request(monkeypatch, name):
    SrvrAnswers(monkeypatch, None)
    _, _, op, call = NEWER[name]
    async with ScriptedServer() as server, server.client() as client:
        with contextlib.suppress(ReconfigDisabledError):
            await call(client)
        assert [request.op for request in server.requests] == [op]


@pytest.mark.parametrize("name", sorted(NEWER.keys() - {"reconfig"}))
@simulated
async def test_a_server_that_turns_out_to_be_too_old(monkeypatch, name):
    SrvrAnswers(monkeypatch, None)
    since, _, _, call = NEWER[name]
    async with ScriptedServer(version="3.5") as server, server.client() as client:
        with pytest.raises(UnsupportedByServerError) as raised:
            await call(client)
        error = raised.value
        assert (error.operation, error.version, error.since, error.path) == (name, None, since, "/")
        await client.sync()
        assert client.connections == 2


@simulated
async def test_a_refused_reconfig_may_have_other_reasons(monkeypatch):
    """A standalone server of any version says the same."""
    SrvrAnswers(monkeypatch)
    async with ScriptedServer() as server, server.client() as client:
        server.next(fail_with(-6))
        with pytest.raises(UnimplementedError, match="standalone") as raised:
            await client.reconfig(leaving="3")
        assert type(raised.value) is UnimplementedError


@pytest.mark.parametrize("name", NEWER)
@simulated
async def test_the_timeout_is_for_question_and_request_together(monkeypatch, name):
    answers = SrvrAnswers(monkeypatch, None)
    answers.answering.clear()
    async with ScriptedServer() as server, server.client(default_timeout=3.0) as client:
        server.next(swallow)
        began = this_loop().time()
        with pytest.raises(CallTimeoutError, match=r"timed out after 3 s \(sent, no answer\)") as raised:
            await NEWER[name][3](client)
        assert this_loop().time() - began == pytest.approx(3.0, abs=0.01)
        assert raised.value.timeout == 3.0
        assert isinstance(raised.value, OutcomeUnknownError) is (name == "reconfig")


@simulated
async def test_a_request_that_was_never_sent_timed_out_without_effect(monkeypatch):
    answers = SrvrAnswers(monkeypatch, None)
    answers.answering.clear()
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(CallTimeoutError, match=r"timed out after 1 s \(never sent\)") as raised:
            await client.reconfig(leaving="3", timeout=1)
        assert not isinstance(raised.value, OutcomeUnknownError)
        assert server.requests == []


@pytest.mark.parametrize("name", NEWER)
@simulated
async def test_they_belong_to_the_session_of_a_view(monkeypatch, name):
    SrvrAnswers(monkeypatch)
    async with ScriptedServer() as server, server.client() as client:
        view = client.in_session()
        server.znodes.end_session(client.session_id)
        server.connection.reset()
        await server.until(lambda: client.generation == 2)
        with pytest.raises(SessionExpiredError):
            await NEWER[name][3](view)


@pytest.mark.parametrize("name", NEWER)
@simulated
async def test_only_reads_are_repeated(monkeypatch, name):
    SrvrAnswers(monkeypatch)
    async with ScriptedServer() as server, server.client() as client:
        server.next(drop_after)
        if name == "reconfig":
            with pytest.raises(OutcomeUnknownError):
                await NEWER[name][3](client)
        else:
            await NEWER[name][3](client)
        sent = [request for request in server.requests if request.op != Op.MULTI]  # the client's own commit
        assert len(sent) == (1 if name == "reconfig" else 2)


@CHROOTS
@simulated
async def test_ephemerals(monkeypatch, chroot):
    SrvrAnswers(monkeypatch, "3.6.0")
    async with ScriptedServer() as server, with_chroot(server, chroot) as client, server.client() as other:
        await client.create("/a")
        for path in ("/a/x", "/a/y", "/ab"):
            await client.create(path, ephemeral=True)
        await other.create(f"{chroot}/a/theirs", ephemeral=True)
        assert sorted(await client.ephemerals()) == ["/a/x", "/a/y", "/ab"]
        assert sorted(await client.ephemerals("/a")) == ["/a/x", "/a/y", "/ab"]
        assert sorted(await client.ephemerals("/a/")) == ["/a/x", "/a/y"]
        assert await client.ephemerals("/a/x") == ["/a/x"]
        assert await client.ephemerals("/none") == []


@simulated
async def test_ephemerals_of_a_neighbour_of_the_chroot_are_left_out(monkeypatch):
    """One session, seen through two chroots: /application is not below /app."""
    SrvrAnswers(monkeypatch)
    async with ScriptedServer() as server, server.client("/app") as client:
        outside = Operations(client._engine, "", OPEN_ACL_UNSAFE)
        await outside.create("/app", ephemeral=True)
        await outside.create("/application", ephemeral=True)
        assert await client.ephemerals() == ["/"]
        assert sorted(await outside.ephemerals()) == ["/app", "/application"]


@CHROOTS
@simulated
async def test_count_descendants(monkeypatch, chroot):
    SrvrAnswers(monkeypatch, "3.6.0")
    async with ScriptedServer() as server, with_chroot(server, chroot) as client:
        for path in ("/a", "/a/b", "/a/b/c", "/ab"):
            await client.create(path)
        assert await client.count_descendants("/a") == 2
        assert await client.count_descendants("/ab") == 0
        assert await client.count_descendants("/") == (4 if chroot else 4 + 3)  # ZooKeeper's own
        with pytest.raises(NoNodeError, match="count_descendants '/none'"):
            await client.count_descendants("/none")


# --- the configuration of the servers -----------------------------------------------------------------------------

CONFIG = "/zookeeper/config"


@CHROOTS
@simulated
async def test_get_config_knows_no_chroot(chroot):
    async with ScriptedServer() as server, with_chroot(server, chroot) as client, server.client() as outside:
        server.next(fail_with(-101))
        with pytest.raises(NoNodeError, match="get_config '/zookeeper/config'"):
            await client.get_config()
        server.znodes.set(CONFIG, b"server.1=h:1:2:participant;3\nversion=0")
        events: list[WatchEvent] = []
        node = await client.get_config(watch=events.append)
        assert node == await outside.get(CONFIG)
        assert node.data.endswith(b"version=0")
        server.znodes.set(CONFIG, b"new")
        await client.sync()
        assert [(event.type, event.path) for event in events] == [(EventType.DATA_CHANGED, CONFIG)]
        assert client.statistics().watches == 0


@CHROOTS
@simulated
async def test_the_watch_of_get_config_survives_a_connection(chroot):
    async with ScriptedServer() as server, with_chroot(server, chroot) as client:
        events: list[WatchEvent] = []
        await client.get_config(watch=events.append)
        server.connections[0].reset()
        server.znodes.set(CONFIG, b"new")
        await server.until(lambda: events)
        assert [(event.type, event.path) for event in events] == [(EventType.DATA_CHANGED, CONFIG)]


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ({"joining": "server.4=h:1:2;3"}, ("server.4=h:1:2;3", None, None, -1)),
        ({"joining": ["a", "b"], "leaving": ("1", "2"), "from_config": 7}, ("a,b", "1,2", None, 7)),
        ({"leaving": "3", "from_config": 2**63 - 1}, (None, "3", None, 2**63 - 1)),
        ({"new_members": ["a", "b"]}, (None, None, "a,b", -1)),
    ],
)
@simulated
async def test_reconfig(monkeypatch, arguments, sent):
    SrvrAnswers(monkeypatch, "3.5.0")
    config = Node(b"version=100000007", Stat(*range(11)))

    def reply(connection: Connection, request: Received) -> None:
        connection.reply(request.xid, 0, encode_reconfig_reply(*config))

    async with ScriptedServer() as server, server.client("/app") as client:
        server.next(reply)
        assert await client.reconfig(**arguments) == config
        (request,) = server.requests
        assert request.op == Op.RECONFIG
        assert decode_reconfig_request(request.body, 0, len(request.body)) == sent


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"from_config": 3},
        {"joining": "a", "new_members": "b"},
        {"leaving": "1", "new_members": "b"},
        {"joining": ""},
        {"leaving": []},
        {"new_members": ["a", ""]},
        {"leaving": 3},
        {"leaving": [3]},
        {"joining": b"a"},
        {"joining": "a", "from_config": -2},
        {"joining": "a", "from_config": 2**63},
        {"joining": "a", "from_config": "7"},
        {"joining": "a", "from_config": True},
        {"joining": "a", "timeout": -1},
    ],
)
@simulated
async def test_reconfig_refuses_what_can_not_be_right(monkeypatch, arguments):
    answers = SrvrAnswers(monkeypatch)
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(InvalidArgumentError):
            await client.reconfig(**arguments)
        assert server.requests == []
        assert answers.asked == []


@pytest.mark.parametrize("path", ["", "a", "//", "/a//b", None, b"/a"])
@simulated
async def test_bad_paths_of_newer_operations(monkeypatch, path):
    answers = SrvrAnswers(monkeypatch)
    async with ScriptedServer() as server, server.client() as client:
        reads = client.multi_read()
        for call in (client.ephemerals, client.count_descendants):
            with pytest.raises(InvalidArgumentError):
                await call(path)
        for add in (reads.get, reads.children):
            with pytest.raises(InvalidArgumentError):
                add(path)
        await reads.commit()
        assert server.requests == []
        assert answers.asked == []


# --- timeouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda client, timeout: client.get("/", timeout=timeout),
        lambda client, timeout: client.exists("/", timeout=timeout),
        lambda client, timeout: client.children("/", timeout=timeout),
        lambda client, timeout: client.children_and_stat("/", timeout=timeout),
        lambda client, timeout: client.get_acl("/", timeout=timeout),
        lambda client, timeout: client.sync(timeout=timeout),
        lambda client, timeout: client.create("/a", timeout=timeout),
        lambda client, timeout: client.create("/a", container=True, timeout=timeout),
        lambda client, timeout: client.set("/", b"", timeout=timeout),
        lambda client, timeout: client.delete("/a", timeout=timeout),
        lambda client, timeout: client.set_acl("/", OPEN_ACL_UNSAFE, timeout=timeout),
        lambda client, timeout: client.transaction().commit(timeout=timeout),
        lambda client, timeout: client.add_auth("digest", b"a:b", timeout=timeout),
        lambda client, timeout: client.ensure_path("/a/b", timeout=timeout),
        lambda client, timeout: client.delete_tree("/a", timeout=timeout),
        lambda client, timeout: client.wait_connected(timeout=timeout),
        lambda client, timeout: client.who_am_i(timeout=timeout),
        lambda client, timeout: client.ephemerals(timeout=timeout),
        lambda client, timeout: client.count_descendants("/", timeout=timeout),
        lambda client, timeout: client.get_config(timeout=timeout),
        lambda client, timeout: client.reconfig(leaving="3", timeout=timeout),
        lambda client, timeout: reading(client).commit(timeout=timeout),
    ],
)
@simulated
async def test_every_call_takes_a_timeout(make):
    async with ScriptedServer() as server:
        client = server.client()
        server.refusing = True
        await client.start(wait=False)
        began = this_loop().time()
        with pytest.raises(TimeoutError):
            await make(client, 2.5)
        assert this_loop().time() - began == pytest.approx(2.5, abs=0.01)
        await client.close()


@simulated
async def test_the_clients_default_timeout_holds_where_none_is_given():
    async with ScriptedServer() as server, server.client(default_timeout=1.0) as client:
        server.next(*[swallow] * 3)
        began = this_loop().time()
        with pytest.raises(CallTimeoutError, match=r"exists '/' timed out after 1 s \(sent, no answer\)"):
            await client.exists("/")
        assert this_loop().time() - began == pytest.approx(1.0, abs=0.01)
        with pytest.raises(CallTimeoutError, match=r"timed out after 0\.5 s"):
            await client.exists("/", timeout=0.5)
        unlimited = client.exists("/", timeout=None)
        await server.wait_for_connections(2)
        assert await unlimited is not None


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 10**400])
@on_every_loop
async def test_a_timeout_may_be_longer_than_any_clock_goes(timeout):
    async with ScriptedServer() as server, server.client(default_timeout=timeout) as client:
        assert await client.exists("/", timeout=timeout) is not None
        assert await client.exists("/") is not None
        await client.ensure_path("/a", timeout=timeout)
        await client.wait_connected(timeout)


@simulated
async def test_a_write_that_was_sent_times_out_as_unknown():
    async with ScriptedServer() as server, server.client() as client:
        server.next(hold)
        with pytest.raises(OutcomeUnknownError) as raised:
            await client.create("/a", timeout=1)
        assert isinstance(raised.value, CallTimeoutError)
        assert server.znodes.applied == [("create", "/a")]


# --- composed -----------------------------------------------------------------------------------------------------


@CHROOTS
@simulated
async def test_ensure_path(chroot):
    async with ScriptedServer() as server, server.client(chroot) as client:
        await client.ensure_path("/a/b/c", acl=ACLS)
        assert server.znodes.applied[0] == ("create", "/" + (chroot + "/a").split("/")[1])
        assert (await client.get_acl("/a/b/c"))[0] == ACLS
        applied = list(server.znodes.applied)
        await client.ensure_path("/a/b/c")
        await client.ensure_path("/")
        assert server.znodes.applied == applied


@simulated
async def test_ensure_path_of_any_depth():
    async with ScriptedServer() as server, server.client() as client:
        path = "/x" * 1500
        await client.ensure_path(path)
        assert path in server.znodes.nodes
        await client.delete_tree("/x")
        assert set(server.znodes.nodes) == SPECIAL_PATHS


@simulated
async def test_ensure_path_while_others_create_and_delete():
    async with ScriptedServer() as server, server.client() as client, server.client() as other:
        # Another is faster: exists says no, create says that it is there.
        server.on(Op.EXISTS, fail_with(-101))
        await other.create("/a")
        await client.ensure_path("/a")
        # A parent vanishes between the two.
        server.on(Op.CREATE2, fail_with(-101))
        await client.ensure_path("/a/b")
        assert "/a/b" in server.znodes.nodes


@simulated
async def test_ensure_path_passes_on_what_it_can_not_deal_with():
    async with ScriptedServer() as server, server.client() as client:
        server.on(Op.CREATE2, fail_with(-102))
        with pytest.raises(NoAuthError):
            await client.ensure_path("/a/b")


@CHROOTS
@simulated
async def test_delete_tree(chroot):
    async with ScriptedServer() as server, with_chroot(server, chroot) as client:
        for path in ("/a", "/a/b", "/a/b/c", "/a/d", "/ab"):
            await client.create(path)
        await client.delete_tree("/a")
        assert await client.children("/") == [*own_nodes(chroot), "ab"]
        with pytest.raises(NoNodeError):
            await client.delete_tree("/a")
        assert await client.delete_tree("/a", missing_ok=True) is None


@simulated
async def test_delete_tree_of_many_nodes():
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a")
        await asyncio.gather(*[client.create(f"/a/{number}") for number in range(1200)])
        await client.delete_tree("/a")
        assert set(server.znodes.nodes) == SPECIAL_PATHS


@simulated
async def test_delete_tree_while_others_create_and_delete():
    async with ScriptedServer() as server, server.client() as client:
        await client.ensure_path("/a/b")
        server.on(Op.DELETE, lambda connection, request: late_child(server, connection, request))
        await client.delete_tree("/a")
        assert set(server.znodes.nodes) == SPECIAL_PATHS
        # What is said to be gone and is not is looked at again.
        await client.ensure_path("/a/b")
        server.on(Op.DELETE, fail_with(-101))
        await client.delete_tree("/a")
        assert server.paths(Op.DELETE)[-3:] == ["/a/b", "/a/b", "/a"]


def late_child(server: ScriptedServer, connection: Any, request: Any) -> None:
    """Somebody is faster than the delete."""
    server.znodes.create(request.path + "/late")
    connection.reply(request.xid, -111)


@simulated
async def test_delete_tree_stops_at_what_it_may_not_delete():
    async with ScriptedServer() as server, server.client() as client:
        await client.ensure_path("/a/b")
        server.on(Op.DELETE, fail_with(-102))
        with pytest.raises(NoAuthError):
            await client.delete_tree("/a")


@simulated
async def test_delete_tree_goes_on_after_a_lost_reply():
    async with ScriptedServer() as server, server.client() as client:
        await client.ensure_path("/a/b")
        server.on(Op.DELETE, drop_after)
        await client.delete_tree("/a")
        assert await client.exists("/a") is None
        assert client.statistics().writes_resent == 1


# --- bad input ----------------------------------------------------------------------------------------------------

BAD_PATHS: list[tuple[Any, type[Exception]]] = [
    ("", InvalidPathError),
    ("a", InvalidPathError),
    ("/a/", InvalidPathError),
    ("//a", InvalidPathError),
    ("/a/./b", InvalidPathError),
    ("/a/../b", InvalidPathError),
    ("/a\0", InvalidPathError),
    ("/\ud800", InvalidPathError),
    ("/\U0001f600", InvalidPathError),
    (b"/a", InvalidTypeError),
    (None, InvalidTypeError),
    (["/a"], InvalidTypeError),
]

PATH_CALLS: list[Callable[[Client, Any], Any]] = [
    lambda client, path: client.get(path),
    lambda client, path: client.exists(path),
    lambda client, path: client.children(path),
    lambda client, path: client.children_and_stat(path),
    lambda client, path: client.get_acl(path),
    lambda client, path: client.sync(path),
    lambda client, path: client.create(path),
    lambda client, path: client.set(path, b""),
    lambda client, path: client.delete(path),
    lambda client, path: client.set_acl(path, OPEN_ACL_UNSAFE),
    lambda client, path: client.ensure_path(path),
    lambda client, path: client.delete_tree(path),
    lambda client, path: client.transaction().check(path),
    lambda client, path: client.transaction().create(path),
    lambda client, path: client.transaction().set(path, b""),
    lambda client, path: client.transaction().delete(path),
]


@simulated
async def test_malformed_paths():
    async with ScriptedServer() as server, server.client() as client:
        for path, error in BAD_PATHS:
            for call in PATH_CALLS:
                with pytest.raises(error):
                    await call(client, path)
        assert_nothing_was_sent(server)


BAD_CALLS: dict[str, tuple[Callable[[Client], Any], type[Exception]]] = {
    "text as data": (lambda c: c.set("/", "text"), InvalidTypeError),
    "text as data of a new node": (lambda c: c.create("/a", "text"), InvalidTypeError),
    "bytearray as data": (lambda c: c.set("/", bytearray(b"x")), InvalidTypeError),
    "memoryview as data": (lambda c: c.create("/a", memoryview(b"x")), InvalidTypeError),
    "no data": (lambda c: c.set("/", None), InvalidTypeError),
    "data over the limit": (lambda c: c.set("/", bytes(1_048_575)), RequestTooLargeError),
    "data of a new node over the limit": (lambda c: c.create("/a", bytes(1_048_575)), RequestTooLargeError),
    "a path over the limit": (lambda c: c.exists("/" + "a" * 1_048_575), RequestTooLargeError),
    "empty ACL": (lambda c: c.create("/a", acl=[]), InvalidACLArgumentError),
    "empty ACL set": (lambda c: c.set_acl("/a", []), InvalidACLArgumentError),
    "one ACL, not a list": (lambda c: c.set_acl("/a", ACL(31, "world", "anyone")), InvalidACLArgumentError),
    "not an ACL": (lambda c: c.set_acl("/a", ["world:anyone"]), InvalidACLArgumentError),
    "text as ACL": (lambda c: c.set_acl("/a", "world:anyone:r"), InvalidACLArgumentError),
    "no permissions": (lambda c: c.set_acl("/a", [ACL(0, "world", "anyone")]), InvalidACLArgumentError),
    "unknown permissions": (lambda c: c.set_acl("/a", [ACL(32, "world", "anyone")]), InvalidACLArgumentError),
    "no scheme": (lambda c: c.set_acl("/a", [ACL(31, "", "anyone")]), InvalidACLArgumentError),
    "bytes as id": (lambda c: c.set_acl("/a", [ACL(31, "world", b"anyone")]), InvalidACLArgumentError),
    "half a character as id": (lambda c: c.set_acl("/a", [ACL(31, "world", "\ud800")]), InvalidArgumentError),
    "version too large": (lambda c: c.set("/", b"", version=2**31), InvalidArgumentError),
    "version too small": (lambda c: c.delete("/a", version=-(2**31) - 1), InvalidArgumentError),
    "version as text": (lambda c: c.delete("/a", version="1"), InvalidTypeError),
    "version as float": (lambda c: c.set_acl("/a", OPEN_ACL_UNSAFE, version=1.0), InvalidTypeError),
    "version as bool": (lambda c: c.set("/", b"", version=True), InvalidTypeError),
    "ttl 0": (lambda c: c.create("/a", ttl=0), InvalidArgumentError),
    "ttl negative": (lambda c: c.create("/a", ttl=-1), InvalidArgumentError),
    "ttl too small": (lambda c: c.create("/a", ttl=0.0004), InvalidArgumentError),
    "ttl too large": (lambda c: c.create("/a", ttl=2**40 / 1000), InvalidArgumentError),
    "ttl not a number": (lambda c: c.create("/a", ttl=float("nan")), InvalidArgumentError),
    "ttl infinite": (lambda c: c.create("/a", ttl=float("inf")), InvalidArgumentError),
    "ttl as text": (lambda c: c.create("/a", ttl="5"), InvalidArgumentError),
    "ttl as bool": (lambda c: c.create("/a", ttl=True), InvalidArgumentError),
    "ttl with ephemeral": (lambda c: c.create("/a", ttl=5, ephemeral=True), InvalidArgumentError),
    "ttl with container": (lambda c: c.create("/a", ttl=5, container=True), InvalidArgumentError),
    "container with ephemeral": (lambda c: c.create("/a", container=True, ephemeral=True), InvalidArgumentError),
    "container with sequential": (lambda c: c.create("/a", container=True, sequential=True), InvalidArgumentError),
    "timeout negative": (lambda c: c.get("/", timeout=-1), InvalidArgumentError),
    "timeout not a number": (lambda c: c.get("/", timeout=float("nan")), InvalidArgumentError),
    "timeout as text": (lambda c: c.set("/", b"", timeout="1"), InvalidArgumentError),
    "watch that can't be called": (lambda c: c.get("/", watch="watch"), InvalidTypeError),
    "watch that can't be called, of exists": (lambda c: c.exists("/", watch=True), InvalidTypeError),
    "scheme as bytes": (lambda c: c.add_auth(b"digest", b"a:b"), InvalidTypeError),
    "no scheme of credentials": (lambda c: c.add_auth("", b"a:b"), InvalidArgumentError),
    "credentials as text": (lambda c: c.add_auth("digest", "a:b"), InvalidTypeError),
    "credentials over the limit": (lambda c: c.add_auth("digest", bytes(1_048_575)), RequestTooLargeError),
    "ensure_path with an empty ACL": (lambda c: c.ensure_path("/a", acl=[]), InvalidACLArgumentError),
    "ensure_path with a bad timeout": (lambda c: c.ensure_path("/a", timeout=-1), InvalidArgumentError),
    "delete_tree of the root": (lambda c: c.delete_tree("/"), InvalidArgumentError),
    "delete_tree with a bad timeout": (lambda c: c.delete_tree("/a", timeout="1"), InvalidArgumentError),
    "transaction with a bad version": (lambda c: c.transaction().check("/a", 2**31), InvalidArgumentError),
    "transaction with text": (lambda c: c.transaction().set("/a", "text"), InvalidTypeError),
    "transaction with an empty ACL": (lambda c: c.transaction().create("/a", acl=[]), InvalidACLArgumentError),
}


@pytest.mark.parametrize("name", BAD_CALLS)
@simulated
async def test_bad_input_is_refused_before_a_byte_is_sent(name):
    make, error = BAD_CALLS[name]
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(error) as raised:
            await make(client)
        assert isinstance(raised.value, InvalidArgumentError)
        assert_nothing_was_sent(server)
        assert len(client._engine.session.requests) == 0


def assert_nothing_was_sent(server: ScriptedServer) -> None:
    assert server.requests == []
    assert len(server.connections) == 1


@simulated
async def test_data_that_just_fits_is_sent():
    async with ScriptedServer() as server, server.client(max_request_size=1000) as client:
        overhead = 8 + 4 + len("/a") + 4 + 4
        await client.create("/a")
        assert (await client.set("/a", bytes(1000 - overhead))).data_length == 1000 - overhead
        with pytest.raises(RequestTooLargeError, match=r"set '/a' has 1001 bytes, over the limit of 1000"):
            client.set("/a", bytes(1001 - overhead))


@pytest.mark.parametrize(("scheme", "credentials"), [(b"secret-of-bob", "digest"), ("digest", "secret-of-bob")])
@simulated
async def test_errors_do_not_show_credentials(scheme, credentials):
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(InvalidArgumentError) as raised:
            client.add_auth(scheme, credentials)
        assert "secret-of-bob" not in str(raised.value)
