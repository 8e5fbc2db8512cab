"""Many candidates: one resignation wakes one, and costs the same however many wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import pytest

from everlatch.recipes import LeaderLatch
from everlatch.testing.simulation import simulation

if TYPE_CHECKING:
    from everlatch import Client
    from everlatch.testing.simulation import World

PATH = "/crowd"
CLIENTS = 20
"""They share these: more candidates are more latches of each."""
HANDOVERS = 5


class Cost(NamedTuple):
    """Of one handover; the lease's commits and pings are none of it."""

    looks: int
    """Members that were woken, each counted as often as it looked."""
    requests: int
    events: int


class Crowd:
    """Candidates of one latch."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clients: list[Client] = []
        self.latches: list[LeaderLatch] = []
        self.looks = 0

    async def gather(self, candidates: int) -> None:
        for _ in range(CLIENTS):
            client = self.world.hosts["app"].client(session_timeout=30.0)
            await client.start()
            self.clients.append(client)
        await self.clients[0].ensure_path(PATH)
        for number in range(candidates):
            latch = LeaderLatch(self.clients[number % CLIENTS], PATH, str(number))
            self._count_looks(latch)
            await latch.start()
            self.latches.append(latch)
        await self.world.until(lambda: all(latch.node for latch in self.latches))
        self.latches.sort(key=lambda latch: latch.node[-10:])
        await self.world.until(lambda: self.latches[0].is_leader)
        await asyncio.sleep(1.0)

    def _count_looks(self, latch: LeaderLatch) -> None:
        look = latch._look

        async def counted(session: object) -> bool:
            self.looks += 1
            return await look(session)  # type: ignore[arg-type]

        latch._look = counted  # type: ignore[method-assign]

    async def resign(self) -> Cost:
        """The leader goes; what that costs until the next one leads."""
        leader, heir = self.latches.pop(0), self.latches[0]
        before = self._counts()
        await leader.close()
        await self.world.until(lambda: heir.is_leader, every=0.0005)
        for client in self.clients:  # what the server had to tell, it told before it answers this
            await client.exists("/")
        looks, requests, events = (new - old for new, old in zip(self._counts(), before, strict=True))
        assert [latch for latch in self.latches if latch.is_leader] == [heir]
        return Cost(looks, requests - CLIENTS, events)

    def _counts(self) -> tuple[int, int, int]:
        statistics = [client.statistics() for client in self.clients]
        return (
            self.looks,
            sum(each.requests_sent for each in statistics),
            sum(each.events_received for each in statistics),
        )

    async def disperse(self) -> None:
        for latch in self.latches:
            await latch.close()
        for client in self.clients:
            await client.close()


def costs(candidates: int) -> list[Cost]:
    """Of several handovers in a row."""

    async def main() -> list[Cost]:
        crowd = Crowd(world)
        await crowd.gather(candidates)
        found = [await crowd.resign() for _ in range(HANDOVERS)]
        await crowd.disperse()
        return found

    with simulation(4) as world:
        world.server()
        return world.run(main(), on=world.host("app"))


@pytest.fixture(scope="module")
def few() -> list[Cost]:
    return costs(10)


@pytest.mark.parametrize("candidates", [100, 500])
def test_a_handover_wakes_one_and_costs_what_it_costs_among_ten(few: list[Cost], candidates: int) -> None:
    many = costs(candidates)
    assert [cost.looks for cost in many] == [cost.looks for cost in few] == [1] * HANDOVERS
    # The node is deleted, and the next one looks at its own and at all names.
    assert [cost.requests for cost in many] == [cost.requests for cost in few] == [3] * HANDOVERS
    # Told are the leader that goes, of its own node's end, and the next in line; the two may share a client.
    assert {cost.events for cost in many} <= {1, 2}
