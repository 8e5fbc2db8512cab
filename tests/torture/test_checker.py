"""The checker: every kind of broken promise, made by hand, is found; what is right passes."""

from __future__ import annotations

import pytest
from torture.checker import check
from torture.history import (
    CHECK,
    CHILDREN,
    CREATE,
    DELETE,
    EXISTS,
    GET,
    SET,
    SYNC,
    TRANSACTION,
    Applied,
    Change,
    Ending,
    Fault,
    Part,
    StateSeen,
)

from everlatch.types import Node
from torture_reference import LATCH, Reference

PAIR = (Part(SET, "/r/a"), Part(SET, "/r/b"))


@pytest.fixture
def world():
    return Reference()


def violations(world, *, log=True):
    history = world.history if world.history.final is not None else world.finish()
    if not log:
        history.log = None
    return check(history)


def found(world, *, log=True):
    """The rules that were broken, as the checker says."""
    return [violation.rule for violation in violations(world, log=log)]


def apply_again(world, call):
    """Has the servers apply a write once more."""
    return world.commit(world.history.log[call.result.mzxid - 1].changes)


BOTH = pytest.mark.parametrize("log", [True, False], ids=["with the log", "from what was seen"])


@BOTH
def test_nothing_is_wrong_with_what_is_right(world, log):
    world.do(1, CREATE, "/r/n")
    world.do(1, EXISTS, "/r/m", watch=True)
    world.do(1, CREATE, "/r/s-", sequential=True)
    world.do(1, CREATE, "/r/e", ephemeral=True)
    data, stat = world.do(2, GET, watch=True).result
    assert data == b""
    subscription = world.subscribe(2, "/r", recursive=True)
    world.do(1, SET, version=stat.version)
    world.do(2, SET, version=stat.version)
    world.do(2, CHILDREN, "/r", watch=True)
    world.miss(subscription, world.head)
    world.do(1, TRANSACTION, parts=PAIR)
    world.do(1, TRANSACTION, parts=(Part(CHECK, "/r/a", 99), *PAIR))
    world.do(2, CREATE, "/r/m")
    world.do(1, DELETE, "/r/n")
    world.do(1, SET, lost=True)
    world.do(1, SET, lost=False)
    world.do(2, SYNC)
    world.do(2, GET, "/r/nowhere")
    assert violations(world, log=log) == []


# -- writes


@BOTH
def test_a_write_that_was_applied_twice(world, log):
    call = world.do(1, SET)
    apply_again(world, call)
    world.do(2, GET)
    assert "writes" in found(world, log=log)


@BOTH
def test_a_sequential_creation_that_was_applied_twice(world, log):
    call = world.do(1, CREATE, "/r/s-", sequential=True)
    world.commit([Change(CREATE, "/r/s-7", call.value)])
    assert set(found(world, log=log)) == {"writes"}


def test_a_write_of_unknown_outcome_that_was_applied_twice(world):
    call = world.do(1, SET, lost=True)
    world.commit([Change(SET, "/r/b", call.value)])
    assert "writes" in found(world)


@BOTH
def test_an_acknowledged_write_that_never_happened(world, log):
    call = world.do(1, CREATE, "/r/n")
    world.history.log[call.result.stat.czxid - 1] = Applied(call.result.stat.czxid, ())
    world.finish().final.pop("/r/n")
    assert "writes" in found(world, log=log)


@BOTH
def test_a_write_that_was_refused_and_happened(world, log):
    call = world.do(1, CREATE, "/r/n")
    call.ending, call.error, call.result = Ending.REFUSED, "CallTimeoutError", None
    assert found(world, log=log) == ["writes"]


def test_a_write_of_unknown_outcome_may_have_happened_or_not(world):
    world.do(1, SET, lost=True)
    world.do(1, CREATE, "/r/n", lost=False)
    world.do(1, DELETE, "/r/a", lost=True)
    assert found(world) == []


def test_half_a_transaction(world):
    call = world.do(1, TRANSACTION, parts=PAIR)
    zxid = call.result[0].mzxid
    world.history.log[zxid - 1] = Applied(zxid, world.history.log[zxid - 1].changes[:1])
    assert "writes" in found(world)


