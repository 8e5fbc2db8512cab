"""One real ZooKeeper server: its files, its process, and the questions that it answers about itself.

Rules of this module: when a server doesn't come up, the error has the end of its log. The settings are made for tests
(short ticks, no fsync), not for data that matters.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.admin import AdminUnreachableError, MalformedAnswerError, cons, four_letter, srvr
from everlatch.testing.process import POLL, EnsembleError, Process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from everlatch.testing.builds import Build
    from everlatch.testing.certificates import Certificates

__all__ = ["Place", "Server", "server_command", "server_settings", "write_files"]

_MAIN_CLASS: Final = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
_OWN_QUESTION: Final = "Processing srvr command from"
_PORT_TAKEN: Final = "Address already in use"
# A server that is only just starting may take a question and never answer it: ask again soon, then more patiently,
# for an answer may really take that long on a busy machine.
_FIRST_PROBE: Final = 0.1
_PROBE_TIMEOUT: Final = 2.0

_SMALL_JVM: Final = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
_SMALL_GC: Final = "-XX:+UseSerialGC"
_LOGGING: Final = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    "-Dorg.apache.logging.log4j.level=INFO",
)


class Place(NamedTuple):
    """Where a server lives."""

    host: str
    """Where clients reach it."""
    port: int
    peer_host: str
    """Where the other servers reach it."""
    quorum_port: int
    election_port: int
    prefix: tuple[str, ...] = ()
    """What the command line begins with, to run it there."""
    secure_port: int | None = None
    """Where clients reach it by TLS."""

    def member(self, server_id: int) -> str:
        """Its line in the list of all servers."""
        peers = f"{self.peer_host}:{self.quorum_port}:{self.election_port}"
        return f"server.{server_id}={peers}:participant;{self.host}:{self.port}"


class Server(Process):
    """One server of an `Ensemble`, which makes it. Its data and its address outlive its process."""

    def __init__(
        self,
        server_id: int,
        place: Place,
        directory: Path,
        command: Sequence[str],
        *,
        start_timeout: float,
        certificates: Certificates | None = None,
    ) -> None:
        super().__init__(f"server-{server_id}", [*place.prefix, *command], directory / "server.log")
        self.id = server_id
        """Its number in the ensemble, from 1."""
        self.host = place.host
        self.port = place.port if place.secure_port is None else place.secure_port
        """Where it listens for clients: by TLS if it does."""
        self.plain_address = f"{place.host}:{place.port}"
        """`host:port` where it listens without TLS; the kit's own questions go there."""
        self.data_dir = directory / "data"
        self._start_timeout = start_timeout
        self.certificates = certificates
        """Those of its ensemble; `None` if it doesn't listen by TLS. `Proxy(server.address, tls=server.certificates)`
        is right for both."""

    def __repr__(self) -> str:
        return f"<Server {self.id} {self.address} {self._state}>"

    @property
    def address(self) -> str:
        """`host:port`, of the TLS port if it has one."""
        return f"{self.host}:{self.port}"

    async def start(self, *, wait: bool = True) -> None:
        """Starts the server with the data that it has; returns when it serves, or at once without `wait`."""
        await self._launch()
        if wait:
            await self.wait_serving()

    async def wait_serving(self, timeout: float | None = None) -> None:
        """Waits until the server serves clients; raises `EnsembleError` when it ends instead, or takes too long."""
        limit = self._start_timeout if timeout is None else timeout
        probe_timeout = _FIRST_PROBE
        try:
            async with asyncio.timeout(limit):
                while await self._probe(probe_timeout) is None or not await self._accepts(probe_timeout):
                    probe_timeout = min(probe_timeout * 2, _PROBE_TIMEOUT)
                    if not self.running:
                        raise self._error("is not running")
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise self._error(f"does not serve after {limit:g} s") from None

    async def restart(self) -> None:
        """Stops the server and starts it again with its data; returns when it serves."""
        await self.stop()
        await self.start()

    async def four_letter(self, command: str, timeout: float = 5.0) -> str:
        """The server's answer to a four-letter word; raises an `AdminError` of `everlatch.admin`."""
        return await four_letter(self.plain_address, command, timeout=timeout)

    async def mode(self) -> str | None:
        """`leader`, `follower`, `observer`, `standalone` or `read-only`; `None` while it doesn't serve."""
        return await self._probe(_PROBE_TIMEOUT)

    async def _probe(self, timeout: float) -> str | None:
        if not self.running or self.paused:
            return None
        try:
            return (await srvr(self.plain_address, timeout=timeout)).mode
        except (OSError, MalformedAnswerError):
            # Malformed: a server that is only just starting may close the connection without an answer.
            return None

    async def _accepts(self, timeout: float) -> bool:
        """Whether it listens where clients connect. The TLS port comes a moment after the other one. What happens there
        is none of our business: the certificates may be bad ones, for a test."""
        if self.certificates is None:
            return True
        try:
            async with asyncio.timeout(timeout):
                _, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return False
        writer.transport.abort()
        return True

    async def connections(self) -> list[int]:
        """The ids of the sessions that are connected to this server."""
        found = [connection.session_id for connection in await cons(self.plain_address) if connection.session_id]
        # Each port knows its own only.
        return found if self.certificates is None else found + await self._secure_connections(self.certificates)

    async def _secure_connections(self, certificates: Certificates) -> list[int]:
        for context in certificates.kit_contexts():
            # The one that asks is among them: nothing at all comes from a server that doesn't trust it.
            with contextlib.suppress(AdminUnreachableError, MalformedAnswerError):
                if found := await cons(self.address, tls=context):
                    return [connection.session_id for connection in found if connection.session_id]
        raise self._error("does not answer by TLS")

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the server's log, without those that only tell of our own questions."""
        told = [line for line in self._read_log().splitlines() if _OWN_QUESTION not in line]
        return "\n".join(told[-lines:])

    def _error(self, problem: str) -> EnsembleError:
        return super()._error(f"at {self.plain_address} {problem}")

    @property
    def _lost_a_port(self) -> bool:
        return _PORT_TAKEN in self._read_log()


