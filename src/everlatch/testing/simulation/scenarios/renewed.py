"""P6: a lost session is replaced in one order: credentials, watches, the application is told, the queue moves.

How it is known: the servers write down which requests came over each connection, in their order.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from everlatch.testing.simulation.faults import EVERY_KIND, HostCutOff
from everlatch.testing.simulation.scenarios.connected import LAST_HEAL_TO_USABLE, States
from everlatch.testing.simulation.scenarios.stage import LOST, CommitLog, PromiseBrokenError, Stage, expect, make
from everlatch.types import ACL, EventType, Permission, State, StateChange
from everlatch.wire.codes import XID_PING, Op
from everlatch.wire.framing import FrameReader
from everlatch.wire.headers import decode_request_header

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from everlatch.client import Client
    from everlatch.devserver.connection import Connection
    from everlatch.devserver.ensemble import Member
    from everlatch.devserver.options import Options
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World
    from everlatch.types import WatchEvent

__all__ = ["renewed"]

_SECRET: Final = (ACL(Permission.ALL.value, "auth", ""),)
_PRIVATE: Final = "/private"
_WATCHED: Final = "/watched"
_LOSSES: Final = 8.0
"""How often hosts are cut off, compared to what is usual: sessions have to be lost."""
_REARMING: Final = (Op.SET_WATCHES, Op.SET_WATCHES2)


_ORDER: Final = ("sasl", "auth", "watches", "calls")


class _Connection:
    """What came over one, by operation."""

    def __init__(self) -> None:
        self.operations: list[int] = []
        self._reader = FrameReader(1 << 20)
        self._is_greeted = False
        self._is_word: bool | None = None
        """One of the four-letter words; `None`: nothing has come."""

    def receive(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._is_word is None:
            self._is_word = data[0] != 0
        if self._is_word:
            return
        for buf, start, end in self._reader.feed(data):
            if self._is_greeted:
                xid, operation = decode_request_header(buf, start, end)
                if xid != XID_PING:
                    self.operations.append(operation)
            self._is_greeted = True

    @property
    def stages(self) -> list[str]:
        """The operations, in groups."""
        return [_stage(operation) for operation in self.operations]


def _stage(operation: int) -> str:
    if operation in _REARMING:
        return "watches"
    return {Op.SASL: "sasl", Op.AUTH: "auth"}.get(Op(operation), "calls")


class _WireLog(CommitLog):
    """What the members have committed, and what came over their connections."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[_Connection] = []

    def member(self, number: int, numbers: Sequence[int], options: Options, now: float) -> Member:
        """One that writes both down."""
        member: Any = super().member(number, numbers, options, now)
        connect: Callable[[str, int, float], Connection] = member.connect

        def connect_and_listen(host: str, port: int, now: float) -> Connection:
            connection: Any = connect(host, port, now)
            receive, seen = connection.receive, _Connection()
            self.connections.append(seen)

            def receive_and_write_down(data: bytes, now: float) -> None:
                seen.receive(data)
                receive(data, now)

            connection.receive = receive_and_write_down
            return connection  # type: ignore[no-any-return]

        member.connect = connect_and_listen
        return member  # type: ignore[no-any-return]


