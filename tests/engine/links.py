"""Ways to look at a client's connections, and to make them fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from everlatch.engine.transport import Link, TcpDialer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from everlatch import Client
    from everlatch.session.servers import Address


class SpiedTransport:
    """Notes what is done to a transport."""

    def __init__(self, transport: Any) -> None:
        self.writes: list[bytes] = []
        self.pauses = self.resumes = 0
        self._transport = transport

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)

    def pause_reading(self) -> None:
        self.pauses += 1
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self.resumes += 1
        self._transport.resume_reading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class SpyingDialer(TcpDialer):
    """Connects, and keeps what it has made."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.transports: list[SpiedTransport] = []

    async def dial(self, address: Address, make_link: Callable[[], Link]) -> None:
        def make() -> Link:
            link = make_link()
            made = link.connection_made

            def spied(transport: asyncio.BaseTransport) -> None:
                self.transports.append(SpiedTransport(transport))
                made(self.transports[-1])  # type: ignore[arg-type]

            link.connection_made = spied  # type: ignore[method-assign]
            self.links.append(link)
            return link

        await super().dial(address, make)


def spy_on(client: Client) -> SpyingDialer:
    """To be called before `start()`."""
    dialer = SpyingDialer()
    client._engine._dialer = dialer
    return dialer


def closed_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A port of 127.0.0.1 where connections are neither accepted nor refused: its backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def until(condition: Callable[[], object]) -> None:
    """Returns when a condition holds that nobody reports."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def open_sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    return count
