"""SASL DIGEST-MD5, the server's side, as ZooKeeper does it. Pure.

Rules of this module: a client begins with a token of any kind and gets a challenge; it answers, and gets the proof that
the server knows the password, too; then the exchange is over, and every further token is refused. Whatever is wrong,
the refusal says nothing of it.

One thing is not as on Debian's 3.8.0: there an unknown user is let in who knows the password of whoever came last.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from everlatch.errors import AuthFailedError, ProtocolError
from everlatch.wire.digest_md5 import DigestMd5Error, challenge, directives, verify

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Exchange", "nonce"]

_NONCE_SIZE = 30
_INT = 2**31


def nonce(*seed: int) -> str:
    """As long as ZooKeeper's. Nobody can tell it who doesn't know the seed; the same seed gives the same, so that a
    simulation can be repeated."""
    hashed = hashlib.sha256(repr(seed).encode()).digest()
    return base64.b64encode(hashed[:_NONCE_SIZE]).decode()


class Exchange:
    """One client's, on one connection."""

    def __init__(self, users: Mapping[str, str], nonce: str) -> None:
        self._users = users
        self._nonce = nonce
        self._has_begun = False
        self.user: str | None = None
        """Who the client is, as soon as it has proven it."""

    def answer(self, token: bytes) -> bytes:
        """The server's next token. Raises `AuthFailedError`, or `ProtocolError` for what real servers don't even
        answer, and then it is over."""
        if not self._has_begun:
            self._has_begun = True
            return challenge(self._nonce)
        if self.user is not None:
            raise AuthFailedError
        try:
            _check(directives(token))
            proven = verify(token, self._nonce, self._users)
        except DigestMd5Error:
            raise AuthFailedError from None
        if proven is None:
            raise AuthFailedError
        self.user, proof = proven
        return proof


def _check(told: dict[str, str]) -> None:
    """What ZooKeeper's servers stumble over, and close the connection without a word."""
    try:
        is_readable = -_INT <= int(told.get("maxbuf", "0")) < _INT
    except ValueError:
        is_readable = False
    if not is_readable or told.get("username") == "":
        raise ProtocolError("a number that is none, or a user without a name")
