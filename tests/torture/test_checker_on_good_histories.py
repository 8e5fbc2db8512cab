"""Whatever the reference does, the checker finds nothing wrong with it: with the servers' log, and without."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from torture.checker import check
from torture.history import CHECK, CHILDREN, CREATE, DELETE, EXISTS, GET, SET, SYNC, TRANSACTION, Part

from torture_reference import Reference

CLIENTS = st.integers(1, 3)
PATHS = st.sampled_from(["/r/a", "/r/b", "/r/a/x", "/r/b/y", "/r/n"])
VERSIONS = st.integers(-1, 2)
LOST = st.sampled_from([None, None, None, True, False])
PARTS = st.lists(
    st.tuples(st.sampled_from([CHECK, SET]), PATHS, VERSIONS), min_size=1, max_size=3, unique_by=lambda part: part[1]
)


@st.composite
def steps(draw):
    """What one of the clients does."""
    client, path = draw(CLIENTS), draw(PATHS)
    kind = draw(st.sampled_from([GET, EXISTS, CHILDREN, SET, CREATE, DELETE, TRANSACTION, SYNC, "miss"]))
    asked = {}
    if kind in (GET, EXISTS, CHILDREN):
        asked = {"watch": draw(st.booleans()), "lag": draw(st.integers(0, 9))}
    elif kind in (SET, DELETE):
        asked = {"version": draw(VERSIONS), "lost": draw(LOST)}
    elif kind == CREATE:
        asked = {"sequential": draw(st.booleans()), "ephemeral": draw(st.booleans()), "lost": draw(LOST)}
    elif kind == TRANSACTION:
        asked = {"parts": tuple(Part(*part) for part in draw(PARTS)), "lost": draw(LOST)}
    return client, kind, path, asked


def history_of(script, version):
    world = Reference(3, version=version)
    subscriptions = [world.subscribe(1, "/r", recursive=True), world.subscribe(2, "/r/a")]
    elected = world.join(3)
    belief = world.lead(3, elected)
    for client, kind, path, asked in script:
        if kind == "miss":
            subscription = subscriptions[client % 2]
            world.miss(subscription, max(world.views[subscription.client], world.head - 1))
        elif path == "/r/a/x" and asked.get("ephemeral"):
            world.fenced(3, elected, belief.token)
        else:
            world.do(client, kind, path, **asked)
    world.history.leaders_at_end = ["member 3"]
    return world.finish()


@given(st.lists(steps(), max_size=40), st.sampled_from(["3.8", "3.9"]))
def test_with_the_log(script, version):
    history = history_of(script, version)
    assert check(history) == []


@given(st.lists(steps(), max_size=40), st.sampled_from(["3.8", "3.9"]))
def test_from_what_was_seen(script, version):
    history = history_of(script, version)
    history.log = None
    assert check(history) == []
