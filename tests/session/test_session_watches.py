"""Watches: when they are set, when they fire, and how they survive connections and sessions."""

import pytest

from everlatch.errors import ServerError
from everlatch.session.rearming import FRAME_LIMIT
from everlatch.session.requests import Request
from everlatch.types import EventType, State, WatchEvent
from everlatch.wire.codes import Op
from everlatch.wire.headers import encode_reply
from session.driver import BODIES, CHILDREN, EXISTS, GET, SET, Call, connected


def one(event):
    """A callback."""


def two(event):
    """Another one."""


def watching(operation=GET, path="/a", err=0, **options):
    """A driver with a watch that `operation` has set."""
    driver = connected(**options)
    driver.call(operation, path, watch=one)
    driver.feed(driver.reply_to(driver.unanswered[0], err=err))
    return driver


def watch_count(driver):
    return driver.session.statistics().watches


def rearmed(driver):
    """The setWatches frames of the present connection."""
    return [
        driver.watches_in(request)
        for request in driver.sent
        if request.conn == driver.session.conn and request.op == Op.SET_WATCHES
    ]


def again(driver):
    driver.lose()
    driver.connect()
    return rearmed(driver)


def test_a_watch_is_set_by_the_reply_not_before():
    driver = connected()
    driver.call(GET, "/a", watch=one)
    driver.event(EventType.DATA_CHANGED, "/a")
    assert driver.fired == []
    driver.answer()
    driver.event(EventType.DATA_CHANGED, "/a", zxid=7)
    assert driver.fired == [([one], WatchEvent(EventType.DATA_CHANGED, "/a", 7))]


def test_a_watch_fires_once():
    driver = watching()
    for _ in range(2):
        driver.event(EventType.DATA_CHANGED, "/a")
    assert len(driver.fired) == 1
    assert driver.session.statistics().events_received == 2


@pytest.mark.parametrize(
    ("operation", "err", "kind"),
    [(GET, 0, "data"), (EXISTS, 0, "data"), (EXISTS, -101, "exist"), (CHILDREN, 0, "child")],
)
def test_kinds(operation, err, kind):
    driver = watching(operation, err=err)
    (frame,) = again(driver)
    assert getattr(frame, kind) == ["/a"]
    assert sum(map(len, frame[1:])) == 1


@pytest.mark.parametrize(("operation", "err"), [(GET, -101), (CHILDREN, -101), (EXISTS, -102)])
def test_an_error_sets_no_watch(operation, err):
    assert watch_count(watching(operation, err=err)) == 0


def test_without_a_callback_there_is_no_watch():
    driver = connected()
    for err in (0, -101):
        driver.call(EXISTS, "/a")
        driver.feed(driver.reply_to(driver.unanswered[0], err=err))
    assert watch_count(driver) == 0


def test_an_operation_that_sets_no_watch():
    driver = connected()
    driver.call(SET, "/a", watch=one)
    driver.answer()
    assert watch_count(driver) == 0


@pytest.mark.parametrize("err", [0, -101])
@pytest.mark.parametrize("withdraw", [False, True])
def test_a_cancelled_caller_has_no_use_for_its_watch(err, withdraw):
    driver = connected()
    call, request = driver.submit(EXISTS, "/a", watch=one)
    if withdraw:
        driver.cancel(call, request)
    else:
        call.cancelled = True
    driver.feed(driver.reply_to(driver.unanswered[0], err=err))
    assert watch_count(driver) == 0


def test_a_watch_under_several_kinds_is_called_once_for_a_deletion():
    driver = watching()
    driver.call(CHILDREN, "/a", watch=one)
    driver.call(GET, "/a", watch=two)
    driver.answer(2)
    driver.event(EventType.DELETED, "/a")
    assert driver.fired == [([one, two], WatchEvent(EventType.DELETED, "/a", -1))]


@pytest.mark.parametrize(
    ("path", "server_path"), [("/a", "/app/root/a"), ("/", "/app/root")], ids=["below", "the chroot itself"]
)
def test_chroots(path, server_path):
    driver = watching(path=path, chroot="/app/root")
    (frame,) = again(driver)
    assert frame.data == [server_path]
    driver.event(EventType.DATA_CHANGED, server_path)
    assert driver.fired[0][1].path == path


