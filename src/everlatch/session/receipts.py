"""Receipts: what makes a write *exactly once*.

A write travels as `multi[setData(slot, token, version), write…]`. The slot is a small ephemeral node of our session,
and `version` the one that it certainly has; so the multi is applied once at most, however often it is sent, and
afterwards the slot tells whether it was: it has the token and the next version, and its mzxid is that of the write.

Rules:
1. The receipt is the first part, and demands its version. With −1 a late original and its repetition are both applied.
2. A slot serves one write at a time, and another one only when the fate of that is known. A write for which no slot is
   left waits, and all calls behind it: order comes first.
3. A write that is sent again goes with the same slot, version and token. In another session it needs a new one.
4. Slots are made when a session begins, before any write; their names tell the session, their owner proves it. With
   them it is tried whether they can be read and written: otherwise there are none, and it is known why.
5. A slot that shows anything but what we have written has been meddled with: its write is judged by other evidence, and
   the slot is not used again.
"""

from __future__ import annotations

import functools
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.errors import ProtocolError, ReceiptsError, ServerError, server_error
from everlatch.paths import join, parent
from everlatch.session.evidence import NOT_APPLIED, Fate, Verdict, changes_of, result_of
from everlatch.session.looks import LOOK, look_body
from everlatch.session.own import Own
from everlatch.session.requests import Operation, Request
from everlatch.types import Node, Stat
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.jute import truncated
from everlatch.wire.multi import (
    CheckPart,
    CreatePart,
    CreateResult,
    ErrorResult,
    decode_multi_reply,
    encode_multi_request,
)
from everlatch.wire.records import encode_create2_reply, encode_create_request, encode_set_data_request
from everlatch.wire.structures import decode_stat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from everlatch.types import ACL
    from everlatch.wire.multi import Part, Result

__all__ = ["LARGEST_RECEIPT", "MOST_RECEIPTS", "Answer", "Receipt", "Receipts"]

LARGEST_RECEIPT: Final = 256
"""Bytes that a receipt adds to a request, beside the path of its place."""
MOST_RECEIPTS: Final = 1000
"""They are made by one request, of 1 MiB at most."""

_PART: Final = struct.Struct(">i?i")
"""The header of each part, and of each result."""
_NO_VERSION: Final = (1 << 31) - 1
"""None that a slot will ever have."""
_END: Final = _PART.pack(-1, True, -1)
_TOKEN: Final = struct.Struct(">q")
_CODE_SIZE: Final = 4
_UNSIGNED: Final = (1 << 64) - 1
_NO_NODE: Final = -101
_NO_AUTH: Final = -102
_NODE_EXISTS: Final = -110
_CREATES: Final = frozenset({Op.CREATE2, Op.CREATE_CONTAINER, Op.CREATE_TTL})
_KINDS: Final[dict[int, Op]] = {Op.SET_DATA: Op.SET_DATA, Op.DELETE: Op.DELETE, **dict.fromkeys(_CREATES, Op.CREATE2)}
"""Operation → what its result in a transaction is called."""
_OK_OR_NOT_TRIED: Final = frozenset({0, -2})

_MAKE: Final = Operation("create", Op.MULTI, decode_multi_reply)
_TRY: Final = Operation("set", Op.SET_DATA, lambda *_: None)
_MAKE_PLACE: Final = Operation("create", Op.CREATE, lambda *_: None)


class Slot:
    """One node for receipts. `session` is the number of the session that it belongs to (its generation), `version` that
    of its data."""

    __slots__ = ("path", "session", "version")

    def __init__(self, path: str, session: int, version: int) -> None:
        self.path = path
        self.session = session
        self.version = version


class Receipt(NamedTuple):
    """What one write has been given."""

    slot: Slot
    version: int
    """That the slot has as long as the write is not applied."""
    token: bytes


class Answer(NamedTuple):
    """The reply to a write with a receipt, taken apart."""

    code: int
    """0, or why the write was refused."""
    reply: tuple[bytes, int, int]
    """The reply that the write would have got without a receipt: buffer, start, end."""
    is_receipts: bool = False
    """Whether it was the receipt that was refused."""


