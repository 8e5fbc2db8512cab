"""What is read, and read again: against a tree that changes at any moment, with answers and events in one stream."""

from __future__ import annotations

import random
from collections import deque

import pytest

from everlatch import Children, EventType, NoAuthError, ReplyTooLargeError, TreeChangeKind
from everlatch.paths import parent
from everlatch.subscriptions.tree_copy import TreeCopy
from everlatch.subscriptions.tree_reader import ReadKind, TreeReader
from subscriptions.trees import node

PATHS = ("/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/e", "/a/e/b")
NODE, CHILDREN, LOOK, AWAIT = ReadKind.NODE, ReadKind.CHILDREN, ReadKind.LOOK, ReadKind.AWAIT


class Peer:
    """A server and the connection to it: requests and what comes back are in their order, and can be lost."""

    def __init__(self, rng, *, one_shot, max_depth=None, is_wanted=None):
        self.rng, self.zxid, self.tree = rng, 0, {}
        self.closed = set()
        """Paths that may not be read."""
        self.data_watches, self.child_watches = set(), set()
        self.requests, self.stream = deque(), deque()
        self.copy = TreeCopy("/a")
        self.let_go = []
        self.reader = TreeReader(self.copy, max_depth, is_wanted, self._leave)
        self.reader.is_one_shot = one_shot
        self.history = {path: [None] for path in PATHS}
        self.shown = {path: [None] for path in PATHS}

    def _leave(self, path):
        self.data_watches.discard(path)
        self.child_watches.discard(path)

    # -- the server

    def write(self):
        rng, path = self.rng, self.rng.choice(PATHS)
        self.zxid += 1
        way = rng.random()
        if way < 0.5:
            if path in self.tree:
                self._set(path)
            elif path == "/a" or parent(path) in self.tree:
                self._create(path)
        elif way < 0.75:
            self._delete(path)
        else:
            for gone in self._delete(path)[::-1]:  # in one transaction
                if rng.random() < 0.7 and (gone == "/a" or parent(gone) in self.tree):
                    self._create(gone)
        self.note()

    def note(self):
        for each in PATHS:
            now = self.tree.get(each)
            if self.history[each][-1] != now:
                self.history[each].append(now)

    def _create(self, path):
        self.tree[path] = node(self.zxid)
        self._tell(EventType.CREATED, path)

    def _set(self, path):
        self.tree[path] = node(self.tree[path].stat.czxid, self.zxid)
        self._tell(EventType.DATA_CHANGED, path)

    def _delete(self, path):
        gone = [each for each in reversed(PATHS) if each == path or each.startswith(f"{path}/")]
        gone = [each for each in gone if each in self.tree]
        for each in gone:
            del self.tree[each]
            self._tell(EventType.DELETED, each)
        return gone

    def _tell(self, event, path):
        if not self.reader.is_one_shot:
            self.stream.append((event, path))
            return
        was_watched = path in self.data_watches or (event is EventType.DELETED and path in self.child_watches)
        self.data_watches.discard(path)
        if event is EventType.DELETED:
            self.child_watches.discard(path)
        if was_watched:
            self.stream.append((event, path))
        if event is not EventType.DATA_CHANGED and parent(path) in self.child_watches:
            self.child_watches.discard(parent(path))
            self.stream.append((EventType.CHILDREN_CHANGED, parent(path)))

    def answer(self):
        if not self.requests:
            return
        kind, path = self.requests.popleft()
        found, watches = self.tree.get(path), self.reader.is_one_shot and kind is not LOOK
        if found is not None and path in self.closed:
            self.stream.append(((kind, path), NoAuthError("read", path)))
            return
        if watches and (found is not None or kind is AWAIT):
            (self.child_watches if kind is CHILDREN else self.data_watches).add(path)
        names = [each.rpartition("/")[2] for each in self.tree if parent(each) == path]
        if found is not None:
            found = node(found.stat.czxid, found.stat.mzxid, children=len(names))
        if found is not None and kind in (CHILDREN, LOOK):
            found = Children(self.rng.sample(names, len(names)), found.stat)
        self.stream.append(((kind, path), found))

    # -- the client

    def send(self):
        read = self.reader.next_read() if len(self.requests) < 3 else None
        if read is not None:
            self.requests.append(read)
        return read

    def deliver(self):
        if not self.stream:
            return
        what, told = self.stream.popleft()
        if isinstance(what, EventType):
            self.reader.changed(what, told)
        else:
            self.take(what, told)
        for path in PATHS:
            now = self.copy.nodes.get(path)
            now = now and node(now.stat.czxid, now.stat.mzxid)
            if self.shown[path][-1] != now:
                self.shown[path].append(now)

    def take(self, read, answer):
        kind, path = read
        reader = self.reader
        if isinstance(answer, Exception):
            reader.refuse(read, answer)
        elif answer is None:
            reader.missing(read)
        elif kind is NODE:
            reader.read(path, answer)
        elif kind is CHILDREN:
            reader.listed(path, answer)
        elif kind is LOOK:
            names = answer.names if reader.has_children(path) else None
            reader.looked_at(path, names, answer.stat)
        else:
            reader.not_read((NODE, path))

    def lose(self):
        """The connection: events and answers that were under way are gone, requests are made again."""
        lost = [what for what, _ in self.stream if not isinstance(what, EventType)]
        for what, path in self.stream:
            if isinstance(what, EventType):  # the client still has these watches, if there were any
                watches = self.child_watches if what is EventType.CHILDREN_CHANGED else self.data_watches
                watches.add(path)
        self.stream.clear()
        self.requests.extendleft(reversed(lost))
        if self.reader.is_one_shot:  # the servers tell of what has changed meanwhile; here: of everything
            for path in list(self.data_watches):
                self.stream.append((EventType.DATA_CHANGED if path in self.tree else EventType.DELETED, path))
            for path in list(self.child_watches):
                self.stream.append((EventType.CHILDREN_CHANGED if path in self.tree else EventType.DELETED, path))
            self.data_watches.clear()
            self.child_watches.clear()
        else:
            self.reader.missed()

    def settle(self):
        for _ in range(1000):
            self.answer()
            self.deliver()
            if not self.send() and not self.requests and not self.stream:
                assert self.reader.is_settled
                return
        raise AssertionError("there is no end to reading")

    def expected(self, belongs):
        readable = {}
        for path in PATHS:
            is_reachable = path == "/a" or parent(path) in readable
            if is_reachable and path in self.tree and path not in self.closed and belongs(path):
                readable[path] = self.tree[path]
        return readable

    def judge(self, belongs=lambda _: True):
        found = {path: node(each.stat.czxid, each.stat.mzxid) for path, each in self.copy.nodes.items()}
        assert found == self.expected(belongs)
        for path, states in self.shown.items():
            past = iter(self.history[path])
            assert all(any(state == was for was in past) for state in states), path


