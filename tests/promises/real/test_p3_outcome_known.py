"""P3, outcome known, on real ensembles: sessions move, leaders die, and what was written is known all the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from torture.exactly_once import Trial, judge, on_real_servers
from torture.outcomes import cases, run

from everlatch import Client, Created, Node, OutcomeUnknownError, Stat, State
from everlatch.partial_stat import UNKNOWN
from everlatch.testing import Op
from promises.real.ensembles import ON_OLDER, SUPER, THOROUGH, client_of, proxies_of, watched, without

if TYPE_CHECKING:
    from everlatch.testing import NetworkEnsemble

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

STRIDE = 5 if THOROUGH else 97
"""Of the ways to lose a reply each so-many-th; without another server to go to they are quicker, and more are tried."""
OPERATIONS = 20_000 if THOROUGH else 1000
COUNT = 400


async def test_no_answer_is_wrong(network: NetworkEnsemble, root: str) -> None:
    tally = await run([server.address for server in network.servers], root, cases()[::STRIDE])
    assert tally.violations == []
    assert tally.moves


async def test_exactly_once_with_every_fiftieth_reply_lost(network: NetworkEnsemble) -> None:
    report = await on_real_servers(network, network.version, OPERATIONS, 64)
    assert report["good"], report
    assert report["lost replies"] >= OPERATIONS // 50
    assert report["settled"] >= report["lost replies"]
    assert report["sessions"] == 1


@ON_OLDER
async def test_exactly_once_while_the_leader_dies(network: NetworkEnsemble, root: str, witness: Client) -> None:
    leader = await network.leader()
    client = client_of([leader, *await without(network, leader)], session_timeout=20.0, exactly_once=True)
    async with watched(client) as states:
        calls = [client.create(f"{root}/n-", b"%d" % number, sequential=True) for number in range(COUNT)]
        await calls[COUNT // 4]
        await leader.kill()
        made = await asyncio.gather(*calls)
        assert State.SUSPENDED in states.states
        assert client.generation == 1
        paths = [created.path for created in made]
        assert paths == sorted(set(paths))
        await client.sync(root)
        assert sorted(await client.children(root)) == [path.removeprefix(f"{root}/") for path in paths]
        nodes = await asyncio.gather(*[client.get(path) for path in paths])
        assert [int(data) for data, _ in nodes] == list(range(COUNT))
        assert [stat for _, stat in nodes] == [created.stat for created in made]


@pytest.mark.parametrize("loss", ["lose_reply", "lose_request"])
async def test_a_reconfiguration_is_not_made_again(loss: str, network: NetworkEnsemble) -> None:
    """Nothing shows of it what it has brought about, so it is unknown, and known to be."""
    async with proxies_of(network.servers) as proxies, client_of(proxies, session_timeout=20.0, auth=[SUPER]) as client:
        before, stat = await client.get_config()
        same = next(line for line in before.decode().splitlines() if line.startswith("server.1="))
        for proxy in proxies:
            getattr(proxy, loss)(Op.RECONFIG)
        with pytest.raises(OutcomeUnknownError):
            await client.reconfig(joining=same)
        sent = [request for proxy in proxies for request in proxy.seen(Op.RECONFIG)]
        assert len(sent) == 1
        await client.sync()
        after = await client.get_config()
        assert (after.stat.mzxid > stat.mzxid) == (loss == "lose_reply")


# -- who judges the trial finds what is wrong


def created(number: int, zxid: int) -> Created:
    return Created(f"/n-{number:010d}", Stat(zxid, zxid, 0, 0, 0, 0, 0, 0, 1, 0, zxid))


def changed(version: int, zxid: int) -> Stat:
    return Stat(1, zxid, 0, 0, version, 0, 0, 0, 1, 0, 1)


def nodes(*made: Created) -> dict[str, Node]:
    return {path: Node(b"%d" % number, stat) for number, (path, stat) in enumerate(made)}


FIRST, SECOND = created(0, 10), created(1, 12)
SETS = [changed(1, 11), changed(2, 13)]


@pytest.mark.parametrize(
    ("trial", "field"),
    [
        (Trial([FIRST, SECOND], SETS, nodes(FIRST, SECOND), 2), None),
        (Trial([FIRST, SECOND], [SETS[0], SETS[1]._replace(version=UNKNOWN)], nodes(FIRST, SECOND), 2), None),
        (Trial([FIRST], SETS, nodes(FIRST, SECOND), 2), "duplicates"),
        (Trial([FIRST, FIRST], SETS, nodes(FIRST), 2), "duplicates"),
        (Trial([FIRST, SECOND], SETS, nodes(FIRST, SECOND), 3), "duplicates"),
        (Trial([FIRST, SECOND], SETS, nodes(FIRST), 2), "missing"),
        (Trial([FIRST, SECOND], SETS, nodes(FIRST, SECOND), 1), "missing"),
        (Trial([OutcomeUnknownError("create", "/n-", None)], SETS, {}, 2), "unknown"),
        (Trial([ValueError("of the client")], SETS, {}, 2), "errors"),
        (Trial([SECOND, FIRST], SETS, nodes(SECOND, FIRST), 2), "wrong"),
        (Trial([FIRST, SECOND], SETS[::-1], nodes(FIRST, SECOND), 2), "wrong"),
        (Trial([FIRST], [SETS[0], SETS[1]._replace(version=7)], nodes(FIRST), 2), "wrong"),
        (Trial([FIRST], SETS, {FIRST.path: Node(b"1", FIRST.stat)}, 2), "wrong"),
    ],
)
async def test_the_judge(trial: Trial, field: str | None) -> None:
    verdict = judge(trial)
    assert verdict.is_good == (field is None)
    assert field is None or getattr(verdict, field)
