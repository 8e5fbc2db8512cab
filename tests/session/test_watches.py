import tracemalloc
from typing import NamedTuple

import pytest

from everlatch.session.watches import CHILD, DATA, EXIST, OneShotWatches
from everlatch.types import EventType


def one(event):
    """A callback."""


def two(event):
    """Another one."""


class Tagged(NamedTuple):
    """A callback that is a tuple as well."""

    tag: str

    def __call__(self, event):
        """Does nothing."""


def filled(*entries):
    watches = OneShotWatches()
    for kind, path in entries:
        watches.add(kind, path, one)
    return watches


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


def test_a_callback_can_be_taken_out_of_some_kinds():
    watches = filled((DATA, "/a"), (EXIST, "/a"), (CHILD, "/a"))
    assert watches.discard("/a", one, (DATA, EXIST))
    assert not watches.discard("/a", one, (DATA, EXIST))
    assert not watches.waits((DATA, EXIST), "/a")
    assert watches.waits((CHILD,), "/a")
    assert not watches.discard("/a", two, (CHILD,))
    assert watches.take(EventType.DELETED, "/a") == [one]


def test_callbacks_that_are_tuples_are_callbacks():
    watches, callback, other = OneShotWatches(), Tagged("one"), Tagged("two")
    watches.add(DATA, "/a", callback)
    assert watches.discard("/a", callback)
    watches.add(DATA, "/a", callback)
    watches.add(DATA, "/a", callback)
    watches.add(DATA, "/a", other)
    assert len(watches) == 2
    watches.discard("/a", callback)
    assert watches.take(EventType.DELETED, "/a") == [other]


def test_several_on_one_path_leave_one_by_one():
    watches, callbacks = OneShotWatches(), [Tagged(str(number)) for number in range(4)]
    for callback in callbacks:
        watches.add(CHILD, "/a", callback)
    assert len(watches) == 4
    assert watches.discard("/a", callbacks.pop(1))
    assert len(watches) == 3
    watches.discard("/a", callbacks.pop())
    watches.discard("/a", callbacks.pop())
    assert watches.take(EventType.CHILDREN_CHANGED, "/a") == callbacks
    assert len(watches) == 0


def test_kinds_are_taken_out_by_name():
    watches = filled((DATA, "/a"), (EXIST, "/a"), (CHILD, "/a"), (CHILD, "/b"))
    assert watches.take_kinds((DATA, EXIST), "/a") == [one]
    assert list(watches.paths(CHILD)) == ["/a", "/b"]
    assert "/a" in watches
    assert watches.take_kinds((CHILD,), "/a") == [one]
    assert "/a" not in watches
    assert watches.take_kinds((DATA,), "/nowhere") == []


def test_a_watch_takes_little_beside_its_path():
    paths, watches = [f"/{number:029}" for number in range(10_000)], OneShotWatches()
    tracemalloc.start()
    for path in paths:
        watches.add(DATA, path, one)
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert allocated / len(paths) < 64
