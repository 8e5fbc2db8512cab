"""What a client that takes no part sees in the nodes of the election.

Rule: it asks for a `sync` first, so that a server which lags behind the others can't show it an election of the past.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from everlatch.cli.election import Sighting
from everlatch.errors import NoNodeError
from everlatch.paths import join

if TYPE_CHECKING:
    from everlatch.cli.events import Event
    from everlatch.client import Client

__all__ = ["LatchNode", "Observer"]

_DIGITS = 10


class LatchNode(NamedTuple):
    """A member's node. One that vanished while it was read has neither member nor owner."""

    number: str
    """The ten digits that the server gave it: the lowest leads."""
    member: str = ""
    owner: int = 0
    created: int = 0
    path: str = ""


class Observer:
    """Reads the election at `path`."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path

    async def nodes(self) -> list[LatchNode]:
        """The members' nodes, the lowest first."""
        try:
            await self._client.sync(self._path)
            names = await self._client.children(self._path)
        except NoNodeError:
            return []
        return await asyncio.gather(*(self._node(name) for name in sorted(names, key=_number)))

    async def look(self, announced: Event) -> tuple[Sighting, list[LatchNode]]:
        """Checks a leadership that was just announced."""
        asked = time.monotonic()
        nodes = await self.nodes()
        answered = time.monotonic()
        lowest = nodes[0] if nodes else LatchNode("")
        sighting = Sighting(
            announced.member, announced.at, asked, answered, lowest.member, lowest.owner, lowest.created
        )
        return sighting, nodes

    async def _node(self, name: str) -> LatchNode:
        path = join(self._path, name)
        try:
            data, stat = await self._client.get(path)
        except NoNodeError:
            return LatchNode(_number(name))
        return LatchNode(_number(name), data.decode("utf-8", "replace"), stat.ephemeral_owner, stat.czxid, path)


def _number(name: str) -> str:
    return name[-_DIGITS:]
