"""Credentials: before everything else on every connection, and what their answers do."""

import pytest

from everlatch.errors import (
    AuthFailedError,
    CallTimeoutError,
    ClientClosedError,
    OutcomeUnknownError,
)
from everlatch.session.requests import Request
from everlatch.session.session import Phase
from everlatch.types import EventType, State
from everlatch.wire.auth_records import decode_auth_request, encode_auth_request
from everlatch.wire.codes import XID_AUTH, Op
from session.driver import GET, NODE, SET, Call, Driver, connected


def identities(driver, since=0):
    return [
        decode_auth_request(request.body, 0, len(request.body)).credentials
        for request in driver.sent[since:]
        if request.xid == XID_AUTH
    ]


def test_credentials_go_first_then_watches_then_the_queue():
    driver = connected()
    driver.authenticate()
    driver.call(GET, "/a", watch=print)
    driver.answer(2)
    driver.lose()
    driver.call(GET, "/queued")
    sent = len(driver.sent)
    driver.connect()
    assert driver.ops(sent) == [Op.AUTH], "everything waits for the answer"
    assert driver.session.phase is Phase.AUTHENTICATING
    assert driver.states[-1] is State.SUSPENDED
    driver.answer()
    assert driver.ops(sent) == [Op.AUTH, Op.SET_WATCHES, Op.GET_DATA]
    assert driver.states[-1] is State.CONNECTED


def test_an_answer_that_takes_long_is_no_reason_to_look_again_and_again():
    """While others could still be dialled: a deadline that nobody moves would keep the loop busy."""
    driver = connected("10.0.0.1,10.0.0.2,10.0.0.3")
    driver.authenticate()
    driver.answer()
    driver.lose()
    driver.connect()
    assert driver.session.phase is Phase.AUTHENTICATING
    driver.run(0.5)
    assert driver.session.phase is Phase.AUTHENTICATING
    assert driver.session.next_deadline() > driver.now


def test_the_queue_waits_for_every_answer():
    driver = Driver()
    driver.session.authenticate("digest", encode_auth_request("digest", b"first"), None, driver.now)
    driver.authenticate(b"second")
    driver.call(GET, "/a")
    driver.connect()
    assert identities(driver) == [b"first", b"second"]
    driver.answer()
    assert driver.paths() == []
    driver.answer()
    assert driver.paths() == ["/a"]


def test_the_call_ends_with_the_answer():
    driver = Driver()
    call = driver.authenticate()
    driver.connect()
    driver.answer()
    assert (call.ends, call.result, call.error) == (1, None, None)


def test_an_identity_that_is_added_while_others_are_unanswered():
    driver = Driver()
    first = driver.authenticate(b"first")
    driver.connect()
    second = driver.authenticate(b"second")
    assert identities(driver) == [b"first", b"second"]
    driver.answer()
    assert (first.ends, second.ends, driver.states) == (1, 0, [])
    driver.answer()
    assert (second.ends, driver.states) == (1, [State.CONNECTED])


def test_calls_do_not_wait_for_an_identity_that_is_added_while_serving():
    driver = connected()
    call = driver.authenticate()
    driver.call(GET, "/after")
    assert driver.ops() == [Op.AUTH, Op.GET_DATA]
    assert call.ends == 0


def test_unflushed_calls_go_before_an_identity_that_was_added_after_them():
    driver = connected()
    # All in one turn of the engine's loop, which flushes afterwards.
    driver.session.submit(Request(Call(), GET, "/before", b"/before"))
    driver.session.authenticate("digest", encode_auth_request("digest", b"me"), None, driver.now)
    driver.session.submit(Request(Call(), GET, "/after", b"/after"))
    driver.pump()
    assert driver.ops() == [Op.GET_DATA, Op.AUTH, Op.GET_DATA]
    assert driver.paths() == ["/before", "/after"]


def test_auth_replies_overtake():
    driver = connected()
    read = driver.call(GET)
    call = driver.authenticate()
    driver.feed(driver.reply_to(driver.unanswered[1]))
    assert (read.ends, call.ends) == (0, 1)
    driver.answer()
    assert read.result == NODE


