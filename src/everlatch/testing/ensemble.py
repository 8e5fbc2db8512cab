"""Real ZooKeeper servers for tests: one, or an ensemble, on this machine, with their faults at hand.

    async with Ensemble(3) as ensemble:
        client = Client(ensemble.connect_string)
        ...
        leader = await ensemble.leader()
        await leader.kill()          # kill -9
        await leader.start()         # back, with its data

Rules of this module: servers listen on 127.0.0.1 only and live in a temporary directory of their own; a process is
ended by its pid and always waited for; nothing here blocks the event loop; when a server doesn't come up, the error
has the end of its log. Where `setpriv` exists (every Debian), the kernel ends the servers together with the thread
that started them, so that not even a killed test run leaves one behind.

The settings are made for tests (short ticks, no fsync), not for data that matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from everlatch.admin import MalformedAnswerError, cons, four_letter, srvr
from everlatch.errors import EverlatchError, InvalidArgumentError, hex_id
from everlatch.testing.builds import find_build

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from everlatch.testing.builds import Build

__all__ = ["Ensemble", "EnsembleError", "Server"]

_HOST: Final = "127.0.0.1"
_MAIN_CLASS: Final = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
# Below the range that the kernel takes for outgoing connections (Linux: 32768 and up). A port from that range could be
# taken while its server is down, and a client that dials it then may even connect to itself.
_PORTS: Final = range(15_000, 32_000)
_OWN_QUESTION: Final = "Processing srvr command from"
_PORT_TAKEN: Final = "Address already in use"
_START_ATTEMPTS: Final = 5
_POLL: Final = 0.02
# A server that is only just starting may take a question and never answer it: ask again soon, then more patiently,
# for an answer may really take that long on a busy machine.
_FIRST_PROBE: Final = 0.1
_PROBE_TIMEOUT: Final = 2.0
_STOP_TIMEOUT: Final = 10.0

_SMALL_JVM: Final = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
_SMALL_GC: Final = "-XX:+UseSerialGC"
_LOGGING: Final = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    "-Dorg.apache.logging.log4j.level=INFO",
)


class EnsembleError(EverlatchError):
    """A server did not do what it was told to; the message has the end of its log."""


class Server:
    """One server of an `Ensemble`, which makes it. Its data and its address outlive its process."""

    def __init__(
        self, server_id: int, port: int, directory: Path, command: Sequence[str], *, start_timeout: float
    ) -> None:
        self.id = server_id
        """Its number in the ensemble, from 1."""
        self.host = _HOST
        self.port = port
        """Where it listens for clients."""
        self.data_dir = directory / "data"
        self.log_path = directory / "server.log"
        self._command = command
        self._start_timeout = start_timeout
        self._process: asyncio.subprocess.Process | None = None
        self._paused = False

    def __repr__(self) -> str:
        state = "paused" if self.paused else f"pid {self.pid}" if self.running else "down"
        return f"<Server {self.id} {self.address} {state}>"

    @property
    def address(self) -> str:
        """`127.0.0.1:port`."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id of the server, `None` while it is down."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether there is a process; a paused one counts."""
        return self._process is not None and self._process.returncode is None

    @property
    def paused(self) -> bool:
        """Whether the process is frozen by `pause()`."""
        return self._paused and self.running

    async def start(self, *, wait: bool = True) -> None:
        """Starts the server with the data that it has; returns when it serves, or at once without `wait`."""
        if self.running:
            raise EnsembleError(f"{self!r} runs already")
        self._paused = False
        with _append_to(self.log_path) as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=asyncio.subprocess.STDOUT
            )
        if wait:
            await self.wait_serving()

    async def wait_serving(self, timeout: float | None = None) -> None:
        """Waits until the server serves clients; raises `EnsembleError` when it ends instead, or takes too long."""
        limit = self._start_timeout if timeout is None else timeout
        probe_timeout = _FIRST_PROBE
        try:
            async with asyncio.timeout(limit):
                while await self._probe(probe_timeout) is None:
                    probe_timeout = min(probe_timeout * 2, _PROBE_TIMEOUT)
                    if not self.running:
                        raise self._error("is not running")
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise self._error(f"does not serve after {limit:g} s") from None

    async def stop(self) -> None:
        """Ends the process as an administrator would (SIGTERM); does nothing if it is down."""
        if self._process is None or not self.running:
            return
        self._send(signal.SIGTERM)
        # A frozen process takes the signal only when it goes on.
        self.resume()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """Ends the process without warning (SIGKILL) and waits for its death; does nothing if it is down."""
        # No SIGCONT: a frozen process dies all the same, and must not work off what it has received meanwhile.
        self._send(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    async def restart(self) -> None:
        """Stops the server and starts it again with its data; returns when it serves."""
        await self.stop()
        await self.start()

    def pause(self) -> None:
        """Freezes the process (SIGSTOP): its connections stay open and nothing is answered. Not to be awaited.

        Threads that are running at this moment stop within microseconds, not before the call returns.
        """
        self._send(signal.SIGSTOP)
        self._paused = self.running

    def resume(self) -> None:
        """Lets a frozen process go on (SIGCONT)."""
        self._send(signal.SIGCONT)
        self._paused = False

    async def four_letter(self, command: str, timeout: float = 5.0) -> str:
        """The server's answer to a four-letter word; raises an `AdminError` of `everlatch.admin`."""
        return await four_letter(self.address, command, timeout=timeout)

    async def mode(self) -> str | None:
        """`leader`, `follower`, `observer`, `standalone` or `read-only`; `None` while it doesn't serve."""
        return await self._probe(_PROBE_TIMEOUT)

    async def _probe(self, timeout: float) -> str | None:
        if not self.running or self.paused:
            return None
        try:
            return (await srvr(self.address, timeout=timeout)).mode
        except (OSError, MalformedAnswerError):
            # Malformed: a server that is only just starting may close the connection without an answer.
            return None

    async def connections(self) -> list[int]:
        """The ids of the sessions that are connected to this server."""
        return [connection.session_id for connection in await cons(self.address) if connection.session_id]

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the server's log, without those that only tell of our own questions."""
        told = [line for line in _read(self.log_path).splitlines() if _OWN_QUESTION not in line]
        return "\n".join(told[-lines:])

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            # The process may have died a moment ago; there is nothing left to signal then.
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _error(self, problem: str) -> EnsembleError:
        code = None if self._process is None else self._process.returncode
        ended = "" if code is None else f" (exit code {code})"
        return EnsembleError(
            f"ZooKeeper server {self.id} at {self.address} {problem}{ended}; its log:\n{self.log_tail()}"
        )

    @property
    def _lost_a_port(self) -> bool:
        return _PORT_TAKEN in _read(self.log_path)


