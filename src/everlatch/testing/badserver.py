"""A ZooKeeper server for tests that does as it is told, in the test's own event loop: well or badly.

    from everlatch.testing import BadServer, Op, misbehaviour

    async def test_a_deposit_is_made_once() -> None:
        async with BadServer() as server, server.client() as client:
            server.on(Op.CREATE2, misbehaviour.drop_after)      # the next create is applied, its reply lost
            await deposit(client, "/accounts/7/0001", b"100")   # your code
            assert [path for _, path in server.znodes.applied] == ["/accounts/7/0001"]

Left alone it is a dev server (`everlatch.devserver`), but one on which nothing happens by itself: sessions end when
they are told to. `znodes` is what it knows, and tests may look there, or change it. Servers that share one `Znodes`
are an ensemble. What it does otherwise is said in advance, with actions from `everlatch.testing.misbehaviour` or of
your own:

    server.next(swallow, answer_twice)     # the requests that come next
    server.at(7, drop_before)              # the seventh request
    server.on(Op.SET_DATA, fail_with(-110), times=3)
    server.handshakes.append(expire)       # the next connection
    server.arrivals.append(reset)          # the next connection, before its handshake
    server.ping = go_silent
    server.word = drop_before              # four-letter words go unanswered, as behind a proxy
    server.on(Op.SASL, no_sasl)            # the next token: for BadServer(sasl={"bob": "secret"})
    server.connection.reset()              # now

`requests` has everything that arrived after the handshakes but pings, in order, whatever was done with it; `until`
waits for what happens here. For faults of a real server, and of the way to it, take `Proxy`.

Rules of this module: it listens on 127.0.0.1 only, belongs to one event loop, blocks nothing, and leaves no task or
socket behind. The dev server gets what an action passes on, byte for byte, and the client what an action makes of the
answer; nothing else is done to either.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias, cast

from everlatch.client import Client
from everlatch.devserver.words import is_word
from everlatch.errors import EverlatchError, InvalidArgumentError, ProtocolError
from everlatch.testing.answers import accept, answer, answer_word
from everlatch.testing.znodes import Znodes
from everlatch.wire.codes import KEEPER_STATE_SYNC_CONNECTED, XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import decode_connect_request
from everlatch.wire.headers import REPLY_HEADER, decode_reply_header, decode_request_header, encode_reply
from everlatch.wire.jute import decode_text
from everlatch.wire.watch_records import encode_watcher_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from everlatch.wire.handshake import ConnectRequest

__all__ = ["BadServer", "BadServerTimeoutError", "Connection", "Received", "Reply"]

_PATIENCE: Final = 120.0
_MAX_FRAME: Final = 1 << 26
_REQUEST_HEADER_SIZE: Final = 8
_WORD_SIZE: Final = 4
_NOWHERE: Final = ("127.0.0.1", 0)
"""Where a client was that has gone already."""
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


class Reply(NamedTuple):
    """One reply or event, as it is sent."""

    xid: int
    zxid: int
    err: int
    body: bytes = b""

    def framed(self) -> bytes:
        """On the wire."""
        return frame(encode_reply(*self))


class Connection(asyncio.Protocol):
    """One connection, as the server sees it. `ask`, `tell`, `send`, `send_raw`, `reply`, `notify`, `close` and `reset`
    are for actions; when the connection is gone, or silent, nothing is sent."""

    def __init__(self, server: BadServer) -> None:
        self.server = server
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

    @property
    def session_id(self) -> int:
        """Of the session that the dev server has granted; 0 if it hasn't."""
        return 0 if self._honest.session is None else self._honest.session.id

    # -- what actions use

    def ask(self, data: bytes) -> bytes:
        """Gives these bytes to the dev server, as if they came from the client. Everybody else is told at once what
        they change; what it says to this client is returned, and for the caller to send."""
        self._honest.receive(data, time.time())
        self.server.znodes.flush(but=self._honest)
        return self._honest.take_output()

    def tell(self, said: bytes) -> list[Reply]:
        """Sends the events of what the dev server has said; returns the replies: one at most."""
        replies = []
        for buf, start, end in FrameReader(_MAX_FRAME).feed(said):
            reply = Reply(*decode_reply_header(buf, start, end), buf[start + REPLY_HEADER.size : end])
            if reply.xid == XID_NOTIFICATION:
                self.send_raw(reply.framed())
            else:
                replies.append(reply)
        return replies

    def send(self, reply: Reply) -> None:
        """A reply, kept if replies are held."""
        if self.holding:
            self.held.append(reply.framed())
        else:
            self.send_raw(reply.framed())

    def send_raw(self, data: bytes) -> None:
        """Any bytes."""
        if self.is_open and not self.silent:
            assert self.transport is not None
            self.transport.write(data)

    def reply(self, xid: int, err: int = 0, body: bytes = b"", *, zxid: int | None = None) -> None:
        """A reply with the present zxid, unless told otherwise; kept if replies are held."""
        self.send(Reply(xid, self.server.znodes.zxid if zxid is None else zxid, err, body))

    def notify(self, event: int, path: str, *, zxid: int = -1) -> None:
        """A watch event (the number of an `EventType`), whether anybody watches or not."""
        body = encode_watcher_event(event, KEEPER_STATE_SYNC_CONNECTED, path)
        self.send_raw(Reply(XID_NOTIFICATION, zxid, 0, body).framed())

    def release(self, order: Sequence[int] | None = None) -> None:
        """Sends what was held, in this order of their numbers, in one write, and goes on answering."""
        held, self.held, self.holding = self.held, [], False
        self.send_raw(b"".join(held if order is None else [held[index] for index in order]))
        self.flush()

    def close(self) -> None:
        """Sends what was written, then closes."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """The connection breaks with RST."""
        if self.transport is not None:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()

    # -- from the dev server

    def flush(self) -> None:
        """Sends events of what others did, and closes if the dev server wants it, as soon as nothing is held."""
        self.send_raw(self._honest.take_output())
        if self._honest.is_closing and not (self.silent or self.held):
            self.close()

    # -- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's call."""
        self.transport = cast("asyncio.Transport", transport)
        self._honest = self.server.znodes.join(self, *(transport.get_extra_info("peername") or _NOWHERE)[:2])
        self.server._accepted(self)

    def connection_lost(self, _: Exception | None) -> None:
        """asyncio's call."""
        self.transport = None
        self.server.znodes.leave(self._honest)
        self.server._lost(self)

    def data_received(self, data: bytes) -> None:
        """asyncio's call. What can't be read ends the connection, as on real servers."""
        if not self._greeted and is_word(data[:_WORD_SIZE]):
            self.server._asked(self, data[:_WORD_SIZE].decode())
            return
        for received in self._read(data):
            if isinstance(received, Received):
                self.server._received(received)
            else:
                self._greeted = True
                self.server._greeted(self, received)

    def _read(self, data: bytes) -> Iterator[Received | ConnectRequest]:
        try:
            for buf, start, end in self._reader.feed(data):
                if self.is_open and not self.silent:  # if not, the rest is still to be taken out of the reader
                    yield self._decoded(buf[start:end])
        except ProtocolError:  # only what is wrong with the bytes: actions are none of this generator's
            self.close()

    def _decoded(self, payload: bytes) -> Received | ConnectRequest:
        if not self._greeted:
            return decode_connect_request(payload, 0, len(payload))
        xid, op = decode_request_header(payload, 0, len(payload))
        return Received(self, xid, op, payload[_REQUEST_HEADER_SIZE:])


