"""What is known of each member at this moment. Pure: made to be shown, not to judge (that is `election`)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from everlatch.cli.events import Event, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from everlatch.cli.observer import LatchNode

__all__ = ["Board", "Row", "Status"]


class Status(enum.Enum):
    """What a member does."""

    STARTING = "starting"
    WAITING = "waits"
    LEADING = "leads"
    DEAD = "dead"
    """Killed itself, after it had led."""
    FAILED = "failed"
    """Ended in another way."""


@dataclass
class Row:
    """One member."""

    member: str
    pid: int = 0
    status: Status = Status.STARTING
    session_id: int = 0
    node: str = ""
    """The number of its node; empty: not seen yet."""
    token: int = 0
    handover: float | None = None
    """Seconds from the previous leader's last stamp to this one's first; `None`: nobody led before, or not yet."""
    led_for: float = 0.0
    last_stamp: float = 0.0


class Board:
    """All members, in the order in which they were started."""

    def __init__(self, members: Sequence[str]) -> None:
        self.rows = {member: Row(member) for member in members}
        self._leader: Row | None = None

    def __getitem__(self, member: str) -> Row:
        return self.rows[member]

    def record(self, event: Event) -> None:
        """Takes in what a member told."""
        row = self.rows[event.member]
        row.session_id = event.session_id or row.session_id
        if event.kind in (Kind.WAITING, Kind.LOST):
            row.status = Status.WAITING
        elif event.kind is Kind.LEADING:
            self._begin(row, event)
        elif event.kind is Kind.BELIEVING:
            row.led_for += event.at - row.last_stamp
            row.last_stamp = event.at

    def _begin(self, row: Row, event: Event) -> None:
        if self._leader is not None and self._leader is not row:
            row.handover = event.at - self._leader.last_stamp
        self._leader = row
        row.status, row.token, row.last_stamp = Status.LEADING, event.token, event.at

    def place(self, nodes: Iterable[LatchNode]) -> None:
        """Takes in what the observer saw."""
        for node in nodes:
            if node.member in self.rows:
                self.rows[node.member].node = node.number
