"""Nodes that go by themselves: containers and TTL nodes. The servers look for them ten times a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from everlatch.types import OPEN_ACL_UNSAFE, EventType

if TYPE_CHECKING:
    from wire_peer import Peer

CONTAINER, TTL, TTL_SEQUENTIAL = 4, 5, 6
DATA = b"", OPEN_ACL_UNSAFE, 0
SHORT_MS, LONG_MS = 500, 1_000_000


async def container(peer: Peer, path: str) -> None:
    answer = await peer.do("create_container", path, b"", OPEN_ACL_UNSAFE, CONTAINER)
    assert answer.stat.ephemeral_owner == 0


async def with_ttl(peer: Peer, path: str, ttl_ms: int) -> None:
    answer = await peer.do("create_ttl", path, b"", OPEN_ACL_UNSAFE, TTL, ttl_ms)
    assert answer.stat.ephemeral_owner == 0


async def used(peer: Peer, path: str) -> None:
    """It has had a child."""
    await peer.do("create", f"{path}/child", *DATA)
    await peer.do("delete", f"{path}/child", -1)


async def gone(peer: Peer, path: str) -> None:
    """Waits until the node is deleted."""
    code = await peer.refused("exists", path, True)
    if code == 0:
        assert await peer.next_event() == (EventType.DELETED, path)
    else:
        assert code == -101
        await peer.do("remove_watches", path, 2)


async def names(peer: Peer, path: str) -> list[str]:
    found: list[str] = (await peer.do("get_children", path, False)).said["names"]
    return found


async def test_a_container_goes_when_its_last_child_has_gone(peer: Peer, root: str) -> None:
    for name in ("never-used", "in-use", "used", "used-later"):
        await container(peer, f"{root}/{name}")
    await peer.do("create", f"{root}/plain", *DATA)
    await used(peer, f"{root}/plain")
    await peer.do("create", f"{root}/in-use/child", *DATA)
    await used(peer, f"{root}/used")
    await gone(peer, f"{root}/used")
    # When this one has gone, the servers have looked at all of them.
    await used(peer, f"{root}/used-later")
    await gone(peer, f"{root}/used-later")
    assert await names(peer, root) == ["in-use", "never-used", "plain"]
    await peer.do("delete", f"{root}/in-use/child", -1)
    await gone(peer, f"{root}/in-use")
    assert await peer.refused("create", f"{root}/in-use/child", *DATA) == -101


async def test_what_goes_is_told_as_a_deletion_with_a_zxid_of_its_own(peer: Peer, other: Peer, root: str) -> None:
    await container(other, f"{root}/c")
    await peer.do("exists", f"{root}/c", True)
    await peer.do("get_children", root, True)
    await used(other, f"{root}/c")
    before = (await other.do("exists", root, False)).zxid
    assert await peer.next_event() == (EventType.DELETED, f"{root}/c")
    assert await peer.next_event() == (EventType.CHILDREN_CHANGED, root)
    stat = (await peer.do("exists", root, False)).stat
    assert stat.pzxid >= before
    assert (stat.cversion, stat.num_children) == (2, 0)


async def test_a_ttl_node_goes_when_nothing_was_written_to_it_for_so_long(peer: Peer, root: str) -> None:
    began = time.monotonic()
    await with_ttl(peer, f"{root}/short", SHORT_MS)
    await with_ttl(peer, f"{root}/long", LONG_MS)
    await with_ttl(peer, f"{root}/parent", SHORT_MS)
    await peer.do("create", f"{root}/parent/child", *DATA)
    await peer.do("create_ttl", f"{root}/n-", b"", OPEN_ACL_UNSAFE, TTL_SEQUENTIAL, SHORT_MS)
    await with_ttl(peer, f"{root}/written", SHORT_MS)
    # Reads and a new ACL are not enough to stay; new data is.
    while {"short", "n-0000000003"} & {*await names(peer, root)}:
        await peer.do("set_data", f"{root}/written", b"", -1)
        await peer.ask("set_acl", f"{root}/short", OPEN_ACL_UNSAFE, -1)
    assert time.monotonic() - began >= SHORT_MS / 1000
    assert await names(peer, root) == ["long", "parent", "written"]
    await gone(peer, f"{root}/written")
    await peer.do("delete", f"{root}/parent/child", -1)
    await gone(peer, f"{root}/parent")
    assert await names(peer, root) == ["long"]
