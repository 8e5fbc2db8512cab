"""Three real servers, and what a client makes of it when they die, freeze, restart, or forget its session."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import pytest
import pytest_asyncio

from everlatch import (
    CREATOR_ALL_ACL,
    CallTimeoutError,
    Client,
    Created,
    EventType,
    HandshakeTimeoutError,
    Node,
    NoNodeError,
    OutcomeUnknownError,
    SessionExpiredError,
    SilentLinkError,
    Stat,
    State,
    WatchEvent,
    WriteNotAppliedError,
    WriteTimeoutError,
)
from everlatch.testing import Ensemble, Proxy, Server
from real.faults import States, connected_to, end_session, mute_server, shut, unreachable_server, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Figures = Callable[[str, float], None]

# The servers belong to the loop that started them, so all tests here share one.
pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

PATIENCE = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["3.8", "3.9"])
async def three_servers(request: pytest.FixtureRequest) -> AsyncIterator[Ensemble]:
    async with Ensemble(3, version=request.param) as ensemble:
        yield ensemble


@pytest_asyncio.fixture(loop_scope="module")
async def ensemble(three_servers: Ensemble) -> AsyncIterator[Ensemble]:
    """Three servers, all well: whatever a test has done to them is healed before the next."""
    await heal(three_servers)
    yield three_servers
    await heal(three_servers)


@pytest_asyncio.fixture(loop_scope="module")
async def witness(ensemble: Ensemble) -> AsyncIterator[Client]:
    """Another client, which sees and does what the one under test can't."""
    async with Client(ensemble.connect_string, session_timeout=30, default_timeout=PATIENCE) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def root(witness: Client) -> str:
    path = f"/failover-{uuid.uuid4()}"
    # The servers may be busy with an election again.
    await insist(lambda: witness.ensure_path(path))
    return path


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Notes what was measured, for the report of the run."""

    def note(name: str, seconds: float) -> None:
        record_property(name, round(seconds, 4))
        print(f"measured: {name}: {seconds * 1000:.0f} ms")

    return note


async def heal(ensemble: Ensemble) -> None:
    for server in ensemble.servers:
        server.resume()
        if not server.running:
            await server.start(wait=False)
    await ensemble.wait_serving()
    await ensemble.leader()
    async with asyncio.timeout(PATIENCE):
        while len(await ensemble.followers()) < len(ensemble.servers) - 1:
            await asyncio.sleep(0.02)


def client_at(ensemble: Ensemble, first: Server, **options: Any) -> AbstractAsyncContextManager[Client]:
    """A client of all servers that is connected to this one."""
    addresses = [first.address, *(server.address for server in ensemble.servers if server is not first)]
    return connected_to(first.address, lambda: Client(addresses, shuffle=False, **options))


async def pick(ensemble: Ensemble, role: str) -> Server:
    """The leader, or a follower."""
    return await ensemble.leader() if role == "leader" else (await ensemble.followers())[0]


async def insist(act: Callable[[], Awaitable[object]]) -> None:
    """Repeats a write until its outcome is known to be good."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await act()
            except (OutcomeUnknownError, WriteNotAppliedError):
                continue
            return


class Load:
    """Reads and writes in a steady stream: what came of each, and the longest time without an answer."""

    def __init__(self, client: Client, root: str) -> None:
        self._client, self._root = client, root
        self._stopping = False
        self._last_read = self.longest_gap = 0.0
        self.reads = 0
        self.written: list[Created] = []
        self.unknown = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(work()) for work in (self._read, self._read, self._write, self._write)]
        await until(lambda: self.reads > 50 and len(self.written) > 10)
        self.longest_gap = 0.0
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopping = True
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self._tasks)

    async def goes_on(self) -> None:
        """Waits until reads and writes made from now on are answered."""
        reads, writes = self.reads, len(self.written)
        await until(lambda: self.reads > reads + 10 and len(self.written) > writes + 10, timeout=PATIENCE)

    async def _read(self) -> None:
        while not self._stopping:
            await self._client.get(self._root)
            now = time.monotonic()
            if self._last_read:
                self.longest_gap = max(self.longest_gap, now - self._last_read)
            self._last_read = now
            self.reads += 1

    async def _write(self) -> None:
        while not self._stopping:
            try:
                self.written.append(await self._client.create(f"{self._root}/w-", sequential=True))
            except OutcomeUnknownError:
                self.unknown += 1
            except WriteNotAppliedError:
                pass  # nor is it to be there

    async def check_writes(self, witness: Client) -> None:
        """Every acknowledged write is there, and no more than the unknown ones besides."""
        await witness.sync()
        there = set(await witness.children(self._root))
        acknowledged = {created.path.rpartition("/")[2] for created in self.written}
        assert acknowledged <= there
        assert len(there) <= len(acknowledged) + self.unknown


