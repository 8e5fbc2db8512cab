"""Staggered dials: who is tried beside whom, who takes whose place, and that nobody is left open."""

from __future__ import annotations

import pytest

from everlatch.errors import ConnectFailedError, HandshakeTimeoutError
from everlatch.session.actions import Dial, Resolve
from everlatch.session.rivals import MOST_RIVALS
from everlatch.session.session import Phase
from everlatch.types import State
from session.driver import GET, NODE, Driver, connected

PAIR = "10.0.0.1,10.0.0.2"
THREE = "10.0.0.1,10.0.0.2,10.0.0.3"
MANY = ",".join(f"10.0.0.{number}" for number in range(1, 9))


def names(driver):
    return [attempt.endpoint.host for attempt in driver.attempts if isinstance(attempt, Resolve)]


def conn_of(driver, ip):
    return next(attempt.conn for attempt in driver.attempts if isinstance(attempt, Dial) and attempt.address.ip == ip)


# -- when somebody is dialled beside the present attempt


@pytest.mark.parametrize("made", [False, True])
def test_an_attempt_that_takes_long_gets_a_rival_every_quarter_of_a_second(made):
    driver = Driver(MANY)
    if made:
        driver.made()
    for count in range(1, MOST_RIVALS + 1):
        assert driver.session.next_deadline() == pytest.approx(100.0 + 0.25 * count)
        driver.run(0.25)
        assert len(driver.dialled) == 1 + count
    driver.run(0.9)
    assert len(driver.dialled) == 1 + MOST_RIVALS, "enough"
    assert driver.session.statistics().connection_attempts == 1 + MOST_RIVALS


def test_one_that_fails_makes_room_at_once_for_the_next():
    driver = Driver(THREE)
    driver.run(0.25)
    driver.refuse(driver.rivals[0])
    assert driver.dialled == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert driver.now == 100.25


def test_the_failures_of_all_are_known():
    driver = Driver(THREE)
    driver.run(0.25)
    driver.refuse(driver.rivals[0])
    first, second, third = sorted(driver.session.failures())
    assert (first[0], type(first[1])) == ("10.0.0.1:2181", HandshakeTimeoutError)
    assert (second[0], type(second[1])) == ("10.0.0.2:2181", ConnectFailedError)
    assert (third[0], str(third[1])) == ("10.0.0.3:2181", "no TCP connection so far")


def test_a_rival_that_takes_too_long_is_given_up_and_noted():
    driver = Driver(PAIR)
    driver.run(1.9)
    driver.made()
    driver.run(0.4)
    assert driver.hung_up == [2], "dialled at 0.25 s, and given 2 s"
    assert str(dict(driver.session.failures())["10.0.0.2:2181"]) == "no TCP connection in 2 s"
    assert driver.session.phase is Phase.HANDSHAKE


def test_one_that_is_made_may_wait_as_long_as_it_is_of_use():
    driver = Driver(PAIR)
    driver.run(1.9)
    driver.made(1)
    driver.made(2)
    driver.run(1.9)
    assert driver.hung_up == []
    driver.run(0.1)
    assert driver.hung_up == [1]
    assert (driver.session.conn, driver.session.phase) == (2, Phase.HANDSHAKE)


def test_a_round_has_failed_when_all_have():
    driver = Driver(THREE)
    driver.run(0.5)
    assert len(driver.rivals) == 2
    for conn in (1, 2):
        driver.refuse(conn)
        assert driver.failed_rounds == []
    driver.refuse(3)
    assert [server for server, _ in driver.failed_rounds[0].failures] == [f"10.0.0.{n}:2181" for n in (1, 2, 3)]
    assert driver.session.phase is Phase.IDLE


def test_the_oldest_rival_becomes_the_present_attempt_when_nobody_is_left_to_dial():
    driver = Driver(THREE)
    driver.run(0.5)
    driver.refuse()
    assert driver.session.conn == conn_of(driver, "10.0.0.2")
    assert driver.rivals == [conn_of(driver, "10.0.0.3")]
    assert driver.session.server == "10.0.0.2:2181"
    driver.made()
    driver.grant()
    assert driver.changes[0].server == "10.0.0.2:2181"


def test_whoever_is_left_to_dial_is_dialled_when_the_present_attempt_fails():
    driver = Driver(THREE)
    driver.run(0.25)
    driver.refuse()
    assert driver.dialled == THREE.split(",")
    assert driver.session.conn == conn_of(driver, "10.0.0.3")
    assert driver.rivals == [conn_of(driver, "10.0.0.2")]


# -- who takes whose place


def test_a_rival_that_is_made_takes_the_place_of_one_that_is_not():
    driver = Driver(PAIR)
    driver.run(0.25)
    rival = driver.rivals[0]
    driver.made(rival)
    assert driver.session.conn == rival
    assert driver.session.phase is Phase.HANDSHAKE
    assert driver.rivals == [1]
    driver.made(1)  # late, and so it waits
    assert len(driver.handshakes) == 1
    driver.lose()
    assert driver.session.conn == 1
    assert len(driver.handshakes) == 2, "its turn"
    driver.grant()
    assert driver.states == [State.CONNECTED]


