"""Subscriptions with a bug in them: the scenario of P5 finds each, and tells how to repeat it.

(That what is known is told while the client is disconnected is not among them: it is old, but nothing newer was seen.)
"""

import re
from contextlib import ExitStack

import pytest
from torture.planted import Edit

from everlatch.session.watching import Watching
from everlatch.subscriptions.feed import Feed
from everlatch.subscriptions.path_watch import PathWatch
from everlatch.testing.simulation.campaign import play

# What is left undone when a run fails.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

EVENTS_DURING_A_READ_ARE_LOST = Edit(
    Feed, "_run", "pause = await self._read()", "pause = await self._read()\n            self._stirred.clear()"
)
MISSED_IS_IGNORED = Edit(Feed, "_on_event", "event.type is not", "event.type.name != 'MISSED' and event.type is not")
ONE_SHOT_IS_NOT_ARMED_AGAIN = Edit(PathWatch, "one_shot", "return self._tell", "return self._one_shots.pop(path)")
STAYS_ARMED_AT_AN_OLD_SERVER = Edit(PathWatch, "_tell", "event.type is EventType.REMOVED", "False")
NEWCOMERS_ARE_TOLD_WHAT_WAS = Edit(
    Feed, "add", "self._stirred.set()", "subscriber.offer(self._state) if self._is_known else self._stirred.set()"
)
NOBODY_LOOKS_AGAIN = Edit(Feed, "_stirs_within", "self._recheck if pause is None", "None if pause is None")
A_LOSS_IS_FOR_EVER = Edit(Feed, "_stirs_within", "else pause", "else None")
A_LOSS_IS_SAID_WITH_EVERY_ATTEMPT = Edit(Feed, "_refused", "if is_news or not subscriber.is_refused:", "if True:")
WATCHES_ARE_LEFT_BEHIND = Edit(Feed, "close", "self._watch.close()", "pass")
ONE_SHOTS_ARE_LEFT_BEHIND = Edit(PathWatch, "close", "for path in list(self._one_shots):", "for path in ():")


ASKED_FOR_WHAT_IT_DOES_NOT_KNOW = (
    Edit(
        PathWatch,
        "arm",
        "await engine.versions.require(operation.name, SINCE, path=self._path, timeout=None, op=operation.op)",
        "pass",
    ),
    Edit(Watching, "_remove_on_old_server", "if not self._has_persistent:", "if False:"),
)


def found(what, *edits, seeds=40, first=1):
    """In one of these seeds something fails that is told so. `first`: those before are known to find nothing, today."""
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.made())
        for seed in range(first, first + seeds):
            failure = play("watched", seed).failure
            if failure:
                assert re.search(what, failure), failure
                assert f"replay: scripts/sim --seeds 1 --seed {seed} --name watched" in failure
                return
    pytest.fail(f"{seeds} seeds found nothing")


def test_events_that_come_during_a_read():
    found(" ends with .* it is ", EVENTS_DURING_A_READ_ARE_LOST)


def test_what_may_have_been_missed():
    found(" ends with .* it is ", MISSED_IS_IGNORED, first=4)


def test_one_shot_watches_that_are_not_armed_again():
    found(" ends with .* it is ", ONE_SHOT_IS_NOT_ARMED_AGAIN, first=7)


def test_persistent_watches_that_an_old_server_does_not_have():
    found(" ends with .* it is ", STAYS_ARMED_AT_AN_OLD_SERVER)


def test_a_newcomer_who_is_given_an_old_state():
    found("which was not so at or after", NEWCOMERS_ARE_TOLD_WHAT_WAS, first=14)


def test_events_that_servers_keep_back():
    found(" ends with .* it is ", NOBODY_LOOKS_AGAIN, first=3)


def test_permissions_that_come_back():
    found(" ends with .*unreadable.* it is ", A_LOSS_IS_FOR_EVER, first=2)


def test_one_loss_that_is_said_more_than_once():
    found("one loss of READ twice", A_LOSS_IS_SAID_WITH_EVERY_ATTEMPT, first=2)


@pytest.mark.parametrize(("edit", "first"), [(WATCHES_ARE_LEFT_BEHIND, 3), (ONE_SHOTS_ARE_LEFT_BEHIND, 7)])
def test_watches_that_are_left_behind(edit, first):
    found("has watches|servers have watches", edit, first=first)


def test_an_old_server_that_is_asked_for_what_ends_the_connection():
    found("connections, though nothing was wrong", *ASKED_FOR_WHAT_IT_DOES_NOT_KNOW, first=7)
