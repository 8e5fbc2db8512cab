"""SASL DIGEST-MD5 on servers that know it, on such as demand it, and on such as don't know it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from conformance_subjects import SUBJECTS, secured
from everlatch.types import ACL, CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, ClientInfo
from everlatch.wire.auth_records import encode_sasl_request
from everlatch.wire.codes import XID_PING, XID_SET_WATCHES, Op
from everlatch.wire.records import encode_create_request, encode_get_data_request, encode_sync_request
from sasl_peer import authenticate, begin, nonce_of, response, say
from wire_peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from conformance_subjects import Secured
    from real_servers import LoopThread

    Peers = Callable[[], Awaitable[Peer]]

BOB, IP, SUPER = ClientInfo("sasl", "bob"), ClientInfo("ip", "127.0.0.1"), ClientInfo("sasl", "super")
REFUSED = (0, -115, None)
FORBIDDEN = (0, -124, None)


@pytest.fixture(scope="module", params=SUBJECTS)
def strict(request: pytest.FixtureRequest, loop_thread: LoopThread, tmp_path_factory: Any) -> Iterator[Secured]:
    with secured(*request.param, loop_thread, tmp_path_factory.mktemp("strict"), require_auth=True) as subject:
        yield subject


@pytest.fixture(scope="module", params=SUBJECTS)
def by_digest(request: pytest.FixtureRequest, loop_thread: LoopThread, tmp_path_factory: Any) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("by-digest")
    with secured(*request.param, loop_thread, directory, sasl=False, require_auth=True) as subject:
        yield subject


@contextlib.asynccontextmanager
async def session(address: str, *, of: tuple[int, bytes] = (0, bytes(16))) -> AsyncIterator[Peer]:
    """One that nobody closes: not everybody may."""
    async with Peer.connect(address) as peer:
        assert isinstance(peer, Peer)
        await peer.shake_hands(of, timeout_ms=2000)
        yield peer


@pytest.fixture
async def guest(welcoming: Secured) -> AsyncIterator[Peer]:
    """Nobody in particular."""
    async with session(welcoming.address) as peer:
        yield peer


@pytest.fixture
async def guests(welcoming: Secured) -> AsyncIterator[Peers]:
    async with contextlib.AsyncExitStack() as stack:

        async def enter() -> Peer:
            return await stack.enter_async_context(session(welcoming.address))

        yield enter


@pytest.fixture
async def outsider(strict: Secured) -> AsyncIterator[Peer]:
    """Who has to authenticate."""
    async with session(strict.address) as peer:
        yield peer


async def identities(peer: Peer) -> list[ClientInfo]:
    return sorted((await peer.do("who_am_i")).said["identities"])


async def created(peer: Peer, acl: Any) -> str:
    path: str = (await peer.do("create", "/sasl-", b"", acl, 2)).said["path"]
    return path


# --- the exchange -----------------------------------------------------------------------------------------------------


async def test_who_has_proven_the_password_is_its_user(guest: Peer) -> None:
    assert await identities(guest) == [IP]
    await authenticate(guest)
    assert await identities(guest) == [IP, BOB]


async def test_the_challenge(guest: Peer, guests: Peers) -> None:
    first, second = await begin(guest), await begin(await guests())
    assert first == f'realm="zk-sasl-md5",nonce="{nonce_of(first)}",charset=utf-8,algorithm=md5-sess'.encode()
    assert len(nonce_of(first)) == len(nonce_of(second)) == 40
    assert first != second


@pytest.mark.parametrize("token", [b"", b"hello", b"\0\xff"])
async def test_whatever_comes_first_is_a_beginning(guest: Peer, token: bytes) -> None:
    challenge = (await say(guest, token)).token
    assert challenge is not None
    assert (await say(guest, response(challenge)))[:2] == (0, 0)


WRONG: list[dict[str, Any]] = [
    {"password": "wrong"},
    {"password": ""},
    {"user": "eve"},
    {"uri": "zookeeper/elsewhere"},
    {"uri": "imap/zk-sasl-md5"},
    {"realm": "elsewhere"},
    {"realm": ""},
    {"nonce": "another"},
    {"changed": "response=.*", "to": "response=" + "0" * 32},
    {"changed": "response=.*", "to": "response=00"},
    {"changed": ",response=.*"},
    {"changed": "$", "to": ",response=00"},
    {"changed": "$", "to": ',username="alice"'},
    {"changed": "$", "to": "," + "x" * 5000 + "=1"},
    {"changed": "qop=auth", "to": "qop=auth-int"},
    {"changed": "qop=auth", "to": "qop=none"},
    {"changed": 'username="bob",'},
    {"changed": 'realm="[^"]*",'},
    {"changed": ',nonce="[^"]*"'},
    {"changed": 'cnonce="[^"]*",'},
    {"changed": 'digest-uri="[^"]*",'},
    {"changed": "charset=utf-8", "to": "charset=latin-1"},
]
NOT_ANSWERED: list[dict[str, Any]] = [
    {"user": ""},
    {"changed": "maxbuf=65536", "to": "maxbuf=x"},
    {"changed": "maxbuf=65536", "to": "maxbuf=99999999999"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
async def test_what_is_refused_ends_the_connection(guest: Peer, wrong: dict[str, Any]) -> None:
    assert await say(guest, response(await begin(guest), **wrong)) == REFUSED
    assert await guest.hung_up()


async def test_an_unknown_user_with_the_password_of_who_came_last(
    welcoming: Secured, guest: Peer, guests: Peers
) -> None:
    """Debian's 3.8.0 lets him in, under his own name: the one thing that the dev server does better."""
    await authenticate(await guests())
    answer = await say(guest, response(await begin(guest), user="eve", password="secret"))
    assert (answer == REFUSED) is not (welcoming.is_real and welcoming.version == "3.8")


