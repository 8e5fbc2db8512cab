"""What a server has said during a sequence: for each connection a list of items, in the order in which they came.

Rules of this file: an item is a dict of plain values, all of them normal; `kind` tells what it is, `step` the index of
the step that it belongs to (−1 for what belongs to none). Nothing that came is left out, be it malformed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from conformance.operations import OPERATIONS
from everlatch.devserver.sessions import password_of
from everlatch.errors import ProtocolError
from everlatch.types import EventType
from everlatch.wire.codes import XID_NOTIFICATION
from everlatch.wire.handshake import decode_connect_response
from everlatch.wire.headers import REPLY_HEADER, decode_reply_header
from everlatch.wire.watch_records import decode_watcher_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.links import Link
    from conformance.normal import Normal

__all__ = ["END", "Item", "Sent", "Stream", "Transcript", "items_of"]

END: Final = -1
"""The step of what belongs to none."""
_WITHOUT_BODY: Final = ("auth", "unknown")
Item = dict[str, Any]


class Transcript(NamedTuple):
    """All of one server."""

    streams: dict[str, list[Item]]
    """By the name of the connection; `nodes` and `words` are what was found in the end."""
    operations: int
    """How many requests were sent, without handshakes and what running a sequence needs."""


class Sent(NamedTuple):
    """A request."""

    step: int
    name: str
    xid: int
    paths: tuple[str, ...]
    """Of the nodes that it is about."""


@dataclass
class Stream:
    """What was sent on one connection, and what came."""

    name: str
    link: Link
    step: int
    """The one that connected."""
    sent: list[Sent] = field(default_factory=list)
    unordered: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of frames that a server sends in any order."""
    ended: str = "left"
    """`left`, `closed` by the server, `open` where it should have been closed, or `silent`."""

    @property
    def last_zxid(self) -> int:
        """As clients count: of answers, not of events."""
        for payload in reversed(self.link.frames[1:]):
            xid, zxid, _ = decode_reply_header(payload, 0, len(payload))
            if xid != XID_NOTIFICATION and zxid > 0:
                return zxid
        return 0


def items_of(stream: Stream, normal: Normal) -> list[Item]:
    """What came on a connection, and how it ended."""
    requests = iter(stream.sent)
    items = [_item(stream, index, payload, requests, normal) for index, payload in enumerate(stream.link.frames)]
    for start, stop in stream.unordered:
        items[start:stop] = sorted(items[start:stop], key=repr)
    unanswered = [{"kind": "no answer", "step": sent.step, "call": sent.name} for sent in requests]
    return [*items, *unanswered, {"kind": "end", "step": END, "ended": stream.ended}]


def _item(stream: Stream, index: int, payload: bytes, requests: Iterator[Sent], normal: Normal) -> Item:
    try:
        return _handshake(stream, payload, normal) if index == 0 else _event_or_answer(payload, requests, normal)
    except ProtocolError as error:
        return {"kind": "malformed", "step": END, "error": str(error), "payload": payload}


def _handshake(stream: Stream, payload: bytes, normal: Normal) -> Item:
    response = decode_connect_response(payload, 0, len(payload))
    password = password_of(response.session_id) if response.session_id else bytes(16)
    return {
        "kind": "handshake",
        "step": stream.step,
        "timeout_ms": response.timeout_ms,
        "session": normal.session(response.session_id),
        "password_is_right": response.password == password,
        "read_only": response.read_only,
        "size": len(payload),
    }


def _event_or_answer(payload: bytes, requests: Iterator[Sent], normal: Normal) -> Item:
    xid, zxid, code = decode_reply_header(payload, 0, len(payload))
    body = payload[REPLY_HEADER.size :]
    header: Item = {"zxid": normal.zxid(zxid), "code": code, "size": len(payload)}
    if xid == XID_NOTIFICATION:
        event, state, path = decode_watcher_event(body, 0, len(body))
        told = {"type": EventType(event).name, "state": state, "path": normal.text(path)}
        return {"kind": "event", "step": END, **told, **header}
    sent = next(requests, None)
    if sent is None:
        return {"kind": "unasked", "step": END, "xid": xid, "body": body, **header}
    answer: Item = {"kind": "answer", "step": sent.step, "call": sent.name, "xid_is_right": xid == sent.xid, **header}
    if code != 0 or sent.name in _WITHOUT_BODY:
        return answer | ({"body": body} if body else {})
    return answer | _decoded(sent, body, normal)


def _decoded(sent: Sent, body: bytes, normal: Normal) -> Item:
    decoded = OPERATIONS[sent.name].decode(body)
    if "results" not in decoded:
        told: Item = normal.value(decoded, sent.paths[0])
        return told
    paths = itertools.chain(sent.paths, itertools.repeat(""))
    return {"results": [normal.value(result, path) for result, path in zip(decoded["results"], paths, strict=False)]}
