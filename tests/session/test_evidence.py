"""What nodes show of a write: every rule at its boundary."""

import pytest

from everlatch.errors import NoAuthError, ResultLostError
from everlatch.partial_stat import UNKNOWN, PartialStat
from everlatch.session.evidence import (
    MAYBE,
    NOT_APPLIED,
    Fate,
    Verdict,
    changes_of,
    guarded_body,
    is_ephemeral,
    is_sequential,
    judge,
    paths_to_look_at,
    result_of,
)
from everlatch.session.requests import Operation, Request
from everlatch.types import OPEN_ACL_UNSAFE, Stat
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.multi import (
    CheckPart,
    CheckResult,
    CreatePart,
    CreateResult,
    DeletePart,
    DeleteResult,
    SetDataPart,
    SetDataResult,
    decode_multi_request,
    encode_multi_request,
)
from everlatch.wire.records import (
    SetACLRequest,
    decode_delete_request,
    decode_set_data_request,
    encode_create_request,
    encode_create_ttl_request,
    encode_delete_request,
    encode_set_acl_request,
    encode_set_data_request,
)

Z0 = 100
"""The latest that had been seen when the write was sent."""
OURS, OTHERS = 7, 8
NO_ACCESS = NoAuthError()
ACL = tuple(OPEN_ACL_UNSAFE)


def stat(czxid=1, mzxid=1, pzxid=1, version=0, aversion=0, owner=0):
    return Stat(czxid, mzxid, 11, 12, version, 0, aversion, owner, 4, 0, pzxid)


def create(path="/p/a", flags=0, op=Op.CREATE2):
    return CreatePart(op, path, b"data", ACL, flags, 5 if op == Op.CREATE_TTL else None)


def verdict(change, seen, **more):
    changes = change if isinstance(change, list) else [change]
    return judge(changes, Z0, seen, **({"owner": OURS} | more))


# -- set


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (stat(mzxid=Z0), NOT_APPLIED),
        (stat(mzxid=Z0 + 1), MAYBE),
        (stat(czxid=Z0, mzxid=Z0), NOT_APPLIED),
        (stat(czxid=Z0 + 1, mzxid=Z0 + 1), MAYBE),
        (stat(czxid=Z0 + 1, mzxid=Z0), MAYBE),  # a server that lies: no node is changed before it is made
        (None, MAYBE),
        (NO_ACCESS, MAYBE),
    ],
)
def test_data_that_is_as_old_was_not_set(node, expected):
    assert verdict(SetDataPart("/a", b"", -1), {"/a": node}) is expected


@pytest.mark.parametrize(
    ("demanded", "version", "expected"),
    [
        (4, 4, NOT_APPLIED),
        (4, 3, NOT_APPLIED),
        (4, 5, MAYBE),
        (4, 0, NOT_APPLIED),
        (-1, 0, MAYBE),
        (-1, -1, MAYBE),
        (4, -1, MAYBE),  # the count has overflowed
        (4, -(1 << 31), MAYBE),
    ],
)
def test_data_that_has_the_demanded_version_was_not_set(demanded, version, expected):
    """Changed by others since, before the demanded version: it had not been applied then, and can't be any more."""
    node = stat(mzxid=Z0 + 5, version=version)
    assert verdict(SetDataPart("/a", b"", demanded), {"/a": node}) is expected


def test_the_version_of_a_node_that_was_made_anew_proves_nothing():
    node = stat(czxid=Z0 + 1, mzxid=Z0 + 1, version=0)
    assert verdict(SetDataPart("/a", b"", 4), {"/a": node}) is MAYBE


# -- delete


@pytest.mark.parametrize(
    ("node", "expected"),
    [(stat(czxid=Z0), NOT_APPLIED), (stat(czxid=Z0 + 1), MAYBE), (None, MAYBE), (NO_ACCESS, MAYBE)],
)
def test_a_node_that_is_as_old_was_not_deleted(node, expected):
    assert verdict(DeletePart("/a", -1), {"/a": node}) is expected


# -- setACL


