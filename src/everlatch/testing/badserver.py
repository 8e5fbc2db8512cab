"""A ZooKeeper server for tests that does as it is told, in the test's own event loop: well or badly.

    from everlatch.testing import BadServer, Op, misbehaviour

    async def test_a_deposit_is_made_once() -> None:
        async with BadServer() as server, server.client() as client:
            server.on(Op.CREATE2, misbehaviour.drop_after)      # the next create is applied, its reply lost
            await deposit(client, "/accounts/7/0001", b"100")   # your code
            assert [path for _, path in server.znodes.applied] == ["/accounts/7/0001"]

Left alone it serves: a small tree, sessions, watches of all kinds, transactions, identities; `znodes` is what it
knows, and tests may look there, or change it. Servers that share one `Znodes` are an ensemble. What it does otherwise
is said in advance, with actions from `everlatch.testing.misbehaviour` or of your own:

    server.next(swallow, answer_twice)     # the requests that come next
    server.at(7, drop_before)              # the seventh request
    server.on(Op.SET_DATA, fail_with(-110), times=3)
    server.handshakes.append(expire)       # the next connection
    server.arrivals.append(reset)          # the next connection, before its handshake
    server.ping = go_silent
    server.connection.reset()              # now

`requests` has everything that arrived after the handshakes but pings, in order, whatever was done with it; `until`
waits for what happens here. For faults of a real server, and of the way to it, take `Proxy`.

Rules of this module: it listens on 127.0.0.1 only, belongs to one event loop, blocks nothing, and leaves no task or
socket behind. What is in order is in `answers`, what is not in `misbehaviour`; here is who is told what.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias, cast

from everlatch.client import Client
from everlatch.errors import EverlatchError, ProtocolError
from everlatch.testing.answers import accept, answer
from everlatch.testing.watch_tables import WatchTables
from everlatch.testing.znodes import Znodes
from everlatch.wire.codes import KEEPER_STATE_SYNC_CONNECTED, XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import decode_connect_request
from everlatch.wire.headers import decode_request_header, encode_reply
from everlatch.wire.jute import decode_text
from everlatch.wire.watch_records import encode_watcher_event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from everlatch.wire.handshake import ConnectRequest

__all__ = ["BadServer", "BadServerTimeoutError", "Connection", "Received"]

_PATIENCE: Final = 120.0
_MAX_FRAME: Final = 1 << 26
_REQUEST_HEADER_SIZE: Final = 8
_WORD: Final = re.compile(rb"[a-z]{4}")
_SRVR: Final = """\
Zookeeper version: {version}-0, built on 2025-01-01 00:00 UTC
Latency min/avg/max: 0/0.0/0
Received: {received}
Sent: {received}
Connections: {connections}
Outstanding: 0
Zxid: 0x{zxid:x}
Mode: standalone
Node count: {nodes}
"""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class BadServerTimeoutError(EverlatchError, TimeoutError):
    """What a test waited for at a bad server didn't come; the message says what did."""


class Received(NamedTuple):
    """One request as it arrived."""

    connection: Connection
    xid: int
    op: int
    """An `Op`, or a number that has no name."""
    body: bytes

    @property
    def path(self) -> str:
        """As on the wire, with the chroot; for operations whose body begins with a path."""
        return decode_text(self.body, 0, len(self.body))[0]


