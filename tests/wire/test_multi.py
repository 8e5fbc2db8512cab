import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.errors import InvalidArgumentError, ProtocolError, TruncatedError
from everlatch.types import OPEN_ACL_UNSAFE, Node, Stat
from everlatch.wire import multi
from everlatch.wire.codes import Op
from everlatch.wire.multi import (
    CheckPart,
    CheckResult,
    CreatePart,
    CreateResult,
    DeletePart,
    DeleteResult,
    ErrorResult,
    GetChildrenPart,
    GetChildrenResult,
    GetDataPart,
    GetDataResult,
    SetDataPart,
    SetDataResult,
)
from wire import strategies as wst
from wire.checks import any_bytes_test, check_hostile, check_round_trip, check_truncated, each
from wire.codecs import functions, named

STAT = Stat(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
TERMINATOR = bytes.fromhex("ffffffff 01 ffffffff")

acl_tuples = wst.acls.map(tuple)
parts = st.one_of(
    st.builds(CheckPart, wst.text, wst.int32),
    st.builds(
        CreatePart,
        st.sampled_from([Op.CREATE, Op.CREATE2, Op.CREATE_CONTAINER]),
        wst.text,
        wst.nullable_data,
        acl_tuples,
        wst.int32,
    ),
    st.builds(
        CreatePart,
        st.just(Op.CREATE_TTL),
        wst.text,
        wst.nullable_data,
        acl_tuples,
        st.sampled_from([5, 6]),
        wst.int64,
    ),
    st.builds(SetDataPart, wst.text, wst.nullable_data, wst.int32),
    st.builds(DeletePart, wst.text, wst.int32),
    st.builds(GetDataPart, wst.text),
    st.builds(GetChildrenPart, wst.text),
)
results = st.one_of(
    st.builds(CreateResult, wst.text, st.none() | wst.stats),
    st.builds(SetDataResult, wst.stats),
    st.just(DeleteResult()),
    st.just(CheckResult()),
    st.builds(GetDataResult, wst.nodes),
    st.builds(GetChildrenResult, wst.texts),
    st.builds(ErrorResult, wst.int32),
)
ALL_PARTS = [
    CheckPart("/a", 1),
    CreatePart(Op.CREATE, "/b", b"hi", OPEN_ACL_UNSAFE, 0),
    CreatePart(Op.CREATE2, "/c", None, OPEN_ACL_UNSAFE, 1),
    CreatePart(Op.CREATE_CONTAINER, "/d", b"", OPEN_ACL_UNSAFE, 4),
    CreatePart(Op.CREATE_TTL, "/e", b"hi", OPEN_ACL_UNSAFE, 5, 1000),
    SetDataPart("/f", b"hi", -1),
    DeletePart("/g", -1),
    GetDataPart("/h"),
    GetChildrenPart("/i"),
]
ALL_RESULTS = [
    CreateResult("/a", None),
    CreateResult("/b", STAT),
    SetDataResult(STAT),
    DeleteResult(),
    CheckResult(),
    GetDataResult(Node(b"hi", STAT)),
    GetChildrenResult(["a", "bc"]),
    ErrorResult(-101),
]


def kinds_and_items(items):
    """Parts are tuples, and a check is equal to a delete of the same path: compare what they are, too."""
    return [(type(item), item) for item in items]


CODECS = [
    named(multi, "multi_request", st.lists(parts, max_size=3).map(lambda items: (items,)), (ALL_PARTS,), list),
    named(multi, "multi_reply", st.lists(results, max_size=3).map(lambda items: (items,)), (ALL_RESULTS,), list),
]
codecs = each(CODECS)

test_any_bytes = any_bytes_test(CODECS, max_size=120)


def test_every_function_is_tested():
    assert {codec.name for codec in CODECS} == functions(multi)


@codecs
@given(draw=st.data())
def test_round_trip(codec, draw):
    (items,) = draw.draw(codec.arguments)
    check_round_trip(codec, (items,))
    encoded = codec.encode(items)
    assert kinds_and_items(codec.decode(encoded, 0, len(encoded))) == kinds_and_items(items)
    check_truncated(codec, (items,))


@codecs
def test_all_kinds(codec):
    (items,) = codec.sample
    check_round_trip(codec, (items,))
    encoded = codec.encode(items)
    assert kinds_and_items(codec.decode(encoded, 0, len(encoded))) == kinds_and_items(items)
    check_truncated(codec, (items,))


@pytest.mark.parametrize(
    ("codec", "index"), [(codec, index) for codec in CODECS for index in range(len(codec.sample[0]))]
)
def test_hostile_numbers(codec, index):
    check_hostile(codec, ([codec.sample[0][index]],))


@codecs
def test_an_empty_list_is_a_terminator(codec):
    assert codec.encode([]) == TERMINATOR
    assert codec.decode(TERMINATOR, 0, len(TERMINATOR)) == []


@codecs
def test_the_terminator_is_missing(codec):
    wire = codec.encode(codec.sample[0])[: -len(TERMINATOR)]
    with pytest.raises(TruncatedError, match="ends after 0 of 9 bytes"):
        codec.decode(wire, 0, len(wire))


@codecs
@pytest.mark.parametrize("kind", [0, 14, 22, 3, -11, 99])
def test_unknown_types(codec, kind):
    wire = struct.pack(">i?i", kind, False, -1) + TERMINATOR
    with pytest.raises(ProtocolError, match=f"unknown type {kind} in"):
        codec.decode(wire, 0, len(wire))


def test_a_create2_that_an_older_server_answers_as_a_create():
    wire = bytes.fromhex("00000001 00 00000000 00000002 2f61") + TERMINATOR
    assert multi.decode_multi_reply(wire, 0, len(wire)) == [CreateResult("/a", None)]


def test_creates_are_answered_by_what_they_tell():
    for stat, kind in ((None, Op.CREATE), (STAT, Op.CREATE2)):
        wire = multi.encode_multi_reply([CreateResult("/a", stat)])
        assert struct.unpack_from(">i?i", wire) == (kind, False, 0)


def test_a_refused_transaction():
    wire = b"".join(struct.pack(">i?ii", -1, False, code, code) for code in (0, -103, -2)) + TERMINATOR
    refused = [ErrorResult(0), ErrorResult(-103), ErrorResult(-2)]
    assert multi.decode_multi_reply(wire, 0, len(wire)) == refused
    assert multi.encode_multi_reply(refused) == wire


def test_null_data_of_a_node_in_a_multi_read():
    wire = struct.pack(">i?ii", Op.GET_DATA, False, 0, -1) + multi.encode_multi_reply([SetDataResult(STAT)])[9:]
    assert multi.decode_multi_reply(wire, 0, len(wire)) == [GetDataResult(Node(b"", STAT))]


def test_results_without_fields_are_true_and_differ():
    assert DeleteResult()
    assert CheckResult()
    assert DeleteResult() != CheckResult()


def test_parts_of_a_multi_read_leave_no_watch():
    wire = multi.encode_multi_request([GetDataPart("/a"), GetChildrenPart("/a")])
    assert (
        wire
        == bytes.fromhex("00000004 00 ffffffff 00000002 2f61 00 00000008 00 ffffffff 00000002 2f61 00") + TERMINATOR
    )


@pytest.mark.parametrize(
    "part",
    [
        CreatePart(Op.DELETE, "/a", b"", OPEN_ACL_UNSAFE, 0),
        CreatePart(Op.CREATE, "/a", b"", OPEN_ACL_UNSAFE, 0, 1000),
        CreatePart(Op.CREATE_TTL, "/a", b"", OPEN_ACL_UNSAFE, 5),
        CreatePart(Op.CREATE_TTL, "/a", b"", OPEN_ACL_UNSAFE, 0, -1),
        CheckPart("/a", 2**31),
        DeletePart("/\ud800", -1),
    ],
)
def test_parts_that_are_not_sent(part):
    with pytest.raises(InvalidArgumentError):
        multi.encode_multi_request([part])
