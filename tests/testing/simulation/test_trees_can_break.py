"""Copies of trees with a bug in them: their scenario finds each, and tells how to repeat it."""

import re

import pytest
from torture.planted import Edit

from everlatch.subscriptions.tree_changes import PendingChanges
from everlatch.subscriptions.tree_copy import TreeCopy
from everlatch.subscriptions.tree_feed import TreeFeed
from everlatch.subscriptions.tree_reader import TreeReader
from everlatch.testing.simulation.campaign import play

# What is left undone when a run fails.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

BUGS = {  # each with the seed that finds it today, from which on it is looked for
    "what was missed is not looked at": (28, Edit(TreeFeed, "_on_event", "self._reader.missed()", "pass")),
    "deletions are believed at once": (
        1,
        Edit(
            TreeReader,
            "changed",
            "elif path in self._nodes",
            "elif event is EventType.DELETED and path not in self._nodes and not self._take_out(path):\n        pass\n"
            "    elif path in self._nodes",
        ),
    ),
    "one-shot watches are set for data alone": (4, Edit(TreeReader, "read", "self.is_one_shot or", "False or")),
    "nobody looks again": (2, Edit(TreeFeed, "_see_to_sweeping", "if self._recheck is None", "if True")),
    "a loss is for ever": (6, Edit(TreeFeed, "_see_what_is_due", "self._reader.retry()", "pass")),
    "the watch is left behind": (1, Edit(TreeFeed, "close", "self._watch.close()", "pass")),
    "another watch is no reason to look": (19, Edit(TreeFeed, "_arm", "if is_new:", "if False:")),
    "children go behind their parent": (2, Edit(TreeCopy, "take_out", "gone.reverse()", "pass")),
    "joined changes keep their place": (34, Edit(PendingChanges, "_join", "self._changes.move_to_end(path)", "pass")),
}
SEEDS = 60
SIGNS = (
    "ends with|which was not so|is not ready|may not be read, and|has watches|have watches|before (its|below)|, after "
)


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_found(bug):
    first, edit = BUGS[bug]
    with edit.made():
        for seed in range(first, first + SEEDS):
            failure = play("trees", seed).failure
            if failure:
                assert re.search(SIGNS, failure), failure
                assert f"replay: scripts/sim --seeds 1 --seed {seed} --name trees" in failure
                return
    pytest.fail(f"{SEEDS} seeds found nothing")
