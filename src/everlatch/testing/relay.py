"""One connection through a proxy: two sockets, a pipe each way, and the frames that are cut out of them.

Rules of this module:

- Bytes are passed on as they came (unless the proxy's `alter` says otherwise), frame by frame, in order. What can't be
  followed (bytes that are no frames, TLS, four-letter words, a frame over 64 MiB) is passed on all the same, as it
  comes: the connection is `opaque` then, and faults that look for requests don't find any more in it; all others work.
- A fault is decided when a request arrives at the proxy, and strikes when its turn has come behind all that arrived
  before it: an earlier reply that is held or delayed comes first.
- How a connection ends on one side (FIN or RST) is how it ends on the other.
- A connection that is held up takes a megabyte each way; then the sender is no longer read, and TCP's own flow control
  does what it always does.
- Names with an underscore on `ProxyConnection` are for this package: users have only the others.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from everlatch.errors import ProtocolError, SessionExpiredError, hex_id
from everlatch.testing.faults import HANDSHAKE, OPS, Direction, Fault, Held, How, Request, RequestFault, check_choice
from everlatch.wire.codes import Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import decode_connect_response
from everlatch.wire.headers import decode_reply_header, decode_request_header
from everlatch.wire.jute import decode_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing.proxy import Proxy

__all__ = ["RESET_ON_CLOSE", "Pipe", "ProxyConnection", "Way"]

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""For `SO_LINGER`: closing the socket sends RST."""

_MAX_FRAME: Final = 1 << 26
_MOST_QUEUED: Final = 1 << 20
_MULTI_HEADER_SIZE: Final = 9
_PATH_FIRST: Final = frozenset(
    {
        Op.CREATE,
        Op.CREATE2,
        Op.CREATE_CONTAINER,
        Op.CREATE_TTL,
        Op.DELETE,
        Op.EXISTS,
        Op.GET_DATA,
        Op.SET_DATA,
        Op.GET_ACL,
        Op.SET_ACL,
        Op.GET_CHILDREN,
        Op.GET_CHILDREN2,
        Op.GET_EPHEMERALS,
        Op.GET_ALL_CHILDREN_NUMBER,
        Op.SYNC,
        Op.CHECK,
        Op.ADD_WATCH,
        Op.CHECK_WATCHES,
        Op.REMOVE_WATCHES,
    }
)

_Item: TypeAlias = "bytes | Held | Callable[[], None]"
"""What stands in the queue: bytes to write, a stop, something to do."""


class Way:
    """What is wrong with one direction, for all connections."""

    def __init__(self) -> None:
        self.hole: Fault | None = None
        self.delay = 0.0
        self.slowness: Fault | None = None


class Pipe:
    """One direction of a connection: what has come, in order, until it can be passed on."""

    def __init__(self, way: Way) -> None:
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.writable = True
        self.ended = False
        """The end of the stream has been passed on."""
        self._way = way
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, _Item]] = deque()
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._deaf = self._reading_paused = False

    def put(self, item: _Item) -> None:
        """At the end of the queue; `flush` passes it on."""
        if self._deaf:
            return
        due = 0.0
        if self._way.delay:
            due = self._loop.time() + self._way.delay
            _strike(self._way.slowness)
        _strike(self._way.hole)
        self._queue.append((due, item))
        self._size += len(item) if isinstance(item, bytes) else 0

    def put_last(self, item: _Item) -> None:
        """Nothing passes behind it any more."""
        self.put(item)
        self._deaf = True

    def flush(self, time: float = 0.0) -> None:
        """Passes on what can be. `time`: it is that late at least, whatever the clock says."""
        self._stop_timer()
        now = max(time, self._loop.time())
        ready: list[bytes] = []
        while self._queue and self._passable:
            due, item = self._queue[0]
            if due > now:
                self._timer = self._loop.call_at(due, self.flush, due)
                break
            if isinstance(item, Held) and not item._released:
                break
            self._queue.popleft()
            if isinstance(item, bytes):
                self._size -= len(item)
                ready.append(item)
            elif not isinstance(item, Held):
                self._write(ready)
                item()
        self._write(ready)
        self._regulate()

    def close(self) -> None:
        """Forgets everything, and takes nothing any more."""
        self._deaf = True
        self._queue.clear()
        self._size = 0
        self.sink = None
        self._stop_timer()
        self._regulate()

    @property
    def _passable(self) -> bool:
        return self.sink is not None and self.writable and self._way.hole is None

    def _write(self, ready: list[bytes]) -> None:
        if ready and self.sink is not None:
            self.sink.write(b"".join(ready))
        ready.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _regulate(self) -> None:
        full = self._size > _MOST_QUEUED
        if self.source is None or full == self._reading_paused:
            return
        self._reading_paused = full
        if full:
            self.source.pause_reading()
        else:
            self.source.resume_reading()


