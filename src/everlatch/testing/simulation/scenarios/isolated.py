"""P9: a callback that raises, is cancelled, is slow or blocks the event loop harms nobody else, and costs no healthy
link.

A callback blocks the loop: its process stands still from the end of the present step on, for so long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from everlatch.errors import EverlatchError
from everlatch.testing.simulation.scenarios.connected import LAST_HEAL_TO_USABLE, States
from everlatch.testing.simulation.scenarios.stage import PromiseBrokenError, Stage, expect, make
from everlatch.types import State

if TYPE_CHECKING:
    from random import Random

    from everlatch.client import Client
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World
    from everlatch.types import StateChange

__all__ = ["isolated"]

_NODE: Final = "/node"
_SLOW: Final = 3.0
_CALM: Final = 12
"""So often the loop is blocked while nothing else is wrong."""


class _CallbackError(Exception):
    """What a bad callback raises."""


class _Service:
    """One client whose callbacks are bad, but for one of each kind."""

    def __init__(self, stage: Stage, host: Host, rng: Random) -> None:
        self._stage, self._host, self._rng = stage, host, rng
        self.client: Client
        self.states: States
        self.late: list[StateChange] = []
        """What a good listener heard that is registered behind all the bad ones."""
        self.watches = self.told = 0
        """One-shot watches that were set for the good callback, and how often it was called."""
        self.ready = asyncio.Event()
        self.stopped = False
        self._tasks: set[asyncio.Task[object]] = set()

    async def live(self) -> None:
        """Until it is stopped."""
        async with self._stage.client(self._host) as client:
            self.client = client
            self.states = States(client)
            for bad in (self._raises, self._is_cancelled, self._is_slow, self._blocks, self._cancels_itself):
                client.add_listener(bad)
            client.add_listener(self.late.append)
            await make(client, _NODE)
            self.ready.set()
            while not self.stopped:
                try:
                    await self._watch(client)
                    await client.set(_NODE, b"x", timeout=5.0)
                except EverlatchError:
                    pass
                await asyncio.sleep(0.3)

    async def _watch(self, client: Client) -> None:
        for bad in (self._raises, self._is_cancelled, self._is_slow, self._cancels_itself):
            await client.get(_NODE, watch=bad, timeout=5.0)
        await client.get(_NODE, watch=self._good, timeout=5.0)
        self.watches += 1

    def block(self, seconds: float) -> None:
        """As a callback would."""
        self._host.pause()
        self._stage.world.loop.schedule(self._stage.world.loop.moment + seconds, self._host.resume)

    def _good(self, _: object) -> None:
        self.told += 1

    def _raises(self, _: object) -> None:
        raise _CallbackError

    def _is_cancelled(self, _: object) -> None:
        raise asyncio.CancelledError

    async def _cancels_itself(self, _: object) -> None:
        task: Any = asyncio.current_task()
        task.cancel()
        await asyncio.sleep(_SLOW)

    async def _is_slow(self, _: object) -> None:
        await asyncio.sleep(_SLOW)

    def _blocks(self, change: StateChange) -> None:
        if change.state is not State.CLOSED and self._rng.random() < 0.3:
            self.block(self._rng.uniform(0.05, 0.5) * self._stage.session_timeout)


async def _calm(stage: Stage, services: list[_Service]) -> None:
    """Nothing is wrong but that callbacks block the loop, for up to T/2: no link is left."""
    connections = [service.client.connections for service in services]
    rng = stage.world.random("calm")
    for _ in range(_CALM):
        service = rng.choice(services)
        service.block(rng.uniform(0.1, 0.5) * stage.session_timeout)
        await asyncio.sleep(rng.uniform(0.5, 0.9) * stage.session_timeout)
    for service, before in zip(services, connections, strict=True):
        now = service.client.connections
        expect(now == before, f"{service._host.name} left {now - before} healthy links as its loop was blocked")


def isolated(world: World) -> None:
    """Among bad callbacks the good ones are told everything, calls go on, and a link that is healthy is kept though a
    callback blocks the loop for up to T/2."""
    stage = Stage.of(world)
    services = [_Service(stage, world.host(f"app{number}"), world.random(f"bad {number}")) for number in (1, 2)]

    async def main() -> None:
        living = [service._host.create_task(service.live()) for service in services]
        for service in services:
            await service.ready.wait()
        await stage.faults(10.0, 20.0)
        world.heal()
        await asyncio.sleep(LAST_HEAL_TO_USABLE)
        await _calm(stage, services)
        for service in services:
            service.stopped = True
        async with asyncio.timeout(LAST_HEAL_TO_USABLE):
            await asyncio.gather(*living)
        await asyncio.sleep(20 * _SLOW)  # the slow ones come to an end

    world.run(main())
    for service in services:
        if service.states.broken:
            raise PromiseBrokenError("; ".join(service.states.broken))
        expect(service.late == service.states.changes, f"{service._host.name}: a good listener was not told everything")
        expect(service.told, f"{service._host.name}: none of {service.watches} good watches was told anything")