# --- a server dies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["follower", "leader"])
async def test_a_thousand_calls_survive_the_death_of_the_server_in_use(
    ensemble: Ensemble, witness: Client, root: str, role: str
) -> None:
    server = await pick(ensemble, role)
    states = States()
    fired: Counter[str] = Counter()
    async with client_at(ensemble, server, max_in_flight=400, session_timeout=20, default_timeout=PATIENCE) as client:
        client.add_listener(states)
        assert await ensemble.server_of(client.session_id) is server
        session_id = client.session_id
        watched = await arm_watches(client, root, fired)
        await client.create(f"{root}/register", b"-1")

        calls: list[Any] = [one_of_a_thousand(client, root, number) for number in range(1000)]
        answered: list[int] = []
        for number in range(1, 1000, 2):
            calls[number].add_done_callback(lambda _, number=number: answered.append(number))
        pid = server.pid
        assert pid is not None
        calls[100].add_done_callback(lambda _: os.kill(pid, signal.SIGKILL))
        await calls[100]
        changes = [insist(lambda path=path: witness.set(path, b"changed")) for path in watched[::2]]  # type: ignore[misc]
        results = await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.gather(*changes)
        await server.kill()

        statistics = client.statistics()
        assert statistics.requests_repeated > 0, "nothing was in flight when the server died"
        check_reads(results)
        assert answered == list(range(1, 1000, 2))
        await check_writes(client, root, results)
        errors = [type(result) for result in results if isinstance(result, BaseException)]
        assert set(errors) <= {OutcomeUnknownError, WriteNotAppliedError}
        assert statistics.outcomes_unknown == errors.count(OutcomeUnknownError)
        assert (client.session_id, client.generation) == (session_id, 1)
        assert states.states.count(State.LOST) == 0

        await until(lambda: all(fired[path] for path in watched[::2]))
        # What has fired is used up; what has not still waits.
        await asyncio.gather(*[insist(lambda path=path: witness.set(path, b"again")) for path in watched])  # type: ignore[misc]
        await until(lambda: all(fired[path] for path in watched))
        await client.set(root, b"behind every event")
        assert set(fired.values()) == {1}
        assert statistics.watches >= len(watched) // 2


def one_of_a_thousand(client: Client, root: str, number: int) -> Any:
    if number % 2:
        return client.get(f"{root}/register")
    if number % 4:
        return client.set(f"{root}/register", b"%d" % number)
    return client.create(f"{root}/made-{number}")


async def arm_watches(client: Client, root: str, fired: Counter[str]) -> list[str]:
    """A hundred watches, which count the events of their path."""
    paths = [f"{root}/watched-{number}" for number in range(100)]
    await asyncio.gather(*[client.create(path) for path in paths])

    def count(event: WatchEvent) -> None:
        fired[event.path] += 1

    await asyncio.gather(*[client.get(path, watch=count) for path in paths])
    return paths


def check_reads(results: list[Any]) -> None:
    """All are answered, see the writes that were acknowledged before them, and never go back in time."""
    acknowledged = seen = -1
    for number, result in enumerate(results):
        if isinstance(result, Stat):
            acknowledged = number
        elif number % 2:
            assert isinstance(result, Node), result
            value = int(result.data)
            assert value >= acknowledged
            assert value >= seen
            seen = value


