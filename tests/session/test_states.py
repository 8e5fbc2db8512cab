import itertools

import pytest

from everlatch.session.states import CONNECTED_STATES, FINAL_STATES, TRANSITIONS, checked
from everlatch.types import State

ENDS = "AUTH_FAILED GAVE_UP CLOSED"
TABLE = {
    "CONNECTING": f"CONNECTED CONNECTED_READ_ONLY {ENDS}",
    "CONNECTED": f"SUSPENDED {ENDS}",
    "CONNECTED_READ_ONLY": f"SUSPENDED {ENDS}",
    "SUSPENDED": f"CONNECTED CONNECTED_READ_ONLY LOST {ENDS}",
    "LOST": f"CONNECTED CONNECTED_READ_ONLY RENEWED {ENDS}",
    "RENEWED": "CONNECTED",
    "AUTH_FAILED": "CLOSED",
    "GAVE_UP": "CLOSED",
    "CLOSED": "",
}
LEGAL = {(State[present], State[following]) for present, row in TABLE.items() for following in row.split()}
ALL = set(itertools.product(State, State))


def predecessors(state):
    return {present for present, following in LEGAL if following is state}


def test_the_table_is_what_the_design_says():
    assert {(present, following) for present, row in TRANSITIONS.items() for following in row} == LEGAL
    assert set(TRANSITIONS) == set(State)


def test_every_transition_of_the_table():
    assert len(LEGAL) == 28
    for present, following in LEGAL:
        assert checked(present, following) is following


def test_no_other_transition():
    for present, following in ALL - LEGAL:
        with pytest.raises(AssertionError, match=f"{present.name} -> {following.name} is not in the table"):
            checked(present, following)


def test_connecting_never_comes_back():
    assert predecessors(State.CONNECTING) == set()


def test_lost_follows_suspended_only():
    assert predecessors(State.LOST) == {State.SUSPENDED}


def test_renewed_is_between_lost_and_connected():
    assert predecessors(State.RENEWED) == {State.LOST}
    assert TRANSITIONS[State.RENEWED] == {State.CONNECTED}


def test_final_states_end_in_closed_at_most():
    assert {State.AUTH_FAILED, State.GAVE_UP, State.CLOSED} == FINAL_STATES
    assert all(TRANSITIONS[state] <= {State.CLOSED} for state in FINAL_STATES)


def test_connected_states():
    assert {State.CONNECTED, State.CONNECTED_READ_ONLY} == CONNECTED_STATES
