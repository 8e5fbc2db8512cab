"""The operations that came with 3.5 to 3.7, on real servers of both versions, and every refusal that they have."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from everlatch import (
    ACL,
    BadArgumentsError,
    BadVersionError,
    Client,
    ClientInfo,
    EventType,
    MarshallingError,
    NewConfigNoQuorumError,
    NoAuthError,
    NoNodeError,
    Permission,
    ReconfigDisabledError,
    ReplyTooLargeError,
    ServerError,
    UnimplementedError,
    UnsupportedByServerError,
    WatchEvent,
)
from everlatch.testing import Ensemble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from everlatch.testing import Server
    from real_servers import LoopThread

pytestmark = pytest.mark.real

CONFIG = "/zookeeper/config"
SUPER = ("digest", b"super:pw")
SUPER_DIGEST = {"DigestAuthenticationProvider.superDigest": "super:0bX78nEegDzJM3ju0iLBEJdWzjg="}
"""Base64(SHA1("super:pw")): what makes its owner the super user, who alone may change the configuration."""
SECRET = ACL(Permission.ALL.value, "digest", "nobody:w5w5w5w5w5w5w5w5w5w5w5w5w5w=")


@pytest.fixture
async def client(standalone: Server) -> AsyncIterator[Client]:
    async with Client(standalone.address, default_timeout=30) as client:
        yield client


@pytest.fixture
async def root(client: Client, request: pytest.FixtureRequest) -> str:
    """A node for this test alone."""
    return (await client.create("/new-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-"))).path


@pytest.fixture
async def inside(client: Client, standalone: Server, root: str) -> AsyncIterator[Client]:
    """A client whose root is the test's node."""
    async with Client(standalone.address + root, default_timeout=30) as inside:
        yield inside


# --- who_am_i -----------------------------------------------------------------------------------------------------


async def test_who_am_i(client: Client) -> None:
    assert await client.who_am_i() == [ClientInfo("ip", "127.0.0.1")]
    await client.add_auth("digest", b"bob:secret")
    assert set(await client.who_am_i()) == {ClientInfo("ip", "127.0.0.1"), ClientInfo("digest", "bob")}
    assert client.connections == 1


# --- ephemerals ---------------------------------------------------------------------------------------------------


async def test_ephemerals_are_those_of_this_session(client: Client, inside: Client, root: str) -> None:
    mine = [f"{root}/a", f"{root}/ab", f"{root}/b"]
    await asyncio.gather(*[client.create(path, ephemeral=True) for path in mine])
    await inside.create("/theirs", ephemeral=True)
    await client.create(f"{root}/stays")
    assert sorted(await client.ephemerals()) == mine
    assert sorted(await client.ephemerals(f"{root}/")) == mine
    assert sorted(await client.ephemerals(f"{root}/a")) == mine[:2]
    assert await client.ephemerals(f"{root}/none") == []
    assert await inside.ephemerals() == ["/theirs"]


async def test_ephemerals_under_a_chroot(client: Client, inside: Client, root: str) -> None:
    await inside.create("/parent")
    await inside.create("/parent/a", ephemeral=True)
    await inside.create("/b", ephemeral=True)
    assert sorted(await inside.ephemerals()) == ["/b", "/parent/a"]
    assert await inside.ephemerals("/par") == ["/parent/a"]
    assert await inside.ephemerals(root) == []
    assert await client.ephemerals() == []


# --- count_descendants --------------------------------------------------------------------------------------------


async def test_count_descendants(client: Client, inside: Client, root: str) -> None:
    for path in ("/a", "/a/b", "/a/b/c", "/ab"):
        await inside.create(path)
    assert await client.count_descendants(root) == await inside.count_descendants("/") == 4
    assert await inside.count_descendants("/a") == 2
    assert await inside.count_descendants("/a/b/c") == 0
    # ZooKeeper's own nodes count as well.
    assert await client.count_descendants("/") > 4 + 1
    with pytest.raises(NoNodeError, match="count_descendants '/none'"):
        await inside.count_descendants("/none")


async def test_count_descendants_needs_permission(client: Client, root: str) -> None:
    await client.create(f"{root}/hidden", acl=[SECRET])
    with pytest.raises(NoAuthError):
        await client.count_descendants(f"{root}/hidden")


# --- multi_read ---------------------------------------------------------------------------------------------------


