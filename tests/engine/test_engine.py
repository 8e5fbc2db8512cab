"""The engine: it moves bytes, arms one timer, and performs what its session asks for."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from typing import TYPE_CHECKING

import pytest

from engine.links import SpyingDialer, closed_port, deaf_port, open_sockets, spy_on, until
from everlatch import (
    CallTimeoutError,
    Client,
    ClientClosedError,
    ConnectFailedError,
    ConnectionClosedByServerError,
    HandshakeTimeoutError,
    NotStartedError,
    OutcomeUnknownError,
    RetryForever,
    StartError,
    State,
    StateChange,
    SystemZookeeperError,
)
from everlatch.engine.transport import Link, TcpDialer
from everlatch.session.watches import DATA
from everlatch.wire.codes import Op
from everlatch.wire.framing import frame
from everlatch.wire.headers import encode_reply
from scripted_server import ScriptedServer, Znodes, expire, fail_with, go_silent, hold, never, reset, swallow
from skipping_loop import on_every_loop, simulated, this_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.session.servers import Address


# --- flushing -----------------------------------------------------------------------------------------------------


@on_every_loop
async def test_the_calls_of_a_turn_go_out_in_one_write():
    async with ScriptedServer() as server:
        client = server.client()
        dialer = spy_on(client)
        async with client:
            await client.sync()
            writes = dialer.transports[0].writes
            writes.clear()
            calls = [client.exists(f"/{number}") for number in range(50)]
            assert len(writes) == 1, "the first finds nothing in flight and goes at once"
            await asyncio.gather(*calls)
            assert len(writes) == 2
            assert server.paths(Op.EXISTS) == [f"/{number}" for number in range(50)]


@on_every_loop
async def test_a_call_that_finds_nothing_in_flight_goes_at_once():
    async with ScriptedServer() as server:
        client = server.client()
        dialer = spy_on(client)
        async with client:
            for number in range(3):
                sent = len(dialer.transports[0].writes)
                call = client.exists("/")
                assert len(dialer.transports[0].writes) == sent + 1, number
                await call


@on_every_loop
async def test_one_shot_watches_that_are_left_are_removed_in_one_write_while_there_is_a_server():
    async with ScriptedServer() as server:
        client = server.client()
        dialer = spy_on(client)
        async with client:
            for path in ("/a", "/b", "/c"):
                await client.exists(path, watch=print)
            writes = dialer.transports[0].writes
            writes.clear()
            for path in ("/a", "/b"):
                client._engine.leave_one_shot(DATA, path, print)
            await server.until(lambda: server.paths(Op.REMOVE_WATCHES) == ["/a", "/b"])
            assert len(writes) == 1
            assert not await client.check_watches("/b")
            assert await client.check_watches("/c")
        client._engine.leave_one_shot(DATA, "/c", print)
        assert server.paths(Op.REMOVE_WATCHES) == ["/a", "/b"]


# --- time ---------------------------------------------------------------------------------------------------------


@simulated
async def test_pings_every_sixth_of_the_session_timeout():
    async with ScriptedServer(max_session_timeout=6) as server, server.client():
        await server.until(lambda: len(server.pings) == 6)
        gaps = [later - sooner for sooner, later in zip(server.pings, server.pings[1:], strict=False)]
        assert gaps == pytest.approx([1.0] * 5)


@simulated
async def test_the_timer_moves_when_something_is_due_earlier():
    async with ScriptedServer() as server, server.client() as client:
        server.next(*[swallow] * 4)
        loop, began = this_loop(), this_loop().time()
        ended: list[tuple[float, float]] = []
        for timeout in (3.0, 0.5, 1.0):
            call = client.exists("/", timeout=timeout)
            call.add_done_callback(lambda _, timeout=timeout: ended.append((timeout, loop.time() - began)))
            call.add_done_callback(lambda call: call.exception())
        await server.until(lambda: len(server.requests) == 3)
        with pytest.raises(CallTimeoutError):
            await client.exists("/", timeout=3.1)
        assert [timeout for timeout, _ in ended] == [0.5, 1.0, 3.0]
        assert [when for _, when in ended] == pytest.approx([0.5, 1.0, 3.0], abs=0.002)


@simulated
async def test_there_is_one_timer_at_most():
    async with ScriptedServer() as server, server.client() as client:
        loop = asyncio.get_running_loop()
        for number in range(20):
            await client.exists("/", timeout=20.0 - number)
        due = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        assert len(due) == 1


@simulated
async def test_no_timer_is_left_when_it_is_closed():
    async with ScriptedServer() as server:
        async with server.client() as client:
            await client.exists("/", timeout=20)
        await server.until(lambda: not server.open_connections)
        loop = asyncio.get_running_loop()
        assert not [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]


@simulated
async def test_says_when_the_loop_was_blocked(caplog):
    async with ScriptedServer() as server, server.client(session_timeout=6):
        this_loop().skip(1.5)
        await server.until(lambda: server.pings)
        assert "the event loop was blocked for 0.5 s" in caplog.text


@simulated
async def test_says_so_when_a_call_comes_before_the_late_timer(caplog):
    async with ScriptedServer() as server, server.client(session_timeout=6) as client:
        this_loop().skip(1.5)
        await client.exists("/", timeout=5)
        assert "the event loop was blocked for 0.5 s" in caplog.text
        assert caplog.text.count("was blocked") == 1


@simulated
async def test_a_server_that_was_silent_is_no_blocked_loop(caplog):
    """Its first answer brings forward a ping that was due long ago."""
    async with ScriptedServer() as server, server.client(session_timeout=6) as client:
        client._engine.search.doubt = lambda _: None  # nobody answers
        server.next(hold, swallow)
        read, write = client.exists("/"), client.create("/a")
        await asyncio.sleep(2.5)
        server.connection.release()
        await read
        await server.until(lambda: server.pings)
        assert "blocked" not in caplog.text
        server.connection.reset()
        with contextlib.suppress(OutcomeUnknownError):
            await write


@simulated
async def test_a_short_silence_budget_counts_from_the_request_that_ends_a_rest():
    """However far off the timer is at that moment."""
    async with ScriptedServer() as server, server.client(session_timeout=10, silence_budget=0.05) as client:
        for rest in (0.0, 0.1, 1.0):
            await client.exists("/")
            await asyncio.sleep(rest)
            server.connection.silent = True
            began = this_loop().time()
            call = client.exists("/")
            while not client._engine.session.doubts_link:
                await asyncio.sleep(0.001)
            assert this_loop().time() - began == pytest.approx(0.05, abs=0.01)
            server.connection.reset()
            await call


# --- reading ------------------------------------------------------------------------------------------------------


@on_every_loop
async def test_with_many_in_flight_reading_pauses_and_resumes():
    async with ScriptedServer() as server:
        client = server.client()
        dialer = spy_on(client)
        async with client:
            # Held, so that one reply comes while the others are still in flight.
            server.next(hold)
            calls = [client.exists("/") for _ in range(500)]
            await server.wait_for_requests(500)
            held = server.connection.held
            server.connection.send_raw(held.pop(0))
            await calls[0]
            assert dialer.transports[0].pauses == 1
            server.connection.release()
            await asyncio.gather(*calls)
            await client.exists("/")
            assert dialer.transports[0].pauses == dialer.transports[0].resumes


@on_every_loop
async def test_with_few_in_flight_reading_never_pauses():
    async with ScriptedServer() as server:
        client = server.client()
        dialer = spy_on(client)
        async with client:
            for _ in range(5):
                await asyncio.gather(*[client.exists("/") for _ in range(50)])
            assert dialer.transports[0].pauses == 0


@on_every_loop
async def test_a_connection_that_breaks_while_reading_pauses_does_no_harm():
    async with ScriptedServer() as server, server.client() as client:
        server.next(hold)
        calls = [client.exists("/") for _ in range(200)]
        await server.wait_for_requests(200)
        server.connection.send_raw(server.connection.held.pop(0))
        await calls[0]
        server.connection.reset()
        await asyncio.gather(*calls)
        assert client.statistics().connections == 2


# --- writing ------------------------------------------------------------------------------------------------------


@on_every_loop
async def test_what_a_server_does_not_read_waits_in_our_queue():
    async with ScriptedServer() as server:
        client = server.client()
        dialer = spy_on(client)
        async with client:
            await client.create("/a")
            peer = server.connection
            assert peer.transport is not None
            peer.transport.pause_reading()
            data = bytes(1_000_000)
            calls = []
            for _ in range(40):
                calls.append(client.set("/a", data))
                await asyncio.sleep(0)
            assert not dialer.links[0].writable
            waiting = client.statistics().queued_calls
            assert 0 < waiting < 40
            peer.transport.resume_reading()
            stats = await asyncio.gather(*calls)
            assert [stat.version for stat in stats] == list(range(1, 41))


# --- connecting ---------------------------------------------------------------------------------------------------


async def unknown_name() -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def slow_name() -> list[str]:
    await asyncio.sleep(1e6)
    return []


async def known_name() -> list[str]:
    return ["127.0.0.1"]


@simulated
async def test_a_name_that_does_not_resolve_is_named():
    this_loop().names["zk1"] = unknown_name
    with pytest.raises(StartError, match=r"zk1:2181: 'zk1' did not resolve: .*Name or service not known") as raised:
        await Client("zk1").start()
    ((server, reason),) = raised.value.failures
    assert server == "zk1:2181"
    assert isinstance(reason, ConnectFailedError)
    assert isinstance(reason.__cause__, socket.gaierror)


@simulated
async def test_a_resolver_may_raise_anything():
    async def broken() -> list[str]:
        raise RuntimeError("cannot schedule new futures after shutdown")

    this_loop().names["zk1"] = broken
    with pytest.raises(StartError, match="'zk1' did not resolve: cannot schedule"):
        await Client("zk1").start()


@pytest.mark.parametrize("name", ["bad", "slow"])
@simulated
async def test_a_name_that_does_not_resolve_is_passed_over(name):
    this_loop().names.update(bad=unknown_name, slow=slow_name, good=known_name)
    async with (
        ScriptedServer() as server,
        Client(f"{name}:1,good:{server.port}", shuffle=False) as client,
    ):
        assert client.statistics().server == f"good:{server.port} (127.0.0.1)"


@simulated
async def test_all_addresses_of_a_name_are_tried():
    async def many() -> list[str]:
        return ["127.0.0.2", "127.0.0.3", "127.0.0.1"]

    this_loop().names["zk"] = many
    async with ScriptedServer() as server, Client(f"zk:{server.port}", shuffle=False) as client:
        assert client.state is State.CONNECTED
        assert client.statistics().connection_attempts == 3


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@on_every_loop
async def test_connects_by_name_and_by_address(host):
    if host == "localhost" and getattr(asyncio.get_running_loop(), "virtual_time", False):
        this_loop().names[host] = known_name
    async with ScriptedServer() as server, Client(f"{host}:{server.port}") as client:
        assert await client.exists("/") is not None


@on_every_loop
async def test_a_name_that_no_resolver_takes_is_a_failure_like_others():
    if getattr(asyncio.get_running_loop(), "virtual_time", False):
        this_loop().names["a" * 70] = unknown_name
    with pytest.raises(StartError, match="did not resolve"):
        await Client("a" * 70).start()


@on_every_loop
async def test_a_dial_that_fails_is_named_and_passed_over():
    port = closed_port()
    with pytest.raises(StartError, match=rf"127\.0\.0\.1:{port}: connecting to .* failed: ") as raised:
        await Client(f"127.0.0.1:{port}").start()
    ((_, reason),) = raised.value.failures
    assert isinstance(reason.__cause__, ConnectionRefusedError)
    async with ScriptedServer() as server, Client(f"127.0.0.1:{port},{server.address}", shuffle=False) as client:
        assert await client.exists("/") is not None


@simulated
async def test_a_dialer_may_raise_anything():
    class Broken(SpyingDialer):
        async def dial(self, address: Address, make_link: Callable[[], Link]) -> None:
            raise ZeroDivisionError("a bug of the dialer")

    client = Client("127.0.0.1:1")
    client._engine._dialer = Broken()
    with pytest.raises(StartError, match="a bug of the dialer"):
        await client.start()


@simulated
async def test_a_server_that_never_completes_the_connection_is_passed_over():
    with deaf_port() as port:
        async with ScriptedServer() as server:
            before = open_sockets()
            async with Client(f"127.0.0.1:{port},{server.address}", shuffle=False) as client:
                assert client.statistics().server == server.address
            await server.until(lambda: not server.open_connections)
            gc.collect()
            assert open_sockets() == before
        with pytest.raises(StartError, match="no TCP connection in") as raised:
            await Client(f"127.0.0.1:{port}").start()
        assert isinstance(raised.value.failures[0][1], HandshakeTimeoutError)


@on_every_loop
async def test_closing_while_it_dials_leaves_no_socket():
    with deaf_port() as port:
        before = open_sockets()
        client = Client(f"127.0.0.1:{port}")
        await client.start(wait=False)
        await until(lambda: open_sockets() > before)
        began = asyncio.get_running_loop().time()
        await client.close()
        assert asyncio.get_running_loop().time() - began < 0.5
        await until(lambda: open_sockets() == before)
        gc.collect()


@simulated
async def test_a_connection_that_comes_too_late_is_closed():
    class Late(SpyingDialer):
        """The first connection comes although it was cancelled."""

        dials = 0

        async def dial(self, address: Address, make_link: Callable[[], Link]) -> None:
            self.dials += 1
            if self.dials == 1:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1e6)
            await super().dial(address, make_link)

    znodes = Znodes()
    async with ScriptedServer(znodes) as first, ScriptedServer(znodes) as second:
        client = Client(f"{first.address},{second.address}", shuffle=False)
        client._engine._dialer = Late()
        async with client:
            await first.wait_for_connections(1)
            await first.until(lambda: not first.open_connections)
            assert first.greetings == []
            assert client.statistics().server == second.address


@on_every_loop
async def test_the_reason_of_a_loss_is_told():
    async with ScriptedServer() as server, server.client() as client:
        changes: list[StateChange] = []
        client.add_listener(changes.append)
        server.next(reset)
        await client.exists("/")
        reason = changes[0].reason
        assert changes[0].state is State.SUSPENDED
        assert isinstance(reason, ConnectionClosedByServerError)
        assert isinstance(reason.__cause__, ConnectionResetError)
        assert "the connection broke" in str(reason)
        server.connection.close()
        await server.wait_for_connections(3)
        await client.exists("/")
        assert str(changes[2].reason) == "the server closed the connection"


@simulated
async def test_a_half_open_link_is_left():
    async with ScriptedServer() as server, server.client(session_timeout=6) as client:
        server.next(go_silent)
        began = this_loop().time()
        assert await client.exists("/") is not None
        assert this_loop().time() - began < 6 / 2
        assert client.state is State.CONNECTED


# --- for recipes --------------------------------------------------------------------------------------------------


@simulated
async def test_an_isolated_callback_harms_nobody_and_keeps_the_order(caplog):
    async with ScriptedServer() as server:
        client = server.client()
        with pytest.raises(NotStartedError):
            client.isolated(print)
        async with client:
            told: list[int] = []

            async def slow(number: int) -> None:
                told.append(number)
                await asyncio.sleep(1)
                raise ZeroDivisionError

            tell = client.isolated(slow)
            for number in range(3):
                tell(number)
            assert told == []
            await asyncio.sleep(5)
            assert told == [0, 1, 2]
            assert caplog.text.count(" raised") == 3


# --- telling ------------------------------------------------------------------------------------------------------


@on_every_loop
async def test_all_changes_of_a_read_are_told_before_a_reply_that_comes_at_once(monkeypatch: pytest.MonkeyPatch):
    """RENEWED and CONNECTED. uvloop reads in the turn in which it has written, if the answer is there by then: when
    somebody else was given the processor meanwhile."""
    order: list[str] = []
    async with ScriptedServer() as server, server.client() as client:
        resume_writing = Link.resume_writing

        def answered_at_once(link: Link) -> None:
            monkeypatch.undo()
            resume_writing(link)
            (request,) = client._engine.session.requests.in_flight
            link._events.link_received(link, frame(encode_reply(request.xid, 1, -101)))

        async def wait() -> None:
            assert await client.exists("/a") is None
            order.append("reply")

        client.add_listener(lambda change: order.append(change.state.name))
        monkeypatch.setattr(Link, "resume_writing", answered_at_once)
        server.on(Op.EXISTS, swallow)
        server.handshakes.append(expire)
        waiting = asyncio.create_task(wait())
        await server.wait_for_requests(1)
        server.connection.reset()
        await waiting
        assert order == ["SUSPENDED", "LOST", "RENEWED", "CONNECTED", "reply"]


@simulated
async def test_who_waits_is_told_in_the_order_of_the_waits():
    async with ScriptedServer() as server:
        client = server.client()
        await client.start(wait=False)
        order: list[tuple[str, int]] = []

        async def wait(number: int) -> None:
            await client.wait_connected()
            order.append(("connected", number))

        async def follow(number: int) -> None:
            async for change in client.states():
                if change.state is State.CONNECTED:
                    order.append(("state", number))

        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(wait(number))
                group.create_task(follow(number))
            await server.wait_for_connections(1)
            await client.wait_connected()
            await client.close()
        for kind in ("connected", "state"):
            assert [number for what, number in order if what == kind] == list(range(40))


@simulated
async def test_a_subscription_that_nobody_holds_is_forgotten():
    async with ScriptedServer() as server, server.client() as client:
        kept = client.states()
        for _ in range(10):
            client.states()
        gc.collect()
        assert len(client._engine._audience._subscriptions) == 1
        kept.close()
        assert len(client._engine._audience._subscriptions) == 0


@simulated
async def test_errors_of_the_server_are_the_calls_own():
    async with ScriptedServer() as server, server.client() as client:
        server.next(fail_with(-1))
        with pytest.raises(SystemZookeeperError):
            await client.exists("/")
        assert client.state is State.CONNECTED


@simulated
async def test_after_a_failed_round_the_next_attempt_comes_within_the_back_off():
    """A round that fails asks the engine for nothing; it must look after its timer all the same."""

    class Refusing(TcpDialer):
        def __init__(self) -> None:
            self.attempts: list[float] = []

        async def dial(self, address: Address, make_link: Callable[[], Link]) -> None:
            self.attempts.append(this_loop().time())
            if len(self.attempts) < 10:
                raise ConnectionRefusedError("not yet")
            await super().dial(address, make_link)

    async with ScriptedServer(min_session_timeout=60) as server, server.client() as client:
        await client.exists("/")
        client._engine._dialer = dialer = Refusing()
        client._engine._link.abort()
        assert await client.exists("/") is not None
        gaps = [later - sooner for sooner, later in zip(dialer.attempts, dialer.attempts[1:], strict=False)]
        assert len(gaps) == 9
        assert max(gaps) <= 0.5 + 0.01


# --- several dials at once ----------------------------------------------------------------------------------------


@simulated
async def test_a_server_that_takes_no_connection_is_outrun_by_the_next():
    before = open_sockets()
    with deaf_port() as deaf:
        async with ScriptedServer() as server:
            loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
            client = Client(f"127.0.0.1:{deaf},{server.address}", shuffle=False)
            async with client:
                assert loop.time() - began == pytest.approx(0.25, abs=0.05)
                assert client.statistics().server == server.address
                await until(lambda: not client._engine._attempts)
                assert len(client._engine._open) == 1
    await until(lambda: open_sockets() <= before)


@simulated
async def test_one_that_takes_connections_and_says_nothing_is_left_for_one_that_waits_dialled():
    async with ScriptedServer() as mute, ScriptedServer() as server:
        mute.handshake = never
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        client = Client([mute.address, server.address], shuffle=False, session_timeout=6)
        starting = asyncio.create_task(client.start())
        await server.wait_for_connections(1)
        assert loop.time() - began == pytest.approx(0.25, abs=0.05)
        assert len(client._engine._rivals) == 1
        await asyncio.sleep(1.5)
        assert server.greetings == [], "one ConnectRequest at a time"
        await starting
        assert loop.time() - began == pytest.approx(2.0, abs=0.05)
        assert len(server.connections) == 1
        assert client._engine._rivals == {}
        assert mute.open_connections == []
        await client.close()


@simulated
async def test_one_that_waits_may_be_closed_by_its_server():
    """As servers do with who says nothing for 10 s."""
    async with ScriptedServer() as mute, ScriptedServer() as server, ScriptedServer() as third:
        mute.handshake = never
        client = Client([mute.address, server.address, third.address], shuffle=False, session_timeout=6)
        starting = asyncio.create_task(client.start())
        await server.wait_for_connections(1)
        server.connection.close()
        await third.wait_for_connections(1)
        assert len(client._engine._rivals) == 1
        await starting
        assert client.statistics().server == third.address
        await client.close()


@simulated
async def test_what_a_rivals_server_says_unasked_harms_nobody():
    async with ScriptedServer() as mute, ScriptedServer() as talker:
        mute.handshake = never
        client = Client([mute.address, talker.address], shuffle=False, session_timeout=6)
        starting = asyncio.create_task(client.start())
        await talker.wait_for_connections(1)
        talker.connection.send_raw(b"\0\0\0\x25" + bytes(37))
        talker.connection.flush()
        await starting
        assert client.state is State.CONNECTED
        await client.close()


@pytest.mark.parametrize("how", ["close", "cancel"])
@simulated
async def test_all_dials_end_with_the_client(how):
    before = open_sockets()
    with deaf_port() as one, deaf_port() as other:
        async with ScriptedServer() as mute:
            mute.handshake = never
            servers = [mute.address, f"127.0.0.1:{one}", f"127.0.0.1:{other}"]
            client = Client(servers, shuffle=False, session_timeout=60, start_timeout=60)
            starting = asyncio.create_task(client.start())
            await asyncio.sleep(1)
            assert len(client._engine._attempts) == 2
            if how == "close":
                await client.close()
                with pytest.raises(ClientClosedError):
                    await starting
            else:
                starting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await starting
            assert client._engine._attempts == client._engine._rivals == {}
            assert client._engine._open == set()
            assert mute.open_connections == []
    await until(lambda: open_sockets() <= before)


@on_every_loop
async def test_a_spare_takes_over_without_being_dialled():
    znodes = Znodes()
    async with ScriptedServer(znodes) as first, ScriptedServer(znodes) as second:
        client = Client([first.address, second.address], shuffle=False, warm_spare=True)
        dialer = spy_on(client)
        async with client:
            await second.wait_for_connections(1)
            await until(lambda: client._engine._rivals)
            assert second.greetings == []
            first.connection.reset()
            assert await client.exists("/a") is None
            assert client.statistics().server == second.address
            assert client._engine._link is dialer.links[1]
            assert len(second.connections) == 1
        await until(lambda: not first.open_connections)
        assert second.open_connections == []


@simulated
async def test_a_spare_that_its_server_closes_is_dialled_anew():
    async with ScriptedServer() as first, ScriptedServer() as second:
        client = Client([first.address, second.address], shuffle=False, warm_spare=True)
        async with client:
            for count in range(1, 4):
                await second.wait_for_connections(count)
                await asyncio.sleep(12)
                second.connection.close()
            assert client.state is State.CONNECTED
            assert len(first.connections) == 1


@simulated
async def test_a_pause_ends_when_there_is_a_new_server():
    async with ScriptedServer() as server:
        client = Client(f"127.0.0.1:{closed_port()}", retry_policy=RetryForever(1000.0))
        await client.start(wait=False)
        await asyncio.sleep(10)
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        client.update_servers([server.address])
        await client.wait_connected()
        assert loop.time() - began < 0.1
        await client.close()


@simulated
async def test_a_connection_that_has_become_useless_is_closed_as_it_is_made():
    """It was made in the same turn in which it was given up."""
    async with ScriptedServer() as server, server.client() as client:
        engine = client._engine
        link = Link(engine.session.conn + 5, engine, asyncio.get_running_loop().create_future())
        closed = []

        class Transport:
            def get_extra_info(self, name: str) -> None:
                pass

            def abort(self) -> None:
                closed.append(True)

        link.transport = Transport()  # type: ignore[assignment]
        engine.link_made(link)
        assert closed == [True]
        assert engine._rivals == {}


# --- restoring ----------------------------------------------------------------------------------------------------


@on_every_loop
async def test_restorers_are_called_when_a_session_begins_and_what_they_call_goes_ahead():
    async with ScriptedServer() as server:
        client = server.client()
        engine = client._engine
        told: list[str] = []

        def restore(change: StateChange) -> None:
            told.append(f"restore {change.generation}")
            client.exists("/restored")
            client.exists("/restored-too")

        def fails(change: StateChange) -> None:
            raise ValueError("a bug")

        engine.add_restorer(fails)
        remove = engine.add_restorer(restore)
        client.add_listener(lambda change: told.append(change.state.name))
        async with client:
            await client.sync()
            server.handshakes.append(expire)
            server.connection.reset()
            await until(lambda: client.state is not State.CONNECTED)
            calls = [client.exists(f"/waits-{number}") for number in range(3)]
            await asyncio.gather(*calls)
            assert told == ["restore 1", "CONNECTED", "SUSPENDED", "LOST", "restore 2", "RENEWED", "CONNECTED"]
            begun = server.paths(Op.EXISTS)
            assert begun == ["/restored", "/restored-too"] * 2 + ["/waits-0", "/waits-1", "/waits-2"]
            remove()
            remove()
            server.handshakes.append(expire)
            server.connection.reset()
            await until(lambda: client.state is not State.CONNECTED)
            await client.sync()
            assert client.generation == 3
            assert "restore 3" not in told
