"""Transactions (multi) and multi-reads: parts in one request, results in one reply.

Each part, and each result, is a header `type | done | err` and the record of that type; a header with `done` ends the
list. There is no count.

Rules of this file: a result is known by its own type, not by the part that it answers: servers before 3.8.2 answer a
create2 in a multi as a create. That multis don't mix reads with writes is the caller's business.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, assert_never

from everlatch.errors import InvalidArgumentError, ProtocolError
from everlatch.wire.codes import Op
from everlatch.wire.jute import decode_int, decode_text, encode_int, truncated
from everlatch.wire.records import (
    encode_check_request,
    encode_create2_reply,
    encode_create_reply,
    encode_create_request,
    encode_create_ttl_request,
    encode_delete_request,
    encode_get_children_reply,
    encode_get_children_request,
    encode_get_data_reply,
    encode_get_data_request,
    encode_set_data_reply,
    encode_set_data_request,
    read_create_request,
    read_create_ttl_request,
    read_node,
    read_path_and_version,
    read_path_and_watch,
    read_set_data_request,
)
from everlatch.wire.structures import decode_names, decode_stat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from everlatch.types import ACL, Node, Stat

__all__ = [
    "CheckPart",
    "CheckResult",
    "CreatePart",
    "CreateResult",
    "DeletePart",
    "DeleteResult",
    "ErrorResult",
    "GetChildrenPart",
    "GetChildrenResult",
    "GetDataPart",
    "GetDataResult",
    "Part",
    "Result",
    "SetDataPart",
    "SetDataResult",
    "decode_multi_reply",
    "decode_multi_request",
    "encode_multi_reply",
    "encode_multi_request",
]

_HEADER = struct.Struct(">i?i")
_HEADER_SIZE = _HEADER.size
_TERMINATOR = _HEADER.pack(-1, True, -1)


class CheckPart(NamedTuple):
    """The node must have this version, −1 for any."""

    path: str
    version: int


class CreatePart(NamedTuple):
    """`op` is one of the four creates; `ttl_ms` belongs to `CREATE_TTL` alone."""

    op: Op
    path: str
    data: bytes | None
    acls: tuple[ACL, ...]
    flags: int
    ttl_ms: int | None = None


class SetDataPart(NamedTuple):
    """Version −1 is any."""

    path: str
    data: bytes | None
    version: int


class DeletePart(NamedTuple):
    """Version −1 is any."""

    path: str
    version: int


class GetDataPart(NamedTuple):
    """In a multi-read. There is no watch: the server ignores it there."""

    path: str


class GetChildrenPart(NamedTuple):
    """In a multi-read, likewise."""

    path: str


Part: TypeAlias = CheckPart | CreatePart | SetDataPart | DeletePart | GetDataPart | GetChildrenPart


# Not NamedTuples: an empty tuple is false, and equal to any other one.


@dataclass(frozen=True, slots=True)
class CreateResult:
    """The path, with its number if sequential; older servers send no Stat."""

    path: str
    stat: Stat | None


@dataclass(frozen=True, slots=True)
class SetDataResult:
    """The node's new Stat."""

    stat: Stat


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """Deleted."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The version was right."""


@dataclass(frozen=True, slots=True)
class GetDataResult:
    """Data and Stat."""

    node: Node


@dataclass(frozen=True, slots=True)
class GetChildrenResult:
    """The children's names, in no order."""

    names: list[str]


@dataclass(frozen=True, slots=True)
class ErrorResult:
    """Why a part failed. In a refused transaction all results are errors: 0 before the culprit, −2 after it."""

    code: int


Result: TypeAlias = (
    CreateResult | SetDataResult | DeleteResult | CheckResult | GetDataResult | GetChildrenResult | ErrorResult
)


def encode_multi_request(parts: Iterable[Part]) -> bytes:
    """The body of a multi, or of a multi-read."""
    return b"".join(map(_encode_part, parts)) + _TERMINATOR


