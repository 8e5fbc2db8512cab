"""What a client authenticates with, on every connection anew.

Rules:
1. Credentials belong to the client, not to a connection: each new connection replays them all, in the order in which
   they were added, before anything else is sent.
2. Replies carry the xid −4 whatever was asked, may overtake ordinary replies, and come in order among themselves.
3. A lost reply refuses nothing: the credentials are replayed and the waiting call with them. Only the server's error
   does.
4. Credentials are secret: they appear in no repr, no message, no log line.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from everlatch.wire.codes import XID_AUTH, Op
from everlatch.wire.headers import frame_request

if TYPE_CHECKING:
    from everlatch.session.requests import Request

__all__ = ["Credential", "Credentials"]


class Credential:
    """One identity: the body of its auth request, its scheme for messages, and the calls that wait for the answer."""

    __slots__ = ("body", "scheme", "waiting")

    def __init__(self, scheme: str, body: bytes) -> None:
        self.scheme = scheme
        self.body = body
        self.waiting: list[Request] = []

    def __repr__(self) -> str:
        return f"<Credential {self.scheme}>"

    def frame(self) -> bytes:
        """The auth request as it is sent."""
        return frame_request(XID_AUTH, Op.AUTH, self.body)


class Credentials:
    """All identities of a client, and which of them are unanswered on this connection."""

    def __init__(self) -> None:
        self._all: dict[bytes, Credential] = {}
        self._unanswered: deque[Credential] = deque()

    def __bool__(self) -> bool:
        return bool(self._unanswered)

    def add(self, scheme: str, body: bytes, request: Request | None = None) -> Credential:
        """Notes an identity; `request` is the call that ends with its answer. The same one again is kept once."""
        credential = self._all.setdefault(body, Credential(scheme, body))
        if request is not None:
            credential.waiting.append(request)
        return credential

    def send(self, credential: Credential) -> bytes:
        """The frame that authenticates on this connection; `answered` will tell."""
        self._unanswered.append(credential)
        return credential.frame()

    def frames(self) -> list[bytes]:
        """What authenticates on a connection, whoever makes it."""
        return [credential.frame() for credential in self._all.values()]

    def replay(self) -> list[bytes]:
        """The frames for a new connection."""
        self._unanswered.clear()
        return [self.send(credential) for credential in self._all.values()]

    def answered(self) -> Credential | None:
        """The identity that the next reply is about; `None`: none was expected."""
        return self._unanswered.popleft() if self._unanswered else None

    def disconnected(self) -> None:
        """The replies still missing will not come; the next connection asks again."""
        self._unanswered.clear()

    def take_waiting(self) -> list[Request]:
        """All calls that wait for an answer, when none will come any more."""
        waiting = [request for credential in self._all.values() for request in credential.waiting]
        for credential in self._all.values():
            credential.waiting.clear()
        return waiting
