"""`engine/audience.py`: everybody hears of every change, in order."""

from __future__ import annotations

import asyncio
import gc

from everlatch import State, StateChange
from everlatch.engine.audience import Audience
from everlatch.engine.dispatch import Dispatcher


def change(state: State) -> StateChange:
    return StateChange(state, State.CONNECTING, 1, 0, 1, "zk:2181", None)


CONNECTED, SUSPENDED, CLOSED = map(change, (State.CONNECTED, State.SUSPENDED, State.CLOSED))


async def test_a_listener_hears_what_happened_before_there_was_a_loop() -> None:
    audience = Audience()
    heard: list[StateChange] = []
    audience.add_listener(heard.append)
    audience.attach(Dispatcher(asyncio.get_running_loop()))
    audience.tell(CONNECTED)
    audience.tell(SUSPENDED)
    while len(heard) < 2:
        await asyncio.sleep(0)
    assert heard == [CONNECTED, SUSPENDED]


async def test_listeners_are_told_in_the_order_in_which_they_came() -> None:
    audience = Audience()
    audience.attach(Dispatcher(asyncio.get_running_loop()))
    heard: list[int] = []
    for number in range(5):
        audience.add_listener(lambda _, number=number: heard.append(number))  # type: ignore[misc]
    audience.tell(CONNECTED)
    while len(heard) < 5:
        await asyncio.sleep(0)
    assert heard == [0, 1, 2, 3, 4]


async def test_a_removed_listener_hears_no_more_and_may_be_removed_again() -> None:
    audience = Audience()
    audience.attach(Dispatcher(asyncio.get_running_loop()))
    heard: list[StateChange] = []
    remove = audience.add_listener(heard.append)
    other = asyncio.get_running_loop().create_future()
    audience.add_listener(other.set_result)
    remove()
    remove()
    audience.tell(CONNECTED)
    assert await other == CONNECTED
    assert heard == []


async def test_a_subscription_begins_with_the_latest_change_and_ends_with_the_audience() -> None:
    audience = Audience()
    audience.tell(CONNECTED)
    subscription = audience.subscribe()
    audience.tell(SUSPENDED)
    audience.tell(CLOSED)
    audience.end()
    assert [item async for item in subscription] == [CONNECTED, SUSPENDED, CLOSED]
    assert [item async for item in audience.subscribe()] == [CLOSED]


async def test_a_closed_subscription_and_one_that_nobody_holds_are_forgotten() -> None:
    audience = Audience()
    closed, held = audience.subscribe(), audience.subscribe()
    audience.subscribe()
    closed.close()
    gc.collect()
    assert list(audience._subscriptions) == [held]
