"""Where a client's servers come from when they change at run time.

A source is any object with the two methods of `ServerSource`; the client asks it when it starts, and again whenever
the source says that they have changed. Here is one that reads a DNS name again and again; for an ensemble that is
reconfigured, see `everlatch.ensemble_tracker`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from everlatch.arguments import checked_timeout
from everlatch.errors import InvalidArgumentError, InvalidConnectStringError, InvalidTypeError, describe
from everlatch.paths import Endpoint, parse_connect_string
from everlatch.session.servers import is_ip_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.types import Remove

__all__ = ["DnsServers", "ServerSource", "source_endpoints"]

logger = logging.getLogger("everlatch")


@runtime_checkable
class ServerSource(Protocol):
    """Servers that may change."""

    def servers(self) -> Iterable[tuple[str, int]]:
        """The servers now, as `(host, port)`; at least one."""
        ...

    def on_change(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Has `changed` called, on the client's event loop, whenever `servers()` has something new; returns what ends
        that. Called when the client starts."""
        ...


def source_endpoints(source: ServerSource) -> tuple[Endpoint, ...]:
    """What a source has, checked. Raises `InvalidConnectStringError` and `InvalidTypeError`, or what the source
    raises."""
    found: dict[Endpoint, None] = {}
    servers = source.servers()
    if not isinstance(servers, Iterable):
        raise InvalidTypeError(f"a source's servers are (host, port), not {servers!r}")
    for server in servers:
        if not isinstance(server, tuple) or len(server) != 2:
            raise InvalidTypeError(f"a source's servers are (host, port), not {server!r}")
        found[_endpoint(*server)] = None
    if not found:
        raise InvalidConnectStringError(f"the source {source!r} has no servers")
    return tuple(found)


def _endpoint(host: object, port: object) -> Endpoint:
    if not isinstance(host, str) or not isinstance(port, int) or isinstance(port, bool):
        raise InvalidTypeError(f"a server is a host, which is a string, and a port, an int, not {(host, port)!r}")
    shown = f"[{host}]" if ":" in host and is_ip_address(host) else host
    connect_string = parse_connect_string(f"{shown}:{port}")
    if connect_string.chroot or len(connect_string.endpoints) != 1:
        raise InvalidConnectStringError(f"{host!r} is not the name of one host")
    return connect_string.endpoints[0]


class DnsServers:
    """All addresses of one name, read again every `interval` seconds.

        Client(DnsServers("zookeeper.example.org", 2181))

    A client resolves the names of its servers anew for every attempt anyway; with this one it also leaves a server
    whose address the name no longer has. A name that fails to resolve changes nothing. Serves any number of clients
    of one event loop. Raises `InvalidConnectStringError`, `InvalidTypeError` and `InvalidArgumentError`.
    """

    def __init__(self, name: str, port: int = 2181, *, interval: float = 30.0) -> None:
        self._endpoint = _endpoint(name, port)
        self._interval = checked_timeout(interval)
        if not self._interval:
            raise InvalidArgumentError("the interval between two looks at a name is more than 0 seconds")
        self._addresses: tuple[str, ...] = ()
        self._followers: list[Callable[[], None]] = []
        self._reading: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<DnsServers {self._endpoint}, {len(self._addresses)} addresses>"

    def servers(self) -> Iterable[tuple[str, int]]:
        """The addresses that were found last; the name itself before."""
        return [(host, self._endpoint.port) for host in self._addresses or (self._endpoint.host,)]

    def on_change(self, changed: Callable[[], None]) -> Remove:
        """See `ServerSource`. To be called in the event loop of the clients."""
        self._followers.append(changed)
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read_again_and_again())

        def remove() -> None:
            with contextlib.suppress(ValueError):
                self._followers.remove(changed)
            if not self._followers and self._reading is not None:
                self._reading.cancel()
                self._reading = None

        return remove

    async def _read_again_and_again(self) -> None:
        while True:
            found = await self._read()
            if found and set(found) != set(self._addresses):
                self._addresses = found
                for changed in [*self._followers]:
                    changed()
            await asyncio.sleep(self._interval)

    async def _read(self) -> tuple[str, ...]:
        loop = asyncio.get_running_loop()
        try:
            found: list[Any] = await loop.getaddrinfo(self._endpoint.host, self._endpoint.port, type=socket.SOCK_STREAM)
        except Exception as error:  # not OSError alone: names that can't be encoded, executors that are shut down
            logger.warning("%s does not resolve; its servers stay as they are: %s", self._endpoint, describe(error))
            return ()
        return tuple(sorted({str(sockaddr[0]) for *_, sockaddr in found}))
