"""Every exception of everlatch, and the only place where server error codes get their names.

    EverlatchError                          everything below; `.outcome` tells whether the call took effect
    ├── InvalidArgumentError (ValueError)   your input; nothing was sent
    │   ├── InvalidPathError
    │   ├── InvalidConnectStringError
    │   ├── InvalidACLArgumentError
    │   ├── InvalidTypeError (TypeError)
    │   ├── CertificateFileError            a file for TLS that can't be read, or isn't what it should be
    │   └── RequestTooLargeError
    ├── ClientStateError (RuntimeError)     the wrong moment, loop or thread; nothing was sent
    │   ├── NotStartedError
    │   ├── AlreadyStartedError
    │   ├── ClientClosedError
    │   ├── GaveUpError
    │   ├── GuardianUnavailableError
    │   └── WrongLoopError
    ├── QueueFullError                      too much is waiting; nothing was sent
    ├── StartError (ConnectionError)        no server could be reached by `start()`
    ├── CallTimeoutError (TimeoutError)     the call's own timeout ran out
    │   └── WriteTimeoutError               … after a write had been sent: also an OutcomeUnknownError
    ├── OutcomeUnknownError                 a write's reply was lost, and nothing shows whether it was applied
    ├── WriteNotAppliedError                … and it certainly was not applied
    ├── ResultLostError                     … and it was applied; what it would have returned is lost
    ├── NodeOccupiedError                   somebody else's node has the path of a kept one
    ├── ReceiptsError                       exactly-once writes lack the permissions for their receipts
    ├── RequestKillsConnectionError (ConnectionError)
    ├── ReplyTooLargeError (ConnectionError)
    ├── TransactionFailedError              one part of a transaction was refused; nothing of it was applied
    ├── NotLeaderError                      a leader's privilege was asked for by somebody else
    │   └── StaleLeaderError                … by who has led: its fenced transaction was refused
    ├── HandOverError                       leadership can't be handed over like that
    │   ├── NoSuchMemberError
    │   └── MemberInTheWayError
    ├── HistoryResetError                   the ensemble has lost data: the `reason` of the change to `RENEWED`
    ├── LinkError (ConnectionError)         why a connection ended or was refused: the `reason` of a state change
    │   ├── ConnectionClosedByServerError
    │   ├── ConnectFailedError
    │   │   └── TlsError                    TLS failed, in the handshake or later
    │   │       ├── ServerCertificateError  we refuse the server's certificate
    │   │       ├── ClientCertificateError  the server refuses ours, or wants one
    │   │       └── NoTlsError              what listens there doesn't speak TLS
    │   ├── HandshakeTimeoutError (TimeoutError)
    │   ├── HandshakeRefusedError
    │   ├── SilentLinkError
    │   ├── ServerLeftError                 the client goes to another server of its own accord
    │   ├── SaslError                       SASL could not be carried through; nobody has refused the credentials
    │   └── ProtocolError                   the server broke the protocol
    │       ├── TruncatedError
    │       ├── InvalidLengthError
    │       ├── FrameTooLargeError
    │       └── UnexpectedReplyError
    └── ServerError                         the server's answer was an error code
        ├── NoNodeError, NodeExistsError, BadVersionError, …   one class a code, kazoo's names
        ├── UnimplementedError
        │   └── UnsupportedByServerError    the server in use is too old for the operation
        └── UnknownServerError              a code that this version doesn't know

Rules of this file: errors carry fields and build their message from them; no secret (password, credentials) is ever
one of those fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from everlatch.types import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.types import Sighting

__all__ = [
    "SERVER_ERRORS",
    "APIError",
    "AlreadyStartedError",
    "AuthFailedError",
    "BadArgumentsError",
    "BadVersionError",
    "CallTimeoutError",
    "CertificateFileError",
    "ClientCertificateError",
    "ClientClosedError",
    "ClientStateError",
    "ClosingError",
    "ConnectFailedError",
    "ConnectionClosedByServerError",
    "ConnectionLossError",
    "DataInconsistencyError",
    "EphemeralOnLocalSessionError",
    "EverlatchError",
    "FrameTooLargeError",
    "GaveUpError",
    "GuardianUnavailableError",
    "HandOverError",
    "HandshakeRefusedError",
    "HandshakeTimeoutError",
    "HistoryResetError",
    "InvalidACLArgumentError",
    "InvalidACLError",
    "InvalidArgumentError",
    "InvalidCallbackError",
    "InvalidConnectStringError",
    "InvalidLengthError",
    "InvalidPathError",
    "InvalidStateError",
    "InvalidTypeError",
    "LinkError",
    "MarshallingError",
    "MemberInTheWayError",
    "NewConfigNoQuorumError",
    "NoAuthError",
    "NoChildrenForEphemeralsError",
    "NoNodeError",
    "NoSuchMemberError",
    "NoTlsError",
    "NoWatcherError",
    "NodeExistsError",
    "NodeOccupiedError",
    "NotEmptyError",
    "NotLeaderError",
    "NotReadOnlyError",
    "NotStartedError",
    "NothingError",
    "OperationTimeoutError",
    "OutcomeUnknownError",
    "ProtocolError",
    "QueueFullError",
    "QuotaExceededError",
    "ReceiptsError",
    "ReconfigDisabledError",
    "ReconfigInProgressError",
    "ReplyTooLargeError",
    "RequestKillsConnectionError",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "ResultLostError",
    "RuntimeInconsistencyError",
    "SSLConnectionError",
    "SaslError",
    "ServerCertificateError",
    "ServerError",
    "ServerLeftError",
    "SessionClosedRequireAuthError",
    "SessionExpiredError",
    "SessionMovedError",
    "SilentLinkError",
    "StaleLeaderError",
    "StartError",
    "SystemZookeeperError",
    "ThrottledOpError",
    "TlsError",
    "TransactionFailedError",
    "TruncatedError",
    "UnexpectedReplyError",
    "UnimplementedError",
    "UnknownServerError",
    "UnknownSessionError",
    "UnsupportedByServerError",
    "WriteNotAppliedError",
    "WriteTimeoutError",
    "WrongLoopError",
    "server_error",
]


class EverlatchError(Exception):
    """The root of all errors of this library."""

    outcome: Outcome = Outcome.NOT_APPLIED
    """Whether the call that ended with this error took effect. Reads, which have no effect, are `NOT_APPLIED`."""

    def __reduce__(self) -> tuple[object, ...]:
        """Fields and message travel as they are, so that errors cross process boundaries."""
        return _unpickled, (type(self), self.args, self.__dict__)


def _unpickled(cls: type[EverlatchError], args: tuple[object, ...], fields: dict[str, object]) -> EverlatchError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


# --- your input ---------------------------------------------------------------------------------------------------


class InvalidArgumentError(EverlatchError, ValueError):
    """An argument that can't be right. Nothing was sent; correct the call."""


