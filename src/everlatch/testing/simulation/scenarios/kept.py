"""P6: kept nodes. Each is there again in every new session, before what waits is sent; there is one at most, with the
data of the last update; nobody else's node is touched.

How it is known: the servers' log is replayed, change by change, and every node knows by the data that it was made with
whose it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch.devserver.tree import Create, Delete, SetData
from everlatch.errors import (
    NoNodeError,
    ServerError,
    TransactionFailedError,
)
from everlatch.testing.simulation.faults import EVERY_KIND, HostCutOff
from everlatch.testing.simulation.scenarios.stage import LOST, SOON, CommitLog, Stage, expect, make
from everlatch.types import State

if TYPE_CHECKING:
    from random import Random

    from everlatch import Keeper, Presence
    from everlatch.client import Client
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World
    from everlatch.types import StateChange

__all__ = ["kept"]

_SERVICES: Final = "/services"
_MEMBERS: Final = "/members"
_TREE: Final = "/tree"
_QUIET: Final = "/quiet"
"""Nobody meddles with what is below."""
_HOSTS: Final = 2
_LOSSES: Final = 6.0
"""How often hosts are cut off, compared to what is usual: sessions have to be lost."""
_LONGEST_PAUSE: Final = 10.0
"""Seconds until what was refused is tried again."""
_FOREIGN: Final = b"foreign"
_FOREIGN_VERSION: Final = 100
"""So many writes has a foreign node seen before anybody sees it. ZooKeeper checks versions, not owners: one of the
same version as the node that it takes the place of could be hit by a write that is on its way."""


class _Kept:
    """One keeper, and what it has told."""

    def __init__(self, name: str, keeper: Keeper) -> None:
        self.name, self.keeper = name, keeper
        self.told: list[Presence] = []
        self.updates = 0
        keeper.add_listener(self.told.append)

    def next_data(self) -> bytes:
        """Of the next update."""
        self.updates += 1
        return self.data

    @property
    def data(self) -> bytes:
        """Of the last one."""
        return _data(self.name, self.updates)


def _data(name: str, number: int) -> bytes:
    return f"{name} {number}".encode()


class _Process:
    """One life of an application: keeps nodes, updates them, and calls while it is disconnected."""

    def __init__(self, stage: Stage, host: Host, name: str, rng: Random) -> None:
        self._stage, self._host, self._name, self._rng = stage, host, name, rng
        self.nodes: list[_Kept] = []
        self.client: Client
        self.is_calm = self.is_ready = False
        self.stopped = asyncio.Event()
        self.looked = 0
        self._looks: set[asyncio.Future[Any]] = set()

    async def live(self) -> None:
        """Until it is stopped, and its keepers have been looked at."""
        is_exactly_once = self._stage.world.random(f"receipts {self._name}").random() < 0.3
        client = self._stage.client(self._host, exactly_once=is_exactly_once)
        async with client, contextlib.AsyncExitStack() as stack:
            self.client = client
            quiet = await self._keep(stack, client, "quiet", f"{_QUIET}/{self._name}", make_parents=True)
            await self._keep(stack, client, "named", f"{_SERVICES}/{self._host.name}")
            await self._keep(stack, client, "numbered", f"{_MEMBERS}/n-", sequential=True)
            await self._keep(stack, client, "deep", f"{_TREE}/{self._host.name}/node", make_parents=True)
            await quiet.keeper.wait(timeout=None)
            client.add_listener(lambda change: self._told(client, quiet, change))
            while not self.stopped.is_set():
                for node in self.nodes:
                    if self._rng.random() < 0.3 and not self.is_calm:
                        await self._update(node)
                await asyncio.sleep(self._rng.expovariate(1.0))
            await self._settle(client)

    async def _keep(
        self, stack: contextlib.AsyncExitStack, client: Client, kind: str, path: str, **options: Any
    ) -> _Kept:
        name = f"{kind}-{self._name}"
        keeper = await stack.enter_async_context(client.keep(path, _data(name, 0), **options))
        node = _Kept(name, keeper)
        self.nodes.append(node)
        return node

    async def _update(self, node: _Kept) -> None:
        with contextlib.suppress(ServerError, TimeoutError):
            await node.keeper.update(node.next_data(), timeout=self._rng.choice([0.01, 0.3, 2.0]))

    async def _settle(self, client: Client) -> None:
        """After the last heal, and the last of who meddles."""
        async with asyncio.timeout(SOON):
            for node in self.nodes[1:]:  # the quiet one has to have its data by now
                data = node.next_data()
                while True:
                    try:
                        await node.keeper.update(data, timeout=None)
                        break
                    except ServerError:
                        continue
        self.is_ready = True
        await self._stage.world.until(lambda: not self.is_ready, timeout=2 * SOON)

    def _told(self, client: Client, quiet: _Kept, change: StateChange) -> None:
        """What is called while the link is lost finds the node, in whatever session it is sent."""
        if change.state in (State.SUSPENDED, State.LOST) and client.state in (State.SUSPENDED, State.LOST):
            look = client.exists(f"{_QUIET}/{self._name}", timeout=None)
            self._looks.add(look)
            look.add_done_callback(self._seen)

    def _seen(self, look: asyncio.Future[Any]) -> None:
        self._looks.discard(look)
        if not look.cancelled() and look.exception() is None:
            self.looked += 1
            self._stage.note_unless(
                look.result() is not None, f"quiet-{self._name} was not there for a call that waited"
            )


class _Meddler:
    """Somebody who deletes, overwrites and replaces what others keep."""

    def __init__(self, stage: Stage, host: Host, rng: Random) -> None:
        self._stage, self._host, self._rng = stage, host, rng
        self.stopped = self.has_tidied_up = False
        self.removed: set[bytes] = set()
        """Data of own nodes that it has begun to remove."""
        self._made = 0

    async def live(self) -> None:
        """Until it is stopped."""
        async with self._stage.client(self._host) as client:
            for path in (_SERVICES, _MEMBERS, _TREE):
                await make(client, path)
            while not self.stopped:
                with contextlib.suppress(ServerError, TransactionFailedError, *LOST):
                    await self._rng.choice([self._delete, self._overwrite, self._take, self._fell])(client)
                await asyncio.sleep(self._rng.expovariate(1.5))
            for number in range(_HOSTS):
                await self._remove(client, f"{_SERVICES}/app{number}")
            self.has_tidied_up = True
            await self._stage.world.until(lambda: not self.has_tidied_up, timeout=10 * SOON)

    async def _one(self, client: Client) -> str:
        parent = self._rng.choice([_SERVICES, _MEMBERS])
        names = sorted(await client.children(parent))
        return f"{parent}/{self._rng.choice(names)}" if names else f"{parent}/none"

    async def _delete(self, client: Client) -> None:
        path = await self._one(client)
        data, stat = await client.get(path)
        if not data.startswith(_FOREIGN):
            await client.delete(path, version=stat.version)

    async def _overwrite(self, client: Client) -> None:
        path = await self._one(client)
        data, stat = await client.get(path)
        if not data.startswith(_FOREIGN):
            await client.set(path, b"meddled", version=stat.version)

    async def _fell(self, client: Client) -> None:
        await client.delete_tree(f"{_TREE}/app{self._rng.randrange(_HOSTS)}", missing_ok=True, timeout=1.0)

    async def _take(self, client: Client) -> None:
        """The place of a named one, for a while."""
        self._made += 1
        path, data = f"{_SERVICES}/app{self._rng.randrange(_HOSTS)}", _FOREIGN + b" %d" % self._made
        await self._remove(client, path)
        take = client.transaction()
        stat = await client.exists(path)
        if stat is not None:
            take.delete(path, version=stat.version)
        take.create(path, data, ephemeral=self._rng.random() < 0.7)
        for _ in range(_FOREIGN_VERSION):
            take.set(path, data)
        with contextlib.suppress(TransactionFailedError, *LOST):
            await take.commit()
        await asyncio.sleep(self._rng.uniform(0.1, 4.0))
        await self._remove(client, path)

    async def _remove(self, client: Client, path: str) -> None:
        """If it is a foreign one."""
        while True:
            try:
                data, stat = await client.get(path)
                if not data.startswith(_FOREIGN):
                    return
                self.removed.add(data)
                await client.delete(path, version=stat.version)
            except NoNodeError:
                return
            except (ServerError, *LOST):
                continue


class _Node(NamedTuple):
    made_with: bytes
    owner: int
    data: bytes

    @property
    def keeper(self) -> str:
        """Whose it is; empty: nobody's who keeps."""
        kind, _, rest = self.made_with.decode().partition("-")
        return self.made_with.decode().split(" ")[0] if rest and kind in ("quiet", "named", "numbered", "deep") else ""


