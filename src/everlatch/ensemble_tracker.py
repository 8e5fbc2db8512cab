"""Follows the reconfiguration of an ensemble: the client's servers are those of `/zookeeper/config`.

Since ZooKeeper 3.5 the servers' own configuration is a node that every client may read, unless they are told
otherwise, and `reconfig` changes it. The tracker reads it, watches it, and tells the client.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Final, Self

from everlatch.client import Client
from everlatch.errors import (
    ClientStateError,
    EverlatchError,
    InvalidArgumentError,
    InvalidConnectStringError,
    InvalidTypeError,
    describe,
)
from everlatch.paths import Endpoint, parse_connect_string
from everlatch.session.states import FINAL_STATES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from everlatch.types import Remove, StateChange, WatchEvent

__all__ = ["EnsembleTracker", "TlsPortUnknownError", "client_addresses", "tls_addresses"]

logger = logging.getLogger("everlatch")

_RETRY_DELAY: Final = 10.0
"""Seconds, after the servers have refused to tell."""
_SERVER: Final = re.compile(r"server\.\d+=(?P<addresses>[^;]+)(?:;(?P<client>[^;]*)(?:;(?P<secure>[^;]*))?)?")
_ANYWHERE: Final = frozenset({"0.0.0.0", "[::]", "::", "[0:0:0:0:0:0:0:0]"})  # noqa: S104 (read, not bound to)


def client_addresses(config: str) -> list[Endpoint]:
    """Where the servers of a configuration (the text of `/zookeeper/config`) take clients; those of which it does not
    say so are left out.

    A line is `server.N=host:port:port[:role][|host:port:port…][;[client host:]client port]`, and since 3.10 there may
    be `;[host:]port` for clients that use TLS behind it. A client host that stands for all interfaces is the host.
    """
    found = (_endpoint(match["client"], match["addresses"]) for match in _servers(config))
    return list(dict.fromkeys(endpoint for endpoint in found if endpoint is not None))


def tls_addresses(config: str, known: Sequence[Endpoint], tls_port: int | None = None) -> list[Endpoint]:
    """Where they take clients that use TLS.

    Servers before 3.10 don't say at which port: then it is `tls_port`, or, if that is `None`, the one that is `known`
    of the host, or of all hosts together. Raises `TlsPortUnknownError` if that is none, or several.
    """
    found: dict[Endpoint, None] = {}
    for match in _servers(config):
        secure = _endpoint(match["secure"], match["addresses"])
        plain = _endpoint(match["client"], match["addresses"])
        if secure is not None:
            found[secure] = None
        elif plain is not None:
            port = tls_port if tls_port is not None else _known_port(plain.host, known)
            found[plain._replace(port=port)] = None
    return list(found)


class TlsPortUnknownError(EverlatchError):
    """A configuration doesn't say at which port a server takes clients that use TLS, and nobody else has."""


def _servers(config: str) -> Iterator[re.Match[str]]:
    """The lines that are about servers."""
    return filter(None, (_SERVER.fullmatch(line.strip()) for line in config.splitlines()))


def _endpoint(client: str | None, addresses: str) -> Endpoint | None:
    """Of `[host:]port`; `None` if there is none, or it can't be right."""
    if not client:
        return None
    host, _, port = client.rpartition(":")
    if host in _ANYWHERE or not host:
        host = _host(addresses)
    try:
        return parse_connect_string(f"{host}:{port}").endpoints[0]
    except InvalidConnectStringError as error:
        logger.warning("a server of the configuration is passed over: %s", error)
        return None


def _known_port(host: str, known: Sequence[Endpoint]) -> int:
    of_host = {endpoint.port for endpoint in known if endpoint.host == host}
    ports = of_host or {endpoint.port for endpoint in known}
    if len(ports) != 1:
        raise TlsPortUnknownError(f"the configuration does not say at which port {host} takes clients that use TLS")
    return ports.pop()


def _host(addresses: str) -> str:
    """Of the first of a server's addresses; IPv6 in brackets."""
    first = addresses.partition("|")[0]
    if first.startswith("["):
        return first[: first.index("]") + 1] if "]" in first else first
    return first.partition(":")[0]


class EnsembleTracker:
    """Keeps a client's servers those of the ensemble's configuration, from `start` (or `async with`) to `close`.

        async with Client("zk1,zk2,zk3") as client, EnsembleTracker(client):
            ...

    A configuration that says nothing of client ports (a static one, a standalone server) changes nothing. When the
    servers refuse to tell (`NoAuthError`), it is logged and tried again.

    For a client that uses TLS the port is another one, and a configuration does not name it (ZooKeeper before 3.10):
    say `tls_port`, or it is the port of the client's servers. If these have several, and it can't be told which is
    which, it is logged, and the servers stay as they are. Their certificates have to be for the hosts that are named
    in the configuration.

    Raises `InvalidArgumentError`, `InvalidTypeError`.
    """

    def __init__(self, client: Client, *, tls_port: int | None = None) -> None:
        if not isinstance(client, Client):
            raise InvalidTypeError(f"a tracker follows the servers of a Client, not of {client!r}")
        if tls_port is not None and client._engine.tls is None:
            raise InvalidArgumentError("tls_port is for a client that uses TLS")
        if tls_port is not None and not 0 < tls_port < 1 << 16:
            raise InvalidArgumentError(f"tls_port is a port, 1 to 65535, not {tls_port!r}")
        self._client = client
        self._tls_port = tls_port
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stop_listening: Remove | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Follows from now on; returns at once. Raises `ClientStateError` the second time."""
        if self._task is not None:
            raise ClientStateError("the tracker was started before; make a new one")
        self._task = asyncio.get_running_loop().create_task(self._follow())
        self._stop_listening = self._client.add_listener(self._on_state)

    async def close(self) -> None:
        """Follows no longer. May be called again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._client.forget_watch("/zookeeper/config", self._on_event)
        if self._stop_listening is not None:
            self._stop_listening()

    def _on_event(self, _: WatchEvent) -> None:
        self._changed.set()

    def _on_state(self, change: StateChange) -> None:
        if change.state in FINAL_STATES:
            self._changed.set()  # there is nothing more to wait for

    async def _follow(self) -> None:
        known = -1
        while self._client.state not in FINAL_STATES:
            self._changed.clear()
            try:
                config, stat = await self._client.get_config(watch=self._on_event, timeout=None)
            except EverlatchError as error:
                if self._client.state in FINAL_STATES:
                    return
                logger.warning("the ensemble's configuration can't be read: %s", describe(error))
                await asyncio.sleep(_RETRY_DELAY)
                continue
            if stat.mzxid != known:  # less after the ensemble's data was wiped
                known = stat.mzxid
                self._tell(config.decode("utf-8", "replace"))
            await self._changed.wait()

    def _tell(self, config: str) -> None:
        try:
            servers = self._addresses(config)
        except TlsPortUnknownError as unknown:
            logger.warning("the servers stay as they are: %s; EnsembleTracker(client, tls_port=…) can", unknown)
            return
        if servers:
            self._client.update_servers([str(server) for server in servers])

    def _addresses(self, config: str) -> list[Endpoint]:
        engine = self._client._engine
        if engine.tls is None:
            return client_addresses(config)
        return tls_addresses(config, engine.session.endpoints, self._tls_port)
