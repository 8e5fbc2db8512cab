"""P10, checked: what a caller gets wrong is refused before a byte is sent. What a server gets wrong costs that
connection, with the reason told, and nothing else: every call ends as it should and the client goes on. A request on
which every connection breaks is not repeated for ever.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch import (
    Client,
    ConnectionClosedByServerError,
    EverlatchError,
    FrameTooLargeError,
    InvalidArgumentError,
    InvalidLengthError,
    NodeExistsError,
    NoNodeError,
    Outcome,
    OutcomeUnknownError,
    ProtocolError,
    ReplyTooLargeError,
    RequestKillsConnectionError,
    ServerError,
    SessionClosedRequireAuthError,
    StartError,
    Stat,
    State,
    StateChange,
    TruncatedError,
    UnexpectedReplyError,
    UnimplementedError,
    UnknownServerError,
)
from everlatch.wire.codes import XID_AUTH, XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import frame
from everlatch.wire.headers import encode_reply
from everlatch.wire.watch_records import encode_watcher_event
from promises.behind_proxy import ends_of, through
from real.faults import LONGEST, until
from scripted_server import (
    Connection,
    Received,
    ScriptedServer,
    answer,
    drop_after,
    drop_before,
    fail_with,
    go_silent,
    hold,
    reset,
    send,
    swallow,
)
from skipping_loop import SkippingLoop, run, simulated

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing import Proxy
    from everlatch.testing.faults import Direction


def reply(*parts: int, body: bytes = b"") -> bytes:
    return frame(encode_reply(*parts, body))


def event(number: int, path: bytes = b"/a") -> bytes:
    return frame(encode_reply(XID_NOTIFICATION, -1, 0, struct.pack(">iii", number, 3, len(path)) + path))


def twice(connection: Connection, request: Received) -> None:
    answer(connection, request)
    answer(connection, request)


def half(connection: Connection, request: Received) -> None:
    connection.send_raw(reply(request.xid, connection.server.znodes.zxid, 0, body=bytes(100))[:50])
    connection.close()


def truncated_body(connection: Connection, request: Received) -> None:
    connection.send_raw(reply(request.xid, connection.server.znodes.zxid, 0, body=bytes(10)))


def past(connection: Connection, request: Received) -> None:
    connection.reply(request.xid, zxid=1)


def other_xid(connection: Connection, request: Received) -> None:
    connection.reply(request.xid + 1000)


WRONG: dict[str, tuple[Any, type[BaseException]]] = {
    "text": (send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), FrameTooLargeError),
    "zeroes": (send(bytes(64)), TruncatedError),
    "an empty frame": (send(frame(b"")), TruncatedError),
    "half a header": (send(frame(bytes(15))), TruncatedError),
    "a huge length": (send(struct.pack(">i", 2**31 - 1)), FrameTooLargeError),
    "a negative length": (send(struct.pack(">i", -1)), InvalidLengthError),
    "the most negative length": (send(struct.pack(">i", -(2**31))), InvalidLengthError),
    "an unknown xid": (other_xid, UnexpectedReplyError),
    "xid 0": (send(reply(0, 5, 0)), UnexpectedReplyError),
    "an unknown special xid": (send(reply(-77, 5, 0)), UnexpectedReplyError),
    "a ping that was not asked for": (send(reply(XID_PING, 5, 0)), UnexpectedReplyError),
    "an auth that was not asked for": (send(reply(XID_AUTH, 0, 0)), UnexpectedReplyError),
    "a body that is too short": (truncated_body, ProtocolError),
    "an answer from the past": (past, ProtocolError),
    "an event of an unknown type": (send(event(77)), ProtocolError),
    "an event of type -1": (send(event(-1)), ProtocolError),
    "an event that only clients make": (send(event(5)), ProtocolError),
    "another that only clients make": (send(event(6)), ProtocolError),
    "an event without a path": (send(frame(encode_reply(XID_NOTIFICATION, -1, 0, bytes(8)))), ProtocolError),
    "an event that is no event": (send(frame(encode_reply(XID_NOTIFICATION, -1, 0))), ProtocolError),
    "half an answer, then the end": (half, ConnectionClosedByServerError),
    "the end": (drop_before, ConnectionClosedByServerError),
    "a broken connection": (reset, ConnectionClosedByServerError),
}


def listen_to(client: Client) -> list[StateChange]:
    changes: list[StateChange] = []
    client.add_listener(changes.append)
    return changes


@pytest.mark.parametrize("name", WRONG)
@simulated
async def test_wrong_bytes_instead_of_an_answer_cost_one_connection(name):
    action, reason = WRONG[name]
    async with ScriptedServer() as server, server.client() as client:
        changes = listen_to(client)
        await client.create("/a", b"1")
        for first_is_write in (True, False):
            changes.clear()
            connections, applied = len(server.connections), len(server.znodes.applied)
            version = server.znodes.nodes["/a"].stat.version
            server.next(action)
            write = client.set("/a", b"2") if first_is_write else None
            read, behind = client.get("/a"), client.set("/a", b"3")
            writes = [behind] if write is None else [write, behind]
            ends = await asyncio.gather(*writes, return_exceptions=True)
            for end in ends:
                assert isinstance(end, (Stat, OutcomeUnknownError))
                if isinstance(end, OutcomeUnknownError):
                    assert end.outcome is Outcome.UNKNOWN
                    assert isinstance(end.reason, reason)
                    assert [(sighting.path, sighting.error) for sighting in end.seen] == [("/a", None)]
            assert (await read).data in (b"1", b"2", b"3")
            # None is applied twice, nor told of before it was; the last one is there. (The first one is not if the
            # server sent the bytes in its place, and took the second one all the same: both are in doubt then.)
            done = server.znodes.applied[applied:]
            assert set(done) == {("set", "/a")}
            assert sum(isinstance(end, Stat) for end in ends) <= len(done) <= len(writes)
            assert server.znodes.nodes["/a"].data == b"3"
            versions = [end.version - version for end in ends if isinstance(end, Stat)]
            assert versions == [number for number, end in enumerate(ends, 1) if isinstance(end, Stat)]
            await client.sync()
            assert [change.state for change in changes] == [State.SUSPENDED, State.CONNECTED]
            assert isinstance(changes[0].reason, reason)
            assert str(changes[0].reason)
            assert len(server.connections) == connections + 1
            assert client.generation == 1
            assert client.statistics().in_flight == client.statistics().queued_calls == 0


@pytest.mark.parametrize("name", [name for name in WRONG if name not in ("an unknown xid", "a body that is too short")])
@simulated
async def test_wrong_bytes_out_of_the_blue_cost_one_connection(name):
    """Nothing is in flight."""
    action, reason = WRONG[name]
    if action in (past, half):
        action = send(reply(9999, 5, 0)) if action is past else send(b"\0\0", then_close=True)
    async with ScriptedServer() as server, server.client() as client:
        changes = listen_to(client)
        await client.create("/a")
        action(server.connection, None)
        await server.wait_for_connections(2)
        await client.sync()
        assert [change.state for change in changes] == [State.SUSPENDED, State.CONNECTED]
        assert isinstance(changes[0].reason, reason)


@simulated
async def test_a_reply_that_can_not_be_read_is_not_believed_its_zxid_either():
    """A client that says it has seen such a zxid is refused by every server, for ever."""

    def from_the_future(connection: Connection, request: Received) -> None:
        answer(connection, request)
        connection.reply(connection.server.requests[1].xid, body=bytes(3), zxid=1 << 60)

    async with ScriptedServer() as server, server.client() as client:
        server.next(swallow, swallow)
        first, second = client.create("/a"), client.get("/")
        await server.wait_for_requests(2)
        from_the_future(server.connection, server.requests[0])
        await first
        assert (await second).data == b""
        assert [greeting.last_zxid_seen for greeting in server.greetings] == [0, server.znodes.zxid]


@simulated
async def test_two_answers_for_one_request():
    async with ScriptedServer() as server, server.client() as client:
        changes = listen_to(client)
        server.next(twice)
        assert await client.exists("/") is not None
        await server.wait_for_connections(2)
        await client.sync()
        assert isinstance(changes[0].reason, UnexpectedReplyError)


@simulated
async def test_answers_in_the_wrong_order():
    async with ScriptedServer() as server, server.client() as client:
        changes = listen_to(client)
        await asyncio.gather(*[client.create(f"/{number}", b"%d" % number) for number in range(3)])
        server.next(hold)
        reads = [client.get(f"/{number}") for number in range(3)]
        await server.wait_for_requests(6)
        server.connection.release([1, 0, 2])
        assert [(await read).data for read in reads] == [b"0", b"1", b"2"]
        await client.sync()
        assert isinstance(changes[0].reason, UnexpectedReplyError)
        assert "is expected" in str(changes[0].reason)


@pytest.mark.parametrize("code", [-6, -124])
@simulated
async def test_errors_that_may_overtake(code):
    """A server's i/o thread answers these at once."""
    expected = {-6: UnimplementedError, -124: SessionClosedRequireAuthError}[code]
    async with ScriptedServer() as server, server.client() as client:
        server.next(hold)
        slow, refused, last = client.exists("/"), client.sync(), client.exists("/")
        await server.wait_for_requests(3)
        connection = server.connection
        held, connection.held = connection.held, []
        connection.holding = False
        connection.reply(server.requests[1].xid, code)
        connection.send_raw(held[0] + held[2])
        with pytest.raises(expected):
            await refused
        assert None not in (await slow, await last)
        assert client.statistics().connections == 1


