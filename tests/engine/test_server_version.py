"""`engine/server_version.py`: what the server in use is known to lack is refused before a byte is sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from everlatch import (
    CallTimeoutError,
    Client,
    ClientClosedError,
    NotStartedError,
    State,
    StateChange,
    UnimplementedError,
    UnsupportedByServerError,
)
from everlatch.engine.server_version import _ask
from everlatch.paths import Endpoint
from scripted_server import ScriptedServer
from skipping_loop import on_every_loop, on_real_loops, simulated, this_loop
from srvr_answers import SrvrAnswers

if TYPE_CHECKING:
    from collections.abc import Awaitable


def require(client: Client, since: str = "3.7.0", timeout: float | None = None) -> Awaitable[None]:
    return client._engine.versions.require("who_am_i", since, path="/", timeout=timeout)


async def reconnected(server: ScriptedServer, client: Client) -> None:
    """After the connection has broken, when the next one serves."""
    before = client.connections
    server.connection.reset()
    await server.until(lambda: client.connections > before)
    await client.wait_connected()


def other_tasks() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


@on_every_loop
async def test_the_server_in_use_is_asked_once_a_connection_and_not_before_somebody_needs_it(monkeypatch):
    answers = SrvrAnswers(monkeypatch)
    async with ScriptedServer() as server, server.client() as client:
        await client.sync()
        assert answers.asked == []
        for _ in range(3):
            await require(client)
        assert answers.asked == [server.address]
        await reconnected(server, client)
        await client.sync()
        assert len(answers.asked) == 1
        await require(client)
        assert answers.asked == [server.address] * 2


@pytest.mark.parametrize(
    ("version", "since", "fits"),
    [
        ("3.9.5-293c895a, built on 2026-02-11 20:18 UTC", "3.9.5", True),
        ("3.8.0-11+deb12u2", "3.8.0", True),
        ("3.8.0-11+deb12u2", "3.8.1", False),
        ("3.6.2", "3.7.0", False),
        ("3.10.0-SNAPSHOT", "3.9.0", True),
        ("3.7", "3.7.0", True),
        ("4", "3.7.0", True),
        ("3.4.14", "3.5.0", False),
        ("3.7.0.1", "3.7.0", True),
        ("unknown", "3.7.0", True),
        ("", "3.7.0", True),
    ],
)
@simulated
async def test_versions(monkeypatch, version, since, fits):
    SrvrAnswers(monkeypatch, version)
    async with ScriptedServer() as server, server.client() as client:
        if fits:
            await require(client, since)
            return
        for _ in range(2):
            with pytest.raises(UnsupportedByServerError):
                await require(client, since)
        assert server.requests == []


@simulated
async def test_the_error_tells_what_is_needed_and_what_was_found(monkeypatch):
    SrvrAnswers(monkeypatch, "3.6.2-abc, built on some day")
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(
            UnimplementedError, match=r"who_am_i needs ZooKeeper 3\.7\.0, the server in use is 3\.6\.2"
        ) as raised:
            await require(client)
    error = raised.value
    assert isinstance(error, UnsupportedByServerError)
    assert (error.operation, error.version, error.since, error.path) == ("who_am_i", "3.6.2", "3.7.0", "/")


@simulated
async def test_those_who_ask_together_share_one_question(monkeypatch):
    answers = SrvrAnswers(monkeypatch, "3.6.2")
    async with ScriptedServer() as server, server.client() as client:
        results = await asyncio.gather(*[require(client) for _ in range(50)], return_exceptions=True)
        assert {type(result) for result in results} == {UnsupportedByServerError}
        assert len(answers.asked) == 1


@simulated
async def test_a_question_goes_on_when_who_asked_first_has_gone(monkeypatch):
    answers = SrvrAnswers(monkeypatch, "3.6.2")
    answers.answering.clear()
    async with ScriptedServer() as server, server.client() as client:
        first = asyncio.ensure_future(require(client))
        await answers.until_asked(1)
        first.cancel()
        second = asyncio.ensure_future(require(client))
        await asyncio.wait({first})
        answers.answering.set()
        with pytest.raises(UnsupportedByServerError):
            await second
        assert len(answers.asked) == 1


@simulated
async def test_a_server_that_does_not_tell_is_asked_once_and_may_know_everything(monkeypatch):
    answers = SrvrAnswers(monkeypatch, None)
    async with ScriptedServer() as server, server.client() as client:
        for _ in range(2):
            await require(client, "99.0.0")
        assert len(answers.asked) == 1


@simulated
async def test_a_server_that_hangs_costs_two_seconds_once(monkeypatch):
    answers = SrvrAnswers(monkeypatch)
    answers.answering.clear()
    async with ScriptedServer() as server, server.client() as client:
        began = this_loop().time()
        for _ in range(2):
            await require(client, "99.0.0")
        assert this_loop().time() - began == pytest.approx(2.0, abs=0.01)


@simulated
async def test_another_connection_may_be_to_another_version(monkeypatch):
    answers = SrvrAnswers(monkeypatch, "3.6.2")
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(UnsupportedByServerError):
            await require(client)
        answers.version = "3.9.5"
        await reconnected(server, client)
        await require(client)


@simulated
async def test_the_answer_of_a_server_that_is_not_in_use_any_more_does_not_count(monkeypatch):
    answers = SrvrAnswers(monkeypatch, "3.6.2")
    answers.answering.clear()
    async with ScriptedServer() as server, server.client() as client:
        waiting = asyncio.ensure_future(require(client))
        await answers.until_asked(1)
        await reconnected(server, client)
        # Somebody else asks on the new connection: the old question is dropped, and both have the new answer.
        other = asyncio.ensure_future(require(client))
        await answers.until_asked(2)
        assert answers.running == 1
        answers.version = "3.9.5"
        answers.answering.set()
        await waiting
        await other
        assert len(answers.asked) == 2


@simulated
async def test_a_late_answer_of_a_lost_connection_does_not_count_either(monkeypatch):
    answers = SrvrAnswers(monkeypatch, "3.6.2")
    answers.answering.clear()
    async with ScriptedServer() as server, server.client() as client:
        waiting = asyncio.ensure_future(require(client))
        await answers.until_asked(1)
        await reconnected(server, client)
        server.refusing = True
        server.connection.reset()
        await server.until(lambda: client.state is State.SUSPENDED)
        answers.answering.set()
        while answers.running:
            await asyncio.sleep(0)
        answers.version = "3.9.5"
        server.refusing = False
        await waiting
        assert len(answers.asked) == 2


@simulated
async def test_it_waits_for_a_connection(monkeypatch):
    answers = SrvrAnswers(monkeypatch, "3.6.2")
    async with ScriptedServer() as server:
        client = server.client()
        server.refusing = True
        await client.start(wait=False)
        waiting = asyncio.ensure_future(require(client))
        await server.wait_for_connections(3)
        assert not waiting.done()
        assert answers.asked == []
        server.refusing = False
        with pytest.raises(UnsupportedByServerError):
            await waiting
        await client.close()


@simulated
async def test_a_connection_that_goes_as_it_comes_is_asked_nothing(monkeypatch):
    """Who waits for a connection is told of one, and has its turn when it is lost again."""
    answers = SrvrAnswers(monkeypatch)
    async with ScriptedServer() as server:
        client = server.client()
        server.refusing = True
        await client.start(wait=False)
        waiting = asyncio.ensure_future(require(client))
        await server.wait_for_connections(1)
        server.refusing = False
        dropped: list[object] = []
        engine = client._engine

        def drop() -> None:
            link = engine._link
            assert link is not None
            link.abort()
            engine.link_lost(link, None)
            dropped.append(link)

        def announce(change: StateChange) -> None:
            if change.state is State.CONNECTED and not dropped:
                this_loop().call_soon(drop)  # before those who wait for the connection have their turn
            engine_announce(change)

        engine_announce = engine._announce
        monkeypatch.setattr(engine, "_announce", announce)
        await waiting
        assert dropped
        assert len(answers.asked) == 1
        await client.close()


@pytest.mark.parametrize("connected", [True, False])
@simulated
async def test_a_timeout_of_a_call_that_was_never_sent(monkeypatch, connected):
    answers = SrvrAnswers(monkeypatch)
    answers.answering.clear()
    async with ScriptedServer() as server, server.client() as client:
        if not connected:
            server.refusing = True
            server.connection.reset()
            await server.until(lambda: client.state is State.SUSPENDED)
        with pytest.raises(CallTimeoutError, match=r"who_am_i '/' timed out after 1\.5 s \(never sent\)"):
            await require(client, timeout=1.5)


@simulated
async def test_a_client_that_takes_no_calls_is_asked_nothing(monkeypatch):
    answers = SrvrAnswers(monkeypatch)
    async with ScriptedServer() as server:
        client = server.client()
        with pytest.raises(NotStartedError):
            await require(client)
        await client.start()
        await client.close()
        with pytest.raises(ClientClosedError):
            await require(client)
        assert answers.asked == []


@on_every_loop
async def test_closing_ends_the_question_and_who_waits_for_it(monkeypatch):
    answers = SrvrAnswers(monkeypatch)
    answers.answering.clear()
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        waiting = asyncio.ensure_future(require(client))
        await answers.until_asked(1)
        await client.close()
        assert answers.running == 0
        with pytest.raises(ClientClosedError):
            await waiting
        assert not [task for task in other_tasks() if "_ask" in str(task.get_coro())]


# --- the question itself ------------------------------------------------------------------------------------------

STATUS = (
    "Latency min/avg/max: 0/0.0/0\nReceived: 1\nSent: 0\nConnections: 1\nOutstanding: 0\nZxid: 0x0\n"
    "Mode: standalone\nNode count: 5\n"
)


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("Zookeeper version: 3.8.0-11+deb12u2, built on 2024\n" + STATUS, (3, 8, 0)),
        ("Zookeeper version: who knows\n" + STATUS, None),
        ("srvr is not executed because it is not in the whitelist.\n", None),
        ("This ZooKeeper instance is not currently serving requests\n", None),
        ("\x15\x03\x01\x00\x02\x02\x50", None),
        ("", None),
    ],
)
@on_real_loops
async def test_answers(answer, numbers):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(4) == b"srvr"
        writer.write(answer.encode())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    status = await _ask(Endpoint("127.0.0.1", port))
    assert (status.version.numbers or None if status else None) == numbers
    server.close()
    await server.wait_closed()
    assert await _ask(Endpoint("127.0.0.1", port)) is None


async def test_without_an_address_there_is_nobody_to_ask(monkeypatch):
    answers = SrvrAnswers(monkeypatch)
    assert await _ask(None) is None
    assert answers.asked == []
