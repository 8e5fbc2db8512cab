import copy
import pickle

import pytest

from everlatch import types
from everlatch.types import ACL, UNSET, Children, Created, EventType, Node, Outcome, Permission, Stat, State, Unset

STAT = Stat(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)


def test_everything_public_is_there():
    assert [name for name in types.__all__ if not hasattr(types, name)] == []


def test_stat_has_the_fields_of_the_wire_in_their_order():
    assert Stat._fields == (
        "czxid",
        "mzxid",
        "ctime",
        "mtime",
        "version",
        "cversion",
        "aversion",
        "ephemeral_owner",
        "data_length",
        "num_children",
        "pzxid",
    )


def test_answers_can_be_taken_apart():
    data, stat = Node(b"hi", STAT)
    names, same = Children(["a"], STAT)
    path, too = Created("/a", STAT)
    assert (data, names, path) == (b"hi", ["a"], "/a")
    assert stat is same is too is STAT


@pytest.mark.parametrize("value", [STAT, Node(b"", STAT), ACL(1, "ip", "::1")])
def test_values_do_not_change(value):
    with pytest.raises(AttributeError):
        setattr(value, value._fields[0], None)


def test_permissions_are_the_servers_bits():
    assert {bit.name: bit.value for bit in Permission} == {"READ": 1, "WRITE": 2, "CREATE": 4, "DELETE": 8, "ADMIN": 16}
    assert Permission.ALL == 31
    assert ACL(Permission.READ | Permission.WRITE, "world", "anyone") == ACL(3, "world", "anyone")


def test_ready_made_acls():
    assert (ACL(31, "world", "anyone"),) == types.OPEN_ACL_UNSAFE
    assert (ACL(31, "auth", ""),) == types.CREATOR_ALL_ACL
    assert (ACL(1, "world", "anyone"),) == types.READ_ACL_UNSAFE


def test_event_types_have_zookeepers_numbers():
    assert [EventType(number).name for number in (1, 2, 3, 4)] == [
        "CREATED",
        "DELETED",
        "DATA_CHANGED",
        "CHILDREN_CHANGED",
    ]


@pytest.mark.parametrize("kind", [State, EventType, Outcome])
def test_names_do_not_share_a_number(kind):
    assert len(list(kind)) == len(kind.__members__)


def test_unset_is_one_and_shows_itself():
    assert repr(UNSET) == "UNSET"
    assert copy.deepcopy(UNSET) is UNSET
    assert pickle.loads(pickle.dumps(UNSET)) is UNSET
    assert list(Unset) == [UNSET]


def test_an_acl_does_not_show_the_hash_of_a_password():
    assert repr(ACL(31, "digest", "bob:aGFzaA==")) == "ACL(permissions=31, scheme='digest', id='bob:…')"
    assert repr(ACL(1, "ip", "::1")) == "ACL(permissions=1, scheme='ip', id='::1')"
    assert repr(ACL(1, "digest", None)) == "ACL(permissions=1, scheme='digest', id=None)"
