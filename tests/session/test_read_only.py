"""What is kept aside while a read-only server serves, and a session that is content with one."""

from __future__ import annotations

import pytest

from everlatch.errors import HandshakeRefusedError, NotReadOnlyError
from everlatch.paths import Endpoint
from everlatch.session.actions import AskModes, Dial
from everlatch.session.read_only import Aside
from everlatch.session.requests import no_result
from everlatch.session.servers import Address
from everlatch.session.session import Phase
from everlatch.types import State
from everlatch.wire.codes import Op
from session.driver import GET, PASSWORD, SET, Call, Driver, Operation, Request, connected

TWO = "10.0.0.1,10.0.0.2"
SYNC = Operation("sync", Op.SYNC, no_result)
READER = Address("10.0.0.2", 2181, Endpoint("10.0.0.2", 2181))
"""The server that goes on serving reads."""


def test_a_session_that_is_kept_aside_is_lost_when_it_would_have_been() -> None:
    assert Aside(proven=100.0, timeout=6.0, last_zxid=7).lost_at == 106.0


def refused(hosts: str = TWO, **options: object) -> Driver:
    """A driver that had a session, and that nobody takes now."""
    driver = connected(hosts, **({"read_only": True} | options))
    driver.lose()
    while driver.session.phase is not Phase.IDLE:
        driver.refuse()
    return driver


def is_read_only(driver: Driver, mode: str = "read-only", address: Address = READER) -> None:
    driver.session.server_is(address, mode, 1, driver.now)
    driver.pump()


def attach(driver: Driver, session_id: int = 0x77) -> None:
    """The read-only server takes us."""
    driver.session.connection_made(driver.session.conn, driver.now)
    driver.pump()
    driver.grant(session_id, read_only=True)


def reading(hosts: str = TWO, **options: object) -> Driver:
    driver = refused(hosts, **options)
    is_read_only(driver)
    attach(driver)
    return driver


def asked(driver: Driver) -> int:
    return sum(isinstance(action, AskModes) for action in driver.actions)


def test_when_nobody_takes_us_the_servers_are_asked_what_they_are() -> None:
    driver = refused()
    assert asked(driver) == 1
    assert asked(refused(read_only=False)) == 0


def test_the_read_only_server_is_offered_nothing_of_the_proper_session() -> None:
    driver = reading()
    offered = driver.handshakes[-1]
    assert (offered.session_id, offered.password, offered.read_only) == (0, bytes(16), True)
    assert driver.states[-1] is State.CONNECTED_READ_ONLY
    assert driver.session.session_id == 0x1234
    assert driver.session.password == PASSWORD


def test_reads_go_and_their_zxids_are_not_noted() -> None:
    driver = reading()
    before = driver.session.last_zxid
    driver.zxid = 9_000_000
    call = driver.call(GET)
    driver.answer()
    assert call.ends == 1
    driver.lose()
    assert driver.session.last_zxid == before


@pytest.mark.parametrize("operation", [SET, SYNC])
def test_what_needs_a_quorum_is_refused_at_once(operation: Operation) -> None:
    driver = reading()
    with pytest.raises(NotReadOnlyError):
        driver.call(operation)


def test_calls_bound_to_the_session_are_refused() -> None:
    driver = reading()
    with pytest.raises(NotReadOnlyError):
        driver.call(GET, generation=driver.session.generation)


def test_writes_that_waited_are_refused_when_a_read_only_server_is_found() -> None:
    driver = refused()
    write, read = driver.call(SET), driver.call(GET)
    is_read_only(driver)
    attach(driver)
    assert isinstance(write.error, NotReadOnlyError)
    assert driver.ops()[-1] == Op.GET_DATA
    driver.answer()
    assert read.ends == 1


def test_writes_wait_if_they_are_to_and_hold_up_what_is_behind_them() -> None:
    driver = reading(read_only_writes="queue")
    first, write, behind = driver.call(GET), driver.call(SET), driver.call(GET)
    driver.answer()
    assert (first.ends, write.ends, behind.ends) == (1, 0, 0)
    assert not driver.unanswered
    driver.lose()
    driver.connect()
    driver.answer(2)
    assert (write.error, write.ends, behind.ends) == (None, 1, 1)


def test_the_time_of_the_proper_session_goes_on_running_out() -> None:
    driver = refused()
    lost_at = driver.session.lost_at
    is_read_only(driver)
    attach(driver)
    driver.run(2.0)
    driver.answer()
    assert driver.session.lost_at == lost_at
    driver.run(3.0)
    driver.answer(len(driver.unanswered))
    driver.now = lost_at + 1
    driver.lose()
    driver.tick(0.0)
    assert driver.states[-2:] == [State.SUSPENDED, State.LOST]


