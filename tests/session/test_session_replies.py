"""Replies: whom they end, in which order they may come, and what costs the connection."""

import pytest

from everlatch.errors import (
    CallTimeoutError,
    FrameTooLargeError,
    NoNodeError,
    OutcomeUnknownError,
    ProtocolError,
    ReplyTooLargeError,
    RequestKillsConnectionError,
    ServerError,
    SessionClosedRequireAuthError,
    TransactionFailedError,
    TruncatedError,
    UnexpectedReplyError,
    UnimplementedError,
    UnknownServerError,
    WriteTimeoutError,
)
from everlatch.session.requests import HEADER_BYTES, Operation, Request
from everlatch.session.session import Phase
from everlatch.types import Sighting, State, Statistics
from everlatch.wire.codes import XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import frame
from everlatch.wire.headers import encode_reply, frame_request
from everlatch.wire.records import encode_exists_reply
from session.driver import EXISTS, GET, NODE, SET, STAT, Call, Driver, connected

READS = ("/a", "/b", "/c")


def reading(*paths, **options):
    """A driver with reads in flight, and their calls."""
    driver = connected("10.0.0.1,10.0.0.2", **options)
    return driver, [driver.call(GET, path) for path in paths]


def reason(driver):
    """Why the connection was dropped. That it was, that the session goes on, and that the next server is tried."""
    assert driver.changes[-1].state is State.SUSPENDED
    assert len(driver.hung_up) == 1
    driver.made()
    driver.grant()
    assert driver.states[-1] is State.CONNECTED
    assert driver.session.session_id == 0x1234
    return driver.changes[-2].reason


def test_calls_end_with_their_replies():
    driver, calls = reading(*READS)
    assert [call.ends for call in calls] == [0, 0, 0]
    driver.answer(3)
    assert [(call.ends, call.result) for call in calls] == [(1, NODE)] * 3


def test_a_call_that_nothing_is_before_goes_at_once():
    driver = connected()
    call, request = Call(), Request(Call(), GET, "/a", b"/a", timeout=2.0)
    request.call = call
    data = driver.session.submit(request, driver.now, at_once=True)
    assert data == frame_request(request.xid, Op.GET_DATA, b"/a")
    statistics = driver.session.statistics()
    assert (statistics.queued_calls, statistics.in_flight, statistics.requests_sent) == (0, 1, 1)
    assert driver.session.data_to_send(driver.now) == b""
    driver.tick(2.0)
    assert isinstance(call.error, CallTimeoutError)
    assert call.error.sent


def test_a_call_without_a_timeout_that_goes_at_once_waits_for_ever():
    driver = connected()
    call, _ = driver.submit(at_once=True)
    assert driver.session.requests.next_deadline() is None
    driver.answer()
    assert call.result == NODE


@pytest.mark.parametrize("before", ["the handshake", "a call in flight", "a call that waits", "a frame of its own"])
def test_a_call_that_something_is_before_is_queued(before):
    driver = connected(max_in_flight=2)
    if before == "the handshake":
        driver.lose()
        driver.session.connection_made(driver.session.conn, driver.now)
    elif before == "a frame of its own":
        driver.session.authenticate("digest", b"me:secret", None, driver.now)
    else:
        driver.session.submit(Request(Call(), GET, "/a", b"/a"))
        if before == "a call in flight":
            driver.pump()
    request = Request(Call(), GET, "/b", b"/b")
    assert driver.session.submit(request, driver.now, at_once=True) == b""
    assert (driver.session.requests.queued_calls, request.xid) == (2 if before == "a call that waits" else 1, 0)


def test_who_demands_authentication_is_left_at_once():
    """It closes the connection anyway: what is written meanwhile would be in doubt."""
    driver, (first, second) = reading("/a", "/b")
    driver.feed(driver.reply_to(driver.unanswered[0], -124))
    assert isinstance(first.error, SessionClosedRequireAuthError)
    write = driver.call(SET)
    assert isinstance(reason(driver), SessionClosedRequireAuthError)
    driver.answer(2)
    assert (second.result, write.ends, write.error) == (NODE, 1, None)


def test_the_answer_to_closing_is_no_demand():
    driver = connected()
    driver.session.close(driver.now)
    driver.pump()
    driver.feed(driver.reply_to(driver.unanswered[0], -124))
    assert driver.session.state is State.CLOSED


def test_many_replies_in_one_read():
    driver, calls = reading(*READS)
    driver.feed(*[driver.reply_to(request) for request in list(driver.unanswered)])
    assert [call.ends for call in calls] == [1, 1, 1]