class InvalidPathError(InvalidArgumentError):
    """A path that ZooKeeper would not accept; the rules are in `everlatch.paths`."""


class InvalidConnectStringError(InvalidArgumentError):
    """A connect string that is not `host:port,host:port,[v6]:port/chroot`."""


class InvalidACLArgumentError(InvalidArgumentError):
    """An ACL list that is empty or not made of `ACL`s."""


class InvalidTypeError(InvalidArgumentError, TypeError):
    """An argument of the wrong type, such as text for data (encode it first)."""


class CertificateFileError(InvalidArgumentError):
    """A file for TLS that can't be read, is no PEM, or doesn't go with the others. `argument`: which of the client's
    arguments names it (`ca`, `cert`, `cert and key`); `path`; `problem`: what is wrong."""

    def __init__(self, argument: str, path: str, problem: str) -> None:
        self.argument, self.path, self.problem = argument, path, problem
        super().__init__(f"{argument} {path!r}: {problem}")


class RequestTooLargeError(InvalidArgumentError):
    """A request over the frame limit: the server would close the connection without a word (jute.maxbuffer)."""


# --- the moment ---------------------------------------------------------------------------------------------------


class ClientStateError(EverlatchError, RuntimeError):
    """The client can't do that now or here. Nothing was sent."""


