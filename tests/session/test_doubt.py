"""Whether a silent link is left: rule by rule."""

from __future__ import annotations

import pytest

from everlatch.paths import Endpoint
from everlatch.session.doubt import GRACE, Doubt, Step
from everlatch.session.liveness import Liveness
from everlatch.session.servers import Address

OTHER = Address("10.0.0.2", 2181, Endpoint("10.0.0.2", 2181))
OWN = Address("10.0.0.1", 2181, Endpoint("10.0.0.1", 2181))
T = 6.0


@pytest.fixture
def liveness() -> Liveness:
    """Of a link on which a request has gone out at 100, and nothing came back."""
    liveness = Liveness(T)
    liveness.connected(100.0, 100.0, T)
    liveness.sent(100.0)
    return liveness


@pytest.fixture
def doubt(liveness: Liveness) -> Doubt:
    """In time, and the servers are asked."""
    doubt = Doubt(liveness)
    assert doubt.deadline() == 100.75
    assert doubt.look(100.75) is Step.ASK
    return doubt


def test_the_servers_are_asked_once(doubt: Doubt) -> None:
    assert doubt.is_open
    assert doubt.look(101.0) is Step.WAIT


def test_another_server_that_lives_has_the_link_left_after_a_grace(doubt: Doubt) -> None:
    doubt.answered(OTHER, 101.0, in_use=False)
    assert doubt.deadline() == 101.0 + GRACE
    assert doubt.look(101.0) is Step.WAIT
    assert doubt.look(101.0 + GRACE) is Step.LEAVE
    assert doubt.alternative == OTHER


def test_the_server_in_use_is_given_as_long_as_the_slowest(doubt: Doubt) -> None:
    doubt.answered(OWN, 101.0, in_use=True)
    assert doubt.deadline() == 102.0
    assert doubt.alternative is None
    assert doubt.look(102.0) is Step.LEAVE


def test_the_first_other_server_is_the_alternative_and_the_earliest_verdict_counts(doubt: Doubt) -> None:
    doubt.answered(OWN, 101.0, in_use=True)
    doubt.answered(OTHER, 101.5, in_use=False)
    doubt.answered(OTHER._replace(port=2182), 101.9, in_use=False)
    assert doubt.deadline() == 101.5 + GRACE
    assert doubt.alternative == OTHER


def test_without_any_answer_it_is_left_when_it_is_dead(doubt: Doubt) -> None:
    assert doubt.deadline() == 104.0
    assert doubt.look(104.0) is Step.LEAVE


def test_being_heard_ends_it_and_makes_more_patient(doubt: Doubt, liveness: Liveness) -> None:
    doubt.answered(OTHER, 101.0, in_use=False)
    liveness.received(101.0, unanswered=False)
    doubt.heard(101.0)
    assert not doubt.is_open
    assert not doubt.is_felt
    assert doubt.alternative is None
    assert liveness.budget == T / 4


def test_what_is_noticed_late_gets_a_grace_first(liveness: Liveness) -> None:
    doubt = Doubt(liveness)
    assert doubt.look(103.0) is Step.WAIT
    assert doubt.is_felt
    assert doubt.deadline() == 103.0 + GRACE
    assert doubt.look(103.0 + GRACE / 2) is Step.WAIT
    assert doubt.look(103.0 + GRACE) is Step.ASK


def test_a_grace_in_which_it_was_heard_makes_nobody_more_patient(liveness: Liveness) -> None:
    doubt = Doubt(liveness)
    doubt.look(103.0)
    liveness.received(103.01, unanswered=False)
    doubt.heard(103.01)
    assert liveness.budget == T / 8
    assert not doubt.is_felt


def test_a_dead_link_gets_a_grace_as_well_but_no_questions(liveness: Liveness) -> None:
    doubt = Doubt(liveness)
    assert doubt.look(120.0) is Step.WAIT
    assert doubt.look(120.0 + GRACE) is Step.LEAVE


def test_a_silence_that_has_ended_by_itself_leaves_no_grace_behind(liveness: Liveness) -> None:
    doubt = Doubt(liveness)
    doubt.look(103.0)
    doubt.silence_has_ended()
    assert doubt.deadline() == liveness.next_deadline()
