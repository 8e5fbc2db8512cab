"""The guardian as the process has it that is guarded: there is one, it is replaced, and it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from everlatch import Client, DigestMd5, GuardianUnavailableError, State
from everlatch.devserver import DevEnsemble, DevServer
from everlatch.guardian import child, guardian
from guardian.owned import PATIENCE, environment, is_alive, owner_of, state_of, until_dead, until_gone
from skipping_loop import on_every_loop, simulated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LONG = 20.0


@pytest.fixture(autouse=True)
def of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a guardian that knows of no other test."""
    monkeypatch.setattr(guardian, "_here", None)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[DevServer]:
    async with DevServer(max_session_timeout=60.0) as server:
        yield server


def guarded(server: DevServer, **options: Any) -> Client:
    return Client(server.address, guardian=True, **options)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


def pid_of(client: Client) -> int:
    assert client.guardian_pid is not None
    return client.guardian_pid


def refuse(*_: Any, **__: Any) -> None:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def children_of_this_process() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(pid) for pid in file.read().split()}


def leftovers() -> tuple[set[int], int, int]:
    """Children, zombies included; open descriptors; threads."""
    return children_of_this_process(), len(os.listdir("/proc/self/fd")), threading.active_count()


async def test_without_it_there_is_none(server: DevServer) -> None:
    before = leftovers()
    async with Client(server.address) as client:
        assert client.guardian_pid is None
        assert client.guardian_restarts == 0
        assert leftovers()[0] == before[0]


@on_every_loop
async def test_one_for_all_clients_of_a_loop() -> None:
    async with DevServer() as server:
        before = leftovers()
        async with guarded(server) as first:
            async with guarded(server) as second:
                pid = pid_of(first)
                assert pid == second.guardian_pid
                assert children_of_this_process() - before[0] == {pid}
            assert is_alive(pid)
            assert second.guardian_pid is None
        assert not state_of(pid)
        assert leftovers() == before


@on_every_loop
async def test_one_that_is_killed_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    async with DevServer() as server, guarded(server) as client:
        before = leftovers()
        killed = pid_of(client)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: client.guardian_restarts == 1 and client.guardian_pid)
        assert pid_of(client) != killed
        assert not state_of(killed)
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warnings == [
            f"the guardian (pid {killed}) of 1 client is gone: killed by signal 9",
            f"another guardian (pid {client.guardian_pid}) has taken over, with 1 session",
        ]
        assert leftovers()[1:] == before[1:]


def told_of(client: Client) -> Any:
    """What the guardian knows of a client's session; `None`: nothing."""
    known = guardian.here()._told.values()
    return next((told for told in known if told.session_id == client.session_id), None)


async def test_it_is_told_of_changes(server: DevServer) -> None:
    async with guarded(server, auth=[("digest", b"a:b")]) as client:
        told = told_of(client)
        assert (told.password, told.timeout) == (client.session_password, 10.0)
        assert told.used == ("127.0.0.1", server.port, "127.0.0.1")
        assert len(told.authentication) == 1
        await client.add_auth("digest", b"c:d")
        assert len(told_of(client).authentication) == 2
        client.update_servers([server.address, "127.0.0.1:1"])
        assert {endpoint.port for endpoint in told_of(client).servers} == {server.port, 1}
        old = client.session_id
        server.expire_session(old)
        await until(lambda: client.generation == 2 and client.state is State.CONNECTED)
        assert [known.session_id for known in guardian.here()._told.values()] == [client.session_id] != [old]


async def test_it_is_told_of_another_server() -> None:
    async with DevEnsemble(3) as ensemble, Client(ensemble.address, guardian=True, start_timeout=PATIENCE) as client:
        before = told_of(client).used
        used = next(member for member in ensemble.members if member.address == f"{before[0]}:{before[1]}")
        await used.stop()
        await until(lambda: told_of(client).used not in (None, before))
        assert client.generation == 1


async def test_who_closes_leaves_nothing_to_do(server: DevServer) -> None:
    """Though no server could be told: that is left to them."""
    async with guarded(server) as other:
        async with guarded(server, close_timeout=0.2) as client:
            assert told_of(client)
            await server.stop()
            await until(lambda: client.state is State.SUSPENDED)
        assert told_of(client) is None
        assert told_of(other)
        assert is_alive(pid_of(other))


