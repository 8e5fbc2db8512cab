"""Servers that hold writes of ours are drained before they are offered the session again."""

from __future__ import annotations

import random

import pytest

from everlatch.errors import HandshakeRefusedError, HandshakeTimeoutError, TruncatedError, UnexpectedReplyError
from everlatch.paths import Endpoint
from everlatch.session.actions import Dial
from everlatch.session.draining import COMMIT_AND_END, Draining, Step
from everlatch.session.requests import Request
from everlatch.session.servers import Address, Servers
from everlatch.session.session import Phase
from everlatch.types import State
from everlatch.wire.codes import XID_AUTH, Op
from everlatch.wire.handshake import ConnectResponse, encode_connect_response
from everlatch.wire.headers import encode_reply
from everlatch.wire.multi import CheckResult, ErrorResult, encode_multi_reply
from session.driver import GET, PASSWORD, SET, Call, Driver, connected

ONE, TWO, THREE = "10.0.0.1", "10.0.0.2", "10.0.0.3"
PAIR, ALL = f"{ONE},{TWO}", f"{ONE},{TWO},{THREE}"
OURS, NOT_OURS = 0x1234, 0x777
NO_NODE, MOVED, EXPIRED, NO_AUTH, AUTHENTICATE_FIRST = -101, -118, -112, -102, -124


def address(ip: str) -> Address:
    return Address(ip, 2181, Endpoint(ip, 2181))


# -- by itself


def request(operation, *, has_caller=True):
    return Request(Call() if has_caller else None, operation, "/a", b"")


def draining(hosts: str = PAIR) -> Draining:
    servers = Servers([Endpoint(host, 2181) for host in hosts.split(",")], random.Random(0), shuffle=False)
    return Draining(servers)


def tainted(hosts: str = PAIR) -> Draining:
    found = draining(hosts)
    found.left(address(ONE), [request(SET)])
    return found


@pytest.mark.parametrize("has_caller", [True, False])
def test_an_unanswered_write_taints_its_server_whoever_waits_for_it(has_caller):
    found = draining()
    found.left(address(ONE), [request(GET), request(SET, has_caller=has_caller), request(GET)])
    assert found.is_tainted(address(ONE))
    assert not found.is_tainted(address(TWO))
    assert not found.is_tainted(Address(ONE, 2182, Endpoint(ONE, 2182)))


def test_reads_taint_nobody():
    found = draining()
    found.left(address(ONE), [request(GET)])
    assert not found.is_tainted(address(ONE))
    assert not found.begin(address(ONE))
    assert found.step is None
    assert found.missing == ""


def test_a_taint_stays_however_many_connections_are_lost():
    found = tainted()
    found.left(address(ONE), [])
    found.left(address(TWO), [request(SET)])
    assert found.is_tainted(address(ONE))
    assert found.is_tainted(address(TWO))


def test_another_session_has_left_nothing_anywhere():
    found = tainted()
    found.session_over()
    assert not found.is_tainted(address(ONE))


def test_where_there_is_no_elsewhere_there_is_nothing_to_drain():
    found = tainted(ONE)
    assert not found.is_tainted(address(ONE))
    found._servers.update([Endpoint(ONE, 2181), Endpoint(TWO, 2181)], None)
    assert found.is_tainted(address(ONE))


def test_who_is_alone_now_is_drained_if_there_was_an_elsewhere():
    found = tainted()
    assert not found.begin(address(TWO))
    found._servers.update([Endpoint(ONE, 2181)], None)
    assert found.is_tainted(address(ONE))
    found.left(address(ONE), [request(SET)])
    assert found.begin(address(ONE))


SESSION = encode_connect_response(ConnectResponse(0, 6000, NOT_OURS, PASSWORD, False))


def answered(found: Draining, frame: bytes) -> int | None:
    return found.answered(frame, 0, len(frame), "it")


def committing() -> Draining:
    found = tainted()
    assert found.begin(address(ONE))
    assert answered(found, SESSION) is None
    assert found.authenticated() == COMMIT_AND_END
    return found


def commit(err: int = 0, *results: object) -> bytes:
    return encode_reply(1, 5, err, b"" if err else encode_multi_reply(results or (CheckResult(),)))