@pytest.mark.parametrize("wrong", NOT_ANSWERED, ids=str)
async def test_what_servers_stumble_over_ends_the_connection_without_a_word(guest: Peer, wrong: dict[str, Any]) -> None:
    guest.send(Op.SASL, encode_sasl_request(response(await begin(guest), **wrong)))
    assert await guest.hung_up()


@pytest.mark.parametrize("token", [b"", b"hello", b"\xff\xfe=\0", b"=", b'username="bob'])
async def test_no_response_at_all(guest: Peer, token: bytes) -> None:
    await begin(guest)
    assert await say(guest, token) == REFUSED
    assert await guest.hung_up()


@pytest.mark.parametrize(
    "right",
    [
        {"authzid": "alice"},
        {"authzid": "bob"},
        {"authzid": ""},
        {"changed": ",nc=00000001"},
        {"changed": "nc=00000001", "to": "nc=00000002"},
        {"changed": "nc=00000001", "to": "nc=one"},
        {"changed": ",qop=auth"},
        {"changed": ",maxbuf=65536"},
        {"changed": "maxbuf=65536", "to": "maxbuf=0"},
        {"changed": "charset=utf-8,"},
        {"changed": "$", "to": ',mood="good"'},
        {"changed": ",", "to": " ,\t "},
        {"changed": "username", "to": "USERNAME"},
        {"changed": '"bob"', "to": "bob"},
    ],
    ids=str,
)
async def test_what_is_let_pass(guest: Peer, right: dict[str, Any]) -> None:
    """In whose name the client wants to act changes nothing."""
    assert (await say(guest, response(await begin(guest), **right)))[:2] == (0, 0)
    assert await identities(guest) == [IP, BOB]


@pytest.mark.parametrize("token", [b"", b"more", None])
async def test_nothing_may_follow_the_end(guest: Peer, token: bytes | None) -> None:
    await authenticate(guest)
    if token is not None:
        assert await say(guest, token) == REFUSED
    else:
        guest.send(Op.SASL, encode_sasl_request(None))
    assert await guest.hung_up()


async def test_the_response_again(guest: Peer) -> None:
    answer = response(await begin(guest))
    await say(guest, answer)
    assert await say(guest, answer) == REFUSED


@pytest.mark.parametrize("body", [b"\xff\xff\xff\xff", b"\xff\xff\xff\xfe", b"", b"\0\0\0\5ab"])
@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_token_that_is_none_ends_the_connection_without_a_word(
    guest: Peer, body: bytes, has_begun: bool
) -> None:
    if has_begun:
        await begin(guest)
    guest.send(Op.SASL, body)
    assert await guest.hung_up()


async def test_a_response_to_another_challenge(guest: Peer, guests: Peers) -> None:
    stale = await begin(await guests())
    await begin(guest)
    assert await say(guest, response(stale)) == REFUSED


# --- among other requests ---------------------------------------------------------------------------------------------


async def test_requests_in_between_are_served(guest: Peer) -> None:
    challenge = await begin(guest)
    assert await guest.events() == []
    path = await created(guest, OPEN_ACL_UNSAFE)
    assert (await say(guest, response(challenge)))[:2] == (0, 0)
    await guest.do("delete", path, -1)