def test_replies_byte_by_byte():
    driver, calls = reading(*READS)
    for request in list(driver.unanswered):
        for byte in frame(driver.reply_to(request)):
            driver.session.bytes_received(driver.session.conn, bytes([byte]), driver.now)
    assert [call.ends for call in calls] == [1, 1, 1]


def test_an_error_ends_its_call_by_name():
    driver, (call, other) = reading("/a", "/b")
    driver.feed(driver.reply_to(driver.unanswered[0], err=-101))
    assert type(call.error) is NoNodeError
    assert (call.error.operation, call.error.path) == ("get", "/a")
    driver.answer()
    assert other.result == NODE


def test_an_unknown_error_code_keeps_the_connection():
    driver, (call,) = reading("/a")
    driver.feed(driver.reply_to(driver.unanswered[0], err=-4242))
    assert type(call.error) is UnknownServerError
    assert call.error.code == -4242
    assert driver.states == [State.CONNECTED]


def test_exists_takes_no_node_for_an_answer():
    driver = connected()
    there, missing, refused = (driver.call(EXISTS) for _ in range(3))
    driver.answer()
    driver.feed(driver.reply_to(driver.unanswered[0], err=-101))
    driver.feed(driver.reply_to(driver.unanswered[0], err=-102))
    assert there.result == STAT
    assert (missing.ends, missing.result, missing.error) == (1, None, None)
    assert isinstance(refused.error, ServerError)


def test_an_error_that_the_decoder_finds_belongs_to_the_call():
    refused = TransactionFailedError(0, "/a", NoNodeError("create", "/a"))

    def decode(_buf, _pos, _end):
        raise refused

    driver = connected()
    call = driver.call(Operation("transaction", Op.MULTI, decode, is_write=True))
    driver.answer()
    assert call.error is refused
    assert driver.states == [State.CONNECTED]


def test_a_withdrawn_call_is_not_sent():
    driver = connected(max_in_flight=1)
    first = driver.call(path="/a")
    second, request = driver.submit(path="/b")
    third = driver.call(path="/c")
    driver.cancel(second, request)
    driver.answer(2)
    assert driver.paths() == ["/a", "/c"]
    assert (first.ends, second.ends, third.ends) == (1, 0, 1)


@pytest.mark.parametrize("err", [0, -101])
def test_the_reply_of_a_withdrawn_call_is_swallowed_and_nothing_shifts(err):
    driver, (first,) = reading("/a")
    withdrawn, request = driver.submit(path="/b")
    last = driver.call(SET, "/c")
    driver.cancel(withdrawn, request)
    driver.answer()
    driver.feed(driver.reply_to(driver.unanswered[0], err=err))
    driver.answer()
    assert (first.result, last.result) == (NODE, STAT)
    assert withdrawn.ends == 0
    assert driver.states == [State.CONNECTED]


def test_a_call_that_was_cancelled_but_not_withdrawn_is_left_alone():
    driver, (call,) = reading("/a")
    call.cancelled = True
    driver.answer()
    assert call.ends == 0


def test_max_in_flight():
    driver, _ = reading(*READS, max_in_flight=2)
    assert driver.paths() == ["/a", "/b"]
    driver.answer()
    assert driver.paths() == ["/a", "/b", "/c"]


def test_timeouts():
    driver = connected(max_in_flight=2)
    read, write, unsent = (
        driver.call(operation, path, timeout=1.5) for operation, path in [(GET, "/r"), (SET, "/w"), (SET, "/u")]
    )
    driver.run(1.5)
    assert type(read.error) is CallTimeoutError
    assert read.error.sent
    assert type(write.error) is WriteTimeoutError
    assert type(unsent.error) is CallTimeoutError
    assert not unsent.error.sent
    driver.answer(2)
    after = driver.call(GET, "/after")
    driver.answer()
    assert driver.paths() == ["/r", "/w", "/after"]
    assert (after.result, read.ends, write.ends, unsent.ends) == (NODE, 1, 1, 1)


def test_a_call_times_out_while_there_is_no_connection():
    driver = Driver()
    call = driver.call(timeout=0.5)
    assert driver.session.next_deadline() == driver.now + 0.5
    driver.run(0.5)
    assert type(call.error) is CallTimeoutError
    driver.connect()
    assert driver.sent == []


