import pytest

from everlatch.session.persistent_watches import PersistentWatches
from everlatch.session.watches import PERSISTENT, RECURSIVE
from everlatch.types import EventType


def one(event):
    """A callback."""


def two(event):
    """Another one."""


def three(event):
    """And a third."""


def armed(*entries):
    watches = PersistentWatches()
    for kind, path, callback in entries:
        watches.want(kind, path, callback)
        watches.armed(kind, path, callback)
    return watches


@pytest.mark.parametrize(
    "event", [EventType.CREATED, EventType.DELETED, EventType.DATA_CHANGED, EventType.CHILDREN_CHANGED]
)
def test_a_persistent_watch_hears_everything_of_its_path_and_stays(event):
    watches = armed((PERSISTENT, "/a", one))
    for _ in range(2):
        assert watches.hearing(event, "/a") == [one]
        assert watches.hearing(event, "/a/b") == []
        assert watches.hearing(event, "/") == []
    assert len(watches) == 1


@pytest.mark.parametrize(
    ("place", "heard", "not_heard"),
    [
        ("/a", ["/a", "/a/b", "/a/b/c"], ["/", "/b", "/ab", "/ab/c", "a", ""]),
        ("/", ["/", "/a", "/a/b"], []),
        ("/a/b", ["/a/b", "/a/b/c"], ["/a", "/a/bc", "/a/c/b"]),
    ],
)
def test_a_recursive_watch_hears_of_its_path_and_of_all_below(place, heard, not_heard):
    watches = armed((RECURSIVE, place, one))
    for path in heard:
        assert watches.hearing(EventType.CREATED, path) == [one], path
        assert watches.hearing(EventType.CHILDREN_CHANGED, path) == [], path
    for path in not_heard:
        assert watches.hearing(EventType.CREATED, path) == [], path


def test_everybody_hears_who_watches_from_wherever():
    watches = armed((RECURSIVE, "/", one), (RECURSIVE, "/a", two), (PERSISTENT, "/a/b", two), (RECURSIVE, "/a/b", one))
    assert sorted(found.__name__ for found in watches.hearing(EventType.DELETED, "/a/b")) == [
        "one",
        "one",
        "two",
        "two",
    ]


def test_a_path_of_slashes_costs_nothing():
    watches = armed((RECURSIVE, "/a", one))
    assert watches.hearing(EventType.CREATED, "/" * 10_000_000) == []


def test_it_is_heard_from_the_reply_on():
    watches = PersistentWatches()
    watches.want(PERSISTENT, "/a", one)
    assert watches.hearing(EventType.CREATED, "/a") == []
    watches.armed(PERSISTENT, "/a", one)
    assert watches.hearing(EventType.CREATED, "/a") == [one]


def test_the_last_one_to_leave_takes_it_away():
    watches = armed((RECURSIVE, "/a", one), (RECURSIVE, "/a", two), (PERSISTENT, "/a", one))
    watches.want(RECURSIVE, "/a", three)
    assert not watches.leave(RECURSIVE, "/a", one)
    assert watches.hearing(EventType.CREATED, "/a/b") == [two]
    assert not watches.leave(RECURSIVE, "/a", two), "somebody is about to come"
    assert watches.hearing(EventType.CREATED, "/a/b") == []
    assert watches.leave(RECURSIVE, "/a", three)
    assert watches.kinds_wanted("/a") == [PERSISTENT]
    assert list(watches.paths(RECURSIVE)) == []
    assert list(watches.paths(PERSISTENT)) == ["/a"]


def test_clearing_leaves_nobody_who_hears_but_everybody_who_has_to_leave():
    watches = armed((RECURSIVE, "/a", one), (PERSISTENT, "/b", two))
    assert watches.clear() == [("/a", (one,)), ("/b", (two,))]
    assert len(watches) == 0
    assert watches.hearing(EventType.CREATED, "/a") == []
    assert watches.leave(RECURSIVE, "/a", one)


def test_a_one_shot_watch_takes_the_path_over_until_it_is_armed_again():
    watches = armed((PERSISTENT, "/a", one))
    assert not watches.lost_by_event("/a")
    watches.one_shot_set("/a")
    watches.one_shot_set("/elsewhere")
    assert watches.lost_by_event("/a")
    watches.taken_back("/a")
    assert not watches.lost_by_event("/a")
    assert not watches.lost_by_event("/elsewhere")
    watches.one_shot_set("/a")
    watches.want(PERSISTENT, "/a", two)
    watches.armed(PERSISTENT, "/a", two)
    assert not watches.lost_by_event("/a")


@pytest.mark.parametrize("how", ["disconnected", "left"])
def test_what_was_taken_over_is_forgotten(how):
    watches = armed((PERSISTENT, "/a", one))
    watches.one_shot_set("/a")
    if how == "disconnected":
        watches.disconnected()
    else:
        watches.leave(PERSISTENT, "/a", one)
    assert not watches.lost_by_event("/a")
