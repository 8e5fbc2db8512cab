"""What a proxy understands of the bytes that pass: frames, the path of a request, the session of a handshake.

Rules of this module: no byte is lost or changed; what can't be followed isn't guessed at.
"""

from __future__ import annotations

from typing import Final

from everlatch.errors import ProtocolError
from everlatch.wire.codes import Op
from everlatch.wire.framing import FrameReader
from everlatch.wire.handshake import decode_connect_request, decode_connect_response
from everlatch.wire.jute import decode_text

__all__ = ["Frames", "granted_session", "path_of", "wanted_session"]

_MAX_FRAME: Final = 1 << 26
_MULTI_HEADER_SIZE: Final = 9
_PATH_FIRST: Final = frozenset(
    {
        Op.CREATE,
        Op.CREATE2,
        Op.CREATE_CONTAINER,
        Op.CREATE_TTL,
        Op.DELETE,
        Op.EXISTS,
        Op.GET_DATA,
        Op.SET_DATA,
        Op.GET_ACL,
        Op.SET_ACL,
        Op.GET_CHILDREN,
        Op.GET_CHILDREN2,
        Op.GET_EPHEMERALS,
        Op.GET_ALL_CHILDREN_NUMBER,
        Op.SYNC,
        Op.CHECK,
        Op.ADD_WATCH,
        Op.CHECK_WATCHES,
        Op.REMOVE_WATCHES,
    }
)


class Frames:
    """A stream cut into frames for as long as that can be done."""

    def __init__(self) -> None:
        self.opaque = False
        """Whether something came that is no frame; nothing is cut from there on."""
        self._reader = FrameReader(_MAX_FRAME)
        self._rest: list[bytes] = []
        """What has come of the next frame."""

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The payloads that `data` completes, and behind them bytes that can't be followed. No byte is lost."""
        if self.opaque:
            return [], data
        payloads: list[bytes] = []
        try:
            payloads.extend(buf[start:end] for buf, start, end in self._reader.feed(data))
        except ProtocolError:
            self.opaque = True
        self._rest.append(data)
        if not payloads and not self.opaque:
            return [], b""
        rest = self.take_rest()[sum(len(payload) + 4 for payload in payloads) :]
        if self.opaque:
            return payloads, rest
        self._rest.append(rest)
        return payloads, b""

    def take_rest(self) -> bytes:
        """The beginning of a frame that will never be complete, or empty."""
        rest = b"".join(self._rest)
        self._rest.clear()
        return rest


def path_of(op: int, payload: bytes) -> str:
    """Of a request whose body is what it should be; else none."""
    if op in _PATH_FIRST:
        start = 8
    elif op in (Op.MULTI, Op.MULTI_READ):
        start = 8 + _MULTI_HEADER_SIZE
    else:
        return ""
    try:
        return decode_text(payload, start, len(payload))[0]
    except ProtocolError:
        return ""


def wanted_session(payload: bytes) -> int:
    """The session that a handshake takes up again; 0: a new one, or no handshake."""
    try:
        return decode_connect_request(payload, 0, len(payload)).session_id
    except ProtocolError:
        return 0


def granted_session(payload: bytes) -> int:
    """The session that the answer to a handshake grants; 0: none."""
    try:
        response = decode_connect_response(payload, 0, len(payload))
    except ProtocolError:
        return 0
    return response.session_id if response.timeout_ms > 0 else 0
