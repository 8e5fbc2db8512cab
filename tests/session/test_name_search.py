"""Names of sequential nodes that nobody was told: found among few siblings, and among very many."""

import pytest

from everlatch.errors import NoAuthError, NoNodeError
from everlatch.session.looks import LIST, LOOK
from everlatch.session.name_search import NameSearch
from everlatch.types import Stat
from session.driver import path_in

OURS = 500
"""The czxid of what is looked for."""


class Siblings:
    """The children of `/p`, and who answers what is asked of them."""

    def __init__(self):
        self.nodes = {}
        self.created = 0
        self.asked = []
        self.refused = {}

    def make(self, czxid, prefix="/p/s-", *, count=1, owner=0):
        """The last one's path."""
        for _ in range(count):
            path = f"{prefix}{self.created:010d}"
            self.nodes[path] = Stat(czxid, czxid, 1, 1, 0, 0, 0, owner, 0, 0, czxid)
            self.created += 1
        return path

    def delete(self, path):
        del self.nodes[path]

    @property
    def above(self):
        return Stat(1, 1, 1, 1, 0, 2 * self.created - len(self.nodes), 0, 0, 0, len(self.nodes), 9)

    def ask(self, request):
        self.asked.append(request)

    def answer(self, request):
        path = path_in(request.body)
        if path in self.refused:
            request.fail(self.refused[path])
        elif request.operation is LIST:
            request.complete([node.removeprefix("/p/") for node in self.nodes] + ["s-x", "s-7", "t-0000000001", "s-"])
        else:
            request.complete(self.nodes.get(path))

    def search(self, above=None, *, oldest=OURS, is_ours=lambda stat: stat.czxid == OURS, most=1, by_list=False):
        """What is found; `self.requests` are the operations that it took."""
        told = []
        self.asked = []
        search = NameSearch("/p/s-", oldest, is_ours, most, ask=self.ask, found=told.append)
        if by_list:
            search.start_with_list()
        else:
            search.start(self.above if above is None else above)
        done = 0
        while done < len(self.asked):
            assert told == [], "nobody asks on when all is told"
            self.answer(self.asked[done])
            done += 1
        self.requests = [request.operation for request in self.asked]
        assert len(told) == 1
        return None if told[0] is None else [found.path for found in told[0]]


@pytest.fixture
def siblings():
    return Siblings()


def test_the_latest_is_found_at_once(siblings):
    siblings.make(1, count=5)
    path = siblings.make(OURS)
    assert siblings.search() == [path]
    assert LIST not in siblings.requests


@pytest.mark.parametrize("count", [10, 100_000])
def test_the_number_of_requests_does_not_grow_with_the_siblings(siblings, count):
    siblings.make(1, count=count)
    path = siblings.make(OURS)
    siblings.make(OURS + 1, count=3)
    assert siblings.search() == [path]
    assert len(siblings.requests) <= 32


@pytest.mark.parametrize("count", [1000, 10_000])
def test_many_younger_siblings_cost_a_list_and_some_halvings(siblings, count):
    siblings.make(1, count=count)
    path = siblings.make(OURS)
    siblings.make(OURS + 1, count=2000)
    assert siblings.search() == [path]
    guessed = siblings.requests.index(LIST)
    assert guessed <= 1024
    assert siblings.requests.count(LIST) == 1
    assert len(siblings.requests) - guessed <= 2001 + 1 + 18


def test_too_many_younger_siblings_are_not_looked_at(siblings):
    siblings.make(OURS)
    siblings.make(OURS + 1, count=6000)
    assert siblings.search() is None
    assert len(siblings.requests) < 1100


def test_several_of_one_transaction(siblings):
    siblings.make(1, count=3)
    paths = [siblings.make(OURS) for _ in range(3)]
    assert siblings.search(most=3) == paths
    assert siblings.search(most=4) == paths, "fewer than asked for are told as they are"


def test_nothing_is_found_where_nothing_is(siblings):
    assert siblings.search() == []
    assert siblings.requests == []
    siblings.make(1, count=40)
    assert siblings.search() == []
    assert len(siblings.requests) == 32, "the first older one ends it"


def test_other_prefixes_share_the_counter(siblings):
    path = siblings.make(OURS)
    siblings.make(OURS + 1, "/p/other-", count=70)
    assert siblings.search() == [path]
    assert len(siblings.requests) == 71, "with more and more at a time"