async def test_what_is_behind_the_last_token_is_the_user_s(guest: Peer) -> None:
    challenge = await begin(guest)
    writes = [guest.put("create", "/sasl-", bytes(1000), OPEN_ACL_UNSAFE, 2) for _ in range(20)]
    last = guest.send(Op.SASL, encode_sasl_request(response(challenge)))
    owned = guest.put("create", "/sasl-", b"", CREATOR_ALL_ACL, 2)
    replies = [await guest.next_reply() for _ in range(22)]
    assert [reply.code for reply in replies] == [0] * 22
    assert [reply.xid for reply in replies if reply.xid != last] == [*writes, owned]


async def test_what_is_behind_a_refusal_is_not_read(guest: Peer) -> None:
    challenge = await begin(guest)
    wrong = guest.send(Op.SASL, encode_sasl_request(response(challenge, password="wrong")))
    guest.put("who_am_i")
    reply = await guest.receive()
    assert (reply.xid, reply.zxid, reply.code) == (wrong, 0, -115)
    assert await guest.hung_up()


async def test_with_other_credentials(guest: Peer) -> None:
    assert await guest.authenticate("digest", b"u:1") == 0
    challenge = await begin(guest)
    assert await guest.authenticate("digest", b"v:1") == 0
    await say(guest, response(challenge))
    assert await guest.authenticate("digest", b"w:1") == 0
    assert await identities(guest) == sorted([BOB, IP, *(ClientInfo("digest", name) for name in "uvw")])
    path = await created(guest, CREATOR_ALL_ACL)
    acl = (await guest.do("get_acl", path)).said["acl"]
    assert sorted((entry.scheme, entry.id.partition(":")[0]) for entry in acl) == [
        *(("digest", name) for name in "uvw"),
        ("sasl", "bob"),
    ]


async def test_sasl_is_no_scheme_of_auth(guest: Peer) -> None:
    await authenticate(guest)
    assert await guest.authenticate("sasl", b"bob") == -115
    assert await guest.hung_up()


async def test_the_next_connection_has_to_authenticate_anew(welcoming: Secured) -> None:
    async with session(welcoming.address) as peer:
        challenge = await begin(peer)
        await say(peer, response(challenge))
        former = peer.session_id, peer.password
    async with session(welcoming.address, of=former) as peer:
        assert peer.session_id == former[0]
        assert await identities(peer) == [IP]
        assert await begin(peer) != challenge
    async with session(welcoming.address, of=former) as peer:
        await authenticate(peer, "alice")
        assert await identities(peer) == [IP, ClientInfo("sasl", "alice")]
        await peer.close_session()


# --- ACLs -------------------------------------------------------------------------------------------------------------


async def test_acls_by_user(guest: Peer, guests: Peers) -> None:
    await authenticate(guest)
    path = await created(guest, (ACL(31, "sasl", "bob"),))
    assert (await guest.do("get_acl", path)).said["acl"] == [ACL(31, "sasl", "bob")]
    for user, code in ((None, -102), ("alice", -102), ("super", 0), ("bob", 0)):
        other = await guests()
        if user is not None:
            await authenticate(other, user)
        assert await other.refused("get_data", path, False) == code, user
        assert await other.refused("get_acl", path) == code, user


async def test_super_is_in_acls_of_this_scheme_only(guest: Peer) -> None:
    await authenticate(guest, "super")
    assert await identities(guest) == [IP, SUPER]
    path = await created(guest, (ACL(31, "digest", "bob:x"),))
    assert await guest.refused("get_data", path, False) == -102


@pytest.mark.parametrize(
    ("identity", "code"),
    [
        *((name, 0) for name in ("bob", "", "eve", "a b", "ü", "bob/host", "bob@R", "bob/h@R", "a/b/c/d", "@", "/")),
        *((name, -114) for name in ("a@b@c", "a/b/c@d", "a@b/c")),
    ],
)
async def test_what_may_stand_in_acls(guest: Peer, identity: str, code: int) -> None:
    assert await guest.refused("create", "/sasl-", b"", (ACL(31, "sasl", identity),), 2) == code


async def test_auth_is_the_user(guest: Peer) -> None:
    assert await guest.refused("create", "/sasl-", b"", CREATOR_ALL_ACL, 2) == -114
    await authenticate(guest)
    path = await created(guest, CREATOR_ALL_ACL)
    assert (await guest.do("get_acl", path)).said["acl"] == [ACL(31, "sasl", "bob")]


# --- servers that demand it -------------------------------------------------------------------------------------------