def test_a_write_to_another_node_than_was_asked_for(world):
    call = world.do(1, SET)
    call.path = "/r/b"
    assert "writes" in found(world)


def test_a_value_that_nobody_wrote(world):
    world.commit([Change(SET, "/r/a", b"1.7")])
    assert found(world) == ["writes"]


def test_two_deletions_acknowledged_where_there_was_one(world):
    world.do(1, CREATE, "/r/n")
    world.do(1, DELETE, "/r/n")
    world.do(2, DELETE, "/r/n").ending = Ending.OK
    assert "writes" in found(world)


def test_a_deletion_that_was_refused_and_happened(world):
    world.do(1, CREATE, "/r/n")
    call = world.do(1, DELETE, "/r/n")
    call.ending, call.error = Ending.REFUSED, "CallTimeoutError"
    assert found(world) == ["writes"]


def test_more_versions_than_writes(world):
    world.do(1, SET)
    world.commit([Change(SET, "/r/b", b"")])
    assert found(world, log=False) == ["writes"]


@BOTH
def test_writes_in_another_order_than_that_of_the_calls(world, log):
    calls = [world.do(1, SET, path, lost=True) for path in ("/r/a", "/r/b")]
    calls[0].number, calls[1].number = 2, 1
    log_ = world.history.log
    log_[-2:] = [
        Applied(log_[-2].zxid, (Change(SET, "/r/a", b"1.2"),)),
        Applied(log_[-1].zxid, (Change(SET, "/r/b", b"1.1"),)),
    ]
    world.history.calls[1] = [calls[1], calls[0]]
    for path, data in (("/r/a", b"1.2"), ("/r/b", b"1.1")):
        world.trees[-1][path] = world.trees[-1][path]._replace(data=data)
    assert found(world, log=log) == ["order"]


# -- reads


@BOTH
def test_a_read_that_went_back_in_time(world, log):
    world.do(1, GET)
    world.do(1, SET)
    before = world.history.calls[1][0].result
    world.do(2, GET)
    call = world.do(2, GET)
    call.result = before
    assert found(world, log=log) == ["reads"]


@BOTH
def test_a_read_that_does_not_see_an_earlier_write_of_its_client(world, log):
    stale = world.do(1, GET).result
    world.do(1, SET, lost=False)
    world.do(1, SET)
    world.do(1, GET).result = stale
    assert found(world, log=log) == ["reads"]


def test_going_back_in_time_from_one_node_to_another(world):
    stale = world.do(1, GET, "/r/b").result
    world.do(2, SET, "/r/b")
    world.do(2, SET, "/r/a")
    world.do(1, GET, "/r/a")
    world.do(1, GET, "/r/b").result = stale
    assert found(world) == ["reads"]
    assert found(world, log=False) == ["reads"]


def test_a_node_seen_that_its_client_had_deleted(world):
    world.do(1, CREATE, "/r/n")
    stale = world.do(1, EXISTS, "/r/n").result
    world.do(1, DELETE, "/r/n")
    world.do(1, EXISTS, "/r/n").result = stale
    assert found(world) == ["reads"]


def test_a_node_missed_that_was_always_there(world):
    world.do(1, EXISTS, "/r/b").result = None
    assert found(world) == ["reads"]


def test_the_answer_to_another_read(world):
    world.do(1, SET, "/r/b")
    other = world.do(1, GET, "/r/b")
    world.do(1, GET, "/r/a").result = other.result
    assert found(world) == ["reads"]


def test_data_that_was_never_there(world):
    call = world.do(1, GET)
    call.result = Node(b"1.99", call.result.stat)
    world.do(2, GET)
    assert found(world) == ["reads"]


def test_children_that_were_never_there(world):
    call = world.do(1, CHILDREN, "/r")
    call.result = call.result._replace(names=[*call.result.names[1:], "other"])
    assert found(world) == ["reads"]


def test_data_and_children_of_different_moments(world):
    call = world.do(1, EXISTS)
    world.do(1, CREATE, "/r/a/n")
    world.do(1, SET)
    world.do(1, DELETE, "/r/a/n")
    later = world.do(1, EXISTS)
    call.result = call.result._replace(pzxid=later.result.pzxid)
    assert found(world) == ["reads"]


def test_a_state_seen_before_it_was(world):
    call = world.do(2, GET)
    world.do(1, SET)
    call.result = world.do(1, GET).result
    assert found(world) == ["reads"]


