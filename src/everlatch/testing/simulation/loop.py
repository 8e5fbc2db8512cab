"""An event loop whose clock jumps: when nothing is left to do at one moment, the next one for which something is
scheduled has come.

Built from asyncio's public parts alone: a `SelectorEventLoop` with a selector that never waits. Whenever the loop asks
it for what has become ready, the selector has the loop go on to the next moment.

Rules:
1. Nothing outside of the loop can happen: no sockets, threads, signals or subprocesses; who asks for them is told.
2. Callbacks of one moment run in the order in which they were scheduled; time advances only when none is left.
3. Within a process `time()` is its host's clock, and `call_at` means that clock.
4. Tasks are numbered and hashed by their number, so that a set of tasks (a TaskGroup's, say) has the same order in
   every run.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import selectors
import socket
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast

from everlatch.testing.simulation.errors import (
    SimulationDeadlockError,
    SimulationTimeLimitError,
    SimulationUsageError,
)
from everlatch.testing.simulation.process import START, current_process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from everlatch.testing.simulation.names import Names
    from everlatch.testing.simulation.network import Network
    from everlatch.testing.simulation.process import Process

__all__ = ["SimulatedTask", "VirtualLoop", "waiting"]

T = TypeVar("T")

_MOST_TURNS: Final = 200_000
"""Turns of the loop at one moment."""
_IDLE: Final = 3600.0
"""Virtual seconds in which nothing but servers idles before that counts as a deadlock."""
_FEW: Final = 1000
"""Cancelled timers that nobody minds."""

_current = current_process.get


class SimulatedTask(asyncio.Task[T]):
    """A task that knows its number and its process."""

    def __init__(self, coro: Coroutine[Any, Any, T], number: int, process: Process | None, **kwargs: Any) -> None:
        self.number = number  # before it is registered, by its hash
        self.process = process
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self.number


class _Timer(asyncio.TimerHandle):
    """Something scheduled. `when()` is on the clock of whoever scheduled it."""

    __slots__ = ("home", "job", "loop", "process")

    def __init__(
        self,
        when: float,
        job: tuple[Callable[..., object], tuple[Any, ...]],
        loop: VirtualLoop,
        home: contextvars.Context,
        process: Process | None,
    ) -> None:
        super().__init__(when, *job, loop, home)
        self.job: tuple[Callable[..., object], tuple[Any, ...]] | None = job
        self.loop, self.home, self.process = loop, home, process

    def cancel(self) -> None:
        if self.job is not None:
            self.job = None
            self.loop.forget_cancelled()
        super().cancel()

    def fire(self) -> None:
        """Within `home`."""
        if self.job is not None:
            (callback, args), self.job = self.job, None
            callback(*args)


class _Selector(selectors.SelectSelector):
    """Nothing is ever ready; instead of waiting it asks the loop to go on."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.loop.go_on(idle=timeout is None)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. `limit`: virtual seconds that a run may take."""

    virtual_time = True
    """So that `engine.clock` reads `time()`."""

    def __init__(self, limit: float) -> None:
        selector = _Selector()
        selector.loop = self
        self.moment = START
        """The world's time."""
        self.limit = limit
        self.errors: list[dict[str, Any]] = []
        """What reached the exception handler."""
        self.network: Network
        self.names: Names
        self._agenda: list[tuple[float, int, _Timer | Callable[[], object]]] = []
        self._entries = 0
        self._tasks = 0
        self._turns = 0
        self._withdrawn = 0
        self._alive_at = START
        """When something other than servers was last seen to have plans."""
        self._outside = contextvars.Context()
        super().__init__(selector)
        self.set_debug(False)
        self.set_task_factory(cast("Any", self._new_task))
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    # -- time

    def time(self) -> float:
        """The clock of the host on which this is called; the world's time elsewhere."""
        process = _current()
        return self.moment if process is None else process.clock.at(self.moment)

    def go_on(self, *, idle: bool) -> None:
        """Has everything called that is due now. If there is nothing else to do, now is when something is due."""
        agenda = self._agenda
        self._turns += 1
        if self._turns > _MOST_TURNS:
            raise SimulationTimeLimitError(
                f"no rest after {_MOST_TURNS} turns of the loop at {self.moment - START:.6f} s: {waiting(self)}"
            )
        if idle:
            self._skip_cancelled()
            if not agenda:
                raise SimulationDeadlockError(f"nothing is left that could happen: {waiting(self)}")
            if agenda[0][0] > self.moment:
                self._advance(agenda[0][0])
        now = self.moment
        while agenda and agenda[0][0] <= now:
            entry = heapq.heappop(agenda)[2]
            if not isinstance(entry, _Timer):
                super().call_soon(entry, context=self._outside)
            elif entry.job is None:
                self._withdrawn -= 1
            else:
                self.call_soon(entry.fire, context=entry.home)

    def _advance(self, moment: float) -> None:
        if moment - START > self.limit:
            raise SimulationTimeLimitError(f"not done after {self.limit:g} virtual seconds: {waiting(self)}")
        if moment - self._alive_at > _IDLE:
            if not any(isinstance(entry, _Timer) and _is_plan(entry) for _, _, entry in self._agenda):
                raise SimulationDeadlockError(
                    f"nothing but the idling of servers has happened since {self._alive_at - START:.3f} s: "
                    f"{waiting(self)}"
                )
            self._alive_at = self.moment
        self.moment = moment
        self._turns = 0

    def allow_more(self, seconds: float) -> None:
        """For cleaning up: so much more virtual time."""
        self.limit = self.moment - START + seconds
        self._alive_at = self.moment
        self._turns = 0

    # -- scheduling

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's; held if its process doesn't run."""
        process = _current() if context is None else context.get(current_process)
        if process is None or process.running:
            return super().call_soon(callback, *args, context=context)
        return process.hold(callback, args, self, contextvars.copy_context() if context is None else context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's; `delay` is in seconds of its process' clock."""
        process = _current() if context is None else context.get(current_process)
        now = self.moment if process is None else process.clock.at(self.moment)
        return self.call_at(now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's; `when` is on its process' clock."""
        home = contextvars.copy_context() if context is None else context
        process = home.get(current_process)
        timer = _Timer(when, (callback, args), self, home, process)
        self._enter(when if process is None else process.clock.when(when), timer)
        return timer

    def schedule(self, moment: float, callback: Callable[[], object]) -> None:
        """Has `callback` called at a time of the world, outside of all processes. It can't be cancelled."""
        self._enter(moment, callback)

    def _enter(self, moment: float, entry: _Timer | Callable[[], object]) -> None:
        self._entries += 1
        heapq.heappush(self._agenda, (max(moment, self.moment), self._entries, entry))

    def clock_changed(self, process: Process) -> None:
        """Its timers are due at other times of the world from now on."""
        self._agenda = [
            (max(self.moment, process.clock.when(entry.when())), number, entry)
            if isinstance(entry, _Timer) and entry.process is process
            else (moment, number, entry)
            for moment, number, entry in self._agenda
        ]
        heapq.heapify(self._agenda)

    def forget_cancelled(self) -> None:
        """A timer was cancelled. When they are many, they go."""
        self._withdrawn += 1
        if self._withdrawn > _FEW and self._withdrawn * 2 > len(self._agenda):
            self._withdrawn = 0
            self._agenda[:] = [each for each in self._agenda if not isinstance(each[2], _Timer) or each[2].job]
            heapq.heapify(self._agenda)

    def _skip_cancelled(self) -> None:
        agenda = self._agenda
        while agenda and isinstance(agenda[0][2], _Timer) and agenda[0][2].job is None:
            heapq.heappop(agenda)
            self._withdrawn -= 1

    # -- tasks

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any
    ) -> SimulatedTask[Any]:
        self._tasks += 1
        context: contextvars.Context | None = kwargs.get("context")
        process = _current() if context is None else context.get(current_process)
        if kwargs.get("name") is None:
            kwargs["name"] = f"{'tester' if process is None else process.host.name}/task-{self._tasks}"
        return SimulatedTask(coro, self._tasks, process, loop=loop, **kwargs)

    def tasks(self) -> list[SimulatedTask[Any]]:
        """Those that aren't done, oldest first."""
        found = (task for task in asyncio.all_tasks(self) if isinstance(task, SimulatedTask))
        return sorted(found, key=lambda task: task.number)

    # -- the network

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        """From the world's names."""
        ips = await self.names.resolve(host or "")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip, port)) for ip in ips]

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: str | None = None, port: int | None = None, **kwargs: Any
    ) -> tuple[Any, Any]:
        """As asyncio's, over the world's network, from the host on which it is called."""
        process = _current()
        refused = [name for name, value in kwargs.items() if value not in (None, 0, False)]
        if refused or host is None or port is None:
            raise SimulationUsageError(
                f"the simulated network connects to a host and a port, in the clear; it has no {refused or 'sockets'}"
            )
        if process is None:
            raise SimulationUsageError(
                f"who connects to {host}:{port}? Connections begin on a host: `await host.run(…)`, "
                "`host.create_task(…)` or `world.run(main(), on=host)`"
            )
        failure: OSError | None = None
        for ip in await self.names.resolve(host):
            try:
                return await self.network.connect(process, protocol_factory, ip, port)
            except OSError as error:
                failure = error
        raise failure or OSError(f"getaddrinfo({host!r}) returned empty list")

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: Any = None, port: int | None = None, **kwargs: Any
    ) -> asyncio.AbstractServer:
        """As asyncio's, on the host on which it is called: it listens on all of the host's addresses."""
        process = _current()
        if process is None:
            raise SimulationUsageError("who listens? Servers are on a host: `await host.run(…)` or `with host:`")
        return self.network.listen(process, port or 0, protocol_factory)

    # -- what there isn't

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        """Refused: nobody can tell how much virtual time a thread takes."""
        raise SimulationUsageError(
            f"{func!r} was to run in a thread; a simulation has none, for they don't follow its clock: call it "
            "directly, or pass in what it would have returned"
        )


