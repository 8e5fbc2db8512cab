"""One connection through a proxy: two sockets, a pipe each way, and the frames that are cut out of them.

Rules of this module:

- Bytes are passed on as they came (unless the proxy's `alter` says otherwise), frame by frame, in order. What can't be
  followed (bytes that are no frames, TLS, four-letter words, a frame over 64 MiB) is passed on all the same, as it
  comes: the connection is `opaque` then, and faults that look for requests don't find any more in it; all others work.
- A fault is decided when a request arrives at the proxy, and strikes when its turn has come behind all that arrived
  before it: an earlier reply that is held or delayed comes first.
- How a connection ends on one side (FIN or RST) is how it ends on the other.
- By TLS, if the proxy has certificates: then frames are what is inside, a FIN ends both directions, and the server sees
  a client's certificate if the proxy has seen one.
- Names with an underscore on `ProxyConnection` are for this package: users have only the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from everlatch.errors import ProtocolError, SessionExpiredError, hex_id
from everlatch.testing.faults import Held, How, check_choice
from everlatch.testing.frames import Frames, granted_session, path_of, wanted_session
from everlatch.testing.pipe import Pipe
from everlatch.testing.traffic import HANDSHAKE, OPS, Request
from everlatch.wire.framing import frame
from everlatch.wire.headers import decode_reply_header, decode_request_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing.faults import Fault, OneWay, RequestFault
    from everlatch.testing.proxy import Proxy
    from everlatch.testing.traffic import Whose

__all__ = ["RESET_ON_CLOSE", "ProxyConnection"]

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""For `SO_LINGER`: closing the socket sends RST."""


