"""What `scripts/sim` runs: promises of the client under random faults, judged by what was seen.

Rules: a scenario is a function of a world and nothing else. It draws its choices from `world.random`, applies faults
for some minutes, and fails by raising. What it expects after the last heal has a minute to come about.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from everlatch.errors import (
    BadVersionError,
    EverlatchError,
    NodeExistsError,
    OutcomeUnknownError,
    SessionExpiredError,
)
from everlatch.recipes.leader_latch import LeaderLatch
from everlatch.testing.simulation.errors import SimulationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.client import Client
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World
    from everlatch.types import WatchEvent

__all__ = ["SCENARIOS", "PromiseBrokenError", "latch", "reads_and_writes", "sessions", "watches"]

_SOON: Final = 60.0
"""Seconds after the last heal."""
_SESSION: Final = 10.0
_PATIENT: Final = 3600.0
"""A client that begins while everything fails keeps trying."""


class PromiseBrokenError(SimulationError):
    """A scenario saw what must not be."""


def _servers(world: World) -> None:
    """One server, or three."""
    if world.random("servers").random() < 0.5:
        world.server()
    else:
        world.ensemble(3)


def _client(host: Host) -> Client:
    return host.client(session_timeout=_SESSION, start_timeout=_PATIENT, close_timeout=_SOON)


async def _faults(world: World) -> None:
    rng = world.random("scenario")
    await world.faults.run(rng.uniform(60.0, 180.0), mean_interval=rng.choice([2.0, 5.0, 10.0]))


async def _make(client: Client, path: str, data: bytes = b"") -> None:
    """There is a node, whatever happens meanwhile."""
    while True:
        try:
            await client.create(path, data)
        except NodeExistsError:
            return
        except OutcomeUnknownError:
            continue
        return


def _expect(truth: object, what: str) -> None:
    if not truth:
        raise PromiseBrokenError(what)


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
            await _make(client, self.path)
            seen = 0
            while not self.stopped:
                await self._write(client)
                version = (await client.get(self.path)).stat.version
                _expect(version >= seen, f"{self.path}: version {version} was read after {seen}")
                seen = version
                await asyncio.sleep(0.1)
            await client.sync(self.path)
            version = (await client.get(self.path)).stat.version
        _expect(
            self.acknowledged <= version <= self.acknowledged + self.unknown,
            f"{self.path}: version {version} after {self.acknowledged} writes and {self.unknown} of unknown outcome",
        )

    async def _write(self, client: Client) -> None:
        try:
            await client.set(self.path, b"x")
        except OutcomeUnknownError:
            self.unknown += 1
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
        async with asyncio.timeout(_SOON):
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
            await _make(client, self.path)
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
            await _make(client, "/watched")
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
            except OutcomeUnknownError:
                continue
            return

    async def main() -> None:
        nonlocal stopped
        tasks = [watcher.host.create_task(watcher.follow(b"last")) for watcher in watchers]
        tasks.append(writer.create_task(write()))
        await _faults(world)
        stopped = True
        try:
            async with asyncio.timeout(_SOON):
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
                await _make(client, "/live")
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
            await _make(client, "/live")
            await client.sync("/live")
            names = sorted(await client.children("/live"))
        _expect(names == sorted(expected.values()), f"ephemeral nodes {names}, of live clients {expected}")

    async def main() -> None:
        nonlocal stopped
        await _faults(world)
        await asyncio.sleep(_SOON)
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
    except (SessionExpiredError, OutcomeUnknownError):
        pass
    except NodeExistsError:
        expected[name] = node


# -- the latch


class _Ledger:
    """Who wrote what as a leader, as far as the servers took it."""

    def __init__(self) -> None:
        self.owners: dict[int, str] = {}
        self.leaders: dict[str, LeaderLatch] = {}

    def enter(self, token: int, owner: str) -> None:
        """A fenced write was taken."""
        known = self.owners.setdefault(token, owner)
        _expect(known == owner, f"token {token} was {known}'s, and then {owner}'s")


async def _lead(client: Client, latch: LeaderLatch, ledger: _Ledger, name: str) -> None:
    """Writes as leader, fenced by the token: nothing behind a larger one."""
    token = await latch.wait()
    while latch.is_leader:
        data, stat = await client.get("/ledger")
        if int(data or b"0") > token:
            return
        try:
            await client.set("/ledger", b"%d" % token, version=stat.version)
            ledger.enter(token, name)
        except (BadVersionError, OutcomeUnknownError):
            pass  # somebody else wrote, or we can't know
        await asyncio.sleep(0.1)


def latch(world: World) -> None:
    """Of all members one leads, soon after the last heal; tokens only grow, and each is one member's. With one server,
    never two lead at one moment, whatever fails; with several that is said of fenced writes only (see the latch)."""
    _servers(world)
    alone = len(world.servers) == 1
    ledger = _Ledger()
    stopped = False

    def member(name: str) -> Callable[[], object]:
        async def live() -> None:
            async with _client(world.hosts[name]) as client:
                await _make(client, "/ledger")
                async with LeaderLatch(client, "/latch", name) as latch:
                    ledger.leaders[name] = latch
                    while not stopped:
                        try:
                            async with asyncio.timeout(1.0):
                                await _lead(client, latch, ledger, name)
                        except (TimeoutError, EverlatchError):
                            await asyncio.sleep(0.1)

        return live

    names = [f"app{number}" for number in range(1, 4)]
    for name in names:
        world.host(name, member(name))  # type: ignore[arg-type]

    def leading() -> list[str]:
        return [name for name in names if _leads(world.hosts[name], ledger)]

    async def judge() -> None:
        while not stopped:
            _expect(not alone or len(leading()) < 2, f"{leading()} lead at one moment")
            await asyncio.sleep(0.02)

    async def main() -> None:
        nonlocal stopped
        judging = asyncio.create_task(judge())
        await _faults(world)
        await asyncio.sleep(_SOON)
        _expect(len(leading()) == 1, f"{leading()} lead {_SOON:g} s after the last heal")
        stopped = True
        await judging
        await asyncio.sleep(10.0)

    world.run(main())
    _expect(ledger.owners, "nobody ever led")


def _leads(host: Host, ledger: _Ledger) -> bool:
    """By the member's own clock."""
    if host.process is None or host.name not in ledger.leaders:
        return False
    with host:
        return ledger.leaders[host.name].is_leader


SCENARIOS: Final[dict[str, Callable[[World], None]]] = {
    "reads-and-writes": reads_and_writes,
    "watches": watches,
    "sessions": sessions,
    "latch": latch,
}
"""By the names that `scripts/sim --name` takes."""