def _judge_log(log: CommitLog, meddler: _Meddler) -> dict[int, tuple[str, int]]:
    """Change by change. Returns what was created when."""
    nodes: dict[str, _Node] = {}
    created: dict[int, tuple[str, int]] = {}
    for entry in log.in_order():
        ended = entry.session.id if entry.session is not None and not entry.session.timeout_ms else 0
        for change in entry.transaction.changes:
            node = nodes.get(change.path)
            if isinstance(change, Create):
                nodes[change.path] = _Node(change.data or b"", change.owner, change.data or b"")
                created[entry.zxid] = change.path, change.owner
            elif isinstance(change, Delete) and node is not None:
                is_foreign = node.made_with.startswith(_FOREIGN)
                is_allowed = node.made_with in meddler.removed or (ended and node.owner == ended)
                expect(not is_foreign or is_allowed, f"{change.path}, {node.made_with!r}, was deleted by a keeper")
                del nodes[change.path]
            elif isinstance(change, SetData) and node is not None:
                is_foreign = node.made_with.startswith(_FOREIGN)
                is_own = change.data in (node.made_with, b"meddled")
                expect(not is_foreign or is_own, f"{change.path}, {node.made_with!r}, was overwritten: {change.data!r}")
                nodes[change.path] = node._replace(data=change.data or b"")
        keepers = [node.keeper for node in nodes.values() if node.keeper]
        expect(len(keepers) == len(set(keepers)), f"two nodes of one keeper at 0x{entry.zxid:x}: {sorted(keepers)}")
    return created


