"""The hedged verdict: a silent link is doubted, others are asked, and it is left when one of them lives."""

from __future__ import annotations

import pytest

from everlatch.errors import SilentLinkError
from everlatch.paths import Endpoint
from everlatch.session.requests import Operation, no_result
from everlatch.session.servers import Address
from everlatch.session.session import Phase
from everlatch.types import State
from everlatch.wire.codes import Op
from session.driver import GET, NODE, SET, connected

THREE = "10.0.0.1,10.0.0.2,10.0.0.3"
SYNC = Operation("sync", Op.SYNC, no_result)


def doubting(hosts=THREE, **options):
    """A driver whose link has been silent for T/8 at 101.75."""
    driver = connected(hosts, **options)
    driver.run(1.0)
    driver.answer()
    driver.call()
    driver.run(0.75)
    assert driver.doubts == [1]
    assert driver.session.doubts_link
    return driver


def is_dropped(driver):
    return driver.states[-1] is not State.CONNECTED


def test_nobody_is_asked_before_the_budget_is_over():
    driver = connected(THREE)
    driver.call()
    driver.run(0.7)
    assert driver.doubts == []
    driver.lives("10.0.0.2")
    driver.run(0.04)
    assert not is_dropped(driver), "nobody was asked"


def test_others_are_asked_once():
    driver = doubting()
    driver.run(2.0)
    assert driver.doubts == [1]


def test_the_link_is_left_when_another_server_lives_and_that_one_is_tried_first():
    driver = doubting()
    driver.run(0.5)
    driver.lives("10.0.0.3")
    assert not is_dropped(driver)
    driver.run(0.05)
    assert is_dropped(driver)
    assert driver.now == pytest.approx(102.3)
    assert isinstance(driver.changes[-1].reason, SilentLinkError)
    assert driver.dialled == ["10.0.0.1", "10.0.0.3"]
    assert driver.hung_up == [1]
    assert not driver.session.doubts_link


def test_the_first_that_answers_is_tried_first():
    driver = doubting()
    driver.lives("10.0.0.3")
    driver.run(0.01)
    driver.lives("10.0.0.2")
    driver.run(0.04)
    assert driver.dialled[1:] == ["10.0.0.3"]
    driver.refuse()
    driver.refuse()
    assert driver.dialled[1:] == ["10.0.0.3", "10.0.0.2", "10.0.0.1"]


def test_whatever_held_up_all_servers_may_just_have_ended():
    """They all answer at once then, the one in use as well."""
    driver = doubting()
    driver.run(1.0)
    driver.lives("10.0.0.2")
    driver.run(0.04)
    driver.answer()
    driver.run(0.6)
    assert driver.states == [State.CONNECTED]
    assert not driver.session.doubts_link


def test_a_server_that_answers_others_may_be_slow_on_the_link_for_a_third():
    driver = doubting()
    driver.lives("10.0.0.1")
    driver.run(1.2)
    assert not is_dropped(driver)
    driver.run(0.05)
    assert is_dropped(driver)
    assert driver.now == pytest.approx(101.0 + 2.0)


@pytest.mark.parametrize("order", [("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")])
def test_another_that_answers_counts_more_than_the_one_in_use(order):
    driver = doubting()
    for ip in order:
        driver.lives(ip)
    driver.run(0.05)
    assert is_dropped(driver)
    assert driver.dialled[1:] == ["10.0.0.2"]


def test_when_nobody_lives_the_link_is_left_after_two_thirds():
    driver = doubting()
    driver.run(3.2)
    assert not is_dropped(driver)
    driver.run(0.05)
    assert is_dropped(driver)
    assert driver.now == pytest.approx(105.0)


def test_an_answer_for_another_connection_is_ignored():
    driver = doubting()
    conn = driver.session.conn
    driver.lose()
    driver.connect()
    driver.call()
    driver.run(0.75)
    assert driver.doubts == [conn, driver.session.conn]
    driver.session.server_answered(conn, driver.session._address, driver.now)
    driver.run(0.1)
    assert not is_dropped(driver)


def test_the_loss_of_a_link_in_doubt_ends_the_doubt():
    driver = doubting()
    driver.lives("10.0.0.3")
    driver.lose()
    assert not driver.session.doubts_link
    assert driver.dialled[1:] == ["10.0.0.3"]
    driver.connect()
    driver.run(0.7)
    assert not is_dropped(driver), "the verdict was on another one"


@pytest.mark.parametrize("what", ["answer", "bytes"])
def test_a_link_that_is_heard_again_is_not_in_doubt(what):
    driver = doubting()
    driver.lives("10.0.0.2")
    if what == "answer":
        driver.answer()
    else:
        driver.session.bytes_received(driver.session.conn, b"\0\0", driver.now)
        driver.pump()
    assert not driver.session.doubts_link
    driver.run(0.1)
    assert not is_dropped(driver)


def test_every_false_alarm_doubles_the_budget_up_to_a_third():
    driver = connected(THREE)
    for budget in (0.75, 1.5, 2.0, 2.0):
        driver.call()
        driver.run(budget - 0.01)
        assert not driver.session.doubts_link
        driver.run(0.02)
        assert driver.session.doubts_link
        driver.answer()
    driver.run(1.0)
    assert driver.states == [State.CONNECTED]


