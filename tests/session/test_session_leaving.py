"""Servers that change, and going to another server without losing a call."""

from __future__ import annotations

import pytest

from everlatch.errors import ServerLeftError
from everlatch.session.retry import RetryForever
from everlatch.session.session import Phase
from everlatch.types import State
from everlatch.wire.codes import Op
from session.driver import GET, NODE, SET, STAT, Driver, connected

PAIR = "10.0.0.1,10.0.0.2"
THREE = "10.0.0.1,10.0.0.2,10.0.0.3"


def leave(driver):
    driver.session.leave(driver.now)
    driver.pump()


def settled(hosts=THREE, **options):
    """A driver whose connection was worth having, to the first server."""
    driver = connected(hosts, **options)
    driver.run(1.0)
    driver.answer()
    return driver


# -- leaving


def test_an_idle_connection_is_left_at_once():
    driver = settled()
    leave(driver)
    assert driver.hung_up == [1]
    assert driver.states == [State.CONNECTED, State.SUSPENDED]
    assert isinstance(driver.changes[-1].reason, ServerLeftError)
    assert "10.0.0.1:2181" in str(driver.changes[-1].reason)
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]
    driver.connect()
    assert driver.states[-1] is State.CONNECTED


def test_what_was_sent_is_answered_before():
    driver = settled()
    sent = [driver.call(SET, "/a"), driver.call(GET, "/b")]
    leave(driver)
    assert driver.session.phase is Phase.LEAVING
    assert driver.states == [State.CONNECTED]
    later = driver.call(GET, "/c")
    assert driver.paths() == ["/a", "/b"], "sent to the next server"
    driver.answer()
    assert driver.states == [State.CONNECTED]
    driver.answer()
    assert driver.states[-1] is State.SUSPENDED
    assert [call.error for call in sent] == [None, None]
    assert later.ends == 0
    driver.connect()
    driver.answer()
    assert later.result == NODE
    assert driver.paths() == ["/a", "/b", "/c"], "each was sent once"


def test_a_call_that_could_be_written_at_once_waits_as_well():
    driver = settled()
    driver.call(SET, "/a")
    leave(driver)
    driver.submit(GET, "/b", at_once=True)
    assert driver.paths() == ["/a"]


def test_it_takes_a_third_of_the_timeout_at_most():
    driver = settled()
    write, read = driver.call(SET), driver.call(GET)
    leave(driver)
    driver.run(1.99)
    assert driver.states == [State.CONNECTED]
    driver.run(0.01)
    assert driver.states[-1] is State.SUSPENDED
    driver.connect()
    since = len(driver.sent)
    driver.answer(2)  # a commit, and a look: the node is as it was
    assert driver.ops(since) == [Op.SET_DATA, Op.GET_DATA]
    driver.answer(2)
    assert (write.result, read.result) == (STAT, NODE)


def test_nor_longer_than_the_link_may_live():
    """It was silent for long when it was to be left."""
    driver = settled()
    driver.call()
    driver.run(3.9)
    leave(driver)
    driver.run(0.1)
    assert driver.states[-1] is State.SUSPENDED
    assert driver.now < driver.session.lost_at


def test_what_is_sent_of_our_own_is_answered_before():
    """Watches that are being armed: there is a call for it, and so for that."""
    driver = settled()
    driver.call(GET, "/w", watch=print)
    driver.answer()
    driver.lose()
    driver.connect()
    assert driver.ops()[-1] == Op.SET_WATCHES
    leave(driver)
    assert driver.session.phase is Phase.LEAVING
    driver.answer()
    assert driver.session.phase is Phase.DIALING


def test_a_connection_that_breaks_while_it_is_left():
    driver = settled()
    call = driver.call()
    leave(driver)
    driver.lose()
    driver.connect()
    driver.answer()
    assert call.result == NODE


