"""The judge of the trial of `exactly_once`, which itself is made on real servers (`promises/real`)."""

import pytest
from torture.exactly_once import Trial, judge, main

from everlatch import Created, Node, OutcomeUnknownError, Stat
from everlatch.partial_stat import UNKNOWN


def created(number, zxid):
    return Created(f"/n-{number:010d}", Stat(zxid, zxid, 0, 0, 0, 0, 0, 0, 1, 0, zxid))


def changed(version, zxid):
    return Stat(1, zxid, 0, 0, version, 0, 0, 0, 1, 0, 1)


def nodes(*made):
    return {path: Node(b"%d" % number, stat) for number, (path, stat) in enumerate(made)}


FIRST, SECOND = created(0, 10), created(1, 12)
SETS = [changed(1, 11), changed(2, 13)]


@pytest.mark.parametrize(
    ("trial", "field"),
    [
        (Trial([FIRST, SECOND], SETS, nodes(FIRST, SECOND), 2), None),
        (Trial([FIRST, SECOND], [SETS[0], SETS[1]._replace(version=UNKNOWN)], nodes(FIRST, SECOND), 2), None),
        (Trial([FIRST], SETS, nodes(FIRST, SECOND), 2), "duplicates"),
        (Trial([FIRST, FIRST], SETS, nodes(FIRST), 2), "duplicates"),
        (Trial([FIRST, SECOND], SETS, nodes(FIRST, SECOND), 3), "duplicates"),
        (Trial([FIRST, SECOND], SETS, nodes(FIRST), 2), "missing"),
        (Trial([FIRST, SECOND], SETS, nodes(FIRST, SECOND), 1), "missing"),
        (Trial([OutcomeUnknownError("create", "/n-", None)], SETS, {}, 2), "unknown"),
        (Trial([ValueError("of the client")], SETS, {}, 2), "errors"),
        (Trial([SECOND, FIRST], SETS, nodes(SECOND, FIRST), 2), "wrong"),
        (Trial([FIRST, SECOND], SETS[::-1], nodes(FIRST, SECOND), 2), "wrong"),
        (Trial([FIRST], [SETS[0], SETS[1]._replace(version=7)], nodes(FIRST), 2), "wrong"),
        (Trial([FIRST], SETS, {FIRST.path: Node(b"1", FIRST.stat)}, 2), "wrong"),
    ],
)
def test_the_judge_finds_what_is_wrong(trial, field):
    verdict = judge(trial)
    assert verdict.is_good == (field is None)
    assert field is None or getattr(verdict, field)


@pytest.mark.parametrize("arguments", [[], ["--real", "--operations", "3"], ["--real", "--operations", "0"]])
def test_the_command_line_knows_what_it_can_do(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "usage: python -m torture.exactly_once" in capsys.readouterr().err
