"""What a `BadServer` can be told to do instead of what is in order.

Three kinds of actions, all of them functions:

    at requests      (connection, request)           for `BadServer.next`, `at` and `on`
    at handshakes    (connection, connect_request)   for `BadServer.handshakes` and `handshake`
    at any time      (connection, whatever came)     for both, for `arrivals` (as a connection is accepted), for `ping`,
                                                     and to be called out of the blue: `garbage(server.connection)`

Functions that return an action say so. An action of yours is a function too, made from `Connection.reply`, `notify`,
`send_raw` and from `accept`, `answer` and `apply` of `everlatch.testing.answers`.

Each docstring says when the real world does the same; *robustness only*: no known server does, and a client has to
survive it all the same.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from everlatch.testing.answers import accept, answer, apply, expire, respond
from everlatch.wire.auth_records import encode_sasl_reply
from everlatch.wire.codes import KEEPER_STATE_SYNC_CONNECTED, XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.digest_md5 import challenge
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectResponse
from everlatch.wire.headers import REPLY_HEADER, encode_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing.badserver import Connection, Received
    from everlatch.wire.handshake import ConnectRequest

__all__ = [
    "answer_after_next",
    "answer_nobody",
    "answer_twice",
    "answer_with_token",
    "answer_with_trailing_bytes",
    "answer_with_truncated_body",
    "answer_with_unknown_xid",
    "answer_with_wrong_proof",
    "answer_with_zxid_gone_back",
    "challenge_again",
    "deny_sessions",
    "drop_after",
    "drop_before",
    "enormous_length",
    "event_for_nobody",
    "event_of_unknown_type",
    "event_without_path",
    "expire",
    "fail_ping",
    "fail_with",
    "garbage",
    "go_silent",
    "half_frame_then_close",
    "half_frame_then_silence",
    "hold",
    "negative_length",
    "never",
    "no_sasl",
    "other_session",
    "read_only",
    "reset",
    "send",
    "swallow",
    "unknown_error",
    "without_read_only_byte",
]

_FAR: Final = 1_000_000
"""An xid so far on is of no request."""
_NOT_READ_ONLY: Final = -119
_UNKNOWN_EVENT: Final = 77
_UNKNOWN_ERROR: Final = -999
_HALF_FRAME: Final = struct.pack(">i", 100) + bytes(50)


# --- at any time --------------------------------------------------------------------------------------------------


def drop_before(connection: Connection, _: object = None) -> None:
    """Closes the connection; nothing was applied. A server that shuts down, or that is not serving; as a connection
    is accepted: one that has all the connections it may have (maxClientCnxns)."""
    connection.close()


def reset(connection: Connection, _: object = None) -> None:
    """Breaks the connection (RST); nothing was applied. A server that is killed, a firewall that lost its table."""
    connection.reset()


def go_silent(connection: Connection, _: object = None) -> None:
    """From here on there is nothing but silence. A frozen process, an unplugged cable: the link is half-open."""
    connection.silent = True


def send(data: bytes, *, then_close: bool = False) -> Callable[..., None]:
    """Returns an action that sends these bytes instead of anything else."""

    def send_data(connection: Connection, _: object = None) -> None:
        connection.send_raw(data)
        if then_close:
            connection.close()

    return send_data


def garbage(connection: Connection, _: object = None) -> None:
    """Text. Something else listens at that address: a proxy that answers in its own name, another service."""
    connection.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def enormous_length(connection: Connection, _: object = None) -> None:
    """A frame of two gigabytes is announced. Text of another service reads like that, and so does any stream that
    lost its place."""
    connection.send_raw(struct.pack(">i", 2**31 - 1))


def negative_length(connection: Connection, _: object = None) -> None:
    """A frame of −1 bytes is announced. Robustness only; binary protocols of others read like that."""
    connection.send_raw(struct.pack(">i", -1))


def half_frame_then_close(connection: Connection, _: object = None) -> None:
    """The first part of a frame, then the end. A server that shuts down, or crashes, in the middle of a write."""
    connection.send_raw(_HALF_FRAME)
    connection.close()


def half_frame_then_silence(connection: Connection, _: object = None) -> None:
    """The first part of a frame, and nothing more. The path breaks in the middle of a large reply."""
    connection.send_raw(_HALF_FRAME)
    connection.silent = True


def event_of_unknown_type(connection: Connection, request: Received | None = None) -> None:
    """An event with a number that this protocol doesn't have, then the answer. Robustness only."""
    _event(connection, _UNKNOWN_EVENT, b"/a")
    _answer_if_any(connection, request)


