"""P9, isolated: a callback of the application may raise, be cancelled, or be slow and asynchronous, and nobody else is
the worse for it. One that blocks the event loop is reported, and a healthy link survives it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import Client, SilentLinkError, StartError, State, StateChange, WatchEvent
from everlatch.engine import dispatch
from everlatch.wire.codes import Op
from promises.access import options_for
from promises.behind_proxy import ends_of, through
from real.faults import States, until
from scripted_server import ScriptedServer
from skipping_loop import on_every_loop, simulated, this_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing import Proxy, Server


def raising(_: object) -> None:
    raise ZeroDivisionError("a bug of the application")


def cancelled(_: object) -> None:
    raise asyncio.CancelledError


async def raising_later(_: object) -> None:
    raise ZeroDivisionError("a bug of the application")


async def cancelled_later(_: object) -> None:
    raise asyncio.CancelledError


_NEVER: list[asyncio.Future[None]] = []
"""What is waited for for ever; held here, lest it be collected together with the task that waits."""


async def never_ending(_: object) -> None:
    _NEVER.append(asyncio.get_running_loop().create_future())
    await _NEVER[-1]


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
    async with ScriptedServer(max_session_timeout=6) as server, server.client() as client:
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
    async with ScriptedServer(max_session_timeout=6) as server, server.client() as client:
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
    async with ScriptedServer(max_session_timeout=6) as server, server.client() as client:
        this_loop().skip(3)
        assert await connections_after_silence(client, server) == 2


# --- real servers, behind a proxy ---------------------------------------------------------------------------------


@pytest.mark.real
async def test_bad_callbacks_harm_nobody_across_lost_connections(
    proxy: Proxy, witness: Client, root: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every listener and watch that there is goes wrong in its own way, and a good one stands between every two."""
    async with through(proxy) as client:
        told, events = [States() for _ in BAD], list[WatchEvent]()
        for bad, states in zip(BAD, told, strict=True):
            client.add_listener(bad)
            client.add_listener(states)
        for number in range(3):
            for bad in BAD:
                await client.get(root, watch=bad)
                await client.get(root, watch=lambda event: events.append(event))
                client.exists(root).add_done_callback(lambda call: call.result())
            proxy.cut()
            await until(lambda number=number: client.statistics().connections == number + 2)
            await witness.set(root, b"%d" % number)
            await until(lambda number=number: len(events) == len(BAD) * (number + 1))
            assert (await client.get(root)).data == b"%d" % number
        for states in told:
            await states.until_told(*[State.SUSPENDED, State.CONNECTED] * 3)
        assert client.statistics().watches == client.statistics().in_flight == 0
    raised = sum("raised" in record.getMessage() for record in caplog.records)
    # A listener that has never finished is told nothing more; the other four of each kind are told all.
    assert raised == 4 * 7 + 4 * 3
    assert {record.name for record in caplog.records if record.levelno >= logging.WARNING} == {"everlatch"}
    caplog.clear()


