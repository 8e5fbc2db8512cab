"""P1, connected, on real ensembles: whatever happens to servers, links, names and clocks, and however long it lasts,
the client is usable again by itself, in the same session where the servers still have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import (
    Client,
    DnsServers,
    EnsembleTracker,
    EventType,
    GaveUpError,
    OutcomeUnknownError,
    RetryNTimes,
    SessionExpiredError,
    SilentLinkError,
    State,
    WatchEvent,
    WriteNotAppliedError,
)
from promises.access import NAME, options_for
from promises.real.ensembles import (
    ON_BOTH,
    ON_OLDER,
    PATIENCE,
    SUPER,
    THOROUGH,
    T,
    Traffic,
    accept_all,
    assert_never_lost,
    client_of,
    in_use_first,
    now,
    proxies_of,
    shut_all,
    until_gone,
    until_time,
    watched,
    without,
)
from real.faults import States, connected_to, mute_server, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everlatch.testing import NetworkEnsemble, Server
    from everlatch.testing.faults import Direction

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

SLACK = 1.0
"""Seconds that a busy machine may take beyond what the client needs."""


# --- links that go silent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["both", "to_server", "to_client"])
async def test_a_half_open_link_under_steady_traffic(network: NetworkEnsemble, root: str, direction: Direction) -> None:
    """The connection stays open, and nothing comes through: one way, the other, or both."""
    followers = await network.followers()
    async with proxies_of(followers) as proxies:
        client = client_of(proxies)
        async with watched(client) as states, Traffic(client, root) as traffic:
            session_id = client.session_id
            used, other = in_use_first(client, proxies)
            hole = used.black_hole(direction)
            await states.until(State.CONNECTED)
            await traffic.goes_on()
            assert hole.times
            assert isinstance(states.changes[0].reason, SilentLinkError)
            assert traffic.longest_gap < T * 2 / 3 + SLACK
            # What the link held back arrives when the client has long left it.
            used.heal()
            await traffic.goes_on()
            assert states.states == [State.SUSPENDED, State.CONNECTED]
            assert (client.session_id, client.generation) == (session_id, 1)
            assert session_id in await followers[proxies.index(other)].connections()


async def test_a_half_open_link_without_traffic(network: NetworkEnsemble, root: str) -> None:
    followers = await network.followers()
    async with proxies_of(followers) as proxies:
        client = client_of(proxies)
        async with watched(client) as states:
            session_id = client.session_id
            in_use_first(client, proxies)[0].black_hole()
            await states.until(State.CONNECTED, timeout=T + SLACK)
            assert await client.exists(root) is not None
            assert states.states == [State.SUSPENDED, State.CONNECTED]
            assert (client.session_id, client.generation) == (session_id, 1)


async def test_the_first_server_is_a_black_hole(network: NetworkEnsemble, root: str) -> None:
    """Its cable is pulled: connecting to it never ends."""
    hole, one, two = network.servers
    await network.link_down(hole, "clients")
    began = now()
    async with client_of([hole, one, two]) as client:
        assert await client.exists(root) is not None
        assert now() - began < T / 3 + SLACK


async def test_a_server_accepts_and_never_answers(network: NetworkEnsemble, root: str) -> None:
    """It is first, and later next: neither costs much of the session's time."""
    one, two = (await network.followers())[:2]
    with mute_server() as mute:
        began = now()
        async with Client([mute, one.address], **options_for(one, shuffle=False, session_timeout=T)) as client:
            assert await client.exists(root) is not None
            assert now() - began < T / 3 + SLACK
        options = options_for(one, shuffle=False, session_timeout=T, default_timeout=PATIENCE)
        client = Client([one.address, mute, two.address], **options)
        async with watched(client) as states, Traffic(client, root) as traffic:
            await in_use_first(client, [one, two])[0].kill()
            await traffic.goes_on()
            assert traffic.longest_gap < T / 3 + SLACK
            assert states.states == [State.SUSPENDED, State.CONNECTED]
            assert client.generation == 1


async def test_no_server_answers_at_first(network: NetworkEnsemble, root: str) -> None:
    """Before the first connection, too, it goes on for as long as it takes."""
    async with proxies_of(network.servers) as proxies:
        for proxy in proxies:
            proxy.black_hole()
        client = client_of(proxies, session_timeout=1.0)
        await client.start(wait=False)
        try:
            read = client.exists(root)
            await until(lambda: client.statistics().connection_attempts > len(proxies) + 1)
            assert client.state is State.CONNECTING
            for proxy in proxies:
                proxy.heal()
            assert await read is not None
            assert client.state is State.CONNECTED
        finally:
            await client.close()


