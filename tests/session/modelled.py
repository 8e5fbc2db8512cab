"""A session before servers that keep a tree: what they answer is true, and the test says which answers are lost.

The tree is the dev server's. `World.applied` has every write of ours that was applied, so that what a call ended with
can be compared with what has happened.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from everlatch.devserver.requests import WRITES
from everlatch.devserver.tree import Tree
from everlatch.devserver.versions import FEATURES
from everlatch.devserver.writes import Author, Draft, end_of_session
from everlatch.errors import EverlatchError, NoAuthError, ServerError, TransactionFailedError, server_error
from everlatch.session.requests import Operation, Request, no_result
from everlatch.types import OPEN_ACL_UNSAFE, Stat
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.multi import (
    CreatePart,
    ErrorResult,
    Part,
    Result,
    SetDataPart,
    decode_multi_reply,
    decode_multi_request,
    encode_multi_request,
)
from everlatch.wire.records import (
    decode_create2_reply,
    decode_set_data_reply,
    encode_create_request,
    encode_create_ttl_request,
    encode_delete_request,
    encode_exists_reply,
    encode_get_children_reply,
    encode_get_data_reply,
    encode_set_acl_request,
    encode_set_data_request,
)
from session.driver import GET, Call, Driver, Sent, path_in

OTHER = 0x99
"""Somebody else's session."""
PLACE = "/place"
EPHEMERAL, SEQUENTIAL, BOTH = (
    CreateMode.EPHEMERAL,
    CreateMode.PERSISTENT_SEQUENTIAL,
    CreateMode.EPHEMERAL_SEQUENTIAL,
)


def decode_transaction(buf: bytes, pos: int, end: int) -> list[Result]:
    results = decode_multi_reply(buf, pos, end)
    refused = [(index, r.code) for index, r in enumerate(results) if isinstance(r, ErrorResult)]
    if refused:
        index, code = next(((index, code) for index, code in refused if code not in (0, -2)), refused[0])
        raise TransactionFailedError(index, "/part", server_error(code))
    return results


CREATE = Operation("create", Op.CREATE2, decode_create2_reply, is_write=True)
CREATE_CONTAINER = CREATE._replace(op=Op.CREATE_CONTAINER)
CREATE_TTL = CREATE._replace(op=Op.CREATE_TTL)
SET = Operation("set", Op.SET_DATA, decode_set_data_reply, is_write=True)
DELETE = Operation("delete", Op.DELETE, no_result, is_write=True)
SET_ACL = Operation("set_acl", Op.SET_ACL, decode_set_data_reply, is_write=True)
MULTI = Operation("transaction", Op.MULTI, decode_transaction, is_write=True, restore=lambda results: results)
IDEMPOTENT: dict[str, Any] = {"is_idempotent": True}
PROTECTED: dict[str, Any] = {"is_protected": True}


class Write(NamedTuple):
    """One of our own calls."""

    call: Call
    request: Request

    @property
    def result(self) -> Any:
        assert self.call.error is None, self.call.error
        assert self.call.ends == 1
        return self.call.result

    @property
    def error(self) -> Any:
        assert self.call.ends == 1
        assert isinstance(self.call.error, EverlatchError)
        return self.call.error

    @property
    def is_open(self) -> bool:
        return self.call.ends == 0


class Change(NamedTuple):
    """A write that was applied."""

    zxid: int
    request: Request
    reply: bytes


