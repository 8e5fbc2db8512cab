"""The judge, on histories made by hand: good ones pass, and each kind of bad one is caught."""

from __future__ import annotations

import pytest

from everlatch.cli.election import Handover, Sighting, Term, Verdict, handovers, judge, overlaps, terms
from everlatch.cli.events import Event, Kind


def term_events(member: str, token: int, begun: float, ended: float, *, session_id: int = 0) -> list[Event]:
    session_id = session_id or 100 + token
    middle = (begun + ended) / 2
    return [
        Event(member, Kind.STARTED, 0.0),
        Event(member, Kind.WAITING, 0.1, session_id),
        Event(member, Kind.LEADING, begun, session_id, token),
        Event(member, Kind.BELIEVING, middle, session_id, token),
        Event(member, Kind.BELIEVING, ended, session_id, token),
    ]


def sighting(member: str, token: int, begun: float, **changes: object) -> Sighting:
    seen = Sighting(member, begun, begun + 0.01, begun + 0.02, member, 100 + token, token)
    return seen._replace(**changes)  # type: ignore[arg-type]


GOOD = [*term_events("a", 5, 1.0, 2.0), *term_events("b", 6, 4.0, 5.0), *term_events("c", 9, 8.0, 9.0)]
SEEN = [sighting("a", 5, 1.0), sighting("b", 6, 4.0), sighting("c", 9, 8.0)]
ALL = ["a", "b", "c"]


def test_a_good_election_passes() -> None:
    verdict = judge(ALL, GOOD, SEEN)
    assert verdict.problems == ()
    assert verdict.passed
    assert verdict.summary() == "3 of 3 instances led, 0 overlapped, handover median 2500 ms"


def test_a_term_lasts_from_the_first_stamp_to_the_last_one() -> None:
    assert terms(GOOD)[0] == Term("a", 105, 5, 1.0, 2.0)
    assert [term.member for term in terms(GOOD)] == ALL


def test_terms_are_in_the_order_in_which_they_began_not_in_that_of_arrival() -> None:
    assert [term.member for term in terms([*GOOD[10:], *GOOD[:10]])] == ["a", "b", "c"]


def test_an_overlap_is_caught() -> None:
    events = [*term_events("a", 5, 1.0, 4.5), *GOOD[5:]]
    verdict = judge(ALL, events, SEEN)
    assert not verdict.passed
    assert verdict.overlapped == 2
    assert verdict.problems == ("a and b both believed to lead, for 500.0 ms",)
    assert verdict.summary() == "3 of 3 instances led, 2 overlapped, handover median 3000 ms"


def test_a_leader_within_the_term_of_another_overlaps() -> None:
    history = [Term("a", 1, 1, 0.0, 10.0), Term("b", 2, 2, 3.0, 4.0), Term("c", 3, 3, 6.0, 7.0)]
    assert overlaps(history) == [(history[0], history[1]), (history[0], history[2])]


def test_one_common_instant_is_an_overlap() -> None:
    assert overlaps([Term("a", 1, 1, 0.0, 1.0), Term("b", 2, 2, 1.0, 2.0)])


def test_one_member_does_not_overlap_with_itself() -> None:
    assert not overlaps([Term("a", 1, 1, 0.0, 1.0), Term("a", 1, 1, 1.0, 2.0)])


@pytest.mark.parametrize("token", [6, 5])
def test_a_token_that_does_not_rise_is_caught(token: int) -> None:
    events = [*GOOD[:10], *term_events("c", token, 8.0, 9.0)]
    verdict = judge(ALL, events, [*SEEN[:2], sighting("c", token, 8.0)])
    assert not verdict.passed
    assert verdict.problems == (f"the token did not rise: 6 of b, then {token} of c",)


def test_a_member_keeps_its_token_when_it_leads_again_with_its_node() -> None:
    lost = Event("a", Kind.LOST, 2.1, 105, 5)
    events = [*term_events("a", 5, 1.0, 2.0), lost, *term_events("a", 5, 3.0, 3.5), *GOOD[5:]]
    verdict = judge(ALL, events, [*SEEN, sighting("a", 5, 3.0)])
    assert verdict.passed
    assert verdict.handovers[0] == Handover("a", "b", 0.5)


def test_a_member_that_leads_again_must_not_fall_back() -> None:
    events = [*term_events("a", 5, 1.0, 2.0), *term_events("a", 4, 3.0, 3.5)]
    problems = judge(["a"], events, [sighting("a", 5, 1.0), sighting("a", 4, 3.0)]).problems
    assert problems == ("the token did not rise: 5 of a, then 4 of a",)


def test_a_missing_leader_is_caught() -> None:
    verdict = judge(ALL, GOOD[:10], SEEN[:2])
    assert not verdict.passed
    assert verdict.problems == ("c never led",)
    assert verdict.summary() == "2 of 3 instances led, 0 overlapped, handover median 2000 ms"


def test_a_leadership_that_nobody_checked_is_caught() -> None:
    verdict = judge(ALL, GOOD, SEEN[:2])
    assert not verdict.passed
    assert verdict.problems == ("nobody checked the leadership of c (token 9)",)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lowest": "b"}, "that of b (session 105, created by 5)"),
        ({"owner": 7}, "that of a (session 7, created by 5)"),
        ({"created": 4}, "that of a (session 105, created by 4)"),
        ({"lowest": "", "owner": 0, "created": 0}, "gone"),
    ],
)
def test_a_leader_without_the_lowest_node_is_caught(changes: dict[str, object], told: str) -> None:
    verdict = judge(ALL, GOOD, [sighting("a", 5, 1.0, **changes), *SEEN[1:]])
    assert not verdict.passed
    assert verdict.problems == (f"a (session 105, token 5) believed to lead, but the lowest node was {told}",)


def test_a_sighting_that_outlasts_the_belief_proves_nothing() -> None:
    lost = Event("a", Kind.LOST, 2.1, 105, 5)
    late = sighting("a", 5, 1.0, lowest="b", answered=2.05)
    events = [*term_events("a", 5, 1.0, 2.0), lost, *term_events("a", 5, 3.0, 3.5)]
    assert judge(["a"], events, [late, sighting("a", 5, 3.0)]).passed


def test_a_known_failure_is_a_problem() -> None:
    verdict = judge(ALL, GOOD, SEEN, ["c ended by exit status 1"])
    assert not verdict.passed
    assert verdict.problems == ("c ended by exit status 1",)


def test_there_is_no_handover_across_an_overlap() -> None:
    assert handovers([Term("a", 1, 1, 0.0, 3.0), Term("b", 2, 2, 2.0, 4.0)]) == []


def test_the_summary_of_one_member_has_no_median() -> None:
    assert Verdict(1, 1, 0, (), ()).summary() == "1 of 1 instances led, 0 overlapped, handover median – ms"
