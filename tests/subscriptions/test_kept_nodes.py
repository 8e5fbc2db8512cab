"""How a keeper's node is made, found again and deleted: what lost replies and leftovers do to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import (
    ACL,
    Absence,
    OutcomeUnknownError,
    Permission,
    ResultLostError,
    State,
    TransactionFailedError,
    WriteNotAppliedError,
)
from everlatch.operations import Operations
from everlatch.subscriptions import keeper as keeper_module
from everlatch.transaction import Transaction
from subscriptions.kept import PATH, Scene, scene

if TYPE_CHECKING:
    from collections.abc import Callable

LOST = (
    OutcomeUnknownError("create", PATH, None),
    WriteNotAppliedError("create", PATH, "for a test"),
    ResultLostError("create", PATH, 0, "for a test"),
)


async def end_the_session_for_us_alone(this: Scene) -> None:
    """The server takes a wrong password for the end of the session, which lives on for a while."""
    generation = this.client.generation
    this.client._engine.session.password = bytes(16)
    this.world.network.reset("app", "zk1")
    await this.until(lambda: this.client.generation > generation and this.client.state is State.CONNECTED)


def loses(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: Exception, *, applied: bool) -> list[Any]:
    """The reply to the first such call is lost, and it ends like that. Returns the results that were lost."""
    real: Callable[..., Any] = getattr(owner, name)
    lost: list[Any] = []

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        if lost:
            return real(self, *arguments, **options)
        lost.append(None)
        made = real(self, *arguments, **options) if applied else None

        async def end() -> Any:
            if made is not None:
                lost[0] = await made
            raise error

        return _Call(end())

    monkeypatch.setattr(owner, name, call)
    return lost


class _Call(asyncio.Task[Any]):
    """Of what is made up."""

    def __init__(self, steps: Any) -> None:
        super().__init__(steps, loop=asyncio.get_running_loop())


@scene()
async def test_what_the_former_session_has_left_is_replaced_at_once(this: Scene) -> None:
    async with (
        this.client.keep(PATH, b"one") as kept,
        this.client.keep("/services/n-", sequential=True) as numbered,
    ):
        await kept.wait()
        last = await numbered.wait()
        await this.other(lambda other: other.set(PATH, b"changed by somebody"))
        before = await this.stat()
        assert before is not None
        await end_the_session_for_us_alone(this)
        began = this.world.now
        await kept.wait()
        assert await numbered.wait() != last
        assert this.world.now < began + 0.05
        after = await this.stat()
        assert after is not None
        assert after.ephemeral_owner == this.client.session_id != before.ephemeral_owner
        assert (await this.data(), kept.presence.reason) == (b"one", Absence.SESSION_ENDED)
        assert len(await this.names()) == 2


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("sequential", [False, True])
@scene()
async def test_a_creation_whose_reply_is_lost(this: Scene, error: Exception, applied: bool, sequential: bool) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with this.client.keep(PATH, b"one", sequential=sequential) as kept:
            await kept.wait()
            lost = loses(monkeypatch, Operations, "create", error, applied=applied)
            await this.other(lambda other: other.delete(kept.path))
            await this.until(lambda: lost and kept.is_present and kept.presence.reason is Absence.DELETED)
            assert len(await this.names()) == 1
            assert await this.data(kept.path) == b"one"
    assert await this.names() == []


@pytest.mark.parametrize("error", LOST[:2], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("applied", [True, False])
@scene()
async def test_an_update_whose_reply_is_lost(this: Scene, error: Exception, applied: bool) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with this.client.keep(PATH, b"one") as kept:
            await kept.wait()
            loses(monkeypatch, Operations, "set", error, applied=applied)
            await kept.update(b"two")
            assert await this.data() == b"two"


@pytest.mark.parametrize("applied", [True, False])
@scene()
async def test_a_replacement_whose_reply_is_lost(this: Scene, applied: bool) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with this.client.keep(PATH, b"one") as kept:
            await kept.wait()
            lost = loses(monkeypatch, Transaction, "commit", LOST[0], applied=applied)
            await end_the_session_for_us_alone(this)
            await kept.wait()
            assert lost
            stat = await this.stat()
            assert stat is not None
            assert stat.ephemeral_owner == this.client.session_id
            assert await this.data() == b"one"


@scene()
async def test_a_replacement_that_comes_too_late(this: Scene) -> None:
    """The leftover was changed since it was seen, or has gone."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with this.client.keep(PATH, b"one") as kept:
            await kept.wait()
            refusals: list[TransactionFailedError] = []
            commit = Transaction.commit

            def meddled(self: Transaction, **options: Any) -> Any:
                async def end() -> None:
                    if not refusals:
                        await this.other(lambda other: other.set(PATH, b"changed"))
                    try:
                        await commit(self, **options)
                    except TransactionFailedError as error:
                        refusals.append(error)
                        raise

                return _Call(end())

            monkeypatch.setattr(Transaction, "commit", meddled)
            await end_the_session_for_us_alone(this)
            await kept.wait()
            assert refusals
            assert await this.data() == b"one"


@pytest.mark.parametrize("sequential", [False, True])
@scene()
async def test_a_creation_that_is_on_its_way_when_it_is_closed(this: Scene, sequential: bool) -> None:
    async with this.client.keep(PATH, b"one", sequential=sequential) as kept:
        await asyncio.sleep(0.0001)
        assert not kept.is_present
    await this.until(lambda: not keeper_module._releases)
    assert await this.names() == []


@scene()
async def test_an_own_node_that_was_there_before(this: Scene) -> None:
    """Made by the same client, in the same session: it is the keeper's, with the keeper's data."""
    await this.client.create(PATH, b"before", ephemeral=True)
    async with this.client.keep(PATH, b"one") as kept:
        await kept.update(b"one")
        assert await this.data() == b"one"
    assert await this.stat() is None


@scene(version="3.9")
async def test_an_acl_that_keeps_even_the_keeper_from_reading(this: Scene) -> None:
    acl = [ACL((Permission.WRITE | Permission.ADMIN).value, "world", "anyone")]
    async with this.client.keep(PATH, b"one", acl=acl) as kept:
        await kept.wait()
        await kept.update(b"two")
        await asyncio.sleep(200)
        assert kept.is_present
        await this.lose_the_session()
        await kept.wait()
    assert await this.names() == []
