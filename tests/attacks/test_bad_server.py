"""Everything that a server can do to a client: it costs that connection, with the reason told, and nothing else. Calls
end as they should (reads are repeated, writes that were sent are in doubt if they were applied, and are sent again if
they were not), the client goes on, nothing leaks.

Each misbehaviour of `everlatch.testing.misbehaviour` strikes where it can: instead of an answer, with nothing in
flight, at a ping, in the handshake at `start()` and in the handshake of a reconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import uvloop

from engine.links import open_sockets, until
from everlatch import (
    Client,
    ConnectionClosedByServerError,
    FrameTooLargeError,
    HandshakeRefusedError,
    HandshakeTimeoutError,
    InvalidLengthError,
    Node,
    Outcome,
    OutcomeUnknownError,
    ProtocolError,
    ServerError,
    SessionClosedRequireAuthError,
    SessionExpiredError,
    SilentLinkError,
    StartError,
    Stat,
    State,
    StateChange,
    TruncatedError,
    UnexpectedReplyError,
    UnknownServerError,
)
from everlatch.testing import BadServer, Op, misbehaviour
from everlatch.testing.answers import accept
from everlatch.testing.misbehaviour import (
    answer_after_next,
    answer_nobody,
    answer_twice,
    answer_with_trailing_bytes,
    answer_with_truncated_body,
    answer_with_unknown_xid,
    answer_with_zxid_gone_back,
    deny_sessions,
    drop_after,
    drop_before,
    enormous_length,
    event_for_nobody,
    event_of_unknown_type,
    event_without_path,
    expire,
    fail_ping,
    fail_with,
    garbage,
    go_silent,
    half_frame_then_close,
    half_frame_then_silence,
    negative_length,
    never,
    other_session,
    reset,
    send,
    swallow,
    unknown_error,
    without_read_only_byte,
)
from everlatch.wire.framing import frame
from everlatch.wire.records import decode_set_data_request
from skipping_loop import SkippingLoop, on_every_loop, run

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import AsyncIterator, Callable, Coroutine

SESSION_TIMEOUT = 3.0
"""Short, for the real loops: a silent server is left after a third of it."""


class Case(NamedTuple):
    action: Callable[..., None]
    reason: type[BaseException]
    says: str
    """Part of the reason's text."""
    where: str = ""
    """In a connection's youth: as it is accepted, or in the handshake."""

    @property
    def takes_time(self) -> bool:
        return issubclass(self.reason, (SilentLinkError, HandshakeTimeoutError))