async def test_most_servers_stay_mute_after_an_outage(network: NetworkEnsemble, root: str) -> None:
    """The outage has taught it patience; a server that can be had at once is not kept waiting by that."""
    async with proxies_of(network.servers) as proxies:
        client = client_of(proxies)
        async with watched(client) as states:
            for proxy in proxies:
                proxy.black_hole()
                proxy.cut()
            attempts = client.statistics().connection_attempts
            await states.until(State.LOST, timeout=T + SLACK)
            await until(lambda: client.statistics().connection_attempts >= attempts + 2 * len(proxies))
            proxies[-1].cut()
            proxies[-1].heal()
            well = now()
            assert await client.exists(root) is not None
            assert now() - well < T


async def test_the_old_rehearsal_a_clients_link_is_taken_down_and_up(network: NetworkEnsemble, root: str) -> None:
    """`ip link set down` for a moment, and for longer than the session lives."""
    timeout = 2.4
    short = client_of(network.servers, session_timeout=timeout)
    long_lived = client_of(network.servers, session_timeout=20.0)
    async with watched(short) as short_states, watched(long_lived) as long_states:
        ids = short.session_id, long_lived.session_id
        await short.create(f"{root}/ephemeral", ephemeral=True)

        await network.link_down("test")
        read = asyncio.ensure_future(short.get(root))
        await until_time(now() + timeout / 4)
        assert not read.done()
        await network.link_up("test")
        await read
        await long_lived.get(root)
        assert_never_lost(short_states)
        assert (short.session_id, long_lived.session_id) == ids

        await network.link_down("test")
        await short_states.until(State.LOST, timeout=timeout + SLACK)
        await until_time(now() + timeout / 2)
        call = short.create(f"{root}/after")
        await network.link_up("test")
        up = now()
        await call
        await short_states.until(State.RENEWED)
        assert await short.exists(f"{root}/ephemeral") is None
        await long_lived.get(root)
        assert now() - up < 3 + SLACK, "nobody waits for TCP to repeat itself"
        assert (short.generation, long_lived.generation) == (2, 1)
        assert_never_lost(long_states)


async def test_a_servers_link_is_taken_down_and_up(network: NetworkEnsemble, root: str) -> None:
    followers = await network.followers()
    client = client_of(followers)
    async with watched(client) as states, Traffic(client, root) as traffic:
        for _ in followers:
            states.forget()
            used = in_use_first(client, followers)[0]
            await network.link_down(used, "clients")
            await states.until(State.CONNECTED, timeout=T + SLACK)
            await traffic.goes_on()
            await network.link_up(used, "clients")
        assert traffic.longest_gap < T
        assert client.generation == 1


# --- servers that go ----------------------------------------------------------------------------------------------

# (session timeout, how long all servers are down)
OUTAGES = [(10.0, 60.0)] if THOROUGH else [(1.5, 3.0)]


@ON_OLDER
@pytest.mark.parametrize(("timeout", "down"), OUTAGES)
async def test_all_servers_are_down_for_longer_than_the_session_lives(
    network: NetworkEnsemble, root: str, timeout: float, down: float
) -> None:
    """Servers that start anew give every session its whole time again. So one who comes back in time has his, and one
    who is kept out for longer has not; both are connected."""
    async with proxies_of(network.servers) as proxies:
        early = client_of(network.servers, session_timeout=timeout, default_timeout=None)
        late = client_of(proxies, session_timeout=timeout, default_timeout=None)
        async with watched(early) as early_states, watched(late) as late_states:
            early_id, late_id = early.session_id, late.session_id
            for name, client in (("early", early), ("late", late)):
                await client.create(f"{root}/{name}", ephemeral=True)
            await asyncio.gather(*[server.kill() for server in network.servers])
            shut_all(proxies)
            down_at = now()
            for client, states in ((early, early_states), (late, late_states)):
                change = await states.until(State.LOST, timeout=timeout + SLACK)
                assert "must be assumed gone" in str(change.reason)
                assert client.session_time_left == 0.0
            calls: list[Any] = [client.create(f"{root}/n-", sequential=True) for client in (early, late)]
            bound: list[Any] = [client.in_session().exists(root) for client in (early, late)]
            await until_time(down_at + down)
            assert not any(call.done() for call in calls + bound)
            assert early_states.states == late_states.states == [State.SUSPENDED, State.LOST]

            for server in network.servers:
                await server.start(wait=False)
            await early_states.until(State.CONNECTED)
            await calls[0]
            assert await bound[0] is not None
            assert early_states.states == [State.SUSPENDED, State.LOST, State.CONNECTED]
            assert (early.session_id, early.generation) == (early_id, 1)
            assert (await early.exists(f"{root}/early")).ephemeral_owner == early_id  # type: ignore[union-attr]
            await until_gone(early, f"{root}/late", timeout=timeout + PATIENCE)

            accept_all(proxies)
            await calls[1]
            with pytest.raises(SessionExpiredError):
                await bound[1]
            assert late_states.states == [State.SUSPENDED, State.LOST, State.RENEWED, State.CONNECTED]
            assert late.session_id != late_id
            assert late.generation == 2
            assert (await early.exists(f"{root}/early")).ephemeral_owner == early_id  # type: ignore[union-attr]


