"""P3's judge: what became of each write, by the servers' log, against what its caller was told.

Every request of a write notes the numbers (session, xid) under which it is sent, and the servers note under which
number they were asked for what they have committed. So it is known of each write by which transactions it was applied,
whatever it was, however often it was sent, and whether anybody heard of it.

Rules: nothing is judged before the servers have nothing more to commit. What the caller was told is compared with:

    a result              applied once, with that path, that zxid and that Stat
    not applied           never applied, also not later
    `ResultLostError`     applied once; path and zxid, if told, are right
    unknown               once at most; with `.seen`, never after the call had ended
    nothing (it has gone) once at most

A write that may be applied again (`idempotent`, `protect`) may be so as often as it was sent; for them a result means
that it is so. What was applied was applied in the order of the calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from everlatch.devserver.ensemble import Member
from everlatch.devserver.entries import Origin
from everlatch.devserver.tree import Create, Delete, Kind, SetData
from everlatch.errors import EverlatchError, OutcomeUnknownError, ResultLostError, WriteNotAppliedError
from everlatch.partial_stat import UNKNOWN, PartialStat
from everlatch.testing.simulation.scenarios.stage import CommitLog, expect
from everlatch.testing.simulation.servers import EPOCH
from everlatch.types import Created, Outcome, Stat
from everlatch.wire.codes import Op
from everlatch.wire.multi import SetDataResult, decode_multi_reply
from everlatch.wire.structures import decode_stat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from everlatch.client import Client
    from everlatch.devserver.connection import Connection
    from everlatch.devserver.entries import Entry
    from everlatch.devserver.options import Options

__all__ = ["RECEIPTS", "Asked", "Number", "Write", "WriteLog", "Writes"]

_OF_THE_NODE: Final = ("cversion", "aversion", "num_children", "pzxid")
"""Fields of a Stat that a write to the data doesn't move: they may be of a later time."""
RECEIPTS: Final = "/everlatch-receipts"
"""Where they are."""


Pendings: TypeAlias = "Sequence[tuple[str, Any]]"


class Number(NamedTuple):
    """Under which a request was sent: no other one ever is."""

    session_id: int
    xid: int


class Asked(NamedTuple):
    """What the servers were asked for."""

    number: Number
    op: int


class WriteLog(CommitLog):
    """… and who asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[Origin, Asked] = {}
        self.applied: dict[Number, Entry] = {}
        """What has changed something, by who asked for it."""
        self.heard: Callable[[Entry], None] = _nothing
        """Told of each entry when the first member commits it."""

    def member(self, number: int, numbers: Sequence[int], options: Options, now: float) -> Member:
        """One that writes down what it is asked and what it commits."""
        log = self

        class Recorded(Member):
            def ask(self, connection: Connection, op: int, body: bytes, now: float) -> None:
                assert connection.session is not None
                turn = connection._turns[-1]  # what this is about was put there just now
                asked = Asked(Number(connection.session.id, turn.xid), op)
                log.asked[Origin(self.number, self._questions + 1)] = asked
                super().ask(connection, op, body, now)

            def _apply(self, entry: Entry, now: float) -> None:
                super()._apply(entry, now)
                log.committed(entry)

        return Recorded(number, numbers, options, EPOCH, now)

    def committed(self, entry: Entry) -> None:
        """One more member has committed that."""
        if entry.zxid in self.entries:
            return
        super().committed(entry)
        asked = None if entry.origin is None else self.asked.get(entry.origin)
        if asked is not None and entry.transaction.changes:
            self.applied[asked.number] = entry
        self.heard(entry)


class Write:
    """One call, and what is known of it."""

    def __init__(self, number: int, what: str, mode: str, call: Any, pending: Pendings) -> None:
        self.number, self.what, self.mode, self.call = number, what, mode, call
        self.pending = pending
        """Of a transaction: of each part that brings about something "create" or "set", and what."""
        self.is_patient = True
        """Nobody sets it a time or cancels it."""
        self.sent: list[Number] = []
        self.connection = 0
        """Which one it was on first."""
        self.has_ended = False
        self.ended_zxid = 0
        """The latest that was committed then."""
        self.ended_session = 0
        self.was_in_doubt = False
        """Whether its connection had gone before it ended."""

    def __repr__(self) -> str:
        sent = [f"{session_id:x}/{xid}" for session_id, xid in self.sent]
        return f"write {self.number} ({self.what}, {self.mode}, sent as {sent}): {self.error or self.end!r}"

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be applied more than once."""
        return self.mode in ("idempotent", "protect")

    @property
    def error(self) -> BaseException | None:
        """What it ended with; `None` also if it has not."""
        return self.call.exception() if self.has_ended and not self.call.cancelled() else None

    @property
    def end(self) -> str:
        """What its caller was told: a word for the statistics."""
        if not self.has_ended or self.call.cancelled():
            return "caller gone"
        error = self.error
        if error is None:
            return "result"
        if not isinstance(error, EverlatchError):
            return repr(error)
        if isinstance(error, ResultLostError):
            return "result lost"
        unknown = "unknown" if self.is_patient else "unknown, with a timeout"
        return {Outcome.NOT_APPLIED: "not applied", Outcome.UNKNOWN: unknown}.get(error.outcome, repr(error))


