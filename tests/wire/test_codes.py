import enum

import pytest

from everlatch.wire import codes


@pytest.mark.parametrize("numbers", [codes.Op, codes.CreateMode, codes.AddWatchMode, codes.WatcherType])
def test_numbers_are_not_used_twice(numbers):
    assert issubclass(numbers, enum.IntEnum)
    assert len({member.value for member in numbers}) == len(numbers.__members__)


def test_operations_that_no_client_may_send_have_no_name():
    # createSession, notification, deleteContainer: a server would execute the last one.
    assert not {-10, 0, 20} & set(codes.Op)


def test_operations():
    assert {op.value: op.name for op in codes.Op} == {
        1: "CREATE",
        2: "DELETE",
        3: "EXISTS",
        4: "GET_DATA",
        5: "SET_DATA",
        6: "GET_ACL",
        7: "SET_ACL",
        8: "GET_CHILDREN",
        9: "SYNC",
        11: "PING",
        12: "GET_CHILDREN2",
        13: "CHECK",
        14: "MULTI",
        15: "CREATE2",
        16: "RECONFIG",
        17: "CHECK_WATCHES",
        18: "REMOVE_WATCHES",
        19: "CREATE_CONTAINER",
        21: "CREATE_TTL",
        22: "MULTI_READ",
        100: "AUTH",
        101: "SET_WATCHES",
        102: "SASL",
        103: "GET_EPHEMERALS",
        104: "GET_ALL_CHILDREN_NUMBER",
        105: "SET_WATCHES2",
        106: "ADD_WATCH",
        107: "WHO_AM_I",
        -11: "CLOSE_SESSION",
        -1: "ERROR",
    }


def test_modes():
    assert [mode.name for mode in codes.CreateMode] == [
        "PERSISTENT",
        "EPHEMERAL",
        "PERSISTENT_SEQUENTIAL",
        "EPHEMERAL_SEQUENTIAL",
        "CONTAINER",
        "PERSISTENT_WITH_TTL",
        "PERSISTENT_SEQUENTIAL_WITH_TTL",
    ]
    assert list(codes.CreateMode) == list(range(7))
    assert dict(codes.AddWatchMode.__members__) == {"PERSISTENT": 0, "PERSISTENT_RECURSIVE": 1}
    assert {kind.value: kind.name for kind in codes.WatcherType} == {
        1: "CHILDREN",
        2: "DATA",
        3: "ANY",
        4: "PERSISTENT",
        5: "PERSISTENT_RECURSIVE",
    }


def test_special_numbers():
    assert (codes.XID_NOTIFICATION, codes.XID_PING, codes.XID_AUTH, codes.XID_SET_WATCHES) == (-1, -2, -4, -8)
    assert codes.KEEPER_STATE_SYNC_CONNECTED == 3
