"""What watches hear, how often, in which order, and how they are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from everlatch.types import ACL, OPEN_ACL_UNSAFE, EventType
from everlatch.wire.codes import AddWatchMode, Op, WatcherType
from everlatch.wire.multi import CheckPart, CreatePart, DeletePart, SetDataPart
from wire_peer import Event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from conformance.conftest import Subject
    from wire_peer import Peer

    Peers = Callable[[], Awaitable[Peer]]

CREATED, DELETED, CHANGED = EventType.CREATED, EventType.DELETED, EventType.DATA_CHANGED
CHILDREN = EventType.CHILDREN_CHANGED
PERSISTENT, RECURSIVE = AddWatchMode.PERSISTENT, AddWatchMode.PERSISTENT_RECURSIVE
DATA = b"", OPEN_ACL_UNSAFE, 0
EPHEMERAL = b"", OPEN_ACL_UNSAFE, 1
UNREADABLE = (ACL(30, "world", "anyone"),)

WATCHES: Final[dict[str, tuple[Any, ...]]] = {
    "exists": ("exists", "{}/a", True),
    "get_data": ("get_data", "{}/a", True),
    "get_children": ("get_children", "{}/a", True),
    "get_children2": ("get_children2", "{}/a", True),
    "persistent": ("add_watch", "{}/a", PERSISTENT),
    "recursive": ("add_watch", "{}/a", RECURSIVE),
    "recursive above": ("add_watch", "{}", RECURSIVE),
}
"""All that can be watched of `{}/a`, which exists and is empty."""
ONE_SHOT: Final = ("exists", "get_data", "get_children", "get_children2")
NODE: Final = ("exists", "get_data", "persistent", "recursive", "recursive above")
LIST: Final = ("get_children", "get_children2", "persistent")
BELOW: Final = ("recursive", "recursive above")


def told(names: Iterable[str], *events: tuple[EventType, str]) -> dict[str, list[tuple[EventType, str]]]:
    """All of these watches hear the same."""
    return {name: list(events) for name in names}


ACTS: Final[dict[str, tuple[list[tuple[Any, ...]], dict[str, list[tuple[EventType, str]]]]]] = {
    "its data": ([("set_data", "{}/a", b"", -1)], told(NODE, (CHANGED, "{}/a"))),
    "its data, with one version": ([("set_data", "{}/a", b"", 0)], told(NODE, (CHANGED, "{}/a"))),
    "its data, refused": ([("set_data", "{}/a", b"", 5)], {}),
    "its ACL": ([("set_acl", "{}/a", OPEN_ACL_UNSAFE, -1)], {}),
    "reads": ([("get_data", "{}/a", False), ("sync", "{}/a")], {}),
    "deleted": ([("delete", "{}/a", -1)], told(WATCHES, (DELETED, "{}/a"))),
    "a child": (
        [("create", "{}/a/b", *DATA)],
        told(LIST, (CHILDREN, "{}/a")) | told(BELOW, (CREATED, "{}/a/b")),
    ),
    "a child's data": (
        [("create", "{}/a/b", *DATA), ("set_data", "{}/a/b", b"", -1)],
        told(LIST, (CHILDREN, "{}/a")) | told(BELOW, (CREATED, "{}/a/b"), (CHANGED, "{}/a/b")),
    ),
    "a child comes and goes": (
        [("create", "{}/a/b", *DATA), ("delete", "{}/a/b", -1)],
        told(LIST, (CHILDREN, "{}/a"))
        | {"persistent": [(CHILDREN, "{}/a")] * 2}
        | told(BELOW, (CREATED, "{}/a/b"), (DELETED, "{}/a/b")),
    ),
    "a grandchild": (
        [("create", "{}/a/b", *DATA), ("create", "{}/a/b/c", *DATA), ("delete", "{}/a/b/c", -1)],
        told(LIST, (CHILDREN, "{}/a")) | told(BELOW, (CREATED, "{}/a/b"), (CREATED, "{}/a/b/c"), (DELETED, "{}/a/b/c")),
    ),
    "two changes": (
        [("set_data", "{}/a", b"", -1)] * 2,
        told(NODE, *[(CHANGED, "{}/a")] * 2) | told(("exists", "get_data"), (CHANGED, "{}/a")),
    ),
    "made anew": (
        [("delete", "{}/a", -1), ("create", "{}/a", *DATA)],
        told(ONE_SHOT, (DELETED, "{}/a")) | told(("persistent", *BELOW), (DELETED, "{}/a"), (CREATED, "{}/a")),
    ),
    "a neighbour whose name begins alike": (
        [("create", "{}/ab", *DATA), ("set_data", "{}/ab", b"", -1)],
        {"recursive above": [(CREATED, "{}/ab"), (CHANGED, "{}/ab")]},
    ),
    "a transaction": (
        [
            (
                "multi",
                CreatePart(Op.CREATE, "{}/a/b", *DATA),
                SetDataPart("{}/a", b"", -1),
                DeletePart("{}/a/b", -1),
                CheckPart("{}/a", 1),
                DeletePart("{}/a", -1),
            )
        ],
        told(("exists", "get_data"), (CHANGED, "{}/a"))
        | told(("get_children", "get_children2"), (CHILDREN, "{}/a"))
        | {"persistent": [(CHILDREN, "{}/a"), (CHANGED, "{}/a"), (CHILDREN, "{}/a"), (DELETED, "{}/a")]}
        | told(BELOW, (CREATED, "{}/a/b"), (CHANGED, "{}/a"), (DELETED, "{}/a/b"), (DELETED, "{}/a")),
    ),
    "a transaction that is refused": (
        [("multi", SetDataPart("{}/a", b"", -1), DeletePart("{}/a", -1), CheckPart("{}/a", 0))],
        {},
    ),
}
"""What somebody does, and who hears what of it."""


def below(root: str, call: Any) -> Any:
    if isinstance(call, str):
        return call.format(root)
    if isinstance(call, list):
        return [below(root, each) for each in call]
    if isinstance(call, tuple):
        return type(call)(*below(root, list(call))) if hasattr(call, "_fields") else tuple(below(root, list(call)))
    return call


def heard(root: str, events: list[tuple[EventType, str]]) -> list[Event]:
    return [Event(event, path.format(root)) for event, path in events]


@pytest.mark.parametrize("act", ACTS)
async def test_who_hears_what(peer: Peer, other: Peer, root: str, act: str) -> None:
    """Each kind of watch for itself, on a node of its own."""
    calls, expected = ACTS[act]
    for number, (name, watch) in enumerate(WATCHES.items()):
        path = f"{root}/{number}"
        await other.do("create", path, *DATA)
        await other.do("create", f"{path}/a", *DATA)
        await peer.do(*below(path, watch))
        for call in calls:
            await other.ask(*below(path, call))
        assert await peer.events() == heard(path, expected.get(name, [])), name


async def test_who_watches_a_node_that_is_not_there(peer: Peer, other: Peer, root: str) -> None:
    watches = {
        "exists": [(CREATED, "{}/a")],
        "get_data": [],
        "get_children": [],
        "get_children2": [],
        "persistent": [(CREATED, "{}/a"), (CHANGED, "{}/a"), (DELETED, "{}/a")],
        "recursive": [(CREATED, "{}/a"), (CHANGED, "{}/a"), (DELETED, "{}/a")],
    }
    for number, (name, events) in enumerate(watches.items()):
        path = f"{root}/{number}"
        await other.do("create", path, *DATA)
        code = await peer.refused(*below(path, WATCHES[name]))
        assert code == (0 if name in ("persistent", "recursive") else -101)
        await other.do("create", f"{path}/a", *DATA)
        await other.do("set_data", f"{path}/a", b"", -1)
        await other.do("delete", f"{path}/a", -1)
        assert await peer.events() == heard(path, events), name


async def test_who_may_not_read_watches_nothing(peer: Peer, other: Peer, root: str) -> None:
    await other.do("create", f"{root}/a", b"", UNREADABLE, 0)
    for name in ("get_data", "get_children", "get_children2"):
        assert await peer.refused(name, f"{root}/a", True) == -102
    await other.do("set_acl", f"{root}/a", OPEN_ACL_UNSAFE, -1)
    await other.do("set_data", f"{root}/a", b"", -1)
    await other.do("create", f"{root}/a/b", *DATA)
    assert await peer.events() == []


async def test_a_deletion_is_one_event_and_takes_both_watches(peer: Peer, other: Peer, root: str) -> None:
    await other.do("create", f"{root}/a", *DATA)
    for name in ONE_SHOT:
        await peer.do(name, f"{root}/a", True)
    await other.do("delete", f"{root}/a", -1)
    assert await peer.events() == [(DELETED, f"{root}/a")]
    await other.do("create", f"{root}/a", *DATA)
    await other.do("create", f"{root}/a/b", *DATA)
    await other.do("set_data", f"{root}/a", b"", -1)
    assert await peer.events() == []


async def test_everybody_hears_it_and_nobody_twice(peers: Peers, other: Peer, root: str) -> None:
    watchers = [await peers() for _ in range(3)]
    for watcher in watchers:
        for _ in range(2):
            await watcher.do("get_data", root, True)
            await watcher.do("exists", root, True)
    await other.do("set_data", root, b"", -1)
    await other.do("set_data", root, b"", -1)
    assert [await watcher.events() for watcher in watchers] == [[(CHANGED, root)]] * 3


async def test_the_end_of_a_session_is_heard_as_deletions(peers: Peers, peer: Peer, root: str) -> None:
    owner = await peers()
    await owner.do("create", f"{root}/e", *EPHEMERAL)
    await peer.do("get_children", root, True)
    await peer.do("exists", f"{root}/e", True)
    await owner.close_session()
    assert await peer.events() == [(DELETED, f"{root}/e"), (CHILDREN, root)]


async def test_nodes_with_children_below_a_recursive_watch(peer: Peer, other: Peer, root: str) -> None:
    """One that is on the root hears of everything, and of lists of children never."""
    await peer.do("add_watch", "/", RECURSIVE)
    await other.do("create", f"{root}/a", *DATA)
    await peer.do("get_children", root, True)
    await other.do("create", f"{root}/b", *DATA)
    ours = [event for event in await peer.events() if event.path.startswith(root)]
    assert ours == [(CREATED, f"{root}/a"), (CREATED, f"{root}/b"), (CHILDREN, root)]
    await peer.do("remove_watches", "/", WatcherType.ANY)


# --- order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_own", [False, True])
async def test_an_event_comes_before_the_answer_that_shows_the_change(
    peer: Peer, other: Peer, root: str, is_own: bool
) -> None:
    for call, event in (
        (("set_data", root, b"", -1), CHANGED),
        (("create", f"{root}/a", *DATA), CHILDREN),
        (("multi", DeletePart(f"{root}/a", -1)), CHILDREN),
    ):
        await peer.do("get_data", root, True)
        await peer.do("get_children", root, True)
        await (peer if is_own else other).do(*call)
        if not is_own:
            await peer.do("exists", root, False)
        assert peer.heard == [(event, root)]
        peer.heard.clear()


async def test_events_of_a_transaction_come_in_the_order_of_its_parts_and_with_its_zxid(
    server: Subject, peer: Peer, other: Peer, root: str
) -> None:
    await other.do("create", f"{root}/old", *DATA)
    await peer.ask("exists", f"{root}/new", True)
    await peer.do("get_data", root, True)
    await peer.do("get_data", f"{root}/old", True)
    await peer.do("get_children", root, True)
    parts = [
        DeletePart(f"{root}/old", -1),
        CreatePart(Op.CREATE, f"{root}/new", *DATA),
        SetDataPart(root, b"", -1),
        CreatePart(Op.CREATE, f"{root}/third", *DATA),
    ]
    answer = await other.do("multi", *parts)
    await peer.do("exists", root, False)
    assert peer.heard == [(DELETED, f"{root}/old"), (CHILDREN, root), (CREATED, f"{root}/new"), (CHANGED, root)]
    assert set(peer.zxids) == {answer.zxid if server.features.zxid_in_events else -1}


async def test_a_watch_that_is_set_behind_a_change_in_the_same_breath_does_not_hear_it(peer: Peer, root: str) -> None:
    """Requests that are sent together are done in their order."""
    xids = [
        ("set_data", peer.put("set_data", root, b"1", -1)),
        ("get_data", peer.put("get_data", root, True)),
        ("create", peer.put("create", f"{root}/a", *DATA)),
        ("set_data", peer.put("set_data", root, b"2", -1)),
        ("get_data", peer.put("get_data", root, False)),
    ]
    answers = [await peer.take(name, xid) for name, xid in xids[:3]]
    assert answers[1].said["data"] == b"1"
    assert peer.heard == []
    await peer.take(*xids[3])
    assert peer.heard == [(CHANGED, root)]
    assert (await peer.take(*xids[4])).said["data"] == b"2"


# --- who may not read ---------------------------------------------------------------------------------------------


async def test_an_event_of_what_may_not_be_read_is_lost_and_its_watch_is_gone(
    peers: Peers, peer: Peer, other: Peer, root: str
) -> None:
    stays = await peers()
    await stays.do("add_watch", root, RECURSIVE)
    await peer.do("get_data", root, True)
    await peer.do("get_children", root, True)
    await other.do("set_acl", root, UNREADABLE, -1)
    await other.do("set_data", root, b"", -1)
    # What counts is the ACL of the node itself, be it a new one or one that is gone.
    await other.do("create", f"{root}/a", *DATA)
    await other.do("create", f"{root}/secret", b"", UNREADABLE, 0)
    await other.do("delete", f"{root}/secret", -1)
    assert await peer.events() == []
    assert await stays.events() == [(CREATED, f"{root}/a")]
    await other.do("set_acl", root, OPEN_ACL_UNSAFE, -1)
    await other.do("set_data", root, b"", -1)
    await other.do("create", f"{root}/b", *DATA)
    assert await peer.events() == []
    assert await stays.events() == [(CHANGED, root), (CREATED, f"{root}/b")]


async def test_identities_of_the_connection_count_when_the_change_comes(peer: Peer, other: Peer, root: str) -> None:
    assert await other.authenticate("digest", b"bob:secret") == 0
    await peer.do("add_watch", root, PERSISTENT)
    await other.do("set_acl", root, (ACL(31, "auth", ""),), -1)
    await other.do("set_data", root, b"", -1)
    assert await peer.events() == []
    assert await peer.authenticate("digest", b"bob:secret") == 0
    await other.do("set_data", root, b"", -1)
    assert await peer.events() == [(CHANGED, root)]


# --- several watches on one path ----------------------------------------------------------------------------------


async def test_a_one_shot_watch_beside_a_persistent_one(server: Subject, peer: Peer, other: Peer, root: str) -> None:
    """Before 3.9 it takes its place, and is gone after the first event: that half hears no more."""
    await peer.do("add_watch", root, PERSISTENT)
    await peer.do("get_data", root, True)
    for _ in range(3):
        await other.do("set_data", root, b"", -1)
    await other.do("create", f"{root}/a", *DATA)
    await other.do("create", f"{root}/b", *DATA)
    changes = 3 if server.features.many_modes else 1
    assert await peer.events() == [(CHANGED, root)] * changes + [(CHILDREN, root)] * 2


async def test_both_persistent_modes_on_one_path(server: Subject, peer: Peer, other: Peer, root: str) -> None:
    await peer.do("add_watch", root, PERSISTENT)
    await peer.do("add_watch", root, RECURSIVE)
    await other.do("create", f"{root}/a", *DATA)
    await other.do("set_data", root, b"", -1)
    hidden = [(CHILDREN, root)] if server.features.many_modes else []
    assert await peer.events() == [(CREATED, f"{root}/a"), *hidden, (CHANGED, root)]
    await peer.do("add_watch", root, PERSISTENT)
    await other.do("set_data", f"{root}/a", b"", -1)
    await other.do("delete", f"{root}/a", -1)
    below = [(CHANGED, f"{root}/a"), (DELETED, f"{root}/a")] if server.features.many_modes else []
    assert await peer.events() == [*below, (CHILDREN, root)]


async def test_a_recursive_watch_that_a_one_shot_one_replaced(
    server: Subject, peer: Peer, other: Peer, root: str
) -> None:
    """Before 3.9 what is left of it hears of deletions below."""
    await peer.do("add_watch", root, RECURSIVE)
    assert await peer.refused("exists", root, True) == 0
    await other.do("create", f"{root}/a", *DATA)
    await other.do("delete", f"{root}/a", -1)
    gone = (DELETED, f"{root}/a")
    assert await peer.events() == [(CREATED, f"{root}/a"), gone] if server.features.many_modes else [gone]


# --- checking and removing ----------------------------------------------------------------------------------------

FOUND: Final = {
    "exists": {WatcherType.DATA, WatcherType.ANY},
    "get_data": {WatcherType.DATA, WatcherType.ANY},
    "get_children": {WatcherType.CHILDREN, WatcherType.ANY},
    "get_children2": {WatcherType.CHILDREN, WatcherType.ANY},
    "persistent": {WatcherType.PERSISTENT, WatcherType.ANY},
    "recursive": {WatcherType.PERSISTENT_RECURSIVE, WatcherType.ANY},
}
FOUND_BEFORE_3_9: Final = FOUND | {
    name: {WatcherType.CHILDREN, WatcherType.DATA, WatcherType.ANY} for name in ("persistent", "recursive")
}


@pytest.mark.parametrize("name", FOUND)
async def test_which_types_mean_which_watch(server: Subject, peer: Peer, other: Peer, root: str, name: str) -> None:
    types = list(WatcherType) if server.features.persistent_watcher_types else list(WatcherType)[:3]
    expected = (FOUND if server.features.many_modes else FOUND_BEFORE_3_9)[name]
    for kind in types:
        path = f"{root}/{kind.name}"
        await other.do("create", path, *DATA)
        await other.do("create", f"{path}/a", *DATA)
        await peer.do(*below(path, WATCHES[name]))
        codes = [await peer.refused("check_watches", f"{path}/a", kind) for _ in range(2)]
        codes += [await peer.refused("remove_watches", f"{path}/a", kind) for _ in range(2)]
        assert codes == ([0, 0, 0, -121] if kind in expected else [-121] * 4), kind
        await other.do("set_data", f"{path}/a", b"", -1)
        await other.do("create", f"{path}/a/b", *DATA)
        events = await peer.events()
        assert events != [] or kind in expected
        assert events == [] or kind is not WatcherType.ANY


async def test_removing_one_kind_leaves_the_others(server: Subject, peer: Peer, other: Peer, root: str) -> None:
    await peer.do("get_data", root, True)
    await peer.do("get_children", root, True)
    await peer.do("remove_watches", root, WatcherType.DATA)
    await other.do("set_data", root, b"", -1)
    await other.do("create", f"{root}/a", *DATA)
    assert await peer.events() == [(CHILDREN, root)]
    if server.features.many_modes:
        await peer.do("get_data", root, True)
        await peer.do("add_watch", root, PERSISTENT)
        await peer.do("add_watch", root, RECURSIVE)
        await peer.do("remove_watches", root, WatcherType.PERSISTENT)
        await peer.do("remove_watches", root, WatcherType.DATA)
        await other.do("create", f"{root}/b", *DATA)
        await other.do("set_data", root, b"", -1)
        assert await peer.events() == [(CREATED, f"{root}/b"), (CHANGED, root)]


async def test_watches_of_others_are_not_removed(server: Subject, peer: Peer, other: Peer, root: str) -> None:
    """3.8 finds them all the same when it is asked."""
    await other.do("get_data", root, True)
    for path in (root, f"{root}/a"):
        assert await peer.refused("remove_watches", path, WatcherType.ANY) == -121
    found = -121 if server.features.own_watches_checked else 0
    assert await peer.refused("check_watches", root, WatcherType.DATA) == found
    assert await peer.refused("check_watches", root, WatcherType.CHILDREN) == -121
    await peer.do("set_data", root, b"", -1)
    assert await other.events() == [(CHANGED, root)]


async def test_a_recursive_watch_above_is_not_found_below(peer: Peer, root: str) -> None:
    await peer.do("add_watch", root, RECURSIVE)
    assert await peer.refused("check_watches", f"{root}/a", WatcherType.ANY) == -121
    assert await peer.refused("remove_watches", f"{root}/a", WatcherType.ANY) == -121
