"""The judge of writes whose replies are lost; they are lost on real servers (`promises`)."""

import pytest
from torture.outcome_cases import KINDS, Ending, Mode, Seen, ending_of, wrong
from torture.outcomes import Tally, cases

from everlatch import NodeExistsError, OutcomeUnknownError, Stat, WriteNotAppliedError


def seen(*, version=0, children=0):
    """Of a case whose node exists, and of which so many children were created."""
    root = Stat(1, 1, 0, 0, 0, children, 0, 0, 0, children, 1)
    node = Stat(2, 2 + version, 0, 0, version, 0, 0, 0, 11, 0, 2)
    return Seen(root, {"/n": node})


SET = next(kind for kind in KINDS if kind.name == "set")
ONCE = (seen(), seen(version=1), seen(version=1), seen(version=1))
TWICE = (seen(), seen(version=1), seen(version=1), seen(version=2))
NEVER = (seen(), seen(), seen(), seen())


@pytest.mark.parametrize(
    ("looks", "end", "reason"),
    [
        (ONCE, seen(version=1).nodes["/n"], None),
        (ONCE, seen(version=2).nodes["/n"], "is neither"),
        (ONCE, WriteNotAppliedError("set", "/n", "it says so"), "applied, and told"),
        (ONCE, OutcomeUnknownError("set", "/n", None), None),
        (TWICE, seen(version=2).nodes["/n"], "applied 2 times"),
        (NEVER, seen(version=1).nodes["/n"], "not applied, and returned"),
        (NEVER, WriteNotAppliedError("set", "/n", "it says so"), None),
        (NEVER, NodeExistsError("set", "/m"), None),
        (NEVER, ValueError("of the client"), "ended with"),
    ],
)
def test_the_judge(looks, end, reason):
    found = wrong(SET, Mode.PLAIN, "/n", looks, end)
    assert found is None if reason is None else reason in (found or "")


def test_the_judge_lets_nothing_be_unknown_that_is_exactly_once():
    end = OutcomeUnknownError("set", "/n", None)
    assert ending_of(end) is Ending.UNKNOWN
    assert "unknown" in (wrong(SET, Mode.EXACTLY_ONCE, "/n", ONCE, end) or "")


def test_every_kind_and_mode_is_among_the_cases():
    chosen = {(case.kind.name, case.mode) for case in cases()}
    assert chosen == {(kind.name, mode) for kind in KINDS for mode in kind.modes}
    assert set(Tally().to_json()["modes"]) == {mode.value for mode in Mode}
