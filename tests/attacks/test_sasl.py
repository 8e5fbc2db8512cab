"""Everything that a server, or who wants to be taken for one, can do to a client that authenticates by SASL: the
exchange is not carried through, that connection ends, and the client tries again; a refusal ends in `AUTH_FAILED`.
Nothing but tokens is sent before the server's proof, nothing hangs or leaks, and nobody is told a secret."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from engine.links import open_sockets, until
from everlatch import (
    AuthFailedError,
    Client,
    DigestMd5,
    EverlatchError,
    SaslError,
    ServerError,
    State,
    StateChange,
)
from everlatch.testing import BadServer, Op, misbehaviour
from everlatch.testing.misbehaviour import (
    answer_twice,
    answer_with_token,
    answer_with_trailing_bytes,
    answer_with_truncated_body,
    answer_with_unknown_xid,
    answer_with_wrong_proof,
    challenge_again,
    drop_after,
    drop_before,
    enormous_length,
    event_for_nobody,
    event_of_unknown_type,
    event_without_path,
    fail_with,
    garbage,
    go_silent,
    half_frame_then_close,
    half_frame_then_silence,
    negative_length,
    no_sasl,
    reset,
    swallow,
)
from everlatch.wire.auth_records import decode_sasl_request
from everlatch.wire.digest_md5 import directives
from skipping_loop import simulated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from everlatch.testing import Connection, Received

USER, PASSWORD = "bob", "pa55-of-bob"
OTHERS = b"u:pa55-of-u"
GOOD = b'realm="zk-sasl-md5",nonce="N0nce",charset=utf-8,algorithm=md5-sess'


def error_with_body(connection: Connection, request: Received) -> None:
    connection.reply(request.xid, -115, b"\0\0\0\4" + b"body")


def error_behind_an_event(connection: Connection, request: Received) -> None:
    event_for_nobody(connection)
    fail_with(-115)(connection, request)


def token_with(what: bytes, other: bytes = b"") -> Callable[[Connection, Received], None]:
    assert what in GOOD
    return answer_with_token(GOOD.replace(what, other))


HOSTILE: dict[str, Callable[..., None]] = {
    "no token": no_sasl,
    "an empty token": answer_with_token(b""),
    "garbage for a token": answer_with_token(b"\xff\xfe\0 garbage"),
    "a proof for a challenge": answer_with_token(b"rspauth=" + b"0" * 32),
    "no nonce": token_with(b'nonce="N0nce",'),
    "an empty nonce": token_with(b"N0nce"),
    "two nonces": token_with(b"charset", b'nonce="other",charset'),
    "another algorithm": token_with(b"md5-sess", b"sha-256"),
    "no algorithm": token_with(b",algorithm=md5-sess"),
    "a layer that nobody has": answer_with_token(GOOD + b',qop="auth-int,auth-conf"'),
    "a token of a megabyte": answer_with_token(GOOD + b"," + b"x" * (1 << 20) + b"=1"),
    "a token of two hundred kilobytes of commas": answer_with_token(b"," * 200_000),
    "a token of quotes": answer_with_token(b'nonce="' + b'\\"' * 1900),
    "a token of zeros": answer_with_token(bytes(2000)),
    "an unknown xid": answer_with_unknown_xid,
    "a body that is too short": answer_with_truncated_body,
    "two answers": answer_twice,
    "a wrong proof": answer_with_wrong_proof,
    "an event of an unknown type": event_of_unknown_type,
    "an event without a path": event_without_path,
    "another error": fail_with(-4),
    "an error that nobody knows": fail_with(-999),
    "closes": drop_before,
    "closes afterwards": drop_after,
    "resets": reset,
    "silence": go_silent,
    "no answer": swallow,
    "bytes that are no frame": garbage,
    "an enormous length": enormous_length,
    "a negative length": negative_length,
    "half a frame, then the end": half_frame_then_close,
    "half a frame, then silence": half_frame_then_silence,
}
HARMLESS: dict[str, Callable[..., None]] = {
    "an event for nobody": event_for_nobody,
    "bytes behind the answer": answer_with_trailing_bytes,
}
REFUSALS: dict[str, Callable[..., None]] = {
    "refused": fail_with(-115),
    "authentication is demanded": fail_with(-124),
    "an error with a body": error_with_body,
    "an error behind an event": error_behind_an_event,
}


class Scene(NamedTuple):
    server: BadServer
    client: Client
    changes: list[StateChange]
    said: list[str]
    """What anybody could see: see `everything_said`."""


def everything_said(error: BaseException | None) -> str:
    """An error as it may be shown: in words, by repr, and as a trace, with all that led to it."""
    if error is None:
        return ""
    parts = [str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error))]
    return "\n".join(parts)


def secrets_of(server: BadServer) -> set[str]:
    """The passwords, and what was made of them: the client's responses."""
    found = {PASSWORD, OTHERS.decode(), OTHERS.decode().partition(":")[2]}
    for request in server.requests:
        if request.op == Op.SASL:
            token = decode_sasl_request(request.body, 0, len(request.body))
            with contextlib.suppress(ValueError):
                found |= {value for name, value in directives(token or b"").items() if name in ("response", "cnonce")}
    return found


