"""What a connection's watches hear: the tables, firing, removing, arming again."""

from __future__ import annotations

import pytest

from everlatch.devserver.tree import Create, SetData, Transaction, Tree
from everlatch.devserver.watches import Missed, Table, WatchTables
from everlatch.errors import MarshallingError, NoWatcherError, ServerError
from everlatch.types import OPEN_ACL_UNSAFE, EventType
from everlatch.wire.codes import AddWatchMode, WatcherType
from everlatch.wire.watch_records import SetWatches2Request

CREATED, DELETED, CHANGED, CHILDREN = (
    EventType.CREATED,
    EventType.DELETED,
    EventType.DATA_CHANGED,
    EventType.CHILDREN_CHANGED,
)
PERSISTENT, RECURSIVE = AddWatchMode.PERSISTENT, AddWatchMode.PERSISTENT_RECURSIVE


def heard(tables: WatchTables, *events: tuple[EventType, str]) -> list[int]:
    """Which of these were told."""
    return [index for index, (event, path) in enumerate(events) if tables.fire(event, path)]


@pytest.mark.parametrize("one_mode", [False, True])
@pytest.mark.parametrize(
    ("table", "told"),
    [(Table.DATA, {CREATED, DELETED, CHANGED}), (Table.CHILDREN, {CHILDREN, DELETED})],
)
@pytest.mark.parametrize("event", [CREATED, DELETED, CHANGED, CHILDREN])
def test_a_one_shot_watch_hears_of_its_table_once(
    one_mode: bool, table: Table, told: set[EventType], event: EventType
) -> None:
    tables = WatchTables(one_mode=one_mode)
    tables.add(table, "/a")
    assert not tables.fire(event, "/a/b")
    assert not tables.fire(event, "/")
    assert tables.fire(event, "/a") is (event in told)
    assert bool(tables) is (event not in told)
    assert not (event in told and tables.fire(event, "/a"))


def test_a_deletion_is_one_event_and_ends_the_watches_of_both_tables() -> None:
    tables = WatchTables()
    tables.add(Table.DATA, "/a")
    tables.add(Table.CHILDREN, "/a")
    assert heard(tables, (DELETED, "/a"), (DELETED, "/a"), (CHILDREN, "/a")) == [0]


@pytest.mark.parametrize("one_mode", [False, True])
def test_a_persistent_watch_hears_everything_of_its_path_and_stays(one_mode: bool) -> None:
    tables = WatchTables(one_mode=one_mode)
    tables.add_persistent("/a", PERSISTENT)
    events = [(event, path) for event in (CREATED, CHANGED, CHILDREN, DELETED) for path in ("/a", "/a/b")]
    assert heard(tables, *events, *events) == [0, 2, 4, 6, 8, 10, 12, 14]


@pytest.mark.parametrize("one_mode", [False, True])
def test_a_recursive_watch_hears_of_everything_below_but_never_of_children(one_mode: bool) -> None:
    tables = WatchTables(one_mode=one_mode)
    tables.add_persistent("/a", RECURSIVE)
    paths = ("/a", "/a/b", "/a/b/c")
    events = [(event, path) for path in paths for event in (CREATED, CHANGED, DELETED)]
    assert heard(tables, *events) == list(range(9))
    assert heard(tables, *[(CHILDREN, path) for path in paths]) == []
    assert heard(tables, (CREATED, "/ab"), (CREATED, "/"), (DELETED, "/b/a")) == []


def test_a_recursive_watch_on_the_root() -> None:
    tables = WatchTables()
    tables.add_persistent("/", RECURSIVE)
    assert heard(tables, (CREATED, "/a"), (CHANGED, "/"), (DELETED, "/a/b")) == [0, 1, 2]