def _judge_told(process: _Process, created: dict[int, tuple[str, int]]) -> None:
    for node in process.nodes:
        for presence in node.told:
            if presence.present:
                path, owner = created.get(presence.czxid, ("", 0))
                expect(path == presence.path and owner, f"{node.name} told {presence}, created: {path!r}")


async def _judge_now(client: Client, process: _Process, *, data: bool) -> None:
    """Each is there, once, and (`data`, and of the quiet one) as it was last wanted."""
    await client.sync()
    for index, node in enumerate(process.nodes):
        keeper, session_id = node.keeper, process.client.session_id
        expect(keeper.is_present, f"{node.name} is not present: {keeper.presence}")
        stat = await client.exists(keeper.path)
        expect(stat and stat.ephemeral_owner == session_id, f"{node.name}, session {session_id}, is {stat}")
        if data or not index:
            found = (await client.get(keeper.path)).data
            expect(found == node.data, f"{node.name} has {found!r}, and {node.data!r} was wanted last")


def kept(world: World) -> None:
    """Nodes are kept by processes that are cut off, stand still and die, while somebody deletes, overwrites and
    replaces them; sessions are lost again and again."""
    log = CommitLog()
    stage = Stage.of(world, log)
    processes: list[_Process] = []
    living: dict[int, _Process] = {}
    meddling = world.host("meddler")
    meddler = _Meddler(stage, meddling, world.random("meddler"))
    witness = world.host("witness")

    def move_in(number: int) -> None:
        host = world.host(f"app{number}")

        async def live() -> None:
            life = len(processes)
            process = _Process(stage, host, f"{number}.{life}", world.random(f"app {number}.{life}"))
            processes.append(process)
            living[number] = process
            await process.live()

        host.main = live
        host.boot()

    async def judge(*, data: bool) -> None:
        async with stage.client(witness) as client, asyncio.timeout(SOON):
            for process in living.values():
                await _judge_now(client, process, data=data)

    async def main() -> None:
        for number in range(_HOSTS):
            move_in(number)
        meddling.main = meddler.live
        meddling.boot()
        await stage.faults(kinds=EVERY_KIND | {HostCutOff: _LOSSES})
        world.heal()
        for process in living.values():  # whatever becomes of its last updates, their data has to come
            process.is_calm = True
        await asyncio.sleep(3.0)
        meddler.stopped = True
        await world.until(lambda: meddler.has_tidied_up, timeout=SOON)
        await asyncio.sleep(2 * stage.session_timeout + _LONGEST_PAUSE)
        await witness.run(judge(data=False))
        for process in living.values():
            process.stopped.set()
        await world.until(lambda: all(process.is_ready for process in living.values()), timeout=2 * SOON)
        await witness.run(judge(data=True))
        world.counts["looked"] = sum(process.looked for process in processes)
        meddler.has_tidied_up = False
        for process in living.values():
            process.is_ready = False
        await asyncio.sleep(5.0)

    world.run(main())
    created = _judge_log(log, meddler)
    for process in processes:
        _judge_told(process, created)
    stage.judge()
