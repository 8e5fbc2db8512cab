"""Pings, silent links, and our own loop standing still."""

import pytest

from everlatch.errors import ServerError, SilentLinkError
from everlatch.session.session import Phase
from everlatch.types import State
from everlatch.wire.codes import XID_PING, Op
from everlatch.wire.headers import encode_reply
from session.driver import GET, NODE, connected

PAIR = "10.0.0.1,10.0.0.2"


def is_dropped(driver):
    return driver.states[-1] is not State.CONNECTED


def test_an_idle_link_is_pinged_every_sixth_of_the_timeout():
    driver = connected()
    for count in range(1, 5):
        driver.wake()
        assert driver.now == 100.0 + count
        assert (driver.sent[-1].xid, driver.sent[-1].op, driver.pings) == (XID_PING, Op.PING, count)
        driver.answer()
    assert driver.states == [State.CONNECTED]


def test_a_busy_link_needs_no_ping():
    driver = connected()
    for _ in range(10):
        driver.run(0.9)
        driver.call()
        driver.answer()
    assert driver.pings == 0


def test_no_ping_while_a_request_is_unanswered():
    driver = connected()
    driver.call()
    driver.run(3.9)
    assert driver.pings == 0
    assert not is_dropped(driver)


def test_a_timer_that_fires_early_does_nothing():
    driver = connected()
    for _ in range(3):
        driver.tick(0.1)
    assert driver.sent == []
    assert driver.session.next_deadline() == 101.0


def test_an_answered_ping_proves_the_session_from_when_it_was_sent():
    driver = connected()
    driver.wake()
    sent_at = driver.now
    driver.run(0.7)
    assert driver.session.lost_at == 106.0
    driver.answer()
    assert driver.session.lost_at == sent_at + 6.0


def test_an_answered_request_proves_the_session_from_when_it_was_sent():
    driver = connected()
    driver.run(0.5)
    driver.call()
    driver.run(0.4)
    driver.answer()
    assert driver.session.lost_at == 100.5 + 6.0


def test_an_event_proves_nothing():
    driver = connected()
    driver.run(0.5)
    driver.event(1, "/a")
    assert driver.session.lost_at == 106.0


@pytest.mark.parametrize("what", ["ping", "request"])
def test_a_silent_link_is_dropped_after_two_thirds_whoever_lives_or_not(what):
    driver = connected(PAIR)
    if what == "ping":
        driver.wake()
    else:
        driver.call()
    since, conn = driver.now, driver.session.conn
    driver.wake()
    assert driver.now == since + 0.75, "T/8"
    assert driver.doubts == [conn]
    assert not is_dropped(driver)
    driver.wake()
    assert driver.now == since + 4.0
    assert is_dropped(driver)
    reason = driver.changes[-1].reason
    assert isinstance(reason, SilentLinkError)
    assert str(reason) == "10.0.0.1:2181 has not answered for 4 s"
    assert driver.hung_up == [conn]
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]


def test_bytes_put_the_verdict_off():
    driver = connected()
    driver.call()  # in front of the one that is looked at, so that bytes without an answer to it can come
    call = driver.call()
    driver.run(3.5)
    driver.answer()
    driver.run(3.9)
    assert not is_dropped(driver)
    driver.run(0.1)
    assert is_dropped(driver)
    assert call.ends == 0, "a read waits for the next connection"


def test_half_a_reply_puts_the_verdict_off_as_well():
    driver = connected()
    driver.call()
    driver.run(3.5)
    driver.session.bytes_received(driver.session.conn, b"\0\0", driver.now)
    driver.run(2.4)
    assert not is_dropped(driver)


def test_what_is_left_unanswered_is_waited_for_from_the_last_byte():
    driver = connected()
    driver.call()
    driver.call()
    driver.run(0.5)
    driver.answer()
    driver.run(0.74)
    assert driver.doubts == []
    driver.run(0.02)
    assert len(driver.doubts) == 1
    driver.run(3.2)
    assert not is_dropped(driver)
    driver.run(0.1)
    assert is_dropped(driver)


def test_slow_answers_keep_the_link():
    driver = connected(max_in_flight=20)
    calls = [driver.call() for _ in range(8)]
    for _ in range(8):
        driver.run(1.1)
        driver.answer()
    assert [call.result for call in calls] == [NODE] * 8
    assert driver.states == [State.CONNECTED]
    assert driver.pings == 1, "asked for in the meantime"
    assert driver.session.lost_at == 106.0
    assert driver.session.liveness.lapses > 0


def streaming(driver, until):
    """Events all the time, answers never."""
    while driver.now < until and not is_dropped(driver):
        driver.run(0.02)
        if not is_dropped(driver):
            driver.event(1, "/elsewhere")