async def check_writes(client: Client, root: str, results: list[Any]) -> None:
    """What was acknowledged is there; all that happened, happened in the order of the calls."""
    zxids: list[int] = []
    applied: list[bool] = []
    for number, result in enumerate(results):
        if isinstance(result, Created):
            assert await client.exists(f"{root}/made-{number}") == result.stat
            zxids.append(result.stat.czxid)
        elif isinstance(result, Stat):
            zxids.append(result.mzxid)
        elif isinstance(result, OutcomeUnknownError) and number % 4 == 0:
            stat = await client.exists(f"{root}/made-{number}")
            applied.append(stat is not None)
            if stat is not None:
                zxids.append(stat.czxid)
        elif isinstance(result, WriteNotAppliedError) and number % 4 == 0:
            assert await client.exists(f"{root}/made-{number}") is None
            applied.append(False)
    assert zxids == sorted(set(zxids))
    # Of what was in flight, the first part was applied: nothing in its midst is missing.
    assert applied == sorted(applied, reverse=True)
    assert len(zxids) > 200
    assert (await client.get(f"{root}/register")).data == b"998"


@pytest.mark.parametrize("role", ["follower", "leader"])
async def test_reads_go_on_soon_after_the_server_in_use_was_killed(
    ensemble: Ensemble, witness: Client, root: str, role: str, figures: Figures
) -> None:
    server = await pick(ensemble, role)
    states = States()
    # A long session timeout: how soon the client is back must not depend on it.
    async with client_at(ensemble, server, session_timeout=30) as client:
        client.add_listener(states)
        session_id = client.session_id
        async with Load(client, root) as load:
            await server.kill()
            await load.goes_on()
        figures(f"longest time without a read, {role} killed", load.longest_gap)
        # A follower's death concerns its clients only; a leader's stops every server until the next is elected.
        assert load.longest_gap < (2.0 if role == "follower" else 8.0)
        await load.check_writes(witness)
        assert client.session_id == session_id
        assert set(states.states) == {State.SUSPENDED, State.CONNECTED}


async def test_a_frozen_server_is_left_within_the_session_timeout(
    ensemble: Ensemble, witness: Client, root: str, figures: Figures
) -> None:
    """SIGSTOP: the connection stays open and nothing is answered, as on a link that is half open."""
    timeout = 6.0  # the third of it that is needed leaves a busy machine some time
    server = await pick(ensemble, "follower")
    states = States()
    async with client_at(ensemble, server, session_timeout=timeout) as client:
        client.add_listener(states)
        session_id = client.session_id
        async with Load(client, root) as load:
            server.pause()
            await load.goes_on()
            figures("longest time without a read, follower frozen, T = 6 s", load.longest_gap)
            assert load.longest_gap < timeout
            assert isinstance((await states.until(State.SUSPENDED)).reason, SilentLinkError)
            # It comes back, with whatever it had received: nothing of that may do harm.
            server.resume()
            await server.wait_serving()
            await load.goes_on()
        await load.check_writes(witness)
        assert client.session_id == session_id
        assert states.states == [State.SUSPENDED, State.CONNECTED]


async def test_an_idle_client_leaves_a_frozen_server_too(ensemble: Ensemble) -> None:
    server = await pick(ensemble, "follower")
    states = States()
    async with client_at(ensemble, server, session_timeout=3) as client:
        client.add_listener(states)
        server.pause()
        await states.until(State.CONNECTED, timeout=3)
        assert states.states == [State.SUSPENDED, State.CONNECTED]
        assert client.generation == 1


async def test_calls_time_out_when_every_server_is_frozen(ensemble: Ensemble, root: str) -> None:
    async with Client(ensemble.connect_string, session_timeout=20) as client:
        for server in ensemble.servers:
            server.pause()
        read, write = client.get(root, timeout=0.2), client.set(root, b"late", timeout=0.2)
        with pytest.raises(CallTimeoutError, match="get"):
            await read
        with pytest.raises(WriteTimeoutError) as caught:
            await write
        assert isinstance(caught.value, OutcomeUnknownError)
        assert isinstance(caught.value, TimeoutError)
        for server in ensemble.servers:
            server.resume()
        await insist(lambda: client.set(root, b"after", timeout=PATIENCE))
        assert (await client.get(root, timeout=PATIENCE)).data == b"after"
        assert client.generation == 1