@pytest.mark.parametrize("path", ["/a", "/"])
def test_a_forgotten_watch_does_not_fire(path):
    driver = watching(path=path, chroot="/app")
    driver.session.forget_watch(path, two)
    assert watch_count(driver) == 1
    driver.session.forget_watch(path, one)
    assert watch_count(driver) == 0
    assert again(driver) == []


# -- after a loss


def test_what_has_fired_is_not_armed_again():
    driver = watching()
    driver.event(EventType.DATA_CHANGED, "/a")
    assert again(driver) == []


def test_watches_are_armed_from_the_zxid_of_the_loss():
    driver = watching()
    zxid = driver.zxid
    driver.event(EventType.DATA_CHANGED, "/b", zxid=zxid + 50)
    (frame,) = again(driver)
    assert frame.relative_zxid == zxid, "an event may be one of several of its transaction"


def test_an_event_while_arming():
    driver = watching()
    again(driver)
    driver.event(EventType.DATA_CHANGED, "/a")
    driver.answer()
    assert len(driver.fired) == 1
    assert watch_count(driver) == 0


def test_a_new_session_is_armed_from_the_old_zxid():
    driver = watching()
    zxid = driver.zxid
    driver.lose()
    driver.made()
    driver.expire()
    driver.connect(0x5678)
    assert rearmed(driver)[0].relative_zxid == zxid
    assert driver.states[-2:] == [State.RENEWED, State.CONNECTED]


def many_watches(count):
    """A driver with so many watches on long paths, about a thousand of which fill a frame."""
    driver = connected(max_in_flight=count)
    for index in range(count):
        driver.session.submit(Request(Call(), GET, f"/service/node-{index:0120d}", b"", one))
    driver.pump()
    driver.feed(*[encode_reply(request.xid, 2000, 0, BODIES[Op.GET_DATA]) for request in driver.unanswered])
    driver.unanswered.clear()
    driver.zxid = 2000
    return driver


def test_several_frames_and_two_losses():
    driver = many_watches(2500)
    zxid = driver.zxid
    frames = again(driver)
    assert len(frames) == 3
    assert {frame.relative_zxid for frame in frames} == {zxid}
    sizes = [len(request.body) + 12 for request in driver.unanswered]
    assert max(sizes) <= FRAME_LIMIT
    driver.call(GET, "/behind")
    driver.answer(2)  # they move the zxid, but the third frame is still open
    assert driver.zxid > zxid
    assert driver.session.last_zxid == driver.zxid
    second = again(driver)
    assert {frame.relative_zxid for frame in second} == {zxid}
    assert [path for frame in second for path in frame.data] == [
        f"/service/node-{index:0120d}" for index in range(2500)
    ]
    driver.answer(3)
    third = again(driver)
    assert {frame.relative_zxid for frame in third} == {driver.zxid}, "all were answered, so it is thawed"


def test_a_refused_frame_drops_the_connection_and_is_sent_again():
    driver = watching()
    zxid = driver.zxid
    again(driver)
    driver.feed(driver.reply_to(driver.unanswered[0], err=-5))
    assert driver.states[-1] is State.SUSPENDED
    assert isinstance(driver.changes[-1].reason, ServerError)
    assert driver.changes[-1].reason.operation == "setWatches"
    driver.connect()
    assert rearmed(driver)[0].relative_zxid == zxid


def test_a_refusal_that_overtakes_drops_the_connection_as_well():
    """Were it only swallowed, a server that doesn't close would leave these watches unarmed."""
    driver = many_watches(1200)
    zxid = driver.zxid
    assert len(again(driver)) == 2
    driver.feed(driver.reply_to(driver.unanswered[1], err=-6))
    assert driver.states[-1] is State.SUSPENDED
    assert driver.changes[-1].reason.code == -6
    driver.connect()
    assert [frame.relative_zxid for frame in rearmed(driver)] == [zxid] * 2
