"""Elections in virtual time: members on hosts of their own, before an ensemble that can be cut, paused and frozen."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from everlatch.recipes import LeaderLatch
from everlatch.testing.simulation import simulation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from everlatch import Client
    from everlatch.testing.simulation import World
    from everlatch.types import StateChange

PATH = "/app/leader"
T = 6.0
TICK = 1.0


class Member:
    """A candidate on a host of its own, and what it was told, when."""

    def __init__(self, world: World, name: str, **options: Any) -> None:
        self.world, self.name = world, name
        self.host = world.host(name)
        self.client: Client = self.host.client(**({"session_timeout": T} | options))
        self.latch: LeaderLatch
        self.told: list[tuple[float, bool]] = []
        self.states: list[StateChange] = []
        self.looks = 0

    async def join(self, **options: Any) -> Member:
        """Starts the client and the latch; returns when there is a node."""
        await self.host.run(self._join(options))
        await self.world.until(lambda: self.latch.node)
        return self

    async def _join(self, options: dict[str, Any]) -> None:
        await self.client.start()
        self.client.add_listener(self.states.append)
        self.latch = LeaderLatch(self.client, PATH, self.name, **options)
        self.latch.add_listener(lambda leads: self.told.append((self.world.now, leads)))
        look = self.latch._look

        async def counted(session: Any) -> bool:
            self.looks += 1
            return await look(session)

        self.latch._look = counted  # type: ignore[method-assign]
        await self.latch.start()

    @property
    def leads(self) -> bool:
        """By its own clock; also of a process that is paused."""
        with self.host:
            return self.latch.is_leader

    @property
    def heard(self) -> list[bool]:
        return [leads for _, leads in self.told]

    async def until_leads(self, timeout: float = 60.0) -> int:
        await self.world.until(lambda: self.leads, timeout=timeout, every=0.001)
        return self.latch.token

    async def run(self, steps: Awaitable[Any]) -> Any:
        """Runs it on the member's host."""

        async def on_host() -> Any:
            return await steps

        return await self.host.run(on_host())

    async def leave(self) -> None:
        await self.run(self.latch.close())
        await self.run(self.client.close())


class Election:
    """A world with an ensemble, and members by name."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.members: list[Member] = []

    def member(self, name: str, **options: Any) -> Member:
        member = Member(self.world, name, **options)
        self.members.append(member)
        return member

    async def joined(self, *names: str, **options: Any) -> list[Member]:
        """Members in this order; the first leads."""
        members = [await self.member(name).join(**options) for name in names]
        if members:
            await members[0].until_leads()
        return members

    @contextlib.contextmanager
    def nobody_overlaps(self) -> Iterator[None]:
        """Fails if two members ever believe at the same time; they are asked very often."""
        overlaps: list[tuple[float, list[str]]] = []
        ended = False

        def ask() -> None:
            believing = [member.name for member in self.members if hasattr(member, "latch") and member.leads]
            if len(believing) > 1:
                overlaps.append((self.world.now, believing))
            if not ended:
                self.world.loop.schedule(self.world.loop.moment + 0.002, ask)

        ask()
        try:
            yield
        finally:
            ended = True
        assert overlaps == []

    async def leave(self) -> None:
        for member in self.members:
            if hasattr(member, "latch"):
                await member.leave()


def election(test: Callable[[Election], Awaitable[None]], *, servers: int = 3, seed: int = 11, **options: Any) -> None:
    """Runs `test(election)` outside of all hosts; afterwards everybody leaves, and nothing may be left."""

    async def main() -> None:
        this = Election(world)
        await world.until(world.leader if servers > 1 else lambda: True)
        await test(this)
        await this.leave()

    with simulation(seed) as world:
        settings = {"tick": TICK} | options
        if servers > 1:
            world.ensemble(servers, **settings)
        else:
            world.server(**settings)
        world.run(main())
