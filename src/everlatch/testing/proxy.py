"""A proxy between clients and one server that knows ZooKeeper's frames, and fails when and how it is told to.

    async with Proxy("127.0.0.1:2181") as proxy, Client(proxy.address) as client:
        fault = proxy.lose_reply(Op.CREATE2)      # the next create is applied, nobody will hear of it
        with pytest.raises(OutcomeUnknownError):
            await client.create("/a")
        await fault.happened()

Every fault says what happens, and which real event does the same. What TCP never does is not offered: a byte lost out
of the middle of a stream, or overtaken by later ones. A stream is late, or it ends.

Rules of this module:

- Bytes are passed on as they came, frame by frame, in order. What can't be followed (bytes that are no frames, TLS,
  four-letter words, a frame over 64 MiB) is passed on all the same, as it comes: the connection is `opaque` then, and
  faults that look for requests don't find any more in it; all others work.
- A fault is decided when a request arrives at the proxy, and strikes when its turn has come behind all that arrived
  before it: an earlier reply that is held or delayed comes first.
- How a connection ends on one side (FIN or RST) is how it ends on the other.
- A connection that is held up takes a megabyte each way; then the sender is no longer read, and TCP's own flow control
  does what it always does.
- It listens on 127.0.0.1, belongs to one event loop, blocks nothing, and leaves no task or socket behind.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, cast, get_args

from everlatch.errors import EverlatchError, InvalidArgumentError, NotStartedError, ProtocolError
from everlatch.paths import parse_connect_string
from everlatch.wire.codes import Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import decode_connect_response
from everlatch.wire.headers import decode_reply_header, decode_request_header
from everlatch.wire.jute import decode_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Self

__all__ = [
    "HANDSHAKE",
    "Direction",
    "Fault",
    "Held",
    "How",
    "Proxy",
    "ProxyConnection",
    "ProxyTimeoutError",
    "Request",
    "RequestFault",
]

Direction: TypeAlias = Literal["to_server", "to_client", "both"]
"""Which way bytes go."""
How: TypeAlias = Literal["rst", "fin"]
"""How a connection ends: `rst` breaks it, as a dying machine or a firewall does; `fin` closes it, as a dying process
does."""

HANDSHAKE: Final = -10
"""The operation of a connection's first frame, which has none on the wire: asks for a session, or takes it up again.
(The number is that of createSession, which only servers send each other.)"""

_MAX_FRAME: Final = 1 << 26
_MOST_QUEUED: Final = 1 << 20
_PATIENCE: Final = 30.0
_MULTI_HEADER_SIZE: Final = 9
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_OPS: Final = {int(op): op for op in Op}
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


class ProxyTimeoutError(EverlatchError, TimeoutError):
    """What a test waited for at a proxy didn't come; the message says what did."""


# --- what came, and what is looked for ----------------------------------------------------------------------------


class Request(NamedTuple):
    """One request as it arrived at the proxy; whether it went on is up to the faults."""

    connection: ProxyConnection
    xid: int
    op: int
    """An `Op`, `HANDSHAKE`, or a number that has no name."""
    path: str
    """As on the wire: with the chroot, sequential ones without their number. That of the first part, of a multi; `""`
    for operations that have none."""


class _Wanted(NamedTuple):
    """Which requests are meant."""

    ops: frozenset[int] | None
    path: str | re.Pattern[str] | None

    @classmethod
    def checked(cls, op: int | Collection[int] | None, path: str | re.Pattern[str] | None) -> _Wanted:
        if op is None:
            return cls(None, path)
        return cls(frozenset((op,) if isinstance(op, int) else op), path)

    def fits(self, request: Request) -> bool:
        # Pings come by the clock, and handshakes when the client likes: nobody who counts requests means them.
        if request.op in (HANDSHAKE, Op.PING) if self.ops is None else request.op not in self.ops:
            return False
        if isinstance(self.path, re.Pattern):
            return self.path.fullmatch(request.path) is not None
        return self.path is None or self.path == request.path

    def __str__(self) -> str:
        ops = "any request" if self.ops is None else " or ".join(sorted(_name(op) for op in self.ops))
        path = self.path.pattern if isinstance(self.path, re.Pattern) else self.path
        return ops if path is None else f"{ops} {path!r}"