@pytest.mark.real
async def test_slow_callbacks_hold_up_no_call_and_miss_nothing(proxy: Proxy, witness: Client, root: str) -> None:
    gate, told, seen = asyncio.Event(), list[State](), list[WatchEvent]()

    async def slow_listener(change: StateChange) -> None:
        await gate.wait()
        told.append(change.state)

    async def slow_watch(event: WatchEvent) -> None:
        await gate.wait()
        seen.append(event)

    async with through(proxy) as client:
        client.add_listener(slow_listener)
        for number in range(4):
            await client.get(root, watch=slow_watch)
            await witness.set(root, b"")
            await client.sync()
            if number % 2:
                proxy.cut()
                await until(lambda number=number: client.statistics().connections == number // 2 + 2)
            assert None not in await ends_of([client.exists(root) for _ in range(50)])
        assert told == seen == []
        gate.set()
        await until(lambda: len(told) == 4 and len(seen) == 4)
        assert told == [State.SUSPENDED, State.CONNECTED] * 2


@pytest.mark.parametrize("behind", ["nothing", "proxy"])
@pytest.mark.real
async def test_a_loop_that_is_blocked_costs_no_healthy_link(
    standalone: Server, proxy: Proxy, witness: Client, root: str, caplog: pytest.LogCaptureFixture, behind: str
) -> None:
    """For longer than the silence budget, a third of the session timeout. What answers have come are read before the
    link is judged; the proxy was blocked as well, and delivers them some turns later."""

    calls: list[Any] = []

    def blocks(_: object) -> None:
        # The first is sent at once, and answered while nobody reads; the others and a ping are late.
        calls.extend(client.exists(root) for _ in range(20))
        time.sleep(1.2)

    place = proxy if behind == "proxy" else standalone
    async with Client(place.address, **options_for(place, session_timeout=3, default_timeout=30)) as client:
        states = States()
        client.add_listener(states)
        for _ in range(2):
            await client.get(root, watch=blocks)
            await witness.set(root, b"")
            await until(lambda: client.statistics().watches == 0)
            assert None not in await ends_of(calls)
            assert (await client.get(root)).data == b""
        assert states.changes == []
        assert client.statistics().connections == 1
    reports = [re.search(r"blocks.* blocked the event loop for ([\d.]+) s", report) for report in caplog.messages]
    assert sum(found is not None and float(found[1]) >= 1.2 for found in reports) == 2


@pytest.mark.real
async def test_a_link_that_is_silent_is_left_whatever_callbacks_do(proxy: Proxy, witness: Client, root: str) -> None:
    """That blocked loops are made allowance for is no excuse."""
    async with through(proxy, session_timeout=3) as client:
        states = States()
        client.add_listener(states)
        client.add_listener(lambda _: time.sleep(0.05))
        client.add_listener(never_ending)
        await client.get(root, watch=lambda _: time.sleep(0.3))
        await witness.set(root, b"1")
        await client.sync()
        hole = proxy.black_hole("to_client")
        reading = client.get(root)
        await hole.happened()
        change = await states.until(State.SUSPENDED)
        assert isinstance(change.reason, SilentLinkError)
        proxy.cut()
        proxy.heal()
        assert (await reading).data == b"1"
        assert client.generation == 1


@pytest.mark.real
async def test_a_callback_may_close_the_client_and_cancel_calls(proxy: Proxy, witness: Client, root: str) -> None:
    """In the middle of everything; all calls end, and the other callbacks are told all."""
    client = through(proxy)
    await client.start()
    heard, events = States(), list[WatchEvent]()
    calls: list[asyncio.Future[Any]] = []

    def cancels(_: object) -> None:
        for call in calls[::2]:
            call.cancel()

    client.add_listener(lambda change: client.close() if change.state is State.SUSPENDED else None)
    client.add_listener(heard)
    await client.get(root, watch=cancels)
    await client.get(root, watch=events.append)
    held = proxy.hold_reply(Op.GET_DATA)
    calls += [client.get(root) for _ in range(20)]
    await held.reached(frames=20)
    await witness.set(root, b"")
    await held.reached(frames=21)
    held.release()
    await until(lambda: events)
    ends = await ends_of(calls)
    assert not [end for end in ends[1::2] if isinstance(end, BaseException)]
    proxy.cut()
    await heard.until(State.CLOSED)
    assert heard.states == [State.SUSPENDED, State.CLOSED]
    assert [event.path for event in events] == [root]


class BadPolicy:
    """What a user may write."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    def next_delay(self, retries: int, elapsed: float, rng: object) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [ZeroDivisionError("a bug of the application"), "soon", float("nan"), -1.0])
@simulated
async def test_a_retry_policy_that_fails_keeps_nobody_from_connecting_again(answer, caplog):
    async with ScriptedServer() as server:
        policy = BadPolicy(answer)
        async with server.client(retry_policy=policy) as client:
            server.refusing = True
            server.connection.reset()
            call = client.exists("/a")
            while policy.asked < 3:
                await asyncio.sleep(0.1)
            server.refusing = False
            assert await call is None
            assert client.state is State.CONNECTED
    assert "the default retry policy decides" in caplog.text


class BadSource:
    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.followers = 0

    def servers(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", self.server.port)]

    def on_change(self, changed: Callable[[], None]) -> Callable[[], None]:
        self.followers += 1
        return self.remove

    def remove(self) -> None:
        self.followers -= 1
        raise ZeroDivisionError("a bug of the application")


@simulated
async def test_a_source_that_fails_keeps_no_client_open(caplog):
    async with ScriptedServer() as server:
        source = BadSource(server)
        client = Client(source)
        await client.start()
        assert source.followers == 1
        await client.close()
        assert (client.state, source.followers) == (State.CLOSED, 0)
        assert "followed no more" in caplog.text


@simulated
async def test_a_client_that_could_not_start_follows_no_source():
    async with ScriptedServer() as server:
        server.refusing = True
        source = BadSource(server)
        with pytest.raises(StartError):
            await Client(source).start()
        assert source.followers == 0