async def test_multi_read(client: Client, inside: Client, root: str) -> None:
    await inside.create("/a", b"data")
    for name in "cab":
        await inside.create(f"/a/{name}")
    await client.create(f"{root}/hidden", acl=[SECRET])
    for reader, prefix in ((client, root), (inside, "")):
        async with reader.multi_read() as reads:
            node, names = reads.get(f"{prefix}/a"), reads.children(f"{prefix}/a")
            missing, hidden = reads.get(f"{prefix}/none"), reads.children(f"{prefix}/hidden")
            empty = reads.get(f"{prefix}/a/c")
        assert node.result == await reader.get(f"{prefix}/a")
        assert sorted(names.result) == ["a", "b", "c"]
        assert empty.result.data == b""
        with pytest.raises(NoNodeError, match=f"get '{prefix}/none'"):
            missing.result  # noqa: B018
        with pytest.raises(NoAuthError, match=f"children '{prefix}/hidden'"):
            hidden.result  # noqa: B018


async def test_a_multi_read_in_which_everything_fails(client: Client, root: str) -> None:
    reads = client.multi_read()
    parts = [reads.get(f"{root}/none"), reads.get(f"{root}/neither")]
    await reads.commit()
    for part in parts:
        with pytest.raises(NoNodeError):
            part.result  # noqa: B018


async def test_a_multi_read_of_a_thousand_nodes(client: Client, root: str) -> None:
    paths = [created.path for created in await asyncio.gather(*[client.create(f"{root}/{n}") for n in range(1000)])]
    async with client.multi_read() as reads:
        nodes = [reads.get(path) for path in paths]
    assert [node.result.stat for node in nodes] == [await client.exists(path) for path in paths]


async def test_a_multi_read_whose_reply_is_too_large(client: Client, standalone: Server, root: str) -> None:
    for name in "ab":
        await client.create(f"{root}/{name}", bytes(600_000))
    async with Client(standalone.address, default_timeout=30, max_reply_size=1 << 20) as small:
        reads = small.multi_read()
        reads.get(f"{root}/a")
        reads.get(f"{root}/b")
        with pytest.raises(ReplyTooLargeError, match="multi_read"):
            await reads.commit()
        assert await small.exists(root) is not None


# --- versions -----------------------------------------------------------------------------------------------------


async def test_the_server_tells_its_version(client: Client, zookeeper_version: str) -> None:
    with pytest.raises(UnsupportedByServerError) as raised:
        await client._engine.versions.require("what_is_to_come", "99.0.0", path="/", timeout=10)
    assert raised.value.version is not None
    assert raised.value.version.startswith(zookeeper_version + ".")
    assert client.connections == 1


# --- the configuration, of servers that have none or don't change it ----------------------------------------------


async def test_a_standalone_server_has_no_configuration(client: Client, inside: Client) -> None:
    assert await client.get_config() == await inside.get_config() == await client.get(CONFIG)
    assert (await client.get_config()).data == b""


async def test_a_standalone_server_can_not_be_reconfigured(loop_thread: LoopThread, zookeeper_version: str) -> None:
    settings = SUPER_DIGEST | {"reconfigEnabled": "true"}
    async with (
        Ensemble(version=zookeeper_version, config=settings) as ensemble,
        Client(ensemble.connect_string, auth=[SUPER], default_timeout=30) as client,
    ):
        assert ClientInfo("super", "") in await client.who_am_i() or ("digest", "super") in await client.who_am_i()
        with pytest.raises(UnimplementedError, match="standalone") as raised:
            await client.reconfig(leaving="1")
        assert type(raised.value) is UnimplementedError
        await client.sync()
        assert client.connections == 1


async def test_reconfig_is_disabled_by_default(zookeeper_version: str) -> None:
    settings = SUPER_DIGEST | {"reconfigEnabled": "false"}
    async with (
        Ensemble(3, version=zookeeper_version, config=settings) as ensemble,
        Client(ensemble.connect_string, auth=[SUPER], default_timeout=30) as client,
    ):
        with pytest.raises(ReconfigDisabledError, match="reconfig '/zookeeper/config'"):
            await client.reconfig(leaving="3")


# --- reconfig -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def members(zookeeper_version: str, loop_thread: LoopThread) -> Iterator[Ensemble]:
    """Three servers that the super user may reconfigure; a test leaves them as it found them."""
    ensemble = Ensemble(3, version=zookeeper_version, config=SUPER_DIGEST)
    loop_thread.run(ensemble.start())
    yield ensemble
    loop_thread.run(ensemble.close())


