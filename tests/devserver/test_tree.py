"""Nodes, writes, permissions and transactions of the dev server, without a server."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from everlatch.devserver.identities import (
    Identity,
    authenticate,
    client_info,
    digest,
    hide_digests,
    may,
    settled_acl,
)
from everlatch.devserver.transactions import multi, multi_read
from everlatch.devserver.tree import Tree
from everlatch.devserver.writes import Author, Draft, end_of_session, reaping
from everlatch.errors import AuthFailedError, InvalidACLError, MarshallingError, NoNodeError, ServerError
from everlatch.types import ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE, ClientInfo, EventType, Permission
from everlatch.wire.codes import CreateMode, Op
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.devserver.tree import Event, Transaction

IP = Identity("ip", "127.0.0.1")
BOB = Identity("digest", digest(b"bob:secret"))
SUPER = Identity("super", "")
DAY = 86_400_000


class Store:
    """A tree, and what its one author does to it, a transaction at a time."""

    def __init__(self, *identities: Identity, session_id: int = 7) -> None:
        self.tree = Tree()
        self.author = Author(session_id, (IP, *identities))
        self.time_ms = DAY
        self.log: list[Transaction] = []
        self.events: list[Event] = []

    def do(self, operation: str, *args: Any) -> Any:
        draft = Draft(self.tree, self.author, self.time_ms)
        try:
            with draft:
                return getattr(draft, operation)(*args)
        finally:
            self.log.append(draft.transaction)
            self.events += draft.events

    def refusal(self, operation: str, *args: Any) -> int:
        with pytest.raises(ServerError) as caught:
            self.do(operation, *args)
        return caught.value.code

    def create(self, path: str, data: bytes | None = b"", mode: int = 0, acl: Sequence[ACL] = OPEN_ACL_UNSAFE) -> str:
        return self.do("create", Op.CREATE2, path, data, acl, mode).path

    def multi(self, *parts: Any) -> list[Any]:
        draft = Draft(self.tree, self.author, self.time_ms)
        try:
            with draft:
                return multi(draft, parts)
        finally:
            self.log.append(draft.transaction)
            self.events += draft.events

    def told(self) -> list[tuple[str, str]]:
        told = [(event.type.name, event.path) for event in self.events]
        self.events.clear()
        return told

    def picture(self) -> object:
        """All that there is, to be compared. Copied: it must not change with the tree."""
        nodes = {
            path: (node.stat, node.data, node.acl, node.kind, node.ttl_ms, node.creates, set(node.children))
            for path, node in self.tree.nodes.items()
        }
        owned = {owner: set(paths) for owner, paths in self.tree.owned.items()}
        return copy.deepcopy((nodes, owned, set(self.tree.reapable)))


@pytest.fixture
def store() -> Store:
    return Store()


# --- what is there from the beginning -----------------------------------------------------------------------------


def test_a_new_tree_has_zookeepers_own_nodes_which_nobody_created(store: Store) -> None:
    tree = store.tree
    assert sorted(tree.nodes) == ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"]
    assert tree.node("/").stat[:7] == (0, 0, 0, 0, 0, -1, 0)
    assert tree.node("/zookeeper").stat.cversion == -2
    assert tree.node("/zookeeper/config").acl == READ_ACL_UNSAFE
    assert tree.count_below("/") == 3
    assert list(tree.node("/zookeeper").children) == ["config", "quota"]


@pytest.mark.parametrize("path", ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config", "a", "", "/a\0"])
def test_what_cannot_be_deleted(store: Store, path: str) -> None:
    assert store.refusal("delete", path, -1) == -8


# --- create -------------------------------------------------------------------------------------------------------


def test_a_new_node(store: Store) -> None:
    path, stat = store.do("create", Op.CREATE2, "/a", b"data", OPEN_ACL_UNSAFE, 0)
    assert path == "/a"
    assert stat == (1, 1, DAY, DAY, 0, 0, 0, 0, 4, 0, 1)
    assert store.tree.node("/").stat.pzxid == 1
    assert store.tree.node("/").stat.cversion == 0
    assert store.told() == [("CREATED", "/a"), ("CHILDREN_CHANGED", "/")]


def test_null_data_stays_null(store: Store) -> None:
    store.create("/a", None)
    assert store.tree.node("/a").data is None
    assert store.tree.node("/a").stat.data_length == 0
    store.do("set_data", "/a", b"x", -1)
    store.do("set_data", "/a", None, -1)
    assert store.tree.node("/a").data is None


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/", -110),
        ("/there", -110),
        ("/there/", -8),
        ("/missing/a", -101),
        ("/missing//a", -101),
        ("//a", -8),
        ("/there/.", -8),
        ("/there/..", -8),
        ("/a\x01", -8),
        ("/a\0", -8),
        ("a", -8),
        ("", -8),
        ("a/b", -101),
        ("/ephemeral/a", -108),
        ("/closed/a", -102),
    ],
)
def test_creates_that_are_refused(store: Store, path: str, code: int) -> None:
    store.create("/there")
    store.create("/ephemeral", mode=CreateMode.EPHEMERAL)
    store.create("/closed", acl=READ_ACL_UNSAFE)
    before = store.picture()
    assert store.refusal("create", Op.CREATE, path, b"", OPEN_ACL_UNSAFE, 0) == code
    assert store.picture() == before


@pytest.mark.parametrize(
    ("op", "flags", "ttl_ms", "code"),
    [
        (Op.CREATE, 7, None, -8),
        (Op.CREATE, -1, None, -8),
        (Op.CREATE, 5, None, -8),
        (Op.CREATE2, 6, None, -8),
        (Op.CREATE_CONTAINER, 5, None, -8),
        (Op.CREATE_TTL, 0, 1000, -8),
        (Op.CREATE_TTL, 5, 0, -8),
        (Op.CREATE_TTL, 5, -1, -8),
        (Op.CREATE_TTL, 5, 1 << 40, -8),
    ],
)
def test_flags_and_ttls_that_are_refused(store: Store, op: int, flags: int, ttl_ms: int | None, code: int) -> None:
    assert store.refusal("create", op, "/a", b"", OPEN_ACL_UNSAFE, flags, ttl_ms) == code


@pytest.mark.parametrize(
    ("op", "flags", "ttl_ms", "kind", "owner"),
    [
        (Op.CREATE, 0, None, "PERSISTENT", 0),
        (Op.CREATE, 1, None, "EPHEMERAL", 7),
        (Op.CREATE2, 3, None, "EPHEMERAL", 7),
        (Op.CREATE, 4, None, "PERSISTENT", 0),
        (Op.CREATE_CONTAINER, 4, None, "CONTAINER", 0),
        (Op.CREATE_CONTAINER, 0, None, "CONTAINER", 0),
        (Op.CREATE_TTL, 5, 1, "TTL", 0),
        (Op.CREATE_TTL, 6, (1 << 40) - 1, "TTL", 0),
    ],
)
def test_the_operation_decides_what_is_made(
    store: Store, op: int, flags: int, ttl_ms: int | None, kind: str, owner: int
) -> None:
    path, stat = store.do("create", op, "/a", b"", OPEN_ACL_UNSAFE, flags, ttl_ms)
    assert store.tree.node(path).kind.name == kind
    assert stat.ephemeral_owner == owner


def test_numbers_count_everything_that_was_ever_created_under_the_parent(store: Store) -> None:
    store.create("/p")
    assert store.create("/p/n-", mode=2) == "/p/n-0000000000"
    store.create("/p/plain")
    store.create("/p/plain/grandchild")
    store.do("delete", "/p/n-0000000000", -1)
    assert store.create("/p/", mode=3) == "/p/0000000002"
    assert store.create("/p/..", mode=2) == "/p/..0000000003"
    assert store.refusal("create", Op.CREATE, "/p/plain", b"", OPEN_ACL_UNSAFE, 0) == -110
    assert store.create("/p/n-", mode=2) == "/p/n-0000000004"
    # Creates and deletes together, as a client sees it.
    assert store.tree.node("/p").stat.cversion == 6


def test_numbers_overflow_like_those_of_32_bits(store: Store) -> None:
    store.create("/p")
    store.tree.node("/p").creates = 0x7FFF_FFFF
    assert store.create("/p/n", mode=2) == "/p/n2147483647"
    assert store.create("/p/n", mode=2) == "/p/n-2147483648"


# --- delete, set, check -------------------------------------------------------------------------------------------


def test_deleting(store: Store) -> None:
    store.create("/a")
    store.create("/a/b")
    assert store.refusal("delete", "/a", -1) == -111
    assert store.refusal("delete", "/a/b", 1) == -103
    assert store.refusal("delete", "/a/c", -1) == -101
    assert store.refusal("delete", "/x/c", -1) == -101
    store.told()
    store.do("delete", "/a/b", 0)
    assert store.told() == [("DELETED", "/a/b"), ("CHILDREN_CHANGED", "/a")]
    assert store.tree.node("/a").stat.pzxid == store.tree.zxid
    assert store.tree.node("/a").stat[5:10] == (2, 0, 0, 0, 0)
    store.do("delete", "/a", -1)
    assert store.told() == [("DELETED", "/a"), ("CHILDREN_CHANGED", "/")]
    with pytest.raises(NoNodeError):
        store.tree.node("/a")


def test_setting_data_is_a_change_even_if_it_is_the_same(store: Store) -> None:
    store.create("/a", b"x")
    store.told()
    store.time_ms += 5
    stat = store.do("set_data", "/a", b"x", 0)
    assert (stat.version, stat.mzxid, stat.czxid, stat.mtime - stat.ctime, stat.pzxid) == (1, 2, 1, 5, 1)
    assert store.told() == [("DATA_CHANGED", "/a")]
    assert store.refusal("set_data", "/a", b"", 0) == -103
    assert store.refusal("set_data", "/b", b"", -1) == -101
    assert store.refusal("set_data", "/b/", b"", -1) == -8


def test_versions_wrap(store: Store) -> None:
    store.create("/a")
    store.tree.node("/a").version = 0x7FFF_FFFF
    assert store.do("set_data", "/a", b"", -1).version == -0x8000_0000


def test_acls_have_a_version_of_their_own_and_tell_nobody(store: Store) -> None:
    store.create("/a")
    store.told()
    stat = store.do("set_acl", "/a", OPEN_ACL_UNSAFE, 0)
    assert (stat.aversion, stat.version, stat.mzxid) == (1, 0, 1)
    assert store.told() == []
    assert store.refusal("set_acl", "/a", OPEN_ACL_UNSAFE, 0) == -103
    assert store.refusal("set_acl", "/b", OPEN_ACL_UNSAFE, 0) == -101
    assert store.refusal("set_acl", "/b", [], 0) == -114
    assert store.refusal("set_acl", "b", [], 0) == -8


def test_checking(store: Store) -> None:
    store.create("/a")
    store.do("check", "/a", 0)
    store.do("check", "/a", -1)
    assert store.refusal("check", "/a", 1) == -103
    assert store.refusal("check", "/b", -1) == -101
    assert store.refusal("check", "b", -1) == -8


def test_every_write_request_has_a_zxid_of_its_own(store: Store) -> None:
    store.create("/a")
    store.refusal("delete", "/b", -1)
    store.create("/c")
    assert [transaction.zxid for transaction in store.log] == [1, 2, 3]
    assert [len(transaction.changes) for transaction in store.log] == [1, 0, 1]
    assert store.tree.node("/c").czxid == 3


# --- sessions' nodes, and nodes that go by themselves -------------------------------------------------------------


def test_the_end_of_a_session_takes_its_ephemeral_nodes_in_one_transaction(store: Store) -> None:
    for path in ("/e1", "/e2"):
        store.create(path, mode=CreateMode.EPHEMERAL)
    store.create("/p")
    assert store.tree.ephemerals(7) == ["/e1", "/e2"]
    assert store.tree.ephemerals(7, "/e2") == ["/e2"]
    assert store.tree.ephemerals(8) == []
    end = end_of_session(store.tree, 7, DAY)
    events = store.tree.apply(end)
    assert [(event.type.name, event.path) for event in events] == [
        ("DELETED", "/e1"),
        ("CHILDREN_CHANGED", "/"),
        ("DELETED", "/e2"),
        ("CHILDREN_CHANGED", "/"),
    ]
    assert {event.zxid for event in events} == {4} == {store.tree.zxid}
    assert store.tree.ephemerals(7) == []
    assert "/p" in store.tree.nodes
    assert end_of_session(store.tree, 7, DAY).changes == ()


def reaped(store: Store, time_ms: int) -> list[str]:
    transactions = reaping(store.tree, time_ms)
    assert [each.zxid for each in transactions] == [store.tree.zxid + n for n in range(1, len(transactions) + 1)]
    events = [event for each in transactions for event in store.tree.apply(each)]
    return [event.path for event in events if event.type is EventType.DELETED]


def test_a_container_goes_when_its_last_child_has_gone(store: Store) -> None:
    store.do("create", Op.CREATE_CONTAINER, "/c", b"", OPEN_ACL_UNSAFE, 4)
    assert reaped(store, 9 * DAY) == []
    store.create("/c/child")
    assert reaped(store, 9 * DAY) == []
    store.do("delete", "/c/child", -1)
    assert reaped(store, DAY) == ["/c"]
    assert reaped(store, DAY) == []


def test_a_ttl_node_goes_when_it_is_childless_and_was_not_written_to_for_so_long(store: Store) -> None:
    store.do("create", Op.CREATE_TTL, "/t", b"", OPEN_ACL_UNSAFE, 5, 1000)
    assert reaped(store, DAY + 1000) == []
    store.time_ms = DAY + 900
    store.do("set_data", "/t", b"", -1)
    assert reaped(store, DAY + 1900) == []
    store.create("/t/child")
    assert reaped(store, DAY + 1901) == []
    store.do("delete", "/t/child", -1)
    assert reaped(store, DAY + 1901) == ["/t"]


# --- followers ----------------------------------------------------------------------------------------------------


def test_a_tree_that_applies_the_transactions_is_the_same_and_tells_the_same(store: Store) -> None:
    store.create("/p", b"1")
    for mode in (CreateMode.EPHEMERAL_SEQUENTIAL, CreateMode.PERSISTENT_SEQUENTIAL):
        store.create("/p/n-", mode=mode)
    store.refusal("delete", "/p", -1)
    store.do("create", Op.CREATE_TTL, "/t", None, OPEN_ACL_UNSAFE, 5, 9)
    store.multi(SetDataPart("/p", b"2", 0), DeletePart("/p/n-0000000001", -1))
    store.multi(DeletePart("/t", -1), CheckPart("/p", 0))
    store.do("set_acl", "/p", READ_ACL_UNSAFE, -1)
    follower = Store()
    for transaction in store.log:
        follower.events += follower.tree.apply(transaction)
    assert follower.picture() == store.picture()
    assert follower.events == store.events
    assert follower.tree.zxid == store.tree.zxid == 8


# --- permissions --------------------------------------------------------------------------------------------------

ANYONE_READS = (ACL(1, "world", "anyone"),)


@pytest.mark.parametrize(
    ("acl", "identities", "allowed"),
    [
        (OPEN_ACL_UNSAFE, (), True),
        (ANYONE_READS, (IP,), False),
        ((), (IP,), True),
        ((ACL(2, *BOB),), (IP, BOB), True),
        ((ACL(2, *BOB),), (IP, Identity("digest", digest(b"bob:wrong"))), False),
        ((ACL(29, *BOB),), (IP, BOB), False),
        (ANYONE_READS, (IP, SUPER), True),
        ((ACL(2, "ip", "127.0.0.1"),), (IP,), True),
        ((ACL(2, "ip", "127.0.0.0/8"),), (IP,), True),
        ((ACL(2, "ip", "127.9.9.9/8"),), (IP,), True),
        ((ACL(2, "ip", "10.0.0.0/8"),), (IP,), False),
        ((ACL(2, "ip", "::1"),), (IP,), False),
        ((ACL(64, "world", "anyone"),), (IP,), False),
        ((ACL(1, "world", "anyone"), ACL(2, *BOB)), (BOB,), True),
    ],
)
def test_who_may_write(acl: tuple[ACL, ...], identities: tuple[Identity, ...], allowed: bool) -> None:
    assert may(acl, identities, Permission.WRITE) is allowed


@pytest.mark.parametrize(
    ("permission", "operation", "path"),
    [
        (Permission.CREATE, ("create", Op.CREATE, "/a/new", b"", OPEN_ACL_UNSAFE, 0), "/a"),
        (Permission.DELETE, ("delete", "/a/child", -1), "/a"),
        (Permission.WRITE, ("set_data", "/a", b"", -1), "/a"),
        (Permission.ADMIN, ("set_acl", "/a", OPEN_ACL_UNSAFE, -1), "/a"),
        (Permission.READ, ("check", "/a", -1), "/a"),
    ],
)
def test_each_write_needs_one_permission(store: Store, permission: Permission, operation: Any, path: str) -> None:
    store.create("/a")
    store.create("/a/child", acl=[ACL(0, "world", "anyone")])
    store.tree.node(path).acl = (ACL(31 & ~permission.value, "world", "anyone"),)
    assert store.refusal(*operation) == -102
    store.tree.node(path).acl = (ACL(permission.value, "world", "anyone"),)
    store.do(*operation)


@pytest.mark.parametrize(
    "acls",
    [
        [],
        [ACL(31, "world", "somebody")],
        [ACL(31, "nosuch", "x")],
        [ACL(31, "sasl", "bob")],
        [ACL(31, "super", "")],
        [ACL(31, "auth", "")],
        [ACL(31, "digest", "bob")],
        [ACL(31, "digest", "bob:")],
        [ACL(31, "digest", "a:b:c")],
        [ACL(31, "ip", "300.0.0.1")],
        [ACL(31, "ip", "10.0.0.0/33")],
        [ACL(31, "ip", "10.0.0.0/255.0.0.0")],
        [ACL(31, "ip", "10.0.0.0/")],
        [*OPEN_ACL_UNSAFE, ACL(31, "ip", "")],
    ],
)
def test_acls_that_are_none(acls: list[ACL]) -> None:
    with pytest.raises(InvalidACLError):
        settled_acl(acls, [IP])


def test_acls_as_they_are_kept() -> None:
    assert settled_acl([*OPEN_ACL_UNSAFE, *OPEN_ACL_UNSAFE], []) == OPEN_ACL_UNSAFE
    assert settled_acl([ACL(3, "auth", "")], [IP, SUPER, BOB]) == (ACL(3, *BOB),)
    network = [ACL(0, "ip", "10.0.0.0/8"), ACL(64, "digest", "a:b")]
    assert settled_acl(network, []) == tuple(network)
    assert settled_acl([ACL(1, "ip", "::1")], []) == (ACL(1, "ip", "::1"),)
    with pytest.raises(InvalidACLError):
        settled_acl([ACL(1, "ip", "::1")], [], ipv6=False)


def test_identities() -> None:
    assert BOB.id == "bob:fyVmFCwVbTJYrznoSu1koqYEYF0="
    super_digest = digest(b"super:pw")
    assert super_digest == "super:0bX78nEegDzJM3ju0iLBEJdWzjg="
    present = [Identity("ip", "::1")]
    assert authenticate("digest", b"bob:secret", present, super_digest) == [BOB]
    assert authenticate("digest", b"super:pw", present, super_digest) == [SUPER, Identity("digest", super_digest)]
    assert authenticate("digest", b"super:pw", present, None) == [Identity("digest", super_digest)]
    assert authenticate("ip", b"", present, None) == present
    subject = Identity("x509", "CN=bob")
    assert authenticate("x509", b"", [*present, subject], None) == [subject]
    assert digest(b"bob").startswith("bob:")
    for scheme in ("world", "sasl", "x509", "super", "auth"):
        with pytest.raises(AuthFailedError):
            authenticate(scheme, b"x", present, None)
    assert [client_info(each) for each in (IP, BOB)] == [ClientInfo("ip", "127.0.0.1"), ClientInfo("digest", "bob")]
    assert hide_digests([ACL(1, *BOB), ACL(1, *IP)]) == [ACL(1, "digest", "bob:x"), ACL(1, *IP)]


def test_an_acl_for_oneself_is_that_of_the_identity() -> None:
    store = Store(BOB)
    store.create("/a", acl=[ACL(31, "auth", "")])
    assert store.tree.node("/a").acl == (ACL(31, *BOB),)
    store.author = Author(8, (IP,))
    assert store.refusal("set_data", "/a", b"", -1) == -102
    store.author = Author(8, (IP, SUPER))
    store.do("set_data", "/a", b"", -1)


# --- multi --------------------------------------------------------------------------------------------------------


def create_part(op: Op, path: str, flags: int = 0, ttl_ms: int | None = None) -> CreatePart:
    return CreatePart(op, path, b"", OPEN_ACL_UNSAFE, flags, ttl_ms)


def test_a_multi_is_one_transaction_whose_parts_see_those_before_them(store: Store) -> None:
    results = store.multi(
        create_part(Op.CREATE, "/a"),
        create_part(Op.CREATE2, "/a/n-", 2),
        create_part(Op.CREATE_CONTAINER, "/a/c", 4),
        create_part(Op.CREATE_TTL, "/a/t", 5, 9),
        SetDataPart("/a", b"x", 0),
        CheckPart("/a", 1),
        DeletePart("/a/n-0000000000", -1),
    )
    assert results[0] == CreateResult("/a", None)
    assert [type(result) for result in results[1:]] == [
        *(CreateResult, CreateResult, CreateResult, SetDataResult, CheckResult, DeleteResult)
    ]
    assert all(result.stat.czxid == 1 for result in results[1:4])
    assert store.told() == [
        *[("CREATED", "/a"), ("CHILDREN_CHANGED", "/")],
        *[("CREATED", "/a/n-0000000000"), ("CHILDREN_CHANGED", "/a")],
        *[("CREATED", "/a/c"), ("CHILDREN_CHANGED", "/a")],
        *[("CREATED", "/a/t"), ("CHILDREN_CHANGED", "/a")],
        ("DATA_CHANGED", "/a"),
        *[("DELETED", "/a/n-0000000000"), ("CHILDREN_CHANGED", "/a")],
    ]
    assert store.tree.zxid == 1


def test_a_multi_that_is_refused_leaves_nothing_behind(store: Store) -> None:
    store.create("/a", b"old")
    store.create("/a/e", mode=CreateMode.EPHEMERAL)
    store.told()
    before = store.picture()
    results = store.multi(
        DeletePart("/a/e", -1),
        SetDataPart("/a", b"new", -1),
        create_part(Op.CREATE, "/a/n-", 3),
        create_part(Op.CREATE_CONTAINER, "/c", 4),
        DeletePart("/c", -1),
        CheckPart("/a", 0),
        DeletePart("/a", -1),
    )
    assert results == [ErrorResult(code) for code in (0, 0, 0, 0, 0, -103, -2)]
    assert store.picture() == before
    assert store.told() == []
    assert store.tree.zxid == 3
    assert store.create("/a/n-", mode=2) == "/a/n-0000000001"


@pytest.mark.parametrize(
    ("part", "code"),
    [
        (DeletePart("/missing", -1), -101),
        (DeletePart("/", -1), -8),
        (create_part(Op.CREATE, "/zookeeper"), -110),
        (create_part(Op.CREATE_TTL, "/a", 5, 0), -8),
        (CreatePart(Op.CREATE, "/a", b"", (), 0), -114),
        (CheckPart("/", 5), -103),
    ],
)
def test_the_culprit_is_named_by_its_code(store: Store, part: Any, code: int) -> None:
    assert store.multi(CheckPart("/", -1), part) == [ErrorResult(0), ErrorResult(code)]


def test_an_empty_multi_is_legal(store: Store) -> None:
    assert store.multi() == []
    assert multi_read(store.tree, (), []) == []


@pytest.mark.parametrize("part", [GetDataPart("/"), GetChildrenPart("/"), create_part(Op.CREATE, "/b", 7)])
def test_parts_that_no_multi_may_have(store: Store, part: Any) -> None:
    with pytest.raises(MarshallingError):
        store.multi(create_part(Op.CREATE, "/a"), part)
    assert "/a" not in store.tree.nodes


def test_the_parts_of_a_multi_read_are_each_for_itself(store: Store) -> None:
    store.create("/a", b"x")
    store.create("/secret", acl=[ACL(31, *BOB)])
    data, missing, names, refused = multi_read(
        store.tree, [IP], [GetDataPart("/a"), GetDataPart("/b"), GetChildrenPart("/"), GetDataPart("/secret")]
    )
    assert isinstance(data, GetDataResult)
    assert data.node == (b"x", store.tree.node("/a").stat)
    assert (missing, refused) == (ErrorResult(-101), ErrorResult(-102))
    assert isinstance(names, GetChildrenResult)
    assert sorted(names.names) == ["a", "secret", "zookeeper"]
    with pytest.raises(MarshallingError):
        multi_read(store.tree, [IP], [GetDataPart("/a"), CheckPart("/a", 0)])


def test_how_many_are_below(store: Store) -> None:
    for path in ("/a", "/a/b", "/a/b/c", "/ab"):
        store.create(path)
    assert [store.tree.count_below(path) for path in ("/a", "/a/b/c", "/ab", "/")] == [2, 0, 0, 7]
    with pytest.raises(NoNodeError):
        store.tree.count_below("/x")
