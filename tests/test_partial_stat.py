"""A Stat of which only a part is known."""

from __future__ import annotations

import pickle

import pytest

from everlatch import Outcome, PartialStat, ResultLostError, Stat
from everlatch.arguments import checked_version
from everlatch.errors import InvalidArgumentError
from everlatch.partial_stat import UNKNOWN

PART = PartialStat(UNKNOWN, 5, UNKNOWN, 1000, 3, UNKNOWN, UNKNOWN, UNKNOWN, 7, UNKNOWN, UNKNOWN)


def test_what_is_known_is_told():
    assert (PART.mzxid, PART.mtime, PART.version, PART.data_length) == (5, 1000, 3, 7)
    assert isinstance(PART, Stat)


@pytest.mark.parametrize("name", ["czxid", "ctime", "cversion", "aversion", "ephemeral_owner", "num_children", "pzxid"])
def test_what_is_not_known_raises_when_it_is_read(name):
    with pytest.raises(ResultLostError, match=f"the {name} of its node") as raised:
        getattr(PART, name)
    assert raised.value.zxid == 5
    assert raised.value.outcome is Outcome.HAPPENED


def test_no_call_takes_a_version_that_is_not_known():
    with pytest.raises(InvalidArgumentError):
        checked_version(tuple(PART)[5])


def test_its_repr_shows_what_is_missing():
    assert repr(PART).startswith("PartialStat(czxid=?, mzxid=5, ctime=?, mtime=1000, version=3,")


def test_it_is_pickled_and_compared_like_a_tuple():
    again = pickle.loads(pickle.dumps(PART))
    assert type(again) is PartialStat
    assert again == PART
    assert tuple(again) == tuple(PART)