def event_for_nobody(connection: Connection, request: Received | None = None) -> None:
    """An event for a path that nobody watches, then the answer. Daily life: a watch whose caller has gone is still
    there on the server. A client takes no notice."""
    _event(connection, 3, b"/nobody/watches/this")
    _answer_if_any(connection, request)


def event_without_path(connection: Connection, request: Received | None = None) -> None:
    """An event whose path is null, then the answer. Robustness only."""
    _event(connection, 3, None)
    _answer_if_any(connection, request)


# --- at handshakes ------------------------------------------------------------------------------------------------


def never(_: Connection, __: ConnectRequest) -> None:
    """No answer to the handshake; the connection stays. A server that has lost its leader, or is overloaded."""


def other_session(connection: Connection, request: ConnectRequest) -> None:
    """The session asked for is dead, and another one handed out unasked. Look-alikes of ZooKeeper do so, and servers
    whose sessions have got mixed up."""
    connection.server.znodes.end_session(request.session_id)
    accept(connection, request._replace(session_id=0, password=bytes(16)))


def without_read_only_byte(connection: Connection, request: ConnectRequest) -> None:
    """The session that is asked for, or a new one, in 36 bytes, without the read-only byte: in order, and how servers
    before 3.4 did it."""
    accept(connection, request._replace(read_only=None))


def read_only(connection: Connection, request: ConnectRequest) -> None:
    """A read-only server's answer: cut off from the others, it serves what it has."""
    respond(connection, ConnectResponse(0, request.timeout_ms, 77, bytes(16), True))


def deny_sessions(connection: Connection, _: ConnectRequest) -> None:
    """The 16 bytes of a reply header, with an error in it, where a ConnectResponse must be: a read-only server that
    can't make the session."""
    connection.send_raw(frame(encode_reply(0, 0, _NOT_READ_ONLY)))


# --- at requests: what goes missing -------------------------------------------------------------------------------


def drop_after(connection: Connection, request: Received) -> None:
    """Applied; the connection is closed instead of an answer. Any server that dies at the wrong moment."""
    apply(connection, request)
    connection.close()


def swallow(_: Connection, __: Received) -> None:
    """Neither applied nor answered, nothing else amiss. Robustness only: real servers forget no single request."""


def hold(connection: Connection, request: Received) -> None:
    """Applied, but this answer and all later ones wait for `Connection.release`. A server that is slow."""
    connection.holding = True
    answer(connection, request)


# --- at requests: what is wrong with the answer -------------------------------------------------------------------


def fail_with(code: int) -> Callable[[Connection, Received], None]:
    """Returns an action that refuses a request with this error, without applying it: everyday answers of a server, as
    far as the code is one of ZooKeeper's. Refused credentials, and tokens of SASL, end the connection, too, as on real
    servers."""

    def fail(connection: Connection, request: Received) -> None:
        connection.reply(request.xid, code, encode_sasl_reply(None) if request.op == Op.SASL else b"")
        if request.op in (Op.AUTH, Op.SASL):
            connection.close()

    return fail


def unknown_error(connection: Connection, request: Received) -> None:
    """Refused with a code (−999) that nobody has heard of. A server that is newer than the client."""
    connection.reply(request.xid, _UNKNOWN_ERROR)


def answer_with_unknown_xid(connection: Connection, request: Received) -> None:
    """Applied; the answer is to a request that was never made. Robustness only, as all that follows on xids."""
    for reply in apply(connection, request):
        connection.send(reply._replace(xid=request.xid + _FAR))


