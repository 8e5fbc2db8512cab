import ast
import asyncio
import contextvars
import pathlib
import threading
import time

import pytest

import everlatch.testing.simulation as package
from everlatch.engine.clock import clock_of
from everlatch.testing.simulation import (
    SimulationCallbackError,
    SimulationDeadlockError,
    SimulationLeakError,
    SimulationTimeLimitError,
    SimulationUsageError,
    simulation,
)


def run(main, **options):
    with simulation(seed=1, **options) as world:
        return world.run(main())


def private_names(thing):
    return {name for name in dir(thing) if name.startswith("_") and not name.startswith("__")}


def test_nothing_private_of_asyncio_is_used():
    async def task():
        return asyncio.current_task()

    loop = asyncio.SelectorEventLoop()
    theirs = private_names(loop) | private_names(loop.run_until_complete(task()))
    handle = asyncio.TimerHandle(1.0, print, (), loop)
    theirs |= private_names(handle) | set(asyncio.Handle.__slots__) | private_names(asyncio.Transport())
    loop.close()
    assert {"_ready", "_scheduled", "_run_once", "_selector", "_cancelled", "_callback", "_extra", "_state"} <= theirs
    files = sorted(pathlib.Path(package.__file__).parent.glob("*.py"))
    assert len(files) > 10
    used = {(path.name, name) for path in files for name in attributes(path, derived=path.name in DERIVED)}
    assert {(file, name) for file, name in used if name in theirs} == set()


DERIVED = ("loop.py", "process.py")
"""Where classes have classes of asyncio as their bases that are more than interfaces: there, `self` is theirs too."""


def attributes(path, *, derived):
    return [
        node.attr
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and (derived or ast.unparse(node.value) != "self")
    ]


def test_time_passes_only_when_nothing_else_is_left():
    async def main():
        loop = asyncio.get_running_loop()
        start = loop.time()
        seen = []
        loop.call_later(2, lambda: seen.append(("two", loop.time() - start)))
        loop.call_later(1, lambda: loop.call_soon(lambda: seen.append(("one", loop.time() - start))))
        loop.call_at(start + 2, lambda: seen.append(("two again", loop.time() - start)))
        began = time.monotonic()
        await asyncio.sleep(3600)
        assert time.monotonic() - began < 1
        assert loop.time() == start + 3600
        return seen

    assert run(main) == [("one", 1.0), ("two", 2.0), ("two again", 2.0)]


def test_callbacks_of_one_moment_run_in_order():
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        for number in range(50):
            loop.call_later(1, seen.append, number)
        await asyncio.sleep(1)
        return seen

    assert run(main) == list(range(50))


def test_a_cancelled_timer_does_not_fire_and_is_not_waited_for():
    async def main():
        loop = asyncio.get_running_loop()
        never = loop.call_later(1, pytest.fail, "fired")
        late = loop.call_later(5000, pytest.fail, "fired")
        assert never.when() == loop.time() + 1
        for timer in (never, late):
            timer.cancel()
            timer.cancel()
            assert timer.cancelled()
        await asyncio.sleep(2)
        return loop.time()

    assert run(main) == 1002.0


def test_cancelled_timers_do_not_pile_up():
    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(50_000):
            loop.call_later(1000, print).cancel()
        return len(loop._agenda)

    assert run(main) < 5000


def test_timeouts_work():
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main) == 1007.0


def test_the_engine_takes_its_clock_from_the_loop():
    async def main():
        await asyncio.sleep(5)
        return clock_of(asyncio.get_running_loop())()

    assert run(main) == 1005.0


def test_a_deadlock_fails_at_once_and_says_who_waits_where():
    async def waits_for_nothing():
        await asyncio.Event().wait()

    async def main():
        await asyncio.create_task(waits_for_nothing(), name="the waiting one")

    with pytest.raises(SimulationDeadlockError, match=r"the waiting one waits in wait \(.*locks\.py"):
        run(main)


def test_servers_alone_are_no_reason_to_go_on():
    with simulation(1) as world:
        world.server()
        with pytest.raises(SimulationDeadlockError, match="nothing but the idling of servers"):
            world.run(asyncio.Event().wait())


def test_who_sleeps_for_long_is_no_deadlock():
    with simulation(1) as world:
        world.server()
        world.run(asyncio.sleep(20_000))
        assert world.now >= 20_000


def test_a_run_may_not_take_for_ever():
    async def main():
        while True:
            await asyncio.sleep(1)

    with pytest.raises(SimulationTimeLimitError, match="100 virtual seconds"):
        run(main, limit=100)


def test_a_moment_may_not_take_for_ever():
    async def main():
        while True:
            await asyncio.sleep(0)

    with pytest.raises(SimulationTimeLimitError, match="no rest"):
        run(main)


def test_timers_of_one_moment_may_not_take_for_ever():
    async def main():
        loop = asyncio.get_running_loop()

        def again():
            loop.call_later(0, again)

        again()
        await asyncio.sleep(1)

    with pytest.raises(SimulationTimeLimitError, match="no rest"):
        run(main)


def test_what_a_callback_raises_fails_the_run():
    async def main():
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    with pytest.raises(SimulationCallbackError, match="ZeroDivisionError") as caught:
        run(main)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_tasks_left_behind_fail_the_run_by_name():
    async def main():
        main.task = asyncio.create_task(asyncio.sleep(1000), name="forgotten")

    with pytest.raises(SimulationLeakError, match="forgotten"):
        run(main)


def test_tasks_that_are_about_to_end_are_not_left_behind():
    async def main():
        task = asyncio.create_task(asyncio.sleep(1000))
        await asyncio.sleep(0)
        task.cancel()

    run(main)


def test_what_reaches_out_is_refused():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(SimulationUsageError, match="thread"):
            await asyncio.to_thread(print)
        with pytest.raises(SimulationUsageError, match="add_reader"):
            loop.add_reader(0, print)
        with pytest.raises(SimulationUsageError, match="subprocess_exec"):
            await asyncio.create_subprocess_exec("true")
        with pytest.raises(SimulationUsageError, match="who connects"):
            await asyncio.open_connection("zk1", 2181)
        with pytest.raises(SimulationUsageError, match="who listens"):
            await asyncio.start_server(print, port=1)

    threads = threading.active_count()
    run(main)
    assert threading.active_count() == threads


def test_sets_of_tasks_have_an_order():
    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(number)) for number in range(20)]
        in_a_set = [task.number for task in set(tasks)]
        await asyncio.gather(*tasks)
        return in_a_set

    assert run(main) == run(main)


def test_context_variables_pass_through_timers():
    variable = contextvars.ContextVar("variable")

    async def main():
        loop = asyncio.get_running_loop()
        variable.set("mine")
        heard = loop.create_future()
        loop.call_later(1, lambda: heard.set_result(variable.get()))
        variable.set("changed")
        return await heard

    assert run(main) == "mine"


def test_a_world_may_run_several_times():
    with simulation(1) as world:
        assert world.run(asyncio.sleep(1, "first")) == "first"
        assert world.run(asyncio.sleep(1, "second")) == "second"
        assert world.now == 2.0


def test_main_may_return_and_raise():
    async def main():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        run(main)
    assert "replay" in caught.value.__notes__[0]