class _Frames:
    """A stream cut into frames for as long as that can be done."""

    def __init__(self) -> None:
        self.opaque = False
        self._reader = FrameReader(_MAX_FRAME)
        self._rest: list[bytes] = []
        """What has come of the next frame."""

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The payloads that `data` completes, and behind them bytes that can't be followed. No byte is lost."""
        if self.opaque:
            return [], data
        payloads: list[bytes] = []
        try:
            payloads.extend(buf[start:end] for buf, start, end in self._reader.feed(data))
        except ProtocolError:
            self.opaque = True
        self._rest.append(data)
        if not payloads and not self.opaque:
            return [], b""
        rest = self.take_rest()[sum(len(payload) + 4 for payload in payloads) :]
        if self.opaque:
            return payloads, rest
        self._rest.append(rest)
        return payloads, b""

    def take_rest(self) -> bytes:
        """The beginning of a frame that will never be complete, or empty."""
        rest = b"".join(self._rest)
        self._rest.clear()
        return rest


class _End(asyncio.Protocol):
    """One of the two sockets of a connection."""

    def __init__(
        self, connection: ProxyConnection, incoming: Pipe, outgoing: Pipe, on_payload: Callable[[bytes], None]
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.made = False
        self.frames = _Frames()
        self.incoming = incoming
        self.outgoing = outgoing
        self._connection = connection
        self._on_payload = on_payload

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._connection._dial_cancelled:
            # Between cancel() and its effect. uvloop closes such a transport without ever telling.
            cast("asyncio.Transport", transport).abort()
            return
        self.made = True
        self.transport = self.incoming.source = self.outgoing.sink = cast("asyncio.Transport", transport)
        self.outgoing.flush()

    def data_received(self, data: bytes) -> None:
        payloads, rest = self.frames.feed(data)
        for payload in payloads:
            self._on_payload(payload)
        if rest:
            self.incoming.put(rest)
        self.incoming.flush()

    def eof_received(self) -> bool:
        rest = self.frames.take_rest()
        if rest:
            self.incoming.put(rest)
        self._ends(partial(self._connection._half_closed, self.incoming))
        return True  # the other direction goes on

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self.outgoing.close()
        self._ends(partial(self._connection.cut, "rst"))
        self._connection._closed()

    def pause_writing(self) -> None:
        self.outgoing.writable = False

    def resume_writing(self) -> None:
        self.outgoing.writable = True
        self.outgoing.flush()

    def _ends(self, action: Callable[[], None]) -> None:
        self.incoming.source = None
        self.incoming.put(action)
        self.incoming.flush()


class ProxyConnection:
    """A client's connection to the proxy, with the proxy's own to the server behind it."""

    def __init__(self, proxy: Proxy, number: int, accepted: socket.socket) -> None:
        self.number = number
        """They are counted from 1."""
        self.session_id = 0
        """The session that the server granted, signed as in `Client.session_id`; 0 before, and if it refused."""
        self.failure: OSError | None = None
        """Why the server could not be reached; the client saw a reset then."""
        self._proxy = proxy
        self._accepted = accepted
        self._to_server = Pipe(proxy._ways["to_server"])
        self._to_client = Pipe(proxy._ways["to_client"])
        self._client = _End(self, self._to_server, self._to_client, self._request)
        self._server = _End(self, self._to_client, self._to_server, self._reply)
        self._asked = self._granted = False
        """Whether the handshake has passed, each way."""
        self._unanswered: dict[int | None, deque[tuple[Request, RequestFault | None]]] = {}
        """By xid, in order: what waits for a reply, and what shall happen to that. The handshake has no xid."""
        self._aiming: set[RequestFault] = set()
        self._holding: list[Held] = []
        self._cut: How | None = None
        self._accepting, self._dialing, self._dial_cancelled = True, False, False
        self._opening = asyncio.get_running_loop().create_task(self._open())
        self._opening.add_done_callback(self._opened)

    def __repr__(self) -> str:
        state = "opaque" if self.opaque else f"session {hex_id(self.session_id)}"
        return f"<ProxyConnection {self.number} {state}, {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """Whether the proxy has a socket open for it on either side."""
        return not self._opening.done() or self._client.transport is not None or self._server.transport is not None

    @property
    def opaque(self) -> bool:
        """Whether it carries bytes that are no frames."""
        return self._client.frames.opaque or self._server.frames.opaque

    def cut(self, how: How = "rst") -> None:
        """Ends this connection: see `Proxy.cut`."""
        check_choice("how", how, How)
        if self._cut == "rst" or self._cut == how:
            return
        self._cut = how
        self._to_server.close()
        self._to_client.close()
        if self._dialing and not self._server.made:
            self._dial_cancelled = True
            self._opening.cancel()
        # A turn later: uvloop sends what was written before only at the end of this one.
        asyncio.get_running_loop().call_soon(self._close)

    # -- from the client

    def _request(self, payload: bytes) -> None:
        request = self._decoded(payload)
        self._proxy._tap("to_server")
        if request is None:
            self._pass(self._to_server, "to_server", payload)
            return
        fault = self._proxy._noted(request)
        if fault is not None:
            self._aiming.add(fault)
        if fault is not None and fault._on_request:
            self._to_server.put_last(partial(self._break, fault))
            return
        key = None if request.op == HANDSHAKE else request.xid
        self._unanswered.setdefault(key, deque()).append((request, fault))
        self._pass(self._to_server, "to_server", payload)

    def _decoded(self, payload: bytes) -> Request | None:
        if not self._asked:
            self._asked = True
            return Request(self, 0, HANDSHAKE, "", 4 + len(payload))
        try:
            xid, op = decode_request_header(payload, 0, len(payload))
        except ProtocolError:
            return None
        return Request(self, xid, OPS.get(op, op), _path(op, payload), 4 + len(payload))

    # -- from the server

    def _reply(self, payload: bytes) -> None:
        fault = self._fault_for(payload)
        self._proxy._tap("to_client")
        if fault is not None and not isinstance(fault, Held):
            self._to_client.put_last(partial(self._break, fault))
            return
        for held in self._holding:
            held._keep()
        if fault is not None:
            self._aiming.discard(fault)
            self._to_client.put(fault)
            fault._catch(self._to_client)
            self._holding.append(fault)
        self._pass(self._to_client, "to_client", payload)

    def _fault_for(self, payload: bytes) -> RequestFault | None:
        """Notes the reply with its request; what was planned for it."""
        key = None
        if self._granted:
            try:
                key, _, code = decode_reply_header(payload, 0, len(payload))
            except ProtocolError:
                return None
        else:
            self._granted = True
            self.session_id = _granted_session(payload)
            code = 0 if self.session_id else SessionExpiredError.code
        waiting = self._unanswered.get(key)
        if waiting is None:
            return None
        request, fault = waiting.popleft()
        if not waiting:
            del self._unanswered[key]
        self._proxy._answered(request, code)
        return None if fault is None or fault._cancelled else fault

    def _pass(self, pipe: Pipe, direction: Direction, payload: bytes) -> None:
        alter = self._proxy.alter
        whole = frame(payload)
        pipe.put(whole if alter is None else alter(direction, whole))

    # -- ends

    def _break(self, fault: RequestFault) -> None:
        self._aiming.discard(fault)
        self.cut(fault._how)
        fault._strike()
        self._proxy._changes.notify()

    def _half_closed(self, pipe: Pipe) -> None:
        """One side has said all it had to say."""
        pipe.ended = True
        if self._to_server.ended and self._to_client.ended:
            self.cut("fin")
        elif pipe.sink is not None:
            pipe.sink.write_eof()

    def _close(self) -> None:
        # uvloop wants to be let alone until it has adopted the socket; `_open` comes here afterwards.
        if self._cut is None or self._accepting:
            return
        for end in (self._client, self._server):
            if end.transport is not None:
                _end(end.transport, self._cut)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self._client, self._accepted)
        self._accepting = False
        if self._cut is None:
            self._dialing = True
            try:
                await loop.create_connection(lambda: self._server, *self._proxy._target)
            except OSError as error:
                self.failure = error
                self.cut("rst")
            finally:
                self._dialing = False
        self._close()

    def _opened(self, opening: asyncio.Task[None]) -> None:
        if not self._client.made:
            self._accepted.close()
        if not opening.cancelled():
            opening.result()  # a mistake of ours is not to pass unseen
        self._closed()

    def _closed(self) -> None:
        if self.is_open:
            return
        for fault in self._aiming:
            fault._missed()
        self._aiming.clear()
        self._proxy._ended(self)


def _strike(fault: Fault | None) -> None:
    if fault is not None:
        fault._strike()


def _path(op: int, payload: bytes) -> str:
    """Of a request whose body is what it should be; else none."""
    if op in _PATH_FIRST:
        start = 8
    elif op in (Op.MULTI, Op.MULTI_READ):
        start = 8 + _MULTI_HEADER_SIZE
    else:
        return ""
    try:
        return decode_text(payload, start, len(payload))[0]
    except ProtocolError:
        return ""


def _granted_session(payload: bytes) -> int:
    try:
        response = decode_connect_response(payload, 0, len(payload))
    except ProtocolError:
        return 0
    return response.session_id if response.timeout_ms > 0 else 0


def _end(transport: asyncio.Transport, how: How) -> None:
    if how == "fin":
        transport.close()
        return
    # Without this, abort() ends as close() does: with FIN, if everything that came has been read.
    open_socket = transport.get_extra_info("socket")
    if open_socket is not None:
        open_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
