"""The client as an application holds it: construction, start, close, states, sessions, and what it tells of itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from engine.links import closed_port, deaf_port, open_sockets, until
from everlatch import (
    AlreadyStartedError,
    AuthFailedError,
    Client,
    ClientClosedError,
    ClientStateError,
    ConnectFailedError,
    EverlatchError,
    GaveUpError,
    HandshakeTimeoutError,
    InvalidACLArgumentError,
    InvalidArgumentError,
    InvalidConnectStringError,
    InvalidTypeError,
    LinkError,
    NotStartedError,
    Outcome,
    OutcomeUnknownError,
    ProtocolError,
    RequestTooLargeError,
    RetryForever,
    RetryNTimes,
    SessionExpiredError,
    SilentLinkError,
    StartError,
    State,
    StateChange,
    WrongLoopError,
)
from everlatch.devserver.tree import SPECIAL_PATHS
from everlatch.wire.codes import Op
from scripted_server import (
    ScriptedServer,
    Znodes,
    accept,
    drop_after,
    drop_before,
    expire,
    fail_with,
    garbage,
    go_silent,
    header_only,
    hold,
    never,
    other_session,
    read_only,
    reset,
    without_read_only_byte,
)
from skipping_loop import on_every_loop, simulated, this_loop

if TYPE_CHECKING:
    from collections.abc import Callable


def listen_to(client: Client) -> list[StateChange]:
    changes: list[StateChange] = []
    client.add_listener(changes.append)
    return changes


async def in_state(client: Client, state: State) -> StateChange:
    """Returns when the client is in that state."""
    async with client.states() as changes:
        async for change in changes:
            if change.state is state:
                return change
    raise AssertionError(f"{client} never became {state}")


# --- construction -------------------------------------------------------------------------------------------------

BAD_SERVERS: list[tuple[Any, type[Exception]]] = [
    ("", InvalidConnectStringError),
    (",", InvalidConnectStringError),
    ("a:1,,b:2", InvalidConnectStringError),
    ("a:0", InvalidConnectStringError),
    ("a:65536", InvalidConnectStringError),
    ("a:port", InvalidConnectStringError),
    ("::1", InvalidConnectStringError),
    ("a:1/x/", InvalidConnectStringError),
    ("a:1//x", InvalidConnectStringError),
    ("a b:1", InvalidConnectStringError),
    ([], InvalidConnectStringError),
    (["a:1", ""], InvalidConnectStringError),
    (["a:1/x", "b:2"], InvalidConnectStringError),
    (["a:1/x", "b:2/x"], InvalidConnectStringError),
    (b"a:1", InvalidTypeError),
    (None, InvalidTypeError),
    ([b"a:1"], InvalidTypeError),
    ([("a", 1)], InvalidTypeError),
    ({"a:1"}, InvalidTypeError),
]


@pytest.mark.parametrize(("servers", "error"), BAD_SERVERS)
def test_malformed_connect_strings(servers, error):
    with pytest.raises(error):
        Client(servers)


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"session_timeout": 0}, InvalidArgumentError),
    ({"session_timeout": -1}, InvalidArgumentError),
    ({"session_timeout": float("nan")}, InvalidArgumentError),
    ({"session_timeout": 2**31}, InvalidArgumentError),
    ({"session_timeout": None}, InvalidArgumentError),
    ({"session_timeout": "10"}, InvalidArgumentError),
    ({"default_timeout": -1}, InvalidArgumentError),
    ({"start_timeout": "1"}, InvalidArgumentError),
    ({"close_timeout": None}, InvalidArgumentError),
    ({"close_timeout": -0.1}, InvalidArgumentError),
    ({"acl": []}, InvalidACLArgumentError),
    ({"acl": "world:anyone"}, InvalidACLArgumentError),
    ({"auth": [("digest", "text")]}, InvalidTypeError),
    ({"auth": [(b"digest", b"a:b")]}, InvalidTypeError),
    ({"auth": ("digest", b"a:b")}, InvalidTypeError),
    ({"auth": [b"a:b"]}, InvalidTypeError),
    ({"auth": 5}, InvalidTypeError),
    ({"auth": [("digest", bytes(1_048_575))]}, RequestTooLargeError),
    ({"max_in_flight": 0}, InvalidArgumentError),
    ({"max_in_flight": 1.5}, InvalidTypeError),
    ({"max_queued_calls": -1}, InvalidArgumentError),
    ({"max_queued_bytes": True}, InvalidTypeError),
    ({"max_request_size": 0}, InvalidArgumentError),
    ({"max_reply_size": None}, InvalidTypeError),
    ({"silence_budget": 0}, InvalidArgumentError),
    ({"silence_budget": -1.0}, InvalidArgumentError),
    ({"silence_budget": "0.1"}, InvalidArgumentError),
    ({"silence_budget": float("nan")}, InvalidArgumentError),
    ({"preventive_search_interval": 0}, InvalidArgumentError),
    ({"preventive_search_interval": True}, InvalidArgumentError),
    ({"link_check_interval": 0.0}, InvalidArgumentError),
    ({"link_check_interval": "30"}, InvalidArgumentError),
    ({"retry_policy": 3}, InvalidTypeError),
    ({"retry_policy": RetryForever(1.0), "time_between_attempts": 1.0}, InvalidArgumentError),
    ({"retry_policy": RetryForever(1.0), "max_consecutive_retries": 1}, InvalidArgumentError),
    ({"retry_policy": RetryForever(1.0), "max_reconnect_attempts": 1}, InvalidArgumentError),
    ({"time_between_attempts": -1}, InvalidArgumentError),
    ({"time_between_attempts": "1"}, InvalidArgumentError),
    ({"max_consecutive_retries": 0}, InvalidArgumentError),
    ({"max_consecutive_retries": 1.5}, InvalidTypeError),
    ({"max_reconnect_attempts": 0}, InvalidArgumentError),
    ({"max_reconnect_attempts": "3"}, InvalidTypeError),
    ({"read_only_writes": "drop"}, InvalidArgumentError),
    ({"read_only_writes": None}, InvalidArgumentError),
    ({"read_write_search_interval": 0}, InvalidArgumentError),
    ({"read_write_search_interval": None}, InvalidArgumentError),
    ({"lease": "none"}, InvalidArgumentError),
    ({"lease_drift": "0.1"}, InvalidTypeError),
    ({"lease_drift": -0.1}, InvalidArgumentError),
    ({"lease_drift": 1.0}, InvalidArgumentError),
    ({"lease_drift": float("nan")}, InvalidArgumentError),
    ({"lease_jitter": -1}, InvalidArgumentError),
    ({"tick_time": 0}, InvalidArgumentError),
]


@pytest.mark.parametrize(("options", "error"), BAD_OPTIONS)
def test_options_that_can_not_be_right(options, error):
    with pytest.raises(error) as raised:
        Client("127.0.0.1:1", **options)
    assert isinstance(raised.value, InvalidArgumentError)
    assert "a:b" not in str(raised.value)


GOOD_OPTIONS: list[dict[str, Any]] = [
    {"silence_budget": None, "preventive_search_interval": None, "link_check_interval": None, "retry_policy": None},
    {"silence_budget": 0.02, "preventive_search_interval": 30, "link_check_interval": 30.0, "warm_spare": True},
    {"time_between_attempts": 0},
    {"time_between_attempts": 5.0, "max_consecutive_retries": 3, "max_reconnect_attempts": 10},
    {"retry_policy": RetryForever(0.0), "renew_session": False},
    {"read_only": True, "read_only_writes": "queue", "read_write_search_interval": 1},
    {"lease": "strict", "lease_drift": 0, "lease_jitter": 0.1, "tick_time": 2},
]


@pytest.mark.parametrize("options", GOOD_OPTIONS)
@simulated
async def test_options_that_are_right(options):
    async with ScriptedServer() as server, server.client(**options) as client:
        assert await client.exists("/a") is None


# --- other servers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("servers", "error"), [*BAD_SERVERS, ("a:1/other", InvalidConnectStringError)])
@simulated
async def test_servers_that_can_not_be_changed_to(servers, error):
    async with ScriptedServer() as server, server.client("/app") as client:
        before = client._engine.session.endpoints
        with pytest.raises(error):
            client.update_servers(servers)
        assert client._engine.session.endpoints == before
        assert client.state is State.CONNECTED


@pytest.mark.parametrize("chroot", ["", "/app"])
@simulated
async def test_the_server_in_use_is_left_for_the_new_ones_and_no_call_is_lost(chroot):
    znodes = Znodes()
    async with ScriptedServer(znodes) as old, ScriptedServer(znodes) as new, old.client("/app") as client:
        await client.ensure_path("/")
        calls = [client.create(f"/{number}", b"") for number in range(20)]
        client.update_servers(f"{new.address}{chroot}")
        calls += [client.create(f"/{number}", b"") for number in range(20, 40)]
        await asyncio.gather(*calls)
        assert client.statistics().server == new.address
        assert client.statistics().outcomes_unknown == 0
        assert client.generation == 1
        assert {f"/app/{number}" for number in range(40)} <= znodes.nodes.keys()
        assert old.open_connections == []


@simulated
async def test_servers_are_changed_before_the_start():
    async with ScriptedServer() as server:
        client = Client(f"127.0.0.1:{closed_port()}")
        client.update_servers(server.address)
        async with client:
            assert client.statistics().server == server.address
        client.update_servers("127.0.0.1:1")  # no use, and no harm


def test_servers_are_changed_in_the_clients_loop_only():
    async def begin() -> Client:
        async with ScriptedServer() as server:
            client = server.client(close_timeout=0.1)
            await client.start()

            def elsewhere() -> None:
                with pytest.raises(WrongLoopError):
                    client.update_servers("127.0.0.1:1")
                with pytest.raises(WrongLoopError):
                    client.renew()

            await asyncio.to_thread(elsewhere)
            await client.close()
            return client

    asyncio.run(begin())


# --- giving up, and renewal on request ----------------------------------------------------------------------------


@simulated
async def test_start_says_why_it_has_given_up():
    port = closed_port()
    client = Client(f"127.0.0.1:{port}", start_timeout=60, time_between_attempts=1, max_reconnect_attempts=3)
    began = asyncio.get_running_loop().time()
    with pytest.raises(StartError) as raised:
        await client.start()
    assert [server for server, _ in raised.value.failures] == [f"127.0.0.1:{port}"]
    assert asyncio.get_running_loop().time() - began == pytest.approx(2.0, abs=0.1)
    assert client.state is State.CLOSED


@simulated
async def test_a_client_that_has_given_up_says_so_until_it_is_closed():
    client = Client(f"127.0.0.1:{closed_port()}", retry_policy=RetryNTimes(1, 0.5))
    await client.start(wait=False)
    call, waiting = client.exists("/a"), asyncio.create_task(client.wait_connected())
    for ended in (call, waiting):
        with pytest.raises(GaveUpError):
            await ended
    assert client.state is State.GAVE_UP
    with pytest.raises(GaveUpError):
        client.exists("/a")
    with pytest.raises(GaveUpError):
        await client.wait_connected()
    for use in (client.renew, client.hold_lease):
        with pytest.raises(GaveUpError):
            use()
    with pytest.raises(GaveUpError):
        await client.search_servers()
    client.update_servers("127.0.0.1:1")
    await client.close()
    assert client.state is State.CLOSED


@simulated
async def test_a_session_is_renewed_when_the_application_says_so():
    async with ScriptedServer() as server:
        client = server.client(renew_session=False)
        with pytest.raises(NotStartedError):
            client.renew()
        async with client:
            first = client.session_id
            server.handshakes.append(expire)
            server.connection.reset()
            await until_state(client, State.LOST)
            call = client.exists("/a")
            await asyncio.sleep(100)
            assert client.state is State.LOST
            assert not call.done()
            client.renew()
            assert await call is None
            assert client.session_id != first
        with pytest.raises(ClientClosedError):
            client.renew()


async def until_state(client: Client, state: State) -> None:
    while client.state is not state:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("form", [str, list, tuple])
@simulated
async def test_servers_as_text_or_list(form):
    async with ScriptedServer() as server:
        bad = f"127.0.0.1:{closed_port()}"
        servers = f"{bad},{server.address}/app" if form is str else form([bad, f"{server.address}/app"])
        async with Client(servers, shuffle=False) as client:
            await client.ensure_path("/a")
        assert "/app/a" in server.znodes.nodes


# --- start --------------------------------------------------------------------------------------------------------


@simulated
async def test_start_names_each_server_and_why_it_failed():
    async with ScriptedServer() as talker, ScriptedServer() as mute, ScriptedServer() as closer:
        talker.handshake, mute.handshake, closer.refusing = garbage, never, True
        nobody = f"127.0.0.1:{closed_port()}"
        servers = [nobody, talker.address, mute.address, closer.address]
        client = Client(servers, shuffle=False)
        with pytest.raises(StartError) as raised:
            await client.start()
        reasons = dict(raised.value.failures)
        assert list(reasons) == [nobody, talker.address, closer.address, mute.address], "as they ended"
        assert type(reasons[nobody]) is ConnectFailedError
        assert isinstance(reasons[talker.address], ProtocolError)
        assert isinstance(reasons[closer.address], LinkError), "it was dialled beside the mute one"
        assert type(reasons[mute.address]) is HandshakeTimeoutError
        for server in servers:
            assert server in str(raised.value)
        assert client.state is State.CLOSED
        with pytest.raises(ClientClosedError):
            client.get("/")


@pytest.mark.parametrize("handshake", [header_only, read_only, expire, drop_before, reset])
@simulated
async def test_start_names_a_server_that_grants_no_session(handshake):
    async with ScriptedServer() as server:
        server.handshake = handshake
        with pytest.raises(StartError) as raised:
            await server.client().start()
        assert [name for name, _ in raised.value.failures] == [server.address]


@pytest.mark.parametrize("handshake", [accept, without_read_only_byte])
@simulated
async def test_start_connects(handshake):
    async with ScriptedServer() as server:
        server.handshake = handshake
        client = server.client(session_timeout=7.5)
        changes = listen_to(client)
        await client.start()
        (greeting,) = server.greetings
        assert (greeting.session_id, greeting.timeout_ms, greeting.last_zxid_seen) == (0, 7500, 0)
        assert client.state is State.CONNECTED
        assert client.session_id != 0
        await client.sync()
        (change,) = changes
        assert change == StateChange(State.CONNECTED, State.CONNECTING, client.session_id, 0, 1, server.address, None)
        await client.close()


@simulated
async def test_every_server_is_tried_once_without_a_start_timeout():
    async with ScriptedServer() as first, ScriptedServer() as second:
        first.refusing = second.refusing = True
        with pytest.raises(StartError):
            await Client([first.address, second.address]).start()
        assert (len(first.connections), len(second.connections)) == (1, 1)


@simulated
async def test_with_a_start_timeout_it_keeps_trying():
    async with ScriptedServer() as server:
        server.refusing = True
        client = server.client(start_timeout=30)
        starting = asyncio.create_task(client.start())
        await server.wait_for_connections(5)
        assert not starting.done()
        server.refusing = False
        await starting
        assert client.state is State.CONNECTED
        await client.close()


@simulated
async def test_a_start_timeout_that_runs_out_names_the_servers():
    async with ScriptedServer() as server:
        server.refusing = True
        began = this_loop().time()
        with pytest.raises(StartError) as raised:
            await server.client(start_timeout=3).start()
        assert this_loop().time() - began == pytest.approx(3, abs=0.01)
        assert [name for name, _ in raised.value.failures] == [server.address]
        assert len(server.connections) > 3


@simulated
async def test_a_start_timeout_that_runs_out_in_the_first_round_names_them_too():
    async with ScriptedServer() as refusing, ScriptedServer() as mute:
        refusing.refusing, mute.handshake = True, never
        client = Client([refusing.address, mute.address], shuffle=False, start_timeout=1)
        with pytest.raises(StartError) as raised:
            await client.start()
        assert refusing.address in str(raised.value)
        assert mute.address in str(raised.value)


@simulated
async def test_start_without_waiting_returns_at_once_and_keeps_trying():
    async with ScriptedServer() as server:
        server.refusing = True
        client = server.client()
        await client.start(wait=False)
        assert client.state is State.CONNECTING
        assert server.connections == []
        call = client.exists("/")
        await server.wait_for_connections(5)
        assert client.state is State.CONNECTING
        server.refusing = False
        assert await call is not None
        await client.close()


@on_every_loop
async def test_start_can_be_cancelled():
    async with ScriptedServer() as server:
        server.handshake = never
        sockets = open_sockets()
        client = server.client()
        starting = asyncio.create_task(client.start())
        await server.until(lambda: server.greetings)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert client.state is State.CLOSED
        await server.until(lambda: not server.open_connections and server.connection.transport is None)
        gc.collect()
        assert open_sockets() == sockets


@simulated
async def test_start_with_refused_credentials():
    async with ScriptedServer() as server:
        server.on(Op.AUTH, fail_with(-115))
        client = server.client(auth=[("digest", b"bob:secret")])
        with pytest.raises(AuthFailedError):
            await client.start()
        assert client.state is State.CLOSED


@simulated
async def test_a_client_is_started_once():
    async with ScriptedServer() as server:
        client = server.client()
        first = asyncio.create_task(client.start())
        await asyncio.sleep(0)
        with pytest.raises(AlreadyStartedError):
            await client.start()
        await first
        with pytest.raises(AlreadyStartedError):
            await client.start(wait=False)
        assert client.state is State.CONNECTED
        await client.close()
        with pytest.raises(ClientStateError):
            await client.start()
        assert len(server.connections) == 1


@simulated
async def test_closing_ends_a_start_that_waits():
    async with ScriptedServer() as server:
        server.handshake = never
        client = server.client()
        starting = asyncio.create_task(client.start())
        await server.until(lambda: server.greetings)
        await client.close()
        with pytest.raises(ClientClosedError):
            await starting


# --- async with ---------------------------------------------------------------------------------------------------


@on_every_loop
async def test_the_block_starts_and_closes():
    async with ScriptedServer() as server:
        async with server.client() as client:
            assert client.state is State.CONNECTED
            await client.create("/a", ephemeral=True)
        assert client.state is State.CLOSED
        assert set(server.znodes.nodes) == SPECIAL_PATHS
        assert server.znodes.session_ids == []


@simulated
async def test_the_block_closes_when_it_raises():
    async with ScriptedServer() as server:
        client = server.client()
        with pytest.raises(ZeroDivisionError):
            async with client:
                raise ZeroDivisionError
        assert client.state is State.CLOSED


@simulated
async def test_a_block_that_can_not_start_raises():
    with pytest.raises(StartError):
        async with Client(f"127.0.0.1:{closed_port()}"):
            raise AssertionError("not reached")


# --- close --------------------------------------------------------------------------------------------------------


async def assert_closed(client: Client, *, within: float, by: float | None = None) -> None:
    """Closes, and checks what is true of every closed client."""
    changes = listen_to(client)
    began = asyncio.get_running_loop().time()
    await client.close() if by is None else await client.close(by)
    assert asyncio.get_running_loop().time() - began <= within
    assert client.state is State.CLOSED
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [change.state for change in changes] == [State.CLOSED]
    with pytest.raises(ClientClosedError):
        client.get("/")
    with pytest.raises(ClientClosedError):
        await client.wait_connected()
    await client.close()
    async with client.states() as states:
        assert [change.state async for change in states] == [State.CLOSED]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@on_every_loop
async def test_close_when_connected_answers_what_was_called_before():
    async with ScriptedServer() as server:
        client = server.client(max_in_flight=2)
        await client.start()
        calls = [client.create(f"/{number}") for number in range(10)]
        await assert_closed(client, within=4)
        assert [(await call).path for call in calls] == [f"/{number}" for number in range(10)]
        assert server.requests[-1].op == Op.CLOSE_SESSION
        assert server.znodes.session_ids == []


@simulated
async def test_close_while_it_dials():
    with deaf_port() as port:
        client = Client(f"127.0.0.1:{port}")
        await client.start(wait=False)
        call = client.create("/a")
        await assert_closed(client, within=0.01)
        with pytest.raises(ClientClosedError) as raised:
            await call
        assert raised.value.outcome is Outcome.NOT_APPLIED


@simulated
async def test_close_while_it_resolves():
    async def slow() -> list[str]:
        await asyncio.sleep(1e6)
        return []

    this_loop().names["zk"] = slow
    client = Client("zk")
    await client.start(wait=False)
    await assert_closed(client, within=0.01)


@simulated
async def test_close_in_the_handshake():
    async with ScriptedServer() as server:
        server.handshake = never
        client = server.client()
        await client.start(wait=False)
        await server.until(lambda: server.greetings)
        await assert_closed(client, within=0.01)
        await server.until(lambda: not server.open_connections)


@simulated
async def test_close_while_credentials_are_unanswered():
    async with ScriptedServer() as server:
        server.on(Op.AUTH, go_silent)
        client = server.client(auth=[("digest", b"bob:secret")])
        await client.start(wait=False)
        await server.wait_for_requests(1)
        await assert_closed(client, within=5.01)


@pytest.mark.parametrize("timeout", [None, 0, 0.5])
@simulated
async def test_close_when_the_server_is_silent(timeout):
    async with ScriptedServer() as server:
        client = server.client(close_timeout=1.5)
        await client.start()
        server.next(hold)
        write, read = client.create("/a"), client.get("/")
        await server.wait_for_requests(2)
        server.connection.silent = True
        await assert_closed(client, within=1.51 if timeout is None else timeout + 0.01, by=timeout)
        with pytest.raises(OutcomeUnknownError):
            await write
        with pytest.raises(ClientClosedError):
            await read
        assert len(server.connections) == 1


@simulated
async def test_close_when_the_server_does_not_read():
    async with ScriptedServer() as server:
        client = server.client(close_timeout=1.5)
        await client.start()
        await client.create("/a")
        assert server.connection.transport is not None
        server.connection.transport.pause_reading()
        calls = []
        for _ in range(20):
            calls.append(client.set("/a", bytes(1_000_000)))
            await asyncio.sleep(0)
        await assert_closed(client, within=1.51)
        ends = {type(end) for end in await asyncio.gather(*calls, return_exceptions=True)}
        assert ends == {OutcomeUnknownError, ClientClosedError}


@simulated
async def test_close_without_a_timeout_waits_for_the_server():
    async with ScriptedServer() as server:
        client = server.client(session_timeout=600)
        await client.start()
        server.next(hold)
        call = client.create("/a")
        await server.wait_for_requests(1)
        closing = asyncio.create_task(client.close(None))
        await asyncio.sleep(50)
        assert not closing.done()
        with pytest.raises(ClientClosedError):
            client.get("/")
        server.connection.release()
        await closing
        assert (await call).path == "/a"


@pytest.mark.parametrize("state", [State.SUSPENDED, State.LOST])
@simulated
async def test_close_when_disconnected_never_reconnects(state):
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        server.refusing = True
        server.connection.reset()
        await in_state(client, state)
        write = client.create("/a")
        connections = len(server.connections)
        server.refusing = False
        await assert_closed(client, within=0.01)
        with pytest.raises(ClientClosedError):
            await write
        await asyncio.sleep(10)
        assert len(server.connections) <= connections + 1
        assert server.open_connections == []


@simulated
async def test_close_when_the_connection_breaks_meanwhile():
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        server.on(Op.CLOSE_SESSION, reset)
        await assert_closed(client, within=0.01)
        assert len(server.connections) == 1


@simulated
async def test_close_when_the_credentials_were_refused():
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        server.on(Op.AUTH, fail_with(-115))
        with pytest.raises(AuthFailedError):
            await client.add_auth("digest", b"bob:secret")
        await in_state(client, State.AUTH_FAILED)
        await assert_closed(client, within=0.01)


@simulated
async def test_close_before_start():
    client = Client("127.0.0.1:1")
    states, heard = client.states(), listen_to(client)
    await client.close()
    assert client.state is State.CLOSED
    await asyncio.sleep(0)
    assert [change.state for change in heard] == [State.CLOSED]
    assert [change.state async for change in states][-1] is State.CLOSED
    await client.close()
    with pytest.raises(ClientClosedError):
        await client.start()
    with pytest.raises(ClientClosedError):
        client.get("/")


@simulated
async def test_close_twice_and_from_several_tasks():
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        await asyncio.gather(client.close(), client.close(), client.close(1))
        await client.close()
        assert [request.op for request in server.requests] == [Op.CLOSE_SESSION]


@simulated
async def test_close_goes_on_when_it_is_cancelled():
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        server.on(Op.CLOSE_SESSION, hold)
        closing = asyncio.create_task(client.close())
        await server.wait_for_requests(1)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        server.connection.release()
        await client.close()
        assert server.znodes.session_ids == []


@simulated
async def test_close_refuses_a_bad_timeout():
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(InvalidArgumentError):
            await client.close(-1)
        assert client.state is State.CONNECTED


# --- the moment, the loop, the thread -----------------------------------------------------------------------------

CALLS: list[Callable[[Client], Any]] = [
    lambda client: client.get("/"),
    lambda client: client.create("/a"),
    lambda client: client.transaction().commit(),
    lambda client: client.add_auth("digest", b"a:b"),
]


@pytest.mark.parametrize("call", CALLS)
@simulated
async def test_calls_before_start_and_after_close(call):
    async with ScriptedServer() as server:
        client = server.client()
        with pytest.raises(NotStartedError):
            call(client)
        with pytest.raises(NotStartedError):
            await client.wait_connected()
        with pytest.raises(NotStartedError):
            client.in_session()
        assert server.connections == []
        await client.start()
        await client.close()
        sent = len(server.requests)
        with pytest.raises(ClientClosedError):
            call(client)
        assert len(server.requests) == sent


@pytest.mark.parametrize("call", CALLS)
@simulated
async def test_calls_from_another_thread(call):
    async with ScriptedServer() as server, server.client() as client:
        raised: list[BaseException] = []

        def without_loop() -> None:
            try:
                call(client)
            except EverlatchError as error:
                raised.append(error)

        async def in_loop() -> None:
            without_loop()
            try:
                await client.close()
            except EverlatchError as error:
                raised.append(error)

        for target in (without_loop, lambda: asyncio.run(in_loop())):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        assert [type(error) for error in raised] == [WrongLoopError] * 3
        assert "run_coroutine_threadsafe" in str(raised[0])
        await client.sync()
        assert [request.op for request in server.requests] == [Op.SYNC]


def test_calls_from_another_loop():
    async def begin(client: Client) -> None:
        await client.start(wait=False)

    async def go_on(client: Client) -> None:
        with pytest.raises(WrongLoopError):
            client.get("/")
        with pytest.raises(AlreadyStartedError):
            await client.start()

    client = Client(f"127.0.0.1:{closed_port()}")
    asyncio.run(begin(client))
    with pytest.raises(WrongLoopError):
        client.get("/")
    asyncio.run(go_on(client))


def test_closing_a_closed_client_is_harmless_in_any_loop():
    async def live(client: Client) -> None:
        await client.start(wait=False)
        await client.close()

    client = Client(f"127.0.0.1:{closed_port()}")
    asyncio.run(live(client))
    asyncio.run(client.close())
    assert client.state is State.CLOSED


# --- states -------------------------------------------------------------------------------------------------------


@on_every_loop
async def test_listeners_and_subscriptions_get_every_change_in_order():
    znodes = Znodes()
    async with ScriptedServer(znodes) as server:
        client = server.client()
        heard = listen_to(client)
        late: list[StateChange] = []

        async def slowly(change: StateChange) -> None:
            await asyncio.sleep(0)
            late.append(change)

        client.add_listener(slowly)
        async with client, client.states() as states:
            first = client.session_id
            server.connection.reset()
            await client.sync()
            server.handshakes.append(expire)
            server.connection.reset()
            await client.sync()
            second = client.session_id
        seen = [change async for change in client.states()]
        assert [change.state for change in seen] == [State.CLOSED]
        expected = [
            (State.CONNECTED, State.CONNECTING, first, 0, 1),
            (State.SUSPENDED, State.CONNECTED, first, first, 1),
            (State.CONNECTED, State.SUSPENDED, first, first, 1),
            (State.SUSPENDED, State.CONNECTED, first, first, 1),
            (State.LOST, State.SUSPENDED, first, first, 1),
            (State.RENEWED, State.LOST, second, first, 2),
            (State.CONNECTED, State.RENEWED, second, second, 2),
            (State.CLOSED, State.CONNECTED, second, second, 2),
        ]
        del states
        await asyncio.sleep(0)
        await in_state(client, State.CLOSED)
        await until(lambda: len(late) == len(heard))
        assert [change[:5] for change in heard] == expected
        assert late == heard


@simulated
async def test_a_subscription_begins_with_the_present_state_and_ends_with_closed():
    async with ScriptedServer() as server:
        client = server.client()
        before = client.states()
        async with client:
            since = client.states()
            server.connection.reset()
            await client.sync()
        told = [State.CONNECTED, State.SUSPENDED, State.CONNECTED, State.CLOSED]
        assert [change.state async for change in before] == [State.CONNECTING, *told]
        assert [change.state async for change in since] == told


@simulated
async def test_a_session_handed_out_unasked_is_a_new_one():
    async with ScriptedServer() as server, server.client() as client:
        changes = listen_to(client)
        old = client.session_id
        server.handshakes.append(other_session)
        server.connection.reset()
        await client.sync()
        renewed = next(change for change in changes if change.state is State.RENEWED)
        assert (renewed.previous_session_id, renewed.session_id) == (old, client.session_id)
        assert client.session_id != old
        assert client.session_id in server.znodes.session_ids


@simulated
async def test_a_listener_can_be_removed():
    async with ScriptedServer() as server, server.client() as client:
        heard: list[StateChange] = []
        remove = client.add_listener(heard.append)
        remove()
        remove()
        server.connection.reset()
        await client.sync()
        assert heard == []
        with pytest.raises(InvalidTypeError):
            client.add_listener("listener")  # type: ignore[arg-type]


@simulated
async def test_lost_is_assumed_without_any_server():
    async with ScriptedServer() as server, server.client(session_timeout=6) as client:
        await server.until(lambda: len(server.pings) == 3)
        proven = server.pings[-1]
        server.refusing = True
        server.connection.reset()
        change = await in_state(client, State.LOST)
        assert this_loop().time() == pytest.approx(proven + 6, abs=0.01)
        assert isinstance(change.reason, SilentLinkError)
        # The servers kept it: life goes on in it.
        server.refusing = False
        change = await in_state(client, State.CONNECTED)
        assert (change.previous, change.generation) == (State.LOST, 1)


# --- wait_connected -----------------------------------------------------------------------------------------------


@simulated
async def test_wait_connected():
    async with ScriptedServer() as server:
        client = server.client()
        server.refusing = True
        await client.start(wait=False)
        with pytest.raises(TimeoutError) as raised:
            await client.wait_connected(0.5)
        assert isinstance(raised.value, EverlatchError)
        waiting = asyncio.create_task(client.wait_connected())
        await server.wait_for_connections(3)
        assert not waiting.done()
        server.refusing = False
        await waiting
        await client.wait_connected(0)
        last = asyncio.create_task(client.wait_connected())
        await last
        server.refusing = True
        server.connection.reset()
        await in_state(client, State.SUSPENDED)
        doomed = asyncio.create_task(client.wait_connected())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ClientClosedError):
            await doomed


# --- sessions -----------------------------------------------------------------------------------------------------


@simulated
async def test_session_time_left():
    async with ScriptedServer() as server:
        client = server.client(session_timeout=6)
        assert client.session_time_left == 0
        async with client:
            assert client.session_time_left == pytest.approx(6, abs=0.01)
            await asyncio.sleep(0.5)
            assert client.session_time_left == pytest.approx(5.5, abs=0.01)
            await client.sync()
            assert client.session_time_left == pytest.approx(6, abs=0.01)
            server.refusing = True
            server.connection.reset()
            await in_state(client, State.SUSPENDED)
            await asyncio.sleep(2)
            assert client.session_time_left == pytest.approx(4, abs=0.01)
            # It reads the clock, whatever the state still says.
            this_loop().skip(10)
            assert client.state is State.SUSPENDED
            assert client.session_time_left == 0
            await in_state(client, State.LOST)
            assert client.session_time_left == 0
        assert client.session_time_left == 0


@simulated
async def test_in_session():
    async with ScriptedServer() as server:
        client = server.client("/app")
        with pytest.raises(NotStartedError):
            client.in_session()
        async with client:
            view = client.in_session()
            assert repr(view) == "<SessionClient session number 1 of 1>"
            await view.ensure_path("/a")
            assert (await view.get("/a")).data == b""
            assert "/app/a" in server.znodes.nodes
            assert (view.session_id, view.state, view.generation) == (client.session_id, State.CONNECTED, 1)
            assert view.is_current
            # A blip doesn't matter.
            server.connection.reset()
            assert await view.exists("/a") is not None
            # A new session does.
            server.handshakes.append(expire)
            server.connection.reset()
            await in_state(client, State.RENEWED)
            assert not view.is_current
            for call in (lambda: view.get("/a"), lambda: view.create("/b"), lambda: view.transaction().commit()):
                with pytest.raises(SessionExpiredError):
                    await call()
            assert await client.get("/a") is not None
            assert client.in_session().is_current
        with pytest.raises(ClientClosedError):
            client.in_session()


@simulated
async def test_in_session_before_the_first_session_says_what_to_wait_for():
    client = Client("127.0.0.1:1")
    await client.start(wait=False)
    with pytest.raises(ClientStateError, match="wait_connected"):
        client.in_session()
    await client.close()


@simulated
async def test_calls_of_a_dead_session_fail_while_there_is_no_connection():
    async with ScriptedServer() as server, server.client() as client:
        view = client.in_session()
        waiting: list[Any] = []

        def expire_and_vanish(connection: Any, request: Any) -> None:
            server.refusing = True
            expire(connection, request)

        server.handshakes.append(expire_and_vanish)
        server.connection.reset()
        await in_state(client, State.SUSPENDED)
        waiting.append(view.create("/before"))
        await in_state(client, State.LOST)
        with pytest.raises(SessionExpiredError):
            await waiting[0]
        with pytest.raises(SessionExpiredError):
            await view.create("/after")
        with pytest.raises(SessionExpiredError):
            client.in_session()


# --- what it tells of itself --------------------------------------------------------------------------------------


@simulated
async def test_repr_is_a_status_line():
    async with ScriptedServer() as server:
        client = server.client()
        assert repr(client) == (
            "<Client CONNECTING, session 0x0 (number 0), server None, 0 in flight, 0 queued, 0 watches>"
        )
        async with client:
            await client.exists("/", watch=print)
            server.next(hold)
            calls = [client.sync(), client.sync()]
            await server.wait_for_requests(3)
            assert repr(client) == (
                f"<Client CONNECTED, session 0x{client.session_id:x} (number 1), server {server.address}, "
                "2 in flight, 0 queued, 1 watches>"
            )
            server.connection.release()
            await asyncio.gather(*calls)
        assert "CLOSED" in repr(client)


@simulated
async def test_statistics():
    async with ScriptedServer() as server:
        client = server.client(max_in_flight=2)
        assert client.statistics().connections == 0
        async with client:
            await client.create("/a")
            await client.exists("/a", watch=lambda _: None)
            assert client.statistics().watches == 1
            server.next(hold)
            write, calls = client.set("/a", b"1"), [client.get("/a") for _ in range(3)]
            await server.wait_for_requests(4)
            now = client.statistics()
            assert now.state is State.CONNECTED
            assert (now.session_id, now.generation) == (client.session_id, 1)
            assert now.server == server.address
            assert (now.in_flight, now.queued_calls, now.watches) == (2, 2, 0)
            assert now.queued_bytes == 2 * (12 + 4 + 2 + 1)
            assert (now.requests_sent, now.replies_received) == (4, 2)
            assert now.connections == now.connection_attempts == 1
            server.connection.reset()
            with pytest.raises(OutcomeUnknownError):
                await write
            await asyncio.gather(*calls)
            await client.sync()
            then = client.statistics()
            assert then.connections == 2
            assert then.requests_repeated == 1
            assert then.outcomes_unknown == 1
            assert (then.in_flight, then.queued_calls, then.queued_bytes) == (0, 0, 0)
            assert then.events_received == 1
            assert then.last_zxid == server.znodes.zxid
            assert then.bytes_sent > now.bytes_sent > 0
            assert then.bytes_received > now.bytes_received > 0


@simulated
async def test_secrets_are_in_no_log_line_no_repr_and_no_error(caplog):
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    async with ScriptedServer() as server:
        client = server.client(auth=[("digest", b"alice:credential-1")])
        client.add_listener(lambda change: told.append(repr(change)))
        async with client:
            password = client.session_password
            call = client.add_auth("digest", b"bob:credential-2")
            told.append(repr(call))
            await call
            session = client._engine.session
            told += [repr(client), repr(client.in_session()), repr(client.statistics()), repr(session.credentials)]
            told += [repr(credential) for credential in session.credentials._all.values()]
            server.next(drop_after)
            with pytest.raises(OutcomeUnknownError) as unknown:
                await client.create("/a")
            assert unknown.value.seen
            told.append(repr(unknown.value))
            server.handshakes.append(expire)
            server.connection.reset()
            await in_state(client, State.RENEWED)
            server.on(Op.AUTH, fail_with(-115))
            with pytest.raises(AuthFailedError) as refused:
                await client.add_auth("digest", b"carol:credential-3")
            told.append(repr(refused.value) + str(refused.value))
    everything = caplog.text + "".join(told)
    assert "AUTH_FAILED" in everything
    assert repr(password)[2:-1] not in everything
    assert "credential-" not in everything
    assert password.hex() not in everything


@simulated
async def test_one_log_line_per_change_of_state(caplog):
    caplog.set_level(logging.INFO, logger="everlatch")
    async with ScriptedServer() as server:
        async with server.client() as client:
            server.connection.reset()
            await client.sync()
            server.handshakes.append(expire)
            server.connection.reset()
            await client.sync()
        lines = [(record.levelname, record.getMessage().split(",")[0]) for record in caplog.records]
        assert lines == [
            ("INFO", "CONNECTING -> CONNECTED"),
            ("INFO", "CONNECTED -> SUSPENDED"),
            ("INFO", "SUSPENDED -> CONNECTED"),
            ("INFO", "CONNECTED -> SUSPENDED"),
            ("WARNING", "SUSPENDED -> LOST"),
            ("INFO", "LOST -> RENEWED"),
            ("INFO", "RENEWED -> CONNECTED"),
            ("INFO", "CONNECTED -> CLOSED"),
        ]


@simulated
async def test_names_and_numbers_for_recipes():
    async with ScriptedServer() as server, server.client(rng=random.Random(1)) as client:
        guid = client.new_guid()
        assert len(guid) == 36
        assert client.new_guid() != guid
        assert client.in_session().generation_bound == client.generation == 1
        assert client.connections == 1
        server.connection.reset()
        await client.sync()
        assert client.connections == 2


# --- the choice of the server -------------------------------------------------------------------------------------


@simulated
async def test_the_order_of_servers_comes_from_the_clients_own_randomness():
    znodes = Znodes()
    async with ScriptedServer(znodes) as a, ScriptedServer(znodes) as b, ScriptedServer(znodes) as c:
        servers = [a.address, b.address, c.address]

        async def first(**options: Any) -> str | None:
            async with Client(servers, **options) as client:
                return client.statistics().server

        assert {await first(shuffle=False) for _ in range(3)} == {a.address}
        assert len({await first(rng=random.Random(7)) for _ in range(3)}) == 1
        assert {await first(rng=random.Random(seed)) for seed in range(20)} == set(servers)


@simulated
async def test_after_a_loss_another_server_is_tried_first():
    znodes = Znodes()
    async with (
        ScriptedServer(znodes) as a,
        ScriptedServer(znodes) as b,
        Client([a.address, b.address], shuffle=False) as client,
    ):
        a.connection.reset()
        await client.sync()
        assert client.statistics().server == b.address
        assert client.generation == 1


@simulated
async def test_the_lease_is_the_shorter_the_less_is_taken_for_granted():
    """With T = 10 s, of which the drift is taken off."""
    async with ScriptedServer() as server, server.client(session_timeout=10.0, lease_drift=0.3) as client:
        client.hold_lease()
        await client.wait_lease()
        assert client.lease_time_left <= 7.0