def test_gaps_tell_nothing(siblings):
    siblings.make(1)
    path = siblings.make(OURS)
    gone = [siblings.make(OURS + 1) for _ in range(50)]
    for other in gone:
        siblings.delete(other)
    assert siblings.search() == [path]


def test_what_was_deleted_is_not_found(siblings):
    siblings.make(1, count=2)
    siblings.delete(siblings.make(OURS))
    assert siblings.search() == []


def test_what_can_not_be_looked_at_is_passed_over(siblings):
    siblings.make(1)
    path = siblings.make(OURS)
    siblings.refused[siblings.make(OURS + 1)] = NoAuthError()
    assert siblings.search() == [path]
    siblings.refused[path] = NoAuthError()
    assert siblings.search() == []


@pytest.mark.parametrize("above", [NoNodeError(), "gone"])
def test_a_parent_that_is_gone_ends_it(siblings, above):
    told = []
    search = NameSearch("/p/s-", OURS, bool, 1, ask=siblings.ask, found=told.append)
    search.start(None if above == "gone" else above)
    assert told == [None]
    assert siblings.asked == []


def test_a_count_that_has_overflowed_is_no_guide(siblings):
    path = siblings.make(OURS)
    above = siblings.above._replace(cversion=-(1 << 31))
    assert siblings.search(above) == [path]
    assert siblings.requests[0] is LIST


def test_a_list_that_is_refused_ends_it(siblings):
    siblings.refused["/p"] = NoAuthError()
    assert siblings.search(by_list=True) is None
    assert siblings.requests == [LIST]


# -- by all names


def test_a_rare_name_is_found_by_the_list(siblings):
    siblings.make(1, "/p/other-", count=100)
    path = siblings.make(OURS)
    assert siblings.search(by_list=True, oldest=0, is_ours=lambda _: True) == [path]
    assert len(siblings.requests) <= 4


def test_an_empty_list(siblings):
    assert siblings.search(by_list=True) == []
    siblings.make(1, count=3)
    assert siblings.search(by_list=True) == []


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("when", range(6))
def test_names_that_vanish_while_they_are_looked_at(siblings, count, when):
    siblings.make(1, count=count)
    siblings.make(OURS - 1)
    path = siblings.make(OURS)
    gone = [siblings.make(OURS + 1) for _ in range(count)]
    answer, asked = siblings.answer, 0

    def vanish(request):
        nonlocal asked
        if request.operation is LOOK:
            if asked == when:
                for other in gone:
                    siblings.nodes.pop(other, None)
            asked += 1
        answer(request)

    siblings.answer = vanish
    assert siblings.search(by_list=True) == [path]


@pytest.mark.parametrize("gone", [(0,), (4,), (3, 4, 5), range(9)])
def test_names_that_vanish_behind_the_list(siblings, gone):
    siblings.make(1, count=9)
    path = siblings.make(OURS)
    answer = siblings.answer

    def vanish(request):
        answer(request)
        if request.operation is LIST:
            for number in gone:
                siblings.delete(f"/p/s-{number:010d}")

    siblings.answer = vanish
    assert siblings.search(by_list=True) == [path]


def test_a_name_that_can_not_be_looked_at_while_halving_ends_it(siblings):
    siblings.make(OURS, count=9)
    siblings.refused["/p/s-0000000004"] = NoAuthError()
    assert siblings.search(by_list=True) is None


def test_numbers_beyond_the_largest(siblings):
    """The servers' counter is signed: it goes on below zero."""
    siblings.created = -3
    paths = [siblings.make(OURS) for _ in range(3)]
    assert paths[0] == "/p/s--000000003"
    assert siblings.search(by_list=True, most=3) == paths


def test_below_the_root():
    told, asked, seen = [], [], Stat(OURS, OURS, 1, 1, 0, 0, 0, 0, 0, 0, OURS)
    NameSearch("/s-", OURS, lambda _: True, 1, ask=asked.append, found=told.append).start_with_list()
    for request in asked:  # more are asked meanwhile
        request.complete(["s-0000000001", "zookeeper"] if request.operation is LIST else seen)
    assert {request.path for request in asked} == {"/", "/s-0000000001"}
    assert told == [[("/s-0000000001", seen)]]
