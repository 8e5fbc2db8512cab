"""User callbacks, kept away from each other and from the engine."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from types import SimpleNamespace

from everlatch.engine import dispatch
from everlatch.engine.dispatch import Dispatcher, Lane
from skipping_loop import simulated, this_loop


async def turns(number: int = 5) -> None:
    """Lets what is due run, and what that makes due."""
    for _ in range(number):
        await asyncio.sleep(0)


@simulated
async def test_never_runs_a_callback_inside_the_caller():
    seen: list[int] = []
    dispatcher = Dispatcher(this_loop())
    dispatcher.call(seen.append, 1)
    dispatcher.call(seen.append, 2)
    assert seen == []
    await turns()
    assert seen == [1, 2]


@simulated
async def test_what_a_callback_raises_is_logged_and_reaches_nobody(caplog):
    def raising(argument: int) -> None:
        raise ZeroDivisionError(f"told {argument}")

    def cancelled(_: int) -> None:
        raise asyncio.CancelledError

    async def raising_later(argument: int) -> None:
        raise ZeroDivisionError(f"later told {argument}")

    async def cancelled_later(_: int) -> None:
        raise asyncio.CancelledError

    seen: list[int] = []
    dispatcher = Dispatcher(this_loop())
    for callback in (raising, cancelled, raising_later, cancelled_later, seen.append):
        dispatcher.call(callback, 7)
    await turns()
    assert seen == [7]
    assert caplog.text.count(" raised") == 4
    assert "told 7" in caplog.text
    assert "later told 7" in caplog.text


@simulated
async def test_an_asynchronous_callback_holds_up_nobody():
    seen: list[str] = []
    gate = asyncio.Event()

    async def slow(argument: str) -> None:
        await gate.wait()
        seen.append(f"slow {argument}")

    dispatcher = Dispatcher(this_loop())
    dispatcher.call(slow, "a")
    dispatcher.call(seen.append, "b")
    await turns()
    assert seen == ["b"]
    gate.set()
    await turns()
    assert seen == ["b", "slow a"]


@simulated
async def test_one_that_blocks_the_loop_is_reported(caplog, monkeypatch):
    loop = this_loop()
    monkeypatch.setattr(dispatch, "time", SimpleNamespace(monotonic=loop.time))
    dispatcher = Dispatcher(loop)
    dispatcher.call(lambda _: loop.skip(0.05), None)
    await turns()
    assert not caplog.records
    dispatcher.call(lambda _: loop.skip(0.5), None)
    await turns()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "blocked the event loop for 0.5 s" in record.getMessage()


@simulated
async def test_a_lane_is_told_one_thing_at_a_time_and_in_order():
    seen: list[str] = []

    async def listener(argument: int) -> None:
        seen.append(f"{argument} begins")
        await asyncio.sleep(1)
        seen.append(f"{argument} ends")

    lane = Lane(Dispatcher(this_loop()), listener)
    for argument in (1, 2, 3):
        lane.tell(argument)
    await asyncio.sleep(10)
    assert seen == [f"{number} {what}" for number in (1, 2, 3) for what in ("begins", "ends")]


@simulated
async def test_a_lane_goes_on_after_what_its_listener_raises(caplog):
    seen: list[int] = []

    def listener(argument: int) -> None:
        seen.append(argument)
        raise ZeroDivisionError

    async def asynchronous(argument: int) -> None:
        seen.append(-argument)
        raise asyncio.CancelledError

    dispatcher = Dispatcher(this_loop())
    lanes = [Lane(dispatcher, listener), Lane(dispatcher, asynchronous)]
    for argument in (1, 2):
        for lane in lanes:
            lane.tell(argument)
    await turns(10)
    assert sorted(seen) == [-2, -1, 1, 2]
    assert caplog.text.count(" raised") == 4


@simulated
async def test_a_slow_lane_holds_up_no_other():
    seen: list[int] = []
    dispatcher = Dispatcher(this_loop())
    never = this_loop().create_future()
    slow, quick = Lane(dispatcher, lambda _: never), Lane(dispatcher, seen.append)
    for argument in (1, 2):
        slow.tell(argument)
        quick.tell(argument)
    await turns()
    assert seen == [1, 2]
    never.cancel()
    await turns()


@simulated
async def test_a_lane_is_told_nothing_more_once_it_is_removed():
    seen: list[int] = []
    lane = Lane(Dispatcher(this_loop()), seen.append)
    lane.tell(1)
    lane.tell(2)
    lane.remove()
    await turns()
    assert seen == []
    lane.tell(3)
    await turns()
    assert seen == []


@simulated
async def test_a_lane_waits_for_its_loop():
    seen: list[int] = []
    lane: Lane[int] = Lane(None, seen.append)
    await turns()
    lane.attach(Dispatcher(this_loop()))
    lane.tell(1)
    await turns()
    assert seen == [1]


@simulated
async def test_an_asynchronous_callback_outlives_its_dispatcher():
    """Nobody else need hold what it waits for: a task that nobody holds is destroyed while it is pending."""
    begun: list[weakref.ref[asyncio.Future[None]]] = []
    ended: list[int] = []

    async def waiting(argument: int) -> None:
        future = asyncio.get_running_loop().create_future()
        begun.append(weakref.ref(future))
        await future
        ended.append(argument)

    Dispatcher(this_loop()).call(waiting, 7)
    await turns()
    gc.collect()
    future = begun[0]()
    assert future is not None
    future.set_result(None)
    await turns()
    assert ended == [7]
