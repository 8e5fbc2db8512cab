"""P3, outcome known: what `exactly_once` rests on, attacked on real servers: its receipts, its session, its callers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Literal

import pytest

from everlatch import (
    ACL,
    Call,
    CallTimeoutError,
    Client,
    Created,
    NoAuthError,
    NoChildrenForEphemeralsError,
    OutcomeUnknownError,
    ReceiptsError,
    RequestTooLargeError,
    ResultLostError,
    SessionExpiredError,
    Stat,
    State,
    WriteNotAppliedError,
    digest_acl,
)
from everlatch.partial_stat import PartialStat
from everlatch.testing import HANDSHAKE, Held, Op
from everlatch.types import OPEN_ACL_UNSAFE, READ_ACL_UNSAFE, Permission
from promises.access import expire_at, options_for
from promises.behind_proxy import data_below, ends_of, through
from real.faults import States

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everlatch.testing import Proxy, RequestFault, Server

pytestmark = pytest.mark.real

PLACE = "/everlatch-receipts"
LOSSES = pytest.mark.parametrize("loss", ["lose_reply", "lose_request"])
SLOTS = 64
"""What a client has if it isn't told otherwise."""

Loss = Literal["lose_reply", "lose_request"]


def lose(proxy: Proxy, loss: Loss, *, nth: int = 1) -> RequestFault:
    """Of the writes; the receipts are there already."""
    fault: RequestFault = getattr(proxy, loss)(Op.MULTI, nth=nth)
    return fault


@contextlib.contextmanager
def apart(proxy: Proxy) -> Iterator[Held]:
    """The client may lose its connection in this block, but gets no other one."""
    held = proxy.hold_request(HANDSHAKE)
    yield held
    held.release()


async def slots_of(witness: Client, client: Client, place: str = PLACE) -> list[str]:
    names = await witness.children(place)
    prefix = f"{client.session_id & (1 << 64) - 1:016x}-"
    return sorted(f"{place}/{name}" for name in names if name.startswith(prefix))


async def works(client: Client, path: str, count: int = SLOTS + 20) -> None:
    """All slots are there to be used, and used well: more writes at a time than there are."""
    before = await client.exists(path)
    assert before is not None
    stats = await asyncio.gather(*[client.set(path, b"%d" % number) for number in range(count)])
    assert [stat.version for stat in stats] == list(range(before.version + 1, before.version + 1 + count))


# -- where receipts are kept


@LOSSES
async def test_below_a_chroot(loss: Loss, proxy: Proxy, witness: Client, root: str) -> None:
    options = options_for(proxy, session_timeout=20.0, exactly_once=True)
    async with Client(f"{proxy.address}{root}", **options) as client:
        assert len(await slots_of(witness, client, root + PLACE)) == SLOTS
        await client.create("/a")
        lose(proxy, loss)
        created = await client.create("/a/n-", b"1", sequential=True)
        assert created.path == "/a/n-0000000000"
        assert await witness.exists(root + created.path) == created.stat
        lose(proxy, loss)
        async with client.transaction() as transaction:
            made = transaction.create("/a/n-", sequential=True)
        assert made.result == "/a/n-0000000001"


async def test_a_place_is_made_with_all_above_it(proxy: Proxy, witness: Client, root: str) -> None:
    place = f"{root}/a/b/receipts"
    async with through(proxy, exactly_once=True, receipts_path=place, receipts=3) as client:
        assert len(await slots_of(witness, client, place)) == 3
        await works(client, root)
    assert await witness.children(place) == []


@pytest.mark.parametrize("exists", [False, True])
async def test_where_it_may_not_create_it_does_not_start(
    exists: bool, proxy: Proxy, witness: Client, root: str
) -> None:
    await witness.create(f"{root}/locked", acl=READ_ACL_UNSAFE)
    place = f"{root}/locked" if exists else f"{root}/locked/receipts"
    client = through(proxy, exactly_once=True, receipts_path=place)
    with pytest.raises(ReceiptsError) as caught:
        await client.start()
    assert caught.value.place == place
    assert isinstance(caught.value.error, NoAuthError)
    await client.close()