class NotStartedError(ClientStateError):
    """A call before `start()`. Use `async with Client(…) as client:` or await `client.start()` first."""


class AlreadyStartedError(ClientStateError):
    """`start()` a second time. A client is used once; make a new one."""


class ClientClosedError(ClientStateError):
    """A call after `close()`, or one that was still waiting when the client was closed."""


class GuardianUnavailableError(ClientStateError):
    """`guardian=True` can't be had here: the message says why, and what to change."""


class GaveUpError(ClientStateError):
    """The client was told to stop trying to connect, and has stopped."""


class HistoryResetError(EverlatchError):
    """The ensemble has lost data that this client has seen: it was wiped, or restored from a backup.

    The reason of the change to `RENEWED`. The session is gone and watches were re-armed from the beginning; read again
    what you keep, and write again what must be there.
    """


class WrongLoopError(ClientStateError):
    """A call from another event loop or thread than the one that started the client."""


class QueueFullError(EverlatchError):
    """Too many calls, or too many bytes, are waiting for the connection. Slow down, or raise the limits."""


class NotLeaderError(EverlatchError):
    """Something that only the leader may have was asked for while not leading."""


class StaleLeaderError(NotLeaderError):
    """A fenced transaction was refused by ZooKeeper, because the leader that it was begun by is none any more: its
    node is gone. Nothing of it was applied. `term` is the token of his term; `error` is the server's answer."""

    def __init__(self, node: str, term: int, error: ServerError) -> None:
        self.node, self.term, self.error = node, term, error
        super().__init__(f"the term of the leader {node!r} (token {term}) is over, nothing was applied: {error}")


class HandOverError(EverlatchError):
    """Leadership can't be handed over like that. Unless the message says otherwise, this member leads on."""


class NoSuchMemberError(HandOverError):
    """Leadership was to be handed to a member that is none, or there is no other member at all."""


class MemberInTheWayError(HandOverError):
    """Members stand before the one that is to lead, and don't know how to step aside (Curator's don't): hand over to
    the next in line, or close them. `members` has their ids."""

    def __init__(self, path: str, to: str, members: tuple[str, ...]) -> None:
        self.path, self.to, self.members = path, to, members
        named = ", ".join(map(repr, members))
        super().__init__(f"{path!r} can't be handed over to {to!r}: {named} stand before it and can't step aside")


# --- how a call ends without an answer ----------------------------------------------------------------------------


class StartError(EverlatchError, ConnectionError):
    """`start()` reached no server. `failures` has a `(server, reason)` for each that was tried."""

    def __init__(self, failures: list[tuple[str, BaseException]]) -> None:
        self.failures = failures
        tried = "; ".join(f"{server}: {describe(reason)}" for server, reason in failures)
        super().__init__(f"no ZooKeeper server could be reached: {tried or 'none was tried in time'}")


class CallTimeoutError(EverlatchError, TimeoutError):
    """The call's timeout ran out: it had not been sent, or was a read. A write that was sent: `WriteTimeoutError`."""

    def __init__(self, operation: str, path: str, timeout: float, *, sent: bool | None) -> None:
        self.operation, self.path, self.timeout, self.sent = operation, path, timeout, sent
        where = {True: " (sent, no answer)", False: " (never sent)", None: ""}[sent]
        super().__init__(f"{operation} {path!r} timed out after {timeout:g} s{where}")