@pytest.mark.parametrize("code", [-999, 1, 2**31 - 1, -(2**31)])
@simulated
async def test_an_unknown_error_code_is_the_calls_own(code):
    async with ScriptedServer() as server, server.client() as client:
        server.next(fail_with(code))
        with pytest.raises(UnknownServerError) as raised:
            await client.get("/")
        assert raised.value.code == code
        assert client.statistics().connections == 1


@simulated
async def test_every_known_error_code_is_the_calls_own():
    from everlatch.errors import SERVER_ERRORS

    async with ScriptedServer() as server, server.client() as client:
        for code, error in SERVER_ERRORS.items():
            server.next(fail_with(code))
            with pytest.raises(ServerError) as raised:
                await client.get("/")
            assert type(raised.value) is error
        # One costs the connection: servers close it behind "authenticate first".
        assert client.statistics().connections == 2


@simulated
async def test_a_ping_that_is_answered_with_an_error():
    async with ScriptedServer() as server, server.client() as client:
        changes = listen_to(client)
        server.ping = lambda connection: connection.reply(XID_PING, -124)
        await server.wait_for_connections(2)
        server.ping = lambda connection: connection.reply(XID_PING)
        await client.sync()
        assert isinstance(changes[0].reason, SessionClosedRequireAuthError)


