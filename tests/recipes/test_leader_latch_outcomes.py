"""The leader latch, when its client finds out what became of a lost write: it goes on, with one node at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from everlatch.client import SessionClient
from everlatch.errors import OutcomeUnknownError, ResultLostError
from everlatch.recipes import LeaderLatch
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, answer, drop_after, swallow
from skipping_loop import simulated

if TYPE_CHECKING:
    from everlatch.client import Client

LATCH = "/latch"


def members(server: ScriptedServer) -> list[bytes]:
    nodes = server.znodes.nodes
    return [nodes[path].data for path in sorted(nodes, key=lambda path: path[-10:]) if path.startswith(f"{LATCH}/")]


async def lose_with_a_later_write(server: ScriptedServer, client: Client, op: Op) -> None:
    """The next such request is not executed, but a write behind it is, so that it is not sent again."""
    server.on(op, swallow)
    sent = len(server.paths(op)) if op is not Op.MULTI else None
    await server.until(lambda: sum(request.op == op for request in server.requests) > (sent or 0))
    server.on(Op.SET_DATA, drop_after)
    with pytest.raises(OutcomeUnknownError):
        await client.set("/", b"")


@simulated
async def test_a_node_that_was_not_created_for_the_sake_of_order_is_created_at_once(caplog):
    async with ScriptedServer() as server, server.client() as client:
        server.znodes.create(LATCH)
        latch = LeaderLatch(client, LATCH, "a")
        await latch.start()
        await lose_with_a_later_write(server, client, Op.CREATE2)
        await latch.wait(timeout=10)
        assert members(server) == [b"a"]
        assert len(server.paths(Op.CREATE2)) == 2
        assert "trying again" not in caplog.text
        await latch.close()
        assert members(server) == []


@simulated
async def test_a_node_that_was_not_deleted_for_the_sake_of_order_is_deleted_at_once(caplog):
    async with ScriptedServer() as server, server.client() as client:
        latch = LeaderLatch(client, LATCH, "a")
        await latch.start()
        await latch.wait(timeout=10)
        server.on(Op.DELETE, swallow)
        server.on(Op.SET_DATA, drop_after)
        closing = latch.close()
        write = client.set("/", b"")
        await closing
        with pytest.raises(OutcomeUnknownError):
            await write
        assert members(server) == []
        assert "can't delete" not in caplog.text


@simulated
async def test_a_node_whose_name_is_lost_is_found(monkeypatch, caplog):
    """It was created; that its number isn't known must not have the latch create another one behind it."""
    create, lost = SessionClient.create, []

    async def nameless(self: Any, path: str, *args: Any, **options: Any) -> Any:
        created = await create(self, path, *args, **options)
        if lost:
            return created
        lost.append(created.path)
        raise ResultLostError("create", path, created.stat.czxid, "its number is not known")

    async with ScriptedServer() as server, server.client() as client:
        server.znodes.create(LATCH)
        monkeypatch.setattr(SessionClient, "create", nameless)
        latch = LeaderLatch(client, LATCH, "a")
        await latch.start()
        await latch.wait(timeout=10)
        assert [latch.node] == lost
        assert members(server) == [b"a"]
        assert "trying again" not in caplog.text
        await latch.close()
        assert members(server) == []


@pytest.mark.parametrize("exactly_once", [False, True])
@simulated
async def test_a_hand_over_that_was_not_applied_for_the_sake_of_order_is_done_again(exactly_once):
    async with (
        ScriptedServer() as server,
        server.client(exactly_once=exactly_once) as client,
        server.client() as other,
    ):
        a, b = LeaderLatch(client, LATCH, "a"), LeaderLatch(other, LATCH, "b")
        await a.start()
        await a.wait(timeout=10)
        await b.start()
        await server.until(lambda: b.node)
        lost: list[Any] = []
        writes: list[Any] = []

        def lose(connection: Any, request: Any) -> None:
            if b"_c_" in request.body and not lost:
                lost.append(request)
                server.on(Op.MULTI if exactly_once else Op.SET_DATA, drop_after)
                writes.append(client.set("/", b""))
            else:
                server.on(Op.MULTI, lose)
                answer(connection, request)

        server.on(Op.MULTI, lose)
        await a.hand_over(timeout=30)
        await b.wait(timeout=30)
        assert lost
        assert members(server) == [b"b", b"a"]
        for write in writes:
            try:
                await write
            except OutcomeUnknownError:
                assert not exactly_once
            else:
                assert exactly_once
        await a.close()
        await b.close()
        assert members(server) == []