class Writes:
    """The writes of one client, in the order of its calls."""

    def __init__(self, client: Client, log: WriteLog) -> None:
        self._client, self._log = client, log
        self.made: list[Write] = []
        self._by_request: dict[Any, Write] = {}
        self._traced: type | None = None

    def enter(
        self,
        what: str,
        mode: str,
        call: Any,
        *,
        is_patient: bool = True,
        pending: Pendings = (),
    ) -> Write:
        """A call that was just made."""
        write = Write(len(self.made), what, mode, call, pending)
        write.is_patient = is_patient
        self.made.append(write)
        request = call.request
        self._by_request[request] = write
        if self._traced is None:
            self._traced = _traced(type(request), self._sent)
        request.__class__ = self._traced
        if request.xid:
            self._sent(request)
        call.add_done_callback(lambda _: self._ended(write))
        return write

    def _sent(self, request: Any) -> None:
        write = self._by_request[request]
        write.connection = write.connection or self._client.connections
        write.sent.append(Number(self._client.session_id, request.xid))

    def _ended(self, write: Write) -> None:
        write.has_ended = True
        write.ended_zxid, write.ended_session = self._log.last_zxid, self._client.session_id
        state = self._client.state.name
        write.was_in_doubt = bool(write.sent) and (write.connection != self._client.connections or state != "CONNECTED")

    # -- in the end

    def judge(self, *, never_unknown: bool = False) -> None:
        """Raises `PromiseBrokenError`. `never_unknown`: as it is promised for `exactly_once`, if the session lives."""
        last = first = 0
        for write in self.made:
            entries = [self._log.applied[number] for number in write.sent if number in self._log.applied]
            self._judge(write, entries)
            if never_unknown:
                self._judge_exactly_once(write)
            if entries:
                expect(first < entries[0].zxid, f"{write} was applied before an earlier call: {entries}")
                expect(last < entries[-1].zxid, f"{write} was applied last before an earlier call was: {entries}")
                first, last = entries[0].zxid, entries[-1].zxid

    def _judge(self, write: Write, entries: list[Entry]) -> None:
        error = write.error
        most = len(write.sent) if write.is_repeatable else 1
        expect(len(entries) <= most, f"{write} was applied {len(entries)} times: {entries}")
        if not write.has_ended or write.call.cancelled():
            return
        if error is None:
            self._judge_result(write, entries)
        elif isinstance(error, ResultLostError):
            self._judge_lost(write, error, entries)
        elif isinstance(error, OutcomeUnknownError):
            late = [entry for entry in entries if entry.zxid > write.ended_zxid]
            expect(not (error.seen and late), f"{write} ended with {error!r} at 0x{write.ended_zxid:x}; later: {late}")
        else:
            expect(isinstance(error, EverlatchError), f"{write} ended with {error!r}")
            expect(not entries, f"{write} ended with {error!r} and was applied: {entries}")

    def _judge_exactly_once(self, write: Write) -> None:
        """With receipts that nobody else touches."""
        error = write.error
        lives = {number.session_id for number in write.sent} <= {write.ended_session}
        if write.mode == "exactly once" and write.is_patient and lives and isinstance(error, OutcomeUnknownError):
            expect(False, f"{write} is unknown ({error!r}), though its session lives, and nobody touched its receipt")
        is_blamed = isinstance(error, WriteNotAppliedError) and "receipt" in error.why
        expect(not is_blamed, f"{write} blames a receipt that nobody touched: {error!r}")

    def _judge_lost(self, write: Write, error: ResultLostError, entries: list[Entry]) -> None:
        if write.is_repeatable:
            return  # what it wanted may have been there
        expect(entries, f"{write} ended with {error!r} and was not applied")
        (entry,) = entries
        expect(error.zxid in (0, entry.zxid), f"{write} ended with {error!r} and was applied as {entry}")
        made = [change.path for change in entry.transaction.changes if isinstance(change, Create)]
        gone = {
            change.path
            for other in self._log.in_order()
            if entry.zxid < other.zxid <= write.ended_zxid
            for change in other.transaction.changes
            if isinstance(change, Delete)
        }
        expect(not made or gone & set(made), f"{write} ended with {error!r}, though {made} is there")

    def _judge_result(self, write: Write, entries: list[Entry]) -> None:
        if not entries:
            expect(write.mode == "idempotent", f"{write} was acknowledged and never applied")
            self._judge_found(write)
            return
        broken = [what for entry in entries if (what := self._differences(write, entry))]
        if len(broken) == len(entries) and write.mode == "idempotent" and isinstance(write.call.result(), Created):
            self._judge_found(write)  # a repetition has found a node, be it that of the first time or another one
            return
        expect(len(broken) < len(entries), f"{write} was told {_told(write)}, of {entries}: {broken}")

    def _judge_found(self, write: Write) -> None:
        """It was brought about by somebody else."""
        told = write.call.result()
        expect(told is None or isinstance(told, Created), f"{write} was told {told} and never applied")
        if isinstance(told, Created):
            entry = self._log.entries.get(told.stat.czxid)
            made = [change.path for change in entry.transaction.changes if isinstance(change, Create)] if entry else []
            expect(told.path in made, f"{write} was told {told}, and nobody has made that: {entry}")

    def _differences(self, write: Write, entry: Entry) -> str:
        """What is wrong with what it was told of that transaction."""
        if write.pending:
            return self._part_differences(write, entry)
        told = write.call.result()
        if isinstance(told, Created):
            true = [_created(change, entry) for change in entry.transaction.changes if isinstance(change, Create)]
            return "" if [told] == true else f"it is {true}"
        if isinstance(told, Stat):
            (stat,) = self._set_stats(entry)
            return _stat_differences(told, stat)
        return ""

    def _part_differences(self, write: Write, entry: Entry) -> str:
        """Of a transaction; a result that is lost says so."""
        made = [change.path for change in entry.transaction.changes if isinstance(change, Create)]
        stats = self._set_stats(entry)
        for kind, pending in write.pending:
            true = made.pop(0) if kind == "create" else stats.pop(0)
            try:
                told = pending.result
            except ResultLostError:
                continue
            if isinstance(true, Stat):
                differences = _stat_differences(told, true)
                if differences:
                    return differences
            elif told != true:
                return f"{told} is {true}"
        return ""

    def _set_stats(self, entry: Entry) -> list[Stat]:
        """What the server has answered to the writes of data, but for that of a receipt."""
        assert entry.origin is not None
        asked, body = self._log.asked[entry.origin], entry.body
        if asked.op in (Op.SET_DATA, Op.SET_ACL):
            return [decode_stat(body, 0, len(body))[0]]
        if asked.op != Op.MULTI:
            return []
        stats = [result.stat for result in decode_multi_reply(body, 0, len(body)) if isinstance(result, SetDataResult)]
        paths = [change.path for change in entry.transaction.changes if isinstance(change, SetData)]
        place = f"{RECEIPTS}/"
        return [stat for path, stat in zip(paths, stats, strict=True) if not path.startswith(place)]