async def test_rolling_restart_under_load_fails_no_read(
    ensemble: Ensemble, witness: Client, root: str, figures: Figures
) -> None:
    states = States()
    async with Client(ensemble.connect_string, session_timeout=10) as client:
        client.add_listener(states)
        session_id = client.session_id
        async with Load(client, root) as load:
            for server in ensemble.servers:
                await server.restart()
                await ensemble.leader()
                await load.goes_on()
        figures("longest time without a read, rolling restart", load.longest_gap)
        for moment, told in zip(states.times, states.changes, strict=True):
            print(f"{moment - states.times[0]:.3f} {told.state.name} {told.server}: {told.reason}")
        await load.check_writes(witness)
        assert client.session_id == session_id
        assert State.SUSPENDED in states.states
        assert State.LOST not in states.states


# --- all servers are away -----------------------------------------------------------------------------------------


async def first_serving(ensemble: Ensemble) -> float:
    """When the first server said that it leads or follows."""

    async def answer_of(server: Server) -> bool:
        try:
            answer = await server.four_letter("srvr", timeout=0.3)
        except OSError:
            return False
        return "Mode: leader" in answer or "Mode: follower" in answer

    async with asyncio.timeout(PATIENCE):
        while True:
            if any(await asyncio.gather(*map(answer_of, ensemble.servers))):
                return time.monotonic()
            await asyncio.sleep(0.01)


async def test_after_an_outage_of_all_servers_it_is_back_by_itself(
    ensemble: Ensemble, root: str, figures: Figures
) -> None:
    timeout = 2.0
    states = States()
    async with Client(ensemble.connect_string, session_timeout=timeout) as client:
        client.add_listener(states)
        old_id = client.session_id
        bound = client.in_session()
        await client.create(f"{root}/before")
        await asyncio.gather(*[server.kill() for server in ensemble.servers])
        down_at = time.monotonic()
        await states.until(State.SUSPENDED)
        calls: list[Any] = [client.create(f"{root}/n-", b"suspended", sequential=True), client.children(root)]
        await states.until(State.LOST, timeout=timeout + 1)
        calls += [client.create(f"{root}/n-", b"lost", sequential=True), client.children(root)]
        bound_call = bound.children(root)
        await until(lambda: time.monotonic() > down_at + 3 * timeout)
        assert states.states == [State.SUSPENDED, State.LOST]
        assert client.session_time_left == 0.0
        assert not any(call.done() for call in calls)

        for server in ensemble.servers:
            await server.start(wait=False)
        serving_at = await first_serving(ensemble)
        await states.until(State.CONNECTED, timeout=PATIENCE)
        back_after = states.time_of_last(State.CONNECTED) - serving_at
        figures("back after the first server serves", back_after)
        assert back_after < 3.0, "while three servers start on the same machine"

        one, seen_by_one, two, seen_by_two = await asyncio.gather(*calls)
        assert [one.path, two.path] == [f"{root}/n-{1:010}", f"{root}/n-{2:010}"]
        assert (len(seen_by_one), len(seen_by_two)) == (2, 3)
        if client.session_id == old_id:
            assert states.states == [State.SUSPENDED, State.LOST, State.CONNECTED]
            assert len(await bound_call) == 3
        else:
            assert states.states == [State.SUSPENDED, State.LOST, State.RENEWED, State.CONNECTED]
            with pytest.raises(SessionExpiredError):
                await bound_call
        figures("the old session was kept (1) or renewed (0)", float(client.session_id == old_id))


# --- the session ends ---------------------------------------------------------------------------------------------