@contextlib.asynccontextmanager
async def scene(caplog: pytest.LogCaptureFixture, **options: Any) -> AsyncIterator[Scene]:
    """A client that has not been started, of a server that knows it. When the test ends, nobody was told a secret, and
    nothing is left."""
    caplog.set_level(logging.DEBUG)
    changes: list[StateChange] = []
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    async with BadServer(**({"sasl": {USER: PASSWORD}, "require_auth": True} | options)) as server:
        client = server.client(sasl=DigestMd5(USER, PASSWORD), auth=[("digest", OTHERS)], session_timeout=3.0)
        client.add_listener(changes.append)
        said: list[str] = []
        try:
            yield Scene(server, client, changes, said)
        finally:
            await client.close()
        said += [repr(client), repr(client.statistics()), *map(repr, changes)]
        said += [everything_said(change.reason) for change in changes]
        said += [record.getMessage() + repr(record.args) for record in caplog.records]
        said += ["".join(traceback.format_exception(*record.exc_info)) for record in caplog.records if record.exc_info]
        for secret in secrets_of(server):
            assert not [text for text in said if secret in text], secret
    await until(lambda: asyncio.all_tasks() == tasks and open_sockets() == sockets)


def served_before_proof(server: BadServer) -> list[int]:
    """What was asked for on connections whose server had not proven itself."""
    return [
        request.op
        for request in server.requests
        if request.op != Op.SASL and request.connection._honest.exchange.user is None  # type: ignore[union-attr]
    ]


async def check_it_gets_in(stage: Scene) -> None:
    """With a server that behaves, from now on."""
    async with asyncio.timeout(120):
        await stage.client.wait_connected()
        await stage.client.create("/a", b"1")
    identities = {(identity.scheme, identity.user) for identity in await stage.client.who_am_i()}
    assert {("sasl", USER), ("digest", "u")} <= identities
    assert served_before_proof(stage.server) == []


# --- the first connection ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("token", [0, 1])
@simulated
async def test_at_a_token(name: str, token: int, caplog: pytest.LogCaptureFixture) -> None:
    """The first one, or the answer to the challenge. The second connection is a good one."""
    async with scene(caplog) as stage:
        for _ in range(token):
            stage.server.on(Op.SASL, misbehaviour.answer)
        stage.server.on(Op.SASL, HOSTILE[name])
        await stage.client.start(wait=False)
        await check_it_gets_in(stage)
        assert len(stage.server.greetings) == 2


