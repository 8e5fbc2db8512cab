"""P4, ordered: the writes of one client take effect in the order in which they were called (awaited or not), also when
the connection breaks in between; a read sees all that its client wrote before it, and no read sees an older state
than the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch import (
    Call,
    Client,
    Created,
    NoAuthError,
    OutcomeUnknownError,
    ProtocolError,
    RequestKillsConnectionError,
    StateChange,
    digest_acl,
)
from everlatch.types import CREATOR_ALL_ACL
from everlatch.wire.codes import Op
from promises.access import options_for, proxy_to
from promises.behind_proxy import cut_off, data_below, ends_of, through
from real.faults import LONGEST, until
from scripted_server import Connection, Received, ScriptedServer, Znodes, answer, drop_after, drop_before, hold, reset
from skipping_loop import SkippingLoop, run, simulated

if TYPE_CHECKING:
    from everlatch import Node
    from everlatch.testing import Ensemble, Proxy
    from everlatch.testing.faults import Direction


def created(server: ScriptedServer) -> list[str]:
    return [path for operation, path in server.znodes.applied if operation == "create"]


@simulated
async def test_the_order_is_that_of_the_calls_not_of_the_awaits():
    async with ScriptedServer() as server, server.client() as client:
        calls = [client.create(f"/{number}") for number in range(20)]
        for call in reversed(calls):
            await call
        assert created(server) == [f"/{number}" for number in range(20)]


@simulated
async def test_of_calls_in_several_tasks_too():
    async with ScriptedServer() as server, server.client() as client:
        order: list[str] = []

        async def work(name: str) -> None:
            for number in range(10):
                order.append(f"/{name}{number}")
                await client.create(order[-1])

        await asyncio.gather(*[work(name) for name in "abc"])
        assert created(server) == order


@simulated
async def test_across_a_reconnect():
    async with ScriptedServer() as server, server.client(max_in_flight=3) as client:
        server.at(5, drop_before)
        calls = [client.create(f"/{number}") for number in range(20)]
        assert [result.path for result in await asyncio.gather(*calls)] == [f"/{number}" for number in range(20)]
        assert created(server) == [f"/{number}" for number in range(20)]
        assert client.statistics().writes_resent == 3


@simulated
async def test_calls_made_while_disconnected_come_behind_those_made_before():
    async with ScriptedServer() as server, server.client(max_in_flight=1) as client:
        server.next(reset)
        read = client.exists("/")
        before = [client.create(f"/{number}") for number in range(3)]
        await server.wait_for_requests(1)
        await asyncio.sleep(0)
        after = [client.create(f"/{number}") for number in range(3, 6)]
        await asyncio.gather(read, *before, *after)
        assert [request.path for request in server.requests] == ["/", "/", *[f"/{number}" for number in range(6)]]


@simulated
async def test_a_read_sees_every_earlier_write():
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a", b"-1")
        pairs = [(client.set("/a", b"%d" % number), client.get("/a")) for number in range(50)]
        for number, (write, read) in enumerate(pairs):
            await write
            assert (await read).data == b"%d" % number


@pytest.mark.parametrize("break_", [drop_before, reset])
@simulated
async def test_a_repeated_read_sees_every_earlier_write(break_):
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a")
        server.at(3, break_)
        write = client.set("/a", b"1")
        read = client.get("/a")
        late = client.set("/a", b"2")
        assert (await read).data in (b"1", b"2")
        # Whether the answer to the write came through before the connection broke is not what this is about.
        ends = await asyncio.gather(write, late, return_exceptions=True)
        assert all(not isinstance(end, Exception) or isinstance(end, OutcomeUnknownError) for end in ends)
        assert server.paths(Op.GET_DATA) == ["/a", "/a"]


@simulated
async def test_a_repeated_read_is_sent_before_what_was_called_after_it():
    async with ScriptedServer() as server, server.client(max_in_flight=2) as client:
        await client.create("/a")
        server.next(hold)
        reads = [client.get("/a"), client.exists("/a")]
        write = client.set("/a", b"later")
        await server.wait_for_requests(3)
        server.connection.reset()
        assert (await reads[0]).data == b""
        await write
        assert [request.op for request in server.requests[3:]] == [Op.GET_DATA, Op.EXISTS, Op.SET_DATA]


@simulated
async def test_new_credentials_count_from_when_they_were_added():
    async with ScriptedServer() as server, server.client() as client:
        calls: list[Any] = [client.create("/before"), client.create("/before2")]
        calls += [client.add_auth("digest", b"a:b"), client.create("/after")]
        await asyncio.gather(*calls)
        assert [request.op for request in server.requests] == [Op.CREATE2, Op.CREATE2, Op.AUTH, Op.CREATE2]


@simulated
async def test_transactions_keep_their_place():
    async with ScriptedServer() as server, server.client() as client:
        first = client.create("/1")
        t = client.transaction()
        t.create("/3")
        second, third, fourth = client.create("/2"), t.commit(), client.create("/4")
        await asyncio.gather(first, second, third, fourth)
        assert created(server) == ["/1", "/2", "/3", "/4"]


@simulated
async def test_a_server_whose_data_is_older_is_passed_over():
    fresh, stale = Znodes(), Znodes()
    async with ScriptedServer(fresh) as first, ScriptedServer(stale) as second:
        client = Client([first.address, second.address], shuffle=False)
        async with client:
            await client.create("/a", b"1")
            first.connection.reset()
            assert (await client.get("/a")).data == b"1"
            assert second.greetings[0].last_zxid_seen == fresh.zxid
            assert second.requests == []


@simulated
async def test_an_answer_from_the_past_is_not_believed():
    def from_the_past(connection: Connection, request: Received) -> None:
        connection.reply(request.xid, -101, zxid=1)

    async with ScriptedServer() as server, server.client() as client:
        changes: list[StateChange] = []
        client.add_listener(changes.append)
        await client.create("/a", b"1")
        server.next(from_the_past)
        assert (await client.get("/a")).data == b"1"
        assert isinstance(changes[0].reason, ProtocolError)
        assert "back in time" in str(changes[0].reason)


@given(
    breaks=st.dictionaries(
        st.integers(1, 30), st.sampled_from([drop_before, drop_after, reset, hold]), min_size=1, max_size=6
    ),
    window=st.integers(1, 8),
    pauses=st.sets(st.integers(0, 19)),
)
def test_whatever_breaks_writes_are_applied_in_order_and_once(breaks, window, pauses):
    async def main() -> None:
        async with ScriptedServer(max_session_timeout=3) as server, server.client(max_in_flight=window) as client:
            for number, action in breaks.items():
                server.at(number, action if action is not hold else silent)
            writes: dict[str, Call[Created]] = {}
            reads: list[Call[Any]] = []
            for number in range(20):
                writes[f"/{number}"] = client.create(f"/{number}")
                if number % 3 == 0:
                    reads.append(client.exists("/"))
                if number in pauses:
                    await asyncio.sleep(0.5)
            ends = await asyncio.gather(*writes.values(), return_exceptions=True)
            happened = {path for path, end in zip(writes, ends, strict=True) if isinstance(end, Created)}
            assert all(isinstance(end, (Created, OutcomeUnknownError)) for end in ends)
            done = created(server)
            assert done == [path for path in writes if path in done], "in order, and each once"
            assert happened <= set(done)
            for end in await asyncio.gather(*reads, return_exceptions=True):
                assert not isinstance(end, Exception) or isinstance(end, RequestKillsConnectionError)

    run(SkippingLoop, main())


def silent(connection: Connection, request: Received) -> None:
    """Applied; then the link is half-open."""
    answer(connection, request)
    connection.silent = True


# --- real servers, behind a proxy ---------------------------------------------------------------------------------


def ascends(values: list[int], *, strictly: bool = False) -> bool:
    return all(low < high or (low == high and not strictly) for low, high in itertools.pairwise(values))


@pytest.mark.parametrize("window", [1, 16])
@pytest.mark.real
async def test_effects_are_in_the_order_of_the_calls_across_lost_connections(
    proxy: Proxy, witness: Client, root: str, window: int
) -> None:
    """Requests and replies are lost, some calls are made while the client is cut off. In the order in which the server
    has made the nodes, their numbers ascend."""
    async with through(proxy, max_in_flight=window) as client:
        faults = [proxy.lose_reply(Op.CREATE2, nth=20, every=127), proxy.lose_request(Op.CREATE2, nth=50, every=99)]
        creates: list[Call[Created]] = []
        for wave in range(4):
            if wave == 2:
                await cut_off(proxy, client)
            for number in range(wave * 80, wave * 80 + 80):
                creates.append(client.create(f"{root}/n-", b"%d" % number, sequential=True))
                if number % 5 == 0:
                    client.exists(root).add_done_callback(lambda call: call.exception())
            if wave == 2:
                proxy.accept()
            # Most of the wave is still on its way, or not even sent, when the next one is called.
            await ends_of(creates[wave * 80 : wave * 80 + 20])
        ends = await ends_of(creates)
        await client.sync()
        numbers = await data_below(witness, root)
        assert ascends(numbers, strictly=True)
        happened = {number: end for number, end in enumerate(ends) if isinstance(end, Created)}
        assert set(happened) <= set(numbers)
        assert ascends([end.stat.czxid for end in happened.values()], strictly=True)
        assert ascends([int(end.path[-10:]) for end in happened.values()], strictly=True)
        assert all(number in happened or isinstance(ends[number], OutcomeUnknownError) for number in range(320))
        assert all(fault.times for fault in faults)


@pytest.mark.real
async def test_a_read_sees_every_earlier_write_and_no_read_goes_back(proxy: Proxy, witness: Client, root: str) -> None:
    """Reads that are lost are repeated: they may see later writes too, then those behind them do as well."""
    await witness.set(root, b"-1")
    async with through(proxy, max_in_flight=8) as client:
        faults = [proxy.lose_reply(Op.GET_DATA, every=40), proxy.lose_request(Op.GET_DATA, every=65)]
        faults += [proxy.lose_reply(Op.SET_DATA, nth=60)]
        proxy.delay(0.001, "to_client")
        pairs = [(client.set(root, b"%d" % number), client.get(root)) for number in range(150)]
        writes = await ends_of([write for write, _ in pairs])
        nodes: list[Node] = await ends_of([read for _, read in pairs])
        assert all(fault.times for fault in faults)
        seen = [int(node.data) for node in nodes]
        last = -1
        for number, (write, value) in enumerate(zip(writes, seen, strict=True)):
            if not isinstance(write, OutcomeUnknownError):
                last = number
            assert value >= last, "its client's own write, called before"
        assert ascends(seen)
        assert ascends([node.stat.mzxid for node in nodes])


@pytest.mark.real
async def test_calls_end_in_the_order_in_which_they_were_made(proxy: Proxy, root: str) -> None:
    """A reply that is late holds up those behind it, and none passes it."""
    async with through(proxy) as client:
        held = proxy.hold_reply(Op.GET_DATA)
        ended: list[int] = []
        calls: list[Call[Any]] = []
        for _ in range(25):
            calls += [client.exists(root), client.get(root), client.set(root, b""), client.children(root)]
        for number, call in enumerate(calls):
            call.add_done_callback(lambda _, number=number: ended.append(number))
        await held.reached(frames=99)
        # Its reply has gone out before; whether it has come in, and its callback has had its turn, is another matter.
        await until(lambda: ended)
        assert ended == [0]
        held.release()
        await ends_of(calls)
        assert ended == list(range(100))


@pytest.mark.real
async def test_transactions_credentials_and_syncs_keep_their_place(proxy: Proxy, witness: Client, root: str) -> None:
    """The credentials serve those calls alone that were made later."""
    guarded = (await witness.create(f"{root}-guarded", acl=[digest_acl("bob", "secret")])).path
    async with through(proxy) as client:
        slow = proxy.delay(0.05)
        refused = client.create(f"{guarded}/a")
        authenticated = client.add_auth("digest", b"bob:secret")
        first = client.create(f"{root}/n-", b"0", sequential=True, acl=CREATOR_ALL_ACL)
        transaction = client.transaction()
        transaction.create(f"{root}/n-", b"1", sequential=True)
        transaction.create(f"{root}/n-", b"2", sequential=True)
        calls = [first, transaction.commit(), client.sync(), client.create(f"{root}/n-", b"3", sequential=True)]
        children = client.children(root)
        with pytest.raises(NoAuthError):
            await refused
        assert slow.times
        await authenticated
        await client.create(f"{guarded}/a")
        assert not [end for end in await ends_of(calls) if isinstance(end, Exception)]
        assert sorted(await children) == [f"n-{number:010}" for number in range(4)]
        await witness.add_auth("digest", b"bob:secret")
        assert await data_below(witness, root) == [0, 1, 2, 3]


@pytest.mark.real
async def test_no_read_goes_back_when_the_next_server_lags(ensemble3: Ensemble) -> None:
    """While a follower stands still the others go on; then the client is driven to it. What it has seen on the others,
    its own writes and somebody else's, it sees there too."""
    leader, followers = await ensemble3.leader(), await ensemble3.followers()
    options = options_for(leader, session_timeout=10, default_timeout=LONGEST)
    async with contextlib.AsyncExitStack() as stack:
        front_of = {server: await stack.enter_async_context(proxy_to(server)) for server in ensemble3.servers}
        fronts = list(front_of.values())
        client = await stack.enter_async_context(Client([front.address for front in fronts], **options))
        other = await stack.enter_async_context(Client(leader.address, **options))
        await other.create("/others", b"-1")
        await client.create("/own")
        others, own = [-1], list[int]()
        claims: list[int] = []

        def listens(direction: Direction, whole: bytes) -> bytes:
            if direction == "to_server" and len(whole) in (48, 49):  # a handshake
                claims.append(int.from_bytes(whole[8:16], "big"))
            return whole

        for front in fronts:
            front.alter = listens
        for number in range(6):
            lagging = followers[number % 2]
            front_of[lagging].refuse()
            front_of[lagging].cut()
            lagging.pause()
            for step in range(10):
                await other.set("/others", b"%d" % (number * 10 + step))
                others.append(int((await client.get("/others")).data))
            (written,) = await ends_of([client.set("/own", b"%d" % number)])
            lagging.resume()
            # From here on there is none but the server that has stood still.
            for front in fronts:
                front.refuse()
                if front is not front_of[lagging]:
                    front.cut()
            reads = client.get("/others"), client.get("/own")
            seen_zxid = client.statistics().last_zxid
            claims.clear()
            front_of[lagging].accept()
            others.append(int((await reads[0]).data))
            # That is how a server which lags is made to refuse: these don't lag for long enough to show it.
            assert claims
            assert min(claims) >= seen_zxid
            own.append(int((await reads[1]).data))
            assert own[-1] == number or isinstance(written, OutcomeUnknownError)
            assert client.statistics().server == front_of[lagging].address
            for front in fronts:
                front.accept()
        assert ascends(others)
        assert ascends(own)
        assert client.generation == 1