def ways(rng):
    return rng.choices(("write", "send", "answer", "deliver"), (1, rng.choice([1, 3]), 3, rng.choice([1, 3])), k=1)[0]


@pytest.mark.parametrize("one_shot", [False, True], ids=["recursive", "one-shot"])
def test_the_copy_ends_as_the_tree_and_goes_through_what_was(one_shot):
    for seed in range(150):
        peer = Peer(random.Random(seed), one_shot=one_shot)
        for step in range(300):
            getattr(peer, ways(peer.rng))()
            if step % 60 == 59 and seed % 2:
                peer.lose()
        peer.settle()
        peer.judge()


@pytest.mark.parametrize("one_shot", [False, True], ids=["recursive", "one-shot"])
def test_part_of_a_tree(one_shot):
    def wanted(path):
        return not path.endswith("/c")

    for seed in range(40):
        max_depth = seed % 3
        peer = Peer(random.Random(seed), one_shot=one_shot, max_depth=max_depth, is_wanted=wanted)
        for _ in range(200):
            getattr(peer, ways(peer.rng))()
        peer.settle()
        peer.judge(lambda path, most=max_depth: path.count("/") - 1 <= most and "/c" not in path)


def test_what_can_t_be_read_is_left_out_until_it_can():
    for seed in range(40):
        peer = Peer(random.Random(seed), one_shot=False)
        peer.copy.tell = (told := []).append
        for step in range(200):
            getattr(peer, ways(peer.rng))()
            if step % 50 == 25:
                peer.closed = {peer.rng.choice(PATHS)}  # which nobody is told of
                peer.reader.sweep()
                peer.reader.may_look = 100
            if step % 20 == 0:
                peer.reader.retry()
        peer.reader.missed()
        peer.settle()
        assert set(peer.copy.nodes) == set(peer.expected(lambda _: True))
        assert set(peer.reader.unreadable()) <= peer.closed
        peer.closed = set()
        peer.reader.retry()
        peer.settle()
        assert set(peer.copy.nodes) == set(peer.tree)
        assert peer.reader.unreadable() == {}
        assert all(change.error is not None for change in told if change.kind is TreeChangeKind.UNREADABLE)


def small(*paths, one_shot=False, **options):
    """A peer with these nodes, and the copy of them."""
    peer = Peer(random.Random(0), one_shot=one_shot, **options)
    for path in paths:
        peer.zxid += 1
        peer._create(path)
    peer.note()
    peer.stream.clear()
    peer.settle()
    return peer


def reads(peer):
    found = []
    while (read := peer.reader.next_read()) is not None:
        found.append(read)
    return found


def test_each_node_is_read_once_and_leaves_are_not_listed():
    peer = Peer(random.Random(0), one_shot=False)
    for path in ("/a", "/a/b", "/a/e"):
        peer.zxid += 1
        peer._create(path)
    peer.stream.clear()
    seen = []
    while (read := peer.reader.next_read()) is not None:
        seen.append(read)
        peer.requests.append(read)
        peer.answer()
        peer.deliver()
    assert seen == [(NODE, "/a"), (CHILDREN, "/a"), (NODE, "/a/b"), (NODE, "/a/e")]


