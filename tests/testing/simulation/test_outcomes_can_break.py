"""Settlement with a bug in it: the scenario of P3 finds each, and tells how to repeat it.

(A receipt that demands no version is not among them: it harms nobody as long as all else is right, for a write is sent
again only when nothing more of the old connection can be applied.)
"""

import re
from contextlib import ExitStack

import pytest
from torture.planted import Edit

from everlatch.session import evidence
from everlatch.session.receipts import Receipts
from everlatch.session.requests import Requests
from everlatch.session.settlement import Settlement
from everlatch.testing.simulation.campaign import play
from everlatch.wire.multi import CreatePart

# What is left undone when a run fails.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

NO_COMMIT = Edit(Settlement, "start", 'COMMIT, "/", COMMIT_BODY', 'LOOK, "/", look_body("/")')
NO_ZXID = Edit(Settlement, "_committed", "self._committed_at = zxid", "pass")
NOT_COUNTED = Edit(Receipts, "release", "slot.version = version", "pass")
FROM_THE_MIDDLE = Edit(Settlement, "_end", "if index >= first_again and", "if case.can_be_sent_again and")
GIVEN_BACK_EARLY = Edit(
    Requests, "withdraw", "if not request.xid:", "self._give_receipt_back(request)\n    if not request.xid:"
)


def found(what, *edits, seeds=60):
    """In one of the first seeds something fails that is told so."""
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.made())
        for seed in range(1, seeds + 1):
            failure = play("outcomes", seed).failure
            if failure:
                assert re.search(what, failure), failure
                assert f"replay: scripts/sim --seeds 1 --seed {seed} --name outcomes" in failure
                return
    pytest.fail(f"{seeds} seeds found nothing")


def test_looks_without_a_commit_before_them():
    found("and was applied|at 0x.*; later", NO_COMMIT, NO_ZXID)


def test_receipts_whose_version_is_not_counted():
    found("blames a receipt", NOT_COUNTED)


def test_writes_that_are_sent_again_before_one_that_was_applied():
    found("before an earlier call|last before", FROM_THE_MIDDLE)


def test_absence_that_is_taken_for_proof(monkeypatch):
    judge = evidence._judge

    def by_absence(change, zxid, seen, owner, is_protected):
        if isinstance(change, CreatePart) and not evidence.is_sequential(change) and seen.get(change.path, 0) is None:
            return evidence.NOT_APPLIED
        return judge(change, zxid, seen, owner, is_protected)

    monkeypatch.setattr(evidence, "_judge", by_absence)
    found("and was applied")


def test_a_receipt_that_is_used_again_before_its_answer_is_known():
    found("is unknown|blames a receipt", GIVEN_BACK_EARLY)
