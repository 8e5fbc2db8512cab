"""A ZooKeeper server for tests that does as it is told, in the test's own loop.

    async with ScriptedServer() as server, server.client() as client:
        server.at(2, drop_after)                  # the second request is applied, its reply lost
        server.on(Op.SET_DATA, fail_with(-110))   # the next set is refused
        server.handshakes.append(expire)          # the next connection is told that its session has ended
        …
        await server.until(lambda: len(server.requests) == 3)

Left alone it serves: a small tree, sessions, one-shot watches, setWatches, multi. Servers that share one `Znodes` are
an ensemble. `requests` has everything that arrived but pings, in order, whatever was done with it.

Scripts are actions: functions of the connection and what came, `(connection, request)` for requests and
`(connection, connect_request)` for handshakes. Those that are often needed are below.
"""

from __future__ import annotations

import asyncio
import copy
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from everlatch import ACL, Client, Stat
from everlatch.paths import parent
from everlatch.wire.auth_records import decode_auth_request
from everlatch.wire.codes import KEEPER_STATE_SYNC_CONNECTED, XID_AUTH, XID_NOTIFICATION, XID_PING, CreateMode, Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import (
    ConnectRequest,
    ConnectResponse,
    decode_connect_request,
    encode_connect_response,
)
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
    SetDataPart,
    SetDataResult,
    decode_multi_request,
    encode_multi_reply,
)
from everlatch.wire.records import (
    decode_create_request,
    decode_create_ttl_request,
    decode_delete_request,
    decode_get_acl_request,
    decode_get_data_request,
    decode_set_acl_request,
    decode_set_data_request,
    decode_sync_request,
    encode_create2_reply,
    encode_exists_reply,
    encode_get_acl_reply,
    encode_get_children2_reply,
    encode_get_children_reply,
    encode_get_data_reply,
    encode_sync_reply,
)
from everlatch.wire.watch_records import decode_set_watches_request, encode_watcher_event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from everlatch.wire.multi import Part, Result

_PATIENCE = 120.0
"""Seconds that `until` waits: virtual ones on a skipping loop."""
_CREATED, _DELETED, _CHANGED, _CHILDREN = 1, 2, 3, 4
_DATA, _CHILD = "data", "child"


class RefusedError(Exception):
    """An error code for the client."""

    def __init__(self, code: int) -> None:
        self.code = code


class Received(NamedTuple):
    """One request as it arrived."""

    connection: Connection
    xid: int
    op: int
    body: bytes

    @property
    def path(self) -> str:
        """Of operations that have one."""
        return decode_text(self.body, 0, len(self.body))[0]


# --- the data -----------------------------------------------------------------------------------------------------


class _Znode:
    def __init__(self, data: bytes, acl: Sequence[ACL], owner: int, zxid: int) -> None:
        self.data, self.acl, self.owner = data, acl, owner
        self.czxid = self.mzxid = self.pzxid = zxid
        self.version = self.cversion = self.aversion = self.creations = 0
        self.children: dict[str, None] = {}

    @property
    def stat(self) -> Stat:
        sizes = (len(self.data), len(self.children))
        versions = (self.version, self.cversion, self.aversion)
        return Stat(self.czxid, self.mzxid, 0, 0, *versions, self.owner, *sizes, self.pzxid)