@simulated
async def test_watches_that_can_not_be_armed_again():
    async with ScriptedServer() as server, server.client() as client:
        changes = listen_to(client)
        await client.exists("/a", watch=lambda _: None)
        server.on(Op.SET_WATCHES, fail_with(-5))
        server.connection.reset()
        await server.wait_for_connections(3)
        await client.sync()
        assert isinstance(changes[2].reason, ServerError)
        assert client.statistics().watches == 1


# --- the handshake ------------------------------------------------------------------------------------------------

GREETINGS: dict[str, bytes] = {
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "nothing": frame(b""),
    "a header": frame(encode_reply(0, 0, -119)),
    "too few bytes": frame(bytes(35)),
    "no session": frame(struct.pack(">iiqi", 0, 10_000, 0, 16) + bytes(17)),
    "a password that is too long": frame(struct.pack(">iiqi", 0, 10_000, 7, 99) + bytes(17)),
    "a negative timeout": frame(struct.pack(">iiqi", 0, -5, 7, 16) + bytes(17)),
    "a read-only server": frame(struct.pack(">iiqi", 0, 10_000, 7, 16) + bytes(16) + b"\1"),
    "a huge length": struct.pack(">i", 2**31 - 1),
    "a negative length": struct.pack(">i", -1),
}


