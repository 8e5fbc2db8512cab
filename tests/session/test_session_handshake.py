"""From the first attempt to a session, and to the next one."""

import pytest

from everlatch.errors import (
    ConnectFailedError,
    ConnectionClosedByServerError,
    HandshakeRefusedError,
    HandshakeTimeoutError,
    ProtocolError,
    SessionExpiredError,
    SilentLinkError,
)
from everlatch.session.actions import Dial
from everlatch.session.session import Phase
from everlatch.types import State, StateChange
from everlatch.wire.handshake import ConnectRequest, ConnectResponse, encode_connect_response
from everlatch.wire.headers import encode_reply
from session.driver import GET, PASSWORD, SET, Driver, connected

CLOSE_TO = pytest.approx


def test_the_first_connection():
    driver = Driver()
    assert [type(action) for action in driver.actions] == [Dial]
    assert driver.session.phase is Phase.DIALING
    assert driver.sent == driver.handshakes == []
    driver.made()
    assert driver.handshakes == [ConnectRequest(0, 0, 6000, 0, bytes(16), False)]
    driver.grant(0x77)
    assert driver.changes == [
        StateChange(State.CONNECTED, State.CONNECTING, 0x77, 0, 1, "10.0.0.1:2181", None),
    ]
    assert driver.session.phase is Phase.SERVING


@pytest.mark.parametrize("read_only", [False, None], ids=["37 bytes", "36 bytes"])
def test_a_response_of_either_length(read_only):
    driver = Driver()
    driver.made()
    driver.grant(read_only=read_only)
    assert driver.states == [State.CONNECTED]


def test_a_response_in_pieces():
    driver = Driver()
    driver.made()
    payload = encode_connect_response(ConnectResponse(0, 6000, 5, PASSWORD, False))
    for byte in len(payload).to_bytes(4, "big") + payload:
        assert driver.states == []
        driver.session.bytes_received(driver.session.conn, bytes([byte]), driver.now)
    driver.pump()
    assert driver.states == [State.CONNECTED]


def test_the_granted_timeout_replaces_the_one_asked_for():
    driver = Driver(session_timeout=30.0)
    driver.made()
    assert driver.handshakes[0].timeout_ms == 30_000
    driver.grant(timeout_ms=12_000)
    assert driver.session.lost_at == driver.now + 12.0
    driver.lose()
    driver.made()
    assert driver.handshakes[1].timeout_ms == 30_000, "asked for anew each time"


def test_nothing_is_sent_before_the_response():
    driver = Driver()
    driver.call(SET, "/w")
    driver.authenticate()
    driver.made()
    driver.call(GET, "/r")
    driver.authenticate(b"you:secret")
    assert driver.sent == []
    assert len(driver.handshakes) == 1


def test_the_handshake_is_sent_once():
    driver = Driver()
    driver.made()
    driver.made()
    driver.pump()
    assert len(driver.handshakes) == 1


def test_each_frame_is_sent_exactly_once():
    driver = connected()
    for path in ("/a", "/b"):
        driver.call(path=path)
        assert driver.session.data_to_send(driver.now) == b""
    assert driver.paths() == ["/a", "/b"]
    driver.answer(2)
    driver.run(2.5)
    assert driver.pings == 1
    driver.answer()
    driver.call(path="/c")
    assert driver.paths() == ["/a", "/b", "/c"]


def test_one_write_takes_urgent_frames_and_the_queue():
    """The list of urgent frames was once the list that the queue was added to, and was sent again with the next."""
    driver = connected()
    session = driver.session
    driver.run(1.5)
    session.handle_timer(driver.now)
    for path in ("/a", "/b"):
        driver.call(path=path)
    driver.pump()
    assert driver.paths() == ["/a", "/b"]
    assert session.data_to_send(driver.now) == b""
    assert session._urgent == []


def test_what_was_not_sent_before_a_loss_is_not_sent_after_it():
    """A ping that the transport didn't take any more: in front of the next handshake it would be nonsense."""
    driver = connected("10.0.0.1,10.0.0.2")
    session = driver.session
    driver.now += 1.0
    session.handle_timer(driver.now)
    assert session._urgent != []
    driver.lose()
    driver.connect()
    assert driver.states[-1] is State.CONNECTED
    assert driver.sent == []