class Znodes:
    """What an ensemble knows: nodes, sessions, the last zxid."""

    def __init__(self) -> None:
        self.zxid = 1
        self.nodes: dict[str, _Znode] = {"/": _Znode(b"", (ACL(31, "world", "anyone"),), 0, 0)}
        self.sessions: dict[int, bytes] = {}
        self.connections: list[Connection] = []
        self.applied: list[tuple[str, str]] = []
        """Operation and path of every write, in the order in which they took effect."""
        self._next_session = 0x1_0000_0001

    def new_session(self) -> tuple[int, bytes]:
        self.zxid += 1
        session_id = self._next_session
        self._next_session += 1
        password = b"secret-%09d" % (session_id & 0xFFFF)
        self.sessions[session_id] = password
        return session_id, password

    def end_session(self, session_id: int) -> None:
        """It is over, and its ephemeral nodes with it."""
        if self.sessions.pop(session_id, None) is None:
            return
        self.zxid += 1
        for path in [path for path, node in self.nodes.items() if node.owner == session_id]:
            self._remove(path)

    def node(self, path: str) -> _Znode:
        if path not in self.nodes:
            raise RefusedError(-101)
        return self.nodes[path]

    def create(self, session_id: int, path: str, data: bytes | None, acl: Sequence[ACL], flags: int) -> str:
        if path == "/":
            raise RefusedError(-110)
        above = self.node(parent(path))
        if above.owner:
            raise RefusedError(-108)
        if flags in (
            CreateMode.PERSISTENT_SEQUENTIAL,
            CreateMode.EPHEMERAL_SEQUENTIAL,
            CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL,
        ):
            path += f"{above.creations:010d}"
        if path in self.nodes:
            raise RefusedError(-110)
        self.zxid += 1
        ephemeral = flags in (CreateMode.EPHEMERAL, CreateMode.EPHEMERAL_SEQUENTIAL)
        self.nodes[path] = _Znode(data or b"", acl, session_id if ephemeral else 0, self.zxid)
        above.children[path.rpartition("/")[2]] = None
        above.creations += 1
        above.cversion += 1
        above.pzxid = self.zxid
        self.applied.append(("create", path))
        self._fire(_CREATED, path, _DATA)
        self._fire(_CHILDREN, parent(path), _CHILD)
        return path

    def set(self, path: str, data: bytes | None, version: int) -> Stat:
        node = self.checked(path, version)
        self.zxid += 1
        node.data = data or b""
        node.version += 1
        node.mzxid = self.zxid
        self.applied.append(("set", path))
        self._fire(_CHANGED, path, _DATA)
        return node.stat

    def delete(self, path: str, version: int) -> None:
        if path == "/":
            raise RefusedError(-8)
        if self.checked(path, version).children:
            raise RefusedError(-111)
        self.zxid += 1
        self._remove(path)

    def set_acl(self, path: str, acl: Sequence[ACL], version: int) -> Stat:
        node = self.node(path)
        if version not in (-1, node.aversion):
            raise RefusedError(-103)
        self.zxid += 1
        node.acl = acl
        node.aversion += 1
        return node.stat

    def checked(self, path: str, version: int) -> _Znode:
        node = self.node(path)
        if version not in (-1, node.version):
            raise RefusedError(-103)
        return node

    def multi(self, session_id: int, parts: list[Part]) -> list[Result]:
        before = copy.deepcopy(self.nodes), self.zxid, len(self.applied)
        results: list[Result] = []
        for index, part in enumerate(parts):
            try:
                results.append(self._part(session_id, part))
            except RefusedError as refused:
                self.nodes, self.zxid = before[:2]
                del self.applied[before[2] :]
                behind = len(parts) - index - 1
                return [*[ErrorResult(0)] * index, ErrorResult(refused.code), *[ErrorResult(-2)] * behind]
        return results

    def _part(self, session_id: int, part: Part) -> Result:
        match part:
            case CheckPart(path, version):
                self.checked(path, version)
                return CheckResult()
            case CreatePart(_, path, data, acls, flags):
                return CreateResult(self.create(session_id, path, data, acls, flags), None)
            case SetDataPart(path, data, version):
                return SetDataResult(self.set(path, data, version))
            case DeletePart(path, version):
                self.delete(path, version)
                return DeleteResult()
        raise AssertionError(part)

    def _remove(self, path: str) -> None:
        del self.nodes[path]
        above = self.nodes[parent(path)]
        del above.children[path.rpartition("/")[2]]
        above.cversion += 1
        above.pzxid = self.zxid
        self.applied.append(("delete", path))
        self._fire(_DELETED, path, _DATA, _CHILD)
        self._fire(_CHILDREN, parent(path), _CHILD)

    def _fire(self, event: int, path: str, *kinds: str) -> None:
        for connection in self.connections:
            watched = [kind for kind in kinds if (kind, path) in connection.watches]
            if watched:
                connection.watches.difference_update((kind, path) for kind in watched)
                connection.notify(event, path)