def test_a_lost_reply_refuses_nothing_and_is_asked_for_again():
    driver = Driver("10.0.0.1,10.0.0.2")
    call = driver.authenticate()
    driver.connect()
    driver.lose()
    assert call.ends == 0
    driver.connect()
    assert identities(driver) == [b"me:secret"] * 2
    driver.answer()
    assert (call.ends, call.error) == (1, None)


def test_a_reply_lost_while_serving_is_asked_for_again():
    driver = connected()
    call = driver.authenticate()
    driver.lose()
    driver.connect()
    assert call.ends == 0
    driver.answer()
    assert call.ends == 1


def test_the_same_identity_twice_is_replayed_once():
    driver = connected()
    calls = [driver.authenticate() for _ in range(2)]
    assert identities(driver) == [b"me:secret"] * 2
    driver.answer(2)
    assert [call.ends for call in calls] == [1, 1]
    driver.lose()
    sent = len(driver.sent)
    driver.connect()
    assert identities(driver, sent) == [b"me:secret"]


def test_a_call_may_time_out_before_its_answer():
    driver = Driver()
    call = driver.authenticate(timeout=1.0)
    driver.run(1.0)
    assert isinstance(call.error, CallTimeoutError)
    driver.connect()
    driver.answer()
    assert call.ends == 1
    assert driver.states == [State.CONNECTED], "it is added all the same"


def refuse_auth(driver):
    (request,) = [request for request in driver.unanswered if request.xid == XID_AUTH]
    driver.feed(driver.reply_to(request, err=-115))


def test_refused_credentials_end_everything():
    driver = connected()
    read, write = driver.call(GET, "/r"), driver.call(SET, "/w")
    call = driver.authenticate()
    conn = driver.session.conn
    refuse_auth(driver)
    assert driver.states[-1] is State.AUTH_FAILED
    assert isinstance(driver.changes[-1].reason, AuthFailedError)
    assert driver.hung_up == [conn]
    assert isinstance(call.error, AuthFailedError)
    assert isinstance(read.error, AuthFailedError)
    assert (read.error.operation, read.error.path) == ("get", "/r")
    assert isinstance(write.error, OutcomeUnknownError)
    assert driver.session.next_deadline() is None, "nothing is tried any more"
    assert len(driver.attempts) == 1


def test_refused_credentials_refuse_later_calls():
    driver = Driver()
    driver.authenticate()
    waiting = driver.call()
    driver.connect()
    refuse_auth(driver)
    assert isinstance(waiting.error, AuthFailedError)
    with pytest.raises(AuthFailedError):
        driver.call()
    with pytest.raises(AuthFailedError):
        driver.authenticate()
    assert not driver.is_closed
    driver.close()
    assert driver.states == [State.AUTH_FAILED, State.CLOSED]
    assert driver.is_closed
    with pytest.raises(ClientClosedError):
        driver.call()


@pytest.mark.parametrize("state", [State.SUSPENDED, State.LOST])
def test_refused_credentials_after_a_loss(state):
    driver = connected()
    driver.authenticate()
    driver.answer()
    driver.lose()
    while driver.states[-1] is not state:
        driver.wake()
    driver.connect()
    refuse_auth(driver)
    assert driver.changes[-1][:2] == (State.AUTH_FAILED, state)


def test_no_secret_in_what_is_told():
    driver = connected()
    call = driver.authenticate(b"me:secret")
    refuse_auth(driver)
    told = [call.error, driver.changes[-1].reason, *driver.changes, *driver.actions, driver.session.statistics()]
    assert "secret" not in " ".join(f"{thing!s} {thing!r}" for thing in told)


def test_an_event_may_come_before_the_answer():
    driver = connected()
    driver.call(GET, "/a", watch=print)
    driver.authenticate()
    driver.answer(2)
    driver.lose()
    driver.connect()
    driver.event(EventType.DATA_CHANGED, "/a")
    assert len(driver.fired) == 1
    assert driver.session.phase is Phase.AUTHENTICATING