class Connection(asyncio.Protocol):
    """One connection, as the server sees it. `send_raw`, `reply`, `notify`, `close` and `reset` are for actions; when
    the connection is gone, or silent, they do nothing."""

    def __init__(self, server: BadServer) -> None:
        self.server = server
        self.session_id = 0
        self.identities: list[tuple[str, bytes | None]] = []
        """Scheme and credentials of every auth request."""
        self.watches = WatchTables(one_mode=server.old_watches)
        self.silent = False
        """It neither answers nor reacts any more; the client can't tell."""
        self.holding = False
        """Replies go to `held` until `release`."""
        self.held: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        """`None` before and after the connection."""
        self._reader = FrameReader(_MAX_FRAME)
        self._greeted = False

    @property
    def is_open(self) -> bool:
        """Whether it has been neither closed here nor by the client."""
        return self.transport is not None and not self.transport.is_closing()

    # -- what actions use

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

    def notify(self, event: int, path: str, *, zxid: int = -1) -> None:
        """A watch event (the number of an `EventType`), whether anybody watches or not."""
        body = encode_watcher_event(event, KEEPER_STATE_SYNC_CONNECTED, path)
        self.send_raw(frame(encode_reply(XID_NOTIFICATION, zxid, 0, body)))

    def release(self, order: Sequence[int] | None = None) -> None:
        """Sends what was held, in this order of their numbers, in one write, and goes on answering."""
        held, self.held, self.holding = self.held, [], False
        self.send_raw(b"".join(held if order is None else [held[index] for index in order]))

    def close(self) -> None:
        """Sends what was written, then closes."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """The connection breaks with RST."""
        if self.transport is not None:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()

    # -- from the tree

    def fired(self, event: int, path: str, zxid: int) -> None:
        """A watch of this connection has fired."""
        self.notify(event, path, zxid=zxid if self.server.event_zxids else -1)

    # -- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's call."""
        self.transport = cast("asyncio.Transport", transport)
        self.server._accepted(self)

    def connection_lost(self, _: Exception | None) -> None:
        """asyncio's call."""
        self.transport = None
        self.server._lost(self)

    def data_received(self, data: bytes) -> None:
        """asyncio's call. What can't be read ends the connection, as on real servers."""
        if not self._greeted and _WORD.match(data):
            self.server._asked(self, data[:4].decode())
            return
        payloads = self._payloads(data)
        while (payload := self._next(payloads)) is not None:
            if self.is_open and not self.silent:  # if not, the rest is still to be taken out of the reader
                self._take(payload)

    def _payloads(self, data: bytes) -> Iterator[bytes]:
        for buf, start, end in self._reader.feed(data):
            yield buf[start:end]

    def _next(self, payloads: Iterator[bytes]) -> bytes | None:
        try:
            return next(payloads, None)
        except ProtocolError:
            self.close()
            return None

    def _take(self, payload: bytes) -> None:
        try:
            received = self._decoded(payload)
        except ProtocolError:
            self.close()
            return
        if isinstance(received, Received):
            self.server._received(received)
        else:
            self._greeted = True
            self.server._greeted(self, received)

    def _decoded(self, payload: bytes) -> Received | ConnectRequest:
        if not self._greeted:
            return decode_connect_request(payload, 0, len(payload))
        xid, op = decode_request_header(payload, 0, len(payload))
        return Received(self, xid, op, payload[_REQUEST_HEADER_SIZE:])


_OnRequest: TypeAlias = "Callable[[Connection, Received], None]"
_OnHandshake: TypeAlias = "Callable[[Connection, ConnectRequest], None]"
_OnConnection: TypeAlias = "Callable[[Connection], None]"


def _pong(connection: Connection) -> None:
    connection.reply(XID_PING)


