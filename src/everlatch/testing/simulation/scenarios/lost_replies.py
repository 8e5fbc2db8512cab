"""Replies that are lost when the server has done what it was asked for, again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from everlatch.testing.simulation.faults import Fault
from everlatch.testing.simulation.hosts import HostState

if TYPE_CHECKING:
    from random import Random

    from everlatch.testing.simulation.routes import Condition
    from everlatch.testing.simulation.streams import Stream
    from everlatch.testing.simulation.world import World

__all__ = ["RepliesLost"]

_SILENT: Final = (0.01, 0.01, 0.01, 0.5, 1.5)
"""Seconds, at the most, for which a server is not heard: as long as it takes to do what has reached it, or as long as
the client goes on asking without an answer."""
_LONGEST_ANSWER: Final = 600
"""Bytes, or so: the stream ends somewhere in the answers to a few writes."""


class RepliesLost(Fault):
    """A client's requests arrive and are done, their answers don't come, and then the connection breaks: a load
    balancer or a server that dies just then. The next connection breaks likewise, some milliseconds or a second after
    it was made, and so for a while: in the midst of whatever the client does first."""

    mean_duration = 1.5

    def __init__(self, *targets: str) -> None:
        super().__init__(*targets)
        self._is_over = False
        self._silence: Condition | None = None

    @classmethod
    def pick(cls, world: World, rng: Random) -> list[str] | None:
        """A client's host with a connection."""
        names = {stream.client.name for stream in world.network.connections}
        hosts = [name for name, host in world.hosts.items() if host.state is HostState.RUNNING and name in names]
        return [rng.choice(hosts)] if hosts else None

    def apply(self, world: World, rng: Random) -> None:
        """From now on."""
        self._strike(world, rng)

    def heal(self, world: World) -> None:
        """Never again."""
        self._is_over = True
        self._speak()

    def _strike(self, world: World, rng: Random) -> None:
        if self._is_over:
            return
        for stream in self._streams(world):
            way = rng.randrange(5)
            if way < 2:
                stream.truncate(stream.server.name, rng.randrange(_LONGEST_ANSWER))
            elif way == 2:
                stream.truncate(stream.client.name, rng.randrange(_LONGEST_ANSWER))
            else:
                self._lose(world, rng, stream)
        pause = rng.choice([rng.uniform(0.002, 0.02), rng.uniform(0.02, 0.3), rng.uniform(0.3, 1.5)])
        world.loop.schedule(world.loop.moment + pause, lambda: self._strike(world, rng))

    def _lose(self, world: World, rng: Random, stream: Stream) -> None:
        """All that the server says in the next moments, and then the connection."""
        if self._silence is None:
            self._silence = world.network.cut_one_way(stream.server.name, stream.client.name)

        def over() -> None:
            stream.reset()
            self._speak()

        world.loop.schedule(world.loop.moment + rng.uniform(0.0, rng.choice(_SILENT)), over)

    def _speak(self) -> None:
        if self._silence is not None:
            self._silence.heal()
            self._silence = None

    def _streams(self, world: World) -> list[Stream]:
        return [stream for stream in world.network.connections if stream.client.name == self.targets[0]]
