"""P7, one leader, on real ensembles: no two members believe at any moment that they lead, whatever happens to the
server of the leader, to its link, or to its process; and what a leader of the past writes under its fence is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest

from everlatch import (
    NoNodeError,
    NotLeaderError,
    OutcomeUnknownError,
    SessionExpiredError,
    State,
    TransactionFailedError,
)
from everlatch.recipes.leader_latch import LeaderLatch
from promises.access import environment_for
from promises.real.ensembles import PATIENCE, THOROUGH, T, client_of, now, proxies_of, until_time, without
from real.faults import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch import Client
    from everlatch.testing import NetworkEnsemble, Server
    from everlatch.testing.process import ClientProcess

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

MEMBER = Path(__file__).with_name("member.py")
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path)}
SHORT = 1.2
NEXT = T + 2 * 0.2 + 2.0
"""Seconds until there is another leader: the session's time, two ticks, and two for all the rest."""


# --- beliefs of members in this process ---------------------------------------------------------------------------


class Election:
    """Members, and who of them believed when that it leads; two at a time is an error."""

    def __init__(self, clients: list[Client], path: str) -> None:
        self.latches = [LeaderLatch(client, path, str(number)) for number, client in enumerate(clients)]
        self.terms: list[int] = []
        """Tokens, in the order in which they were seen."""
        self._observer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        for latch in self.latches:
            await latch.start()
            await until(lambda latch=latch: latch.node)  # type: ignore[misc]
        self._observer = asyncio.create_task(self._observe())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._observer is not None
        self._observer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._observer
        await asyncio.gather(*[latch.close(timeout=1.0) for latch in self.latches])

    async def _observe(self) -> None:
        while True:
            believers = [latch for latch in self.latches if latch.is_leader]
            assert len(believers) <= 1, believers
            with contextlib.suppress(NotLeaderError):  # `token` looks at the clock once more
                self.terms += [latch.token for latch in believers if latch.token not in self.terms[-1:]]
            await asyncio.sleep(0.001)

    async def leader(self, *, other_than: LeaderLatch | None = None, timeout: float = PATIENCE) -> LeaderLatch:
        """Whoever leads, as soon as somebody does."""

        def found() -> list[LeaderLatch]:
            assert self._observer is not None
            if self._observer.done():
                self._observer.result()
            return [latch for latch in self.latches if latch is not other_than and latch.is_leader]

        await until(found, timeout=timeout, interval=0.001)
        return found()[0]

    def assert_tokens_rose(self) -> None:
        assert all(earlier < later for earlier, later in pairwise(self.terms)), self.terms