def test_its_steps():
    found = tainted()
    assert found.begin(address(ONE))
    assert found.step is Step.SESSION
    assert answered(found, SESSION) is None
    assert found.step is Step.CREDENTIALS
    assert answered(found, encode_reply(XID_AUTH, 0, 0, b"")) == (XID_AUTH, 0)
    assert answered(found, encode_reply(XID_AUTH, 0, -115, b"")) == (XID_AUTH, -115)
    assert found.step is Step.CREDENTIALS
    found.authenticated()
    assert found.step is Step.COMMIT
    assert found.is_tainted(address(ONE))
    assert answered(found, commit()) is None
    assert found.step is Step.DONE
    assert not found.is_tainted(address(ONE))


@pytest.mark.parametrize("code", [NO_NODE, NO_AUTH])
def test_a_check_that_fails_was_decided_as_well(code):
    found = committing()
    answered(found, commit(0, ErrorResult(code)))
    assert found.step is Step.DONE


@pytest.mark.parametrize("code", [MOVED, EXPIRED])
def test_a_session_that_has_ended_proves_nothing(code):
    found = committing()
    with pytest.raises(HandshakeRefusedError, match="it ended the session"):
        answered(found, commit(0, ErrorResult(code)))
    assert found.is_tainted(address(ONE))


def test_a_commit_that_is_refused_proves_nothing():
    found = committing()
    with pytest.raises(Exception, match="drain"):
        answered(found, commit(AUTHENTICATE_FIRST))
    assert found.is_tainted(address(ONE))


@pytest.mark.parametrize(
    "response",
    [ConnectResponse(0, 0, 0, bytes(16), False), ConnectResponse(0, 6000, NOT_OURS, PASSWORD, True)],
    ids=["refused", "read-only"],
)
def test_no_session_no_drain(response):
    found = tainted()
    found.begin(address(ONE))
    with pytest.raises(HandshakeRefusedError, match="it refused"):
        answered(found, encode_connect_response(response))
    found.stop()
    assert found.step is None
    assert found.is_tainted(address(ONE))


@pytest.mark.parametrize("xid", [2, 9, -1, -2])
def test_what_was_not_asked_for_ends_it(xid):
    found = committing()
    with pytest.raises(UnexpectedReplyError, match=f"xid {xid}"):
        answered(found, encode_reply(xid, 5, 0, b""))


def test_an_answer_before_the_question_ends_it():
    found = tainted()
    found.begin(address(ONE))
    answered(found, SESSION)
    with pytest.raises(UnexpectedReplyError):
        answered(found, commit())
    with pytest.raises(TruncatedError):
        answered(found, b"short")


# -- in a session


def lose(driver: Driver) -> None:
    """A connection that lived for long enough for a round of its own."""
    driver.now += 2.0
    driver.lose()


def answer_all(driver: Driver) -> None:
    """Also what settlement asks, and what goes again then."""
    while driver.unanswered:
        driver.answer()


def moved(hosts: str = PAIR) -> Driver:
    """The first server has kept a write, and the second one serves."""
    driver = connected(hosts)
    driver.call(SET, "/old")
    lose(driver)
    driver.connect()
    assert driver.dialled[-1] == TWO
    driver.call(SET, "/new")
    answer_all(driver)
    return driver


def drained(hosts: str = PAIR, **more: object) -> Driver:
    """The second one is lost as well, and the first one is about to be drained."""
    driver = moved(hosts)
    lose(driver)
    assert driver.dialled[-1] == ONE
    driver.made(**more)
    return driver


def offers(driver: Driver) -> list[tuple[str, int]]:
    """Whom which session was offered."""
    by_conn = {attempt.conn: attempt.address.ip for attempt in driver.attempts if isinstance(attempt, Dial)}
    return [(by_conn[conn], each.session_id) for conn, each in zip(driver.offered, driver.handshakes, strict=True)]