# --- its files ----------------------------------------------------------------------------------------------------


def server_settings(size: int, tick_time: float) -> dict[str, str]:
    """What every zoo.cfg of an ensemble of this size says, for tests."""
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


def write_files(directory: Path, server_id: int, places: Sequence[Place], settings: Mapping[str, str]) -> Path:
    """Makes the directory of one server of those that live at these places; returns its configuration."""
    data, config = directory / "data", directory / "zoo.cfg"
    data.mkdir(parents=True)
    settings = dict(settings) | {"dataDir": str(data)}
    if len(places) == 1:
        settings = {"clientPort": str(places[0].port), "clientPortAddress": places[0].host} | settings
    else:
        # The server rewrites both files when the membership changes, so each has its own.
        dynamic = directory / "zoo.cfg.dynamic"
        dynamic.write_text("".join(f"{place.member(number)}\n" for number, place in enumerate(places, 1)))
        (data / "myid").write_text(f"{server_id}\n")
        settings["dynamicConfigFile"] = str(dynamic)
    config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    return config


def server_command(build: Build, config: Path, java_options: Sequence[str]) -> list[str]:
    """The command line of a server with this configuration."""
    collector = [] if any(_chooses_collector(option) for option in java_options) else [_SMALL_GC]
    scratch = f"-Djava.io.tmpdir={config.parent}"
    options = [*_SMALL_JVM, *collector, *_LOGGING, scratch, *java_options]
    return [build.java, *options, "-cp", build.classpath, _MAIN_CLASS, str(config)]


def _chooses_collector(option: str) -> bool:
    return option.startswith("-XX:+Use") and option.endswith("GC")
