"""An event loop without sockets and without waiting: its clock jumps, and its connections are objects.

Rules of this file: nothing outside of the loop can happen, so a loop that waits for no time waits for ever, and one
that goes round too often or for too long does so too: both end as `StuckError`. Connections are made by whatever
`connect` the loop was given; what a protocol raises goes to the loop's exception handler.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["MemoryTransport", "StuckError", "VirtualLoop"]

_START = 1000.0
_MOST_TURNS = 100_000
_LONGEST = 1e8
_OWN_ADDRESS = ("10.9.9.9", 40_000)


class StuckError(Exception):
    """The loop waits for what can't happen, or never comes to rest."""


class _Selector:
    """Never has anything; waiting is skipped."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        self._loop.turn(timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """`connect(address)` returns what is called with a new transport's protocol; it may wait, or raise `OSError`."""

    virtual_time = True

    def __init__(self, connect: Callable[[tuple[str, int]], Awaitable[Callable[[MemoryTransport], Any]]]) -> None:
        super().__init__()
        self._selector = _Selector(self)
        self._connect = connect
        self._now = _START
        self._turns_left = _MOST_TURNS
        self.errors: list[dict[str, Any]] = []
        """What reached the exception handler."""
        self.set_exception_handler(lambda _, context: self._note(context))

    def _note(self, context: dict[str, Any]) -> None:
        self.errors.append(context)
        if not isinstance(context.get("exception"), Exception | None):
            self._turns_left = 0  # a callback was interrupted: the next one might need to be as well

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def turn(self, timeout: float | None) -> None:
        """One more turn; nothing is ready for `timeout` seconds."""
        self._turns_left -= 1
        if timeout is None:
            raise StuckError("everything waits for something that can't happen")
        if self._turns_left < 0:
            raise StuckError(f"no rest after {_MOST_TURNS} turns of the event loop")
        self._now += timeout
        if self._now > _START + _LONGEST:
            raise StuckError(f"no end after {_LONGEST:g} s of virtual time")

    def allow_more(self) -> None:
        """For cleaning up after a `StuckError`."""
        self._turns_left = _MOST_TURNS
        self._now = _START

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        """Every name has two addresses."""
        await asyncio.sleep(0.01)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"10.1.0.{n}", port)) for n in (1, 2)]

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        """As asyncio's, to a server in memory."""
        serve = await self._connect((host, port))
        protocol = protocol_factory()
        transport = MemoryTransport(self, protocol, (host, port))
        serve(transport)
        protocol.connection_made(transport)
        return transport, protocol


class MemoryTransport(asyncio.Transport):
    """The client's end of a connection; the server's end sets `on_write` and `on_close`."""

    def __init__(self, loop: VirtualLoop, protocol: Any, peer: tuple[str, int]) -> None:
        super().__init__({"sockname": _OWN_ADDRESS, "peername": peer})
        self._loop = loop
        self._protocol = protocol
        self._paused = False
        self._closing = False
        self._unread = bytearray()
        self.on_write: Callable[[bytes], None] = lambda data: None
        self.on_close: Callable[[], None] = lambda: None

    # -- the client's side

    def write(self, data: Any) -> None:
        """What the server receives, at once."""
        if not self._closing:
            self.on_write(bytes(data))

    def pause_reading(self) -> None:
        """Keeps what comes."""
        self._paused = True

    def resume_reading(self) -> None:
        """Passes it on."""
        self._paused = False
        self._loop.call_soon(self._read)

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing

    def close(self) -> None:
        """As `abort`: nothing is buffered."""
        self.lose(None)

    def abort(self) -> None:
        """Closes; the protocol hears of it in the next turn."""
        self.lose(None)

    # -- the server's side

    def deliver(self, data: bytes) -> None:
        """Bytes arrive. Raises what the protocol raises."""
        self._unread += data
        self._read()

    def lose(self, error: Exception | None) -> None:
        """The connection ends; `None`: properly."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        self.on_close()
        self._protocol.connection_lost(error)

    def _read(self) -> None:
        while self._unread and not self._paused and not self._closing:
            if not isinstance(self._protocol, asyncio.BufferedProtocol):
                data, self._unread = bytes(self._unread), bytearray()
                self._protocol.data_received(data)
                return
            buffer: Any = self._protocol.get_buffer(-1)
            size = min(len(buffer), len(self._unread))
            buffer[:size] = self._unread[:size]
            del self._unread[:size]
            self._protocol.buffer_updated(size)
