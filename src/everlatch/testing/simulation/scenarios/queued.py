"""P2: calls wait in their order and are sent once; the queue is bounded; bound calls end with their session."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from everlatch.devserver.tree import Create
from everlatch.errors import EverlatchError, OutcomeUnknownError, QueueFullError, SessionExpiredError
from everlatch.testing.simulation.scenarios.connected import LAST_HEAL_TO_USABLE
from everlatch.testing.simulation.scenarios.stage import LOST, Stage, expect, make
from everlatch.types import Outcome, State, StateChange

if TYPE_CHECKING:
    from random import Random

    from everlatch.client import Client, SessionClient
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World

__all__ = ["queued"]

_MOST_CALLS: Final = 30
_MOST_BYTES: Final = 3000
_AROUND: Final = 80
"""Bytes of a create besides its data, at the most."""
_TIMEOUTS: Final = (None, None, None, 0.2, 2.0)


class _Writer:
    """One process that appends numbers to a list in ZooKeeper, in bursts, without waiting for one before the next."""

    def __init__(self, stage: Stage, host: Host, name: str, rng: Random) -> None:
        self._stage, self._host, self._rng = stage, host, rng
        self.list = f"/{name}"
        self.bound = f"/bound-{name}"
        self.made: dict[int, asyncio.Future[Any] | None] = {}
        """What became of the call with this number; `None`: it was refused at once."""
        self._patient: set[int] = set()
        """Those without a timeout."""
        self._bound: list[tuple[SessionClient, asyncio.Future[Any]]] = []
        self.refused = self.renewals = 0
        self.stopped = False

    async def live(self) -> None:
        """Until it is stopped."""
        options = {"max_queued_calls": _MOST_CALLS, "max_queued_bytes": _MOST_BYTES}
        async with self._stage.client(self._host, **options) as client:
            client.add_listener(lambda change: self._told(client, change))
            await make(client, self.list)
            await make(client, self.bound)
            while not self.stopped:
                for _ in range(self._rng.choice([1, 3, 10, 20])):
                    self._append(client)
                self._append_bound(client)
                await asyncio.sleep(self._rng.expovariate(3.0))
            calls = [call for call in self.made.values() if call is not None]
            calls += [call for _, call in self._bound]
            await asyncio.gather(*calls, return_exceptions=True)

    def _append(self, client: Client) -> None:
        number = len(self.made)
        timeout = self._rng.choice(_TIMEOUTS)
        data = (b"%d" % number).ljust(self._rng.choice([8, 8, 8, 100]))
        before = client.statistics()
        try:
            call = client.create(f"{self.list}/n-", data, sequential=True, timeout=timeout)
        except QueueFullError:
            self.made[number] = None
            self.refused += 1
            expect(
                before.queued_calls == _MOST_CALLS or before.queued_bytes + len(data) + _AROUND > _MOST_BYTES,
                f"refused with {before.queued_calls} calls and {before.queued_bytes} bytes in the queue",
            )
            return
        self.made[number] = call
        if timeout is None:
            self._patient.add(number)
        after = client.statistics()
        expect(after.queued_calls <= _MOST_CALLS, f"{after.queued_calls} calls are queued")
        expect(after.queued_bytes <= _MOST_BYTES, f"{after.queued_bytes} bytes are queued")

    def _append_bound(self, client: Client) -> None:
        """An ephemeral node that has to belong to the session whose id it bears."""
        try:
            session = client.in_session()
            path, data = f"{self.bound}/n-", b"%d" % session.session_id
            call = session.create(path, data, ephemeral=True, sequential=True, timeout=None)
        except (SessionExpiredError, QueueFullError):
            return
        self._bound.append((session, call))

    def _told(self, client: Client, change: StateChange) -> None:
        if change.state is not State.RENEWED:
            return
        self.renewals += 1
        late = [
            call for session, call in self._bound if session.generation_bound != change.generation and not call.done()
        ]
        # Of those that were sent it is found out next what became of them.
        is_right = len(late) <= client.statistics().unsettled
        self._stage.note_unless(is_right, f"{self.bound}: {len(late)} calls of sessions that are over wait: {change}")

    def judge(self) -> None:
        """Against what the servers have committed."""
        entries = self._stage.log.in_order()
        created = [change for entry in entries for change in entry.transaction.changes if isinstance(change, Create)]
        numbers = [int(change.data or b"0") for change in created if change.path.startswith(f"{self.list}/n-")]
        expect(numbers == sorted(set(numbers)), f"{self.list} was appended to in this order: {numbers}")
        there = set(numbers)
        for number, call in self.made.items():
            self._judge_call(number, call, is_there=number in there)
        for change in created:
            if change.path.startswith(f"{self.bound}/n-"):
                expect(
                    change.owner == int(change.data or b"0"), f"{change} ran in another session than it was bound to"
                )
        for session, call in self._bound:
            error = call.exception()
            expect(
                error is None or isinstance(error, (SessionExpiredError, *LOST)),
                f"a call bound to session {session.generation_bound} ended with {error!r}",
            )

    def _judge_call(self, number: int, call: asyncio.Future[Any] | None, *, is_there: bool) -> None:
        error = None if call is None else call.exception()
        if call is None or (isinstance(error, EverlatchError) and error.outcome is Outcome.NOT_APPLIED):
            expect(not is_there, f"{self.list}: {number} is there, and was not applied: {error!r}")
        elif error is None:
            expect(is_there, f"{self.list}: {number} was acknowledged, and is not there")
        else:
            expect(isinstance(error, OutcomeUnknownError), f"{self.list}: {number} ended with {error!r}")
        if number in self._patient and error is not None:
            expect(type(error) in LOST, f"{self.list}: {number} had no timeout, and ended with {error!r}")


def queued(world: World) -> None:
    """What is appended while disconnected, in bursts, arrives in order and once; a full queue refuses at once; bound
    calls run in their session or not at all."""
    stage = Stage.of(world)
    writers: list[_Writer] = []
    living: dict[int, _Writer] = {}

    def move_in(number: int) -> None:
        host = world.host(f"app{number}")

        async def live() -> None:
            """After a crash it is another one: what the dead one sent may still be under way."""
            life = len(writers)
            writer = _Writer(stage, host, f"list{number}-{life}", world.random(f"writer {number}-{life}"))
            writers.append(writer)
            living[number] = writer
            await writer.live()
            writer.judge()

        host.main = live
        host.boot()

    async def main() -> None:
        for number in range(2):
            move_in(number)
        await stage.faults()
        world.heal()
        await asyncio.sleep(1.0)
        for writer in living.values():
            writer.stopped = True
        await asyncio.sleep(LAST_HEAL_TO_USABLE)

    world.run(main())
    stage.judge()
