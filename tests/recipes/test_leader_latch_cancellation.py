"""Cancelled at whatever moment, a latch leaves no node behind.

The moments are counted twice: in turns of the event loop, which is as fine as it gets, and in frames on the wire, so
that every step of the conversation with the server is met however slow the server is.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from everlatch.recipes import LeaderLatch
from recipes.election import LIMIT, nodes, until_gone

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from everlatch import Client
    from everlatch.testing import Proxy
    from recipes.conftest import Connect

pytestmark = pytest.mark.real

TURNS = range(61)
FRAMES = range(1, 21)


async def cancelled_at_turn(turn: int, steps: Coroutine[Any, Any, object]) -> bool:
    """Runs `steps` for so many loop turns, then cancels; whether that came before its end."""
    task = asyncio.ensure_future(steps)
    for _ in range(turn):
        await asyncio.sleep(0)
    return await _cancelled(task)


async def cancelled_at_frame(proxy: Proxy, count: int, steps: Coroutine[Any, Any, object]) -> bool:
    """Runs `steps` and cancels when so many frames have come to the proxy; whether that came before its end."""
    task = asyncio.ensure_future(steps)
    left = count

    def frame_passes(_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            task.cancel()

    proxy.on_frame = frame_passes
    async with asyncio.timeout(LIMIT):
        await asyncio.wait({task})
    return await _cancelled(task)


async def _cancelled(task: asyncio.Future[object]) -> bool:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(task, LIMIT)
    return task.cancelled()


async def lead(client: Client, path: str) -> None:
    async with LeaderLatch(client, path) as latch:
        await latch.wait()


async def test_taking_part_cancelled_at_any_turn(client: Client, path: str) -> None:
    """`async with` and `wait`: when the block has been left, there is no node."""
    for turn in TURNS:
        await cancelled_at_turn(turn, lead(client, path))
        assert await nodes(client, path) == [], f"cancelled at turn {turn}"


async def test_taking_part_cancelled_at_any_frame(connect: Connect, proxy: Proxy, path: str) -> None:
    """The same at every step of the conversation, the creation of the path included."""
    member = await connect(proxy)
    cancelled = []
    for count in FRAMES:
        below = f"{path}/{count}"
        cancelled.append(await cancelled_at_frame(proxy, count, lead(member, below)))
        assert await nodes(member, below) == [], f"cancelled at frame {count}"
    assert cancelled.count(True) >= 10  # so many frames does it take at least to lead


async def test_taking_part_cancelled_twice(connect: Connect, proxy: Proxy, path: str) -> None:
    """The second cancellation meets the closing that the first one has begun: the deletion goes on behind."""
    member = await connect(proxy)
    for count in FRAMES:
        below = f"{path}/{count}"

        async def twice(below: str = below) -> None:
            inner = asyncio.ensure_future(lead(member, below))
            try:
                await asyncio.shield(inner)
            finally:
                inner.cancel()
                await asyncio.sleep(0)
                inner.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await inner

        await cancelled_at_frame(proxy, count, twice())
        await until_gone(member, below)


@pytest.mark.parametrize("wire", [False, True], ids=["turns", "frames"])
async def test_closing_cancelled_at_any_moment(
    connect: Connect, client: Client, proxy: Proxy, path: str, wire: bool
) -> None:
    """The node goes all the same, and leadership with the first step."""
    member = await connect(proxy)
    for moment in range(1, 7) if wire else TURNS:
        latch = LeaderLatch(member, path)
        await latch.start()
        await latch.wait(timeout=LIMIT)
        if wire:
            await cancelled_at_frame(proxy, moment, latch.close(timeout=None))
        else:
            cancelled = await cancelled_at_turn(moment, latch.close(timeout=None))
            assert not cancelled or moment == 0 or not latch.is_leader
        await latch.close(timeout=LIMIT)  # a cancellation before the first step has closed nothing
        await until_gone(client, path)


async def test_waiting_cancelled_at_any_turn(client: Client, path: str) -> None:
    """Cancelling `wait` ends only the waiting: the latch goes on, and can be waited for again."""
    for turn in TURNS:
        async with LeaderLatch(client, path) as latch:
            await cancelled_at_turn(turn, latch.wait())
            await cancelled_at_turn(turn, latch.wait_lost())
            assert await latch.wait(timeout=LIMIT) == latch.token
        assert await nodes(client, path) == []
    assert client.statistics().in_flight == client.statistics().queued_calls == 0
