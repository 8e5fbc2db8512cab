"""What clients do every day, under random faults: reads and writes, watches, ephemeral nodes.

Rules: minutes of faults, sessions of the usual length, servers that stand alone as often as not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from everlatch.errors import NodeExistsError, SessionExpiredError
from everlatch.testing.simulation.scenarios.stage import LOST, SOON, PromiseBrokenError, expect, make
from everlatch.types import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.client import Client
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World
    from everlatch.types import WatchEvent

__all__ = ["reads_and_writes", "sessions", "watches"]

_SESSION: Final = 10.0
_PATIENT: Final = 3600.0
"""A client that begins while everything fails keeps trying."""


def _servers(world: World) -> None:
    """One server, or three."""
    if world.random("servers").random() < 0.5:
        world.server()
    else:
        world.ensemble(3)


def _client(host: Host) -> Client:
    return host.client(session_timeout=_SESSION, start_timeout=_PATIENT, close_timeout=SOON)


async def _faults(world: World) -> None:
    rng = world.random("scenario")
    await world.faults.run(rng.uniform(60.0, 180.0), mean_interval=rng.choice([2.0, 5.0, 10.0]))


# -- reads and writes


class _Writer:
    """One client that counts in a node of its own."""

    def __init__(self, host: Host) -> None:
        self.host, self.path = host, f"/{host.name}"
        self.acknowledged = self.unknown = 0
        self.stopped = False

    async def work(self) -> None:
        """Writes and reads until it is stopped; then the node has to tell the truth."""
        async with _client(self.host) as client:
            await make(client, self.path)
            seen = 0
            while not self.stopped:
                await self._write(client)
                version = (await client.get(self.path)).stat.version
                expect(version >= seen, f"{self.path}: version {version} was read after {seen}")
                seen = version
                await asyncio.sleep(0.1)
            await client.sync(self.path)
            version = (await client.get(self.path)).stat.version
        expect(
            self.acknowledged <= version <= self.acknowledged + self.unknown,
            f"{self.path}: version {version} after {self.acknowledged} writes and {self.unknown} of unknown outcome",
        )

    async def _write(self, client: Client) -> None:
        try:
            await client.set(self.path, b"x")
        except LOST as error:
            self.unknown += error.outcome is Outcome.UNKNOWN
        else:
            self.acknowledged += 1


def reads_and_writes(world: World) -> None:
    """Acknowledged writes happened once, unknown ones at most once, a client's reads never go back, and every call ends
    after the last heal."""
    _servers(world)
    writers = [_Writer(world.host(f"app{number}")) for number in range(1, 4)]

    async def main() -> None:
        tasks = [writer.host.create_task(writer.work()) for writer in writers]
        await _faults(world)
        for writer in writers:
            writer.stopped = True
        async with asyncio.timeout(SOON):
            await asyncio.gather(*tasks)

    world.run(main())


# -- watches


class _Watcher:
    """One client that follows a node by one-shot watches alone."""

    def __init__(self, host: Host, path: str) -> None:
        self.host, self.path = host, path
        self.seen = b""

    async def follow(self, last: bytes) -> None:
        """Until the node has that content."""
        async with _client(self.host) as client:
            await make(client, self.path)
            while self.seen != last:
                fired = asyncio.Event()

                def told(_: WatchEvent, fired: asyncio.Event = fired) -> None:
                    fired.set()

                self.seen = (await client.get(self.path, watch=told)).data
                if self.seen != last:
                    await fired.wait()


def watches(world: World) -> None:
    """A one-shot watch fires, whatever its connection and session went through: who follows a node by them alone sees
    its last content soon after the last heal."""
    _servers(world)
    writer = world.host("writer")
    watchers = [_Watcher(world.host(f"app{number}"), "/watched") for number in range(1, 4)]
    stopped = False

    async def write() -> None:
        async with _client(writer) as client:
            await make(client, "/watched")
            number = 0
            while not stopped:
                number += 1
                await _set(client, b"%d" % number)
                await asyncio.sleep(0.2)
            await _set(client, b"last")

    async def _set(client: Client, data: bytes) -> None:
        while True:
            try:
                await client.set("/watched", data)
            except LOST:
                continue
            return

    async def main() -> None:
        nonlocal stopped
        tasks = [watcher.host.create_task(watcher.follow(b"last")) for watcher in watchers]
        tasks.append(writer.create_task(write()))
        await _faults(world)
        stopped = True
        try:
            async with asyncio.timeout(SOON):
                await asyncio.gather(*tasks)
        except TimeoutError:
            behind = {watcher.host.name: watcher.seen for watcher in watchers if watcher.seen != b"last"}
            raise PromiseBrokenError(f"watchers that were not told of the last change: {behind}") from None

    world.run(main())


# -- sessions


def sessions(world: World) -> None:
    """Ephemeral nodes are those of live sessions: soon after the last heal there is one of every client that runs, and
    none of those that have died."""
    _servers(world)
    expected: dict[str, str] = {}
    stopped = False

    def member(name: str) -> Callable[[], object]:
        async def live() -> None:
            async with _client(world.hosts[name]) as client:
                await make(client, "/live")
                while not stopped:
                    await _keep(client, name, expected)
                    await asyncio.sleep(0.5)

        return live

    for number in range(1, 5):
        name = f"app{number}"
        world.host(name, member(name))  # type: ignore[arg-type]
    observer = world.host("observer")

    async def observe() -> None:
        async with _client(observer) as client:
            await make(client, "/live")
            await client.sync("/live")
            names = sorted(await client.children("/live"))
        expect(names == sorted(expected.values()), f"ephemeral nodes {names}, of live clients {expected}")

    async def main() -> None:
        nonlocal stopped
        await _faults(world)
        await asyncio.sleep(SOON)
        await observer.run(observe())
        stopped = True
        await asyncio.sleep(2.0)

    world.run(main())


async def _keep(client: Client, name: str, expected: dict[str, str]) -> None:
    """A node of the present session, named after it."""
    try:
        session = client.in_session()
    except SessionExpiredError:
        return  # the next round looks again
    node = f"{name}-{session.session_id:x}"
    try:
        if expected.get(name) != node or await session.exists(f"/live/{node}") is None:
            await session.create(f"/live/{node}", ephemeral=True)
            expected[name] = node
    except (SessionExpiredError, *LOST):
        pass
    except NodeExistsError:
        expected[name] = node
