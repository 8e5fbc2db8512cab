"""Administration: what is made of recorded answers, and that no answer, however bad, does harm.

The recorded answers are those of real servers, 3.8.0 and 3.9.5.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import random
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import admin
from everlatch.admin import (
    AdminError,
    AdminTimeoutError,
    AdminUnreachableError,
    AnswerTooLargeError,
    CommandFailedError,
    ConnectionInfo,
    MalformedAnswerError,
    NotServingError,
    NotWhitelistedError,
    ServerStatus,
    SessionDump,
    WatchSummary,
    admin_command,
    conf,
    cons,
    dump,
    envi,
    four_letter,
    isro,
    mntr,
    parse_version,
    ruok,
    srvr,
    stat,
    wchs,
)
from everlatch.errors import EverlatchError, InvalidArgumentError
from everlatch.paths import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

TEXT_3_8 = "3.8.0-${mvngit.commit.id}, built on 2024-12-29 17:54 UTC"
TEXT_3_9 = "3.9.5-293c895a8d966a3ecb92872be4a1daf87d725da2, built on 2026-02-11 20:18 UTC"
NOT_SERVING = "This ZooKeeper instance is not currently serving requests\n"

STANDALONE = (
    f"Zookeeper version: {TEXT_3_8}\nLatency min/avg/max: 1/2.6667/7\nReceived: 14\nSent: 13\nConnections: 2\n"
    "Outstanding: 0\nZxid: 0x4\nMode: standalone\nNode count: 8\n"
)
LEADER = (
    f"Zookeeper version: {TEXT_3_9}\nLatency min/avg/max: 0/0.0/0\nReceived: 2\nSent: 1\nConnections: 1\n"
    "Outstanding: 0\nZxid: 0x100000000\nMode: leader\nNode count: 5\nProposal sizes last/min/max: -1/-1/-1\n"
)
READ_ONLY = (
    f"Zookeeper version: {TEXT_3_8}\nREAD-ONLY mode; serving only read-only clients\nLatency min/avg/max: 0/0.0/0\n"
    "Received: 1\nSent: 0\nConnections: 1\nOutstanding: 0\nZxid: 0x0\nMode: read-only\nNode count: 5\n"
)
STAT = (
    f"Zookeeper version: {TEXT_3_8}\nClients:\n /127.0.0.1:51434[1](queued=0,recved=6,sent=6)\n"
    " /127.0.0.1:51460[0](queued=0,recved=1,sent=0)\n\nLatency min/avg/max: 1/2.6667/7\nReceived: 15\nSent: 14\n"
    "Connections: 2\nOutstanding: 0\nZxid: 0x4\nMode: standalone\nNode count: 8\n"
)
CONS = (
    " /127.0.0.1:51434[1](queued=0,recved=6,sent=6,sid=0x1000039b3b60000,lop=EXIS,est=1795302091005,to=10000,"
    "lcxid=0x5,lzxid=0x4,lresp=3781714,llat=1,minlat=0,avglat=2,maxlat=7)\n"
    " /127.0.0.1:51466[0](queued=0,recved=1,sent=0)\n\n"
)
DUMP = (
    "SessionTracker dump:\nSession Sets (1)/(1):\n1 expire at Sat Nov 21 23:01:41 UTC 2026:\n\t0x1000039b3b60000\n"
    "ephemeral nodes dump:\nSessions with Ephemerals (1):\n0x1000039b3b60000:\n\t/a/e\n\t/a/f\n"
    "Connections dump:\nConnections Sets (1)/(2):\n2 expire at Sat Nov 21 23:01:49 UTC 2026:\n"
    "\tip: /127.0.0.1:51502 sessionId: 0x0\n\tip: /127.0.0.1:51434 sessionId: 0x1000039b3b60000\n"
)
WCHS = "1 connections watching 2 paths\nTotal watches:2\n"
MNTR = (
    f"zk_version\t{TEXT_3_8}\nzk_server_state\tstandalone\nzk_peer_state\tleading - broadcast\n"
    "zk_avg_latency\t6.0E-4\nzk_last_client_response_size\t-1\nzk_connection_drop_probability\t0.0\nzk_uptime\t488\n"
)
CONF = (
    "clientPort=25512\nsecureClientPort=-1\ndataDir=/data/a=b/version-2\nserverId=1\npeerType=0\nmembership: \n"
    "server.1=127.0.0.1:26202:27064:participant;127.0.0.1:25512\nversion=100000000"
)
ENVI = f"Environment:\nzookeeper.version={TEXT_3_8}\njava.compiler=<NA>\nos.memory.free=200MB\n"

TYPED: dict[str, tuple[Callable[..., Awaitable[Any]], str]] = {
    "ruok": (ruok, "imok"),
    "isro": (isro, "rw"),
    "srvr": (srvr, STANDALONE),
    "stat": (stat, STAT),
    "cons": (cons, CONS),
    "dump": (dump, DUMP),
    "wchs": (wchs, WCHS),
    "mntr": (mntr, MNTR),
    "conf": (conf, CONF),
    "envi": (envi, ENVI),
}


class Teller:
    """A server that tells `answer` to whoever connects and asks, and notes the question."""

    def __init__(self) -> None:
        self.answer: bytes = b""
        self.endless = False
        self.silent = False
        self.questions: list[bytes] = []
        self.asked = asyncio.Event()
        self.ended = asyncio.Event()
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.questions.append(await self._question(reader))
            self.asked.set()
            writer.write(self.answer)
            await writer.drain()
            while self.endless:
                writer.write(self.answer)
                await writer.drain()
            if self.silent:
                await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()
            self.ended.set()

    async def _question(self, reader: asyncio.StreamReader) -> bytes:
        start = await reader.readexactly(4)
        return start + await reader.readuntil(b"\r\n\r\n") if start == b"GET " else start

    def tell(self, text: str) -> str:
        self.answer = text.encode()
        return self.address

    def tell_http(self, body: str, *, status: str = "200 OK") -> str:
        return self.tell(f"HTTP/1.1 {status}\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}")


@pytest.fixture
async def teller() -> AsyncIterator[Teller]:
    teller = Teller()
    server = await asyncio.start_server(teller.serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        teller.address = f"{host}:{port}"
        yield teller


def url(teller: Teller) -> str:
    return f"http://{teller.address}/commands"


# --- recorded answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (TEXT_3_8, (3, 8, 0)),
        (TEXT_3_9, (3, 9, 5)),
        ("3.10-SNAPSHOT", (3, 10)),
        ("${project.version}", ()),
        ("", ()),
        ("9" * 5000, (999_999_999,)),
    ],
)
def test_versions_are_numbers_to_compare_and_the_whole_text(text: str, numbers: tuple[int, ...]) -> None:
    version = parse_version(text)
    assert version.numbers == numbers
    assert str(version) == version.text == text


async def test_srvr(teller: Teller) -> None:
    assert await srvr(teller.tell(STANDALONE)) == ServerStatus(
        version=parse_version(TEXT_3_8),
        latency_min=1,
        latency_avg=2.6667,
        latency_max=7,
        received=14,
        sent=13,
        connections=2,
        outstanding=0,
        zxid=4,
        mode="standalone",
        node_count=8,
    )
    assert teller.questions == [b"srvr"]


async def test_srvr_of_a_leader_and_of_a_read_only_server_tell_more(teller: Teller) -> None:
    leader = await srvr(teller.tell(LEADER))
    assert (leader.mode, leader.zxid, leader.version.numbers) == ("leader", 1 << 32, (3, 9, 5))
    assert (await srvr(teller.tell(READ_ONLY))).mode == "read-only"


async def test_lines_may_end_the_windows_way(teller: Teller) -> None:
    status = await srvr(teller.tell(STANDALONE.replace("\n", "\r\n")))
    assert (status.mode, status.node_count) == ("standalone", 8)
    assert len(await cons(teller.tell(CONS.replace("\n", "\r\n")))) == 2


async def test_cons(teller: Teller) -> None:
    client, asker = await cons(teller.tell(CONS))
    assert client == ConnectionInfo(
        address="127.0.0.1:51434",
        queued=0,
        received=6,
        sent=6,
        session_id=0x1000039B3B60000,
        last_operation="EXIS",
        established=1795302091005,
        timeout=10000,
        last_cxid=5,
        last_zxid=4,
        last_response=3781714,
        last_latency=1,
        latency_min=0,
        latency_avg=2,
        latency_max=7,
    )
    assert asker == ConnectionInfo("127.0.0.1:51466", queued=0, received=1, sent=0)


async def test_hexadecimal_numbers_are_signed(teller: Teller) -> None:
    line = " /[0:0:0:0:0:0:0:1]:40[1](queued=0,recved=2,sent=2,sid=0xff00000000000001,lzxid=0xffffffffffffffff)\n\n"
    (connection,) = await cons(teller.tell(line))
    assert connection.session_id == 0xFF00000000000001 - 2**64
    assert connection.last_zxid == -1
    assert connection.address == "[0:0:0:0:0:0:0:1]:40"


async def test_a_server_without_connections_has_none(teller: Teller) -> None:
    assert await cons(teller.tell("\n")) == []


async def test_stat_tells_the_connections_briefly(teller: Teller) -> None:
    assert await stat(teller.tell(STAT)) == [
        ConnectionInfo("127.0.0.1:51434", queued=0, received=6, sent=6),
        ConnectionInfo("127.0.0.1:51460", queued=0, received=1, sent=0),
    ]
    assert await stat(teller.tell("x\nClients:\n\nLatency min/avg/max: 1/2.6667/7\n")) == []


async def test_dump(teller: Teller) -> None:
    session = 0x1000039B3B60000
    assert await dump(teller.tell(DUMP)) == SessionDump([session], {session: ["/a/e", "/a/f"]})


async def test_dump_of_a_member_of_an_ensemble(teller: Teller) -> None:
    answer = (
        "SessionTracker dump:\nLocal Session Sets (0)/(0):\nGlobal Sessions(1):\n0xff00000000000001\t10000ms\n"
        "ephemeral nodes dump:\nSessions with Ephemerals (0):\nConnections dump:\nConnections Sets (0)/(0):\n"
    )
    assert await dump(teller.tell(answer)) == SessionDump([0xFF00000000000001 - 2**64], {})


async def test_a_path_that_reads_like_a_heading_is_a_path(teller: Teller) -> None:
    answer = DUMP.replace("\t/a/e\n", "\t/Connections dump:\n")
    assert (await dump(teller.tell(answer))).ephemerals == {0x1000039B3B60000: ["/Connections dump:", "/a/f"]}


async def test_wchs(teller: Teller) -> None:
    assert await wchs(teller.tell(WCHS)) == WatchSummary(connections=1, paths=2, watches=2)


async def test_mntr_has_numbers_where_there_are_numbers(teller: Teller) -> None:
    metrics = await mntr(teller.tell(MNTR + "zk_long\t" + "9" * 5000 + "\n"))
    assert metrics == {
        "zk_version": TEXT_3_8,
        "zk_server_state": "standalone",
        "zk_peer_state": "leading - broadcast",
        "zk_avg_latency": 0.0006,
        "zk_last_client_response_size": -1,
        "zk_connection_drop_probability": 0.0,
        "zk_uptime": 488,
        "zk_long": "9" * 5000,
    }
    assert isinstance(metrics["zk_uptime"], int)
    assert isinstance(metrics["zk_connection_drop_probability"], float)


async def test_conf_and_envi_are_settings_by_name(teller: Teller) -> None:
    assert await conf(teller.tell(CONF)) == {
        "clientPort": "25512",
        "secureClientPort": "-1",
        "dataDir": "/data/a=b/version-2",
        "serverId": "1",
        "peerType": "0",
        "server.1": "127.0.0.1:26202:27064:participant;127.0.0.1:25512",
        "version": "100000000",
    }
    assert await envi(teller.tell(ENVI)) == {
        "zookeeper.version": TEXT_3_8,
        "java.compiler": "<NA>",
        "os.memory.free": "200MB",
    }


async def test_ruok_is_about_the_process(teller: Teller) -> None:
    assert await ruok(teller.tell("imok")) is True
    assert await ruok(teller.tell("")) is False
    with pytest.raises(MalformedAnswerError):
        await ruok(teller.tell("i'm fine"))


async def test_isro(teller: Teller) -> None:
    assert await isro(teller.tell("rw")) is False
    assert await isro(teller.tell("ro")) is True
    with pytest.raises(NotServingError):
        await isro(teller.tell("null"))


async def test_any_word_can_be_asked_as_text_and_a_server_be_an_endpoint(teller: Teller) -> None:
    host, _, port = teller.tell("306").partition(":")
    assert await four_letter(Endpoint(host, int(port)), "gtmk") == "306"
    assert teller.questions == [b"gtmk"]


# --- answers that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [*TYPED])
async def test_a_word_that_is_not_whitelisted(teller: Teller, word: str) -> None:
    teller.tell(f"{word} is not executed because it is not in the whitelist.\n")
    with pytest.raises(NotWhitelistedError, match=r"4lw\.commands\.whitelist") as caught:
        await TYPED[word][0](teller.address)
    assert (caught.value.server, caught.value.command) == (teller.address, word)


@pytest.mark.parametrize("word", sorted(TYPED.keys() - {"ruok", "isro"}))
async def test_a_server_that_does_not_serve(teller: Teller, word: str) -> None:
    with pytest.raises(NotServingError) as caught:
        await TYPED[word][0](teller.tell(NOT_SERVING))
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("word", sorted(TYPED.keys() - {"ruok"}))
async def test_no_answer_at_all_says_what_may_be_the_reason(teller: Teller, word: str) -> None:
    with pytest.raises(MalformedAnswerError, match="maxClientCnxns"):
        await TYPED[word][0](teller.tell(""))


@pytest.mark.parametrize("word", ["srvr", "cons", "mntr"])
async def test_an_answer_that_was_cut_short_is_not_taken_for_whole(teller: Teller, word: str) -> None:
    ask, answer = TYPED[word]
    with pytest.raises(MalformedAnswerError, match="cut short"):
        await ask(teller.tell(answer[:-1]))


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("srvr", STANDALONE.replace("Zxid: 0x4", "Zxid: 4")),
        ("srvr", STANDALONE.replace("1/2.6667/7", "1/7")),
        ("srvr", STANDALONE.replace("1/2.6667/7", "1/x/7")),
        ("srvr", STANDALONE.replace("Sent: 13", "Sent: " + "1" * 5000)),
        ("srvr", STANDALONE.replace("Mode: standalone\n", "")),
        ("cons", CONS.replace("sid=0x1000039b3b60000", "sid=0x" + "f" * 17)),
        ("cons", CONS.replace("recved=6,", "")),
        ("cons", "hello\n\n"),
        ("stat", STANDALONE),
        ("dump", DUMP.replace("Connections dump:\n", "")),
        ("dump", DUMP.replace("0x1000039b3b60000:\n", "")),
        ("dump", DUMP.replace("\t0x1000039b3b60000", "\t0xyz")),
        ("mntr", "HTTP/1.1 400 Bad Request\n"),
        ("mntr", "\n"),
        ("conf", "nothing\n"),
        ("wchs", "1 connections\n"),
        ("isro", "maybe"),
    ],
)
async def test_an_unreadable_answer_is_an_error_with_its_beginning(teller: Teller, word: str, answer: str) -> None:
    with pytest.raises(MalformedAnswerError) as caught:
        await TYPED[word][0](teller.tell(answer))
    assert caught.value.answer == answer[:200]
    assert caught.value.command == word


async def test_whatever_is_answered_a_call_returns_or_raises_an_admin_error(teller: Teller) -> None:
    dice = random.Random(4)
    refused = 0
    for _ in range(60):
        for ask, answer in TYPED.values():
            teller.answer = _spoilt(answer.encode(), dice)
            try:
                await ask(teller.address)
            except AdminError:
                refused += 1
    assert refused > 100


def _spoilt(answer: bytes, dice: random.Random) -> bytes:
    start, end = sorted(dice.choices(range(len(answer) + 1), k=2))
    middle = dice.choice([b"", dice.randbytes(8), b"9" * 5000, b"\x00\xff\n\t", b"0x", answer[start:end] * 3])
    return answer[:start] + middle + answer[end:]


# --- limits -------------------------------------------------------------------------------------------------------


async def test_an_endless_answer_is_cut_off_at_a_mebibyte(teller: Teller) -> None:
    teller.endless = True
    with pytest.raises(AnswerTooLargeError, match="1048576") as caught:
        await mntr(teller.tell("zk_a\t1\n" * 10_000), timeout=30)
    assert caught.value.limit == 1 << 20
    await asyncio.wait_for(teller.ended.wait(), 5)


async def test_listings_may_be_much_larger(teller: Teller) -> None:
    line, _, end = CONS.partition("\n")
    assert end
    connections = await cons(teller.tell(f"{line}\n" * 10_000 + "\n"), timeout=30)
    assert len(connections) == 10_000
    assert len(teller.answer) > 1 << 20


@pytest.mark.parametrize("beginning", ["", "Zookeeper version: "])
async def test_a_server_that_never_ends_its_answer_costs_no_more_than_the_timeout(
    teller: Teller, beginning: str
) -> None:
    teller.silent = True
    with pytest.raises(AdminTimeoutError, match=r"within 0\.05 s") as caught:
        await srvr(teller.tell(beginning), timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    await asyncio.wait_for(teller.ended.wait(), 5)


async def test_a_cancelled_question_closes_its_connection(teller: Teller) -> None:
    teller.silent = True
    question = asyncio.create_task(srvr(teller.address, timeout=60))
    await asyncio.wait_for(teller.asked.wait(), 5)
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await question
    await asyncio.wait_for(teller.ended.wait(), 5)


async def test_a_server_that_is_down_is_unreachable() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    for ask in (srvr(f"127.0.0.1:{port}"), admin_command("127.0.0.1", "ruok", port=port)):
        with pytest.raises(AdminUnreachableError, match="is the server up") as caught:
            await ask
        assert isinstance(caught.value, ConnectionError)
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_a_name_that_can_not_be_looked_up_is_unreachable() -> None:
    with pytest.raises(AdminUnreachableError, match="not a host name"):
        await srvr("a..b:2181")


@pytest.mark.parametrize("server", ["", "a:1,b:2", "a:1/chroot", "a:0", "a:b"])
async def test_one_server_is_asked(server: str) -> None:
    with pytest.raises(InvalidArgumentError):
        await srvr(server)


async def test_a_word_that_has_not_four_letters_is_refused_before_anything_is_dialled() -> None:
    with pytest.raises(InvalidArgumentError, match="four letters"):
        await four_letter("127.0.0.1:1", "status")


# --- the AdminServer ----------------------------------------------------------------------------------------------

SUMMARY = (
    '{\n  "num_connections" : 1,\n  "num_paths" : 2,\n  "num_total_watches" : 2,\n'
    '  "command" : "watch_summary",\n  "error" : null\n}'
)
SUMMARY_VALUE = {
    "num_connections": 1,
    "num_paths": 2,
    "num_total_watches": 2,
    "command": "watch_summary",
    "error": None,
}


async def test_a_command_is_asked_for_at_the_host_and_port(teller: Teller) -> None:
    host, _, port = teller.tell_http(SUMMARY).partition(":")
    assert await admin_command(f"{host}:2181", "wchs", port=int(port)) == SUMMARY_VALUE
    (request,) = teller.questions
    assert request.startswith(b"GET /commands/wchs HTTP/1.1\r\n")
    assert f"\r\nHost: {teller.address}\r\n".encode() in request
    assert b"\r\nConnection: close\r\n" in request


@pytest.mark.parametrize(("path", "asked"), [("", b"/commands"), ("/", b""), ("/zk/commands/", b"/zk/commands")])
async def test_a_command_is_asked_for_at_a_url(teller: Teller, path: str, asked: bytes) -> None:
    teller.tell_http(SUMMARY)
    assert await admin_command(f"http://{teller.address}{path}", "wchs") == SUMMARY_VALUE
    assert teller.questions[0].split()[1] == asked + b"/wchs"


async def test_an_answer_in_chunks(teller: Teller) -> None:
    body = "".join(f"{len(piece):X};last=no\r\n{piece}\r\n" for piece in (SUMMARY[:10], SUMMARY[10:]))
    teller.tell(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n{body}0\r\n\r\n")
    assert await admin_command(url(teller), "wchs") == SUMMARY_VALUE


async def test_an_answer_that_ends_with_the_connection(teller: Teller) -> None:
    teller.tell(f"HTTP/1.0 200\r\n\r\n{SUMMARY}")
    assert await admin_command(url(teller), "wchs") == SUMMARY_VALUE


async def test_an_answer_ends_with_its_length_even_if_the_connection_does_not(teller: Teller) -> None:
    teller.silent = True
    teller.tell_http(SUMMARY)
    assert await admin_command(url(teller), "wchs") == SUMMARY_VALUE


async def test_an_error_with_status_200_is_an_error(teller: Teller) -> None:
    teller.tell_http('{\n  "command" : "nope",\n  "error" : "Unknown command: nope"\n}')
    with pytest.raises(CommandFailedError, match="Unknown command: nope") as caught:
        await admin_command(url(teller), "nope")
    assert caught.value.status == 200


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        ("401 Unauthorized", '{"command": "snapshot", "error": "Auth info is missing"}', "Auth info is missing"),
        ("404 Not Found", "<html>no</html>", "no such page"),
        ("500 Server Error", '{"error": null}', "None"),
    ],
)
async def test_an_error_status_is_an_error(teller: Teller, status: str, body: str, reason: str) -> None:
    teller.tell_http(body, status=status)
    with pytest.raises(CommandFailedError, match=reason) as caught:
        await admin_command(url(teller), "snapshot")
    assert caught.value.status == int(status[:3])


async def test_an_admin_server_of_a_server_that_does_not_serve(teller: Teller) -> None:
    teller.tell_http(json.dumps({"command": "dump", "error": NOT_SERVING.strip()}))
    with pytest.raises(NotServingError):
        await admin_command(url(teller), "dump")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "imok",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/2 200 OK\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: " + "9" * 5000 + "\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + SUMMARY[:50],
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}}}0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        "HTTP/1.1 200 OK\r\nX: " + "y" * 200_000 + "\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n[]",
        "HTTP/1.1 200 OK\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\n\r\n" + "[" * 100_000,
        'HTTP/1.1 200 OK\r\n\r\n{"error": ' + "9" * 5000 + "}",
        "HTTP/1.1 200 OK\r\n\r\n<a href='/commands/ruok'>ruok</a>",
    ],
)
async def test_an_answer_that_is_not_an_admin_servers(teller: Teller, answer: str) -> None:
    with pytest.raises(MalformedAnswerError):
        await admin_command("http://" + teller.tell(answer), "ruok")


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 1048577\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n100001\r\n",
        "\r\n" + "x" * (1 << 20),
    ],
)
async def test_an_answer_that_is_too_large_is_not_read(teller: Teller, head: str) -> None:
    teller.silent = True
    with pytest.raises(AnswerTooLargeError):
        await admin_command("http://" + teller.tell(f"HTTP/1.1 200 OK\r\n{head}y"), "ruok", timeout=30)


async def test_an_admin_server_that_never_ends_its_answer_costs_no_more_than_the_timeout(teller: Teller) -> None:
    teller.silent = True
    teller.tell("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{")
    with pytest.raises(AdminTimeoutError):
        await admin_command(url(teller), "ruok", timeout=0.05)


async def test_whatever_an_admin_server_answers_a_call_returns_or_raises_an_admin_error(teller: Teller) -> None:
    dice = random.Random(4)
    chunks = f"{len(SUMMARY):x}\r\n{SUMMARY}\r\n0\r\n\r\n"
    answers = [
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(SUMMARY)}\r\n\r\n{SUMMARY}",
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}",
    ]
    refused = 0
    for _ in range(150):
        for answer in answers:
            teller.answer = _spoilt(answer.encode(), dice)
            try:
                await admin_command(url(teller), "wchs")
            except AdminError:
                refused += 1
    assert refused > 50


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a\r\nX: y", "ruök"])
async def test_the_name_of_a_command_can_not_be_anything(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="name of a command"):
        await admin_command("127.0.0.1", name)


@pytest.mark.parametrize(
    "server",
    ["https://a:8080", "http://", "http://a:8080/commands?x=y", "http://u@a/", "http://a:99999", "http://a b/"],
)
async def test_a_url_that_is_none_of_an_admin_server(server: str) -> None:
    with pytest.raises(InvalidArgumentError):
        await admin_command(server, "ruok")


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        NotWhitelistedError("h:1", "cons"),
        NotServingError("h:1", "cons"),
        CommandFailedError("h:1", "nope", "Unknown command", 200),
        MalformedAnswerError("h:1", "cons", "odd", "x" * 500),
        AnswerTooLargeError("h:1", "cons", 10, "x"),
        AdminUnreachableError("h:1", "cons", OSError("no route")),
        AdminTimeoutError("h:1", "cons", 1.5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_say_whom_and_what_was_asked_and_travel(error: AdminError) -> None:
    assert isinstance(error, EverlatchError)
    assert "h:1" in str(error)
    assert repr(error.command) in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)


def test_the_module_lists_what_it_has() -> None:
    defined = {name for name, value in vars(admin).items() if getattr(value, "__module__", "") == admin.__name__}
    assert sorted(name for name in defined if not name.startswith("_")) == sorted(admin.__all__)
