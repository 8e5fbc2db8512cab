"""A connection to one server, plain or by TLS, on which one session is to be ended.

Part of the guardian's process; see `process`. Nothing here waits: who has the connection polls its socket for `events`
and calls `go_on`.
"""

import contextlib
import errno
import os
import select
import socket

from everlatch.guardian.exchange import FailedError, Session, goodbye

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

__all__ = ["Attempt", "Certificates"]

LARGEST_FRAME = 1 << 20
_RECEIVE = 1 << 16


class Certificates:
    """A TLS context, made of files; made anew when they have changed, so that certificates can be rotated.

    `tls` has paths of PEM files, the key's password, and whether names are verified, as `everlatch.tls` has them: `(ca,
    cert, key, key_password, check_hostname)`.
    """

    def __init__(self, tls: "tuple[str | None, str | None, str | None, str | None, bool]") -> None:
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._state: object = None

    def context(self) -> "ssl.SSLContext":
        """That of the files as they are, or as they were when they could be loaded last. Raises `OSError`."""
        state = [_state_of(path) for path in self._tls[:3] if path is not None]
        if self._context is None or state != self._state:
            try:
                self._context = self._load()
            except OSError:
                if self._context is None:
                    raise
            self._state = state
        return self._context

    def begin(self, host: str) -> "tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]":
        """For a connection to this host: what encrypts, and what is written to and read from for it. Raises
        `OSError`."""
        import ssl

        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = host.partition("%")[0].removesuffix(".")  # no zone, and no dot of the root: certificates have none
        return self.context().wrap_bio(incoming, outgoing, server_hostname=name), incoming, outgoing

    def _load(self) -> "ssl.SSLContext":
        import ssl  # five megabytes

        ca, cert, key, password, check_hostname = self._tls
        context = ssl.create_default_context(cafile=ca)
        context.check_hostname = check_hostname
        context.options |= ssl.OP_NO_RENEGOTIATION
        if cert is not None:
            context.load_cert_chain(cert, key, lambda: password or "")
        return context


def _state_of(path: str) -> "tuple[int, int, int] | None":
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class Attempt:
    """Connects at once; `go_on` does the rest. Raises `OSError` and `ValueError` like all of its methods, and they
    `FailedError`."""

    def __init__(self, session: Session, ip: str, port: int, host: str, certificates: "Certificates | None") -> None:
        self.has_answered = False
        """Whether the server has taken the session, and has only to commit its end."""
        self._script = goodbye(session, host)
        self._is_connected = False
        self._in = b""
        self._out = b""
        self._tls: ssl.SSLObject | None = None
        if certificates is not None:
            self._tls, self._incoming, self._outgoing = certificates.begin(host)
        self._is_shaken = self._tls is None
        self.socket = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            problem = self.socket.connect_ex((ip, port))
            if problem not in (0, errno.EINPROGRESS):
                raise OSError(problem, "connect")
        except BaseException:
            self.socket.close()
            raise

    @property
    def events(self) -> int:
        """What to poll for."""
        return select.POLLIN | (select.POLLOUT if self._out or not self._is_connected else 0)

    def go_on(self) -> bool:
        """The socket is ready. Returns whether the session is gone."""
        if not self._is_connected:
            self._connected()
            return False
        self._flush()
        try:
            data = self.socket.recv(_RECEIVE)
        except BlockingIOError:
            return False
        if not data:
            raise FailedError
        is_gone = self._heard(data)
        self._flush()
        return is_gone

    def _connected(self) -> None:
        problem = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, "connect")
        if self.socket.getsockname() == self.socket.getpeername():
            raise FailedError  # ourselves: TCP allows that where nobody listens, and our words would be the answer
        self._is_connected = True
        if self._is_shaken:
            self._say(next(self._script))
        else:
            self._shake()
        self._flush()

    def _heard(self, data: bytes) -> bool:
        if self._tls is None:
            return self._received(data)
        self._incoming.write(data)
        if not self._is_shaken:
            self._shake()
        is_gone = False
        while self._is_shaken and not is_gone:
            try:
                plain = self._tls.read(_RECEIVE)
            except OSError as error:
                if _wants_more(error):
                    break
                raise
            if not plain:
                raise FailedError
            is_gone = self._received(plain)
        return is_gone

    def _shake(self) -> None:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except OSError as error:
            if not _wants_more(error):
                self._take_encrypted()  # the alert that tells the server
                self._flush()
                raise
            self._take_encrypted()
            return
        self._take_encrypted()
        self._is_shaken = True
        self._say(next(self._script))

    def _say(self, frame: bytes) -> None:
        if self._tls is None:
            self._out += frame
        else:
            self._tls.write(frame)
            self._take_encrypted()

    def _take_encrypted(self) -> None:
        self._out += self._outgoing.read()

    def _flush(self) -> None:
        if self._out:
            with contextlib.suppress(BlockingIOError):
                self._out = self._out[self.socket.send(self._out) :]

    def _received(self, data: bytes) -> bool:
        self._in += data
        while len(self._in) >= 4:
            size = int.from_bytes(self._in[:4], "big", signed=True)
            if not 0 <= size <= LARGEST_FRAME:
                raise FailedError
            if len(self._in) < 4 + size:
                break
            payload, self._in = self._in[4 : 4 + size], self._in[4 + size :]
            self.has_answered = True
            try:
                frame = self._script.send(payload)
            except StopIteration:
                return True
            self._say(frame)
        return False


def _wants_more(error: OSError) -> bool:
    return type(error).__name__ == "SSLWantReadError"
