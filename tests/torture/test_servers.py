"""What makes a round on real servers one that can't be judged, and what doesn't."""

from __future__ import annotations

from torture.history import CREATE, SET, Applied, Call, Change, Ending, History
from torture.servers import differences, fault_of
from torture.txnlog import Logs

from everlatch.types import Node, Stat

STAT = Stat(5, 7, 0, 0, 1, 0, 0, 0, 1, 0, 5)
TREE = {"/t": Node(b"", STAT), "/t/a": Node(b"1", STAT), "/t/b": Node(b"2", STAT)}
NOTHING_LOST = Logs([], {})


def without(path):
    return {other: node for other, node in TREE.items() if other != path}


def test_servers_that_hold_the_same_have_no_fault():
    trees = dict.fromkeys(["server-1", "server-2", "server-3"], TREE)
    assert differences(trees) == []
    assert fault_of(History(), NOTHING_LOST, trees) == ""


def test_that_the_log_has_something_else_than_all_servers_is_none_of_theirs():
    # Then our reading of it is wrong, or nobody knows: the judge tells.
    history = History(log=[Applied(9, (Change(CREATE, "/t/c", b""),))], final=TREE)
    assert fault_of(history, Logs(history.log, {}), {"server-1": TREE, "server-2": TREE}) == ""


def test_the_one_that_differs_is_named_with_its_node():
    trees = {"server-1": TREE, "server-2": without("/t/b"), "server-3": TREE}
    assert differences(trees) == [f"/t/b: server-2 has None, the others {TREE['/t/b']}"]
    assert fault_of(History(), NOTHING_LOST, trees) == f"the servers differ: {differences(trees)[0]}"


def test_a_node_that_one_has_and_the_others_have_not():
    trees = {"server-1": TREE, "server-2": without("/t/b"), "server-3": without("/t/b")}
    assert differences(trees) == [f"/t/b: server-1 has {TREE['/t/b']}, the others None"]


def test_a_stat_makes_a_difference():
    other = TREE | {"/t/a": Node(b"1", STAT._replace(cversion=1))}
    assert differences({"server-1": TREE, "server-2": other, "server-3": TREE}) == [
        f"/t/a: server-2 has {other['/t/a']}, the others {TREE['/t/a']}"
    ]


def test_without_a_majority_all_are_named():
    trees = {"server-1": TREE, "server-2": without("/t/a")}
    assert differences(trees) == [f"/t/a: server-1 has {TREE['/t/a']}, server-2 has None"]


def test_of_many_differences_a_few_are_told():
    trees = {"server-1": {f"/t/{number}": TREE["/t"] for number in range(9)}, "server-2": {}, "server-3": {}}
    assert len(differences(trees)) == 9
    assert fault_of(History(), NOTHING_LOST, trees).endswith("; and 4 more")


def test_acknowledged_writes_that_are_no_longer_valid_are_lost():
    call = Call(1, 1, SET, "/t/a")
    call.ending, call.result = Ending.OK, STAT
    history = History(calls={1: [call]})
    others = {STAT.mzxid: Applied(STAT.mzxid, (Change(SET, "/t/a", call.value),))}
    reason = fault_of(history, Logs([], others), {"server-1": TREE})
    assert reason == f"the servers have lost 1 acknowledged writes, from 0x7 on: {call}"
    call.ending = Ending.UNKNOWN
    assert fault_of(history, Logs([], others), {"server-1": TREE}) == ""
