"""Machines with a name, an address, a clock and one process.

Rules:
1. Everything that runs on a host was started within it: `create_task`, `run`, or `with host:`. Use what belongs to a
   host (a client, a latch) only there: elsewhere another clock goes, and no fault is felt.
2. `pause` takes effect behind what the process does at this very moment. `crash` and `power_off` end a process; `start`
   begins a new one, with `main` if the host has one.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, TypeVar

from everlatch.client import Client
from everlatch.sasl import DigestMd5
from everlatch.testing.simulation.errors import SimulationUsageError
from everlatch.testing.simulation.process import Clock, Process, current_process

if TYPE_CHECKING:
    import asyncio
    import contextvars
    import random
    import types
    from collections.abc import Callable, Coroutine

    from everlatch.testing.simulation.world import World

__all__ = ["Host", "HostState"]

T = TypeVar("T")


class HostState(enum.Enum):
    """How a host is."""

    RUNNING = "running"
    PAUSED = "paused"
    """Its process is stopped, as by SIGSTOP or a virtual machine's migration; its kernel works."""
    CRASHED = "crashed"
    """Its process is dead; its kernel works."""
    OFF = "off"
    """The machine is dead."""


class Host:
    """One machine. Made by `World.host`."""

    is_server = False

    def __init__(
        self,
        world: World,
        name: str,
        ip: str,
        main: Callable[[], Coroutine[Any, Any, object]] | None = None,
        clock_rate: float = 1.0,
    ) -> None:
        self.world, self.name, self.ip, self.main = world, name, ip, main
        """`main` makes what the host's process does, at every start anew."""
        self.state = HostState.RUNNING
        self._clock = Clock(clock_rate)
        self._lives = 0
        self._clients = 0
        self._tokens: list[contextvars.Token[Process | None]] = []
        self._process = self._new_process()

    def __repr__(self) -> str:
        return f"<Host {self.name} ({self.ip}), {self.state.value}>"

    # -- running things

    @property
    def process(self) -> Process | None:
        """Its process, if it lives."""
        return None if self._process.dead else self._process

    @property
    def is_off(self) -> bool:
        """Whether the machine is."""
        return self.state is HostState.OFF

    def __enter__(self) -> Process:
        """Within `with host:` what is scheduled belongs to it. Nothing may be awaited inside."""
        self._tokens.append(current_process.set(self._alive()))
        return self._process

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        current_process.reset(self._tokens.pop())

    def create_task(self, coro: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """A task of this host's process. Raises `SimulationUsageError` if there is none at the moment."""
        try:
            process = self._alive()
        except SimulationUsageError:
            coro.close()
            raise
        task = self.world.loop.create_task(coro, name=name, context=process.context.copy())
        process.tasks[task] = None
        task.add_done_callback(process.tasks.pop)
        return task

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Runs it on this host and returns its result. If the host crashes meanwhile, that never comes."""
        return await self.create_task(coro)

    def client(self, servers: str | None = None, **options: Any) -> Client:
        """A client of this host for `servers`, by default all of the world's; its randomness comes from the seed. It
        has to be started and used on this host. `options` are those of `everlatch.Client`."""
        self._clients += 1
        rng = self.world.random(f"client {self._clients} of {self.name}")
        if type(options.get("sasl")) is DigestMd5:
            nonces = self.world.random(f"nonces of client {self._clients} of {self.name}")
            options["sasl"] = _SeededDigestMd5(options["sasl"], nonces)
        return _HostClient(self, self.world.address if servers is None else servers, rng=rng, **options)

    def _alive(self) -> Process:
        if self._process.dead:
            raise SimulationUsageError(f"{self.name} is {self.state.value}: nothing runs there until host.start()")
        return self._process

    def _new_process(self) -> Process:
        self._lives += 1
        return Process(self, self._lives, self._clock, background=self.is_server)

    # -- time

    def time(self) -> float:
        """What its clock shows."""
        return self._clock.at(self.world.loop.moment)

    @property
    def clock_rate(self) -> float:
        """How many seconds pass on it in one of the world's; may be set at any time."""
        return self._clock.rate

    @clock_rate.setter
    def clock_rate(self, rate: float) -> None:
        self._clock.change_rate(rate, self.world.loop.moment)
        self.world.loop.clock_changed(self._process)
        self.note(f"clock goes at {rate:g}")

    # -- faults

    def pause(self) -> None:
        """Stops the process: nothing of it runs until `resume`, which hands it all that came meanwhile, in order. Its
        kernel goes on: it accepts connections and takes bytes."""
        if self.state is HostState.RUNNING:
            self.state = HostState.PAUSED
            self._process.running = False
            self.note("paused")

    def resume(self) -> None:
        """Ends a pause."""
        if self.state is HostState.PAUSED:
            self.state = HostState.RUNNING
            self.note("resumed")
            self._process.release(self.world.loop)

    def crash(self) -> None:
        """Kills the process, as kill -9 does: its kernel closes its connections."""
        if not self._process.dead:
            self.note("crashed")
            self._end(HostState.CRASHED)
            for end in list(self._process.ends):
                end.leave()

    def power_off(self) -> None:
        """The machine is gone from one moment to the next; nobody is told."""
        if self.state is not HostState.OFF:
            self.note("lost its power")
            self._end(HostState.OFF)
            for end in list(self._process.ends):
                end.vanish()
            for route in self.world.network.routes_to(self):
                route.conditions_changed()

    def start(self) -> None:
        """Begins a new process after a crash or a loss of power; does nothing else."""
        if not self._process.dead:
            return
        was_off = self.is_off
        self.state = HostState.RUNNING
        self._process = self._new_process()
        self.note("started")
        if was_off:
            for route in self.world.network.routes_to(self):
                route.conditions_changed()
        self.boot()

    def heal(self) -> None:
        """It runs again, whatever was done to it; its clock stays as it is."""
        self.resume()
        self.start()

    def boot(self) -> None:
        """What a new process begins with."""
        if self.main is not None:
            task = self.create_task(self.main(), name=f"{self.name}/main-{self._lives}")
            task.add_done_callback(self._main_ended)

    def _main_ended(self, task: asyncio.Task[object]) -> None:
        """Nobody awaits it: that it failed is told as for every callback."""
        if not task.cancelled() and task.exception() is not None:
            self.world.loop.call_exception_handler(
                {"message": f"{task.get_name()} failed", "exception": task.exception(), "task": task}
            )

    def _end(self, state: HostState) -> None:
        self.state = state
        process = self._process
        process.dead, process.running = True, False
        process.listeners.clear()
        process.remains = [task for task in self.world.loop.tasks() if task.process is process]
        if process.remains:
            self.world.bury(process)

    def ghost(self) -> None:
        """The run is over: what is left of the process may come to an end, and reaches nobody."""
        for end in list(self._process.ends):
            end.vanish()
        self._process.listeners.clear()
        self._process.dead = True
        self._process.release(self.world.loop)

    def note(self, text: str) -> None:
        """A line for the log."""
        self.world.journal.note(self.name, text)


class _SeededDigestMd5(DigestMd5):
    """Its nonces are no secret, but the same in every run."""

    def __init__(self, mechanism: DigestMd5, rng: random.Random) -> None:
        super().__init__(mechanism.username, mechanism.password)
        self._rng = rng

    def _new_nonce(self) -> str:
        return f"{self._rng.getrandbits(128):032x}"


class _HostClient(Client):
    """The client, and a look at where it is started."""

    def __init__(self, host: Host, servers: str, **options: Any) -> None:
        super().__init__(servers, **options)
        self._host = host

    async def start(self, *, wait: bool = True) -> None:
        """As `Client.start`. Raises `SimulationUsageError` on another host."""
        process = current_process.get()
        if process is None or process.host is not self._host:
            where = "outside of all hosts" if process is None else f"on {process.host.name}"
            raise SimulationUsageError(
                f"a client of {self._host.name} was started {where}: use `await host.run(…)`, `host.create_task(…)` "
                "or `world.run(main(), on=host)`"
            )
        await super().start(wait=wait)
