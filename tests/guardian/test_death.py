"""The guardian closes the sessions of a process that has died, and of no other."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from everlatch import Client, DigestMd5
from everlatch.devserver import DevServer
from guardian.owned import (
    environment,
    is_alive,
    owner_of,
    peak_memory,
    shown_of,
    state_of,
    until_asleep,
    until_dead,
    until_gone,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INFANTS = Path(__file__).with_name("infants.py")
THOROUGH = os.environ.get("EVERLATCH_HYPOTHESIS") == "thorough"
LONG = 20.0
"""A session timeout that no test outlives: what is gone before was closed."""
SOON = 5.0
"""Seconds within which something that takes milliseconds has happened on a busy machine, too."""
FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP}
LEFT_ALONE = 0.25
"""Seconds for which nothing may happen."""


@pytest_asyncio.fixture
async def server() -> AsyncIterator[DevServer]:
    async with DevServer(tick=0.2, max_session_timeout=60.0) as server:
        yield server


@pytest_asyncio.fixture
async def witness(server: DevServer) -> AsyncIterator[Client]:
    async with Client(server.address, session_timeout=LONG) as client:
        await client.create("/owned")
        yield client


async def assert_left_alone(witness: Client, nodes: int = 1) -> None:
    with pytest.raises(TimeoutError):
        await until_gone(witness, timeout=LEFT_ALONE)
    assert len(await witness.children("/owned")) == nodes


@pytest.mark.parametrize("clients", [1, 10])
async def test_killed(server: DevServer, witness: Client, clients: int) -> None:
    async with owner_of(server.address, timeout=LONG, clients=clients) as owner:
        assert len(await witness.children("/owned")) == clients
        await owner.kill()
        await until_gone(witness, timeout=SOON)
        await until_dead(owner.guardian, timeout=SOON)


async def test_paused(server: DevServer, witness: Client) -> None:
    """A process that stands still is not dead: its session is left to the servers."""
    timeout = 0.6
    async with owner_of(server.address, timeout=timeout) as owner:
        stopped = time.monotonic()
        os.kill(owner.pid, signal.SIGSTOP)
        gone = await until_gone(witness)
        assert gone - stopped > timeout / 2
        assert not is_busy(owner.guardian)
        os.kill(owner.pid, signal.SIGCONT)
        assert await owner.tell("guardian", "guardian") == [owner.guardian, 0]


def is_busy(pid: int) -> bool:
    return state_of(pid) != "S" or len(os.listdir(f"/proc/{pid}/fd")) > 6


async def test_children_that_own_nothing(server: DevServer, witness: Client) -> None:
    """They live on, and are no reason to wait."""
    async with owner_of(server.address, timeout=LONG) as owner:
        orders = ("spawn", "spawn_with_hook", "spawn_by_os", "multiprocess")
        children = [(await owner.tell(order, "spawned"))[0] for order in orders]
        try:
            await assert_left_alone(witness)
            await owner.kill()
            await until_gone(witness, timeout=SOON)
            assert all(map(is_alive, children))
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)


async def test_a_forked_child_owns_them_too(server: DevServer, witness: Client) -> None:
    async with owner_of(server.address, timeout=LONG) as owner:
        (child,) = await owner.tell("fork", "forked")
        await owner.kill()
        await assert_left_alone(witness)
        os.kill(child, signal.SIGKILL)
        await until_gone(witness, timeout=SOON)


async def test_a_forked_child_that_leaves_takes_nothing_with_it(server: DevServer, witness: Client) -> None:
    """It leaves the blocks of clients and subscriptions, runs what is to be run at its end, and closes its copies of
    the sockets: the connections are its parent's, and go on."""
    async with owner_of(server.address, timeout=LONG, clients=3) as owner:
        before = await owner.tell("connections", "connections")
        assert await owner.tell("fork_and_leave", "forked") == [7]
        assert await owner.tell("connections", "connections") == before
        await assert_left_alone(witness, 3)
        assert await owner.tell("guardian", "guardian") == [owner.guardian, 0]
        await owner.kill()
        await until_gone(witness, timeout=SOON)


