"""`everlatch devserver`: serves until a signal ends it.

Rule of this file: the line that says where it listens comes when clients can connect, and not before.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from everlatch.devserver import DevServer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["serve_until_stopped"]


async def serve_until_stopped(port: int, host: str, version: str, say: Callable[[str], None]) -> signal.Signals:
    """Serves, says where, and returns the signal (SIGINT or SIGTERM) that ended it. Raises `OSError` if it can't
    listen there."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    async with DevServer(port, host, version=version) as server:
        say(f"everlatch devserver: ZooKeeper {version} protocol on {server.address}")
        say("For development and tests only: everything is in memory, and gone when this ends.")
        return await stopped
