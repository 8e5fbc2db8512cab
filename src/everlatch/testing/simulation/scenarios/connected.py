"""P1: a client is usable again after every outage, however long; no call is stuck; the states follow their table."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from everlatch.errors import SessionExpiredError
from everlatch.testing.simulation.scenarios.stage import LOST, PromiseBrokenError, Stage, expect, make
from everlatch.types import State, StateChange

if TYPE_CHECKING:
    from everlatch.client import Client
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World

__all__ = ["LAST_HEAL_TO_USABLE", "States", "connected"]

LAST_HEAL_TO_USABLE: Final = 20.0
"""Virtual seconds. The servers elect a leader, and a client may be in the midst of a handshake with a dead one, whose
time has doubled several times."""
_NODE: Final = "/probe"
_MAY_FOLLOW: Final = {
    State.CONNECTING: {State.CONNECTED, State.CLOSED},
    State.CONNECTED: {State.SUSPENDED, State.CLOSED},
    State.SUSPENDED: {State.CONNECTED, State.LOST, State.CLOSED},
    State.LOST: {State.CONNECTED, State.RENEWED, State.CLOSED},
    State.RENEWED: {State.CONNECTED},
}
"""As it is documented, for a client that takes every server, refuses no credentials and never gives up."""


class States:
    """Listens to a client, and knows what may follow what."""

    def __init__(self, client: Client) -> None:
        self.changes: list[StateChange] = []
        self.broken: list[str] = []
        client.add_listener(self._told)

    def count(self, state: State) -> int:
        """How often that was told."""
        return sum(change.state is state for change in self.changes)

    def _told(self, change: StateChange) -> None:
        before = self.changes[-1] if self.changes else None
        self.changes.append(change)
        if before is not None and change.previous is not before.state:
            self.broken.append(f"{change} was told after {before}")
        if change.state not in _MAY_FOLLOW.get(change.previous, ()):
            self.broken.append(f"{change} is not in the table")
        if change.state is State.RENEWED:
            if before is None or change.session_id == change.previous_session_id != before.session_id:
                self.broken.append(f"{change} renews nothing: {before}")
        elif before is not None and change.session_id != before.session_id and before.session_id:
            self.broken.append(f"{change} has another session than {before}, and nobody said so")


class _Caller:
    """One client that calls, all the time and without timeouts."""

    def __init__(self, stage: Stage, host: Host) -> None:
        self._stage, self._host, self.name = stage, host, host.name
        self.waits_since: dict[str, float] = {}
        """What it waits for, and since when."""
        self.states: list[States] = []
        self.calls = 0
        self.stopped = False

    async def live(self) -> None:
        """Until it is stopped, in this process or, after a crash, the next."""
        self.waits_since.clear()
        async with self._stage.client(self._host) as client:
            self.states.append(States(client))
            await make(client, _NODE)
            await asyncio.gather(*(self._call(client, kind) for kind in ("get", "set", "bound")))

    async def _call(self, client: Client, kind: str) -> None:
        while not self.stopped:
            self.waits_since[kind] = self._stage.world.now
            try:
                if kind == "get":
                    await client.get(_NODE)
                elif kind == "set":
                    await client.set(_NODE, b"x")
                else:
                    await client.in_session().exists(_NODE)
            except (SessionExpiredError, *LOST):
                pass
            self.calls += 1
            del self.waits_since[kind]
            await asyncio.sleep(0.2)


async def _blackout(stage: Stage) -> None:
    """All servers are gone at once, for up to many times T."""
    world, rng = stage.world, stage.world.random("blackout")
    await asyncio.sleep(rng.uniform(0.0, 5.0))
    way = rng.choice(["crash", "power_off", "pause", "cut"])
    outage = None
    if way == "cut":
        outage = world.network.partition(
            [server.name for server in world.servers],
            [host.name for host in world.hosts.values() if not host.is_server],
        )
    else:
        for server in world.servers:
            getattr(server, way)()
    world.note(f"blackout: {way}")
    await asyncio.sleep(stage.session_timeout * rng.choice([0.3, 0.9, 1.5, 4.0, 10.0]))
    if outage is not None:
        outage.heal()
    for server in world.servers:
        server.heal()


def connected(world: World) -> None:
    """Usable again after every outage, with the session or another one; no call stuck behind the last heal; the states
    follow their table, and tell of every new session."""
    stage = Stage.of(world)
    callers = [stage.inhabited(f"app{number}", _Caller) for number in (1, 2)]

    async def main() -> None:
        await _blackout(stage)
        await stage.faults(10.0, 20.0)
        world.heal()
        healed = world.now
        await asyncio.sleep(LAST_HEAL_TO_USABLE)
        before = [caller.calls for caller in callers]
        for caller in callers:
            for kind, since in caller.waits_since.items():
                expect(
                    world.now - since < LAST_HEAL_TO_USABLE - 1.0,
                    f"{caller.name} waits for a {kind} since {since:.3f} s; all was healed at {healed:.3f} s",
                )
        await asyncio.sleep(1.0)
        for caller, calls in zip(callers, before, strict=True):
            expect(caller.calls >= calls + 9, f"{caller.name} makes {caller.calls - calls} calls in a second")
            caller.stopped = True
        await asyncio.sleep(1.0)

    world.run(main())
    broken = [text for caller in callers for states in caller.states for text in states.broken]
    if broken:
        raise PromiseBrokenError("; ".join(broken))
