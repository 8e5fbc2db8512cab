"""Every operation: its number, how its arguments are sent, and what its answer says.

Rules of this file: an answer becomes plain values with names (dicts, lists, strings, numbers, `Stat`), and nothing in
it is left out: `is_exact` tells whether these values make these very bytes. Lists whose order no server promises are
sorted. Paths in arguments are complete here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch.wire.auth_records import (
    decode_sasl_reply,
    decode_who_am_i_reply,
    encode_sasl_reply,
    encode_sasl_request,
    encode_who_am_i_reply,
)
from everlatch.wire.codes import Op
from everlatch.wire.jute import decode_buffer
from everlatch.wire.multi import (
    CreateResult,
    ErrorResult,
    GetChildrenResult,
    GetDataResult,
    SetDataResult,
    decode_multi_reply,
    encode_multi_reply,
    encode_multi_request,
)
from everlatch.wire.records import (
    decode_create2_reply,
    decode_create_reply,
    decode_exists_reply,
    decode_get_acl_reply,
    decode_get_all_children_number_reply,
    decode_get_children2_reply,
    decode_get_children_reply,
    decode_get_ephemerals_reply,
    decode_sync_reply,
    encode_create2_reply,
    encode_create_reply,
    encode_create_request,
    encode_create_ttl_request,
    encode_delete_request,
    encode_exists_reply,
    encode_exists_request,
    encode_get_acl_reply,
    encode_get_acl_request,
    encode_get_all_children_number_reply,
    encode_get_all_children_number_request,
    encode_get_children2_reply,
    encode_get_children_reply,
    encode_get_children_request,
    encode_get_data_reply,
    encode_get_data_request,
    encode_get_ephemerals_reply,
    encode_get_ephemerals_request,
    encode_reconfig_request,
    encode_set_acl_request,
    encode_set_data_request,
    encode_sync_reply,
    encode_sync_request,
)
from everlatch.wire.structures import decode_stat
from everlatch.wire.watch_records import (
    decode_add_watch_reply,
    encode_add_watch_reply,
    encode_add_watch_request,
    encode_remove_watches_request,
    encode_set_watches2_request,
    encode_set_watches_request,
)

if TYPE_CHECKING:
    from everlatch.types import ACL, Stat
    from everlatch.wire.multi import Part, Result

__all__ = ["OPERATIONS", "Operation", "acls_in_order"]


class Operation(NamedTuple):
    """One of them."""

    op: int
    encode: Callable[..., bytes]
    """Of its arguments, its body."""
    decode: Callable[[bytes], dict[str, Any]]
    """Of the body of an answer, what it says."""


_Decode = Callable[[bytes, int, int], Any]


def _answer(
    decode: _Decode, encode: Callable[..., bytes], *names: str, in_order: Callable[[Any], Any] | None = None
) -> Callable[[bytes], dict[str, Any]]:
    """The values of an answer by their names. `in_order` makes a list of the first one whose order can be compared."""

    def read(body: bytes) -> dict[str, Any]:
        value = decode(body, 0, len(body))
        values = (value,) if len(names) == 1 else tuple(value)
        is_exact = encode(*values) == body
        if in_order is not None:
            values = (in_order(values[0]), *values[1:])
        return {**dict(zip(names, values, strict=True)), "is_exact": is_exact}

    return read


def _nothing(body: bytes) -> dict[str, Any]:
    return {"is_exact": body == b""}


def _no_body() -> bytes:
    return b""


def _decode_data(buf: bytes, pos: int, end: int) -> tuple[bytes | None, Stat]:
    """Null data stays null, unlike in a client."""
    data, pos = decode_buffer(buf, pos, end)
    return data, decode_stat(buf, pos, end)[0]


def acls_in_order(acls: list[ACL]) -> list[ACL]:
    """`auth` in an ACL becomes the identities of the connection, in any order: neighbours of one scheme and with the
    same permissions are put into one."""
    ordered: list[ACL] = []
    for acl in acls:
        start = len(ordered)
        while start and ordered[start - 1] > acl and ordered[start - 1][:2] == acl[:2]:
            start -= 1
        ordered.insert(start, acl)
    return ordered


def _multi_answer(body: bytes) -> dict[str, Any]:
    results = decode_multi_reply(body, 0, len(body))
    return {"results": list(map(_result, results)), "is_exact": encode_multi_reply(results) == body}


def _result(result: Result) -> dict[str, Any]:
    kind = {"type": type(result).__name__}
    match result:
        case CreateResult(path, stat):
            return kind | {"path": path, "stat": stat}
        case SetDataResult(stat):
            return kind | {"stat": stat}
        case GetDataResult(node):
            return kind | {"data": node.data, "stat": node.stat}
        case GetChildrenResult(names):
            return kind | {"names": sorted(names)}
        case ErrorResult(code):
            return kind | {"code": code}
    return kind


def _encode_multi(*parts: Part) -> bytes:
    return encode_multi_request(parts)


_STAT = _answer(decode_exists_reply, encode_exists_reply, "stat")
_CREATED = _answer(decode_create2_reply, encode_create2_reply, "path", "stat")
_NODE = _answer(_decode_data, encode_get_data_reply, "data", "stat")
_ACL = _answer(decode_get_acl_reply, encode_get_acl_reply, "acl", "stat", in_order=acls_in_order)
_NAMES = _answer(decode_get_children_reply, encode_get_children_reply, "names", in_order=sorted)
_CHILDREN = _answer(decode_get_children2_reply, encode_get_children2_reply, "names", "stat", in_order=sorted)
_NUMBER = _answer(decode_get_all_children_number_reply, encode_get_all_children_number_reply, "number")
_PATHS = _answer(decode_get_ephemerals_reply, encode_get_ephemerals_reply, "paths", in_order=sorted)
_IDENTITIES = _answer(decode_who_am_i_reply, encode_who_am_i_reply, "identities", in_order=sorted)

OPERATIONS: Final[dict[str, Operation]] = {
    "create": Operation(Op.CREATE, encode_create_request, _answer(decode_create_reply, encode_create_reply, "path")),
    "create2": Operation(Op.CREATE2, encode_create_request, _CREATED),
    "create_container": Operation(Op.CREATE_CONTAINER, encode_create_request, _CREATED),
    "create_ttl": Operation(Op.CREATE_TTL, encode_create_ttl_request, _CREATED),
    "delete": Operation(Op.DELETE, encode_delete_request, _nothing),
    "set_data": Operation(Op.SET_DATA, encode_set_data_request, _STAT),
    "set_acl": Operation(Op.SET_ACL, encode_set_acl_request, _STAT),
    "multi": Operation(Op.MULTI, _encode_multi, _multi_answer),
    "reconfig": Operation(Op.RECONFIG, encode_reconfig_request, _NODE),
    "exists": Operation(Op.EXISTS, encode_exists_request, _STAT),
    "get_data": Operation(Op.GET_DATA, encode_get_data_request, _NODE),
    "get_acl": Operation(Op.GET_ACL, encode_get_acl_request, _ACL),
    "get_children": Operation(Op.GET_CHILDREN, encode_get_children_request, _NAMES),
    "get_children2": Operation(Op.GET_CHILDREN2, encode_get_children_request, _CHILDREN),
    "get_all_children_number": Operation(Op.GET_ALL_CHILDREN_NUMBER, encode_get_all_children_number_request, _NUMBER),
    "get_ephemerals": Operation(Op.GET_EPHEMERALS, encode_get_ephemerals_request, _PATHS),
    "multi_read": Operation(Op.MULTI_READ, _encode_multi, _multi_answer),
    "sync": Operation(Op.SYNC, encode_sync_request, _answer(decode_sync_reply, encode_sync_reply, "path")),
    "add_watch": Operation(
        Op.ADD_WATCH, encode_add_watch_request, _answer(decode_add_watch_reply, encode_add_watch_reply, "err")
    ),
    "check_watches": Operation(Op.CHECK_WATCHES, encode_remove_watches_request, _nothing),
    "remove_watches": Operation(Op.REMOVE_WATCHES, encode_remove_watches_request, _nothing),
    "set_watches": Operation(Op.SET_WATCHES, encode_set_watches_request, _nothing),
    "set_watches2": Operation(Op.SET_WATCHES2, encode_set_watches2_request, _nothing),
    "who_am_i": Operation(Op.WHO_AM_I, _no_body, _IDENTITIES),
    "sasl": Operation(Op.SASL, encode_sasl_request, _answer(decode_sasl_reply, encode_sasl_reply, "token")),
    "ping": Operation(Op.PING, _no_body, _nothing),
    "close_session": Operation(Op.CLOSE_SESSION, _no_body, _nothing),
}
"""By name."""
