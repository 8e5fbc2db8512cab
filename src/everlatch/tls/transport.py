"""Connections by TLS, over a plain transport of any event loop.

Not asyncio's own TLS (`create_connection(ssl=…)`): this is the same on every loop and version, can be given up at any
moment without leaving a socket or an exception behind, says why it ended, stops reading when it is told to, and reads
into one buffer for all connections. (asyncio's, when it is cancelled between its connect and its first byte, shakes
hands on, for a minute with a server that is silent.)

Rules of this module:
1. The protocol hears of the connection when the handshake is done, and of nothing before.
2. There is no parting: whoever ends a connection drops it. A server's "close notify" ends it as the end of the
   stream does.
3. What was decrypted before an error is delivered before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from everlatch.tls.problems import broken, handshake_failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.tls.settings import TlsSettings

__all__ = ["Receiver", "TlsTransport", "connect_tls", "receive_buffer", "reset"]

_RECEIVE_SIZE: Final = 1 << 18
_RECORD: Final = 1 << 14
"""The longest that one record may hold."""
_BEGINNING: Final = 16
"""Bytes of the server's first answer that are kept, to see what it is."""
_PATIENCE: Final = 1.0
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_buffers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = weakref.WeakKeyDictionary()


def receive_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """One for all connections of a loop: it is filled and emptied within one turn."""
    buffer = _buffers.get(loop)
    if buffer is None:
        buffer = _buffers[loop] = memoryview(bytearray(_RECEIVE_SIZE))
    return buffer


