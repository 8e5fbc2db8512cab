"""P7: of all members of a latch one leads, never two at a time; tokens grow; who is stale can't write; and soon after
all is well there is a leader.

`one_leader` has some members and all faults. `leadership` is the torture of it: twelve candidates, clocks that go wrong
by as much as the lease allows, processes that stand still for longer than their sessions live.

How it is known: whether members believe is looked at whenever one begins to, and all the time. It is asked on each
member's host, by its clock, also while its process stands still: it would believe the same when it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.devserver.tree import SetData
from everlatch.errors import (
    CallTimeoutError,
    EverlatchError,
    NotLeaderError,
    SessionExpiredError,
    StaleLeaderError,
    TransactionFailedError,
)
from everlatch.recipes.leader_latch import LeaderLatch
from everlatch.testing.simulation.faults import (
    EVERY_KIND,
    ClientPauses,
    ClockDrifts,
    Fault,
    FollowerCutFromLeader,
    ServerPauses,
)
from everlatch.testing.simulation.scenarios.stage import LOST, SOON, Stage, expect, make
from everlatch.types import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from everlatch import Transaction
    from everlatch.client import Client
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World

__all__ = ["leadership", "one_leader"]

_LATCH: Final = "/latch"
_FENCE: Final = "/fence"
_LOOK: Final = 0.02
"""Seconds between two looks at what everybody believes."""
_CANDIDATES: Final = 12
_LONG_PAUSE: Final = 3.0
"""By what to multiply how long clients' processes stand still."""
_DRIFT: Final = 0.0099
"""Of each clock, to both sides: together what the lease allows for, 2 %."""


class _LongPauses(ClientPauses):
    """A client's process stands still for longer than a session lives: a debugger, a suspended laptop, a full disk."""

    mean_duration = ClientPauses.mean_duration * _LONG_PAUSE


_CRUEL: Final[dict[type[Fault], float]] = {_LongPauses: 4.0, FollowerCutFromLeader: 6.0, ServerPauses: 5.0}
"""What leases end by, more often than usual."""


class _Grant(NamedTuple):
    """A member has begun to lead."""

    name: str
    token: int
    committed: int
    """The last zxid that any server had committed by then."""


class _Election:
    """The members, and what they have done."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.hosts: list[Host] = []
        """The members'."""
        self.latches: dict[str, LeaderLatch] = {}
        self.clients: dict[str, Client] = {}
        self.grants: list[_Grant] = []
        self.fenced = self.refused = 0
        """Writes that were taken, and that were not."""
        self.broken = ""
        """What a member has seen that must not be."""
        self.stopped = False

    # -- what is believed

    def leading(self) -> list[str]:
        """Who does, at this moment, each by his own clock."""
        return [host.name for host in self.hosts if self._leads(host)]

    def _leads(self, host: Host) -> bool:
        latch = self.latches.get(host.name)
        if host.process is None or latch is None:
            return False
        with host:
            return latch.is_leader

    def look(self) -> None:
        """Whether it is one at most."""
        leading = self.leading()
        if len(leading) > 1:
            nodes = [(name, self.latches[name].node) for name in leading]
            self._break(f"at {self.stage.world.now:.3f} s these believe to lead, with their nodes: {nodes}")

    async def watch(self) -> None:
        """Until it is stopped. Raises `PromiseBrokenError`."""
        while not self.stopped:
            self.look()
            expect(not self.broken, self.broken)
            await asyncio.sleep(_LOOK)

    def granted(self, name: str, token: int) -> None:
        """A member leads, as it has just seen."""
        self.look()
        newest = max((grant.token for grant in self.grants), default=0)
        if token < newest:
            self._break(f"{name} leads with token {token}, and there was {newest} before")
        owners = {grant.name for grant in self.grants if grant.token == token}
        if not owners <= {name}:
            self._break(f"{name} leads with token {token}, which was {owners}'s")
        self.grants.append(_Grant(name, token, self.stage.log.last_zxid))

    def _break(self, what: str) -> None:
        self.broken = self.broken or what

    # -- the end

    def judge_writes(self) -> None:
        """Of all writes that were fenced, by what the servers have committed: no token behind a larger one, and none
        behind what was committed when a larger one was granted."""
        newest = 0
        for entry in self.stage.log.in_order():
            for change in entry.transaction.changes:
                if not (isinstance(change, SetData) and change.path == _FENCE):
                    continue
                token = int(change.data or b"0")
                expect(token >= newest, f"token {token} was accepted at 0x{entry.zxid:x}, behind {newest}")
                newest = max(newest, token)
                stale = [grant for grant in self.grants if grant.token > token and grant.committed < entry.zxid]
                expect(not stale, f"token {token} was accepted at 0x{entry.zxid:x}, after {stale[:1]}")