# -- refusals


@pytest.mark.parametrize(
    ("payload", "error", "text"),
    [
        (encode_reply(0, 9, -119), ProtocolError, "error -119 instead of a session"),
        (bytes(35), ProtocolError, "35 bytes, too few"),
        (b"", ProtocolError, "0 bytes, too few"),
        (
            encode_connect_response(ConnectResponse(0, 6000, 5, PASSWORD, True)),
            HandshakeRefusedError,
            "10.0.0.1:2181 is read-only",
        ),
        (
            encode_connect_response(ConnectResponse(0, 6000, 0, PASSWORD, False)),
            ProtocolError,
            "10.0.0.1:2181 granted a session without an id",
        ),
        (
            encode_connect_response(ConnectResponse(0, 0, 0, bytes(16), False)),
            HandshakeRefusedError,
            "10.0.0.1:2181 refused a new session",
        ),
    ],
    ids=["read-only header", "too short", "empty", "read-only", "no id", "refused"],
)
def test_a_bad_answer_costs_the_attempt_and_the_next_server_is_tried(payload, error, text):
    driver = Driver("10.0.0.1,10.0.0.2")
    driver.made()
    conn = driver.session.conn
    driver.feed(payload)
    assert driver.hung_up == [conn]
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]
    driver.refuse()
    (failed,) = driver.failed_rounds
    server, reason = failed.failures[0]
    assert server == "10.0.0.1:2181"
    assert type(reason) is error
    assert text in str(reason)
    assert driver.states == []


def test_a_server_that_closes_during_the_handshake_refused_it():
    driver = Driver()
    driver.made()
    gone = ConnectionClosedByServerError("the server closed the connection")
    driver.lose(gone)
    ((_, reason),) = driver.failed_rounds[0].failures
    assert type(reason) is HandshakeRefusedError
    assert reason.__cause__ is gone


@pytest.mark.parametrize("made", [False, True])
def test_a_failure_to_connect_stays_what_it_is(made):
    driver = Driver()
    if made:
        driver.made()
    driver.refuse()
    ((_, reason),) = driver.failed_rounds[0].failures
    assert type(reason) is ConnectFailedError


def test_failures_are_reported_before_the_first_connection_only():
    driver = Driver("10.0.0.1,10.0.0.2")
    driver.refuse()
    assert driver.failed_rounds == []
    driver.refuse()
    assert [server for server, _ in driver.failed_rounds[0].failures] == ["10.0.0.1:2181", "10.0.0.2:2181"]
    driver.wake()
    driver.connect()
    driver.run(2.0)
    driver.lose()
    for _ in range(2):
        driver.refuse()
    assert len(driver.failed_rounds) == 1


# -- the same session again


def test_the_old_session_is_offered_with_its_password_and_zxid():
    driver = connected()
    driver.call()
    driver.feed(driver.reply_to(driver.unanswered[0], zxid=4711))
    driver.lose()
    driver.made()
    assert driver.handshakes[1] == ConnectRequest(0, 4711, 6000, 0x1234, PASSWORD, False)
    driver.grant()
    assert driver.changes[1:] == [
        StateChange(State.SUSPENDED, State.CONNECTED, 0x1234, 0x1234, 1, "10.0.0.1:2181", driver.changes[1].reason),
        StateChange(State.CONNECTED, State.SUSPENDED, 0x1234, 0x1234, 1, "10.0.0.1:2181", None),
    ]
    assert isinstance(driver.changes[1].reason, ConnectionClosedByServerError)


def test_a_refused_session_is_lost_and_renewed():
    driver = connected("10.0.0.1,10.0.0.2")
    driver.lose()
    driver.made()
    driver.expire()
    assert driver.dialled[-2:] == ["10.0.0.2", "10.0.0.2"], "that server answers, so it is asked again"
    driver.made()
    assert driver.handshakes[-1] == ConnectRequest(0, 0, 6000, 0, bytes(16), False)
    driver.grant(0x5678)
    lost, renewed, again = driver.changes[2:]
    assert lost[:6] == (State.LOST, State.SUSPENDED, 0x1234, 0x1234, 1, "10.0.0.2:2181")
    assert isinstance(lost.reason, SessionExpiredError)
    assert "0x1234" in str(lost.reason)
    assert renewed == (State.RENEWED, State.LOST, 0x5678, 0x1234, 2, "10.0.0.2:2181", lost.reason)
    assert again == (State.CONNECTED, State.RENEWED, 0x5678, 0x5678, 2, "10.0.0.2:2181", None)


