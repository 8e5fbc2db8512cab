"""Calls: futures that were submitted already, and coroutines as well."""

from __future__ import annotations

import asyncio
import collections.abc
import gc

import pytest

from everlatch import Call, Client, ClientClosedError, Node, NoNodeError
from everlatch.engine.transport import Link
from everlatch.wire.codes import Op
from scripted_server import ScriptedServer, hold, swallow
from skipping_loop import SkippingLoop, on_every_loop, simulated


@on_every_loop
async def test_can_be_awaited_in_every_way():
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a", b"x")

        def get() -> Call[Node]:
            return client.get("/a")

        assert (await get()).data == b"x"
        assert (await asyncio.create_task(get())).data == b"x"
        assert (await asyncio.ensure_future(get())).data == b"x"
        assert (await asyncio.shield(get())).data == b"x"
        assert (await asyncio.wait_for(get(), 5)).data == b"x"
        async with asyncio.timeout(5):
            assert (await get()).data == b"x"
        assert [node.data for node in await asyncio.gather(get(), get())] == [b"x", b"x"]
        assert [(await node).data for node in asyncio.as_completed([get(), get()])] == [b"x", b"x"]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(get()) for _ in range(3)]
        assert [task.result().data for task in tasks] == [b"x"] * 3
        assert len(server.paths(Op.GET_DATA)) == 13


@on_every_loop
async def test_errors_arrive_in_every_way():
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(NoNodeError):
            await client.get("/none")
        with pytest.raises(NoNodeError):
            await asyncio.create_task(client.get("/none"))
        with pytest.raises(NoNodeError):
            await asyncio.wait_for(client.get("/none"), 5)
        with pytest.raises(ExceptionGroup) as group:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(client.get("/none"))
        assert group.group_contains(NoNodeError)


@simulated
async def test_is_a_coroutine_and_a_future():
    async with ScriptedServer() as server, server.client() as client:
        call = client.exists("/")
        assert asyncio.isfuture(call)
        assert asyncio.iscoroutine(call)
        assert isinstance(call, collections.abc.Coroutine)
        seen: list[Call[object]] = []
        call.add_done_callback(seen.append)
        await call
        assert await call == call.result()
        await asyncio.sleep(0)
        assert seen == [call]


@simulated
async def test_asyncio_wait_takes_it_as_a_task():
    async with ScriptedServer() as server, server.client() as client:
        call = client.exists("/")
        with pytest.raises(TypeError):
            await asyncio.wait([call])
        done, _ = await asyncio.wait([asyncio.create_task(call)])
        assert done.pop().result() is not None


@simulated
async def test_is_submitted_when_called_and_needs_no_await():
    async with ScriptedServer() as server, server.client() as client:
        call = client.create("/a")
        await server.wait_for_requests(1)
        assert server.znodes.applied == [("create", "/a")]
        await call