FIRST: dict[str, tuple[int, int, bytes]] = {
    "ping": (XID_PING, Op.PING, b""),
    "get": (1, Op.GET_DATA, encode_get_data_request("/", False)),
    "create": (2, Op.CREATE, encode_create_request("/early", b"", OPEN_ACL_UNSAFE, 0)),
    "sync": (3, Op.SYNC, encode_sync_request("/")),
    "set_watches": (XID_SET_WATCHES, Op.SET_WATCHES, bytes(20)),
    "who_am_i": (4, Op.WHO_AM_I, b""),
    "close": (5, Op.CLOSE_SESSION, b""),
    "unknown": (6, 77, b""),
    "malformed": (7, Op.CREATE, b"x"),
}


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("has_begun", [False, True])
async def test_nothing_else_may_come_first(strict: Secured, outsider: Peer, name: str, has_begun: bool) -> None:
    if has_begun:
        await begin(outsider)
    xid, op, body = FIRST[name]
    outsider.send(op, body, xid=xid)
    assert tuple(await outsider.receive()) == (xid, 0, -124, b"")
    assert await outsider.hung_up()
    async with session(strict.address) as peer:
        await authenticate(peer)
        assert await peer.refused("exists", "/early", False) == -101


async def test_a_digest_is_not_enough(outsider: Peer) -> None:
    assert await outsider.authenticate("digest", b"u:1") == 0
    assert await outsider.refused("who_am_i") == -124
    assert await outsider.hung_up()


async def test_credentials_that_are_refused(outsider: Peer) -> None:
    assert await outsider.authenticate("nonsense", b"u:1") == -115
    assert await outsider.hung_up()


async def test_who_has_authenticated_is_served(outsider: Peer) -> None:
    assert await outsider.authenticate("digest", b"u:1") == 0
    challenge = await begin(outsider)
    last = outsider.send(Op.SASL, encode_sasl_request(response(challenge)))
    asked = outsider.put("who_am_i")
    assert (await outsider.receive())[:3] == (last, 0, 0)
    assert sorted((await outsider.take("who_am_i", asked)).said["identities"]) == [ClientInfo("digest", "u"), IP, BOB]
    await outsider.close_session()


@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"user": "eve"}, {"changed": "response", "to": "answer"}])
async def test_a_refusal_where_it_is_demanded(outsider: Peer, wrong: dict[str, Any]) -> None:
    assert await say(outsider, response(await begin(outsider), **wrong)) == FORBIDDEN
    assert await outsider.hung_up()


async def test_nothing_may_follow_where_it_is_demanded(outsider: Peer) -> None:
    await authenticate(outsider)
    assert await say(outsider, b"") == FORBIDDEN
    assert await outsider.hung_up()


async def test_the_session_waits_for_a_connection_that_authenticates(strict: Secured) -> None:
    async with session(strict.address) as peer:
        await authenticate(peer)
        path = (await peer.do("create", "/mine-", b"", OPEN_ACL_UNSAFE, 3)).said["path"]
        former = peer.session_id, peer.password
    async with session(strict.address, of=former) as peer:
        assert await peer.refused("get_data", path, False) == -124
        assert await peer.hung_up()
    async with session(strict.address, of=former) as peer:
        assert peer.session_id == former[0]
        await authenticate(peer)
        stat = (await peer.do("exists", path, False)).stat
        assert stat.ephemeral_owner == former[0]
        await peer.close_session()


# --- servers that demand a digest -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("scheme", [None, "ip"])
async def test_nothing_may_come_before_a_digest(by_digest: Secured, name: str, scheme: str | None) -> None:
    async with session(by_digest.address) as peer:
        if scheme is not None:
            assert await peer.authenticate(scheme, b"") == 0
        xid, op, body = FIRST[name]
        peer.send(op, body, xid=xid)
        assert tuple(await peer.receive()) == (xid, 0, -124, b"")
        assert await peer.hung_up()


async def test_any_digest_will_do(by_digest: Secured) -> None:
    async with session(by_digest.address) as peer:
        assert await say(peer, b"") == (0, 0, None)
        assert await peer.authenticate("digest", b"whoever") == 0
        assert await peer.events() == []
        assert await identities(peer) == [ClientInfo("digest", "whoever"), IP]
        await peer.close_session()


# --- servers that don't know it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [b"", b"hello"])
async def test_a_server_without_sasl_says_nothing(peer: Peer, token: bytes) -> None:
    for _ in range(2):
        assert await say(peer, token) == (0, 0, None)
    assert await identities(peer) == [IP]
    assert await peer.refused("create", "/a", b"", (ACL(31, "sasl", "bob"),), 0) == -114


@pytest.mark.parametrize("body", [b"\xff\xff\xff\xff", b"", b"\0\0\0\5ab"])
async def test_no_token_where_there_is_no_sasl(peer: Peer, body: bytes) -> None:
    peer.send(Op.SASL, body)
    assert await peer.hung_up()