def test_the_zxid_survives_the_session():
    driver = connected()
    driver.call()
    driver.feed(driver.reply_to(driver.unanswered[0], zxid=4711))
    driver.lose()
    driver.made()
    driver.expire()
    driver.made()
    assert driver.handshakes[-1].session_id == 0
    assert driver.handshakes[-1].last_zxid_seen == 4711


def test_another_id_than_the_one_offered_is_a_refusal():
    driver = connected()
    driver.lose()
    driver.made()
    driver.grant(0x9999)
    assert driver.states[-1] is State.LOST
    driver.made()
    assert driver.handshakes[-1].session_id == 0, "what it handed out is not ours"
    driver.grant(0xAAAA)
    assert driver.states[-2:] == [State.RENEWED, State.CONNECTED]
    assert driver.session.session_id == 0xAAAA


def test_the_timeout_counts_from_when_the_handshake_was_sent():
    driver = Driver()
    driver.run(0.5)
    driver.made()
    sent_at = driver.now
    driver.run(1.0)
    driver.grant()
    assert driver.session.lost_at == sent_at + 6.0


def test_the_session_is_lost_locally_when_no_server_can_be_reached():
    driver = connected()
    start = driver.now
    driver.run(0.4)
    driver.call()
    driver.run(0.1)
    driver.answer()
    driver.run(0.2)
    driver.lose()
    driver.refuse()
    while driver.states[-1] is State.SUSPENDED:
        before = driver.now
        driver.wake()
        if driver.session.phase is Phase.DIALING:
            driver.refuse()
        assert driver.now <= start + 6.4
    assert driver.now == CLOSE_TO(start + 6.4), "send time of the last answered request + T"
    assert before < driver.now
    lost = driver.changes[-1]
    assert (lost.state, lost.session_id) == (State.LOST, 0x1234)
    # Not the words of an expiry: no server has said so.
    assert isinstance(lost.reason, SilentLinkError)
    assert str(lost.reason) == "no answer for 6 s: session 0x1234 must be assumed gone, its timeout is 6 s"


def lost():
    """A driver whose session must be assumed lost, with an attempt under way."""
    driver = connected()
    driver.lose()
    while driver.states[-1] is not State.LOST:
        driver.wake()
    return driver


def test_a_session_that_was_assumed_lost_is_offered_and_may_live():
    driver = lost()
    driver.made()
    assert driver.handshakes[-1].session_id == 0x1234
    driver.grant()
    assert driver.states == [State.CONNECTED, State.SUSPENDED, State.LOST, State.CONNECTED]
    assert driver.session.generation == 1


def test_a_session_that_was_assumed_lost_and_is_refused_is_lost_once():
    driver = lost()
    driver.made()
    driver.expire()
    driver.connect(0x5678)
    assert driver.states[2:] == [State.LOST, State.RENEWED, State.CONNECTED]


def test_a_new_session_that_is_lost_before_it_was_announced():
    """Its credentials are still unanswered when the link breaks, and the server forgets it."""
    driver = connected()
    driver.authenticate()
    driver.answer()
    driver.lose()
    driver.made()
    driver.expire()
    driver.connect(0x5678)
    driver.lose()
    driver.made()
    assert driver.handshakes[-1].session_id == 0x5678
    driver.expire()
    driver.connect(0x9ABC)
    assert driver.states[2:] == [State.LOST], "authenticating"
    driver.answer()
    renewed = driver.changes[3]
    assert (renewed.session_id, renewed.previous_session_id, renewed.generation) == (0x9ABC, 0x1234, 3)


def test_a_read_only_server_says_nothing_of_our_session():
    driver = connected("10.0.0.1,10.0.0.2,10.0.0.3")
    driver.lose()
    driver.made()
    driver.feed(encode_connect_response(ConnectResponse(0, 0, 0, bytes(16), True)))
    assert driver.states[-1] is State.SUSPENDED
    driver.connect()
    assert driver.session.session_id == 0x1234