def test_a_link_that_brings_events_but_no_answers_is_dropped_when_the_session_must_be_lost():
    driver = connected()
    driver.run(1.0)
    assert driver.pings == 1
    streaming(driver, 110.0)
    assert driver.now == pytest.approx(106.0, abs=0.021)
    assert driver.states == [State.CONNECTED, State.SUSPENDED, State.LOST]
    assert isinstance(driver.changes[1].reason, SilentLinkError)
    assert isinstance(driver.changes[2].reason, SilentLinkError)


def test_a_late_timer_cannot_put_that_off_for_ever():
    driver = connected()
    driver.run(1.0)
    streaming(driver, 105.9)
    driver.tick(1.0)  # our loop stood still
    assert not is_dropped(driver), "what has arrived is read first"
    streaming(driver, 110.0)
    assert is_dropped(driver)
    assert driver.now < 107.0


@pytest.mark.parametrize(("err", "dropped"), [(0, False), (-124, True)])
def test_the_error_of_a_pong(err, dropped):
    driver = connected()
    driver.wake()
    driver.feed(driver.reply_to(driver.unanswered[0], err=err))
    assert is_dropped(driver) is dropped
    if dropped:
        assert isinstance(driver.changes[-1].reason, ServerError)
        assert driver.changes[-1].reason.code == -124


def test_a_pong_moves_the_zxid():
    driver = connected()
    driver.wake()
    driver.feed(encode_reply(XID_PING, 4711, 0))
    assert driver.session.last_zxid == 4711


def test_a_pong_is_an_answer_to_one_ping():
    driver = connected()
    driver.wake()
    pong = driver.reply_to(driver.unanswered[0])
    driver.feed(pong)
    driver.feed(pong)
    assert is_dropped(driver)


# -- our own loop stood still


def test_a_late_timer_lets_what_has_arrived_be_read_first():
    driver = connected()
    call = driver.call()
    driver.tick(5.0)
    assert not is_dropped(driver)
    assert driver.session.next_deadline() == driver.now + 0.05
    driver.answer()
    driver.run(0.5)
    assert call.result == NODE
    assert not is_dropped(driver)


def test_the_grace_is_short():
    driver = connected()
    driver.call()
    driver.tick(5.0)
    driver.tick(0.02)
    assert not is_dropped(driver), "early"
    driver.tick(0.03)
    assert is_dropped(driver)


def test_a_timer_that_is_hardly_late_gets_no_grace():
    driver = connected()
    driver.call()
    driver.tick(0.79)
    assert len(driver.doubts) == 1
    driver.tick(3.25)
    assert is_dropped(driver)


def test_every_standstill_gets_its_own_grace():
    driver = connected()
    for _ in range(3):
        driver.call()
        driver.tick(3.0)
        driver.answer()
        assert driver.doubts == []
        assert not is_dropped(driver)
    driver.call()
    driver.tick(3.0)
    assert driver.doubts == []
    driver.tick(0.05)
    assert len(driver.doubts) == 1
    driver.tick(3.0)
    assert not is_dropped(driver)
    driver.tick(0.05)
    assert is_dropped(driver)


def test_grace_does_not_outlive_its_connection():
    driver = connected(PAIR)
    driver.call()
    driver.tick(5.0)
    driver.lose()
    driver.connect()
    assert driver.session.next_deadline() == driver.now + 0.75


def test_a_standstill_longer_than_the_timeout_loses_the_session_unless_something_was_answered():
    driver = connected()
    driver.wake()
    driver.tick(20.0)
    driver.answer()  # of a ping that was sent 20 s ago
    assert not is_dropped(driver)
    driver.tick(0.05)
    assert driver.states == [State.CONNECTED, State.SUSPENDED, State.LOST]


def test_a_loss_that_is_noticed_late_is_lost_at_once():
    driver = connected()
    driver.run(0.5)
    driver.now += 10.0
    driver.lose()
    assert driver.states[-1] is State.SUSPENDED
    driver.wake()
    assert driver.states[-1] is State.LOST
    assert driver.now == 110.5


def test_lost_while_a_handshake_is_under_way():
    driver = connected()
    driver.run(1.0)
    driver.answer()
    driver.lose()
    while driver.now < 104.0:
        driver.wake()
    driver.made()
    assert driver.states[-1] is State.SUSPENDED
    driver.wake()
    assert (driver.now, driver.states[-1]) == (107.0, State.LOST)
    assert driver.session.phase is Phase.HANDSHAKE
    driver.grant()
    call = driver.call(GET)
    driver.answer()
    assert call.result == NODE
    assert driver.states[-1] is State.CONNECTED
