"""Who a connection is, what ACLs let it do, and when credentials take effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from everlatch.devserver.identities import digest
from everlatch.types import ACL, CREATOR_ALL_ACL, OPEN_ACL_UNSAFE
from everlatch.wire.auth_records import encode_auth_request
from everlatch.wire.codes import XID_AUTH, Op

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from wire_peer import Peer

    Peers = Callable[[], Awaitable[Peer]]

BOB, ALICE, SUPER = b"bob:secret", b"alice:1", b"super:pw"
ANYONE = ACL(31, "world", "anyone")


async def known(peers: Peers, *credentials: bytes) -> Peer:
    peer = await peers()
    for each in credentials:
        assert await peer.authenticate("digest", each) == 0
    return peer


async def acl_of(peer: Peer, path: str) -> list[ACL]:
    acls: list[ACL] = (await peer.do("get_acl", path)).said["acl"]
    return acls


async def may(peer: Peer, path: str) -> bool:
    code = await peer.refused("get_data", path, False)
    assert code in (0, -102)
    return code == 0


async def test_a_digest_is_of_user_and_password_together(peers: Peers, peer: Peer, root: str) -> None:
    assert digest(BOB) == "bob:fyVmFCwVbTJYrznoSu1koqYEYF0="
    await peer.do("create", f"{root}/a", b"", (ACL(31, "digest", digest(BOB)),), 0)
    for credentials, expected in (
        *((BOB, True), (b"bob:Secret", False), (b"Bob:secret", False), (b"bob", False)),
        *((b"bob:secret:", False), (b"", False), (SUPER, True)),
    ):
        assert await may(await known(peers, credentials), f"{root}/a") is expected


@pytest.mark.parametrize("credentials", [b"a:b:c", "größe-\u65e5\u672c:ü".encode(), b":", b"no colon"])
async def test_any_text_is_an_identity(peers: Peers, root: str, credentials: bytes) -> None:
    somebody, nobody = await known(peers, credentials), await peers()
    await somebody.do("create", f"{root}/a", b"", (ACL(31, "digest", digest(credentials)),), 0)
    assert await acl_of(somebody, f"{root}/a") == [ACL(31, "digest", digest(credentials))]
    assert not await may(nobody, f"{root}/a")


async def test_identities_add_up(peers: Peers, root: str) -> None:
    both = await known(peers, BOB, ALICE)
    for credentials in (BOB, ALICE):
        path = f"{root}/{credentials.decode().partition(':')[0]}"
        await both.do("create", path, b"", (ACL(31, "digest", digest(credentials)),), 0)
        assert await may(both, path)


@pytest.mark.parametrize(
    ("identity", "ours"),
    [
        *(("127.0.0.1", True), ("127.0.0.1/32", True), ("127.0.0.0/8", True), ("127.255.0.7/8", True)),
        *(("0.0.0.0/0", True), ("127.0.0.2", False), ("127.0.0.0/32", False), ("10.0.0.0/8", False)),
    ],
)
async def test_acls_by_address(peer: Peer, root: str, identity: str, ours: bool) -> None:
    await peer.do("create", f"{root}/a", b"", (ACL(31, "ip", identity),), 0)
    assert await may(peer, f"{root}/a") is ours


async def test_auth_is_all_that_the_connection_has_authenticated_as(peers: Peers, peer: Peer, root: str) -> None:
    assert await peer.refused("create", f"{root}/a", b"", CREATOR_ALL_ACL, 0) == -114
    both = await known(peers, BOB, ALICE)
    await both.do("create", f"{root}/a", b"", (ACL(5, "auth", "ignored"), ACL(1, "world", "anyone")), 0)
    shown = sorted(await acl_of(both, f"{root}/a"))
    assert shown == sorted([ACL(1, "world", "anyone"), *(ACL(5, "digest", f"{name}:x") for name in ("bob", "alice"))])
    await both.do("create", f"{root}/b", b"", CREATOR_ALL_ACL, 0)
    assert sorted(await acl_of(both, f"{root}/b")) == sorted(ACL(31, "digest", digest(each)) for each in (BOB, ALICE))
    # Who comes later has no part in it.
    assert await both.authenticate("digest", b"carol:3") == 0
    assert not await may(await known(peers, b"carol:3"), f"{root}/b")


async def test_digests_are_shown_to_who_may_change_them(peers: Peers, peer: Peer, root: str) -> None:
    acl = (ACL(31, "digest", digest(BOB)), ACL(1, "world", "anyone"), ACL(31, "ip", "10.0.0.1"))
    await peer.do("create", f"{root}/a", b"", acl, 0)
    assert await acl_of(await known(peers, BOB), f"{root}/a") == list(acl)
    assert await acl_of(await known(peers, SUPER), f"{root}/a") == list(acl)
    assert await acl_of(peer, f"{root}/a") == [ACL(31, "digest", "bob:x"), *acl[1:]]


async def test_equal_entries_are_kept_once_and_permissions_are_not_looked_at(peer: Peer, root: str) -> None:
    acl = [ANYONE, ACL(31, "ip", "127.0.0.1"), ANYONE, ACL(0, "world", "anyone"), ACL(-1, "world", "anyone")]
    await peer.do("create", f"{root}/a", b"", [*acl, ACL(64, "world", "anyone"), acl[1]], 0)
    assert await acl_of(peer, f"{root}/a") == [acl[0], acl[1], acl[3], acl[4], ACL(64, "world", "anyone")]
    await peer.do("set_acl", f"{root}/a", [ANYONE, ANYONE], -1)
    assert await acl_of(peer, f"{root}/a") == [ANYONE]


async def test_acls_are_not_inherited(peer: Peer, root: str) -> None:
    await peer.do("create", f"{root}/a", b"", (ACL(4, "world", "anyone"),), 0)
    await peer.do("create", f"{root}/a/b", b"", OPEN_ACL_UNSAFE, 0)
    assert not await may(peer, f"{root}/a")
    assert await may(peer, f"{root}/a/b")


async def test_super_may_everything_and_is_nobodys_owner(peers: Peers, peer: Peer, root: str) -> None:
    boss = await known(peers, SUPER)
    await peer.do("create", f"{root}/a", b"", (ACL(0, "world", "anyone"),), 0)
    await boss.do("create", f"{root}/a/b", b"", OPEN_ACL_UNSAFE, 0)
    await boss.do("delete", f"{root}/a/b", -1)
    await boss.do("get_data", f"{root}/a", True)
    await boss.do("set_data", f"{root}/a", b"", -1)
    assert len(await boss.events()) == 1
    await boss.do("set_acl", f"{root}/a", OPEN_ACL_UNSAFE, -1)
    assert await may(peer, f"{root}/a")
    wrong = await known(peers, b"super:wrong")
    await peer.do("set_acl", f"{root}/a", (ACL(0, "world", "anyone"),), -1)
    assert not await may(wrong, f"{root}/a")


async def test_credentials_hold_for_what_is_sent_behind_them_and_may_be_answered_early(peer: Peer, root: str) -> None:
    await peer.do("create", f"{root}/a", b"", (ACL(31, "digest", digest(BOB)),), 0)
    writes = [peer.put("create", f"{root}/n-", bytes(1000), OPEN_ACL_UNSAFE, 2) for _ in range(50)]
    peer.send(Op.AUTH, encode_auth_request("digest", BOB), xid=XID_AUTH)
    read = peer.put("get_data", f"{root}/a", False)
    replies = [await peer.next_reply() for _ in range(52)]
    assert [reply.code for reply in replies] == [0] * 52
    # The others are in order.
    assert [reply.xid for reply in replies if reply.xid != XID_AUTH] == [*writes, read]
    (auth,) = (reply for reply in replies if reply.xid == XID_AUTH)
    assert (auth.zxid, auth.body) == (0, b"")
    assert replies.index(auth) < 51


async def test_credentials_hold_for_their_connection_alone(peers: Peers, peer: Peer, root: str) -> None:
    bob = await known(peers, BOB)
    await bob.do("create", f"{root}/a", b"", CREATOR_ALL_ACL, 0)
    assert not await may(peer, f"{root}/a")
