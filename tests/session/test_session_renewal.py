"""The end of a session, and what comes then: a new one, none before the application says so, or one from zxid 0."""

from __future__ import annotations

import pytest

from everlatch.errors import HistoryResetError, SessionExpiredError
from everlatch.session.actions import AskModes
from everlatch.session.retry import RetryUntilElapsed
from everlatch.session.session import Phase
from everlatch.types import EventType, State
from session.driver import GET, NODE, Driver, connected

PAIR = "10.0.0.1,10.0.0.2"


def renew(driver):
    driver.session.renew(driver.now)
    driver.pump()


def settled(hosts=PAIR, **options):
    driver = connected(hosts, **options)
    driver.run(1.0)
    driver.answer()
    return driver


# -- renew=False


def ended(**options):
    """A driver whose session is over, and that waits for the application."""
    driver = settled(renew=False, **options)
    driver.lose()
    driver.made()
    driver.expire()
    return driver


def test_a_session_that_is_over_stays_so_until_the_application_says_so():
    driver = ended()
    assert driver.states == [State.CONNECTED, State.SUSPENDED, State.LOST]
    assert isinstance(driver.changes[-1].reason, SessionExpiredError)
    assert driver.open == set()
    call = driver.call()
    attempts = len(driver.attempts)
    driver.run(1000.0)
    assert len(driver.attempts) == attempts
    assert driver.session.next_deadline() is None
    renew(driver)
    assert len(driver.attempts) == attempts + 1
    driver.connect(0x5678)
    assert driver.states[3:] == [State.RENEWED, State.CONNECTED]
    assert isinstance(driver.changes[3].reason, SessionExpiredError)
    driver.answer()
    assert call.result == NODE


def test_calls_have_their_timeouts_meanwhile():
    driver = ended()
    call = driver.call(timeout=2.0)
    driver.run(2.0)
    assert call.ends == 1


def test_the_first_session_needs_no_permission():
    driver = Driver(renew=False)
    driver.connect()
    assert driver.states == [State.CONNECTED]


def test_a_loss_alone_needs_none():
    driver = settled(renew=False)
    driver.lose()
    driver.connect()
    assert driver.states[-1] is State.CONNECTED


def test_a_session_that_must_be_assumed_lost_is_still_offered():
    driver = settled(renew=False)
    driver.lose()
    while driver.states[-1] is not State.LOST:
        driver.wake()
    driver.made()
    driver.grant()
    assert driver.states[-1] is State.CONNECTED
    assert driver.session.generation == 1


def test_permission_may_be_given_before():
    driver = settled(renew=False)
    renew(driver)
    assert driver.states == [State.CONNECTED]
    driver.lose()
    driver.made()
    driver.expire()
    driver.connect(0x5678)
    assert driver.states[2:] == [State.LOST, State.RENEWED, State.CONNECTED]


def test_a_blip_does_not_use_it_up():
    driver = settled(renew=False)
    renew(driver)
    for _ in range(2):
        driver.lose()
        driver.connect()
        driver.run(1.0)
        driver.answer()
    driver.lose()
    driver.made()
    driver.expire()
    assert driver.session.phase is Phase.DIALING


def test_it_is_for_one_new_session():
    driver = ended()
    renew(driver)
    driver.connect(0x5678)
    driver.lose()
    driver.made()
    driver.expire()
    assert driver.session.phase is Phase.IDLE
    assert driver.states[-1] is State.LOST
    renew(driver)
    driver.connect(0x9ABC)
    assert driver.states[-2:] == [State.RENEWED, State.CONNECTED]


def test_a_new_session_that_nobody_was_told_of_does_not_use_it_up():
    """Its credentials are still unanswered when the link breaks, and the server forgets it."""
    driver = settled(renew=False)
    driver.authenticate()
    driver.answer()
    driver.lose()
    driver.made()
    driver.expire()
    renew(driver)
    driver.connect(0x5678)
    driver.lose()
    driver.made()
    driver.expire()
    driver.connect(0x9ABC)
    driver.answer()
    assert driver.states[-2:] == [State.RENEWED, State.CONNECTED]