def test_a_server_that_may_hold_writes_is_drained_and_offered_the_session_at_once():
    driver = drained()
    assert (driver.handshakes[-1].session_id, driver.handshakes[-1].password) == (0, bytes(16))
    assert driver.handshakes[-1].last_zxid_seen == driver.session.last_zxid
    began = len(driver.sent)
    conn = driver.session.conn
    driver.grant(NOT_OURS)
    assert driver.ops(began) == [Op.MULTI, Op.CLOSE_SESSION]
    assert driver.session.phase is Phase.HANDSHAKE
    driver.answer()
    assert driver.hung_up[-1] == conn
    assert driver.dialled[-2:] == [ONE, ONE]
    now = driver.now
    driver.connect()
    assert driver.now == now
    assert driver.handshakes[-1].session_id == OURS
    assert driver.session.phase is Phase.SERVING
    assert offers(driver) == [(ONE, 0), (TWO, OURS), (ONE, 0), (ONE, OURS)]


def test_once_is_enough():
    driver = drained()
    driver.grant(NOT_OURS)
    driver.answer()
    driver.connect()
    for ip in (TWO, ONE):
        lose(driver)
        driver.connect()
        assert offers(driver)[-1] == (ip, OURS)


def test_nothing_of_it_counts_for_the_session():
    driver = moved()
    driver.session.hold_lease(driver.now)
    driver.pump()
    driver.answer(len(driver.unanswered))
    session = driver.session
    lose(driver)
    changes = len(driver.changes)

    def known() -> list[object]:
        counts = session.statistics()
        return [
            (session.session_id, session.password, session.generation, session.last_zxid, session.state),
            (counts.connections, counts.requests_sent, counts.replies_received, counts.in_flight),
            (session.lost_at, session.liveness.timeout, session.liveness.answered_at, session.liveness.lapses),
            (session.lease.end, session.lease.lapses, session._commits.due_at),
        ]

    before = known()
    driver.tick(0.1)
    driver.made()
    driver.grant(NOT_OURS, timeout_ms=60_000)
    driver.tick(0.1)
    driver.zxid += 1000
    driver.answer()
    assert known() == before
    assert len(driver.changes) == changes
    driver.connect()
    assert session.statistics().connections == before[1][0] + 1
    assert driver.states[-1] is State.CONNECTED


def test_the_end_of_the_thrown_away_session_may_come_with_the_answer():
    driver = drained()
    driver.grant(NOT_OURS)
    driver.feed(*[driver.reply_to(each) for each in list(driver.unanswered)])
    driver.connect()
    assert driver.session.phase is Phase.SERVING


def test_credentials_go_before_it():
    driver = moved()
    call = driver.authenticate()
    lose(driver)
    driver.made()
    began = len(driver.sent)
    driver.grant(NOT_OURS)
    assert driver.ops(began) == [Op.AUTH]
    driver.answer()
    assert call.ends == 1
    assert driver.ops(began) == [Op.AUTH, Op.MULTI, Op.CLOSE_SESSION]
    driver.answer()
    began = len(driver.sent)
    driver.connect()
    assert driver.ops(began) == [Op.AUTH]
    driver.answer()
    assert driver.session.phase is Phase.SERVING


def test_credentials_that_are_refused_are_refused():
    driver = moved()
    driver.authenticate()
    driver.answer()
    lose(driver)
    driver.made()
    driver.grant(NOT_OURS)
    driver.feed(driver.reply_to(driver.unanswered[0], err=-115))
    assert driver.states[-1] is State.AUTH_FAILED
    assert driver.open == set()


def test_an_identity_that_is_added_meanwhile_waits_for_the_session():
    driver = drained()
    driver.grant(NOT_OURS)
    began = len(driver.sent)
    call = driver.authenticate()
    assert driver.ops(began) == []
    driver.answer()
    driver.connect()
    driver.answer()
    assert call.ends == 1


def test_a_drain_that_is_not_answered_has_failed():
    driver = drained()
    driver.grant(NOT_OURS)
    (ip, reason) = driver.session.failures()[-1]
    assert ip.startswith(ONE)
    assert str(reason) == "an earlier connection's writes are not known to be decided so far"
    driver.until_hung_up()
    reasons = dict(driver.session.failures())
    assert isinstance(reasons[f"{ONE}:2181"], HandshakeTimeoutError)
    assert "an earlier connection's writes are not known to be decided in 1 s" in str(reasons[f"{ONE}:2181"])
    driver.connect()
    assert offers(driver)[-1] == (TWO, OURS)
    lose(driver)
    driver.made()
    assert offers(driver)[-1] == (ONE, 0), "as before: nothing has been proven"


