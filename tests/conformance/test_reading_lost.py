"""The permission to read is lost, and given back: what watches hear, and which of them are left.

setACL is no event. What happens to a node meanwhile isn't told to who may not read it, and takes his one-shot watches
all the same; persistent ones stay. setWatches asks for no permission at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from everlatch.types import ACL, OPEN_ACL_UNSAFE, EventType
from everlatch.wire.codes import AddWatchMode, WatcherType

if TYPE_CHECKING:
    from conformance.conftest import Subject
    from wire_peer import Peer

CREATED, DELETED, CHANGED = EventType.CREATED, EventType.DELETED, EventType.DATA_CHANGED
CHILDREN = EventType.CHILDREN_CHANGED
NO_AUTH, NO_NODE = -102, -101
DATA = b"", OPEN_ACL_UNSAFE, 0
UNREADABLE = (ACL(30, "world", "anyone"),)

WATCHES: Final[dict[str, tuple[Any, ...]]] = {
    "exists": ("exists", "a", True),
    "data": ("get_data", "a", True),
    "children": ("get_children2", "a", True),
    "persistent": ("add_watch", "a", AddWatchMode.PERSISTENT),
    "recursive": ("add_watch", "a", AddWatchMode.PERSISTENT_RECURSIVE),
    "above": ("add_watch", "", AddWatchMode.PERSISTENT_RECURSIVE),
}
"""All that can be watched of a node `a`, or of the one above it."""
ONE_SHOT: Final = ("exists", "data", "children")
NODE: Final = ("exists", "data", "persistent", "recursive", "above")
LIST: Final = ("children", "persistent")
BELOW: Final = ("recursive", "above")


async def lose(other: Peer, path: str) -> None:
    await other.do("set_acl", path, UNREADABLE, -1)


async def give_back(other: Peer, path: str) -> None:
    await other.do("set_acl", path, OPEN_ACL_UNSAFE, -1)


async def watched(name: str, peer: Peer, other: Peer, root: str) -> tuple[str, str]:
    """A node with this one of `WATCHES`, and its parent, each for this test alone."""
    above = f"{root}/{name}"
    await other.do("create", above, *DATA)
    await other.do("create", f"{above}/a", *DATA)
    operation, place, how = WATCHES[name]
    await peer.do(operation, f"{above}/{place}".rstrip("/"), how)
    return above, f"{above}/a"


async def has_watch(peer: Peer, path: str) -> bool:
    """Any, of its own."""
    return await peer.refused("check_watches", path, WatcherType.ANY) == 0


async def test_nothing_is_told_of_it_and_every_watch_stays(peer: Peer, other: Peer, root: str) -> None:
    for name in WATCHES:
        _, path = await watched(name, peer, other, root)
        await lose(other, path)
        await give_back(other, path)
        assert await peer.events() == [], name
        await other.do("set_data", path, b"", -1)
        assert await peer.events() == [(CHANGED, path)] * (name in NODE), name
        await other.do("create", f"{path}/b", *DATA)
        expected = [(CHILDREN, path)] * (name in LIST) + [(CREATED, f"{path}/b")] * (name in BELOW)
        assert await peer.events() == expected, name


async def test_a_change_meanwhile_is_not_told_and_costs_one_shot_watches(peer: Peer, other: Peer, root: str) -> None:
    for name in WATCHES:
        above, path = await watched(name, peer, other, root)
        place = above if name == "above" else path
        await lose(other, path)
        assert await has_watch(peer, place), name
        await other.do("set_data", path, b"", -1)
        await other.do("create", f"{path}/secret", b"", UNREADABLE, 0)
        assert await peer.events() == [], name
        assert await has_watch(peer, place) is (name not in ONE_SHOT), name
        await give_back(other, path)
        assert await peer.events() == [], f"{name}: nothing is made up for"
        await other.do("set_data", path, b"", -1)
        assert await peer.events() == [(CHANGED, path)] * (name in NODE and name not in ONE_SHOT), name


async def test_a_deletion_meanwhile_is_not_told_either(peer: Peer, other: Peer, root: str) -> None:
    """Nor is it when the node is made anew. Who waits for the children of the node above hears that."""
    for name in WATCHES:
        above, path = await watched(name, peer, other, root)
        await lose(other, path)
        await other.do("delete", path, -1)
        assert await peer.events() == [], name
        await other.do("create", path, *DATA)
        assert await peer.events() == [(CREATED, path)] * (name not in ONE_SHOT), name
        await peer.do("get_children", above, True)
        await lose(other, path)
        await other.do("delete", path, -1)
        assert await peer.events() == [(CHILDREN, above)], name


async def test_a_creation_that_may_not_be_read_costs_the_watch_on_it(
    server: Subject, peer: Peer, other: Peer, root: str
) -> None:
    path = f"{root}/a"
    assert await peer.refused("exists", path, True) == NO_NODE
    await other.do("create", path, b"", UNREADABLE, 0)
    assert await peer.events() == []
    assert not await has_watch(peer, path)
    assert await peer.refused("exists", path, True) == (NO_AUTH if server.features.exists_needs_read else 0)
    assert await has_watch(peer, path) is not server.features.exists_needs_read


async def test_a_refused_read_leaves_the_watch_of_an_earlier_one(peer: Peer, other: Peer, root: str) -> None:
    await peer.do("get_data", root, True)
    await peer.do("get_children", root, True)
    await lose(other, root)
    assert await peer.refused("get_data", root, True) == NO_AUTH
    assert await peer.refused("get_children", root, True) == NO_AUTH
    await give_back(other, root)
    await other.do("set_data", root, b"", -1)
    await other.do("create", f"{root}/a", *DATA)
    assert await peer.events() == [(CHANGED, root), (CHILDREN, root)]


@pytest.mark.parametrize("mode", AddWatchMode)
async def test_a_persistent_watch_needs_no_permission(peer: Peer, other: Peer, root: str, mode: AddWatchMode) -> None:
    await lose(other, root)
    await peer.do("add_watch", root, mode)
    await other.do("set_data", root, b"", -1)
    assert await peer.events() == []
    await give_back(other, root)
    await other.do("set_data", root, b"", -1)
    assert await peer.events() == [(CHANGED, root)]


async def test_what_may_not_be_read_is_armed_again(peer: Peer, other: Peer, root: str) -> None:
    """And behaves then as if it had been armed before; what was missed is told to those who may not read it."""
    paths = [f"{root}/{name}" for name in ("one-shot", "changed later", "persistent", "recursive", "missed", "gone")]
    one_shot, later, persistent, recursive, missed, gone = paths
    for path in paths:
        await other.do("create", path, *DATA)
    for path in paths:
        await lose(other, path)
    zxid = (await other.do("exists", root, False)).zxid
    await other.do("create", f"{missed}/a", *DATA)
    await other.do("set_data", missed, b"", -1)
    await other.do("delete", gone, -1)
    data = [one_shot, later, missed, gone]
    await peer.do("set_watches2", zxid, data, [], data, [persistent], [recursive])
    expected = [(CHANGED, missed), (DELETED, gone)]
    assert await peer.events() == [*expected, (CHILDREN, missed), (DELETED, gone)]
    await other.do("set_data", later, b"", -1)
    assert await peer.events() == []
    for path in paths[:4]:
        await give_back(other, path)
        await other.do("set_data", path, b"", -1)
    assert await peer.events() == [(CHANGED, one_shot), (CHANGED, persistent), (CHANGED, recursive)]
    await other.do("create", f"{later}/a", *DATA)
    assert await peer.events() == [(CHILDREN, later)], "that kind of watch was not used up"
