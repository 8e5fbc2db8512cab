"""What each operation does: a body comes in, the reply's body goes out.

A refusal is raised, as the `ServerError` with its code; a body that can't be read is a `ProtocolError`, for which the
client gets −5. `WRITES` and `READS` have everything that a client may send but closeSession. Not among it: `check`
outside of a multi, which real servers refuse too, and what only servers send each other.

Rule of this module: a watch is set only when nothing can go wrong any more, so that who is refused watches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.devserver.identities import Identity, authenticate, client_info, demand, hide_digests, may
from everlatch.devserver.transactions import multi, multi_read
from everlatch.devserver.watches import Table
from everlatch.errors import (
    BadArgumentsError,
    MarshallingError,
    NoNodeError,
    NoWatcherError,
    ProtocolError,
    ReconfigDisabledError,
)
from everlatch.types import Permission
from everlatch.wire.auth_records import (
    decode_auth_request,
    decode_sasl_request,
    encode_sasl_reply,
    encode_who_am_i_reply,
)
from everlatch.wire.codes import Op
from everlatch.wire.multi import decode_multi_request, encode_multi_reply
from everlatch.wire.records import (
    decode_create_request,
    decode_create_ttl_request,
    decode_delete_request,
    decode_get_acl_request,
    decode_get_all_children_number_request,
    decode_get_data_request,
    decode_get_ephemerals_request,
    decode_reconfig_request,
    decode_set_acl_request,
    decode_set_data_request,
    decode_sync_request,
    encode_create2_reply,
    encode_create_reply,
    encode_exists_reply,
    encode_get_acl_reply,
    encode_get_all_children_number_reply,
    encode_get_children2_reply,
    encode_get_children_reply,
    encode_get_data_reply,
    encode_get_ephemerals_reply,
    encode_set_acl_reply,
    encode_set_data_reply,
    encode_sync_reply,
)
from everlatch.wire.watch_records import (
    SetWatches2Request,
    decode_add_watch_request,
    decode_check_watches_request,
    decode_remove_watches_request,
    decode_set_watches2_request,
    decode_set_watches_request,
    encode_add_watch_reply,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.devserver.connection import Connection
    from everlatch.devserver.tree import Znode
    from everlatch.devserver.writes import Draft

__all__ = ["READS", "WRITES", "Request", "is_readable"]

_READ_OR_ADMIN: Final = Permission.READ | Permission.ADMIN


class Request(NamedTuple):
    """One request that its server answers by itself, without its xid."""

    op: int
    body: tuple[bytes, int, int]
    """A buffer, and where in it the body begins and ends."""


# --- writes -------------------------------------------------------------------------------------------------------


def _create(draft: Draft, op: int, body: bytes) -> bytes:
    created = draft.create(op, *decode_create_request(body, 0, len(body)))
    return encode_create_reply(created.path) if op == Op.CREATE else encode_create2_reply(*created)


def _create_ttl(draft: Draft, op: int, body: bytes) -> bytes:
    return encode_create2_reply(*draft.create(op, *decode_create_ttl_request(body, 0, len(body))))


def _delete(draft: Draft, _: int, body: bytes) -> bytes:
    draft.delete(*decode_delete_request(body, 0, len(body)))
    return b""


def _set_data(draft: Draft, _: int, body: bytes) -> bytes:
    return encode_set_data_reply(draft.set_data(*decode_set_data_request(body, 0, len(body))))


def _set_acl(draft: Draft, _: int, body: bytes) -> bytes:
    return encode_set_acl_reply(draft.set_acl(*decode_set_acl_request(body, 0, len(body))))


def _multi(draft: Draft, _: int, body: bytes) -> bytes:
    return encode_multi_reply(multi(draft, decode_multi_request(body, 0, len(body))))


def _reconfig(_: Draft, __: int, body: bytes) -> bytes:
    # Switched off, as it is on real servers by default.
    decode_reconfig_request(body, 0, len(body))
    raise ReconfigDisabledError


# --- reads --------------------------------------------------------------------------------------------------------


def _readable(connection: Connection, path: str) -> Znode:
    node = connection.core.tree.node(path)
    demand(node.acl, connection.identities, Permission.READ)
    return node


def _watched(connection: Connection, request: Request, table: Table) -> Znode:
    """The node that is read, watched if asked for."""
    path, watch = decode_get_data_request(*request.body)
    node = _readable(connection, path)
    if watch:
        connection.watches.add(table, path)
    return node


def _exists(connection: Connection, request: Request) -> bytes:
    path, watch = decode_get_data_request(*request.body)
    if "\0" in path:
        raise BadArgumentsError
    node = connection.core.tree.find(path)
    if node is not None and connection.core.options.features.exists_needs_read:
        demand(node.acl, connection.identities, Permission.READ)
    if watch:
        connection.watches.add(Table.DATA, path)
    if node is None:
        raise NoNodeError
    return encode_exists_reply(node.stat)


def _get_data(connection: Connection, request: Request) -> bytes:
    node = _watched(connection, request, Table.DATA)
    return encode_get_data_reply(node.data, node.stat)


def _get_children(connection: Connection, request: Request) -> bytes:
    return encode_get_children_reply(list(_watched(connection, request, Table.CHILDREN).children))


def _get_children2(connection: Connection, request: Request) -> bytes:
    node = _watched(connection, request, Table.CHILDREN)
    return encode_get_children2_reply(list(node.children), node.stat)


def _get_acl(connection: Connection, request: Request) -> bytes:
    node = connection.core.tree.node(decode_get_acl_request(*request.body))
    demand(node.acl, connection.identities, _READ_OR_ADMIN)
    may_administer = may(node.acl, connection.identities, Permission.ADMIN)
    return encode_get_acl_reply(list(node.acl) if may_administer else hide_digests(node.acl), node.stat)


def _get_all_children_number(connection: Connection, request: Request) -> bytes:
    path = decode_get_all_children_number_request(*request.body)
    _readable(connection, path)
    return encode_get_all_children_number_reply(connection.core.tree.count_below(path))


def _get_ephemerals(connection: Connection, request: Request) -> bytes:
    prefix = decode_get_ephemerals_request(*request.body)
    assert connection.session is not None
    return encode_get_ephemerals_reply(connection.core.tree.ephemerals(connection.session.id, prefix or ""))


def _multi_read(connection: Connection, request: Request) -> bytes:
    parts = decode_multi_request(*request.body)
    return encode_multi_reply(multi_read(connection.core.tree, connection.identities, parts))


def _sync(_: Connection, request: Request) -> bytes:
    # Once its turn has come: see `core`.
    return encode_sync_reply(decode_sync_request(*request.body))


# --- watches ------------------------------------------------------------------------------------------------------


def _add_watch(connection: Connection, request: Request) -> bytes:
    connection.watches.add_persistent(*decode_add_watch_request(*request.body))
    return encode_add_watch_reply(0)


def _check_watches(connection: Connection, request: Request) -> bytes:
    path, watcher_type = decode_check_watches_request(*request.body)
    core = connection.core
    if not core.options.features.own_watches_checked and path and "/" not in path:
        raise MarshallingError  # 3.8 looks for the node above, stumbles, and says so
    asked = [connection] if core.options.features.own_watches_checked else core.connections
    if not any(each.watches.has(path, watcher_type) for each in asked):
        raise NoWatcherError
    return b""


def _remove_watches(connection: Connection, request: Request) -> bytes:
    connection.watches.remove(*decode_remove_watches_request(*request.body))
    return b""


def _set_watches(connection: Connection, request: Request) -> bytes:
    _arm_again(connection, SetWatches2Request(*decode_set_watches_request(*request.body), [], []))
    return b""


def _set_watches2(connection: Connection, request: Request) -> bytes:
    _arm_again(connection, decode_set_watches2_request(*request.body))
    return b""


def _arm_again(connection: Connection, request: SetWatches2Request) -> None:
    for event, path in connection.watches.arm_again(request, connection.core.tree):
        connection.notify(event, path)


# --- sessions and identities --------------------------------------------------------------------------------------


def _auth(connection: Connection, request: Request) -> bytes:
    scheme, credentials = decode_auth_request(*request.body)
    super_digest = connection.core.options.super_digest
    gained = authenticate(scheme, credentials or b"", connection.identities, super_digest)
    connection.identify(gained)
    return b""


def _sasl(connection: Connection, request: Request) -> bytes:
    token = decode_sasl_request(*request.body)
    if token is None:
        raise ProtocolError("a null token, which no client may send")
    exchange = connection.exchange
    if exchange is None:  # SASL isn't configured: no error, and nothing to say
        return encode_sasl_reply(None)
    reply = exchange.answer(token)
    if exchange.user is not None:
        connection.identify([Identity("sasl", exchange.user)])
    return encode_sasl_reply(reply)


def _who_am_i(connection: Connection, _: Request) -> bytes:
    return encode_who_am_i_reply(list(map(client_info, connection.identities)))


def _ping(_: Connection, __: Request) -> bytes:
    return b""


WRITES: Final[dict[int, Callable[[Draft, int, bytes], bytes]]] = {
    Op.CREATE: _create,
    Op.CREATE2: _create,
    Op.CREATE_CONTAINER: _create,
    Op.CREATE_TTL: _create_ttl,
    Op.DELETE: _delete,
    Op.SET_DATA: _set_data,
    Op.SET_ACL: _set_acl,
    Op.MULTI: _multi,
    Op.RECONFIG: _reconfig,
}
"""What the leader does, by operation; it also ends sessions."""

_DECODERS: Final[dict[int, Callable[[bytes, int, int], object]]] = {
    Op.CREATE: decode_create_request,
    Op.CREATE2: decode_create_request,
    Op.CREATE_CONTAINER: decode_create_request,
    Op.CREATE_TTL: decode_create_ttl_request,
    Op.DELETE: decode_delete_request,
    Op.SET_DATA: decode_set_data_request,
    Op.SET_ACL: decode_set_acl_request,
    Op.RECONFIG: decode_reconfig_request,
}


def is_readable(op: int, body: bytes) -> bool:
    """Whether servers that don't count malformed writes count this one. All of them count every multi."""
    decode = _DECODERS.get(op)
    if decode is None:
        return True
    try:
        decode(body, 0, len(body))
    except ProtocolError:
        return False
    return True


READS: Final[dict[int, Callable[[Connection, Request], bytes]]] = {
    Op.EXISTS: _exists,
    Op.GET_DATA: _get_data,
    Op.GET_CHILDREN: _get_children,
    Op.GET_CHILDREN2: _get_children2,
    Op.GET_ACL: _get_acl,
    Op.GET_ALL_CHILDREN_NUMBER: _get_all_children_number,
    Op.GET_EPHEMERALS: _get_ephemerals,
    Op.MULTI_READ: _multi_read,
    Op.SYNC: _sync,
    Op.ADD_WATCH: _add_watch,
    Op.CHECK_WATCHES: _check_watches,
    Op.REMOVE_WATCHES: _remove_watches,
    Op.SET_WATCHES: _set_watches,
    Op.SET_WATCHES2: _set_watches2,
    Op.AUTH: _auth,
    Op.SASL: _sasl,
    Op.WHO_AM_I: _who_am_i,
    Op.PING: _ping,
}
"""What every server does by itself, by operation."""