class BadServer:
    """One server on 127.0.0.1: `async with BadServer() as server, server.client() as client`.

    `znodes`: what it knows; share one for an ensemble. `session_timeout_ms`: what is granted; `None` grants what is
    asked for. `unknown_ops`: operations that are answered with −6 and the end of the connection, as by a server that
    is too old to know them. `old_watches`: watches as in 3.6 to 3.8, with one mode a path, and no types 4 and 5 to
    check and remove. `event_zxids`: events tell the zxid of their transaction, as since 3.9. `version`: what `srvr`
    says, such as `"3.9.5"`; `None`: four-letter words go unanswered, as behind a proxy.

    All of these, and what follows, may be changed at any time; `old_watches` counts for new connections.
    """

    def __init__(
        self,
        znodes: Znodes | None = None,
        *,
        session_timeout_ms: int | None = None,
        unknown_ops: Collection[int] = (),
        old_watches: bool = False,
        event_zxids: bool = False,
        version: str | None = None,
    ) -> None:
        self.znodes = znodes if znodes is not None else Znodes()
        self.session_timeout_ms = session_timeout_ms
        self.unknown_ops = set(unknown_ops)
        self.old_watches = old_watches
        self.event_zxids = event_zxids
        self.version = version
        self.port = 0
        """0 before the first `start`."""
        # What happened.
        self.connections: list[Connection] = []
        """All that were ever accepted, but those that only brought a four-letter word."""
        self.words: list[str] = []
        """All four-letter words."""
        self.greetings: list[ConnectRequest] = []
        """All handshakes."""
        self.requests: list[Received] = []
        """Everything after the handshakes but pings."""
        self.pings: list[float] = []
        """When, by the loop's clock."""
        # What to do.
        self.arrivals: deque[_OnConnection] = deque()
        """What to do with the next connections as they are accepted."""
        self.refusing = False
        """Whether to close connections as they are accepted, all of them."""
        self.handshakes: deque[_OnHandshake] = deque()
        """What to do with the next handshakes; `handshake` when empty."""
        self.handshake: _OnHandshake = accept
        self.ping: _OnConnection = _pong
        self._numbered: dict[int, _OnRequest] = {}
        self._by_op: list[tuple[int, _OnRequest]] = []
        self._listener: asyncio.Server | None = None
        self._asking: list[Connection] = []
        """Those with a four-letter word that have not ended."""
        self._changed: asyncio.Future[None] | None = None

    # -- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens: on the same port as before, if it did. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Breaks all connections and listens no more. Sessions and nodes stay for the next `start`."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in (*self.open_connections, *self._asking):
            connection.reset()
        await self.until(
            lambda: not self._asking and all(connection.transport is None for connection in self.connections)
        )

    @property
    def address(self) -> str:
        """`host:port`, for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> list[Connection]:
        """Those that have not ended."""
        return [connection for connection in self.connections if connection.is_open]

    @property
    def connection(self) -> Connection:
        """The newest one of `connections`."""
        return self.connections[-1]

    def client(self, chroot: str = "", **options: Any) -> Client:
        """A client of this server, not started; `options` are those of `Client`."""
        return Client(self.address + chroot, **options)

    # -- what to do with requests: by number, else by operation, else what is in order

    def at(self, number: int, *actions: _OnRequest) -> None:
        """What to do with the request of this number, counted from 1, and those behind it."""
        self._numbered.update(enumerate(actions, number))

    def next(self, *actions: _OnRequest) -> None:
        """What to do with the requests that come next."""
        self.at(len(self.requests) + 1, *actions)

    def on(self, op: int, action: _OnRequest, times: int = 1) -> None:
        """What to do with the next requests of an operation."""
        self._by_op += [(op, action)] * times

    # -- waiting

    async def until(self, condition: Callable[[], object], *, timeout: float | None = _PATIENCE) -> None:
        """Returns when a condition holds that depends on what happens here.

        Raises `BadServerTimeoutError` after `timeout` seconds; `None` waits for ever.
        """
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                while not condition():
                    if self._changed is None:
                        self._changed = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._changed)
        except TimeoutError:
            if not limit.expired():  # the condition's own
                raise
            raise BadServerTimeoutError(f"not in {timeout:g} s: {self._story()}") from None

    async def wait_for_requests(self, number: int) -> None:
        """Returns when so many have come since the beginning."""
        await self.until(lambda: len(self.requests) >= number)

    async def wait_for_connections(self, number: int) -> None:
        """Returns when so many were accepted since the beginning."""
        await self.until(lambda: len(self.connections) >= number)

    def paths(self, *ops: int) -> list[str]:
        """The paths of the requests with these operations, in the order in which they came."""
        return [request.path for request in self.requests if request.op in ops]

    def _story(self) -> str:
        ops = ", ".join(_op_name(request.op) for request in self.requests) or "none"
        counts = f"{len(self.connections)} connections, {len(self.greetings)} handshakes, {len(self.pings)} pings"
        return f"there were {counts}, and these requests: {ops}"

    # -- from connections

    def _accepted(self, connection: Connection) -> None:
        self.connections.append(connection)
        self.znodes.connections.append(connection)
        if self.refusing:
            connection.close()
        elif self.arrivals:
            self.arrivals.popleft()(connection)
        self._notify()

    def _asked(self, connection: Connection, word: str) -> None:
        self.words.append(word)
        self._asking.append(connection)
        self.connections.remove(connection)
        if word == "srvr" and self.version is not None:
            connection.send_raw(self._srvr(self.version).encode())
        if not connection.silent:
            connection.close()
        self._notify()

    def _srvr(self, version: str) -> str:
        znodes, received = self.znodes, len(self.requests) + len(self.pings)
        return _SRVR.format(
            version=version,
            received=received,
            connections=len(self.open_connections) + len(self._asking),
            zxid=znodes.zxid,
            nodes=len(znodes.nodes),
        )

    def _lost(self, connection: Connection) -> None:
        self.znodes.connections.remove(connection)
        if connection in self._asking:
            self._asking.remove(connection)
        self._notify()

    def _greeted(self, connection: Connection, request: ConnectRequest) -> None:
        self.greetings.append(request)
        action = self.handshakes.popleft() if self.handshakes else self.handshake
        action(connection, request)
        self._notify()

    def _received(self, request: Received) -> None:
        if request.xid == XID_PING:
            self.pings.append(asyncio.get_running_loop().time())
            self.ping(request.connection)
        else:
            self.requests.append(request)
            self._action(request)(request.connection, request)
        self._notify()

    def _action(self, request: Received) -> _OnRequest:
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


def _op_name(op: int) -> str:
    with contextlib.suppress(ValueError):
        return Op(op).name
    return str(op)
