"""The decisions over the names of a latch's children, without a server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.recipes.contenders import Behind, First, Missing, ordered, place_of, protected_prefix

if TYPE_CHECKING:
    import random

MARKER = "latch-"

guids = st.uuids(version=4).map(str)
numbers = st.integers(min_value=-(2**31), max_value=2**31 - 1)
members = st.builds(lambda guid, number: f"_c_{guid}-{MARKER}{number:010d}", guids, numbers)
colliding = st.builds(lambda guid, number: f"_c_{guid}-{MARKER}{number:010d}", guids, st.integers(0, 2))
foreign = st.text(min_size=1).filter(lambda name: MARKER not in name)


def curator_key(name: str) -> str:
    """`LeaderLatch.fixForSorting`: what stands behind the last marker, or the whole name without one."""
    index = name.rfind(MARKER)
    return name[index + len(MARKER) :] if index >= 0 else name


@given(st.lists(members, unique_by=curator_key), st.randoms(use_true_random=False))
def test_the_order_is_that_of_curators_strings(names: list[str], rng: random.Random) -> None:
    shuffled = rng.sample(names, len(names))
    assert ordered(shuffled, MARKER) == sorted(names, key=curator_key)


@given(st.lists(colliding, unique=True), st.randoms(use_true_random=False))
def test_all_members_see_one_order_whatever_order_the_server_lists(names: list[str], rng: random.Random) -> None:
    """Also when nodes made by hand have the same number: two members that disagree would both lead."""
    assert ordered(rng.sample(names, len(names)), MARKER) == ordered(names, MARKER)


@given(st.text(), st.text(), st.integers(0, 2**31 - 1))
def test_the_last_marker_counts(before: str, between: str, number: int) -> None:
    suffix = f"{number:010d}"
    name = f"{before}{MARKER}{between}{MARKER}{suffix}"
    lower, higher = f"x{MARKER}" + "!", f"x{MARKER}" + "~"
    assert ordered([higher, name, lower], MARKER) == [lower, name, higher]


def test_an_overflown_counter_sorts_as_text() -> None:
    """Behind 2147483647 the server's counter goes on at -2147483648, which sorts first, and larger numbers before
    smaller ones: wrong by age, but the same for Curator's members and ours."""
    suffixes = ["2147483646", "2147483647", "-2147483648", "-2147483647"]
    names = [f"_c_0-{MARKER}{suffix}" for suffix in suffixes]
    assert [curator_key(name) for name in ordered(names, MARKER)] == [
        "-2147483647",
        "-2147483648",
        "2147483646",
        "2147483647",
    ]


@given(st.lists(members, unique_by=curator_key, min_size=1), st.lists(foreign))
def test_foreign_names_are_ignored(names: list[str], strangers: list[str]) -> None:
    assert ordered([*strangers, *names], MARKER) == ordered(names, MARKER)
    for name in names:
        assert place_of(name, [*strangers, *names], MARKER) == place_of(name, names, MARKER)


def test_kazoos_lock_names_are_foreign() -> None:
    own = f"_c_0-{MARKER}0000000005"
    assert place_of(own, ["0a1b2c__lock__0000000001", own], MARKER) == First()


@given(st.lists(members, unique_by=curator_key, min_size=1))
def test_everyone_but_the_first_is_behind_exactly_the_one_before(names: list[str]) -> None:
    first, *others = in_order = sorted(names, key=curator_key)
    assert place_of(first, names, MARKER) == First()
    for ahead, (before, name) in enumerate(zip(in_order, others, strict=False), 1):
        place = place_of(name, names, MARKER)
        assert place == Behind(before, ahead)
        assert place.is_next == (before == first)


@given(st.lists(members, unique=True), members)
def test_who_is_not_among_them_is_missing(names: list[str], own: str) -> None:
    others = [name for name in names if name != own]
    assert place_of(own, others, MARKER) == Missing()


@pytest.mark.parametrize("own", ["latchless", "", "_c_0-lock-0000000000"])
def test_a_name_without_the_marker_has_no_place(own: str) -> None:
    assert place_of(own, [own], MARKER) == Missing()


@given(guids)
def test_the_prefix_is_curators_protected_form(guid: str) -> None:
    assert re.fullmatch(r"_c_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-latch-", protected_prefix(guid, MARKER))
