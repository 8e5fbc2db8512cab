"""What the tests of this directory do to a client that follows a path, and how they look at it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from everlatch import ACL, Client, Node, Permission
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch.subscriptions.states import StateSubscription
    from scripted_server import ScriptedServer

LONGEST = 60.0
"""Virtual seconds, mostly."""
WRITER = ("digest", b"writer:secret")
CLOSED = (ACL(Permission.ALL, "auth", ""),)
"""For nodes that only their writer may read, and everything else."""
READS = (Op.GET_DATA, Op.GET_CHILDREN2, Op.EXISTS)
VERSIONS = ("3.5", "3.8", "3.9")


async def after(states: StateSubscription[Any], *, within: float = LONGEST) -> Any:
    """The next state: data, names in their order, or `None`."""
    async with asyncio.timeout(within):
        state = await anext(states)
    if state is None:
        return None
    return state.data if isinstance(state, Node) else sorted(state.names)


async def until(states: StateSubscription[Any], wanted: object) -> None:
    """Passes over states until there is this one."""
    while await after(states) != wanted:
        pass


def is_quiet(states: StateSubscription[Any]) -> bool:
    """Whether there is nothing to be read just now."""
    return not states.queued


def count(server: ScriptedServer, *ops: int) -> int:
    """Requests so far, but for those of operations that nobody asked about."""
    return sum(request.op in ops for request in server.requests)


def cut(server: ScriptedServer) -> None:
    for connection in server.open_connections:
        connection.reset()


def become(server: ScriptedServer, version: str) -> None:
    """The server is replaced by one of another version, and everybody comes back to it."""
    cut(server)
    server.znodes.options = dataclasses.replace(server.znodes.options, version=version)


@contextlib.asynccontextmanager
async def writer_of(server: ScriptedServer) -> AsyncIterator[Client]:
    """Another client, which may read what it has closed."""
    async with server.client(auth=[WRITER]) as client:
        yield client
