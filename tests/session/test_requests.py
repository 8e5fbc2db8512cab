import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.errors import (
    CallTimeoutError,
    ClientClosedError,
    ConnectionClosedByServerError,
    HistoryResetError,
    OutcomeUnknownError,
    QueueFullError,
    RequestKillsConnectionError,
    SessionExpiredError,
    WriteTimeoutError,
)
from everlatch.session.requests import HEADER_BYTES, POISON_LOSSES, Request, Requests
from everlatch.types import Outcome
from everlatch.wire.codes import XID_AUTH, Op
from everlatch.wire.headers import frame_request
from session.driver import ADD_AUTH, GET, SET, Call, body_of, path_in

GONE = ConnectionClosedByServerError("gone")
MAX_XID = 2**31 - 1


def make(max_in_flight=100, max_queued_calls=100_000, max_queued_bytes=1 << 26):
    return Requests(max_in_flight=max_in_flight, max_queued_calls=max_queued_calls, max_queued_bytes=max_queued_bytes)


def submit(requests, operation=GET, path="/a", now=0.0, **more):
    request = Request(Call(), operation, path, body_of(operation, path), **more)
    call = request.call
    requests.submit(request, now)
    return call, request


def take(requests, generation=1):
    """The paths of the next batch."""
    return [path_in(frame[HEADER_BYTES:]) for frame in requests.take_batch(0.0, generation)]


def counts(requests):
    return requests.queued_calls, requests.queued_bytes, len(requests.in_flight)


def size(path):
    return len(path.encode()) + HEADER_BYTES


# -- one request


def test_a_request_ends_once():
    call = Call()
    request = Request(call, GET, "/a", b"")
    request.complete(1)
    request.complete(2)
    request.fail(GONE)
    assert (call.ends, call.result, request.call) == (1, 1, None)


def test_a_failed_request_stays_failed():
    call = Call()
    request = Request(call, GET, "/a", b"")
    request.fail(GONE)
    request.complete(1)
    assert (call.ends, call.error) == (1, GONE)


@pytest.mark.parametrize("end", [lambda request: request.complete(1), lambda request: request.fail(GONE)])
def test_a_cancelled_call_is_not_ended(end):
    call = Call()
    call.cancelled = True
    request = Request(call, GET, "/a", b"")
    end(request)
    assert (call.ends, request.call) == (0, None)


def test_an_ended_request_lets_go_of_its_call():
    call = Call()
    request = Request(call, GET, "/a", b"")
    call.request = request
    seen = weakref.ref(call)
    gc.disable()  # the reference counts alone must do
    try:
        request.complete(1)
        del call
        assert seen() is None
    finally:
        gc.enable()


def test_the_repr_tells_where_a_request_is():
    requests = make()
    _, request = submit(requests)
    assert repr(request) == "<Request get '/a' waiting>"
    take(requests)
    assert repr(request) == "<Request get '/a' sent as 1>"
    request.complete(None)
    assert repr(request) == "<Request get '/a' ended>"


# -- sending


def test_calls_are_sent_once_in_the_order_in_which_they_were_submitted():
    requests = make()
    for path in ("/a", "/b", "/c"):
        submit(requests, path=path)
    frames = requests.take_batch(5.0, 1)
    assert frames == [frame_request(xid, Op.GET_DATA, path) for xid, path in [(1, b"/a"), (2, b"/b"), (3, b"/c")]]
    assert [(request.xid, request.sent_at) for request in requests.in_flight] == [(1, 5.0), (2, 5.0), (3, 5.0)]
    assert requests.take_batch(6.0, 1) == []
    assert requests.sent == 3


def test_no_more_than_max_in_flight():
    requests = make(max_in_flight=2)
    for path in ("/a", "/b", "/c", "/d"):
        submit(requests, path=path)
    assert take(requests) == ["/a", "/b"]
    assert take(requests) == []
    requests.in_flight.popleft()
    assert take(requests) == ["/c"]
    assert counts(requests) == (1, size("/d"), 2)
    assert len(requests) == 3


def test_the_sessions_own_request_goes_at_once():
    requests = make(max_in_flight=1)
    submit(requests, path="/a")
    take(requests)
    own = Request(None, SET, "/", b"own")
    assert requests.send_now(own, 7.0) == frame_request(2, Op.SET_DATA, b"own")
    assert list(requests.in_flight)[1] is own
    assert own.sent_at == 7.0
    assert requests.sent == 1, "it is nobody's call"