class Ensemble:
    """`size` real servers: `async with Ensemble(3) as ensemble`. One server runs standalone.

    `version` is found by `everlatch.testing.builds.find_build`. `config` adds settings to every server's zoo.cfg, or
    replaces them; `java_options` are added to the command line (`-Dreadonlymode.enabled=true`).
    """

    def __init__(
        self,
        size: int = 1,
        *,
        version: str = "3.8",
        tick_time: float = 0.5,
        config: Mapping[str, str] | None = None,
        java_options: Sequence[str] = (),
        start_timeout: float = 60.0,
    ) -> None:
        if size < 1:
            raise InvalidArgumentError(f"an ensemble has at least one server, not {size}")
        self.size = size
        self.version = version
        self._settings = _settings(size, tick_time) | dict(config or {})
        self._java_options = tuple(java_options)
        self._start_timeout = start_timeout
        self._directory: Path | None = None
        self._servers: tuple[Server, ...] = ()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def servers(self) -> tuple[Server, ...]:
        """All servers, in the order of their ids; none before `start()`."""
        return self._servers

    @property
    def connect_string(self) -> str:
        """`host:port,host:port,…` of all servers."""
        return ",".join(server.address for server in self._servers)

    async def start(self) -> None:
        """Starts all servers and returns when all serve; raises `EnsembleError`, or `ZooKeeperNotFoundError`."""
        if self._servers:
            raise EnsembleError("this ensemble is started already")
        build = find_build(self.version)
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                self._lay_out(build)
                await self._start_all()
                return
            except EnsembleError:
                # Somebody took one of the ports between our choice and the server's start: choose others.
                retry = attempt < _START_ATTEMPTS and any(server._lost_a_port for server in self._servers)
                await self.close()
                if not retry:
                    raise
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """Ends all processes and deletes all data. Does nothing the second time."""
        servers, directory = self._servers, self._directory
        self._servers, self._directory = (), None
        try:
            # Together: gather sends every signal before anything is waited for.
            await asyncio.gather(*(server.kill() for server in servers))
        finally:
            if directory is not None:
                _delete(directory)

    async def wait_serving(self, timeout: float | None = None) -> None:
        """Waits until every server serves that runs and isn't paused; raises `EnsembleError` with a log if not."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for server in self._servers:
                    if server.running and not server.paused:
                        tasks.create_task(server.wait_serving(timeout))
        except ExceptionGroup as failures:
            # One server that fails may take others along: the first says why.
            raise failures.exceptions[0] from None

    async def leader(self, timeout: float = 30.0) -> Server:
        """The server that leads (of one: the only one), waiting for an election that goes on."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    leaders = await self._with_mode("leader", "standalone")
                    if leaders:
                        return leaders[0]
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise EnsembleError(f"no server leads after {timeout:g} s: {list(self._servers)}") from None

    async def followers(self) -> list[Server]:
        """The servers that follow at this moment, in the order of their ids."""
        return await self._with_mode("follower")

    async def server_of(self, session_id: int) -> Server:
        """The server that a session is connected to; raises `EnsembleError` if it is to none that answers."""
        for server in self._servers:
            if server.running and not server.paused and session_id in await self._connections(server):
                return server
        raise EnsembleError(f"session {hex_id(session_id)} is connected to no server that answers")

    @staticmethod
    async def _connections(server: Server) -> list[int]:
        try:
            return await server.connections()
        except (OSError, MalformedAnswerError):
            return []

    async def _with_mode(self, *modes: str) -> list[Server]:
        found = await asyncio.gather(*(server.mode() for server in self._servers))
        return [server for server, mode in zip(self._servers, found, strict=True) if mode in modes]

    async def _start_all(self) -> None:
        for server in self._servers:
            await server.start(wait=False)
        await self.wait_serving()

    def _lay_out(self, build: Build) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="everlatch-zookeeper-"))
        ports = _free_ports(3 * self.size)
        clients, quorum, election = (ports[start::3] for start in range(3))
        members = [
            f"server.{number}={_HOST}:{quorum[number - 1]}:{election[number - 1]}:participant;"
            f"{_HOST}:{clients[number - 1]}"
            for number in range(1, self.size + 1)
        ]
        self._servers = tuple(
            self._make_server(build, number, clients[number - 1], members) for number in range(1, self.size + 1)
        )

    def _make_server(self, build: Build, number: int, port: int, members: Sequence[str]) -> Server:
        assert self._directory is not None
        directory = self._directory / f"server-{number}"
        config = directory / "zoo.cfg"
        server = Server(number, port, directory, self._command(build, config), start_timeout=self._start_timeout)
        server.data_dir.mkdir(parents=True)
        settings = self._settings | {"dataDir": str(server.data_dir)}
        if self.size == 1:
            settings = {"clientPort": str(port), "clientPortAddress": _HOST} | settings
        else:
            # The server rewrites both files when the membership changes, so each has its own.
            dynamic = directory / "zoo.cfg.dynamic"
            dynamic.write_text("\n".join(members) + "\n")
            (server.data_dir / "myid").write_text(f"{number}\n")
            settings["dynamicConfigFile"] = str(dynamic)
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        return server

    def _command(self, build: Build, config: Path) -> list[str]:
        # The kernel's own leash: the JVM is killed when the thread that started it ends, however it ends.
        setpriv = shutil.which("setpriv")
        leash = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        collector = [] if any(_chooses_collector(option) for option in self._java_options) else [_SMALL_GC]
        scratch = f"-Djava.io.tmpdir={config.parent}"
        options = [*_SMALL_JVM, *collector, *_LOGGING, scratch, *self._java_options]
        return [*leash, build.java, *options, "-cp", build.classpath, _MAIN_CLASS, str(config)]


