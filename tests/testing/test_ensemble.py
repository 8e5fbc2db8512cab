"""Real servers: they come up, they can be hurt in every way that is offered, and nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from everlatch.errors import InvalidArgumentError
from everlatch.testing import Ensemble, EnsembleError, NetworkEnsemble, Server
from everlatch.testing import ensemble as ensemble_module

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.real

# protocol version, last zxid, timeout (ms), session id, password, read-only: a new session.
NEW_SESSION = struct.pack(">iqiqi16s?", 0, 0, 10_000, 0, 16, bytes(16), False)


@contextlib.asynccontextmanager
async def connected_session(server: Server) -> AsyncIterator[int]:
    """A session on this server, by hand; yields its id."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(struct.pack(">i", len(NEW_SESSION)) + NEW_SESSION)
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        _, _, session_id = struct.unpack_from(">iiq", await reader.readexactly(size))
        yield session_id
    finally:
        writer.close()
        await writer.wait_closed()


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def state_of(pid: int) -> str:
    """The kernel's letter for the process state: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def until(condition: Callable[[], object], *, timeout: float = 20.0) -> None:
    async with asyncio.timeout(timeout):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_an_ensemble_of_none_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        Ensemble(0)


@pytest.mark.parametrize("version", ["3.8", "3.9"])
async def test_one_server_serves_alone_and_leaves_nothing_behind(version: str) -> None:
    async with Ensemble(version=version) as ensemble:
        (server,) = ensemble.servers
        pid, data_dir = server.pid, server.data_dir
        assert pid is not None
        assert data_dir.is_dir()
        assert await server.mode() == "standalone"
        assert f"version: {version}." in await server.four_letter("srvr")
        assert server.port < 32_000
        assert ensemble.connect_string == server.address == f"127.0.0.1:{server.port}"
        assert await ensemble.leader() is server
        assert await ensemble.followers() == []
        assert "binding to port" in server.log_tail(500)
    assert not exists(pid)
    assert not data_dir.exists()
    await ensemble.close()


async def test_stop_restart_kill_and_pause_of_one_server() -> None:
    async with Ensemble() as ensemble:
        (server,) = ensemble.servers
        async with connected_session(server) as session_id:
            assert await server.connections() == [session_id]
            assert await ensemble.server_of(session_id) is server
        first = server.pid
        assert first is not None

        await server.restart()
        assert server.running
        assert server.pid != first
        assert await server.mode() == "standalone"

        server.pause()
        pid = server.pid
        assert pid is not None
        assert (server.running, server.paused) == (True, True)
        await until(lambda: state_of(pid) == "T")
        assert await server.mode() is None
        with pytest.raises(EnsembleError, match="connected to no server"):
            await ensemble.server_of(session_id)
        with pytest.raises(TimeoutError):
            await server.four_letter("ruok", timeout=0.1)
        server.resume()
        assert not server.paused
        assert await server.four_letter("ruok") == "imok"

        with pytest.raises(EnsembleError, match="runs already"):
            await server.start()

        server.pause()
        await server.kill()
        assert (server.running, server.paused, server.pid) == (False, False, None)
        assert not exists(pid)
        assert await server.mode() is None
        await server.kill()
        await server.stop()
        server.pause()
        assert "down" in repr(server)

        await server.start()
        server.pause()
        # Stopping a frozen server must not wait for the frozen one.
        await server.stop()
        assert not server.running


async def test_three_servers_elect_a_leader_and_another_one_when_it_dies() -> None:
    async with Ensemble(3) as ensemble:
        leader = await ensemble.leader()
        followers = await ensemble.followers()
        assert {server.id for server in [leader, *followers]} == {1, 2, 3}
        assert len({server.port for server in ensemble.servers}) == 3

        async with connected_session(followers[1]) as session_id:
            assert await ensemble.server_of(session_id) is followers[1]

        await leader.kill()
        assert await ensemble.leader() in followers
        await leader.start()
        await ensemble.wait_serving()
        assert await leader.mode() == "follower"
    await asyncio.gather(*(server.kill() for server in ensemble.servers))
    assert ensemble.servers == ()


async def test_a_server_that_refuses_its_configuration_is_an_error_with_its_log() -> None:
    ensemble = Ensemble(config={"tickTime": "soon"})
    with pytest.raises(EnsembleError, match=r"exit code 2(?s:.*)NumberFormatException"):
        await ensemble.start()
    assert ensemble.servers == ()


async def test_a_server_that_takes_too_long_is_an_error_and_is_not_left_running() -> None:
    ensemble = Ensemble(start_timeout=0.001)
    with pytest.raises(EnsembleError, match="does not serve after"):
        await ensemble.start()
    assert ensemble.servers == ()


async def test_settings_and_java_options_reach_the_server() -> None:
    options = ["-Dreadonlymode.enabled=true", "-XX:+UseParallelGC"]
    async with Ensemble(tick_time=0.2, config={"maxSessionTimeout": "7000"}, java_options=options) as ensemble:
        configuration = await ensemble.servers[0].four_letter("conf")
        environment = await ensemble.servers[0].four_letter("isro")
    assert "tickTime=200\n" in configuration
    assert "maxSessionTimeout=7000\n" in configuration
    assert environment == "rw"


async def test_a_port_that_was_taken_meanwhile_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as thief:
        choose = ensemble_module.free_ports
        choices = iter([[thief.getsockname()[1], *choose(2)], choose(3)])
        monkeypatch.setattr(ensemble_module, "free_ports", lambda _count: next(choices))
        async with Ensemble() as ensemble:
            assert ensemble.servers[0].port != thief.getsockname()[1]


async def test_cancelling_the_start_leaves_no_process() -> None:
    ensemble = Ensemble()
    task = asyncio.create_task(ensemble.start())
    await until(lambda: ensemble.servers and ensemble.servers[0].pid)
    pid = ensemble.servers[0].pid
    assert pid is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not exists(pid)


async def test_a_second_start_is_refused() -> None:
    async with Ensemble() as ensemble:
        with pytest.raises(EnsembleError, match="started already"):
            await ensemble.start()


ORPHAN = """
import asyncio, os, signal
from everlatch.testing import Ensemble

async def main():
    async with Ensemble() as ensemble:
        print(ensemble.servers[0].pid, ensemble.servers[0].data_dir, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_servers_do_not_outlive_a_killed_test_process(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ORPHAN, stdout=subprocess.PIPE, env=environment
    )
    told, _ = await process.communicate()
    pid = int(told.split()[0])
    assert process.returncode == -9
    # Whoever adopts it may reap it late: gone, or a zombie.
    await until(lambda: not exists(pid) or state_of(pid) == "Z")


def test_it_works_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with Ensemble() as ensemble:
            assert await ensemble.servers[0].mode() == "standalone"
            await ensemble.servers[0].restart()

    uvloop.run(main())


def test_a_network_of_its_own_works_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with NetworkEnsemble(1) as network:
            (server,) = network.servers
            client = await network.start_client("c1", ["cat", "/proc/net/route"])
            assert await client.wait(20) == 0
            assert client.output.splitlines()[1].startswith("clients")
            await network.link_down(server)
            assert await server.mode() is None
            await network.link_up(server)
            await server.wait_serving()

    uvloop.run(main())


def test_it_works_again_and_again_and_closes_quickly() -> None:
    for _ in range(2):
        ensemble = Ensemble()

        async def main(ensemble: Ensemble = ensemble) -> float:
            await ensemble.start()
            started = time.monotonic()
            await ensemble.close()
            return time.monotonic() - started

        assert asyncio.run(main()) < 5
