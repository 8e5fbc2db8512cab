"""One member of the demonstration, as a process: `python -m everlatch.cli.member --hosts … --path … --id …`.

It joins the latch, leads for a moment, and kills itself with SIGKILL: no session is closed, no node deleted, no
destructor run. What it believes it writes to stdout as it goes (`everlatch.cli.events`), since nothing can be said at
the end.

Rules: a belief is stamped before it is read. A leader goes on until somebody has looked, so that every leadership can
be checked by another client: the stamp of its announcement comes back as a line on stdin (`acknowledgement`). When
stdin ends the parent is gone, and the member goes at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from everlatch.cli.events import Event, Kind, encode
from everlatch.client import Client
from everlatch.errors import EverlatchError
from everlatch.recipes import LeaderLatch

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["acknowledgement", "main"]

_STAMP_INTERVAL = 0.01
_STDOUT = 1


def acknowledgement(announced: Event) -> bytes:
    """What the parent writes when it has checked the leadership that `announced` announces."""
    return f"{announced.at!r}\n".encode()


class _Member:
    def __init__(self, member_id: str, client: Client, latch: LeaderLatch, work: float) -> None:
        self._id = member_id
        self._client = client
        self._latch = latch
        self._work = work
        self._acknowledged = b""

    async def run(self) -> None:
        """Never returns: the process is killed, or `stdin` ends it."""
        orders = asyncio.create_task(self._follow_orders())
        async with self._client, self._latch:
            self._tell(Kind.WAITING, time.monotonic())
            while True:
                await self._lead(await self._latch.wait())
                assert not orders.done()

    async def _lead(self, token: int) -> None:
        """One term: ends with the process, or returns when leadership is lost."""
        at = time.monotonic()
        if not self._latch.is_leader:
            return
        announced = self._tell(Kind.LEADING, at, token)
        while True:
            await asyncio.sleep(_STAMP_INTERVAL)
            at = time.monotonic()
            if not self._latch.is_leader:
                self._tell(Kind.LOST, at, token)
                return
            self._tell(Kind.BELIEVING, at, token)
            if at >= announced.at + self._work and self._acknowledged == acknowledgement(announced):
                os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self, kind: Kind, at: float, token: int = 0) -> Event:
        event = Event(self._id, kind, at, self._client.session_id, token)
        _write(event)
        return event

    async def _follow_orders(self) -> None:
        orders = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(orders)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        while line := await orders.readline():
            self._acknowledged = line
        # Not by an exception: closing the session may take as long as the servers, which may be gone too.
        os._exit(1)


def _write(event: Event) -> None:
    # Past Python's buffers: SIGKILL would take along what is in them. A line is below PIPE_BUF, so it goes whole.
    os.write(_STDOUT, encode(event))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one member; ends only with the process."""
    options = _parser().parse_args(arguments)
    _write(Event(options.id, Kind.STARTED, time.monotonic()))
    try:
        asyncio.run(_run(options))
    except EverlatchError as error:
        sys.exit(f"{type(error).__name__}: {error}")


async def _run(options: argparse.Namespace) -> None:
    client = Client(options.hosts, session_timeout=options.session_timeout)
    await _Member(options.id, client, LeaderLatch(client, options.path, options.id), options.work).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="everlatch.cli.member", description="One member of `everlatch demo`.")
    parser.add_argument("--hosts", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--session-timeout", type=float, default=2.0)
    parser.add_argument("--work", type=float, default=0.5)
    return parser


if __name__ == "__main__":
    main()
