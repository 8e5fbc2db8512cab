"""The wrong moments and the wrong arguments: what is refused, and how it is said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import Client
from everlatch.errors import (
    ClientClosedError,
    ClientStateError,
    InvalidArgumentError,
    InvalidPathError,
    InvalidTypeError,
    NotStartedError,
)
from everlatch.recipes import LeaderLatch
from recipes.election import LIMIT, Heard, nodes, started

if TYPE_CHECKING:
    from recipes.conftest import Connect

real = pytest.mark.real


# -- without a server --------------------------------------------------------------------------------------------------


@pytest.fixture
def idle() -> Client:
    """A client that is never started."""
    return Client("127.0.0.1:1")


@pytest.mark.parametrize("path", ["", "relative", "/a/", "/a//b", "/a/../b"])
def test_bad_paths(idle: Client, path: str) -> None:
    """Refused by the constructor, before anything is sent."""
    with pytest.raises(InvalidPathError):
        LeaderLatch(idle, path)


@pytest.mark.parametrize("participant_id", [b"bytes", None, 7])
def test_participant_ids_are_text(idle: Client, participant_id: Any) -> None:
    """Refused by the constructor, and the message says what is wrong."""
    with pytest.raises(InvalidTypeError, match="participant id"):
        LeaderLatch(idle, "/p", participant_id)


def test_participant_ids_can_be_encoded(idle: Client) -> None:
    """A lone surrogate is refused by the constructor, not by a background task that nobody hears of."""
    with pytest.raises(InvalidArgumentError, match="UTF-8"):
        LeaderLatch(idle, "/p", "\ud800")


async def test_nothing_works_before_the_start(idle: Client) -> None:
    """What can't work yet says so; what can be answered is answered."""
    latch = LeaderLatch(idle, "/p", "me")
    assert not latch.is_leader
    assert latch.node == ""
    assert latch.participant_id == "me"
    with pytest.raises(ClientStateError, match="not started"):
        await latch.wait()
    await latch.wait_lost()
    with pytest.raises(NotStartedError):
        latch.add_listener(print)
    assert repr(latch) == "<LeaderLatch /p 'me' not started, node none>"


async def test_closing_without_a_start(idle: Client) -> None:
    """Closing what was not started is fine, and final."""
    latch = LeaderLatch(idle, "/p")
    await latch.close()
    await latch.close()
    with pytest.raises(ClientStateError):
        await latch.start()
    with pytest.raises(ClientStateError, match="closed"):
        await latch.wait()
    assert repr(latch) == "<LeaderLatch /p '' closed, node none>"


async def test_on_a_closed_client(idle: Client) -> None:
    """The latch says that its client is closed, and closes at once."""
    await idle.close()
    latch = LeaderLatch(idle, "/p")
    await latch.start()
    with pytest.raises(ClientClosedError):
        await latch.wait(timeout=LIMIT)
    await asyncio.wait_for(latch.close(timeout=None), LIMIT)


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), "1"])
async def test_bad_timeouts_change_nothing(idle: Client, timeout: Any) -> None:
    """A bad timeout is refused before the call has begun: `close` has closed nothing."""
    latch = LeaderLatch(idle, "/p")
    with pytest.raises(InvalidArgumentError):
        await latch.wait(timeout=timeout)
    with pytest.raises(InvalidArgumentError):
        await latch.close(timeout=timeout)
    assert "not started" in repr(latch)


# -- with a server -----------------------------------------------------------------------------------------------------


@real
async def test_start_is_for_once(client: Client, path: str) -> None:
    """A second start is refused, makes no second node, and is refused after the end as well."""
    async with LeaderLatch(client, path) as latch:
        with pytest.raises(ClientStateError, match="started before"):
            await latch.start()
        await latch.wait(timeout=LIMIT)
        assert len(await nodes(client, path)) == 1
    with pytest.raises(ClientStateError):
        await latch.start()


@real
async def test_close_can_be_repeated(client: Client, path: str) -> None:
    """The second close does nothing, and the latch has no node any more."""
    latch = LeaderLatch(client, path)
    await latch.start()
    await latch.wait(timeout=LIMIT)
    await latch.close()
    await latch.close()
    assert await nodes(client, path) == []
    assert latch.node == ""


@real
async def test_closed_at_once(client: Client, path: str) -> None:
    """Before its task has run a single step."""
    latch = LeaderLatch(client, path)
    await latch.start()
    await latch.close(timeout=LIMIT)
    assert await nodes(client, path) == []


@real
async def test_wait_times_out_and_can_be_repeated(client: Client, connect: Connect, path: str) -> None:
    """A timeout ends one wait, not the taking part; a leader's wait returns at once."""
    async with LeaderLatch(client, path) as leader:
        await leader.wait(timeout=LIMIT)
        latch = await started(await connect(), path)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await latch.wait(timeout=0.02)
        await leader.close()
        assert await latch.wait(timeout=LIMIT) == latch.token == await latch.wait(timeout=0)
        await latch.close()


@real
async def test_close_ends_the_waits(client: Client, connect: Connect, path: str) -> None:
    """Whoever waits for leadership learns that it will not come, whoever waits for its end that it has."""
    async with LeaderLatch(client, path) as leader:
        await leader.wait(timeout=LIMIT)
        latch = await started(await connect(), path)
        waiting = asyncio.ensure_future(latch.wait())
        lost = asyncio.ensure_future(leader.wait_lost())
        await client.sync("/")
        assert not waiting.done()
        assert not lost.done()
        await latch.close()
        with pytest.raises(ClientStateError, match="closed"):
            await asyncio.wait_for(waiting, LIMIT)
        await leader.close()
        await asyncio.wait_for(lost, LIMIT)


@real
async def test_leadership_is_given_up_before_the_node(client: Client, path: str) -> None:
    """In the very step in which `close` is called, while the node is still there; listeners hear of it."""
    latch = LeaderLatch(client, path)
    heard = Heard()
    latch.add_listener(heard)
    await latch.start()
    await latch.wait(timeout=LIMIT)
    closing = asyncio.ensure_future(latch.close())
    await asyncio.sleep(0)
    assert not latch.is_leader
    assert latch.node
    await closing
    await heard.until(True, False)
    await latch.wait_lost()


@real
async def test_closing_in_a_listener(client: Client, path: str) -> None:
    """A leader may resign as soon as it hears of its leadership."""
    latch = LeaderLatch(client, path)
    closed = asyncio.Event()

    async def resign(leads: bool) -> None:
        if leads:
            await latch.close()
            closed.set()

    latch.add_listener(resign)
    await latch.start()
    await asyncio.wait_for(closed.wait(), LIMIT)
    assert await nodes(client, path) == []


@real
async def test_the_repr_says_what_it_does(client: Client, connect: Connect, path: str) -> None:
    """Path, id, part and node, for logs and debuggers."""
    async with LeaderLatch(client, path, "a") as first:
        await first.wait(timeout=LIMIT)
        second = await started(await connect(), path, "b")
        assert repr(first) == f"<LeaderLatch {path} 'a' leads, node {first.node}>"
        assert repr(second) == f"<LeaderLatch {path} 'b' waits, node {second.node}>"
        await second.close()