async def test_one_that_is_stuck_is_replaced(server: DevServer, caplog: pytest.LogCaptureFixture) -> None:
    """When its pipe is full. Nothing waits for it."""
    async with guarded(server) as client:
        stuck = pid_of(client)
        os.kill(stuck, signal.SIGSTOP)
        number = 0
        while client.guardian_restarts == 0:
            number += 1
            began = time.monotonic()
            client._engine.ward.guard(client._engine._guarded()._replace(password=b"%d" % number * 1000))  # type: ignore[union-attr]
            assert time.monotonic() - began < 1.0
        assert number > 100
        assert not state_of(stuck)
        assert "it doesn't read any more" in caplog.text
        assert await client.exists("/nothing") is None


async def test_descriptors_that_others_have_closed(server: DevServer, caplog: pytest.LogCaptureFixture) -> None:
    """What has the number of our pipe since then isn't ours to write to, nor to close."""
    async with guarded(server) as client:
        lost = pid_of(client)
        present = guardian.here()._child
        assert present is not None
        near, far = os.pipe()
        numbers = (present.line._descriptor.number, present.status.number)
        for number in numbers:
            os.dup2(far, number)
        client._engine.ward.guard(client._engine._guarded()._replace(password=b"secret"))  # type: ignore[union-attr]
        assert client.guardian_restarts == 1
        assert not state_of(lost)
        assert "its pipe was closed by other code of this process" in caplog.text
        os.set_blocking(near, False)
        with pytest.raises(BlockingIOError):
            os.read(near, 1)
        for number in (near, far, *numbers):
            os.close(number)


