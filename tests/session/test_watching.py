"""Persistent watches through a session, and what is asked of servers for them."""

import pytest

from everlatch.errors import NoWatcherError, OutcomeUnknownError
from everlatch.session.requests import Operation
from everlatch.session.watches import CHILD, DATA, PERSISTENT, RECURSIVE
from everlatch.types import EventType, State, WatchEvent, WatchKind
from everlatch.wire.codes import XID_AUTH, Op
from everlatch.wire.records import encode_exists_reply
from everlatch.wire.watch_records import (
    decode_add_watch_request,
    decode_remove_watches_request,
    decode_set_watches2_request,
    encode_add_watch_reply,
    encode_add_watch_request,
    encode_remove_watches_request,
)
from session.driver import CHILDREN, EXISTS, GET, SET, STAT, connected

MODES = {PERSISTENT: 0, RECURSIVE: 1}
ADD = {kind: Operation("add_watch", Op.ADD_WATCH, lambda *_: 0, watch=kind) for kind in MODES}
OLD, NEW = -1, 4711
"""The zxid in an event's header: servers before 3.9 send none."""


def one(event):
    """A callback."""


def two(event):
    """Another one."""


def ask(driver, kind, path="/a", callback=one):
    """What entering a subscription does."""
    driver.session.want_watch(kind, path, callback)
    return driver.submit(ADD[kind], path, encode_add_watch_request(path, MODES[kind]), watch=callback)


def answer(driver, err=0):
    request = driver.unanswered[0]
    driver.feed(driver.reply_to(request, err, body=encode_add_watch_reply(0) if request.op == Op.ADD_WATCH else None))


def watching(*kinds, path="/a", **options):
    driver = connected("10.0.0.1,10.0.0.2", **options)
    for kind in kinds:
        ask(driver, kind, path)
        answer(driver)
    return driver


def leave(driver, kind, path="/a", callback=one):
    driver.session.leave_watch(kind, path, callback)
    driver.pump()


def set_one_shot(driver, operation=GET, path="/a"):
    driver.call(operation, path, watch=two)
    answer(driver)


def asked(driver):
    """The unanswered requests on watches: operation, path, mode or type."""
    decode = {Op.ADD_WATCH: decode_add_watch_request, Op.REMOVE_WATCHES: decode_remove_watches_request}
    return [(Op(sent.op), *decode[sent.op](sent.body, 0, len(sent.body))) for sent in driver.unanswered]


def heard(driver):
    """What was told since it was asked last."""
    told, driver.fired = driver.fired, []
    return [(callback, event.type, event.path) for callbacks, event in told for callback in callbacks]


def again(driver, session_id=None):
    driver.lose()
    driver.connect(session_id)


# -- hearing


def test_it_hears_from_the_reply_on_and_stays():
    driver = connected()
    call, _ = ask(driver, PERSISTENT)
    driver.event(EventType.CREATED, "/a")
    assert heard(driver) == []
    answer(driver)
    assert call.ends == 1
    for event in (EventType.CREATED, EventType.CHILDREN_CHANGED, EventType.DELETED):
        driver.event(event, "/a", zxid=NEW)
        driver.event(event, "/a/b", zxid=NEW)
    assert heard(driver) == [
        (one, EventType.CREATED, "/a"),
        (one, EventType.CHILDREN_CHANGED, "/a"),
        (one, EventType.DELETED, "/a"),
    ]
    assert driver.session.statistics().watches == 1


def test_below_a_chroot():
    driver = connected(chroot="/app")
    driver.session.want_watch(RECURSIVE, "/a", one)
    driver.submit(ADD[RECURSIVE], "/a", encode_add_watch_request("/app/a", 1), watch=one)
    answer(driver)
    driver.event(EventType.CREATED, "/app/a/b", zxid=NEW)
    assert driver.fired == [([one], WatchEvent(EventType.CREATED, "/a/b", NEW))]
    leave(driver, RECURSIVE)
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/app/a", 5)]


def test_nobody_hears_of_a_refused_or_cancelled_one():
    driver = connected()
    ask(driver, PERSISTENT)
    driver.feed(driver.reply_to(driver.unanswered[0], -112))
    driver.cancel(*ask(driver, PERSISTENT, "/b"))
    answer(driver)
    driver.event(EventType.CREATED, "/a")
    driver.event(EventType.CREATED, "/b")
    assert heard(driver) == []


