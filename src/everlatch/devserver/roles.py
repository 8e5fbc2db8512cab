"""What a member of an ensemble can be: one of those that look for a leader, follow it, or lead.

Rule of this module: a role ends by `Member.look` and its like only, and does nothing afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everlatch.devserver.connection import Attached, Connection
    from everlatch.devserver.ensemble import Member
    from everlatch.devserver.entries import Ask
    from everlatch.devserver.messages import Message
    from everlatch.devserver.sessions import Session

__all__ = ["Role"]


class Role(ABC):
    """What its member does at present."""

    def __init__(self, member: Member) -> None:
        self.member = member

    @property
    @abstractmethod
    def mode(self) -> str | None:
        """As four-letter words tell it; `None`: not serving."""

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Those that it watches over."""
        return ()

    @property
    @abstractmethod
    def deadline(self) -> float:
        """When `handle_timer` is next due."""

    @abstractmethod
    def handle_timer(self, now: float) -> None:
        """Something may be due."""

    @abstractmethod
    def receive(self, sender: int, message: Message, now: float) -> None:
        """From another member."""

    @abstractmethod
    def lost(self, peer: int, now: float) -> None:
        """The connection to that member has broken."""

    def leave(self, now: float) -> None:  # noqa: B027 - most have nothing to do
        """The role is over."""

    # -- for clients' connections, while it serves

    @abstractmethod
    def touch(self, session: Attached, now: float) -> None:
        """It was heard of."""

    @abstractmethod
    def put(self, ask: Ask, now: float) -> None:
        """The leader is to decide it."""

    @abstractmethod
    def ask_whether_alive(self, connection: Connection, session: Attached, now: float) -> None:
        """The leader is asked for a session that comes back."""

    @abstractmethod
    def ask_to_sync(self, connection: Connection, now: float) -> None:
        """The leader is asked for everything that it has decided until now."""
