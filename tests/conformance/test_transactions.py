"""Sequence numbers, multi and multiRead: what is made, what is answered, and what is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from everlatch.types import ACL, OPEN_ACL_UNSAFE
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.multi import (
    CheckPart,
    CreatePart,
    DeletePart,
    GetChildrenPart,
    GetDataPart,
    SetDataPart,
    encode_multi_request,
)

if TYPE_CHECKING:
    from conformance.conftest import Subject
    from everlatch.wire.multi import Part
    from wire_peer import Peer

SEQUENTIAL, EPHEMERAL_SEQUENTIAL = CreateMode.PERSISTENT_SEQUENTIAL, CreateMode.EPHEMERAL_SEQUENTIAL
TTL = 1_000_000
DATA = b"", OPEN_ACL_UNSAFE, 0


def creating(path: str, flags: int = 0, op: Op = Op.CREATE, acls: tuple[ACL, ...] = OPEN_ACL_UNSAFE) -> CreatePart:
    return CreatePart(op, path, b"", acls, flags, TTL if op == Op.CREATE_TTL else None)


async def results_of(peer: Peer, *parts: Part) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = (await peer.do("multi", *parts)).said["results"]
    return results


async def codes_of(peer: Peer, *parts: Part) -> list[int]:
    results = await results_of(peer, *parts)
    assert {result["type"] for result in results} == {"ErrorResult"}
    return [result["code"] for result in results]


# --- sequence numbers ---------------------------------------------------------------------------------------------


async def numbered(peer: Peer, path: str, flags: int = SEQUENTIAL) -> str:
    answer = await peer.do("create", path, b"", OPEN_ACL_UNSAFE, flags)
    made: str = answer.said["path"]
    return made


async def test_numbers_count_all_that_was_ever_created_there(peer: Peer, root: str) -> None:
    assert await numbered(peer, f"{root}/n-") == f"{root}/n-0000000000"
    await peer.do("create", f"{root}/plain", *DATA)
    await peer.do("create_container", f"{root}/container", b"", OPEN_ACL_UNSAFE, CreateMode.CONTAINER)
    assert await numbered(peer, f"{root}/other", EPHEMERAL_SEQUENTIAL) == f"{root}/other0000000003"
    answer = await peer.do("create_ttl", f"{root}/t-", b"", OPEN_ACL_UNSAFE, 6, TTL)
    assert answer.said["path"] == f"{root}/t-0000000004"
    for name in (await peer.do("get_children", root, False)).said["names"]:
        await peer.do("delete", f"{root}/{name}", -1)
    # Deletions and grandchildren don't count.
    assert await numbered(peer, f"{root}/n-") == f"{root}/n-0000000005"
    await peer.do("create", f"{root}/n-0000000005/grandchild", *DATA)
    assert await numbered(peer, f"{root}/n-") == f"{root}/n-0000000006"
    assert (await peer.do("exists", root, False)).stat.cversion == 12


async def test_a_number_alone_is_a_name(peer: Peer, root: str) -> None:
    assert await numbered(peer, f"{root}/") == f"{root}/0000000000"
    assert await numbered(peer, f"{root}/..") == f"{root}/..0000000001"


async def test_what_is_refused_uses_up_no_number(peer: Peer, root: str) -> None:
    await peer.do("create", f"{root}/a", *DATA)
    assert await peer.refused("create", f"{root}/a", *DATA) == -110
    assert await peer.refused("create", f"{root}/n-", b"", (), SEQUENTIAL) == -114
    assert await codes_of(peer, creating(f"{root}/n-", SEQUENTIAL), DeletePart("/none", -1)) == [0, -101]
    assert await numbered(peer, f"{root}/n-") == f"{root}/n-0000000001"
    await peer.do("create", f"{root}/n-0000000003", *DATA)
    assert await peer.refused("create", f"{root}/n-", b"", OPEN_ACL_UNSAFE, SEQUENTIAL) == -110


async def test_numbers_in_one_transaction(peer: Peer, root: str) -> None:
    results = await results_of(
        peer,
        creating(f"{root}/n-", SEQUENTIAL),
        creating(f"{root}/a"),
        creating(f"{root}/n-", SEQUENTIAL),
        DeletePart(f"{root}/n-0000000000", 0),
        creating(f"{root}/n-", EPHEMERAL_SEQUENTIAL),
    )
    assert [result.get("path") for result in results] == [
        *(f"{root}/n-0000000000", f"{root}/a", f"{root}/n-0000000002", None, f"{root}/n-0000000003")
    ]


async def test_a_parent_that_is_made_anew_counts_anew(peer: Peer, root: str) -> None:
    for _ in range(2):
        await peer.do("create", f"{root}/a", *DATA)
        assert await numbered(peer, f"{root}/a/") == f"{root}/a/0000000000"
        await peer.do("delete", f"{root}/a/0000000000", -1)
        await peer.do("delete", f"{root}/a", -1)


# --- multi --------------------------------------------------------------------------------------------------------


async def test_an_empty_one_is_legal_and_counted(peer: Peer) -> None:
    before = (await peer.do("exists", "/", False)).zxid
    answer = await peer.do("multi")
    assert (answer.zxid, answer.said) == (before + 1, {"results": []})
    assert (await peer.do("multi_read")).said == {"results": []}


async def test_each_part_has_its_own_result_and_sees_what_came_before(peer: Peer, root: str) -> None:
    answer = await peer.do(
        "multi",
        creating(f"{root}/a"),
        CheckPart(f"{root}/a", 0),
        SetDataPart(f"{root}/a", b"12", 0),
        CheckPart(f"{root}/a", 1),
        creating(f"{root}/a/b"),
        SetDataPart(root, b"1", -1),
        DeletePart(f"{root}/a/b", 0),
        DeletePart(f"{root}/a", 1),
        creating(f"{root}/a"),
    )
    results = answer.said["results"]
    assert [result["type"] for result in results] == [
        *("CreateResult", "CheckResult", "SetDataResult", "CheckResult", "CreateResult"),
        *("SetDataResult", "DeleteResult", "DeleteResult", "CreateResult"),
    ]
    first, second = results[2]["stat"], results[5]["stat"]
    assert (first.version, first.data_length, first.num_children) == (1, 2, 0)
    assert (second.version, second.num_children, second.cversion) == (1, 1, 1)
    assert first.mzxid == second.mzxid == second.pzxid == answer.zxid
    assert first.mtime == second.mtime
    stat = (await peer.do("exists", f"{root}/a", False)).stat
    assert (stat.version, stat.czxid) == (0, answer.zxid)
    assert (await peer.do("exists", root, False)).stat.cversion == 3


async def test_one_that_is_refused_has_done_nothing_but_is_counted(peer: Peer, root: str) -> None:
    await peer.do("create", f"{root}/a", *DATA)
    before = await peer.do("get_children2", root, False)
    answer = await peer.do(
        "multi",
        SetDataPart(root, b"new", -1),
        DeletePart(f"{root}/a", -1),
        creating(f"{root}/b"),
        CheckPart(f"{root}/a", 0),
        CheckPart("/none", -1),
        creating(f"{root}/b"),
    )
    assert [result["code"] for result in answer.said["results"]] == [0, 0, 0, -101, -2, -2]
    assert answer.zxid == before.zxid + 1
    assert (await peer.do("get_children2", root, False)).said == before.said
    assert (await peer.do("get_data", root, False)).said["data"] == b""


async def test_creates_are_answered_by_what_they_make(server: Subject, peer: Peer, root: str) -> None:
    results = await results_of(
        peer,
        creating(f"{root}/0"),
        creating(f"{root}/1", op=Op.CREATE2),
        creating(f"{root}/2", CreateMode.CONTAINER, Op.CREATE_CONTAINER),
        creating(f"{root}/3", CreateMode.PERSISTENT_WITH_TTL, Op.CREATE_TTL),
        creating(f"{root}/4", CreateMode.EPHEMERAL),
        creating(f"{root}/5", CreateMode.CONTAINER),
        creating(f"{root}/6", CreateMode.CONTAINER, Op.CREATE2),
        creating(f"{root}/7", CreateMode.PERSISTENT, Op.CREATE_CONTAINER),
    )
    assert [result["path"] for result in results] == [f"{root}/{number}" for number in range(8)]
    newer = server.features.operations_in_multi
    assert [result["stat"] is not None for result in results] == [False, newer, True, True, False, True, True, newer]
    for number, result in enumerate(results):
        stat = (await peer.do("exists", f"{root}/{number}", False)).stat
        assert result["stat"] in (None, stat)
        assert stat.ephemeral_owner == (peer.session_id if number == 4 else 0)


async def test_flags_that_do_not_exist(server: Subject, peer: Peer, root: str) -> None:
    for flags in (7, -1, 1 << 20):
        if server.features.flags_checked_first:
            assert await peer.refused("multi", CheckPart("/none", -1), creating(f"{root}/a", flags)) == -5
        else:
            assert await codes_of(peer, CheckPart("/", -1), creating(f"{root}/a", flags)) == [0, -8]
            assert await codes_of(peer, CheckPart("/none", -1), creating(f"{root}/a", flags)) == [-101, -2]


@pytest.mark.parametrize("op", [Op.CREATE, Op.CREATE2, Op.CREATE_CONTAINER])
async def test_flags_of_a_ttl_node_need_its_operation(server: Subject, peer: Peer, root: str, op: Op) -> None:
    part = creating(f"{root}/a", CreateMode.PERSISTENT_WITH_TTL, op)
    assert await peer.refused("multi", part) == -5
    if server.features.flags_checked_first:
        assert await peer.refused("multi", CheckPart("/none", -1), part) == -5
    else:
        assert await codes_of(peer, CheckPart("/none", -1), part) == [-101, -2]


async def test_permissions_are_asked_for_part_by_part(peer: Peer, root: str) -> None:
    only_read = (ACL(1, "world", "anyone"),)
    assert await codes_of(
        peer,
        creating(f"{root}/a", acls=only_read),
        CheckPart(f"{root}/a", 0),
        SetDataPart(f"{root}/a", b"", -1),
    ) == [0, 0, -102]
    assert await codes_of(peer, creating(f"{root}/a", acls=only_read), creating(f"{root}/a/b")) == [0, -102]
    # Deleting is the parent's business.
    await peer.do("multi", creating(f"{root}/a", acls=only_read), DeletePart(f"{root}/a", -1))


async def test_an_ephemeral_node_has_no_children_within_a_transaction_either(peer: Peer, root: str) -> None:
    parts = creating(f"{root}/e", CreateMode.EPHEMERAL), creating(f"{root}/e/child")
    assert await codes_of(peer, *parts) == [0, -108]


# --- multiRead ----------------------------------------------------------------------------------------------------


async def test_reads_at_once_are_each_for_itself_and_set_no_watches(peer: Peer, other: Peer, root: str) -> None:
    await peer.do("create", f"{root}/a", b"data", OPEN_ACL_UNSAFE, 0)
    await peer.do("create", f"{root}/secret", b"", (ACL(30, "world", "anyone"),), 0)
    await peer.do("create", f"{root}/null", None, OPEN_ACL_UNSAFE, 0)
    before = (await peer.do("exists", root, False)).zxid
    answer = await peer.do(
        "multi_read",
        GetDataPart(f"{root}/a"),
        GetChildrenPart(root),
        GetDataPart(f"{root}/none"),
        GetChildrenPart(f"{root}/secret"),
        GetChildrenPart(f"{root}/a"),
    )
    assert answer.zxid == before
    assert answer.said["results"] == [
        {"type": "GetDataResult", "data": b"data", "stat": (await peer.do("exists", f"{root}/a", False)).stat},
        {"type": "GetChildrenResult", "names": ["a", "null", "secret"]},
        {"type": "ErrorResult", "code": -101},
        {"type": "ErrorResult", "code": -102},
        {"type": "GetChildrenResult", "names": []},
    ]
    # The flag for a watch is there, and not looked at.
    body = bytearray(encode_multi_request([GetDataPart(root)]))
    body[-10] = 1
    peer.send(Op.MULTI_READ, bytes(body))
    assert (await peer.next_reply()).code == 0
    await other.do("set_data", root, b"", -1)
    assert await peer.events() == []
