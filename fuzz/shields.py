"""TLS around a connection in memory, and what can be done to it: records changed, lost, doubled, reordered, cut off;
what is no TLS; alerts out of turn; and a server that speaks TLS as it should, and lies inside of it.

Rules of this file: where something is changed, and how, comes from the `Random` that is passed in. What OpenSSL draws
by itself doesn't: the same case has other keys each time, so a replay does the same to other bytes.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

from everlatch.devserver.tls import Shielding
from everlatch.testing.certificates import Certificates
from fuzz.mutation import Mutator

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from random import Random

    from fuzz.line import Line

__all__ = ["ShieldedLine", "Shields"]

_HEADER = 5
_FATAL, _WARNING = 2, 1
_ALERTS = (0, 10, 20, 22, 40, 42, 45, 46, 47, 48, 49, 50, 51, 70, 71, 80, 86, 90, 100, 109, 112, 116, 120, 255)
_NO_TLS = (
    b"",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x00\x00\x00\x25" + bytes(37),
    b"\x16",
    b"\x16\x03\x01",
    b"\x16\x03\x03\xff\xff" + bytes(100),
    b"\x17\x03\x03\x00\x10" + bytes(16),
    b"\x15\x03\x03\x00\x02\x01\x00",
    bytes(2000),
)
_KEY_PASSWORD = "pa55word-of-the-key"
_HOSTS = ("10.0.0.1", "10.0.0.2", "named")
"""As the connect strings of the clients have them."""


class Shields:
    """What all cases have in common: an authority, a server, a client with a certificate."""

    secret = _KEY_PASSWORD

    def __init__(self) -> None:
        directory = tempfile.mkdtemp(prefix="everlatch-fuzz-")
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        certificates = Certificates(directory, *_HOSTS)
        issued = certificates.issue("client", password=_KEY_PASSWORD)
        self.count = 0
        """Of connections."""
        self.context = certificates.server_context()
        self.client_options: dict[str, Any] = {
            "ca": certificates.ca,
            "cert": issued.cert,
            "key": issued.key,
            "key_password": _KEY_PASSWORD,
        }

    def around(self, line: Line, rng: Random, *, is_bad: bool) -> ShieldedLine:
        """The server's end of a connection."""
        self.count += 1
        return ShieldedLine(line, self.context, _spoiler(rng) if is_bad else _nothing)


class ShieldedLine:
    """A `Line`, with TLS on it. `spoil` makes of what the server sends what is delivered."""

    def __init__(self, line: Line, context: ssl.SSLContext, spoil: Callable[[bytes], tuple[bytes, bool]]) -> None:
        self._line = line
        self._tls = Shielding(context)
        self._spoil = spoil
        self._waiting = bytearray()
        self.ends = False
        """Whether the server closes when everything is delivered."""

    @property
    def waiting(self) -> int:
        """How many bytes are to be delivered."""
        return len(self._waiting)

    def receive(self, data: bytes) -> None:
        """What the client has written."""
        if self.ends:
            return
        plain = self._tls.unwrap(data)
        if plain:
            self._line.receive(plain)
            self._tls.wrap(self._line.take(self._line.waiting)[0])
        if self._line.ends:
            self._tls.end()
        spoiled, ends = self._spoil(self._tls.take_output())
        self._waiting += spoiled
        self.ends = ends or self._line.ends or self._tls.has_ended

    def take(self, size: int) -> tuple[bytes, bool]:
        """The next bytes, `size` at most; nothing is promised of them."""
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        return data, False


def _nothing(data: bytes) -> tuple[bytes, bool]:
    return data, False


def _spoiler(rng: Random) -> Callable[[bytes], tuple[bytes, bool]]:
    return rng.choice((_nothing, _NoTls(rng), _Records(rng), _Records(rng), _Cut(rng)))


class _NoTls:
    """Something else listens there."""

    def __init__(self, rng: Random) -> None:
        self._said = rng.choice((*_NO_TLS, rng.randbytes(rng.randrange(1, 300))))
        self._ends = rng.random() < 0.7

    def __call__(self, _: bytes) -> tuple[bytes, bool]:
        said, self._said = self._said, b""
        return said, self._ends


class _Cut:
    """From some byte on there is nothing, or the end."""

    def __init__(self, rng: Random) -> None:
        self._left = rng.choice((1, 5, 50, 500, 2000, 5000)) + rng.randrange(50)
        self._ends = rng.random() < 0.7

    def __call__(self, data: bytes) -> tuple[bytes, bool]:
        data = data[: self._left]
        self._left -= len(data)
        return data, self._ends and not self._left


class _Records:
    """Some records are changed, some not; the first ones, or only later ones."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._mutator = Mutator(rng, [b"\x15\x03\x03\x00\x02\x02\x28", b"\x14\x03\x03\x00\x01\x01", bytes(100)])
        self._passing = rng.choice((0, 0, 1, 2, 4, 6, 10))
        self._rate = rng.choice((0.1, 0.5, 1.0))

    def __call__(self, data: bytes) -> tuple[bytes, bool]:
        records = []
        while data:
            size = _HEADER + int.from_bytes(data[3:_HEADER], "big")
            records += self._changed(data[:size])
            data = data[size:]
        return b"".join(records), False

    def _changed(self, record: bytes) -> list[bytes]:
        rng = self._rng
        self._passing -= 1
        if self._passing >= 0 or rng.random() >= self._rate:
            return [record]
        match rng.randrange(9):
            case 0:
                return []
            case 1:
                return [record, record]
            case 2:
                return [self._alert(), record]
            case 3:
                return [record, self._alert()]
            case 4:  # another type, version or length
                at = rng.randrange(_HEADER)
                return [record[:at] + bytes([rng.randrange(256)]) + record[at + 1 :]]
            case 5:  # its body, of the same length
                at = rng.randrange(_HEADER, len(record))
                return [record[:at] + bytes([record[at] ^ 1 << rng.randrange(8)]) + record[at + 1 :]]
            case 6:  # in two
                at = rng.randrange(_HEADER, len(record))
                return [_record(record[0], record[_HEADER:at]), _record(record[0], record[at:])]
            case 7:
                body = self._mutator.mutate(record[_HEADER:])
                return [_record(record[0], body)]
            case _:
                return [self._mutator.mutate(record)]

    def _alert(self) -> bytes:
        return _record(0x15, bytes([self._rng.choice((_WARNING, _FATAL)), self._rng.choice(_ALERTS)]))


def _record(kind: int, body: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(body).to_bytes(2, "big") + body