@pytest.mark.parametrize("name", GREETINGS)
@pytest.mark.parametrize("then_close", [False, True])
@simulated
async def test_a_handshake_with_wrong_bytes_costs_one_attempt(name, then_close):
    async with ScriptedServer() as server:
        server.handshake = send(GREETINGS[name], then_close=then_close)
        with pytest.raises(StartError) as raised:
            await server.client().start()
        ((_, reason),) = raised.value.failures
        assert str(reason)
        # The same in the middle of a life.
        server.handshake = ScriptedServer().handshake
        async with server.client() as client:
            session_id = client.session_id
            server.handshakes.append(send(GREETINGS[name], then_close=then_close))
            server.connection.reset()
            await client.sync()
            # The first says that the session is over, the second hands out another. What a read-only server says of
            # sessions says nothing of ours.
            expected = 2 if name in ("a negative timeout", "no session") else 1
            assert client.generation == expected, client
            assert (client.session_id == session_id) == (expected == 1)


@simulated
async def test_wrong_bytes_right_behind_the_handshake():
    def accept_and_babble(connection: Connection, request: Any) -> None:
        ScriptedServer().handshake(connection, request)
        connection.send_raw(bytes(64))

    async with ScriptedServer() as server:
        server.handshakes.append(accept_and_babble)
        client = server.client()
        await client.start(wait=False)
        assert await client.exists("/") is not None
        assert len(server.connections) == 2
        await client.close()


# --- any bytes ----------------------------------------------------------------------------------------------------


@given(data=st.binary(min_size=1, max_size=60), framed=st.booleans(), header=st.booleans(), at=st.integers(1, 5))
def test_whatever_bytes_come_every_call_ends_and_the_client_goes_on(data, framed, header, at):
    def babble(connection: Connection, request: Received) -> None:
        payload = encode_reply(request.xid, connection.server.znodes.zxid, 0, data) if header else data
        connection.send_raw(frame(payload) if framed or header else data)

    async def main() -> None:
        async with ScriptedServer() as server, server.client() as client:
            server.at(at, babble)
            calls: list[Any] = [client.create("/a"), client.exists("/"), client.get("/"), client.children("/")]
            calls.append(client.create("/b"))
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(end, EverlatchError) for end in ends if isinstance(end, BaseException))
            server._numbered.clear()
            assert await client.exists("/") is not None
            assert client.state is State.CONNECTED

    run(SkippingLoop, main())


@given(data=st.binary(min_size=1, max_size=60), framed=st.booleans())
def test_whatever_bytes_answer_the_handshake_the_client_connects_in_the_end(data, framed):
    async def main() -> None:
        async with ScriptedServer() as server:
            server.handshakes.append(send(frame(data) if framed else data))
            client = server.client()
            await client.start(wait=False)
            assert await client.exists("/") is not None
            await client.close()

    run(SkippingLoop, main())


# --- poison -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [drop_before, reset, go_silent, truncated_body], ids=lambda kill: kill.__name__)
@simulated
async def test_a_request_that_kills_every_connection_ends_by_name(kill):
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/poison")
        server.on(Op.GET_DATA, kill, times=100)
        poison = client.get("/poison")
        others = [client.exists(f"/{number}") for number in range(5)]
        with pytest.raises(RequestKillsConnectionError) as raised:
            await poison
        assert (raised.value.operation, raised.value.path, raised.value.losses) == ("get", "/poison", 3)
        assert isinstance(raised.value.reason, EverlatchError)
        assert await asyncio.gather(*others) == [None] * 5
        assert server.paths(Op.GET_DATA) == ["/poison"] * 3
        assert client.state is State.CONNECTED


@simulated
async def test_an_answer_over_the_limit_ends_that_read_alone():
    async with ScriptedServer() as server, server.client(max_reply_size=500) as client:
        changes = listen_to(client)
        await client.create("/large", bytes(1000))
        large, small = client.get("/large"), client.exists("/large")
        with pytest.raises(ReplyTooLargeError) as raised:
            await large
        assert (raised.value.path, raised.value.limit) == ("/large", 500)
        assert (await small) is not None
        assert server.paths(Op.GET_DATA) == ["/large"]
        await client.sync()
        assert isinstance(changes[0].reason, FrameTooLargeError)


@simulated
async def test_a_write_that_may_have_been_applied_is_not_repeated_at_all():
    async with ScriptedServer() as server, server.client() as client:
        server.on(Op.CREATE2, drop_after)
        with pytest.raises(OutcomeUnknownError):
            await client.create("/a")
        await client.sync()
        assert server.paths(Op.CREATE2) == ["/a"]