@pytest.fixture
async def boss(members: Ensemble) -> AsyncIterator[Client]:
    async with asyncio.timeout(60):  # a server that came back, or has another role again, has to get in sync first
        while len(await members.followers()) < 2:
            await asyncio.sleep(0.05)
    async with Client(members.connect_string, auth=[SUPER], default_timeout=30) as boss:
        yield boss


def parsed(config: bytes) -> tuple[dict[str, str], int]:
    """The servers by their names, and the version."""
    lines = dict(line.split("=", 1) for line in config.decode().splitlines())
    return lines, int(lines.pop("version"), 16)


async def a_follower(members: Ensemble) -> str:
    return str((await members.followers())[0].id)


async def test_get_config_lists_the_servers(members: Ensemble, boss: Client) -> None:
    data, stat = await boss.get_config()
    servers, version = parsed(data)
    assert servers.keys() == {"server.1", "server.2", "server.3"}
    assert [servers[f"server.{server.id}"].split(";")[1] for server in members.servers] == [
        server.address for server in members.servers
    ]
    assert (stat.version, stat.mzxid) == (-1, version)


async def test_a_server_leaves_and_comes_back(members: Ensemble, boss: Client) -> None:
    before = await boss.get_config()
    servers, version = parsed(before.data)
    number = await a_follower(members)
    name = f"server.{number}"
    events: asyncio.Queue[WatchEvent] = asyncio.Queue()
    chroot = Client(members.connect_string + "/any/chroot", default_timeout=30)
    async with chroot as watcher:
        await watcher.sync()  # its server may be behind
        data, stat = await watcher.get_config(watch=events.put_nowait)
        assert (data, stat.mzxid) == (before.data, before.stat.mzxid)  # the rest is not the same on every server
        left = await boss.reconfig(leaving=number, from_config=version)
        assert parsed(left.data)[0] == {key: value for key, value in servers.items() if key != name}
        assert left.stat.mzxid == parsed(left.data)[1] > version
        event = await asyncio.wait_for(events.get(), 30)
        assert (event.type, event.path) == (EventType.DATA_CHANGED, CONFIG)
    with pytest.raises(BadVersionError, match="reconfig"):
        await boss.reconfig(joining=f"{name}={servers[name]}", from_config=version)
    back = await boss.reconfig(joining=[f"{name}={servers[name]}"], from_config=left.stat.mzxid)
    assert parsed(back.data)[0] == servers
    assert (await boss.get_config()).stat.mzxid >= back.stat.mzxid
    assert events.empty()


async def test_all_members_anew(members: Ensemble, boss: Client) -> None:
    servers, _ = parsed((await boss.get_config()).data)
    name = f"server.{await a_follower(members)}"
    fewer = {key: value for key, value in servers.items() if key != name}
    for wanted in (fewer, servers):
        new = await boss.reconfig(new_members=[f"{key}={value}" for key, value in wanted.items()])
        assert parsed(new.data)[0] == wanted
        assert parsed((await boss.get_config()).data)[0] == wanted


async def test_reconfig_needs_the_super_user(members: Ensemble, boss: Client) -> None:
    before = await boss.get_config()
    async with Client(members.connect_string, default_timeout=30) as client:
        with pytest.raises(NoAuthError, match="reconfig '/zookeeper/config'"):
            await client.reconfig(leaving=await a_follower(members))
        assert (await client.get_config()).data == before.data


async def test_a_version_that_is_not_the_present_one(boss: Client) -> None:
    with pytest.raises(BadVersionError):
        await boss.reconfig(leaving="3", from_config=7)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"joining": "server.4"}, BadArgumentsError),
        ({"joining": "server.4=nonsense"}, BadArgumentsError),
        ({"leaving": "three"}, MarshallingError),
        ({"new_members": "server.x=?"}, MarshallingError),
    ],
    ids=str,
)
async def test_what_the_servers_can_not_read(boss: Client, change: dict[str, str], error: type[ServerError]) -> None:
    """Numbers that are none are answered like a request that can't be decoded."""
    before = await boss.get_config()
    with pytest.raises(error, match="reconfig"):
        await boss.reconfig(**change)  # type: ignore[arg-type]
    assert await boss.get_config() == before
    assert boss.connections == 1


async def test_new_servers_that_are_not_there_make_no_quorum(boss: Client) -> None:
    before = await boss.get_config()
    absent = [f"server.{n}=127.0.0.1:{n}001:{n}002:participant;127.0.0.1:{n}003" for n in (4, 5, 6, 7)]
    with pytest.raises(NewConfigNoQuorumError):
        await boss.reconfig(joining=absent)
    assert await boss.get_config() == before
