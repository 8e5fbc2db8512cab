"""The demonstration: several processes join one latch, each leads, works for a moment and kills itself. The first one
is paused before that, for so long that another leads meanwhile, and then tries to write as if it still led.

    verdict = await run(Options(instances=6), view)

Rules: members are processes of their own, in sessions (of the operating system) of their own, so that Ctrl-C reaches
the parent only; the parent ends them by their process ids, whatever happens; should it be killed itself, they go when
their stdin ends. Nothing that goes wrong with a member stops the others: it is told in the verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import sys
import uuid
from asyncio.subprocess import PIPE
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from everlatch.cli.board import Board, Status
from everlatch.cli.election import Sighting, Verdict, judge
from everlatch.cli.events import Event, Kind, decode
from everlatch.cli.ledger import Entry, Ledger, problems, summary
from everlatch.cli.member import Acknowledgement
from everlatch.cli.observer import LatchNode, Observer
from everlatch.client import Client
from everlatch.devserver import DevServer
from everlatch.errors import EverlatchError, InvalidArgumentError, describe, hex_id
from everlatch.testing.ensemble import Ensemble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch.cli.render import View

__all__ = ["Options", "run"]

_TICK_TIME = 0.5
_SHORTEST_SESSION, _LONGEST_SESSION = 1.0, 60.0
"""Of the dev server; as on the real servers that `Ensemble` starts."""
_CLEAN_UP_TIMEOUT = 2.0
_PAUSED_TIMEOUTS = 2.0
"""For how many session timeouts a leader is paused: for longer than its session can live."""


@dataclass(frozen=True)
class Options:
    """What to demonstrate. Times are seconds."""

    instances: int = 6
    hosts: str | None = None
    """A connect string; `None`: a server of our own."""
    real: bool = False
    """Whether our own is a real ZooKeeper, or the dev server, in this process."""
    session_timeout: float = 2.0
    work: float = 0.5
    """How long each leads."""
    zookeeper_version: str = "3.8"
    """Of our own server: which build it is, or which it behaves like."""
    timeout: float | None = None
    """For the whole; `None`: as long as it can take, and then some."""

    def __post_init__(self) -> None:
        if self.real and self.hosts is not None:
            raise InvalidArgumentError("real starts a server, hosts name one that runs: choose one of the two")

    @property
    def total_timeout(self) -> float:
        """The seconds after which a leader is missing."""
        if self.timeout is not None:
            return self.timeout
        return 30.0 + self.instances * (self.work + 4 * self.session_timeout)


async def run(options: Options, view: View) -> Verdict:
    """Demonstrates; raises `EverlatchError` when it can't even begin."""
    members = [f"instance-{number}" for number in range(1, options.instances + 1)]
    async with _servers(options, view) as hosts, Client(hosts, session_timeout=options.session_timeout) as client:
        # One name, so that deleting it deletes everything.
        path = f"/everlatch-demo-{uuid.uuid4().hex}"
        latch, ledger = f"{path}/latch", f"{path}/ledger"
        observer, book = Observer(client, latch), Ledger(client, ledger)
        demonstration = _Demonstration(options, view, observer, book, Board(members))
        view.begin(demonstration.board)
        try:
            await demonstration.run(hosts, latch, ledger)
            writes = await demonstration.audit()
        finally:
            await _clean_up(client, path, view)
    verdict = judge(members, demonstration.events, demonstration.sightings, demonstration.failures)
    return dataclasses.replace(verdict, writes=writes)


@contextlib.asynccontextmanager
async def _servers(options: Options, view: View) -> AsyncIterator[str]:
    async with contextlib.AsyncExitStack() as stack:
        hosts = options.hosts
        if hosts is not None:
            what = "ZooKeeper"
        elif options.real:
            what = f"ZooKeeper {options.zookeeper_version}"
            view.note(f"starting a {what}")
            ensemble = Ensemble(1, version=options.zookeeper_version, tick_time=_TICK_TIME)
            hosts = (await stack.enter_async_context(ensemble)).connect_string
        else:
            what = "dev server"
            hosts = (await stack.enter_async_context(_dev_server(options))).address
        view.note(f"{what} at {hosts}, session timeout {options.session_timeout:g} s")
        yield hosts


def _dev_server(options: Options) -> DevServer:
    return DevServer(
        version=options.zookeeper_version,
        tick=_TICK_TIME,
        min_session_timeout=_SHORTEST_SESSION,
        max_session_timeout=_LONGEST_SESSION,
    )


async def _clean_up(client: Client, path: str, view: View) -> None:
    try:
        await client.delete_tree(path, missing_ok=True, timeout=_CLEAN_UP_TIMEOUT)
    except (EverlatchError, TimeoutError) as error:
        view.note(f"{path} could not be deleted: {describe(error)}")


