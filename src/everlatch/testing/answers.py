"""What a server does that is in order: with handshakes (`accept`, `expire`), and with requests (`answer`, `apply`).

Rules of this module: errors, bodies and the order of events are those of a real server; ACLs and quotas are not
enforced, TTL and container nodes never vanish by themselves, sync is answered like a read, reconfig is disabled, as by
default. An operation that a server doesn't know costs the connection, as on real ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.errors import ProtocolError
from everlatch.testing.watch_tables import Table
from everlatch.testing.znodes import RefusedError, Znode
from everlatch.types import ClientInfo, EventType
from everlatch.wire.auth_records import decode_auth_request, encode_who_am_i_reply
from everlatch.wire.codes import AddWatchMode, Op
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectResponse, encode_connect_response
from everlatch.wire.headers import encode_reply
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
    encode_sync_reply,
)
from everlatch.wire.watch_records import (
    decode_add_watch_request,
    decode_remove_watches_request,
    decode_set_watches2_request,
    decode_set_watches_request,
    encode_add_watch_reply,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing.badserver import Connection, Received
    from everlatch.wire.handshake import ConnectRequest

__all__ = ["accept", "answer", "apply", "expire", "respond"]

_UNIMPLEMENTED, _MARSHALLING_ERROR, _NO_WATCHER, _RECONFIG_DISABLED = -6, -5, -121, -123


# --- handshakes ---------------------------------------------------------------------------------------------------


def accept(connection: Connection, request: ConnectRequest) -> None:
    """A new session, or the one asked for; timeout 0 if that has ended. A client that has seen a later zxid than
    this server is turned away without a word."""
    server, znodes = connection.server, connection.server.znodes
    if request.last_zxid_seen > znodes.zxid:
        connection.close()
        return
    session_id, password = request.session_id, request.password
    if not session_id:
        session_id, password = znodes.new_session()
    elif znodes.sessions.get(session_id) != password:
        expire(connection, request)
        return
    connection.session_id = session_id
    timeout_ms = server.session_timeout_ms or request.timeout_ms
    respond(connection, ConnectResponse(0, timeout_ms, session_id, password or b"", False))


def expire(connection: Connection, request: ConnectRequest) -> None:
    """The session that is asked for has ended, with its ephemeral nodes: timeout 0, and the connection is closed."""
    connection.server.znodes.end_session(request.session_id)
    respond(connection, ConnectResponse(0, 0, 0, bytes(16), False))
    connection.close()


def respond(connection: Connection, response: ConnectResponse) -> None:
    """Any answer to a handshake."""
    connection.send_raw(frame(encode_connect_response(response)))


# --- requests -----------------------------------------------------------------------------------------------------


def answer(connection: Connection, request: Received) -> None:
    """Does what a request asks for, and replies."""
    if request.op not in _HANDLERS or request.op in connection.server.unknown_ops:
        _not_implemented(connection, request)
        return
    try:
        body = apply(connection, request)
    except RefusedError as refused:
        connection.reply(request.xid, refused.code)
    except ProtocolError:
        if request.op == Op.AUTH:  # read outside of the queue of requests, where nobody catches that
            connection.close()
        else:
            connection.reply(request.xid, _MARSHALLING_ERROR)
    else:
        connection.reply(request.xid, 0, body, zxid=0 if request.op == Op.AUTH else None)
    if request.op == Op.CLOSE_SESSION and not connection.holding:
        connection.close()


def apply(connection: Connection, request: Received) -> bytes:
    """Does what a request asks for, and returns the reply's body. Raises `RefusedError`."""
    handler = _HANDLERS.get(request.op)
    if handler is None:
        raise RefusedError(_UNIMPLEMENTED)
    return handler(connection, request.body)


def _not_implemented(connection: Connection, request: Received) -> None:
    # It comes from the thread that reads, so that it overtakes what is still to be answered.
    connection.send_raw(frame(encode_reply(request.xid, connection.server.znodes.zxid, _UNIMPLEMENTED)))
    connection.close()


# --- nodes


def _create(connection: Connection, body: bytes) -> bytes:
    path, data, acls, flags = decode_create_request(body, 0, len(body))
    return encode_create_reply(connection.server.znodes.create(connection.session_id, path, data, acls, flags))