@pytest.mark.parametrize(
    ("node", "demanded", "expected"),
    [
        (stat(czxid=Z0, aversion=2), 2, NOT_APPLIED),
        (stat(czxid=Z0, aversion=1), 2, NOT_APPLIED),
        (stat(czxid=Z0, aversion=3), 2, MAYBE),
        (stat(czxid=Z0, aversion=-1), 2, MAYBE),
        (stat(czxid=Z0 + 1, aversion=2), 2, MAYBE),
        (stat(czxid=Z0, aversion=0), -1, MAYBE),  # nothing moves but the version, and none was demanded
        (None, 2, MAYBE),
        (NO_ACCESS, 2, MAYBE),
    ],
)
def test_an_acl_that_has_the_demanded_version_was_not_set(node, demanded, expected):
    assert verdict(SetACLRequest("/a", list(ACL), demanded), {"/a": node}) is expected


# -- create


@pytest.mark.parametrize(
    ("node", "above", "expected"),
    [
        (stat(czxid=Z0), stat(pzxid=Z0 + 1), NOT_APPLIED),  # it was there before
        (stat(czxid=Z0 + 1), stat(pzxid=Z0 + 1), MAYBE),  # made since, by whomever
        (None, stat(pzxid=Z0), NOT_APPLIED),
        (None, stat(pzxid=Z0 + 1), MAYBE),  # it may have been deleted again
        (None, None, MAYBE),
        (None, NO_ACCESS, MAYBE),
        (NO_ACCESS, stat(pzxid=Z0), MAYBE),
    ],
)
def test_creations(node, above, expected):
    assert verdict(create(), {"/p/a": node, "/p": above}) is expected


@pytest.mark.parametrize(
    ("above", "expected"), [(stat(pzxid=Z0), NOT_APPLIED), (stat(pzxid=Z0 + 1), MAYBE), (None, MAYBE)]
)
def test_of_a_sequential_node_only_the_parent_tells(above, expected):
    change = create("/p/a-", CreateMode.EPHEMERAL_SEQUENTIAL)
    assert verdict(change, {"/p": above, "/p/a-": stat(czxid=1)}) is expected


HAPPENED = Verdict(Fate.HAPPENED, Z0 + 1, 11)
MADE = stat(czxid=Z0 + 1, owner=OURS)


@pytest.mark.parametrize(
    ("node", "flags", "only", "expected"),
    [
        (MADE, CreateMode.EPHEMERAL, True, HAPPENED),
        (MADE, CreateMode.EPHEMERAL, False, MAYBE),  # another write of ours may have made it
        (MADE, CreateMode.PERSISTENT, True, MAYBE),  # that of an earlier call of ours
        (stat(czxid=Z0 + 1, owner=OTHERS), CreateMode.EPHEMERAL, True, MAYBE),
        (stat(czxid=Z0, owner=OURS), CreateMode.EPHEMERAL, True, NOT_APPLIED),  # ours, of before
    ],
)
def test_an_ephemeral_node_of_our_own_was_made_by_us(node, flags, only, expected):
    assert verdict(create(flags=flags), {"/p/a": node, "/p": stat(pzxid=Z0 + 1)}, only=only) == expected


def test_a_protected_name_is_ours_alone():
    seen = {"/p/a": stat(czxid=Z0 + 1, owner=OTHERS), "/p": stat()}
    assert verdict(create(), seen, is_protected=True, only=False) == HAPPENED


# -- transactions

UNCHANGED, CHANGED = DeletePart("/old", -1), DeletePart("/gone", -1)
SEEN = {"/old": stat(), "/gone": None, "/p/a": MADE, "/p": stat(pzxid=Z0 + 1)}
EPHEMERAL = create(flags=CreateMode.EPHEMERAL)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([CHANGED, UNCHANGED], NOT_APPLIED),
        ([UNCHANGED, CHANGED], NOT_APPLIED),
        ([CHANGED, CHANGED], MAYBE),
        ([CheckPart("/old", -1)], MAYBE),
        ([CHANGED, EPHEMERAL], HAPPENED),
        ([EPHEMERAL, UNCHANGED], MAYBE),  # no server can have shown both
        ([], MAYBE),
    ],
)
def test_any_one_part_tells_of_all(changes, expected):
    assert verdict(changes, SEEN) == expected