async def test_a_daemon(server: DevServer, witness: Client) -> None:
    async with owner_of(server.address, timeout=LONG) as owner:
        (daemon,) = await owner.tell("daemonize", "daemon")
        await until_dead(owner.pid)
        await assert_left_alone(witness)
        os.kill(daemon, signal.SIGKILL)
        await until_gone(witness, timeout=SOON)


async def test_a_daemon_that_native_code_has_forked(server: DevServer, witness: Client) -> None:
    """Nobody has announced it; but it has our pipe."""
    async with owner_of(server.address, timeout=LONG) as owner:
        (daemon,) = await owner.tell("daemonize_by_c", "daemon")
        await until_dead(owner.pid)
        await assert_left_alone(witness)
        assert not is_busy(owner.guardian)
        os.kill(daemon, signal.SIGKILL)
        await until_gone(witness, timeout=SOON)


async def test_another_program_in_its_place(server: DevServer, witness: Client) -> None:
    """The process lives. What it was doesn't, and the guardian ends when that can't have a session any more."""
    timeout = 1.0
    async with owner_of(server.address, timeout=timeout) as owner:
        await owner.tell("replace", "replaced")
        replaced = time.monotonic()
        await until_dead(owner.guardian)
        assert time.monotonic() - replaced >= timeout * 0.9
        assert is_alive(owner.pid)
        gone = await until_gone(witness)
        assert gone - replaced >= timeout / 2


async def test_closed_descriptors(server: DevServer, witness: Client) -> None:
    async with owner_of(server.address, timeout=LONG) as owner:
        await owner.tell("close_descriptors", "closed")
        await assert_left_alone(witness)
        await owner.kill()
        await until_gone(witness, timeout=SOON)


async def test_closed_properly(server: DevServer, witness: Client) -> None:
    async with owner_of(server.address, timeout=LONG, clients=2) as owner:
        assert await owner.tell("close", "closed") == []
        assert not state_of(owner.guardian)
        assert await witness.children("/owned") == []


async def test_signals_to_the_guardian(server: DevServer, witness: Client) -> None:
    async with owner_of(server.address, timeout=LONG) as owner:
        await until_asleep(owner.guardian)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *FAULTS}:
            os.kill(owner.guardian, number)
        await owner.kill()
        await until_gone(witness, timeout=SOON)


async def test_a_guardian_that_was_paused(server: DevServer, witness: Client) -> None:
    async with owner_of(server.address, timeout=LONG) as owner:
        os.kill(owner.guardian, signal.SIGSTOP)
        await owner.kill()
        await assert_left_alone(witness)
        os.kill(owner.guardian, signal.SIGCONT)
        await until_gone(witness, timeout=SOON)


async def test_a_guardian_that_was_killed(server: DevServer, witness: Client) -> None:
    async with owner_of(server.address, timeout=LONG, clients=2) as owner:
        os.kill(owner.guardian, signal.SIGKILL)
        async with asyncio.timeout(SOON):
            while (await owner.tell("guardian", "guardian"))[-1] == 0:
                await asyncio.sleep(0.01)
        assert not state_of(owner.guardian)
        owner.guardian, restarts = await owner.tell("guardian", "guardian")
        assert restarts == 1
        await owner.kill()
        await until_gone(witness, timeout=SOON)


async def test_no_servers_until_the_time_has_passed(server: DevServer) -> None:
    """It tries for as long as the session may live, and no longer."""
    timeout = 1.0
    async with Client(server.address) as client:
        await client.create("/owned")
    async with owner_of(server.address, timeout=timeout) as owner:
        await server.stop()
        killed = await owner.kill()
        await until_dead(owner.guardian)
        assert timeout * 0.9 < time.monotonic() - killed < timeout + SOON


async def test_servers_that_come_back(server: DevServer) -> None:
    port = int(server.address.rpartition(":")[2])
    async with Client(server.address) as client:
        await client.create("/owned")
    async with owner_of(server.address, timeout=LONG) as owner:
        await server.stop()
        await owner.kill()
        await asyncio.sleep(LEFT_ALONE)
        assert is_alive(owner.guardian)
        # A server that doesn't know the session: it is gone, and there is nothing left to do.
        async with DevServer(port):
            await until_dead(owner.guardian, timeout=SOON)