class OutcomeUnknownError(EverlatchError):
    """A write was sent, its reply was lost, and what could be looked at afterwards doesn't show whether it was applied.

    `operation`, `path`: the call. `reason`: why there was no reply. `seen`: what its nodes, and the parents of those
    to be created, were found to be, as `Sighting`s with the servers' paths; empty if nobody could look (a timeout, the
    client's end). Read the node and decide; or have it known next time: `exactly_once`, `idempotent` and `protect`
    do that (docs/how-to/outcomes.md).
    """

    outcome = Outcome.UNKNOWN

    def __init__(self, operation: str, path: str, reason: BaseException | None, seen: Sequence[Sighting] = ()) -> None:
        self.operation, self.path, self.reason, self.seen = operation, path, reason, tuple(seen)
        looked = "; ".join(f"{sighting.path!r} {_described(sighting)}" for sighting in self.seen)
        super().__init__(
            f"{operation} {path!r} was sent and its reply was lost ({describe(reason)}): it may or may not have been "
            f"applied{f' ({looked})' if looked else ''}; read the node before repeating it, or use exactly_once"
        )


def _described(sighting: Sighting) -> str:
    if sighting.error is not None:
        return f"could not be looked at: {sighting.error}"
    if sighting.stat is None:
        return "does not exist"
    stat = sighting.stat
    return f"has version {stat.version}, czxid 0x{stat.czxid:x}, mzxid 0x{stat.mzxid:x}, pzxid 0x{stat.pzxid:x}"


class WriteTimeoutError(OutcomeUnknownError, CallTimeoutError):
    """The timeout of a write ran out after it had been sent. It may still be applied, even later."""

    def __init__(self, operation: str, path: str, timeout: float) -> None:
        CallTimeoutError.__init__(self, operation, path, timeout, sent=True)
        self.reason, self.seen = None, ()


class NodeOccupiedError(EverlatchError):
    """Somebody else's node has the path of one that is to be kept (`Client.keep`); it is waited for.

    `path`; `owner`: the id of the session that it belongs to, 0 for a node that is not ephemeral. Choose another path,
    delete the node, or keep with `replace=True`.
    """

    def __init__(self, path: str, owner: int) -> None:
        self.path, self.owner = path, owner
        whose = f"session {hex_id(owner)}" if owner else "a node that is not ephemeral"
        super().__init__(f"{path!r} is occupied by {whose}: it is left alone, and waited for")


class WriteNotAppliedError(EverlatchError):
    """A write was sent, its reply was lost, and it certainly was not applied, nor will be. It was not sent again, for
    that would have changed the order of writes, or is not known to be right: call it again if it is still wanted.

    `operation`, `path`: the call. `why`: what is known.
    """

    def __init__(self, operation: str, path: str, why: str) -> None:
        self.operation, self.path, self.why = operation, path, why
        super().__init__(f"{operation} {path!r} was not applied: {why}; call it again if it is still wanted")


class ResultLostError(EverlatchError):
    """A write was applied, once, and its reply was lost: what it would have returned can't be told any more.

    `operation`, `path`: the call. `zxid`: the transaction that it was applied by; 0 if that isn't known. `what`: what
    is missing. Don't do it again; read the node for its present state.
    """

    outcome = Outcome.HAPPENED

    def __init__(self, operation: str, path: str, zxid: int, what: str) -> None:
        self.operation, self.path, self.zxid, self.what = operation, path, zxid, what
        super().__init__(f"{operation} {path!r} was applied (zxid 0x{zxid:x}), but its reply was lost, and {what}")


class ReceiptsError(EverlatchError):
    """Exactly-once writes can't be had: the nodes for their receipts can't be made. Nothing was sent.

    `place`: the node below which they belong (`receipts_path`). `error`: the server's answer. The client needs CREATE
    there, and on its parent if it is to be made; the client's `acl`, which the receipts get, has to let it READ and
    WRITE them.
    """

    def __init__(self, place: str, error: ServerError, operation: str = "", path: str = "") -> None:
        self.place, self.error, self.operation, self.path = place, error, operation, path
        call = f"{operation} {path!r}: " if operation else ""
        super().__init__(
            f"{call}receipts for exactly-once writes can't be kept below {place!r}: {error}; it takes CREATE there (and"
            " on its parent, if it is to be made), and an acl of the client that lets it READ and WRITE what it creates"
        )