AT_ANY_TIME = {
    "closes": Case(drop_before, ConnectionClosedByServerError, ""),
    "resets": Case(reset, ConnectionClosedByServerError, ""),
    "garbage": Case(garbage, FrameTooLargeError, "over the limit"),
    "an enormous length": Case(enormous_length, FrameTooLargeError, "frame of 2147483647 bytes"),
    "a negative length": Case(negative_length, InvalidLengthError, "frame of -1 bytes"),
    "half a frame, then the end": Case(half_frame_then_close, ConnectionClosedByServerError, ""),
    "half a frame, then silence": Case(half_frame_then_silence, SilentLinkError, "has not answered for 1"),
    "silence": Case(go_silent, SilentLinkError, "has not answered for 1"),
    "an event of an unknown type": Case(event_of_unknown_type, ProtocolError, "unknown type 77"),
    "an event without a path": Case(event_without_path, ProtocolError, "null at offset"),
    "bytes of zero": Case(send(bytes(64)), TruncatedError, ""),
}
INSTEAD_OF_AN_ANSWER = AT_ANY_TIME | {
    "closes after it was applied": Case(drop_after, ConnectionClosedByServerError, ""),
    "forgets a request": Case(swallow, UnexpectedReplyError, "is expected"),
    "an unknown xid": Case(answer_with_unknown_xid, UnexpectedReplyError, "is expected"),
    "the wrong order": Case(answer_after_next, UnexpectedReplyError, "is expected"),
    "a zxid that goes back": Case(answer_with_zxid_gone_back, ProtocolError, "went back in time, from zxid 0x"),
    "a body that is too short": Case(answer_with_truncated_body, ProtocolError, "offset"),
}
BEHIND_AN_ANSWER = {
    "two replies for one request": Case(answer_twice, UnexpectedReplyError, "is expected"),
    "a reply to a request never made": Case(answer_nobody, UnexpectedReplyError, "is expected"),
}
HARMLESS = {"an event for nobody": event_for_nobody, "bytes behind the answer": answer_with_trailing_bytes}
AT_A_PING = {
    "authenticate first": Case(fail_ping(-124), SessionClosedRequireAuthError, ""),
    "an error of the protocol's own": Case(fail_ping(-5), ServerError, ""),
    "an unknown error": Case(fail_ping(-999), UnknownServerError, "-999"),
} | {name: AT_ANY_TIME[name] for name in ("closes", "resets", "garbage", "a negative length", "silence")}
IN_A_HANDSHAKE = {
    "closes": Case(drop_before, HandshakeRefusedError, "ended during the handshake"),
    "resets": Case(reset, HandshakeRefusedError, "ended during the handshake"),
    "no answer": Case(never, HandshakeTimeoutError, "no answer to the handshake"),
    "silence": Case(go_silent, HandshakeTimeoutError, "no answer to the handshake"),
    "garbage": AT_ANY_TIME["garbage"],
    "an enormous length": AT_ANY_TIME["an enormous length"],
    "a negative length": AT_ANY_TIME["a negative length"],
    "half a frame, then the end": Case(half_frame_then_close, HandshakeRefusedError, "ended during the handshake"),
    "half a frame, then silence": Case(half_frame_then_silence, HandshakeTimeoutError, "no answer to the handshake"),
    "a header instead of a session": Case(deny_sessions, ProtocolError, "error -119 instead of a session"),
    "a frame that is too short": Case(send(frame(bytes(35))), ProtocolError, "too few"),
}
ONLY_IN_A_HANDSHAKE = ("no answer", "a header instead of a session")
EARLY = {f"handshake, {name}": case._replace(where="handshake") for name, case in IN_A_HANDSHAKE.items()} | {
    f"accept, {name}": case._replace(where="accept")
    for name, case in IN_A_HANDSHAKE.items()
    if name not in ONLY_IN_A_HANDSHAKE
}
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
    "skipping": SkippingLoop,
}


def on_loops_that_suit(cases: dict[str, Case]) -> Callable[..., Callable[..., None]]:
    """Each case on every loop; those that take time in virtual time alone (in real time: `test_out_of_the_blue`)."""

    def decorate(body: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(body)
        def test(*, loop: str, name: str, **others: Any) -> None:
            run(LOOPS[loop], body(cases[name], **others))

        _, *others = inspect.signature(body).parameters.values()
        chosen = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("loop", "name")]
        parameters = [*(other.replace(kind=inspect.Parameter.KEYWORD_ONLY) for other in others), *chosen]
        test.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        pairs = [(loop, name) for name in cases for loop in LOOPS if loop == "skipping" or not cases[name].takes_time]
        return pytest.mark.parametrize(("loop", "name"), pairs)(test)

    return decorate


@contextlib.asynccontextmanager
async def nothing_leaks() -> AsyncIterator[None]:
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    yield
    await until(lambda: asyncio.all_tasks() == tasks and open_sockets() == sockets)


@contextlib.asynccontextmanager
async def bad_server() -> AsyncIterator[tuple[BadServer, Client, list[StateChange]]]:
    """A server that is good so far, a client with a node, and the changes of state from here on."""
    changes: list[StateChange] = []
    async with nothing_leaks(), BadServer() as server, server.client(session_timeout=SESSION_TIMEOUT) as client:
        await client.create("/a", b"1")
        client.add_listener(changes.append)
        yield server, client, changes


class Ends(NamedTuple):
    write: Stat | BaseException
    read: Node | BaseException


