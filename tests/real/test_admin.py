"""Administration of real servers: four-letter words of every version, and the AdminServer.

The AdminServer needs Jetty. A release of ZooKeeper has it; Debian's packages have it too, but not all of it on the
class path, and the cached build of 3.9 is made without: both are completed with the jars that Debian's
libzookeeper-java depends on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from everlatch import Client
from everlatch.admin import (
    CommandFailedError,
    MalformedAnswerError,
    NotServingError,
    NotWhitelistedError,
    WatchSummary,
    admin_command,
    conf,
    cons,
    dump,
    envi,
    four_letter,
    isro,
    mntr,
    ruok,
    srvr,
    stat,
    wchs,
)
from everlatch.testing import Ensemble, Server, find_build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.real

PATIENCE = 30
DEBIAN_JARS = Path("/usr/share/java")
JETTY = (
    "servlet-api",
    *(f"jetty9-{part}" for part in ("server", "servlet", "http", "io", "util", "util-ajax", "security")),
    *(f"jackson-{part}" for part in ("core", "databind", "annotations")),
)


async def test_srvr_tells_what_is_known_otherwise(standalone: Server, zookeeper_version: str) -> None:
    async with Client(standalone.address) as client:
        created = await client.create("/admin-srvr", b"x")
        before = await srvr(standalone.address)
        await client.delete("/admin-srvr")
        after = await srvr(standalone.address)
    assert before.version.numbers[:2] == tuple(int(part) for part in zookeeper_version.split("."))
    assert before.version.text.startswith(zookeeper_version)
    assert before.mode == "standalone"
    assert before.zxid >= created.stat.czxid
    assert after.zxid > before.zxid
    assert after.node_count > 0
    assert after.received > before.received
    assert after.connections >= 2


async def test_ruok_and_isro(standalone: Server) -> None:
    assert await ruok(standalone.address) is True
    assert await isro(standalone.address) is False


async def test_mntr_agrees_with_srvr(standalone: Server) -> None:
    metrics = await mntr(standalone.address)
    status = await srvr(standalone.address)
    assert metrics["zk_version"] == status.version.text
    assert metrics["zk_server_state"] == status.mode
    assert isinstance(metrics["zk_znode_count"], int)
    assert isinstance(metrics["zk_avg_latency"], float)
    assert len(metrics) > 50


async def test_a_session_is_found_by_its_id_its_watches_and_its_ephemeral_nodes(standalone: Server) -> None:
    async with Client(standalone.address, session_timeout=12) as client:
        await client.create("/admin-ephemeral", b"", ephemeral=True)
        await client.get("/admin-ephemeral", watch=lambda event: None)
        (connection,) = [each for each in await cons(standalone.address) if each.session_id == client.session_id]
        assert connection.timeout == 12_000
        assert connection.last_operation == "GETD"
        assert connection.address.startswith("127.0.0.1:")
        assert connection.address in [each.address for each in await stat(standalone.address)]
        dumped = await dump(standalone.address)
        assert client.session_id in dumped.sessions
        assert dumped.ephemerals[client.session_id] == ["/admin-ephemeral"]
        # At least: sessions of other tests may still be there, or just about to go.
        assert min(await wchs(standalone.address)) >= 1
        session_id = client.session_id
    assert session_id not in (await dump(standalone.address)).ephemerals


async def test_the_connection_that_asks_is_listed_without_a_session(standalone: Server) -> None:
    assert [each for each in await cons(standalone.address) if each.session_id is None]


async def test_conf_and_envi(standalone: Server) -> None:
    settings = await conf(standalone.address)
    assert settings["clientPort"] == str(standalone.port)
    assert settings["tickTime"] == "500"
    assert (await envi(standalone.address))["zookeeper.version"] == (await srvr(standalone.address)).version.text


async def test_a_word_that_nobody_knows_is_answered_with_nothing(standalone: Server) -> None:
    assert await four_letter(standalone.address, "what") == ""


async def test_by_default_a_server_answers_nothing_but_srvr(zookeeper_version: str) -> None:
    async with Ensemble(version=zookeeper_version, config={"4lw.commands.whitelist": "srvr"}) as ensemble:
        (server,) = ensemble.servers
        assert (await srvr(server.address)).mode == "standalone"
        for word in (ruok, isro, mntr, stat, cons, dump, wchs, conf, envi):
            with pytest.raises(NotWhitelistedError):
                await word(server.address)


async def test_an_ensemble_with_and_without_its_quorum(ensemble3: Ensemble) -> None:
    leader, followers = await ensemble3.leader(), await ensemble3.followers()
    async with Client(leader.address) as client:
        await client.create("/admin-member", b"", ephemeral=True)
        await client.sync("/")
        for server in ensemble3.servers:
            dumped = await dump(server.address)
            assert server is not leader or dumped.ephemerals == {client.session_id: ["/admin-member"]}
            assert server is not leader or client.session_id in dumped.sessions
            assert {"server.1", "server.2", "server.3", "version"} <= (await conf(server.address)).keys()
    assert (await srvr(leader.address)).mode == "leader"
    for follower in followers:
        await follower.kill()
    await _until_not_serving(leader)
    assert await ruok(leader.address) is True
    for word in (srvr, isro, mntr, stat, cons, dump, wchs, conf):
        with pytest.raises(NotServingError):
            await word(leader.address)


async def _until_not_serving(server: Server) -> None:
    """In the moment when it stops it closes its connections, without an answer."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                with contextlib.suppress(MalformedAnswerError):
                    await srvr(server.address)
            except NotServingError:
                return
            await asyncio.sleep(0.02)


