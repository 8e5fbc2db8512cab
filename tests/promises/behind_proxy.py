"""A client behind a proxy, and what is done to it there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from everlatch import Client, State
from everlatch.testing import Op
from promises.access import options_for
from real.faults import LONGEST, shut, until

if TYPE_CHECKING:
    from everlatch.testing import Proxy, Request


def through(proxy: Proxy, **options: Any) -> Client:
    """A client whose session survives what a test does to its links."""
    usual = {"session_timeout": 20.0, "default_timeout": LONGEST}
    return Client(proxy.address, **options_for(proxy, **usual | options))


async def cut_off(proxy: Proxy, client: Client) -> None:
    """Leaves a client without a connection until `proxy.accept()`."""
    shut(proxy)
    await until(lambda: client.state is State.SUSPENDED)


def called(proxy: Proxy) -> list[Request]:
    """What clients have called; who they are they say with every connection."""
    return [request for request in proxy.seen() if request.op not in (Op.SASL, Op.AUTH)]


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