_OnRequest: TypeAlias = "Callable[[Connection, Received], None]"
_OnHandshake: TypeAlias = "Callable[[Connection, ConnectRequest], None]"
_OnConnection: TypeAlias = "Callable[[Connection], None]"
_OnWord: TypeAlias = "Callable[[Connection, str], None]"


def _pong(connection: Connection) -> None:
    connection.reply(XID_PING)


class BadServer:
    """One server on 127.0.0.1: `async with BadServer() as server, server.client() as client`.

    `znodes`: what it knows; share one for an ensemble. Otherwise `options` are those of `Znodes`, such as
    `version="3.8"` for a server that is older than 3.9, or `sasl` and `require_auth`. Raises `InvalidArgumentError` for
    options that make no sense.
    """

    def __init__(self, znodes: Znodes | None = None, **options: Any) -> None:
        if znodes is not None and options:
            raise InvalidArgumentError(
                f"{', '.join(options)}: options are those of the znodes; say so where they are made"
            )
        self.znodes = Znodes(**options) if znodes is None else znodes
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
        self.word: _OnWord = answer_word
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
        if self.refusing:
            connection.close()
        elif self.arrivals:
            self.arrivals.popleft()(connection)
        self._notify()

    def _asked(self, connection: Connection, word: str) -> None:
        self.words.append(word)
        self._asking.append(connection)
        self.connections.remove(connection)
        self.word(connection, word)
        self._notify()

    def _lost(self, connection: Connection) -> None:
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
        request.connection.flush()
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
