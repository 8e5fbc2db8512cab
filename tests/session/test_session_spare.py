"""The warm spare, and the link check."""

from __future__ import annotations

import pytest

from everlatch.paths import Endpoint
from everlatch.session.servers import Address
from everlatch.session.session import Phase
from everlatch.types import State
from everlatch.wire.codes import Op
from session.driver import GET, Driver, connected

PAIR = "10.0.0.1,10.0.0.2"
THREE = "10.0.0.1,10.0.0.2,10.0.0.3"


def live(driver, seconds):
    """Lets time pass with a server that answers, and servers that take connections."""
    end = driver.now + seconds
    while (deadline := driver.session.next_deadline()) is not None and deadline <= end:
        driver.wake()
        while driver.unanswered:
            driver.answer()
    driver.now = end


def spared(hosts=THREE, **options):
    """A driver that has a spare connection to the second server."""
    driver = connected(hosts, warm_spare=True, **options)
    driver.wake()
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]
    driver.made(2)
    driver.run(1.0)
    driver.answer()
    return driver


def test_none_without_being_asked_for():
    driver = connected(THREE)
    live(driver, 60.0)
    assert driver.dialled == ["10.0.0.1"]


def test_a_connection_to_another_server_is_kept_and_says_nothing():
    driver = spared()
    live(driver, 9.0)
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]
    assert len(driver.handshakes) == 1
    assert driver.states == [State.CONNECTED]
    assert driver.session.statistics().connection_attempts == 1


def test_it_takes_over_at_once():
    driver = spared()
    driver.lose()
    assert (driver.session.conn, driver.session.phase) == (2, Phase.HANDSHAKE)
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]
    driver.grant()
    assert driver.changes[-1].server == "10.0.0.2:2181"
    driver.wake()
    assert len(driver.dialled) == 3, "and has a spare itself"


def test_one_that_does_not_answer_then_costs_its_budget():
    driver = spared()
    driver.lose()
    driver.run(0.25)
    assert driver.dialled[2:] == ["10.0.0.2"] or driver.dialled[2:] == ["10.0.0.3"]
    driver.run(0.75)
    assert driver.session.conn != 2


def test_servers_close_it_after_a_while_and_it_is_made_anew():
    driver = spared()
    live(driver, 9.0)
    driver.lose(conn=2)
    driver.wake()
    assert len(driver.dialled) == 3
    assert driver.rivals == [3]


@pytest.mark.parametrize("made", [False, True])
def test_one_that_is_refused_is_tried_elsewhere_after_a_while(made):
    driver = connected(THREE, warm_spare=True)
    driver.wake()
    if made:
        driver.made(2)
    driver.refuse(2)
    live(driver, 4.9)
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]
    live(driver, 0.2)
    assert driver.dialled == THREE.split(",")


def test_one_that_does_not_come_is_given_up_and_tried_elsewhere():
    driver = connected(THREE, warm_spare=True)
    live(driver, 0.9)
    assert driver.rivals == [2]
    live(driver, 0.2)
    assert driver.hung_up == [2]
    live(driver, 5.0)
    assert driver.dialled == THREE.split(",")
    assert driver.states == [State.CONNECTED]
    assert driver.session.failures() == []


def test_so_it_is_while_the_connection_is_left():
    driver = connected(THREE, warm_spare=True)
    driver.wake()
    driver.run(0.5)
    driver.call()
    driver.session.leave(driver.now)
    driver.run(0.6)
    assert driver.session.phase is Phase.LEAVING
    assert driver.hung_up == [2]


def test_there_may_be_nobody_to_keep_in_reserve():
    driver = connected("10.0.0.1", warm_spare=True)
    live(driver, 60.0)
    assert driver.dialled == ["10.0.0.1"]
    driver.update(PAIR)
    if driver.session.phase is Phase.SERVING:
        live(driver, 5.1)
        assert driver.dialled == ["10.0.0.1", "10.0.0.2"]


def test_a_rival_that_has_a_connection_becomes_the_spare():
    driver = Driver(THREE, warm_spare=True)
    driver.run(0.5)
    driver.made(1)
    driver.made(2)
    driver.grant()
    assert driver.hung_up == [3]
    assert driver.rivals == [2]
    live(driver, 9.0)
    assert driver.dialled == THREE.split(",")