@simulated
async def test_a_write_that_kills_connections_is_not_repeated_for_ever():
    async with ScriptedServer() as server, server.client() as client:
        server.on(Op.CREATE2, drop_before, times=3)
        with pytest.raises(RequestKillsConnectionError) as raised:
            await client.create("/a")
        assert raised.value.outcome is Outcome.NOT_APPLIED
        assert (raised.value.operation, raised.value.path, raised.value.losses) == ("create", "/a", 3)
        await client.sync()
        assert server.paths(Op.CREATE2) == ["/a"] * 3
        assert server.znodes.applied == []


# --- input --------------------------------------------------------------------------------------------------------


@given(
    value=st.one_of(
        st.text(max_size=5),
        st.binary(max_size=5),
        st.integers(),
        st.floats(),
        st.none(),
        st.lists(st.integers(), max_size=2),
        st.dictionaries(st.text(max_size=1), st.none(), max_size=1),
    )
)
def test_whatever_is_passed_in_is_sent_or_refused_with_a_typed_error(value):
    async def main() -> None:
        async with ScriptedServer() as server, server.client() as client:
            makes: list[Callable[[], Any]] = [
                lambda: client.get(value),
                lambda: client.exists("/", timeout=value),
                lambda: client.create("/a", value),
                lambda: client.create("/b", ttl=value),
                lambda: client.create("/c", acl=value),
                lambda: client.set("/", b"", version=value),
                lambda: client.delete(value, version=value),
                lambda: client.set_acl("/", value),
                lambda: client.transaction().check(value, value),
                lambda: client.add_auth(value, value),
            ]
            for make in makes:
                sent = len(server.requests)
                try:
                    call = make()
                except InvalidArgumentError:
                    assert len(server.requests) == sent
                    continue
                if call is not None:
                    ends = await asyncio.gather(call, return_exceptions=True)
                    allowed = (NoNodeError, NodeExistsError, ServerError, TimeoutError)
                    assert not isinstance(ends[0], BaseException) or isinstance(ends[0], allowed)

    run(SkippingLoop, main())


@simulated
async def test_event_encoding_of_this_file_is_what_servers_send():
    """A guard of `event`: the wrong types above are wrong because of the number alone."""
    assert event(3) == frame(encode_reply(XID_NOTIFICATION, -1, 0, encode_watcher_event(3, 3, "/a")))


# --- real servers, behind a proxy ---------------------------------------------------------------------------------


def _too_large(client: Client) -> None:
    transaction = client.transaction()
    for _ in range(4):
        transaction.set("/", bytes(500_000))
    transaction.commit()


BAD_INPUT: dict[str, Callable[[Client], Any]] = {
    "a relative path": lambda client: client.get("a"),
    "a path that ends with a slash": lambda client: client.create("/a/", b""),
    "a path with a dot": lambda client: client.exists("/a/./b"),
    "a path with a null": lambda client: client.delete("/a\0b"),
    "a path with a surrogate": lambda client: client.get("/\ud800"),
    "a path that is no text": lambda client: client.get(b"/a"),  # type: ignore[arg-type]
    "data that is text": lambda client: client.set("/", "text"),  # type: ignore[arg-type]
    "data that is nothing": lambda client: client.set("/", None),  # type: ignore[arg-type]
    "a version that is no number": lambda client: client.delete("/a", version="1"),  # type: ignore[arg-type]
    "a version that is too large": lambda client: client.set("/", b"", version=1 << 31),
    "an ACL without entries": lambda client: client.set_acl("/", []),
    "an ACL of something else": lambda client: client.create("/a", acl=["world"]),  # type: ignore[list-item]
    "a TTL that is too long": lambda client: client.create("/a", ttl=1e30),
    "a TTL of an ephemeral node": lambda client: client.create("/a", ttl=1, ephemeral=True),
    "a timeout in the past": lambda client: client.get("/", timeout=-1),
    "a timeout that is no number": lambda client: client.get("/", timeout=float("nan")),
    "a watch that can't be called": lambda client: client.get("/", watch=7),  # type: ignore[arg-type]
    "too much data": lambda client: client.set("/", bytes(2 << 20)),
    "credentials that are no bytes": lambda client: client.add_auth("digest", "a:b"),  # type: ignore[arg-type]
    "a part of a transaction": lambda client: client.transaction().create("b", b""),
    "a transaction that is too large": _too_large,
}


