"""Rounds: which server is tried when, and when there is a back-off at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.session.actions import Resolve
from everlatch.session.session import Phase
from everlatch.types import State
from session.driver import Driver, connected

THREE = "10.0.0.1,10.0.0.2,10.0.0.3"


def waits(driver):
    """Whether the round is over and a back-off runs."""
    return driver.session.phase is Phase.IDLE


def resolving(driver):
    return [attempt.endpoint.host for attempt in driver.attempts if isinstance(attempt, Resolve)]


def long_lived(hosts=THREE, **options):
    """A driver whose connection was worth having."""
    driver = connected(hosts, **options)
    driver.run(1.0)
    driver.answer()
    return driver


def test_every_server_is_tried_before_there_is_a_back_off():
    driver = Driver(THREE)
    for _ in range(2):
        driver.refuse()
        assert not waits(driver)
    driver.refuse()
    assert waits(driver)
    assert driver.dialled == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


@given(st.integers())
def test_back_offs_are_jittered_and_short(seed):
    driver = Driver(seed=seed)
    bounds = []
    for bound in (0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5, 0.5):
        driver.refuse()
        assert waits(driver)
        bounds.append((driver.session.next_deadline() - driver.now, bound))
        driver.wake()
    assert all(-1e-9 <= delay <= bound + 1e-9 for delay, bound in bounds)


def test_nothing_happens_during_a_back_off():
    driver = Driver()
    driver.refuse()
    deadline = driver.session.next_deadline()
    driver.tick((deadline - driver.now) / 2)
    assert waits(driver)
    assert driver.session.next_deadline() == deadline


def test_after_a_loss_the_next_server_is_tried_at_once_and_the_lost_one_last():
    driver = long_lived()
    driver.lose()
    assert not waits(driver)
    for _ in range(3):
        driver.refuse()
    assert driver.dialled[1:] == ["10.0.0.2", "10.0.0.3", "10.0.0.1"]
    assert waits(driver)


def test_the_only_server_is_tried_again_at_once():
    driver = long_lived("10.0.0.1")
    driver.lose()
    assert not waits(driver)
    assert driver.dialled == ["10.0.0.1"] * 2


def test_a_connection_that_was_worth_having_starts_budgets_and_back_off_anew():
    driver = Driver()
    for _ in range(6):
        driver.refuse()
        driver.wake()
    driver.connect()
    driver.run(1.0)
    driver.answer()
    driver.lose()
    assert driver.session.next_deadline() == pytest.approx(driver.now + 1.0), "T/6"
    driver.refuse()
    assert driver.session.next_deadline() - driver.now <= 0.02


def test_a_short_lived_connection_does_not_start_a_new_round():
    driver = connected("10.0.0.1,10.0.0.2")
    driver.run(0.9)
    driver.lose()
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]
    driver.connect()
    driver.run(0.9)
    driver.lose()
    assert waits(driver), "both were tried"
    driver.wake()
    assert driver.dialled[2:] == ["10.0.0.1"]


def test_a_server_that_drops_every_session_is_not_asked_in_a_loop():
    driver = connected()
    for _ in range(20):
        driver.lose()
        assert waits(driver)
        driver.connect()
    assert driver.now > 100.0 + 20 * 0.02, "the back-offs grow"
    assert len(driver.dialled) == 21


# -- names


def test_a_name_is_resolved_before_it_is_dialled():
    driver = Driver("zk.example")
    (resolve,) = driver.attempts
    assert resolve == (driver.session.conn, driver.attempts[0].endpoint, 2.0)
    assert resolving(driver) == ["zk.example"]
    driver.resolve("10.0.1.1")
    assert driver.dialled == ["10.0.1.1"]
    driver.connect()
    assert driver.changes[0].server == "zk.example:2181 (10.0.1.1)"


def test_all_addresses_of_a_name_are_tried():
    driver = Driver("zk.example,10.0.0.9")
    driver.resolve("10.0.1.1", "10.0.1.2", "10.0.1.3")
    for _ in range(4):
        driver.refuse()
    assert driver.dialled == ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.0.9"]
    assert waits(driver)


def test_names_are_resolved_anew_in_every_round():
    driver = Driver("zk.example")
    driver.resolve("10.0.1.1")
    driver.refuse()
    driver.wake()
    assert resolving(driver) == ["zk.example"] * 2
    driver.resolve("10.0.1.2")
    assert driver.dialled == ["10.0.1.1", "10.0.1.2"]


def test_a_name_is_resolved_anew_after_a_loss():
    driver = Driver("zk.example")
    driver.resolve("10.0.1.1")
    driver.connect()
    driver.run(1.0)
    driver.answer()
    driver.lose()
    assert resolving(driver) == ["zk.example"] * 2
    driver.resolve("10.0.1.1", "10.0.1.2")
    driver.refuse()
    assert driver.dialled == ["10.0.1.1", "10.0.1.2", "10.0.1.1"]


@pytest.mark.parametrize("how", ["fails", "empty", "hangs"])
def test_a_name_that_does_not_resolve_is_skipped(how):
    driver = Driver("bad.example,10.0.0.1")
    if how == "fails":
        driver.refuse()
    elif how == "empty":
        driver.resolve()
    else:
        driver.until_hung_up()
    assert driver.dialled == ["10.0.0.1"]
    driver.connect()
    assert driver.states == [State.CONNECTED]


def test_addresses_that_come_after_the_attempt_was_given_up_are_ignored():
    driver = Driver("bad.example,10.0.0.1")
    conn = driver.session.conn
    driver.until_hung_up()
    driver.resolve("10.0.9.9", conn=conn)
    assert driver.dialled == ["10.0.0.1"]


def test_the_order_is_shuffled_unless_it_is_not_to_be():
    firsts = {Driver(THREE, seed=seed, shuffle=True).dialled[0] for seed in range(20)}
    assert firsts == set(THREE.split(","))
    assert {Driver(THREE, seed=seed).dialled[0] for seed in range(20)} == {"10.0.0.1"}


def test_attempts_are_counted():
    driver = Driver("zk.example,10.0.0.1")
    driver.refuse()
    driver.connect()
    statistics = driver.session.statistics()
    assert (statistics.connection_attempts, statistics.connections) == (1, 1)


def test_rounds_in_which_every_server_refuses_at_once_leave_the_budget_as_it_is():
    """They need no more time to answer; were the budget to grow, one black hole later would cost most of T."""
    driver = Driver("10.0.0.1")
    budgets = []
    for _ in range(10):
        budgets.append(driver.session.next_deadline() - driver.now)
        driver.refuse()
        driver.wake()
    assert budgets == pytest.approx([2.0] * 10)


def test_failures_name_every_server_tried_and_the_one_being_tried():
    driver = Driver("10.0.0.1,10.0.0.2")
    driver.refuse()
    first, second = driver.session.failures()
    assert (first[0], str(first[1])) == ("10.0.0.1:2181", "refused")
    assert (second[0], str(second[1])) == ("10.0.0.2:2181", "no TCP connection so far")
    driver.connect()
    assert driver.session.failures() == [first]


def test_with_a_long_session_timeout_a_silent_server_still_costs_a_second_at_most():
    """While a leader is elected, servers take a handshake and never answer it; the next one may be ready."""
    driver = Driver("10.0.0.1,10.0.0.2,10.0.0.3", session_timeout=30.0)
    driver.connect(timeout_ms=30_000)
    driver.lose()
    driver.made()
    for _ in range(2):
        since = driver.now
        driver.until_hung_up()
        assert driver.now - since == pytest.approx(1.0)
        if driver.session.phase is not Phase.IDLE:
            driver.made()
