"""The members of one election, as processes, in the order in which they lead; and what the servers tell of them.

Rules of this file: before anything is measured every member is there and waits, which is not asked of the members but
of the servers: each node is there, and each member's session watches the node before its own (`wchp`). All recipes
that are compared do that.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from bench.probe import Probe, probe
from bench.process import MeasurementError
from bench.server import four_letter_word
from bench.trio import SESSION_TIMEOUT_S
from bench.wire_session import WireSession
from everlatch.errors import NoNodeError
from everlatch.wire.codes import Op
from everlatch.wire.records import (
    decode_get_children_reply,
    decode_get_data_reply,
    encode_get_children_request,
    encode_get_data_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["MEMBERS", "Ring", "is_whole", "watches_in"]

MEMBERS = 6
_POLL_S = 0.02
_PATIENCE_S = 60.0
_DIGITS = 10
"""Of a sequential node's number, at the end of its name."""


class Ring:
    """Six members, started with the block; all are dead when it ends. The first leads."""

    def __init__(
        self, contestant: str, addresses: Sequence[str], path: str, command: Callable[[str, str, str], Sequence[str]]
    ) -> None:
        self._contestant = contestant
        self._addresses = addresses
        self._path = path
        self._command = command
        self._members: deque[tuple[int, Probe]] = deque()
        self._processes = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as starting:
            await starting.enter_async_context(self._processes)
            for number in range(MEMBERS):
                await self._add(number)
            starting.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._processes.aclose()

    async def resign(self) -> float:
        """The first resigns, and joins again behind the others; milliseconds until the next one leads."""
        number, leader = self._members.popleft()
        leader.tell("resign")
        (began,) = await leader.expect("resigned")
        delay = await self._until_next_leads(began)
        await self._join(number, leader)
        return delay

    async def crash(self) -> float:
        """The first is killed, and another process takes its place behind the others; milliseconds until the next one
        leads."""
        number, leader = self._members.popleft()
        began = time.monotonic_ns()
        await leader.kill()
        delay = await self._until_next_leads(began)
        await self._add(number)
        return delay

    async def _until_next_leads(self, began: int) -> float:
        (leads,) = await self._members[0][1].expect("leads")
        return (leads - began) / 1e6

    async def _add(self, number: int) -> None:
        name = f"{self._contestant}-{number}"
        command = self._command(self._addresses[number % len(self._addresses)], self._path, name)
        await self._join(number, await self._processes.enter_async_context(probe(f"the member {name}", command)))

    async def _join(self, number: int, member: Probe) -> None:
        member.tell("join")
        self._members.append((number, member))
        if len(self._members) == 1:
            await member.expect("leads")
        await asyncio.to_thread(_wait_whole, self._addresses, self._path, len(self._members))


def _wait_whole(addresses: Sequence[str], path: str, members: int) -> None:
    end = time.monotonic() + _PATIENCE_S
    with WireSession(addresses, SESSION_TIMEOUT_S) as session:
        while not _looks_whole(session, addresses, path, members):
            if time.monotonic() > end:
                raise MeasurementError(f"there are not {members} members at {path} that wait for each other")
            time.sleep(_POLL_S)


def _looks_whole(session: WireSession, addresses: Sequence[str], path: str, members: int) -> bool:
    try:
        owners = _owners(session, path)
    except NoNodeError:  # just gone, or not yet there
        return False
    watches = set[tuple[str, int]]().union(*(watches_in(four_letter_word(address, "wchp")) for address in addresses))
    return len(owners) == members and is_whole(owners, watches)


def _owners(session: WireSession, path: str) -> list[tuple[str, int]]:
    """The nodes in their order, each with the session that it belongs to."""
    reply = session.call(Op.GET_CHILDREN, encode_get_children_request(path, False))
    names = sorted(decode_get_children_reply(reply, 0, len(reply)), key=lambda name: name[-_DIGITS:])
    found = []
    for name in names:
        node = session.call(Op.GET_DATA, encode_get_data_request(f"{path}/{name}", False))
        found.append((f"{path}/{name}", decode_get_data_reply(node, 0, len(node)).stat.ephemeral_owner))
    return found


def is_whole(owners: Sequence[tuple[str, int]], watches: set[tuple[str, int]]) -> bool:
    """Whether each but the first watches the node before its own."""
    return all((before, owner) in watches for (before, _), (_, owner) in itertools.pairwise(owners))


def watches_in(answer: str) -> set[tuple[str, int]]:
    """The paths and sessions in an answer to `wchp`; session ids are signed, as in a stat."""
    found = set()
    path = ""
    for line in answer.splitlines():
        if line.startswith("\t0x"):
            session_id = int(line, 16)
            found.add((path, session_id - (1 << 64) if session_id >> 63 else session_id))
        else:
            path = line
    return found