@pytest.mark.real
async def test_bad_input_never_leaves_the_process(proxy: Proxy, root: str) -> None:
    async with through(proxy) as client:
        await client.sync()
        sent, requests = client.statistics().bytes_sent, len(proxy.requests)
        for name, make in BAD_INPUT.items():
            with pytest.raises(InvalidArgumentError) as raised:
                make(client)
            assert str(raised.value), name
            assert raised.value.outcome is Outcome.NOT_APPLIED
        assert (client.statistics().bytes_sent, client.statistics().queued_calls) == (sent, 0)
        # Nor is anything sent later, with the next call.
        await client.exists(root)
        assert [request.op for request in proxy.requests[requests:] if request.op != Op.PING] == [Op.EXISTS]
        assert client.statistics().connections == 1


def _flipped(rng: random.Random, whole: bytes) -> bytes:
    wrong = bytearray(whole)
    wrong[rng.randrange(len(wrong))] ^= 1 << rng.randrange(8)
    return bytes(wrong)


def _shortened(rng: random.Random, whole: bytes) -> bytes:
    """A whole frame with less in it than there should be."""
    return frame(whole[4 : 4 + rng.randrange(len(whole) - 4)])


def _with_a_gap(rng: random.Random, whole: bytes) -> bytes:
    """Bytes are missing at the end, but the zxid is whole or the xid isn't: what follows would make up another zxid."""
    return whole[: rng.choice([*range(8), *range(16, len(whole))])]


CORRUPT: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "a bit flipped": _flipped,
    "bytes missing": _with_a_gap,
    "a record cut short": _shortened,
    "twice": lambda _, whole: whole * 2,
    "nothing": lambda _, __: b"",
    "bytes inserted": lambda rng, whole: whole[:9] + rng.randbytes(5) + whole[9:],
    "something else": lambda rng, whole: rng.randbytes(len(whole)),
    "a negative length": lambda _, whole: b"\xff" + whole[1:],
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.real
async def test_a_real_stream_with_wrong_bytes_in_it_harms_nobody(
    proxy: Proxy, witness: Client, root: str, seed: int
) -> None:
    """Replies, events and pings of a real server, every eighth of them spoilt. Every call ends as others do, and once
    the bytes are right again, so is all that the client says."""
    rng = random.Random(seed)
    spoilt: Counter[str] = Counter()

    def spoil(direction: Direction, whole: bytes) -> bytes:
        # xid 0: the answer to a handshake; or a challenge, and a wrong answer to that is what a wrong password is.
        if direction == "to_server" or whole[4:8] == bytes(4) or rng.random() > 0.12:
            return whole
        name = rng.choice(list(CORRUPT))
        spoilt[name] += 1
        # Zxids stay: one that is wrong and nothing else can't be told from a right one, and no server lets a client in
        # that has seen the future.
        wrong = CORRUPT[name](rng, whole)
        return wrong[:8] + whole[8:16] + wrong[16:] if len(wrong) >= 16 else wrong

    async with through(proxy, session_timeout=1, default_timeout=3) as client:
        changes = listen_to(client)
        proxy.alter = spoil
        while spoilt.total() < 6:
            number = spoilt.total()
            calls: list[Any] = [client.create(f"{root}/{number}"), client.children(root)]
            calls += [client.get(root, watch=lambda _: None), client.set(root, b"%d" % number), client.exists(root)] * 3
            for end in await ends_of(calls):
                assert not isinstance(end, BaseException) or isinstance(end, EverlatchError)
            await witness.set(root, b"!")
        proxy.alter = None
        proxy.cut()  # a length that was wrong may keep the last link waiting for bytes that don't come
        # With more time than the calls before, which had to end soon: it may still have to find its way back.
        await client.sync(timeout=LONGEST)
        await client.set(root, b"right", timeout=LONGEST)
        assert (await witness.get(root)).data == (await client.get(root)).data == b"right"
        assert sorted(await client.children(root)) == sorted(await witness.children(root))
        assert client.statistics().in_flight == client.statistics().queued_calls == 0
        assert all(str(change.reason) for change in changes if change.state is State.SUSPENDED)