class RequestKillsConnectionError(EverlatchError, ConnectionError):
    """Three connections in a row ended while this request was the first unanswered one: it is not sent again."""

    def __init__(self, operation: str, path: str, losses: int, reason: BaseException | None) -> None:
        self.operation, self.path, self.losses, self.reason = operation, path, losses, reason
        super().__init__(
            f"{operation} {path!r} was the first unanswered request in {losses} lost connections and is not sent "
            f"again; the last one ended because {describe(reason)}"
        )


class ReplyTooLargeError(EverlatchError, ConnectionError):
    """The reply to this read is over the client's frame limit (`max_reply_size`); the connection had to be dropped."""

    def __init__(self, operation: str, path: str, size: int, limit: int) -> None:
        self.operation, self.path, self.size, self.limit = operation, path, size, limit
        super().__init__(f"the reply to {operation} {path!r} has {size} bytes, over the limit of {limit}")


class TransactionFailedError(EverlatchError):
    """A transaction was refused and nothing of it was applied. `index` counts its parts from 0; `error` says why."""

    def __init__(self, index: int, path: str, error: ServerError) -> None:
        self.index, self.path, self.error = index, path, error
        super().__init__(f"transaction refused at part {index} ({path!r}), nothing was applied: {error}")


# --- why a connection ended ---------------------------------------------------------------------------------------


class LinkError(EverlatchError, ConnectionError):
    """Why a connection ended, or could not be made. Never ends a call by itself: the client reconnects."""


class ConnectionClosedByServerError(LinkError):
    """The server closed the connection."""


class ConnectFailedError(LinkError):
    """No connection: refused, unreachable, or the name did not resolve. `__cause__` has the system's own error."""


class TlsError(ConnectFailedError):
    """TLS with a server failed, in the handshake or later. `__cause__` has OpenSSL's own error, if there is one.

    The client goes on to the next server, and tries again later: certificates may be renewed meanwhile.
    """


class ServerCertificateError(TlsError):
    """The server's certificate was refused: it is not trusted, has expired, or is for another name."""


class ClientCertificateError(TlsError):
    """The server has refused the client's certificate, or wants one and got none. With TLS 1.3 that comes only after
    the handshake."""


class NoTlsError(TlsError):
    """What listens there doesn't speak TLS, or has closed the connection instead: a plain port, in most cases."""


class HandshakeTimeoutError(LinkError, TimeoutError):
    """The server did not complete the TCP connection, or did not answer the handshake, within its budget."""


class HandshakeRefusedError(LinkError):
    """The server closed the connection instead of answering the handshake: not serving, or its data is behind."""


class SaslError(LinkError):
    """SASL could not be carried through: the server isn't set up for it or has not proven itself, or there is no valid
    ticket. The client tries other servers, and this one again; credentials that a server has refused are another
    matter: `AuthFailedError`."""


class SilentLinkError(LinkError):
    """A request or ping went unanswered for longer than the liveness budget."""


class ServerLeftError(LinkError):
    """The client goes to another server: the list of servers has changed, or a better one was found."""


class ProtocolError(LinkError):
    """The server sent something that the protocol does not allow. The connection is dropped, the session kept."""


class TruncatedError(ProtocolError):
    """A record ended before its last field."""


class InvalidLengthError(ProtocolError):
    """A length that is negative, or larger than what holds it."""


_TLS_ALERT = 0x1503
"""How the answer begins that a server which expects TLS may give to anything else."""


class FrameTooLargeError(ProtocolError):
    """A frame over the size limit. `size` is what the server announced."""

    def __init__(self, size: int, limit: int) -> None:
        self.size, self.limit = size, limit
        hint = "; it looks like TLS: is that a port for TLS?" if size >> 16 == _TLS_ALERT else ""
        super().__init__(f"frame of {size} bytes, over the limit of {limit}{hint}")


class UnexpectedReplyError(ProtocolError):
    """A reply that answers nothing, or out of order."""


# --- the server's own errors --------------------------------------------------------------------------------------