def _create2(connection: Connection, body: bytes) -> bytes:
    path, data, acls, flags = decode_create_request(body, 0, len(body))
    znodes = connection.server.znodes
    created = znodes.create(connection.session_id, path, data, acls, flags)
    return encode_create2_reply(created, znodes.nodes[created].stat)


def _create_ttl(connection: Connection, body: bytes) -> bytes:
    path, data, acls, flags, _ = decode_create_ttl_request(body, 0, len(body))
    znodes = connection.server.znodes
    created = znodes.create(connection.session_id, path, data, acls, flags)
    return encode_create2_reply(created, znodes.nodes[created].stat)


def _delete(connection: Connection, body: bytes) -> bytes:
    connection.server.znodes.delete(*decode_delete_request(body, 0, len(body)))
    return b""


def _set(connection: Connection, body: bytes) -> bytes:
    return encode_exists_reply(connection.server.znodes.set(*decode_set_data_request(body, 0, len(body))))


def _set_acl(connection: Connection, body: bytes) -> bytes:
    return encode_exists_reply(connection.server.znodes.set_acl(*decode_set_acl_request(body, 0, len(body))))


def _get_acl(connection: Connection, body: bytes) -> bytes:
    node = connection.server.znodes.node(decode_get_acl_request(body, 0, len(body)))
    return encode_get_acl_reply(list(node.acl), node.stat)


def _sync(_: Connection, body: bytes) -> bytes:
    return encode_sync_reply(decode_sync_request(body, 0, len(body)))


def _watched(connection: Connection, body: bytes, table: Table, *, missing: bool = False) -> Znode:
    """The node, watched if asked for; if `missing` says so, also when it isn't there."""
    path, watch = decode_get_data_request(body, 0, len(body))
    if watch and (missing or path in connection.server.znodes.nodes):
        connection.watches.add(table, path)
    return connection.server.znodes.node(path)


def _get(connection: Connection, body: bytes) -> bytes:
    node = _watched(connection, body, Table.DATA)
    return encode_get_data_reply(node.data, node.stat)


def _exists(connection: Connection, body: bytes) -> bytes:
    return encode_exists_reply(_watched(connection, body, Table.DATA, missing=True).stat)


def _children(connection: Connection, body: bytes) -> bytes:
    return encode_get_children_reply(list(_watched(connection, body, Table.CHILDREN).children))


def _children2(connection: Connection, body: bytes) -> bytes:
    node = _watched(connection, body, Table.CHILDREN)
    return encode_get_children2_reply(list(node.children), node.stat)


def _multi(connection: Connection, body: bytes) -> bytes:
    parts = decode_multi_request(body, 0, len(body))
    return encode_multi_reply(connection.server.znodes.multi(connection.session_id, parts))


def _multi_read(connection: Connection, body: bytes) -> bytes:
    return encode_multi_reply(connection.server.znodes.multi_read(decode_multi_request(body, 0, len(body))))


def _get_ephemerals(connection: Connection, body: bytes) -> bytes:
    prefix = decode_get_ephemerals_request(body, 0, len(body))
    return encode_get_ephemerals_reply(connection.server.znodes.ephemerals(connection.session_id, prefix or ""))


def _get_all_children_number(connection: Connection, body: bytes) -> bytes:
    path = decode_get_all_children_number_request(body, 0, len(body))
    return encode_get_all_children_number_reply(len(connection.server.znodes.descendants(path)))


# --- watches


def _add_watch(connection: Connection, body: bytes) -> bytes:
    path, mode = decode_add_watch_request(body, 0, len(body))
    if mode not in tuple(AddWatchMode):
        raise RefusedError(_MARSHALLING_ERROR)
    connection.watches.add_persistent(path, mode)
    return encode_add_watch_reply(0)


def _check_watches(connection: Connection, body: bytes) -> bytes:
    path, watcher_type = _known_watches(connection, body)
    if not connection.watches.check(path, watcher_type):
        raise RefusedError(_NO_WATCHER)
    return b""


def _remove_watches(connection: Connection, body: bytes) -> bytes:
    path, watcher_type = _known_watches(connection, body)
    if not connection.watches.remove(path, watcher_type):
        raise RefusedError(_NO_WATCHER)
    return b""