async def test_what_the_guardian_has(server: DevServer, witness: Client) -> None:
    """Little memory; its two pipes and the pidfd; a session of processes of its own; and no secret that is seen."""
    async with owner_of(server.address, timeout=LONG, clients=10, SOME_SECRET="swordfish") as owner:
        await until_asleep(owner.guardian)
        directory = Path(f"/proc/{owner.guardian}")
        assert peak_memory(owner.guardian) <= 12
        links = [os.readlink(link) for link in (directory / "fd").iterdir()]
        kinds = sorted(link.partition(":")[0] for link in links if link != os.devnull)
        assert kinds == ["anon_inode", "pipe", "pipe"]
        assert os.readlink(directory / "cwd") == "/"
        assert os.getsid(owner.guardian) == owner.guardian
        assert b"swordfish" not in shown_of(owner.guardian)


async def test_a_session_that_was_renewed(server: DevServer, witness: Client) -> None:
    """The new one is ended; and nobody touches it while its owner lives."""
    async with owner_of(server.address, timeout=LONG) as owner:
        (old,) = await owner.tell("session", "session")
        server.expire_session(old)
        await until_gone(witness, timeout=SOON)
        while await owner.tell("session", "session") == [old]:  # else the order may meet the dying connection
            pass
        await owner.tell("make", "made")
        await assert_left_alone(witness)
        await owner.kill()
        await until_gone(witness, timeout=SOON)


async def test_killed_at_the_beginning(server: DevServer, witness: Client) -> None:
    """Of the session, and before the guardian's own program has begun: all that was written in it goes with it."""
    chance = random.Random(THOROUGH or 8)
    delays = [chance.uniform(0.002, 0.05) for _ in range(300 if THOROUGH else 40)]
    arguments = (sys.executable, str(INFANTS), server.address, "/owned", *map(str, delays))
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE, env=environment())
    output, _ = await process.communicate()
    made = [int(line.split()[1]) for line in output.splitlines()]
    assert len(made) == len(delays)
    assert min(made) == 0 < max(made)
    await until_gone(witness, timeout=SOON)


USER, PASSWORD = "bob", "tr0ub4dor"


async def test_servers_that_demand_authentication() -> None:
    """By SASL. The password is seen nowhere, and an old digest takes no megabytes."""
    options = {"tick": 0.2, "max_session_timeout": 60.0, "sasl": {USER: PASSWORD}, "require_auth": True}
    async with (
        DevServer(**options) as server,
        Client(server.address, session_timeout=LONG, sasl=DigestMd5(USER, PASSWORD)) as witness,
    ):
        await witness.create("/owned")
        arguments = f"dict(sasl=DigestMd5({USER!r}, {PASSWORD!r}), auth=[('digest', b'a:{PASSWORD}')])"
        async with owner_of(server.address, timeout=LONG, clients=2, OPTIONS=arguments) as owner:
            await until_asleep(owner.guardian)
            assert peak_memory(owner.guardian) <= 12
            assert PASSWORD.encode() not in shown_of(owner.guardian)
            await owner.kill()
            await until_gone(witness, timeout=SOON)


MADE_BEFORE = """
import asyncio, os, sys
from everlatch import Client, State

async def main(client):
    await client.start()
    await client.create("/owned/child", ephemeral=True)
    assert client.guardian_pid
    await client.close()
    assert client.state is State.CLOSED

client = Client(sys.argv[1], session_timeout=20.0, guardian=True)
pid = os.fork()
if pid == 0:
    asyncio.run(main(client))
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


async def test_a_client_that_was_made_before_a_fork_and_started_after_it(server: DevServer, witness: Client) -> None:
    """It is the child's."""
    arguments = (sys.executable, "-c", MADE_BEFORE, server.address)
    process = await asyncio.create_subprocess_exec(*arguments, env=environment())
    assert await process.wait() == 0
    assert await witness.children("/owned") == []
