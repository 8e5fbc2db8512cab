"""A client by hand, for what is said of servers: requests by name, answers decoded, events in the order in which they
come. Names and arguments are those of `conformance.operations`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from everlatch.types import EventType
from everlatch.wire.codes import KEEPER_STATE_SYNC_CONNECTED, XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import frame
from everlatch.wire.handshake import decode_connect_response, encode_connect_request
from everlatch.wire.watch_records import decode_watcher_event
from real.raw import LONGEST, Raw, Reply

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # conformance belongs to the checkout

from conformance.operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch.types import Stat
    from everlatch.wire.handshake import ConnectRequest, ConnectResponse

__all__ = ["Answer", "Event", "Peer"]


class Event(NamedTuple):
    """What a watch told."""

    type: EventType
    path: str


class Answer(NamedTuple):
    """To one request."""

    zxid: int
    code: int
    said: dict[str, Any]
    """What stands in the body, by name; empty for an error."""

    @property
    def stat(self) -> Stat:
        stat: Stat = self.said["stat"]
        return stat


class Peer(Raw):
    """One connection. `heard` has all events so far, `zxids` what their headers said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self.heard: list[Event] = []
        self.zxids: list[int] = []
        self.has_closed = False
        """Whether it has closed its session."""

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, address: str) -> AsyncIterator[Peer]:
        """A connection without a handshake. If it gets a session, that is closed in the end, wherever it is: one that
        ends some time later would disturb who counts transactions."""
        async with cls.connect(address) as peer:
            assert isinstance(peer, Peer)
            yield peer
        if peer.session_id and not peer.has_closed:
            async with Raw.open(address, session=(peer.session_id, peer.password)) as again:
                if again.session_id:
                    await again.close_session()

    async def greet(self, request: ConnectRequest) -> tuple[ConnectResponse, int]:
        """A handshake of any kind: what the server grants, and the size of its answer."""
        self.write(frame(encode_connect_request(request)))
        payload = await self._payload()
        response = decode_connect_response(payload, 0, len(payload))
        self.session_id, self.password = response.session_id, response.password
        self.timeout_ms, self.read_only = response.timeout_ms, response.read_only
        return response, len(payload)

    async def trickle(self, data: bytes) -> None:
        """Bytes one by one."""
        for byte in data:
            self.write(bytes([byte]))
            await self._writer.drain()

    def vanish(self) -> None:
        """The connection breaks."""
        self._writer.transport.abort()

    def write(self, data: bytes) -> None:
        """Bytes as they are."""
        self._writer.write(data)

    def put(self, name: str, *arguments: Any, xid: int | None = None) -> int:
        """Sends a request and returns its xid; nothing waits for the answer."""
        self.has_closed = self.has_closed or name == "close_session"
        operation = OPERATIONS[name]
        return self.send(operation.op, operation.encode(*arguments), xid=xid)

    async def take(self, name: str, xid: int) -> Answer:
        """The next answer, which must be this one; the events before it are heard."""
        reply = await self.next_reply()
        assert reply.xid == xid
        said = OPERATIONS[name].decode(reply.body) if reply.code == 0 else {}
        # What was decoded is all there was; and an error has no body, but for one case (`conformance.differences`).
        assert said.pop("is_exact", True)
        assert reply.code == 0 or name == "multi_read" or reply.body == b""
        return Answer(reply.zxid, reply.code, said)

    async def ask(self, name: str, *arguments: Any) -> Answer:
        """A request and its answer."""
        return await self.take(name, self.put(name, *arguments))

    async def do(self, name: str, *arguments: Any) -> Answer:
        """A request that has to succeed."""
        answer = await self.ask(name, *arguments)
        assert answer.code == 0, (name, arguments, answer.code)
        return answer

    async def refused(self, name: str, *arguments: Any) -> int:
        """The code of a request; 0 if it wasn't refused."""
        return (await self.ask(name, *arguments)).code

    async def close_session(self) -> None:
        await self.do("close_session")

    async def next_reply(self) -> Reply:
        """What comes next and is no event."""
        while True:
            reply = await self.receive()
            if reply.xid != XID_NOTIFICATION:
                return reply
            assert reply.code == 0
            event, state, path = decode_watcher_event(reply.body, 0, len(reply.body))
            assert state == KEEPER_STATE_SYNC_CONNECTED
            self.heard.append(Event(EventType(event), path))
            self.zxids.append(reply.zxid)

    async def events(self) -> list[Event]:
        """All that was on its way, and all before; they are forgotten."""
        self.send(Op.PING, xid=XID_PING)
        reply = await self.next_reply()
        assert (reply.xid, reply.code, reply.body) == (XID_PING, 0, b"")
        heard, self.heard, self.zxids = self.heard, [], []
        return heard

    async def next_event(self) -> Event:
        """Waits for one."""
        async with asyncio.timeout(LONGEST):
            reply = await self.receive()
            assert reply.xid == XID_NOTIFICATION
            event, _, path = decode_watcher_event(reply.body, 0, len(reply.body))
            return Event(EventType(event), path)
