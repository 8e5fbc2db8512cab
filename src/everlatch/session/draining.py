"""Servers that may still hold writes of ours, and how they let go of them before they are offered the session again.

A follower passes writes on to its leader; when it can't, it keeps them. The leader refuses them when the session has
moved meanwhile, but it looks at them in their turn, and takes a session for moved back at once, as it hears that the
follower was offered it, even by a handshake that was given up since. So a session that is offered again to a follower
that still holds its old writes brings them back: they are applied, behind later ones that were acknowledged over
another server (observed with ZooKeeper 3.8.0 and 3.9.5: tests/torture/test_found_in_zookeeper.py).

Rules:
1. A server whose connection ends with unanswered writes is *tainted*, whether somebody still waits for them or not.
   It stays so however many connections are lost since, until it is drained or the session is another one: writes of a
   session that is over are refused. It stays so too while it is not on the list: it may come back to it.
2. A tainted server is not offered the session. It is *drained* first: on a connection of its own, with a session that
   is thrown away, something is committed. What a server passes on keeps its order; so when that is answered, all that
   came before has been decided: refused because the session has moved, or applied before anything else.
3. The throw-away session authenticates, as without that some servers refuse everything; sends the commit; and right
   behind it, its own end. Nothing that it hears counts for the proper one.
4. Where there is one address only, and the session was offered to nobody else since, there is no elsewhere, and so
   nothing to drain: what the server still holds comes first.
5. A server is drained by being drained: an attempt that fails before leaves it as it is.

It can't be seen when an address leads to one server now and to another one later, as with a proxy in between.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from everlatch.errors import HandshakeRefusedError, TruncatedError, UnexpectedReplyError, server_error
from everlatch.session.commits import COMMIT_BODY, was_decided
from everlatch.session.sasl import XID_SASL
from everlatch.wire.codes import XID_AUTH, Op
from everlatch.wire.handshake import decode_connect_response
from everlatch.wire.headers import REPLY_HEADER, frame_request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from everlatch.session.requests import Request
    from everlatch.session.servers import Address, Servers

__all__ = ["COMMIT_AND_END", "Draining", "Step"]

_XID: Final = 1
_HEADER_SIZE: Final = REPLY_HEADER.size

COMMIT_AND_END: Final = frame_request(_XID, Op.MULTI, COMMIT_BODY) + frame_request(_XID + 1, Op.CLOSE_SESSION, b"")
"""What is sent as soon as the credentials are answered. The end needs no answer: the session would end by itself."""


class Step(enum.Enum):
    """What a drain waits for."""

    SESSION = "no session of its own"
    """One to be thrown away; the answer to the handshake."""
    CREDENTIALS = "no answer to the credentials"
    """`Credentials` knows which are unanswered; `authenticated` says that none is."""
    COMMIT = "an earlier connection's writes are not known to be decided"
    DONE = ""
    """Nothing: the session may be offered."""


class Draining:
    """Which servers are tainted, and the drain that is under way, if there is one."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._tainted: dict[tuple[str, int], bool] = {}
        """By IP and port; whether the session was offered to somebody else since."""
        self._drained: tuple[str, int] | None = None
        """Who is."""
        self.step: Step | None = None
        """How far that has come; `None`: nobody is drained."""

    # -- who is tainted

    def left(self, address: Address, unanswered: Iterable[Request]) -> None:
        """A connection that served has ended, with these requests unanswered. Rule 1."""
        if any(request.operation.is_write for request in unanswered):
            self._tainted.setdefault(_key(address), False)
            self._servers.hold_back(self._tainted)

    def session_over(self) -> None:
        """The session is another one from now on. Rule 1."""
        self._tainted.clear()
        self._servers.hold_back(())

    def is_tainted(self, address: Address) -> bool:
        """Whether it has to be drained before it is offered the session."""
        was_elsewhere = self._tainted.get(_key(address))
        return was_elsewhere is not None and (was_elsewhere or not self._servers.has_one_address)

    # -- a drain

    def begin(self, address: Address) -> bool:
        """A connection to that server is made. Whether it has to be drained; then that has begun. Otherwise it is
        offered the session."""
        if not self.is_tainted(address):
            for key in self._tainted.keys() - {_key(address)}:
                self._tainted[key] = True
            return False
        self._drained = _key(address)
        self.step = Step.SESSION
        return True

    @property
    def missing(self) -> str:
        """What it waits for, in words; none if nobody is drained."""
        return "" if self.step is None else self.step.value

    def stop(self) -> None:
        """The connection is gone. Rule 5."""
        self.step = None

    def authenticated(self) -> bytes:
        """All credentials are answered; returns what is to be sent."""
        self.step = Step.COMMIT
        return COMMIT_AND_END

    def answered(self, buf: bytes, start: int, end: int, server: str) -> tuple[int, int] | None:
        """Takes a frame of this `server`. Returns xid and error code if the frame answers credentials or a SASL
        token, otherwise `None`; then `step` says what is next. Raises what ends the connection: `ProtocolError`,
        `HandshakeRefusedError`, or a `ServerError`."""
        if self.step is Step.SESSION:
            response = decode_connect_response(buf, start, end)
            if response.timeout_ms <= 0 or response.read_only:
                raise HandshakeRefusedError(f"{server} refused a session to be drained with")
            self.step = Step.CREDENTIALS
            return None
        if end - start < _HEADER_SIZE:
            raise TruncatedError(f"a reply of {end - start} bytes from {server} has no whole header")
        xid, _, err = REPLY_HEADER.unpack_from(buf, start)
        if xid in (XID_AUTH, XID_SASL):
            return int(xid), int(err)
        if xid != _XID or self.step is not Step.COMMIT:
            raise UnexpectedReplyError(f"{server} sent a reply with xid {xid}, error {err}, while it was drained")
        self._decided(err, buf, start + _HEADER_SIZE, end, server)
        return None

    def _decided(self, err: int, buf: bytes, pos: int, end: int, server: str) -> None:
        if err:
            raise server_error(err, "drain")
        if not was_decided(err, buf, pos, end):
            raise HandshakeRefusedError(f"{server} ended the session that it was to be drained with")
        assert self._drained is not None
        self._tainted.pop(self._drained, None)
        self._servers.hold_back(self._tainted)
        self.step = Step.DONE


def _key(address: Address) -> tuple[str, int]:
    return address.ip, address.port
