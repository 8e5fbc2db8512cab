"""Kept nodes in virtual time: an application that keeps them on one host, and somebody who looks and meddles on
another."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from typing import TYPE_CHECKING, Any

from everlatch import Presence, Stat, State
from everlatch.testing.simulation import simulation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from everlatch import Client, Keeper
    from everlatch.testing.simulation import Condition, World

T = 6.0
PATH = "/services/web"


class Scene:
    """One world; the test runs on the host `app`."""

    def __init__(self, world: World, **options: Any) -> None:
        self.world = world
        self.app, self._elsewhere = world.host("app"), world.host("elsewhere")
        self.client: Client = self.app.client(**({"session_timeout": T} | options))
        self._other: Client = self._elsewhere.client(session_timeout=T)

    async def other(self, act: Callable[[Client], Awaitable[Any]]) -> Any:
        """What the other client does."""

        async def there() -> Any:
            return await act(self._other)

        return await self._elsewhere.run(there())

    async def stat(self, path: str = PATH) -> Stat | None:
        """As the other client sees it."""
        found: Stat | None = await self.other(lambda client: client.exists(path))
        return found

    async def data(self, path: str = PATH) -> bytes:
        data: bytes = (await self.other(lambda client: client.get(path))).data
        return data

    async def names(self, path: str = "/services") -> list[str]:
        names: list[str] = await self.other(lambda client: client.children(path))
        return names

    async def until(self, condition: Callable[[], object], timeout: float = 60.0) -> None:
        await self.world.until(condition, timeout=timeout)

    async def lose_the_link(self) -> Condition:
        """Until it is healed."""
        for server in self.world.servers:
            self.world.network.reset("app", server.name)
        cut = self.world.network.isolate("app")
        await self.until(lambda: self.client.state is State.SUSPENDED)
        return cut

    async def lose_the_session(self) -> None:
        """Returns when there is another one."""
        generation = self.client.generation
        cut = await self.lose_the_link()
        await self.until(lambda: self.client.state is State.LOST)
        await asyncio.sleep(T)
        cut.heal()
        await self.until(lambda: self.client.generation > generation and self.client.state is State.CONNECTED)


class Heard:
    """What a keeper has told."""

    def __init__(self, keeper: Keeper) -> None:
        self.all: list[Presence] = [keeper.presence]
        keeper.add_listener(self.all.append)

    @property
    def last(self) -> Presence:
        return self.all[-1]

    @property
    def reasons(self) -> list[object]:
        return [presence.present or presence.reason for presence in self.all]


def scene(seed: int = 5, servers: int = 1, client: dict[str, Any] | None = None, **options: Any) -> Any:
    """Runs a test in such a world; both clients are started, and there is `/services`."""

    def of(test: Callable[[Scene], Awaitable[None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**arguments: Any) -> None:
            with simulation(seed) as world:
                settings = {"tick": 1.0} | options
                if servers > 1:
                    world.ensemble(servers, **settings)
                else:
                    world.server(**settings)
                this = Scene(world, **(client or {}))

                async def main() -> None:
                    await world.until(lambda: servers == 1 or world.leader())
                    await this.other(lambda other: other.start())
                    await this.other(lambda other: other.ensure_path("/services"))
                    await this.client.start()
                    await test(this, **arguments)
                    await this.client.close()
                    with contextlib.suppress(Exception):
                        await this.other(lambda other: other.close())

                world.run(main(), on=this.app)

        parameters = list(inspect.signature(test).parameters.values())[1:]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return of
