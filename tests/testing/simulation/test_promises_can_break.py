"""Clients with a bug in them: the scenarios that are named after promises find each, and tell how to repeat it."""

import contextlib
import re

import pytest

from everlatch import Client, OutcomeUnknownError
from everlatch.arguments import checked_timeout
from everlatch.engine import engine
from everlatch.engine.dispatch import Dispatcher
from everlatch.engine.engine import Engine
from everlatch.engine.lease_keeper import LeaseKeeper
from everlatch.session.credentials import Credentials
from everlatch.session.requests import Requests
from everlatch.session.retry import FullJitter
from everlatch.session.session import Phase, Session
from everlatch.session.watching import Watching
from everlatch.testing.simulation.campaign import play
from everlatch.types import State

# What is left undone when a run fails.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def found(name, what, seeds=20, first=1):
    """In one of these seeds something fails that is told so. `first`: those before are known to find nothing, today."""
    for seed in range(first, first + seeds):
        failure = play(name, seed).failure
        if failure:
            assert re.search(what, failure), failure
            assert f"replay: scripts/sim --seeds 1 --seed {seed} --name {name}" in failure
            return
    pytest.fail(f"{seeds} seeds of {name} found nothing")


def test_a_client_that_tries_less_and_less(monkeypatch):
    delays = iter(range(1, 100_000))
    monkeypatch.setattr(FullJitter, "next_delay", lambda *_: float(next(delays) * 10))
    found("connected", "waits for a|makes .* calls in a second")


def test_a_client_that_does_not_tell_of_a_loss(monkeypatch):
    announce = Session._announce

    def but_for_suspended(self, state, reason):
        if state is State.SUSPENDED:
            self.state = state
        else:
            announce(self, state, reason)

    monkeypatch.setattr(Session, "_announce", but_for_suspended)
    found("connected", "was told after|not in the table")


def test_writes_that_are_sent_twice(monkeypatch):
    lost = Requests.connection_lost

    def keep_the_first(self, reason, **judged):
        first = self.in_flight[0] if self.in_flight else None
        if first is not None and (first.call is None or not first.operation.is_write):
            first = None
        if first is not None:
            self.in_flight.popleft()
        lost(self, reason, **judged)
        if first is not None:
            self._put_back(first)

    monkeypatch.setattr(Requests, "connection_lost", keep_the_first)
    found("queued", "was appended to in this order")


def test_bound_calls_that_outlive_their_session(monkeypatch):
    monkeypatch.setattr(Requests, "fail_bound", lambda self, generation: None)
    found("queued", "of sessions that are over wait|another session than it was bound to", first=10)


def test_watches_that_are_not_armed_anew(monkeypatch):
    monkeypatch.setattr(Watching, "rearm", lambda self: None)
    found("renewed", "TimeoutError|was told")


def test_credentials_that_are_forgotten(monkeypatch):
    replay = Credentials.replay

    def once(self):
        frames, self.replay = replay(self), list
        return frames

    monkeypatch.setattr(Credentials, "replay", once)
    found("renewed", "NoAuth")


def test_watches_that_are_armed_behind_the_queue(monkeypatch):
    take = Session._take_urgent

    def behind(self, now):
        waits = self.phase is Phase.SERVING and self.requests.queued_calls and not self.requests.in_flight
        return [] if waits and not self._is_preparing else take(self, now)

    monkeypatch.setattr(Session, "_take_urgent", behind)
    found("renewed", "carried")


def test_a_queue_that_moves_before_a_renewal_is_told(monkeypatch):
    monkeypatch.setattr(Engine, "_let_listeners_go_first", lambda self: None)
    found("renewed", "it moved before")


def test_a_healthy_link_that_is_left_when_the_loop_was_blocked(monkeypatch):
    check = Session._check_link

    def too_late(self, now):
        if now > self._doubt.deadline() + 0.05:
            self._drop(self._silence(now), now)
        else:
            check(self, now)

    monkeypatch.setattr(Session, "_check_link", too_late)
    found("isolated", "healthy links as its loop was blocked")


def test_callbacks_that_reach_others(monkeypatch):
    def reaches_the_loop(self, callback, argument):
        return callback(argument) if callback.__name__ == "_raises" else call(self, callback, argument)

    call = Dispatcher._call
    monkeypatch.setattr(Dispatcher, "_call", reaches_the_loop)
    found("isolated", "_CallbackError")


def test_calls_that_end_later_than_their_timeout(monkeypatch):
    monkeypatch.setattr(engine, "checked_timeout", lambda seconds: checked_timeout(seconds) * 1.1)
    found("bounded", "with timeout .* took")


def test_a_client_that_reconnects_to_close(monkeypatch):
    close = Client.close

    async def patient(self, timeout=None):
        with contextlib.suppress(OutcomeUnknownError):
            await self.sync()
        await close(self, timeout)

    monkeypatch.setattr(Client, "close", patient)
    found("bounded", "reconnected to close|close.* took")


def test_a_latch_that_believes_its_link(monkeypatch):
    def while_connected(self):
        return self._engine.now() + 1.0 if self._engine.session.state is State.CONNECTED else 0.0

    monkeypatch.setattr(LeaseKeeper, "end", property(while_connected))
    monkeypatch.setattr(LeaseKeeper, "lapses", 0)
    found("leadership", "these believe to lead", seeds=60, first=9)


def test_a_latch_on_a_naive_lease(monkeypatch):
    """Send time of the last answer + T, and no commits."""

    def naive(self):
        session = self._engine.session
        lives = session.session_id and session.state in (State.CONNECTED, State.SUSPENDED) and not session.is_closing
        return session.liveness.lost_at if lives else 0.0

    monkeypatch.setattr(LeaseKeeper, "end", property(naive))
    monkeypatch.setattr(LeaseKeeper, "lapses", 0)
    monkeypatch.setattr(Session, "_commit", lambda self, now: setattr(self, "_commit_at", now + 1e9))
    found("leadership", "these believe to lead", seeds=150, first=10)