class ServerError(EverlatchError):
    """The server's answer was an error code. `operation` and `path` say to what; `code` is ZooKeeper's number."""

    code: int = 0
    meaning: ClassVar[str] = "error"

    def __init__(self, operation: str = "", path: str = "") -> None:
        self.operation, self.path = operation, path
        what = f"{operation} {path!r}" if path else operation
        super().__init__(f"{what}: {self.meaning} ({self.code})" if what else f"{self.meaning} ({self.code})")


class UnknownServerError(ServerError):
    """A code that this version of everlatch doesn't know."""

    meaning = "unknown error code"

    def __init__(self, code: int, operation: str = "", path: str = "") -> None:
        self.code = code
        super().__init__(operation, path)


class SystemZookeeperError(ServerError):
    """−1."""

    code, meaning = -1, "system error"


class RuntimeInconsistencyError(ServerError):
    """−2: in a transaction, this part was not executed because another one failed."""

    code, meaning = -2, "not executed because another part failed"


class DataInconsistencyError(ServerError):
    """−3."""

    code, meaning = -3, "data inconsistency"


class ConnectionLossError(ServerError, ConnectionError):
    """−4: a code of the official clients; servers don't send it."""

    code, meaning = -4, "connection loss"
    outcome = Outcome.UNKNOWN


class MarshallingError(ServerError):
    """−5: the server could not decode the request."""

    code, meaning = -5, "the server could not decode the request"


class UnimplementedError(ServerError):
    """−6: the server doesn't know the operation, or it is switched off there (TTL nodes: `extendedTypesEnabled`)."""

    code, meaning = -6, "not implemented, or switched off, on this server"
    _REMEDIES: ClassVar[dict[str, str]] = {
        "create": "a ttl needs extendedTypesEnabled=true on every server, all else ZooKeeper 3.5",
        "reconfig": "a server that runs standalone can't be reconfigured",
    }

    def __init__(self, operation: str = "", path: str = "") -> None:
        super().__init__(operation, path)
        if operation in self._REMEDIES:
            self.args = (f"{self.args[0]}: {self._REMEDIES[operation]}",)


class UnsupportedByServerError(UnimplementedError):
    """The operation is newer than the server in use. Nothing was done; upgrade the servers, or do without it.

    `since` is the first version that has it. `version` is that of the server, which was asked beforehand: nothing was
    sent, and the connection is as it was. `None`: the server would not tell its version, and has refused the request
    and closed the connection (to which the client returns by itself).
    """

    def __init__(self, operation: str, version: str | None, since: str, path: str = "") -> None:
        super().__init__(operation, path)
        self.version, self.since = version, since
        found = f"the server in use is {version}: nothing was sent" if version else "the server in use does not know it"
        self.args = (f"{operation} needs ZooKeeper {since}, {found}; upgrade the servers ({self.code})",)


class OperationTimeoutError(ServerError, TimeoutError):
    """−7: a code of the official clients."""

    code, meaning = -7, "operation timeout"
    outcome = Outcome.UNKNOWN


class BadArgumentsError(ServerError):
    """−8: path, flags, TTL or configuration that the server refuses."""

    code, meaning = -8, "bad arguments"


class InvalidStateError(ServerError):
    """−9: a code of the C client."""

    code, meaning = -9, "invalid state"


class UnknownSessionError(ServerError):
    """−12."""

    code, meaning = -12, "unknown session"


class NewConfigNoQuorumError(ServerError):
    """−13: no synced quorum of the new configuration is connected."""

    code, meaning = -13, "no quorum of the new configuration is connected and up to date"


class ReconfigInProgressError(ServerError):
    """−14: another reconfiguration is in progress."""

    code, meaning = -14, "another reconfiguration is in progress"


class SSLConnectionError(ServerError, ConnectionError):
    """−15: a code of the C client."""

    code, meaning = -15, "SSL connection error"


class APIError(ServerError):
    """−100."""

    code, meaning = -100, "API error"


class NoNodeError(ServerError):
    """−101: no such node; for `create`, its parent is missing."""

    code, meaning = -101, "no such node"

    def __init__(self, operation: str = "", path: str = "") -> None:
        super().__init__(operation, path)
        if operation == "create":
            self.args = (f"{self.args[0]}: its parent, or the chroot, is missing; ensure_path creates it",)


