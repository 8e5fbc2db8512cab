"""Sessions that are ended behind their clients' backs, at scripted and real servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from engine.links import closed_port
from everlatch import Client, InvalidArgumentError
from everlatch.testing import Ensemble, SessionNotEndedError, expire_session
from everlatch.wire.framing import frame
from everlatch.wire.headers import encode_reply
from scripted_server import ScriptedServer, drop_after, drop_before, never, send, swallow
from skipping_loop import on_every_loop

if TYPE_CHECKING:
    from collections.abc import Callable


@on_every_loop
async def test_the_session_of_a_client_is_ended() -> None:
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/mine", ephemeral=True)
        session_id = client.session_id
        await expire_session(client, server.address)
        assert session_id not in server.znodes.session_ids
        assert "/mine" not in server.znodes.nodes


@on_every_loop
async def test_id_and_password_will_do() -> None:
    async with ScriptedServer() as server:
        session = server.znodes.new_session()
        await expire_session(session, server.address)
        assert server.znodes.session_ids == []
        with pytest.raises(SessionNotEndedError, match=f"does not know session 0x{session[0]:x}"):
            await expire_session(session, server.address)


@on_every_loop
async def test_a_wrong_password_ends_nothing_and_is_not_shown() -> None:
    async with ScriptedServer() as server:
        session_id, _ = server.znodes.new_session()
        server.handshake = lambda connection, request: send(UNKNOWN)(connection, request)
        with pytest.raises(SessionNotEndedError) as failure:
            await expire_session((session_id, b"a wrong secret.."), server.address)
        assert "secret" not in str(failure.value)
        assert failure.value.__cause__ is None
        assert server.znodes.session_ids == [session_id]


UNKNOWN = frame(bytes(16) + b"\x00\x00\x00\x10" + bytes(17))


@on_every_loop
async def test_a_session_that_its_owner_takes_back_is_ended_at_the_next_attempt() -> None:
    async with ScriptedServer() as server:
        server.next(drop_before, drop_before)
        await expire_session(server.znodes.new_session(), server.address)
        assert server.znodes.session_ids == []
        assert len(server.requests) == 3


@on_every_loop
async def test_the_answer_may_be_lost() -> None:
    async with ScriptedServer() as server:
        server.next(drop_after)
        await expire_session(server.znodes.new_session(), server.address)
        assert server.znodes.session_ids == []


@on_every_loop
async def test_other_frames_may_come_before_the_answer() -> None:
    async with ScriptedServer() as server:
        event = frame(encode_reply(-1, -1, 0, b"something happened"))
        server.next(lambda connection, request: (connection.send_raw(event), connection.reply(request.xid))[1])
        await expire_session(server.znodes.new_session(), server.address)


@on_every_loop
@pytest.mark.parametrize("mischief", [never, drop_before])
async def test_a_server_that_does_not_serve(mischief: Any) -> None:
    async with ScriptedServer() as server:
        server.handshake = mischief
        server.next(swallow)
        with pytest.raises(SessionNotEndedError, match=r"within 0\.1 s"):
            await expire_session((7, bytes(16)), server.address, timeout=0.1)


@on_every_loop
async def test_a_server_that_talks_nonsense() -> None:
    async with ScriptedServer() as server:
        server.handshakes += [send(b"HTTP/1.1 400\r\n\r\n"), send(frame(b"short"))]
        for expected in ("over the limit", "too few"):
            with pytest.raises(SessionNotEndedError, match=expected):
                await expire_session((7, bytes(16)), server.address)


@on_every_loop
async def test_a_server_that_refuses_is_told_and_one_that_only_knows_it_elsewhere_is_asked_again() -> None:
    async with ScriptedServer() as server:
        server.next(lambda connection, request: connection.reply(request.xid, err=-118))
        await expire_session(server.znodes.new_session(), server.address)
        assert server.znodes.session_ids == []
        server.next(lambda connection, request: connection.reply(request.xid, err=-124))
        with pytest.raises(SessionNotEndedError, match="error -124"):
            await expire_session(server.znodes.new_session(), server.address)
        assert len(server.znodes.session_ids) == 1


@on_every_loop
async def test_nobody_listens() -> None:
    with pytest.raises(SessionNotEndedError, match="no connection to"):
        await expire_session((7, bytes(16)), f"127.0.0.1:{closed_port()}")


async def test_what_makes_no_sense_is_refused() -> None:
    for session, address in (((0, b""), "a:1"), ((1, b""), "a:1,b:1"), ((1, b""), "a:1/app"), ((1, b""), "")):
        with pytest.raises(InvalidArgumentError):
            await expire_session(session, address)
    with pytest.raises(InvalidArgumentError, match="is the client connected"):
        await expire_session(Client("a:1"), "a:1")


@pytest.mark.real
@pytest.mark.parametrize("loop_factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_at_a_real_server(version: str, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        async with (
            Ensemble(version=version) as ensemble,
            Client(ensemble.connect_string) as client,
            Client(ensemble.connect_string) as other,
        ):
            for number in range(1, 6):  # the client comes back as fast as it can
                await client.create("/mine", ephemeral=True)
                gone: asyncio.Queue[object] = asyncio.Queue()
                await other.exists("/mine", watch=gone.put_nowait)
                session = client.in_session()
                await expire_session(client, ensemble.connect_string)
                await gone.get()
                assert not await other.exists("/mine")
                await client.sync("/")
                assert client.generation == number + 1
                assert not session.is_current

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


@pytest.mark.real
async def test_at_another_server_than_the_clients() -> None:
    async with Ensemble(3) as ensemble, Client(ensemble.connect_string) as client:
        await client.create("/mine", ephemeral=True)
        its_server = await ensemble.server_of(client.session_id)
        address = next(server.address for server in ensemble.servers if server is not its_server)
        await expire_session((client.session_id, client.session_password), address)
        await client.wait_connected()
        while client.generation == 1:
            await client.sync("/")
        assert not await client.exists("/mine")