def test_a_name_that_takes_long_to_resolve_does_not_hold_up_the_others():
    driver = Driver("slow.example,10.0.0.1")
    driver.run(0.25)
    driver.made(driver.rivals[0])
    driver.grant()
    assert driver.changes[0].server == "10.0.0.1:2181"
    assert driver.hung_up == [1]


def test_a_name_that_was_outrun_is_a_rival_of_its_own_until_it_is_resolved():
    driver = Driver("slow.example,10.0.0.1")
    driver.run(0.25)
    driver.made(driver.rivals[0])
    driver.resolve("10.0.9.9", conn=1)
    assert driver.dialled == ["10.0.0.1", "10.0.9.9"]
    assert driver.session.phase is Phase.HANDSHAKE


def test_a_name_may_be_a_rival():
    driver = Driver("10.0.0.1,zk.example")
    driver.run(0.25)
    assert names(driver) == ["zk.example"]
    driver.resolve("10.0.9.1", "10.0.9.2", conn=driver.rivals[0])
    assert driver.dialled == ["10.0.0.1", "10.0.9.1"]
    driver.run(0.25)
    assert driver.dialled == ["10.0.0.1", "10.0.9.1", "10.0.9.2"]


@pytest.mark.parametrize("how", ["fails", "empty"])
def test_a_rivals_name_that_does_not_resolve_is_passed_over(how):
    driver = Driver("10.0.0.1,bad.example,10.0.0.2")
    driver.run(0.25)
    if how == "fails":
        driver.refuse(driver.rivals[0])
    else:
        driver.resolve(conn=driver.rivals[0])
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]


def test_a_rivals_name_that_hangs_is_given_up():
    driver = Driver("10.0.0.1,bad.example")
    driver.run(0.25)
    driver.run(1.5)
    driver.made()
    driver.run(0.6)
    assert driver.hung_up == [2]
    assert "bad.example:2181" in dict(driver.session.failures())


def test_one_that_waits_with_a_connection_stops_the_staggering():
    driver = Driver(THREE)
    driver.made()
    driver.run(0.25)
    driver.made(driver.rivals[0])
    driver.run(1.5)
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]
    driver.lose(conn=driver.rivals[0])
    assert driver.dialled == THREE.split(","), "it is not there any more"


def test_no_rival_ever_says_anything():
    driver = Driver(THREE)
    driver.made()
    driver.run(0.25)
    driver.made(driver.rivals[0])
    driver.session.bytes_received(driver.rivals[0], b"\0\0\0\4hell", driver.now)
    driver.pump()
    assert len(driver.handshakes) == 1
    assert driver.session.statistics().bytes_received == 0
    driver.grant()
    assert driver.states == [State.CONNECTED]


# -- nobody is left open


def racing():
    """One in the handshake, one that waits with a connection, and one that is being dialled."""
    driver = Driver(THREE)
    driver.run(0.5)
    driver.made(1)
    driver.made(2)
    assert driver.open == {1, 2, 3}
    return driver


def test_all_others_are_left_when_one_serves():
    driver = racing()
    driver.grant()
    assert sorted(driver.hung_up) == [2, 3]
    call = driver.call(GET)
    driver.answer()
    assert call.result == NODE
    driver.made(3)  # too late
    assert len(driver.handshakes) == 1


def test_they_wait_until_the_credentials_are_answered():
    driver = Driver(THREE)
    driver.authenticate()
    driver.run(0.5)
    driver.made(1)
    driver.made(2)
    driver.grant()
    assert driver.open == {1, 2, 3}
    driver.lose()
    assert driver.session.conn == 2
    assert driver.session.phase is Phase.HANDSHAKE


def test_nobody_is_added_while_somebody_is_taking_us():
    driver = Driver(THREE)
    driver.authenticate()
    driver.run(0.2)
    driver.made()
    driver.grant()
    driver.tick(0.1)
    assert driver.dialled == ["10.0.0.1"]
    assert driver.session.next_deadline() > driver.now + 1.0, "the timer is not due for ever"


def test_a_rival_that_fails_while_somebody_is_taking_us_is_noted():
    driver = Driver(PAIR, warm_spare=True)
    driver.authenticate()
    driver.run(0.25)
    driver.made(1)
    driver.grant()
    driver.refuse(2)
    assert "10.0.0.2:2181" in dict(driver.session.failures())


@pytest.mark.parametrize("end", [Driver.close, Driver.abort])
def test_all_are_left_in_the_end(end):
    driver = racing()
    end(driver)
    assert driver.is_closed
    assert sorted(driver.hung_up) == [1, 2, 3]
    driver.made(3)
    driver.lose(conn=2)
    assert driver.is_closed


def test_a_session_that_is_over_leaves_them_behind():
    """The server that says so does answer, and is asked again before anybody else."""
    driver = connected(THREE)
    driver.run(1.0)
    driver.answer()
    driver.lose()
    driver.run(0.5)
    assert len(driver.open) == 3
    driver.made()
    driver.made(driver.rivals[0])
    driver.expire()
    assert driver.open == {driver.session.conn}
    assert driver.dialled[-1] == driver.dialled[1] == "10.0.0.2"


def test_refused_credentials_leave_them_behind():
    driver = Driver(THREE)
    driver.authenticate()
    driver.run(0.5)
    driver.made(1)
    driver.grant()
    driver.feed(driver.reply_to(driver.unanswered[0], err=-115))
    assert driver.states == [State.AUTH_FAILED]
    assert driver.open == set()
