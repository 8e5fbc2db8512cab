"""The pipe to the guardian: in order, whole, and never waited for."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from everlatch.guardian import line as lines
from everlatch.guardian.line import Line, LineBrokenError
from everlatch.guardian.process import Messages

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def line(clock: Clock) -> Iterator[Line]:
    line = Line(clock)
    yield line
    line.close()
    os.close(line.far_end)


def fill(line: Line) -> list[tuple[int, bytes]]:
    """Until something is kept."""
    told: list[tuple[int, bytes]] = []
    while not line.keeps:
        told.append((len(told), bytes(3000)))
        line.tell(told[-1])
    return told


def test_what_is_told_is_heard_in_order(line: Line) -> None:
    heard = Messages(line.far_end)
    told = [("session", number, b"x" * number, None, [("host", 2181)], -1.5) for number in range(0, 9000, 1000)]
    for message in told:
        line.tell(message)
    assert heard.read() == told
    assert heard.read() == []
    assert not heard.ended
    line.close()
    assert heard.read() == []
    assert heard.ended


def test_what_the_pipe_does_not_take_is_written_later(line: Line, clock: Clock) -> None:
    told = fill(line)
    assert len(told) > 100, "it was made larger"
    for _ in range(10):
        told.append((len(told), bytes(3000)))
        line.tell(told[-1])
    heard = Messages(line.far_end)
    found = heard.read()
    assert line.keeps
    line.flush()
    assert not line.keeps
    assert found + heard.read() == told
    clock.now += 10
    line.tell(("again",))
    assert heard.read() == [("again",)]


def test_systems_that_make_no_pipe_larger(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fcntl", None)
    told = fill(line)
    assert len(told) < 100
    heard = Messages(line.far_end)
    found = heard.read()
    line.flush()
    assert found + heard.read() == told


def test_who_does_not_read_is_stuck_after_a_second(line: Line, clock: Clock) -> None:
    fill(line)
    clock.now += 0.9
    line.flush()
    clock.now += 0.2
    with pytest.raises(LineBrokenError, match="doesn't read"):
        line.flush()


def test_not_everything_is_kept(line: Line) -> None:
    began = time.monotonic()
    with pytest.raises(LineBrokenError, match="doesn't read"):  # noqa: PT012
        while True:
            line.tell((bytes(3000),))
    assert len(line._kept) < 2 * lines._MOST_KEPT
    assert time.monotonic() - began < 5.0


def test_a_forked_child_leaves_what_is_kept_to_its_parent(line: Line) -> None:
    line.inherited()
    line.tell(("a whole message",))
    fill(line)
    line.inherited()
    with pytest.raises(LineBrokenError, match="in the middle"):
        line.tell(("a message in the middle of another one",))
    heard = Messages(line.far_end)
    heard.read()
    assert not heard.ended, "the guardian knows that somebody lives"


def test_nobody_is_there() -> None:
    line = Line()
    os.close(line.far_end)
    with pytest.raises(LineBrokenError, match="broke"):
        line.tell(("anything",))
    line.close()
    with pytest.raises(LineBrokenError, match="closed by other code"):
        line.tell(("anything",))