def test_after_a_false_alarm_the_next_one_is_asked_about_anew():
    driver = doubting()
    driver.lives("10.0.0.2")
    driver.answer()
    driver.call()
    driver.run(1.6)
    assert driver.doubts == [1, 1]
    driver.run(1.0)
    assert not is_dropped(driver), "what was said the last time counts no more"


def test_a_quiet_time_makes_the_budget_short_again():
    driver = doubting()
    driver.answer()
    while driver.now < 170.0:
        driver.wake()
        driver.answer()
    assert driver.doubts == [1]
    driver.call()
    driver.run(0.76)
    assert driver.session.doubts_link


@pytest.mark.parametrize("operation", [SET, SYNC])
def test_what_a_quorum_has_to_decide_may_take_a_third(operation):
    driver = connected(THREE)
    driver.call()
    driver.call(operation)
    driver.run(1.99)
    assert driver.doubts == []
    driver.run(0.02)
    assert driver.doubts == [1]


def test_so_may_the_end_of_the_session():
    driver = connected(THREE)
    driver.close()
    driver.run(1.99)
    assert driver.doubts == []
    driver.answer()
    assert driver.is_closed


def test_when_the_write_is_answered_the_rest_may_not():
    driver = connected(THREE)
    driver.call(SET)
    driver.call()
    driver.run(0.3)
    driver.answer()
    driver.run(0.76)
    assert driver.doubts == [1]


def test_a_write_that_comes_while_the_link_is_in_doubt_does_not_end_the_doubt():
    driver = doubting()
    driver.call(SET)
    driver.lives("10.0.0.2")
    driver.run(0.05)
    assert is_dropped(driver)


def test_a_budget_of_tens_of_milliseconds():
    driver = connected(THREE, silence_budget=0.02)
    driver.call()
    driver.run(0.02)
    assert driver.doubts == [1]
    driver.lives("10.0.0.2")
    driver.run(0.05)
    assert is_dropped(driver)


def test_our_own_loop_stood_still_when_the_verdict_was_due():
    driver = doubting()
    driver.lives("10.0.0.2")
    driver.tick(0.5)
    assert not is_dropped(driver), "what has arrived is read first"
    driver.answer()
    driver.run(0.5)
    assert driver.states == [State.CONNECTED]


def test_and_nothing_had_arrived():
    driver = doubting()
    driver.lives("10.0.0.2")
    driver.tick(0.5)
    driver.run(0.05)
    assert is_dropped(driver)


def test_closing_a_client_whose_link_is_in_doubt():
    driver = doubting()
    driver.close()
    driver.lives("10.0.0.2")
    driver.run(0.05)
    assert driver.is_closed
    assert driver.dialled == ["10.0.0.1"]


def test_the_server_that_has_answered_is_not_on_the_list_any_more():
    driver = doubting()
    driver.lives("10.0.0.2")
    driver.update("10.0.0.1,10.0.0.3")
    driver.run(0.05)
    assert driver.dialled[1:] == ["10.0.0.3"]


def test_a_server_that_is_not_on_the_list_any_more_answers():
    """It was asked when it still was; whoever asks goes on with the list that he began with."""
    driver = doubting()
    driver.update("10.0.0.1,10.0.0.3")
    driver.lives("10.0.0.2")
    driver.run(0.1)
    assert not is_dropped(driver)
    driver.lives("10.0.0.3")
    driver.run(0.05)
    assert driver.dialled[1:] == ["10.0.0.3"]


def test_reads_go_on_elsewhere():
    driver = doubting()
    call = driver.call(GET)
    driver.lives("10.0.0.2")
    driver.run(0.05)
    driver.connect()
    assert driver.session.phase is Phase.SERVING
    driver.answer(2)
    assert call.result == NODE


def test_a_link_that_is_left_early_is_no_fault_of_the_request_that_waited():
    """Left again and again, as on a line that is slow: the request is repeated, not failed as one that kills."""
    driver = connected("10.0.0.1,10.0.0.2")
    call = driver.call()
    for _ in range(5):
        driver.run(1.0)
        assert driver.session.doubts_link
        for ip in ("10.0.0.1", "10.0.0.2"):
            driver.session.server_answered(driver.session.conn, Address(ip, 2181, Endpoint(ip, 2181)), driver.now)
        driver.pump()
        driver.run(0.06)
        driver.connect()
    assert not call.ends
    driver.answer()
    assert call.result is not None


def test_a_server_that_proves_alive_when_it_has_been_left_makes_more_patient():
    driver = connected("10.0.0.1,10.0.0.2")
    conn = driver.session.conn
    first, second = (Address(ip, 2181, Endpoint(ip, 2181)) for ip in ("10.0.0.1", "10.0.0.2"))
    driver.call()
    driver.run(0.8)
    driver.session.server_answered(conn, second, driver.now)
    driver.pump()
    driver.run(0.1)
    assert driver.states[-1] is State.SUSPENDED
    driver.session.server_answered(conn, second, driver.now)
    assert driver.session.liveness.budget == 0.75, "that is the other one"
    driver.session.server_answered(conn, first, driver.now)
    driver.session.server_answered(conn, first, driver.now)
    assert driver.session.liveness.budget == 1.5
