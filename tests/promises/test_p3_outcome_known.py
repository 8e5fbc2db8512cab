"""P3, outcome known: what other clients get wrong when the reply to a write is lost, each on real servers.

Elsewhere the write is tried again blindly, and the caller gets two nodes, or an error for what has worked, or somebody
else's item; or he is told nothing. Here a plain write never ends with a wrong answer, and one that is `exactly_once`
(or `protect`, or `idempotent`, where that will do) with the right one.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

import pytest

from everlatch import (
    BadVersionError,
    Client,
    NodeExistsError,
    NoNodeError,
    OutcomeUnknownError,
    TransactionFailedError,
)
from everlatch.testing import Op
from promises.behind_proxy import data_below, ends_of, through

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch.testing import Proxy, RequestFault

pytestmark = pytest.mark.real

Loss = Literal["lose_reply", "lose_request"]
LOSSES = pytest.mark.parametrize("loss", ["lose_reply", "lose_request"])


@contextlib.asynccontextmanager
async def knowing(proxy: Proxy, **options: Any) -> AsyncIterator[Client]:
    """A client that has seen a zxid: what is older than that, its writes have not brought about."""
    async with through(proxy, **options) as client:
        await client.sync()
        yield client


def lose(proxy: Proxy, loss: Loss, op: int) -> RequestFault:
    fault: RequestFault = getattr(proxy, loss)(op)
    return fault


class Counter:
    """As one writes it: read, add, set if nobody else has meanwhile."""

    def __init__(self, client: Client, path: str) -> None:
        self._client, self._path = client, path

    async def add(self, number: int) -> int:
        while True:
            data, stat = await self._client.get(self._path)
            total = int(data) + number
            try:
                await self._client.set(self._path, b"%d" % total, version=stat.version)
            except BadVersionError:
                continue
            return total


class Queue:
    """As one writes it: whoever deletes an item has it."""

    def __init__(self, client: Client, path: str) -> None:
        self._client, self._path = client, path

    async def put(self, item: bytes) -> None:
        await self._client.create(f"{self._path}/item-", item, sequential=True)

    async def get(self) -> bytes | None:
        for name in sorted(await self._client.children(self._path)):
            try:
                data, _ = await self._client.get(f"{self._path}/{name}")
                await self._client.delete(f"{self._path}/{name}")
            except NoNodeError:
                continue
            return data
        return None


# -- creation of sequential nodes: one node, and its name is known


async def test_a_plain_sequential_create_that_was_applied_is_not_made_again(
    proxy: Proxy, witness: Client, root: str
) -> None:
    async with knowing(proxy) as client:
        proxy.lose_reply(Op.CREATE2)
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.create(f"{root}/n-", sequential=True)
        assert [sighting.path for sighting in caught.value.seen] == [root]
        assert len(await witness.children(root)) == 1


async def test_a_plain_sequential_create_that_was_not_applied_is(proxy: Proxy, witness: Client, root: str) -> None:
    async with knowing(proxy) as client:
        proxy.lose_request(Op.CREATE2)
        created = await client.create(f"{root}/n-", sequential=True)
        assert await witness.children(root) == [created.path.removeprefix(f"{root}/")]


@LOSSES
@pytest.mark.parametrize("ephemeral", [False, True])
async def test_a_sequential_create_makes_one_node_exactly_once(
    loss: Loss, ephemeral: bool, proxy: Proxy, witness: Client, root: str
) -> None:
    async with knowing(proxy, exactly_once=True) as client:
        lose(proxy, loss, Op.MULTI)
        created = await client.create(f"{root}/n-", b"1", sequential=True, ephemeral=ephemeral)
        assert await witness.children(root) == [created.path.removeprefix(f"{root}/")]
        assert await witness.exists(created.path) == created.stat


@LOSSES
async def test_a_protected_sequential_create_makes_one_node(
    loss: Loss, proxy: Proxy, witness: Client, root: str
) -> None:
    """What locks and elections are made of: a place in the line, and the only one."""
    async with knowing(proxy) as client:
        lose(proxy, loss, Op.CREATE2)
        created = await client.create(f"{root}/lock-", ephemeral=True, sequential=True, protect=True)
        assert await witness.children(root) == [created.path.removeprefix(f"{root}/")]
        assert await witness.exists(created.path) == created.stat
        lose(proxy, loss, Op.DELETE)
        await client.delete(created.path, idempotent=True)
        assert await witness.children(root) == []


# -- what has worked is not reported as a failure


@LOSSES
async def test_an_ephemeral_node_is_known_to_be_ours(loss: Loss, proxy: Proxy, witness: Client, root: str) -> None:
    async with knowing(proxy) as client:
        lose(proxy, loss, Op.CREATE2)
        created = await client.create(f"{root}/n", b"1", ephemeral=True)
        assert await witness.exists(f"{root}/n") == created.stat
        assert created.stat.ephemeral_owner == client.session_id
        with pytest.raises(NodeExistsError):
            await client.create(f"{root}/n", ephemeral=True)


@LOSSES
@pytest.mark.parametrize("how", ["idempotent", "exactly_once"])
async def test_a_delete_that_has_worked_says_so(loss: Loss, how: str, proxy: Proxy, witness: Client, root: str) -> None:
    await witness.create(f"{root}/n")
    async with knowing(proxy, exactly_once=how == "exactly_once") as client:
        lose(proxy, loss, Op.MULTI if how == "exactly_once" else Op.DELETE)
        await client.delete(f"{root}/n", idempotent=how == "idempotent")
        assert await witness.children(root) == []


async def test_a_plain_delete_that_has_worked_is_not_refused(proxy: Proxy, witness: Client, root: str) -> None:
    await witness.create(f"{root}/n")
    async with knowing(proxy) as client:
        proxy.lose_reply(Op.DELETE)
        with pytest.raises(OutcomeUnknownError):
            await client.delete(f"{root}/n")


@LOSSES
async def test_a_set_with_a_version_that_has_worked_says_so(
    loss: Loss, proxy: Proxy, witness: Client, root: str
) -> None:
    async with knowing(proxy, exactly_once=True) as client:
        lose(proxy, loss, Op.MULTI)
        assert await client.set(root, b"1", version=0) == await witness.exists(root)
        assert (await witness.get(root)).data == b"1"


async def test_a_plain_set_with_a_version_that_has_worked_is_not_refused(
    proxy: Proxy, witness: Client, root: str
) -> None:
    async with knowing(proxy) as client:
        proxy.lose_reply(Op.SET_DATA)
        with pytest.raises(OutcomeUnknownError):
            await client.set(root, b"1", version=0)


async def test_what_another_call_has_made_is_not_taken_for_this_one(proxy: Proxy, witness: Client, root: str) -> None:
    """Both were sent before either was answered. The refusal of the second is lost; the node is that of the first."""
    async with knowing(proxy) as client:
        proxy.lose_reply(Op.CREATE2, nth=2)
        first, second = await ends_of([client.create(f"{root}/n", data, ephemeral=True) for data in (b"1", b"2")])
        assert first.path == f"{root}/n"
        assert isinstance(second, NodeExistsError)
        assert (await witness.get(f"{root}/n")).data == b"1"


@pytest.mark.parametrize("applied", [False, True])
async def test_nor_is_another_calls_number(applied: bool, proxy: Proxy, witness: Client, root: str) -> None:
    async with knowing(proxy) as client:
        held = proxy.hold_reply(Op.CREATE2, nth=2) if applied else proxy.hold_request(Op.CREATE2, nth=2)
        calls = [client.create(f"{root}/n-", data, ephemeral=True, sequential=True) for data in (b"1", b"2")]
        await held.happened()
        await calls[0]
        proxy.cut()
        first, second = await ends_of(calls)
        assert [first.path, second.path] == [f"{root}/n-0000000000", f"{root}/n-0000000001"]
        assert await data_below(witness, root) == [1, 2]
        assert [first.stat, second.stat] == [await witness.exists(made.path) for made in (first, second)]


# -- what is made of them


@LOSSES
async def test_a_counter_counts_once(loss: Loss, proxy: Proxy, witness: Client, root: str) -> None:
    await witness.set(root, b"1")
    async with knowing(proxy, exactly_once=True) as client:
        lose(proxy, loss, Op.MULTI)
        assert await Counter(client, root).add(1) == 2
        assert (await witness.get(root)).data == b"2"


async def test_a_counter_of_plain_writes_does_not_count_twice(proxy: Proxy, witness: Client, root: str) -> None:
    await witness.set(root, b"1")
    async with knowing(proxy) as client:
        proxy.lose_reply(Op.SET_DATA)
        with pytest.raises(OutcomeUnknownError):
            await Counter(client, root).add(1)
        assert (await witness.get(root)).data == b"2"
        proxy.lose_request(Op.SET_DATA)
        assert await Counter(client, root).add(1) == 3
        assert (await witness.get(root)).data == b"3"


@LOSSES
async def test_a_queue_loses_no_item(loss: Loss, proxy: Proxy, witness: Client, root: str) -> None:
    for item in (b"1", b"2"):
        await Queue(witness, root).put(item)
    async with knowing(proxy, exactly_once=True) as client:
        queue = Queue(client, root)
        lose(proxy, loss, Op.MULTI)
        assert await queue.get() == b"1"
        assert await data_below(witness, root) == [2]
        assert await queue.get() == b"2"
        assert await queue.get() is None


async def test_a_queue_of_plain_writes_tells_that_an_item_is_in_doubt(proxy: Proxy, witness: Client, root: str) -> None:
    for item in (b"1", b"2"):
        await Queue(witness, root).put(item)
    async with knowing(proxy) as client:
        proxy.lose_reply(Op.DELETE)
        with pytest.raises(OutcomeUnknownError):
            await Queue(client, root).get()
        assert await data_below(witness, root) == [2]


@LOSSES
async def test_an_item_is_put_once(loss: Loss, proxy: Proxy, witness: Client, root: str) -> None:
    async with knowing(proxy, exactly_once=True) as client:
        lose(proxy, loss, Op.MULTI)
        await Queue(client, root).put(b"1")
        assert await data_below(witness, root) == [1]


# -- transactions


async def move(client: Client, root: str) -> str:
    """One part of it is refused."""
    async with client.transaction() as transaction:
        made = transaction.create(f"{root}/n-", sequential=True)
        transaction.delete(f"{root}/none")
    return made.result


@pytest.mark.parametrize("exactly_once", [False, True])
@pytest.mark.parametrize("loss", [None, "lose_reply", "lose_request"])
async def test_a_transaction_that_is_refused_raises(
    loss: Any, exactly_once: bool, proxy: Proxy, witness: Client, root: str
) -> None:
    async with knowing(proxy, exactly_once=exactly_once) as client:
        if loss is not None:
            lose(proxy, loss, Op.MULTI)
        with pytest.raises(TransactionFailedError) as caught:
            await move(client, root)
        assert caught.value.index == 1
        assert isinstance(caught.value.error, NoNodeError)
        assert await witness.children(root) == []


@LOSSES
async def test_a_transaction_is_applied_exactly_once(loss: Loss, proxy: Proxy, witness: Client, root: str) -> None:
    await witness.create(f"{root}/none")
    async with knowing(proxy, exactly_once=True) as client:
        lose(proxy, loss, Op.MULTI)
        path = await move(client, root)
        assert await witness.children(root) == [path.removeprefix(f"{root}/")]
