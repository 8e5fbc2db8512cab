"""Faults over time: at random, from the seed, each healed after a while, and all of them at the end.

Rules: what happens is decided when it happens, by the state that the world is in then (who leads, who runs), and is
written down; so the same seed makes the same faults, as long as all else is the same.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING

from everlatch.testing.simulation.faults import EVERY_KIND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from everlatch.testing.simulation.faults import Fault
    from everlatch.testing.simulation.world import World

__all__ = ["AppliedFault", "Faults"]

_LONGEST = 4.0
"""Durations are exponential, up to so many times the mean."""


class AppliedFault:
    """A fault, and when it was applied and healed, in virtual seconds."""

    def __init__(self, fault: Fault, at: float) -> None:
        self.fault, self.at = fault, at
        self.healed_at: float | None = None

    def __str__(self) -> str:
        until = "" if self.healed_at is None else f" to {self.healed_at:.3f}"
        return f"{self.at:.3f}{until}  {self.fault}"


class Faults:
    """The faults of a world.

    await world.faults.run(60.0)                            # a minute of everything
    await world.faults.run(60.0, {LinkCut: 1, ServerPauses: 3}, mean_interval=2.0)

    fault = world.faults.apply(LinkCut("app", "zk1"))       # by hand
    world.faults.heal(fault)
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.random("faults")
        self.applied: list[AppliedFault] = []
        """All so far."""
        self._open: dict[AppliedFault, None] = {}

    @property
    def count(self) -> int:
        """How many there have been."""
        return len(self.applied)

    @property
    def last_heal(self) -> float:
        """When a fault was last healed, in virtual seconds; 0: none was."""
        return max((each.healed_at for each in self.applied if each.healed_at is not None), default=0.0)

    def apply(self, fault: Fault) -> AppliedFault:
        """It happens now, until `heal`."""
        applied = AppliedFault(fault, self._world.now)
        self._world.note(f"fault: {fault}", "faults")
        self.applied.append(applied)
        fault.apply(self._world, self._rng)
        if fault.mean_duration == 0.0:
            applied.healed_at = self._world.now
        else:
            self._open[applied] = None
        return applied

    def heal(self, applied: AppliedFault) -> None:
        """It is over. Does nothing if it was already."""
        if applied in self._open:
            del self._open[applied]
            applied.healed_at = self._world.now
            self._world.note(f"healed: {applied.fault}", "faults")
            applied.fault.heal(self._world)

    def heal_all(self) -> None:
        """All are over, oldest first."""
        for applied in list(self._open):
            self.heal(applied)

    def apply_random(self, kinds: Mapping[type[Fault], float] | None = None) -> AppliedFault | None:
        """One of these kinds (with their weights; by default all), for which there is a target now."""
        left = dict(EVERY_KIND if kinds is None else kinds)
        while left:
            kind = self._rng.choices(list(left), list(left.values()))[0]
            fault = kind.choose(self._world, self._rng)
            if fault is not None:
                return self.apply(fault)
            del left[kind]
        return None

    async def run(
        self,
        seconds: float,
        kinds: Mapping[type[Fault], float] | None = None,
        *,
        mean_interval: float = 5.0,
        duration: float = 1.0,
    ) -> int:
        """Random faults for so many virtual seconds; then heals all that are open. Returns how many there were.

        `mean_interval`: seconds between two. `duration`: by what to multiply how long each kind lasts.
        """
        before = self.count
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(seconds, kinds, mean_interval, duration), context=contextvars.Context())
        task.set_name("faults")
        await task
        return self.count - before

    async def _run(
        self, seconds: float, kinds: Mapping[type[Fault], float] | None, mean_interval: float, duration: float
    ) -> None:
        loop = self._world.loop
        end = loop.moment + seconds
        heals: list[asyncio.TimerHandle] = []
        try:
            while True:
                pause = self._rng.expovariate(1 / mean_interval)
                if loop.moment + pause >= end:
                    await asyncio.sleep(end - loop.moment)
                    return
                await asyncio.sleep(pause)
                applied = self.apply_random(kinds)
                if applied is not None and applied.healed_at is None:
                    mean = applied.fault.mean_duration * duration
                    lasts = min(self._rng.expovariate(1 / mean), _LONGEST * mean)
                    heals.append(loop.call_later(lasts, self.heal, applied))
        finally:
            for timer in heals:
                timer.cancel()
            self.heal_all()
