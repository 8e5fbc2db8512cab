"""Async iterators over what happens."""

from __future__ import annotations

import asyncio

import pytest

from everlatch import Subscription
from skipping_loop import simulated


@simulated
async def test_yields_in_order_and_ends():
    subscription: Subscription[int] = Subscription()
    for item in (1, 2):
        subscription.put(item)
    subscription.end()
    subscription.put(3)
    assert [item async for item in subscription] == [1, 2]
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


@simulated
async def test_a_wait_ends_with_the_next_item_or_with_the_end():
    subscription: Subscription[int] = Subscription()
    waiting = asyncio.create_task(anext(subscription))
    await asyncio.sleep(0)
    subscription.put(1)
    assert await waiting == 1
    last = asyncio.create_task(anext(subscription, None))
    await asyncio.sleep(0)
    subscription.end()
    assert await last is None


@simulated
async def test_cancelling_a_wait_loses_nothing():
    subscription: Subscription[int] = Subscription()
    for item in range(20):
        waiting = asyncio.create_task(anext(subscription))
        await asyncio.sleep(0)
        # In the same turn, in both orders: the item must be there for the next one who asks.
        if item % 2:
            waiting.cancel()
            subscription.put(item)
        else:
            subscription.put(item)
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await anext(subscription) == item


@simulated
async def test_a_timeout_loses_nothing():
    subscription: Subscription[int] = Subscription()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(subscription), 1)
    subscription.put(1)
    assert await asyncio.wait_for(anext(subscription), 1) == 1


@simulated
async def test_leaving_the_block_closes_it():
    closed: list[Subscription[int]] = []
    subscription: Subscription[int] = Subscription(closed.append)
    async with subscription as items:
        subscription.put(1)
        subscription.put(2)
        async for _ in items:
            break
    assert closed == [subscription]
    subscription.put(3)
    assert [item async for item in subscription] == []
    subscription.close()
    assert closed == [subscription]


@simulated
async def test_is_closed_by_what_is_raised_in_the_block():
    closed: list[Subscription[int]] = []
    with pytest.raises(ZeroDivisionError):
        async with Subscription(closed.append):
            raise ZeroDivisionError
    assert len(closed) == 1


@simulated
async def test_closing_it_ends_a_wait():
    subscription: Subscription[int] = Subscription()
    waiting = asyncio.create_task(anext(subscription, None))
    await asyncio.sleep(0)
    subscription.close()
    assert await waiting is None