def test_the_answer_to_another_write(world):
    one, other = world.do(1, SET, "/r/a"), world.do(1, SET, "/r/a")
    one.result, other.result = other.result, one.result
    assert set(found(world)) == {"writes", "reads"}


def test_a_refusal_for_a_reason_that_did_not_hold(world):
    for kind, code in ((SET, -101), (SET, -103), (CREATE, -110), (DELETE, -111), (CREATE, -101)):
        path = "/r/n" if kind == CREATE else "/r/a"
        call = world.do(1, kind, path, version=-1 if code == -101 or kind == CREATE else 0, lost=False)
        call.ending, call.code, call.error = Ending.REFUSED, code, "NoNodeError"
    assert found(world) == ["reads"] * 5


def test_a_refusal_of_a_part_for_a_reason_that_did_not_hold(world):
    call = world.do(1, TRANSACTION, parts=(Part(CHECK, "/r/a", 5), *PAIR))
    assert call.code == -103
    call.parts = (Part(CHECK, "/r/a", 0), *PAIR)
    assert found(world) == ["reads"]


def test_a_read_behind_a_sync_that_lacks_what_had_been_acknowledged(world):
    stale = world.do(2, GET).result
    world.do(1, SET)
    world.do(2, SYNC)
    world.do(2, GET).result = stale
    assert found(world) == ["reads"]


def test_a_deposed_leader_may_answer_a_sync(world):
    stale = world.do(2, GET).result
    world.do(1, SET)
    world.do(2, SYNC)
    world.do(2, GET).result = stale
    world.history.faults.append(Fault("partition", "zk1", 0.0, 2.0, hides=True))
    world.history.settling = 1.0
    assert found(world) == []


# -- watches


WATCHED = [(GET, "/r/a"), (EXISTS, "/r/a"), (EXISTS, "/r/n"), (CHILDREN, "/r")]


@BOTH
@pytest.mark.parametrize(("kind", "path"), WATCHED)
def test_a_watch_that_was_lost(world, log, kind, path):
    call = world.do(1, kind, path, watch=True)
    world.do(2, SET, "/r/a")
    world.do(2, CREATE, "/r/n")
    world.finish()
    assert call.watch.fired
    call.watch.fired.clear()
    assert found(world, log=log) == ["watches"]


@BOTH
@pytest.mark.parametrize(("kind", "path"), WATCHED)
def test_a_watch_that_fired_twice(world, log, kind, path):
    call = world.do(1, kind, path, watch=True)
    world.do(2, SET, "/r/a")
    world.do(2, CREATE, "/r/n")
    world.finish()
    call.watch.fired *= 2
    assert found(world, log=log) == ["watches"]


@BOTH
@pytest.mark.parametrize(("kind", "path"), [(GET, "/r/a"), (EXISTS, "/r/a"), (CHILDREN, "/r/a")])
def test_a_watch_that_fired_for_nothing(world, log, kind, path):
    call = world.do(1, kind, path, watch=True)
    call.watch.fired.append(world.fired(world.head, "CHILDREN_CHANGED" if kind == CHILDREN else "DELETED", path))
    assert found(world, log=log) == ["watches"]


def test_a_watch_for_a_node_that_never_came_fired(world):
    call = world.do(1, EXISTS, "/r/n", watch=True)
    call.watch.fired.append(world.fired(world.head, "CREATED", "/r/n"))
    assert found(world) == ["watches"]


@pytest.mark.parametrize(
    "wrong", [{"path": "/r/b"}, {"type": "CHILDREN_CHANGED"}, {"zxid": 1}], ids=["path", "type", "zxid"]
)
def test_a_watch_that_fired_with_the_wrong_event(world, wrong):
    call = world.do(1, GET, watch=True)
    world.do(1, SET)
    world.finish()
    call.watch.fired[0] = call.watch.fired[0]._replace(**wrong)
    assert found(world) == ["watches"]


def test_a_watch_of_a_read_that_failed(world):
    call = world.do(1, GET, "/r/n", watch=True)
    call.watch.fired.append(world.fired(world.head, "CREATED", "/r/n"))
    assert found(world) == ["watches"]


