"""Terms of leadership: as objects, as blocks, and one after the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import CallTimeoutError, ClientStateError, InvalidArgumentError, NotLeaderError
from everlatch.recipes import LeaderLatch, Term
from recipes.simulated import PATH, Election, election
from skipping_loop import simulated

if TYPE_CHECKING:
    from collections.abc import Iterator


class Holding:
    """What a latch would say, and the terms that it would make."""

    def __init__(self) -> None:
        self.holds = True
        self.begun = 0

    def term(self, token: int = 7) -> Term:
        return Term("/latch", token, lambda: self.holds, self._begin)

    def _begin(self) -> Any:
        self.begun += 1
        return self.begun


@pytest.fixture
def holding() -> Iterator[Holding]:
    return Holding()  # type: ignore[return-value]


# --- as an object -------------------------------------------------------------------------------------------------


@simulated
async def test_a_term_lasts_until_it_is_ended_or_the_clock_says_so(holding: Holding):
    term = holding.term()
    assert (term.token, term.is_current, repr(term)) == (7, True, "<Term of /latch, token 7, current>")
    assert term.transaction() == 1
    holding.holds = False
    assert not term.is_current
    with pytest.raises(NotLeaderError, match="token 7 is over"):
        term.transaction()
    holding.holds = True
    assert term.is_current
    term.end()
    assert (term.is_current, repr(term)) == (False, "<Term of /latch, token 7, over>")
    with pytest.raises(NotLeaderError):
        term.transaction()
    assert holding.begun == 1


@simulated
async def test_its_end_can_be_waited_for(holding: Holding):
    term = holding.term()
    with pytest.raises(CallTimeoutError, match=r"end of the term of '/latch' timed out after 0\.5 s"):
        await term.ended(timeout=0.5)
    with pytest.raises(InvalidArgumentError):
        await term.ended(timeout=-1)
    waits = [asyncio.ensure_future(term.ended()) for _ in range(3)]
    await asyncio.sleep(1)
    assert not any(wait.done() for wait in waits)
    term.end()
    await asyncio.gather(*waits)
    await term.ended(timeout=0)


@simulated
async def test_a_timeout_of_the_callers_own_is_not_taken_for_ours(holding: Holding):
    with pytest.raises(TimeoutError) as raised:
        async with asyncio.timeout(0.5):
            await holding.term().ended()
    assert not isinstance(raised.value, CallTimeoutError)


# --- as a block ---------------------------------------------------------------------------------------------------


async def work(term: Term, done: list[str]) -> None:
    try:
        async with term as same:
            assert same is term
            done.append("in")
            await asyncio.sleep(10)
            done.append("slept")
    finally:
        done.append("out")
    done.append("behind")


@simulated
async def test_the_end_of_the_term_ends_the_block_quietly(holding: Holding):
    term, done = holding.term(), list[str]()
    task = asyncio.ensure_future(work(term, done))
    await asyncio.sleep(1)
    term.end()
    await task
    assert done == ["in", "out", "behind"]
    assert task.cancelling() == 0


@simulated
async def test_a_block_that_ends_by_itself_ends_nothing(holding: Holding):
    term, done = holding.term(), list[str]()
    await work(term, done)
    assert done == ["in", "slept", "out", "behind"]
    assert term.is_current
    term.end()
    await asyncio.sleep(1)  # nobody is cancelled any more


@simulated
async def test_what_is_raised_in_the_block_gets_out(holding: Holding):
    with pytest.raises(ZeroDivisionError):
        async with holding.term():
            raise ZeroDivisionError


@simulated
async def test_an_error_on_the_way_out_gets_out_too(holding: Holding):
    """The block was interrupted, and what it does about that goes wrong."""
    term = holding.term()

    async def clean_up_badly() -> None:
        async with term:
            try:
                await asyncio.sleep(10)
            finally:
                raise ZeroDivisionError

    task = asyncio.ensure_future(clean_up_badly())
    await asyncio.sleep(1)
    term.end()
    with pytest.raises(ZeroDivisionError):
        await task
    assert task.cancelling() == 0


@pytest.mark.parametrize("term_ends", [False, True])
@simulated
async def test_a_cancellation_from_elsewhere_stays_one(holding: Holding, term_ends: bool):
    term, done = holding.term(), list[str]()
    task = asyncio.ensure_future(work(term, done))
    await asyncio.sleep(1)
    if term_ends:
        term.end()
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["in", "out"]


@simulated
async def test_a_term_that_is_over_lets_nobody_work(holding: Holding):
    term, done = holding.term(), list[str]()
    term.end()
    await work(term, done)
    assert done == ["in", "out", "behind"]


@simulated
async def test_who_ends_the_term_within_its_block_is_interrupted_afterwards(holding: Holding):
    term = holding.term()
    reached = []
    async with term:
        term.end()
        reached.append("still here")
        await asyncio.sleep(10)
        reached.append("slept")
    assert reached == ["still here"]


@simulated
async def test_who_leaves_the_block_as_the_term_ends_is_not_cancelled_behind_it(holding: Holding):
    term = holding.term()
    async with term:
        term.end()
    await asyncio.sleep(1)


@simulated
async def test_one_block_at_a_time(holding: Holding):
    term = holding.term()
    async with term:
        with pytest.raises(ClientStateError):
            async with term:
                pass
        assert term.is_current
    async with term:
        pass


# --- of a latch ---------------------------------------------------------------------------------------------------


def test_each_term_comes_once_until_the_latch_is_closed() -> None:
    async def test(this: Election) -> None:
        first, second = await this.joined("first", "second")
        tokens: list[int] = []
        over: list[str] = []

        async def follow() -> None:
            async for term in first.latch.terms():
                assert term.is_current
                assert term.token == first.latch.token
                tokens.append(term.token)
                await term.ended()
            over.append("over")

        following = first.host.create_task(follow())
        for count in (1, 2, 3):
            await this.world.until(lambda n=count: len(tokens) == n)
            await asyncio.sleep(1)
            assert len(tokens) == count
            await first.run(first.latch.hand_over())
            await second.until_leads()
            await second.run(second.latch.hand_over())
        await this.world.until(lambda: len(tokens) == 4)
        assert tokens == sorted(set(tokens))
        await first.run(first.latch.close())
        await following
        assert over == ["over"]

    election(test)


def test_the_present_term_comes_at_once_and_not_twice() -> None:
    async def test(this: Election) -> None:
        (first,) = await this.joined("first")

        async def iterate() -> list[int]:
            seen = []
            for _ in range(2):
                async for term in first.latch.terms():  # leaving it and coming back is safe
                    seen.append(term.token)
                    break
            iterator = aiter(first.latch.terms())
            seen.append((await anext(iterator)).token)
            try:
                async with asyncio.timeout(5):
                    await anext(iterator)
            except TimeoutError:
                seen.append(0)
            return seen

        token = first.latch.token
        assert await first.run(iterate()) == [token, token, token, 0]

    election(test)


def test_a_term_that_lapsed_is_another_one_though_the_token_is_the_same() -> None:
    async def test(this: Election) -> None:
        (first,) = await this.joined("first")
        terms: list[Term] = []

        async def follow() -> None:
            async for term in first.latch.terms():
                terms.append(term)
                async with term:
                    await asyncio.sleep(1000)

        following = first.host.create_task(follow())
        await asyncio.sleep(10)
        for server in this.world.servers:
            this.world.network.reset("first", server.name)
        cut = this.world.network.isolate("first")
        await this.world.until(lambda: not first.leads)
        await asyncio.sleep(0.05)
        cut.heal()
        await first.until_leads()
        await asyncio.sleep(1)
        assert [term.token for term in terms] == [first.latch.token] * 2
        assert [term.is_current for term in terms] == [False, True]
        await first.run(first.latch.close())
        await following

    election(test)


def test_terms_of_a_latch_that_is_not_started_or_closed() -> None:
    async def test(this: Election) -> None:
        (first,) = await this.joined("first")

        async def iterate() -> None:
            latch = LeaderLatch(first.client, PATH)
            with pytest.raises(ClientStateError, match="not started"):
                await anext(aiter(latch.terms()))
            await latch.close()
            assert [term async for term in latch.terms()] == []

        await first.run(iterate())

    election(test)


def test_a_refusal_is_raised_by_the_iteration() -> None:
    async def test(this: Election) -> None:
        first = this.member("first")
        await first.host.run(first.client.start())

        async def iterate() -> None:
            async with LeaderLatch(first.client, PATH) as latch:
                latch._refused(ZeroDivisionError())
                with pytest.raises(ZeroDivisionError):
                    await anext(aiter(latch.terms()))
                await asyncio.sleep(1)
                assert (await anext(aiter(latch.terms()))).is_current

        async def iterate_when_possible() -> None:
            await iterate()
            await first.client.close()

        await first.run(iterate_when_possible())

    election(test)
