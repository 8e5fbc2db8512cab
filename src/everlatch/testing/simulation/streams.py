"""TCP between two hosts: the two ends of a connection, each of them an asyncio transport.

Rules, which are those of TCP on Linux:
1. Bytes of one direction come in order, and before the end of the stream behind them. Whether the end is orderly (FIN)
   or not (RST), what came before it is read first.
2. The kernel takes bytes for a process that doesn't read, up to a window; beyond it they wait with the sender, whose
   protocol is told to pause above the high-water mark.
3. Who closes a socket sends FIN, or RST if there was something that he hasn't read; bytes for a closed socket are
   answered with RST. A process that dies closes all its sockets like that: its kernel still sends what it had taken.
4. A machine that loses its power says nothing; when it is back it answers what still comes with RST.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
from typing import TYPE_CHECKING, Any, Final

from everlatch.testing.simulation.routes import Lane

if TYPE_CHECKING:
    import contextvars

    from everlatch.testing.simulation.network import Network
    from everlatch.testing.simulation.process import Process
    from everlatch.testing.simulation.routes import Route

__all__ = ["ACCEPT", "FIN", "RST", "MemoryTransport", "Stream"]

_WINDOW: Final = 1 << 18
"""What the kernels of both hosts hold of one direction."""
_HIGH_WATER: Final = 1 << 16
_READ_SIZE: Final = 1 << 18


class _Sign:
    """Something in a stream that isn't bytes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


ACCEPT: Final = _Sign("ACCEPT")
"""The last packet of the handshake."""
FIN: Final = _Sign("FIN")
RST: Final = _Sign("RST")


class Stream:
    """One connection, with both its ends. `number` counts the connections of a world."""

    def __init__(self, network: Network, number: int, client: MemoryTransport, server: MemoryTransport) -> None:
        self.network, self.number, self.client, self.server = network, number, client, server

    def __repr__(self) -> str:
        return f"connection {self.number} ({self.client.name} to {self.server.name}:{self.server.port})"

    @property
    def ends(self) -> tuple[MemoryTransport, MemoryTransport]:
        """Client's and server's."""
        return self.client, self.server

    def reset(self) -> None:
        """Both ends get RST at once, and what is on its way is lost: a firewall or load balancer forgot the
        connection."""
        self.network.note(f"{self} reset")
        for end in self.ends:
            end.lane.clear()
            # Not from within whoever asks for it: that may be one of the ends.
            loop = self.network.loop
            loop.schedule(loop.moment, functools.partial(end.arrive, [RST]))

    def truncate(self, source: str, after: int) -> None:
        """From the host `source` only `after` more bytes come; then the stream ends for both, as when a proxy in
        between dies."""
        sender = self.client if self.client.name == source else self.server
        self.network.note(f"{self} ends after {after} more bytes from {source}")
        sender.limit = after
        if after == 0:
            sender.break_off()


class MemoryTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(
        self,
        network: Network,
        process: Process | None,
        route: Route,
        own: tuple[str, int],
        peer: tuple[str, int],
        context: contextvars.Context,
    ) -> None:
        super().__init__({"sockname": own, "peername": peer, "socket": None})
        self.network, self.process, self.context = network, process, context
        self.name = route.source.name
        self.port = own[1]
        self.loop = network.loop
        self.lane = Lane(route, self._deliver)
        self.peer: MemoryTransport
        self.stream: Stream
        self.limit: int | None = None
        """How many more bytes the network carries from here."""
        self.is_gone = False
        """Whether the kernel has closed the socket."""
        self._protocol: asyncio.BaseProtocol | None = None
        self._buffered: asyncio.BufferedProtocol | None = None
        # What came in.
        self._inbox: list[bytes] = []
        self._end: _Sign | None = None
        self._end_seen = False
        self._reads = True
        self._read_scheduled = False
        # What goes out.
        self._unread = 0
        """Bytes in the window."""
        self._waiting = bytearray()
        """Bytes beyond it."""
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        self._writer_paused = False
        self._fin_sent = self._eof_wanted = False
        self._closing = False

    def __repr__(self) -> str:
        return f"<{self.name}'s end of {self.stream}{', closing' if self._closing else ''}>"

    # -- from the network

    def _deliver(self, things: list[Any]) -> None:
        self.peer.arrive(things)

    def arrive(self, things: list[Any]) -> None:
        """Bytes and signs get to this host."""
        for thing in things:
            if thing is ACCEPT:
                self.network.accept(self)
            elif self.is_gone or self.process is None:
                if thing is not RST and thing is not FIN:
                    self._refuse()
                    return
            elif thing is RST or thing is FIN:
                if self._end is None or thing is RST:
                    self._end = thing
            elif self._end is None:
                self._inbox.append(thing)
                self.network.witness(self.stream.number, thing)
        if not self._reads or self._read_scheduled or self.is_gone or self._protocol is None:
            self._end_while_writing()
        elif self.process is not None and self.process.running:
            self.context.run(self._read)
        else:
            self._schedule_read()

    def _end_while_writing(self) -> None:
        """Whoever has closed, and only waits for his bytes to be taken, reads no more: RST reaches him all the same."""
        if self._end is RST and self._closing and not self.is_gone and not self._reads:
            self._fail(_reset())

    def _refuse(self) -> None:
        """Bytes for a socket that isn't there."""
        self.lane.send(RST)

    def _schedule_read(self) -> None:
        if not self._read_scheduled:
            self._read_scheduled = True
            self.loop.call_soon(self._scheduled_read, context=self.context)

    def _scheduled_read(self) -> None:
        self._read_scheduled = False
        self._read()

    def _read(self) -> None:
        if self._closing or not self._reads or self.is_gone:
            return
        if self._inbox:
            self._read_bytes()
            if (self._inbox or self._end is not None) and self._reads:
                self._schedule_read()
        elif self._end is RST:
            self._fail(_reset())
        elif self._end is FIN and not self._end_seen:
            self._end_seen = True
            self._read_eof()

    def _read_bytes(self) -> None:
        data = self._inbox[0] if len(self._inbox) == 1 else b"".join(self._inbox)
        self._inbox.clear()
        if len(data) > _READ_SIZE:
            self._inbox.append(data[_READ_SIZE:])
            data = data[:_READ_SIZE]
        try:
            taken = self._hand_over(data)
        except Exception as error:  # as asyncio's transports: the connection ends, the handler hears of it
            self._fatal(error, "data")
            return
        if taken < len(data):
            self._inbox.insert(0, data[taken:])
        self.peer.was_read(taken)

    def _hand_over(self, data: bytes) -> int:
        if self._buffered is None:
            self._protocol.data_received(data)  # type: ignore[union-attr]
            return len(data)
        buffer = memoryview(self._buffered.get_buffer(-1))
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size] if size < len(data) else data
        self._buffered.buffer_updated(size)
        return size

    def _read_eof(self) -> None:
        try:
            stays_open = self._protocol.eof_received()  # type: ignore[union-attr]
        except Exception as error:
            self._fatal(error, "the end of the stream")
            return
        if not stays_open:
            self.close()

    def was_read(self, size: int) -> None:
        """The other end has read so much of what was written here."""
        self._unread -= size
        if self._waiting and self.process is not None:
            if self.process.running:
                self._fill_window()
            else:  # only the process can hand more to its kernel
                self.loop.call_soon(self._fill_window, context=self.context)

    # -- for protocols

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who hears of what happens."""
        self._protocol = protocol
        self._buffered = protocol if isinstance(protocol, asyncio.BufferedProtocol) else None

    def begin(self, protocol: Any) -> Any:
        """The process has the connection now."""
        self.set_protocol(protocol)
        protocol.connection_made(self)
        if self._reads and (self._inbox or self._end is not None):
            self._schedule_read()
        return protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who does."""
        assert self._protocol is not None
        return self._protocol

    def is_reading(self) -> bool:
        """Whether it does."""
        return self._reads and not self._closing

    def pause_reading(self) -> None:
        """What comes stays with the kernel."""
        self._reads = False

    def resume_reading(self) -> None:
        """It is read again."""
        if self._closing or self._reads:
            return
        self._reads = True
        if self._inbox or (self._end is not None and not self._end_seen):
            self._schedule_read()

    # -- writing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Bytes for the other end."""
        if self._eof_wanted:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self.is_gone or self._closing:
            return
        if self._end is RST:
            self._fail(_reset())
            return
        size = len(data)
        if not self._waiting and self._unread + size <= _WINDOW:
            self._unread += size
            self._transmit(bytes(data))
            return
        self._waiting += data
        self._fill_window()
        if len(self._waiting) > self._high and not self._writer_paused:
            self._writer_paused = True
            self._protocol.pause_writing()  # type: ignore[union-attr]

    def _transmit(self, data: bytes) -> None:
        if self.limit is None:
            self.lane.send_bytes(data)
            return
        if self.limit < 0:
            return
        carried = data[: self.limit]
        self.limit -= len(carried)
        if carried:
            self.lane.send_bytes(carried)
        if self.limit == 0:
            self.break_off()

    def break_off(self) -> None:
        """Nothing more is carried from here: FIN follows what is on its way, and this end gets RST."""
        if self.limit is not None and self.limit >= 0:
            self.limit = -1
            self.lane.send(FIN)
            self.peer.lane.send(RST)

    def _fill_window(self) -> None:
        room = _WINDOW - self._unread
        if room > 0 and self._waiting:
            data = bytes(self._waiting[:room])
            del self._waiting[:room]
            self._unread += len(data)
            self._transmit(data)
        if len(self._waiting) <= self._low and self._writer_paused and not self._closing:
            self._writer_paused = False
            self.loop.call_soon(self._resume_writing, context=self.context)
        if not self._waiting:
            self._all_sent()

    def _resume_writing(self) -> None:
        if not self.is_gone and not self._writer_paused:
            self._protocol.resume_writing()  # type: ignore[union-attr]

    def _all_sent(self) -> None:
        if self._closing and not self.is_gone:
            self.loop.call_soon(self._lost, None, context=self.context)
        elif self._eof_wanted:
            self._send_fin()

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel hasn't taken."""
        return len(self._waiting)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high water."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio's."""
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        self._high, self._low = high, high // 4 if low is None else low

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """The other end sees the end of the stream behind what was written; it may go on writing."""
        if not self._eof_wanted and not self._closing:
            self._eof_wanted = True
            if not self._waiting:
                self._send_fin()

    def _send_fin(self) -> None:
        if not self._fin_sent and self.limit is None:
            self._fin_sent = True
            self.lane.send(FIN)

    # -- the end

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing

    def close(self) -> None:
        """Closes when everything is written."""
        if not self._closing:
            self._closing, self._reads = True, False
            if not self._waiting:
                self.loop.call_soon(self._lost, None, context=self.context)
            elif self._end is RST:
                self._fail(_reset())

    def abort(self) -> None:
        """Closes at once; what the kernel has taken still goes out."""
        self._fail(None)

    def _fatal(self, error: Exception, what: str) -> None:
        self.loop.call_exception_handler(
            {"message": f"{self._protocol!r} failed on {what}", "exception": error, "transport": self}
        )
        self._fail(error)

    def _fail(self, error: Exception | None) -> None:
        if self.is_gone or (self._closing and not self._waiting):
            return
        self._closing, self._reads = True, False
        self._waiting.clear()
        self.loop.call_soon(self._lost, error, context=self.context)

    def _lost(self, error: Exception | None) -> None:
        if self.is_gone:
            return
        self.network.note(f"{self.stream} closed by {self.name}{f': {error}' if error is not None else ''}")
        self.leave()
        self._protocol.connection_lost(error)  # type: ignore[union-attr]

    def leave(self) -> None:
        """The socket is closed, by its process or because that has died. Rule 3."""
        if self.is_gone:
            return
        self.is_gone = self._closing = True
        if self.process is not None:
            self.process.ends.pop(self, None)
        self._waiting.clear()
        if self._end is not RST and self.limit is None:
            if self._inbox:
                self.lane.send(RST)
            else:
                self._send_fin()
        self._inbox.clear()
        self.network.left(self)

    def vanish(self) -> None:
        """The machine has lost its power. Rule 4."""
        self.is_gone = self._closing = True
        self.lane.clear()
        self._waiting.clear()
        self._inbox.clear()
        self.network.left(self)


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
