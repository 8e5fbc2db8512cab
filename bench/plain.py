"""A minimal blocking ZooKeeper connection on a plain socket, independent of the clients that are measured.

It is the floor of the `raw` contestant, and prepares and cleans what the others work on. No reconnecting, no pings:
a connection lives for one short task.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["NO_NODE", "Op", "PlainConnection", "PlainError", "bodies", "read_names"]

NO_NODE = -101
NODE_EXISTS = -110

_HEADER = struct.Struct("!iii")
_REPLY = struct.Struct("!iqi")
_INT = struct.Struct("!i")
_RECEIVE_SIZE = 1 << 18
_SESSION_TIMEOUT_MS = 30_000
_IO_TIMEOUT_S = 60.0


class Op:
    """The operation codes that the benchmark needs."""

    CREATE = 1
    DELETE = 2
    GET_DATA = 4
    SET_DATA = 5
    GET_CHILDREN = 8
    CLOSE = -11


class PlainError(Exception):
    """The server closed the connection or refused a request."""


class bodies:  # noqa: N801 - a namespace of functions
    """Request bodies."""

    @staticmethod
    def text(value: str) -> bytes:
        encoded = value.encode()
        return _INT.pack(len(encoded)) + encoded

    @staticmethod
    def get(path: str) -> bytes:
        return bodies.text(path) + b"\0"

    children = get

    @staticmethod
    def set(path: str, data: bytes) -> bytes:
        return bodies.text(path) + _INT.pack(len(data)) + data + _INT.pack(-1)

    @staticmethod
    def create(path: str, data: bytes) -> bytes:
        acl = _INT.pack(1) + _INT.pack(31) + bodies.text("world") + bodies.text("anyone")
        return bodies.text(path) + _INT.pack(len(data)) + data + acl + _INT.pack(0)

    @staticmethod
    def delete(path: str) -> bytes:
        return bodies.text(path) + _INT.pack(-1)


def read_names(body: bytes) -> list[str]:
    """The names in a reply to `GET_CHILDREN`."""
    names = []
    offset = 4
    for _ in range(_INT.unpack_from(body)[0]):
        end = offset + 4 + _INT.unpack_from(body, offset)[0]
        names.append(body[offset + 4 : end].decode())
        offset = end
    return names


class PlainConnection:
    """A session of its own; closed, with the session, at the end of the `with` block."""

    def __init__(self, address: str, ca: str = "") -> None:
        """`ca`: the file of an authority; by TLS, to a server of it."""
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=_IO_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ca:
            context = ssl.create_default_context(cafile=ca)
            self.socket = context.wrap_socket(self.socket, server_hostname=host.strip("[]"))
        self._xid = 0
        self._frames = self._read_frames()
        self.socket.sendall(struct.pack("!iiqiqi16s?", 45, 0, 0, _SESSION_TIMEOUT_MS, 0, 16, bytes(16), False))
        next(self._frames)
        # From here on blocking without a timeout, which in Python costs a poll() per call; a hang is cut by whoever
        # started the process.
        self.socket.settimeout(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.socket.sendall(self.request(Op.CLOSE, b""))
            while self.socket.recv(_RECEIVE_SIZE):
                pass
        except OSError:
            pass  # the server was first: the session ends by its timeout, nobody waits for it
        finally:
            self.socket.close()

    def request(self, op: int, body: bytes) -> bytes:
        """A frame with the next xid."""
        self._xid = xid = self._xid + 1
        return _HEADER.pack(len(body) + 8, xid, op) + body

    def call(self, op: int, body: bytes) -> bytes:
        """One request; the body of its reply."""
        self.socket.sendall(self.request(op, body))
        return self._checked(next(self._frames))

    def pipeline(self, op: int, requests: Iterable[bytes], window: int = 1000) -> int:
        """Many requests with at most `window` unanswered. Those that find their work done already are fine."""
        outstanding = sent = 0
        batch: list[bytes] = []
        for body in requests:
            batch.append(self.request(op, body))
            if len(batch) * 2 >= window:
                sent += len(batch)
                outstanding += self._send(batch)
                outstanding -= self._receive(max(0, outstanding - window // 2))
        sent += len(batch)
        self._receive(outstanding + self._send(batch))
        return sent

    def _send(self, batch: list[bytes]) -> int:
        number = len(batch)
        self.socket.sendall(b"".join(batch))
        batch.clear()
        return number

    def _receive(self, number: int) -> int:
        for _ in range(number):
            self._checked(next(self._frames), allowed=(0, NODE_EXISTS, NO_NODE))
        return number

    @staticmethod
    def _checked(frame: bytes, allowed: tuple[int, ...] = (0,)) -> bytes:
        _, _, code = _REPLY.unpack_from(frame)
        if code not in allowed:
            raise PlainError(f"the server refused a request of the benchmark's preparation with code {code}")
        return frame[_REPLY.size :]

    def _read_frames(self) -> Iterator[bytes]:
        buffer = bytearray()
        while True:
            while len(buffer) >= 4 and len(buffer) >= (end := 4 + _INT.unpack_from(buffer)[0]):
                frame = bytes(buffer[4:end])
                del buffer[:end]
                yield frame
            received = self.socket.recv(_RECEIVE_SIZE)
            if not received:
                raise PlainError("the server closed the connection of the benchmark's preparation")
            buffer += received
