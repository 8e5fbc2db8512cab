"""One member of the demonstration, as a process: `python -m everlatch.cli.member --hosts … --path … --ledger … --id …`.

It joins the latch, leads for a moment, and kills itself with SIGKILL: no session is closed, no node deleted, no
destructor run. What it believes it writes to stdout as it goes (`everlatch.cli.events`), since nothing can be said at
the end. While it leads it writes into the ledger (`everlatch.cli.ledger`), fenced.

Told to pause, it stops as a whole, for longer than its session lives, as a process does that the system swaps out; then
it writes what it had begun before, without asking whether it still leads.

Rules: a belief is stamped before it is read. A leader goes on until somebody has looked, so that every leadership can
be checked by another client: the stamp of its announcement comes back as a line on stdin (`Acknowledgement`). When
stdin ends the parent is gone, and the member goes at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from everlatch.cli.events import Event, Kind, encode
from everlatch.cli.ledger import Entry, add_entry
from everlatch.client import Client
from everlatch.errors import EverlatchError
from everlatch.recipes import LeaderLatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.recipes import Term
    from everlatch.transaction import Transaction

__all__ = ["Acknowledgement", "main"]

_STAMP_INTERVAL = 0.01
_WRITE_INTERVAL = 0.05
_STDOUT = 1


class Acknowledgement(NamedTuple):
    """What the parent says when it has checked a leadership."""

    announced: float
    """The stamp of the announcement."""
    pause: float = 0.0
    """Seconds to pause for instead of dying."""

    def encode(self) -> bytes:
        """As a line."""
        return f"{self.announced!r} {self.pause!r}\n".encode()

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """From a line."""
        announced, pause = map(float, line.split())
        return cls(announced, pause)


class _Member:
    def __init__(self, member_id: str, client: Client, latch: LeaderLatch, ledger: str, work: float) -> None:
        self._id = member_id
        self._client = client
        self._latch = latch
        self._ledger = ledger
        self._work = work
        self._acknowledged = Acknowledgement(0.0)

    async def run(self) -> None:
        """Never returns: the process is killed, or `stdin` ends it."""
        orders = asyncio.create_task(self._follow_orders())
        async with self._client, self._latch:
            self._tell(Kind.WAITING, time.monotonic())
            async for term in self._latch.terms():
                await self._lead(term)
                assert not orders.done()

    async def _lead(self, term: Term) -> None:
        """One term: ends with the process, or returns when leadership is lost."""
        at = time.monotonic()
        if not term.is_current:
            return
        announced = self._tell(Kind.LEADING, at, term.token)
        writing = asyncio.create_task(self._write(term))
        try:
            while True:
                await asyncio.sleep(_STAMP_INTERVAL)
                at = time.monotonic()
                if not term.is_current:
                    self._tell(Kind.LOST, at, term.token)
                    return
                self._tell(Kind.BELIEVING, at, term.token)
                if at >= announced.at + self._work and self._acknowledged.announced == announced.at:
                    await self._end(term)
        finally:
            writing.cancel()

    async def _end(self, term: Term) -> None:
        """Dies; or pauses, and returns."""
        if not self._acknowledged.pause:
            os.kill(os.getpid(), signal.SIGKILL)
        begun = self._entry(term)
        _stand_still(self._acknowledged.pause)
        self._acknowledged = Acknowledgement(self._acknowledged.announced)
        if not term.is_current:
            await self._write_stale(begun, term.token)

    async def _write_stale(self, begun: Transaction, token: int) -> None:
        try:
            await begun.commit()
        except EverlatchError:
            self._tell(Kind.REFUSED, time.monotonic(), token)
        else:
            self._tell(Kind.ACCEPTED, time.monotonic(), token)

    async def _write(self, term: Term) -> None:
        with contextlib.suppress(EverlatchError):
            while True:
                await self._entry(term).commit()
                await asyncio.sleep(_WRITE_INTERVAL)

    def _entry(self, term: Term) -> Transaction:
        transaction = term.transaction()
        add_entry(transaction, self._ledger, Entry(self._id, term.token))
        return transaction

    def _tell(self, kind: Kind, at: float, token: int = 0) -> Event:
        event = Event(self._id, kind, at, self._client.session_id, token)
        _write(event)
        return event

    async def _follow_orders(self) -> None:
        orders = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(orders)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        while line := await orders.readline():
            self._acknowledged = Acknowledgement.decode(line)
        # Not by an exception: closing the session may take as long as the servers, which may be gone too.
        os._exit(1)


def _stand_still(seconds: float) -> None:
    """The whole process, its event loop included."""
    time.sleep(seconds)


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
    latch = LeaderLatch(client, options.path, options.id)
    await _Member(options.id, client, latch, options.ledger, options.work).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="everlatch.cli.member", description="One member of `everlatch demo`.")
    parser.add_argument("--hosts", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--session-timeout", type=float, default=2.0)
    parser.add_argument("--work", type=float, default=0.5)
    return parser


if __name__ == "__main__":
    main()