def test_nobody_hears_who_has_left_before_the_answer():
    driver = connected()
    call, _ = ask(driver, RECURSIVE)
    leave(driver, RECURSIVE)
    driver.answer(2)
    assert call.ends == 1
    driver.event(EventType.CREATED, "/a")
    again(driver)
    assert heard(driver) == []
    assert list(driver.unanswered) == []


# -- across connections


@pytest.mark.parametrize("session_id", [None, 0x9999])
def test_after_a_reconnect_it_is_armed_again_first_and_told_that_it_missed(session_id):
    driver = watching(PERSISTENT, RECURSIVE)
    set_one_shot(driver, CHILDREN, "/b")
    driver.lose()
    if session_id:
        driver.made()
        driver.expire()
    waiting = driver.call(GET, "/later")
    driver.connect(session_id)
    first, second = driver.unanswered
    assert (first.op, second.op) == (Op.SET_WATCHES2, Op.GET_DATA)
    lists = decode_set_watches2_request(first.body, 0, len(first.body))
    assert lists[1:] == ([], [], ["/b"], ["/a"], ["/a"])
    assert heard(driver) == [(one, EventType.MISSED, "/a")] * 2
    driver.answer(2)
    assert waiting.ends == 1
    driver.event(EventType.DATA_CHANGED, "/a", zxid=NEW)
    assert heard(driver) == [(one, EventType.DATA_CHANGED, "/a")] * 2


@pytest.mark.parametrize("answered", [0, 1])
def test_another_loss_while_it_is_armed_again_is_told_as_well(answered):
    driver = watching(PERSISTENT, RECURSIVE)
    for number in range(200):
        driver.session.watching.armed(DATA, f"/{'x' * 1000}{number}", two, driver.zxid)
    frozen = driver.session.last_zxid
    for _ in range(2):
        heard(driver)
        again(driver)
        assert heard(driver) == [(one, EventType.MISSED, "/a")] * 2
        assert [sent.op for sent in driver.unanswered] == [Op.SET_WATCHES, Op.SET_WATCHES2]
        last = driver.unanswered[-1].body
        assert decode_set_watches2_request(last, 0, len(last)).relative_zxid == frozen
        driver.zxid += 1
        driver.answer(answered)
    driver.answer(2 - answered)
    driver.event(EventType.DATA_CHANGED, "/a", zxid=NEW)
    assert heard(driver) == [(one, EventType.DATA_CHANGED, "/a")] * 2


def test_a_request_on_its_way_is_repeated_and_its_watch_heard_once():
    driver = connected()
    call, _ = ask(driver, PERSISTENT)
    again(driver)
    assert heard(driver) == [], "nothing was watched yet"
    assert [sent.op for sent in driver.unanswered] == [Op.ADD_WATCH]
    answer(driver)
    assert call.ends == 1
    driver.event(EventType.CREATED, "/a", zxid=NEW)
    assert heard(driver) == [(one, EventType.CREATED, "/a")]


def test_a_server_too_old_for_it_ends_it_and_goes_on():
    driver = watching(PERSISTENT)
    set_one_shot(driver, GET, "/b")
    again(driver)
    assert heard(driver) == [(one, EventType.MISSED, "/a")]
    driver.feed(driver.reply_to(driver.unanswered[0], -6))
    assert heard(driver) == [(one, EventType.REMOVED, "/a")]
    assert driver.changes[-1].state is State.SUSPENDED
    driver.connect()
    assert [sent.op for sent in driver.unanswered] == [Op.SET_WATCHES]
    driver.answer()
    leave(driver, PERSISTENT)
    assert driver.changes[-1].state is State.CONNECTED


def test_another_error_to_set_watches_2_costs_the_connection_and_no_watch():
    driver = watching(PERSISTENT)
    again(driver)
    driver.feed(driver.reply_to(driver.unanswered[0], -112))
    assert driver.changes[-1].state is State.SUSPENDED
    driver.connect()
    assert [sent.op for sent in driver.unanswered] == [Op.SET_WATCHES2]


# -- leaving


