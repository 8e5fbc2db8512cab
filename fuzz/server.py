"""A server in memory that answers as real ones do: what it says is well-formed, and can be told from what it says to
others.

Rules of this file: replies to what has a path carry that path where there is room for it (data, names, the created
path), so that an answer that reaches the wrong call shows; the rest comes from the corpus. Zxids grow, and a client
that has seen later ones (a mutant's) is believed: a real server would turn it away, and no case would end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everlatch.errors import ProtocolError
from everlatch.types import ACL, EventType, Node, Stat
from everlatch.wire.auth_records import decode_sasl_request, encode_sasl_reply
from everlatch.wire.codes import KEEPER_STATE_SYNC_CONNECTED, XID_AUTH, XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import FrameReader
from everlatch.wire.handshake import ConnectResponse, decode_connect_request, encode_connect_response
from everlatch.wire.headers import decode_request_header, encode_reply
from everlatch.wire.jute import decode_text
from everlatch.wire.multi import (
    CheckPart,
    CheckResult,
    CreatePart,
    CreateResult,
    DeletePart,
    DeleteResult,
    ErrorResult,
    GetDataPart,
    GetDataResult,
    Result,
    SetDataPart,
    SetDataResult,
    decode_multi_request,
    encode_multi_reply,
)
from everlatch.wire.records import (
    encode_create2_reply,
    encode_get_acl_reply,
    encode_get_children2_reply,
    encode_get_children_reply,
    encode_get_data_reply,
)
from everlatch.wire.structures import encode_stat
from everlatch.wire.watch_records import encode_watcher_event

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from fuzz.recordings import Corpus
    from fuzz.sasl import SaslServer

__all__ = ["SRVR_ANSWER", "STAT", "MemoryServer", "World"]

SRVR_ANSWER = b"""\
Zookeeper version: 3.9.5-293c895a3ddbb9b6cbdd5a0f5b1ae1a0d7a0e7d5, built on 2026-02-11 20:18 UTC
Latency min/avg/max: 0/0.5/12
Received: 2
Sent: 1
Connections: 1
Outstanding: 0
Zxid: 0x100000001
Mode: standalone
Node count: 5
"""
"""To the four-letter word that tells the version."""
STAT = Stat(1, 2, 0, 0, 3, 0, 0, 0, 5, 0, 1)
_REQUEST_LIMIT = 1 << 30
_REQUEST_HEADER_SIZE = 8
_LAST_ZXID = 2**63 - 1
_EVENTS = tuple(EventType)[:4]


class World:
    """What the servers of one ensemble have in common."""

    def __init__(self) -> None:
        self.zxid = 0x1_0000_0000
        self.sessions = 0x1_0000

    def next_zxid(self) -> int:
        """The zxid of one more answer."""
        self.zxid = min(self.zxid + 1, _LAST_ZXID)
        return self.zxid


_WITH_PATH: dict[int, Callable[[str], bytes]] = {
    Op.GET_DATA: lambda path: encode_get_data_reply(path.encode(), STAT),
    Op.EXISTS: lambda path: encode_stat(STAT),
    Op.SET_DATA: lambda path: encode_stat(STAT),
    Op.SET_ACL: lambda path: encode_stat(STAT),
    Op.GET_CHILDREN: lambda path: encode_get_children_reply([path]),
    Op.GET_CHILDREN2: lambda path: encode_get_children2_reply([path], STAT),
    Op.GET_ACL: lambda path: encode_get_acl_reply([ACL(1, "world", path)], STAT),
    Op.CREATE2: lambda path: encode_create2_reply(path, STAT),
    Op.CREATE_CONTAINER: lambda path: encode_create2_reply(path, STAT),
    Op.CREATE_TTL: lambda path: encode_create2_reply(path, STAT),
    Op.DELETE: lambda path: b"",
}


class MemoryServer:
    """One connection of a server; without I/O."""

    def __init__(
        self, world: World, corpus: Corpus, rng: Random, *, refusals: float = 0.0, sasl: SaslServer | None = None
    ) -> None:
        self._world = world
        self._corpus = corpus
        self._rng = rng
        self._refusals = refusals
        """How likely a request is to be answered with an error."""
        self._sasl = sasl
        """If it is there, whoever comes has to authenticate first."""
        self._errors = sorted(corpus.errors)
        self._reader = FrameReader(_REQUEST_LIMIT)
        self._shaken = False

    def receive(self, data: bytes) -> list[bytes]:
        """The payloads to send for what has come in, in order. Raises `ProtocolError` at what no client may send."""
        answers: list[bytes] = []
        for buf, start, end in self._reader.feed(data):
            if self._shaken:
                answers += self._answer(buf, start, end)
            else:
                self._shaken = True
                answers.append(self._grant(buf, start, end))
        if self._reader.pending:
            raise ProtocolError("the client sent half a frame")
        return answers

    def _grant(self, buf: bytes, start: int, end: int) -> bytes:
        request = decode_connect_request(buf, start, end)
        world = self._world
        world.zxid = max(world.zxid, request.last_zxid_seen)
        session_id = request.session_id
        if not session_id:
            world.sessions += 1
            session_id = world.sessions
        timeout = max(request.timeout_ms, 1)
        return encode_connect_response(ConnectResponse(0, timeout, session_id, bytes(range(16)), False))

    def _answer(self, buf: bytes, start: int, end: int) -> list[bytes]:
        xid, op = decode_request_header(buf, start, end)
        body = buf[start + _REQUEST_HEADER_SIZE : end]
        world = self._world
        if self._sasl is not None and op == Op.SASL:
            code, token = self._sasl.answer(decode_sasl_request(body, 0, len(body)))
            return [encode_reply(xid, 0, code, encode_sasl_reply(token))]
        if self._sasl is not None and not self._sasl.has_proven:
            raise ProtocolError(f"operation {op}, to a server that has not proven itself")
        if xid == XID_PING:
            return [encode_reply(xid, world.zxid, 0)]
        if xid == XID_AUTH:
            return [encode_reply(xid, 0, 0)]
        if self._refusals and op != Op.CLOSE_SESSION and self._rng.random() < self._refusals:
            return [encode_reply(xid, world.next_zxid(), self._rng.choice(self._errors))]
        reply = encode_reply(xid, world.next_zxid(), 0, self._body(op, body))
        return [reply, *self._event(op, body)]

    def _body(self, op: int, body: bytes) -> bytes:
        if op in _WITH_PATH:
            return _WITH_PATH[op](decode_text(body, 0, len(body))[0])
        if op in (Op.MULTI, Op.MULTI_READ):
            parts = decode_multi_request(body, 0, len(body))
            if self._rng.random() < self._refusals:
                return encode_multi_reply([ErrorResult(self._rng.choice((0, -2, -101))) for _ in parts])
            return encode_multi_reply([_result(part) for part in parts])
        known = self._corpus.replies.get(op)
        return self._rng.choice(known) if known else b""

    def _event(self, op: int, body: bytes) -> list[bytes]:
        """A read that leaves a watch sees something, now and then."""
        if op not in (Op.GET_DATA, Op.EXISTS, Op.GET_CHILDREN, Op.GET_CHILDREN2) or self._rng.random() < 0.5:
            return []
        path, pos = decode_text(body, 0, len(body))
        if body[pos : pos + 1] != b"\1":
            return []
        event = encode_watcher_event(self._rng.choice(_EVENTS).value, KEEPER_STATE_SYNC_CONNECTED, path)
        return [encode_reply(XID_NOTIFICATION, -1, 0, event)]


def _result(part: Any) -> Result:
    match part:
        case CreatePart():
            return CreateResult(part.path, STAT if part.op == Op.CREATE2 else None)
        case SetDataPart():
            return SetDataResult(STAT)
        case DeletePart():
            return DeleteResult()
        case CheckPart():
            return CheckResult()
        case GetDataPart():
            return GetDataResult(Node(part.path.encode(), STAT))
        case _:
            return ErrorResult(-101)