def test_a_call_whose_time_ran_out_while_our_process_stood_still_is_not_sent():
    driver = Driver()
    late, other = driver.call(SET, "/late", timeout=1.0), driver.call(SET, "/other")
    driver.made()
    driver.now += 1.5
    driver.grant()
    assert isinstance(late.error, CallTimeoutError)
    assert not late.error.sent
    assert driver.paths() == ["/other"]
    assert other.ends == 0


# -- what may overtake


@pytest.mark.parametrize(("err", "error"), [(-6, UnimplementedError), (-124, SessionClosedRequireAuthError)])
def test_what_may_overtake(err, error):
    driver, calls = reading(*READS)
    driver.feed(driver.reply_to(driver.unanswered[1], err=err, zxid=-1))
    assert [call.ends for call in calls] == [0, 1, 0]
    assert type(calls[1].error) is error
    driver.answer(2)
    assert [call.result for call in calls] == [NODE, None, NODE]
    assert driver.states == [State.CONNECTED]


def test_what_overtakes_says_nothing_about_the_replies_before_it():
    driver, calls = reading(*READS)
    first = driver.unanswered[0]
    driver.feed(driver.reply_to(driver.unanswered[2], err=-6, zxid=9000))
    driver.feed(driver.reply_to(first, zxid=8000))
    assert calls[0].result == NODE
    assert driver.session.last_zxid == 8000


def test_an_overtaking_answer_to_a_withdrawn_call_is_swallowed():
    driver, (first,) = reading("/a")
    call, request = driver.submit(path="/b")
    driver.cancel(call, request)
    driver.feed(driver.reply_to(driver.unanswered[1], err=-6))
    driver.answer()
    assert (first.result, call.ends) == (NODE, 0)


@pytest.mark.parametrize("err", [0, -101, -127])
def test_nothing_else_may_overtake(err):
    driver, calls = reading(*READS)
    driver.feed(driver.reply_to(driver.unanswered[1], err=err))
    why = reason(driver)
    assert type(why) is UnexpectedReplyError
    assert str(why) == f"10.0.0.1:2181 sent a reply with xid 2, error {err}; 1 is expected"
    assert driver.paths() == [*READS, *READS], "reads are sent again"
    driver.answer(3)
    assert [call.result for call in calls] == [NODE] * 3


@pytest.mark.parametrize("err", [0, -6])
def test_a_reply_to_nothing(err):
    driver = connected("10.0.0.1,10.0.0.2")
    driver.feed(encode_reply(17, 9, err))
    assert str(reason(driver)) == f"10.0.0.1:2181 sent a reply with xid 17, error {err}; none is expected"


# -- what costs the connection


@pytest.mark.parametrize(
    ("payload", "error", "text"),
    [
        (b"\0" * 15, TruncatedError, "a reply of 15 bytes from 10.0.0.1:2181 has no whole header"),
        (encode_reply(XID_PING, 1, 0), UnexpectedReplyError, "answered a ping that was not sent"),
        (encode_reply(-4, 0, 0), UnexpectedReplyError, "answered credentials that were not sent"),
        (encode_reply(XID_NOTIFICATION, -1, 0, b"\0\0"), TruncatedError, ""),
        (encode_reply(-8, 0, 0), UnexpectedReplyError, "xid -8"),
    ],
    ids=["short", "pong", "auth", "event", "setWatches"],
)
def test_nonsense_drops_the_connection_and_the_session_goes_on(payload, error, text):
    driver, (call,) = reading("/a")
    driver.feed(payload)
    why = reason(driver)
    assert type(why) is error
    assert text in str(why)
    driver.answer()
    assert call.result == NODE


@pytest.mark.parametrize("number", [0, 5, 6, 7, -1])
def test_an_event_of_a_type_that_servers_do_not_send(number):
    driver = connected("10.0.0.1,10.0.0.2")
    driver.event(number, "/a")
    why = reason(driver)
    assert type(why) is ProtocolError
    assert f"type {number}" in str(why)
    assert driver.fired == []


def test_what_stands_behind_a_bad_frame_is_not_read():
    driver, (call,) = reading("/a")
    driver.feed(encode_reply(99, 1, 0), driver.reply_to(driver.unanswered[0]))
    assert call.ends == 0
    reason(driver)


def test_a_reply_before_a_bad_frame_counts():
    driver, (call, _) = reading("/a", "/b")
    start = driver.now
    driver.now += 1.0
    third = driver.call(path="/c")
    replies = [driver.reply_to(request) for request in list(driver.unanswered)]
    driver.now += 0.5
    driver.feed(*replies, encode_reply(99, 1, 0))
    assert (call.result, third.result) == (NODE, NODE)
    assert driver.session.lost_at == start + 1.0 + 6.0, "the server had answered what was sent then"


