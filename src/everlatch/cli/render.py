"""Shows a demonstration: a live table on a terminal, plain lines elsewhere.

Rule: both are told the same (`View`); what is said in words is composed here and nowhere else.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table
from rich.text import Text

from everlatch.cli.board import Board, Row, Status
from everlatch.cli.events import Event, Kind
from everlatch.errors import hex_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from rich.console import Console

    from everlatch.cli.election import Verdict

__all__ = ["LiveView", "PlainView", "View", "board_table", "show_verdict", "tell_death", "tell_event"]

_STYLES = {
    Status.STARTING: "dim",
    Status.WAITING: "",
    Status.LEADING: "bold green",
    Status.DEAD: "red",
    Status.FAILED: "bold white on red",
}
_REFRESH_PER_SECOND = 12


class View(Protocol):
    """Where a demonstration is shown, as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def note(self, text: str) -> None:
        """Something that belongs to no member."""
        ...

    def begin(self, board: Board) -> None:
        """The members are about to start; the board changes from now on."""
        ...

    def event(self, event: Event, row: Row) -> None:
        """A member told something; the row has it already."""
        ...

    def death(self, row: Row, reason: str) -> None:
        """A member's process has ended; `reason` is empty if it killed itself after it had led."""
        ...


class PlainView:
    """One line for each thing that happens."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._begun = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to take back."""

    def note(self, text: str) -> None:
        """See `View`."""
        _print(self._console, f"{self._clock() - self._begun:7.3f} s  {text}")

    def begin(self, board: Board) -> None:
        """See `View`."""
        self.note(f"starting {len(board.rows)} instances")

    def event(self, event: Event, row: Row) -> None:
        """See `View`."""
        text = tell_event(event, row)
        if text:
            self.note(f"{row.member}  {text}")

    def death(self, row: Row, reason: str) -> None:
        """See `View`."""
        self.note(f"{row.member}  {tell_death(row, reason)}")


class LiveView:
    """A table that changes in place, with a thread of `rich` that draws it."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._board: Board | None = None
        self._notes: list[str] = []
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=_REFRESH_PER_SECOND, transient=False
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """See `View`."""
        self._notes.append(text)

    def begin(self, board: Board) -> None:
        """See `View`."""
        self._board = board

    def event(self, event: Event, row: Row) -> None:
        """The board has it, and is drawn soon."""

    def death(self, row: Row, reason: str) -> None:
        """See `View`."""
        if reason:
            self.note(f"{row.member}  {tell_death(row, reason)}")

    def _render(self) -> Table:
        table = Table.grid()
        for note in self._notes:
            table.add_row(Text(note))
        if self._board is not None:
            table.add_row(board_table(self._board, self._clock() - self._begun))
        return table


def board_table(board: Board, seconds: float) -> Table:
    """The board as a table, `seconds` after the beginning."""
    caption = Text(f"{seconds:.1f} s   {_told_leader(board)}")
    # Without rules between the columns: it has to fit into 80 characters with ids of full length.
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        caption=caption,
        caption_justify="left",
    )
    for heading in ("instance", "pid", "", "session", "node", "token", "handover"):
        table.add_column(heading, justify="left" if heading in ("instance", "") else "right", no_wrap=True)
    for row in board.rows.values():
        table.add_row(*_cells(row), style=_STYLES[row.status])
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.member,
        str(row.pid or ""),
        row.status.value,
        _hex(row.session_id),
        row.node.lstrip("0") or row.node[-1:],
        _hex(row.token),
        "" if row.handover is None else f"{row.handover * 1000:.0f} ms",
    )


def _told_leader(board: Board) -> str:
    leaders = [row.member for row in board.rows.values() if row.status is Status.LEADING]
    if not leaders:
        return "nobody leads"
    return f"{' and '.join(leaders)} {'leads' if len(leaders) == 1 else 'lead'}"


def tell_event(event: Event, row: Row) -> str:
    """The event in words; empty if it is not worth a line."""
    if event.kind is Kind.STARTED:
        return f"started, pid {row.pid}"
    if event.kind is Kind.WAITING:
        return f"waits, session {_hex(event.session_id)}"
    if event.kind is Kind.LEADING:
        handover = "" if row.handover is None else f", handover {row.handover * 1000:.0f} ms"
        return f"leads, session {_hex(event.session_id)}, token {_hex(event.token)}{handover}"
    if event.kind is Kind.LOST:
        return f"leads no more, after {row.led_for:.2f} s; waits again"
    if event.kind in (Kind.REFUSED, Kind.ACCEPTED):
        return f"was paused; its stale write, token {_hex(event.token)}, was {event.kind.value}"
    return ""


def tell_death(row: Row, reason: str) -> str:
    """The end of a member in words."""
    return reason or f"dead by its own SIGKILL, after it had led for {row.led_for:.2f} s"


def show_verdict(console: Console, verdict: Verdict) -> None:
    """What was wrong, if anything, and the summary as the last line."""
    for problem in verdict.problems:
        _print(console, f"wrong: {problem}", "red")
    if verdict.writes:
        _print(console, verdict.writes)
    _print(console, verdict.summary(), "bold green" if verdict.passed else "bold red")


def _print(console: Console, text: str, style: str = "") -> None:
    # Lines for scripts to read: never wrapped, and brackets are no markup.
    console.print(Text(text, style), soft_wrap=True)


def _hex(number: int) -> str:
    return hex_id(number) if number else ""