@ON_BOTH
async def test_the_leader_is_killed(network: NetworkEnsemble, root: str) -> None:
    """Every server closes its connections then, and refuses new ones until there is another leader."""
    leader = await network.leader()
    await each_survives(network, root, lambda: leader.kill())


async def test_the_leader_is_frozen(network: NetworkEnsemble, root: str) -> None:
    """Its followers wait for it as long as `syncLimit` says: reads go on there, writes don't."""

    async def freeze() -> None:
        leader.pause()

    leader = await network.leader()
    await each_survives(network, root, freeze)


async def each_survives(network: NetworkEnsemble, root: str, strike: Any) -> None:
    """A client of each server comes through with its session."""
    clients = [client_of([server, *await without(network, server)], session_timeout=6.0) for server in network.servers]
    states = [States() for _ in clients]
    async with asyncio.TaskGroup() as starting:
        for client in clients:
            starting.create_task(client.start())
    try:
        ids = [client.session_id for client in clients]
        paths = [(await client.create(f"{root}/{number}")).path for number, client in enumerate(clients)]
        for client, heard in zip(clients, states, strict=True):
            client.add_listener(heard)
        traffics = [Traffic(client, path) for client, path in zip(clients, paths, strict=True)]
        async with traffics[0], traffics[1], traffics[2]:
            await strike()
            for traffic in traffics:
                await traffic.goes_on()
        assert [client.session_id for client in clients] == ids
        assert [client.generation for client in clients] == [1, 1, 1]
        for traffic, client, path in zip(traffics, clients, paths, strict=True):
            assert int((await client.get(path)).data) >= traffic.last_written
    finally:
        await asyncio.gather(*[client.close(timeout=5) for client in clients])


async def test_the_quorum_is_lost_for_less_and_for_more_than_the_session_timeout(
    network: NetworkEnsemble, root: str
) -> None:
    """For one client it was a short interruption. The other had to assume that its session was gone; it was not, for
    without a quorum nobody can end it."""
    short = client_of(network.servers, session_timeout=1.2)
    patient = client_of(network.servers, session_timeout=30.0)
    leader, (follower, other) = await network.leader(), await network.followers()
    async with watched(short) as short_states, watched(patient) as patient_states:
        ids = short.session_id, patient.session_id
        await short.create(f"{root}/ephemeral", ephemeral=True)
        await asyncio.gather(follower.kill(), other.kill())
        await short_states.until(State.LOST, timeout=1.2 + 2 * SLACK)
        await until_time(now() + 0.6)
        calls = [short.set(root, b"short"), patient.set(root, b"patient")]
        assert leader.running
        await follower.start(wait=False)
        await asyncio.gather(*calls)
        assert (short.session_id, patient.session_id) == ids
        # Before LOST there may have been a moment with the leader that had not noticed yet.
        assert short_states.states[-2:] == [State.LOST, State.CONNECTED]
        assert_never_lost(patient_states)
        assert await short.exists(f"{root}/ephemeral") is not None


async def test_a_follower_is_cut_off_from_its_leader(network: NetworkEnsemble, root: str) -> None:
    """It goes on answering pings and reads, and takes writes that nobody hears of, until it gives up."""
    followers = await network.followers()
    client = client_of(followers, session_timeout=6.0)
    async with watched(client) as states, Traffic(client, root) as traffic:
        session_id = client.session_id
        used, other = in_use_first(client, followers)
        await network.cut_from_leader(used)
        await states.until(State.CONNECTED)
        await traffic.goes_on()
        assert_never_lost(states)
        assert (client.session_id, client.generation) == (session_id, 1)
        assert session_id in await other.connections()
    assert int((await network_get(network, root)).data) >= traffic.last_written


