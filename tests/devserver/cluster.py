"""Members of an ensemble on one clock, with a network that holds what it can't bring, and clients that speak bytes."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from everlatch.devserver.ensemble import Member
from everlatch.devserver.options import Options
from everlatch.types import OPEN_ACL_UNSAFE
from everlatch.wire.codes import XID_NOTIFICATION, Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import (
    ConnectRequest,
    ConnectResponse,
    decode_connect_response,
    encode_connect_request,
)
from everlatch.wire.headers import REPLY_HEADER, decode_reply_header, frame_request
from everlatch.wire.records import encode_create_request, encode_set_data_request, encode_sync_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from everlatch.devserver.messages import Message

EPOCH = 1_795_000_000.0
DELAY = 0.001


class Reply(NamedTuple):
    xid: int
    zxid: int
    code: int
    body: bytes


class Cluster:
    """`numbers` members, a millisecond apart unless `rng` says otherwise."""

    def __init__(self, count: int = 3, rng: Random | None = None, **options: Any) -> None:
        self.now = 0.0
        self._rng = rng
        numbers = range(1, count + 1)
        self.options = Options(**({"tick": 1.0} | options))
        self.members = {n: Member(n, numbers, self.options, EPOCH, self.now) for n in numbers}
        self.cut: set[tuple[int, int]] = set()
        """Pairs of sender and receiver between whom nothing goes."""
        self.frozen: set[int] = set()
        """Members that do nothing; what comes for them waits."""
        self._wires: dict[tuple[int, int], deque[tuple[float, Message]]] = {}
        """What is under way from one to the other, in order, and when it may arrive."""

    # -- faults

    def partition(self, *groups: Iterable[int]) -> None:
        sides = [set(group) for group in groups]
        self.cut = {(a, b) for a in self.members for b in self.members if not any({a, b} <= side for side in sides)}

    def heal(self) -> None:
        self.cut.clear()

    def thaw(self, number: int) -> None:
        self.frozen.discard(number)

    def crash(self, number: int) -> None:
        """And comes back at once, without its memory."""
        self._wires = {pair: wire for pair, wire in self._wires.items() if number not in pair}
        for other in self.members:
            if other != number and (number, other) not in self.cut and other not in self.frozen:
                self.members[other].peer_lost(number, self.now)
        self.members[number].restart(self.now)

    # -- time

    def step(self) -> None:
        """The next thing that happens."""
        self.collect()
        timers = [(max(self.now, m.next_deadline()), n) for n, m in self.members.items() if n not in self.frozen]
        arrivals = [
            (max(self.now, wire[0][0]), pair)
            for pair, wire in self._wires.items()
            if wire and pair not in self.cut and pair[1] not in self.frozen
        ]
        timer, number = min(timers)
        arrival, pair = min(arrivals, default=(timer + 1, (0, 0)))
        if arrival <= timer:
            self.now = arrival
            self.members[pair[1]].deliver(pair[0], self._wires[pair].popleft()[1], self.now)
        else:
            self.now = timer
            self.members[number].handle_timer(self.now)
        self.collect()

    def collect(self) -> None:
        for number, member in self.members.items():
            for to, message in member.take_messages():
                delay = DELAY if self._rng is None else self._rng.uniform(0, 20 * DELAY)
                self._wires.setdefault((number, to), deque()).append((self.now + delay, message))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step()

    def until(self, condition: Callable[[], Any], limit: float = 60.0) -> Any:
        end = self.now + limit
        while not (found := condition()):
            assert self.now < end, "it never happens"
            self.step()
        return found

    # -- who is who

    @property
    def leaders(self) -> list[Member]:
        return [member for member in self.members.values() if member.is_leading]

    def elect(self) -> Member:
        """Everybody who isn't frozen serves; the leader."""
        awake = [member for number, member in self.members.items() if number not in self.frozen]
        self.until(lambda: all(member.mode for member in awake) and len(self.leaders) == 1)
        return self.leaders[0]

    def followers(self) -> list[Member]:
        return [member for member in self.members.values() if member.mode == "follower"]


class Peer:
    """A client's end of one connection to one member."""

    def __init__(self, cluster: Cluster, member: Member, timeout_ms: int = 4_000) -> None:
        self.cluster, self.member, self.timeout_ms = cluster, member, timeout_ms
        self.side = member.connect("127.0.0.1", 50_000, cluster.now)
        self._frames = FrameReader(1 << 26)
        self._xids = itertools.count(1)
        self.response: ConnectResponse | None = None
        self.replies: list[Reply] = []
        self.events: list[Reply] = []

    @property
    def is_closed(self) -> bool:
        return self.side.is_closing

    def write(self, data: bytes) -> None:
        self.side.receive(data, self.cluster.now)

    def ask_for(self, session: ConnectResponse | None = None, zxid: int = 0, *, read_only: bool = False) -> None:
        session_id, password = (0, bytes(16)) if session is None else (session.session_id, session.password)
        request = ConnectRequest(0, zxid, self.timeout_ms, session_id, password, read_only)
        self.write(frame(encode_connect_request(request)))

    def greet(self, session: ConnectResponse | None = None, zxid: int = 0, *, read_only: bool = False) -> Peer:
        self.ask_for(session, zxid, read_only=read_only)
        self.cluster.until(self.read)
        return self

    def read(self) -> bool:
        """Takes what has come; whether that is a handshake's answer, at least."""
        for buf, pos, end in self._frames.feed(self.side.take_output()):
            if self.response is None:
                self.response = decode_connect_response(buf, pos, end)
                continue
            body = buf[pos + REPLY_HEADER.size : end]
            reply = Reply(*decode_reply_header(buf, pos, end), body)
            (self.events if reply.xid == XID_NOTIFICATION else self.replies).append(reply)
        return self.response is not None

    def send(self, op: int, body: bytes = b"") -> int:
        xid = next(self._xids)
        self.write(frame_request(xid, op, body))
        return xid

    def answered(self, xid: int) -> Reply | None:
        self.read()
        return next((reply for reply in self.replies if reply.xid == xid), None)

    def call(self, op: int, body: bytes = b"") -> Reply:
        xid = self.send(op, body)
        return self.cluster.until(lambda: self.answered(xid))

    def create(self, path: str, flags: int = 0) -> Reply:
        return self.call(Op.CREATE, encode_create_request(path, b"", OPEN_ACL_UNSAFE, flags))

    def send_set(self, path: str, data: bytes, version: int = -1) -> int:
        return self.send(Op.SET_DATA, encode_set_data_request(path, data, version))

    def set(self, path: str, data: bytes) -> Reply:
        xid = self.send_set(path, data)
        return self.cluster.until(lambda: self.answered(xid))

    def sync(self) -> Reply:
        return self.call(Op.SYNC, encode_sync_request("/"))

    def hang_up(self) -> None:
        self.member.disconnect(self.side)
