"""ZooKeeper's own Java shell on the dev server: it lists, creates and watches, and what it prints is what it prints on
a real server of the same version."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import uuid
from typing import TYPE_CHECKING, NamedTuple

import pytest

from everlatch.client import Client
from everlatch.devserver import DevServer
from everlatch.testing import Server, find_build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

pytestmark = pytest.mark.real

LIMIT = 60.0
"""Seconds for a JVM and all that it is told; it takes one or two."""

COMMANDS = (
    *("create {a} hello", "ls -s {a}", "get {a}", "stat {a}", "create {a} again"),
    *(
        "create -e {a}/e- x",
        "create -s {a}/s- x",
        "create -s -e {a}/s- x",
        "create -c {a}/c",
        "create -t 60000 {a}/t x",
    ),
    *("ls -R {a}", "set -s {a} bye", "set -v 0 {a} bye", "get -s {a}", "getAllChildrenNumber {a}", "getEphemerals {a}"),
    *(
        "addauth digest bob:secret",
        "whoami",
        "create {a}/mine x",
        "setAcl -s {a}/mine auth:bob:cdrwa",
        "getAcl {a}/mine",
    ),
    *("create {a}/nobodys x world:anyone:r", "set {a}/nobodys y", "delete {a}/missing", "delete {a}", "sync {a}"),
    *(
        "get -w {a}",
        "ls -w {a}",
        "stat -w {a}/not-yet",
        "removewatches {a}/not-yet",
        "addWatch -m PERSISTENT {a}/s-0000000001",
    ),
    *("set {a} watched", "delete {a}/t", "set {a}/s-0000000001 y", "delete -v 1 {a}/s-0000000001", "ls {a}"),
    *("config", "deleteall {a}", "ls {a}", "version"),
)
"""Nearly all that the shell knows, below a node `{a}`."""

NUMBERS = {
    "[cmp]Zxid = 0x[0-9a-f]+": "Zxid = …",
    "[cm]time = .*": "time = …",
    "ephemeralOwner = 0x[0-9a-f]{2,}": "ephemeralOwner = …",
    "zxid: [1-9][0-9]*": "zxid: …",
    "127.0.0.1:[0-9]+": "…",
    "built on .*": "…",
    r"^(ip: 127\.0\.0\.1|digest: bob)$": "an identity",
    r"^\[(/a/\S+), (/a/\S+)\]$": "[two paths]",
}
"""What differs from server to server; ephemeral nodes and identities come in the order of Java's hash
tables."""

TALK = re.compile(
    r"\[[^\s\[\]]+\] (?:INFO|WARN|ERROR|DEBUG) .*\n|\d\d:\d\d:\d\d\S* \[.*\n"
    r"|(?:Caused by: )?(?:(?:java|javax|org)\.[\w.$]+|[A-Z]\w+)(?:Exception|Error)(?::.*)?\n"
    r"|\tat .*\n|\t\.\.\. \d+ more\n"
)
"""The log, with its stack traces."""

EVENT = re.compile(r"\nWATCHER::\n|\n(?P<event>WatchedEvent .*)\n")
"""Each is printed at once, with a newline of its own in front."""


class Heard(NamedTuple):
    """What a shell has printed, without what differs from server to server. Apart, for events and the log have threads
    of their own, which may print anywhere in an answer: a list of children is printed in pieces."""

    answers: list[str]
    events: list[str]


class Shell:
    """One shell that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said = ""

    def tell(self, commands: Sequence[str]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{command}\n" for command in commands).encode())

    async def until(self, *patterns: str) -> None:
        """Returns when everything has been said; fails if the shell ends before."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT):
            while not all(re.search(pattern, self.said) for pattern in patterns):
                line = await self._process.stdout.readline()
                assert line, f"the shell ended after: {self.said}"
                self.said += line.decode()

    async def quit(self) -> None:
        self.tell(["quit"])
        async with asyncio.timeout(LIMIT):
            rest, _ = await self._process.communicate()
        self.said += rest.decode()
        assert self._process.returncode == 0, self.said


def told_apart(said: str) -> Heard:
    """What is in `said`."""
    without_log = TALK.sub("", said)
    events = "\n".join(match["event"] for match in EVENT.finditer(without_log) if match["event"])
    return Heard(_lines(EVENT.sub("", without_log)), _lines(events))


def _lines(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line]
    for pattern, placeholder in NUMBERS.items():
        lines = [re.sub(pattern, placeholder, line) for line in lines]
    return lines


def class_path(version: str) -> str:
    # The shell reads its arguments with commons-cli, which a server alone doesn't need: 3.8 always comes with it.
    return os.pathsep.join([find_build(version).classpath, find_build("3.8").classpath])


@contextlib.asynccontextmanager
async def shell(version: str, address: str) -> AsyncIterator[Shell]:
    process = await asyncio.create_subprocess_exec(
        *(find_build(version).java, "-XX:TieredStopAtLevel=1", "-cp", class_path(version)),
        *("org.apache.zookeeper.ZooKeeperMain", "-server", address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # Errors and what was created are told there, in 3.8.
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Shell(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def heard(version: str, address: str) -> Heard:
    """What the shell says to all commands, below a node of its own, which is `/a` in what is returned."""
    node = f"/shell-{uuid.uuid4().hex}"
    async with shell(version, address) as it:
        it.tell([command.format(a=node) for command in COMMANDS])
        await it.until("CLI version", rf"NodeDeleted path:{node}\b")
        await it.quit()
    return told_apart(it.said.replace(node, "/a"))


@pytest.fixture(params=["3.8", "3.9"])
def version(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


EVENTS_OF_ONE_CHANGE = (
    "\nWATCHER::\n",
    "\nWatchedEvent state:SyncConnected type:NodeDeleted path:/a/t zxid: 20\n",
)
LOGGED = (
    "[main-SendThread(127.0.0.1:2181)] WARN org.apache.zookeeper.ClientCnxn - Session 0x1 for server …, closing\n",
    "EndOfStreamException: Unable to read additional data from server sessionid 0x1\n",
    "\tat java.base/sun.nio.ch.SocketDispatcher.read0(Native Method)\n",
    "Caused by: java.io.IOException: Broken pipe\n",
    "\t... 8 more\n",
)


def shuffled(first: Sequence[str], second: Sequence[str]) -> Iterator[str]:
    """Every text that two threads can make of what they print, each in its order."""
    if not first or not second:
        yield "".join([*first, *second])
        return
    yield from (first[0] + rest for rest in shuffled(first[1:], second))
    yield from (second[0] + rest for rest in shuffled(first, second[1:]))


@pytest.mark.parametrize("other", [EVENTS_OF_ONE_CHANGE, LOGGED, (*LOGGED[:1], *EVENTS_OF_ONE_CHANGE)])
def test_an_answer_is_whole_wherever_other_threads_print(other: Sequence[str]) -> None:
    answer = ["Created /a\n", "[", "c", ", ", "e-", "]\n", "Node does not exist: /a\n"]
    apart = Heard(
        ["Created /a", "[c, e-]", "Node does not exist: /a"],
        ["WatchedEvent state:SyncConnected type:NodeDeleted path:/a/t zxid: …"] * (EVENTS_OF_ONE_CHANGE[1] in other),
    )
    for said in shuffled(answer, other):
        assert told_apart(said) == apart, said


async def test_the_shell_lists_and_creates(version: str) -> None:
    async with DevServer(version=version) as server, Client(server.address) as client:
        async with shell(version, server.address) as it:
            it.tell(["create /a hello", "create -e /a/e x", "ls -R /", "get /a", "version"])
            await it.until("CLI version")
            assert sorted(await client.children("/")) == ["a", "zookeeper"]
            assert (await client.get("/a")).data == b"hello"
            assert await client.children("/a") == ["e"]
            await it.quit()
        for line in ("Created /a", "Created /a/e", "/a/e", "/zookeeper/config", "hello"):
            assert re.search(f"^.*{line}$", it.said, re.MULTILINE), it.said
        assert f"CLI version: {version}." in it.said
        assert await client.children("/a") == []


async def test_the_shell_can_not_tell_it_from_a_real_server(standalone: Server, zookeeper_version: str) -> None:
    async with DevServer(version=zookeeper_version) as server:
        seen = await heard(zookeeper_version, server.address)
    real = await heard(zookeeper_version, standalone.address)
    assert seen.answers == real.answers
    assert seen.events == real.events
    assert "Created /a/s-0000000001" in seen.answers
    assert any("NodeDataChanged" in line and "path:/a/s-0000000001" in line for line in seen.events)