async def test_nor_below_an_ephemeral_node(proxy: Proxy, witness: Client, root: str) -> None:
    await witness.create(f"{root}/e", ephemeral=True)
    client = through(proxy, exactly_once=True, receipts_path=f"{root}/e/receipts")
    with pytest.raises(ReceiptsError) as caught:
        await client.start()
    assert isinstance(caught.value.error, NoChildrenForEphemeralsError)
    await client.close()


@pytest.mark.parametrize("missing", [Permission.READ, Permission.WRITE])
async def test_nor_with_receipts_that_it_may_not_read_and_write(missing: Permission, proxy: Proxy, root: str) -> None:
    acl = [ACL(Permission.ALL & ~missing, "world", "anyone")]
    client = through(proxy, exactly_once=True, receipts_path=f"{root}/receipts", acl=acl)
    with pytest.raises(ReceiptsError):
        await client.start()
    await client.close()


async def test_without_receipts_it_reads_but_does_not_write(proxy: Proxy, witness: Client, root: str) -> None:
    await witness.create(f"{root}/locked", acl=READ_ACL_UNSAFE)
    client = through(proxy, exactly_once=True, receipts_path=f"{root}/locked/receipts")
    await client.start(wait=False)
    with pytest.raises(ReceiptsError):
        await client.set(root, b"1")
    assert (await client.get(root)).data == b""
    await client.close()


# -- receipts that somebody else meddles with


async def delete_slot(witness: Client, path: str) -> None:
    await witness.delete(path)


async def overwrite_slot(witness: Client, path: str) -> None:
    await witness.set(path, b"somebody else's")


async def replace_slot(witness: Client, path: str) -> None:
    await witness.delete(path)
    await witness.create(path, ephemeral=True)


MEDDLING = pytest.mark.parametrize("meddle", [delete_slot, overwrite_slot, replace_slot])


@MEDDLING
async def test_all_receipts_are_lost_while_nothing_happens(
    meddle: Any, proxy: Proxy, witness: Client, root: str
) -> None:
    """Each write that meets one of them has not been applied, and says so; then there are others."""
    async with through(proxy, exactly_once=True, receipts=4) as client:
        for path in await slots_of(witness, client):
            await meddle(witness, path)
        refused = 0  # one that is somebody else's, but has the version of ours, will do
        for number in range(10):
            try:
                await client.create(f"{root}/{number}", b"%d" % number)
            except WriteNotAppliedError:
                refused += 1
        assert refused == (0 if meddle is replace_slot else 4)
        assert len(await witness.children(root)) == 10 - refused
        await works(client, root)


@MEDDLING
@LOSSES
async def test_a_receipt_is_lost_with_a_reply(
    loss: Loss, meddle: Any, proxy: Proxy, witness: Client, root: str
) -> None:
    """What was not applied is sent again, with another; what was is in doubt. No answer is wrong."""
    async with through(proxy, exactly_once=True, receipts=1) as client:
        lost = lose(proxy, loss)
        with apart(proxy):
            call = asyncio.ensure_future(client.create(f"{root}/n", b"1"))
            await lost.happened()
            (slot,) = await slots_of(witness, client)
            await meddle(witness, slot)
        (end,) = await ends_of([call])
        if loss == "lose_request":
            assert isinstance(end, Created)
            assert await witness.exists(end.path) == end.stat
        else:
            assert isinstance(end, OutcomeUnknownError)
            assert f"{root}/n" in [sighting.path for sighting in end.seen]
        assert await witness.children(root) == ["n"]
        await works(client, root)


@MEDDLING
async def test_a_receipt_is_lost_when_it_has_just_been_read(
    meddle: Any, proxy: Proxy, witness: Client, root: str
) -> None:
    """It said that the write had not been applied; so that is sent again with it, and refused."""
    async with through(proxy, exactly_once=True, receipts=1) as client:
        proxy.lose_request(Op.MULTI)
        held = proxy.hold_reply(Op.GET_DATA)
        call = asyncio.ensure_future(client.create(f"{root}/n", b"1"))
        await held.happened()
        (slot,) = await slots_of(witness, client)
        await meddle(witness, slot)
        held.release()
        (end,) = await ends_of([call])
        if meddle is replace_slot:  # it has the version that is demanded
            assert isinstance(end, Created)
        else:
            assert isinstance(end, WriteNotAppliedError)
        assert await witness.children(root) == (["n"] if isinstance(end, Created) else [])
        await works(client, root)