def decode_multi_request(buf: bytes, pos: int, end: int) -> list[Part]:
    """The server's side."""
    parts: list[Part] = []
    while True:
        op, done, _ = _decode_header(buf, pos, end)
        if done:
            return parts
        decode_part = _PART_DECODERS.get(op)
        if decode_part is None:
            raise ProtocolError(f"a part of unknown type {op} in a multi, at offset {pos}")
        part, pos = decode_part(buf, pos + _HEADER_SIZE, end)
        parts.append(part)


def encode_multi_reply(results: Iterable[Result]) -> bytes:
    """The server's side."""
    return b"".join(map(_encode_result, results)) + _TERMINATOR


def decode_multi_reply(buf: bytes, pos: int, end: int) -> list[Result]:
    """One result a part, in their order."""
    results: list[Result] = []
    while True:
        kind, done, _ = _decode_header(buf, pos, end)
        if done:
            return results
        decode_result = _RESULT_DECODERS.get(kind)
        if decode_result is None:
            raise ProtocolError(f"a result of unknown type {kind} in the reply to a multi, at offset {pos}")
        result, pos = decode_result(buf, pos + _HEADER_SIZE, end)
        results.append(result)


def _decode_header(buf: bytes, pos: int, end: int) -> tuple[int, bool, int]:
    if end - pos < _HEADER_SIZE:
        raise truncated(pos, end, _HEADER_SIZE)
    kind, done, err = _HEADER.unpack_from(buf, pos)
    return kind, done, err


# --- parts --------------------------------------------------------------------------------------------------------


def _encode_part(part: Part) -> bytes:
    op, body = _part_body(part)
    return _HEADER.pack(op, False, -1) + body


def _part_body(part: Part) -> tuple[Op, bytes]:
    match part:
        case CheckPart():
            return Op.CHECK, encode_check_request(*part)
        case CreatePart():
            return part.op, _create_body(part)
        case SetDataPart():
            return Op.SET_DATA, encode_set_data_request(*part)
        case DeletePart():
            return Op.DELETE, encode_delete_request(*part)
        case GetDataPart():
            return Op.GET_DATA, encode_get_data_request(part.path, False)
        case GetChildrenPart():
            return Op.GET_CHILDREN, encode_get_children_request(part.path, False)
        case _:
            assert_never(part)


def _create_body(part: CreatePart) -> bytes:
    op, path, data, acls, flags, ttl_ms = part
    if op not in (Op.CREATE, Op.CREATE2, Op.CREATE_CONTAINER, Op.CREATE_TTL):
        raise InvalidArgumentError(f"creating {path!r} with operation {op!r}, which creates nothing")
    if (op == Op.CREATE_TTL) != (ttl_ms is not None):
        raise InvalidArgumentError(f"creating {path!r} with operation {op!r} and TTL {ttl_ms!r}: one needs the other")
    if ttl_ms is None:
        return encode_create_request(path, data, acls, flags)
    return encode_create_ttl_request(path, data, acls, flags, ttl_ms)


def _decode_check(buf: bytes, pos: int, end: int) -> tuple[Part, int]:
    request, pos = read_path_and_version(buf, pos, end)
    return CheckPart(*request), pos


def _decode_delete(buf: bytes, pos: int, end: int) -> tuple[Part, int]:
    request, pos = read_path_and_version(buf, pos, end)
    return DeletePart(*request), pos


def _decode_set_data(buf: bytes, pos: int, end: int) -> tuple[Part, int]:
    request, pos = read_set_data_request(buf, pos, end)
    return SetDataPart(*request), pos


def _decode_get_data(buf: bytes, pos: int, end: int) -> tuple[Part, int]:
    request, pos = read_path_and_watch(buf, pos, end)
    return GetDataPart(request.path), pos


def _decode_get_children(buf: bytes, pos: int, end: int) -> tuple[Part, int]:
    request, pos = read_path_and_watch(buf, pos, end)
    return GetChildrenPart(request.path), pos


def _create_decoder(op: Op) -> Callable[[bytes, int, int], tuple[Part, int]]:
    def decode(buf: bytes, pos: int, end: int) -> tuple[Part, int]:
        request, pos = read_create_request(buf, pos, end)
        return CreatePart(op, request.path, request.data, tuple(request.acls), request.flags), pos

    return decode


