"""P11, bounded: `close()` returns within its timeout whatever state the client is in, and never connects only to close.
Every other call takes a timeout, and ends by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from typing import TYPE_CHECKING, Any

import pytest

from engine.links import deaf_port, open_sockets
from everlatch import (
    AuthFailedError,
    Call,
    Client,
    ClientClosedError,
    EverlatchError,
    OutcomeUnknownError,
    QueueFullError,
    StartError,
    State,
)
from everlatch.session.requests import Request
from everlatch.testing import HANDSHAKE, Proxy
from everlatch.wire.codes import Op
from promises.behind_proxy import cut_off, ends_of, through
from real.faults import LONGEST, shut, until
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


# --- real servers, behind a proxy ---------------------------------------------------------------------------------

REAL_SLACK = 0.5
"""A timeout that is due while other tests keep the machine busy comes a little late."""


async def left_alone(proxy: Proxy, client: Client) -> None:
    """Nothing is wrong."""


async def held_up(proxy: Proxy, client: Client) -> None:
    proxy.hold_reply()
    client.get("/").add_done_callback(lambda call: call.exception())


async def in_a_black_hole(proxy: Proxy, client: Client) -> None:
    proxy.black_hole()


async def deaf(proxy: Proxy, client: Client) -> None:
    proxy.black_hole("to_server")


async def slow(proxy: Proxy, client: Client) -> None:
    proxy.delay(60)


async def cut(proxy: Proxy, client: Client) -> None:
    await cut_off(proxy, client)


async def cut_this_moment(proxy: Proxy, client: Client) -> None:
    shut(proxy)


async def never_greeted_again(proxy: Proxy, client: Client) -> None:
    proxy.hold_reply(HANDSHAKE)
    proxy.cut()
    await proxy.wait_for(HANDSHAKE, count=2)


async def goodbye_lost(proxy: Proxy, client: Client) -> None:
    proxy.lose_request(Op.CLOSE_SESSION)


async def goodbye_unanswered(proxy: Proxy, client: Client) -> None:
    proxy.lose_reply(Op.CLOSE_SESSION)


REAL_SITUATIONS = [
    left_alone,
    held_up,
    in_a_black_hole,
    deaf,
    slow,
    cut,
    cut_this_moment,
    never_greeted_again,
    goodbye_lost,
    goodbye_unanswered,
]
IN_EVERY_REAL_SITUATION = pytest.mark.parametrize(
    "situation", REAL_SITUATIONS, ids=lambda situation: situation.__name__
)


@IN_EVERY_REAL_SITUATION
@pytest.mark.real
async def test_close_returns_within_its_timeout_before_a_real_server(
    situation: Callable[[Proxy, Client], Awaitable[None]], proxy: Proxy, witness: Client, root: str
) -> None:
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    client = through(proxy, default_timeout=None)
    await client.start()
    await client.create(f"{root}/ephemeral", ephemeral=True)
    await situation(proxy, client)
    calls: list[Any] = [client.create(f"{root}/last"), client.get(root)]
    began, greetings = time.monotonic(), len(proxy.seen(HANDSHAKE))
    await client.close(0.3)
    assert time.monotonic() - began <= 0.3 + REAL_SLACK
    assert client.state is State.CLOSED
    assert all(call.done() for call in calls)
    for end in await ends_of(calls):
        assert not isinstance(end, BaseException) or isinstance(end, EverlatchError)
    # When everything works again, nobody comes back, and nothing of the client is left.
    proxy.cut()
    proxy.delay(0)
    proxy.heal()
    proxy.accept()
    await proxy.until(lambda: not proxy.connections)
    await until(lambda: asyncio.all_tasks() == tasks)
    await until(lambda: open_sockets() <= sockets)
    assert len(proxy.seen(HANDSHAKE)) == greetings
    if situation in (left_alone, goodbye_unanswered):
        assert await witness.exists(f"{root}/ephemeral") is None, "the server was told"


REAL_CALLS: dict[str, Callable[[Client], Awaitable[object]]] = CALLS | {
    "create": lambda client: client.create("/never", timeout=0.2),
    "sync": lambda client: client.sync(timeout=0.2),
    "ephemerals": lambda client: client.ephemerals(timeout=0.2),
    "count_descendants": lambda client: client.count_descendants("/", timeout=0.2),
    "who_am_i": lambda client: client.who_am_i(timeout=0.2),
    "get_config": lambda client: client.get_config(timeout=0.2),
}


@pytest.mark.parametrize("situation", [in_a_black_hole, deaf, cut], ids=lambda it: it.__name__)
@pytest.mark.real
async def test_every_call_ends_by_its_timeout_before_a_real_server(
    situation: Callable[[Proxy, Client], Awaitable[None]], proxy: Proxy
) -> None:
    """All at the same time; and the client has forgotten them afterwards."""
    client = through(proxy, default_timeout=None)
    await client.start()
    await situation(proxy, client)
    began = time.monotonic()
    ends = await asyncio.gather(*[make(client) for make in REAL_CALLS.values()], return_exceptions=True)
    assert time.monotonic() - began <= TIMEOUT + REAL_SLACK
    wrong = {
        name: end
        for name, end in zip(REAL_CALLS, ends, strict=True)
        if name != "wait_connected" and not isinstance(end, TimeoutError)
    }
    assert not wrong
    assert client.statistics().queued_calls == 0
    await client.close(0)


@pytest.mark.real
async def test_thousands_of_calls_cancellations_and_reconnects_leave_nothing(
    proxy: Proxy, witness: Client, root: str
) -> None:
    """Of six thousand requests; not while the client lives, and still less when it is closed."""

    def kept() -> tuple[int, int, int]:
        gc.collect()
        objects = [type(thing) for thing in gc.get_objects()]
        return objects.count(Call), objects.count(Request), len(asyncio.all_tasks())

    async def play(client: Client, number: int) -> None:
        calls: list[Any] = []
        for step in range(150):
            calls += [client.set(root, bytes(100)), client.get(root, watch=lambda _: None), client.exists(root)]
            calls.append(asyncio.ensure_future(client.ensure_path(root, timeout=LONGEST)))
            if step == 75:
                if number % 2:
                    proxy.cut()
                await asyncio.sleep(0)
                for call in calls[::3]:
                    call.cancel()
        for end in await ends_of(calls):
            assert not isinstance(end, BaseException) or isinstance(end, (EverlatchError, asyncio.CancelledError))
        await client.sync()

    before = kept()
    sockets = open_sockets()
    client = through(proxy, max_in_flight=64)
    async with client:
        levels = []
        for number in range(10):
            await play(client, number)
            statistics = client.statistics()
            assert (statistics.in_flight, statistics.queued_calls, statistics.queued_bytes) == (0, 0, 0)
            assert statistics.watches <= 1
            levels.append(kept())
            assert open_sockets() <= sockets + 3, "the client's, and both of the proxy's"
        calls, requests, tasks = (max(level) for level in zip(*levels, strict=True))
        assert calls <= before[0] + 2, "what was answered last may still be held"
        assert tasks == before[2]
        assert requests <= before[1] + 1500, "deadlines of what has ended are swept out now and then"
        assert client.statistics().connections >= 5
    await proxy.until(lambda: not proxy.connections)
    # What a test before this one had left may have gone meanwhile.
    assert all(now <= then for now, then in zip(kept(), before, strict=True))
    await until(lambda: open_sockets() <= sockets)


@pytest.mark.real
async def test_an_outage_costs_no_more_than_the_queue(proxy: Proxy, root: str) -> None:
    """Callers that don't stop, and change their minds: what doesn't fit is refused, and what has gone takes no room."""
    async with through(proxy, max_queued_calls=500, max_queued_bytes=100_000) as client:
        await cut_off(proxy, client)
        refused, kept = 0, list[Any]()
        for number in range(20_000):
            try:
                kept.append(client.set(root, bytes(1000)))
            except QueueFullError:
                refused += 1
            if number % 3 == 2:
                kept.pop().cancel()
        statistics = client.statistics()
        assert statistics.queued_calls <= 500
        assert statistics.queued_bytes <= 100_000
        assert len(client._engine.session.requests._waiting) <= 2 * 500
        assert refused > 10_000
        gc.collect()
        assert sum(type(thing) is Request for thing in gc.get_objects()) <= 2000
        proxy.accept()
        assert not [end for end in await ends_of(kept) if isinstance(end, BaseException)]
        assert (client.statistics().queued_calls, client.statistics().queued_bytes) == (0, 0)
