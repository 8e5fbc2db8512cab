"""Closing: gracefully while a server answers, at once otherwise."""

import pytest

from everlatch.errors import ClientClosedError, OutcomeUnknownError
from everlatch.session.session import Phase
from everlatch.types import State
from everlatch.wire.codes import Op
from everlatch.wire.headers import encode_reply
from session.driver import GET, NODE, SET, Driver, connected


def idle():
    return Driver(start=False)


def backing_off():
    driver = Driver()
    driver.refuse()
    return driver


def resolving():
    return Driver("zk.example")


def shaking_hands():
    driver = Driver()
    driver.made()
    return driver


def authenticating():
    driver = Driver()
    driver.authenticate()
    driver.connect()
    return driver


def suspended():
    driver = connected()
    driver.run(1.0)
    driver.lose()
    return driver


def lost():
    driver = connected()
    driver.lose()
    while driver.states[-1] is not State.LOST:
        driver.wake()
    return driver


AWAY = [idle, Driver, backing_off, resolving, shaking_hands, suspended, lost]


def assert_over(driver):
    """Nothing more is done, taken or tried."""
    assert driver.is_closed
    assert driver.changes[-1].state is State.CLOSED
    assert driver.session.next_deadline() is None
    attempts = len(driver.attempts)
    driver.run(100.0)
    driver.tick(1.0)
    driver.close()
    driver.abort()
    assert driver.is_closed
    assert len(driver.attempts) == attempts
    with pytest.raises(ClientClosedError, match=r"^get '/late': the client is closed$"):
        driver.call(GET, "/late")


@pytest.mark.parametrize("make", AWAY)
@pytest.mark.parametrize("end", [Driver.close, Driver.abort])
def test_without_a_connection_it_ends_at_once(make, end):
    driver = make()
    phase, conn = driver.session.phase, driver.session.conn
    call = driver.call()
    end(driver)
    assert isinstance(call.error, ClientClosedError)
    assert (conn in driver.hung_up) == (phase is not Phase.IDLE)
    assert driver.changes[-1].reason is None
    assert_over(driver)


def test_closing_ends_the_session():
    driver = connected()
    assert not driver.session.is_closing
    driver.close()
    assert driver.ops() == [Op.CLOSE_SESSION]
    assert driver.session.is_closing
    assert not driver.is_closed
    conn = driver.session.conn
    driver.answer()
    assert driver.hung_up == [conn]
    assert driver.states == [State.CONNECTED, State.CLOSED]
    assert_over(driver)


def test_calls_made_before_are_answered_and_none_is_taken_after():
    driver = connected(max_in_flight=1)
    calls = [driver.call(GET, "/a"), driver.call(SET, "/b")]
    driver.close()
    with pytest.raises(ClientClosedError):
        driver.call()
    with pytest.raises(ClientClosedError):
        driver.authenticate()
    driver.answer()
    assert driver.ops() == [Op.GET_DATA, Op.SET_DATA, Op.CLOSE_SESSION]
    assert driver.session.data_to_send(driver.now) == b"", "it is sent once"
    driver.answer(2)
    assert [call.error for call in calls] == [None, None]
    assert calls[0].result == NODE
    assert_over(driver)


def test_what_stands_behind_the_last_answer_is_ignored():
    driver = connected()
    driver.close()
    driver.feed(driver.reply_to(driver.unanswered[0]), b"", encode_reply(99, 0, 0))
    assert driver.hung_up == [1]
    assert_over(driver)


def test_closing_twice_is_closing_once():
    driver = connected()
    driver.close()
    driver.close()
    assert driver.ops() == [Op.CLOSE_SESSION]
    driver.answer()
    assert_over(driver)


def test_a_refused_close_is_an_end_as_well():
    driver = connected()
    driver.close()
    driver.feed(driver.reply_to(driver.unanswered[0], err=-112))
    assert_over(driver)


def test_closing_while_credentials_are_unanswered():
    driver = authenticating()
    call = driver.call(GET, "/a")
    driver.close()
    assert driver.ops() == [Op.AUTH]
    driver.answer()
    assert driver.ops() == [Op.AUTH, Op.GET_DATA, Op.CLOSE_SESSION]
    driver.answer(2)
    assert call.result == NODE
    assert driver.states == [State.CONNECTED, State.CLOSED]
    assert_over(driver)


def test_credentials_are_refused_while_closing():
    driver = authenticating()
    driver.close()
    driver.feed(driver.reply_to(driver.unanswered[0], err=-115))
    assert driver.states == [State.AUTH_FAILED, State.CLOSED]
    assert_over(driver)


@pytest.mark.parametrize("make", [authenticating, connected])
def test_a_loss_while_closing_ends_it_without_reconnecting(make):
    driver = make()
    read, write = driver.call(GET, "/r"), driver.call(SET, "/w")
    sent = driver.paths() != []
    driver.close()
    driver.lose()
    assert isinstance(read.error, ClientClosedError)
    assert isinstance(write.error, OutcomeUnknownError if sent else ClientClosedError)
    assert len(driver.dialled) == 1
    assert_over(driver)


def test_a_silent_link_while_closing():
    driver = connected()
    driver.close()
    driver.run(3.9)
    assert not driver.is_closed
    driver.run(0.1)
    assert driver.now == 104.0
    assert len(driver.dialled) == 1
    assert_over(driver)


@pytest.mark.parametrize("make", [authenticating, connected])
@pytest.mark.parametrize("closing", [False, True])
def test_aborting(make, closing):
    driver = make()
    conn = driver.session.conn
    read, write = driver.call(GET, "/r"), driver.call(SET, "/w")
    sent = driver.paths() != []
    if closing:
        driver.close()
    driver.abort()
    assert driver.hung_up == [conn]
    assert isinstance(read.error, ClientClosedError)
    assert isinstance(write.error, OutcomeUnknownError if sent else ClientClosedError)
    assert_over(driver)


def test_what_comes_after_the_end_is_ignored():
    driver = connected()
    call = driver.call()
    request = driver.unanswered[0]
    conn = driver.session.conn
    driver.abort()
    driver.session.bytes_received(conn, driver.reply_to(request), driver.now)
    driver.session.connection_lost(conn, OSError(), driver.now)
    driver.pump()
    assert call.ends == 1
    assert_over(driver)


def test_a_connection_lost_twice_is_lost_once():
    driver = suspended()
    driver.abort()
    driver.session.connection_lost(driver.session.conn, OSError(), driver.now)
    driver.pump()
    assert_over(driver)