def begin(client: Client, *, write_first: bool) -> asyncio.Future[Ends]:
    """A write and a read, in one go."""

    async def wait() -> Ends:
        return Ends(*await asyncio.gather(write, read, return_exceptions=True))

    if write_first:
        write, read = client.set("/a", b"2"), client.get("/a")
    else:
        read, write = client.get("/a"), client.set("/a", b"2")
    return asyncio.ensure_future(wait())


def check_written(server: BadServer, client: Client, end: object, reason: type[BaseException]) -> None:
    """Once, and nobody is told more than is known: a write that was applied is not sent again, and its version may as
    well be somebody else's; one that was not is sent again, and answered."""
    sent = [request for request in server.requests if request.op == Op.SET_DATA]
    assert server.znodes.applied == [("create", "/a"), ("set", "/a")]
    assert server.znodes.nodes["/a"].data == b"2"
    if client.statistics().writes_resent:
        assert isinstance(end, Stat)
        assert end.version == 1
        assert decode_set_data_request(sent[-1].body, 0, len(sent[-1].body)).version == 0  # as it was seen
        return
    assert len(sent) == 1
    assert isinstance(end, OutcomeUnknownError)
    assert end.outcome is Outcome.UNKNOWN
    assert isinstance(end.reason, reason)
    assert [(sighting.path, sighting.stat.version) for sighting in end.seen] == [("/a", 1)]


def check_read(end: object) -> None:
    assert isinstance(end, Node)
    assert end.data in (b"1", b"2")


async def check_it_goes_on(server: BadServer, client: Client, changes: list[StateChange], case: Case) -> None:
    """One connection was lost, for that reason, and the next one serves."""
    await client.set("/a", b"3")
    assert (await client.get("/a")).data == b"3"
    assert [change.state for change in changes] == [State.SUSPENDED, State.CONNECTED]
    lost, _ = changes
    assert isinstance(lost.reason, case.reason)
    assert case.says in str(lost.reason)
    assert lost.server == server.address
    assert len(server.connections) == 2
    now = client.statistics()
    assert (now.generation, now.connections, now.in_flight, now.queued_calls) == (1, 2, 0, 0)


# --- requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write_first", [True, False], ids=["write", "read"])
@on_loops_that_suit(INSTEAD_OF_AN_ANSWER)
async def test_instead_of_an_answer(case, write_first):
    async with bad_server() as (server, client, changes):
        server.next(case.action)
        ends = await begin(client, write_first=write_first)
        check_written(server, client, ends.write, case.reason)
        check_read(ends.read)
        assert client.statistics().requests_repeated == 1
        await check_it_goes_on(server, client, changes, case)


@pytest.mark.parametrize("write_first", [True, False], ids=["write", "read"])
@on_loops_that_suit(BEHIND_AN_ANSWER)
async def test_behind_an_answer(case, write_first):
    """What was answered was answered; the call behind it shares the connection's fate."""
    async with bad_server() as (server, client, changes):
        server.next(case.action)
        ends = await begin(client, write_first=write_first)
        if write_first:
            assert isinstance(ends.write, Stat)
        else:
            check_written(server, client, ends.write, case.reason)
        check_read(ends.read)
        assert client.statistics().requests_repeated == (1 if write_first else 0)
        await check_it_goes_on(server, client, changes, case)


@pytest.mark.parametrize("write_first", [True, False], ids=["write", "read"])
@pytest.mark.parametrize("name", HARMLESS)
@on_every_loop
async def test_what_is_harmless(name, write_first):
    async with bad_server() as (server, client, changes):
        server.next(HARMLESS[name], HARMLESS[name])
        ends = await begin(client, write_first=write_first)
        assert isinstance(ends.write, Stat)
        check_read(ends.read)
        await client.sync()
        assert changes == []
        assert len(server.connections) == 1


@pytest.mark.parametrize("action", [unknown_error, fail_with(7), fail_with(-(2**31))])
@on_every_loop
async def test_an_unknown_error_is_the_calls_own(action):
    async with bad_server() as (server, client, changes):
        server.next(action, action)
        for end in await begin(client, write_first=True):
            assert isinstance(end, UnknownServerError)
            assert end.outcome is Outcome.NOT_APPLIED
        assert (await client.get("/a")).data == b"1"
        assert changes == []
        assert len(server.connections) == 1


