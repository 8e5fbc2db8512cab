"""The leader's work: decides what becomes of every `Ask`, and when sessions and nodes end by themselves. Pure.

    entry = decider.decide(ask, now)      # append it to the log; apply it when it is committed

Rules of this module:
1. Its tree is where the log will lead, not where it is: everything that was decided is in it, committed or not. So the
   next question is judged as if all before it had happened, and the answer is known when the question is.
2. A session is owned by the server over which it came last. Writes that come over another one are refused (−118); a
   request to close a session is not: who asks for that is never asked whether he may.
3. Only what is told to `touch` keeps a session alive. That a write came over another server is no touch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.devserver.entries import CREATE_SESSION, Entry, SessionChange
from everlatch.devserver.requests import WRITES
from everlatch.devserver.sessions import Sessions
from everlatch.devserver.tree import Transaction
from everlatch.devserver.writes import Author, Draft, end_of_session, reaping
from everlatch.errors import (
    MarshallingError,
    ProtocolError,
    ServerError,
    SessionExpiredError,
    SessionMovedError,
)
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everlatch.devserver.entries import Ask, Origin
    from everlatch.devserver.options import Options
    from everlatch.devserver.tree import Tree

__all__ = ["Decider"]


class Decider:
    """What the present leader knows. `epoch` is what makes milliseconds since 1970 of `now`."""

    def __init__(self, options: Options, tree: Tree, epoch: float, now: float) -> None:
        self.tree = tree
        """Rule 1. Nobody else may change it."""
        self.sessions = Sessions(options.tick)
        self._options = options
        self._epoch = epoch
        self._reap_at = now + options.reap_interval

    # -- what servers ask

    def decide(self, ask: Ask, now: float) -> Entry:
        """What the log gets for it."""
        if ask.op == CREATE_SESSION:
            self.sessions.begin(ask.session_id, ask.timeout_ms, now, ask.origin.server)
            return self._change_session(SessionChange(ask.session_id, ask.timeout_ms), ask.origin, now)
        if ask.op == Op.CLOSE_SESSION:
            return self._end(ask.session_id, ask.origin, now)
        return self._write(ask, now)

    def may_reattach(self, session_id: int, timeout_ms: int, server: int, now: float) -> bool:
        """Whether the session is alive; it is then that server's."""
        if not self.touch(session_id, timeout_ms, now):
            return False
        session = self.sessions.get(session_id)
        assert session is not None
        session.owner = server
        return True

    def touch(self, session_id: int, timeout_ms: int, now: float) -> bool:
        """The session was heard of, and has this timeout. Whether it is alive."""
        session = self.sessions.get(session_id)
        if session is None:
            return False
        session.timeout_ms = timeout_ms
        self.sessions.touch(session, now)
        return True

    def _write(self, ask: Ask, now: float) -> Entry:
        author = Author(ask.session_id, ask.identities, self._options.features, self._options.schemes)
        draft = Draft(self.tree, author, self._time_ms(now))
        code, body = 0, b""
        try:
            with draft:
                self._check_session(ask)
                body = WRITES[ask.op](draft, ask.op, ask.body)
        except ServerError as refused:
            code = refused.code
        except ProtocolError:
            code = MarshallingError.code
        return Entry(draft.transaction, tuple(draft.events), None, ask.origin, code, body)

    def _check_session(self, ask: Ask) -> None:
        session = self.sessions.get(ask.session_id)
        if session is None:
            raise SessionExpiredError
        if session.owner is None:
            session.owner = ask.origin.server
        elif session.owner != ask.origin.server:
            raise SessionMovedError

    # -- what happens by itself

    def next_deadline(self) -> float:
        """When `handle_timer` is next due; it may become earlier with every new session."""
        ends = self.sessions.next_deadline()
        return self._reap_at if ends is None else min(ends, self._reap_at)

    def handle_timer(self, now: float) -> Iterator[Entry]:
        """Ends sessions that have not been heard of, and removes nodes that go by themselves."""
        for session in self.sessions.expired(now):
            yield self.expire(session.id, now)
        if now >= self._reap_at:
            self._reap_at = now + self._options.reap_interval
            yield from self.reap(now)

    def expire(self, session_id: int, now: float) -> Entry:
        """The session ends, now."""
        return self._end(session_id, None, now)

    def reap(self, now: float) -> Iterator[Entry]:
        """Containers that have become empty and TTL nodes whose time is over go, now."""
        for transaction in reaping(self.tree, self._time_ms(now)):
            yield self._apply(transaction)

    def _end(self, session_id: int, origin: Origin | None, now: float) -> Entry:
        self.sessions.end(session_id)
        return self._change_session(SessionChange(session_id, 0), origin, now)

    def _change_session(self, change: SessionChange, origin: Origin | None, now: float) -> Entry:
        if change.timeout_ms:
            transaction = Transaction(self.tree.zxid + 1, self._time_ms(now))
        else:
            transaction = end_of_session(self.tree, change.id, self._time_ms(now))
        return self._apply(transaction)._replace(session=change, origin=origin)

    def _apply(self, transaction: Transaction) -> Entry:
        return Entry(transaction, tuple(self.tree.apply(transaction)))

    def _time_ms(self, now: float) -> int:
        return int((now + self._epoch) * 1000)