async def test_the_place_itself_is_deleted(proxy: Proxy, witness: Client, root: str) -> None:
    place = f"{root}/receipts"
    async with through(proxy, exactly_once=True, receipts_path=place, receipts=4) as client:
        for path in await slots_of(witness, client, place):
            await witness.delete(path)
        await witness.delete(place)
        ends = await ends_of([client.set(root, b"%d" % number) for number in range(20)])
        assert {type(end) for end in ends} == {Stat, WriteNotAppliedError}
        assert sum(isinstance(end, WriteNotAppliedError) for end in ends) <= 4
        await works(client, root)


# -- many at a time


@LOSSES
async def test_two_hundred_at_a_time(loss: Loss, proxy: Proxy, witness: Client, root: str) -> None:
    async with through(proxy, exactly_once=True) as client:
        lose(proxy, loss, nth=100)
        calls = [client.create(f"{root}/n-", b"%d" % number, sequential=True) for number in range(200)]
        made = await asyncio.gather(*calls)
        assert [created.path for created in made] == sorted(created.path for created in made)
        assert await data_below(witness, root) == list(range(200))
        for created in made[::20]:
            assert await witness.exists(created.path) == created.stat
        assert client.statistics().outcomes_unknown == 0
        await works(client, root)


@LOSSES
async def test_two_hundred_of_all_kinds(loss: Loss, proxy: Proxy, witness: Client, root: str) -> None:
    async with through(proxy, exactly_once=True) as client:
        lose(proxy, loss, nth=90)
        calls: list[Any] = []
        for number in range(50):
            path = f"{root}/{number}"
            calls += [client.create(path), client.set(path, b"1", version=0)]
            transaction = client.transaction()
            transaction.check(path, 1)
            transaction.create(f"{root}/t-", b"%d" % number, sequential=True)
            calls += [transaction.commit(), client.delete(path, version=1)]
        ends = await ends_of(calls)
        assert [end for end in ends if isinstance(end, BaseException)] == []
        assert await data_below(witness, root) == list(range(50))


async def test_sets_of_one_node(proxy: Proxy, witness: Client, root: str) -> None:
    """Each is known to have happened, and by which transaction; what only its reply would have said is known of the
    others alone."""
    async with through(proxy, exactly_once=True) as client:
        proxy.lose_reply(Op.MULTI, nth=20)
        stats = await asyncio.gather(*[client.set(root, b"%d" % number) for number in range(50)])
        zxids = [stat.mzxid for stat in stats]
        assert zxids == sorted(set(zxids))
        partial = [stat for stat in stats if isinstance(stat, PartialStat)]
        assert partial
        for stat in partial:
            assert stat.data_length == 2
            with pytest.raises(ResultLostError):
                _ = stat.version
        whole = [number for number, stat in enumerate(stats) if not isinstance(stat, PartialStat)]
        assert [stats[number].version for number in whole] == [number + 1 for number in whole]
        assert stats[-1] == await witness.exists(root)


# -- callers who go


@pytest.mark.parametrize("receipts", [1, SLOTS])
@LOSSES
async def test_callers_go_while_the_connection_is_lost(
    loss: Loss, receipts: int, proxy: Proxy, witness: Client, root: str
) -> None:
    """What they have called is done once, or not; nothing else is touched, and no receipt is lost."""
    async with through(proxy, exactly_once=True, receipts=receipts) as client:
        lost = lose(proxy, loss, nth=min(receipts, 10))
        with apart(proxy):
            # Every third is cancelled, every third runs out of time, and the rest wait.
            calls = [
                asyncio.ensure_future(
                    client.create(f"{root}/n-", b"%d" % number, sequential=True, timeout=0.1 if number % 3 == 1 else 20)
                )
                for number in range(30)
            ]
            await lost.happened()
            for call in calls[::3]:
                call.cancel()
            await ends_of(calls[1::3])
        ends = await ends_of(calls)
        there = await data_below(witness, root)
        assert there == sorted(set(there))
        for number, end in enumerate(ends):
            if number % 3 == 2:
                assert isinstance(end, Created)
                assert await witness.exists(end.path) == end.stat
                assert number in there
            elif isinstance(end, CallTimeoutError) and not isinstance(end, OutcomeUnknownError):
                assert number not in there
        assert any(isinstance(end, asyncio.CancelledError) for end in ends)
        assert any(isinstance(end, CallTimeoutError) for end in ends)
        await works(client, root)