class _Member:
    """A member, in all its lives."""

    def __init__(self, election: _Election, host: Host) -> None:
        self._election, self._host = election, host
        self._rng = election.stage.world.random(f"member {host.name}")

    async def live(self) -> None:
        """Takes part until the end, and now and then begins anew."""
        election, name = self._election, self._host.name
        async with election.stage.client(self._host) as client:
            election.clients[name] = client
            await make(client, _FENCE)
            while not election.stopped:
                async with LeaderLatch(client, _LATCH, name) as latch:
                    election.latches[name] = latch
                    await self._take_part(client, latch)
                del election.latches[name]

    async def _take_part(self, client: Client, latch: LeaderLatch) -> None:
        """Until it has led for long enough, or somebody says that it is enough."""
        while not self._election.stopped:
            try:
                token = await latch.wait(timeout=1.0)
            except CallTimeoutError:
                continue
            self._election.granted(self._host.name, token)
            if await self._lead(client, latch, token):
                return

    async def _lead(self, client: Client, latch: LeaderLatch, token: int) -> bool:
        """Writes, also when it leads no more; returns whether it has had enough. Half of the leaders write nothing
        until they lead no more: writes that nobody answers would tell them too much."""
        try:
            late = [latch.transaction(), latch.transaction(), client.transaction()]
        except NotLeaderError:  # a moment later
            return False
        late[-1].check(latch.node)
        looks, is_quiet = self._rng.choice([3, 30, 300]), self._rng.random() < 0.5
        writes: list[asyncio.Task[None]] = []
        while latch.is_leader and looks and not self._election.stopped:
            looks -= 1
            try:
                if latch.token != token:
                    break
                write = latch.transaction()
            except NotLeaderError:
                break
            if not is_quiet:
                writes.append(asyncio.create_task(self._write(write, token)))
            await asyncio.sleep(self._rng.expovariate(5.0))
        if not looks and self._rng.random() < 0.3:
            with contextlib.suppress(EverlatchError):
                await latch.hand_over(timeout=2.0)
        for write in late:
            writes.append(asyncio.create_task(self._write(write, token)))
            await asyncio.sleep(self._rng.choice([0.0, 0.3, 1.0]))
        await asyncio.wait(writes)
        return looks == 0

    async def _write(self, write: Transaction, token: int) -> None:
        """Only if the node that made it leader is still there."""
        write.set(_FENCE, b"%d" % token)
        try:
            await write.commit(timeout=5.0)
        except (StaleLeaderError, TransactionFailedError):
            self._election.refused += 1
        except (CallTimeoutError, SessionExpiredError, *LOST):
            pass
        else:
            self._election.fenced += 1


async def _leader_in_time(election: _Election) -> None:
    """When the ensemble serves and all candidates are connected, there is a leader within T + 2 ticks + 2 s."""
    stage, world = election.stage, election.stage.world
    longest = stage.session_timeout + 2 * stage.tick + 2.0
    since: float | None = None
    end = world.now + SOON + longest
    while not election.leading():
        ready = all(server.core.mode for server in world.servers) and all(
            client.state is State.CONNECTED for client in election.clients.values()
        )
        since = (world.now if since is None else since) if ready else None
        expect(world.now < end, "the servers don't serve, or candidates are not connected")
        expect(since is None or world.now < since + longest, f"nobody leads {longest:g} s after all could")
        await asyncio.sleep(0.05)


def _run(election: _Election, seconds: float, kinds: Mapping[type[Fault], float] | None, phases: int) -> None:
    stage, world = election.stage, election.stage.world

    async def fail_and_heal() -> None:
        for _ in range(phases):
            await stage.faults(seconds, 2 * seconds, kinds)
            world.heal()
            await _leader_in_time(election)
        election.stopped = True

    async def main() -> None:
        tasks = [asyncio.create_task(election.watch()), asyncio.create_task(fail_and_heal())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
        await asyncio.sleep(SOON)

    world.run(main())
    election.judge_writes()
    expect(election.grants, "nobody ever led")


def _candidates(stage: Stage, count: int) -> _Election:
    election = _Election(stage)
    for number in range(1, count + 1):
        stage.inhabited(f"app{number}", lambda _, host: _Member(election, host))
    election.hosts = [host for host in stage.world.hosts.values() if not host.is_server]
    return election


def one_leader(world: World) -> None:
    """Four to twelve members under all faults."""
    stage = Stage.of(world)
    election = _candidates(stage, world.random("members").choice([4, 5, 6, 8, 12]))
    _run(election, 6.0, None, 2)


def leadership(world: World) -> None:
    """Twelve, whose clocks differ by what the lease allows, and whose processes stand still for longer than T. T is
    short, compared to how long a follower that is cut off goes on answering."""
    stage = Stage.of(world, ticks=(2, 3, 4))
    rng = world.random("clocks")
    election = _candidates(stage, _CANDIDATES)
    for host in world.hosts.values():
        host.clock_rate = rng.uniform(1.0 - _DRIFT, 1.0 + _DRIFT)
    kinds = {kind: weight for kind, weight in EVERY_KIND.items() if kind is not ClockDrifts} | _CRUEL
    _run(election, 10.0, kinds, 3)