@pytest.mark.parametrize(("kind", "watcher_type"), [(PERSISTENT, 4), (RECURSIVE, 5)])
def test_the_last_one_to_leave_removes_it(kind, watcher_type):
    driver = watching(kind)
    ask(driver, kind, callback=two)
    answer(driver)
    leave(driver, kind)
    assert asked(driver) == []
    leave(driver, kind, callback=two)
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", watcher_type)]
    driver.answer()
    again(driver)
    assert list(driver.unanswered) == []


def test_leaving_while_disconnected_asks_nothing():
    driver = watching(PERSISTENT)
    driver.lose()
    leave(driver, PERSISTENT)
    driver.connect()
    assert list(driver.unanswered) == []
    assert heard(driver) == []


def test_servers_before_3_9_know_no_type_for_it():
    driver = watching(PERSISTENT)
    leave(driver, PERSISTENT)
    driver.feed(driver.reply_to(driver.unanswered[0], -5))
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", 3)]
    driver.feed(driver.reply_to(driver.unanswered[0], -121))
    assert asked(driver) == []
    assert driver.changes[-1].state is State.CONNECTED


def test_there_the_mode_that_is_still_wanted_is_armed_anew():
    driver = watching(PERSISTENT, RECURSIVE)
    leave(driver, RECURSIVE)
    driver.feed(driver.reply_to(driver.unanswered[0], -5))
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 0)]
    assert heard(driver) == [(one, EventType.MISSED, "/a")]


@pytest.mark.parametrize("who", ["one-shot", "persistent", "recursive"])
def test_there_all_are_removed_only_if_nobody_else_wants_the_path(who):
    driver = watching(PERSISTENT)
    if who == "one-shot":
        set_one_shot(driver)
    leave(driver, PERSISTENT)
    if who != "one-shot":
        ask(driver, PERSISTENT if who == "persistent" else RECURSIVE, callback=two)
    driver.feed(driver.reply_to(driver.unanswered[0], -5))
    assert (Op.REMOVE_WATCHES, "/a", 3) not in asked(driver)


def resting():
    """A one-shot watch rests on a persistent one, at a server with one mode for a path, that nobody hears any more."""
    driver = watching(PERSISTENT)
    set_one_shot(driver)
    leave(driver, PERSISTENT)
    driver.feed(driver.reply_to(driver.unanswered[0], -5))
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 0)]
    driver.answer()
    heard(driver)
    return driver


def test_there_what_a_one_shot_watch_rests_on_goes_with_it_when_it_fires():
    driver = resting()
    driver.event(EventType.CHILDREN_CHANGED, "/a")
    assert asked(driver) == [], "it waits for data"
    driver.event(EventType.DATA_CHANGED, "/a")
    assert heard(driver) == [(two, EventType.DATA_CHANGED, "/a")]
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", 3)]
    driver.answer()
    driver.event(EventType.DATA_CHANGED, "/a")
    assert asked(driver) == []


@pytest.mark.parametrize("err", [0, -121])
def test_or_when_it_is_left(err):
    driver = resting()
    stop_waiting(driver)
    driver.feed(driver.reply_to(driver.unanswered[0], err))
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", 3)]


def test_or_when_it_is_removed():
    driver = resting()
    remove(driver)
    driver.answer()
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", 3)]


@pytest.mark.parametrize("who", ["a one-shot watch", "one that is coming", "a persistent one"])
def test_but_not_while_somebody_else_needs_it(who):
    driver = resting()
    if who == "a one-shot watch":
        set_one_shot(driver, CHILDREN)
    elif who == "one that is coming":
        driver.call(GET, "/a", watch=one)
    else:
        ask(driver, PERSISTENT, callback=two)
    driver.event(EventType.DATA_CHANGED, "/a")
    assert Op.REMOVE_WATCHES not in [sent.op for sent in driver.unanswered]


def test_nor_on_another_connection_where_it_never_was():
    driver = resting()
    again(driver)
    driver.answer()
    driver.event(EventType.DATA_CHANGED, "/a")
    assert asked(driver) == []


def test_who_is_about_to_come_keeps_it():
    driver = watching(PERSISTENT)
    call, request = ask(driver, PERSISTENT, callback=two)
    leave(driver, PERSISTENT)
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 0)]
    driver.cancel(call, request)
    leave(driver, PERSISTENT, callback=two)
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 0), (Op.REMOVE_WATCHES, "/a", 4)]


