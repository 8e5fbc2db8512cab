"""P9, isolated: a callback of the application may raise, be cancelled, or be slow and asynchronous, and nobody else is
the worse for it. One that blocks the event loop is reported, and a healthy link survives it.
"""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import Client, State, StateChange, WatchEvent
from everlatch.engine import dispatch
from scripted_server import ScriptedServer
from skipping_loop import on_every_loop, simulated, this_loop

if TYPE_CHECKING:
    from collections.abc import Callable


def raising(_: object) -> None:
    raise ZeroDivisionError("a bug of the application")


def cancelled(_: object) -> None:
    raise asyncio.CancelledError


async def raising_later(_: object) -> None:
    raise ZeroDivisionError("a bug of the application")


async def cancelled_later(_: object) -> None:
    raise asyncio.CancelledError


async def never_ending(_: object) -> None:
    await asyncio.get_running_loop().create_future()


BAD: list[Callable[[Any], object]] = [raising, cancelled, raising_later, cancelled_later, never_ending]


@pytest.mark.parametrize("bad", BAD)
@on_every_loop
async def test_a_watch_harms_nobody(bad, caplog):
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a")
        events: list[WatchEvent] = []
        await client.get("/a", watch=bad)
        await client.get("/a", watch=events.append)
        await client.set("/a", b"1")
        await client.exists("/a", watch=events.append)
        await client.set("/a", b"2")
        await client.sync()
        assert len(events) == 2
        assert client.statistics().connections == 1
        assert ("raised" in caplog.text) == (bad is not never_ending)
        caplog.clear()


@pytest.mark.parametrize("bad", BAD)
@on_every_loop
async def test_a_listener_harms_nobody(bad, caplog):
    async with ScriptedServer() as server:
        client = server.client()
        client.add_listener(bad)
        heard: list[State] = []
        client.add_listener(lambda change: heard.append(change.state))
        client.add_listener(bad)
        async with client:
            server.connection.reset()
            await client.sync()
        await asyncio.sleep(0)
        assert heard == [State.CONNECTED, State.SUSPENDED, State.CONNECTED, State.CLOSED]
        assert ("raised" in caplog.text) == (bad is not never_ending)
        caplog.clear()


@simulated
async def test_a_slow_asynchronous_callback_delays_no_call():
    async with ScriptedServer() as server, server.client() as client:
        ended: list[WatchEvent] = []

        async def slow(event: WatchEvent) -> None:
            await asyncio.sleep(5)
            ended.append(event)

        await client.exists("/a", watch=slow)
        began = this_loop().time()
        await client.create("/a")
        for _ in range(10):
            await client.exists("/a")
        assert this_loop().time() - began < 1
        assert ended == []
        await asyncio.sleep(6)
        assert len(ended) == 1


@simulated
async def test_a_slow_listener_is_told_everything_in_order():
    async with ScriptedServer() as server:
        client = server.client()
        told: list[StateChange] = []

        async def slow(change: StateChange) -> None:
            await asyncio.sleep(3)
            told.append(change)

        client.add_listener(slow)
        async with client:
            for _ in range(3):
                server.connection.reset()
                await client.sync()
        await asyncio.sleep(30)
        assert [change.state.name for change in told] == ["CONNECTED"] + ["SUSPENDED", "CONNECTED"] * 3 + ["CLOSED"]


@simulated
async def test_callbacks_may_use_the_client():
    async with ScriptedServer() as server, server.client() as client:
        values: list[bytes] = []

        async def follow(event: WatchEvent) -> None:
            values.append((await client.get(event.path, watch=follow)).data)

        await client.create("/a")
        await client.get("/a", watch=follow)
        for number in range(3):
            await client.set("/a", b"%d" % number)
            await client.sync()
            await client.sync()
        assert values == [b"0", b"1", b"2"]


@pytest.mark.parametrize("asynchronous", [False, True])
@simulated
async def test_a_listener_may_close_the_client(asynchronous):
    async with ScriptedServer() as server:
        client = server.client()
        closing: list[asyncio.Task[None]] = []

        def close(change: StateChange) -> object:
            if change.state is not State.SUSPENDED:
                return None
            if asynchronous:
                return client.close()
            closing.append(asyncio.ensure_future(client.close()))
            return None

        client.add_listener(close)
        await client.start()
        server.connection.reset()
        async with client.states() as states:
            async for change in states:
                if change.state is State.CLOSED:
                    break
        await asyncio.gather(*closing)
        assert client.state is State.CLOSED


def block(seconds: float) -> Callable[[object], None]:
    return lambda _: this_loop().skip(seconds)


@pytest.mark.parametrize("seconds", [1.0, 2.5, 4.0])
@simulated
async def test_a_blocked_loop_is_reported_and_the_link_survives(seconds, caplog, monkeypatch):
    """The silence budget is 2 s here, the pings are 1 s apart."""
    monkeypatch.setattr(dispatch, "time", SimpleNamespace(monotonic=this_loop().time))
    async with ScriptedServer(session_timeout_ms=6000) as server, server.client() as client:
        changes: list[StateChange] = []
        client.add_listener(changes.append)
        for _ in range(3):
            await client.exists("/a", watch=block(seconds))
            await client.create("/a")
            pings = len(server.pings)
            await server.until(lambda pings=pings: len(server.pings) >= pings + 2)
            await client.delete("/a")
        assert changes == []
        assert client.statistics().connections == 1
        reports = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert (
            sum("callback" in report and f"blocked the event loop for {seconds:g} s" in report for report in reports)
            == 3
        )


@simulated
async def test_a_loop_that_is_blocked_while_an_answer_is_on_its_way():
    """The request is sent, the answer waits in the socket, and the loop stands still for longer than the budget."""
    async with ScriptedServer(session_timeout_ms=6000) as server, server.client() as client:
        for seconds in (2.5, 5.0):
            call = client.exists("/")
            this_loop().skip(seconds)
            assert await call is not None
        assert client.statistics().connections == 1


async def connections_after_silence(client: Client, server: ScriptedServer) -> int:
    server.connection.silent = True
    await server.wait_for_connections(2)
    await client.sync()
    return client.statistics().connections


@simulated
async def test_a_link_that_is_silent_is_left_all_the_same():
    async with ScriptedServer(session_timeout_ms=6000) as server, server.client() as client:
        this_loop().skip(3)
        assert await connections_after_silence(client, server) == 2
