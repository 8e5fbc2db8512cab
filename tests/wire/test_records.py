import pytest
from hypothesis import strategies as st

from everlatch.errors import InvalidArgumentError, InvalidLengthError, ProtocolError
from everlatch.types import OPEN_ACL_UNSAFE, Children, Created, Node, Stat
from everlatch.wire import records
from wire import strategies as wst
from wire.checks import any_bytes_test, round_trip_test, sample_test
from wire.codecs import functions, named

STAT = Stat(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)

path_alone = wst.text.map(lambda path: (path,))
path_and_watch = st.tuples(wst.text, st.booleans())
path_and_version = st.tuples(wst.text, wst.int32)
create = st.tuples(wst.text, wst.nullable_data, wst.acls, wst.int32)
create_ttl = st.tuples(wst.text, wst.nullable_data, wst.acls, st.sampled_from([5, 6]), wst.int64)
stat_alone = wst.stats.map(lambda stat: (stat,))
path_and_stat = st.tuples(wst.text, wst.stats)
data_and_stat = st.tuples(wst.nullable_data, wst.stats)
names_alone = wst.texts.map(lambda names: (names,))

A_CREATE = ("/a", b"hi", OPEN_ACL_UNSAFE, 0)


def value(only):
    return only


def node(data, stat):
    return Node(data or b"", stat)


def create_request(path, data, acls, flags):
    return records.CreateRequest(path, data, list(acls), flags)


def create_ttl_request(path, data, acls, flags, ttl_ms):
    return records.CreateTTLRequest(path, data, list(acls), flags, ttl_ms)


CODECS = [
    named(records, *row)
    for row in [
        ("create_request", create, A_CREATE, create_request),
        ("create_reply", path_alone, ("/a",), value),
        ("create2_request", create, A_CREATE, create_request),
        ("create2_reply", path_and_stat, ("/a", STAT), Created),
        ("create_container_request", create, A_CREATE, create_request),
        ("create_container_reply", path_and_stat, ("/a", STAT), Created),
        ("create_ttl_request", create_ttl, ("/a", b"hi", OPEN_ACL_UNSAFE, 5, 1000), create_ttl_request),
        ("create_ttl_reply", path_and_stat, ("/a", STAT), Created),
        ("delete_request", path_and_version, ("/a", -1), records.PathAndVersion),
        ("check_request", path_and_version, ("/a", -1), records.PathAndVersion),
        ("exists_request", path_and_watch, ("/a", True), records.PathAndWatch),
        ("exists_reply", stat_alone, (STAT,), value),
        ("get_data_request", path_and_watch, ("/a", True), records.PathAndWatch),
        ("get_data_reply", data_and_stat, (b"hi", STAT), node),
        (
            "set_data_request",
            st.tuples(wst.text, wst.nullable_data, wst.int32),
            ("/a", b"hi", 1),
            records.SetDataRequest,
        ),
        ("set_data_reply", stat_alone, (STAT,), value),
        ("get_acl_request", path_alone, ("/a",), value),
        (
            "get_acl_reply",
            st.tuples(wst.acls, wst.stats),
            (OPEN_ACL_UNSAFE, STAT),
            lambda acls, stat: (list(acls), stat),
        ),
        (
            "set_acl_request",
            st.tuples(wst.text, wst.acls, wst.int32),
            ("/a", OPEN_ACL_UNSAFE, 1),
            lambda path, acls, version: records.SetACLRequest(path, list(acls), version),
        ),
        ("set_acl_reply", stat_alone, (STAT,), value),
        ("get_children_request", path_and_watch, ("/a", True), records.PathAndWatch),
        ("get_children_reply", names_alone, (["a", "bc"],), value),
        ("get_children2_request", path_and_watch, ("/a", True), records.PathAndWatch),
        ("get_children2_reply", st.tuples(wst.texts, wst.stats), (["a", "bc"], STAT), Children),
        ("sync_request", path_alone, ("/a",), value),
        ("sync_reply", path_alone, ("/a",), value),
        (
            "reconfig_request",
            st.tuples(wst.nullable_text, wst.nullable_text, wst.nullable_text, wst.int64),
            ("server.4=h", None, "", -1),
            records.ReconfigRequest,
        ),
        ("reconfig_reply", data_and_stat, (b"version=100000000", STAT), node),
        ("get_ephemerals_request", wst.nullable_text.map(lambda prefix: (prefix,)), ("/a",), value),
        ("get_ephemerals_reply", names_alone, (["/a", "/b"],), value),
        ("get_all_children_number_request", path_alone, ("/a",), value),
        ("get_all_children_number_reply", wst.int32.map(lambda number: (number,)), (3,), value),
    ]
]

test_round_trip = round_trip_test(CODECS)
test_one_of_each = sample_test(CODECS)
test_any_bytes = any_bytes_test(CODECS, max_size=120)


def test_every_function_is_tested():
    assert {codec.name for codec in CODECS} == functions(records)


@pytest.mark.parametrize(
    "codec",
    [codec for codec in CODECS if codec.sample[0] in ("/a", b"hi") and codec.name != "get_ephemerals_request"],
    ids=str,
)
def test_null_is_data_but_no_path(codec):
    wire = b"\xff\xff\xff\xff" + codec.encode(*codec.sample)[4 + len(codec.sample[0]) :]
    if codec.name == "get_data_reply":
        assert codec.decode(wire, 0, len(wire)) == Node(b"", STAT)
    else:
        with pytest.raises(ProtocolError, match="null at offset 0"):
            codec.decode(wire, 0, len(wire))


def test_data_may_be_large_and_lies_between_other_replies():
    data = bytes(range(256)) * 4096
    wire = b"before" + records.encode_get_data_reply(data, STAT)
    assert records.decode_get_data_reply(wire + b"after", 6, len(wire)) == Node(data, STAT)


@pytest.mark.parametrize("length", [-2, 1, 100, 2**31 - 1])
def test_data_may_not_reach_into_the_stat(length):
    wire = length.to_bytes(4, "big", signed=True) + records.encode_exists_reply(STAT)
    with pytest.raises(InvalidLengthError, match=f"length {length} at offset 0"):
        records.decode_get_data_reply(wire, 0, len(wire))


def test_ten_thousand_children():
    names = [f"member-{number:010d}" for number in range(10_000)]
    wire = records.encode_get_children_reply(names)
    assert records.decode_get_children_reply(wire, 0, len(wire)) == names


@pytest.mark.parametrize("flags", [-1, 0, 1, 2, 3, 4, 7])
def test_the_create_that_kills_servers_is_not_encoded(flags):
    with pytest.raises(InvalidArgumentError, match=f"createTTL of '/a' with flags {flags}"):
        records.encode_create_ttl_request("/a", b"", OPEN_ACL_UNSAFE, flags, -1)


@pytest.mark.parametrize(
    "encode",
    [
        lambda: records.encode_delete_request("/a", 2**31),
        lambda: records.encode_create_request("/a", b"", OPEN_ACL_UNSAFE, 2**31),
        lambda: records.encode_create_ttl_request("/a", b"", OPEN_ACL_UNSAFE, 5, 2**63),
        lambda: records.encode_set_data_request("/a", b"", -(2**31) - 1),
        lambda: records.encode_reconfig_request(None, None, None, 2**63),
        lambda: records.encode_exists_request("/\ud800", False),
    ],
)
def test_what_does_not_fit(encode):
    with pytest.raises(InvalidArgumentError):
        encode()
