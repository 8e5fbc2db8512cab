"""Every error code that a client can provoke, and which one it is when there are several reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from everlatch.types import ACL, CREATOR_ALL_ACL, OPEN_ACL_UNSAFE
from everlatch.wire.codes import Op
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
from everlatch.wire.records import encode_create_request, encode_get_data_request
from everlatch.wire.watch_records import encode_add_watch_request, encode_remove_watches_request

if TYPE_CHECKING:
    from conformance.conftest import Subject
    from everlatch.wire.multi import Part
    from wire_peer import Peer

EPHEMERAL, SEQUENTIAL, CONTAINER, TTL = 1, 2, 4, 5
DATA = b"", OPEN_ACL_UNSAFE, 0
SECRET = (ACL(31, "digest", "nobody:w5w5w5w5w5w5w5w5w5w5w5w5w5w="),)


@pytest.fixture
async def tree(other: Peer, root: str) -> str:
    """`full/child`, `ephemeral` (of somebody else), `secret`, which nobody may touch, `changed` of version 1."""
    await other.do("create", f"{root}/full", *DATA)
    await other.do("create", f"{root}/full/child", *DATA)
    await other.do("create", f"{root}/ephemeral", b"", OPEN_ACL_UNSAFE, EPHEMERAL)
    await other.do("create", f"{root}/secret", b"", SECRET, 0)
    await other.do("create", f"{root}/changed", *DATA)
    await other.do("set_data", f"{root}/changed", b"", 0)
    await other.do("set_acl", f"{root}/changed", OPEN_ACL_UNSAFE, 0)
    return root


BAD_PATHS = (
    *("", "a", "//", "//a", "{}/", "/zookeeper/", "/zookeeper/..", "/.", "{}/.", "{}/..", "{}/\0", "{}/\x01"),
    *("{}/\x1f", "{}/\x7f", "{}/\x9f", "{}/\ue000", "{}/\uf8ff", "{}/\ufff0", "{}/\uffff"),
)
"""Their parents exist: a missing one would be noticed first."""
BAD_ACLS = (
    *((), (ACL(31, "nosuch", "x"),), (ACL(31, "world", "somebody"),), (ACL(31, "world", ""),)),
    *((ACL(31, "digest", "nocolon"),), (ACL(31, "digest", "a:b:c"),), (ACL(31, "digest", ""),)),
    *((ACL(31, "ip", "localhost"),), (ACL(31, "ip", ""),), (ACL(31, "ip", "1.2.3"),), (ACL(31, "ip", "1.2.3.4.5"),)),
    *((ACL(31, "ip", "127.0.0.1/33"),), (ACL(31, "ip", "127.0.0.1/-1"),), (ACL(31, "ip", "127.0.0.1/x"),)),
    *((ACL(31, "super", ""),), (ACL(31, "sasl", "bob"),), (ACL(31, "x509", "CN=a"),), CREATOR_ALL_ACL),
    *((*OPEN_ACL_UNSAFE, ACL(31, "nosuch", "x")),),
)

Calls: TypeAlias = list[tuple[tuple[Any, ...], int]]
"""Requests, and the code that each of them gets."""

CREATES: Calls = [
    *((("create", path, *DATA), -8) for path in BAD_PATHS),
    *((("create2", "{}/new", b"", OPEN_ACL_UNSAFE, flags), -8) for flags in (TTL, 6, 7, -1, 1 << 30)),
    (("create_container", "{}/new", b"", OPEN_ACL_UNSAFE, 7), -8),
    (("create_container", "{}/new", b"", OPEN_ACL_UNSAFE, TTL), -8),
    *((("create_ttl", "{}/new", b"", OPEN_ACL_UNSAFE, TTL, ttl), -8) for ttl in (0, -1, -5, 1 << 40, 1 << 62)),
    *((("create", "{}/new", b"", acl, 0), -114) for acl in BAD_ACLS),
    (("create", "{}//", *DATA), -101),
    (("create", "{}/none/new", *DATA), -101),
    (("create", "/none/new", *DATA), -101),
    (("create", "{}/full/", b"", OPEN_ACL_UNSAFE, EPHEMERAL), -8),
    (("create", "{}/secret/new", *DATA), -102),
    (("create", "/zookeeper/config/new", *DATA), -102),
    (("create", "{}/full", *DATA), -110),
    (("create", "{}", *DATA), -110),
    (("create", "/", *DATA), -110),
    (("create", "/zookeeper", *DATA), -110),
    (("create", "{}/ephemeral/new", *DATA), -108),
    (("create_container", "{}/ephemeral/new", b"", OPEN_ACL_UNSAFE, CONTAINER), -108),
    (("create", "{}/ephemeral/n-", b"", OPEN_ACL_UNSAFE, SEQUENTIAL), -108),
    # Several reasons: flags and TTL, the way to the parent, the ACL, the parent, its ACL, the path, the node itself.
    (("create", "bad", b"", (), 7), -8),
    (("create_ttl", "bad", b"", (), TTL, 0), -8),
    (("create", "bad", b"", (), 0), -8),
    (("create", "{}/none/new", b"", (), 0), -114),
    (("create", "{}/none/.", *DATA), -101),
    (("create", "{}/secret/.", *DATA), -102),
    (("create", "{}/ephemeral/.", *DATA), -8),
]
WRITES: Calls = [
    *((("delete", path, -1), -8) for path in ("", "a", "\0", "{}/\0", "/", "/zookeeper", "/zookeeper/quota")),
    (("delete", "/zookeeper/config", -1), -8),
    (("delete", "{}/none", -1), -101),
    (("delete", "{}/", -1), -101),
    (("delete", "{}/full", -1), -111),
    (("delete", "{}/changed", 0), -103),
    (("delete", "{}/changed", -2), -103),
    (("delete", "{}/secret/none", -1), -102),
    (("delete", "{}/full", 5), -103),
    *((("set_data", path, b"", -1), -8) for path in BAD_PATHS),
    (("set_data", "{}//", b"", -1), -8),
    (("set_data", "{}/none", b"", -1), -101),
    (("set_data", "{}/secret", b"", 7), -102),
    (("set_data", "/zookeeper/config", b"", -1), -102),
    (("set_data", "{}/changed", b"", 0), -103),
    (("set_data", "{}/changed", b"", 2), -103),
    *((("set_acl", path, OPEN_ACL_UNSAFE, -1), -8) for path in BAD_PATHS),
    *((("set_acl", "{}/full", acl, -1), -114) for acl in BAD_ACLS),
    (("set_acl", "a", (), -1), -8),
    (("set_acl", "{}/none", (), -1), -114),
    (("set_acl", "{}/none", OPEN_ACL_UNSAFE, -1), -101),
    (("set_acl", "{}/secret", OPEN_ACL_UNSAFE, 7), -102),
    (("set_acl", "{}/changed", OPEN_ACL_UNSAFE, 0), -103),
    (("reconfig", "nonsense", None, None, -1), -123),
]
READS: Calls = [
    *(((name, "{}/none", False), -101) for name in ("exists", "get_data", "get_children", "get_children2")),
    *(((name, "{}/", True), -101) for name in ("exists", "get_data", "get_children", "get_children2")),
    *(((name, "{}/secret", True), -102) for name in ("get_data", "get_children", "get_children2")),
    (("exists", "{}/\0", False), -8),
    (("get_data", "{}/\0", False), -101),
    (("get_acl", "{}/none"), -101),
    (("get_acl", "{}/secret"), -102),
    (("get_all_children_number", "{}/none"), -101),
    (("get_all_children_number", "{}/secret"), -102),
    *((("check_watches", "{}", kind), -121) for kind in (1, 2, 3)),
    *((("remove_watches", "{}", kind), -121) for kind in (1, 2, 3)),
    *((("check_watches", "{}", kind), -5) for kind in (0, 6, -1, 100)),
    *((("remove_watches", "{}", kind), -5) for kind in (0, 6, -1, 100)),
    *((("add_watch", "{}", mode), -5) for mode in (-1, 2, 100)),
]


def below(root: str, call: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.format(root) if isinstance(each, str) else each for each in call)


@pytest.mark.parametrize("calls", [CREATES, WRITES, READS], ids=["creates", "writes", "reads"])
async def test_a_refusal_and_nothing_has_changed(peer: Peer, tree: str, calls: Calls) -> None:
    before = (await peer.do("get_children2", tree, False)).said
    codes = [(call, expected, await peer.refused(*below(tree, call))) for call, expected in calls]
    assert [each for each in codes if each[1] != each[2]] == []
    assert (await peer.do("get_children2", tree, False)).said == before


OPS = {"create": Op.CREATE, "create2": Op.CREATE2, "create_container": Op.CREATE_CONTAINER, "create_ttl": Op.CREATE_TTL}


def part_of(call: tuple[Any, ...]) -> Part | None:
    name, *arguments = call
    if name in OPS:
        return CreatePart(OPS[name], *arguments)
    return {"delete": DeletePart, "set_data": SetDataPart}[name](*arguments) if name in ("delete", "set_data") else None


def fits_into_multi(call: tuple[Any, ...]) -> bool:
    """Flags that no create has, or another one, are another matter: see `test_multi`."""
    if call[0] in OPS and call[4] not in ((TTL, 6) if call[0] == "create_ttl" else (0, 1, 2, 3, 4)):
        return False
    return part_of(call) is not None


async def test_a_part_of_a_multi_is_refused_alike(peer: Peer, tree: str) -> None:
    before = (await peer.do("get_children2", tree, False)).said
    calls = [(call, code) for call, code in [*CREATES, *WRITES] if fits_into_multi(call)]
    codes = []
    for call, expected in calls:
        parts = [CheckPart(tree, 0), part_of(below(tree, call)), CheckPart("/none", -1)]
        results = (await peer.do("multi", *parts)).said["results"]
        first, code, last = [result["code"] for result in results]
        assert (first, last) == (0, -2)
        codes.append((call, expected, code))
    assert [each for each in codes if each[1] != each[2]] == []
    assert (await peer.do("get_children2", tree, False)).said == before


async def test_checks_that_fail(peer: Peer, tree: str) -> None:
    paths = {f"{tree}/none": -101, f"{tree}/changed": -103, f"{tree}/secret": -102, "a": -8, "": -8, f"{tree}/": -8}
    codes = {}
    for path in paths:
        (result,) = (await peer.do("multi", CheckPart(path, 0))).said["results"]
        codes[path] = result["code"]
    assert codes == paths


async def test_parts_of_a_multi_read_that_fail(peer: Peer, tree: str) -> None:
    paths = (tree, f"{tree}/none", f"{tree}/secret", "a", tree)
    first, *refused, last = (await peer.do("multi_read", *map(GetDataPart, paths))).said["results"]
    assert [result["code"] for result in refused] == [-101, -102, -101]
    assert first == last
    assert first["data"] == b""


UNREADABLE: dict[str, tuple[int, bytes]] = {
    "a body that ends too early": (Op.GET_DATA, encode_get_data_request("/", False)[:-2]),
    "half a create": (Op.CREATE2, encode_create_request("/never", b"", OPEN_ACL_UNSAFE, 0)[:-3]),
    **{f"nothing for {op.name}": (op, b"") for op in Op if op > 0 and op not in (11, 13, 100, 102, 107)},
    "a null path": (Op.EXISTS, encode_string(None) + b"\0"),
    "a length that is too long": (Op.GET_DATA, b"\0\0\1\0/a\0"),
    "null lists of watches": (Op.SET_WATCHES, encode_long(0) + 3 * encode_int(-1)),
    "an unknown mode": (Op.ADD_WATCH, encode_add_watch_request("/", 9)),
    "an unknown type": (Op.REMOVE_WATCHES, encode_remove_watches_request("/", 9)),
    "a read in a multi": (Op.MULTI, encode_multi_request([CheckPart("/", -1), GetDataPart("/")])),
    "a multi of reads": (Op.MULTI, encode_multi_request([GetDataPart("/")])),
    "a write in a multi-read": (Op.MULTI_READ, encode_multi_request([GetDataPart("/"), DeletePart("/", -1)])),
    "a multi without an end": (Op.MULTI, encode_multi_request([CheckPart("/", -1)])[:-9]),
    "a multi with a part that is none": (Op.MULTI, b"\0\0\0\x09\0\xff\xff\xff\xff\0\0\0\1/"),
}


async def test_what_can_not_be_read_costs_nothing_but_itself(peer: Peer) -> None:
    replies = {}
    for name, request in UNREADABLE.items():
        xid = peer.send(*request)
        reply = await peer.next_reply()
        assert reply.xid == xid
        replies[name] = reply.code, reply.body
    assert replies == dict.fromkeys(UNREADABLE, (-5, b""))


async def test_bytes_behind_a_request_are_ignored(peer: Peer) -> None:
    xid = peer.send(Op.GET_DATA, encode_get_data_request("/", False) + b"more")
    reply = await peer.next_reply()
    assert (reply.xid, reply.code) == (xid, 0)


@pytest.mark.parametrize("kind", [4, 5])
async def test_types_of_persistent_watches(server: Subject, peer: Peer, root: str, kind: int) -> None:
    expected = -121 if server.features.persistent_watcher_types else -5
    assert await peer.refused("check_watches", root, kind) == expected
    assert await peer.refused("remove_watches", root, kind) == expected


async def test_ipv6_in_acls(server: Subject, peer: Peer, root: str) -> None:
    expected = 0 if server.features.ipv6_acls else -114
    for number, address in enumerate(("::1", "::1/128", "fe80::/10")):
        acl = (ACL(31, "ip", address),)
        assert await peer.refused("create", f"{root}/{number}", b"", acl, 0) == expected


async def test_an_error_result_is_all_there_is_of_it(peer: Peer) -> None:
    body = encode_multi_request([DeletePart("/", -1)])
    peer.send(Op.MULTI, body)
    reply = await peer.next_reply()
    assert decode_multi_reply(reply.body, 0, len(reply.body)) == [ErrorResult(-8)]
    assert len(reply.body) == 9 + 4 + 9
