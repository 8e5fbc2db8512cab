"""A session on a plain blocking socket that is taken to another server at once: what `raw` is where servers fail.

No queue, no backoff, no pings of its own; it looks at each reply's header, and decodes only what is asked for. Who uses
it decides when a server is given up, and calls `reattach`.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Self

from everlatch.errors import server_error
from everlatch.wire.codes import XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import ConnectRequest, decode_connect_response, encode_connect_request
from everlatch.wire.headers import REPLY_HEADER, frame_request
from everlatch.wire.watch_records import decode_watcher_event

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SessionEndedError", "WireSession"]

_RECEIVE_SIZE = 1 << 16
_FRAME_LIMIT = 1 << 20
_DEFAULT_PATIENCE_S = 1.0


class SessionEndedError(Exception):
    """The servers have ended the session: the measurement is void."""


class WireSession:
    """A session at the first of these servers that takes it; ended with the `with` block.

    `patience_s`: for how long a server may be silent, in the handshake and before a reply, until `TimeoutError`.
    """

    def __init__(self, addresses: Sequence[str], timeout_s: float, *, patience_s: float = _DEFAULT_PATIENCE_S) -> None:
        self._addresses = deque(addresses)
        self._timeout_ms = round(timeout_s * 1000)
        self._patience_s = patience_s
        self.session_id = 0
        self._password = bytes(16)
        self._zxid = 0
        self._events: list[tuple[int, str]] = []
        self._frames: deque[bytes] = deque()
        self._attach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.call(Op.CLOSE_SESSION, b"")
        except OSError:
            pass  # the session ends by its timeout, nobody waits for it
        finally:
            self._socket.close()

    @property
    def address(self) -> str:
        """Of the server in use."""
        return self._addresses[0]

    def fileno(self) -> int:
        """To be told when something comes, by `select`."""
        return self._socket.fileno()

    def reattach(self) -> None:
        """Leaves this server for the next."""
        self._socket.close()
        self._addresses.rotate(-1)
        self._attach()

    def call(self, op: Op, body: bytes) -> bytes:
        """The body of the reply. Raises `OSError` if there is none, and the server's refusal."""
        self._xid += 1
        self._socket.sendall(frame_request(self._xid, op, body))
        while True:
            reply = self._next_frame()
            xid, zxid, code = REPLY_HEADER.unpack_from(reply)
            if xid == self._xid:
                break
            self._take_other(xid, reply)
        self._zxid = max(self._zxid, zxid)
        if code:
            raise server_error(code, op.name, "")
        return reply[REPLY_HEADER.size :]

    def ping(self) -> None:
        """Sends a ping; its answer comes when it comes."""
        self._socket.sendall(frame_request(XID_PING, Op.PING, b""))

    def take_events(self) -> list[tuple[int, str]]:
        """The watch events that have come, `(type, path)`. Blocks until something has come: use `select` first."""
        if not self._events:
            reply = self._next_frame()
            self._take_other(REPLY_HEADER.unpack_from(reply)[0], reply)
        events, self._events = self._events, []
        return events

    @property
    def has_events(self) -> bool:
        """Whether some came beside a reply: `select` doesn't tell of those any more."""
        return bool(self._events or self._frames)

    def _take_other(self, xid: int, reply: bytes) -> None:
        if xid == XID_NOTIFICATION:
            kind, _, path = decode_watcher_event(reply, REPLY_HEADER.size, len(reply))
            self._events.append((kind, path))

    def _attach(self) -> None:
        while True:
            try:
                self._connect()
                return
            except OSError:
                self._socket.close()
                self._addresses.rotate(-1)

    def _connect(self) -> None:
        host, _, port = self.address.rpartition(":")
        self._socket = socket.socket()
        self._socket.settimeout(self._patience_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect((host, int(port)))
        self._reader = FrameReader(_FRAME_LIMIT)
        self._frames.clear()
        self._events.clear()
        self._xid = 0
        request = ConnectRequest(0, self._zxid, self._timeout_ms, self.session_id, self._password, False)
        self._socket.sendall(frame(encode_connect_request(request)))
        answer = self._next_frame()
        granted = decode_connect_response(answer, 0, len(answer))
        if not granted.timeout_ms:
            raise SessionEndedError(f"{self.address} says that the session has ended")
        self.session_id, self._password = granted.session_id, granted.password

    def _next_frame(self) -> bytes:
        while not self._frames:
            received = self._socket.recv(_RECEIVE_SIZE)
            if not received:
                raise ConnectionError(f"{self.address} has closed the connection")
            self._frames.extend(buffer[start:end] for buffer, start, end in self._reader.feed(received))
        return self._frames.popleft()