async def test_a_lost_session_is_replaced_and_its_watches_go_on(ensemble: Ensemble, witness: Client, root: str) -> None:
    """While the client is cut off, somebody ends its session and changes what it watches."""
    one, two = (await ensemble.followers())[:2]
    states = States()
    events: list[WatchEvent] = []
    for name in ("data", "deleted", "parent", "later"):
        await witness.create(f"{root}/{name}")
    async with (
        Proxy(one.address) as proxy,
        Client(proxy.address, session_timeout=20, default_timeout=PATIENCE) as client,
    ):
        client.add_listener(states)
        old_id, password, bound = client.session_id, client.session_password, client.in_session()
        await client.sync()
        await client.get(f"{root}/data", watch=events.append)
        await client.get(f"{root}/deleted", watch=events.append)
        await client.exists(f"{root}/created", watch=events.append)
        await client.children(f"{root}/parent", watch=events.append)
        await client.exists(f"{root}/later", watch=events.append)
        await client.create(f"{root}/ephemeral", ephemeral=True)

        shut(proxy)
        await states.until(State.SUSPENDED)
        await end_session(two.address, old_id, password)
        await witness.set(f"{root}/data", b"changed")
        await witness.delete(f"{root}/deleted")
        await witness.create(f"{root}/created")
        await witness.create(f"{root}/parent/child")
        waiting = [client.get(f"{root}/data"), client.create(f"{root}/again", ephemeral=True)]
        bound_calls = [bound.get(f"{root}/data"), bound.create(f"{root}/bound")]
        proxy.accept()

        assert (await states.until(State.RENEWED))[2:4] == (client.session_id, old_id)
        await states.until(State.CONNECTED)
        assert states.states == [State.SUSPENDED, State.LOST, State.RENEWED, State.CONNECTED]
        assert isinstance(states.changes[1].reason, SessionExpiredError)
        assert [change.generation for change in states.changes] == [1, 1, 2, 2]
        for call in bound_calls:
            with pytest.raises(SessionExpiredError):
                await call
        with pytest.raises(SessionExpiredError):
            await bound.get(f"{root}/data")
        assert not bound.is_current
        node, created = await asyncio.gather(*waiting)
        assert isinstance(created, Created)
        assert created.stat.ephemeral_owner == client.session_id != old_id
        assert isinstance(node, Node)

        await until(lambda: len(events) >= 4)
        await witness.set(f"{root}/later", b"changed")
        await until(lambda: len(events) >= 5)
        await client.sync()
        assert {(event.type, event.path) for event in events} == {
            (EventType.DATA_CHANGED, f"{root}/data"),
            (EventType.DELETED, f"{root}/deleted"),
            (EventType.CREATED, f"{root}/created"),
            (EventType.CHILDREN_CHANGED, f"{root}/parent"),
            (EventType.DATA_CHANGED, f"{root}/later"),
        }
        assert len(events) == 5
        assert await client.exists(f"{root}/ephemeral") is None
        assert await client.exists(f"{root}/bound") is None


async def test_a_session_closed_behind_its_back_is_replaced(ensemble: Ensemble, root: str, figures: Figures) -> None:
    """Its own server closes the connection then, and tells no reason."""
    one, two = (await ensemble.followers())[:2]
    states = States()
    async with Client(one.address, default_timeout=PATIENCE) as client:
        client.add_listener(states)
        old_id, bound = client.session_id, client.in_session()
        began = time.monotonic()
        await end_session(two.address, old_id, client.session_password)
        change = await states.until(State.CONNECTED)
        figures("from the end of a session to the next", states.times[-1] - began)
        assert states.states == [State.SUSPENDED, State.LOST, State.RENEWED, State.CONNECTED]
        assert (change.session_id, change.generation) == (client.session_id, 2)
        assert client.session_id != old_id
        with pytest.raises(SessionExpiredError):
            await bound.exists(root)
        assert await client.exists(root) is not None


async def test_credentials_hold_on_every_connection_and_in_every_session(
    ensemble: Ensemble, witness: Client, root: str
) -> None:
    """They go before the watches: a server drops the event of a node that the connection may not read."""
    one, two = (await ensemble.followers())[:2]
    events: list[WatchEvent] = []
    states = States()
    await witness.add_auth("digest", b"bob:secret")
    path = (await witness.create(f"{root}/guarded", acl=CREATOR_ALL_ACL)).path
    async with (
        Proxy(one.address) as proxy,
        Client(proxy.address, session_timeout=20, default_timeout=PATIENCE) as client,
    ):
        client.add_listener(states)
        await client.add_auth("digest", b"bob:secret")
        await client.sync()
        for lost in (False, True):
            states.forget()
            await client.get(path, watch=events.append)
            shut(proxy)
            await states.until(State.SUSPENDED)
            if lost:
                await end_session(two.address, client.session_id, client.session_password)
            await witness.set(path, b"changed")
            proxy.accept()
            await states.until(State.CONNECTED)
            assert (State.RENEWED in states.states) is lost
            await client.sync()
            assert (await client.get(path)).data == b"changed"
            await until(lambda expected=1 + lost: len(events) == expected)  # type: ignore[misc]
        assert {event.type for event in events} == {EventType.DATA_CHANGED}


