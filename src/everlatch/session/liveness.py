"""When to ping, when a link counts as silent, and when the session must be assumed lost.

Rules, with T the negotiated session timeout:
1. A ping goes out when nothing was sent for T/6 (at most 10 s), unless the link is waited for already: nothing has come
   since the last request was sent. Any request touches the session and is answered, so a busy link needs none; but
   many answers, or large ones, can take longer to come than a session lives untouched.
2. A link is silent when something is unanswered and no byte has come for its budget since. Requests count like pings:
   a client that only asked on a half-open link would otherwise never notice. The budget is T/8, unless another one is
   asked for, and doubles up to T/3 whenever a silent link was heard again (a server that pauses now and then), until
   that has not happened for 10 T. What needs a quorum may take T/3, and pings queue up behind it.
   Silence is not the end: it is when the link is doubted. At 2 T/3 it is dead. However long T is (the server decides),
   none of that takes longer than 10, 30 and 60 s.
3. *Proven* is the send time of the last answered request. At that moment at the earliest the server counted T from
   anew, so at proven + T the session must be assumed lost, whatever the link seems to do.
   (ZooKeeper's own client counts from the last byte *received*, which is later than the server's count.)
   The link is left then too, unless answers are coming in, the last one within T: many, or large ones, may take that
   long. When an answer comes after that moment, the session may not be lost after all; `lapses` counts how often that
   was so, for what must not come back by itself.
4. A deadline that is handled late means that our own process or loop stood still, not that the server did: whoever
   handles it has to read what has arrived first. `was_late` says so.
"""

from __future__ import annotations

__all__ = ["Liveness"]

_PINGS_PER_TIMEOUT = 6
_LONGEST_PING_INTERVAL = 10.0
_SILENCES_PER_TIMEOUT = 3
_BUDGETS_PER_TIMEOUT = 8
_LONGEST_BUDGET = 10.0
_LONGEST_SILENCE = 30.0
_MOST_DOUBLINGS = 16
_MEMORY = 10
"""Session timeouts."""
_LATENESS = 0.05


class Liveness:
    """The clockwork of one client; times are in seconds on the clock that the caller passes in."""

    def __init__(self, session_timeout: float, budget: float | None = None) -> None:
        self._asked_budget = budget
        self._doublings = 0
        self._alarmed_at = 0.0
        self.waits_for_commit = False
        """Whether what is unanswered needs a quorum."""
        self._set_timeout(session_timeout)
        self.proven = 0.0
        """Send time of the last answered request of this session."""
        self.waiting_since: float | None = None
        """Since when something is unanswered with no byte received; `None`: nothing is unanswered."""
        self.ping_sent_at: float | None = None
        self.answered_at = 0.0
        """When an answer came last on this connection."""
        self.lapses = 0
        self._last_sent = 0.0

    def _set_timeout(self, timeout: float) -> None:
        self.timeout = timeout
        self.ping_interval = min(timeout / _PINGS_PER_TIMEOUT, _LONGEST_PING_INTERVAL)
        """How long nothing may be sent before a ping is."""
        self.first_budget = self._asked_budget or min(timeout / _BUDGETS_PER_TIMEOUT, _LONGEST_BUDGET)
        """How long an unanswered link may be silent at least."""

    @property
    def budget(self) -> float:
        """How long an unanswered link may be silent. Rule 2."""
        longest = self._longest_silence
        if self.waits_for_commit:
            return longest
        return min(self.first_budget * 2.0**self._doublings, longest)

    @property
    def _longest_silence(self) -> float:
        return min(self.timeout / _SILENCES_PER_TIMEOUT, _LONGEST_SILENCE)

    def false_alarm(self, now: float) -> None:
        """A silent link was heard again."""
        self._alarmed_at = now
        self._doublings = min(self._doublings + 1, _MOST_DOUBLINGS)

    @property
    def lost_at(self) -> float:
        """When the session must be assumed lost."""
        return self.proven + self.timeout

    def connected(self, sent_at: float, now: float, timeout: float) -> None:
        """A handshake was answered: the ConnectRequest went out at `sent_at`."""
        self._set_timeout(timeout)
        self.proven = sent_at
        self.answered_at = 0.0
        self.disconnected()
        self._last_sent = now
        if now > self._alarmed_at + _MEMORY * timeout:
            self._doublings = 0

    def resume(self, proven: float, timeout: float) -> None:
        """What was kept aside counts again."""
        self._set_timeout(timeout)
        self.proven = proven

    def disconnected(self) -> None:
        """The link is gone, and with it everything unanswered."""
        self.waiting_since = self.ping_sent_at = None
        self.waits_for_commit = False

    def sent(self, now: float) -> None:
        """Requests were handed to the transport."""
        self._last_sent = now
        if self.waiting_since is None:
            self.waiting_since = now

    def ping_sent(self, now: float) -> None:
        """A ping was handed to the transport."""
        self.ping_sent_at = now
        self.sent(now)

    def received(self, now: float, *, unanswered: bool) -> None:
        """Bytes came; `unanswered`: something still waits for its reply."""
        self.waiting_since = now if unanswered or self.ping_sent_at is not None else None
        self.waits_for_commit = False
        if self._doublings and now > self._alarmed_at + _MEMORY * self.timeout:
            self._doublings = 0

    def answered(self, sent_at: float, now: float) -> None:
        """An answer came to what was sent at `sent_at`. Rule 3."""
        if now >= self.proven + self.timeout:
            self.lapses += 1
        self.proven = sent_at
        self.answered_at = now

    def ping_due(self, now: float) -> bool:
        """Rule 1."""
        return self._may_ping and now >= self._last_sent + self.ping_interval

    @property
    def _may_ping(self) -> bool:
        return self.ping_sent_at is None and (self.waiting_since is None or self.waiting_since > self._last_sent)

    @property
    def _without_answers_until(self) -> float:
        """How long this connection may go on without an answer: past the end of the session only if more are coming."""
        proven = self.proven if self.waiting_since is None else max(self.proven, self.answered_at)
        return proven + self.timeout

    def is_silent(self, now: float) -> bool:
        """Rule 2, and rule 3 for a link that brings bytes but no answers."""
        return now >= self._without_answers_until or (
            self.waiting_since is not None and now >= self.waiting_since + self.budget
        )

    @property
    def slow_until(self) -> float:
        """Until when a server that lives may be slow to answer on this link."""
        return (self.waiting_since or 0.0) + self._longest_silence

    @property
    def dead_at(self) -> float:
        """When the link is dead, whoever lives or not."""
        silent = self._without_answers_until
        return silent if self.waiting_since is None else min(silent, self.waiting_since + 2 * self._longest_silence)

    def is_dead(self, now: float) -> bool:
        """Rule 2, and rule 3."""
        return now >= self.dead_at

    def next_deadline(self) -> float:
        """When to look again, while connected."""
        deadline = self._without_answers_until
        if self.waiting_since is not None:
            deadline = min(deadline, self.waiting_since + self.budget)
        if self._may_ping:
            deadline = min(deadline, self._last_sent + self.ping_interval)
        return deadline

    @staticmethod
    def was_late(deadline: float, now: float) -> bool:
        """Rule 4."""
        return now - deadline > _LATENESS