def test_a_handshake_that_is_not_answered_is_told_as_ever():
    driver = moved()
    lose(driver)
    driver.made()
    assert "no session of its own so far" in str(driver.session.failures()[-1][1])
    lose(driver)
    driver.made()
    assert "no answer to the handshake so far" in str(driver.session.failures()[-1][1])


@pytest.mark.parametrize("step", ["session", "commit"])
def test_a_drain_whose_connection_breaks_has_failed(step):
    driver = drained()
    if step == "commit":
        driver.grant(NOT_OURS)
    driver.lose()
    assert isinstance(dict(driver.session.failures())[f"{ONE}:2181"], HandshakeRefusedError)
    driver.connect()
    assert offers(driver)[-1] == (TWO, OURS)


def test_who_refuses_a_session_to_be_thrown_away_ends_none():
    driver = drained()
    driver.expire()
    assert driver.session.session_id == OURS
    assert driver.states[-1] is State.SUSPENDED


def test_servers_that_hold_nothing_come_before():
    driver = connected(ALL)
    driver.call(SET)
    lose(driver)
    driver.connect()
    answer_all(driver)
    driver.call(SET)
    lose(driver)
    driver.refuse()
    assert driver.dialled == [ONE, TWO, THREE, ONE], "the one just lost comes last"
    driver.made()
    assert offers(driver)[-1] == (ONE, 0)
    lose(driver)
    driver.made()
    assert offers(driver)[-1] == (TWO, 0)


def test_nothing_in_flight_costs_nothing():
    driver = connected()
    driver.update(PAIR)
    driver.call(GET)
    for ip in (TWO, ONE):
        lose(driver)
        driver.connect()
        assert offers(driver)[-1] == (ip, OURS)


def test_a_server_that_is_alone_is_not_drained():
    driver = connected(ONE)
    driver.call(SET)
    lose(driver)
    driver.connect()
    assert offers(driver) == [(ONE, 0), (ONE, OURS)]


def test_the_last_server_that_is_left_on_the_list_is_drained():
    driver = moved()
    driver.update(ONE)
    driver.made()
    assert offers(driver)[-1] == (ONE, 0)


@pytest.mark.parametrize(("ips", "offered"), [((ONE,), OURS), ((TWO, ONE), 0)])
def test_a_name_is_one_server_or_several(ips, offered):
    driver = Driver("zk.example")
    driver.resolve(*ips)
    driver.connect()
    driver.call(SET)
    lose(driver)
    driver.resolve(*ips)
    for _ in ips[1:]:
        driver.refuse()
    driver.made()
    assert offers(driver)[-1] == (ips[0], offered)


def test_the_next_session_drains_nobody():
    driver = moved()
    driver.call(SET)
    lose(driver)
    driver.made()
    driver.grant(NOT_OURS)
    driver.answer()
    driver.made()
    driver.expire()
    driver.made()
    driver.grant(0x99)
    assert driver.states[-2:] == [State.RENEWED, State.CONNECTED]
    lose(driver)
    driver.made()
    assert offers(driver)[-1] == (TWO, 0x99)


def test_a_client_that_is_closed_meanwhile_drains_nobody():
    driver = drained()
    driver.grant(NOT_OURS)
    driver.close()
    assert driver.is_closed
    assert driver.open == set()


def test_a_rival_that_is_ready_takes_over_when_the_drain_is_done():
    driver = moved(ALL)
    driver.call(SET)
    lose(driver)
    driver.refuse()  # the third
    driver.made()
    driver.run(0.25)
    assert driver.dialled[-2:] == [ONE, TWO]
    driver.made(driver.rivals[0])
    driver.grant(NOT_OURS)
    driver.answer()
    assert offers(driver)[-1] == (TWO, 0), "which is drained as well"
    driver.grant(NOT_OURS)
    driver.answer()
    assert driver.dialled[-1] == ONE, "which was drained first"
    driver.connect()
    assert offers(driver)[-1] == (ONE, OURS)