@pytest.mark.parametrize("name", AT_ANY_TIME)
@on_every_loop
async def test_out_of_the_blue(name):
    """Nothing is in flight."""
    case = AT_ANY_TIME[name]
    async with bad_server() as (server, client, changes):
        case.action(server.connection)
        # Not connections: one that only asks whether a silent server lives comes before.
        await server.until(lambda: len(server.greetings) >= 2)
        await check_it_goes_on(server, client, changes, case)


@on_every_loop
async def test_an_event_for_nobody_out_of_the_blue():
    async with bad_server() as (server, client, changes):
        event_for_nobody(server.connection)
        await client.sync()
        assert client.statistics().events_received == 1
        assert changes == []


@on_loops_that_suit(AT_A_PING)
async def test_at_a_ping(case):
    """The calls were made when the ping was on its way: with something unanswered there is no need for one."""
    async with bad_server() as (server, client, changes):
        pong, server.ping = server.ping, lambda _: None
        await server.until(lambda: server.pings)
        server.next(swallow, swallow)
        ends = begin(client, write_first=True)
        await server.wait_for_requests(3)
        server.ping = pong
        case.action(server.connection)
        check_written(server, client, (await ends).write, case.reason)
        check_read((await ends).read)
        await check_it_goes_on(server, client, changes, case)


@on_every_loop
async def test_every_ping_is_answered_with_an_error():
    """The client lives from one connection to the next."""
    async with bad_server() as (server, client, changes):
        pong, server.ping = server.ping, fail_ping(-124)
        await server.wait_for_connections(3)
        server.ping = pong
        await client.sync()
        assert [change.state for change in changes] == [State.SUSPENDED, State.CONNECTED] * 2
        assert all(isinstance(change.reason, SessionClosedRequireAuthError) for change in changes[::2])
        assert client.generation == 1


# --- handshakes ---------------------------------------------------------------------------------------------------


def misbehave(server: BadServer, case: Case) -> None:
    """At the next connection."""
    queue: deque[Any] = server.arrivals if case.where == "accept" else server.handshakes
    queue.append(case.action)


async def check_start_fails(server: BadServer, case: Case) -> None:
    client = server.client(session_timeout=SESSION_TIMEOUT)
    with pytest.raises(StartError) as raised:
        await client.start()
    ((tried, reason),) = raised.value.failures
    assert tried == server.address
    assert isinstance(reason, case.reason)
    assert case.says in str(reason)
    assert client.state is State.CLOSED
    assert client._engine._open == set()  # or closing waits in vain for a connection that has ended


async def check_start_works(server: BadServer) -> None:
    async with server.client(session_timeout=SESSION_TIMEOUT) as client:
        await client.create("/a", b"1")
        assert client.generation == 1


@on_loops_that_suit(EARLY)
async def test_at_start(case):
    async with nothing_leaks(), BadServer() as server:
        misbehave(server, case)
        await check_start_fails(server, case)
        await check_start_works(server)


@on_every_loop
async def test_a_session_that_is_refused_at_start():
    async with nothing_leaks(), BadServer() as server:
        server.handshakes.append(expire)
        await check_start_fails(server, Case(expire, HandshakeRefusedError, "refused a new session"))
        await check_start_works(server)


@on_every_loop
async def test_all_connections_are_closed_as_they_are_accepted():
    async with nothing_leaks(), BadServer() as server:
        server.refusing = True
        await check_start_fails(server, IN_A_HANDSHAKE["closes"])
        client = server.client(session_timeout=SESSION_TIMEOUT)
        await client.start(wait=False)
        await server.wait_for_connections(4)
        server.refusing = False
        await client.create("/a")
        await client.close()


