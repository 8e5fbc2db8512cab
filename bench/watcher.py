"""The client of `bench.rearming`: `python -m bench.watcher WHAT SERVER COUNT`.

`reconnects`: sets its watches, says `ready`, and after every loss of its connection, which the bench causes,
`served NANOSECONDS BLOCKED`: when the first call made after the loss was answered, and for how many nanoseconds at
most the event loop stood still between the loss and that. Told anything, it says `fired COUNT`: how many of its watches
have; and ends with its input.

`memory`: sets its watches, and says `bytes COUNT`: by how much what the process has allocated has grown since the
client was connected.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING

from everlatch import Client, State

if TYPE_CHECKING:
    from everlatch import StateChange, WatchEvent

__all__ = ["KINDS", "ROOT", "main", "path_of"]

ROOT = "/rearming"
KINDS = ("data", "data", "child", "exist")
"""What the watches wait for, in turn."""

_SESSION_TIMEOUT_S = 30.0
_AT_ONCE = 10_000
_TICK_S = 0.001


def path_of(number: int) -> str:
    """Of one watch: 30 characters."""
    return f"{ROOT}/watched-{number:012}"


async def _set_watches(client: Client, count: int, callback: object) -> None:
    reads = {"data": client.get, "child": client.children, "exist": client.exists}
    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(count, start + _AT_ONCE))
        await asyncio.gather(*[reads[KINDS[n % len(KINDS)]](path_of(n), watch=callback) for n in numbers])  # type: ignore[operator]


class _Reconnecting:
    """What happens at a loss."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()
        self.fired = 0
        client.add_listener(self._changed)

    def count(self, _: WatchEvent) -> None:
        """The callback of all watches."""
        self.fired += 1

    def _changed(self, change: StateChange) -> None:
        if change.state is State.SUSPENDED:
            task = asyncio.create_task(self._wait_until_served())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _wait_until_served(self) -> None:
        ticks = asyncio.create_task(_longest_block())
        await self._client.get("/")
        served = time.monotonic_ns()
        ticks.cancel()
        print("served", served, await ticks, flush=True)


async def _longest_block() -> int:
    """In nanoseconds, until this is cancelled."""
    longest, last = 0, time.monotonic_ns()
    try:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic_ns()
            longest, last = max(longest, now - last), now
    except asyncio.CancelledError:
        return max(longest, time.monotonic_ns() - last)


async def _reconnects(server: str, count: int) -> None:
    async with Client(server, session_timeout=_SESSION_TIMEOUT_S) as client:
        watching = _Reconnecting(client)
        await _set_watches(client, count, watching.count)
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            await client.sync()
            print("fired", watching.fired, flush=True)


async def _memory(server: str, count: int) -> None:
    tracemalloc.start()
    async with Client(server, session_timeout=_SESSION_TIMEOUT_S) as client:
        await client.sync()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await _set_watches(client, count, print)
        await client.sync()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        print("bytes", after - before, flush=True)


def main() -> None:
    """Set watches."""
    parser = argparse.ArgumentParser(prog="python -m bench.watcher", description="A client with many watches.")
    parser.add_argument("what", choices=("reconnects", "memory"))
    parser.add_argument("server", help="host:port")
    parser.add_argument("count", type=int)
    chosen = parser.parse_args()
    run = {"reconnects": _reconnects, "memory": _memory}[chosen.what]
    asyncio.run(run(chosen.server, chosen.count))


if __name__ == "__main__":
    main()
