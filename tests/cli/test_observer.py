"""What the observer makes of the nodes, with a client that has its answers ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from everlatch.cli.events import Event, Kind
from everlatch.cli.observer import LatchNode, Observer
from everlatch.errors import NoNodeError
from everlatch.types import Node, Stat

if TYPE_CHECKING:
    from everlatch.client import Client

STAT = Stat(*[0] * 11)


class ReadyClient:
    """Nodes by name; a name without a node vanishes between the listing and the reading."""

    def __init__(self, nodes: dict[str, Node | None], *, exists: bool = True) -> None:
        self.calls: list[str] = []
        self._nodes = nodes
        self._exists = exists

    async def sync(self, path: str) -> None:
        self.calls.append("sync")

    async def children(self, path: str) -> list[str]:
        self.calls.append("children")
        if not self._exists:
            raise NoNodeError("children", path)
        return list(self._nodes)

    async def get(self, path: str) -> Node:
        node = self._nodes[path.rpartition("/")[2]]
        if node is None:
            raise NoNodeError("get", path)
        return node


def observer(client: ReadyClient) -> Observer:
    return Observer(cast("Client", client), "/latch")


def node(member: str, owner: int, created: int) -> Node:
    return Node(member.encode(), STAT._replace(ephemeral_owner=owner, czxid=created))


def announced(**changes: Any) -> Event:
    return Event("a", Kind.LEADING, 1.5, 7, 9)._replace(**changes)


async def test_the_lowest_number_leads_whatever_the_guid_is() -> None:
    client = ReadyClient({"_c_0-latch-0000000002": node("b", 8, 10), "_c_f-latch-0000000001": node("a", 7, 9)})
    sighting, nodes = await observer(client).look(announced())
    assert nodes == [
        LatchNode("0000000001", "a", 7, 9, "/latch/_c_f-latch-0000000001"),
        LatchNode("0000000002", "b", 8, 10, "/latch/_c_0-latch-0000000002"),
    ]
    assert sighting[:2] == ("a", 1.5)
    assert sighting[4:] == ("a", 7, 9)
    assert sighting.asked <= sighting.answered


async def test_it_asks_for_a_sync_before_it_reads() -> None:
    client = ReadyClient({})
    await observer(client).nodes()
    assert client.calls == ["sync", "children"]


async def test_a_lowest_node_that_vanishes_is_nobodys() -> None:
    client = ReadyClient({"_c_0-latch-0000000001": None, "_c_1-latch-0000000002": node("a", 7, 9)})
    sighting, _ = await observer(client).look(announced())
    assert sighting[4:] == ("", 0, 0)


async def test_without_a_latch_there_is_nobody() -> None:
    sighting, nodes = await observer(ReadyClient({}, exists=False)).look(announced())
    assert nodes == []
    assert sighting.lowest == ""