def test_what_is_asked_keeps_its_place_before_credentials_and_calls():
    driver = watching(PERSISTENT)
    call = driver.call(SET, "/b")
    driver.answer()
    driver.session.leave_watch(PERSISTENT, "/a", one)
    waiting = driver.submit(GET, "/c", at_once=True)[0]  # may not overtake
    identity = driver.authenticate()
    assert [sent.op for sent in driver.unanswered] == [Op.REMOVE_WATCHES, Op.GET_DATA, Op.AUTH]
    driver.answer(3)
    assert (call.ends, waiting.ends, identity.ends) == (1, 1, 1)


def test_credentials_come_behind_what_was_asked_before_them():
    driver = watching(PERSISTENT, max_in_flight=1)
    blocking = driver.call(GET, "/b")
    behind = driver.call(GET, "/c")
    driver.session.leave_watch(PERSISTENT, "/a", one)
    driver.answer()
    identity = driver.authenticate()
    ops = [(sent.op, sent.xid == XID_AUTH) for sent in driver.unanswered]
    assert ops == [(Op.REMOVE_WATCHES, False), (Op.AUTH, True)]
    driver.answer(3)
    assert (blocking.ends, behind.ends, identity.ends) == (1, 1, 1)


# -- servers with one mode for a path


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("operation", [GET, EXISTS])
def test_a_one_shot_watch_on_the_path_of_a_recursive_one_ends_the_recursion_at_once(operation, moved):
    driver = watching(RECURSIVE)
    set_one_shot(driver, operation)
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 1)]
    set_one_shot_behind = driver.call(operation, "/a", watch=one)
    driver.feed(driver.reply_to(driver.unanswered[0], zxid=driver.zxid + moved, body=encode_add_watch_reply(0)))
    assert heard(driver) == [(one, EventType.MISSED, "/a")] * moved
    driver.zxid += moved
    answer(driver)
    assert set_one_shot_behind.ends == 1
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 1)], "once more, for that one came behind it"
    answer(driver)


def test_several_one_shot_watches_set_at_once_are_taken_back_once():
    driver = watching(RECURSIVE)
    for _ in range(3):
        driver.call(GET, "/a", watch=two)
    driver.answer(3)
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 1)]


def test_newer_servers_are_known_by_their_events():
    driver = watching(RECURSIVE)
    driver.event(EventType.CREATED, "/a/b", zxid=NEW)
    set_one_shot(driver)
    assert asked(driver) == []
    again(driver)
    driver.answer()
    set_one_shot(driver)
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 1)], "the next server may be an old one"


@pytest.mark.parametrize(
    ("kind", "operation"), [(PERSISTENT, GET), (PERSISTENT, EXISTS), (PERSISTENT, CHILDREN), (RECURSIVE, CHILDREN)]
)
def test_behind_a_one_shot_watch_it_is_armed_again_and_told_that_it_may_have_missed(kind, operation):
    driver = watching(kind)
    set_one_shot(driver, operation)
    driver.event(EventType.DELETED, "/a", zxid=OLD)
    assert asked(driver) == [(Op.ADD_WATCH, "/a", MODES[kind])]
    assert sorted(heard(driver), key=str) == sorted(
        [(two, EventType.DELETED, "/a"), (one, EventType.DELETED, "/a"), (one, EventType.MISSED, "/a")], key=str
    )
    driver.answer()
    driver.event(EventType.CREATED, "/a", zxid=OLD)
    assert asked(driver) == []
    assert heard(driver) == [(one, EventType.CREATED, "/a")]


@pytest.mark.parametrize("how", ["its caller has gone", "its caller has gone, no node", "it was forgotten"])
def test_a_one_shot_watch_of_which_nobody_will_hear_took_it_over_all_the_same(how):
    driver = watching(PERSISTENT)
    if how == "it was forgotten":
        set_one_shot(driver)
        driver.session.forget_watch("/a", two)
    else:
        driver.cancel(*driver.submit(EXISTS, "/a", watch=two))
        driver.feed(driver.reply_to(driver.unanswered[0], -101 if "no node" in how else 0))
    driver.event(EventType.DATA_CHANGED, "/a", zxid=OLD)
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 0)]


