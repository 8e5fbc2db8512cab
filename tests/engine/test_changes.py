"""`engine/changes.py`: who waits for a change, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from everlatch import CallTimeoutError
from everlatch.engine.changes import Changes, within
from skipping_loop import simulated, this_loop


@simulated
async def test_all_hear_of_the_next_change_in_the_order_in_which_they_came():
    changes, heard = Changes(), []

    async def wait(number: int) -> None:
        await changes.next()
        heard.append(number)

    waiting = [asyncio.create_task(wait(number)) for number in range(3)]
    await asyncio.sleep(1.0)
    assert heard == []
    changes.notify()
    changes.notify()
    await asyncio.gather(*waiting)
    assert heard == [0, 1, 2]
    assert len(changes) == 0


@simulated
async def test_who_goes_away_leaves_nothing():
    changes = Changes()
    waiting = asyncio.create_task(changes.next())
    await asyncio.sleep(0)
    assert len(changes) == 1
    waiting.cancel()
    await asyncio.wait([waiting])
    assert len(changes) == 0


@simulated
async def test_a_block_that_takes_too_long():
    started = this_loop().time()
    with pytest.raises(CallTimeoutError, match=r"wait for '/a' timed out after 2 s") as caught:
        async with within(2.0, "wait for", "/a"):
            await Changes().next()
    assert this_loop().time() - started == pytest.approx(2.0)
    assert caught.value.sent is None


@simulated
@pytest.mark.parametrize("seconds", [None, 2.0])
async def test_what_is_raised_within_stays_what_it_is(seconds: float | None):
    for error in (TimeoutError("mine"), CallTimeoutError("get", "/b", 1.0, sent=True), ZeroDivisionError()):
        with pytest.raises(type(error)) as caught:
            async with within(seconds, "wait for", "/a"):
                raise error
        assert caught.value is error