def answer_twice(connection: Connection, request: Received) -> None:
    """One request, the same answer two times."""
    for reply in apply(connection, request) * 2:
        connection.send(reply)


def answer_nobody(connection: Connection, request: Received) -> None:
    """The answer, and behind it one to a request that was never made."""
    answer(connection, request)
    connection.reply(request.xid + _FAR)


def answer_after_next(connection: Connection, request: Received) -> None:
    """The answer to the next request comes first. Replies of real servers keep their order."""

    def answer_both(other: Connection, following: Received) -> None:
        answer(other, following)
        connection.release(range(len(connection.held))[::-1])

    hold(connection, request)
    connection.server.next(answer_both)


def answer_with_zxid_gone_back(connection: Connection, request: Received) -> None:
    """Applied; the answer is older than what was answered before. A server whose data was restored from a backup, or
    a look-alike that serves from several replicas; real servers turn away clients that have seen more than they."""
    for reply in apply(connection, request):
        connection.send(reply._replace(zxid=1))


def answer_with_truncated_body(connection: Connection, request: Received) -> None:
    """Applied; the frame is whole, but the last field of what is in it is not. Robustness only."""
    for reply in apply(connection, request):
        connection.send(reply._replace(body=reply.body[:-1]))


def answer_with_trailing_bytes(connection: Connection, request: Received) -> None:
    """Applied; behind the answer are bytes that nobody knows. A server that is newer than the client: this is how the
    protocol was extended before. A client takes no notice."""
    for reply in apply(connection, request):
        connection.send(reply._replace(body=reply.body + b"more"))


# --- at tokens of SASL: for `BadServer.on(Op.SASL, …)` ------------------------------------------------------------


def answer_with_token(token: bytes | None) -> Callable[[Connection, Received], None]:
    """Returns an action: the dev server isn't asked, and this is the server's token, whatever the client's was. Nobody
    who is what he says to be does that; who wants to be taken for a server may."""
    return lambda connection, request: connection.reply(request.xid, 0, encode_sasl_reply(token), zxid=0)


def no_sasl(connection: Connection, request: Received) -> None:
    """No error, and no token: a server that isn't set up for SASL."""
    answer_with_token(None)(connection, request)


def challenge_again(connection: Connection, request: Received) -> None:
    """A challenge, of DIGEST-MD5, whatever has come before: at first that is in order. Robustness only."""
    nonce = connection.server.znodes.nonce(0.0)
    answer_with_token(challenge(nonce))(connection, request)


def answer_with_wrong_proof(connection: Connection, request: Received) -> None:
    """As it should be, but the last byte of the token is another one: if it is the last token, the server has not
    proven that it knows the client's password. Somebody who wants to be taken for a server."""
    for reply in apply(connection, request):
        last = b"0" if reply.body[-1:] != b"0" else b"1"
        connection.send(reply._replace(body=reply.body[:-1] + last))


# --- at pings -----------------------------------------------------------------------------------------------------


def fail_ping(code: int) -> Callable[[Connection], None]:
    """Returns an action for `BadServer.ping` that refuses it with an error. Servers that enforce authentication do,
    with −124, and close the connection; this one doesn't close it."""
    return lambda connection: connection.reply(XID_PING, code)


# --- made from ----------------------------------------------------------------------------------------------------


def _answer_if_any(connection: Connection, request: Received | None) -> None:
    if request is not None:
        answer(connection, request)


def _event(connection: Connection, event: int, path: bytes | None) -> None:
    """By hand: what `encode_watcher_event` refuses can be sent, too."""
    text = struct.pack(">i", -1) if path is None else struct.pack(">i", len(path)) + path
    body = struct.pack(">ii", event, KEEPER_STATE_SYNC_CONNECTED) + text
    connection.send_raw(frame(REPLY_HEADER.pack(XID_NOTIFICATION, -1, 0) + body))
