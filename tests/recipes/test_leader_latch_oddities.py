"""What shouldn't happen under a latch's path, and does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from everlatch import ACL, CallTimeoutError, InvalidTypeError, NotLeaderError, Permission
from everlatch.recipes import LeaderLatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from everlatch import Client

pytestmark = pytest.mark.real


async def test_nobody_leads_with_a_number_that_has_overflowed(
    client: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newer members come before older ones there, so that being first says nothing."""
    latch = LeaderLatch(client, path)
    create = latch._create

    async def create_overflowed(session: object) -> None:
        await create(session)  # type: ignore[arg-type]
        negative = latch._node.rpartition("latch-")[0] + "latch--2147483648"
        await client.create(negative, ephemeral=True)
        await client.delete(latch._node)
        latch._node = negative

    monkeypatch.setattr(latch, "_create", create_overflowed)
    async with latch:
        with pytest.raises(NotLeaderError, match="overflowed"):
            await latch.wait(10)
        assert not latch.is_leader


async def test_a_predecessor_that_nobody_may_read_is_waited_for_all_the_same(
    client: Client, connect: Callable[[], Awaitable[Client]], path: str
) -> None:
    """Its creator keeps it to itself; the next one watches the membership then."""
    await client.ensure_path(path)
    ahead = f"{path}/_c_5e2c8f5f-6a55-4f1e-8d0e-000000000000-latch-"
    hidden = await client.create(
        ahead, ephemeral=True, sequential=True, acl=[ACL(Permission.ALL, "digest", "nobody:x")]
    )
    other = await connect()
    async with LeaderLatch(other, path, "behind") as latch:
        async with asyncio.timeout(10):
            while other.statistics().watches < 2:  # its own node's, and the membership's
                await asyncio.sleep(0)
        assert not latch.is_leader
        await client.delete(hidden.path)
        await latch.wait(10)


async def test_a_bug_in_the_campaign_is_told_and_survived(
    client: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiters hear of it, and the member takes part again."""
    latch = LeaderLatch(client, path)
    look = latch._look
    monkeypatch.setattr("everlatch.recipes.leader_latch._RETRY_DELAY", 0.01)

    async def broken(_: object) -> bool:
        monkeypatch.setattr(latch, "_look", look)
        raise ZeroDivisionError

    monkeypatch.setattr(latch, "_look", broken)
    async with latch:
        with pytest.raises(ZeroDivisionError):
            await latch.wait(10)
        while not latch.is_leader:
            await asyncio.sleep(0)


async def test_the_second_close_waits_for_the_deletion_as_well(client: Client, path: str) -> None:
    latch = LeaderLatch(client, path)
    await latch.start()
    await latch.wait(10)
    first = asyncio.create_task(latch.close())
    while not latch._closed:
        await asyncio.sleep(0)
    await latch.close()
    assert await client.children(path) == []
    await first


async def test_waiting_for_the_end_of_a_term_ends_with_the_term(client: Client, path: str) -> None:
    """Also when the next term has begun before anybody waited."""
    async with LeaderLatch(client, path) as latch:
        first = await latch.wait(10)
        await client.delete(latch.node)
        await latch.wait_lost(first, timeout=10)
        second = await latch.wait(10)
        assert second > first
        await latch.wait_lost(first, timeout=10)
        with pytest.raises(CallTimeoutError):
            await latch.wait_lost(second, timeout=0.05)


async def test_a_latch_takes_part_for_a_client_only(client: Client, path: str) -> None:
    with pytest.raises(InvalidTypeError):
        LeaderLatch(client.in_session(), path)  # type: ignore[arg-type]
