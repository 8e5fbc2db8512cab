"""P2, queued: a call that finds no connection waits its turn and is then sent, once. It waits no longer than its own
timeout; the queue takes so many calls and bytes and refuses the next at once. A call that is bound to a session ends
with it and is never sent in another.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from everlatch import (
    CallTimeoutError,
    Client,
    Created,
    NodeExistsError,
    Outcome,
    OutcomeUnknownError,
    QueueFullError,
    SessionExpiredError,
    State,
    WriteNotAppliedError,
)
from everlatch.wire.codes import Op
from promises.access import expire_at
from promises.behind_proxy import called, data_below, ends_of, through
from promises.behind_proxy import cut_off as cut_off_by
from scripted_server import ScriptedServer, drop_after, expire, hold
from skipping_loop import simulated, this_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing import Proxy, Server


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


# --- real servers, behind a proxy ---------------------------------------------------------------------------------


@pytest.mark.real
async def test_what_waits_reaches_a_real_server_in_order_and_once(proxy: Proxy, witness: Client, root: str) -> None:
    async with through(proxy) as client:
        await cut_off_by(proxy, client)
        creates = [client.create(f"{root}/n-", b"%d" % number, sequential=True) for number in range(200)]
        sets = [client.set(root, b"%d" % number) for number in range(200)]
        reads = [client.get(f"{root}/n-{number:010}") for number in range(200)]
        transaction = client.transaction()
        transaction.create(f"{root}/n-", b"200", sequential=True)
        last = transaction.commit()
        assert client.statistics().queued_calls == 601
        assert called(proxy) == []
        proxy.accept()
        assert [(await create).path for create in creates] == [f"{root}/n-{number:010}" for number in range(200)]
        assert [(await change).version for change in sets] == list(range(1, 201))
        assert [(await read).data for read in reads] == [b"%d" % number for number in range(200)]
        await last
        assert await data_below(witness, root) == list(range(201))
        assert (await witness.get(root)).stat.version == 200
        assert [request.op for request in called(proxy)] == (
            [Op.CREATE2] * 200 + [Op.SET_DATA] * 200 + [Op.GET_DATA] * 200 + [Op.MULTI]
        )


@pytest.mark.real
async def test_what_is_withdrawn_or_too_late_leaves_no_trace(proxy: Proxy, witness: Client, root: str) -> None:
    """Not even a version of a node is used up, nor does anything reach the proxy."""
    async with through(proxy) as client:
        await cut_off_by(proxy, client)
        kept, cancelled, late = [], [], []
        for number in range(100):
            kept.append(client.create(f"{root}/kept-{number}", b"%d" % number))
            cancelled.append(client.create(f"{root}/cancelled-{number}", b"-1"))
            late.append(client.create(f"{root}/late-{number}", b"-2", timeout=0.1))
            cancelled.append(client.set(root, b"cancelled"))  # type: ignore[arg-type]
        for call in cancelled:
            assert call.cancel()
        for end in await ends_of(late):
            assert isinstance(end, CallTimeoutError)
            assert end.outcome is Outcome.NOT_APPLIED
        assert client.statistics().queued_calls == 100
        proxy.accept()
        await asyncio.gather(*kept)
        await client.sync()
        assert await data_below(witness, root) == list(range(100))
        stat = (await witness.get(root)).stat
        assert (stat.cversion, stat.version) == (100, 0)
        assert {request.path.rpartition("/")[2].partition("-")[0] for request in proxy.seen(Op.CREATE2)} == {"kept"}
        assert proxy.seen(Op.SET_DATA) == []


@pytest.mark.real
async def test_a_full_queue_refuses_at_once_and_keeps_what_it_has(proxy: Proxy, witness: Client, root: str) -> None:
    async with through(proxy, max_queued_calls=10, max_queued_bytes=10_000) as client:
        await cut_off_by(proxy, client)
        for _ in range(3):  # as often as it likes: what is refused takes no room
            calls = [client.create(f"{root}/n-", b"%d" % number, sequential=True) for number in range(10)]
            for make in (lambda: client.create(f"{root}/more"), lambda: client.get(root)):
                with pytest.raises(QueueFullError) as full:
                    make()
                assert full.value.outcome is Outcome.NOT_APPLIED
            for call in calls:
                call.cancel()
        kept = [client.create(f"{root}/n-", b"0", sequential=True)]
        with pytest.raises(QueueFullError):
            client.create(f"{root}/large", bytes(10_000))
        kept.append(client.create(f"{root}/n-", b"1", sequential=True))
        proxy.accept()
        await asyncio.gather(*kept)
        assert await data_below(witness, root) == [0, 1]
        assert client.statistics().queued_bytes == client.statistics().queued_calls == 0


@pytest.mark.real
async def test_the_queue_is_bounded_behind_a_server_that_says_nothing(proxy: Proxy, witness: Client, root: str) -> None:
    """Connected, as far as anybody knows. What is in flight is not in the queue, and is bounded too."""
    async with through(proxy, max_in_flight=5, max_queued_calls=10) as client:
        hole = proxy.black_hole("to_client")
        calls = [client.create(f"{root}/n-", b"%d" % number, sequential=True) for number in range(10)]
        await proxy.wait_for(Op.CREATE2, count=5)
        await hole.happened()
        calls += [client.create(f"{root}/n-", b"%d" % number, sequential=True) for number in range(10, 15)]
        with pytest.raises(QueueFullError):
            client.create(f"{root}/more")
        assert len(proxy.seen(Op.CREATE2)) == 5
        proxy.heal()
        await asyncio.gather(*calls)
        assert await data_below(witness, root) == list(range(15))


def _number(path: str) -> int:
    return int(path.rpartition("/")[2].strip("-"))


@pytest.mark.parametrize("fault", ["lose_reply", "lose_request"])
@pytest.mark.real
async def test_what_was_sent_is_sent_again_only_if_it_was_not_applied(
    proxy: Proxy, witness: Client, root: str, fault: str
) -> None:
    """Every seventh create breaks the connection. None is passed on twice by the proxy, unless the first one was lost
    there, and what is known of each is true."""
    async with through(proxy, max_in_flight=3 if fault == "lose_reply" else 1) as client:
        getattr(proxy, fault)(Op.CREATE2, every=7)
        ends = await ends_of(
            [client.create(f"{root}/{number}-", b"%d" % number, sequential=True) for number in range(70)]
        )
        await client.sync()
        sent = Counter(_number(request.path) for request in proxy.seen(Op.CREATE2))
        answered = Counter(_number(request.path) for request in proxy.seen(Op.CREATE2) if request.answered)
        applied = Counter(await data_below(witness, root))
        assert set(applied.values()) == {1}
        assert set(answered.values()) == {1}
        unknown = {number for number, end in enumerate(ends) if isinstance(end, OutcomeUnknownError)}
        unapplied = {number for number, end in enumerate(ends) if isinstance(end, WriteNotAppliedError)}
        assert all(end.seen for end in ends if isinstance(end, OutcomeUnknownError))
        if fault == "lose_request":  # the parent shows each time that nothing was applied since
            assert not unknown | unapplied
            assert client.statistics().writes_resent >= 9
        else:
            assert 7 <= len(unknown) <= 30
        for number, end in enumerate(ends):
            assert number in unknown or number in unapplied or isinstance(end, Created)
            assert (number in applied) == isinstance(end, Created) or number in unknown
            assert number in unknown or number in unapplied or number in sent
            assert number in applied or not answered[number]


@pytest.mark.real
async def test_what_waits_behind_a_black_hole_is_sent_when_the_link_is_given_up(
    proxy: Proxy, witness: Client, root: str
) -> None:
    async with through(proxy, session_timeout=3, max_in_flight=2) as client:
        proxy.black_hole()
        calls = [client.create(f"{root}/n-", b"%d" % number, sequential=True) for number in range(20)]
        await proxy.wait_for(Op.CREATE2, count=2)
        # No frame of the old link may ever arrive: it breaks, and the holes are gone for the next.
        proxy.cut()
        proxy.heal()
        ends = await ends_of(calls)
        assert [isinstance(end, OutcomeUnknownError) for end in ends] == [True] * 2 + [False] * 18
        assert await data_below(witness, root) == list(range(2, 20))


@pytest.mark.real
async def test_bound_calls_end_with_a_real_session(
    proxy: Proxy, standalone: Server, witness: Client, root: str
) -> None:
    async with through(proxy) as client:
        view = client.in_session()
        await cut_off_by(proxy, client)
        bound = [view.create(f"{root}/bound", b"-1"), view.set(root, b"bound"), view.exists(root)]
        free = client.create(f"{root}/free", b"1")
        await expire_at(client, standalone)
        proxy.accept()
        for end in await ends_of(bound):
            assert isinstance(end, SessionExpiredError)
            assert end.outcome is Outcome.NOT_APPLIED
        await free
        assert client.generation == 2
        assert await data_below(witness, root) == [1]
        assert [(request.op, request.path) for request in called(proxy)] == [(Op.CREATE2, f"{root}/free")]
        with pytest.raises(SessionExpiredError):
            await view.create(f"{root}/bound")
