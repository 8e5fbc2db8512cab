"""setWatches and setWatches2: what is told of what was missed, in which order, and what is armed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from everlatch.types import ACL, OPEN_ACL_UNSAFE, EventType
from everlatch.wire.codes import XID_SET_WATCHES, WatcherType

if TYPE_CHECKING:
    from wire_peer import Peer

CREATED, DELETED, CHANGED = EventType.CREATED, EventType.DELETED, EventType.DATA_CHANGED
CHILDREN = EventType.CHILDREN_CHANGED
DATA = b"", OPEN_ACL_UNSAFE, 0


class Past(NamedTuple):
    """What has happened below a node: `changed` was written to, `parent` got a child, `gone` was deleted."""

    root: str
    zxid: int
    """Before all that, and behind the creation of `changed`, `parent` and `quiet`."""

    def __call__(self, *names: str) -> list[str]:
        return [f"{self.root}/{name}" for name in names]


@pytest.fixture
async def past(other: Peer, root: str) -> Past:
    for name in ("changed", "parent", "quiet", "gone"):
        await other.do("create", f"{root}/{name}", *DATA)
    zxid = (await other.do("exists", root, False)).zxid
    await other.do("set_data", f"{root}/changed", b"", -1)
    await other.do("set_data", f"{root}/changed", b"", -1)
    await other.do("create", f"{root}/parent/child", *DATA)
    await other.do("delete", f"{root}/gone", -1)
    return Past(root, zxid)


async def test_what_was_missed_comes_before_the_answer_and_in_order(peer: Peer, past: Past) -> None:
    names = ("quiet", "gone", "parent", "changed")
    xid = peer.put("set_watches", past.zxid, past(*names), past(*names), past(*names), xid=XID_SET_WATCHES)
    answer = await peer.take("set_watches", xid)
    assert answer.code == 0
    assert peer.heard == [
        # data
        *((DELETED, past.root + "/gone"), (CHANGED, past.root + "/changed")),
        # exist
        *((CREATED, f"{past.root}/{name}") for name in ("quiet", "parent", "changed")),
        # children
        *((DELETED, past.root + "/gone"), (CHILDREN, past.root + "/parent")),
    ]
    assert set(peer.zxids) == {-1}


async def test_what_was_not_missed_is_armed(peer: Peer, other: Peer, past: Past) -> None:
    await peer.do("set_watches", past.zxid, past("quiet", "parent"), past("gone"), past("quiet", "changed"))
    assert peer.heard == []
    for name in ("quiet", "parent", "changed"):
        await other.do("set_data", f"{past.root}/{name}", b"", -1)
        await other.do("create", f"{past.root}/{name}/new", *DATA)
    await other.do("create", f"{past.root}/gone", *DATA)
    assert await peer.events() == [
        *((CHANGED, f"{past.root}/quiet"), (CHILDREN, f"{past.root}/quiet"), (CHANGED, f"{past.root}/parent")),
        *((CHILDREN, f"{past.root}/changed"), (CREATED, f"{past.root}/gone")),
    ]


async def test_what_was_told_is_not_armed(peer: Peer, other: Peer, past: Past) -> None:
    await peer.do("set_watches", past.zxid, past("changed"), past("quiet"), past("parent"))
    assert len(await peer.events()) == 3
    for name in ("changed", "quiet", "parent"):
        await other.do("set_data", f"{past.root}/{name}", b"", -1)
        await other.do("create", f"{past.root}/{name}/new", *DATA)
    assert await peer.events() == []


@pytest.mark.parametrize(("since", "told"), [(0, 1), (1, 1), (2, 0), (3, 0)])
async def test_a_change_counts_if_it_is_newer_than_the_zxid(peer: Peer, past: Past, since: int, told: int) -> None:
    """The second one was at `zxid + 2`."""
    await peer.do("set_watches", past.zxid + since, past("changed"), [], [])
    assert len(await peer.events()) == told


async def test_children_count_by_their_own_zxid(peer: Peer, past: Past) -> None:
    await peer.do("set_watches", past.zxid, past("parent"), [], past("changed"))
    assert await peer.events() == []
    await peer.do("set_watches", past.zxid + 3, [], [], past("parent"))
    assert await peer.events() == []


async def test_persistent_watches_are_armed_and_told_nothing(peer: Peer, other: Peer, past: Past) -> None:
    persistent, recursive = past("changed", "gone"), past("parent")
    await peer.do("set_watches2", 0, [], [], [], persistent, recursive)
    assert await peer.events() == []
    await other.do("create", f"{past.root}/gone", *DATA)
    await other.do("create", f"{past.root}/gone/child", *DATA)
    await other.do("set_data", f"{past.root}/parent/child", b"", -1)
    for _ in range(2):
        await other.do("set_data", f"{past.root}/changed", b"", -1)
    assert await peer.events() == [
        *((CREATED, persistent[1]), (CHILDREN, persistent[1]), (CHANGED, f"{recursive[0]}/child")),
        *[(CHANGED, persistent[0])] * 2,
    ]


async def test_the_same_path_in_all_lists(peer: Peer, past: Past) -> None:
    (path,) = past("quiet")
    await peer.do("set_watches2", past.zxid, [path], [], [path], [path], [path])
    assert await peer.refused("check_watches", path, WatcherType.ANY) == 0
    await peer.do("delete", path, -1)
    assert await peer.events() == [(DELETED, path)]


async def test_what_was_missed_is_told_to_those_who_may_not_read_it(peer: Peer, other: Peer, past: Past) -> None:
    """The filter of events is for changes as they happen."""
    for name in ("changed", "parent"):
        await other.do("set_acl", f"{past.root}/{name}", (ACL(30, "world", "anyone"),), -1)
    await peer.do("set_watches", past.zxid, past("changed"), past("changed"), past("parent"))
    changed, parent = past("changed", "parent")
    assert await peer.events() == [(CHANGED, changed), (CREATED, changed), (CHILDREN, parent)]


async def test_the_answer_has_the_xid_that_was_sent(peer: Peer) -> None:
    for xid in (XID_SET_WATCHES, 17):
        assert (await peer.take("set_watches", peer.put("set_watches", 0, [], [], [], xid=xid))).code == 0


async def test_it_waits_for_its_turn(peer: Peer, root: str) -> None:
    """Reads behind it show what it told."""
    zxid = (await peer.do("exists", root, False)).zxid
    calls = [
        ("set_data", peer.put("set_data", root, b"1", -1)),
        ("set_watches", peer.put("set_watches", zxid, [root], [], [], xid=XID_SET_WATCHES)),
        ("get_data", peer.put("get_data", root, False)),
    ]
    await peer.take(*calls[0])
    assert peer.heard == []
    await peer.take(*calls[1])
    assert peer.heard == [(CHANGED, root)]
    assert (await peer.take(*calls[2])).said["data"] == b"1"


async def test_many_paths_at_once(peer: Peer, other: Peer, root: str) -> None:
    """As many as a client may send in one frame."""
    paths = [f"{root}/{'x' * 500}-{number:04d}" for number in range(250)]
    await peer.do("set_watches2", 0, [], paths, [], paths, [])
    await other.do("create", paths[0], *DATA)
    await other.do("create", paths[-1], *DATA)
    assert await peer.events() == [(CREATED, paths[0]), (CREATED, paths[-1])]
