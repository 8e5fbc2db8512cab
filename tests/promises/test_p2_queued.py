"""P2, queued: a call that finds no connection waits its turn and is then sent, once. It waits no longer than its own
timeout; the queue takes so many calls and bytes and refuses the next at once. A call that is bound to a session ends
with it and is never sent in another.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from everlatch import (
    CallTimeoutError,
    Client,
    NodeExistsError,
    Outcome,
    OutcomeUnknownError,
    QueueFullError,
    SessionExpiredError,
    State,
)
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, drop_after, expire, hold
from skipping_loop import simulated, this_loop

if TYPE_CHECKING:
    from collections.abc import Callable


async def in_state(client: Client, state: State) -> None:
    async with client.states() as changes:
        async for change in changes:
            if change.state is state:
                return
    raise AssertionError(f"{client} never became {state}")


async def cut_off(server: ScriptedServer, client: Client, state: State) -> None:
    """Brings a started client into a state without a connection."""
    server.refusing = True
    if server.open_connections:
        server.connection.reset()
    await in_state(client, state)


@pytest.mark.parametrize("state", [State.CONNECTING, State.SUSPENDED, State.LOST])
@simulated
async def test_calls_wait_in_order_and_are_sent_once(state):
    async with ScriptedServer() as server:
        client = server.client()
        if state is State.CONNECTING:
            server.refusing = True
            await client.start(wait=False)
        else:
            await client.start()
        await cut_off(server, client, state)
        calls = [client.create(f"/{number}") for number in range(100)]
        reads = [client.exists(f"/{number}") for number in range(100)]
        assert client.statistics().queued_calls == 200
        await asyncio.sleep(1)
        assert server.requests == []
        server.refusing = False
        await asyncio.gather(*calls)
        assert None not in await asyncio.gather(*reads)
        assert server.paths(Op.CREATE2) == [f"/{number}" for number in range(100)]
        assert len(server.requests) == 200
        await client.close()


@pytest.mark.parametrize("end", [expire, None])
@simulated
async def test_calls_outlive_the_session_unless_they_are_bound_to_it(end):
    async with ScriptedServer() as server, server.client() as client:
        await cut_off(server, client, State.LOST)
        call = client.create("/a")
        if end is not None:
            server.handshakes.append(end)
        server.refusing = False
        await call
        assert client.generation == (1 if end is None else 2)
        assert server.znodes.applied == [("create", "/a")]


@simulated
async def test_a_call_waits_until_its_own_timeout_and_is_not_sent_later():
    async with ScriptedServer() as server, server.client() as client:
        await cut_off(server, client, State.SUSPENDED)
        began = this_loop().time()
        patient = client.create("/patient")
        hurried = client.create("/hurried", timeout=2)
        with pytest.raises(CallTimeoutError, match=r"never sent") as raised:
            await hurried
        assert this_loop().time() - began == pytest.approx(2, abs=0.01)
        # It was a write, but its outcome is known.
        assert raised.value.outcome is Outcome.NOT_APPLIED
        assert not isinstance(raised.value, OutcomeUnknownError)
        server.refusing = False
        await patient
        await client.sync()
        assert server.znodes.applied == [("create", "/patient")]


@simulated
async def test_a_cancelled_call_is_not_sent_later():
    async with ScriptedServer() as server, server.client() as client:
        await cut_off(server, client, State.SUSPENDED)
        cancelled, kept = client.create("/cancelled"), client.create("/kept")
        cancelled.cancel()
        server.refusing = False
        await kept
        assert server.znodes.applied == [("create", "/kept")]


@simulated
async def test_the_number_of_calls_is_bounded():
    async with ScriptedServer() as server, server.client(max_queued_calls=3) as client:
        await cut_off(server, client, State.SUSPENDED)
        calls = [client.create(f"/{number}") for number in range(3)]
        with pytest.raises(QueueFullError, match=r"create '/more': 3 calls .* the limits are 3 and") as raised:
            client.create("/more")
        assert raised.value.outcome is Outcome.NOT_APPLIED
        with pytest.raises(QueueFullError):
            client.get("/")
        calls.pop().cancel()
        calls.append(client.create("/instead"))
        server.refusing = False
        await asyncio.gather(*calls)
        assert [path for _, path in server.znodes.applied] == ["/0", "/1", "/instead"]
        # There is room again.
        await asyncio.gather(*[client.exists("/") for _ in range(3)])


@simulated
async def test_the_number_of_bytes_is_bounded():
    async with ScriptedServer() as server, server.client(max_queued_bytes=1000) as client:
        await client.create("/a")
        await cut_off(server, client, State.SUSPENDED)
        first = client.set("/a", bytes(600))
        with pytest.raises(QueueFullError):
            client.set("/a", bytes(600))
        second = client.set("/a", bytes(300))
        server.refusing = False
        assert [(await call).data_length for call in (first, second)] == [600, 300]
        assert client.statistics().queued_bytes == 0


@simulated
async def test_what_times_out_makes_room():
    async with ScriptedServer() as server, server.client(max_queued_calls=1) as client:
        await cut_off(server, client, State.SUSPENDED)
        with pytest.raises(CallTimeoutError):
            await client.get("/", timeout=0.1)
        call = client.get("/")
        server.refusing = False
        await call


@simulated
async def test_the_window_of_requests_in_flight_is_bounded():
    async with ScriptedServer() as server, server.client(max_in_flight=4) as client:
        server.next(hold)
        calls = [client.create(f"/{number}") for number in range(10)]
        await server.wait_for_requests(4)
        await asyncio.sleep(1)
        assert len(server.requests) == 4
        assert client.statistics().queued_calls == 6
        server.connection.release()
        await asyncio.gather(*calls)
        assert server.paths(Op.CREATE2) == [f"/{number}" for number in range(10)]


@pytest.mark.parametrize("make", [lambda view: view.create("/a"), lambda view: view.exists("/")])
@simulated
async def test_bound_calls_that_wait_end_with_their_session(make: Callable[..., object]):
    async with ScriptedServer() as server, server.client() as client:
        view = client.in_session()
        await cut_off(server, client, State.SUSPENDED)
        bound, free = make(view), client.create("/free")
        server.handshakes.append(expire)
        server.refusing = False
        with pytest.raises(SessionExpiredError) as raised:
            await bound  # type: ignore[misc]
        assert raised.value.outcome is Outcome.NOT_APPLIED
        await free
        assert client.generation == 2
        assert [request.path for request in server.requests] == ["/free"]


@simulated
async def test_a_bound_read_that_was_in_flight_ends_with_its_session():
    async with ScriptedServer() as server, server.client() as client:
        view = client.in_session()
        server.next(hold)
        read = view.exists("/")
        await server.wait_for_requests(1)
        server.handshakes.append(expire)
        server.connection.reset()
        with pytest.raises(SessionExpiredError):
            await read
        assert len(server.requests) == 1


@simulated
async def test_bound_calls_survive_a_reconnect_of_their_session():
    async with ScriptedServer() as server, server.client() as client:
        view = client.in_session()
        await cut_off(server, client, State.LOST)
        call = view.create("/a", ephemeral=True)
        server.refusing = False
        assert (await call).stat.ephemeral_owner == view.session_id


@simulated
async def test_a_write_that_was_sent_is_not_sent_again():
    async with ScriptedServer() as server, server.client() as client:
        server.next(drop_after)
        lost, waiting = client.create("/a"), client.create("/b")
        with pytest.raises(OutcomeUnknownError):
            await lost
        await asyncio.gather(waiting, return_exceptions=True)
        with pytest.raises(NodeExistsError):
            await client.create("/a")
        assert server.paths(Op.CREATE2).count("/a") == 2