def _settings(size: int, tick_time: float) -> dict[str, str]:
    settings = {
        "tickTime": str(round(tick_time * 1000)),
        "minSessionTimeout": "1000",
        "maxSessionTimeout": "60000",
        "maxClientCnxns": "0",
        "admin.enableServer": "false",
        "4lw.commands.whitelist": "*",
        "extendedTypesEnabled": "true",
        "forceSync": "no",
    }
    if size > 1:
        settings |= {"initLimit": "20", "syncLimit": "10", "standaloneEnabled": "false", "reconfigEnabled": "true"}
    return settings


def _chooses_collector(option: str) -> bool:
    return option.startswith("-XX:+Use") and option.endswith("GC")


def _free_ports(count: int) -> list[int]:
    # Random, so that two test runs on one machine rarely meet; the start is tried again when they do.
    candidates = random.Random().sample(_PORTS, len(_PORTS))  # noqa: S311 - not a secret
    free: list[int] = []
    for port in candidates:
        if _is_free(port):
            free.append(port)
            if len(free) == count:
                return free
    raise EnsembleError(f"fewer than {count} free ports on {_HOST} in {_PORTS.start} to {_PORTS.stop - 1}")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server does: connections of an earlier run that linger in TIME_WAIT are no obstacle.
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def _append_to(path: Path) -> IO[bytes]:
    return path.open("ab")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return "(no log yet)"


def _delete(directory: Path) -> None:
    # A server that is just being reaped can't write any more, but whatever can't be deleted must not hide an error
    # of the test.
    shutil.rmtree(directory, ignore_errors=True)