@pytest.mark.parametrize("name", HARMLESS)
@simulated
async def test_what_is_harmless(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with scene(caplog) as stage:
        stage.server.on(Op.SASL, HARMLESS[name], times=2)
        await stage.client.start()
        await check_it_gets_in(stage)
        assert len(stage.server.connections) == 1


@pytest.mark.parametrize("name", HOSTILE)
@simulated
async def test_start_says_why(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without `wait=False` a client that nobody lets in is told so."""
    async with scene(caplog) as stage:
        stage.server.on(Op.SASL, HOSTILE[name], times=1000)
        with pytest.raises(EverlatchError) as raised:
            await stage.client.start()
        stage.said.append(everything_said(raised.value))
        assert served_before_proof(stage.server) == []


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("token", [0, 1])
@simulated
async def test_a_refusal_is_the_end(name: str, token: int, caplog: pytest.LogCaptureFixture) -> None:
    async with scene(caplog) as stage:
        for _ in range(token):
            stage.server.on(Op.SASL, misbehaviour.answer)
        stage.server.on(Op.SASL, REFUSALS[name])
        await stage.client.start(wait=False)
        await until(lambda: stage.client.state is State.AUTH_FAILED)
        await until(lambda: stage.changes)
        assert isinstance(stage.changes[-1].reason, ServerError)
        with pytest.raises(AuthFailedError) as raised:
            await stage.client.create("/a")
        stage.said.append(everything_said(raised.value))
        await asyncio.sleep(60)
        assert len(stage.server.connections) == 1
        assert served_before_proof(stage.server) == []


# --- for ever ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action", [challenge_again, no_sasl, answer_with_wrong_proof, swallow], ids=lambda a: a.__name__
)
@simulated
async def test_a_server_that_never_comes_to_an_end(
    action: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """Each connection ends after a token or two, the client doesn't hurry, and gets in when the server is in order."""
    async with scene(caplog) as stage:
        server = stage.server
        server.on(Op.SASL, action, times=10_000)
        await stage.client.start(wait=False)
        call = stage.client.get("/")
        await asyncio.sleep(30)
        tokens = len(server.requests)
        assert 3 <= len(server.connections) <= 200
        assert tokens <= 2 * len(server.connections)
        server._by_op.clear()
        await check_it_gets_in(stage)
        assert (await call).data == b""
        reasons = {type(change.reason) for change in stage.changes if change.reason is not None}
        assert reasons <= {SaslError}, reasons


@simulated
async def test_a_server_without_sasl_is_not_served_by(caplog: pytest.LogCaptureFixture) -> None:
    """That it would let everybody in is no reason: who it is can't be told."""
    async with scene(caplog, sasl=None, require_auth=False) as stage:
        with pytest.raises(EverlatchError, match="not set up for SASL") as raised:
            await stage.client.start()
        stage.said.append(everything_said(raised.value))
        assert {request.op for request in stage.server.requests} == {Op.SASL}


# --- later connections ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
@simulated
async def test_at_a_reconnect(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The session is kept, and calls that wait are answered."""
    async with scene(caplog) as stage:
        await stage.client.start()
        await check_it_gets_in(stage)
        session_id = stage.client.session_id
        stage.server.on(Op.SASL, HOSTILE[name])
        stage.server.connection.reset()
        async with asyncio.timeout(60):
            assert (await stage.client.get("/a")).data == b"1"
        assert stage.client.session_id == session_id
        assert served_before_proof(stage.server) == []


@pytest.mark.parametrize("name", REFUSALS)
@simulated
async def test_a_refusal_at_a_reconnect(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with scene(caplog) as stage:
        await stage.client.start()
        await check_it_gets_in(stage)
        stage.server.on(Op.SASL, REFUSALS[name])
        stage.server.connection.reset()
        call = stage.client.get("/a")
        with pytest.raises(AuthFailedError) as raised:
            await call
        stage.said.append(everything_said(raised.value))
        assert stage.client.state is State.AUTH_FAILED


# --- after the exchange -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [-124, -115])
@pytest.mark.parametrize("action", ["at a request", "at credentials", "at a ping", "out of the blue"])
@simulated
async def test_a_refusal_of_who_has_authenticated(action: str, code: int, caplog: pytest.LogCaptureFixture) -> None:
    """The server has forgotten who the client is, or wants more than it did. Whatever the client makes of it, it tells
    its callers, or goes on; it doesn't hang, nor fall silent."""
    async with scene(caplog) as stage:
        await stage.client.start()
        await check_it_gets_in(stage)
        server = stage.server
        match action:
            case "at a request":
                server.next(fail_with(code))
            case "at credentials":
                server.on(Op.AUTH, fail_with(code))
                server.connection.reset()
            case "at a ping":
                pong, server.ping = server.ping, misbehaviour.fail_ping(code)
                await server.until(lambda: len(server.pings) >= 1)
                server.ping = pong
            case _:
                server.connection.reply(999, code)
        async with asyncio.timeout(60):
            (end,) = await asyncio.gather(stage.client.get("/a"), return_exceptions=True)
            if isinstance(end, EverlatchError):
                stage.said.append(everything_said(end))
                is_final = stage.client.state is State.AUTH_FAILED
                assert is_final or (await stage.client.get("/a")).data == b"1"
            else:
                assert end.data == b"1"


# --- out of turn ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"\xff\xff\xff\xff", b"\0\0\0\4abcd"])
@pytest.mark.parametrize("code", [0, -115, -124])
@simulated
async def test_an_answer_that_nobody_waits_for(body: bytes, code: int, caplog: pytest.LogCaptureFixture) -> None:
    """With the xid of the client's own tokens, when the exchange is long over: it refuses nothing."""
    async with scene(caplog) as stage:
        await stage.client.start()
        await check_it_gets_in(stage)
        xid = next(request.xid for request in stage.server.requests if request.op == Op.SASL)
        stage.server.connection.reply(xid, code, body)
        await stage.server.wait_for_connections(2)
        async with asyncio.timeout(60):
            assert (await stage.client.get("/a")).data == b"1"


@pytest.mark.parametrize("early", [b"", b"\xff\xff\xff\xff", b"\0\0\0\4abcd"])
@simulated
async def test_answers_to_tokens_that_are_yet_to_come(early: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A challenge, and right behind it the answer to what the client says to it, and more: guessed, it is no proof."""

    def hurry(connection: Connection, request: Received) -> None:
        misbehaviour.answer(connection, request)
        for _ in range(3):
            connection.reply(request.xid, 0, early, zxid=0)

    async with scene(caplog) as stage:
        stage.server.on(Op.SASL, hurry)
        await stage.client.start(wait=False)
        await check_it_gets_in(stage)


@simulated
async def test_other_answers_during_the_exchange(caplog: pytest.LogCaptureFixture) -> None:
    """To credentials that have not been sent, to pings, to requests."""

    def answer_others(connection: Connection, request: Received) -> None:
        for xid in (-4, -2, 1):
            connection.reply(xid, 0)
        misbehaviour.answer(connection, request)

    async with scene(caplog) as stage:
        stage.server.on(Op.SASL, answer_others)
        await stage.client.start(wait=False)
        await check_it_gets_in(stage)


def test_secrets_are_looked_for_in_what_is_said() -> None:
    """This test's own eyes."""
    error = ValueError("outer")
    error.__cause__ = ValueError(f"no {PASSWORD}")
    assert PASSWORD in everything_said(error)
    assert re.fullmatch(r"DigestMd5\('bob', …\)", repr(DigestMd5(USER, PASSWORD)))
