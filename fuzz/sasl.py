"""The server's part of SASL on one connection: as it should be, or hostile.

Rules of this file: who is hostile mostly says a wrong token, seldom refuses: a refusal ends a client, and the case with
it. The server has proven itself when what it has said tells that it knows the password, however it was written; until
then a client may send nothing but tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.devserver.sasl import Exchange
from everlatch.errors import AuthFailedError, ProtocolError
from everlatch.wire.digest_md5 import DigestMd5Error, directives
from fuzz.secrecy import PASSWORD, USER
from fuzz.tokens import SEEDS, mutated

if TYPE_CHECKING:
    from random import Random

    from fuzz.secrecy import Secrets

__all__ = ["SaslServer"]

_REFUSALS = (-115, -124)
_ERRORS = (*_REFUSALS, -4, -5, -999)
_HOSTILITY = (0.0, 0.3, 1.0)


class SaslServer:
    """Knows the password of the one user that there is. `is_hostile`: may say other things than it should."""

    def __init__(self, rng: Random, secrets: Secrets, *, is_hostile: bool) -> None:
        self._rng = rng
        self._secrets = secrets
        self._hostility = rng.choice(_HOSTILITY) if is_hostile else 0.0
        self._exchange = Exchange({USER: PASSWORD}, f"{rng.getrandbits(128):032x}")
        self.has_proven = False
        """Whether the client may go on."""

    def answer(self, token: bytes | None) -> tuple[int, bytes | None]:
        """Error code and token. Raises `ProtocolError` for what no client may send."""
        if token is None:
            raise ProtocolError("a null token")
        self._secrets.note_response(token)
        try:
            right = self._exchange.answer(token)
        except (AuthFailedError, ProtocolError):
            return self._lost()
        said: bytes | None = right
        if self._rng.random() < self._hostility:
            if self._rng.random() < 0.05:
                return self._rng.choice(_ERRORS), self._rng.choice((None, right))
            said = mutated(right, self._rng)
        if self._exchange.user is not None:
            self.has_proven = _proof(said) == _proof(right)
        return 0, said

    def _lost(self) -> tuple[int, bytes | None]:
        """To an answer to what this server should not have said, or to one that came after the end."""
        if self._hostility and self._rng.random() < 0.9:
            return 0, mutated(self._rng.choice(SEEDS), self._rng)
        return _REFUSALS[0], None


def _proof(token: bytes | None) -> str | None:
    try:
        return directives(token or b"").get("rspauth")
    except DigestMd5Error:
        return None
