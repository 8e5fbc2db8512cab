"""What waits for a slow reader: one change for each path, in an order in which nodes come behind their parents."""

from __future__ import annotations

import random

import pytest

from everlatch import TreeChange, TreeChangeKind
from everlatch.paths import parent
from everlatch.subscriptions.tree_changes import PendingChanges
from everlatch.subscriptions.tree_copy import TreeCopy
from subscriptions.trees import node

CREATED, CHANGED, DELETED = TreeChangeKind.CREATED, TreeChangeKind.CHANGED, TreeChangeKind.DELETED
READY, RESET, UNREADABLE = TreeChangeKind.READY, TreeChangeKind.RESET, TreeChangeKind.UNREADABLE


def pending(*changes, most=100):
    waiting = PendingChanges("/", most)
    for change in changes:
        waiting.append(change)
    return waiting


def drained(waiting):
    return [waiting.popleft() for _ in range(len(waiting))]


def kinds(waiting):
    return [(change.kind, change.path) for change in drained(waiting)]


OLD, NEW, OTHER = node(1), node(1, 2), node(3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([(CREATED, OLD, None), (CHANGED, NEW, OLD)], [(CREATED, NEW, None)]),
        ([(CHANGED, NEW, OLD), (CHANGED, OTHER, NEW)], [(CHANGED, OTHER, OLD)]),
        ([(CREATED, OLD, None), (DELETED, None, OLD)], []),
        ([(CHANGED, NEW, OLD), (DELETED, None, NEW)], [(DELETED, None, OLD)]),
        ([(DELETED, None, OLD), (CREATED, OTHER, None)], [(CHANGED, OTHER, OLD)]),
        ([(UNREADABLE, None, OLD), (CREATED, OLD, None)], []),
        ([(UNREADABLE, None, None), (CREATED, OLD, None)], [(CREATED, OLD, None)]),
        ([(CREATED, OLD, None), (UNREADABLE, None, OLD)], [(UNREADABLE, None, None)]),
    ],
)
def test_changes_of_one_path_become_one(changes, told):
    waiting = pending(*(TreeChange(kind, "/a", now, before) for kind, now, before in changes))
    assert [(change.kind, change.node, change.previous) for change in drained(waiting)] == told


def test_while_ready_is_not_read_nothing_else_waits():
    waiting = pending(TreeChange(UNREADABLE, "/", None, None), TreeChange(READY, "/", None, None))
    waiting.append(TreeChange(CREATED, "/a", OLD, None))
    assert kinds(waiting) == [(READY, "/")]
    waiting.append(TreeChange(CREATED, "/a", OLD, None))
    assert kinds(waiting) == [(CREATED, "/a")]


def test_too_many_become_one_reset():
    waiting = pending(*(TreeChange(CREATED, f"/{number}", OLD, None) for number in range(3)), most=3)
    assert len(waiting) == 3
    for number in range(1000):
        waiting.append(TreeChange(CREATED, f"/more{number}", OLD, None))
    assert kinds(waiting) == [(RESET, "/")]


def test_what_was_reset_and_cleared_is_told_anew():
    waiting = pending(TreeChange(RESET, "/", None, None))
    waiting.clear()
    waiting.append(TreeChange(CREATED, "/a", OLD, None))
    assert kinds(waiting) == [(CREATED, "/a")]


def change_at_random(copy, rng, zxid):
    """A node comes, changes, or goes with all below it."""
    paths = list(copy.nodes)
    if not paths:
        copy.put("/", "/", node(zxid))
        return
    path = rng.choice(paths)
    way = rng.random()
    if way < 0.5:
        name = rng.choice("abc")
        child = f"/{name}" if path == "/" else f"{path}/{name}"
        if child not in copy.nodes and path.count("/") < 4:
            copy.put(child, path, node(zxid))
    elif way < 0.7:
        before = copy.nodes[path]
        copy.put(path, parent(path), node(before.stat.czxid if rng.random() < 0.5 else zxid, zxid))
    else:
        copy.take_out(path, PermissionError() if rng.random() < 0.2 else None)


@pytest.mark.parametrize("most", [4, 1000])
def test_a_reader_of_any_pace_ends_with_the_copy(most):
    for seed in range(60):
        rng = random.Random(seed)
        waiting, copy, known = PendingChanges("/", most), TreeCopy("/"), {}
        copy.tell = waiting.append
        pace = rng.choice([0.05, 0.5])
        for zxid in range(1, 150):
            change_at_random(copy, rng, zxid)
            assert len(waiting) <= most
            while len(waiting) and rng.random() < pace:
                take(waiting, copy, known)
        while len(waiting):
            take(waiting, copy, known)
        assert known == copy.nodes


def take(waiting, copy, known):
    """As a user does who keeps a copy of his own."""
    change = waiting.popleft()
    if change.kind is RESET:
        known.clear()
        known.update(copy.nodes)
        return
    if change.kind is not UNREADABLE or change.previous is not None:
        assert known.get(change.path) == change.previous
    if change.node is None:
        assert not any(parent(path) == change.path != path for path in known)
        known.pop(change.path, None)
    else:
        assert change.path == "/" or parent(change.path) in known
        known[change.path] = change.node