@dataclass
class _Demonstration:
    options: Options
    view: View
    observer: Observer
    ledger: Ledger
    board: Board
    events: list[Event] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    leading: LatchNode | None = None
    """Of the leader that was seen last."""
    has_paused: bool = False

    async def run(self, hosts: str, latch: str, ledger: str) -> None:
        """Returns when all members are dead, or the time is up."""
        command = (
            *(sys.executable, "-P", "-m", "everlatch.cli.member", "--hosts", hosts, "--path", latch),
            *("--ledger", ledger),
            *("--session-timeout", str(self.options.session_timeout), "--work", str(self.options.work)),
        )
        try:
            async with asyncio.timeout(self.options.total_timeout), asyncio.TaskGroup() as tasks:
                await self.ledger.open()
                for member in self.board.rows:
                    tasks.create_task(self._attend(member, (*command, "--id", member)))
        except TimeoutError:
            self.failures.append(f"the time is up: {self.options.total_timeout:g} s")

    async def _attend(self, member: str, command: tuple[str, ...]) -> None:
        """One member, from its start to its end."""
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.board[member].pid = process.pid
        try:
            _, complaints = await asyncio.gather(self._listen(process.stdout, process.stdin), process.stderr.read())
            self._record_death(member, await process.wait(), complaints)
        except ValueError as error:
            self._record_failure(member, str(error))
        finally:
            await _end(process)

    async def _listen(self, said: asyncio.StreamReader, orders: asyncio.StreamWriter) -> None:
        """Takes in what a member tells, until its stdout ends; raises `ValueError` for what is no event."""
        async for line in said:
            event = decode(line)
            self.events.append(event)
            row = self.board[event.member]
            self.board.record(event)
            self.view.event(event, row)
            if event.kind is Kind.LEADING:
                await self._look(event)
                orders.write(Acknowledgement(event.at, self._pause()).encode())
            elif event.kind is Kind.WAITING:
                await self._look_for_nodes()
            elif event.kind in (Kind.REFUSED, Kind.ACCEPTED):
                self._count_stale(event)

    async def _look(self, announced: Event) -> None:
        try:
            sighting, nodes = await self.observer.look(announced)
        except EverlatchError as error:
            self.failures.append(f"the observer could not check {announced.member}: {error}")
            return
        self.sightings.append(sighting)
        self.board.place(nodes)
        if nodes:
            await self._write_late(nodes[0])

    async def _write_late(self, leading: LatchNode) -> None:
        """Tries what the leader before this one might have had on its way."""
        before, self.leading = self.leading, leading
        if before is not None and before.path and before.path != leading.path:
            entry = Entry(before.member, before.created)
            try:
                is_refused = await self.ledger.write_late(before.path, entry)
            except EverlatchError as error:
                self.failures.append(f"a late write of {before.member} could not be tried: {error}")
                return
            told = "refused" if is_refused else "accepted"
            self.view.note(f"a late write of {before.member}, token {hex_id(before.created)}, was {told}")

    def _pause(self) -> float:
        """How long this leader has to pause: the first one, if others can lead meanwhile."""
        if self.has_paused or len(self.board.rows) < 2:
            return 0.0
        self.has_paused = True
        return _PAUSED_TIMEOUTS * self.options.session_timeout

    def _count_stale(self, event: Event) -> None:
        if event.kind is Kind.REFUSED:
            self.ledger.refused += 1
        else:
            self.ledger.accepted.append(Entry(event.member, event.token))

    async def audit(self) -> str:
        """What became of the fenced writes, in a line."""
        try:
            async with asyncio.timeout(_CLEAN_UP_TIMEOUT):
                entries = await self.ledger.read()
        except (EverlatchError, TimeoutError) as error:
            self.failures.append(f"the ledger could not be read: {describe(error)}")
            return ""
        self.failures += problems(entries, self.ledger.accepted)
        return summary(entries, self.ledger.refused, len(self.ledger.accepted))

    async def _look_for_nodes(self) -> None:
        """Only to be shown; a node that isn't there yet is seen the next time."""
        with contextlib.suppress(EverlatchError):
            self.board.place(await self.observer.nodes())

    def _record_death(self, member: str, code: int, complaints: bytes) -> None:
        row = self.board[member]
        if code == -signal.SIGKILL and row.status is Status.LEADING:
            row.status = Status.DEAD
            self.view.death(row, "")
            return
        last_line = complaints.decode(errors="replace").strip().rpartition("\n")[2]
        self._record_failure(member, f"ended by {_told_code(code)}: {last_line or 'without a word'}")

    def _record_failure(self, member: str, reason: str) -> None:
        row = self.board[member]
        row.status = Status.FAILED
        self.failures.append(f"{member} {reason}")
        self.view.death(row, reason)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        # It may die by itself at this very moment.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    # To the end of its pipes, so that nothing of it is left to the event loop.
    await process.communicate()


def _told_code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