def test_a_call_that_times_out_while_the_connection_is_left():
    driver = settled()
    call = driver.call(timeout=0.5)
    leave(driver)
    driver.run(0.5)
    assert call.ends == 1
    driver.answer()
    assert driver.states[-1] is State.SUSPENDED


def test_events_and_identities_while_a_connection_is_left():
    driver = settled()
    driver.call()
    leave(driver)
    driver.event(1, "/elsewhere")
    identity = driver.authenticate()
    assert driver.session.phase is Phase.LEAVING
    driver.answer()
    driver.connect()
    assert identity.ends == 0
    driver.answer()
    assert identity.ends == 1
    assert driver.states[-1] is State.CONNECTED


@pytest.mark.parametrize("end", [Driver.close, Driver.abort])
def test_closing_while_a_connection_is_left(end):
    driver = settled()
    call = driver.call()
    leave(driver)
    end(driver)
    if end is Driver.close:
        assert driver.ops()[-1] == Op.CLOSE_SESSION
        driver.answer(2)
        assert call.result == NODE
    assert driver.is_closed
    assert len(driver.dialled) == 1


def test_who_is_closing_does_not_leave():
    driver = settled()
    driver.call()
    driver.close()
    leave(driver)
    assert driver.session.phase is Phase.SERVING
    driver.update("10.0.0.9")
    driver.answer(2)
    assert driver.is_closed
    assert len(driver.dialled) == 1


def test_who_has_no_connection_leaves_none():
    driver = settled()
    driver.lose()
    attempts = len(driver.attempts)
    leave(driver)
    assert len(driver.attempts) == attempts


def test_leaving_twice_is_leaving_once():
    driver = settled()
    driver.call()
    leave(driver)
    driver.run(1.0)
    leave(driver)
    driver.run(1.0)
    assert driver.states[-1] is State.SUSPENDED
    assert driver.hung_up == [1]


def test_a_late_timer_while_leaving():
    driver = settled()
    driver.call()
    leave(driver)
    driver.tick(60.0)
    assert driver.states[-1] in (State.SUSPENDED, State.LOST)
    assert driver.session.phase is Phase.DIALING


# -- another list


def test_a_server_that_is_not_on_the_list_any_more_is_left():
    driver = settled()
    call = driver.call(SET)
    driver.update("10.0.0.2,10.0.0.3")
    assert driver.session.phase is Phase.LEAVING
    driver.answer()
    assert call.error is None
    driver.refuse()
    driver.refuse()
    assert set(driver.dialled[1:]) == {"10.0.0.2", "10.0.0.3"}
    assert driver.session.phase is Phase.IDLE, "and the old one is not tried"


def test_a_server_that_stays_on_the_list_is_kept():
    driver = settled()
    driver.update("10.0.0.9,10.0.0.1")
    assert driver.states == [State.CONNECTED]
    driver.lose()
    driver.refuse()
    assert driver.dialled == ["10.0.0.1", "10.0.0.9", "10.0.0.1"]


def test_clients_move_to_servers_that_are_added():
    moved = 0
    for seed in range(200):
        driver = settled("10.0.0.1", seed=seed)
        driver.update(PAIR)
        if driver.session.phase is not Phase.SERVING:
            moved += 1
            assert driver.dialled == ["10.0.0.1", "10.0.0.2"]
    assert 60 < moved < 140


@pytest.mark.parametrize("steps", [0, 1, 2], ids=["dialing", "handshake", "credentials"])
def test_an_attempt_at_a_server_that_is_not_on_the_list_any_more_is_given_up(steps):
    driver = Driver(PAIR)
    driver.authenticate()
    if steps > 0:
        driver.made()
    if steps > 1:
        driver.grant()
    driver.update("10.0.0.3")
    assert driver.hung_up == [1]
    assert driver.dialled == ["10.0.0.1", "10.0.0.3"]
    assert isinstance(dict(driver.session.failures())["10.0.0.1:2181"], ServerLeftError)
    driver.connect()
    driver.answer()
    assert driver.states == [State.CONNECTED]


