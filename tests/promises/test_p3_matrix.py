"""P3, outcome known: a selection of all the ways in which a write's reply is lost, against what somebody beside sees.

All of them: `python -m torture.outcomes`, which also counts how often an outcome is unknown, by mode.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from torture.outcomes import cases, run

from everlatch import Client, Created, OutcomeUnknownError
from everlatch.testing import HANDSHAKE, Op
from promises.access import options_for
from promises.behind_proxy import ends_of, through
from promises.real.ensembles import THOROUGH
from real.faults import CLOSE_SESSION

if TYPE_CHECKING:
    from everlatch.testing import Proxy, Server

pytestmark = pytest.mark.real

STRIDE = 1 if THOROUGH else 19
"""Of the cases each so-many-th, on each version others."""


# -- the matrix


async def test_no_answer_is_wrong(standalone: Server, zookeeper_version: str, root: str) -> None:
    chosen = cases()[int(zookeeper_version[-1]) % STRIDE :: STRIDE]
    tally = await run([standalone], root, chosen, options_for(standalone))
    assert tally.violations == []
    assert tally.count == len(chosen)
    # It is not by luck that nothing was found: connections broke a second time in all of these places.
    assert set(tally.struck) >= {"auth", "setWatches", "commit", "look", "write"}


# -- the end of a session


@pytest.mark.parametrize("exactly_once", [False, True])
async def test_who_closes_does_not_wait_for_an_outcome(
    exactly_once: bool, proxy: Proxy, witness: Client, root: str
) -> None:
    async with through(proxy, exactly_once=exactly_once) as client:
        await client.sync()
        lost = proxy.lose_reply(Op.MULTI if exactly_once else Op.CREATE2)
        held = proxy.hold_request(HANDSHAKE)
        call = asyncio.ensure_future(client.create(f"{root}/n"))
        await lost.happened()
    held.release()
    (end,) = await ends_of([call])
    assert isinstance(end, OutcomeUnknownError)
    assert await witness.children(root) == ["n"]


@pytest.mark.parametrize("exactly_once", [False, True])
@pytest.mark.parametrize("loss", ["lose_reply", "lose_request"])
async def test_the_answer_to_its_end_is_lost(
    loss: str, exactly_once: bool, proxy: Proxy, witness: Client, root: str
) -> None:
    """What was written before was answered; nothing is left to be found out, and nobody waits."""
    async with through(proxy, exactly_once=exactly_once) as client:
        await asyncio.gather(*[client.create(f"{root}/{number}") for number in range(5)])
        lost = getattr(proxy, loss)(CLOSE_SESSION)
    assert lost.times == 1
    assert client.statistics().outcomes_unknown == 0
    assert len(await witness.children(root)) == 5


@pytest.mark.parametrize("exactly_once", [False, True])
async def test_a_reply_is_lost_while_it_closes(exactly_once: bool, proxy: Proxy, witness: Client, root: str) -> None:
    async with through(proxy, exactly_once=exactly_once) as client:
        await client.sync()
        proxy.lose_reply(Op.MULTI if exactly_once else Op.CREATE2, nth=3)
        calls = [client.create(f"{root}/{number}") for number in range(5)]
    ends = await ends_of(calls)
    assert [isinstance(end, Created) for end in ends] == [True, True, False, False, False]
    assert all(isinstance(end, OutcomeUnknownError) for end in ends[2:])
    assert {"0", "1", "2"} <= set(await witness.children(root))
