"""What the leaders have written, each with its token, and what was tried in the name of those who lead no more.

Rules: an entry is a sequential node, so that their numbers are the order in which ZooKeeper applied them. Leaders write
with `LeaderLatch.transaction`. For each leader that has died a late write of its own is tried, as a network may have
held it up: the same check of the same node before the same entry.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, NamedTuple

from everlatch.errors import NoNodeError, StaleLeaderError
from everlatch.paths import join
from everlatch.transaction import Guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.client import Client
    from everlatch.errors import ServerError
    from everlatch.transaction import Transaction

__all__ = ["Entry", "Ledger", "add_entry", "problems", "summary"]


class Entry(NamedTuple):
    """One write."""

    member: str
    token: int


def add_entry(transaction: Transaction, path: str, entry: Entry) -> None:
    """Adds the part that writes it; `path` is the ledger's."""
    transaction.create(join(path, "entry-"), json.dumps(entry).encode(), sequential=True)


class Ledger:
    """The entries below `path`."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path
        self.refused = 0
        """How many stale writes were tried and refused, ours and those of the members."""
        self.accepted: list[Entry] = []
        """Stale writes that were not."""

    async def open(self) -> None:
        """Makes the node that entries are written below."""
        await self._client.ensure_path(self._path)

    async def write_late(self, node: str, entry: Entry) -> bool:
        """Tries what the leader with this node might have had on its way when it died; whether it was refused."""
        transaction = self._client.transaction(Guard(node, lambda error: _refusal(node, entry, error)))
        add_entry(transaction, self._path, entry)
        try:
            await transaction.commit()
        except StaleLeaderError:
            self.refused += 1
            return True
        self.accepted.append(entry)
        return False

    async def read(self) -> list[Entry]:
        """All entries, in the order in which they were written."""
        await self._client.sync(self._path)
        try:
            names = sorted(await self._client.children(self._path))
        except NoNodeError:
            return []
        nodes = await asyncio.gather(*(self._client.get(join(self._path, name)) for name in names))
        return [Entry(*json.loads(node.data)) for node in nodes]


def _refusal(node: str, entry: Entry, error: ServerError) -> StaleLeaderError:
    return StaleLeaderError(node, entry.token, error)


def problems(entries: Sequence[Entry], accepted: Sequence[Entry]) -> list[str]:
    """What is not as it must be, one line each: tokens only rise, and belong to one member each."""
    found = [f"a stale write of {entry.member} (token {entry.token}) was accepted" for entry in accepted]
    owners: dict[int, str] = {}
    highest = Entry("", 0)
    for entry in entries:
        if entry.token < highest.token:
            found.append(
                f"{entry.member} wrote with token {entry.token} behind {highest.member}'s with {highest.token}"
            )
        else:
            highest = entry
        if owners.setdefault(entry.token, entry.member) != entry.member:
            found.append(f"{entry.member} and {owners[entry.token]} both wrote with token {entry.token}")
    return found


def summary(entries: Sequence[Entry], refused: int, accepted: int) -> str:
    """The writes in one line."""
    tokens = len({entry.token for entry in entries})
    rose = all(one.token <= other.token for one, other in itertools.pairwise(entries))
    return (
        f"{len(entries)} fenced writes under {tokens} tokens, which {'only rose' if rose else 'fell'}; "
        f"{refused + accepted} stale ones tried, {refused} refused"
    )
