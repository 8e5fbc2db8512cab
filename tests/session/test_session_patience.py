"""How long a server that took the connection may keep the handshake waiting, when another one could be asked."""

from __future__ import annotations

from typing import Any

import pytest

from everlatch.session.actions import Dial
from session.driver import Driver, connected

HOSTS = "10.0.0.1,10.0.0.2,10.0.0.3"


def dials(driver: Driver) -> list[Any]:
    return [attempt for attempt in driver.attempts if isinstance(attempt, Dial)]


def after_a_long_outage() -> Driver:
    """T is 6 s; nobody has answered for so long that an attempt may take 4 s."""
    driver = connected(HOSTS)
    driver.lose()
    driver.run(40)
    for attempt in dials(driver)[1:]:
        driver.session.connection_made(attempt.conn, driver.now)
        driver.pump()
        if driver.session.conn == attempt.conn:
            return driver
    raise AssertionError("no attempt is the present one")


def rivals(driver: Driver) -> list[int]:
    return [rival.conn for rival in driver.session._rivals if not rival.is_made]


def until_it_is_left(driver: Driver) -> float:
    """How long the present handshake took."""
    began, conn = driver.session._handshake_sent_at, driver.session.conn
    while driver.session.conn == conn:
        driver.wake()
    return driver.now - began


@pytest.mark.parametrize("count", [1, 2])
def test_who_keeps_others_waiting_gets_a_third_of_the_session_timeout(count: int) -> None:
    driver = after_a_long_outage()
    while len(rivals(driver)) < count:
        driver.wake()
    for conn in rivals(driver)[:count]:
        driver.session.connection_made(conn, driver.now)
        driver.pump()
    for _ in range(count):
        assert until_it_is_left(driver) == pytest.approx(2.0)


def test_who_keeps_nobody_waiting_gets_what_is_usual() -> None:
    driver = after_a_long_outage()
    assert until_it_is_left(driver) == pytest.approx(4.0)
