import pytest
from hypothesis import strategies as st

from everlatch.errors import InvalidArgumentError, ProtocolError
from everlatch.wire import watch_records
from wire import strategies as wst
from wire.checks import any_bytes_test, round_trip_test, sample_test
from wire.codecs import functions, named

path_and_number = st.tuples(wst.text, wst.int32)

CODECS = [
    named(watch_records, *row)
    for row in [
        ("add_watch_request", path_and_number, ("/a", 1), watch_records.AddWatchRequest),
        ("add_watch_reply", wst.int32.map(lambda err: (err,)), (0,), lambda err: err),
        ("check_watches_request", path_and_number, ("/a", 3), watch_records.WatcherTypeRequest),
        ("remove_watches_request", path_and_number, ("/a", 3), watch_records.WatcherTypeRequest),
        (
            "set_watches_request",
            st.tuples(wst.int64, wst.texts, wst.texts, wst.texts),
            (5, ["/a"], ["/b"], []),
            watch_records.SetWatchesRequest,
        ),
        (
            "set_watches2_request",
            st.tuples(wst.int64, wst.texts, wst.texts, wst.texts, wst.texts, wst.texts),
            (5, ["/a"], [], ["/c"], ["/d"], ["/e"]),
            watch_records.SetWatches2Request,
        ),
        (
            "watcher_event",
            st.tuples(wst.int32, wst.int32, wst.text),
            (3, 3, "/a"),
            lambda *fields: fields,
        ),
    ]
]

test_round_trip = round_trip_test(CODECS)
test_one_of_each = sample_test(CODECS)
test_any_bytes = any_bytes_test(CODECS, max_size=80)


def test_every_function_is_tested():
    assert {codec.name for codec in CODECS} == functions(watch_records)


def test_empty_lists_are_not_null():
    # A null list there is an error for the server.
    assert watch_records.encode_set_watches_request(0, [], [], []) == bytes(8 + 3 * 4)
    assert watch_records.encode_set_watches2_request(0, [], [], [], [], []) == bytes(8 + 5 * 4)


@pytest.mark.parametrize(
    ("decode", "lists"),
    [(watch_records.decode_set_watches_request, 3), (watch_records.decode_set_watches2_request, 5)],
)
def test_a_null_list_of_paths_is_refused(decode, lists):
    for null in range(lists):
        wire = bytes(8 + 4 * null) + b"\xff\xff\xff\xff" + bytes(4 * (lists - null - 1))
        with pytest.raises(ProtocolError, match=f"null at offset {8 + 4 * null}"):
            decode(wire, 0, len(wire))


@pytest.mark.parametrize("numbers", [(2**31, 3), (3, None)])
def test_an_event_that_does_not_fit(numbers):
    with pytest.raises(InvalidArgumentError, match="event"):
        watch_records.encode_watcher_event(*numbers, "/a")
