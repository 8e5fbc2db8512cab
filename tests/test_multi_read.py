"""Multi-reads: several reads in one request, each with an end of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from everlatch import (
    CallTimeoutError,
    ClientClosedError,
    ClientStateError,
    NoAuthError,
    Node,
    NoNodeError,
    ProtocolError,
    RequestKillsConnectionError,
    Stat,
    UnknownServerError,
)
from everlatch.wire.codes import Op
from everlatch.wire.multi import (
    CheckResult,
    ErrorResult,
    GetChildrenResult,
    GetDataResult,
    encode_multi_reply,
)
from scripted_server import Connection, Received, ScriptedServer, drop_after, swallow
from skipping_loop import simulated
from srvr_answers import SrvrAnswers

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.wire.multi import Result

CHROOTS = pytest.mark.parametrize("chroot", ["", "/app"])
STAT = Stat(*range(11))


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> SrvrAnswers:
    return SrvrAnswers(monkeypatch, "3.6.0")


def answered_by(*results: Result) -> Callable[[Connection, Received], None]:
    def reply(connection: Connection, request: Received) -> None:
        connection.reply(request.xid, 0, encode_multi_reply(results))

    return reply


@CHROOTS
@simulated
async def test_leaving_the_block_commits(chroot):
    async with ScriptedServer() as server, server.client(chroot) as client:
        await client.ensure_path("/a/b")
        await client.set("/a", b"data")
        server.requests.clear()
        async with client.multi_read() as reads:
            node = reads.get("/a")
            names = reads.children("/a")
            assert server.requests == []
        assert [request.op for request in server.requests] == [Op.MULTI_READ]
        assert isinstance(node.result, Node)
        assert node.result == await client.get("/a")
        assert names.result == ["b"]


@CHROOTS
@simulated
async def test_each_part_has_its_own_end(chroot):
    async with ScriptedServer() as server, server.client(chroot) as client:
        await client.ensure_path("/a")
        reads = client.multi_read()
        missing, found, childless = reads.get("/none"), reads.get("/a"), reads.children("/none/either")
        await reads.commit()
        assert found.result.data == b""
        for part, operation, path in ((missing, "get", "/none"), (childless, "children", "/none/either")):
            for _ in range(2):
                with pytest.raises(NoNodeError) as raised:
                    part.result  # noqa: B018
                assert (raised.value.operation, raised.value.path) == (operation, path)
                assert raised.traceback[-1].name == "result"
                assert len(raised.traceback) == 2


@simulated
async def test_any_error_can_end_a_part():
    async with ScriptedServer() as server, server.client() as client:
        server.next(answered_by(ErrorResult(-102), ErrorResult(-126)))
        reads = client.multi_read()
        forbidden, odd = reads.get("/a"), reads.children("/b")
        await reads.commit()
        with pytest.raises(NoAuthError, match="get '/a'"):
            forbidden.result  # noqa: B018
        with pytest.raises(UnknownServerError, match="children '/b'"):
            odd.result  # noqa: B018


@simulated
async def test_leaving_the_block_with_an_exception_sends_nothing():
    async with ScriptedServer() as server, server.client() as client:
        reads = client.multi_read()
        node = reads.get("/")
        with pytest.raises(ZeroDivisionError):
            async with reads:
                raise ZeroDivisionError
        await client.sync()
        assert [request.op for request in server.requests] == [Op.SYNC]
        with pytest.raises(ClientStateError, match="the multi-read is not committed"):
            node.result  # noqa: B018


@simulated
async def test_without_parts_nothing_is_sent(answers):
    async with ScriptedServer() as server, server.client() as client:
        async with client.multi_read():
            pass
        assert server.requests == []
        assert answers.asked == []


@simulated
async def test_can_be_committed_once():
    async with ScriptedServer() as server, server.client() as client:
        async with client.multi_read() as reads:
            reads.get("/")
            await reads.commit()
        with pytest.raises(ClientStateError, match="committed already"):
            await reads.commit()
        for add in (reads.get, reads.children):
            with pytest.raises(ClientStateError, match="committed already"):
                add("/")
        assert len(server.requests) == 1


@simulated
async def test_what_has_failed_can_be_committed_again():
    async with ScriptedServer() as server, server.client() as client:
        server.next(swallow)
        reads = client.multi_read()
        node = reads.get("/")
        with pytest.raises(CallTimeoutError, match=r"multi_read '/' timed out after 1 s \(sent, no answer\)"):
            await reads.commit(timeout=1)
        with pytest.raises(ClientStateError):
            node.result  # noqa: B018
        names = reads.children("/")
        await reads.commit()
        assert (node.result.data, names.result) == (b"", ["zookeeper"])


@simulated
async def test_is_a_read_and_sent_again_when_the_reply_is_lost():
    async with ScriptedServer() as server, server.client() as client:
        server.next(drop_after)
        async with client.multi_read() as reads:
            node = reads.get("/")
        assert node.result.data == b""
        assert len(server.requests) == 2
        assert client.statistics().requests_repeated == 1


@simulated
async def test_after_the_client_has_closed():
    async with ScriptedServer() as server:
        async with server.client() as client:
            reads = client.multi_read()
            reads.get("/")
        with pytest.raises(ClientClosedError):
            await reads.commit()


@pytest.mark.parametrize(
    "results",
    [
        [],
        [GetDataResult(Node(b"", STAT))],
        [GetDataResult(Node(b"", STAT)), GetChildrenResult([]), GetChildrenResult([])],
        [GetChildrenResult([]), GetChildrenResult([])],
        [GetDataResult(Node(b"", STAT)), GetDataResult(Node(b"", STAT))],
        [GetDataResult(Node(b"", STAT)), CheckResult()],
    ],
    ids=["none", "too few", "too many", "not data", "not children", "not a read"],
)
@simulated
async def test_results_that_do_not_fit_end_the_connection(results):
    async with ScriptedServer() as server, server.client() as client:
        server.next(answered_by(*results), answered_by(*results), answered_by(*results))
        reads = client.multi_read()
        node, names = reads.get("/"), reads.children("/")
        with pytest.raises(RequestKillsConnectionError) as raised:
            await reads.commit()
        assert isinstance(raised.value.reason, ProtocolError)
        for pending in (node, names):
            with pytest.raises(ClientStateError):
                pending.result  # noqa: B018


@simulated
async def test_repr():
    async with ScriptedServer() as server, server.client() as client:
        reads = client.multi_read()
        reads.get("/")
        assert repr(reads) == "<MultiRead of 1 parts, open>"
        await reads.commit()
        assert repr(reads) == "<MultiRead of 1 parts, committed>"
