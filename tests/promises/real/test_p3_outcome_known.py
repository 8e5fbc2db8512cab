"""P3, outcome known, on real ensembles: sessions move, leaders die, and what was written is known all the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from torture.exactly_once import on_real_servers
from torture.outcomes import cases, run

from everlatch import OutcomeUnknownError, State
from everlatch.testing import Op
from promises.access import options_for
from promises.real.ensembles import ON_OLDER, SUPER, THOROUGH, client_of, proxies_of, watched, without

if TYPE_CHECKING:
    from everlatch import Client
    from everlatch.testing import NetworkEnsemble

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

STRIDE = 5 if THOROUGH else 97
"""Of the ways to lose a reply each so-many-th; without another server to go to they are quicker, and more are tried."""
OPERATIONS = 5000 if THOROUGH else 1000
COUNT = 400
WINDOW = 64


async def test_no_answer_is_wrong(network: NetworkEnsemble, root: str) -> None:
    tally = await run(network.servers, root, cases()[::STRIDE], options_for(network.servers[0]))
    assert tally.violations == []
    assert tally.moves


async def test_exactly_once_with_every_fiftieth_reply_lost(network: NetworkEnsemble) -> None:
    report = await on_real_servers(network, network.version, OPERATIONS, WINDOW)
    assert report["good"], report
    assert (report["version"], report["operations"]) == (network.version, OPERATIONS)
    # Each proxy counts for itself: what it has passed on since its last loss comes to nothing. And a loss takes those
    # along that are on their way behind it; one of them may be the next that was to be lost.
    assert report["lost replies"] * (50 + WINDOW) >= OPERATIONS - 49 * len(network.servers)
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


@pytest.mark.parametrize("exactly_once", [False, True])
async def test_a_write_that_comes_late_is_not_applied_as_well(
    exactly_once: bool, network: NetworkEnsemble, root: str, witness: Client
) -> None:
    """It hangs on its way to a follower; the client goes elsewhere, where it turns out not to have been applied, and is
    sent again. Then it arrives."""
    servers = await without(network, await network.leader())
    async with proxies_of(servers) as (first, second):
        options = {"session_timeout": 4.0, "silence_budget": 0.2, "exactly_once": exactly_once}
        async with client_of([first, second], **options) as client:
            await client.sync(root)
            late = first.hold_request(Op.MULTI if exactly_once else Op.CREATE2)
            call = asyncio.ensure_future(client.create(f"{root}/n-", b"1", sequential=True))
            await late.happened()
            created = await call
            assert second.connections
            hanging = first.seen(Op.MULTI if exactly_once else Op.CREATE2)[-1]
            late.release()
            await first.until(lambda: hanging.answered or hanging.connection not in first.connections)
            await client.set(root, b"")
            await witness.sync(root)
            assert await witness.children(root) == [created.path.removeprefix(f"{root}/")]
            assert await witness.exists(created.path) == created.stat
            assert client.statistics().writes_resent == 1


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
        # Not later: the zxids of an ensemble whose data an earlier test has wiped begin anew.
        assert (after.stat.mzxid != stat.mzxid) == (loss == "lose_reply")