def test_a_rival_that_has_none_does_not():
    driver = Driver(THREE, warm_spare=True)
    driver.run(0.25)
    driver.made(1)
    driver.grant()
    assert driver.hung_up == [2]
    driver.wake()
    assert driver.dialled[2:] == ["10.0.0.2"]


def test_a_spare_at_a_server_that_is_not_on_the_list_any_more_is_given_up():
    driver = spared()
    driver.update("10.0.0.1,10.0.0.3")
    assert driver.hung_up == [2]
    driver.wake()
    assert driver.dialled[2:] == ["10.0.0.3"]
    driver.made(3)
    driver.update("10.0.0.9")
    assert driver.hung_up == [2, 3, 1]
    assert driver.dialled[3:] == ["10.0.0.9"]


@pytest.mark.parametrize("end", [Driver.close, Driver.abort])
def test_it_ends_with_the_client(end):
    driver = spared()
    end(driver)
    if end is Driver.close:
        driver.lose(conn=2)
        driver.run(0.1)
        assert driver.dialled == ["10.0.0.1", "10.0.0.2"], "none is dialled for the end"
        driver.answer()
    assert driver.is_closed
    assert driver.open == set()


def test_closing_while_credentials_are_unanswered_dials_none():
    driver = Driver(THREE, warm_spare=True)
    driver.authenticate()
    driver.connect()
    driver.close()
    driver.feed(driver.reply_to(driver.unanswered[0]))
    driver.run(0.1)
    assert driver.dialled == ["10.0.0.1"]


# -- the link check


def test_a_link_is_checked_by_committing_something():
    driver = connected(link_check_interval=2.0)
    live(driver, 1.9)
    assert Op.MULTI not in driver.ops()
    live(driver, 4.2)
    assert driver.ops().count(Op.MULTI) == 3
    assert driver.states == [State.CONNECTED]


def test_a_server_without_a_quorum_is_found_out():
    """It would answer pings; what waits for a commit holds them up."""
    driver = connected(PAIR, link_check_interval=3.0)
    driver.wake()
    driver.answer()
    driver.run(1.5)
    driver.answer()
    driver.run(0.5)
    assert driver.ops()[-1] == Op.MULTI
    driver.run(1.99)
    assert driver.doubts == []
    driver.run(0.02)
    assert driver.doubts == [1]


def test_every_connection_is_checked():
    driver = connected(PAIR, link_check_interval=2.0)
    driver.run(1.0)
    driver.answer()
    driver.lose()
    driver.connect()
    count = len(driver.sent)
    live(driver, 2.1)
    assert driver.ops(count).count(Op.MULTI) == 1


def test_one_that_rests_on_the_lease_needs_no_other_check():
    driver = connected(link_check_interval=2.0)
    driver.session.hold_lease(driver.now)
    driver.pump()
    live(driver, 6.01)
    assert 12 <= driver.ops().count(Op.MULTI) <= 14, "every T/12"
    driver.session.release_lease()
    count = len(driver.sent)
    live(driver, 4.1)
    assert driver.ops(count).count(Op.MULTI) == 2


def test_calls_go_on_meanwhile():
    driver = connected(link_check_interval=2.0)
    driver.run(2.0)
    call = driver.call(GET)
    driver.answer(len(driver.unanswered))
    assert call.ends == 1


def test_after_a_verdict_the_server_that_has_answered_comes_before_the_one_in_reserve():
    """What has silenced one server may have silenced that one, too."""
    driver = spared()
    driver.call()
    driver.run(0.8)
    other = Address("10.0.0.3", 2181, Endpoint("10.0.0.3", 2181))
    driver.session.server_answered(driver.session.conn, other, driver.now)
    driver.pump()
    driver.run(0.06)
    assert driver.dialled == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert len(driver.open) == 1


def test_a_rival_that_went_with_its_server_makes_no_second_one():
    driver = Driver("10.0.0.1,10.0.0.2,10.0.0.3", warm_spare=True)
    driver.run(0.6)
    assert driver.dialled == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    driver.update("10.0.0.1,10.0.0.3")
    driver.made()
    driver.made(driver.attempts[2].conn)
    driver.grant()
    driver.run(0.5)
    assert len(driver.open) == 2
    assert len(driver.dialled) == 3
