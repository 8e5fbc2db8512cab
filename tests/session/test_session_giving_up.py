"""Giving up, for those who have asked for it: when, what ends, and that nothing goes on."""

from __future__ import annotations

import pytest

from everlatch.errors import GaveUpError, OutcomeUnknownError
from everlatch.session.retry import AttemptPlan, RetryNTimes, RetryUntilElapsed
from everlatch.session.session import Phase
from everlatch.types import State
from session.driver import GET, SET, Driver, connected

PAIR = "10.0.0.1,10.0.0.2"


def refuse_all(driver, rounds=1, hosts=2):
    for number in range(rounds):
        while driver.session.phase is Phase.IDLE:
            driver.wake()
        for _ in range(hosts):
            driver.refuse()
        assert number == rounds - 1 or driver.states[-1:] != [State.GAVE_UP]


def assert_gave_up(driver):
    """Nothing is tried or taken any more; only closing is left."""
    assert driver.states[-1] is State.GAVE_UP
    assert driver.session.next_deadline() is None
    attempts = len(driver.attempts)
    driver.run(1000.0)
    driver.tick(1.0)
    driver.session.renew(driver.now)
    driver.session.leave(driver.now)
    driver.update("10.0.0.9")
    driver.tells("10.0.0.9", "leader", 1)
    driver.tells("10.0.0.9", "read-only", 1)
    driver.pump()
    assert len(driver.attempts) == attempts
    assert driver.open == set()
    with pytest.raises(GaveUpError, match=r"^get '/late': the client has given up; close it$"):
        driver.call(GET, "/late")
    with pytest.raises(GaveUpError):
        driver.authenticate()
    driver.close()
    assert driver.is_closed
    assert driver.states[-2:] == [State.GAVE_UP, State.CLOSED]


def test_before_the_first_connection():
    driver = Driver(PAIR, retry_policy=RetryNTimes(2, 0.5))
    call = driver.call()
    refuse_all(driver, rounds=3)
    assert isinstance(call.error, GaveUpError)
    assert str(call.error) == "get '/node': the client has given up; close it"
    reason = driver.changes[-1].reason
    assert isinstance(reason, GaveUpError)
    assert str(reason) == "no server within the retry policy: 10.0.0.1:2181: refused; 10.0.0.2:2181: refused"
    assert len(driver.failed_rounds) == 3
    assert_gave_up(driver)


def test_after_a_loss():
    driver = connected(PAIR, retry_policy=RetryNTimes(1, 0.5))
    driver.run(1.0)
    driver.answer()
    sent, kept = driver.call(SET), driver.call(GET)
    identity = driver.authenticate()
    driver.lose()
    assert sent.ends == 0, "the next server may tell"
    refuse_all(driver, rounds=2)
    assert isinstance(sent.error, OutcomeUnknownError)
    assert isinstance(sent.error.reason, GaveUpError)
    assert isinstance(kept.error, GaveUpError)
    assert isinstance(identity.error, GaveUpError)
    assert driver.states == [State.CONNECTED, State.SUSPENDED, State.GAVE_UP]
    assert_gave_up(driver)


def test_after_the_session_was_lost():
    driver = connected(PAIR, retry_policy=RetryUntilElapsed(20.0, 1.0))
    driver.run(1.0)
    driver.answer()
    driver.lose()
    lost_at = driver.now
    while driver.states[-1] is not State.GAVE_UP:
        refuse_all(driver)
    assert driver.states == [State.CONNECTED, State.SUSPENDED, State.LOST, State.GAVE_UP]
    assert driver.now == pytest.approx(lost_at + 20.0, abs=0.1)
    assert_gave_up(driver)


def test_a_good_connection_gives_all_tries_back():
    driver = Driver(PAIR, retry_policy=RetryNTimes(1, 0.5))
    refuse_all(driver)
    driver.connect()
    driver.run(1.0)
    driver.answer()
    driver.lose()
    refuse_all(driver, rounds=2)
    assert driver.states[-1] is State.GAVE_UP


def test_one_that_is_dropped_at_once_does_not():
    driver = Driver("10.0.0.1", retry_policy=RetryNTimes(2, 0.5))
    for _ in range(3):
        driver.connect()
        driver.lose()
    assert driver.states[-1] is State.GAVE_UP


def test_a_plan_in_attempts():
    driver = Driver("10.0.0.1", retry_policy=AttemptPlan(10.0, max_consecutive_retries=2, max_reconnect_attempts=2))
    times = []
    while driver.states == []:
        refuse_all(driver, hosts=1)
        times.append(driver.now - 100.0)
    assert times == pytest.approx([0.0, 0.0, 10.0, 10.0], abs=0.05)
    assert_gave_up(driver)


def test_servers_that_do_not_answer_at_all():
    driver = Driver(PAIR, retry_policy=RetryNTimes(0, 0.5))
    driver.run(10.0)
    assert driver.states == [State.GAVE_UP]
    assert driver.open == set()
    assert_gave_up(driver)