def reset(transport: asyncio.Transport) -> None:
    """Closes a connection at once. What the kernel has not yet got rid of is dropped: it would go on sending for
    minutes, and a write that is long settled could arrive after all."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        with contextlib.suppress(OSError):  # closed by the peer, or no TCP
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


class Receiver(Protocol):
    """What is at the end of a connection by TLS; all of it as in `asyncio.Protocol`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        ...

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        ...

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended; `None`: the server closed it, or it was aborted."""
        ...

    def pause_writing(self) -> None:
        """The transport is full."""
        ...

    def resume_writing(self) -> None:
        """It takes bytes again."""
        ...


async def connect_tls(
    make_receiver: Callable[[], Receiver], ip: str, port: int, tls: TlsSettings, host: str
) -> TlsTransport:
    """Connects, shakes hands, and has made a receiver, which has heard of it.

    `host`: the name that the server's certificate must have. Raises `TlsError`, and
    `OSError` for the connection below. Cancelled, it leaves nothing.
    """
    loop = asyncio.get_running_loop()
    transport = TlsTransport(make_receiver, tls, host)
    wire = _BufferedWire(transport) if isinstance(loop, asyncio.BaseEventLoop) else _StreamWire(transport)
    await loop.create_connection(lambda: wire, ip, port)
    try:
        await transport.shaken
    except BaseException:
        transport.abort()
        await asyncio.wait({transport.closed}, timeout=_PATIENCE)  # a turn of the loop
        raise
    return transport


class TlsTransport(asyncio.Transport):
    """A connection by TLS: a transport for whoever uses it, and what hears from the one below it."""

    def __init__(self, make_receiver: Callable[[], Receiver], tls: TlsSettings, host: str) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.shaken: asyncio.Future[None] = loop.create_future()
        """Done when the handshake is; or has failed, with the reason."""
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when the socket is closed."""
        self._make_receiver = make_receiver
        self._has_certificate = tls.has_certificate
        self._host = host.partition("%")[0].removesuffix(".")  # no zone, and no dot of the root: certificates have none
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.context().wrap_bio(self._incoming, self._outgoing, server_hostname=self._host)
        # With a buffer it returns a number; the stubs don't know.
        self._read = cast("Callable[[int, memoryview], int]", self._tls.read)
        self._plain = receive_buffer(loop)
        self._raw: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._unsent: list[memoryview] = []
        """What could not be encrypted, because TLS waits for the server."""
        self._heard = b""
        """How what came from the server began."""
        self._answered = False
        self._error: Exception | None = None

    # -- from the transport below ----------------------------------------------------------------------------------

    def raw_made(self, raw: asyncio.Transport) -> None:
        """The connection below is there: the handshake begins."""
        self._raw = raw
        self._shake()

    def raw_received(self, data: bytes | memoryview) -> None:
        """Bytes have come."""
        self._incoming.write(data)
        if self._receiver is not None:
            self._deliver()
        elif not self.shaken.done():
            if len(self._heard) < _BEGINNING:
                self._heard += bytes(data[:_BEGINNING])
            self._shake()

    def raw_lost(self, error: Exception | None) -> None:
        """The connection below has ended."""
        self._raw = None
        self._unsent.clear()
        if not self.shaken.done():
            self._fail(error)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            reason = self._error or self._broken(error) or error
            receiver.connection_lost(reason)
        if not self.closed.done():
            self.closed.set_result(None)

    def raw_full(self) -> None:
        """The transport below is full."""
        if self._receiver is not None:
            self._receiver.pause_writing()

    def raw_writable(self) -> None:
        """It takes bytes again."""
        if self._receiver is not None:
            self._receiver.resume_writing()

    # -- the handshake ---------------------------------------------------------------------------------------------

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert that tells the server
            self._fail(error)
            self.abort()
            return
        self._flush()
        self._receiver = self._make_receiver()
        self._receiver.connection_made(self)
        if not self.shaken.done():
            self.shaken.set_result(None)
        self._deliver()

    def _fail(self, error: BaseException | None) -> None:
        if error is None or isinstance(error, OSError):
            error = handshake_failed(error, self._heard, self._host, self._has_certificate)
        self.shaken.set_exception(error)  # what is no OSError is a bug of ours, and shall look like one
        self.shaken.exception()  # it is no secret if nobody waits for it any more

    def _broken(self, error: Exception | None) -> Exception | None:
        return broken(error, answered=self._answered, has_certificate=self._has_certificate)

    # -- bytes -----------------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Decrypts all that has come. A record is read at a time, whatever is asked for: servers send one for each
        reply."""
        incoming, read, plain = self._incoming, self._read, self._plain
        filled, ended = 0, False
        try:
            while incoming.pending:
                count = read(_RECEIVE_SIZE - filled, plain[filled:])
                if not count:
                    ended = True
                    break
                filled += count
                if filled > _RECEIVE_SIZE - _RECORD:  # there is always room for a whole one
                    self._pass_on(plain[:filled])
                    filled = 0
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._error = self._broken(error)
            ended = True
        if filled:
            self._pass_on(plain[:filled])
        if ended:
            reset(self)
        elif self._unsent or self._outgoing.pending:
            self._send_rest()

    def _pass_on(self, data: memoryview) -> None:
        self._answered = True
        if self._receiver is not None:
            self._receiver.data_received(bytes(data))

    def _send_rest(self) -> None:
        """What waited for the server, and what TLS itself has to say."""
        unsent, self._unsent = self._unsent, []
        for data in unsent:
            self._encrypt(data)
        self._flush()

    def _encrypt(self, data: memoryview) -> None:
        if self._unsent:
            self._unsent.append(data)
            return
        try:
            while data:
                data = data[self._tls.write(data) :]
        except ssl.SSLWantReadError:
            self._unsent.append(data)

    def _flush(self) -> None:
        if self._raw is not None and self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    # -- a transport -----------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends bytes. Does nothing after the end."""
        raw = self._raw
        if raw is None or raw.is_closing():
            return
        try:
            self._encrypt(memoryview(data))
        except ssl.SSLError as error:
            self._error = self._broken(error)
            reset(self)
            return
        raw.write(self._outgoing.read())

    def abort(self) -> None:
        """Closes at once."""
        if self._raw is not None:
            self._raw.abort()

    def close(self) -> None:
        """Closes when what was written is on its way; the server isn't told by TLS (rule 2)."""
        if self._raw is not None:
            self._raw.close()

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        return self._raw is None or self._raw.is_closing()

    def pause_reading(self) -> None:
        """Nothing is read from the socket any more."""
        if self._raw is not None:
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """The socket is read again."""
        if self._raw is not None:
            self._raw.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object`; the rest is the socket's."""
        if name == "ssl_object":
            return self._tls
        return default if self._raw is None else self._raw.get_extra_info(name, default)


class _Wire(asyncio.BaseProtocol):
    """What the transport below reports to."""

    def __init__(self, above: TlsTransport) -> None:
        self._above = above

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._above.raw_made(cast("asyncio.Transport", transport))

    def connection_lost(self, error: Exception | None) -> None:
        self._above.raw_lost(error)

    def pause_writing(self) -> None:
        self._above.raw_full()

    def resume_writing(self) -> None:
        self._above.raw_writable()


class _StreamWire(_Wire, asyncio.Protocol):
    """For uvloop, which reads into a buffer of its own."""

    def data_received(self, data: bytes) -> None:
        self._above.raw_received(data)


class _BufferedWire(_Wire, asyncio.BufferedProtocol):
    """For asyncio's own loops. What is decrypted may go into the same buffer: OpenSSL has a copy of what came."""

    def __init__(self, above: TlsTransport) -> None:
        super().__init__(above)
        self._buffer = receive_buffer(asyncio.get_running_loop())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._above.raw_received(self._buffer[:nbytes])
