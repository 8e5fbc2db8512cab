"""How the guardian's process ends sessions: at whatever server does it, and for how long it tries."""

from __future__ import annotations

import _thread
import ast
import asyncio
import contextlib
import pathlib
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import Client
from everlatch.devserver import DevServer
from everlatch.guardian import child, farewell
from everlatch.guardian.connection import Certificates
from everlatch.guardian.exchange import Session
from everlatch.guardian.farewell import Farewell, close_sessions
from everlatch.guardian.guarded import Guarded
from everlatch.guardian.names import Names
from everlatch.paths import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG = 20.0
SOON = 5.0
TRUSTING = Certificates((None, None, None, None, True))
Used = tuple[str, int, str]
Behaviour = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]"


@contextlib.asynccontextmanager
async def listener(behaviour: Any) -> AsyncIterator[Endpoint]:
    """Who is no ZooKeeper server."""
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await behaviour(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        for task in tasks:
            task.cancel()
        server.close()
        await server.wait_closed()


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def hangs_up(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.readexactly(4)


async def talks_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x7f\xff\xff\xff" + b"HTTP/1.1 400 Bad Request")
    await reader.read(-1)


async def takes_the_session_and_hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = await reader.readexactly(4 + 45)
    writer.write((37).to_bytes(4, "big") + bytes(4) + b"\0\0\x10\0" + request[20:28] + request[28:48] + b"\0")
    await reader.readexactly(12)


def port_of_nobody() -> Endpoint:
    return Endpoint("127.0.0.1", 1)


async def guarded_by(client: Client, servers: list[Endpoint], *, used: Used | None = None, **more: Any) -> Session:
    """What the guardian would be told."""
    found = Guarded(client.session_id, client.session_password, LONG, servers, used, [])._replace(**more)
    return Session(*found.message(1)[2:])


async def close(*sessions: Session) -> float:
    """Ends them in a thread, as it waits; returns how long that took."""
    began = time.monotonic()
    await asyncio.to_thread(close_sessions, list(sessions), {}, time.monotonic())
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def owned() -> AsyncIterator[tuple[Client, Client, Endpoint]]:
    """A client with an ephemeral node, one that sees it, and the server."""
    async with DevServer(max_session_timeout=60.0) as server:
        host, _, port = server.address.rpartition(":")
        options = {"session_timeout": LONG, "renew_session": False}
        async with Client(server.address) as witness, Client(server.address, **options) as client:
            await client.create("/mine", ephemeral=True)
            yield client, witness, Endpoint(host, int(port))


@pytest.mark.parametrize("behaviour", [silent, hangs_up, talks_nonsense, takes_the_session_and_hangs_up])
async def test_the_server_in_use_is_of_no_use(behaviour: Any) -> None:
    async with owned() as (client, witness, good), listener(behaviour) as bad:
        used = (bad.host, bad.port, bad.host)
        took = await close(await guarded_by(client, [port_of_nobody(), bad, good], used=used))
        assert took < SOON
        assert await witness.exists("/mine") is None


class Silent:
    """An attempt of which nothing is heard."""

    def __init__(self, *_: object) -> None:
        self.has_answered = False


@pytest.mark.parametrize(
    ("certificates", "seconds"), [(None, 0.02), (Certificates((None, None, None, None, True)), 0.2)]
)
def test_how_long_a_server_may_say_nothing(
    certificates: Certificates | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has to shake hands first is given time for it: a rival would be more of that work."""
    monkeypatch.setattr(farewell, "Attempt", Silent)
    servers = [Endpoint("10.0.0.1", 2281), Endpoint("10.0.0.2", 2281), Endpoint("10.0.0.3", 2281)]
    session = Session(*Guarded(1, bytes(16), LONG, servers, None, []).message(1)[2:])
    names = Names()
    ending = Farewell(session, names, certificates, 0.0)
    assert ending.move_on(0.0) == pytest.approx(seconds)
    ending.move_on(0.9 * seconds)
    assert len(ending.attempts) == 1
    ending.heard(next(iter(ending.attempts)), seconds)
    ending.move_on(1.9 * seconds)
    assert len(ending.attempts) == 1
    ending.move_on(2.1 * seconds)
    assert len(ending.attempts) == 2


async def test_names_are_looked_up() -> None:
    async with owned() as (client, witness, good):
        names = [Endpoint("no-such-name.invalid", 2181), Endpoint("localhost", good.port)]
        await close(await guarded_by(client, names))
        assert await witness.exists("/mine") is None


async def test_a_name_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Names, "_look_up", lambda *_: None)
    async with owned() as (client, witness, good):
        assert await close(await guarded_by(client, [Endpoint("hangs.invalid", 2181), good])) < SOON
        assert await witness.exists("/mine") is None


async def test_no_thread_is_left_to_look_names_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has killed a process may be short of everything."""
    tried = []
    start = _thread.start_new_thread

    def start_new_thread(*arguments: Any) -> int:
        tried.append(arguments)
        if len(tried) < 3:
            raise RuntimeError("can't start new thread")
        return start(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", start_new_thread)
    async with owned() as (client, witness, good):
        await close(await guarded_by(client, [Endpoint("localhost", good.port)]))
        assert await witness.exists("/mine") is None
    assert len(tried) >= 3


async def test_many_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than at once."""
    monkeypatch.setattr(farewell, "MOST_AT_ONCE", 3)
    async with DevServer() as server, Client(server.address) as witness, contextlib.AsyncExitStack() as stack:
        host, _, port = server.address.rpartition(":")
        await witness.create("/all")
        options = {"renew_session": False, "close_timeout": 0.0}
        clients = [await stack.enter_async_context(Client(server.address, **options)) for _ in range(10)]
        for number, client in enumerate(clients):
            await client.create(f"/all/{number}", ephemeral=True)
        await close(*[await guarded_by(client, [Endpoint(host, int(port))]) for client in clients])
        assert await witness.children("/all") == []


async def test_an_ensemble_that_is_down_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions there are at it."""
    monkeypatch.setattr(farewell, "MOST_AT_ONCE", 2)
    async with owned() as (client, witness, good), listener(silent) as down:
        lost = [await guarded_by(client, [down], timeout=2.0) for _ in range(3)]
        closing = asyncio.create_task(close(*lost, await guarded_by(client, [good])))
        await witness.wait_deleted("/mine", timeout=1.5)
        assert not closing.done()
        await closing


async def test_a_session_that_has_ended() -> None:
    async with owned() as (client, _, good):
        session = await guarded_by(client, [good], password=b"wrong" + bytes(11))
        assert await close(session) < SOON


async def test_credentials_that_are_refused() -> None:
    """The session may live on at other servers; until its time has passed."""
    async with owned() as (client, witness, good):
        frames = [b"\0\0\0\x1a\xff\xff\xff\xfc\0\0\0\x64\0\0\0\0\0\0\0\x05wrong\0\0\0\x01x"]
        session = await guarded_by(client, [good], timeout=0.4, authentication=frames)
        assert 0.4 <= await close(session) < SOON
        assert await witness.exists("/mine") is not None


async def test_until_the_time_has_passed() -> None:
    async with owned() as (client, _, _):
        assert 0.3 <= await close(await guarded_by(client, [port_of_nobody()], timeout=0.3)) < SOON


async def test_nobody_is_asked_all_the_time() -> None:
    """Between two rounds there are pauses."""
    asked = 0

    async def counts(*_: Any) -> None:
        nonlocal asked
        asked += 1

    async with owned() as (client, _, _), listener(counts) as bad:
        await close(await guarded_by(client, [bad], timeout=0.5))
        assert 2 <= asked <= 20


def test_the_program_imports_little() -> None:
    """Rule 1 of the process: what is loaded in any case is built in, small, or `socket`."""
    package = pathlib.Path(child.__file__).parent
    small = {"_thread", "contextlib", "collections", "errno", "marshal", "os", "select", "socket", "sys", "time"}
    for name in child._PARTS:
        tree = ast.parse((package / f"{name}.py").read_text("utf-8"))
        found = set()
        for node in tree.body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
        own = {module for module in found if module.startswith("everlatch")}
        assert found - own <= small
        before = child._PARTS[: child._PARTS.index(name)]
        assert own <= {f"everlatch.guardian.{part}" for part in before}
    assert small <= sys.stdlib_module_names
