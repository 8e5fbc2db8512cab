"""A sequence of steps on one server, and everything that the server said.

    control = await Control.to(address)          # once a server
    transcript = await run(control, steps)       # any number of them, one after the other

Rules of this file:
1. One session speaks at a time, and is answered before the next one does.
2. Several requests of one session go out together, unless one is to be `ALONE`.
3. Before a connection is left, all that is on its way to it has been read.
4. In the end all sessions are closed.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Final

from conformance.links import LONGEST, Link
from conformance.operations import OPERATIONS
from conformance.steps import Auth, Call, Drop, Reattach, Step, Unknown
from conformance.transcripts import END, Sent, Stream, Transcript, items_of
from everlatch.admin import cons
from everlatch.wire.auth_records import encode_auth_request
from everlatch.wire.codes import XID_AUTH, XID_PING, Op
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, decode_connect_response, encode_connect_request
from everlatch.wire.headers import decode_reply_header, frame_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conformance.control import Control
    from conformance.normal import Normal

__all__ = ["ALONE", "run"]

ALONE: Final = frozenset({"sasl", "close_session", "set_acl"})
"""Requests that are answered before another one is sent: the answer to sasl may overtake others, closeSession ends the
connection, and what comes close behind a setACL may still be judged by the old ACL (ZooKeeper forgets to tell the new
one to the requests that it looks at before the change is applied)."""
_CLOSE: Final = Call("close_session")
_PING: Final = Call("ping")
_TIMEOUT_MS: Final = 40_000
_FUTURE: Final = 1 << 40
_MOST_AT_ONCE: Final = 100


async def run(control: Control, steps: Sequence[Step]) -> Transcript:
    """All steps, and what was said. Raises `ConnectionError` if the server can't be worked with."""
    normal = await control.prepare()
    runner = _Runner(control.address, normal)
    for start, stop in _bursts(steps):
        await runner.take(steps[start].session, start, steps[start:stop])
    words = await control.words(normal, runner.connected)
    await runner.end()
    nodes = await control.nodes(normal)
    await control.clean()
    said = {stream.name: items_of(stream, normal) for stream in runner.streams}
    operations = sum(request.step != END for stream in runner.streams for request in stream.sent)
    return Transcript(said | {"nodes": nodes, "words": words}, operations)


def _bursts(steps: Sequence[Step]) -> Iterator[tuple[int, int]]:
    """Where those begin and end that are sent together."""
    start = 0
    for stop in range(1, len(steps) + 1):
        goes_on = stop < len(steps) and steps[stop].session == steps[start].session and stop - start < _MOST_AT_ONCE
        if not (goes_on and _goes_with_others(steps[stop - 1]) and _goes_with_others(steps[stop])):
            yield start, stop
            start = stop


def _goes_with_others(step: Step) -> bool:
    return isinstance(step.act, Call) and step.act.name not in ALONE


