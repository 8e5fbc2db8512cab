"""P11, bounded: `close()` returns within its timeout whatever state the client is in, and never connects only to close.
Every other call takes a timeout, and ends by then.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from engine.links import deaf_port
from everlatch import (
    AuthFailedError,
    Client,
    ClientClosedError,
    EverlatchError,
    OutcomeUnknownError,
    StartError,
    State,
)
from everlatch.wire.codes import Op
from scripted_server import Connection, ScriptedServer, drop_before, fail_with, go_silent, hold, never, reset
from skipping_loop import on_every_loop, simulated, this_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TIMEOUT = 1.25
SLACK = 0.01


async def in_state(client: Client, state: State) -> None:
    async with client.states() as changes:
        async for change in changes:
            if change.state is state:
                return
    raise AssertionError(f"{client} never became {state}")


# --- the states that a client can be in ---------------------------------------------------------------------------


async def resolving(server: ScriptedServer, client: Client) -> None:
    async def slow() -> list[str]:
        await asyncio.sleep(1e6)
        return []

    this_loop().names["zk"] = slow
    await client.start(wait=False)
    await asyncio.sleep(0)


async def dialing(server: ScriptedServer, client: Client) -> None:
    await client.start(wait=False)


async def waiting_for_the_next_round(server: ScriptedServer, client: Client) -> None:
    server.refusing = True
    await client.start(wait=False)
    await server.wait_for_connections(4)


async def in_the_handshake(server: ScriptedServer, client: Client) -> None:
    server.handshake = never
    await client.start(wait=False)
    await server.until(lambda: server.greetings)


async def authenticating(server: ScriptedServer, client: Client) -> None:
    server.on(Op.AUTH, go_silent)
    await client.start(wait=False)
    await server.wait_for_requests(1)


async def connected(server: ScriptedServer, client: Client) -> None:
    await client.start()


async def connected_and_busy(server: ScriptedServer, client: Client) -> None:
    await client.start()
    server.next(hold)
    for number in range(50):
        client.exists(f"/{number}").add_done_callback(lambda call: call.cancelled() or call.exception())
    await server.wait_for_requests(1)


async def connected_to_a_silent_server(server: ScriptedServer, client: Client) -> None:
    await client.start()
    server.connection.silent = True


async def connected_to_a_server_that_does_not_read(server: ScriptedServer, client: Client) -> None:
    await client.start()
    assert server.connection.transport is not None
    server.connection.transport.pause_reading()


async def suspended(server: ScriptedServer, client: Client) -> None:
    await client.start()
    server.refusing = True
    server.connection.reset()
    await in_state(client, State.SUSPENDED)


async def lost(server: ScriptedServer, client: Client) -> None:
    await suspended(server, client)
    await in_state(client, State.LOST)


async def refused(server: ScriptedServer, client: Client) -> None:
    await client.start()
    server.on(Op.AUTH, fail_with(-115))
    with pytest.raises(AuthFailedError):
        await client.add_auth("digest", b"a:b")


async def in_the_handshake_again(server: ScriptedServer, client: Client) -> None:
    await client.start()
    server.handshake = never
    server.connection.reset()
    await server.until(lambda: len(server.greetings) == 2)


SITUATIONS = [
    resolving,
    dialing,
    waiting_for_the_next_round,
    in_the_handshake,
    authenticating,
    connected,
    connected_and_busy,
    connected_to_a_silent_server,
    connected_to_a_server_that_does_not_read,
    suspended,
    lost,
    refused,
    in_the_handshake_again,
]
IN_EVERY_SITUATION = pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)


def client_for(situation: Callable[..., object], server: ScriptedServer) -> Client:
    if situation is resolving:
        return Client(f"zk:{server.port}")
    return server.client(auth=[("digest", b"a:b")] if situation is authenticating else ())


# --- close --------------------------------------------------------------------------------------------------------


@IN_EVERY_SITUATION
@pytest.mark.parametrize("timeout", [0, TIMEOUT])
@simulated
async def test_close_returns_within_its_timeout(situation, timeout):
    async with ScriptedServer() as server:
        client = client_for(situation, server)
        await situation(server, client)
        greetings = len(server.greetings)
        calls: list[Any] = []
        for make in (lambda: client.create("/a", bytes(1000)), lambda: client.get("/")):
            try:
                calls.append(make())
            except AuthFailedError:
                assert situation is refused
        began = this_loop().time()
        await client.close(timeout)
        assert this_loop().time() - began <= timeout + SLACK
        assert client.state is State.CLOSED
        # Every call has ended by then.
        assert all(call.done() for call in calls)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, EverlatchError) for end in ends if isinstance(end, BaseException))
        # Nobody is greeted for the sake of closing, or afterwards.
        await asyncio.sleep(30)
        assert len(server.greetings) == greetings
        for connection in server.open_connections:
            assert situation is connected_to_a_server_that_does_not_read, "only that one can't have noticed"
            assert connection.transport is not None
            connection.transport.resume_reading()
        await server.until(lambda: not server.open_connections)
        assert asyncio.all_tasks() == {asyncio.current_task()}


@IN_EVERY_SITUATION
@simulated
async def test_closing_can_be_cancelled_and_happens_all_the_same(situation):
    async with ScriptedServer() as server:
        client = client_for(situation, server)
        await situation(server, client)
        closing = asyncio.create_task(client.close(TIMEOUT))
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        began = this_loop().time()
        await client.close()
        assert this_loop().time() - began <= TIMEOUT + SLACK
        assert client.state is State.CLOSED


@pytest.mark.parametrize("last", [reset, drop_before, go_silent], ids=lambda last: last.__name__)
@simulated
async def test_close_does_not_reconnect_when_the_goodbye_is_lost(last):
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        server.on(Op.CLOSE_SESSION, last)
        await client.close(TIMEOUT)
        await asyncio.sleep(30)
        assert len(server.connections) == 1


@on_every_loop
async def test_close_in_real_time():
    async with ScriptedServer() as server:
        client = server.client()
        await connected_to_a_silent_server(server, client)
        write = client.create("/a")
        began = asyncio.get_running_loop().time()
        await client.close(0.05)
        assert 0.04 < asyncio.get_running_loop().time() - began < 1
        with pytest.raises(OutcomeUnknownError):
            await write


@simulated
async def test_the_clients_own_close_timeout_holds_where_none_is_given():
    async with ScriptedServer() as server:
        client = server.client(close_timeout=2.5)
        await connected_to_a_silent_server(server, client)
        call = client.get("/")
        began = this_loop().time()
        await client.close()
        assert this_loop().time() - began == pytest.approx(2.5, abs=SLACK)
        with pytest.raises(ClientClosedError):
            await call


# --- calls --------------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "read": lambda client: client.get("/", timeout=TIMEOUT),
    "write": lambda client: client.create("/a", timeout=TIMEOUT),
    "transaction": lambda client: client.transaction().commit(timeout=TIMEOUT),
    "add_auth": lambda client: client.add_auth("digest", b"a:b", timeout=TIMEOUT),
    "ensure_path": lambda client: client.ensure_path("/a/b/c", timeout=TIMEOUT),
    "delete_tree": lambda client: client.delete_tree("/a", missing_ok=True, timeout=TIMEOUT),
    "wait_connected": lambda client: client.wait_connected(timeout=TIMEOUT),
}


@IN_EVERY_SITUATION
@pytest.mark.parametrize("name", CALLS)
@simulated
async def test_every_call_ends_by_its_timeout(situation, name):
    async with ScriptedServer() as server:
        client = client_for(situation, server)
        await situation(server, client)
        began = this_loop().time()
        with contextlib.suppress(EverlatchError, TimeoutError):
            await CALLS[name](client)
        assert this_loop().time() - began <= TIMEOUT + SLACK
        await client.close(0)


@simulated
async def test_a_timeout_of_nothing_ends_at_once():
    async with ScriptedServer() as server, server.client() as client:
        server.connection.silent = True
        began = this_loop().time()
        with pytest.raises(TimeoutError):
            await client.get("/", timeout=0)
        assert this_loop().time() - began < SLACK


@simulated
async def test_start_ends_by_its_timeout():
    async with ScriptedServer() as server:
        server.handshake = never
        began = this_loop().time()
        with pytest.raises(StartError):
            await server.client(start_timeout=TIMEOUT).start()
        assert this_loop().time() - began == pytest.approx(TIMEOUT, abs=SLACK)


@simulated
async def test_start_ends_without_a_timeout_too():
    """Every server is tried once, and each for a bounded time."""
    with deaf_port() as port:
        async with ScriptedServer() as server:
            server.handshake = never
            began = this_loop().time()
            with pytest.raises(StartError):
                await Client([server.address, f"127.0.0.1:{port}"], session_timeout=6).start()
            assert this_loop().time() - began <= 2 * 6 * 2 / 3


@simulated
async def test_a_drip_of_bytes_does_not_prolong_a_handshake():
    def drip(connection: Connection, _: object) -> None:
        connection.send_raw(b"\0")
        asyncio.get_running_loop().call_later(0.2, drip, connection, None)

    async with ScriptedServer() as server:
        server.handshake = drip
        began = this_loop().time()
        with pytest.raises(StartError):
            await server.client(session_timeout=6).start()
        assert this_loop().time() - began <= 6 * 2 / 3
