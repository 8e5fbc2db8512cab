"""Real ZooKeeper servers for tests: one, or an ensemble, on this machine, with their faults at hand.

    async with Ensemble(3) as ensemble:
        client = Client(ensemble.connect_string)
        ...
        leader = await ensemble.leader()
        await leader.kill()          # kill -9
        await leader.start()         # back, with its data

Rules of this module: servers listen on 127.0.0.1 only (a `NetworkEnsemble` has addresses of its own) and live in a
temporary directory of their own; nothing here blocks the event loop.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from everlatch.admin import MalformedAnswerError
from everlatch.errors import InvalidArgumentError, hex_id
from everlatch.testing.builds import find_build
from everlatch.testing.ports import free_ports
from everlatch.testing.process import POLL, EnsembleError
from everlatch.testing.security import DEFAULT_USERS, Access, Security
from everlatch.testing.server import Place, Server, server_command, server_settings, write_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from everlatch.testing.builds import Build
    from everlatch.testing.certificates import Certificates, ClientAuth
    from everlatch.testing.kdc import Kdc
    from everlatch.testing.security import Sasl

__all__ = ["Ensemble", "EnsembleError", "Server"]

_HOST: Final = "127.0.0.1"
_START_ATTEMPTS: Final = 5


class Ensemble:
    """`size` real servers: `async with Ensemble(3) as ensemble`. One server runs standalone.

    `version` is found by `everlatch.testing.builds.find_build`. `config` adds settings to every server's zoo.cfg, or
    replaces them; `java_options` are added to the command line (`-Dreadonlymode.enabled=true`).

    `tls`: the servers listen by TLS as well, with certificates of `certificates`, each named like its server. That port
    is in `address` and `connect_string` then; the other one is `Server.plain_address`. `client_auth` says whether a
    client needs a certificate. `sasl`: by which mechanism `users` (names with passwords) say who they are; with
    `require_auth` servers hang up on who doesn't; without `sasl`, on who doesn't use the scheme `digest`.
    `Client(ensemble.connect_string, **ensemble.client_options)` gets in, as the first user.
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
        tls: bool = False,
        client_auth: ClientAuth = "want",
        sasl: Sasl | None = None,
        require_auth: bool = False,
        users: Mapping[str, str] | None = None,
        kdc: Kdc | None = None,
    ) -> None:
        if size < 1:
            raise InvalidArgumentError(f"an ensemble has at least one server, not {size}")
        self.size = size
        self.version = version
        self._settings = server_settings(size, tick_time)
        self._config = dict(config or {})
        self._java_options = tuple(java_options)
        self._start_timeout = start_timeout
        self._security = Security(tls, client_auth, sasl, require_auth, dict(users or DEFAULT_USERS))
        self._access = Access(self._security, kdc)
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

    @property
    def certificates(self) -> Certificates:
        """Those of the servers, `certificates[server.name]`, and of a client. Where there is no TLS, and before
        `start()`, there are none: `EnsembleError`."""
        if self._access.certificates is None:
            raise EnsembleError("there are certificates only with tls=True, and from start() on")
        return self._access.certificates

    @property
    def kdc(self) -> Kdc:
        """The KDC of `sasl="kerberos"`: `with ensemble.kdc.in_environment():` around what its clients do. Elsewhere,
        and before `start()`, there is none: `EnsembleError`."""
        if self._access.kdc is None:
            raise EnsembleError('there is a KDC only with sasl="kerberos", and from start() on')
        return self._access.kdc

    @property
    def client_options(self) -> dict[str, Any]:
        """The arguments of a `Client` that gets in: `Client(ensemble.connect_string, **ensemble.client_options)`."""
        return self._access.client_options

    async def start(self) -> None:
        """Starts all servers and returns when all serve; raises `EnsembleError`, `ZooKeeperNotFoundError`, and where
        they are needed `TrustmeMissingError`, `KdcUnavailableError`, `KerberosNotInstalledError`."""
        if self._servers:
            raise EnsembleError("this ensemble is started already")
        build = find_build(self.version)
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                await self._lay_out(build)
                await self._start_all()
                return
            except EnsembleError:
                # Somebody took one of the ports between our choice and the server's start: choose others.
                retry = attempt < _START_ATTEMPTS and any(server._lost_a_port for server in self._servers)
                await self._end_servers()
                if not retry:
                    raise
            except BaseException:
                await self._end_servers()
                raise

    async def close(self) -> None:
        """Ends all processes and deletes all data. Does nothing the second time."""
        await self._end_servers()

    async def _end_servers(self) -> None:
        servers, directory = self._servers, self._directory
        self._servers, self._directory = (), None
        try:
            # Together: gather sends every signal before anything is waited for.
            await asyncio.gather(*(server.kill() for server in servers))
            await self._access.close()
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
        """The server that says that it leads (of one: the only one), waiting for an election that goes on."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    leader = await self._first(_leads)
                    if leader is not None:
                        return leader
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise EnsembleError(f"no server leads after {timeout:g} s: {list(self._servers)}") from None

    async def followers(self) -> list[Server]:
        """The servers that follow at this moment, in the order of their ids."""
        return await self._with_mode("follower")

    async def server_of(self, session_id: int) -> Server:
        """The server that a session is connected to; raises `EnsembleError` if it is to none that answers."""

        async def has_session(server: Server) -> bool:
            return session_id in await _connections(server)

        found = await self._first(has_session)
        if found is None:
            raise EnsembleError(f"session {hex_id(session_id)} is connected to no server that answers")
        return found

    async def _first(self, is_it: Callable[[Server], Awaitable[bool]]) -> Server | None:
        """The first that answers yes. One that doesn't answer at all costs no time, unless nobody says yes."""
        asked = {asyncio.ensure_future(is_it(server)): server for server in self._servers}
        pending = set(asked)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for answer in done:
                    if answer.result():
                        return asked[answer]
            return None
        finally:
            for question in pending:
                question.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _with_mode(self, *modes: str) -> list[Server]:
        found = await asyncio.gather(*(server.mode() for server in self._servers))
        return [server for server, mode in zip(self._servers, found, strict=True) if mode in modes]

    async def _start_all(self) -> None:
        for server in self._servers:
            await server.start(wait=False)
        await self.wait_serving()

    def _places(self) -> list[Place]:
        """Where the servers live, in the order of their ids."""
        ports = iter(free_ports((4 if self._security.tls else 3) * self.size))
        return [
            Place(
                host=_HOST,
                port=next(ports),
                peer_host=_HOST,
                quorum_port=next(ports),
                election_port=next(ports),
                secure_port=next(ports) if self._security.tls else None,
            )
            for _ in range(self.size)
        ]

    def _own_address(self) -> str:
        """Where this process itself is, for all servers."""
        return _HOST

    async def _lay_out(self, build: Build) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="everlatch-zookeeper-"))
        await self._access.open(self._directory, self._own_address())
        places = self._places()
        servers = []
        for number, place in enumerate(places, 1):
            directory = self._directory / f"server-{number}"
            secured = await self._access.settings(directory.name, place)
            config = write_files(directory, number, places, self._settings | secured | self._config)
            options = [*await self._access.java_options(directory, place), *self._java_options]
            servers.append(
                Server(
                    number,
                    place,
                    directory,
                    server_command(build, config, options),
                    start_timeout=self._start_timeout,
                    certificates=self._access.certificates,
                )
            )
        self._servers = tuple(servers)


async def _leads(server: Server) -> bool:
    return await server.mode() in ("leader", "standalone")


async def _connections(server: Server) -> list[int]:
    if not server.running or server.paused:
        return []
    try:
        return await server.connections()
    except (OSError, MalformedAnswerError, EnsembleError):
        return []


def _delete(directory: Path) -> None:
    # A server that is just being reaped can't write any more, but whatever can't be deleted must not hide an error
    # of the test.
    shutil.rmtree(directory, ignore_errors=True)