def test_a_change_that_is_told_behind_the_reply_that_shows_it(world):
    call = world.do(1, GET, watch=True)
    world.do(2, SET)
    later = world.do(1, GET)
    call.watch.fired[0] = call.watch.fired[0]._replace(step=later.ended_step + 1)
    assert found(world) == ["watches"]


def test_a_node_that_came_and_went_need_not_be_told(world):
    call = world.do(1, EXISTS, "/r/n", watch=True)
    world.do(2, CREATE, "/r/n")
    world.do(2, DELETE, "/r/n")
    world.finish()
    call.watch.fired.clear()
    assert found(world) == []


def test_what_changes_when_the_clients_close_need_not_be_told(world):
    world.do(1, CREATE, "/r/e", ephemeral=True)
    call = world.do(1, GET, "/r/e", watch=True)
    world.finish()
    assert not call.watch.fired
    assert found(world) == []


# -- subscriptions


@pytest.mark.parametrize("version", ["3.8", "3.9"])
@BOTH
@pytest.mark.parametrize("recursive", [False, True])
def test_a_subscription_that_was_not_told_of_the_last_change(version, log, recursive):
    world = Reference(version=version)
    subscription = world.subscribe(1, "/r/a", recursive=recursive)
    world.do(2, SET)
    world.do(2, SET)
    world.finish()
    subscription.fired.pop()
    # Two sets of one node look the same where events have no zxid: only their number tells, and the log knows that.
    assert found(world, log=log) == (["subscriptions"] if log or version == "3.9" else [])


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_subscription_with_a_gap(world, missing):
    subscription = world.subscribe(1, "/r", recursive=True)
    for path in ("/r/a", "/r/b", "/r/a"):
        world.do(2, SET, path)
    world.finish()
    del subscription.fired[missing]
    assert found(world) == ["subscriptions"]


def test_after_missing_something_a_subscription_need_not_be_told_of_what_was_before(world):
    subscription = world.subscribe(1, "/r", recursive=True)
    for _ in range(3):
        world.do(2, SET)
    world.miss(subscription, world.head - 1)
    world.finish()
    assert [event.type for event in subscription.fired] == ["MISSED", "DATA_CHANGED"]
    assert found(world) == []
    subscription.fired.pop()
    assert found(world) == ["subscriptions"]


def test_a_gap_before_something_was_missed(world):
    subscription = world.subscribe(1, "/r", recursive=True)
    for path in ("/r/a", "/r/b", "/r/a"):
        world.do(2, SET, path)
    world.see(1, world.head)
    world.miss(subscription, world.head)
    del subscription.fired[1]
    assert found(world) == ["subscriptions"]


def test_a_subscription_that_was_told_twice(world):
    subscription = world.subscribe(1, "/r/a")
    world.do(2, SET)
    world.finish()
    subscription.fired *= 2
    assert found(world) == ["subscriptions"]


def test_a_subscription_that_was_told_of_what_never_happened(world):
    subscription = world.subscribe(1, "/r/a")
    subscription.fired.append(world.fired(world.head, "DELETED", "/r/a"))
    assert found(world) == ["subscriptions"]


def test_a_recursive_subscription_is_not_told_of_children(world):
    subscription = world.subscribe(1, "/r", recursive=True)
    world.do(2, CREATE, "/r/n")
    world.finish()
    assert [event.type for event in subscription.fired] == ["CREATED"]
    subscription.fired.append(subscription.fired[0]._replace(type="CHILDREN_CHANGED", path="/r"))
    assert found(world) == ["subscriptions"]


def test_a_subscription_told_out_of_order(world):
    subscription = world.subscribe(1, "/r", recursive=True)
    world.do(2, SET, "/r/a")
    world.do(2, SET, "/r/b")
    world.finish()
    subscription.fired.reverse()
    assert found(world) == ["subscriptions"]


# -- leaders


def election(world, *, until):
    """Two members, the second of which begins to believe so long after the first one began."""
    nodes = [world.join(client) for client in (1, 2)]
    first = world.lead(1, nodes[0])
    world.resign(nodes[0])
    second = world.lead(2, nodes[1])
    second.began, second.ended = first.began + until, first.began + until + 1.0
    world.history.leaders_at_end = ["member 2"]
    return nodes