class _Session:
    """One of those that take steps."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = 0
        """0 before it is opened, and when it is closed."""
        self.password = b""
        self.stream: Stream | None = None
        """Its connection, if it has one."""
        self.opened = self.connected = 0
        """How often."""
        self.seen = 0
        """The last zxid of earlier connections."""
        self.xids = itertools.count(1)


class _Runner:
    """Takes the steps of one run."""

    def __init__(self, address: str, normal: Normal) -> None:
        self._address, self._normal = address, normal
        self._sessions: dict[int, _Session] = {}
        self.streams: list[Stream] = []
        """All connections there ever were."""

    @property
    def connected(self) -> list[int]:
        """The ids of the sessions that have a connection."""
        return [session.id for session in self._sessions.values() if session.stream is not None]

    async def take(self, number: int, start: int, steps: Sequence[Step]) -> None:
        """Steps of one session, which begin with the `start`th."""
        session = self._sessions.setdefault(number, _Session(number))
        act = steps[0].act
        if isinstance(act, Drop):
            await self._drop(session)
        elif isinstance(act, Reattach):
            await self._reattach(session, start, act)
        elif await self._connected(session, start) is not None:
            await (self._close(session, start) if act == _CLOSE else self._send(session, start, steps))

    async def end(self) -> None:
        """Closes all sessions."""
        for session in self._sessions.values():
            if session.id:
                await self.take(session.number, END, [Step(session.number, _CLOSE)])

    # -- requests

    async def _send(self, session: _Session, start: int, steps: Sequence[Step]) -> None:
        """All at once; returns when they are answered."""
        stream = session.stream
        assert stream is not None
        data = [self._request(session, stream, start + index, step.act) for index, step in enumerate(steps)]
        stream.link.send(b"".join(data))
        answered = await stream.link.answered(len(stream.sent) + 1)
        if _ends_connection(steps[-1].act, stream):
            await self._until_closed(session, stream)
        elif not answered:
            self._leave(session, stream, "silent" if stream.link.is_open else "closed")
            stream.link.abort()

    async def _close(self, session: _Session, start: int) -> None:
        """Ends a session. Its ephemeral nodes go in any order, and so come the events."""
        told = {each: await self._flush(each) for each in self._sessions.values() if each.stream is not None}
        await self._send(session, start, [Step(session.number, _CLOSE)])
        session.id = 0
        for other, (stream, begin) in told.items():
            end = len(stream.link.frames) if other is session else (await self._flush(other))[1]
            stream.unordered.append((begin, end - 1))

    async def _flush(self, session: _Session) -> tuple[Stream, int]:
        """All that is on the way to a connected session has come. Its connection, and how many frames came on it."""
        stream = session.stream
        assert stream is not None
        await self._send(session, END, [Step(session.number, _PING)])
        return stream, len(stream.link.frames)

    def _request(self, session: _Session, stream: Stream, step: int, act: Any) -> bytes:
        if isinstance(act, Auth):
            stream.sent.append(Sent(step, "auth", XID_AUTH, ()))
            return frame_request(XID_AUTH, Op.AUTH, encode_auth_request(act.scheme, act.credentials))
        xid = XID_PING if act == _PING else next(session.xids)
        if isinstance(act, Unknown):
            stream.sent.append(Sent(step, "unknown", xid, ()))
            return frame_request(xid, act.op, b"")
        operation, arguments = OPERATIONS[act.name], self._arguments(session, stream, act)
        stream.sent.append(Sent(step, act.name, xid, _paths(act.name, arguments)))
        return frame_request(xid, operation.op, operation.encode(*arguments)[: act.cut])

    def _arguments(self, session: _Session, stream: Stream, call: Call) -> tuple[Any, ...]:
        arguments = tuple(self._complete(argument) for argument in call.arguments)
        if call.name in ("set_watches", "set_watches2"):
            since = session.seen or stream.last_zxid
            return (max(0, since - arguments[0]), *arguments[1:])
        return arguments

    def _complete(self, value: Any) -> Any:
        """Paths that begin with `~` are below the run's own node."""
        if isinstance(value, str):
            return self._normal.root + value[1:] if value.startswith("~") else value
        if isinstance(value, list):
            return [self._complete(each) for each in value]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self._complete, value))
        return value

    # -- connections

    async def _connected(self, session: _Session, step: int) -> Stream | None:
        """The connection of a session; if it has none, a new one, and if it is no more, a new session."""
        if session.stream is None:
            await self._connect(session, step, session.seen, session.password, read_only=False)
        return session.stream

    async def _reattach(self, session: _Session, step: int, act: Reattach) -> None:
        if not session.id:
            await self._connected(session, step)
            return
        old = session.stream
        if old is not None:
            await self._flush(session)
            if not act.is_taken_over:
                await self._break(session, old)
        seen = {"last": session.seen, "none": 0, "future": session.seen + _FUTURE}[act.seen]
        password = session.password if act.password_is_right else b"wrong"
        await self._connect(session, step, seen, password, read_only=False if act.has_read_only_byte else None)
        if old is not None and act.is_taken_over and act.seen != "future":
            await self._until_closed(session, old)

    async def _connect(
        self, session: _Session, step: int, seen: int, password: bytes, *, read_only: bool | None
    ) -> None:
        session.connected += 1
        session.opened += not session.id
        link = await Link.to(self._address)
        stream = Stream(f"session {session.number}, connection {session.connected}", link, step)
        self.streams.append(stream)
        link.send(frame(encode_connect_request(ConnectRequest(0, seen, _TIMEOUT_MS, session.id, password, read_only))))
        if not await link.answered(1):
            stream.ended = "open" if link.is_open else "closed"
            link.abort()
            return
        response = decode_connect_response(link.frames[0], 0, len(link.frames[0]))
        if response.timeout_ms <= 0:
            stream.ended = "closed" if await link.closed() else "open"
            if password == session.password:
                session.id, session.stream = 0, None
            return
        if not session.id:
            session.id, session.password, session.xids = response.session_id, response.password, itertools.count(1)
            self._normal.add_session(session.id, f"session {session.number}.{session.opened}")
        session.stream = stream

    async def _drop(self, session: _Session) -> None:
        stream = session.stream
        if stream is not None:
            await self._flush(session)
            await self._break(session, stream)

    async def _break(self, session: _Session, stream: Stream) -> None:
        """The connection is gone, and the server knows: one that notices when the session has another one already
        forgets that, and doesn't close it when it should."""
        stream.link.abort()
        self._leave(session, stream, "left")
        async with asyncio.timeout(LONGEST):
            while any(each.session_id == session.id for each in await cons(self._address)):
                pass

    async def _until_closed(self, session: _Session, stream: Stream) -> None:
        self._leave(session, stream, "closed" if await stream.link.closed() else "open")
        stream.link.abort()

    def _leave(self, session: _Session, stream: Stream, ended: str) -> None:
        stream.ended = ended
        session.seen = max(session.seen, stream.last_zxid)
        if session.stream is stream:
            session.stream = None


def _ends_connection(act: Any, stream: Stream) -> bool:
    if isinstance(act, Auth):
        payload = stream.link.frames[-1]
        return len(stream.link.frames) > 1 and decode_reply_header(payload, 0, len(payload))[2] != 0
    return isinstance(act, Unknown) or act == _CLOSE


def _paths(name: str, arguments: tuple[Any, ...]) -> tuple[str, ...]:
    if name in ("multi", "multi_read"):
        return tuple(part.path for part in arguments)
    return (arguments[0],) if arguments and isinstance(arguments[0], str) else ("",)