def test_xids_stay_positive_after_the_last_one():
    requests = make()
    requests._last_xid = MAX_XID - 1
    seen = []
    for _ in range(3):
        submit(requests)
    requests.take_batch(0.0, 1)
    requests.send_now(Request(None, GET, "/", b""), 0.0)
    seen = [request.xid for request in requests.in_flight]
    assert seen == [MAX_XID, 1, 2, 3]


# -- bounds


def test_the_queue_is_bounded_by_calls():
    requests = make(max_queued_calls=2)
    submit(requests)
    submit(requests)
    with pytest.raises(QueueFullError, match=r"get '/x': 2 calls with 28 bytes are waiting.*limits are 2 and"):
        submit(requests, path="/x")
    assert counts(requests) == (2, 2 * size("/a"), 0)
    take(requests)
    submit(requests)


def test_the_queue_is_bounded_by_bytes_exactly():
    requests = make(max_queued_bytes=2 * size("/a"))
    submit(requests)
    submit(requests)
    with pytest.raises(QueueFullError):
        submit(requests, path="")
    take(requests)
    with pytest.raises(QueueFullError):
        submit(requests, path="/" + "x" * 2 * size("/a"))
    assert counts(requests) == (0, 0, 2)


def test_withdrawing_makes_room_exactly():
    requests = make(max_queued_calls=2, max_queued_bytes=2 * size("/a"))
    submit(requests)
    _, withdrawn = submit(requests)
    requests.withdraw(withdrawn)
    assert counts(requests) == (1, size("/a"), 0)
    submit(requests, path="/b")
    with pytest.raises(QueueFullError):
        submit(requests)
    assert take(requests) == ["/a", "/b"]


def test_what_goes_back_after_a_loss_is_counted_even_over_the_bounds():
    requests = make(max_queued_calls=2)
    submit(requests, path="/a")
    submit(requests, path="/b")
    take(requests)
    submit(requests, path="/c")
    requests.connection_lost(GONE)
    assert counts(requests) == (3, 3 * size("/a"), 0)
    with pytest.raises(QueueFullError):
        submit(requests)
    assert take(requests) == ["/a", "/b", "/c"]


# -- withdrawing


def test_an_unsent_request_is_withdrawn_without_a_trace():
    requests = make()
    call, request = submit(requests)
    requests.withdraw(request)
    requests.withdraw(request)
    assert call.ends == 0
    assert counts(requests) == (0, 0, 0)
    assert take(requests) == []


def test_a_sent_request_stays_in_flight_when_withdrawn():
    requests = make()
    call, request = submit(requests)
    take(requests)
    requests.withdraw(request)
    assert counts(requests) == (0, 0, 1)
    assert (call.ends, request.call) == (0, None)


@pytest.mark.parametrize("operation", [GET, SET])
def test_a_withdrawn_request_ends_with_its_connection(operation):
    requests = make()
    call, request = submit(requests, operation)
    take(requests)
    requests.withdraw(request)
    requests.connection_lost(GONE)
    assert call.ends == 0
    assert take(requests) == []
    assert (requests.repeated, requests.unknown) == (0, 0)


def test_gaps_are_swept_when_they_prevail():
    requests = make()
    kept = [submit(requests, path=f"/{index}") for index in range(1000)]
    dead = [submit(requests)[1] for _ in range(5000)]
    for request in dead:
        requests.withdraw(request)
    assert len(requests._waiting) < 1000 + 1100
    assert requests._withdrawn == len(requests._waiting) - 1000
    assert requests.queued_calls == 1000
    requests._max_in_flight = 10_000
    assert take(requests) == [request.path for _, request in kept]