def test_one_leader_after_the_other(world):
    election(world, until=2.0)
    assert found(world) == []


def test_two_leaders(world):
    election(world, until=0.5)
    assert found(world) == ["leaders"]


@pytest.mark.parametrize("hides", [True, False])
def test_no_fault_excuses_two_leaders(world, hides):
    election(world, until=0.5)
    world.history.faults.append(Fault("cut from the leader", "zk2", 0.0, 100.0, hides=hides))
    assert found(world) == ["leaders"]


def test_a_token_that_goes_back(world):
    nodes = election(world, until=2.0)
    belief = world.lead(2, nodes[1])
    belief.token, belief.node, belief.session_id = world.history.beliefs[0].token, nodes[0], 1 << 8
    assert found(world) == ["leaders"]


def test_a_leader_with_the_node_of_another_session(world):
    nodes = election(world, until=2.0)
    world.history.beliefs[1].session_id = 77
    assert nodes
    assert found(world) == ["leaders"]


def test_a_token_that_is_not_that_of_the_node(world):
    election(world, until=2.0)
    world.history.beliefs[1].token += 1
    assert found(world) == ["leaders"]


def test_the_write_of_a_stale_leader_that_was_accepted(world):
    nodes = [world.join(client) for client in (1, 2)]
    world.fenced(1, nodes[0], 10)
    world.fenced(2, nodes[1], 11)
    world.history.leaders_at_end = ["member 2"]
    world.history.faults.append(Fault("pause", "host 1", 0.0, 100.0, hides=True))
    world.finish()
    assert found(world) == []
    assert found(world, log=False) == []
    world.history.calls[2][0].token = 9
    assert found(world) == ["leaders"]


def test_the_write_of_a_stale_leader_that_was_refused(world):
    nodes = [world.join(client) for client in (1, 2)]
    world.resign(nodes[0])
    world.fenced(2, nodes[1], 11)
    assert world.fenced(1, nodes[0], 10).code == -101
    world.history.leaders_at_end = ["member 2"]
    assert found(world) == []


@pytest.mark.parametrize("leaders", [[], ["member 1", "member 2"]])
def test_in_the_end_exactly_one_leads(world, leaders):
    election(world, until=2.0)
    world.history.leaders_at_end = leaders
    assert found(world) == ["leaders"]


# -- clients


def test_a_client_that_never_comes_back(world):
    world.history.states.append(StateSeen(1, 0.1, "SUSPENDED", 1 << 8, 1))
    assert found(world) == ["connected"]


def test_a_client_that_comes_back_too_late(world):
    history = world.finish()
    history.states.append(StateSeen(1, history.healed, "SUSPENDED", 1 << 8, 1))
    history.states.append(StateSeen(1, history.healed + 11.0, "CONNECTED", 1 << 8, 1))
    assert found(world) == ["connected"]


def test_a_client_that_comes_back_in_time(world):
    history = world.finish()
    history.states.append(StateSeen(1, history.healed, "SUSPENDED", 1 << 8, 1))
    history.states.append(StateSeen(1, history.healed + 9.0, "CONNECTED", 1 << 8, 1))
    assert found(world) == []


def test_a_client_that_loses_its_link_when_all_is_well(world):
    history = world.finish()
    history.states.append(StateSeen(1, history.healed + 15.0, "SUSPENDED", 1 << 8, 1))
    history.states.append(StateSeen(1, history.healed + 15.1, "CONNECTED", 1 << 8, 1))
    assert found(world) == ["connected"]


def test_what_happens_when_the_clients_close_is_their_will(world):
    history = world.finish()
    history.states.append(StateSeen(1, history.closing + 0.1, "CLOSED", 1 << 8, 1))
    assert found(world) == []


def test_a_new_session_that_is_not_told(world):
    world.history.states += [StateSeen(1, 0.1, "SUSPENDED", 1 << 8, 1), StateSeen(1, 0.2, "CONNECTED", 2 << 8, 2)]
    assert set(found(world)) == {"states"}


def test_a_new_session_that_is_told(world):
    world.history.states += [
        StateSeen(1, 0.1, "SUSPENDED", 1 << 8, 1),
        StateSeen(1, 0.2, "LOST", 1 << 8, 1),
        StateSeen(1, 0.3, "RENEWED", 2 << 8, 2),
        StateSeen(1, 0.3, "CONNECTED", 2 << 8, 2),
    ]
    assert found(world) == []