@pytest.mark.parametrize("name", sorted(CORRUPT.keys() - {"nothing"}))
@pytest.mark.real
async def test_one_wrong_reply_costs_one_connection(proxy: Proxy, root: str, name: str) -> None:
    """One reply of a real server, whose xid is made wrong where the way of spoiling it would leave that right."""
    rng = random.Random(name)

    def spoil(direction: Direction, whole: bytes) -> bytes:
        if direction == "to_server" or len(whole) < 50:
            return whole
        proxy.alter = None
        if name == "bytes missing":
            proxy.connections[0]._to_client.put_last(proxy.connections[0].cut)
            return whole
        if name == "a bit flipped":
            whole = b"\x00\x00\x00\x40" + whole[4:]
        elif name == "bytes inserted":  # behind the xid: what was the zxid would be taken for an error of the server
            whole = whole[:4] + b"\x00\x00\x00\x40" + whole[8:]
        return CORRUPT[name](rng, whole)

    async with through(proxy, session_timeout=3) as client:
        await client.set(root, b"")
        changes = listen_to(client)
        proxy.alter = spoil
        assert (await client.get(root)).data == b""
        await client.sync()
        await until(lambda: len(changes) >= 2)
        assert [change.state for change in changes] == [State.SUSPENDED, State.CONNECTED]
        assert str(changes[0].reason)
        assert (client.generation, client.statistics().connections) == (1, 2)


@pytest.mark.real
async def test_a_server_that_gets_wrong_bytes_is_not_blamed(proxy: Proxy, witness: Client, root: str) -> None:
    """The other way round: a request is spoilt on its way. The server ends the connection, or answers with an error."""
    rng = random.Random(1)
    async with through(proxy, session_timeout=3, default_timeout=5) as client:
        for name in ("a record cut short", "something else", "a negative length", "bytes inserted"):

            def spoil(direction: Direction, whole: bytes, name: str = name) -> bytes:
                if direction == "to_client" or len(whole) < 50:
                    return whole
                proxy.alter = None
                return CORRUPT[name](rng, whole)

            proxy.alter = spoil
            calls: list[Any] = [client.set(root, b"x" * 30), client.get(root), client.exists(root)]
            for end in await ends_of(calls):
                assert not isinstance(end, BaseException) or isinstance(end, EverlatchError)
            await client.set(root, name.encode())
            assert (await witness.get(root)).data == name.encode()
        assert client.generation == 1


@pytest.mark.real
async def test_a_read_that_a_real_server_hangs_up_on_ends_by_name(proxy: Proxy, root: str) -> None:
    """A path beyond jute.maxbuffer, from a client that was told to send it: the server closes without a word."""
    async with through(proxy, max_request_size=4 << 20) as client:
        poison = client.exists("/" + "x" * (2 << 20))
        others = [client.exists(root) for _ in range(20)]
        with pytest.raises(RequestKillsConnectionError) as raised:
            await poison
        assert (raised.value.operation, raised.value.losses) == ("exists", 3)
        assert None not in await ends_of(others)
        assert sum(request.size > 1 << 20 for request in proxy.seen(Op.EXISTS)) == 3
        # So does a write: the node shows each time that it was not applied.
        with pytest.raises(RequestKillsConnectionError) as raised:
            await client.set(root, bytes(2 << 20))
        assert (raised.value.operation, raised.value.losses) == ("set", 3)
        assert raised.value.outcome is Outcome.NOT_APPLIED
        stat = await client.exists(root)
        assert stat is not None
        assert stat.version == 0
        assert len(proxy.seen(Op.SET_DATA)) == 3
        assert client.generation == 1


@pytest.mark.real
async def test_a_real_answer_over_the_limit_ends_that_read_alone(proxy: Proxy, witness: Client, root: str) -> None:
    await witness.set(root, bytes(5000))
    async with through(proxy, max_reply_size=1000) as client:
        large, small = client.get(root), [client.exists(root) for _ in range(20)]
        with pytest.raises(ReplyTooLargeError):
            await large
        assert None not in await ends_of(small)
        assert len(proxy.seen(Op.GET_DATA)) == 1
        assert client.generation == 1
