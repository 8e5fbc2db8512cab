"""Beginnings and ends: start, close and cancellation in every state, and what is left afterwards (nothing)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import re
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from everlatch import (
    AlreadyStartedError,
    AuthFailedError,
    Client,
    ClientClosedError,
    ConnectFailedError,
    EventType,
    NotStartedError,
    OutcomeUnknownError,
    StartError,
    State,
    WatchEvent,
)
from everlatch.testing import Ensemble, Proxy
from everlatch.wire.codes import Op
from real.faults import LONGEST, States, mute_server, refusing_server, shut, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from everlatch.testing import Server

pytestmark = pytest.mark.real

SOON = 2.0
"""Seconds within which is over what waits for nothing, on a busy machine as well; `close` would wait for 5."""


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """Every test here leaves no task and no socket behind."""
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    yield
    left = [task for task in asyncio.all_tasks() - tasks if task is not asyncio.current_task()]
    assert not left
    gc.collect()
    assert open_sockets() <= sockets


def open_sockets() -> set[str]:
    """The sockets of this process, by their inodes."""
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {name for name in found if name.startswith("socket:")}


@pytest.fixture
async def witness(standalone: Server) -> AsyncIterator[Client]:
    async with Client(standalone.address, session_timeout=30, default_timeout=30) as client:
        yield client


@pytest.fixture
async def root(witness: Client) -> str:
    return (await witness.create(f"/lifecycle-{uuid.uuid4()}")).path


class Took:
    """Fails when its block takes longer than `at_most` seconds."""

    def __init__(self, at_most: float) -> None:
        self._at_most = at_most
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        took = time.monotonic() - self._began
        if kind is None:
            assert took <= self._at_most


# --- start --------------------------------------------------------------------------------------------------------


async def test_start_without_a_server_names_each_and_why() -> None:
    with refusing_server() as one, refusing_server() as two:
        client = Client([one, two])
        with Took(SOON), pytest.raises(StartError) as caught:
            await client.start()
        failures = dict(caught.value.failures)
        assert set(failures) == {one, two}
        for address, reason in failures.items():
            assert isinstance(reason, ConnectFailedError)
            assert isinstance(reason.__cause__, ConnectionRefusedError)
            assert re.search(rf"{address}.*({errno.ECONNREFUSED}|refused)", str(caught.value))
        assert client.state is State.CLOSED
        with pytest.raises(ClientClosedError):
            await client.get("/")


async def test_start_gives_up_after_its_timeout() -> None:
    with refusing_server() as address:
        client = Client(address, start_timeout=0.4)
        began = time.monotonic()
        with pytest.raises(StartError, match=address):
            await client.start()
        assert 0.4 <= time.monotonic() - began < 0.4 + SOON
        assert client.statistics().connection_attempts > 2


async def test_start_with_a_timeout_waits_for_a_server_to_come_up(zookeeper_version: str) -> None:
    async with Ensemble(version=zookeeper_version) as ensemble:
        (server,) = ensemble.servers
        await server.stop()
        client = Client(ensemble.connect_string, start_timeout=60)
        starting = asyncio.create_task(client.start())
        await until(lambda: client.statistics().connection_attempts >= 3)
        assert not starting.done()
        await server.start()
        await starting
        assert client.state is State.CONNECTED
        assert (await client.create("/a")).path == "/a"
        await client.close()


async def test_start_without_waiting_takes_calls_at_once(zookeeper_version: str) -> None:
    async with Ensemble(version=zookeeper_version) as ensemble:
        (server,) = ensemble.servers
        await server.stop()
        client = Client(ensemble.connect_string)
        with Took(SOON):
            await client.start(wait=False)
        assert (client.state, client.session_id) == (State.CONNECTING, 0)
        calls: list[Any] = [client.create("/a", b"1"), client.set("/a", b"2"), client.get("/a")]
        waiting = asyncio.create_task(client.wait_connected())
        with pytest.raises(TimeoutError):
            await client.wait_connected(timeout=0.05)
        await server.start()
        await waiting
        assert (await asyncio.gather(*calls))[2].data == b"2"
        assert client.state is State.CONNECTED
        await client.close()


async def test_a_client_is_started_once_and_before_its_calls(standalone: Server) -> None:
    client = Client(standalone.address)
    with pytest.raises(NotStartedError):
        await client.get("/")
    await client.start()
    with pytest.raises(AlreadyStartedError):
        await client.start()
    assert await client.exists("/") is not None
    await client.close()
    with pytest.raises(AlreadyStartedError):
        await client.start()


async def test_start_that_is_cancelled_leaves_a_closed_client() -> None:
    with mute_server() as address:
        client = Client(address)
        starting = asyncio.create_task(client.start())
        await until(lambda: client.statistics().bytes_sent > 0)
        starting.cancel()
        with Took(SOON), pytest.raises(asyncio.CancelledError):
            await starting
        assert client.state is State.CLOSED


# --- several clients ----------------------------------------------------------------------------------------------


async def test_two_clients_have_two_sessions_and_see_each_other(standalone: Server, root: str) -> None:
    async with Client(standalone.address) as one, Client(standalone.address) as two:
        assert one.session_id != two.session_id
        events: asyncio.Queue[WatchEvent] = asyncio.Queue()
        await one.exists(f"{root}/a", watch=events.put_nowait)
        await two.create(f"{root}/a", ephemeral=True)
        async with asyncio.timeout(10):
            assert (await events.get()).type is EventType.CREATED
        stat = await one.exists(f"{root}/a", watch=events.put_nowait)
        assert stat is not None
        assert stat.ephemeral_owner == two.session_id
        await two.close()
        async with asyncio.timeout(10):
            assert (await events.get()).type is EventType.DELETED


async def test_a_hundred_clients_in_one_process(standalone: Server, witness: Client, root: str) -> None:
    clients = [Client(standalone.address, session_timeout=20) for _ in range(100)]
    await asyncio.gather(*[client.start() for client in clients])
    assert len({client.session_id for client in clients}) == 100
    await asyncio.gather(*[client.create(f"{root}/n-", ephemeral=True, sequential=True) for client in clients])
    assert len(await witness.children(root)) == 100
    seen = await asyncio.gather(*[client.children(root) for client in clients])
    assert {len(names) for names in seen} == {100}
    await asyncio.gather(*[client.close() for client in clients])
    assert await witness.children(root) == []


def test_the_basics_on_uvloop(standalone: Server) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)
        runner.run(all_of_the_basics(standalone))


async def test_the_basics_on_asyncio(standalone: Server) -> None:
    await all_of_the_basics(standalone)


async def all_of_the_basics(server: Server) -> None:
    states, events = States(), list[WatchEvent]()
    async with Proxy(server.address) as proxy, Client(proxy.address, session_timeout=20, default_timeout=30) as client:
        client.add_listener(states)
        root = (await client.create(f"/basics-{uuid.uuid4()}", b"one")).path
        await client.get(root, watch=events.append)
        assert (await client.set(root, b"two")).version == 1
        await until(lambda: len(events) == 1)
        async with client.transaction() as transaction:
            created = transaction.create(f"{root}/n-", ephemeral=True, sequential=True)
        assert created.result == f"{root}/n-0000000000"
        await asyncio.gather(*[client.create(f"{root}/m-{number}", bytes(1000)) for number in range(500)])
        assert len(await client.children(root)) == 501
        call = asyncio.create_task(client.get(root))
        assert (await call).data == b"two"
        await client.exists(root, watch=events.append)

        session_id = client.session_id
        shut(proxy)
        await states.until(State.SUSPENDED)
        waiting = [client.get(f"{root}/m-{number}") for number in range(500)]
        withdrawn = client.create(f"{root}/withdrawn")
        withdrawn.cancel()
        proxy.accept()
        assert {node.data for node in await asyncio.gather(*waiting)} == {bytes(1000)}
        assert await client.exists(f"{root}/withdrawn") is None
        assert (client.session_id, client.connections) == (session_id, 2)

        await client.delete_tree(root)
        await until(lambda: len(events) == 2)
        assert [event.type for event in events] == [EventType.DATA_CHANGED, EventType.DELETED]
    assert client.state is State.CLOSED


# --- close, in every state ----------------------------------------------------------------------------------------


async def test_close_ends_the_session_and_its_ephemeral_nodes(standalone: Server, witness: Client, root: str) -> None:
    client = Client(standalone.address, session_timeout=30)
    await client.start()
    await asyncio.gather(*[client.create(f"{root}/n-{number}", ephemeral=True) for number in range(50)])
    session_id = client.session_id
    with Took(SOON):
        await client.close()
    assert await witness.children(root) == []
    async with asyncio.timeout(LONGEST):  # the server answers before it closes the connection
        while session_id in await standalone.connections():
            await asyncio.sleep(0.005)
    await check_closed(client)


async def check_closed(client: Client) -> None:
    assert client.state is State.CLOSED
    assert client.statistics().in_flight == client.statistics().queued_calls == 0
    with pytest.raises(ClientClosedError):
        await client.get("/")
    with pytest.raises(ClientClosedError):
        await client.wait_connected()
    async with client.states() as changes:
        assert [change.state async for change in changes] == [State.CLOSED]
    with Took(SOON):
        await client.close()


async def test_close_answers_the_calls_made_before(standalone: Server, witness: Client, root: str) -> None:
    client = Client(standalone.address, max_in_flight=100)
    await client.start()
    calls: list[Any] = [client.create(f"{root}/n-{number}", ephemeral=number % 2 == 0) for number in range(1000)]
    closing = asyncio.create_task(client.close())
    results = await asyncio.gather(*calls)
    assert [created.path for created in results] == [f"{root}/n-{number}" for number in range(1000)]
    await closing
    # What was ephemeral is gone, the rest is there.
    assert sorted(await witness.children(root)) == sorted(f"n-{number}" for number in range(1, 1000, 2))
    await check_closed(client)


async def test_close_while_connecting() -> None:
    with refusing_server() as refusing, mute_server() as mute:
        for address in (refusing, mute):
            client = Client(address)
            await client.start(wait=False)
            call = client.get("/")
            await until(lambda client=client: client.statistics().connection_attempts > 0)  # type: ignore[misc]
            with Took(SOON):
                await client.close()
            with pytest.raises(ClientClosedError):
                await call
            await check_closed(client)


async def test_close_while_start_waits() -> None:
    with mute_server() as address:
        client = Client(address)
        starting = asyncio.create_task(client.start())
        await until(lambda: client.statistics().bytes_sent > 0)
        with Took(SOON):
            await client.close()
        with pytest.raises(ClientClosedError):
            await starting


@pytest.mark.parametrize("next_server", ["none", "mute"])
async def test_close_while_suspended(standalone: Server, witness: Client, root: str, next_server: str) -> None:
    states = States()
    async with Proxy(standalone.address) as proxy:
        with mute_server() as mute:
            servers = [proxy.address, mute] if next_server == "mute" else [proxy.address]
            client = Client(servers, shuffle=False, session_timeout=20)
            await client.start()
            client.add_listener(states)
            shut(proxy)
            await states.until(State.SUSPENDED)
            read, write = client.get(root), client.create(f"{root}/never")
            waiting = asyncio.create_task(client.wait_connected())
            # It never reconnects only to close.
            with Took(SOON):
                await client.close()
            for call in (read, write, waiting):
                with pytest.raises(ClientClosedError):
                    await call
            await check_closed(client)
    assert await witness.exists(f"{root}/never") is None


async def test_close_while_lost(standalone: Server) -> None:
    states = States()
    async with Proxy(standalone.address) as proxy:
        client = Client(proxy.address, session_timeout=1)
        await client.start()
        client.add_listener(states)
        shut(proxy)
        await states.until(State.LOST)
        call = client.get("/")
        with Took(SOON):
            await client.close()
        with pytest.raises(ClientClosedError):
            await call
        assert states.states[:2] == [State.SUSPENDED, State.LOST]
        await check_closed(client)


async def test_close_after_refused_credentials(standalone: Server) -> None:
    client = Client(standalone.address)
    await client.start()
    with pytest.raises(AuthFailedError):
        await client.add_auth("nosuchscheme", b"x")
    assert client.state is State.AUTH_FAILED
    with pytest.raises(AuthFailedError):
        await client.wait_connected()
    with Took(SOON):
        await client.close()
    await check_closed(client)


async def test_close_at_a_frozen_server_keeps_to_its_timeout(zookeeper_version: str) -> None:
    async with Ensemble(version=zookeeper_version) as ensemble:
        (server,) = ensemble.servers
        client = Client(ensemble.connect_string, session_timeout=30)
        await client.start()
        await client.create("/a")
        server.pause()
        read, write = client.get("/a"), client.set("/a", b"x")
        began = time.monotonic()
        await client.close(timeout=0.3)
        assert 0.3 <= time.monotonic() - began < 0.3 + SOON
        with pytest.raises(ClientClosedError):
            await read
        with pytest.raises(OutcomeUnknownError):
            await write
        await check_closed(client)


async def test_close_from_several_tasks_and_cancelled(standalone: Server, witness: Client, root: str) -> None:
    client = Client(standalone.address)
    await client.start()
    await client.create(f"{root}/ephemeral", ephemeral=True)
    closings = [asyncio.create_task(client.close()) for _ in range(5)]
    cancelled = asyncio.create_task(client.close())
    asyncio.get_running_loop().call_soon(cancelled.cancel)
    await asyncio.gather(*closings)
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await witness.exists(f"{root}/ephemeral") is None
    await check_closed(client)


async def test_a_close_that_is_cancelled_goes_on(standalone: Server, witness: Client, root: str) -> None:
    client = Client(standalone.address)
    await client.start()
    gone = asyncio.Event()
    await client.create(f"{root}/ephemeral", ephemeral=True)
    await witness.exists(f"{root}/ephemeral", watch=lambda _: gone.set())
    closing = asyncio.create_task(client.close())
    asyncio.get_running_loop().call_soon(closing.cancel)
    with pytest.raises(asyncio.CancelledError):
        await closing
    async with asyncio.timeout(10):
        await gone.wait()
    await client.close()
    await check_closed(client)


async def test_a_client_that_was_never_started_closes_too(standalone: Server) -> None:
    client = Client(standalone.address)
    await client.close()
    await check_never_started(client)


async def check_never_started(client: Client) -> None:
    assert client.state is State.CLOSED
    with pytest.raises(ClientClosedError):
        await client.start()
    with pytest.raises(ClientClosedError):
        await client.get("/")


# --- cancellation -------------------------------------------------------------------------------------------------


async def test_a_task_cancelled_inside_its_client_closes_it(standalone: Server, witness: Client, root: str) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with Client(standalone.address, session_timeout=30) as client:
            await client.create(f"{root}/ephemeral", ephemeral=True)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    assert await witness.exists(f"{root}/ephemeral") is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await witness.exists(f"{root}/ephemeral") is None


async def test_calls_cancelled_while_suspended_are_never_sent(standalone: Server, root: str) -> None:
    states = States()
    async with (
        Proxy(standalone.address) as proxy,
        Client(proxy.address, session_timeout=20, default_timeout=30) as client,
    ):
        client.add_listener(states)
        shut(proxy)
        await states.until(State.SUSPENDED)
        calls = [client.create(f"{root}/n-{number}") for number in range(100)]
        waiting = asyncio.create_task(client.wait_connected())
        in_task = asyncio.create_task(client.create(f"{root}/in-task"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await in_task
        for call in calls[::2]:
            call.cancel()
        waiting.cancel()
        assert client.statistics().queued_calls == 50
        proxy.accept()
        await asyncio.gather(*calls[1::2])
        assert sorted(await client.children(root)) == sorted(f"n-{number}" for number in range(1, 100, 2))
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_calls_cancelled_after_they_were_sent_shift_nothing(standalone: Server, root: str) -> None:
    async with Client(standalone.address, default_timeout=30) as client:
        calls = [client.create(f"{root}/n-{number}", b"%d" % number) for number in range(300)]
        await calls[0]
        sent = calls[1::2]
        for call in sent:
            call.cancel()
        reads = [client.get(f"{root}/n-{number}") for number in range(300)]
        for number, read in enumerate(reads):
            assert (await read).data == b"%d" % number
        assert (client.connections, client.statistics().in_flight) == (1, 0)


# --- twenty thousand watches --------------------------------------------------------------------------------------

WATCHES = 20_000
PART = 500
"""Nodes to a transaction: far fewer requests."""


async def test_twenty_thousand_watches_fire_though_the_connection_is_lost_again_while_they_are_armed(
    standalone: Server, witness: Client, root: str
) -> None:
    states, fired = States(), Counter[tuple[EventType, str]]()

    def count(event: WatchEvent) -> None:
        fired[event.type, event.path] += 1

    names = [f"{root}/watched-{number:05}" for number in range(WATCHES)]
    data, child, missing = names[: WATCHES // 2], names[WATCHES // 2 : WATCHES * 3 // 4], names[WATCHES * 3 // 4 :]
    # The last of each kind stays as it is meanwhile, and has to be armed again.
    last = {data[-1], child[-1], missing[-1]}

    async def change(paths: set[str]) -> None:
        await in_transactions(witness, lambda transaction, path: transaction.set(path, b"x"), paths.intersection(data))
        await in_transactions(witness, lambda transaction, path: transaction.create(path), paths.intersection(missing))
        await in_transactions(
            witness, lambda transaction, path: transaction.create(f"{path}/c"), paths.intersection(child)
        )

    await in_transactions(witness, lambda transaction, path: transaction.create(path), data + child)
    async with (
        Proxy(standalone.address) as proxy,
        Client(proxy.address, session_timeout=30, default_timeout=60) as client,
    ):
        client.add_listener(states)
        await asyncio.gather(*[client.get(path, watch=count) for path in data])
        await asyncio.gather(*[client.children(path, watch=count) for path in child])
        await asyncio.gather(*[client.exists(path, watch=count) for path in missing])
        assert client.statistics().watches == WATCHES
        assert max(request.size for request in proxy.requests) < 1000

        shut(proxy)
        await states.until(State.SUSPENDED)
        first = set(names[::2]) - last
        await change(first)
        assert not fired
        # One of the frames is answered, and that answer tells of a zxid at which all of them had changed.
        loss = proxy.lose_reply(Op.SET_WATCHES, nth=2)
        proxy.accept()
        await proxy.until(lambda: proxy.connections)
        proxy.refuse()
        await loss.happened()
        await until(lambda: states.states.count(State.SUSPENDED) == 2)
        assert len(proxy.seen(Op.SET_WATCHES)) > 5
        assert 0 < fired.total() < len(first) / 2
        await change(set(names) - first - last)
        proxy.accept()
        await until(lambda: fired.total() >= WATCHES - 3)
        assert 64 * 1024 < max(request.size for request in proxy.requests) <= 128 * 1024
        assert (client.connections, client.generation) == (3, 1)

        await client.sync()
        assert client.statistics().watches == 3
        await change(last)
        await until(lambda: fired.total() >= WATCHES)
        await client.sync()
        assert fired == Counter(
            {(EventType.DATA_CHANGED, path): 1 for path in data}
            | {(EventType.CHILDREN_CHANGED, path): 1 for path in child}
            | {(EventType.CREATED, path): 1 for path in missing}
        )
    await in_transactions(
        witness, lambda transaction, path: transaction.delete(path), [*(f"{path}/c" for path in child), *names]
    )


async def in_transactions(client: Client, add: Any, paths: Iterable[str]) -> None:
    waiting = list(paths)
    for start in range(0, len(waiting), PART):
        async with client.transaction() as transaction:
            for path in waiting[start : start + PART]:
                add(transaction, path)