def _no_such_thing(name: str) -> Callable[..., NoReturn]:
    def refuse(self: VirtualLoop, *args: Any, **kwargs: Any) -> NoReturn:
        raise SimulationUsageError(f"loop.{name}() reaches out of the simulation: it has streams between hosts only")

    return refuse


_OUTSIDE_WORLD: Iterable[str] = (
    *("add_reader", "add_writer", "sock_recv", "sock_recv_into", "sock_sendall", "sock_connect", "sock_accept"),
    *("sock_sendto", "sock_recvfrom", "create_datagram_endpoint", "create_unix_connection", "create_unix_server"),
    *("subprocess_exec", "subprocess_shell", "connect_read_pipe", "connect_write_pipe", "connect_accepted_socket"),
    *("start_tls", "sendfile", "sock_sendfile", "add_signal_handler"),
)
for _name in _OUTSIDE_WORLD:
    setattr(VirtualLoop, _name, _no_such_thing(_name))


def _is_plan(timer: _Timer) -> bool:
    """Whether somebody other than a server waits for it."""
    return timer.job is not None and (timer.process is None or not (timer.process.background or timer.process.dead))


def waiting(loop: VirtualLoop) -> str:
    """What every task waits for, a line each."""
    lines = [f"\n  {task.get_name()} waits in {_place(task)}{_state(task.process)}" for task in loop.tasks()]
    return "".join(lines) or "there is no task"


def _state(process: Process | None) -> str:
    if process is None or process.running:
        return ""
    return f" (its process is {'dead' if process.dead else 'paused'})"


def _place(task: asyncio.Task[Any]) -> str:
    """The innermost of the coroutines that await each other."""
    step: Any = task.get_coro()
    while getattr(getattr(step, "cr_await", None), "cr_frame", None) is not None:
        step = step.cr_await
    frame = getattr(step, "cr_frame", None)
    if frame is None:
        return repr(step)
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