def _known_watches(connection: Connection, body: bytes) -> tuple[str, int]:
    path, watcher_type = decode_remove_watches_request(body, 0, len(body))
    if not connection.watches.knows(watcher_type):
        raise RefusedError(_MARSHALLING_ERROR)
    return path, watcher_type


def _set_watches(connection: Connection, body: bytes) -> bytes:
    _arm(connection, *decode_set_watches_request(body, 0, len(body)))
    return b""


def _set_watches2(connection: Connection, body: bytes) -> bytes:
    zxid, data, exist, child, persistent, recursive = decode_set_watches2_request(body, 0, len(body))
    _arm(connection, zxid, data, exist, child)
    for mode, paths in ((AddWatchMode.PERSISTENT, persistent), (AddWatchMode.PERSISTENT_RECURSIVE, recursive)):
        for path in paths:
            connection.watches.add_persistent(path, mode)
    return b""


def _arm(connection: Connection, zxid: int, data: list[str], exist: list[str], child: list[str]) -> None:
    """Standard watches again; those that have missed something fire at once, without a zxid."""
    nodes = connection.server.znodes.nodes
    for table, event, paths in (
        (Table.DATA, EventType.DATA_CHANGED, data),
        (Table.CHILDREN, EventType.CHILDREN_CHANGED, child),
    ):
        for path in paths:
            if path not in nodes:
                connection.notify(EventType.DELETED.value, path)
            elif (nodes[path].mzxid if table is Table.DATA else nodes[path].pzxid) > zxid:
                connection.notify(event.value, path)
            else:
                connection.watches.add(table, path)
    for path in exist:
        if path in nodes:
            connection.notify(EventType.CREATED.value, path)
        else:
            connection.watches.add(Table.DATA, path)


# --- the rest


def _auth(connection: Connection, body: bytes) -> bytes:
    """Everybody is who he says he is."""
    auth = decode_auth_request(body, 0, len(body))
    connection.identities.append((auth.scheme, auth.credentials))
    return b""


def _who_am_i(connection: Connection, _: bytes) -> bytes:
    users = [(scheme, _user(credentials)) for scheme, credentials in connection.identities]
    return encode_who_am_i_reply([ClientInfo(*user) for user in dict.fromkeys([("ip", "127.0.0.1"), *users])])


def _user(credentials: bytes | None) -> str:
    """Without the password."""
    return (credentials or b"").partition(b":")[0].decode("utf-8", "replace")


def _reconfig(_: Connection, body: bytes) -> bytes:
    decode_reconfig_request(body, 0, len(body))
    raise RefusedError(_RECONFIG_DISABLED)


def _close_session(connection: Connection, _: bytes) -> bytes:
    connection.server.znodes.end_session(connection.session_id)
    return b""


_HANDLERS: dict[int, Callable[[Connection, bytes], bytes]] = {
    Op.CREATE: _create,
    Op.CREATE2: _create2,
    Op.CREATE_CONTAINER: _create2,
    Op.CREATE_TTL: _create_ttl,
    Op.DELETE: _delete,
    Op.EXISTS: _exists,
    Op.GET_DATA: _get,
    Op.SET_DATA: _set,
    Op.GET_ACL: _get_acl,
    Op.SET_ACL: _set_acl,
    Op.GET_CHILDREN: _children,
    Op.GET_CHILDREN2: _children2,
    Op.SYNC: _sync,
    Op.MULTI: _multi,
    Op.MULTI_READ: _multi_read,
    Op.RECONFIG: _reconfig,
    Op.ADD_WATCH: _add_watch,
    Op.CHECK_WATCHES: _check_watches,
    Op.REMOVE_WATCHES: _remove_watches,
    Op.SET_WATCHES: _set_watches,
    Op.SET_WATCHES2: _set_watches2,
    Op.GET_EPHEMERALS: _get_ephemerals,
    Op.GET_ALL_CHILDREN_NUMBER: _get_all_children_number,
    Op.AUTH: _auth,
    Op.WHO_AM_I: _who_am_i,
    Op.CLOSE_SESSION: _close_session,
}