def _decode_create_ttl(buf: bytes, pos: int, end: int) -> tuple[Part, int]:
    request, pos = read_create_ttl_request(buf, pos, end)
    return CreatePart(
        Op.CREATE_TTL, request.path, request.data, tuple(request.acls), request.flags, request.ttl_ms
    ), pos


_PART_DECODERS: dict[int, Callable[[bytes, int, int], tuple[Part, int]]] = {
    Op.CREATE: _create_decoder(Op.CREATE),
    Op.CREATE2: _create_decoder(Op.CREATE2),
    Op.CREATE_CONTAINER: _create_decoder(Op.CREATE_CONTAINER),
    Op.CREATE_TTL: _decode_create_ttl,
    Op.DELETE: _decode_delete,
    Op.SET_DATA: _decode_set_data,
    Op.CHECK: _decode_check,
    Op.GET_DATA: _decode_get_data,
    Op.GET_CHILDREN: _decode_get_children,
}


# --- results ------------------------------------------------------------------------------------------------------


def _encode_result(result: Result) -> bytes:
    kind, body = _result_body(result)
    err = result.code if isinstance(result, ErrorResult) else 0
    return _HEADER.pack(kind, False, err) + body


def _result_body(result: Result) -> tuple[Op, bytes]:
    match result:
        case CreateResult(path, stat):
            return (Op.CREATE2, encode_create2_reply(path, stat)) if stat else (Op.CREATE, encode_create_reply(path))
        case SetDataResult(stat):
            return Op.SET_DATA, encode_set_data_reply(stat)
        case DeleteResult():
            return Op.DELETE, b""
        case CheckResult():
            return Op.CHECK, b""
        case GetDataResult(node):
            return Op.GET_DATA, encode_get_data_reply(*node)
        case GetChildrenResult(names):
            return Op.GET_CHILDREN, encode_get_children_reply(names)
        case ErrorResult(code):
            return Op.ERROR, encode_int(code)
        case _:
            assert_never(result)


def _decode_create_result(buf: bytes, pos: int, end: int) -> tuple[Result, int]:
    path, pos = decode_text(buf, pos, end)
    return CreateResult(path, None), pos


def _decode_create2_result(buf: bytes, pos: int, end: int) -> tuple[Result, int]:
    path, pos = decode_text(buf, pos, end)
    stat, pos = decode_stat(buf, pos, end)
    return CreateResult(path, stat), pos


def _decode_set_data_result(buf: bytes, pos: int, end: int) -> tuple[Result, int]:
    stat, pos = decode_stat(buf, pos, end)
    return SetDataResult(stat), pos


def _decode_delete_result(_buf: bytes, pos: int, _end: int) -> tuple[Result, int]:
    return DeleteResult(), pos


def _decode_check_result(_buf: bytes, pos: int, _end: int) -> tuple[Result, int]:
    return CheckResult(), pos


def _decode_get_data_result(buf: bytes, pos: int, end: int) -> tuple[Result, int]:
    node, pos = read_node(buf, pos, end)
    return GetDataResult(node), pos


def _decode_get_children_result(buf: bytes, pos: int, end: int) -> tuple[Result, int]:
    names, pos = decode_names(buf, pos, end)
    return GetChildrenResult(names), pos


def _decode_error_result(buf: bytes, pos: int, end: int) -> tuple[Result, int]:
    code, pos = decode_int(buf, pos, end)
    return ErrorResult(code), pos


_RESULT_DECODERS: dict[int, Callable[[bytes, int, int], tuple[Result, int]]] = {
    Op.CREATE: _decode_create_result,
    Op.CREATE2: _decode_create2_result,
    Op.SET_DATA: _decode_set_data_result,
    Op.DELETE: _decode_delete_result,
    Op.CHECK: _decode_check_result,
    Op.GET_DATA: _decode_get_data_result,
    Op.GET_CHILDREN: _decode_get_children_result,
    Op.ERROR: _decode_error_result,
}