# --- a connection -------------------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One connection, as the server sees it."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.session_id = 0
        self.identities: list[tuple[str, bytes | None]] = []
        self.watches: set[tuple[str, str]] = set()
        self.silent = False
        """It neither answers nor reacts any more; the client can't tell."""
        self.holding = False
        """Replies go to `held` until `release`."""
        self.held: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        self._reader = FrameReader(1 << 26)
        self._greeted = False

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.server.accepted(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self.server.lost(self)

    def data_received(self, data: bytes) -> None:
        for buf, start, end in self._reader.feed(data):
            if not self.is_open or self.silent:
                continue  # the reader wants to be run to its end
            payload = buf[start:end]
            if self._greeted:
                xid, op = decode_request_header(payload, 0, len(payload))
                self.server.received(Received(self, xid, op, payload[8:]))
            else:
                self._greeted = True
                self.server.greeted(self, decode_connect_request(payload, 0, len(payload)))

    # -- what scripts use

    def send_raw(self, data: bytes) -> None:
        """Any bytes."""
        if self.is_open and not self.silent:
            assert self.transport is not None
            self.transport.write(data)

    def reply(self, xid: int, err: int = 0, body: bytes = b"", *, zxid: int | None = None) -> None:
        """A reply with the present zxid, unless told otherwise; kept if replies are held."""
        data = frame(encode_reply(xid, self.server.znodes.zxid if zxid is None else zxid, err, body))
        if self.holding:
            self.held.append(data)
        else:
            self.send_raw(data)

    def notify(self, event: int, path: str) -> None:
        """A watch event."""
        body = encode_watcher_event(event, KEEPER_STATE_SYNC_CONNECTED, path)
        self.send_raw(frame(encode_reply(XID_NOTIFICATION, -1, 0, body)))

    def release(self, order: Sequence[int] | None = None) -> None:
        """Sends what was held, in this order of their numbers, and goes on answering."""
        held, self.held, self.holding = self.held, [], False
        self.send_raw(b"".join(held if order is None else [held[index] for index in order]))

    def close(self) -> None:
        """Sends what was written, then closes."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """The connection breaks with RST."""
        if self.transport is not None:
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self.transport.abort()


# --- what to do with a handshake ----------------------------------------------------------------------------------


def accept(connection: Connection, request: ConnectRequest) -> None:
    """As a real server does."""
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


def respond(connection: Connection, response: ConnectResponse) -> None:
    connection.send_raw(frame(encode_connect_response(response)))


def expire(connection: Connection, request: ConnectRequest) -> None:
    """The session has ended: timeout 0."""
    connection.server.znodes.end_session(request.session_id)
    respond(connection, ConnectResponse(0, 0, 0, bytes(16), False))
    connection.close()


def other_session(connection: Connection, request: ConnectRequest) -> None:
    """What some look-alikes do instead of `expire`: a new session is handed out unasked."""
    connection.server.znodes.end_session(request.session_id)
    connection.session_id, password = connection.server.znodes.new_session()
    respond(connection, ConnectResponse(0, 10_000, connection.session_id, password, False))


def without_read_only_byte(connection: Connection, request: ConnectRequest) -> None:
    """36 bytes, as before 3.4."""
    connection.session_id, password = connection.server.znodes.new_session()
    respond(connection, ConnectResponse(0, request.timeout_ms, connection.session_id, password, None))


def read_only(connection: Connection, request: ConnectRequest) -> None:
    respond(connection, ConnectResponse(0, request.timeout_ms, 77, bytes(16), True))


def header_only(connection: Connection, _: ConnectRequest) -> None:
    """The 16 bytes of a read-only server that may not make sessions."""
    connection.send_raw(frame(encode_reply(0, 0, -119)))


def garbage(connection: Connection, _: ConnectRequest) -> None:
    connection.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def never(_: Connection, __: ConnectRequest) -> None:
    """No answer."""


# --- what to do with a request ------------------------------------------------------------------------------------


def answer(connection: Connection, request: Received) -> None:
    """As a real server does."""
    if request.op == Op.AUTH:
        auth = decode_auth_request(request.body, 0, len(request.body))
        connection.identities.append((auth.scheme, auth.credentials))
        connection.reply(XID_AUTH, zxid=0)
        return
    try:
        body = apply(connection, request)
    except RefusedError as refused:
        connection.reply(request.xid, refused.code)
    else:
        connection.reply(request.xid, 0, body)
    if request.op == Op.CLOSE_SESSION and not connection.holding:
        connection.close()


def drop_before(connection: Any, _: Any) -> None:
    """Not applied; for handshakes too."""
    connection.close()


def drop_after(connection: Connection, request: Received) -> None:
    """Applied, the reply is lost."""
    apply(connection, request)
    connection.close()


def reset(connection: Any, _: Any) -> None:
    """Not applied, RST; for handshakes too."""
    connection.reset()


def swallow(_: Connection, __: Received) -> None:
    """Not applied, no reply, nothing else amiss."""


def go_silent(connection: Connection, _: Received) -> None:
    """From here on the link is half-open."""
    connection.silent = True


def hold(connection: Connection, request: Received) -> None:
    """Applied, but this and all later replies wait for `release`."""
    connection.holding = True
    answer(connection, request)


def fail_with(code: int) -> Callable[[Connection, Received], None]:
    def fail(connection: Connection, request: Received) -> None:
        connection.reply(request.xid, code)
        if request.op == Op.AUTH:
            connection.close()

    return fail


def send(data: bytes, *, then_close: bool = False) -> Callable[[Connection, Any], None]:
    """Bytes instead of an answer; for handshakes too."""

    def send_data(connection: Connection, _: Any) -> None:
        connection.send_raw(data)
        if then_close:
            connection.close()

    return send_data


def apply(connection: Connection, request: Received) -> bytes:
    """Does what a request asks for, and returns the reply's body. Raises `RefusedError`."""
    handler = _HANDLERS.get(request.op)
    if handler is None:
        raise RefusedError(-6)
    return handler(connection, request.body)


def _create(connection: Connection, body: bytes) -> bytes:
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


def _watched(connection: Connection, body: bytes, kind: str, *, missing: bool = False) -> _Znode:
    path, watch = decode_get_data_request(body, 0, len(body))
    if watch and (missing or path in connection.server.znodes.nodes):
        connection.watches.add((kind, path))
    return connection.server.znodes.node(path)


def _get(connection: Connection, body: bytes) -> bytes:
    node = _watched(connection, body, _DATA)
    return encode_get_data_reply(node.data, node.stat)


def _exists(connection: Connection, body: bytes) -> bytes:
    return encode_exists_reply(_watched(connection, body, _DATA, missing=True).stat)


def _children(connection: Connection, body: bytes) -> bytes:
    return encode_get_children_reply(list(_watched(connection, body, _CHILD).children))


def _children2(connection: Connection, body: bytes) -> bytes:
    node = _watched(connection, body, _CHILD)
    return encode_get_children2_reply(list(node.children), node.stat)


def _multi(connection: Connection, body: bytes) -> bytes:
    parts = decode_multi_request(body, 0, len(body))
    return encode_multi_reply(connection.server.znodes.multi(connection.session_id, parts))


def _set_watches(connection: Connection, body: bytes) -> bytes:
    zxid, data, exist, child = decode_set_watches_request(body, 0, len(body))
    nodes = connection.server.znodes.nodes
    for kind, event, paths in ((_DATA, _CHANGED, data), (_CHILD, _CHILDREN, child)):
        for path in paths:
            if path not in nodes:
                connection.notify(_DELETED, path)
            elif (nodes[path].mzxid if kind is _DATA else nodes[path].pzxid) > zxid:
                connection.notify(event, path)
            else:
                connection.watches.add((kind, path))
    for path in exist:
        if path in nodes:
            connection.notify(_CREATED, path)
        else:
            connection.watches.add((_DATA, path))
    return b""


def _close_session(connection: Connection, _: bytes) -> bytes:
    connection.server.znodes.end_session(connection.session_id)
    return b""


_HANDLERS: dict[int, Callable[[Connection, bytes], bytes]] = {
    Op.CREATE2: _create,
    Op.CREATE_CONTAINER: _create,
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
    Op.SET_WATCHES: _set_watches,
    Op.CLOSE_SESSION: _close_session,
}


# --- the server ---------------------------------------------------------------------------------------------------


class ScriptedServer:
    """One server on 127.0.0.1. See the module's docstring."""

    def __init__(self, znodes: Znodes | None = None, *, session_timeout_ms: int | None = None) -> None:
        self.znodes = znodes or Znodes()
        self.session_timeout_ms = session_timeout_ms
        """What is granted; `None`: what is asked for."""
        self.port = 0
        # What happened.
        self.connections: list[Connection] = []
        """All that were ever accepted."""
        self.greetings: list[ConnectRequest] = []
        self.requests: list[Received] = []
        """Everything after the handshakes but pings."""
        self.pings: list[float] = []
        """When."""
        # What to do.
        self.handshakes: deque[Callable[[Connection, ConnectRequest], None]] = deque()
        """The next connections' handshakes; `handshake` when empty."""
        self.handshake: Callable[[Connection, ConnectRequest], None] = accept
        self.ping: Callable[[Connection], None] = lambda connection: connection.reply(XID_PING)
        self.refusing = False
        """Close connections as they are accepted."""
        self._numbered: dict[int, Callable[[Connection, Received], None]] = {}
        self._by_op: list[tuple[int, Callable[[Connection, Received], None]]] = []
        self._listener: asyncio.Server | None = None
        self._changed: asyncio.Future[None] | None = None

    # -- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens: on the same port as before, if it did."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Breaks all connections and listens no more."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in self.open_connections:
            connection.reset()
        await self.until(lambda: all(connection.transport is None for connection in self.connections))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> list[Connection]:
        return [connection for connection in self.connections if connection.is_open]

    @property
    def connection(self) -> Connection:
        """The newest one."""
        return self.connections[-1]

    def client(self, chroot: str = "", **options: Any) -> Client:
        """A client of this server."""
        return Client(self.address + chroot, **options)

    # -- scripts

    def at(self, number: int, *actions: Callable[[Connection, Received], None]) -> None:
        """What to do with the request of this number, counted from 1, and those behind it."""
        self._numbered.update(enumerate(actions, number))

    def next(self, *actions: Callable[[Connection, Received], None]) -> None:
        """What to do with the requests that come next."""
        self.at(len(self.requests) + 1, *actions)

    def on(self, op: int, action: Callable[[Connection, Received], None], times: int = 1) -> None:
        """What to do with the next requests of an operation."""
        self._by_op += [(op, action)] * times

    # -- waiting

    async def until(self, condition: Callable[[], object]) -> None:
        """Returns when a condition holds that depends on what happens here."""
        async with asyncio.timeout(_PATIENCE):
            while not condition():
                if self._changed is None:
                    self._changed = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._changed)

    async def wait_for_requests(self, number: int) -> None:
        await self.until(lambda: len(self.requests) >= number)

    async def wait_for_connections(self, number: int) -> None:
        await self.until(lambda: len(self.connections) >= number)

    def paths(self, *ops: int) -> list[str]:
        """The paths of the requests with these operations, in the order in which they came."""
        return [request.path for request in self.requests if request.op in ops]

    # -- from connections

    def accepted(self, connection: Connection) -> None:
        self.connections.append(connection)
        self.znodes.connections.append(connection)
        if self.refusing:
            connection.close()
        self._notify()

    def lost(self, connection: Connection) -> None:
        self.znodes.connections.remove(connection)
        self._notify()

    def greeted(self, connection: Connection, request: ConnectRequest) -> None:
        self.greetings.append(request)
        action = self.handshakes.popleft() if self.handshakes else self.handshake
        action(connection, request)
        self._notify()

    def received(self, request: Received) -> None:
        if request.xid == XID_PING:
            self.pings.append(asyncio.get_running_loop().time())
            self.ping(request.connection)
        else:
            self.requests.append(request)
            self._action(request)(request.connection, request)
        self._notify()

    def _action(self, request: Received) -> Callable[[Connection, Received], None]:
        numbered = self._numbered.pop(len(self.requests), None)
        if numbered is not None:
            return numbered
        for index, (op, action) in enumerate(self._by_op):
            if op == request.op:
                del self._by_op[index]
                return action
        return answer

    def _notify(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)
