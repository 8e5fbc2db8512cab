import pytest

from everlatch.session.watches import CHILD, DATA, EXIST, FRAME_LIMIT, OneShotWatches
from everlatch.types import EventType
from everlatch.wire.watch_records import decode_set_watches_request

HEADER = 12
"""The frame's length, xid and operation."""


def one(event):
    """A callback."""


def two(event):
    """Another one."""


def filled(*entries):
    watches = OneShotWatches()
    for kind, path in entries:
        watches.add(kind, path, one)
    return watches


def lists(body):
    return decode_set_watches_request(body, 0, len(body))


@pytest.mark.parametrize(
    ("event", "kinds"),
    [
        (EventType.CREATED, {DATA, EXIST}),
        (EventType.DATA_CHANGED, {DATA, EXIST}),
        (EventType.DELETED, {DATA, EXIST, CHILD}),
        (EventType.CHILDREN_CHANGED, {CHILD}),
    ],
)
@pytest.mark.parametrize("kind", [DATA, EXIST, CHILD])
def test_which_event_takes_which_kind(event, kinds, kind):
    watches = filled((kind, "/a"))
    taken = watches.take(event, "/a")
    assert taken == ([one] if kind in kinds else [])
    assert len(watches) == (0 if kind in kinds else 1)


def test_one_callback_is_called_once_though_registered_under_several_kinds():
    watches = filled((DATA, "/a"), (EXIST, "/a"), (CHILD, "/a"))
    watches.add(CHILD, "/a", two)
    assert watches.take(EventType.DELETED, "/a") == [one, two]
    assert len(watches) == 0


def test_the_same_callback_twice_under_a_path_and_kind_counts_once():
    watches = filled((DATA, "/a"), (DATA, "/a"))
    assert len(watches) == 1


def test_an_event_takes_its_own_path_only():
    watches = filled((DATA, "/a"), (DATA, "/a/b"))
    assert watches.take(EventType.DATA_CHANGED, "/a") == [one]
    assert watches.take(EventType.DATA_CHANGED, "/a") == []
    assert len(watches) == 1


def test_a_callback_can_be_taken_out_whatever_it_waits_for():
    watches = filled((DATA, "/a"), (EXIST, "/a"), (CHILD, "/a"), (DATA, "/b"))
    watches.add(CHILD, "/a", two)
    watches.discard("/a", one)
    watches.discard("/nowhere", one)
    assert len(watches) == 2
    assert watches.take(EventType.DELETED, "/a") == [two]
    assert watches.take(EventType.DELETED, "/b") == [one]


def test_what_was_taken_out_is_not_armed_again():
    watches = filled((DATA, "/a"), (EXIST, "/b"))
    watches.discard("/a", one)
    watches.freeze(1)
    (body,) = watches.rearm()
    assert lists(body) == (1, [], ["/b"], [])


def test_nothing_to_rearm_on_the_first_connection():
    assert filled((DATA, "/a")).rearm() == []


def test_rearming_lists_every_kind():
    watches = filled((DATA, "/d"), (EXIST, "/e"), (CHILD, "/c"), (CHILD, "/d"))
    watches.freeze(77)
    (body,) = watches.rearm()
    assert lists(body) == (77, ["/d"], ["/e"], ["/c", "/d"])
    assert len(watches) == 4, "they still wait"


def test_an_empty_registry_sends_nothing_and_thaws():
    watches = OneShotWatches()
    watches.freeze(5)
    assert watches.rearm() == []
    watches.add(DATA, "/a", one)
    watches.freeze(9)
    (body,) = watches.rearm()
    assert lists(body).relative_zxid == 9


def many(count):
    return filled(*((index % 3, f"/service/instances/node-{index:08d}") for index in range(count)))


def test_frames_have_at_most_128_kib():
    watches = many(20_000)
    watches.freeze(1)
    bodies = watches.rearm()
    sizes = [len(body) + HEADER for body in bodies]
    assert max(sizes) <= FRAME_LIMIT == 128 * 1024
    assert min(sizes[:-1]) > FRAME_LIMIT - 100, "and are filled"
    seen = [lists(body) for body in bodies]
    for kind in (DATA, EXIST, CHILD):
        paths = [path for request in seen for path in request[1 + kind]]
        assert paths == [f"/service/instances/node-{index:08d}" for index in range(kind, 20_000, 3)]


def test_a_path_longer_than_a_frame_goes_alone():
    long = "/" + "x" * FRAME_LIMIT
    watches = filled((DATA, long), (DATA, "/a"))
    watches.freeze(1)
    assert [lists(body).data for body in watches.rearm()] == [[long], ["/a"]]


def test_paths_are_measured_in_bytes():
    watches = filled(*((DATA, f"/ü{index:05d}" + "ü" * 500) for index in range(200)))
    watches.freeze(1)
    bodies = watches.rearm()
    assert len(bodies) == 2
    assert all(len(body) + HEADER <= FRAME_LIMIT for body in bodies)


def test_the_zxid_stays_frozen_until_every_frame_is_answered():
    watches = many(10_000)
    watches.freeze(100)
    frames = len(watches.rearm())
    assert frames >= 3
    for _ in range(frames - 1):
        watches.rearmed()
    watches.freeze(200)  # a second loss, one answer short
    assert {lists(body).relative_zxid for body in watches.rearm()} == {100}
    for _ in range(frames):
        watches.rearmed()
    watches.freeze(300)
    assert {lists(body).relative_zxid for body in watches.rearm()} == {300}