def test_what_was_not_looked_at_shows_nothing():
    for change in (UNCHANGED, SetDataPart("/a", b"", 0), SetACLRequest("/a", [], 0), create(), create("/p/s-", 2)):
        assert verdict(change, {}) is MAYBE


# -- reading requests


def request(op, body, **more):
    return Request(None, Operation("write", op, print, is_write=True, **more), "/user", body)


@pytest.mark.parametrize(
    ("op", "body", "expected"),
    [
        (Op.SET_DATA, encode_set_data_request("/a", b"x", 3), [SetDataPart("/a", b"x", 3)]),
        (Op.DELETE, encode_delete_request("/a", 3), [DeletePart("/a", 3)]),
        (Op.SET_ACL, encode_set_acl_request("/a", ACL, 3), [SetACLRequest("/a", list(ACL), 3)]),
        (Op.CREATE2, encode_create_request("/a", b"x", ACL, 1), [CreatePart(Op.CREATE2, "/a", b"x", ACL, 1)]),
        (
            Op.CREATE_CONTAINER,
            encode_create_request("/a", b"x", ACL, 4),
            [CreatePart(Op.CREATE_CONTAINER, "/a", b"x", ACL, 4)],
        ),
        (
            Op.CREATE_TTL,
            encode_create_ttl_request("/a", b"x", ACL, 5, 99),
            [CreatePart(Op.CREATE_TTL, "/a", b"x", ACL, 5, 99)],
        ),
        (Op.MULTI, encode_multi_request([CheckPart("/a", 1), UNCHANGED]), [CheckPart("/a", 1), UNCHANGED]),
        (Op.RECONFIG, b"whatever", []),
        (Op.SET_DATA, b"", []),
    ],
)
def test_the_changes_of_a_request(op, body, expected):
    assert changes_of(request(op, body)) == expected


@pytest.mark.parametrize("mode", CreateMode)
def test_kinds_of_nodes(mode):
    change = create(flags=mode)
    assert is_sequential(change) == ("SEQUENTIAL" in mode.name)
    assert is_ephemeral(change) == ("EPHEMERAL" in mode.name)
    assert not is_sequential(UNCHANGED)
    assert not is_ephemeral(UNCHANGED)


def test_where_to_look():
    assert paths_to_look_at(create()) == ["/p/a", "/p"]
    assert paths_to_look_at(create("/s-", CreateMode.PERSISTENT_SEQUENTIAL)) == ["/"]
    assert paths_to_look_at(UNCHANGED) == ["/old"]
    assert paths_to_look_at(SetACLRequest("/a", [], 0)) == ["/a"]
    assert paths_to_look_at(CheckPart("/a", 0)) == []


# -- results


@pytest.mark.parametrize(("flags", "owner"), [(0, 0), (CreateMode.EPHEMERAL, OURS)])
def test_a_new_node_had_no_history(flags, owner):
    zxid = Z0 + 1
    made = Stat(zxid, zxid, 11, 11, 0, 0, 0, owner, 4, 0, zxid)
    assert result_of(create(flags=flags), HAPPENED, {}, None, OURS) == CreateResult("/p/a", made)


def test_a_node_without_data_is_empty():
    result = result_of(create()._replace(data=None), HAPPENED, {}, None, OURS)
    assert result.stat.data_length == 0


def test_a_sequential_node_needs_its_name():
    change = create("/p/s-", CreateMode.PERSISTENT_SEQUENTIAL)
    assert result_of(change, HAPPENED, {}, None, OURS) is None
    assert result_of(change, HAPPENED, {}, "/p/s-0000000003", OURS).path == "/p/s-0000000003"


def test_results_that_say_nothing():
    assert result_of(UNCHANGED, HAPPENED, {}, None, OURS) == DeleteResult()
    assert result_of(CheckPart("/a", 0), HAPPENED, {}, None, OURS) == CheckResult()
    assert result_of(SetACLRequest("/a", [], 0), HAPPENED, {}, None, OURS) is None


