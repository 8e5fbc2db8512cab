"""The guardian closes the sessions of a process that has died, and of no other."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from everlatch import Client
from everlatch.devserver import DevServer
from guardian.owned import is_alive, owner_of, state_of, until_asleep, until_dead, until_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG = 20.0
"""A session timeout that no test outlives: what is gone before was closed."""
SOON = 5.0
"""Seconds within which something that takes milliseconds has happened on a busy machine, too."""
LEFT_ALONE = 0.3
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


@pytest.mark.parametrize("order", ["spawn", "spawn_with_hook", "spawn_by_os", "multiprocess"])
async def test_children_that_own_nothing(server: DevServer, witness: Client, order: str) -> None:
    """They live on, and are no reason to wait."""
    async with owner_of(server.address, timeout=LONG) as owner:
        (child,) = await owner.tell(order, "spawned")
        try:
            await assert_left_alone(witness)
            await owner.kill()
            await until_gone(witness, timeout=SOON)
            assert is_alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


async def test_a_forked_child_owns_them_too(server: DevServer, witness: Client) -> None:
    async with owner_of(server.address, timeout=LONG) as owner:
        (child,) = await owner.tell("fork", "forked")
        await owner.kill()
        await assert_left_alone(witness)
        os.kill(child, signal.SIGKILL)
        await until_gone(witness, timeout=SOON)


async def test_a_forked_child_that_leaves_takes_nothing_with_it(server: DevServer, witness: Client) -> None:
    """It leaves the client's block, runs what is to be run at its end, and closes its copies of the sockets."""
    async with owner_of(server.address, timeout=LONG, clients=3) as owner:
        await owner.tell("fork_and_leave", "forked")
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
async def test_signals_to_the_guardian(server: DevServer, witness: Client, number: int) -> None:
    async with owner_of(server.address, timeout=LONG) as owner:
        os.kill(owner.guardian, number)
        await until_asleep(owner.guardian)
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


async def test_secrets_are_seen_by_nobody(server: DevServer, witness: Client) -> None:
    async with owner_of(server.address, timeout=LONG, SOME_SECRET="swordfish") as owner:
        for name in ("cmdline", "environ"):
            with open(f"/proc/{owner.guardian}/{name}", "rb") as file:  # noqa: ASYNC230
                told = file.read()
            assert b"swordfish" not in told
            assert b"\0" in told or not told


async def test_what_it_has_inherited(server: DevServer, witness: Client) -> None:
    """Its two pipes, the pidfd, and nothing thrice."""
    async with owner_of(server.address, timeout=LONG) as owner:
        await until_asleep(owner.guardian)
        directory = f"/proc/{owner.guardian}"
        links = [os.readlink(f"{directory}/fd/{name}") for name in os.listdir(f"{directory}/fd")]
        descriptors = sorted(link.partition(":")[0] for link in links)
        assert [kind for kind in descriptors if kind != "/dev/null"] == ["anon_inode", "pipe", "pipe"]
        assert os.readlink(f"{directory}/cwd") == "/"
        assert os.getsid(owner.guardian) == owner.guardian


async def test_how_small_it_is(server: DevServer, witness: Client) -> None:
    async with owner_of(server.address, timeout=LONG, clients=10) as owner:
        await until_asleep(owner.guardian)
        with open(f"/proc/{owner.guardian}/status") as file:  # noqa: ASYNC230
            sizes = {line.split(":")[0]: line.split()[1] for line in file if line.startswith("Vm")}
        assert int(sizes["VmHWM"]) <= 12 * 1024, sizes