# -- sessions


@LOSSES
async def test_the_session_ends_meanwhile(
    loss: Loss, proxy: Proxy, standalone: Server, witness: Client, root: str
) -> None:
    """The old receipts are gone; what the nodes show is all there is."""
    async with through(proxy, exactly_once=True) as client:
        old = await slots_of(witness, client)
        lost = lose(proxy, loss)
        with apart(proxy):
            call = asyncio.ensure_future(client.create(f"{root}/n-", b"1", sequential=True))
            await lost.happened()
            await expire_at(client, standalone)
        (end,) = await ends_of([call])
        assert client.generation == 2
        assert not set(old) & set(await witness.children(PLACE))
        if loss == "lose_reply":
            assert isinstance(end, OutcomeUnknownError)
        else:
            assert isinstance(end, Created)
            assert await witness.exists(end.path) == end.stat
        assert await data_below(witness, root) == [1]
        await works(client, root)


@LOSSES
async def test_a_call_for_that_session(
    loss: Loss, proxy: Proxy, standalone: Server, witness: Client, root: str
) -> None:
    async with through(proxy, exactly_once=True) as client:
        lost = lose(proxy, loss)
        with apart(proxy):
            call = asyncio.ensure_future(client.in_session().create(f"{root}/n", b"1"))
            await lost.happened()
            await expire_at(client, standalone)
        (end,) = await ends_of([call])
        there = await witness.exists(f"{root}/n")
        if loss == "lose_reply":
            assert isinstance(end, OutcomeUnknownError)
            assert there
        else:
            assert isinstance(end, SessionExpiredError)
            assert not there


def shorten(way: str, frame: bytes) -> bytes:
    """The server's answer to a handshake, with a session timeout of 1 s."""
    is_answer = way == "to_client" and len(frame) in (40, 41) and frame[4:8] == bytes(4)
    return frame[:8] + (1000).to_bytes(4, "big") + frame[12:] if is_answer else frame


@LOSSES
async def test_a_session_that_was_given_up_and_lives(loss: Loss, proxy: Proxy, witness: Client, root: str) -> None:
    proxy.alter = shorten
    async with through(proxy, exactly_once=True) as client:
        states = States()
        client.add_listener(states)
        lost = lose(proxy, loss)
        proxy.refuse()
        call = asyncio.ensure_future(client.create(f"{root}/n-", b"1", sequential=True))
        await lost.happened()
        await states.until(State.LOST)
        assert not call.done()
        proxy.accept()
        created = await call
        assert client.generation == 1
        assert await witness.exists(created.path) == created.stat
        assert await data_below(witness, root) == [1]
        await works(client, root)


# -- what is returned


@pytest.mark.parametrize("loss", [None, "lose_reply", "lose_request"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ephemeral": True},
        {"sequential": True},
        {"ephemeral": True, "sequential": True},
        {"container": True},
        {"ttl": 1000.0},
        {"sequential": True, "ttl": 1000.0},
    ],
)
async def test_a_creation_tells_the_same_stat_as_a_read(
    options: dict[str, Any], loss: Any, proxy: Proxy, root: str
) -> None:
    """Servers before 3.8.2 tell none in a transaction."""
    async with through(proxy, exactly_once=True) as client:
        if loss is not None:
            lose(proxy, loss)
        created = await client.create(f"{root}/n", b"data", **options)
        assert (await client.get(created.path)).stat == created.stat


