"""What is shown: the table on a terminal, the lines elsewhere, and the verdict."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from everlatch.cli.board import Board, Row, Status
from everlatch.cli.election import Verdict
from everlatch.cli.events import Event, Kind
from everlatch.cli.render import LiveView, PlainView, board_table, show_verdict, tell_event

if TYPE_CHECKING:
    from collections.abc import Iterator


def console(*, terminal: bool = False, width: int = 80) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=width, force_terminal=terminal, color_system=None), text


def ticking() -> Iterator[float]:
    seconds = 100.0
    while True:
        yield seconds
        seconds += 0.5


def six() -> Board:
    """Ids of full length, and every status but the first."""
    board = Board([f"instance-{number}" for number in range(1, 7)])
    statuses = [Status.DEAD, Status.FAILED, Status.LEADING, Status.WAITING, Status.WAITING, Status.WAITING]
    for number, (row, status) in enumerate(zip(board.rows.values(), statuses, strict=True)):
        row.pid, row.status, row.session_id, row.node = 4_000_000 + number, status, -(2**56) + number, f"{number:010}"
    board["instance-3"].token, board["instance-3"].handover = 0x500000012, 1.8934
    return board


def test_the_table_shows_who_leads_who_waits_who_died_within_80_characters() -> None:
    out, text = console()
    out.print(board_table(six(), 12.34))
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert ["instance-1", "4000000", "dead", "0xff00000000000000", "0"] in lines
    assert ["instance-2", "4000001", "failed", "0xff00000000000001", "1"] in lines
    assert ["instance-3", "4000002", "leads", "0xff00000000000002", "2", "0x500000012", "1893", "ms"] in lines
    assert ["instance-6", "4000005", "waits", "0xff00000000000005", "5"] in lines
    assert ["12.3", "s", "instance-3", "leads"] in lines


def test_the_table_says_when_nobody_leads_and_when_two_do() -> None:
    board = Board(["a", "b"])
    out, text = console()
    out.print(board_table(board, 0.0))
    assert "nobody leads" in text.getvalue()
    for row in board.rows.values():
        row.status = Status.LEADING
    out.print(board_table(board, 0.0))
    assert "a and b lead" in text.getvalue()


def test_the_live_view_leaves_the_last_table_and_its_notes() -> None:
    out, text = console(terminal=True)
    with LiveView(out) as view:
        view.note("ZooKeeper at [::1]:2181")
        board = six()
        view.begin(board)
        view.event(Event("instance-4", Kind.WAITING, 1.0, 5), board["instance-4"])
        view.death(board["instance-1"], "")
        view.death(board["instance-2"], "ended by exit status 1")
    shown = text.getvalue()
    assert "ZooKeeper at [::1]:2181" in shown
    assert "instance-2  ended by exit status 1" in shown
    assert "0x500000012" in shown


def test_plain_lines_have_the_time_and_the_member() -> None:
    out, text = console()
    clock = ticking()
    with PlainView(out, lambda: next(clock)) as view:
        view.note("ZooKeeper at [::1]:2181")
        view.begin(Board(["a"]))
        row = Row("a", pid=17, handover=1.8934, led_for=0.5)
        view.event(Event("a", Kind.STARTED, 1.0), row)
        view.event(Event("a", Kind.LEADING, 1.0, 31, 9), row)
        view.event(Event("a", Kind.BELIEVING, 1.0, 31, 9), row)
        view.death(row, "")
        view.death(row, "ended by SIGSEGV: without a word")
    assert text.getvalue().splitlines() == [
        "  0.500 s  ZooKeeper at [::1]:2181",
        "  1.000 s  starting 1 instances",
        "  1.500 s  a  started, pid 17",
        "  2.000 s  a  leads, session 0x1f, token 0x9, handover 1893 ms",
        "  2.500 s  a  dead by its own SIGKILL, after it had led for 0.50 s",
        "  3.000 s  a  ended by SIGSEGV: without a word",
    ]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Kind.WAITING, "waits, session 0x1f"),
        (Kind.LEADING, "leads, session 0x1f, token 0x9"),
        (Kind.LOST, "leads no more, after 0.25 s; waits again"),
        (Kind.REFUSED, "was paused; its stale write, token 0x9, was refused"),
        (Kind.ACCEPTED, "was paused; its stale write, token 0x9, was accepted"),
    ],
)
def test_events_in_words(kind: Kind, told: str) -> None:
    assert tell_event(Event("a", kind, 1.0, 31, 9), Row("a", led_for=0.25)) == told


def test_the_summary_is_the_last_line_and_is_never_wrapped() -> None:
    out, text = console(width=20)
    show_verdict(out, Verdict(6, 5, 2, (), ("a [b] never led, which is a long story",)))
    assert text.getvalue().splitlines() == [
        "wrong: a [b] never led, which is a long story",
        "5 of 6 instances led, 2 overlapped, handover median – ms",
    ]
    out, text = console(width=20)
    show_verdict(out, Verdict(1, 1, 0, (), (), "2 fenced writes, or so"))
    assert text.getvalue().splitlines()[0] == "2 fenced writes, or so"
