"""P3: a write ends as happened, as certainly not applied, or as unknown; `exactly_once` never as unknown, while the
session lives, its receipts are left alone and the caller waits."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from everlatch.errors import EverlatchError
from everlatch.testing.simulation.faults import (
    EVERY_KIND,
    ConnectionEndsInTheMiddle,
    ConnectionsReset,
    FollowerCutFromLeader,
    FollowerLags,
    HostCutOff,
    LinkDelayed,
    LinkInPieces,
)
from everlatch.testing.simulation.scenarios.connected import LAST_HEAL_TO_USABLE
from everlatch.testing.simulation.scenarios.lost_replies import RepliesLost
from everlatch.testing.simulation.scenarios.stage import Stage, make
from everlatch.testing.simulation.scenarios.written import RECEIPTS, WriteLog, Writes
from everlatch.types import OPEN_ACL_UNSAFE

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from everlatch.client import Client
    from everlatch.testing.simulation.faults import Fault
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World

__all__ = ["QUEUES", "TOP", "Author", "count_outcomes", "meddle", "outcomes", "rob"]

TOP: Final = "/n"
"""Above all nodes that are written to."""
_NODES: Final = (f"{TOP}/a", f"{TOP}/b")
QUEUES: Final = (f"{TOP}/q", f"{TOP}/r")
"""With sequential nodes."""
_TIMEOUTS: Final = (0.05, 0.3, 2.0)
_ALL: Final[dict[type[Fault], float]] = {**EVERY_KIND, LinkInPieces: 0.2, RepliesLost: 15.0}
_LINKS: Final[dict[type[Fault], float]] = {
    RepliesLost: 10.0,
    ConnectionEndsInTheMiddle: 4.0,
    ConnectionsReset: 2.0,
    LinkDelayed: 1.0,
}
_LAGS: Final[dict[type[Fault], float]] = {
    RepliesLost: 8.0,
    FollowerLags: 8.0,
    FollowerCutFromLeader: 1.0,
    HostCutOff: 1.0,
}
_MOODS: Final = (_ALL, _ALL, _LINKS, _LAGS)
"""Everything; replies that are lost; replies that are lost, and servers that are behind."""
_TTL: Final = 3600.0
_LASTING: Final[tuple[dict[str, Any], ...]] = ({"container": True}, {"ttl": _TTL})


class Author:
    """Makes writes of every kind on a few nodes, and enters what it made. `rng` may be exchanged."""

    KINDS: Final = {"create": 4.0, "append": 4.0, "set": 4.0, "delete": 3.0, "set_acl": 1.0, "commit": 2.0}
    """Its methods, and how often each is chosen."""

    def __init__(self, client: Client, writes: Writes, rng: Random, *, name: str, exactly_once: bool) -> None:
        self.client, self.writes = client, writes
        self.rng, self._name = rng, name
        self._exactly_once = exactly_once

    def write(self, kind: str = "") -> None:
        """One of that kind, or of any."""
        rng = self.rng
        getattr(self, kind or rng.choices(list(self.KINDS), list(self.KINDS.values()))[0])()
        if not kind and self.writes.made and rng.random() < 0.05:
            write = self.writes.made[-1]
            write.is_patient = False
            asyncio.get_running_loop().call_later(rng.choice([0.0, 0.001, 0.1]), write.call.cancel)

    def create(self) -> None:
        """A node with a name: of any kind, perhaps a protected one."""
        rng, path = self.rng, self.rng.choice(_NODES)
        options: dict[str, Any] = rng.choice([{}, {}, {"ephemeral": True}, {"ephemeral": True}, *_LASTING])
        mode = self._mode("idempotent", "protect")
        self._enter(f"create {path} {options}", mode, lambda **more: self._create(path, {**options, **more}))

    def append(self) -> None:
        """A node with a number."""
        rng, path = self.rng, f"{self.rng.choice(QUEUES)}/n-"
        options: dict[str, Any] = rng.choice([{}, {}, {"ephemeral": True}, {"ephemeral": True}, {"ttl": _TTL}])
        options = {"sequential": True, **options}
        mode = self._mode("protect")
        self._enter(f"create {path} {options}", mode, lambda **more: self._create(path, {**options, **more}))

    def _create(self, path: str, options: dict[str, Any]) -> Any:
        return self.client.create(path, self._data(), **options)

    def set(self) -> None:
        """New data."""
        path = self.rng.choice(_NODES)
        version = self.rng.choice([-1, -1, -1, 0, 1, 2])
        mode = self._mode(*(["idempotent"] if version < 0 else []))
        call: Callable[..., Any] = self.client.set
        self._enter(f"set {path} {version}", mode, lambda **more: call(path, self._data(), version=version, **more))

    def delete(self) -> None:
        """Of any of them."""
        path = self.rng.choice([*_NODES, *_NODES, self.rng.choice(QUEUES)])
        version = self.rng.choice([-1, -1, -1, 0, 1])
        mode = self._mode(*(["idempotent"] if version < 0 else []))
        call: Callable[..., Any] = self.client.delete
        self._enter(f"delete {path} {version}", mode, lambda **more: call(path, version=version, **more))

    def set_acl(self) -> None:
        """Which no transaction can carry, so that there is no receipt for it."""
        path = self.rng.choice(_NODES)
        version = self.rng.choice([-1, -1, 0, 1])
        mode = self.rng.choice(["plain", "idempotent"]) if version < 0 else "plain"

        def call(**more: Any) -> Any:
            return self.client.set_acl(path, OPEN_ACL_UNSAFE, version=version, **more)

        self._enter(f"set_acl {path} {version}", mode, call)

    def commit(self) -> None:
        """A transaction of a few parts."""
        rng, what = self.rng, []
        pending: list[tuple[str, Any]] = []
        transaction = self.client.transaction()
        for kind in rng.choices(["create", "append", "set", "delete", "check"], k=rng.choice([1, 2, 2, 3])):
            path = rng.choice(_NODES)
            if kind == "create":
                pending.append(("create", transaction.create(path, self._data(), ephemeral=rng.random() < 0.5)))
            elif kind == "append":
                path = f"{rng.choice(QUEUES)}/n-"
                made = transaction.create(path, self._data(), sequential=True, ephemeral=rng.random() < 0.5)
                pending.append(("create", made))
            elif kind == "set":
                pending.append(("set", transaction.set(path, self._data(), version=rng.choice([-1, -1, 0]))))
            elif kind == "delete":
                transaction.delete(path, version=rng.choice([-1, -1, 0]))
            else:
                transaction.check(path, rng.choice([-1, -1, 0]))
            what.append(f"{kind} {path}")
        if all(each.startswith("check") for each in what):
            return
        mode = "exactly once" if self._exactly_once else "plain"
        self._enter(f"transaction {what}", mode, lambda **more: transaction.commit(**more), pending)

    def _mode(self, *others: str) -> str:
        if self._exactly_once:
            return "exactly once"
        return self.rng.choice(["plain", "plain", *others])

    def _data(self) -> bytes:
        return f"{self._name}.{len(self.writes.made)}".encode()

    def _enter(self, what: str, mode: str, make: Callable[..., Any], pending: Any = ()) -> None:
        timeout = self.rng.choice(_TIMEOUTS) if self.rng.random() < 0.1 else None
        options: dict[str, Any] = {mode: True} if mode in ("idempotent", "protect") else {}
        call = make(timeout=timeout, **options)
        self.writes.enter(what, mode, call, is_patient=timeout is None, pending=pending)


class _Writer:
    """One process with an author; after a crash another one."""

    def __init__(self, stage: Stage, host: Host, rng: Random, log: WriteLog, *, name: str, exactly_once: bool) -> None:
        self._stage, self._host, self._rng, self._log = stage, host, rng, log
        self._name, self._exactly_once = name, exactly_once
        self.writes: Writes | None = None
        self.stopped = False

    async def live(self) -> None:
        """Until it is stopped."""
        rng = self._rng
        options = {"exactly_once": True, "receipts": rng.choice([1, 4, 64])} if self._exactly_once else {}
        async with self._stage.client(self._host, **options) as client:
            self.writes = Writes(client, self._log)
            author = Author(client, self.writes, rng, name=self._name, exactly_once=self._exactly_once)
            await make(client, TOP)
            while not self.stopped:
                for queue in QUEUES:
                    self._ensure(client, queue)
                for _ in range(rng.choice([1, 2, 5, 12, 20])):
                    author.write()
                    if rng.random() < 0.2:
                        self._read(client)
                await asyncio.sleep(rng.expovariate(5.0))
            for write in self.writes.made:
                with contextlib.suppress(EverlatchError, asyncio.CancelledError):
                    await write.call

    def _ensure(self, client: Client, queue: str) -> None:
        assert self.writes is not None
        if self._rng.random() < 0.2:
            mode = "exactly once" if self._exactly_once else "plain"
            self.writes.enter(f"create {queue}", mode, client.create(queue, timeout=None))

    def _read(self, client: Client) -> None:
        """Reads that stand between the writes."""
        client.exists(self._rng.choice(_NODES), timeout=None).add_done_callback(_heard)


async def meddle(client: Client, rng: Random) -> None:
    """One change to a node that others write to: above all those that leave it looking as it was (ABA)."""
    path = rng.choice(_NODES)
    way = rng.randrange(6)
    if way == 0:
        await client.create(path, b"meddled")
    elif way == 1:
        await client.set(path, b"meddled")
    elif way == 2:
        await client.delete(path)
    elif way == 3:
        await client.delete(path)
        await client.create(path, b"meddled", ephemeral=rng.random() < 0.5)
    elif way == 4:
        await client.set_acl(path, OPEN_ACL_UNSAFE)
    else:
        queue = rng.choice(QUEUES)
        for name in rng.sample(names := await client.children(queue), min(len(names), rng.choice([1, 3, 100]))):
            await client.delete(f"{queue}/{name}")


async def rob(client: Client, rng: Random) -> None:
    """A receipt is deleted, or written to."""
    names = await client.children(RECEIPTS)
    for name in rng.sample(names, min(len(names), rng.choice([1, 3]))):
        if rng.random() < 0.5:
            await client.delete(f"{RECEIPTS}/{name}")
        else:
            await client.set(f"{RECEIPTS}/{name}", b"robbed")


def count_outcomes(world: World, writes: Writes) -> None:
    """How the writes ended whose connection was lost before, by mode."""
    for write in writes.made:
        if write.was_in_doubt:
            world.counts[f"{write.mode}: {write.end}"] += 1


def outcomes(world: World) -> None:
    """Clients write in all modes, others meddle with their nodes, replies are lost again and again: what each call says
    is what the servers have done."""
    log = WriteLog()
    setup = world.random("outcomes")
    stage = Stage.of(world, log, version=setup.choice(["3.9", "3.9", "3.8", "3.5"]))
    mood = setup.choice(_MOODS)
    is_robbed = setup.random() < 0.25
    lives: list[_Writer] = []
    living: dict[int, _Writer] = {}
    over = False

    def move_in(number: int, *, exactly_once: bool) -> None:
        host = world.host(f"app{number}")

        async def live() -> None:
            name = f"{number}-{len(lives)}"
            rng = world.random(f"writer {name}")
            writer = living[number] = _Writer(stage, host, rng, log, name=name, exactly_once=exactly_once)
            lives.append(writer)
            await writer.live()

        host.main = live
        host.boot()

    async def disturb(client: Client, rng: Random) -> None:
        while not over:
            with contextlib.suppress(EverlatchError):
                await (rob if is_robbed and rng.random() < 0.3 else meddle)(client, rng)
            await asyncio.sleep(rng.expovariate(4.0))

    meddler = world.host("meddler")

    async def interfere() -> None:
        async with stage.client(meddler) as client:
            await disturb(client, world.random("meddler"))

    async def main() -> None:
        nonlocal over
        move_in(1, exactly_once=False)
        move_in(2, exactly_once=True)
        task = meddler.create_task(interfere())
        await stage.faults(8.0, 16.0, mood)
        world.heal()
        await asyncio.sleep(1.0)
        over = True
        for writer in living.values():
            writer.stopped = True
        async with asyncio.timeout(60.0):
            await task
        await asyncio.sleep(LAST_HEAL_TO_USABLE)

    world.run(main())
    for writer in lives:
        if writer.writes is not None:
            count_outcomes(world, writer.writes)
            writer.writes.judge(never_unknown=not is_robbed)


def _heard(read: Any) -> None:
    """Whatever it was."""
    if not read.cancelled():
        read.exception()