class World:
    """The servers, and one client of theirs that is connected. Options are those of sessions."""

    def __init__(self, *paths: str, version: str = "3.9", connected: bool = True, **options: Any) -> None:
        if "receipts" in options:
            options = {"receipts_place": PLACE, "receipts_acl": OPEN_ACL_UNSAFE} | options
        self.features = FEATURES[version]
        self.tree = Tree()
        self.tree.zxid = 1000
        self.time_ms = 1_000_000
        self.applied: list[Change] = []
        self.forbidden: set[str] = set()
        """Nobody may look at these, or list their children."""
        for path in paths:
            self.other(CREATE, path)
        self.driver = Driver("10.0.0.1,10.0.0.2", **options)
        if connected:
            self.back()
            self.read()

    # -- the servers

    def execute(self, request: Sent) -> tuple[int, bytes]:
        """The header's error, and the body."""
        if request.op in WRITES:
            return self._write(self.driver.session.session_id, request)
        if request.op in (Op.EXISTS, Op.GET_DATA, Op.GET_CHILDREN):
            return self._read(request)
        return 0, b""

    def _write(self, author: int, request: Sent) -> tuple[int, bytes]:
        self.time_ms += 7
        draft = Draft(self.tree, Author(author, [], self.features), self.time_ms)
        try:
            with draft:
                reply = WRITES[request.op](draft, request.op, request.body)
        except ServerError as error:
            return error.code, b""
        if draft.transaction.changes and author != OTHER:
            in_flight = {ours.xid: ours for ours in self.driver.session.requests.in_flight}
            self.applied.append(Change(draft.zxid, in_flight[request.xid], reply))
        return 0, reply

    def _read(self, request: Sent) -> tuple[int, bytes]:
        path = path_in(request.body)
        if path in self.forbidden:
            return NoAuthError.code, b""
        node = self.tree.nodes.get(path)
        if node is None:
            return -101, b""
        if request.op == Op.EXISTS:
            return 0, encode_exists_reply(node.stat)
        if request.op == Op.GET_DATA:
            return 0, encode_get_data_reply(node.data, node.stat)
        return 0, encode_get_children_reply(list(node.children))

    def other(self, operation: Operation, *arguments: Any, **more: Any) -> tuple[int, bytes]:
        """Somebody else writes."""
        request = Sent(0, 0, operation.op, body_of(operation, *arguments, **more))
        err, reply = self._write(OTHER, request)
        assert not err, err
        return err, reply

    def expire(self) -> None:
        """Our session is over, and what it owned is gone."""
        self.tree.apply(end_of_session(self.tree, self.driver.session.session_id, self.time_ms))

    def stat(self, path: str) -> Stat:
        return self.tree.nodes[path].stat

    def names(self, path: str = "/") -> list[str]:
        return sorted(set(self.tree.nodes[path].children) - {"zookeeper"})

    # -- answering

    @property
    def unanswered(self) -> list[Sent]:
        return list(self.driver.unanswered)

    def answer(self, count: int | None = None) -> None:
        """So many requests, or all, also those that are sent because of the answers."""
        while self.driver.unanswered and (count is None or count > 0):
            self.answer_one(self.driver.unanswered[0])
            count = None if count is None else count - 1

    def answer_one(self, request: Sent) -> None:
        err, body = self.execute(request)
        self.driver.feed(self.driver.reply_to(request, err, self._zxid_for(request), body))

    def refuse(self, err: int) -> None:
        """The next request, without doing it."""
        request = self.driver.unanswered[0]
        self.tree.zxid += 1
        self.driver.feed(self.driver.reply_to(request, err, self._zxid_for(request)))

    def say(self, body: bytes) -> None:
        """To the next request, without doing it."""
        request = self.driver.unanswered[0]
        self.driver.feed(self.driver.reply_to(request, 0, self._zxid_for(request), body))

    def _zxid_for(self, request: Sent) -> int:
        return 0 if request.xid < 0 else self.tree.zxid

    def lose(self, applied: int = 0) -> None:
        """The connection; so many of the unanswered requests were applied first."""
        for request in self.unanswered[:applied]:
            self.execute(request)
        self.driver.lose()

    def back(self, session_id: int | None = None) -> None:
        """To another server; one that may hold writes of ours is drained first."""
        driver = self.driver
        driver.made()
        if driver.session._draining.step is not None:
            driver.grant(0x777)
            driver.answer()
            driver.made()
        driver.grant(session_id)

    def settle(self, applied: int = 0) -> None:
        """The connection is lost, another one is made, and all is answered."""
        self.lose(applied)
        self.back()
        self.answer()

    def renew(self) -> None:
        """On the next connection the session is refused, and another one begins."""
        self.expire()
        self.driver.made()
        self.driver.expire()
        self.back(0x5678)

    @property
    def ops(self) -> list[int]:
        """Of the present connection, without pings."""
        return [request.op for request in self.driver.sent if request.conn == self.driver.session.conn]

    # -- our calls

    def call(self, operation: Operation, *arguments: Any, options: dict[str, Any] | None = None, **more: Any) -> Write:
        """`options`: of the operation; `timeout` and `generation` among the rest are the request's."""
        calls = {name: more.pop(name) for name in ("timeout", "generation") if name in more}
        if self.driver.session._options.receipts and operation.op != Op.SET_ACL:
            operation = operation._replace(is_receipted=True)
        operation = operation._replace(**(options or {}))
        path = arguments[0].path if operation.op == Op.MULTI else arguments[0]
        return Write(*self.driver.submit(operation, path, body_of(operation, *arguments, **more), **calls))

    def create(self, path: str, data: bytes = b"", flags: int = 0, **more: Any) -> Write:
        return self.call(CREATE, path, data, flags, **more)

    def set(self, path: str, data: bytes = b"", version: int = -1, **more: Any) -> Write:
        return self.call(SET, path, data, version, **more)

    def delete(self, path: str, version: int = -1, **more: Any) -> Write:
        return self.call(DELETE, path, version, **more)

    def set_acl(self, path: str, version: int = -1, **more: Any) -> Write:
        return self.call(SET_ACL, path, version, **more)

    def multi(self, *parts: Part, **more: Any) -> Write:
        return self.call(MULTI, *parts, **more)

    def get(self, path: str = "/") -> Call:
        return self.driver.call(GET, path)

    def read(self) -> None:
        """Something is read, so that the present zxid has been seen."""
        self.get()
        self.answer()

    def cancel(self, write: Write) -> None:
        self.driver.cancel(*write)


def body_of(operation: Operation, *arguments: Any, **more: Any) -> bytes:
    match operation.op:
        case Op.SET_DATA:
            path, data, version = (*arguments, b"", -1)[:3] if len(arguments) < 2 else (*arguments, -1)[:3]
            return encode_set_data_request(path, data, version)
        case Op.DELETE:
            return encode_delete_request(*(*arguments, -1)[:2])
        case Op.SET_ACL:
            path, version = (*arguments, -1)[:2]
            return encode_set_acl_request(path, OPEN_ACL_UNSAFE, version)
        case Op.MULTI:
            return encode_multi_request(arguments)
        case Op.CREATE_TTL:
            path, data, flags = (*arguments, b"", CreateMode.PERSISTENT_WITH_TTL)[:3]
            return encode_create_ttl_request(path, data, OPEN_ACL_UNSAFE, flags, more["ttl_ms"])
    path, data, flags = (*arguments, *(b"", 0)[len(arguments) - 1 :])[:3]
    return encode_create_request(path, data, OPEN_ACL_UNSAFE, flags)


def created(path: str, data: bytes = b"", flags: int = 0) -> CreatePart:
    """Part of a transaction."""
    return CreatePart(Op.CREATE2, path, data, tuple(OPEN_ACL_UNSAFE), flags)


def written(path: str, data: bytes = b"", version: int = -1) -> SetDataPart:
    """Part of a transaction."""
    return SetDataPart(path, data, version)


def parts_of(request: Sent) -> list[Part]:
    """Of a transaction that was sent."""
    assert request.op == Op.MULTI
    return decode_multi_request(request.body, 0, len(request.body))