async def test_lost_is_announced_before_the_servers_expire_the_session(
    ensemble: Ensemble, witness: Client, root: str, figures: Figures
) -> None:
    """Who leads by an ephemeral node must know that it may be gone before anybody can see that it is."""
    timeout = 1.0
    states = States()
    gone: list[float] = []
    async with (
        Proxy((await pick(ensemble, "follower")).address) as proxy,
        Client(proxy.address, session_timeout=timeout) as client,
    ):
        client.add_listener(states)
        old_id = client.session_id
        await client.create(f"{root}/ephemeral", ephemeral=True)
        await witness.sync()
        assert await witness.exists(f"{root}/ephemeral", watch=lambda _: gone.append(time.monotonic())) is not None
        shut(proxy)
        await until(lambda: gone)
        assert states.states == [State.SUSPENDED, State.LOST]
        figures("from LOST to the end of the ephemeral node", gone[0] - states.time_of_last(State.LOST))
        assert states.time_of_last(State.LOST) <= gone[0]
        assert "must be assumed gone" in str(states.changes[-1].reason)
        proxy.accept()
        await states.until(State.CONNECTED)
        assert states.states[-2:] == [State.RENEWED, State.CONNECTED]
        assert (states.changes[-1].session_id != old_id, client.generation) == (True, 2)


# --- bad addresses in the list ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hole", [mute_server, unreachable_server])
async def test_a_black_hole_in_the_list_costs_little(
    ensemble: Ensemble, root: str, hole: Any, figures: Figures
) -> None:
    timeout = 6.0
    one, two = (await ensemble.followers())[:2]
    states = States()
    with hole() as address:
        began = time.monotonic()
        servers = [address, one.address, two.address]
        async with Client(servers, shuffle=False, session_timeout=timeout, default_timeout=PATIENCE) as client:
            started_after = time.monotonic() - began
            figures(f"start with a {hole.__name__} first", started_after)
            assert started_after < timeout / 3 + 1
            assert client.statistics().server in servers[1:]

        def make() -> Client:
            return Client([one.address, address, two.address], shuffle=False, session_timeout=timeout)

        async with connected_to(one.address, make) as client:
            client.add_listener(states)
            async with Load(client, root) as load:
                await one.kill()
                await load.goes_on()
            figures(f"failover with a {hole.__name__} next", load.longest_gap)
            assert load.longest_gap < timeout / 6 + 1
            assert states.states == [State.SUSPENDED, State.CONNECTED]
            assert client.generation == 1


@pytest.mark.parametrize("name", ["no-such-host.invalid", "x" * 64], ids=["unknown", "impossible"])
async def test_a_name_that_does_not_resolve_is_passed_over(ensemble: Ensemble, root: str, name: str) -> None:
    one, two = (await ensemble.followers())[:2]
    servers = [f"{name}:2181", one.address, f"{name}:2182", two.address]
    async with connected_to(one.address, lambda: Client(servers, shuffle=False)) as client:
        await one.kill()
        assert await client.get(root, timeout=PATIENCE) is not None
        assert await ensemble.server_of(client.session_id) is two
        assert client.generation == 1


async def test_a_mute_server_alone_fails_start_by_name(ensemble: Ensemble) -> None:
    assert ensemble.servers
    with mute_server() as address:
        client = Client(address, session_timeout=1)
        with pytest.raises(ConnectionError, match=address) as caught:
            await client.start()
        assert any(isinstance(reason, HandshakeTimeoutError) for _, reason in caught.value.failures)  # type: ignore[attr-defined]


# --- consistency between servers ----------------------------------------------------------------------------------


async def test_a_read_behind_sync_sees_what_others_have_written(ensemble: Ensemble, root: str) -> None:
    one, two = (await ensemble.followers())[:2]
    async with Client(one.address) as writer, Client(two.address) as reader:
        for number in range(100):
            path, _ = await writer.create(f"{root}/n-{number}")
            synced, found = reader.sync(), reader.exists(path)
            assert await found is not None
            await synced
        with pytest.raises(NoNodeError):
            await reader.get(f"{root}/n-100")
