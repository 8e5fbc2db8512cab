"""Four-letter words: what is made of the answers, and that a silent server can't hold the caller."""

from __future__ import annotations

import asyncio

import pytest

from everlatch.errors import InvalidArgumentError
from everlatch.testing.fourletter import four_letter, parse_mode, parse_session_ids


@pytest.mark.parametrize("mode", ["leader", "follower", "observer", "standalone", "read-only"])
def test_mode_is_read_from_srvr(mode: str) -> None:
    assert parse_mode(f"Zookeeper version: 3.8.0\nZxid: 0x0\nMode: {mode}\nNode count: 5\n") == mode


def test_a_server_that_does_not_serve_has_no_mode() -> None:
    assert parse_mode("This ZooKeeper instance is not currently serving requests\n") is None


def test_sessions_are_read_from_cons_signed_and_without_the_connection_that_asks() -> None:
    cons = (
        " /127.0.0.1:40102[1](queued=0,recved=2,sent=2,sid=0x1000fdee30000,lop=PING,est=1)\n"
        " /127.0.0.1:40104[1](queued=0,recved=2,sent=2,sid=0xff00000000000001,lop=PING,est=1)\n"
        " /127.0.0.1:40106[0](queued=0,recved=1,sent=0)\n"
        " /127.0.0.1:40108[0](queued=0,recved=1,sent=0,sid=0x0)\n"
    )
    assert parse_session_ids(cons) == [0x1000FDEE30000, 0xFF00000000000001 - 2**64]


async def test_a_word_that_has_not_four_letters_is_refused_before_anything_is_dialled() -> None:
    with pytest.raises(InvalidArgumentError, match="four letters"):
        await four_letter("127.0.0.1", 1, "status")


async def test_the_answer_is_read_to_its_end() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readexactly(4)
        writer.write(b"you said ")
        await writer.drain()
        writer.write(asked)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        assert await four_letter(host, port, "ruok") == "you said ruok"


async def test_a_server_that_never_answers_costs_no_more_than_the_timeout() -> None:
    closed = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        finally:
            writer.close()
            closed.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(TimeoutError):
            await four_letter(host, port, "srvr", timeout=0.05)
        await asyncio.wait_for(closed.wait(), 5)