def test_who_watches_in_several_ways_is_told_once() -> None:
    tables = WatchTables()
    tables.add_persistent("/", RECURSIVE)
    tables.add_persistent("/a", RECURSIVE)
    tables.add_persistent("/a", PERSISTENT)
    tables.add(Table.DATA, "/a")
    assert heard(tables, (CHANGED, "/a")) == [0]
    tables.remove("/a", WatcherType.PERSISTENT_RECURSIVE)
    assert heard(tables, (CHANGED, "/a"), (CHANGED, "/a/b")) == [0, 1]
    tables.remove("/", WatcherType.ANY)
    assert heard(tables, (CHANGED, "/a"), (CHANGED, "/a/b")) == [0]


def test_before_3_9_a_one_shot_watch_takes_the_place_of_a_persistent_one() -> None:
    events = [(CHANGED, "/a"), (CHANGED, "/a"), (CHILDREN, "/a"), (CHILDREN, "/a")]
    for one_mode, told in ((False, [0, 1, 2, 3]), (True, [0, 2, 3])):
        tables = WatchTables(one_mode=one_mode)
        tables.add_persistent("/a", PERSISTENT)
        tables.add(Table.DATA, "/a")
        assert heard(tables, *events) == told


def test_before_3_9_a_persistent_watch_takes_the_place_of_a_one_shot_one() -> None:
    tables = WatchTables(one_mode=True)
    tables.add(Table.DATA, "/a")
    tables.add_persistent("/a", RECURSIVE)
    assert heard(tables, (CHANGED, "/a"), (CHANGED, "/a/b"), (CHANGED, "/a")) == [0, 1, 2]
    tables.add_persistent("/a", PERSISTENT)
    assert heard(tables, (CHANGED, "/a"), (CHANGED, "/a/b"), (CHILDREN, "/a")) == [0, 2]


def test_before_3_9_a_recursive_watch_that_was_replaced_still_hears_of_deletions_below() -> None:
    """Its half in the other table does."""
    tables = WatchTables(one_mode=True)
    tables.add_persistent("/a", RECURSIVE)
    tables.add(Table.DATA, "/a")
    assert heard(tables, (CREATED, "/a/b"), (CHANGED, "/a/b"), (DELETED, "/a/b")) == [2]


@pytest.mark.parametrize("one_mode", [False, True])
def test_whether_there_ever_was_one(one_mode: bool) -> None:
    tables = WatchTables(one_mode=one_mode)
    tables.add(Table.CHILDREN, "/a")
    assert not tables.have_been
    tables.add(Table.DATA, "/a")
    assert heard(tables, (CHANGED, "/a")) == [0]
    assert tables.have_been
    tables.add(Table.DATA, "/a")
    tables.add(Table.DATA, "/b")
    tables.remove("/a", WatcherType.CHILDREN)
    tables.remove("/a", WatcherType.DATA)
    assert tables.have_been
    tables.remove("/b", WatcherType.ANY)
    assert tables.have_been is one_mode


@pytest.mark.parametrize("mode", [-1, 2, 7])
def test_modes_that_are_none(mode: int) -> None:
    with pytest.raises(MarshallingError):
        WatchTables().add_persistent("/a", mode)


# --- check and remove ---------------------------------------------------------------------------------------------


def armed(*, one_mode: bool = False) -> WatchTables:
    """`/data` and `/children` one-shot, `/both` twice so, and `/p` and `/r` persistent."""
    tables = WatchTables(one_mode=one_mode)
    for path in ("/data", "/both"):
        tables.add(Table.DATA, path)
    for path in ("/children", "/both"):
        tables.add(Table.CHILDREN, path)
    tables.add_persistent("/p", PERSISTENT)
    tables.add_persistent("/r", RECURSIVE)
    return tables


PATHS = ("/data", "/children", "/both", "/p", "/r")
FOUND = {
    (False, WatcherType.CHILDREN): {"/children", "/both"},
    (False, WatcherType.DATA): {"/data", "/both"},
    (False, WatcherType.ANY): set(PATHS),
    (False, WatcherType.PERSISTENT): {"/p"},
    (False, WatcherType.PERSISTENT_RECURSIVE): {"/r"},
    (True, WatcherType.CHILDREN): {"/children", "/both", "/p", "/r"},
    (True, WatcherType.DATA): {"/data", "/both", "/p", "/r"},
    (True, WatcherType.ANY): set(PATHS),
}