@given(st.lists(st.sampled_from(["submit", "withdraw", "take", "lose", "answer", "time"]), max_size=60))
def test_the_counts_are_always_those_of_what_waits(steps):
    requests = make(max_in_flight=3)
    known = []
    for number, step in enumerate(steps):
        if step == "submit":
            known.append(submit(requests, path=f"/{number}", now=float(number), timeout=5.0)[1])
        elif step == "withdraw" and known:
            requests.withdraw(known.pop(len(known) // 2))
        elif step == "take":
            take(requests)
        elif step == "lose":
            requests.connection_lost(GONE)
        elif step == "answer" and requests.in_flight:
            requests.in_flight.popleft().complete(None)
        elif step == "time":
            requests.expire(float(number))
        waiting = [request for request in requests._waiting if request.call is not None]
        assert requests.queued_calls == len(waiting)
        assert requests.queued_bytes == sum(size(request.path) for request in waiting)
        assert requests._withdrawn == len(requests._waiting) - len(waiting)


# -- a lost connection


def test_reads_go_back_to_where_they_stood():
    requests = make(max_in_flight=3)
    for path in ("/a", "/b", "/c", "/d"):
        submit(requests, path=path)
    take(requests)
    requests.connection_lost(GONE)
    assert all(request.xid == 0 for request in requests._waiting)
    assert take(requests) == ["/a", "/b", "/c"]
    assert [request.xid for request in requests.in_flight] == [4, 5, 6], "an xid is not used again"
    assert requests.repeated == 3


def lose_a_write():
    """Requests whose second one is a write of which the answer was lost, and that write."""
    requests = make(max_in_flight=3)
    submit(requests, GET, "/r")
    write = submit(requests, SET, "/w")
    submit(requests, GET, "/s")
    submit(requests, SET, "/u")
    take(requests)
    requests.connection_lost(GONE)
    return requests, *write


def test_a_write_is_unsettled_and_so_is_all_around_it():
    requests, write, _ = lose_a_write()
    assert [request.path for request in requests.unsettled] == ["/r", "/w", "/s"]
    assert (write.ends, requests.unknown, requests.loss) == (0, 0, GONE)
    assert (len(requests), requests.queued_calls) == (4, 1)


def test_a_write_that_ended_is_not_sent_again():
    requests, write, request = lose_a_write()
    requests.end_unknown(request, GONE)
    requests.settle([])
    assert isinstance(write.error, OutcomeUnknownError)
    assert write.error.reason is GONE
    assert write.error.outcome is Outcome.UNKNOWN
    requests._max_in_flight = 4
    assert take(requests) == ["/r", "/s", "/u"], "the write is never sent twice blindly"
    assert (requests.unknown, requests.repeated, requests.resent, requests.unsettled) == (1, 2, 0, [])


def test_a_write_is_sent_again_where_it_stood():
    requests, write, request = lose_a_write()
    requests.settle([request])
    requests._max_in_flight = 4
    assert take(requests) == ["/r", "/w", "/s", "/u"]
    assert (write.ends, request.repeated, requests.repeated, requests.resent) == (0, True, 2, 1)


def test_the_next_loss_has_the_older_in_front():
    requests, _, _ = lose_a_write()
    requests.release_reads()
    assert [request.path for request in requests.unsettled] == ["/w"]
    assert take(requests) == ["/r", "/s", "/u"]
    requests.connection_lost(GONE)
    assert [request.path for request in requests.unsettled] == ["/w", "/r", "/s", "/u"]


def test_reads_that_nobody_waits_for_are_not_released():
    requests, _, _ = lose_a_write()
    requests.withdraw(requests.unsettled[0])
    requests.release_reads()
    assert take(requests) == ["/s", "/u"]


def test_a_write_is_lost_with_its_history():
    requests, write, _ = lose_a_write()
    gone, request = submit(requests, SET, "/gone")
    take(requests)
    requests.withdraw(request)
    requests.connection_lost(GONE)
    requests.give_up_unsettled(HistoryResetError("gone"))
    assert isinstance(write.error, OutcomeUnknownError)
    assert isinstance(write.error.reason, HistoryResetError)
    assert gone.ends == 0
    assert take(requests) == ["/r", "/s"], "the second write was given up, too"
    assert (requests.unknown, requests.unsettled) == (2, [])


def test_a_write_that_nobody_waits_for_holds_up_those_behind_it():
    """As long as it may still be applied, a node shows nothing of later ones."""
    requests, write, request = lose_a_write()
    requests.withdraw(request)
    assert [request.path for request in requests.unsettled] == ["/r", "/w", "/s"]
    requests.settle([request])
    requests._max_in_flight = 4
    assert take(requests) == ["/r", "/s", "/u"], "it is not sent again"
    assert write.ends == 0


def test_a_read_that_kills_every_connection_is_failed_by_name():
    requests = make()
    poison, _ = submit(requests, path="/poison")
    other, _ = submit(requests, path="/other")
    for loss in range(POISON_LOSSES):
        assert poison.ends == 0, loss
        assert take(requests) == ["/poison", "/other"]
        requests.connection_lost(GONE)
    assert isinstance(poison.error, RequestKillsConnectionError)
    assert (poison.error.operation, poison.error.path, poison.error.losses) == ("get", "/poison", 3)
    assert poison.error.reason is GONE
    assert other.ends == 0
    assert take(requests) == ["/other"]


def test_only_the_first_unanswered_request_is_blamed():
    requests = make()
    submit(requests, SET, "/w")
    call, request = submit(requests, path="/r")
    take(requests)
    requests.connection_lost(GONE)
    assert [request.losses for request in requests.unsettled] == [1, 0]
    requests.settle([])
    for _ in range(POISON_LOSSES - 1):
        take(requests)
        requests.connection_lost(GONE)
    assert (request.losses, call.ends) == (2, 0)


def test_a_read_is_not_blamed_for_what_stood_before_it():
    """The session's own request, or one whose caller has gone, was the first unanswered one."""
    requests = make()
    call, request = submit(requests)
    for _ in range(POISON_LOSSES):
        requests.send_now(Request(None, GET, "/", b"own"), 0.0)
        take(requests)
        requests.connection_lost(GONE)
    assert (request.losses, call.ends) == (0, 0)


def test_nothing_in_flight_when_the_connection_is_lost():
    requests = make()
    submit(requests)
    requests.connection_lost(GONE)
    assert requests.repeated == 0
    assert take(requests) == ["/a"]


# -- bound to a session


def test_bound_requests_fail_with_their_session():
    requests = make()
    free, _ = submit(requests, path="/free")
    bound, _ = submit(requests, path="/bound", generation=1)
    later, _ = submit(requests, path="/later", generation=2)
    gone_call, gone = submit(requests, path="/gone", generation=1)
    requests.withdraw(gone)
    requests.fail_bound(1)
    assert isinstance(bound.error, SessionExpiredError)
    assert (bound.error.operation, bound.error.path) == ("get", "/bound")
    assert (free.ends, later.ends, gone_call.ends) == (0, 0, 0)
    assert take(requests, generation=2) == ["/free", "/later"]
    assert counts(requests) == (0, 0, 2)


def test_many_bound_requests_fail_although_the_queue_is_swept_meanwhile():
    requests = make()
    calls = [submit(requests, generation=1)[0] for _ in range(3000)]
    submit(requests, path="/free")
    requests.fail_bound(1)
    assert [call.ends for call in calls] == [1] * 3000
    assert take(requests, generation=2) == ["/free"]
    assert counts(requests) == (0, 0, 1)


def test_a_request_bound_to_another_session_is_never_sent():
    requests = make()
    old, _ = submit(requests, path="/old", generation=1)
    submit(requests, path="/new", generation=2)
    assert take(requests, generation=2) == ["/new"]
    assert isinstance(old.error, SessionExpiredError)
    assert counts(requests) == (0, 0, 1)


# -- the end of everything


def closed(request):
    return ClientClosedError(f"closed: {request.path}")


def test_fail_all():
    requests = make(max_in_flight=2)
    read, _ = submit(requests, GET, "/r")
    write, _ = submit(requests, SET, "/w")
    unsent, _ = submit(requests, SET, "/u", timeout=1.0)
    gone, request = submit(requests, SET, "/gone")
    requests.withdraw(request)
    take(requests)
    requests.fail_all(closed)
    assert isinstance(write.error, OutcomeUnknownError)
    assert str(write.error.reason) == "closed: /w"
    assert [str(call.error) for call in (read, unsent)] == ["closed: /r", "closed: /u"]
    assert gone.ends == 0
    assert counts(requests) == (0, 0, 0)
    assert len(requests) == 0
    assert requests._deadlines == []
    assert requests.next_deadline() is None
    assert requests.unknown == 1


def test_fail_all_leaves_a_withdrawn_write_alone():
    requests = make()
    call, request = submit(requests, SET)
    take(requests)
    requests.withdraw(request)
    requests.fail_all(closed)
    assert (call.ends, requests.unknown) == (0, 0)


# -- timeouts


def test_an_unsent_call_times_out_and_is_never_sent():
    requests = make()
    call, _ = submit(requests, SET, now=10.0, timeout=2.0)
    requests.expire(11.9)
    assert call.ends == 0
    assert requests.next_deadline() == 12.0
    requests.expire(12.0)
    assert type(call.error) is CallTimeoutError
    assert (call.error.sent, call.error.timeout, call.error.outcome) == (False, 2.0, Outcome.NOT_APPLIED)
    assert take(requests) == []
    assert counts(requests) == (0, 0, 0)
    assert requests.next_deadline() is None


def test_a_sent_read_times_out():
    requests = make()
    call, _ = submit(requests, GET, timeout=2.0)
    take(requests)
    requests.expire(2.0)
    assert type(call.error) is CallTimeoutError
    assert call.error.sent
    assert len(requests.in_flight) == 1, "its reply is still awaited"
    assert requests.unknown == 0


def test_a_sent_write_times_out_with_its_outcome_unknown():
    requests = make()
    call, _ = submit(requests, SET, timeout=2.0)
    take(requests)
    requests.expire(2.0)
    assert type(call.error) is WriteTimeoutError
    assert call.error.outcome is Outcome.UNKNOWN
    assert requests.unknown == 1
    requests.connection_lost(GONE)
    assert (call.ends, requests.unknown) == (1, 1)


def test_a_read_that_went_back_times_out_as_unsent():
    requests = make()
    call, _ = submit(requests, GET, timeout=2.0)
    take(requests)
    requests.connection_lost(GONE)
    requests.expire(2.0)
    assert call.error.sent is False
    assert take(requests) == []


def test_a_call_without_a_timeout_waits_for_ever():
    requests = make()
    call, _ = submit(requests)
    assert requests.next_deadline() is None
    requests.expire(1e9)
    assert call.ends == 0


def test_deadlines_are_handled_in_their_order():
    requests = make()
    calls = [submit(requests, timeout=timeout)[0] for timeout in (3.0, 1.0, 2.0, 1.0)]
    assert requests.next_deadline() == 1.0
    requests.expire(2.0)
    assert [call.ends for call in calls] == [0, 1, 1, 1]
    assert requests.next_deadline() == 3.0


def test_an_answered_call_has_no_deadline():
    requests = make()
    call, request = submit(requests, timeout=1.0)
    request.complete(None)
    submit(requests, timeout=5.0)
    assert requests.next_deadline() == 5.0
    requests.expire(10.0)
    assert call.error is None


def test_a_deadline_that_passes_after_the_answer_does_nothing():
    requests = make()
    call, request = submit(requests, timeout=1.0)
    request.complete(7)
    requests.expire(2.0)
    assert (call.ends, call.result) == (1, 7)


def test_the_deadlines_of_answered_calls_are_swept():
    requests = make(max_in_flight=10_000)
    for _ in range(5000):
        _, request = submit(requests, timeout=10.0)
        take(requests)
        requests.in_flight.popleft()
        request.complete(None)
    assert len(requests._deadlines) < 1100
    call, _ = submit(requests, timeout=1.0)
    requests.expire(1.0)
    assert call.ends == 1


def test_the_deadline_of_a_request_outside_of_the_queue():
    requests = make()
    call, silent = Call(), Call()
    requests.track(Request(call, ADD_AUTH, "digest", b"", timeout=2.0), XID_AUTH, 10.0)
    requests.track(Request(silent, ADD_AUTH, "digest", b""), XID_AUTH, 10.0)
    assert counts(requests) == (0, 0, 0)
    assert requests.next_deadline() == 12.0
    requests.expire(12.0)
    assert type(call.error) is CallTimeoutError
    assert call.error.sent
    assert silent.ends == 0


# -- what goes ahead


def ahead(requests, path, **more):
    request = Request(Call(), SET, path, body_of(SET, path), **more)
    request.ahead = True
    call = request.call
    requests.submit(request, 0.0)
    return call, request


def test_what_goes_ahead_is_sent_before_all_that_waits_in_its_own_order():
    requests = make()
    for path in ("/1", "/2"):
        submit(requests, path=path)
    for path in ("/a", "/b"):
        ahead(requests, path)
    submit(requests, path="/3")
    assert counts(requests)[:2] == (5, 5 * size("/1") + 2 * (len(body_of(SET, "/a")) - len(body_of(GET, "/a"))))
    assert take(requests) == ["/a", "/b", "/1", "/2", "/3"]
    assert counts(requests) == (0, 0, 5)


def test_it_goes_before_what_was_put_back_and_that_keeps_its_order():
    requests = make()
    submit(requests, path="/1")
    submit(requests, path="/2")
    take(requests)
    submit(requests, path="/3")
    ahead(requests, "/a")
    requests.connection_lost(GONE)
    assert take(requests) == ["/a", "/1", "/2", "/3"]
    ahead(requests, "/b")
    requests.connection_lost(GONE)
    requests.settle(requests.unsettled)
    assert take(requests) == ["/a", "/b", "/1", "/2", "/3"], "once sent, it stands where it was sent"


def test_it_goes_behind_writes_that_are_sent_again_for_those_were_called_before():
    requests = make()
    for operation, path in ((GET, "/1"), (SET, "/2"), (GET, "/3")):
        submit(requests, operation, path=path)
    take(requests)
    submit(requests, SET, path="/4")
    requests.connection_lost(GONE)
    ahead(requests, "/a")
    requests.settle(requests.unsettled)
    ahead(requests, "/b")
    assert take(requests) == ["/1", "/2", "/a", "/b", "/3", "/4"]


def test_its_own_order_stands_when_there_was_no_room_for_the_first():
    requests = make(max_in_flight=1)
    submit(requests, path="/1")
    assert take(requests) == ["/1"]
    submit(requests, path="/2")
    sent = []
    for path in ("/a", "/b", "/c"):
        ahead(requests, path)
        assert take(requests) == []
    while requests.queued_calls:
        requests.in_flight.popleft()
        sent += take(requests)
    assert sent == ["/a", "/b", "/c", "/2"]


def test_a_sweep_does_not_give_it_its_place_before_time():
    requests = make()
    submit(requests, path="/1")
    take(requests)
    ahead(requests, "/a")
    for request in [submit(requests, path=f"/{number}")[1] for number in range(2000)]:
        requests.withdraw(request)
    requests.connection_lost(GONE)
    assert take(requests) == ["/a", "/1"]


def test_a_full_queue_takes_it():
    requests = make(max_queued_calls=1)
    submit(requests, path="/1")
    ahead(requests, "/a")
    with pytest.raises(QueueFullError):
        submit(requests, path="/2")
    assert take(requests) == ["/a", "/1"]


def test_withdrawn_timed_out_or_bound_to_a_session_that_has_ended_it_is_not_sent():
    requests = make()
    _, withdrawn = ahead(requests, "/a")
    late, _ = ahead(requests, "/b", timeout=1.0)
    bound, _ = ahead(requests, "/c", generation=1)
    ahead(requests, "/d", generation=2)
    requests.withdraw(withdrawn)
    requests.expire(1.0)
    requests.fail_bound(1)
    assert isinstance(late.error, CallTimeoutError)
    assert isinstance(bound.error, SessionExpiredError)
    assert take(requests, generation=2) == ["/d"]
    assert counts(requests)[:2] == (0, 0)


def test_it_ends_with_everything_else():
    requests = make()
    call, _ = ahead(requests, "/a")
    requests.fail_all(lambda request: ClientClosedError("closed"))
    assert isinstance(call.error, ClientClosedError)
    assert counts(requests) == (0, 0, 0)


def test_a_server_that_is_read_only_gets_nothing_of_it():
    requests = make()
    ahead(requests, "/a")
    submit(requests, path="/1")
    assert requests.take_reads(0.0, 0) == []
    call, _ = ahead(requests, "/b")
    requests.refuse_writes(lambda request: ClientClosedError("read-only"))
    assert isinstance(call.error, ClientClosedError)
    assert len(requests.take_reads(0.0, 0)) == 1


def test_counts_are_right_after_a_sweep():
    requests = make()
    for number in range(3000):
        _, request = ahead(requests, f"/{number}")
        if number % 3:
            requests.withdraw(request)
    assert take(make()) == []
    assert len(take(requests)) == 100
    assert requests.queued_calls == 900