def test_the_policy_counts_from_the_renewal():
    driver = ended(retry_policy=RetryUntilElapsed(5.0, 1.0))
    driver.run(1000.0)
    renew(driver)
    for _ in range(4):
        driver.refuse()
        driver.refuse()
        assert driver.states[-1] is State.LOST
        driver.wake()


@pytest.mark.parametrize("end", [Driver.close, Driver.abort])
def test_closing_instead(end):
    driver = ended()
    end(driver)
    assert driver.is_closed
    renew(driver)
    driver.update("10.0.0.9")
    assert driver.session.next_deadline() is None
    assert driver.open == set()


def test_a_list_of_servers_that_comes_meanwhile_is_used_later():
    driver = ended()
    driver.update("10.0.0.9")
    assert driver.session.phase is Phase.IDLE
    renew(driver)
    assert driver.dialled[-1] == "10.0.0.9"


# -- history


def refused(driver):
    """Servers close the connection on us, in every round."""
    while driver.session.phase is Phase.IDLE:
        driver.wake()
    while driver.session.phase is not Phase.IDLE:
        driver.made()
        driver.lose()


def asked(driver):
    return sum(isinstance(action, AskModes) for action in driver.actions)


def behind(**options):
    """A driver that has seen zxid 0x1000, has lost its session, and is refused by all servers."""
    driver = settled(**options)
    driver.call()
    driver.feed(driver.reply_to(driver.unanswered[0], zxid=0x1000))
    driver.lose()
    while driver.states[-1] is not State.LOST:
        assert asked(driver) == 0
        if driver.session.phase is Phase.IDLE:
            driver.wake()
        else:
            refused(driver)
    refused(driver)
    assert asked(driver) > 0
    return driver


def test_servers_are_asked_only_when_they_refuse_and_the_session_must_be_lost():
    driver = settled()
    driver.lose()
    while driver.now < 120.0:
        driver.wake()
        if driver.session.phase is Phase.DIALING:
            driver.refuse()
    assert driver.states[-1] is State.LOST
    assert asked(driver) == 0, "nobody has refused us: nobody was there"


def confirm(driver, ip, mode, zxid):
    """It says so, and still does half a session timeout later."""
    driver.tells(ip, mode, zxid)
    driver.now += 3.0
    driver.tells(ip, mode, zxid)


@pytest.mark.parametrize("mode", ["leader", "standalone"])
def test_an_ensemble_that_has_lost_data_is_begun_with_anew(mode):
    driver = behind()
    confirm(driver, "10.0.0.1", mode, 0xFFF)
    assert driver.session.phase is Phase.DIALING
    driver.made()
    offered = driver.handshakes[-1]
    assert (offered.session_id, offered.last_zxid_seen, offered.password) == (0, 0, bytes(16))
    driver.grant(0x5678)
    renewed = driver.changes[-2]
    assert (renewed.state, renewed.session_id, renewed.previous_session_id) == (State.RENEWED, 0x5678, 0x1234)
    assert isinstance(renewed.reason, HistoryResetError)
    assert "its zxid is 0xfff, and 0x1000 had been seen; session 0x1234 is gone" in str(renewed.reason)


@pytest.mark.parametrize(
    ("mode", "zxid"), [("follower", 5), ("observer", 5), ("leader", 0x1000), ("leader", None), (None, 5)]
)
def test_nothing_else_is_a_reason(mode, zxid):
    driver = behind()
    confirm(driver, "10.0.0.1", mode, zxid)
    assert driver.session.session_id == 0x1234
    assert driver.session.last_zxid == 0x1000


def test_nor_while_the_session_may_live():
    driver = settled()
    driver.call()
    driver.feed(driver.reply_to(driver.unanswered[0], zxid=0x1000))
    confirm(driver, "10.0.0.1", "leader", 5)
    driver.lose()
    confirm(driver, "10.0.0.1", "leader", 5)
    assert driver.session.session_id == 0x1234
    assert driver.states == [State.CONNECTED, State.SUSPENDED]


def test_nor_before_the_application_has_said_so():
    driver = behind(renew=False)
    confirm(driver, "10.0.0.1", "leader", 5)
    assert driver.session.session_id == 0x1234
    renew(driver)
    confirm(driver, "10.0.0.1", "leader", 5)
    assert driver.session.session_id == 0


