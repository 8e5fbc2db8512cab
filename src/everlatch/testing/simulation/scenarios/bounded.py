"""P11: `close()` returns within its timeout in every state and never reconnects; every call with a timeout ends by it.

How it is known: by the clock of the client's host; while its process stands still, nothing can end.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from everlatch.errors import EverlatchError
from everlatch.recipes.leader_latch import LeaderLatch
from everlatch.testing.simulation.faults import ClientPauses
from everlatch.testing.simulation.scenarios.stage import Stage, expect, make

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from everlatch.client import Client
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World

__all__ = ["bounded"]

_NODE: Final = "/node"
_CALL_TIMEOUTS: Final = (0.0, 0.01, 0.3, 2.0, 5.0)
_CLOSE_TIMEOUTS: Final = (0.0, 0.1, 1.0, 4.0)
_AFTER: Final = 0.01
"""Seconds that an end may come late: timers have some slack."""
_TAKEN_DOWN: Final = 1.0
"""For sockets that are being opened when a client is closed."""


class _Clients:
    """One client after the other on a host, each closed in whatever state it is."""

    def __init__(self, stage: Stage, host: Host, rng: Random) -> None:
        self._stage, self._host, self._rng = stage, host, rng
        self.stopped = False
        self.calls = self.closed = 0
        self._calls: dict[str, Callable[[Client, float], Awaitable[object]]] = {
            "get": lambda client, timeout: client.get(_NODE, timeout=timeout),
            "set": lambda client, timeout: client.set(_NODE, b"x", timeout=timeout),
            "children": lambda client, timeout: client.children("/", timeout=timeout),
            "sync": lambda client, timeout: client.sync(timeout=timeout),
            "bound": lambda client, timeout: client.in_session().exists(_NODE, timeout=timeout),
            "ensure_path": lambda client, timeout: client.ensure_path("/a/b/c", timeout=timeout),
            "wait_connected": lambda client, timeout: client.wait_connected(timeout),
            "add_auth": lambda client, timeout: client.add_auth("digest", b"user:secret", timeout=timeout),
            "who_am_i": lambda client, timeout: client.who_am_i(timeout=timeout),
            "latch": self._wait_to_lead,
        }

    async def live(self) -> None:
        """One after the other until it is stopped."""
        while not self.stopped:
            await self._use(self._stage.client(self._host, close_timeout=self._rng.choice(_CLOSE_TIMEOUTS)))

    async def _use(self, client: Client) -> None:
        await client.start(wait=False)
        calling = [asyncio.create_task(self._call(client)) for _ in range(8)]
        await asyncio.sleep(self._rng.expovariate(0.5))
        await self._close(client)
        await self._bounded("calls that were waiting when it was closed", _TAKEN_DOWN, asyncio.wait(calling))
        for task in calling:
            task.result()

    async def _close(self, client: Client) -> None:
        """As in `Client.close`, with the promise checked."""
        timeout, state = self._rng.choice(_CLOSE_TIMEOUTS), client.state
        connections = client.connections
        closing = [client.close(timeout) for _ in range(self._rng.choice([1, 2]))]
        await self._bounded(f"close({timeout:g}) in {state.name}", timeout + _TAKEN_DOWN, asyncio.gather(*closing))
        what = f"{self._host.name} reconnected to close, in {state.name}"
        self._stage.note_unless(client.connections == connections, what)
        self.closed += 1

    async def _call(self, client: Client) -> None:
        """Calls until the client is closed."""
        while client.state.name != "CLOSED":
            name = self._rng.choice(list(self._calls))
            timeout = self._rng.choice(_CALL_TIMEOUTS)
            with contextlib.suppress(EverlatchError):
                await self._bounded(f"{name} with timeout {timeout:g}", timeout, self._calls[name](client, timeout))
            self.calls += 1
            await asyncio.sleep(self._rng.uniform(0.0, 0.5))

    async def _wait_to_lead(self, client: Client, timeout: float) -> None:
        latch = LeaderLatch(client, "/latch")
        await latch.start()
        try:
            await latch.wait(timeout=timeout)
        finally:
            await latch.close(0.0)

    async def _bounded(self, what: str, seconds: float, step: Awaitable[Any]) -> None:
        """Raises what the step raises, and notes if that takes too long."""
        began, world_began = self._host.time(), self._stage.world.now
        try:
            await step
        finally:
            took = self._host.time() - began - self._stood_still(world_began)
            told = f"{self._host.name}: {what} took {took:.3f} s, from {world_began:.3f} s on"
            self._stage.note_unless(took <= seconds + _AFTER, told)

    def _stood_still(self, since: float) -> float:
        """For how long, by the host's clock as good as."""
        world = self._stage.world
        pauses = [
            (max(each.at, since), world.now if each.healed_at is None else each.healed_at)
            for each in world.faults.applied
            if isinstance(each.fault, ClientPauses) and each.fault.targets == (self._host.name,)
        ]
        return 1.02 * sum(max(0.0, end - begin) for begin, end in pauses)


def bounded(world: World) -> None:
    """Clients come and go under all faults, with calls of every kind under way: each ends by its timeout, whatever
    state the client is in, and so does closing it."""
    stage = Stage.of(world)
    hosts = [world.host(f"app{number}") for number in (1, 2)]
    founder = world.host("founder")
    users = [_Clients(stage, host, world.random(f"uses of {host.name}")) for host in hosts]

    async def found() -> None:
        async with stage.client(founder) as client:
            await make(client, _NODE)

    async def main() -> None:
        await founder.run(found())
        living = [user._host.create_task(user.live()) for user in users]
        await stage.faults()
        world.heal()
        for user in users:
            user.stopped = True
        async with asyncio.timeout(60.0):
            await asyncio.gather(*living)
        await asyncio.sleep(_TAKEN_DOWN)
        left = [str(stream) for stream in world.network.connections]
        expect(not left, f"when all clients were closed these were open: {left}")
        await asyncio.sleep(60.0)

    world.run(main())
    stage.judge()
    expect(all(user.closed and user.calls for user in users), "nothing was called or closed")