def test_closing_between_two_sessions_names_the_last_one():
    driver = connected()
    driver.lose()
    driver.made()
    driver.expire()
    driver.close()
    closed = driver.changes[-1]
    assert (closed.state, closed.session_id, closed.previous_session_id) == (State.CLOSED, 0x1234, 0x1234)


def test_what_stands_behind_a_refusal_does_not_hurt_the_next_attempt():
    driver = connected("10.0.0.1,10.0.0.2")
    driver.lose()
    driver.made()
    refusal = encode_connect_response(ConnectResponse(0, 0, 0, bytes(16), False))
    driver.feed(refusal, b"", encode_reply(7, 0, 0))
    assert driver.session.phase is Phase.DIALING
    assert driver.dialled == ["10.0.0.1", "10.0.0.2", "10.0.0.2"]
    driver.connect(0x5678)
    assert driver.states[-1] is State.CONNECTED


# -- what may be sent in the session only


def test_bound_calls_wait_through_a_loss_and_fail_with_the_session():
    driver = connected()
    driver.lose()
    bound = driver.call(GET, "/bound", generation=1)
    free = driver.call(GET, "/free")
    driver.made()
    assert bound.ends == 0
    driver.expire()
    assert isinstance(bound.error, SessionExpiredError)
    assert free.ends == 0
    driver.connect(0x5678)
    assert driver.paths() == ["/free"]


def test_bound_calls_are_sent_when_the_session_lives():
    driver = lost()
    bound = driver.call(GET, "/bound", generation=1)
    driver.connect()
    assert driver.paths() == ["/bound"]
    driver.answer()
    assert bound.ends == 1
    assert bound.error is None


def test_a_bound_read_that_was_sent_fails_with_the_session():
    driver = connected()
    bound = driver.call(GET, "/bound", generation=1)
    driver.lose()
    driver.made()
    assert bound.ends == 0
    driver.expire()
    assert isinstance(bound.error, SessionExpiredError)


def test_a_call_bound_to_a_session_that_has_ended_is_refused_at_once():
    driver = connected()
    driver.lose()
    driver.made()
    driver.expire()
    with pytest.raises(SessionExpiredError):  # the next session is not there yet
        driver.call(GET, "/late", generation=1)
    driver.connect(0x5678)
    for generation in (1, 3):
        with pytest.raises(SessionExpiredError):
            driver.call(GET, "/late", generation=generation)
    driver.call(GET, "/now", generation=2)
    assert driver.paths() == ["/now"]


# -- time


def test_a_black_holed_server_costs_its_budget_only():
    driver = Driver("10.0.0.1,10.0.0.2")
    start = driver.now
    driver.made()  # it takes the connection, and says nothing
    driver.wake()
    assert driver.now == CLOSE_TO(start + 0.25)
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"], "the next one is dialled beside it"
    driver.made(driver.rivals[0])
    assert len(driver.handshakes) == 1, "one at a time"
    driver.wake()
    assert driver.now == CLOSE_TO(start + 2.0), "T/3 at first"
    assert driver.session.phase is Phase.HANDSHAKE
    assert len(driver.handshakes) == 2
    driver.grant()
    assert driver.states == [State.CONNECTED]


def test_a_server_that_takes_no_connection_costs_a_stagger_only():
    driver = Driver("10.0.0.1,10.0.0.2")
    assert driver.session.next_deadline() == CLOSE_TO(driver.now + 0.25)
    driver.wake()
    assert driver.dialled == ["10.0.0.1", "10.0.0.2"]
    driver.made(driver.rivals[0])
    driver.grant()
    assert driver.changes[0].server == "10.0.0.2:2181"
    assert driver.hung_up == [1]


@pytest.mark.parametrize("made", [False, True])
def test_an_attempt_costs_its_budget_only(made):
    driver = Driver("10.0.0.1")
    start = driver.now
    assert driver.session.next_deadline() == CLOSE_TO(driver.now + 2.0), "T/3 at first"
    if made:
        driver.made()
    driver.wake()
    assert driver.now == CLOSE_TO(start + 2.0)
    assert driver.session.phase is Phase.IDLE
    driver.wake()
    driver.connect()
    assert driver.states == [State.CONNECTED]


