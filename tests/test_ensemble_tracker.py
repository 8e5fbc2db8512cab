"""A client's servers follow the configuration of the ensemble."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import (
    Client,
    ClientStateError,
    EnsembleTracker,
    EventType,
    InvalidArgumentError,
    InvalidTypeError,
    NoAuthError,
    Node,
    Stat,
    State,
    WatchEvent,
)
from everlatch.ensemble_tracker import TlsPortUnknownError, client_addresses, tls_addresses
from everlatch.paths import Endpoint
from everlatch.tls import TlsSettings
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, fail_with, swallow
from skipping_loop import simulated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from everlatch import Watch

CONFIG = "/zookeeper/config"


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("server.1=zk1:2888:3888;2181", "zk1:2181"),
        ("server.1=zk1:2888:3888:participant;2181", "zk1:2181"),
        ("server.1=zk1:2888:3888:observer;0.0.0.0:2181", "zk1:2181"),
        ("server.1=zk1:2888:3888:participant;[::]:2181", "zk1:2181"),
        ("server.1=zk1:2888:3888:participant;[0:0:0:0:0:0:0:0]:2181", "zk1:2181"),
        ("server.1=zk1:2888:3888:participant;outside.example:2182", "outside.example:2182"),
        ("server.12=10.0.0.1:2888:3888:participant;10.0.0.9:2181", "10.0.0.9:2181"),
        ("server.1=[2001:db8::1]:2888:3888:participant;2181", "[2001:db8::1]:2181"),
        ("server.1=[2001:db8::1]:2888:3888:participant;[2001:db8::2]:2181", "[2001:db8::2]:2181"),
        ("server.1=zk1:2888:3888|zk1b:2888:3888:participant;2181", "zk1:2181"),
        ("  server.1=zk1:2888:3888;2181\r", "zk1:2181"),
        ("server.1=zk1:2888:3888:participant;2181;2281", "zk1:2181"),
    ],
)
def test_where_a_server_takes_clients(line: str, address: str) -> None:
    assert [str(found) for found in client_addresses(f"{line}\nversion=100000000")] == [address]


@pytest.mark.parametrize(
    "config",
    [
        "",
        "version=0",
        "server.1=zk1:2888:3888:participant",
        "server.1=zk1:2888:3888:participant;",
        "server.1=zk1:2888:3888:participant;;2281",
        "server.x=zk1:2888:3888;2181",
        "group.1=1:2:3",
        "\0\ufffd;;=",
        "server.1=[::1:2888:3888;0.0.0.0:port",
    ],
)
def test_what_says_nothing_of_clients(config: str) -> None:
    assert client_addresses(config) == []


def test_one_that_can_not_be_right_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    config = "server.1=zk1:1:2;port\nserver.2=zk2:1:2;2181\nserver.3=zk3:1:2;99999\nserver.4=zk2:1:2;2181"
    assert client_addresses(config) == [Endpoint("zk2", 2181)]
    assert caplog.text.count("passed over") == 2


# --- for clients that use TLS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "tls_port", "address"),
    [
        ("server.1=zk1:2888:3888:participant;2181;2282", None, "zk1:2282"),
        ("server.1=zk1:2888:3888:participant;;2282", None, "zk1:2282"),
        ("server.1=zk1:2888:3888:participant;2181;outside.example:2282", 1, "outside.example:2282"),
        ("server.1=zk1:2888:3888:participant;zk1:2181;0.0.0.0:2282", None, "zk1:2282"),
        ("server.1=zk1:2888:3888:participant;2181", None, "zk1:2281"),
        ("server.1=zk1:2888:3888:participant;outside.example:2181", None, "outside.example:2281"),
        ("server.1=zk1:2888:3888:participant;2181", 2283, "zk1:2283"),
    ],
)
def test_where_a_server_takes_clients_that_use_tls(line: str, tls_port: int | None, address: str) -> None:
    known = [Endpoint("zk1", 2281), Endpoint("zk2", 2281)]
    assert [str(found) for found in tls_addresses(f"{line}\nversion=100000000", known, tls_port)] == [address]


def test_servers_of_one_host_whose_ports_are_known_by_nobody() -> None:
    config = "server.1=zk1:1:2;2181\nserver.2=zk1:3:4;2182"
    known = [Endpoint("zk1", 2281), Endpoint("zk1", 2282)]
    with pytest.raises(TlsPortUnknownError, match="zk1"):
        tls_addresses(config, known)
    # The port of each host is known, and that of another isn't.
    known = [Endpoint("zk1", 2281), Endpoint("zk2", 2282)]
    assert tls_addresses("server.1=zk1:1:2;2181\nserver.2=zk2:1:2;2181", known) == known
    with pytest.raises(TlsPortUnknownError, match="zk3"):
        tls_addresses("server.1=zk1:1:2;2181\nserver.3=zk3:1:2;2181", known)


def test_without_clients_nothing_is_said_of_tls() -> None:
    assert tls_addresses("server.1=zk1:1:2:participant\nserver.2=zk2:1:2;\nserver.3=zk3:1:2;;", []) == []


# --- a client that is kept up to date -----------------------------------------------------------------------------


class Configured(Client):
    """A client that reads the configuration that a test sets. (The dev server has no reconfiguration.)"""

    config = ""
    version = 1
    refuses: Exception | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.watches: list[Watch] = []
        self.reads = 0
        self.lists: list[list[str]] = []

    def get_config(self, *, watch: Watch | None = None, timeout: object = None) -> Any:
        return self._read(watch)

    async def _read(self, watch: Watch | None) -> Node:
        await self.exists("/")  # as long as it takes; raises what calls raise
        self.reads += 1
        if self.refuses is not None:
            raise self.refuses
        assert watch is not None
        self.watches.append(watch)
        return Node(self.config.encode(), Stat(0, self.version, 0, 0, -1, 0, 0, 0, 0, 0, 0))

    def reconfigured(self, config: str, version: int) -> None:
        self.config, self.version = config, version
        watches, self.watches = self.watches, []
        for watch in watches:
            watch(WatchEvent(EventType.DATA_CHANGED, CONFIG, 1))

    def update_servers(self, servers: Any) -> None:
        self.lists.append(servers)


@contextlib.asynccontextmanager
async def configured(config: str = "") -> AsyncIterator[Configured]:
    async with ScriptedServer() as server:
        client = Configured(server.address)
        client.config = config
        async with client:
            yield client


async def eventually(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.1)


@simulated
async def test_the_clients_servers_are_those_of_the_configuration():
    async with configured("server.1=zk1:1:2;2181\nversion=1") as client, EnsembleTracker(client):
        await eventually(lambda: client.lists)
        assert client.lists == [["zk1:2181"]]
        client.reconfigured("server.1=zk1:1:2;2181\nserver.2=[::1]:1:2;2182\nversion=2", 2)
        await eventually(lambda: len(client.lists) == 2)
        assert client.lists[1] == ["zk1:2181", "[::1]:2182"]
        assert len(client.watches) == 1
    assert client.reads == 2


@simulated
async def test_a_client_that_uses_tls_keeps_its_port():
    async with configured("server.1=zk1:1:2;2181") as client:
        client._engine.tls = TlsSettings()  # from now on; the scripted server has none
        port = client._engine.session.endpoints[0].port
        async with EnsembleTracker(client):
            await eventually(lambda: client.lists)
        async with EnsembleTracker(client, tls_port=2281):
            await eventually(lambda: len(client.lists) == 2)
        assert client.lists == [[f"zk1:{port}"], ["zk1:2281"]]


@simulated
async def test_a_configuration_of_which_no_port_for_tls_is_known_changes_nothing(caplog):
    async with ScriptedServer() as server, Configured(f"{server.address},127.0.0.1:1", shuffle=False) as client:
        client.config = "server.1=127.0.0.1:1:2;2181"
        client._engine.tls = TlsSettings()
        async with EnsembleTracker(client):
            await eventually(lambda: "the servers stay as they are" in caplog.text)
        assert client.lists == []


@simulated
async def test_the_same_configuration_again_changes_nothing():
    async with configured("server.1=zk1:1:2;2181") as client, EnsembleTracker(client):
        await eventually(lambda: client.reads == 1)
        client.reconfigured(client.config, 1)
        await eventually(lambda: client.reads == 2)
        await asyncio.sleep(1)
        assert len(client.lists) == 1


@simulated
async def test_an_ensemble_that_was_wiped_counts_its_versions_anew():
    async with configured("server.1=zk1:1:2;2181") as client, EnsembleTracker(client):
        client.version = 0x500000001
        await eventually(lambda: client.reads == 1)
        client.reconfigured("server.1=zk9:1:2;2181", 0x100000001)
        await eventually(lambda: len(client.lists) == 2)
        assert client.lists[-1] == ["zk9:2181"]


@simulated
async def test_a_configuration_without_clients_changes_nothing():
    async with configured("server.1=zk1:1:2:participant\nversion=0") as client, EnsembleTracker(client):
        await eventually(lambda: client.reads == 1)
        await asyncio.sleep(100)
        assert client.lists == []
        assert client.reads == 1


@simulated
async def test_servers_that_refuse_to_tell_are_asked_again_later(caplog):
    async with configured("server.1=zk1:1:2;2181") as client:
        client.refuses = NoAuthError("get_config", CONFIG)
        async with EnsembleTracker(client):
            await asyncio.sleep(25)
            assert client.reads == 3
            assert "the ensemble's configuration can't be read" in caplog.text
            client.refuses = None
            await eventually(lambda: client.lists)


@simulated
async def test_what_the_real_operation_says_of_a_server_that_refuses(caplog):
    async with ScriptedServer() as server, server.client() as client:
        server.next(fail_with(NoAuthError.code))
        async with EnsembleTracker(client):
            await eventually(lambda: "the ensemble's configuration can't be read" in caplog.text)
            await asyncio.sleep(11)
            assert server.requests[-1].path == CONFIG
            assert len(server.requests) == 2
            assert client.state is State.CONNECTED


@simulated
async def test_it_ends_with_its_client():
    async with configured("server.1=zk1:1:2;2181") as client:
        tracker = EnsembleTracker(client)
        await tracker.start()
        await eventually(lambda: client.watches)
        await client.close()
        assert tracker._task is not None
        await asyncio.wait_for(asyncio.shield(tracker._task), 1)
        await tracker.close()
        await tracker.close()


@simulated
async def test_one_whose_client_is_closed_while_it_reads():
    async with configured() as client:
        client.refuses = NoAuthError("get_config", CONFIG)
        async with EnsembleTracker(client) as tracker:
            await eventually(lambda: client.reads)
            await client.close()
            assert tracker._task is not None
            await asyncio.wait_for(asyncio.shield(tracker._task), 11)


@simulated
async def test_one_whose_client_is_closed_while_the_answer_is_to_come(caplog):
    async with ScriptedServer() as server, server.client(close_timeout=0) as client:
        server.next(swallow)
        tracker = EnsembleTracker(client)
        await tracker.start()
        await server.wait_for_requests(1)
        await client.close()
        await asyncio.wait_for(asyncio.shield(tracker._task), 1)
        assert "can't be read" not in caplog.text
        await tracker.close()


@simulated
async def test_it_goes_on_through_losses():
    async with ScriptedServer() as server, server.client() as client, EnsembleTracker(client):
        await server.wait_for_requests(1)
        server.connection.reset()
        await server.wait_for_connections(2)
        await client.wait_connected()
        server.connection.notify(EventType.DATA_CHANGED.value, CONFIG)
        await eventually(lambda: server.paths(Op.GET_DATA) == [CONFIG, CONFIG])


@simulated
async def test_closing_while_it_waits_and_before_it_began():
    async with configured("server.1=zk1:1:2;2181") as client:
        await EnsembleTracker(client).close()
        tracker = EnsembleTracker(client)
        await tracker.start()
        await tracker.close()
        client.reconfigured("server.1=zk2:1:2;2181", 2)
        await asyncio.sleep(1)
        assert client.lists == []
        with pytest.raises(ClientStateError):
            await tracker.start()


def test_a_port_for_tls_is_one_and_for_tls():
    with pytest.raises(InvalidArgumentError):
        EnsembleTracker(Client("zk1:2181"), tls_port=2281)
    for port in (0, 65536, -1):
        with pytest.raises(InvalidArgumentError):
            EnsembleTracker(Client("zk1:2281", tls=True), tls_port=port)


def test_it_follows_clients_only():
    with pytest.raises(InvalidTypeError):
        EnsembleTracker("zk1:2181")  # type: ignore[arg-type]