class Receipts:
    """The slots of a client's present session.

    `place`: the servers' path of the node below which they are; it is made if it is missing. `count`: how many.
    `ask` sends a request of the session's own.
    """

    def __init__(self, place: str, count: int, acl: Sequence[ACL], ask: Callable[[Request], None]) -> None:
        self._place = place
        self._count = count
        self._acl = tuple(acl)
        self._ask = ask
        self._session = 0
        self._owner = 0
        self._live = 0
        """Slots that there are, free or not."""
        self._next_number = 0
        self._last_token = 0
        self._making: list[str] = []
        """Of those that are being made."""
        self._has_made_place = False
        self._place_error: ServerError | None = None
        """Why their place, or what is above it, could not be made."""
        self._then: Callable[[], None] = _nothing
        self.free: deque[Slot] = deque()
        self.error: ServerError | None = None
        """Why there are none."""

    # -- making slots

    def is_complete(self, session: int) -> bool:
        """Whether all slots of this session are there."""
        return self._session == session and self._live == self._count

    def make(self, session: int, owner: int, then: Callable[[], None]) -> None:
        """Makes the slots that are missing. `then` is called when they are there, or `error` is."""
        if self._session != session:
            self.free.clear()
            self._session, self._live, self._next_number = session, 0, 0
        self._owner, self._then = owner, then
        self._has_made_place, self._place_error = False, None
        numbers = range(self._next_number, self._next_number + self._count - self._live)
        self._making = [join(self._place, f"{owner & _UNSIGNED:016x}-{number:02d}") for number in numbers]
        self._send()

    def _send(self) -> None:
        parts: list[Part] = [CreatePart(Op.CREATE, path, b"", self._acl, CreateMode.EPHEMERAL) for path in self._making]
        parts.append(CheckPart(self._making[0], 0))  # takes READ; all have the same ACL
        self._ask(Request(Own(self._made), _MAKE, self._place, encode_multi_request(parts)))

    def _made(self, reply: list[Result] | ServerError) -> None:
        error = reply if isinstance(reply, ServerError) else self._refusal(reply)
        if error is None:
            self._try(dict.fromkeys(self._making, 0))
        elif error.code == _NO_NODE and not self._has_made_place:
            self._make_place()
        elif error.code == _NODE_EXISTS:
            self._look_at_them()
        else:
            self._end(self._place_error or error)

    def _try(self, versions: dict[str, int]) -> None:
        """Whether they can be written: who may, is told that they don't have a version that they can't have."""

        def tried(reply: object) -> None:
            if isinstance(reply, ServerError) and reply.code == _NO_AUTH:
                self._end(server_error(_NO_AUTH, "set", self._place))
            else:
                self._add(versions)

        path = next(iter(versions))
        self._ask(Request(Own(tried), _TRY, path, encode_set_data_request(path, b"", _NO_VERSION)))

    def _refusal(self, results: list[Result]) -> ServerError | None:
        codes = [result.code for result in results if isinstance(result, ErrorResult)]
        if not codes:
            return None
        index, code = _first_refused(codes)
        return server_error(code, "create" if index < len(self._making) else "check", self._place)

    def _make_place(self) -> None:
        """And all above it; what exists already is as welcome."""
        self._has_made_place = True
        above = [self._place]
        while parent(above[-1]) != "/":
            above.append(parent(above[-1]))
        for path in reversed(above):
            body = encode_create_request(path, b"", self._acl, CreateMode.PERSISTENT)
            self._ask(Request(Own(self._place_made), _MAKE_PLACE, path, body))
        self._send()

    def _place_made(self, reply: ServerError | None) -> None:
        if reply is None or reply.code == _NODE_EXISTS:  # one above may be refused because it may not be made again
            self._place_error = None
        else:
            self._place_error = self._place_error or reply

    def _look_at_them(self) -> None:
        """Made by a request of which the answer was lost: the owner tells."""
        found: dict[str, int] = {}
        waiting = list(self._making)

        def looked(path: str, stat: Stat | ServerError | None) -> None:
            waiting.remove(path)
            if isinstance(stat, Stat) and stat.ephemeral_owner == self._owner:
                found[path] = stat.version
            if not waiting and found:
                self._try(found)
            elif not waiting:
                self._end(server_error(_NODE_EXISTS, "create", path))

        for path in self._making:
            self._ask(Request(Own(functools.partial(looked, path)), LOOK, path, look_body(path)))

    def _add(self, versions: dict[str, int]) -> None:
        self._next_number += len(self._making)
        self._live += len(versions)
        self.free += [Slot(path, self._session, version) for path, version in versions.items()]
        self._end(None)
        self._replace_missing()  # given up meanwhile

    def _end(self, error: ServerError | None) -> None:
        self.error = error if not self._live else None
        self._making = []
        then, self._then = self._then, _nothing
        then()

    def error_for(self, request: Request | None) -> ReceiptsError:
        """What a write ends with while there can be no slots."""
        assert self.error is not None
        call = () if request is None else (request.operation.name, request.path)
        return ReceiptsError(self._place, self.error, *call)

    # -- with a write

    def has_for(self, request: Request) -> bool:
        """Whether the write can go: one that is sent again has a slot already."""
        return bool(self.free) or self.has_one(request)

    def has_one(self, request: Request) -> bool:
        """Whether it has a slot of the present session."""
        return request.receipt is not None and request.receipt.slot.session == self._session

    def wrap(self, request: Request) -> bytes:
        """The body of the multi that a write travels as. There must be a slot for it."""
        receipt = request.receipt
        if receipt is None or not self.has_one(request):
            slot = self.free.popleft()
            self._last_token += 1
            receipt = request.receipt = Receipt(slot, slot.version, _TOKEN.pack(self._last_token))
        first = _PART.pack(Op.SET_DATA, False, -1) + encode_set_data_request(
            receipt.slot.path, receipt.token, receipt.version
        )
        if request.operation.op == Op.MULTI:
            return first + request.body
        return b"".join((first, _PART.pack(request.operation.op, False, -1), request.body, _END))

    def answered(self, request: Request, err: int, buf: bytes, pos: int, end: int) -> Answer:
        """Takes a reply apart; the slot is free again, unless it was refused itself. Raises `ProtocolError`."""
        receipt = request.receipt
        assert receipt is not None
        if err:
            self.release(request, receipt.version)
            return Answer(err, (buf, pos, end))
        if end - pos >= _PART.size and _PART.unpack_from(buf, pos)[0] == Op.SET_DATA:
            stat, pos = decode_stat(buf, pos + _PART.size, end)
            reply = (buf, pos, end) if request.operation.op == Op.MULTI else self._single(request, stat, buf, pos, end)
            self.release(request, stat.version)
            return Answer(0, reply)
        codes = [result.code for result in decode_multi_reply(buf, pos, end) if isinstance(result, ErrorResult)]
        if not codes:
            raise ProtocolError("the receipt of a write was answered by something else")
        index, code = _first_refused(codes)
        if index:
            self.release(request, receipt.version)
        return Answer(code, (buf, pos + _PART.size + _CODE_SIZE, end), not index)

    def _single(self, request: Request, stat: Stat, buf: bytes, pos: int, end: int) -> tuple[bytes, int, int]:
        """The reply to the only other part, as it is outside of a transaction. `stat` is that of the slot."""
        if request.call is None:
            return buf, pos, pos
        if end - pos < _PART.size:
            raise truncated(pos, end, _PART.size)
        kind = _PART.unpack_from(buf, pos)[0]
        if kind == _KINDS[request.operation.op]:
            return buf, pos + _PART.size, end - len(_END)
        result = next(iter(decode_multi_reply(buf, pos, end)), None)
        if kind == Op.CREATE and isinstance(result, CreateResult) and request.operation.op in _CREATES:
            # A server before 3.8.2, which tells no Stat; but the receipt was written by the same transaction.
            (change,) = changes_of(request)
            verdict = Verdict(Fate.HAPPENED, stat.mzxid, stat.mtime)
            whole = result_of(change._replace(path=result.path), verdict, {}, result.path, self._owner)
            assert isinstance(whole, CreateResult)
            assert whole.stat is not None
            reply = encode_create2_reply(result.path, whole.stat)
            return reply, 0, len(reply)
        raise ProtocolError(f"{request.operation.name} was answered by {result!r}")

    def release(self, request: Request, version: int) -> None:
        """The fate of its write is known. The slot is taken from it at once, for whoever still asks about the write
        must not take another one's receipt for its own."""
        slot = self._take_from(request)
        slot.version = version
        if slot.session == self._session:
            self.free.append(slot)

    def give_back(self, request: Request) -> None:
        """Its write won't be sent again, and has not been applied with the slot that it has, if it has one."""
        if request.receipt is not None:
            self.release(request, request.receipt.version)

    def abandon(self, request: Request) -> None:
        """Somebody has meddled with the slot."""
        if self._take_from(request).session == self._session:
            self._live -= 1
            self._replace_missing()

    def _take_from(self, request: Request) -> Slot:
        receipt, request.receipt = request.receipt, None
        assert receipt is not None
        return receipt.slot

    def _replace_missing(self) -> None:
        if self._live < self._count and not self._making:
            self.make(self._session, self._owner, _nothing)

    def judge(self, receipt: Receipt, node: Node | ServerError) -> Verdict | None:
        """What the slot shows of its write; `None`: nothing, for it isn't as we left it. The write keeps the slot until
        `release` or `abandon`, for the connection may be lost before there is an end of it."""
        if isinstance(node, Node) and node.stat.ephemeral_owner == self._owner:
            if node.stat.version == receipt.version:
                return NOT_APPLIED
            if node.stat.version == receipt.version + 1 and node.data == receipt.token:
                return Verdict(Fate.HAPPENED, node.stat.mzxid, node.stat.mtime)
        return None


def _first_refused(codes: Sequence[int]) -> tuple[int, int]:
    """Its place, and its code: of a refused transaction, those before it have 0, those behind it −2."""
    return next(((i, code) for i, code in enumerate(codes) if code not in _OK_OR_NOT_TRIED), (0, codes[0]))


def _nothing() -> None:
    """Nobody waits."""