@pytest.mark.parametrize(
    ("hosts", "made", "text"),
    [
        ("10.0.0.1", False, "no TCP connection in 2 s"),
        ("10.0.0.1", True, "no answer to the handshake in 2 s"),
        ("zk.example", False, "its name did not resolve in 2 s"),
    ],
)
def test_an_attempt_that_takes_too_long(hosts, made, text):
    driver = Driver(hosts)
    if made:
        driver.made()
    conn = driver.session.conn
    driver.wake()
    assert driver.hung_up == [conn]
    ((_, reason),) = driver.failed_rounds[0].failures
    assert type(reason) is HandshakeTimeoutError
    assert str(reason) == text


def test_unanswered_credentials_cost_the_attempt():
    driver = Driver()
    driver.authenticate()
    driver.connect()
    driver.wake()
    ((_, reason),) = driver.failed_rounds[0].failures
    assert str(reason) == "no answer to the credentials in 2 s"


def test_the_handshake_has_a_budget_of_its_own_and_the_credentials_share_it():
    driver = Driver()
    driver.authenticate()
    driver.run(1.0)
    driver.made()
    deadline = driver.session.next_deadline()
    assert deadline == CLOSE_TO(driver.now + 2.0)
    driver.run(1.0)
    driver.grant()
    assert driver.session.phase is Phase.AUTHENTICATING
    assert driver.session.next_deadline() == deadline


def budgets(driver, rounds):
    """How long each of the next attempts may take."""
    found = []
    while len(found) < rounds:
        deadline = driver.session.next_deadline()
        if driver.session.phase is Phase.DIALING:
            found.append(round(deadline - driver.now, 6))
        driver.wake()
    return found


def test_budgets_double_with_each_round_that_ran_out_of_time_up_to_two_thirds_of_the_timeout():
    assert budgets(Driver(session_timeout=6.0), 4) == [2.0, 4.0, 4.0, 4.0]


def test_servers_that_refuse_at_once_need_no_more_time():
    driver = Driver()
    for _ in range(5):
        driver.refuse()
        driver.wake()
    assert budgets(driver, 2) == [2.0, 4.0]


def test_budgets_after_a_loss_are_shorter():
    driver = connected()
    driver.run(1.0)
    driver.lose()
    deadline = driver.session._attempt_deadline
    assert deadline - driver.now == CLOSE_TO(1.0), "T/6"
    driver.session.liveness.proven = 1e6  # the other deadline is not what is looked at here
    assert budgets(driver, 4) == [1.0, 2.0, 4.0, 4.0]


def test_no_budget_is_shorter_than_the_shortest():
    """However short a timeout a server grants: nobody could be reached again."""
    driver = Driver()
    driver.made()
    driver.grant(timeout_ms=1)
    driver.lose()
    while driver.session.phase is not Phase.DIALING:
        driver.wake()
    assert driver.session._attempt_deadline - driver.now == CLOSE_TO(0.25)


def test_what_an_abandoned_attempt_still_reports_is_ignored():
    driver = Driver("10.0.0.1,10.0.0.2")
    old = driver.session.conn
    driver.refuse()
    session = driver.session
    before = list(driver.actions)
    session.connection_made(old, driver.now)
    session.connection_lost(old, ConnectFailedError("late"), driver.now)
    session.bytes_received(old, b"\0" * 100, driver.now)
    session.resolved(old, ["10.9.9.9"], driver.now)
    driver.pump()
    assert driver.actions == before
    assert session.phase is Phase.DIALING
    assert session.statistics().bytes_received == 0


def test_late_addresses_are_ignored():
    driver = Driver("10.0.0.1")
    driver.resolve("10.9.9.9")
    assert driver.dialled == ["10.0.0.1"]


def test_what_is_said_of_the_server():
    driver = Driver("10.0.0.1", start=False)
    assert (driver.session.server, driver.session.address) == (None, None)
    driver.session.start(driver.now)
    driver.pump()
    driver.connect()
    address = driver.session.address
    assert (address.ip, address.port, address.endpoint.host) == ("10.0.0.1", 2181, "10.0.0.1")