class _Tenant:
    """One client with credentials, watches and a subscription, which writes where only it may."""

    def __init__(self, stage: Stage, host: Host, number: int) -> None:
        self._stage, self._host, self._number = stage, host, number
        self.private = f"{_PRIVATE}-{number}"
        self.renewals: list[StateChange] = []
        self.fired: list[WatchEvent] = []
        self.heard: list[WatchEvent] = []
        self.ready = asyncio.Event()
        self.stopped = False
        self.states: States
        self._over = asyncio.Event()
        self._calls: dict[asyncio.Future[Any], None] = {}

    async def live(self) -> None:
        """Until it is stopped."""
        auth = [("digest", b"user%d:secret" % self._number)]
        async with self._stage.client(self._host, auth=auth) as client:
            self.states = States(client)
            client.add_listener(self._hangs)
            client.add_listener(lambda change: self._told(client, change))
            await client.create(self.private, acl=_SECRET)
            await make(client, _WATCHED)
            await client.get(_WATCHED, watch=self.fired.append)
            async with client.add_watch(_WATCHED) as events:
                listening = asyncio.create_task(self._listen(events))
                self.ready.set()
                while not self.stopped:
                    self._write(client)
                    await asyncio.sleep(0.1)
                await asyncio.gather(*self._calls, return_exceptions=True)
                self._over.set()
                listening.cancel()
                await asyncio.wait([listening])
            for call in list(self._calls):
                error = call.exception()
                expect(error is None or isinstance(error, LOST), f"{self.private}: {error!r}")

    def _write(self, client: Client) -> None:
        """Refused without the credentials."""
        for call in [call for call in self._calls if call.done() and call.exception() is None]:
            del self._calls[call]
        self._calls[client.set(self.private, b"x", timeout=None)] = None

    async def _listen(self, events: Any) -> None:
        async for event in events:
            self.heard.append(event)

    async def _hangs(self, change: StateChange) -> None:
        """A restoring step that has no end: nobody waits for it."""
        if change.state is State.RENEWED:
            await self._over.wait()

    def _told(self, client: Client, change: StateChange) -> None:
        if change.state is not State.RENEWED:
            return
        self.renewals.append(change)
        waiting = sum(not call.done() for call in self._calls)
        now = client.statistics()
        queued = now.queued_calls + now.unsettled
        what = f"{waiting} calls wait, {queued} in the queue or yet to be settled: it moved before {change} was told"
        self._stage.note_unless(queued >= waiting, what)

    def judge(self) -> None:
        """What it was told."""
        if self.states.broken:
            raise PromiseBrokenError("; ".join(self.states.broken))
        ids = [change.previous_session_id for change in self.renewals]
        expect(len(set(ids)) == len(ids), f"a renewal was told twice: {self.renewals}")
        for earlier, later in zip(self.renewals, self.renewals[1:], strict=False):
            expect(earlier.session_id == later.previous_session_id, f"{later} does not follow {earlier}")
        expect(len(self.fired) == 1, f"the watch of {self.private} was told {self.fired}")
        changed = [event for event in self.heard if event.type in (EventType.DATA_CHANGED, EventType.MISSED)]
        expect(changed, f"the subscription of {self.private} was told {self.heard}")
        missed = sum(event.type is EventType.MISSED for event in self.heard)
        expect(not self.renewals or missed, f"{len(self.renewals)} renewals, and nobody said what may have been missed")


def _judge_order(log: _WireLog, *, secured: bool) -> None:
    for connection in log.connections:
        stages = connection.stages
        order = sorted(stages, key=_ORDER.index)
        expect(stages == order, f"a connection carried {stages}")
        expect(not (secured and stages) or stages[0] == "sasl", f"a connection began with {stages[:1]}")


def renewed(world: World) -> None:
    """Sessions are lost again and again: credentials come first on every connection, then the watches, then what waits;
    each renewal is told once, before the queue moves; what was watched stays watched."""
    log = _WireLog()
    stage = Stage.of(world, log)
    tenants = [_Tenant(stage, world.host(f"app{number}"), number) for number in (1, 2)]
    writer = world.host("writer")

    async def change() -> None:
        async with stage.client(writer) as client:
            while True:
                try:
                    await client.set(_WATCHED, b"changed")
                except LOST:
                    continue
                return

    async def main() -> None:
        living = [tenant._host.create_task(tenant.live()) for tenant in tenants]
        for tenant in tenants:
            await tenant.ready.wait()
        await stage.faults(kinds=EVERY_KIND | {HostCutOff: _LOSSES})
        world.heal()
        async with asyncio.timeout(LAST_HEAL_TO_USABLE):
            await writer.run(change())
        async with asyncio.timeout(LAST_HEAL_TO_USABLE):
            await world.until(lambda: all(tenant.fired and tenant.heard for tenant in tenants))
        for tenant in tenants:
            tenant.stopped = True
        async with asyncio.timeout(LAST_HEAL_TO_USABLE):
            await asyncio.gather(*living)

    world.run(main())
    for tenant in tenants:
        tenant.judge()
    _judge_order(log, secured=stage.mechanism is not None)
    stage.judge()
