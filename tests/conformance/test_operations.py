"""What operations answer when they succeed, byte by byte, and what they do to a node's numbers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from everlatch.types import ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE, ClientInfo, Stat
from everlatch.wire.codes import Op
from everlatch.wire.multi import GetDataPart

if TYPE_CHECKING:
    from conformance.conftest import Subject
    from wire_peer import Peer

NEW = (b"data", OPEN_ACL_UNSAFE, 0)
CALLS: dict[str, tuple[Any, ...]] = {
    "create": ("{}/new", *NEW),
    "create2": ("{}/new", *NEW),
    "create_container": ("{}/new", b"", OPEN_ACL_UNSAFE, 4),
    "create_ttl": ("{}/new", b"", OPEN_ACL_UNSAFE, 5, 1_000_000),
    "delete": ("{}/a", -1),
    "set_data": ("{}/a", b"new", 0),
    "set_acl": ("{}/a", READ_ACL_UNSAFE, 0),
    "multi": (),
    "exists": ("{}/a", False),
    "get_data": ("{}/a", False),
    "get_acl": ("{}/a",),
    "get_children": ("{}", False),
    "get_children2": ("{}/a", False),
    "get_all_children_number": ("{}",),
    "get_ephemerals": ("{}",),
    "multi_read": (GetDataPart("/"),),
    "sync": ("{}/none",),
    "add_watch": ("{}/none", 1),
    "set_watches": (0, [], [], []),
    "set_watches2": (0, [], [], [], ["{}"], []),
    "who_am_i": (),
    "sasl": (b"",),
    "close_session": (),
}


def below(root: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.format(root) if isinstance(each, str) else each for each in arguments)


async def test_answers_have_what_is_known_and_nothing_else(peer: Peer, root: str) -> None:
    """`Peer` looks at every byte."""
    for number, (name, arguments) in enumerate(CALLS.items()):
        path = f"{root}/{number}"
        await peer.do("create", path, *NEW)
        await peer.do("create", f"{path}/a", *NEW)
        await peer.do(name, *below(path, arguments))


@pytest.mark.parametrize("token", [b"", b"token"])
async def test_sasl_that_is_not_configured_has_nothing_to_say_and_no_zxid(peer: Peer, token: bytes) -> None:
    answer = await peer.do("sasl", token)
    assert (answer.zxid, answer.said) == (0, {"token": None})


# --- numbers ------------------------------------------------------------------------------------------------------


async def stat_of(peer: Peer, path: str) -> Stat:
    return (await peer.do("exists", path, False)).stat


async def test_the_numbers_of_a_new_node(peer: Peer, root: str) -> None:
    before = int(time.time() * 1000)
    answer = await peer.do("create2", f"{root}/a", b"12345", OPEN_ACL_UNSAFE, 0)
    stat = answer.stat
    zxid, now = answer.zxid, stat.ctime
    assert before - 1 <= now <= int(time.time() * 1000) + 1
    assert stat == Stat(zxid, zxid, now, now, 0, 0, 0, 0, 5, 0, zxid)
    assert await stat_of(peer, f"{root}/a") == stat


async def test_each_kind_of_change_has_its_own_numbers(peer: Peer, root: str) -> None:
    before = await stat_of(peer, root)
    changed = await peer.do("set_data", root, b"12", -1)
    assert changed.stat == before._replace(
        mzxid=changed.zxid, mtime=changed.stat.mtime, version=before.version + 1, data_length=2
    )
    protected = await peer.do("set_acl", root, OPEN_ACL_UNSAFE, -1)
    assert protected.stat == changed.stat._replace(aversion=changed.stat.aversion + 1)
    created = await peer.do("create", f"{root}/a", *NEW)
    parent = protected.stat._replace(cversion=1, num_children=1, pzxid=created.zxid)
    assert await stat_of(peer, root) == parent
    await peer.do("create", f"{root}/a/b", *NEW)
    await peer.do("set_data", f"{root}/a", b"", -1)
    assert await stat_of(peer, root) == parent
    await peer.do("delete", f"{root}/a/b", -1)
    deleted = await peer.do("delete", f"{root}/a", -1)
    assert await stat_of(peer, root) == parent._replace(cversion=2, num_children=0, pzxid=deleted.zxid)


async def test_writes_use_up_a_zxid_each_even_refused_ones_and_reads_none(
    server: Subject, peer: Peer, root: str
) -> None:
    start = (await peer.do("exists", root, False)).zxid
    reads = [
        await peer.ask(*call)
        for call in (("sync", "/"), ("get_data", root, True), ("add_watch", root, 0), ("get_data", "/none", True))
    ]
    assert {answer.zxid for answer in reads} == {start}
    writes = [
        await peer.ask(*call)
        for call in (
            ("create", f"{root}/a", *NEW),
            ("create", f"{root}/a", *NEW),
            ("delete", f"{root}/none", -1),
            ("set_data", root, b"", 77),
            ("set_acl", root, (), -1),
            ("create", "", *NEW),
            ("multi",),
            ("reconfig", None, "1", None, -1),
        )
    ]
    assert [answer.code for answer in writes] == [0, -110, -101, -103, -114, -8, 0, -123]
    assert [answer.zxid for answer in writes] == list(range(start + 1, start + 9))
    # What can't be read is counted by some.
    peer.send(Op.CREATE, b"\0")
    assert (await peer.next_reply())[1:3] == (start + 8 + server.features.malformed_counted, -5)


async def test_null_data_stays_null(peer: Peer, root: str) -> None:
    await peer.do("create", f"{root}/a", None, OPEN_ACL_UNSAFE, 0)
    await peer.do("set_data", root, None, -1)
    for path in (f"{root}/a", root):
        answer = await peer.do("get_data", path, False)
        assert answer.said["data"] is None
        assert answer.stat.data_length == 0
    await peer.do("set_data", root, b"", -1)
    assert (await peer.do("get_data", root, False)).said["data"] == b""


# --- reads --------------------------------------------------------------------------------------------------------


async def test_children_and_all_that_is_below(peer: Peer, root: str) -> None:
    for path in ("a", "b", "a/c", "a/c/d", "ab"):
        await peer.do("create", f"{root}/{path}", *NEW)
    assert (await peer.do("get_children", root, False)).said == {"names": ["a", "ab", "b"]}
    answer = await peer.do("get_children2", f"{root}/a", False)
    assert answer.said == {"names": ["c"], "stat": await stat_of(peer, f"{root}/a")}
    counts = [(await peer.do("get_all_children_number", f"{root}{path}")).said["number"] for path in ("", "/a", "/b")]
    assert counts == [5, 2, 0]


async def test_ephemerals_are_those_of_the_session_that_begin_with_a_text(peer: Peer, other: Peer, root: str) -> None:
    await other.do("create", f"{root}/b", *NEW)
    mine = [f"{root}/{path}" for path in ("a", "ab", "b/c")]
    for path in mine:
        await peer.do("create", path, b"", OPEN_ACL_UNSAFE, 1)
    await other.do("create", f"{root}/theirs", b"", OPEN_ACL_UNSAFE, 1)
    found = {
        **dict.fromkeys((None, "", "/", root), mine),
        f"{root}/a": mine[:2],
        f"{root}/b/": mine[2:],
        f"{root}/x": [],
        "a": [],
    }
    for prefix, paths in found.items():
        assert (await peer.do("get_ephemerals", prefix)).said == {"paths": paths}


@pytest.mark.parametrize("path", ["/", "", "anything", "/none"])
async def test_sync_only_sends_the_path_back(peer: Peer, path: str) -> None:
    assert (await peer.do("sync", path)).said == {"path": path}


async def test_who_am_i_tells_users_and_no_passwords(peer: Peer) -> None:
    address = ClientInfo("ip", "127.0.0.1")
    assert (await peer.do("who_am_i")).said["identities"] == [address]
    for scheme, credentials in (
        ("digest", b"bob:secret"),
        ("digest", b"nocolon"),
        ("ip", b""),
        ("digest", b"super:pw"),
    ):
        assert await peer.authenticate(scheme, credentials) == 0
    assert (await peer.do("who_am_i")).said["identities"] == sorted(
        [address, ClientInfo("super", ""), *(ClientInfo("digest", user) for user in ("bob", "nocolon", "super"))]
    )


# --- the server's own nodes ---------------------------------------------------------------------------------------


async def test_the_servers_own_nodes(peer: Peer) -> None:
    assert (await peer.do("get_children", "/zookeeper", False)).said["names"] == ["config", "quota"]
    for path, aversion in (("/zookeeper", 0), ("/zookeeper/quota", 0), ("/zookeeper/config", -1)):
        answer = await peer.do("get_data", path, False)
        assert answer.said["data"] == b""
        stat = answer.stat
        assert (stat.czxid, stat.mzxid, stat.ctime, stat.mtime, stat.version, stat.aversion) == (
            0,
            0,
            0,
            0,
            0,
            aversion,
        )
    assert (await stat_of(peer, "/zookeeper")).cversion == -2
    assert (await peer.do("get_acl", "/zookeeper/config")).said["acl"] == list(READ_ACL_UNSAFE)
    assert (await peer.do("get_acl", "/zookeeper/quota")).said["acl"] == list(OPEN_ACL_UNSAFE)
    # Of the root: the node that nobody has created is not counted.
    root = await stat_of(peer, "/")
    created = (root.cversion + root.num_children) // 2
    assert root.cversion == 2 * created - root.num_children


async def test_the_empty_path_is_the_root_for_reads(peer: Peer) -> None:
    root = await peer.do("get_data", "/", False)
    assert (await peer.do("get_data", "", False)).said == root.said
    assert (await peer.do("exists", "", True)).said == {"stat": root.stat}
    assert "zookeeper" in (await peer.do("get_children", "", False)).said["names"]
    assert await peer.refused("set_data", "", b"", -1) == -8


async def test_reconfig_is_disabled(peer: Peer) -> None:
    assert await peer.refused("reconfig", "server.4=a:1:2;3", None, None, -1) == -123


# --- permissions --------------------------------------------------------------------------------------------------

BITS = {"read": 1, "write": 2, "create": 4, "delete": 8, "admin": 16}
NEEDED = {
    "get_data": {"read"},
    "get_children": {"read"},
    "get_children2": {"read"},
    "get_all_children_number": {"read"},
    "get_acl": {"read", "admin"},
    "set_data": {"write"},
    "set_acl": {"admin"},
    "create": {"create"},
    "delete": {"delete"},
}
ACTS: dict[str, tuple[Any, ...]] = {
    "get_data": ("{}", False),
    "get_children": ("{}", False),
    "get_children2": ("{}", False),
    "get_all_children_number": ("{}",),
    "get_acl": ("{}",),
    "set_data": ("{}", b"", -1),
    "set_acl": ("{}", OPEN_ACL_UNSAFE, -1),
    "create": ("{}/new", *NEW),
    "delete": ("{}/child", -1),
}


@pytest.mark.parametrize("permission", BITS)
async def test_what_a_permission_permits(server: Subject, peer: Peer, root: str, permission: str) -> None:
    permitted = set()
    for name, arguments in ACTS.items():
        path = f"{root}/{name}"
        await peer.do("create", path, *NEW)
        # What the child's own ACL says doesn't matter.
        await peer.do("create", f"{path}/child", b"", (ACL(31, "ip", "10.0.0.1"),), 0)
        await peer.do("set_acl", path, (ACL(BITS[permission], "world", "anyone"),), -1)
        code = await peer.refused(name, *below(path, arguments))
        assert code in (0, -102)
        if code == 0:
            permitted.add(name)
    assert permitted == {name for name, needed in NEEDED.items() if permission in needed}
    path = f"{root}/set_data"
    may_know = permission == "read" or not server.features.exists_needs_read
    assert await peer.refused("exists", path, False) == (0 if may_know else -102)