@pytest.mark.parametrize("other", ["leader", "follower"])
def test_nor_while_another_server_is_not_behind(other):
    """The one that is behind was deposed and does not know yet."""
    driver = behind()
    driver.tells("10.0.0.1", "leader", 5)
    driver.tells("10.0.0.2", other, 0x1000)
    driver.now += 5.9
    driver.tells("10.0.0.1", "leader", 5)
    assert driver.session.session_id == 0x1234
    driver.now += 0.2
    driver.tells("10.0.0.1", "leader", 5)
    assert driver.session.session_id == 0x1234
    driver.now += 3.0
    driver.tells("10.0.0.1", "leader", 5)
    assert driver.session.session_id == 0


def test_nor_while_somebody_takes_us():
    """One that leads no more, and has not noticed, is behind as well; it says nothing of those who lead now."""
    driver = behind()
    driver.session.authenticate("digest", b"me:secret", None, driver.now)
    driver.made()
    driver.grant()
    assert driver.session.phase is Phase.AUTHENTICATING
    confirm(driver, "10.0.0.1", "leader", 5)
    driver.answer()
    assert driver.states[-1] is State.CONNECTED
    assert (driver.session.session_id, driver.session.generation) == (0x1234, 1)


def test_nor_by_a_server_that_is_not_on_the_list_any_more():
    driver = behind()
    driver.update("10.0.0.2")
    confirm(driver, "10.0.0.1", "leader", 5)
    assert driver.session.session_id == 0x1234


def test_nor_when_it_is_said_once_only():
    """By a leader that was frozen, say, and has just been woken."""
    driver = behind()
    driver.tells("10.0.0.1", "leader", 5)
    driver.now += 2.9
    driver.tells("10.0.0.1", "leader", 5)
    assert driver.session.session_id == 0x1234


def test_nor_when_somebody_has_taken_us_in_between():
    driver = behind()
    driver.tells("10.0.0.1", "leader", 5)
    driver.connect()
    driver.lose()
    driver.now += 60.0
    driver.session.handle_timer(driver.now)
    driver.pump()
    driver.tells("10.0.0.1", "leader", 5)
    assert driver.session.session_id == 0x1234


def test_it_happens_once():
    driver = behind()
    confirm(driver, "10.0.0.1", "leader", 5)
    attempts = len(driver.attempts)
    driver.tells("10.0.0.2", "leader", 5)
    assert len(driver.attempts) == attempts


def test_attempts_with_the_old_history_are_given_up():
    driver = behind()
    while driver.session.phase is Phase.IDLE:
        driver.wake()
    driver.run(0.25)
    driver.made()
    assert len(driver.open) == 2
    before = set(driver.open)
    confirm(driver, "10.0.0.1", "leader", 5)
    assert before <= set(driver.hung_up)


def test_what_was_bound_to_the_session_fails_and_the_rest_is_sent():
    driver = behind()
    bound, free = driver.call(generation=1), driver.call(path="/free")
    confirm(driver, "10.0.0.1", "leader", 5)
    assert isinstance(bound.error, SessionExpiredError)
    driver.connect(0x5678)
    assert driver.paths()[-1] == "/free"
    driver.zxid = 6
    driver.answer()
    assert free.result == NODE


def test_watches_are_armed_from_the_beginning():
    """Every node is newer than zxid 0: whoever watches is told to look again."""
    driver = settled()
    driver.call(GET, "/w", watch=print)
    driver.feed(driver.reply_to(driver.unanswered[0], zxid=0x1000))
    driver.lose()
    while driver.states[-1] is not State.LOST:
        driver.wake()
        if driver.session.phase is Phase.DIALING:
            driver.made()
            driver.lose()
    confirm(driver, "10.0.0.1", "leader", 5)
    driver.connect(0x5678)
    armed = driver.watches_in(driver.sent[-1])
    assert armed.relative_zxid == 0
    assert armed.data == ["/w"]
    driver.event(EventType.DATA_CHANGED, "/w")
    assert len(driver.fired) == 1