def test_a_reply_that_goes_back_in_time():
    driver, calls = reading("/a", "/b")
    driver.feed(driver.reply_to(driver.unanswered[0], zxid=2000))
    driver.feed(driver.reply_to(driver.unanswered[0], zxid=1999))
    why = reason(driver)
    assert type(why) is ProtocolError
    assert str(why) == "10.0.0.1:2181 went back in time, from zxid 0x7d0 to 0x7cf"
    assert calls[0].result == NODE
    assert calls[1].ends == 0, "not answered from the past"
    driver.feed(driver.reply_to(driver.unanswered[0], zxid=2000))
    assert calls[1].result == NODE, "but by the next server"


def test_a_write_answered_from_the_past_has_an_unknown_outcome():
    driver = connected()
    driver.session.last_zxid = 2000
    call = driver.call(SET)
    driver.feed(driver.reply_to(driver.unanswered[0], zxid=1999))
    driver.connect()
    driver.zxid = 2000
    driver.answer()
    changed = STAT._replace(mzxid=2001)
    driver.feed(driver.reply_to(driver.unanswered[0], body=encode_exists_reply(changed)))
    assert isinstance(call.error, OutcomeUnknownError)
    assert call.error.seen == (Sighting("/node", changed),)


@pytest.mark.parametrize("zxid", [0, -1])
def test_a_reply_without_a_zxid_is_not_of_the_past(zxid):
    driver, (call,) = reading("/a")
    driver.session.last_zxid = 2000
    driver.feed(driver.reply_to(driver.unanswered[0], zxid=zxid))
    assert call.result == NODE
    assert driver.session.last_zxid == 2000


def test_events_do_not_move_the_zxid():
    driver = connected()
    driver.event(1, "/a", zxid=5000)
    assert driver.session.last_zxid == 0


def test_a_reply_that_cannot_be_read_is_judged_like_an_unanswered_request():
    driver, (read,) = reading("/a")
    write = driver.call(SET, "/w")
    driver.feed(driver.reply_to(driver.unanswered[0], body=b"\0"))
    assert isinstance(reason(driver), TruncatedError)
    driver.answer(2)
    assert isinstance(write.error, OutcomeUnknownError)
    assert isinstance(write.error.reason, TruncatedError)
    driver.answer()
    assert read.result == NODE


def test_a_read_that_kills_its_connections_is_failed_by_name():
    driver, (poison, other) = reading("/poison", "/other")
    for _ in range(2):
        driver.lose()
        assert poison.ends == 0
        driver.connect()
    driver.lose()
    assert isinstance(poison.error, RequestKillsConnectionError)
    driver.connect()
    driver.answer()
    assert other.result == NODE
    assert driver.paths() == ["/poison", "/other"] * 3 + ["/other"]
    assert driver.session.statistics().requests_repeated == 5


@pytest.mark.parametrize("is_changed", [True, False])
def test_a_write_is_sent_again_only_if_it_shows_that_it_was_not_applied(is_changed):
    driver = connected()
    driver.call()
    driver.answer()
    seen = driver.zxid
    write = driver.call(SET, "/w")
    driver.lose()
    assert write.ends == 0
    driver.connect()
    look = driver.unanswered[1]
    driver.feed(driver.reply_to(driver.unanswered[0]))
    assert driver.ops(1) == [Op.SET_DATA, Op.MULTI, Op.EXISTS], "nothing before it is known"
    stat = STAT._replace(mzxid=seen + is_changed)
    driver.feed(driver.reply_to(look, body=encode_exists_reply(stat)))
    assert driver.paths(2) == ["/w"] if is_changed else ["/w", "/w"]
    assert isinstance(write.error, OutcomeUnknownError) is is_changed
    statistics = driver.session.statistics()
    assert (statistics.outcomes_unknown, statistics.writes_resent) == (is_changed, not is_changed)


# -- too large


def too_large(driver, request, zxid=1, err=0):
    """The beginning of a reply of 5000 bytes."""
    driver.unanswered.remove(request)
    head = (5000).to_bytes(4, "big") + encode_reply(request.xid, zxid, err)
    driver.session.bytes_received(driver.session.conn, head, driver.now)
    driver.pump()


def test_a_reply_over_the_limit_fails_its_read():
    driver, (call, other) = reading("/big", "/other", max_reply_size=1000)
    too_large(driver, driver.unanswered[0])
    assert isinstance(call.error, ReplyTooLargeError)
    assert (call.error.path, call.error.size, call.error.limit) == ("/big", 5000, 1000)
    reason(driver)
    driver.answer()
    assert other.result == NODE
    assert driver.paths() == ["/big", "/other", "/other"]