class _Changes:
    """Lets tasks wait for conditions, which are looked at whenever something has changed."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def until(
        self, condition: Callable[[], object], timeout: float | None = None, problem: Callable[[], str] = str
    ) -> None:
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    await self._next()
        except TimeoutError:
            raise ProxyTimeoutError(f"{problem()} (waited {timeout:g} s)") from None

    async def _next(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)


# --- faults -------------------------------------------------------------------------------------------------------


class Fault:
    """Something that goes wrong on demand; made by the methods of `Proxy`."""

    def __init__(self, name: str) -> None:
        self.times = 0
        """How often it has struck."""
        self._name = name
        self._changes = _Changes()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}: struck {self.times} times>"

    async def happened(self, times: int = 1, *, timeout: float | None = _PATIENCE) -> None:
        """Returns when it has struck so many times, at once if it has already. Raises `ProxyTimeoutError`."""
        await self._changes.until(
            lambda: self.times >= times, timeout, lambda: f"{self!r}, {times} were waited for: {self._state()}"
        )

    def _state(self) -> str:
        return "nothing came that it concerns"

    def _strike(self) -> None:
        self.times += 1
        self._changes.notify()


class RequestFault(Fault):
    """A fault that waits for certain requests: see `Proxy.lose_reply`."""

    def __init__(
        self, name: str, wanted: _Wanted, *, nth: int | None, every: int | None, how: How, on_request: bool
    ) -> None:
        super().__init__(f"{name} {wanted}")
        if any(number is not None and number < 1 for number in (nth, every)):
            raise InvalidArgumentError(f"requests are counted from 1: nth={nth!r}, every={every!r}")
        self.seen = 0
        """How many requests have come that fit."""
        self._wanted = wanted
        self._next = nth or every or 1
        self._every = every or 0
        self._how: How = how
        self._on_request = on_request
        self._cancelled = False

    def cancel(self) -> None:
        """Takes it back: it doesn't strike any more."""
        self._cancelled = True

    @property
    def _over(self) -> bool:
        return self._cancelled or (self.times > 0 and not self._every)

    def _aims_at(self, request: Request) -> bool:
        """Counts the request; whether it is the one."""
        if self._over or not self._wanted.fits(request):
            return False
        self.seen += 1
        return self.seen == self._next

    def _taken(self) -> None:
        """It has its request."""
        self._next = self.seen + self._every if self._every else 0

    def _missed(self) -> None:
        """Another fault was first, or the connection ended before: the next one, then."""
        self._next = self.seen + 1

    def _state(self) -> str:
        return "cancelled" if self._cancelled else f"{self.seen} requests came that fit"


