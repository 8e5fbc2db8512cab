"""Trials of the lease on real servers: as in `leases`, with followers that are stopped by SIGSTOP or whose cable to
their leader is pulled.

Two of the four followers of one ensemble have a trial each at a time, so that a quorum is left. When the session ended
is seen by a client of the leader, which asks for the ephemeral node again and again: the session had ended by the time
at which the answer came that the node is gone. A lease that ends later than that has outlived it, whatever the clocks
of anything else.

Rules of this file: without root and iproute2 there are no cables to be pulled, and followers are only stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from everlatch import Client
from everlatch.errors import EverlatchError
from everlatch.testing import Ensemble
from everlatch.testing.network import NetworkEnsemble, NetworkUnavailableError
from torture.leases import NODE, Ends, Tally, Trial, work

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing import Server

__all__ = ["on_real_servers"]

_SERVERS: Final = 5
_AT_A_TIME: Final = 2
"""With three left there is a quorum."""
_TICK: Final = 2.0
"""The longest that servers allow for so short a session: what a follower tells its leader is latest then."""
_TIMEOUT: Final = 4.0
_LONGEST: Final = 20.0
"""Seconds until a session has ended that is not heard of."""
_LOOK: Final = 0.004
_PATIENT: Final = 30.0


def _now() -> float:
    """As the lease has it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def on_real_servers(seed: int, count: int, version: str, tell: Callable[[Tally], None]) -> Tally:
    """At least so many trials; stops at a violation."""
    tally = Tally()
    rng = random.Random(f"leases/{seed}")
    async with AsyncExitStack() as stack:
        ensemble = await _ensemble(stack, version)
        while len(tally.counted) < count and not tally.violations and len(tally.trials) < 2 * count:
            tally.trials += await _round(ensemble, len(tally.trials), rng)
            tell(tally)
    return tally


async def _ensemble(stack: AsyncExitStack, version: str) -> Ensemble:
    try:
        return await stack.enter_async_context(NetworkEnsemble(_SERVERS, version=version, tick_time=_TICK))
    except NetworkUnavailableError:
        return await stack.enter_async_context(Ensemble(_SERVERS, version=version, tick_time=_TICK))


async def _round(ensemble: Ensemble, number: int, rng: random.Random) -> list[Trial]:
    """A trial for each of some followers, all at once."""
    await ensemble.wait_serving(_PATIENT)
    leader = await ensemble.leader()
    followers = rng.sample(await ensemble.followers(), _AT_A_TIME)
    async with Client(leader.address, session_timeout=30.0, start_timeout=_PATIENT) as observer:
        trials = [
            _RealTrial(ensemble, follower, observer, number + at, random.Random(f"{rng.random()}/{at}"))
            for at, follower in enumerate(followers)
        ]
        return list(await asyncio.gather(*(trial.run() for trial in trials)))


class _RealTrial:
    """One holder behind one follower, and what happens to that."""

    def __init__(self, ensemble: Ensemble, follower: Server, observer: Client, number: int, rng: random.Random) -> None:
        self._ensemble, self._follower, self._observer, self._rng = ensemble, follower, observer, rng
        self._name = str(number)
        self._node = f"{NODE}-{number}"

    async def run(self) -> Trial:
        """All of it; after it the follower is as it was."""
        async with AsyncExitStack() as stack:
            client = Client(self._follower.address, session_timeout=_TIMEOUT, start_timeout=_PATIENT, close_timeout=0.1)
            await stack.enter_async_context(client)
            await client.create(self._node, ephemeral=True)
            client.hold_lease()
            async with asyncio.timeout(_PATIENT):
                await client.wait_lease()
            ends = Ends(client)
            for doing in (work(client, self._rng), _look(ends)):
                stack.push_async_callback(_end, asyncio.create_task(doing))
            await asyncio.sleep(self._rng.uniform(0.0, 2 * _TIMEOUT))
            stack.push_async_callback(self._repair)
            misfortune = await self._misfortune()
            gone = await self._until_gone()
            await asyncio.sleep(0.5)  # whether it believes even then
            end = gone or 0.0
            return Trial(self._name, misfortune, ends.lease - end, ends.naive - end, gone is not None)

    async def _misfortune(self) -> str:
        if isinstance(self._ensemble, NetworkEnsemble) and self._rng.random() < 0.5:
            await self._ensemble.link_down(self._follower, "peers")
            return "follower cut from its leader"
        self._follower.pause()
        return "follower frozen"

    async def _repair(self) -> None:
        self._follower.resume()
        if isinstance(self._ensemble, NetworkEnsemble):
            await self._ensemble.link_up(self._follower, "peers")

    async def _until_gone(self) -> float | None:
        """When the leader was first heard to say that the node is gone."""
        until = _now() + _LONGEST
        while _now() < until:
            with contextlib.suppress(EverlatchError):
                if await self._observer.exists(self._node, timeout=1.0) is None:
                    return _now()
            await asyncio.sleep(_LOOK)
        return None


async def _look(ends: Ends) -> None:
    while True:
        ends.look()
        await asyncio.sleep(_LOOK)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
