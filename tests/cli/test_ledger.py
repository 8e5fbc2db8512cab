"""The ledger of fenced writes: what is wrong in it is found, and stale writes are refused by the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from everlatch import Client
from everlatch.cli.ledger import Entry, Ledger, add_entry, problems, summary
from everlatch.cli.member import Acknowledgement
from everlatch.recipes import LeaderLatch

if TYPE_CHECKING:
    from everlatch.testing.pytest_plugin import Chroot

GOOD = [Entry("a", 5), Entry("a", 5), Entry("b", 7), Entry("a", 9)]


def test_tokens_that_rise_are_good() -> None:
    assert problems(GOOD, []) == []
    assert summary(GOOD, 2, 0) == "4 fenced writes under 3 tokens, which only rose; 2 stale ones tried, 2 refused"


def test_a_token_that_falls_is_caught_each_time() -> None:
    entries = [*GOOD, Entry("b", 7), Entry("b", 7), Entry("a", 9)]
    assert problems(entries, []) == ["b wrote with token 7 behind a's with 9"] * 2
    assert summary(entries, 0, 0) == "7 fenced writes under 3 tokens, which fell; 0 stale ones tried, 0 refused"


def test_a_token_of_two_is_caught() -> None:
    assert problems([Entry("a", 5), Entry("b", 5)], []) == ["b and a both wrote with token 5"]


def test_a_stale_write_that_was_accepted_is_caught() -> None:
    assert problems([], [Entry("a", 5)]) == ["a stale write of a (token 5) was accepted"]
    assert summary([], 1, 1) == "0 fenced writes under 0 tokens, which only rose; 2 stale ones tried, 1 refused"


async def test_what_the_living_write_is_read_and_what_the_dead_would_is_refused(zookeeper_chroot: Chroot) -> None:
    async with Client(zookeeper_chroot.address) as client:
        ledger = Ledger(client, "/ledger")
        assert await ledger.read() == []
        await ledger.open()
        async with LeaderLatch(client, "/latch", "a") as latch:
            token, node = await latch.wait(10), latch.node
            async with latch.transaction() as transaction:
                add_entry(transaction, "/ledger", Entry("a", token))
            assert not await ledger.write_late(node, Entry("a", token)), "it is none while the node is there"
        assert ledger.accepted == [Entry("a", token)]
        assert await ledger.write_late(node, Entry("a", token))
        assert ledger.refused == 1
        assert await ledger.read() == [Entry("a", token)] * 2


@pytest.mark.parametrize("said", [Acknowledgement(12345.678901234567), Acknowledgement(1.5, 4.0)])
def test_an_acknowledgement_survives_its_line(said: Acknowledgement) -> None:
    assert said.encode().endswith(b"\n")
    assert Acknowledgement.decode(said.encode()) == said