# --- the AdminServer ----------------------------------------------------------------------------------------------


@pytest.fixture
async def with_admin_server(
    zookeeper_version: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Server, int]]:
    """A server whose AdminServer is on, and the port of that."""
    jars = [DEBIAN_JARS / f"{name}.jar" for name in JETTY]
    classpath = [find_build(zookeeper_version).classpath, *(str(jar) for jar in jars if jar.is_file())]
    variable = f"EVERLATCH_ZOOKEEPER_CLASSPATH_{zookeeper_version.replace('.', '_')}"
    monkeypatch.setenv(variable, os.pathsep.join(classpath))
    port = _free_port()
    config = {"admin.enableServer": "true", "admin.serverAddress": "127.0.0.1", "admin.serverPort": str(port)}
    async with Ensemble(version=zookeeper_version, config=config) as ensemble:
        yield ensemble.servers[0], port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_the_admin_server_tells_the_same(with_admin_server: tuple[Server, int]) -> None:
    server, port = with_admin_server
    url = f"http://127.0.0.1:{port}/commands"
    async with Client(server.address) as client:
        await client.create("/admin-http", b"", ephemeral=True)
        await client.get("/admin-http", watch=lambda event: None)
        status = await srvr(server.address)
        stats = await admin_command(server.address, "server_stats", port=port)
        assert stats["version"] == status.version.text
        assert stats["node_count"] == status.node_count == (await mntr(server.address))["zk_znode_count"]
        assert await wchs(server.address) == WatchSummary(connections=1, paths=1, watches=1)
        assert stats["server_stats"]["server_state"] == status.mode
        assert (await admin_command(url, "isro"))["read_only"] is False
        # Those of the questions before may still be there.
        connections = (await admin_command(url, "connections"))["connections"]
        assert client.session_id in [connection["session_id"] for connection in connections]
        assert (await admin_command(url, "watch_summary"))["num_total_watches"] == 1
        ephemerals = (await admin_command(url, "dump"))["session_id_to_ephemeral_paths"]
        assert ephemerals == {str(client.session_id): ["/admin-http"]}
        assert len(await admin_command(url, "monitor")) > 50


async def test_the_admin_server_refuses_what_it_does_not_know(with_admin_server: tuple[Server, int]) -> None:
    server, port = with_admin_server
    with pytest.raises(CommandFailedError, match="Unknown command: nope") as caught:
        await admin_command(server.address, "nope", port=port)
    assert caught.value.status == 200
    with pytest.raises(CommandFailedError) as caught:
        await admin_command(f"http://127.0.0.1:{port}/elsewhere", "ruok")
    assert caught.value.status == 404