class NoAuthError(ServerError):
    """−102: the ACL does not allow it to this connection's identities."""

    code, meaning = -102, "not permitted by the ACL"


class BadVersionError(ServerError):
    """−103: the node has another version than the one asked for."""

    code, meaning = -103, "the node has another version"


class NoChildrenForEphemeralsError(ServerError):
    """−108: ephemeral nodes can't have children."""

    code, meaning = -108, "ephemeral nodes can't have children"


class NodeExistsError(ServerError):
    """−110: the node exists already."""

    code, meaning = -110, "the node exists already"


class NotEmptyError(ServerError):
    """−111: the node has children."""

    code, meaning = -111, "the node has children"


class SessionExpiredError(ServerError):
    """−112: the session that the call belonged to has ended."""

    code, meaning = -112, "the session has ended"


class InvalidCallbackError(ServerError):
    """−113: a code of the official clients."""

    code, meaning = -113, "invalid callback"


class InvalidACLError(ServerError):
    """−114: an ACL that the server refuses: empty, unknown scheme, bad id, or `auth` without an identity."""

    code, meaning = -114, "invalid ACL"


class AuthFailedError(ServerError):
    """−115: the credentials were refused. The client stops; close it."""

    code, meaning = -115, "the credentials were refused"


class ClosingError(ServerError):
    """−116: a code of the C client."""

    code, meaning = -116, "closing"


class NothingError(ServerError):
    """−117: a code of the C client."""

    code, meaning = -117, "nothing"


class SessionMovedError(ServerError):
    """−118: the session has moved to another server."""

    code, meaning = -118, "the session has moved to another server"


class NotReadOnlyError(ServerError):
    """−119: a write, or `sync`, on a read-only server."""

    code, meaning = -119, "writes and sync are refused by a read-only server"


class EphemeralOnLocalSessionError(ServerError):
    """−120: ephemeral nodes need a global session."""

    code, meaning = -120, "ephemeral nodes need a global session"


class NoWatcherError(ServerError):
    """−121: no such watch."""

    code, meaning = -121, "no such watch"


class RequestTimeoutError(ServerError, TimeoutError):
    """−122: a code of the official client."""

    code, meaning = -122, "request timeout"
    outcome = Outcome.UNKNOWN


class ReconfigDisabledError(ServerError):
    """−123: `reconfigEnabled` is off on the servers."""

    code, meaning = -123, "reconfiguration is disabled on the servers"


class SessionClosedRequireAuthError(ServerError):
    """−124: the server demands authentication (`sessionRequireClientSASLAuth`, `enforce.auth.enabled`), and has closed
    the connection. Give the client what it demands: `sasl=`, `auth=`, or `add_auth` while it lives on."""

    code, meaning = -124, "the server demands authentication first, and this client has offered none that it asks for"


class QuotaExceededError(ServerError):
    """−125: a hard quota would be exceeded."""

    code, meaning = -125, "a quota would be exceeded"


class ThrottledOpError(ServerError):
    """−127: not executed, because the server is overloaded. Try again later."""

    code, meaning = -127, "throttled by the server, not executed"


SERVER_ERRORS: dict[int, type[ServerError]] = {
    cls.code: cls for cls in ServerError.__subclasses__() if cls is not UnknownServerError
}
"""Every code that is known, by its number."""


def server_error(code: int, operation: str = "", path: str = "") -> ServerError:
    """The error for a code in a reply; an unknown code becomes `UnknownServerError`."""
    known = SERVER_ERRORS.get(code)
    return known(operation, path) if known else UnknownServerError(code, operation, path)


def describe(reason: BaseException | None) -> str:
    """An exception in one line of a message: its text, or its type where it has none."""
    if reason is None:
        return "no reason is known"
    return str(reason) or type(reason).__name__


def hex_id(session_id: int) -> str:
    """A session id as ZooKeeper's own logs and commands write it: unsigned, in hexadecimal."""
    return f"0x{session_id & 0xFFFFFFFFFFFFFFFF:x}"