@contextlib.asynccontextmanager
async def clients_at(servers: list[Server], network: NetworkEnsemble) -> AsyncIterator[list[Client]]:
    """A client of each, which goes elsewhere when it has to."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [client_of([server, *await without(network, server)], session_timeout=SHORT) for server in servers]
        for client in clients:
            await stack.enter_async_context(client)
        yield clients


FAULTS: dict[str, Any] = {
    "frozen": lambda network, server: server.pause(),
    "killed": lambda network, server: server.kill(),
    "cut from its leader": lambda network, server: network.cut_from_leader(server),
    "cut from everybody": lambda network, server: network.link_down(server),
}


@pytest.mark.parametrize("fault", FAULTS if THOROUGH else ["frozen", "cut from its leader"])
async def test_the_follower_of_the_leading_member(network: NetworkEnsemble, root: str, fault: str) -> None:
    """All the others are elsewhere, and hear of the end of its session as soon as anybody does. It moves in time, or
    ceases to believe; the latch has a leader soon."""
    follower, other = (await network.followers())[:2]
    leader = await network.leader()
    async with (
        clients_at([follower, other, leader], network) as clients,
        Election(clients, f"{root}/latch") as election,
    ):
        first = await election.leader()
        assert first is election.latches[0]
        struck_at = now()
        struck = FAULTS[fault](network, follower)
        if struck is not None:
            await struck
        await until_time(struck_at + SHORT + 0.6)
        await election.leader(timeout=NEXT)
        follower.resume()
        await network.heal()
        await until(lambda: all(client.state is State.CONNECTED for client in clients))
        await election.leader(timeout=NEXT)
        election.assert_tokens_rose()


@pytest.mark.parametrize("loses", ["its leader", "its quorum"] if THOROUGH else ["its leader"])
async def test_the_ensemble_loses(network: NetworkEnsemble, root: str, loses: str) -> None:
    leader = await network.leader()
    followers = await network.followers()
    async with clients_at([*followers, leader], network) as clients, Election(clients, f"{root}/latch") as election:
        await election.leader()
        if loses == "its leader":
            await leader.kill()
        else:
            await asyncio.gather(*[server.kill() for server in followers])
            await until(lambda: not any(latch.is_leader for latch in election.latches), timeout=SHORT + 0.5)
            for server in followers:
                await server.start(wait=False)
        await until(lambda: all(client.state is State.CONNECTED for client in clients))
        await election.leader(timeout=NEXT)
        election.assert_tokens_rose()


# --- fences -------------------------------------------------------------------------------------------------------


async def test_the_fenced_write_of_a_stale_leader_is_refused(network: NetworkEnsemble, root: str) -> None:
    """It was on its way when the session ended, and arrives when another leads."""
    register = f"{root}/register"
    one, other = (await network.followers())[:2]
    async with (
        proxies_of([one]) as (proxy,),
        client_of([proxy], session_timeout=1.0) as stale,
        client_of([other]) as free,
        Election([stale, free], f"{root}/latch") as election,
    ):
        await free.create(register, b"nobody's")
        first, second = election.latches
        assert await election.leader() is first
        token = first.token
        hole = proxy.black_hole("to_server")
        transaction = first.transaction()
        transaction.set(register, b"stale")
        late = asyncio.ensure_future(transaction.commit())
        await hole.happened()
        assert await election.leader(other_than=first, timeout=NEXT) is second
        assert second.token > token
        following = second.transaction()
        following.set(register, b"of the second")
        await following.commit()
        proxy.heal()
        with pytest.raises((NotLeaderError, SessionExpiredError, OutcomeUnknownError)):
            await late
        await until(lambda: stale.generation == 2)
        await free.sync()
        assert (await free.get(register)).data == b"of the second"
        election.assert_tokens_rose()


async def test_the_only_server_of_a_leader_is_cut_off(network: NetworkEnsemble, root: str) -> None:
    """It answers pings and reads beyond the end of the session, and the belief has ended before. Were the leader of
    the past to write through another server, in another session, its fence would be in the way."""
    register = f"{root}/register"
    one, other = (await network.followers())[:2]
    async with (
        client_of([one], session_timeout=1.0) as stale,
        client_of([other]) as free,
        Election([stale, free], f"{root}/latch") as election,
    ):
        await free.create(register)
        first, second = election.latches
        assert await election.leader() is first
        own = first.transaction()
        own.set(register, b"stale")
        elsewhere = free.transaction()
        elsewhere.check(first.node)
        elsewhere.set(register, b"stale")
        await network.cut_from_leader(one)
        assert await election.leader(other_than=first, timeout=NEXT) is second
        with pytest.raises(TransactionFailedError) as caught:
            await elsewhere.commit()
        assert isinstance(caught.value.error, NoNodeError)
        await network.heal()
        with pytest.raises((NotLeaderError, SessionExpiredError, OutcomeUnknownError)):
            await own.commit()
        await until(lambda: stale.generation == 2)
        await free.sync()
        assert (await free.get(register)).data == b""
        assert second.is_leader
        election.assert_tokens_rose()


# --- processes ----------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    time: float
    what: str
    more: list[str]


def told(process: ClientProcess) -> list[Line]:
    lines = [line.split() for line in process.output.splitlines(keepends=True) if line.endswith("\n")]
    return [Line(float(words[0]), words[1], words[2:]) for words in lines if words[0][:1].isdigit()]


def is_write(line: Line) -> bool:
    return line.what == "wrote"


def beliefs(process: ClientProcess) -> list[tuple[float, float]]:
    """From when to when it believed that it leads, at least."""
    spans: list[tuple[float, float]] = []
    began: float | None = None
    for line in told(process):
        if line.what == "leads":
            began = line.time
        elif line.what == "follows" and began is not None:
            spans.append((began, float(line.more[0])))
            began = None
    if began is not None:
        spans.append((began, now()))
    return spans


def assert_one_believer(*processes: ClientProcess) -> None:
    spans = sorted(span for process in processes for span in beliefs(process))
    for earlier, later in pairwise(spans):
        assert earlier[1] < later[0], spans


async def start_member(network: NetworkEnsemble, name: str, root: str) -> ClientProcess:
    command = [sys.executable, str(MEMBER), network.connect_string, str(T), root, name]
    member = await network.start_client(name, command, environment=ENVIRONMENT | environment_for(network.servers[0]))
    await member.wait_for_output(" ready ")
    return member


def leads(process: ClientProcess) -> bool:
    lines = [line.what for line in told(process) if line.what in ("leads", "follows")]
    return lines[-1:] == ["leads"]


async def test_a_leading_process_is_stopped_for_longer_than_its_session_lives(
    network: NetworkEnsemble, witness: Client, root: str
) -> None:
    """SIGSTOP, and SIGCONT when another leads: at its first look it doesn't believe any more, whatever it had begun.
    Its fenced writes are refused, it has a new session, and takes part again."""
    await witness.create(f"{root}/register")
    trial = root.rpartition("-")[2][-6:]
    one = await start_member(network, f"a{trial}", root)
    await until(lambda: leads(one))
    other = await start_member(network, f"b{trial}", root)
    try:
        await one.wait_for_output(" wrote ")
        one.pause()
        await until(lambda: leads(other), timeout=NEXT)
        await other.wait_for_output(" wrote ")
        one.resume()
        await one.wait_for_output(" woke ")
        woke = next(line for line in told(one) if line.what == "woke")
        assert woke.more == ["False", "0.0"], "its first look says so"
        # The write that it was about to make, as one that never asks whether it still leads.
        await one.wait_for_output(" refused ")
        await one.wait_for_output(" state RENEWED ")
        async with asyncio.timeout(PATIENCE):  # it takes part again, behind the other
            while len(await witness.children(f"{root}/latch")) < 2:
                await asyncio.sleep(0.01)
        assert leads(other)
        assert not leads(one)
        assert_one_believer(one, other)
        # In the order in which ZooKeeper did them, which is not that in which they were heard of.
        writes = sorted((int(line.more[2]), int(line.more[0])) for line in told(one) + told(other) if is_write(line))
        tokens = [token for _, token in writes]
        assert tokens == sorted(tokens)
        assert len(set(tokens)) == 2
    finally:
        await asyncio.gather(one.kill(), other.kill())
