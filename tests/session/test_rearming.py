import pytest

from everlatch.session.rearming import FRAME_LIMIT, Rearming
from everlatch.wire.codes import Op
from everlatch.wire.watch_records import decode_set_watches2_request, decode_set_watches_request

HEADER = 12
"""The frame's length, xid and operation."""
NONE = ([], [], [], [], [])


def frozen(zxid):
    rearming = Rearming()
    rearming.freeze(zxid)
    return rearming


def lists(frame):
    decode = decode_set_watches2_request if frame.op is Op.SET_WATCHES2 else decode_set_watches_request
    return decode(frame.body, 0, len(frame.body))


def many(count, kinds=3):
    paths = [f"/service/instances/node-{index:08d}" for index in range(count)]
    return [paths[kind::kinds] if kind < kinds else [] for kind in range(5)]


def test_nothing_to_rearm_on_the_first_connection():
    assert Rearming().frames([["/a"], [], [], [], []]) == []


def test_every_kind_is_listed():
    (frame,) = frozen(77).frames([["/d"], ["/e"], ["/c", "/d"], [], []])
    assert frame.op is Op.SET_WATCHES
    assert lists(frame) == (77, ["/d"], ["/e"], ["/c", "/d"])


@pytest.mark.parametrize("persistent", [[["/p"], []], [[], ["/r"]], [["/p"], ["/r", "/s"]]])
def test_persistent_watches_need_set_watches_2(persistent):
    (frame,) = frozen(77).frames([["/d"], [], [], *persistent])
    assert frame.op is Op.SET_WATCHES2
    assert lists(frame) == (77, ["/d"], [], [], *persistent)


def test_nothing_to_rearm_sends_nothing_and_thaws():
    rearming = frozen(5)
    assert rearming.frames(NONE) == []
    rearming.freeze(9)
    (frame,) = rearming.frames([["/a"], [], [], [], []])
    assert lists(frame).relative_zxid == 9


def test_frames_have_at_most_128_kib():
    paths = many(20_000)
    frames = frozen(1).frames(paths)
    sizes = [len(frame.body) + HEADER for frame in frames]
    assert max(sizes) <= FRAME_LIMIT == 128 * 1024
    assert min(sizes[:-1]) > FRAME_LIMIT - 100, "and are filled"
    seen = [lists(frame) for frame in frames]
    for kind in range(3):
        assert [path for request in seen for path in request[1 + kind]] == paths[kind]


def test_only_the_frames_with_persistent_watches_need_set_watches_2():
    paths = many(20_000, kinds=4)
    frames = frozen(1).frames(paths)
    ops = [frame.op for frame in frames]
    first = ops.index(Op.SET_WATCHES2)
    assert first > 0
    assert ops == [Op.SET_WATCHES] * first + [Op.SET_WATCHES2] * (len(ops) - first)
    persistent = [path for frame in frames[first:] for path in lists(frame).persistent]
    assert persistent == paths[3]
    assert max(len(frame.body) + HEADER for frame in frames) <= FRAME_LIMIT


def test_a_path_longer_than_a_frame_goes_alone():
    long = "/" + "x" * FRAME_LIMIT
    frames = frozen(1).frames([[long, "/a"], [], [], [], []])
    assert [lists(frame).data for frame in frames] == [[long], ["/a"]]


def test_paths_are_measured_in_bytes():
    frames = frozen(1).frames([[f"/ü{index:05d}" + "ü" * 500 for index in range(200)], [], [], [], []])
    assert len(frames) == 2
    assert all(len(frame.body) + HEADER <= FRAME_LIMIT for frame in frames)


def test_the_zxid_stays_frozen_until_every_frame_is_answered():
    rearming, paths = frozen(100), many(10_000)
    frames = len(rearming.frames(paths))
    assert frames >= 3
    for _ in range(frames - 1):
        rearming.answered()
    rearming.freeze(200)  # a second loss, one answer short
    assert {lists(frame).relative_zxid for frame in rearming.frames(paths)} == {100}
    for _ in range(frames):
        rearming.answered()
    rearming.freeze(300)
    assert {lists(frame).relative_zxid for frame in rearming.frames(paths)} == {300}
