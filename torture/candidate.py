"""A process with candidates for one election: `python -m torture.candidate TASK`, as `torture.real_leadership` does.

Rules of this file: what is seen is written down at once, for the process may be killed at any moment. Times are
`time.monotonic()`, the same for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch import Client
from everlatch.errors import (
    CallTimeoutError,
    EverlatchError,
    NodeExistsError,
    NotLeaderError,
    OutcomeUnknownError,
    WriteNotAppliedError,
)
from everlatch.recipes import LeaderLatch
from torture.leadership import Believed, Changed, Wrote, line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.transaction import Transaction
    from everlatch.types import Stat, StateChange
    from torture.leadership import Record

__all__ = ["Task", "main"]

_LATCH: Final = "/election"
_FENCE: Final = "/fence"
_LOOK: Final = 0.01
"""Seconds between two looks at whether one leads."""
_WRITES: Final = 0.2
"""Seconds between two writes of a leader that writes, on average."""
_HAND_OVERS: Final = 0.3
"""Of all terms that end by the leader's will; the others end by its resigning."""
_SILENT: Final = 4.0
"""Seconds for which a leader that begins without a write goes on so, on average."""
_TERM: Final = 8.0
"""Seconds that a leader wants to lead, on average."""


class Task(NamedTuple):
    """What one process is to do."""

    names: list[str]
    """Of the candidates in it."""
    servers: str
    timeout: float
    """Of their sessions."""
    output: str
    """Where what they see goes."""
    until: float

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(self._asdict())


class _Candidate:
    """One, with a client of its own."""

    def __init__(self, task: Task, name: str, output: int) -> None:
        self._task, self._output = task, output
        self.name = f"{name}.{os.getpid()}"
        self._rng = random.Random(self.name)
        self._writes: set[asyncio.Task[None]] = set()

    def _note(self, record: Record) -> None:
        os.write(self._output, line(record).encode())

    async def run(self) -> None:
        """Until the end."""
        client = Client(self._task.servers, session_timeout=self._task.timeout)
        client.add_listener(self._changed)
        await client.start(wait=False)
        await _make_fence(client)
        while time.monotonic() < self._task.until:
            async with LeaderLatch(client, _LATCH, self.name) as latch:
                await self._take_part(client, latch)
        await asyncio.gather(*self._writes)
        await client.close()

    def _changed(self, change: StateChange) -> None:
        self._note(Changed(self.name, time.monotonic(), change.state.name))

    async def _take_part(self, client: Client, latch: LeaderLatch) -> None:
        """Until it has led for as long as it wants to."""
        left = self._rng.expovariate(1 / _TERM)
        while time.monotonic() < self._task.until and left > 0:
            with contextlib.suppress(CallTimeoutError):
                await latch.wait(timeout=0.5)
                began = time.monotonic()
                await self._lead(client, latch, began + left)
                left -= time.monotonic() - began

    async def _lead(self, client: Client, latch: LeaderLatch, until: float) -> None:
        """As long as it believes. Half of the leaders write nothing for a while; those who lead no longer than that
        write in the end alone, when they lead no more."""
        try:
            token, late = latch.token, [latch.transaction(), client.transaction()]
        except NotLeaderError:  # a moment later
            return
        late[-1].check(latch.node)
        silent_until = time.monotonic() + self._rng.choice([0.0, self._rng.expovariate(1 / _SILENT)])
        # It leads by the news that another one has gone, before any reply has shown that.
        seen = client.exists(_LATCH)
        seen.add_done_callback(lambda call: call.cancelled() or call.exception())  # nobody else asks how it ended
        while True:
            before = time.monotonic()
            if not latch.is_leader or latch.token != token:
                break
            self._note(Believed(self.name, before, token, _zxid_of(seen)))
            if before > min(until, self._task.until):
                break
            if before >= silent_until and self._rng.random() < _LOOK / _WRITES:
                self._write(latch.transaction(), token)
            await asyncio.sleep(_LOOK)
        if latch.is_leader and self._rng.random() < _HAND_OVERS:
            with contextlib.suppress(EverlatchError):
                await latch.hand_over(timeout=2.0)
        for write in late:
            asyncio.get_running_loop().call_later(self._rng.choice([0.0, 0.1, 1.0, 3.0]), self._write, write, token)

    def _write(self, write: Transaction, token: int) -> None:
        if time.monotonic() < self._task.until:
            task = asyncio.create_task(self._fenced(write, token))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    async def _fenced(self, write: Transaction, token: int) -> None:
        """Only if the node that made it leader is still there."""
        zxid, error = 0, ""
        try:
            stat = write.set(_FENCE, b"%d" % token)
            await write.commit(timeout=10.0)
            zxid = stat.result.mzxid
        except EverlatchError as refused:
            error = type(refused).__name__
        self._note(Wrote(self.name, time.monotonic(), token, zxid, error))


async def _make_fence(client: Client) -> None:
    """Whoever comes first."""
    while True:
        try:
            await client.create(_FENCE)
        except NodeExistsError:
            pass
        except (OutcomeUnknownError, WriteNotAppliedError):
            continue
        return


def _zxid_of(read: asyncio.Future[Stat | None]) -> int:
    """Of the latest member that came or went, as this read of the latch shows it; 0: it doesn't, so far."""
    if not read.done() or read.cancelled() or read.exception() is not None:
        return 0
    stat = read.result()
    return 0 if stat is None else stat.pzxid


async def _run(task: Task) -> None:
    output = os.open(task.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    async with asyncio.TaskGroup() as group:
        for name in task.names:
            group.create_task(_Candidate(task, name, output).run())


def main(arguments: Sequence[str]) -> None:
    """Does the task that is the only argument."""
    asyncio.run(_run(Task(**json.loads(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
