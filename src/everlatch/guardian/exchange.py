"""What is said to a server to end a session: handshake, credentials, closeSession.

Part of the guardian's process; see `process`. Rules: replies are looked at as far as it takes to know whether the
session is gone; whatever is strange makes this attempt fail, and another server may do better.
"""

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, TypeAlias

    Script: TypeAlias = Generator[bytes, bytes, None]

__all__ = ["FailedError", "Session", "goodbye", "load_digest_md5", "sasl_request", "sasl_token"]

_CLOSE_SESSION = b"\0\0\0\x08\0\0\0\x01\xff\xff\xff\xf5"
_SASL_HEADER = b"\0\0\0\0\0\0\0\x66"
_XID_CLOSE, _XID_AUTH, _XID_SASL = 1, -4, 0
_SESSION_EXPIRED = -112
_HEADER = 16
_DIGEST_MD5 = "everlatch.wire.digest_md5"


class FailedError(Exception):
    """An attempt has failed."""


class Session:
    """What is known of a client's session. Its attributes come in this order in a message."""

    def __init__(
        self,
        timeout: float,
        servers: "list[tuple[str, int]]",
        used: "tuple[str, int, str] | None",
        handshake: bytes,
        authentication: "list[bytes]",
        sasl: "tuple[str, str] | None",
        tls: "tuple[Any, ...] | None",
        kerberos: "tuple[Any, ...] | None" = None,
    ) -> None:
        self.timeout = timeout
        """Seconds."""
        self.servers = servers
        """Hosts and ports in the order in which to try them."""
        self.used = used
        """IP address, port and host of the server in use."""
        self.handshake = handshake
        """The frame of the ConnectRequest."""
        self.authentication = authentication
        """Frames of auth requests."""
        self.sasl = sasl
        """User and password, for DIGEST-MD5."""
        self.tls = tls
        """What `connection.Certificates` is made of."""
        self.kerberos = kerberos
        """What a `Kerberos` is made of; only a deputy can make it."""
        self.prove: Callable[[str], Script] | None = None
        """How a deputy authenticates with a host."""

    def about(self) -> "tuple[Any, ...]":
        """As it was told."""
        servers, used, frames = self.servers, self.used, self.authentication
        return self.timeout, servers, used, self.handshake, frames, self.sasl, self.tls, self.kerberos


def goodbye(session: Session, host: str) -> "Script":
    """Yields frames, is sent the payloads of the replies, and returns when the session is gone. Raises `FailedError`,
    or `ValueError` for tokens that make no sense."""
    reply = yield session.handshake
    if len(reply) < _HEADER:
        raise FailedError
    # Timeout 0: it has expired. (Look-alikes of ZooKeeper grant another session instead.)
    if int.from_bytes(reply[4:8], "big", signed=True) <= 0 or reply[8:16] != session.handshake[20:28]:
        return
    if session.sasl is not None:
        yield from _prove(*session.sasl)
    elif session.prove is not None:
        yield from session.prove(host)
    for frame in session.authentication:
        _check(_XID_AUTH, (yield frame))
    reply = yield _CLOSE_SESSION
    if _error(_XID_CLOSE, reply) != _SESSION_EXPIRED:
        _check(_XID_CLOSE, reply)


def _prove(username: str, password: str) -> "Script":
    """DIGEST-MD5: an empty token, the answer to the server's challenge, and the server's own proof."""
    from everlatch.wire.digest_md5 import is_proof, respond

    challenge = sasl_token((yield sasl_request(b"")))
    token, expected = respond(challenge or b"", username, password, os.urandom(18).hex())
    if not is_proof(sasl_token((yield sasl_request(token))) or b"", expected):
        raise FailedError


def sasl_request(token: bytes) -> bytes:
    """The frame of a token."""
    body = _SASL_HEADER + len(token).to_bytes(4, "big") + token
    return len(body).to_bytes(4, "big") + body


def sasl_token(reply: bytes) -> "bytes | None":
    """That of the server; `None`: it had none to say. Raises `FailedError`."""
    _check(_XID_SASL, reply)
    size = int.from_bytes(reply[_HEADER : _HEADER + 4], "big", signed=True)
    if size < 0:
        return None
    return reply[_HEADER + 4 : _HEADER + 4 + size]


def _check(xid: int, reply: bytes) -> None:
    if _error(xid, reply):
        raise FailedError


def _error(xid: int, reply: bytes) -> int:
    if len(reply) < _HEADER or int.from_bytes(reply[:4], "big", signed=True) != xid:
        raise FailedError
    return int.from_bytes(reply[12:16], "big", signed=True)


def load_digest_md5(code: bytes) -> None:
    """Has it ready; `code` is what `marshal` has made of it.

    Its `hashlib` and `hmac` would bring all of OpenSSL, four megabytes, for one old digest, which Python has built in:
    what it needs of them is put into their place.
    """
    try:
        from _md5 import md5  # type: ignore[import-not-found]
        from _operator import _compare_digest
    except ImportError:
        pass
    else:
        for name, attribute, value in (("hashlib", "md5", md5), ("hmac", "compare_digest", _compare_digest)):
            sys.modules.setdefault(name, type(sys)(name)).__dict__.setdefault(attribute, value)
    module = type(sys)(_DIGEST_MD5)
    exec(marshal.loads(code), module.__dict__)  # noqa: S102, S302 (our owner's; nobody else can write there)
    sys.modules[_DIGEST_MD5.rpartition(".")[0]] = type(sys)(_DIGEST_MD5)
    sys.modules[_DIGEST_MD5] = module