def test_a_new_session_without_a_connection(world):
    world.history.states += [
        StateSeen(1, 0.1, "SUSPENDED", 1 << 8, 1),
        StateSeen(1, 0.3, "RENEWED", 2 << 8, 2),
        StateSeen(1, 0.4, "SUSPENDED", 2 << 8, 2),
        StateSeen(1, 0.5, "CONNECTED", 2 << 8, 2),
    ]
    assert found(world) == ["states"]


def test_a_call_that_never_ends(world):
    world.do(1, SET, lost=True).ending = Ending.OPEN
    assert found(world) == ["calls"]


def test_an_error_that_cannot_be(world):
    world.do(1, SET, lost=True).error = "AssertionError"
    assert found(world) == ["calls"]


@BOTH
def test_a_node_of_a_dead_session(world, log):
    call = world.do(1, CREATE, "/r/e", ephemeral=True)
    world.finish().final["/r/e"] = Node(call.value, call.result.stat)
    assert "leaks" in found(world, log=log)


def test_a_task_that_was_left(world):
    world.history.leaks.append("a task")
    assert found(world) == ["leaks"]


# -- servers


def test_servers_that_contradict_themselves(world):
    world.do(1, SET)
    node = world.finish().final["/r/a"]
    world.history.final["/r/a"] = Node(b"1.5", node.stat)
    assert found(world) == ["servers"]


def test_what_lies_elsewhere_is_none_of_our_business(world):
    world.commit([Change(CREATE, "/other", b"1.7", 5)])
    assert found(world) == []


def test_the_first_violation_comes_first(world):
    world.do(1, EXISTS).result = None
    world.do(1, SET).error = "AssertionError"
    assert LATCH not in world.trees[-1]
    times = [violation.time for violation in violations(world)]
    assert times == sorted(times)
    assert len(times) >= 2


def test_who_was_killed_need_not_hear_of_anything(world):
    call = world.do(1, GET, watch=True)
    subscription = world.subscribe(1, "/r/a")
    world.do(2, SET)
    world.do(1, SET, lost=True).ending = Ending.OPEN
    world.history.states.append(StateSeen(1, 0.1, "SUSPENDED", 1 << 8, 1))
    history = world.finish()
    call.watch.fired.clear()
    subscription.fired.clear()
    assert set(found(world)) == {"watches", "subscriptions", "calls", "connected"}
    history.died[1] = 5.0
    assert found(world) == []


def test_the_end_of_a_session_is_nobodys_deletion(world):
    world.do(1, CREATE, "/r/e", ephemeral=True)
    call = world.do(1, DELETE, "/r/e", lost=False)
    world.do(1, SET)
    world.commit([Change(DELETE, "/r/e")])
    assert found(world) == ["late"]
    world.history.log[-2] = world.history.log[-2]._replace(ends_session=True)
    assert found(world) == []
    call.ending, call.error = Ending.REFUSED, "CallTimeoutError"
    assert found(world) == []


def test_a_write_that_was_given_up_and_took_effect_behind_later_ones(world):
    calls = [world.do(1, SET, "/r/a", lost=False), world.do(1, SET, "/r/b")]
    world.commit([Change(SET, "/r/a", calls[0].value)])
    assert found(world) == ["late"]
    calls[0].ended = calls[1].began + 0.1
    assert found(world) == ["order"]


def test_a_write_that_was_applied_after_it_had_been_looked_into(world):
    call = world.do(1, SET, lost=False)
    call.is_over, call.seen = True, world.head
    world.commit([Change(SET, "/r/a", call.value)])
    assert found(world) == ["writes"]


def test_a_write_that_had_been_applied_when_it_was_looked_into(world):
    call = world.do(1, SET, lost=True)
    call.is_over, call.seen = True, world.head
    world.do(1, SET)
    assert found(world) == []


def test_a_write_that_was_looked_into_is_not_late_but_out_of_order(world):
    call = world.do(1, SET, lost=False)
    world.do(1, SET)
    call.is_over, call.seen = True, world.head
    world.commit([Change(SET, "/r/a", call.value)])
    assert set(found(world)) == {"order", "writes"}
