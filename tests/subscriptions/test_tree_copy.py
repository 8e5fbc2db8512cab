"""The copy: nodes behind their parents, and what is told of a change."""

from __future__ import annotations

from everlatch import TreeChangeKind
from everlatch.paths import parent
from everlatch.subscriptions.tree_copy import TreeCopy
from subscriptions.trees import node

CREATED, CHANGED, DELETED = TreeChangeKind.CREATED, TreeChangeKind.CHANGED, TreeChangeKind.DELETED


def copy_of(*paths, root="/a"):
    copy = TreeCopy(root)
    for number, path in enumerate(paths, 1):
        copy.put(path, parent(path), node(number))
    copy.tell = (told := []).append
    return copy, told


def test_names_are_sorted():
    copy, _ = copy_of("/a", "/a/c", "/a/b", "/a/b/x")
    assert copy.names("/a") == ["b", "c"]
    assert copy.names("/a/b") == ["x"]
    assert copy.names("/a/c") == copy.names("/nowhere") == []


def test_names_below_the_root_of_all():
    copy, _ = copy_of("/", "/b", "/a", "/a/x", root="/")
    assert copy.names("/") == ["a", "b"]
    copy.take_out("/a")
    assert copy.names("/") == ["b"]
    assert list(copy.nodes) == ["/", "/b"]


def test_what_is_below_goes_first():
    copy, told = copy_of("/a", "/a/b", "/a/b/c", "/a/d")
    assert set(copy.take_out("/a")) == {"/a", "/a/b", "/a/b/c", "/a/d"}
    assert {change.kind for change in told} == {DELETED}
    order = [change.path for change in told]
    assert order.index("/a/b/c") < order.index("/a/b") < order.index("/a")
    assert not copy.nodes
    assert copy.names("/a") == []
    assert copy.take_out("/a") == []


def test_a_state_that_is_the_same_is_not_told():
    copy, told = copy_of("/a")
    copy.put("/a", "/", node(1, children=5))
    assert told == []
    assert copy.nodes["/a"].stat.num_children == 5
    copy.put("/a", "/", node(1, 2))
    copy.put("/a", "/", node(3))
    assert [(change.kind, change.previous, change.node) for change in told] == [
        (CHANGED, node(1, children=5), node(1, 2)),
        (CHANGED, node(1, 2), node(3)),
    ]


def test_a_state_of_another_history_is_another_one():
    copy, told = copy_of("/a")
    same_zxids = node(1)
    copy.put("/a", "/", same_zxids._replace(stat=same_zxids.stat._replace(ctime=77)))
    assert [change.kind for change in told] == [CHANGED]


def test_a_deep_tree_needs_no_deep_stack():
    paths = ["/a"]
    for _ in range(5000):
        paths.append(paths[-1] + "/b")
    copy, told = copy_of(*paths)
    assert len(copy.take_out("/a")) == len(told) == 5001