@pytest.mark.parametrize("action", [without_read_only_byte, other_session])
@on_every_loop
async def test_other_words_for_a_session_at_start(action):
    async with nothing_leaks(), BadServer() as server:
        server.handshakes.append(action)
        await check_start_works(server)
        assert len(server.connections) == 1


@pytest.mark.parametrize("write_first", [True, False], ids=["write", "read"])
@on_loops_that_suit(EARLY)
async def test_at_a_reconnect(case, write_first):
    """One attempt more; the session is kept."""
    async with bad_server() as (server, client, changes):
        server.next(swallow, swallow)
        ends = begin(client, write_first=write_first)
        await server.wait_for_requests(3)
        misbehave(server, case)
        session_id = client.session_id
        server.connection.reset()
        check_written(server, client, (await ends).write, ConnectionClosedByServerError)
        check_read((await ends).read)
        assert [change.state for change in changes] == [State.SUSPENDED, State.CONNECTED]
        assert isinstance(changes[0].reason, ConnectionClosedByServerError)
        assert (client.session_id, client.generation) == (session_id, 1)
        assert len(server.connections) == 3
        assert client.statistics().connection_attempts == 3
        await until(lambda: len(client._engine._open) == 1)


@pytest.mark.parametrize("action", [expire, other_session])
@on_every_loop
async def test_a_session_that_has_ended_is_replaced(action):
    """Timeout 0, or another session than the one asked for."""
    async with bad_server() as (server, client, changes):
        old = client.session_id
        server.next(swallow, swallow)
        ends = begin(client, write_first=True)
        await server.wait_for_requests(3)
        server.handshakes.append(action)
        server.connection.reset()
        check_written(server, client, (await ends).write, ConnectionClosedByServerError)
        check_read((await ends).read)
        states = [State.SUSPENDED, State.LOST, State.RENEWED, State.CONNECTED]
        assert [change.state for change in changes] == states
        assert isinstance(changes[1].reason, SessionExpiredError)
        assert (changes[2].previous_session_id, changes[2].session_id) == (old, client.session_id)
        assert server.znodes.session_ids[-1] == client.session_id != old
        assert old not in server.znodes.session_ids
        assert client.generation == 2
        await client.set("/a", b"3")


@on_every_loop
async def test_thirty_six_bytes_at_a_reconnect():
    async with bad_server() as (server, client, changes):
        server.handshakes.append(without_read_only_byte)
        session_id = client.session_id
        server.connection.reset()
        await client.sync()
        assert [change.state for change in changes] == [State.SUSPENDED, State.CONNECTED]
        assert client.session_id == session_id


@on_every_loop
async def test_garbage_right_behind_a_handshake():
    """In the same read as the session that it grants."""

    def accept_and_babble(connection: Any, request: Any) -> None:
        accept(connection, request)
        garbage(connection)

    async with bad_server() as (server, client, changes):
        server.handshakes.append(accept_and_babble)
        server.connection.reset()
        await client.sync()
        await server.wait_for_connections(3)
        assert [change.state for change in changes] == [State.SUSPENDED, State.CONNECTED] * 2
        assert isinstance(changes[2].reason, FrameTooLargeError)
        assert client.generation == 1


# --- all of it ----------------------------------------------------------------------------------------------------


def test_no_misbehaviour_is_left_out():
    tables = (INSTEAD_OF_AN_ANSWER, BEHIND_AN_ANSWER, AT_A_PING, IN_A_HANDSHAKE)
    actions = {case.action for table in tables for case in table.values()} | set(HARMLESS.values())
    actions |= {unknown_error, expire, other_session, without_read_only_byte}
    made = {fail_with, fail_ping, send}  # return actions
    elsewhere = {misbehaviour.hold, misbehaviour.read_only}  # tests/test_client.py
    elsewhere |= {  # tests/attacks/test_sasl.py
        misbehaviour.answer_with_token,
        misbehaviour.answer_with_wrong_proof,
        misbehaviour.challenge_again,
        misbehaviour.no_sasl,
    }
    everything = {getattr(misbehaviour, name) for name in misbehaviour.__all__}
    assert everything - actions - made - elsewhere == set()
