"""SASL on each connection: whose turn it is, and which replies are its own.

Rules:
1. It comes right after the ConnectResponse, before credentials and everything else; one token is unanswered at a time.
   Its requests have an xid of their own, which nothing else has, as their replies may overtake others'.
2. A server that isn't set up for SASL answers without an error and without a token. That is no success: the exchange
   decides when it is done, and of a server that says nothing to its first token it is never.
3. A mechanism may be anybody's code, and a server may be hostile: a token is bytes, and not more than a server takes;
   and an exchange has an end.
4. Steps that may take their time are made elsewhere (`ComputeToken`); one of a lost connection is nobody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.errors import SaslError
from everlatch.sasl import SaslTokenError
from everlatch.wire.auth_records import encode_sasl_request
from everlatch.wire.codes import Op
from everlatch.wire.headers import frame_request

if TYPE_CHECKING:
    from everlatch.sasl import SaslExchange, SaslMechanism

__all__ = ["XID_SASL", "Sasl", "SaslStep"]

XID_SASL: Final = 0
"""Requests of the queue count from 1."""
_LARGEST: Final = 1_000_000
"""Bytes of a token: somewhat less than a server's default limit for a frame (jute.maxbuffer), over which it closes the
connection without a word."""
_MOST_TOKENS: Final = 50
"""Of one exchange. DIGEST-MD5 has 2, Kerberos 3."""


class SaslStep(NamedTuple):
    """One to be made: `exchange.step(challenge)`."""

    exchange: SaslExchange
    challenge: bytes | None


class Sasl:
    """The exchange of the present connection."""

    def __init__(self, mechanism: SaslMechanism | None) -> None:
        self.mechanism = mechanism
        self._exchange: SaslExchange | None = None
        self._sent = 0
        self._awaits_reply = False

    @property
    def is_open(self) -> bool:
        """Whether this connection has yet to be authenticated by it."""
        return self._exchange is not None

    @property
    def awaits_reply(self) -> bool:
        """Whether a token is unanswered."""
        return self._awaits_reply

    @property
    def is_computing(self) -> bool:
        """Whether a step is being made elsewhere."""
        return self.is_open and not self._awaits_reply

    def begin(self, host: str) -> SaslStep | None:
        """On a new connection. `None`: there is nothing to be done. Raises whatever the mechanism does."""
        if self.mechanism is None:
            return None
        self._exchange = self.mechanism.begin(host)
        self._sent = 0
        return SaslStep(self._exchange, b"")

    def send(self, token: bytes | None) -> bytes | None:
        """A step was made: returns the frame that it leads to; `None`: that was the last. Raises `SaslTokenError`."""
        if token is None:
            self._exchange = None
            return None
        if not isinstance(token, bytes):
            raise SaslTokenError(f"a token is bytes, not {type(token).__name__}")
        if len(token) > _LARGEST:
            raise SaslTokenError(f"a token of {len(token)} bytes is too large; at most {_LARGEST} are sent")
        if self._sent == _MOST_TOKENS:
            raise SaslTokenError(f"the exchange does not come to an end: {self._sent} tokens were answered")
        self._sent += 1
        self._awaits_reply = True
        return frame_request(XID_SASL, Op.SASL, encode_sasl_request(token))

    def answered(self, token: bytes | None, server: str) -> SaslStep:
        """The server's token: returns the step that follows. Raises `SaslError`."""
        assert self._exchange is not None
        self._awaits_reply = False
        if self._sent == 1 and token is None:
            raise SaslError(f"{server} is not set up for SASL: it has no answer to {self.name}")
        return SaslStep(self._exchange, token)

    def refused(self) -> bool:
        """The server has refused a token. Whether that is final. Raises whatever the mechanism does."""
        assert self._exchange is not None
        return not self._exchange.refused()

    @property
    def name(self) -> str:
        """Of the mechanism, for messages."""
        return self.mechanism.name if self.mechanism is not None else "SASL"

    def disconnected(self) -> None:
        """The next connection begins anew."""
        self._exchange = None
        self._awaits_reply = False