async def network_get(network: NetworkEnsemble, path: str) -> Any:
    async with client_of([await network.leader()]) as reader:
        await reader.sync(path)
        return await reader.get(path)


# (session timeout, how many clients); a stall as long as SYNC_LIMIT would end the ensemble itself.
STALLS = [(3.0, 6), (4.5, 30)] if THOROUGH else [(3.0, 6)]


@pytest.mark.parametrize(("timeout", "count"), STALLS)
async def test_all_servers_stall_twice_for_a_third_of_the_session_timeout(
    network: NetworkEnsemble, root: str, timeout: float, count: int
) -> None:
    """Somewhere else it is no better: whoever moves loses his place and gains nothing."""
    clients = [client_of(network.servers, session_timeout=timeout, shuffle=True) for _ in range(count)]
    async with asyncio.TaskGroup() as starting:
        for client in clients:
            starting.create_task(client.start())
    try:
        for _ in range(2):
            for server in network.servers:
                server.pause()
            calls: list[Any] = [client.get(root) for client in clients]
            calls += [client.create(f"{root}/n-", sequential=True) for client in clients]
            await until_time(now() + timeout / 3)
            for server in network.servers:
                server.resume()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            errors = [end for end in ends if isinstance(end, BaseException)]
            assert all(isinstance(error, OutcomeUnknownError | WriteNotAppliedError) for error in errors), errors
        connections = [client.connections for client in clients]
        assert max(connections) <= 2, "1 is the first; nobody reconnects more than once"
        assert {client.generation for client in clients} == {1}
    finally:
        await asyncio.gather(*[client.close(timeout=5) for client in clients])


# --- names --------------------------------------------------------------------------------------------------------


class Names:
    """What a name server knows of one name."""

    def __init__(self, *servers: Server) -> None:
        self.servers: tuple[Server, ...] | None = servers
        """`None`: it fails."""
        self.questions = 0

    async def getaddrinfo(self, host: str, port: int, **_: object) -> list[Any]:
        self.questions += 1
        if self.servers is None or host != NAME:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (server.host, port)) for server in self.servers
        ]


async def test_a_name_moves_fails_and_returns(
    network: NetworkEnsemble, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = network.servers
    names = Names(one)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names.getaddrinfo)
    client = Client(f"{NAME}:{one.port}", **options_for(one, session_timeout=10.0, default_timeout=PATIENCE))
    async with watched(client) as states:
        session_id = client.session_id

        names.servers = (two,)  # moved
        await one.kill()
        assert await client.exists(root) is not None
        assert await network.server_of(session_id) is two

        await one.start()
        states.forget()
        names.servers = None  # fails
        await two.kill()
        await states.until(State.SUSPENDED)
        asked = names.questions
        await until(lambda: names.questions > asked + 3)
        call = client.exists(root)
        names.servers = (three, one)  # returns
        assert await call is not None
        assert await network.server_of(session_id) in (one, three)
        assert_never_lost(states)
        assert client.generation == 1


async def test_a_name_that_fails_from_the_beginning(
    network: NetworkEnsemble, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names()
    names.servers = None
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names.getaddrinfo)
    one = network.servers[0]
    client = Client(f"{NAME}:{one.port}", **options_for(one, default_timeout=PATIENCE))
    await client.start(wait=False)
    try:
        await until(lambda: names.questions > 3)
        assert client.state is State.CONNECTING
        names.servers = network.servers
        assert await client.exists(root) is not None
    finally:
        await client.close()


