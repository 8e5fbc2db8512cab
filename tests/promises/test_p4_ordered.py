"""P4, ordered: the writes of one client take effect in the order in which they were called (awaited or not), also when
the connection breaks in between; a read sees all that its client wrote before it, and no read sees an older state
than the one before.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch import (
    Call,
    Client,
    Created,
    OutcomeUnknownError,
    ProtocolError,
    RequestKillsConnectionError,
    StateChange,
)
from everlatch.wire.codes import Op
from scripted_server import Connection, Received, ScriptedServer, Znodes, answer, drop_after, drop_before, hold, reset
from skipping_loop import SkippingLoop, run, simulated


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
        ends = await asyncio.gather(*calls, return_exceptions=True)
        unknown = {number for number, end in enumerate(ends) if isinstance(end, OutcomeUnknownError)}
        assert unknown
        assert created(server) == [f"/{number}" for number in range(20) if number not in unknown]


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
        stale.sessions = fresh.sessions
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
        async with ScriptedServer(session_timeout_ms=3000) as server, server.client(max_in_flight=window) as client:
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