def test_a_one_shot_watch_that_was_refused_took_nothing_over():
    driver = watching(PERSISTENT)
    driver.cancel(*driver.submit(GET, "/a", watch=two))
    driver.feed(driver.reply_to(driver.unanswered[0], -101))
    driver.cancel(*driver.submit(GET, "/a"))
    driver.answer()
    driver.event(EventType.DATA_CHANGED, "/a", zxid=OLD)
    assert asked(driver) == []


def test_newer_servers_keep_them_apart():
    driver = watching(PERSISTENT)
    set_one_shot(driver)
    driver.event(EventType.DATA_CHANGED, "/a", zxid=NEW)
    assert asked(driver) == []
    assert EventType.MISSED not in [event for _, event, _ in heard(driver)]


def test_a_persistent_watch_behind_a_recursive_one_ends_the_recursion_which_is_begun_again():
    driver = watching(RECURSIVE)
    ask(driver, PERSISTENT, callback=two)
    answer(driver)
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 1)]
    assert heard(driver) == [(one, EventType.MISSED, "/a")]


@pytest.mark.parametrize(("zxid", "derived"), [(OLD, True), (NEW, False)])
@pytest.mark.parametrize("event", [EventType.CREATED, EventType.DELETED])
def test_where_the_recursive_mode_has_won_children_are_heard_of_through_it(event, zxid, derived):
    driver = watching(PERSISTENT, path="/a")
    ask(driver, RECURSIVE, callback=two)
    answer(driver)
    driver.event(event, "/a/b", zxid=zxid)
    told = [(two, event, "/a/b")]
    assert heard(driver) == told + [(one, EventType.CHILDREN_CHANGED, "/a")] * derived
    driver.event(EventType.DATA_CHANGED, "/a/b", zxid=zxid)
    driver.event(event, "/a/b/c", zxid=zxid)
    assert heard(driver) == [(two, EventType.DATA_CHANGED, "/a/b"), (two, event, "/a/b/c")]


def test_where_the_recursive_mode_has_won_one_shot_watches_for_children_fire_too():
    driver = connected()
    set_one_shot(driver, CHILDREN)
    ask(driver, RECURSIVE)
    answer(driver)
    driver.event(EventType.CREATED, "/a/b", zxid=OLD)
    assert heard(driver) == [(one, EventType.CREATED, "/a/b"), (two, EventType.CHILDREN_CHANGED, "/a")]
    driver.event(EventType.CHILDREN_CHANGED, "/a", zxid=OLD)  # from a server that has it as well
    assert heard(driver) == []


def test_the_root_is_nobodys_child():
    driver = watching(PERSISTENT, RECURSIVE, path="/")
    driver.event(EventType.CREATED, "/", zxid=OLD)
    driver.event(EventType.CREATED, "no path at all", zxid=OLD)
    driver.event(EventType.CREATED, "/b", zxid=OLD)
    told = heard(driver)
    assert told.count((one, EventType.CHILDREN_CHANGED, "/")) <= 2
    assert (one, EventType.CREATED, "/b") in told


# -- leaving one-shot watches


def stop_waiting(driver, kind=DATA, path="/a", callback=two):
    driver.session.leave_one_shot(kind, path, callback)
    driver.pump()


@pytest.mark.parametrize(
    ("operation", "kind", "watcher_type"), [(GET, DATA, 2), (EXISTS, DATA, 2), (CHILDREN, CHILD, 1)]
)
@pytest.mark.parametrize("err", [0, -121])
def test_the_last_to_leave_a_one_shot_watch_removes_it(operation, kind, watcher_type, err):
    driver = connected(chroot="/app")
    set_one_shot(driver, operation)
    stop_waiting(driver, DATA + CHILD - kind)
    assert asked(driver) == [], "it waits for something else"
    stop_waiting(driver, kind)
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/app/a", watcher_type)]
    driver.feed(driver.reply_to(driver.unanswered[0], err))
    assert heard(driver) == []
    assert driver.changes[-1].state is State.CONNECTED
    again(driver)
    assert list(driver.unanswered) == []


def test_one_shot_watch_on_a_missing_node_is_left():
    driver = connected()
    driver.call(EXISTS, "/a", watch=two)
    driver.feed(driver.reply_to(driver.unanswered[0], -101))
    stop_waiting(driver)
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", 2)]