async def test_more_than_the_pipe_takes(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guardian hears all of it, when it is up."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    async with guarded(server) as client:
        present = guardian.here()._child
        assert present is not None
        assert not present.is_up
        for number in range(100):
            client._engine.ward.guard(client._engine._guarded()._replace(password=b"%d" % number * 500))  # type: ignore[union-attr]
        assert present.line.keeps
        await until(lambda: not present.line.keeps)
        assert client.guardian_restarts == 0


async def test_several_loops_have_one(server: DevServer) -> None:
    """Whoever sees first that it has died starts another one, and the others watch that."""
    before = leftovers()
    loops = 3
    together = threading.Barrier(loops + 1, timeout=PATIENCE)
    seen: list[tuple[int, int]] = []

    async def life() -> None:
        async with guarded(server) as client:
            first = pid_of(client)
            await asyncio.to_thread(together.wait)  # all are there
            await until(lambda: client.guardian_restarts == 1 and client.guardian_pid)
            await asyncio.to_thread(together.wait)  # one was killed
            await until(lambda: client.guardian_restarts == 2 and client.guardian_pid)
            seen.append((first, pid_of(client)))
            await asyncio.to_thread(together.wait)  # and another one

    threads = [threading.Thread(target=asyncio.run, args=(life(),)) for _ in range(loops)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(together.wait)
    for _ in range(2):
        pid = guardian.here().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(together.wait)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert len(set(seen)) == 1
    assert children_of_this_process() == before[0]
    assert threading.active_count() - before[2] <= loops + 2  # those of `to_thread`


async def test_many_starts_leave_nothing(server: DevServer) -> None:
    async with guarded(server):
        pass
    before = leftovers()
    for _ in range(200):
        async with guarded(server) as client:
            pid = pid_of(client)
        assert not state_of(pid)
    assert leftovers() == before


async def test_a_start_that_fails_leaves_nothing(server: DevServer) -> None:
    before = leftovers()
    await server.stop()
    with pytest.raises(ConnectionError):
        await guarded(server).start()
    assert leftovers()[0] == before[0]


async def test_no_process_can_be_started(
    server: DevServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A start says so. Later it is logged, and tried again."""

    async with guarded(server) as client:
        with monkeypatch.context() as patch:
            patch.setattr(child.subprocess, "Popen", refuse)
            os.kill(pid_of(client), signal.SIGKILL)
            await until(lambda: client.guardian_pid is None)
            assert "1 client without a guardian" in caplog.text
            assert await client.exists("/nothing") is None
            with pytest.raises(GuardianUnavailableError, match="temporarily unavailable"):
                await guarded(server).start()
        await until(lambda: client.guardian_pid is not None)
        assert client.guardian_restarts == 1


@pytest.mark.parametrize("name", ["memfd_create", "pidfd_open"])
async def test_what_a_kernel_may_not_have(server: DevServer, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(os, name)
    async with guarded(server):
        present = guardian.here()._child
        assert present is not None
        await until(lambda: present.is_up)


async def test_no_descriptors_are_left(
    server: DevServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever can't be had, nothing is left behind, and it is tried again."""
    async with guarded(server) as client:
        before = leftovers()[1]
        for name in ("pipe", "dup"):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, refuse)
                os.kill(pid_of(client), signal.SIGKILL)
                await until(lambda: "trying again" in caplog.text)
            caplog.clear()
            await until(lambda: client.guardian_pid is not None and leftovers()[1] == before)


async def test_one_that_dies_again_and_again_is_not_started_all_the_time(
    server: DevServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def is_up() -> bool:
        present = guardian.here()._child
        return present is not None and present.is_up

    async with guarded(server) as client:
        with monkeypatch.context() as patch:
            patch.setattr(child, "_BOOT", "raise SystemExit(3)")
            os.kill(pid_of(client), signal.SIGKILL)
            await until(lambda: "exit code 3 before it was up" in caplog.text)
            began = time.monotonic()
            await until(lambda: time.monotonic() > began + 0.5)
            assert 1 <= client.guardian_restarts <= 5
        await until(is_up)


@simulated
async def test_loops_that_watch_no_descriptors_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", refuse)
    before = children_of_this_process()
    with pytest.raises(GuardianUnavailableError, match="add_reader"):
        await Client("127.0.0.1:1", guardian=True).start()
    assert children_of_this_process() == before


def test_systems_without_posix() -> None:
    """Everything else works there."""
    program = """if True:
        import asyncio, os, select, signal, sys
        sys.modules["fcntl"] = None
        for module, names in (
            (os, "fork register_at_fork pidfd_open WNOHANG waitid"),
            (signal, "pthread_sigmask SIGKILL SIGSTOP SIGBUS SIGTRAP"),
            (select, "poll POLLIN POLLOUT"),
        ):
            for name in names.split():
                delattr(module, name)
        from everlatch import Client, GuardianUnavailableError
        Client("zk:2181")
        try:
            Client("zk:2181", guardian=True)
        except GuardianUnavailableError as error:
            sys.exit("POSIX" not in str(error))
        sys.exit("there is one")
    """
    done = subprocess.run([sys.executable, "-c", program], env=environment(), check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("module", "name", "value", "match"),
    [
        (sys, "frozen", True, "interpreter of its own"),
        (sys, "executable", "", "interpreter of its own"),
        (child.importlib.util, "find_spec", lambda _: None, "its code can't be had"),
    ],
)
def test_where_there_can_be_none(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, value: Any, match: str
) -> None:
    child._program.cache_clear()
    monkeypatch.setattr(module, name, value, raising=False)
    with pytest.raises(GuardianUnavailableError, match=match):
        Client("zk:2181", guardian=True)
    Client("zk:2181")


def test_what_it_can_not_be_told() -> None:
    class Own(DigestMd5):
        """Somebody's own."""

    class Other:
        """A mechanism of somebody's own."""

        name = "OTHER"
        is_blocking = False

        def begin(self, host: str) -> Any:
            """Nothing."""

        def keep_fresh(self) -> None:
            """Nothing."""

    with pytest.raises(GuardianUnavailableError, match="DigestMd5"):
        Client("zk:2181", guardian=True, sasl=Other())
    Client("zk:2181", guardian=True, sasl=Own("bob", "secret"))


async def test_systems_without_pidfds(server: DevServer) -> None:
    """As macOS: the guardian looks at who is its parent."""
    async with Client(server.address) as witness:
        await witness.create("/owned")
        async with owner_of(server.address, timeout=LONG, BEFORE="del os.pidfd_open") as owner:
            (forked,) = await owner.tell("fork", "forked")
            await owner.kill()
            with pytest.raises(TimeoutError):
                await until_gone(witness, timeout=0.25)
            os.kill(forked, signal.SIGKILL)
            await until_gone(witness, timeout=5.0)
            await until_dead(owner.guardian, timeout=5.0)
