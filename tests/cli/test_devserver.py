"""`everlatch devserver`, as a process."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from pathlib import Path

import pytest

from cli.command import TIMEOUT, devserver, run
from everlatch import Client
from everlatch.admin import srvr
from everlatch.cli.devserver import tls_context
from everlatch.errors import InvalidArgumentError
from everlatch.testing.certificates import Certificates
from everlatch.types import ClientInfo
from everlatch.wire.auth_records import decode_who_am_i_reply
from everlatch.wire.codes import Op
from real.raw import Raw


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


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def test_it_speaks_tls_if_it_is_told_to(certificates: Certificates) -> None:
    server = certificates.server
    files = ["--tls-cert", str(server.cert), "--tls-key", str(server.key), "--tls-ca", str(certificates.ca)]
    with devserver(*files) as (process, (where, _)):
        assert where.startswith("everlatch devserver: ZooKeeper 3.9 protocol over TLS on 127.0.0.1:")
        host, _, port = where.split()[-1].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=certificates.client_context())
        raw = Raw(reader, writer)
        await raw.shake_hands()
        answer = (await raw.request(Op.WHO_AM_I)).body
        assert ClientInfo("x509", certificates.client.subject) in decode_who_am_i_reply(answer, 0, len(answer))
        writer.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 128 + signal.SIGTERM


def test_files_that_make_no_tls(certificates: Certificates) -> None:
    server, locked = certificates.server, certificates.issue("locked", password="secret")
    assert tls_context(None, None, None) is None
    for files, expected in (
        ((None, server.key, None), "go with --tls-cert"),
        ((Path("/nowhere/at/all.pem"), None, None), "no TLS with /nowhere/at/all.pem: No such file"),
        ((server.key, None, None), f"no TLS with {server.key}: "),
        ((locked.cert, locked.key, None), "is encrypted"),
        ((server.keystore, None, server.key), "no TLS with "),
    ):
        with pytest.raises(InvalidArgumentError, match=re.escape(expected)):
            tls_context(*files)


def test_files_that_make_no_tls_are_told_in_one_line(certificates: Certificates) -> None:
    result = run("devserver", "--port", "0", "--tls-cert", str(certificates.server.key))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("everlatch: no TLS with ")