async def test_of_a_node_that_may_not_be_looked_at(
    proxy: Proxy, witness: Client, root: str, zookeeper_version: str
) -> None:
    hidden = [ACL(Permission.ALL & ~Permission.READ, "world", "anyone")]
    await witness.create(f"{root}/n", acl=hidden)
    async with through(proxy, exactly_once=True) as client:
        proxy.lose_reply(Op.MULTI)
        stat = await client.set(f"{root}/n", b"data", version=0)
        assert stat.version == 1
        # Servers before 3.8.4 show the Stat to everybody.
        assert isinstance(stat, PartialStat) == (zookeeper_version != "3.8")
        proxy.lose_request(Op.MULTI)
        assert (await client.set(f"{root}/n", b"data", version=1)).version == 2


async def test_when_not_even_the_root_may_be_read(proxy: Proxy, witness: Client, root: str) -> None:
    """The commit that settlement begins with is refused by the root's ACL; that is decided by a quorum all the same."""
    hidden = [ACL(Permission.ALL & ~Permission.READ, "world", "anyone")]
    async with through(proxy, exactly_once=True) as client:
        await witness.set_acl("/", hidden)
        try:
            for loss in ("lose_reply", "lose_request"):
                lose(proxy, loss)
                created = await client.create(f"{root}/n-", sequential=True)
                assert await witness.exists(created.path) == created.stat
        finally:
            await witness.set_acl("/", OPEN_ACL_UNSAFE)


@LOSSES
async def test_by_who_alone_may_read_his_receipts(loss: Loss, proxy: Proxy, root: str) -> None:
    """On the next connection he has to say who he is before he can look."""
    owner = {
        "auth": [("digest", b"owner:secret")],
        "acl": [digest_acl("owner", "secret")],
        "receipts_path": f"{root}/receipts",
    }
    async with through(proxy, exactly_once=True, **owner) as client:
        lose(proxy, loss)
        created = await client.create(f"{root}/n-", b"1", sequential=True)
        assert (await client.get(created.path)).stat == created.stat


async def test_the_largest_that_is_taken(proxy: Proxy, root: str) -> None:
    """What is too large for the servers, with its receipt, is refused here; they would cut the connection."""
    async with through(proxy, exactly_once=True) as client:
        size = (1 << 20) - 300
        call: Call[Created] | None = None
        while call is None:
            size -= 1
            with contextlib.suppress(RequestTooLargeError):
                call = client.create(f"{root}/n", bytes(size))
        assert size < (1 << 20) - 310, "the first ones were too large"
        proxy.lose_request(Op.MULTI)
        assert (await call).stat.data_length == size
        assert client.connections == 2


# -- the cost of finding a name


async def make_siblings(witness: Client, root: str, count: int) -> None:
    await asyncio.gather(*[witness.create(f"{root}/n-", sequential=True) for _ in range(count)])


async def cost_of_a_name(proxy: Proxy, witness: Client, root: str, siblings: int, meanwhile: int = 0) -> int:
    """How many requests it takes to find the name of a node with so many siblings, and so many younger ones."""
    path = (await witness.create(f"{root}/{siblings}-{meanwhile}")).path
    await make_siblings(witness, path, siblings)
    async with through(proxy, exactly_once=True) as client:
        lost = proxy.lose_reply(Op.MULTI)
        with apart(proxy):
            call = asyncio.ensure_future(client.create(f"{path}/n-", b"1", sequential=True))
            await lost.happened()
            await make_siblings(witness, path, meanwhile)
            sent = len(proxy.requests)
        created = await call
        found = len(proxy.seen(Op.EXISTS)) + len(proxy.seen(Op.GET_CHILDREN))
        assert len(proxy.requests) > sent
        assert created.path == f"{path}/n-{siblings:010d}"
        assert await witness.exists(created.path) == created.stat
        proxy.requests.clear()
    return found


async def test_it_does_not_grow_with_the_siblings(proxy: Proxy, witness: Client, root: str) -> None:
    few, some, many = [await cost_of_a_name(proxy, witness, root, siblings) for siblings in (5, 50, 5000)]
    assert few <= some == many <= 40


async def test_with_many_younger_siblings_they_are_listed_once(proxy: Proxy, witness: Client, root: str) -> None:
    assert await cost_of_a_name(proxy, witness, root, 5, 1000) < 1700