def test_data_that_was_not_set_since_is_known():
    node = stat(mzxid=Z0 + 1, version=5)
    assert result_of(SetDataPart("/a", b"data", -1), HAPPENED, {"/a": node}, None, OURS) == SetDataResult(node)


@pytest.mark.parametrize("demanded", [-1, 4])
@pytest.mark.parametrize(
    ("node", "czxid"),
    [
        (stat(czxid=3, mzxid=Z0 + 2, owner=9), 3),
        (stat(czxid=Z0 + 2, mzxid=Z0 + 2), None),
        (None, None),
        (NO_ACCESS, None),
    ],
)
def test_of_data_that_was_set_since_some_is_known(demanded, node, czxid):
    result = result_of(SetDataPart("/a", b"data", demanded), HAPPENED, {"/a": node}, None, OURS).stat
    assert isinstance(result, PartialStat)
    assert (result.mzxid, result.mtime, result.data_length) == (Z0 + 1, 11, 4)
    assert result[0] == (UNKNOWN if czxid is None else czxid)
    assert result[4] == (UNKNOWN if demanded == -1 else 5)


def test_of_data_whose_node_has_had_children_since_these_are_not_known():
    node = stat(czxid=3, mzxid=Z0 + 1)._replace(pzxid=Z0 + 2, num_children=1, cversion=1)
    result = result_of(SetDataPart("/a", b"data", -1), HAPPENED, {"/a": node}, None, OURS).stat
    assert (result.mzxid, result.version, result.aversion) == (Z0 + 1, node.version, node.aversion)
    for name in ("num_children", "cversion", "pzxid"):
        with pytest.raises(ResultLostError):
            getattr(result, name)


# -- guards


def guard(op, body, seen, touched=()):
    sent = request(op, body)
    return guarded_body(sent, changes_of(sent), seen, set(touched))


def test_what_is_sent_again_demands_what_was_seen():
    seen = {"/a": stat(version=3)}
    body = guard(Op.SET_DATA, encode_set_data_request("/a", b"x", -1), seen)
    assert tuple(decode_set_data_request(body, 0, len(body))) == ("/a", b"x", 3)
    body = guard(Op.DELETE, encode_delete_request("/a", -1), seen)
    assert tuple(decode_delete_request(body, 0, len(body))) == ("/a", 3)


@pytest.mark.parametrize(
    ("op", "body", "seen"),
    [
        (Op.SET_DATA, encode_set_data_request("/a", b"x", 2), {"/a": stat(version=3)}),  # its caller knows better
        (Op.SET_DATA, encode_set_data_request("/a", b"x", -1), {"/a": None}),
        (Op.SET_DATA, encode_set_data_request("/a", b"x", -1), {"/a": NO_ACCESS}),
        (Op.SET_ACL, encode_set_acl_request("/a", ACL, -1), {"/a": stat()}),
        (Op.CREATE2, encode_create_request("/a", b"x", ACL, 0), {"/a": None, "/": stat()}),
        (Op.RECONFIG, b"whatever", {}),
    ],
)
def test_what_can_not_be_guarded(op, body, seen):
    assert guard(op, body, seen) is None


def test_what_a_write_before_it_changes_has_no_version_yet():
    body = encode_set_data_request("/a", b"x", -1)
    assert guard(Op.SET_DATA, body, {"/a": stat(version=3)}, touched=["/a"]) is None
    touched = set()
    sent = request(Op.SET_DATA, body)
    assert guarded_body(sent, changes_of(sent), {"/a": stat()}, touched) is not None
    assert touched == {"/a"}


def test_the_parts_of_a_transaction_are_guarded():
    parts = [CheckPart("/c", -1), SetDataPart("/a", b"x", -1), SetDataPart("/a", b"y", -1), DeletePart("/b", -1)]
    seen = {"/a": stat(version=3), "/b": stat(version=4), "/c": stat(version=5)}
    body = guard(Op.MULTI, encode_multi_request(parts), seen)
    assert decode_multi_request(body, 0, len(body)) == [
        CheckPart("/c", -1),
        SetDataPart("/a", b"x", 3),
        SetDataPart("/a", b"y", -1),
        DeletePart("/b", 4),
    ]
