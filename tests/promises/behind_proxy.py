"""A client behind a proxy, and what is done to it there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from everlatch import Client, State
from real.faults import LONGEST, shut, until

if TYPE_CHECKING:
    from everlatch.testing import Proxy


def through(proxy: Proxy, **options: Any) -> Client:
    """A client whose session survives what a test does to its links."""
    return Client(proxy.address, **{"session_timeout": 20.0, "default_timeout": LONGEST, **options})


async def cut_off(proxy: Proxy, client: Client) -> None:
    """Leaves a client without a connection until `proxy.accept()`."""
    shut(proxy)
    await until(lambda: client.state is State.SUSPENDED)


async def ends_of(calls: list[Any]) -> list[Any]:
    """Results and errors, in the order of the calls."""
    async with asyncio.timeout(LONGEST):
        return await asyncio.gather(*calls, return_exceptions=True)


async def data_below(witness: Client, root: str) -> list[int]:
    """The numbers that are the data of a node's children, in the order in which these were created."""
    names = sorted(await witness.children(root))
    nodes = await asyncio.gather(*[witness.get(f"{root}/{name}") for name in names])
    # By name among those that one transaction has created.
    return [int(data) for data, _ in sorted(nodes, key=lambda node: node.stat.czxid)]
