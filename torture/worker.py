"""A process with some of the clients of a run on real servers: `python -m torture.worker TASK`, as `torture.real` does.

Rules of this file: the times of the plan are `time.monotonic()`, which is the same for all processes of a machine. What
was seen is written, pickled, when all clients are closed; a process that ends otherwise has seen nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from everlatch import Client
from torture.history import History
from torture.rivals import worker_of
from torture.workload import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Task", "main"]


class Task(NamedTuple):
    """What one process is to do."""

    places: list[int]
    """Of the clients in it."""
    servers: str
    """A connect string."""
    timeouts: list[float]
    seed: str
    output: str
    """Where the history goes."""
    plan: dict[str, Any]
    files: dict[str, str]
    """Arguments of the clients: their certificate, and whom they trust, if they use TLS."""

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(self._asdict())


class _Site:
    """Real time, real servers."""

    def __init__(self, task: Task, plan: Plan) -> None:
        self._task, self._options = task, plan.options

    def now(self) -> float:
        return time.monotonic()

    def client(self, number: int) -> Client:
        timeouts = self._task.timeouts
        rng = self.random(f"client {number}")
        timeout = timeouts[number % len(timeouts)]
        return Client(self._task.servers, session_timeout=timeout, rng=rng, **self._options, **self._task.files)

    def random(self, name: str) -> random.Random:
        return random.Random(f"{self._task.seed}/{name}")


async def _run(task: Task) -> History:
    history = History()
    plan = Plan(**task.plan)
    site = _Site(task, plan)
    sockets = _sockets()
    async with asyncio.TaskGroup() as group:
        for place in task.places:
            group.create_task(worker_of(plan)(site, plan, history, place, place).run())
    left = asyncio.all_tasks() - {asyncio.current_task()}
    history.leaks += [f"left behind when all was closed: {each!r}" for each in left]
    if _sockets() > sockets:
        history.leaks.append(f"{_sockets() - sockets} sockets are still open when all was closed")
    return history


def _sockets() -> int:
    """How many this process has."""
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum(1 for link in links if link.is_symlink() and os.readlink(link).startswith("socket:"))


def main(arguments: Sequence[str]) -> None:
    """Does the task that is the only argument."""
    task = Task(**json.loads(arguments[0]))
    history = asyncio.run(_run(task))
    Path(task.output).write_bytes(pickle.dumps(history))


if __name__ == "__main__":
    main(sys.argv[1:])