@simulated
async def test_a_task_cancelled_at_birth_withdraws_the_call():
    async with ScriptedServer() as server, server.client(max_in_flight=1) as client:
        server.next(hold)
        first = client.exists("/")
        task = asyncio.create_task(client.create("/a"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.wait_for_requests(1)
        server.connection.release()
        await first
        await client.sync()
        assert server.znodes.applied == []


@simulated
async def test_throw_before_the_first_step_cancels():
    async with ScriptedServer() as server, server.client() as client:
        call = client.exists("/")
        with pytest.raises(asyncio.CancelledError):
            call.throw(asyncio.CancelledError())
        assert call.cancelled()
        call = client.exists("/")
        with pytest.raises(KeyError):
            call.throw(KeyError)
        assert call.cancelled()


@simulated
async def test_throw_after_the_first_step_raises_where_it_waits():
    async with ScriptedServer() as server, server.client() as client:
        call = client.exists("/")
        call.send(None)
        with pytest.raises(KeyError, match="why"):
            call.throw(KeyError("why"))
        assert not call.cancelled()
        await asyncio.wait_for(asyncio.shield(call), 5)


@simulated
async def test_close_cancels_what_has_not_ended():
    async with ScriptedServer() as server, server.client() as client:
        unstarted, started, ended = client.exists("/"), client.exists("/"), client.exists("/")
        started.send(None)
        await ended
        late = client.exists("/")
        for call in (late, ended):
            call.close()
        assert late.cancelled()
        assert ended.result() is not None
        assert unstarted.done()
        started.close()


@on_every_loop
async def test_cancelled_unsent_it_never_reaches_the_server():
    async with ScriptedServer() as server, server.client(max_in_flight=1) as client:
        server.next(hold)
        first = client.create("/first")
        unsent = client.create("/unsent")
        behind = client.create("/behind")
        assert unsent.cancel()
        assert not unsent.cancel()
        await server.wait_for_requests(1)
        server.connection.release()
        await first
        await behind
        assert server.paths(Op.CREATE2) == ["/first", "/behind"]
        assert client.statistics().queued_calls == 0


@on_every_loop
async def test_cancelled_after_it_was_sent_its_reply_is_swallowed():
    async with ScriptedServer() as server, server.client() as client:
        server.next(hold)
        sent = client.create("/sent", b"1")
        behind = client.get("/sent")
        await server.wait_for_requests(2)
        assert sent.cancel()
        server.connection.release()
        assert (await behind).data == b"1"
        assert client.statistics().in_flight == 0


@simulated
async def test_a_timeout_of_asyncio_cancels_the_call():
    async with ScriptedServer() as server, server.client() as client:
        server.next(swallow)
        call = client.exists("/")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.5)
        assert call.cancelled()


@simulated
async def test_there_is_no_task_and_no_timer_behind_a_call():
    async with ScriptedServer() as server, server.client() as client:
        await client.sync()
        loop = asyncio.get_running_loop()
        tasks, timers = asyncio.all_tasks(), len(loop._scheduled)  # type: ignore[attr-defined]
        calls = [client.get("/", timeout=3) for _ in range(100)] + [client.get("/") for _ in range(100)]
        assert asyncio.all_tasks() == tasks
        assert len(loop._scheduled) <= timers + 1  # type: ignore[attr-defined]
        await asyncio.gather(*calls)


@simulated
async def test_an_ended_call_is_in_no_cycle():
    async with ScriptedServer() as server, server.client() as client:
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                await client.get("/", timeout=3)
            await asyncio.sleep(0)
            assert not [thing for thing in gc.get_objects() if isinstance(thing, Call) and thing.done()]
        finally:
            gc.enable()


@simulated
async def test_calls_that_wait_end_when_the_client_is_closed():
    async with ScriptedServer() as server:
        client = server.client()
        await client.start(wait=False)
        call = client.get("/")
        await client.close()
        with pytest.raises(ClientClosedError):
            await call


# -- the turn in which a waiting task goes on


class Turns:
    """What happens within the turns in which the link of a client reports."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        received = client._engine.link_received

        def noted(link: Link, data: bytes) -> None:
            self.events.append("read")
            received(link, data)
            self.events.append("end of read")

        monkeypatch.setattr(client._engine, "link_received", noted)

    def note(self, what: str) -> None:
        self.events.append(what)


@on_every_loop
async def test_who_awaits_the_only_call_goes_on_in_the_turn_of_the_read(monkeypatch: pytest.MonkeyPatch):
    async with ScriptedServer() as server, server.client() as client:
        turns = Turns(client, monkeypatch)
        await client.get("/")
        turns.note("first")
        with pytest.raises(NoNodeError):
            await client.get("/none")
        turns.note("second")
        assert turns.events == ["read", "first", "end of read", "read", "second"]


@on_every_loop
async def test_with_others_in_flight_tasks_go_on_in_the_next_turn(monkeypatch: pytest.MonkeyPatch):
    async with ScriptedServer() as server, server.client() as client:
        turns = Turns(client, monkeypatch)
        server.next(hold)
        first, second = client.get("/"), client.get("/")
        await server.wait_for_requests(2)
        server.connection.release()
        await first
        turns.note("first")
        await second
        assert turns.events[:3] == ["read", "end of read", "first"]


@on_every_loop
async def test_callbacks_run_by_the_loop_after_the_task_that_came_first(monkeypatch: pytest.MonkeyPatch):
    async with ScriptedServer() as server, server.client() as client:
        turns = Turns(client, monkeypatch)
        call = client.get("/")

        async def waits(name: str) -> None:
            await call
            turns.note(name)

        tasks = [asyncio.create_task(waits("one")), asyncio.create_task(waits("two"))]
        await asyncio.sleep(0)
        call.add_done_callback(lambda _: turns.note("callback"))
        await asyncio.gather(*tasks)
        assert turns.events == ["read", "one", "end of read", "two", "callback"]


@on_every_loop
async def test_who_hears_of_a_change_hears_it_before_the_reply_that_shows_it_goes_on():
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a")
        order = list[str]()
        for number in range(10):
            await client.get("/a", watch=lambda _: order.append("event"))
            await client.set("/a", b"%d" % number)
            order.append("reply")
        assert order == ["event", "reply"] * 10


@on_every_loop
async def test_a_task_that_goes_on_in_the_read_may_do_anything(monkeypatch: pytest.MonkeyPatch):
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        turns = Turns(client, monkeypatch)
        await client.get("/")
        calls = [client.create(f"/{number}") for number in range(3)]
        turns.note("calls")
        await client.close()
        assert turns.events[:2] == ["read", "calls"]
        assert [(await call).path for call in calls] == ["/0", "/1", "/2"]


@on_every_loop
async def test_cancelling_the_task_that_waits_alone_cancels_the_call():
    async with ScriptedServer() as server, server.client() as client:
        server.next(hold)
        call = client.get("/")

        async def waits() -> None:
            await call

        task = asyncio.create_task(waits())
        await server.wait_for_requests(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.cancelled()
        server.connection.release()
        assert await client.exists("/") is not None


@on_every_loop
async def test_a_task_that_waits_alone_outlives_its_connection():
    async with ScriptedServer() as server, server.client() as client:
        server.next(hold)
        waiting = asyncio.create_task(client.get("/"))
        await server.wait_for_requests(1)
        server.connection.close()
        assert (await waiting).data == b""


@on_every_loop
async def test_a_task_that_waits_alone_hears_of_timeout_and_close():
    async with ScriptedServer() as server:
        client = server.client()
        await client.start()
        server.next(swallow)
        with pytest.raises(TimeoutError):
            await client.get("/", timeout=0.01)
        server.next(swallow)
        waiting = asyncio.create_task(client.get("/"))
        await server.wait_for_requests(2)
        await client.close(timeout=0.01)
        with pytest.raises(ClientClosedError):
            await waiting


@simulated
async def test_a_link_that_reports_from_within_a_task_resumes_no_other_in_it(monkeypatch: pytest.MonkeyPatch):
    async with ScriptedServer() as server, server.client() as client:
        replies = list[tuple[Link, bytes]]()
        received = client._engine.link_received
        monkeypatch.setattr(client._engine, "link_received", lambda link, data: replies.append((link, data)))
        seen = list[str]()

        async def waits() -> None:
            await client.get("/")
            seen.append("waited")

        task = asyncio.create_task(waits())
        await asyncio.sleep(0.1)
        received(*replies.pop())
        assert seen == []
        await task
        assert seen == ["waited"]


@pytest.mark.parametrize("loop_factory", [asyncio.SelectorEventLoop, SkippingLoop])
def test_what_ends_a_program_ends_the_loop_and_not_the_connection(
    loop_factory: type[asyncio.SelectorEventLoop],
):
    """A Ctrl-C (KeyboardInterrupt) that is raised in the turn of the read."""

    async def main() -> None:
        async with ScriptedServer() as server, server.client() as client:

            async def interrupted() -> None:
                await client.get("/")
                raise SystemExit(3)

            task = asyncio.create_task(interrupted())
            try:
                await asyncio.sleep(10)
            finally:
                assert isinstance(task.exception(), SystemExit)
                assert await client.exists("/") is not None
                assert client.connections == 1

    with pytest.raises(SystemExit), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