def test_a_server_with_a_quorum_is_looked_for_and_the_proper_session_is_offered_to_it() -> None:
    driver = reading(read_write_search_interval=0.5)
    count = asked(driver)
    driver.run(0.6)
    assert asked(driver) == count + 1
    is_read_only(driver)  # still
    assert driver.states[-1] is State.CONNECTED_READ_ONLY
    first = Address("10.0.0.1", 2181, Endpoint("10.0.0.1", 2181))
    is_read_only(driver, "follower", first)
    assert driver.dialled[-1] == "10.0.0.1"
    driver.connect()
    assert driver.handshakes[-1].session_id == 0x1234
    assert driver.states[-3:] == [State.CONNECTED_READ_ONLY, State.SUSPENDED, State.CONNECTED]


def test_a_server_that_has_found_its_quorum_meanwhile_is_asked_again_with_the_proper_session() -> None:
    driver = refused()
    is_read_only(driver)
    driver.session.connection_made(driver.session.conn, driver.now)
    driver.pump()
    driver.grant(0x99, read_only=False)
    assert driver.session.session_id == 0x1234
    assert any("not read-only any more" in str(reason) for _, reason in driver.session.failures())
    driver.made()
    assert driver.handshakes[-1].session_id == 0x1234


def test_a_client_without_a_session_begins_one_where_the_quorum_is_back() -> None:
    driver = Driver(TWO, read_only=True)
    driver.refuse()
    driver.refuse()
    is_read_only(driver)
    driver.session.connection_made(driver.session.conn, driver.now)
    driver.pump()
    driver.grant(0x99, read_only=False)
    assert driver.session.session_id == 0x99
    assert driver.states == [State.CONNECTED]


def test_one_that_refuses_even_that_is_passed_over() -> None:
    driver = refused()
    is_read_only(driver)
    driver.session.connection_made(driver.session.conn, driver.now)
    driver.pump()
    driver.grant(0, timeout_ms=0, read_only=True)
    assert isinstance(dict(driver.session.failures())["10.0.0.2:2181"], HandshakeRefusedError)
    assert driver.session.session_id == 0x1234


def test_nobody_is_content_with_it_unasked_and_none_while_somebody_takes_us() -> None:
    driver = refused(read_only=False)
    count = len(driver.attempts)
    is_read_only(driver)
    assert len(driver.attempts) == count
    driver = refused()
    driver.made()
    count = len(driver.attempts)
    is_read_only(driver)
    assert len(driver.attempts) == count


def test_nobody_is_dialled_for_a_client_that_has_ended_or_waits_to_be_told() -> None:
    driver = refused()
    driver.abort()
    count = len(driver.attempts)
    is_read_only(driver)
    assert len(driver.attempts) == count
    driver = connected(TWO, read_only=True, renew=False)
    driver.lose()
    driver.made()
    driver.expire()
    count = len(driver.attempts)
    is_read_only(driver)
    assert len(driver.attempts) == count


def test_it_is_tried_within_the_round_when_one_is_under_way() -> None:
    driver = refused("10.0.0.1,10.0.0.2,10.0.0.3")
    driver.wake()
    is_read_only(driver, address=Address("10.0.0.3", 2181, Endpoint("10.0.0.3", 2181)))
    driver.refuse()
    assert driver.dialled[-1] == "10.0.0.3"
    attach(driver)
    assert driver.states[-1] is State.CONNECTED_READ_ONLY


def test_the_lease_does_not_run_there() -> None:
    driver = reading()
    driver.session.hold_lease(driver.now)
    driver.pump()
    driver.run(1.5)
    assert Op.MULTI not in driver.ops()
    assert driver.session.lease_end == 0.0


def test_cancelled_calls_hold_nobody_up() -> None:
    driver = reading(read_only_writes="queue")
    write, request = driver.submit(SET)
    read = driver.call(GET)
    driver.cancel(write, request)
    driver.pump()
    driver.answer()
    assert read.ends == 1


def test_a_call_that_could_go_at_once_waits_like_the_others() -> None:
    driver = reading(read_only_writes="queue")
    call = Call()
    assert driver.session.submit(Request(call, SET, "/node", b""), driver.now, at_once=True) == b""
    driver.pump()
    assert not driver.unanswered
    assert not any(isinstance(action, Dial) for action in driver.actions[-1:])


def test_an_identity_that_is_added_there_sends_no_write_ahead_of_itself() -> None:
    driver = reading(read_only_writes="queue")
    first = driver.call(GET)
    write = driver.call(SET)
    driver.authenticate()
    assert Op.SET_DATA not in driver.ops()
    driver.answer(len(driver.unanswered))
    assert (first.ends, write.ends) == (1, 0)


def test_a_read_only_server_that_is_behind_is_not_dialled() -> None:
    """It would refuse who has seen more; to dial it whenever a round has failed would be a loop without pauses."""
    driver = refused()
    driver.session.last_zxid = 7
    driver.session.server_is(READER, "read-only", 6, driver.now)
    driver.pump()
    assert driver.session.phase is Phase.IDLE
    for zxid in (7, None):
        driver = refused()
        driver.session.last_zxid = 7
        driver.session.server_is(READER, "read-only", zxid, driver.now)
        driver.pump()
        assert driver.session.phase is not Phase.IDLE
