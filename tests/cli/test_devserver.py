"""`everlatch devserver`, as a process."""

from __future__ import annotations

import signal
import socket

import pytest

from cli.command import TIMEOUT, devserver, run
from everlatch import Client
from everlatch.admin import srvr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_says_where_it_listens_and_what_for_and_a_signal_ends_it(number: signal.Signals) -> None:
    with devserver("--zookeeper-version", "3.8") as (process, (where, warning)):
        assert where.startswith("everlatch devserver: ZooKeeper 3.8 protocol on 127.0.0.1:")
        assert warning.startswith("For development and tests only: ")
        address = where.split()[-1]
        async with Client(address, start_timeout=TIMEOUT) as client:
            await client.create("/a")
        assert (await srvr(address)).version.numbers[:2] == (3, 8)
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 128 + number


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("devserver", "--port", str(port))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"everlatch: can't listen on 127.0.0.1, port {port}: ")


def test_a_version_that_it_cannot_be_is_told_in_one_line() -> None:
    result = run("devserver", "--zookeeper-version", "3.4", "--port", "0")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "'3.4'" in line