class Held(RequestFault):
    """A reply that is kept back, and all that comes behind it on its connection: see `Proxy.hold_reply`."""

    def __init__(self, wanted: _Wanted, nth: int) -> None:
        super().__init__("hold_reply", wanted, nth=nth, every=None, how="rst", on_request=False)
        self._released = False
        self._pipe: _Pipe | None = None

    async def reached(self, *, timeout: float | None = _PATIENCE) -> None:
        """Returns when the reply is here: the server has executed the request. Raises `ProxyTimeoutError`."""
        await self.happened(timeout=timeout)

    def release(self) -> None:
        """Lets everything go, in one write. A reply that isn't here yet won't be held."""
        self._released = True
        if self._pipe is not None:
            self._pipe.flush()

    def _catch(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self._strike()


class _Way:
    """What is wrong with one direction, for all connections."""

    def __init__(self) -> None:
        self.hole: Fault | None = None
        self.delay = 0.0
        self.slowness: Fault | None = None


# --- one connection -----------------------------------------------------------------------------------------------


_Item: TypeAlias = "bytes | Held | Callable[[], None]"
"""What stands in the queue: bytes to write, a stop, something to do."""


class _Pipe:
    """One direction of a connection: what has come, in order, until it can be passed on."""

    def __init__(self, way: _Way) -> None:
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
        self, connection: ProxyConnection, incoming: _Pipe, outgoing: _Pipe, on_payload: Callable[[bytes], None]
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
        self._to_server = _Pipe(proxy._ways["to_server"])
        self._to_client = _Pipe(proxy._ways["to_client"])
        self._client = _End(self, self._to_server, self._to_client, self._request)
        self._server = _End(self, self._to_client, self._to_server, self._reply)
        self._asked = self._granted = False
        """Whether the handshake has passed, each way."""
        self._unanswered: dict[int | None, deque[RequestFault | None]] = {}
        """By xid, in order: what shall happen to the replies. The handshake has no xid."""
        self._aiming: set[RequestFault] = set()
        self._cut: How | None = None
        self._accepting, self._dialing, self._dial_cancelled = True, False, False
        self._opening = asyncio.get_running_loop().create_task(self._open())
        self._opening.add_done_callback(self._opened)

    def __repr__(self) -> str:
        state = "opaque" if self.opaque else f"session 0x{self.session_id & 0xFFFFFFFFFFFFFFFF:x}"
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
        _check("how", how, How)
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
            self._to_server.put(frame(payload))
            return
        fault = self._proxy._noted(request)
        if fault is not None:
            self._aiming.add(fault)
        if fault is not None and fault._on_request:
            self._to_server.put_last(partial(self._break, fault))
            return
        key = None if request.op == HANDSHAKE else request.xid
        self._unanswered.setdefault(key, deque()).append(fault)
        self._to_server.put(frame(payload))

    def _decoded(self, payload: bytes) -> Request | None:
        if not self._asked:
            self._asked = True
            return Request(self, 0, HANDSHAKE, "")
        try:
            xid, op = decode_request_header(payload, 0, len(payload))
        except ProtocolError:
            return None
        return Request(self, xid, _OPS.get(op, op), _path(op, payload))

    # -- from the server

    def _reply(self, payload: bytes) -> None:
        fault = self._fault_for(payload)
        self._proxy._tap("to_client")
        if isinstance(fault, Held):
            self._aiming.discard(fault)
            self._to_client.put(fault)
            fault._catch(self._to_client)
        elif fault is not None:
            self._to_client.put_last(partial(self._break, fault))
            return
        self._to_client.put(frame(payload))

    def _fault_for(self, payload: bytes) -> RequestFault | None:
        """What was planned for the reply to this request."""
        key = None
        if self._granted:
            try:
                key = decode_reply_header(payload, 0, len(payload))[0]
            except ProtocolError:
                return None
        else:
            self._granted = True
            self.session_id = _granted_session(payload)
        waiting = self._unanswered.get(key)
        if waiting is None:
            return None
        fault = waiting.popleft()
        if not waiting:
            del self._unanswered[key]
        return None if fault is None or fault._cancelled else fault

    # -- ends

    def _break(self, fault: RequestFault) -> None:
        self._aiming.discard(fault)
        self.cut(fault._how)
        fault._strike()
        self._proxy._changes.notify()

    def _half_closed(self, pipe: _Pipe) -> None:
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


# --- the proxy ----------------------------------------------------------------------------------------------------


class Proxy:
    """Stands between clients and one server (`host:port`): `async with Proxy(server.address) as proxy`.

    Clients connect to `proxy.address`; for an ensemble, make one proxy for each server. Left alone it passes
    everything on. Faults hold for present and future connections, unless they say otherwise. The methods that wait
    raise `ProxyTimeoutError` after `timeout` seconds; `None` waits for ever.
    """

    def __init__(self, server: str) -> None:
        endpoints, chroot = parse_connect_string(server)
        if len(endpoints) != 1 or chroot:
            raise InvalidArgumentError(f"a proxy has one server, host:port, not {server!r}; make one for each server")
        self.requests: list[Request] = []
        """Everything that clients sent, in the order in which it arrived, handshakes and pings included. Yours to
        clear."""
        self.on_frame: Callable[[Direction], object] | None = None
        """Called with `to_server` or `to_client` for every frame that has arrived, before it is passed on."""
        self._target = endpoints[0]
        self._address = ""
        self._listener: socket.socket | None = None
        self._open: dict[int, ProxyConnection] = {}
        self._count = 0
        self._ways = {"to_server": _Way(), "to_client": _Way()}
        self._refusing: tuple[How, Fault] | None = None
        self._faults: list[RequestFault] = []
        self._changes = _Changes()

    def __repr__(self) -> str:
        return f"<Proxy {self._address or 'not started'} to {self._target}, {len(self._open)} connections>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listens, on a port of its own."""
        if self._address:
            raise InvalidArgumentError(f"{self!r} was started already; make another one")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self._listener.setblocking(False)
        self._address = "{}:{}".format(*self._listener.getsockname())
        # Not a task that accepts: when it is cancelled, a connection could be lost between the two.
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def close(self) -> None:
        """Breaks all connections and listens no more. Returns when everything is closed; may be called again."""
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self.cut()
        await self._changes.until(lambda: not self._open)

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, for clients."""
        if not self._address:
            raise NotStartedError("a proxy has no address before it is started: async with Proxy(…) as proxy")
        return self._address

    # -- what is going on

    @property
    def connections(self) -> tuple[ProxyConnection, ...]:
        """Those that are open, oldest first."""
        return tuple(self._open.values())

    def seen(
        self, op: int | Collection[int] | None = None, *, path: str | re.Pattern[str] | None = None
    ) -> list[Request]:
        """Those of `requests` with this operation (or one of these) and path. Without `op`: all but handshakes and
        pings. A compiled pattern has to match the whole path."""
        wanted = _Wanted.checked(op, path)
        return [request for request in self.requests if wanted.fits(request)]

    async def wait_for(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        count: int = 1,
        timeout: float | None = _PATIENCE,
    ) -> list[Request]:
        """Returns what `seen` does when there are at least `count` of them."""
        wanted = _Wanted.checked(op, path)
        found: list[Request] = []
        position = 0

        def enough() -> bool:
            nonlocal position
            if position > len(self.requests):  # somebody has cleared them
                position = 0
                found.clear()
            found.extend(request for request in self.requests[position:] if wanted.fits(request))
            position = len(self.requests)
            return len(found) >= count

        await self._changes.until(
            enough, timeout, lambda: f"{len(found)} of {count} requests came ({wanted}); {self._last_requests()}"
        )
        return found

    async def until(self, condition: Callable[[], object], *, timeout: float | None = _PATIENCE) -> None:
        """Returns when a condition holds that depends on `requests` or `connections`:
        `await proxy.until(lambda: not proxy.connections)`."""
        await self._changes.until(
            condition,
            timeout,
            lambda: f"the condition does not hold; connections: {list(self.connections)}; {self._last_requests()}",
        )

    # -- faults of all connections

    def cut(self, how: How = "rst") -> tuple[ProxyConnection, ...]:
        """Ends all connections, on both sides, and returns them. What waits in the proxy is lost. New connections
        are welcome: see `refuse`.

        Real: `rst`: a machine crashed and is back, a firewall or load balancer dropped its tables, a server was
        killed while it had requests to read. `fin`: a server was stopped or killed, or has closed the connection for
        reasons of its own (a peer that sends in that very moment gets a reset, as from a real one).
        """
        _check("how", how, How)
        connections = self.connections
        for connection in connections:
            connection.cut(how)
        return connections

    def refuse(self, how: How = "rst") -> Fault:
        """New connections are ended as soon as they are made, until `accept()`; with `rst` the client may find that
        connecting has failed. Present ones stay: see `cut`. The fault strikes for each.

        Real: `rst`: the server behind a load balancer or a container's port is down; nearly the same for a client is
        a machine where nobody listens. `fin`: a server that has reached maxClientCnxns, or that is not serving.
        """
        _check("how", how, How)
        fault = Fault(f"refuse {how}")
        self._refusing = how, fault
        return fault

    def accept(self) -> None:
        """New connections are welcome again."""
        self._refusing = None

    def black_hole(self, direction: Direction = "both") -> Fault:
        """Nothing passes in this direction, data or end, while all connections stay open; new ones can be made, and
        get no answer. It is held, not swallowed, and delivered at `heal()`: TCP repeats what isn't acknowledged, so
        bytes that vanish while the connection lives on exist in no network. The fault strikes for each piece that is
        stopped; `requests` has what falls into the hole.

        Real: `both`: a cable that is pulled and put back, a partition that heals, a server stopped with SIGSTOP or
        in a long garbage collection (then connections can be made indeed: the kernel makes them; behind a pulled
        cable, connecting would hang). One direction: asymmetric routes, a firewall rule for one way (a real TCP
        sender would, without acknowledgements, in the end stop sending in the other direction too).
        To end as such links mostly do, without anything delivered: `cut()` instead of `heal()`.
        """
        fault = Fault(f"black_hole {direction}")
        for way in self._chosen(direction):
            way.hole = fault
        return fault

    def heal(self) -> None:
        """Ends black holes; what they held is delivered, in order."""
        for way in self._ways.values():
            way.hole = None
        self._flush()

    def delay(self, seconds: float, direction: Direction = "both") -> Fault:
        """All that comes from now on, data or end, is delivered so much later, in order; replaces an earlier delay
        of this direction, 0 ends it. Throughput is not limited. The fault strikes for each piece.

        Real: a long way (both directions), a server with a slow disk or a busy one (`to_client`).
        """
        if not 0 <= seconds < float("inf"):
            raise InvalidArgumentError(f"a delay is a number of seconds from 0, not {seconds!r}")
        fault = Fault(f"delay {seconds:g} s {direction}")
        for way in self._chosen(direction):
            way.delay = seconds
            way.slowness = fault
        return fault

    # -- faults of chosen requests

    def lose_reply(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        nth: int | None = None,
        every: int | None = None,
        cut: How = "rst",
    ) -> RequestFault:
        """A matching request is delivered, the server executes it, its reply is dropped and the connection cut.
        Replies to earlier requests arrive; nothing behind this one does.

        Requests match as in `seen`, counted from now: `nth`: the one with this number, 1 if left out. `every=50`:
        the 50th, the 100th, …; with both, the nth and every 50th after it. A connection that ends by itself before
        the fault can strike doesn't count: it waits for the next match. Where two faults want the same request, the
        older one has it.

        Real: the server, or the network, dies after the transaction is committed and before the reply is out: what
        makes a write's outcome unknown. With `op=HANDSHAKE`: a session that was granted and nobody knows.
        """
        return self._add("lose_reply", op, path, nth, every, cut, on_request=False)

    def lose_request(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        nth: int | None = None,
        every: int | None = None,
        cut: How = "rst",
    ) -> RequestFault:
        """A matching request never reaches the server, nor does anything behind it: the connection is cut in its
        place. Earlier requests were passed on; their replies are lost if they are not through. For `nth`, `every`
        and what matches see `lose_reply`.

        Real: the connection breaks, or the server dies, while the request is on its way. The client can't tell this
        from `lose_reply`.
        """
        return self._add("lose_request", op, path, nth, every, cut, on_request=True)

    def hold_reply(
        self,
        op: int | Collection[int] | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        nth: int = 1,
    ) -> Held:
        """The reply to a matching request, and all that comes behind it on its connection, watch events too, waits
        for `Held.release()`; the server has executed the request. For `nth` and what matches see `lose_reply`.

        Real: a lost packet that TCP repeats later, a client or proxy that is slow to read, a slow link: an answer
        that was true when it was given, and is old when it arrives.
        """
        held = Held(_Wanted.checked(op, path), nth)
        self._faults.append(held)
        return held

    def _add(
        self,
        name: str,
        op: int | Collection[int] | None,
        path: str | re.Pattern[str] | None,
        nth: int | None,
        every: int | None,
        how: How,
        *,
        on_request: bool,
    ) -> RequestFault:
        _check("cut", how, How)
        wanted = _Wanted.checked(op, path)
        fault = RequestFault(name, wanted, nth=nth, every=every, how=how, on_request=on_request)
        self._faults.append(fault)
        return fault

    # -- from connections

    def _tap(self, direction: Direction) -> None:
        if self.on_frame is not None:
            self.on_frame(direction)

    def _noted(self, request: Request) -> RequestFault | None:
        """Counts a request that has come; returns the fault that strikes it."""
        self.requests.append(request)
        self._faults = [fault for fault in self._faults if not fault._over]
        aiming = [fault for fault in self._faults if fault._aims_at(request)]
        for late in aiming[1:]:
            late._missed()
        for first in aiming[:1]:
            first._taken()
        self._changes.notify()
        return aiming[0] if aiming else None

    def _ended(self, connection: ProxyConnection) -> None:
        self._open.pop(connection.number, None)
        self._changes.notify()

    # -- inside

    def _accept(self) -> None:
        while self._listener is not None:
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            if self._refusing is None:
                accepted.setblocking(False)
                self._count += 1
                self._open[self._count] = ProxyConnection(self, self._count, accepted)
            else:
                how, fault = self._refusing
                if how == "rst":
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                accepted.close()
                fault._strike()
            self._changes.notify()

    def _chosen(self, direction: Direction) -> list[_Way]:
        _check("direction", direction, Direction)
        return list(self._ways.values()) if direction == "both" else [self._ways[direction]]

    def _flush(self) -> None:
        for connection in self.connections:
            connection._to_server.flush()
            connection._to_client.flush()

    def _last_requests(self) -> str:
        last = ", ".join(f"{_name(request.op)} {request.path!r}" for request in self.requests[-10:])
        return f"the last of {len(self.requests)} requests: {last}" if last else "no request has come"


def _check(name: str, value: object, allowed: object) -> None:
    if value not in get_args(allowed):
        raise InvalidArgumentError(f"{name} is one of {', '.join(map(repr, get_args(allowed)))}, not {value!r}")


def _name(op: int) -> str:
    return "HANDSHAKE" if op == HANDSHAKE else _OPS[op].name if op in _OPS else str(op)


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
        open_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