class _End(asyncio.Protocol):
    """One of the two sockets of a connection."""

    def __init__(
        self, connection: ProxyConnection, incoming: Pipe, outgoing: Pipe, on_payload: Callable[[bytes], None]
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.made = False
        self.frames = Frames()
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
        if self._connection._tls is not None:
            return False  # TLS knows no half a connection: it is lost now
        self._ends(partial(self._connection._half_closed, self.incoming))
        return True  # the other direction goes on

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.outgoing.close()
        ended_well = self._connection._tls is not None and error is None
        self._ends(partial(self._connection.cut, "fin" if ended_well else "rst"))
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


class _Plan:
    """What shall happen to one request, or to its reply."""

    def __init__(self, fault: RequestFault) -> None:
        self.fault = fault


class ProxyConnection:
    """A client's connection to the proxy, with the proxy's own to the server behind it."""

    def __init__(self, proxy: Proxy, number: int, accepted: socket.socket, client: tuple[str, int]) -> None:
        self.number = number
        """They are counted from 1."""
        self.client_address = f"{client[0]}:{client[1]}"
        """Where the client has connected from: `127.0.0.1:40312`."""
        self.session_id = 0
        """The session that the server granted, signed as in `Client.session_id`; 0 before, and if it refused."""
        self.failure: OSError | None = None
        """Why the server could not be reached, or why there is no TLS with it or with the client; the client saw a
        reset then."""
        self._proxy = proxy
        self._tls = proxy._tls
        self._accepted = accepted
        self._to_server = Pipe(partial(proxy._links.of, "to_server", self.belongs_to))
        self._to_client = Pipe(partial(proxy._links.of, "to_client", self.belongs_to))
        self._client = _End(self, self._to_server, self._to_client, self._request)
        self._server = _End(self, self._to_client, self._to_server, self._reply)
        self._asked = self._granted = False
        """Whether the handshake has passed, each way."""
        self._wanted_session = 0
        """The session that the client wants to take up again."""
        self._unanswered: dict[int | None, deque[tuple[Request, _Plan | None]]] = {}
        """By xid, in order: what waits for a reply, and what shall happen to that. The handshake has no xid."""
        self._unstruck: set[_Plan] = set()
        self._cut: How | None = None
        self._accepting, self._dialing, self._dial_cancelled = True, False, False
        self._loop = asyncio.get_running_loop()
        self._opening = self._loop.create_task(self._open())
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

    def belongs_to(self, client: Whose) -> bool:
        """Whether it is this client's: its session's, from the handshake on in which the client asks for that."""
        if isinstance(client, ProxyConnection):
            return client is self
        if isinstance(client, str):
            return client in (self.client_address, self.client_address.partition(":")[0])
        session_id = client if isinstance(client, int) else client.session_id
        return session_id != 0 and session_id in (self.session_id, self._wanted_session)

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
        elif self._accepting and self._tls is not None:
            # The client has yet to shake hands, and may never do so.
            if how == "rst":
                self._accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._opening.cancel()
        # A turn later: uvloop sends what was written before only at the end of this one.
        self._loop.call_soon(self._close)

    # -- from the client

    def _request(self, payload: bytes) -> None:
        request = self._decoded(payload)
        self._proxy._tap("to_server")
        plan = None
        if request is not None:
            plan = self._planned(request)
            key = None if request.op == HANDSHAKE else request.xid
            self._unanswered.setdefault(key, deque()).append((request, plan))
        self._pass("to_server", payload, plan)

    def _planned(self, request: Request) -> _Plan | None:
        fault = self._proxy._noted(request)
        if fault is None:
            return None
        plan = _Plan(fault)
        self._unstruck.add(plan)
        return plan

    def _decoded(self, payload: bytes) -> Request | None:
        if not self._asked:
            self._asked = True
            self._wanted_session = wanted_session(payload)
            return Request(self, 0, HANDSHAKE, "", 4 + len(payload))
        try:
            xid, op = decode_request_header(payload, 0, len(payload))
        except ProtocolError:
            return None
        return Request(self, xid, OPS.get(op, op), path_of(op, payload), 4 + len(payload))

    # -- from the server

    def _reply(self, payload: bytes) -> None:
        plan = self._plan_for(payload)
        self._proxy._tap("to_client")
        self._pass("to_client", payload, plan)

    def _plan_for(self, payload: bytes) -> _Plan | None:
        """Notes the reply with its request; what was planned for it."""
        key = None
        if self._granted:
            try:
                key, _, code = decode_reply_header(payload, 0, len(payload))
            except ProtocolError:
                return None
        else:
            self._granted = True
            self.session_id = granted_session(payload)
            code = 0 if self.session_id else SessionExpiredError.code
        waiting = self._unanswered.get(key)
        if waiting is None:
            return None
        request, plan = waiting.popleft()
        if not waiting:
            del self._unanswered[key]
        self._proxy._answered(request, code)
        return None if plan is None or plan.fault._cancelled else plan

    # -- on its way

    def _pass(self, way: OneWay, payload: bytes, plan: _Plan | None) -> None:
        pipe = self._pipe(way)
        if plan is None or way not in plan.fault._ways:
            pipe.put_frame(self._whole(way, payload))
            return
        fault = plan.fault
        if fault._how is not None:
            if fault._after:
                pipe.put_frame(self._whole(way, payload)[: fault._after])
            pipe.put_last(partial(self._sever, plan, fault._how))
            return
        if isinstance(fault, Held):
            pipe.hold(fault, self._whole(way, payload))
        else:
            pipe.put_frame(self._whole(way, payload), delay=fault._delay, pace=fault._pace)
        self._strikes(plan)

    def _pipe(self, way: OneWay) -> Pipe:
        return self._to_server if way == "to_server" else self._to_client

    def _whole(self, way: OneWay, payload: bytes) -> bytes:
        alter = self._proxy.alter
        whole = frame(payload)
        return whole if alter is None else alter(way, whole)

    def _strikes(self, plan: _Plan) -> None:
        # Once, even if it concerns the request and its reply.
        if plan in self._unstruck:
            self._unstruck.discard(plan)
            plan.fault._strike()
            self._proxy._changes.notify()

    # -- ends

    def _end_after(self, size: int, way: OneWay, how: How, fault: Fault) -> Callable[[], None]:
        """So many bytes more pass this way, then the connection ends, and the fault has struck. Returns what takes
        that back."""
        pipe = self._pipe(way)

        def end() -> None:
            self.cut(how)
            fault._strike()

        pipe.end_after(size, end)
        return partial(pipe.endless, end)

    def _sever(self, plan: _Plan, how: How) -> None:
        self.cut(how)
        self._strikes(plan)

    def _half_closed(self, pipe: Pipe) -> None:
        """One side has said all it had to say."""
        pipe.ended = True
        if self._to_server.ended and self._to_client.ended:
            self.cut("fin")
        elif pipe.sink is not None:
            with contextlib.suppress(OSError):  # it was reset a moment ago, and nobody has told us yet
                pipe.sink.write_eof()

    def _close(self) -> None:
        # uvloop wants to be let alone until it has adopted the socket; `_open` comes here afterwards.
        if self._cut is None or self._accepting:
            return
        for end in (self._client, self._server):
            if end.transport is not None:
                _end(end.transport, self._cut)

    async def _open(self) -> None:
        try:
            await self._accept()
            if self._cut is None:
                await self._dial()
        except OSError as error:
            self.failure = error
            self.cut("rst")
        self._close()

    async def _accept(self) -> None:
        context = None if self._tls is None else self._tls.server_context()
        try:
            await self._loop.connect_accepted_socket(lambda: self._client, self._accepted, ssl=context)
        finally:
            self._accepting = False

    async def _dial(self) -> None:
        self._dialing = True
        host, port = self._proxy._target
        options: dict[str, Any] = {}
        if self._tls is not None:
            has_certificate = self._client.transport is not None and self._client.transport.get_extra_info("peercert")
            context = self._tls.client_context("client" if has_certificate else None)
            options = {"ssl": context, "server_hostname": host}
        try:
            await self._loop.create_connection(lambda: self._server, host, port, **options)
        finally:
            self._dialing = False

    def _opened(self, opening: asyncio.Task[None]) -> None:
        if not self._client.made:
            self._accepted.close()
        if not opening.cancelled():
            opening.result()  # a mistake of ours is not to pass unseen
        self._closed()

    def _closed(self) -> None:
        if self.is_open:
            return
        for plan in self._unstruck:
            plan.fault._missed()
        self._unstruck.clear()
        self._proxy._ended(self)


def _end(transport: asyncio.Transport, how: How) -> None:
    if how == "fin":
        transport.close()
        return
    # Without this, abort() ends as close() does: with FIN, if everything that came has been read.
    open_socket = transport.get_extra_info("socket")
    if open_socket is not None:
        open_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
