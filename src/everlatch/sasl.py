"""SASL: what a client proves its identity with to servers that are set up for it.

    Client("zk1:2181,zk2:2181", sasl=DigestMd5("bob", "secret"))

A mechanism belongs to a client; for every connection it begins an exchange of tokens anew. `Kerberos` is in
`everlatch.kerberos`, and needs the extra `kerberos`.

Rules: no name of a mechanism's class, no repr and no error has a password or a token in it. An exchange that doesn't
understand the server raises `SaslTokenError`; what the server refuses, it says itself.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Protocol

from everlatch.errors import InvalidArgumentError, InvalidTypeError
from everlatch.wire.digest_md5 import DigestMd5Error, is_proof, respond

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DigestMd5", "SaslExchange", "SaslMechanism", "SaslRefusedError", "SaslTokenError"]


class SaslTokenError(Exception):
    """An exchange can't go on: the server's token is not to be understood, or there is no ticket. Ends an attempt to
    connect; the client goes on to the next server."""


class SaslRefusedError(SaslTokenError):
    """It is not worth another attempt: whoever knows has refused the credentials. Ends the client, as a server's own
    refusal does."""


class SaslExchange(Protocol):
    """The tokens of one connection."""

    def step(self, challenge: bytes | None) -> bytes | None:
        """The token that follows on the server's, which is empty at first; `None`: it is done, and nothing is sent.

        `challenge` is `None` when the server had nothing to say. Raises `SaslTokenError`.
        """
        ...

    def refused(self) -> bool:
        """The server has refused what it got. Whether the next exchange may do better, as with new tickets; if not, the
        client has failed. Is not to wait for anything."""
        ...


class SaslMechanism(Protocol):
    """What `Client(sasl=…)` takes: `DigestMd5`, `Kerberos`, or one of your own."""

    @property
    def name(self) -> str:
        """As in the registry of SASL mechanisms, for messages."""
        ...

    @property
    def is_blocking(self) -> bool:
        """Whether a step may take its time (files, other servers): it is then made in a thread."""
        ...

    def begin(self, host: str) -> SaslExchange:
        """A new exchange, with the server of this name or address in the connect string."""
        ...

    def keep_fresh(self) -> Callable[[], float] | None:
        """What is to be called now and then, in a thread, while the client is connected; it returns in how many seconds
        next. `None`: nothing is. Raises `SaslTokenError`."""
        ...


class DigestMd5:
    """A name and a password that the servers know (`DigestLoginModule`): SASL's DIGEST-MD5.

    The password itself is not sent, but who listens can try passwords out on what is: use it over TLS. Java's client
    refuses it in FIPS mode, servers up to 3.9.5 don't. Raises `InvalidArgumentError`, `InvalidTypeError`.
    """

    name = "DIGEST-MD5"
    is_blocking = False

    def __init__(self, username: str, password: str) -> None:
        for what, value in (("a username", username), ("a password", password)):
            if not isinstance(value, str):
                raise InvalidTypeError(f"{what} is str, not {type(value).__name__}")
            if not _is_encodable(value) or "\0" in value:
                raise InvalidArgumentError(f"{what} for DIGEST-MD5 has characters that can't be sent")
        if not username:
            raise InvalidArgumentError("a username for DIGEST-MD5 can't be empty")
        self.username = username
        self._password = password

    def __repr__(self) -> str:
        return f"DigestMd5({self.username!r}, …)"

    @property
    def password(self) -> str:
        """Secret: keep it out of logs."""
        return self._password

    def begin(self, host: str) -> SaslExchange:
        """`host` is of no importance: all servers have one name here."""
        return _DigestMd5Exchange(self, self._new_nonce())

    def keep_fresh(self) -> None:
        """Nothing runs out."""

    def _new_nonce(self) -> str:
        """For each exchange another one. What has to be repeated (a simulation, the fuzzer) takes it from a seed."""
        return secrets.token_urlsafe(24)


class _DigestMd5Exchange:
    """An empty token; an answer to the server's challenge; and the server's proof is looked at."""

    def __init__(self, mechanism: DigestMd5, nonce: str) -> None:
        self._mechanism = mechanism
        self._nonce = nonce
        self._has_begun = False
        self._expected: bytes | None = None

    def step(self, challenge: bytes | None) -> bytes | None:
        if not self._has_begun:
            self._has_begun = True
            return b""
        if not challenge:
            raise SaslTokenError("the server ended DIGEST-MD5 without a proof that it knows the password")
        try:
            if self._expected is None:
                username, password = self._mechanism.username, self._mechanism.password
                token, self._expected = respond(challenge, username, password, self._nonce)
                return token
            if is_proof(challenge, self._expected):
                return None
        except DigestMd5Error as error:
            raise SaslTokenError(str(error)) from None
        raise SaslTokenError("the server has not proven that it knows the password")

    def refused(self) -> bool:
        return False


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
