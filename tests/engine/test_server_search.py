"""What the servers tell when they are asked: who lives, who serves, and what the client makes of it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from engine.links import closed_port, open_sockets, until
from everlatch import Client, ClientClosedError, HistoryResetError, NotStartedError, ServerKind, State
from everlatch.admin import AdminTimeoutError, NotServingError, NotWhitelistedError
from everlatch.engine import server_search
from everlatch.engine.server_search import classify
from everlatch.paths import Endpoint
from everlatch.session.servers import Address
from everlatch.types import ServerFinding
from scripted_server import ScriptedServer, Znodes, drop_before, go_silent, never, send
from skipping_loop import simulated, this_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch import StateChange

NOT_SERVING = send(b"This ZooKeeper instance is not currently serving requests\n", then_close=True)
REFUSED = send(b"srvr is not executed because it is not in the whitelist.\n", then_close=True)
READ_ONLY = send(
    b"Zookeeper version: 3.9.5-x, built on 2025-01-01 00:00 UTC\nLatency min/avg/max: 0/0.0/0\nReceived: 1\nSent: 0\n"
    b"Connections: 1\nOutstanding: 0\nZxid: 0x5\nMode: read-only\nNode count: 5\n",
    then_close=True,
)


@contextlib.asynccontextmanager
async def ensemble(size: int = 2) -> AsyncIterator[list[ScriptedServer]]:
    """Servers that share what they know."""
    znodes = Znodes(max_session_timeout=6)
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ScriptedServer(znodes)) for _ in range(size)]


def client_of(servers: list[ScriptedServer], **options: Any) -> Client:
    options = {"shuffle": False, "session_timeout": 6} | options
    return Client(",".join(server.address for server in servers), **options)


def freeze(server: ScriptedServer) -> None:
    """It answers nothing and nobody any more; its kernel still takes connections."""
    for connection in server.open_connections:
        connection.silent = True
    server.handshake = never
    server.word = go_silent


def at(server: ScriptedServer, host: str = "127.0.0.1") -> Address:
    return Address("127.0.0.1", server.port, Endpoint(host, server.port))


def server_of(client: Client) -> str | None:
    return client.statistics().server


def changes_of(client: Client) -> list[StateChange]:
    changes: list[StateChange] = []
    client.add_listener(changes.append)
    return changes


# --- one question -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "kind", "mode", "reason"),
    [
        (None, ServerKind.READ_WRITE, "standalone", None),
        (READ_ONLY, ServerKind.READ_ONLY, "read-only", None),
        (NOT_SERVING, ServerKind.NOT_SERVING, None, NotServingError),
        (REFUSED, ServerKind.REACHABLE, None, NotWhitelistedError),
        (send(b"hello", then_close=True), ServerKind.REACHABLE, None, Exception),
        (go_silent, ServerKind.UNREACHABLE, None, AdminTimeoutError),
    ],
    ids=["serves", "read-only", "not serving", "refuses", "says something else", "silent"],
)
@simulated
async def test_what_one_server_is_found_to_be(word, kind, mode, reason):
    async with ScriptedServer() as server:
        if word is not None:
            server.word = word
        loop = this_loop()
        began = loop.time()
        finding = await classify(at(server), loop.time, patience=0.5)
        assert (finding.server, finding.kind, finding.mode) == (server.address, kind, mode)
        assert isinstance(finding.reason, reason) if reason else finding.reason is None
        assert (finding.zxid is None) == (mode is None)
        if kind is ServerKind.UNREACHABLE:
            assert finding.round_trip is None
            assert loop.time() - began == pytest.approx(0.5, abs=0.01)
        else:
            assert finding.round_trip is not None
            assert 0 <= finding.round_trip < 0.5


@simulated
async def test_where_nobody_listens():
    finding = await classify(Address("127.0.0.1", port := closed_port(), Endpoint("zk1", port)), this_loop().time)
    assert (finding.server, finding.kind) == (f"zk1:{port} (127.0.0.1)", ServerKind.UNREACHABLE)
    assert isinstance(finding.reason, ConnectionError)


# --- a link in doubt ----------------------------------------------------------------------------------------------


@simulated
async def test_a_frozen_server_is_left_for_one_that_lives():
    async with ensemble() as servers, client_of(servers) as client:
        freeze(servers[0])
        loop, began = this_loop(), this_loop().time()
        assert await client.exists("/a") is None
        assert loop.time() - began == pytest.approx(0.75 + 0.05, abs=0.1), "T/8, and a moment"
        assert server_of(client) == servers[1].address


@simulated
async def test_with_a_budget_of_tens_of_milliseconds_it_is_left_sooner():
    async with ensemble() as servers, client_of(servers, silence_budget=0.05) as client:
        await asyncio.sleep(0.2)
        freeze(servers[0])
        loop, began = this_loop(), this_loop().time()
        assert await client.exists("/a") is None
        assert loop.time() - began == pytest.approx(0.05 + 0.05, abs=0.05)


@pytest.mark.parametrize("word", [REFUSED, drop_before], ids=["refuses", "closes"])
@simulated
async def test_one_that_answers_no_such_question_lives_all_the_same(word):
    async with ensemble() as servers, client_of(servers) as client:
        servers[1].word = word
        freeze(servers[0])
        assert await client.exists("/a") is None
        assert server_of(client) == servers[1].address


@pytest.mark.parametrize("word", [NOT_SERVING, go_silent], ids=["not serving", "silent"])
@simulated
async def test_it_is_kept_while_no_other_serves(word):
    async with ensemble() as servers, client_of(servers) as client:
        changes = changes_of(client)
        servers[1].word = word
        servers[0].connection.silent = True
        servers[0].word = go_silent
        call = client.exists("/a")
        await asyncio.sleep(3)
        assert changes == []
        assert len(servers[1].words) >= 1
        servers[0].connection.silent = False
        servers[0].connection.close()
        assert await call is None


@simulated
async def test_who_serves_again_is_heard_of_although_the_frozen_one_takes_its_time():
    """Each is asked by itself: the frozen one is waited for, for two seconds, by nobody else."""
    async with ensemble() as servers, client_of(servers) as client:
        well, servers[1].word = servers[1].word, NOT_SERVING
        freeze(servers[0])
        call = client.exists("/a")
        await asyncio.sleep(1.2)
        loop, servers[1].word = this_loop(), well
        began = loop.time()
        assert await call is None
        assert loop.time() - began < 0.5


@simulated
async def test_a_name_that_hangs_holds_up_nobody():
    async with ensemble() as servers:
        this_loop().names["slow.example"] = asyncio.Event().wait  # type: ignore[assignment]
        hosts = f"{servers[0].address},slow.example:2181,{servers[1].address}"
        async with Client(hosts, shuffle=False, session_timeout=6) as client:
            freeze(servers[0])
            loop, began = this_loop(), this_loop().time()
            assert await client.exists("/a") is None
            assert loop.time() - began < 1.5


@simulated
async def test_a_name_that_fails_is_asked_again():
    answers: list[list[str] | OSError] = [["127.0.0.1"], OSError("no such name"), ["127.0.0.1"]]

    async def resolve() -> list[str]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    async with ensemble() as servers:
        this_loop().names["zk.example"] = resolve
        hosts = f"{servers[0].address},zk.example:{servers[1].port}"
        async with Client(hosts, shuffle=False, session_timeout=6) as client:
            answers.pop(0)
            freeze(servers[0])
            assert await client.exists("/a") is None
            assert len(answers) == 1
            assert server_of(client) == f"zk.example:{servers[1].port} (127.0.0.1)"


@simulated
async def test_nobody_is_asked_when_the_doubt_is_over():
    async with ensemble() as servers, client_of(servers) as client:
        servers[1].word = NOT_SERVING
        servers[0].connection.silent = True
        call = client.exists("/a")
        await asyncio.sleep(1.5)
        assert len(servers[1].words) > 1
        servers[0].connection.close()
        assert await call is None
        await asyncio.sleep(1)
        asked = len(servers[0].words), len(servers[1].words)
        await asyncio.sleep(10)
        assert (len(servers[0].words), len(servers[1].words)) == asked


@simulated
async def test_who_was_asked_because_of_an_earlier_doubt_is_asked_anew_and_no_more_for_that_one():
    """There is one question to a server at a time."""
    async with ensemble() as servers, client_of(servers) as client:
        for server in servers:
            server.word = go_silent
        search = client._engine.search
        for _ in range(5):
            servers[0].connection.holding = True
            call = client.exists("/a")
            while not client._engine.session.doubts_link:
                await asyncio.sleep(0.01)
            servers[0].connection.holding = False
            servers[0].connection.release()
            assert await call is None
            assert len(search._tasks) == 1
        await asyncio.sleep(3)
        assert search._tasks == set()


# --- searching ----------------------------------------------------------------------------------------------------


@simulated
async def test_a_search_tells_what_all_servers_are_and_the_client_prefers_those_that_serve():
    async with ensemble(3) as servers, client_of(servers) as client:
        assert client.server_findings == ()
        servers[1].word = NOT_SERVING
        found = await client.search_servers()
        assert [finding.kind for finding in found] == [
            ServerKind.READ_WRITE,
            ServerKind.NOT_SERVING,
            ServerKind.READ_WRITE,
        ]
        assert [finding.server for finding in found] == [server.address for server in servers]
        assert client.server_findings == found
        await asyncio.sleep(1.5)
        servers[0].refusing = True
        servers[0].connection.reset()
        assert await client.exists("/a") is None
        assert server_of(client) == servers[2].address
        assert servers[1].connections == []


@simulated
async def test_those_who_search_at_the_same_time_share_the_questions():
    async with ensemble() as servers, client_of(servers) as client:
        found = await asyncio.gather(*(client.search_servers() for _ in range(5)))
        assert len({*found}) == 1
        assert [len(server.words) for server in servers] == [1, 1]
        await client.search_servers()
        assert [len(server.words) for server in servers] == [2, 2]


@simulated
async def test_one_who_searches_may_be_cancelled_alone():
    async with ensemble() as servers, client_of(servers) as client:
        one, other = (asyncio.create_task(client.search_servers()) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        assert len(await other) == 2
        assert one.cancelled()


@simulated
async def test_a_search_takes_its_time_only():
    async with ensemble() as servers, client_of(servers) as client:
        this_loop().names["slow.example"] = asyncio.Event().wait  # type: ignore[assignment]
        client.update_servers([servers[0].address, servers[1].address, "slow.example:2181"])
        servers[1].word = go_silent
        began = this_loop().time()
        found = await client.search_servers()
        assert {finding.kind for finding in found} == {ServerKind.READ_WRITE, ServerKind.UNREACHABLE}
        assert len(found) == 2, "of the name there is no address to be asked"
        assert this_loop().time() - began < 3.1


@simulated
async def test_closing_ends_a_search():
    async with ensemble() as servers:
        client = client_of(servers)
        with pytest.raises(NotStartedError):
            await client.search_servers()
        before = open_sockets()
        async with client:
            servers[1].word = go_silent
            search = asyncio.create_task(client.search_servers())
            await servers[1].until(lambda: servers[1].words)
        with pytest.raises(ClientClosedError, match="search_servers"):
            await search
        with pytest.raises(ClientClosedError):
            await client.search_servers()
        await until(lambda: open_sockets() <= before)
        assert client._engine.search._tasks == set()


@simulated
async def test_searching_ahead():
    async with ensemble(3) as servers, client_of(servers, preventive_search_interval=10) as client:
        await servers[2].until(lambda: servers[2].words)
        await asyncio.sleep(35)
        assert [len(server.words) for server in servers] == [4, 4, 4]
        assert len(client.server_findings) == 3
        servers[1].word = NOT_SERVING
        await asyncio.sleep(10)
        servers[0].connection.reset()
        assert await client.exists("/a") is None
        assert server_of(client) == servers[2].address


@simulated
async def test_nothing_is_searched_ahead_while_there_is_no_connection():
    async with ensemble() as servers, client_of(servers, preventive_search_interval=1) as client:
        await asyncio.sleep(2.5)
        for server in servers:
            server.refusing = True
            for connection in server.open_connections:
                connection.close()
        asked = [len(server.words) for server in servers]
        await asyncio.sleep(10)
        assert [len(server.words) for server in servers] == asked
        for server in servers:
            server.refusing = False
        await client.wait_connected()
        await asyncio.sleep(2)
        assert [len(server.words) for server in servers] > asked


@simulated
async def test_without_being_asked_for_nothing_is_searched():
    async with ensemble() as servers, client_of(servers):
        await asyncio.sleep(100)
        assert servers[0].words == servers[1].words == []


@simulated
async def test_searching_ahead_survives_the_connections_that_come_and_go():
    """What is still being looked up is forgotten when there is a connection; the search was once ended by that."""
    gate = asyncio.Event()

    async def resolve() -> list[str]:
        await gate.wait()
        return ["127.0.0.1"]

    async with ensemble() as servers:
        this_loop().names["zk.example"] = resolve
        hosts = f"{servers[0].address},zk.example:{servers[1].port}"
        async with Client(hosts, shuffle=False, session_timeout=6, preventive_search_interval=5) as client:
            await asyncio.sleep(0.1)
            servers[0].connection.reset()
            await asyncio.sleep(2)
            assert client.state is State.CONNECTED
            gate.set()
            await asyncio.sleep(12)
            assert len(client.server_findings) == 2


# --- nobody takes us ----------------------------------------------------------------------------------------------


@simulated
async def test_an_ensemble_that_has_lost_its_data_is_begun_with_anew():
    async with ScriptedServer(max_session_timeout=2) as server, server.client(session_timeout=2) as client:
        for number in range(3):
            await client.create(f"/{number}", b"")
        seen, changes = client.statistics().last_zxid, changes_of(client)
        await server.stop()
        server.znodes = Znodes(max_session_timeout=2)
        await server.start()
        assert await client.exists("/0") is None
        assert 0 < client.statistics().last_zxid < seen
        assert [change.state for change in changes] == [
            State.SUSPENDED,
            State.LOST,
            State.RENEWED,
            State.CONNECTED,
        ]
        assert isinstance(changes[2].reason, HistoryResetError)


@simulated
async def test_a_leader_of_the_past_loses_nothing_while_another_server_is_as_far_as_we(monkeypatch):
    """Cut off with a minority, it goes on calling itself the leader for a while."""
    async with ensemble() as servers, client_of(servers, session_timeout=1) as client:
        await client.create("/a", b"")
        seen, changes = client.statistics().last_zxid, changes_of(client)
        told = {servers[0].port: ("leader", seen - 1), servers[1].port: ("follower", seen)}

        async def classified(address: Address, *_: object, **__: object) -> ServerFinding:
            mode, zxid = told[address.port]
            kind = ServerKind.READ_ONLY if mode == "read-only" else ServerKind.READ_WRITE
            return ServerFinding(str(address), kind, 0.0, mode, zxid, None)

        monkeypatch.setattr(server_search, "classify", classified)
        for server in servers:
            server.handshake = drop_before
            for connection in server.open_connections:
                connection.reset()
        await servers[0].until(lambda: changes[-1:] and changes[-1].state is State.LOST)
        await asyncio.sleep(5)
        assert changes[-1].state is State.LOST
        assert client.statistics().last_zxid == seen
        told[servers[1].port] = ("read-only", seen)  # which may have what was never decided
        await servers[0].until(lambda: client.statistics().last_zxid == 0)


@simulated
async def test_what_the_servers_are_is_asked_once_at_a_time():
    """However fast the rounds fail, there is one question at a time."""
    async with ScriptedServer() as server, server.client() as client:
        search = client._engine.search
        server.word = go_silent
        for _ in range(5):
            search.ask_modes()
        await server.until(lambda: server.words)
        assert len(server.words) == 1
        await asyncio.sleep(2.1)
        search.ask_modes()
        await server.until(lambda: len(server.words) == 2)


@simulated
async def test_a_question_that_fails_in_an_unforeseen_way_is_reported(monkeypatch, caplog):
    async with ScriptedServer() as server, server.client() as client:

        async def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a bug of ours")

        monkeypatch.setattr(server_search, "classify", broken)
        with pytest.raises(ZeroDivisionError):
            await client.search_servers()
        assert "a bug of ours" in caplog.text
