"""The server's side of TLS on one connection, without its socket.

Rules of this module: bytes in, bytes out, as everywhere in the dev server; a connection that only half shook hands is
closed with all others, and there is nothing to wait for. What the client did wrong is told to it by the TLS alert that
OpenSSL makes of it.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

from everlatch.devserver.subjects import subject
from everlatch.errors import ProtocolError

__all__ = ["Shielding"]

_MOST: Final = 1 << 16


class Shielding:
    """TLS around one connection."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_shaken = False
        """Whether the handshake is done: `subject` can be told, and `wrap` used."""
        self.has_ended = False
        """Whether there is nothing more to come: the client has said so, or it doesn't speak TLS as it should."""

    @property
    def subject(self) -> str | None:
        """Of the client's certificate; `None`: it has shown none."""
        certificate = self._tls.getpeercert(binary_form=True)
        try:
            return None if certificate is None else subject(certificate)
        except ProtocolError:
            return None

    def unwrap(self, data: bytes) -> bytes:
        """What stands in these bytes; `take_output` may have something to answer, also when it has ended."""
        self._incoming.write(data)
        plain = bytearray()
        try:
            if not self.is_shaken:
                self._tls.do_handshake()
                self.is_shaken = True
            while read := self._tls.read(_MOST):
                plain += read
            self.has_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.has_ended = True
        return bytes(plain)

    def wrap(self, data: bytes) -> None:
        """For `take_output`; nothing once it has ended."""
        if self.has_ended:
            return
        for start in range(0, len(data), _MOST):
            self._tls.write(data[start : start + _MOST])

    def end(self) -> None:
        """Tells the client that nothing more will come."""
        if self.is_shaken and not self.has_ended:
            self.has_ended = True
            with contextlib.suppress(ssl.SSLError):  # the client hasn't said so yet
                self._tls.unwrap()

    def take_output(self) -> bytes:
        """What is to be sent."""
        return self._outgoing.read()