def test_who_else_waits_keeps_the_one_shot_watch():
    driver = connected()
    set_one_shot(driver)
    driver.call(EXISTS, "/a", watch=one)
    driver.feed(driver.reply_to(driver.unanswered[0], -101))
    stop_waiting(driver)
    assert asked(driver) == []
    driver.event(EventType.CREATED, "/a")
    assert heard(driver) == [(one, EventType.CREATED, "/a")]
    stop_waiting(driver, callback=one)
    assert asked(driver) == [], "the event has ended it"


@pytest.mark.parametrize("err", [0, -101])
def test_a_request_in_flight_may_set_the_watch_for_somebody_else(err):
    driver = connected()
    set_one_shot(driver)
    driver.call(GET, "/a", watch=one)
    stop_waiting(driver)
    assert driver.unanswered[-1].op == Op.GET_DATA, "a removal would come behind it"
    driver.feed(driver.reply_to(driver.unanswered[0], err))
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", 2)] * bool(err)


def test_of_several_in_flight_the_last_decides():
    driver = connected()
    gone = driver.submit(GET, "/a", watch=two)
    driver.submit(CHILDREN, "/a", watch=one)
    driver.submit(GET, "/b", watch=one)
    driver.cancel(*gone)
    stop_waiting(driver)
    driver.answer()
    assert len(driver.unanswered) == 2, "the children's may be answered for anything"
    driver.answer(2)
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", 2)]
    driver.answer()
    stop_waiting(driver, CHILD, callback=one)
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", 1)]


@pytest.mark.parametrize(("operation", "err"), [(GET, 0), (EXISTS, -101), (GET, -102)])
def test_a_watch_that_may_be_set_after_its_caller_has_gone_is_removed(operation, err):
    driver = connected()
    driver.cancel(*driver.submit(operation, "/a", watch=two))
    stop_waiting(driver)
    assert [sent.op for sent in driver.unanswered] == [operation.op]
    driver.feed(driver.reply_to(driver.unanswered[0], err))
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", 2)]


def test_who_asks_behind_the_removal_has_his_watch():
    driver = connected(max_in_flight=1)
    set_one_shot(driver)
    blocking = driver.call(SET, "/b")
    waiting = driver.call(GET, "/a", watch=one)
    stop_waiting(driver)
    driver.answer()
    assert [sent.op for sent in driver.unanswered] == [Op.REMOVE_WATCHES]
    driver.answer(2)
    assert (blocking.ends, waiting.ends) == (1, 1)
    driver.event(EventType.DATA_CHANGED, "/a")
    assert heard(driver) == [(one, EventType.DATA_CHANGED, "/a")]


def test_a_one_shot_watch_that_is_left_while_disconnected_is_not_armed_again():
    driver = connected()
    set_one_shot(driver)
    driver.cancel(*driver.submit(GET, "/b", watch=two))
    stop_waiting(driver, path="/b")
    driver.lose()
    stop_waiting(driver)
    driver.connect()
    assert list(driver.unanswered) == []
    driver.call(GET, "/b", watch=two)
    driver.answer()
    assert asked(driver) == [], "that was another connection"


@pytest.mark.parametrize(("zxid", "err", "hit"), [(OLD, 0, True), (OLD, -121, False), (NEW, 0, False)])
def test_before_3_9_a_one_shot_watch_that_is_left_takes_persistent_ones_with_it(zxid, err, hit):
    driver = watching(PERSISTENT)
    driver.event(EventType.CHILDREN_CHANGED, "/a", zxid=zxid)
    set_one_shot(driver)
    heard(driver)
    stop_waiting(driver)
    driver.feed(driver.reply_to(driver.unanswered[0], err))
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 0)] * hit
    assert heard(driver) == [(one, EventType.MISSED, "/a")] * hit


# -- removing and checking one-shot watches


def remove(driver, which=WatchKind.ANY, path="/a"):
    operation = driver.session.removal(which, path)
    return driver.call(operation, path, encode_remove_watches_request(path, which.value))


@pytest.mark.parametrize(
    ("which", "left"), [(WatchKind.ANY, []), (WatchKind.DATA, [CHILDREN]), (WatchKind.CHILDREN, [GET, EXISTS])]
)
def test_removing_tells_the_callbacks_and_leaves_the_others(which, left):
    driver = connected()
    for operation in (GET, EXISTS, CHILDREN):
        set_one_shot(driver, operation)
    call = remove(driver, which)
    assert heard(driver) == [], "not before the server has"
    driver.answer()
    assert (call.ends, call.result) == (1, None)
    assert heard(driver) == [(two, EventType.REMOVED, "/a")]
    driver.event(EventType.DELETED, "/a")
    assert heard(driver) == ([(two, EventType.DELETED, "/a")] if left else [])


