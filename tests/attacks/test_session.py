"""Attacks on the session as a plain object: long answers, paused processes, calls whose time has passed."""

from __future__ import annotations

import pytest

from everlatch import CallTimeoutError, State
from session.driver import GET, SET, connected


def test_a_call_whose_time_has_passed_is_not_sent_after_a_pause():
    """The connection comes back before the timer is handled: our own process stood still."""
    driver = connected()
    driver.run(0.9)
    driver.call(GET)
    driver.run(0.5)
    driver.answer()
    sent = len(driver.sent)
    driver.lose()
    driver.made()
    call = driver.call(SET, timeout=1.0)
    driver.now += 2.0
    driver.grant()
    assert driver.paths(sent) == []
    assert isinstance(call.error, CallTimeoutError)
    assert not call.error.sent


def test_a_server_that_answers_slowly_but_steadily_keeps_its_client():
    """Ten large answers, one a second, all asked for at once: no byte is late, but none was asked for lately."""
    driver = connected()
    calls = [driver.call(GET) for _ in range(20)]
    for _ in calls:
        driver.run(1.0)
        assert driver.states == [State.CONNECTED]
        driver.answer()
    assert all(call.result is not None for call in calls)


def test_pings_go_out_while_answers_are_coming_in():
    """Only requests touch the session: without them the server would let it expire during a long download."""
    driver = connected()
    for _ in range(20):
        driver.call(GET)
    for _ in range(6):
        driver.run(0.9)
        driver.answer()
    assert driver.pings >= 1


def test_events_alone_do_not_keep_a_link():
    driver = connected()
    driver.call(GET)
    for _ in range(20):
        driver.run(0.9)
        if driver.states != [State.CONNECTED]:
            break
        driver.event(4, "/unknown")
    assert driver.states[-1] is not State.CONNECTED
    assert driver.now <= 100.0 + 2 * 6.0 + 1.0


def test_answered_calls_leave_no_bodies_behind():
    """Their deadlines stay for a while; a thousand of them with a megabyte each would be a gigabyte."""
    driver = connected()
    call, request = driver.submit(SET, body=b"x" * 1000, timeout=3600.0)
    driver.answer()
    assert call.result is not None
    assert request.body == b""


@pytest.mark.parametrize("sent", [True, False])
def test_a_cancelled_call_leaves_no_body_behind(sent):
    """Unsent, it would be out of the queue's counts, and yet in memory."""
    driver = connected()
    if not sent:
        driver.lose()
    call, request = driver.submit(SET, timeout=3600.0)
    driver.cancel(call, request)
    if sent:  # as long as it isn't answered it has to be known what it may do
        assert request.body
        driver.answer()
    assert request.body == b""
