import struct
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.errors import FrameTooLargeError, InvalidLengthError
from everlatch.wire.framing import FrameReader, frame

LIMIT = 64
payloads = st.lists(st.binary(max_size=LIMIT), max_size=6)


def payloads_of(reader, data):
    return [buf[start:end] for buf, start, end in reader.feed(data)]


def test_frame():
    assert frame(b"hi") == b"\0\0\0\2hi"
    assert frame(b"") == b"\0\0\0\0"


@given(payloads)
def test_whole(contents):
    reader = FrameReader(LIMIT)
    stream = b"".join(map(frame, contents))
    frames = list(reader.feed(stream))
    assert [buf[start:end] for buf, start, end in frames] == contents
    assert all(buf is stream for buf, _, _ in frames), "nothing is copied"
    assert (reader.pending, reader.pending_head) == (0, b"")


@given(payloads)
def test_byte_by_byte(contents):
    reader = FrameReader(LIMIT)
    stream = b"".join(map(frame, contents))
    seen = [payload for byte in stream for payload in payloads_of(reader, bytes([byte]))]
    assert seen == contents
    assert reader.pending == 0


@given(payloads, st.lists(st.integers(0, 40), max_size=12), st.binary(max_size=3))
def test_any_pieces(contents, sizes, tail):
    reader = FrameReader(LIMIT)
    stream = b"".join(map(frame, contents)) + tail
    seen, fed = [], 0
    for size in [*sizes, len(stream)]:
        seen += payloads_of(reader, stream[fed : fed + size])
        fed = min(fed + size, len(stream))
        whole = sum(len(payload) + 4 for payload in seen)
        assert reader.pending == fed - whole
        assert reader.pending_head == stream[whole + 4 : min(whole + 8, fed)]
    assert seen == contents
    assert reader.pending == len(tail)


def test_a_frame_as_large_as_the_limit():
    assert payloads_of(FrameReader(LIMIT), frame(bytes(LIMIT))) == [bytes(LIMIT)]


def test_a_frame_over_the_limit_comes_after_those_before_it():
    reader = FrameReader(LIMIT)
    frames = reader.feed(frame(b"good") + struct.pack(">ii", LIMIT + 1, 7) + b"more")
    buf, start, end = next(frames)
    assert buf[start:end] == b"good"
    with pytest.raises(FrameTooLargeError) as caught:
        next(frames)
    assert (caught.value.size, caught.value.limit) == (LIMIT + 1, LIMIT)
    assert reader.pending_head == struct.pack(">i", 7)


@pytest.mark.parametrize("length", [-1, -(2**31)])
def test_a_negative_length(length):
    with pytest.raises(InvalidLengthError, match=f"frame of {length} bytes"):
        payloads_of(FrameReader(LIMIT), struct.pack(">i", length))


def test_a_refused_stream_stays_refused_and_its_head_still_comes():
    reader = FrameReader(LIMIT)
    stream = struct.pack(">ii", 2**31 - 1, 9) + frame(b"never")
    for fed in range(1, len(stream) + 1):
        if fed < 4:
            assert payloads_of(reader, stream[fed - 1 : fed]) == []
        else:
            with pytest.raises(FrameTooLargeError):
                payloads_of(reader, stream[fed - 1 : fed])
        assert reader.pending_head == stream[4 : min(fed, 8)]
        assert reader.pending <= 8


def test_feeding_nothing_changes_nothing():
    reader = FrameReader(LIMIT)
    assert payloads_of(reader, b"") == []
    assert payloads_of(reader, b"\0\0\0\4ab") == []
    assert payloads_of(reader, b"") == []
    assert (reader.pending, reader.pending_head) == (6, b"ab")
    assert payloads_of(reader, b"cd") == [b"abcd"]


def test_no_memory_for_what_is_only_announced():
    reader = FrameReader(2**31 - 1)
    tracemalloc.start()
    try:
        assert payloads_of(reader, struct.pack(">i", 2**31 - 1) + b"a little") == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_huge_frame_in_small_pieces_is_put_together_once():
    """Counts the copies, not the seconds: what copies with every piece takes quadratic time."""
    piece, count = 1000, 1000
    stream = frame(bytes(piece * count - 4))
    pieces = [stream[pos : pos + piece] for pos in range(0, len(stream), piece)]
    reader = FrameReader(2**20)
    joins = []

    def note_joins(_frame, event, function):
        if event == "c_call" and function.__name__ == "join":
            joins.append(reader.pending)

    before = sys.getprofile()
    sys.setprofile(note_joins)
    try:
        frames = [each for data in pieces for each in reader.feed(data)]
    finally:
        sys.setprofile(before)
    ((buf, start, end),) = frames
    assert buf[start:end] == stream[4:]
    assert joins == [len(stream)], "once, when the last piece was there"


def test_a_huge_frame_in_small_pieces_takes_its_own_size():
    piece, count = 1000, 1000
    reader = FrameReader(2**20)
    prefix = struct.pack(">i", piece * count)
    tracemalloc.start()
    try:
        assert list(reader.feed(prefix)) == []
        for _ in range(count - 1):
            assert list(reader.feed(bytes(piece))) == []
        ((_, start, end),) = reader.feed(bytes(piece))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert end - start == piece * count
    assert peak < 2.5 * piece * count, "the pieces, and the whole"
