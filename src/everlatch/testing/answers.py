"""What a bad server does that is in order: the dev server is asked, and its answer is sent. For actions that do a part
of it, or something else besides:

    def be_slow(connection, request):
        for reply in apply(connection, request):            # it is done, and whoever watches knows
            loop.call_later(5, connection.send, reply)      # who asked does not, yet
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.errors import UnimplementedError
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectResponse, encode_connect_request, encode_connect_response
from everlatch.wire.headers import frame_request

if TYPE_CHECKING:
    from everlatch.testing.badserver import Connection, Received, Reply
    from everlatch.wire.handshake import ConnectRequest

__all__ = ["accept", "answer", "answer_word", "apply", "expire", "respond"]


def accept(connection: Connection, request: ConnectRequest) -> None:
    """A new session, or the one asked for; timeout 0 if that has ended. A client that has seen a later zxid than
    this server is turned away without a word."""
    connection.send_raw(connection.ask(frame(encode_connect_request(request))))
    connection.flush()


def expire(connection: Connection, request: ConnectRequest) -> None:
    """The session that is asked for has ended, with its ephemeral nodes: timeout 0, and the connection is closed."""
    connection.server.znodes.end_session(request.session_id)
    respond(connection, ConnectResponse(0, 0, 0, bytes(16), False))
    connection.close()


def respond(connection: Connection, response: ConnectResponse) -> None:
    """Any answer to a handshake."""
    connection.send_raw(frame(encode_connect_response(response)))


def answer_word(connection: Connection, word: str) -> None:
    """The answer to a four-letter word, and the end of the connection."""
    connection.send_raw(connection.ask(word.encode()))
    connection.flush()


def answer(connection: Connection, request: Received) -> None:
    """Does what a request asks for, and replies."""
    for reply in apply(connection, request):
        if reply.err == UnimplementedError.code:  # overtakes what is still to be answered
            connection.send_raw(reply.framed())
        else:
            connection.send(reply)
    connection.flush()


def apply(connection: Connection, request: Received) -> list[Reply]:
    """Does what a request asks for, tells everybody who watches, and returns the reply for `Connection.send`. There is
    none if a real server wouldn't reply."""
    said = connection.ask(frame_request(request.xid, request.op, request.body))
    return connection.tell(said)