def _created(change: Create, entry: Entry) -> Created:
    """What its creation is to be answered with: it had no history yet."""
    zxid, time_ms, _ = entry.transaction
    owner = change.owner if change.kind is Kind.EPHEMERAL else 0
    stat = Stat(zxid, zxid, time_ms, time_ms, 0, 0, 0, owner, len(change.data or b""), 0, zxid)
    return Created(change.path, stat)


def _stat_differences(told: Stat, true: Stat) -> str:
    for name, said, is_so in zip(Stat._fields, told, true, strict=True):
        if said == is_so or (said == UNKNOWN and isinstance(told, PartialStat)):
            continue
        if name not in _OF_THE_NODE:
            return f"{name} is {is_so}"
    return ""


def _told(write: Write) -> object:
    if not write.pending:
        return write.call.result()
    return [pending for _, pending in write.pending]


def _traced(kind: type, sent: Callable[[Any], None]) -> type:
    """Requests of which `sent` is told whenever they are."""
    number = vars(kind)["xid"]

    def set_xid(request: Any, xid: int) -> None:
        number.__set__(request, xid)
        if xid:
            sent(request)

    return type("Traced", (kind,), {"__slots__": (), "xid": property(number.__get__, set_xid)})


def _nothing(_: Entry) -> None:
    """Nobody listens."""