def test_a_read_behind_an_oversized_reply_is_not_blamed():
    driver = connected(max_reply_size=1000)
    for _ in range(2):
        driver.call(path="/big")
    other = driver.call(path="/other")
    too_large(driver, driver.unanswered[0])
    driver.connect()
    too_large(driver, driver.unanswered[0])
    driver.connect()
    assert driver.session.requests.in_flight[0].losses == 0
    driver.answer()
    assert other.result == NODE


def test_a_write_with_a_reply_over_the_limit_has_an_unknown_outcome():
    driver = connected(max_reply_size=1000)
    call = driver.call(SET)
    too_large(driver, driver.unanswered[0])
    driver.connect()
    driver.answer(2)
    assert isinstance(call.error, OutcomeUnknownError)
    assert isinstance(call.error.reason, FrameTooLargeError)


def test_a_look_of_our_own_is_not_blamed_for_a_frame_over_the_limit():
    driver = connected(max_reply_size=1000)
    call = driver.call(SET)
    driver.lose()
    driver.connect()
    driver.answer()
    assert driver.unanswered[0].op == Op.EXISTS
    too_large(driver, driver.unanswered[0])
    assert call.ends == 0, "the next connection begins anew"
    driver.connect()
    while driver.unanswered:
        driver.answer()
    assert call.ends == 1


def test_a_frame_over_the_limit_that_is_not_the_reply_blames_nobody():
    driver, (first, second) = reading("/a", "/b", max_reply_size=1000)
    too_large(driver, driver.unanswered[1])
    assert (first.ends, second.ends) == (0, 0)
    reason(driver)
    driver.answer(2)
    assert (first.result, second.result) == (NODE, NODE)


@pytest.mark.parametrize("calls", [0, 1])
def test_a_bare_length_over_the_limit_blames_nobody(calls):
    driver, waiting = reading(*READS[:calls], max_reply_size=1000)
    driver.session.bytes_received(driver.session.conn, (5000).to_bytes(4, "big"), driver.now)
    driver.pump()
    assert [call.ends for call in waiting] == [0] * calls
    assert "frame of 5000 bytes" in str(reason(driver))


def test_a_frame_over_the_limit_instead_of_the_handshake():
    driver = Driver(max_reply_size=1000)
    driver.made()
    driver.session.bytes_received(driver.session.conn, b"HTTP/1.1 400 Bad Request", driver.now)
    driver.pump()
    assert driver.session.phase is Phase.IDLE
    assert "frame of 1213486160 bytes" in str(driver.failed_rounds[0].failures[0][1])


# -- books


def test_statistics():
    driver = connected("10.0.0.1,10.0.0.2")
    assert driver.session.server == "10.0.0.1:2181"
    driver.call(SET, "/w")
    driver.lose()
    driver.call(GET, "/waits")
    lost = driver.session.statistics()
    assert (lost.state, lost.server, lost.queued_calls, lost.queued_bytes) == (State.SUSPENDED, None, 1, 18)
    assert (lost.unsettled, lost.outcomes_unknown) == (1, 0)
    driver.connect()
    driver.answer(2)
    driver.event(1, "/a")
    driver.call(GET, "/r", watch=print)
    driver.answer(2)
    driver.call(GET, "/flies")
    now = driver.session.statistics()
    assert now == Statistics(
        state=State.CONNECTED,
        session_id=0x1234,
        generation=1,
        server="10.0.0.2:2181",
        queued_calls=0,
        queued_bytes=0,
        in_flight=1,
        watches=1,
        requests_sent=4,
        replies_received=4,
        requests_repeated=0,
        unsettled=0,
        outcomes_settled=0,
        writes_resent=0,
        outcomes_unknown=1,
        events_received=1,
        connections=2,
        connection_attempts=2,
        bytes_sent=now.bytes_sent,
        bytes_received=now.bytes_received,
        last_zxid=driver.zxid,
    )


def test_bytes_are_counted_both_ways():
    driver = connected()
    before = driver.session.statistics()
    driver.call(path="/abc")
    reply = driver.reply_to(driver.unanswered[0])
    driver.feed(reply)
    after = driver.session.statistics()
    assert after.bytes_sent - before.bytes_sent == HEADER_BYTES + len("/abc")
    assert after.bytes_received - before.bytes_received == len(reply) + 4