async def test_a_list_that_follows_a_name(network: NetworkEnsemble, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves a server that the name no longer has, though it serves; and one that fails changes nothing."""
    one, two, three = network.servers
    names = Names(one)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names.getaddrinfo)
    source = DnsServers(NAME, one.port, interval=0.05)
    client = Client(source, **options_for(one, default_timeout=PATIENCE))
    async with watched(client) as states, Traffic(client, root) as traffic:
        session_id = client.session_id
        for place in ((two,), None, (three,)):
            names.servers = place
            asked = names.questions
            await until(lambda: names.questions > asked + 1)  # noqa: B023
            await traffic.goes_on()
            if place:
                await until(lambda: client.state is State.CONNECTED and client.statistics().server is not None)
                await until_at(network, session_id, place[0])
        assert traffic.unknown == 0
        assert_never_lost(states)
        assert (client.session_id, client.generation) == (session_id, 1)


async def until_at(network: NetworkEnsemble, session_id: int, server: Server) -> None:
    async with asyncio.timeout(PATIENCE):
        while session_id not in await server.connections():
            await asyncio.sleep(0.01)


async def test_a_name_that_hangs_keeps_no_silent_link_alive(
    network: NetworkEnsemble, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others, whose addresses are known, are asked meanwhile whether they live."""

    async def hang(*_: object, **__: object) -> list[Any]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", hang)
    one, two = (await network.followers())[:2]
    servers = [one.address, two.address, "hangs.example:2181"]
    options = options_for(one, shuffle=False, session_timeout=6.0, default_timeout=PATIENCE)
    client = Client(servers, **options)
    async with watched(client) as states:
        used = await network.server_of(client.session_id)
        began = now()
        used.pause()
        assert await client.exists(root) is not None
        assert now() - began < 6.0 / 6 + 6.0 / 8 + SLACK
        assert states.states == [State.SUSPENDED, State.CONNECTED]


async def test_a_name_that_is_looked_up_during_a_reconnect_ends_no_search(
    network: NetworkEnsemble, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preventive search goes on, whatever becomes of the lookup that it was waiting for."""
    lookups: list[asyncio.Future[list[Any]]] = []

    async def slow(*_: object, **__: object) -> list[Any]:
        lookups.append(asyncio.get_running_loop().create_future())
        return await lookups[-1]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", slow)
    follower = (await network.followers())[0]
    async with proxies_of([follower]) as (proxy,):
        servers = [proxy.address, "slow.example:2181"]
        options = options_for(proxy, shuffle=False, default_timeout=PATIENCE, preventive_search_interval=0.05)
        client = Client(servers, **options)
        async with watched(client) as states:
            await until(lambda: lookups)
            proxy.cut()
            await states.until(State.CONNECTED)
            asked = len(lookups)
            for lookup in lookups:
                if not lookup.done():
                    lookup.set_exception(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
            await until(lambda: len(lookups) > asked)
            lookups[-1].set_result([])
            assert await client.exists(root) is not None


# --- the ensemble changes -----------------------------------------------------------------------------------------


async def test_a_reconfiguration_removes_the_server_in_use(network: NetworkEnsemble, root: str) -> None:
    """Who follows the configuration leaves at once, and loses no call; who doesn't goes when the server does."""
    follower, other = (await network.followers())[:2]
    leader = await network.leader()
    servers = [follower, other, leader]
    boss = client_of([leader, other], session_timeout=10.0, auth=[SUPER])
    static_states, following_states = States(), States()

    def make() -> Client:
        return client_of(servers, session_timeout=10.0)

    async with (
        connected_to(follower.address, make) as static,
        connected_to(follower.address, make) as follows,
        EnsembleTracker(follows),
        boss,
        Traffic(static, root) as static_traffic,
        Traffic(follows, root) as following_traffic,
    ):
        static.add_listener(static_states)
        follows.add_listener(following_states)
        ids = static.session_id, follows.session_id
        before = (await boss.get_config()).data.decode()
        line = next(line for line in before.splitlines() if line.startswith(f"server.{follower.id}="))
        with as_it_was_configured(follower):
            await boss.reconfig(leaving=str(follower.id))
            await following_states.until(State.CONNECTED)
            assert following_traffic.unknown == 0
            assert follows.statistics().server != follower.address
            # What an administrator does next who has taken it out.
            await follower.stop()
            await static_states.until(State.CONNECTED)
            for traffic in (static_traffic, following_traffic):
                await traffic.goes_on()
        for states in (static_states, following_states):
            assert_never_lost(states)
        assert (static.session_id, follows.session_id) == ids
        assert (static.generation, follows.generation) == (1, 1)
        await boss.reconfig(joining=line)
        await follower.start(wait=False)


async def test_another_list_of_servers(network: NetworkEnsemble, root: str) -> None:
    """The server in use is not on it: it is left when what was sent is answered, and no call is lost."""
    one, two, three = network.servers
    client = client_of([one], session_timeout=10.0)
    async with watched(client) as states, Traffic(client, root) as traffic:
        for server in (two, three, one):
            states.forget()
            calls: list[Any] = [client.create(f"{root}/n-", sequential=True) for _ in range(100)]
            client.update_servers(server.address)
            await asyncio.gather(*calls)
            await states.until(State.CONNECTED)
            await traffic.goes_on()
            await until_at(network, client.session_id, server)
        assert traffic.unknown == 0
        assert client.generation == 1


async def test_it_gives_up_when_it_was_told_to(network: NetworkEnsemble, root: str) -> None:
    async with proxies_of(network.servers) as proxies:
        client = client_of(proxies, retry_policy=RetryNTimes(2, 0.05))
        async with watched(client) as states:
            for proxy in proxies:
                proxy.cut()  # one that is welcome again is nothing to give up for
            assert await client.exists(root) is not None
            shut_all(proxies)
            await states.until(State.SUSPENDED)
            call = client.exists(root)
            await states.until(State.GAVE_UP)
            with pytest.raises(GaveUpError):
                await call
            with pytest.raises(GaveUpError):
                await client.exists(root)


@contextlib.contextmanager
def as_it_was_configured(server: Server) -> Iterator[None]:
    """A server writes down that it is out, and would not start any more: afterwards its files are as before."""
    directory = server.data_dir.parent
    files = {path: path.read_bytes() for path in directory.glob("zoo.cfg*")}
    try:
        yield
    finally:
        for path, content in files.items():
            path.write_bytes(content)


async def test_all_data_are_wiped(network: NetworkEnsemble, root: str) -> None:
    """The new history has not come as far as the old one: every server refuses a client that has seen more. It begins
    anew when one serves, none takes it, and its session must be assumed gone anyway."""
    client = client_of(network.servers)
    async with watched(client) as states:
        # So far that no new ensemble gets there soon, whatever the tests before have done.
        for _ in range(20):
            await client.set(root, b"history")
        events: list[WatchEvent] = []
        await client.get(root, watch=events.append)
        old_id, old_zxid = client.session_id, client.statistics().last_zxid
        bound = client.in_session()
        await asyncio.gather(*[server.kill() for server in network.servers])
        await states.until(State.SUSPENDED)
        bound_call, read = bound.exists(root), client.exists(root)
        for server in network.servers:
            shutil.rmtree(server.data_dir / "version-2")
        for server in network.servers:
            await server.start(wait=False)
        assert await read is None
        with pytest.raises(SessionExpiredError):
            await bound_call
        await until(lambda: events)
        assert [(event.type, event.path) for event in events] == [(EventType.DELETED, root)]
        created = await client.create(f"/anew-{time.monotonic_ns()}")
        assert created.stat.czxid < old_zxid
        assert client.statistics().last_zxid < old_zxid
        assert client.generation == 2
        assert client.session_id != old_id
        assert states.states == [State.SUSPENDED, State.LOST, State.RENEWED, State.CONNECTED]


async def test_a_lost_quorum_is_no_new_history(network: NetworkEnsemble, root: str) -> None:
    """What has become of the ensemble can't be told from one server: what it refuses, a quorum may have."""
    leader, (follower, other) = await network.leader(), await network.followers()
    client = client_of([leader, other], session_timeout=1.0)
    async with watched(client) as states:
        session_id = client.session_id
        await client.create(f"{root}/ephemeral", ephemeral=True)
        await other.kill()  # it misses what follows
        for _ in range(20):
            await client.set(root, b"history")
        zxid = client.statistics().last_zxid
        await asyncio.gather(leader.kill(), follower.kill())
        await other.start(wait=False)
        await states.until(State.LOST, timeout=1.0 + SLACK)
        await until_time(now() + 1.0)
        await leader.start(wait=False)
        assert (await client.get(root)).data == b"history"
        assert (client.session_id, client.generation) == (session_id, 1)
        assert client.statistics().last_zxid >= zxid


# --- our own process ----------------------------------------------------------------------------------------------


async def test_the_wall_clock_jumps(network: NetworkEnsemble, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By days, forwards and backwards, whenever somebody looks at it."""
    dice, real = random.Random(1), time.time
    looks = 0

    def jumping() -> float:
        nonlocal looks
        looks += 1
        return real() + dice.uniform(-1e6, 1e6)

    for name, clock in (("time", jumping), ("time_ns", lambda: round(jumping() * 1e9))):
        monkeypatch.setattr(time, name, clock)
    followers = await network.followers()
    client = client_of(followers, session_timeout=6.0)
    async with watched(client) as states, Traffic(client, root) as traffic:
        let_go = client.hold_lease()
        await client.wait_lease()
        await until_time(now() + T / 2)
        time.time()
        assert looks
        assert states.states == []
        assert (client.connections, client.lease_lapses) == (1, 0)
        await in_use_first(client, followers)[0].kill()
        await states.until(State.CONNECTED)
        await traffic.goes_on()
        assert client.generation == 1
        let_go()