@pytest.mark.parametrize("steps", [0, 1], ids=["dialing", "handshake"])
def test_an_attempt_at_a_server_that_stays_goes_on(steps):
    driver = Driver(PAIR)
    if steps:
        driver.made()
    driver.update("10.0.0.3,10.0.0.1")
    assert driver.hung_up == []
    driver.connect() if not steps else driver.grant()
    assert driver.changes[0].server == "10.0.0.1:2181"


def test_a_new_server_is_tried_beside_an_attempt_that_takes_long():
    driver = Driver("10.0.0.1")
    driver.run(0.5)
    assert driver.dialled == ["10.0.0.1"]
    driver.update(PAIR)
    driver.run(0.25)
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]


def test_the_stagger_that_runs_is_not_put_off():
    driver = Driver(PAIR)
    driver.run(0.2)
    driver.update(THREE)
    driver.run(0.05)
    assert len(driver.dialled) == 2


def test_rivals_at_servers_that_are_not_on_the_list_any_more_are_given_up():
    driver = Driver("10.0.0.1,zk.example,10.0.0.3")
    driver.run(0.5)
    assert driver.open == {1, 2, 3}
    driver.update("10.0.0.1,10.0.0.3")
    assert driver.hung_up == [2]
    driver.refuse(1)
    assert driver.session.conn == 3


def test_a_name_that_is_not_on_the_list_any_more_is_not_waited_for():
    driver = Driver("zk.example")
    driver.update("10.0.0.1")
    assert driver.hung_up == [1]
    assert driver.dialled == ["10.0.0.1"]


def test_a_new_server_is_not_kept_waiting_by_a_pause():
    driver = Driver("10.0.0.1", retry_policy=RetryForever(60.0))
    driver.refuse()
    assert driver.session.phase is Phase.IDLE
    driver.update("10.0.0.1,10.0.0.2")
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"], "the other one was tried"
    driver.refuse()
    assert driver.session.next_deadline() == driver.now + 60.0


def test_nor_by_any_other_list_than_a_new_one():
    driver = Driver(PAIR, retry_policy=RetryForever(60.0))
    driver.refuse()
    driver.refuse()
    driver.update("10.0.0.2")
    assert driver.session.phase is Phase.IDLE
    driver.wake()
    assert driver.dialled[2:] == ["10.0.0.2"]


def test_a_list_before_the_start_and_after_the_end():
    driver = Driver("10.0.0.1", start=False)
    driver.update("10.0.0.2")
    assert driver.attempts == []
    driver.session.start(driver.now)
    driver.pump()
    assert driver.dialled == ["10.0.0.2"]
    driver.abort()
    driver.update("10.0.0.3")
    assert driver.session.next_deadline() is None
    assert driver.dialled == ["10.0.0.2"]


def test_a_list_while_credentials_are_unanswered_and_it_is_closing():
    """What was called is still answered by that server."""
    driver = Driver("10.0.0.1")
    driver.authenticate()
    driver.connect()
    call = driver.call()
    driver.close()
    driver.update("10.0.0.2")
    driver.answer(3)
    assert call.result == NODE
    assert driver.is_closed


def test_endpoints_are_those_of_the_list():
    driver = settled(PAIR)
    driver.update("10.0.0.1,10.0.0.7")
    assert {endpoint.host for endpoint in driver.session.endpoints} == {"10.0.0.1", "10.0.0.7"}


def test_what_was_found_out_is_used_after_a_loss():
    driver = settled("10.0.0.1,10.0.0.2,10.0.0.3")
    addresses = {ip: driver.session._address._replace(ip=ip) for ip in ("10.0.0.2", "10.0.0.3")}
    known = [address._replace(endpoint=address.endpoint._replace(host=ip)) for ip, address in addresses.items()]
    driver.session.prefer(known[1:], known[:1])
    driver.lose()
    driver.refuse()
    driver.refuse()
    assert driver.dialled[1:] == ["10.0.0.3", "10.0.0.2", "10.0.0.1"]
