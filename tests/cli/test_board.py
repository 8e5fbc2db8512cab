"""What the board knows of each member."""

from __future__ import annotations

import pytest

from everlatch.cli.board import Board, Status
from everlatch.cli.events import Event, Kind
from everlatch.cli.observer import LatchNode


def board_with(*events: Event) -> Board:
    board = Board(["a", "b"])
    for event in events:
        board.record(event)
    return board


def test_a_member_starts_waits_leads_and_loses() -> None:
    board = board_with()
    seen = [board["a"].status]
    for kind in (Kind.STARTED, Kind.WAITING, Kind.LEADING, Kind.BELIEVING, Kind.LOST):
        board.record(Event("a", kind, 1.0, 7, 9))
        seen.append(board["a"].status)
    assert seen == [
        *(Status.STARTING, Status.STARTING, Status.WAITING),
        *(Status.LEADING, Status.LEADING, Status.WAITING),
    ]
    assert (board["a"].session_id, board["a"].token) == (7, 9)
    assert board["b"].status is Status.STARTING


def test_the_handover_is_from_the_last_stamp_of_one_to_the_first_of_the_next() -> None:
    board = board_with(
        Event("a", Kind.LEADING, 1.0, 7, 9),
        Event("a", Kind.BELIEVING, 1.5, 7, 9),
        Event("b", Kind.LEADING, 3.25, 8, 10),
    )
    assert board["a"].handover is None
    assert board["b"].handover == pytest.approx(1.75)
    assert board["a"].led_for == pytest.approx(0.5)


def test_leading_again_is_no_handover() -> None:
    board = board_with(
        Event("a", Kind.LEADING, 1.0, 7, 9), Event("a", Kind.LOST, 1.5, 7, 9), Event("a", Kind.LEADING, 2.0, 7, 9)
    )
    assert board["a"].handover is None


def test_nodes_are_placed_by_their_member_and_strangers_ignored() -> None:
    board = board_with()
    board.place([LatchNode("0000000003", "b", 1, 1), LatchNode("0000000004"), LatchNode("0000000005", "x", 1, 1)])
    assert board["b"].node == "0000000003"
    assert board["a"].node == ""