def test_nothing_to_remove():
    driver = connected()
    call = remove(driver)
    driver.feed(driver.reply_to(driver.unanswered[0], -121))
    assert isinstance(call.error, NoWatcherError)
    assert heard(driver) == []


def test_what_the_server_has_lost_is_removed_here():
    """It drops a watch in silence together with an event that the connection may not read."""
    driver = connected()
    set_one_shot(driver)
    call = remove(driver)
    driver.feed(driver.reply_to(driver.unanswered[0], -121))
    assert (call.ends, call.error) == (1, None)
    assert heard(driver) == [(two, EventType.REMOVED, "/a")]


def test_a_removal_that_is_repeated_may_find_its_work_done():
    driver = connected()
    call = remove(driver)
    again(driver)
    driver.feed(driver.reply_to(driver.unanswered[0], -121))
    assert (call.ends, call.error) == (1, None)


def test_removing_one_shot_watches_spares_persistent_ones():
    driver = watching(PERSISTENT)
    set_one_shot(driver)
    remove(driver)
    driver.answer()
    assert asked(driver) == [(Op.ADD_WATCH, "/a", 0)]
    assert heard(driver) == [(two, EventType.REMOVED, "/a"), (one, EventType.MISSED, "/a")]


@pytest.mark.parametrize(("err", "told"), [(0, True), (-121, True), (-112, False)])
def test_a_removal_that_nobody_waits_for_any_more_has_removed_all_the_same(err, told):
    driver = connected()
    set_one_shot(driver)
    operation = driver.session.removal(WatchKind.ANY, "/a")
    driver.cancel(*driver.submit(operation, "/a", encode_remove_watches_request("/a", 3)))
    driver.feed(driver.reply_to(driver.unanswered[0], err))
    assert heard(driver) == [(two, EventType.REMOVED, "/a")] * told


def test_no_watcher_is_an_error_for_who_does_not_expect_it():
    driver = connected()
    call = driver.call(GET)
    driver.feed(driver.reply_to(driver.unanswered[0], -121))
    assert isinstance(call.error, NoWatcherError)


def test_a_lost_write_is_settled_beside_all_that():
    driver = watching(PERSISTENT)
    call = driver.call(SET)
    leave(driver, PERSISTENT)
    again(driver)
    answer(driver)
    changed = encode_exists_reply(STAT._replace(mzxid=driver.zxid))
    driver.feed(driver.reply_to(driver.unanswered[0], body=changed))
    assert isinstance(call.error, OutcomeUnknownError)
    assert list(driver.unanswered) == []


# -- servers before 3.6


def test_nothing_is_armed_where_no_persistent_watch_was():
    """Somebody wanted one until he heard that the server is too old, and it would end the connection over addWatch."""
    driver = connected()
    set_one_shot(driver)
    driver.session.want_watch(PERSISTENT, "/a", one)
    leave(driver, PERSISTENT)
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", 4)]
    answer(driver, -5)
    assert asked(driver) == []


def test_one_that_is_only_wanted_is_not_armed_when_a_one_shot_watch_is_left():
    driver = connected()
    set_one_shot(driver)
    driver.session.want_watch(PERSISTENT, "/a", one)
    driver.session.leave_one_shot(DATA, "/a", two)
    driver.pump()
    assert asked(driver) == [(Op.REMOVE_WATCHES, "/a", 2)]
    answer(driver)
    assert asked(driver) == []
    assert heard(driver) == []


def test_after_a_reconnect_its_answer_tells_that_the_server_has_them():
    driver = watching(PERSISTENT, RECURSIVE)
    again(driver)
    answer(driver)
    set_one_shot(driver)
    driver.session.leave_one_shot(DATA, "/a", two)
    driver.pump()
    while driver.unanswered and driver.unanswered[0].op == Op.ADD_WATCH:
        answer(driver)
    assert (Op.REMOVE_WATCHES, "/a", 2) in asked(driver)
    answer(driver)
    assert (Op.ADD_WATCH, "/a", 0) in asked(driver)