def test_one_change_is_one_read():
    peer = small("/a", "/a/b")
    peer.reader.changed(EventType.DATA_CHANGED, "/a/b")
    peer.reader.changed(EventType.DATA_CHANGED, "/a/b")
    assert reads(peer) == [(NODE, "/a/b")]
    peer.reader.changed(EventType.DATA_CHANGED, "/a/b")
    peer.reader.changed(EventType.DATA_CHANGED, "/a/b")
    assert reads(peer) == []
    peer.reader.read("/a/b", node(2, 7))
    assert peer.copy.nodes["/a/b"] == node(2, 7)
    assert reads(peer) == [(NODE, "/a/b")]


def test_when_something_may_have_been_missed_each_node_is_looked_at_once():
    peer = small("/a", "/a/b", "/a/e")
    peer.reader.missed()
    assert not peer.reader.is_settled
    assert reads(peer) == [(LOOK, "/a"), (LOOK, "/a/b"), (LOOK, "/a/e")]
    for path, names in (("/a", ["b", "e"]), ("/a/b", []), ("/a/e", [])):
        peer.reader.looked_at(path, names, peer.copy.nodes[path].stat)
    assert peer.reader.is_settled
    assert reads(peer) == []


def test_a_sweep_looks_at_as_many_as_it_may():
    peer = small("/a", "/a/b", "/a/e")
    peer.reader.sweep()
    assert peer.reader.is_settled
    assert peer.reader.next_read() is None
    peer.reader.may_look = 2
    assert reads(peer) == [(LOOK, "/a"), (LOOK, "/a/b")]
    assert peer.reader.is_sweeping
    peer.reader.looked_at("/a", ["b", "e"], peer.copy.nodes["/a"].stat)
    assert not peer.reader.has_found_untold
    peer.reader.looked_at("/a/b", [], node(2, 9).stat)
    assert peer.reader.has_found_untold
    assert (NODE, "/a/b") in reads(peer)


def test_events_of_what_is_left_out_are_ignored():
    peer = small("/a", "/a/b", is_wanted=lambda path: path != "/a/b", max_depth=1)
    assert list(peer.copy.nodes) == ["/a"]
    for path in ("/a/b", "/a/b/c", "/a/e/b", "/elsewhere"):
        peer.reader.changed(EventType.CREATED, path)
    peer.reader.changed(EventType.DELETED, "/a/e")
    assert reads(peer) == []


def test_a_filter_that_raises_leaves_the_node_out_and_is_asked_again():
    mood = [ZeroDivisionError("no")]

    def wanted(path):
        if mood:
            raise mood[0]
        return True

    peer = small("/a", "/a/b", "/a/b/c", is_wanted=wanted)
    assert list(peer.copy.nodes) == ["/a"]
    assert peer.reader.unreadable() == {"/a/b": mood[0]}
    mood.clear()
    peer.reader.retry()
    peer.settle()
    assert list(peer.copy.nodes) == ["/a", "/a/b", "/a/b/c"]
    assert peer.reader.unreadable() == {}


def test_a_list_that_is_too_large_leaves_the_node_and_takes_out_what_is_below():
    peer = small("/a", "/a/b", "/a/b/c")
    peer.copy.tell = (told := []).append
    error = ReplyTooLargeError("children", "/a/b", 11, 10)
    for _ in range(2):
        peer.reader._need_list("/a/b")
        assert reads(peer) == [(CHILDREN, "/a/b")]
        peer.reader.refuse((CHILDREN, "/a/b"), error)
    assert list(peer.copy.nodes) == ["/a", "/a/b"]
    assert [(change.kind, change.path, change.error) for change in told] == [
        (TreeChangeKind.UNREADABLE, "/a/b/c", error),
        (TreeChangeKind.UNREADABLE, "/a/b", error),
    ]
    assert peer.reader.unreadable() == {"/a/b": error}
    peer.reader.retry()
    peer.settle()
    assert list(peer.copy.nodes) == ["/a", "/a/b", "/a/b/c"]
    assert peer.reader.unreadable() == {}


def test_one_loss_is_told_once():
    peer = small("/a", "/a/b")
    peer.copy.tell = (told := []).append
    peer.closed = {"/a/b"}
    for _ in range(3):
        peer.reader.sweep()
        peer.reader.may_look = 10
        peer.reader.retry()
        peer.settle()
    assert [(change.kind, change.path) for change in told] == [(TreeChangeKind.UNREADABLE, "/a/b")]


def test_a_read_without_an_answer_is_made_again():
    peer = small("/a", "/a/b")
    peer.reader.changed(EventType.DATA_CHANGED, "/a/b")
    peer.reader.missed()
    for _ in range(3):
        for read in reads(peer):
            peer.reader.not_read(read)
    peer.settle()
    peer.judge()


def test_with_one_shot_watches_a_root_that_is_missing_is_awaited():
    peer = small(one_shot=True)
    assert peer.data_watches == {"/a"}
    peer.zxid += 1
    peer._create("/a")
    peer.settle()
    assert list(peer.copy.nodes) == ["/a"]
    assert (peer.data_watches, peer.child_watches) == ({"/a"}, {"/a"})
