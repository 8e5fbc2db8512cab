"""Where servers come from when they change at run time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from engine.links import closed_port
from everlatch import (
    Client,
    DnsServers,
    InvalidArgumentError,
    InvalidConnectStringError,
    InvalidTypeError,
    ServerSource,
    StartError,
    State,
)
from everlatch.paths import Endpoint
from everlatch.server_sources import source_endpoints
from scripted_server import ScriptedServer, Znodes
from skipping_loop import simulated, this_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Listed:
    """A source that a test changes."""

    def __init__(self, *servers: Any) -> None:
        self.listed: Any = list(servers)
        self.followers: list[Callable[[], None]] = []

    def servers(self) -> Iterable[tuple[str, int]]:
        if isinstance(self.listed, Exception):
            raise self.listed
        return self.listed  # type: ignore[no-any-return]

    def on_change(self, changed: Callable[[], None]) -> Callable[[], None]:
        self.followers.append(changed)
        return lambda: self.followers.remove(changed)

    def change(self, *servers: Any) -> None:
        self.listed = list(servers)
        for changed in self.followers:
            changed()


def at(server: ScriptedServer) -> tuple[str, int]:
    return ("127.0.0.1", server.port)


# --- what a source may have ---------------------------------------------------------------------------------------


def test_endpoints_are_those_of_the_source_each_once() -> None:
    source = Listed(("zk1", 2181), ("10.0.0.1", 2182), ("::1", 2181), ("zk1", 2181))
    assert isinstance(source, ServerSource)
    assert source_endpoints(source) == (Endpoint("zk1", 2181), Endpoint("10.0.0.1", 2182), Endpoint("::1", 2181))


@pytest.mark.parametrize(
    ("servers", "error"),
    [
        ([], InvalidConnectStringError),
        (["zk1:2181"], InvalidTypeError),
        ([("zk1",)], InvalidTypeError),
        ([("zk1", 2181, "/app")], InvalidTypeError),
        ([["zk1", 2181]], InvalidTypeError),
        ([(b"zk1", 2181)], InvalidTypeError),
        ([("zk1", "2181")], InvalidTypeError),
        ([("zk1", True)], InvalidTypeError),
        ([("zk1", 0)], InvalidConnectStringError),
        ([("zk1", 65536)], InvalidConnectStringError),
        ([("", 2181)], InvalidConnectStringError),
        ([("zk1/app", 2181)], InvalidConnectStringError),
        ([("zk1,zk2", 2181)], InvalidConnectStringError),
        ([("zk1:2181", 2181)], InvalidConnectStringError),
        ([("zk1", 2181), ("zk 2", 2181)], InvalidConnectStringError),
        (None, InvalidTypeError),
        (5, InvalidTypeError),
    ],
)
def test_what_a_source_can_not_have(servers: Any, error: type[Exception]) -> None:
    source = Listed()
    source.listed = servers
    with pytest.raises(error):
        source_endpoints(source)
    with pytest.raises(error):
        Client(source)


def test_a_source_that_fails_makes_no_client() -> None:
    source = Listed()
    source.listed = ZeroDivisionError("a bug of the application")
    with pytest.raises(ZeroDivisionError):
        Client(source)


# --- a client that follows one ------------------------------------------------------------------------------------


@simulated
async def test_a_client_follows_its_source_from_the_start_to_the_end(caplog):
    znodes = Znodes()
    async with ScriptedServer(znodes) as first, ScriptedServer(znodes) as second:
        source = Listed(at(first))
        client = Client(source)
        assert source.followers == []
        async with client:
            assert client.statistics().server == first.address
            source.change(at(second))
            assert await client.exists("/a") is None
            assert client.statistics().server == second.address
        assert source.followers == []
        source.change(at(first))
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


@simulated
async def test_what_has_changed_before_the_start_counts():
    async with ScriptedServer() as server:
        source = Listed(("127.0.0.1", closed_port()))
        client = Client(source)
        source.change(at(server))
        async with client:
            assert client.statistics().server == server.address


@pytest.mark.parametrize("wrong", [[], None, [("zk1", "2181")], ZeroDivisionError("a bug of the application")])
@simulated
async def test_a_source_that_is_wrong_for_a_while_changes_nothing(wrong, caplog):
    znodes = Znodes()
    async with ScriptedServer(znodes) as first, ScriptedServer(znodes) as second:
        source = Listed(at(first))
        async with Client(source) as client:
            (changed,) = source.followers
            source.listed = wrong
            changed()
            assert "the servers stay as they are" in caplog.text
            assert client.state is State.CONNECTED
            assert client.statistics().server == first.address
            source.change(at(second))
            await client.exists("/a")
            assert client.statistics().server == second.address


@simulated
async def test_a_client_that_can_not_start_follows_no_longer():
    source = Listed(("127.0.0.1", closed_port()))
    with pytest.raises(StartError):
        await Client(source).start()
    assert source.followers == []


# --- DNS ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("",), InvalidConnectStringError),
        (("zk1,zk2",), InvalidConnectStringError),
        (("zk/app",), InvalidConnectStringError),
        (("zk:2181",), InvalidConnectStringError),
        (("zk 1",), InvalidConnectStringError),
        ((b"zk",), InvalidTypeError),
        ((None,), InvalidTypeError),
        (("zk", "2181"), InvalidTypeError),
        (("zk", 0), InvalidConnectStringError),
    ],
)
def test_names_that_can_not_be_read(arguments, error):
    with pytest.raises(error):
        DnsServers(*arguments)


@pytest.mark.parametrize("interval", [0, -1, float("nan"), "30", None])
def test_intervals_that_can_not_be(interval):
    with pytest.raises(InvalidArgumentError):
        DnsServers("zk", interval=interval)


def test_before_it_was_read_the_name_stands_for_its_addresses():
    source = DnsServers("zk.example", 2182)
    assert list(source.servers()) == [("zk.example", 2182)]
    assert repr(source) == "<DnsServers zk.example:2182, 0 addresses>"
    assert isinstance(source, ServerSource)


class Name:
    """A name whose addresses a test changes; counts how often it was looked up."""

    def __init__(self, *ips: str) -> None:
        self.ips: list[str] | Exception = list(ips)
        self.asked = 0
        this_loop().names["zk.example"] = self._resolve

    async def _resolve(self) -> list[str]:
        self.asked += 1
        if isinstance(self.ips, Exception):
            raise self.ips
        return self.ips


@simulated
async def test_the_name_is_read_at_once_and_then_every_interval():
    name, told = Name("10.0.0.2", "10.0.0.1", "10.0.0.2"), []
    source = DnsServers("zk.example", interval=30)
    remove = source.on_change(lambda: told.append(list(source.servers())))
    await asyncio.sleep(1)
    assert told == [[("10.0.0.1", 2181), ("10.0.0.2", 2181)]]
    await asyncio.sleep(60)
    assert name.asked == 3
    assert len(told) == 1, "the same addresses"
    name.ips = ["10.0.0.3"]
    await asyncio.sleep(30)
    assert told[1:] == [[("10.0.0.3", 2181)]]
    assert repr(source) == "<DnsServers zk.example:2181, 1 addresses>"
    remove()
    remove()
    await asyncio.sleep(100)
    assert name.asked == 4


@pytest.mark.parametrize("failure", [OSError("no such name"), UnicodeError("a label is empty"), None])
@simulated
async def test_a_name_that_fails_to_resolve_changes_nothing(failure, caplog):
    name, told = Name("10.0.0.1"), []
    source = DnsServers("zk.example", interval=30)
    remove = source.on_change(lambda: told.append(1))
    await asyncio.sleep(1)
    name.ips = failure or []
    await asyncio.sleep(60)
    assert (list(source.servers()), len(told)) == ([("10.0.0.1", 2181)], 1)
    assert ("its servers stay as they are" in caplog.text) == (failure is not None)
    name.ips = ["10.0.0.2"]
    await asyncio.sleep(30)
    assert (list(source.servers()), len(told)) == ([("10.0.0.2", 2181)], 2)
    remove()


@simulated
async def test_it_serves_several_and_stops_with_the_last():
    name, told = Name("10.0.0.1"), []
    source = DnsServers("zk.example", interval=30)
    removes = [source.on_change(lambda who=who: told.append(who)) for who in (1, 2)]
    await asyncio.sleep(1)
    assert told == [1, 2]
    removes[0]()
    name.ips = ["10.0.0.2"]
    await asyncio.sleep(30)
    assert told == [1, 2, 2]
    removes[1]()
    asked = name.asked
    await asyncio.sleep(100)
    assert name.asked == asked
    again = source.on_change(lambda: told.append(3))
    name.ips = ["10.0.0.3"]
    await asyncio.sleep(1)
    assert told[3:] == [3]
    again()


@simulated
async def test_a_client_leaves_a_server_that_its_name_no_longer_has():
    znodes = Znodes()
    async with ScriptedServer(znodes) as server:
        name = Name("127.0.0.1")
        async with Client(DnsServers("zk.example", server.port, interval=30)) as client:
            changes = []
            client.add_listener(changes.append)
            await asyncio.sleep(100)
            assert changes == [], "the name has given way to its address, and nothing else has changed"
            name.ips = ["127.0.0.2"]
            await asyncio.sleep(31)
            assert client.state is not State.CONNECTED
            name.ips = ["127.0.0.2", "127.0.0.1"]
            await client.wait_connected()
