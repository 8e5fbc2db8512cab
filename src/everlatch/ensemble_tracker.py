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
    InvalidConnectStringError,
    InvalidTypeError,
    describe,
)
from everlatch.paths import Endpoint, parse_connect_string
from everlatch.session.states import FINAL_STATES

if TYPE_CHECKING:
    from everlatch.types import Remove, StateChange, WatchEvent

__all__ = ["EnsembleTracker", "client_addresses"]

logger = logging.getLogger("everlatch")

_RETRY_DELAY: Final = 10.0
"""Seconds, after the servers have refused to tell."""
_SERVER: Final = re.compile(r"server\.\d+=(?P<addresses>[^;]+)(?:;(?P<client>.+))?")
_ANYWHERE: Final = frozenset({"0.0.0.0", "[::]", "::", "[0:0:0:0:0:0:0:0]"})  # noqa: S104 (read, not bound to)


def client_addresses(config: str) -> list[Endpoint]:
    """Where the servers of a configuration (the text of `/zookeeper/config`) take clients; those of which it does not
    say so are left out.

    A line is `server.N=host:port:port[:role][|host:port:port…][;[client host:]client port]`. A client host that stands
    for all interfaces is the host.
    """
    found: dict[Endpoint, None] = {}
    for line in config.splitlines():
        match = _SERVER.fullmatch(line.strip())
        if match is None or match["client"] is None:
            continue
        host, _, port = match["client"].rpartition(":")
        if host in _ANYWHERE or not host:
            host = _host(match["addresses"])
        try:
            found.update(dict.fromkeys(parse_connect_string(f"{host}:{port}").endpoints))
        except InvalidConnectStringError as error:
            logger.warning("a server of the configuration is passed over: %s", error)
    return list(found)


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
    """

    def __init__(self, client: Client) -> None:
        if not isinstance(client, Client):
            raise InvalidTypeError(f"a tracker follows the servers of a Client, not of {client!r}")
        self._client = client
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
        servers = client_addresses(config)
        if servers:
            self._client.update_servers([str(server) for server in servers])