@pytest.mark.parametrize(("one_mode", "watcher_type"), FOUND)
def test_checking_and_removing_find_the_same(one_mode: bool, watcher_type: int) -> None:
    tables = armed(one_mode=one_mode)
    found = {path for path in PATHS if tables.has(path, watcher_type)}
    assert found == FOUND[one_mode, watcher_type]
    for path in PATHS:
        if path in found:
            tables.remove(path, watcher_type)
            assert not tables.has(path, watcher_type)
        else:
            with pytest.raises(NoWatcherError):
                tables.remove(path, watcher_type)


def test_removing_one_kind_leaves_the_others() -> None:
    tables = armed()
    tables.remove("/both", WatcherType.DATA)
    assert heard(tables, (CHANGED, "/both"), (CHILDREN, "/both")) == [1]
    tables.remove("/p", WatcherType.PERSISTENT)
    tables.remove("/r", WatcherType.ANY)
    assert heard(tables, (CHANGED, "/p"), (CHILDREN, "/p"), (CHANGED, "/r/x")) == []
    assert (set(tables.paths(Table.DATA)), set(tables.paths(Table.CHILDREN))) == ({"/data"}, {"/children"})
    assert len(tables) == 2


@pytest.mark.parametrize(("one_mode", "watcher_type"), [(False, 0), (False, 6), (True, 4), (True, 5), (True, -1)])
def test_types_that_are_none(one_mode: bool, watcher_type: int) -> None:
    tables = armed(one_mode=one_mode)
    for act in (tables.has, tables.remove):
        with pytest.raises(ServerError) as caught:
            act("/data", watcher_type)
        assert caught.value.code == -5


# --- arming again -------------------------------------------------------------------------------------------------


@pytest.fixture
def tree() -> Tree:
    """`/old` is of zxid 1; `/changed` was written to in 3, `/parent` got a child in 4."""
    tree = Tree()
    for path in ("/old", "/changed", "/parent"):
        tree.apply(Transaction(1, 0, (Create(path, b"", OPEN_ACL_UNSAFE),)))
    tree.apply(Transaction(3, 0, (SetData("/changed", b""),)))
    tree.apply(Transaction(4, 0, (Create("/parent/child", b"", OPEN_ACL_UNSAFE),)))
    return tree


@pytest.mark.parametrize("relative", [2, 3, 4])
def test_what_was_missed_is_told_and_the_rest_is_armed(tree: Tree, relative: int) -> None:
    tables = WatchTables()
    paths = ["/old", "/changed", "/parent", "/gone"]
    missed = tables.arm_again(SetWatches2Request(relative, paths, paths, paths, ["/gone"], ["/"]), tree)
    data = [(CHANGED, "/changed")] if relative < 3 else []
    children = [(CHILDREN, "/parent")] if relative < 4 else []
    assert missed == [
        *(Missed(*each) for each in (*data, (DELETED, "/gone"))),
        *(Missed(CREATED, path) for path in ("/old", "/changed", "/parent")),
        *(Missed(*each) for each in (*children, (DELETED, "/gone"))),
    ]
    tables.remove("/", WatcherType.ANY)
    tables.remove("/gone", WatcherType.PERSISTENT)
    assert tables.has("/changed", WatcherType.DATA) is (relative >= 3)
    assert tables.has("/parent", WatcherType.CHILDREN) is (relative >= 4)
    assert tables.has("/old", WatcherType.DATA)
    assert tables.has("/old", WatcherType.CHILDREN)
    assert heard(tables, (CREATED, "/gone"), (CREATED, "/gone"), (CHILDREN, "/gone")) == [0]


def test_persistent_watches_are_armed_and_told_nothing(tree: Tree) -> None:
    tables = WatchTables()
    request = SetWatches2Request(0, [], [], [], ["/changed"], ["/parent"])
    assert tables.arm_again(request, tree) == []
    assert heard(tables, (CHANGED, "/changed"), (CHANGED, "/changed"), (CREATED, "/parent/x")) == [0, 1, 2]
