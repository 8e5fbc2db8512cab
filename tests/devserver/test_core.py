"""The dev server without sockets: handshakes, the order of what goes out, watches and sessions over several
connections, what ends a connection, and the words."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import pytest

from everlatch import admin
from everlatch.devserver.core import Core
from everlatch.devserver.identities import digest
from everlatch.devserver.options import Options
from everlatch.devserver.requests import READS, WRITES
from everlatch.errors import InvalidArgumentError
from everlatch.types import ACL, CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, ClientInfo, EventType
from everlatch.wire.auth_records import (
    decode_who_am_i_reply,
    encode_auth_request,
    encode_sasl_reply,
    encode_sasl_request,
)
from everlatch.wire.codes import XID_AUTH, XID_NOTIFICATION, XID_PING, Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.handshake import (
    ConnectRequest,
    ConnectResponse,
    decode_connect_response,
    encode_connect_request,
)
from everlatch.wire.headers import REPLY_HEADER, decode_reply_header, frame_request
from everlatch.wire.multi import (
    CheckPart,
    CreatePart,
    CreateResult,
    ErrorResult,
    GetDataPart,
    decode_multi_reply,
    encode_multi_request,
)
from everlatch.wire.records import (
    decode_create2_reply,
    decode_create_reply,
    decode_get_acl_reply,
    decode_get_all_children_number_reply,
    decode_get_children_reply,
    decode_get_data_reply,
    decode_get_ephemerals_reply,
    decode_sync_reply,
    encode_create_request,
    encode_create_ttl_request,
    encode_delete_request,
    encode_exists_request,
    encode_get_acl_request,
    encode_get_ephemerals_request,
    encode_reconfig_request,
    encode_set_acl_request,
    encode_set_data_request,
    encode_sync_request,
)
from everlatch.wire.watch_records import (
    decode_watcher_event,
    encode_add_watch_request,
    encode_remove_watches_request,
    encode_set_watches2_request,
    encode_set_watches_request,
)

if TYPE_CHECKING:
    from collections.abc import Collection

EPOCH = 1_795_000_000.0
EPHEMERAL, CONTAINER, TTL = 1, 4, 5


class Reply(NamedTuple):
    xid: int
    zxid: int
    code: int
    body: bytes


class World:
    """A server, its clock, and all that connect to it."""

    def __init__(self, **options: object) -> None:
        self.now = 0.0
        self.core = Core(Options(**({"tick": 1.0} | options)), EPOCH, self.now)
        self._ports = itertools.count(50_000)

    def connect(self, host: str = "127.0.0.1") -> Peer:
        return Peer(self, host, next(self._ports))

    def session(self, host: str = "127.0.0.1", *, timeout_ms: int = 4_000) -> Peer:
        peer = self.connect(host)
        assert peer.greet(timeout_ms=timeout_ms).timeout_ms == timeout_ms
        return peer

    def until(self, now: float) -> None:
        """Lets time pass; the timer is called when it is due."""
        while self.core.next_deadline() <= now:
            self.now = max(self.now, self.core.next_deadline())
            self.core.handle_timer(self.now)
        self.now = now


class Peer:
    """The client's end of one connection."""

    def __init__(self, world: World, host: str, port: int) -> None:
        self.world = world
        self.server_side = world.core.connect(host, port, world.now)
        self._frames = FrameReader(1 << 26)
        self._xids = itertools.count(1)
        self.response = ConnectResponse(0, 0, 0, b"", None)

    @property
    def is_closed(self) -> bool:
        return self.server_side.is_closing

    def write(self, data: bytes) -> None:
        self.server_side.receive(data, self.world.now)

    def payloads(self) -> list[bytes]:
        return [buf[pos:end] for buf, pos, end in self._frames.feed(self.server_side.take_output())]

    def greet(
        self,
        session_id: int = 0,
        password: bytes | None = bytes(16),
        *,
        zxid: int = 0,
        read_only: bool | None = False,
        timeout_ms: int = 4_000,
    ) -> ConnectResponse:
        request = ConnectRequest(0, zxid, timeout_ms, session_id, password, read_only)
        self.write(frame(encode_connect_request(request)))
        (payload,) = self.payloads()
        self.response = decode_connect_response(payload, 0, len(payload))
        return self.response

    def replies(self) -> list[Reply]:
        """All that has come, events too."""
        size = REPLY_HEADER.size
        return [Reply(*decode_reply_header(each, 0, len(each)), each[size:]) for each in self.payloads()]

    def events(self) -> list[tuple[EventType, str, int]]:
        """All that has come, which is nothing but events."""
        told = []
        for reply in self.replies():
            assert (reply.xid, reply.code) == (XID_NOTIFICATION, 0)
            event, state, path = decode_watcher_event(reply.body, 0, len(reply.body))
            assert state == 3
            told.append((EventType(event), path, reply.zxid))
        return told

    def send(self, op: int, body: bytes = b"", xid: int | None = None) -> int:
        xid = next(self._xids) if xid is None else xid
        self.write(frame_request(xid, op, body))
        return xid

    def request(self, op: int, body: bytes = b"") -> bytes:
        """The body of an answer that is no error."""
        (reply,) = self._answer(op, body)
        assert reply.code == 0
        return reply.body

    def code(self, op: int, body: bytes = b"") -> int:
        (reply,) = self._answer(op, body)
        assert reply.code == 0 or reply.body == b""
        return reply.code

    def _answer(self, op: int, body: bytes) -> list[Reply]:
        xid = self.send(op, body)
        replies = self.replies()
        assert [reply.xid for reply in replies] == [xid]
        assert replies[0].zxid == self.world.core.tree.zxid
        return replies

    def create(self, path: str, flags: int = 0, acl: Collection[ACL] = OPEN_ACL_UNSAFE) -> None:
        op = Op.CREATE_CONTAINER if flags == CONTAINER else Op.CREATE
        body = self.request(op, encode_create_request(path, b"data", acl, flags))
        assert decode_create_reply(body, 0, len(body)) == path

    def authenticate(self, scheme: str, credentials: bytes) -> Reply:
        self.send(Op.AUTH, encode_auth_request(scheme, credentials), XID_AUTH)
        (reply,) = self.replies()
        return reply

    def hang_up(self) -> None:
        self.world.core.disconnect(self.server_side)


@pytest.fixture
def world() -> World:
    return World()


def reading(path: str, *, watch: bool = False) -> bytes:
    return encode_exists_request(path, watch)


# --- handshakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "told"), [(False, False), (True, False), (None, None)])
def test_a_new_session(world: World, asked: bool | None, told: bool | None) -> None:
    first, second = world.connect().greet(read_only=asked), world.connect().greet(password=None, read_only=asked)
    assert first.timeout_ms == second.timeout_ms == 4_000
    assert second.session_id == first.session_id + 1
    assert len(first.password) == 16
    assert first.read_only is told
    assert world.core.tree.zxid == 2


def test_bytes_may_come_one_by_one(world: World) -> None:
    peer = world.connect()
    data = frame(encode_connect_request(ConnectRequest(0, 0, 4_000, 0, bytes(16), False))) + frame_request(
        9, Op.PING, b""
    )
    for byte in data:
        peer.write(bytes([byte]))
    handshake, pong = peer.payloads()
    assert decode_connect_response(handshake, 0, len(handshake)).timeout_ms == 4_000
    assert decode_reply_header(pong, 0, len(pong)) == (XID_PING, 1, 0)


def test_a_client_that_has_seen_more_is_turned_away_without_a_word(world: World) -> None:
    peer = world.connect()
    peer.write(frame(encode_connect_request(ConnectRequest(0, 1, 4_000, 0, bytes(16), False))))
    assert peer.payloads() == []
    assert peer.is_closed


def test_a_session_moves_to_a_new_connection_and_leaves_its_watches_and_identities(world: World) -> None:
    old = world.session()
    old.authenticate("digest", b"bob:secret")
    old.request(Op.GET_DATA, reading("/", watch=True))
    new = world.connect()
    response = new.greet(old.response.session_id, old.response.password)
    assert response == old.response
    assert old.is_closed
    assert old.payloads() == []
    new.request(Op.SET_DATA, encode_set_data_request("/", b"", -1))
    assert old.payloads() == []
    body = new.request(Op.WHO_AM_I)
    assert decode_who_am_i_reply(body, 0, len(body)) == [ClientInfo("ip", "127.0.0.1")]


def test_a_wrong_password_takes_the_connection_but_not_the_session(world: World) -> None:
    owner = world.session()
    owner.create("/e", EPHEMERAL)
    thief = world.connect()
    assert thief.greet(owner.response.session_id, b"x" * 16) == ConnectResponse(0, 0, 0, bytes(16), False)
    assert thief.is_closed
    assert owner.is_closed
    assert "/e" in world.core.tree.nodes
    assert world.connect().greet(owner.response.session_id, owner.response.password).timeout_ms == 4_000


def test_an_unknown_session_has_expired(world: World) -> None:
    peer = world.connect()
    assert peer.greet(12345, read_only=None) == ConnectResponse(0, 0, 0, bytes(16), None)
    assert peer.is_closed


# --- what ends a connection, and what doesn't ---------------------------------------------------------------------


@pytest.mark.parametrize("op", [0, Op.CHECK, 20, -10, -1, 999])
def test_an_unknown_operation_costs_the_connection_and_nothing_else(world: World, op: int) -> None:
    peer = world.session()
    peer.create("/e", EPHEMERAL)
    sent = [peer.send(Op.SYNC, encode_sync_request("/")), peer.send(op, encode_delete_request("/e", -1))]
    peer.send(Op.PING)
    assert [(reply.xid, reply.code) for reply in peer.replies()] == [(sent[0], 0), (sent[1], -6)]
    assert peer.is_closed
    assert "/e" in world.core.tree.nodes


WITHOUT_BODY = {Op.PING, Op.CLOSE_SESSION, Op.WHO_AM_I}
ASIDE = {Op.AUTH, Op.SASL}
"""Answered out of the order of requests."""


@pytest.mark.parametrize("op", sorted((READS.keys() | WRITES.keys()) - WITHOUT_BODY - ASIDE))
@pytest.mark.parametrize("body", [b"", b"\0\0\0\5/a"])
def test_a_body_that_ends_too_early_is_an_error_and_the_connection_survives(world: World, op: int, body: bytes) -> None:
    peer = world.session()
    assert peer.code(op, body) == -5
    assert peer.code(Op.SYNC, encode_sync_request("/")) == 0


def test_a_null_path_is_an_error(world: World) -> None:
    assert world.session().code(Op.GET_DATA, b"\xff\xff\xff\xff\0") == -5
    assert world.session().code(Op.SET_WATCHES, bytes(8) + b"\xff\xff\xff\xff" * 3) == -5


def test_bytes_behind_a_body_are_ignored(world: World) -> None:
    assert world.session().code(Op.GET_DATA, reading("/") + b"more") == 0


def test_the_longest_frame_and_one_that_is_longer(world: World) -> None:
    peer = world.session()
    around = len(encode_create_request("/big", b"", OPEN_ACL_UNSAFE, 0))
    body = encode_create_request("/big", bytes(0xFFFFF - 8 - around), OPEN_ACL_UNSAFE, 0)
    assert len(body) + 8 == 0xFFFFF
    assert peer.code(Op.CREATE, body) == 0
    peer.send(Op.SET_DATA, encode_set_data_request("/big", bytes(0xFFFFF), -1))
    assert peer.is_closed
    assert peer.payloads() == []


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\7" + bytes(7), b"\x7f\xff\xff\xff"])
def test_what_is_no_request_ends_the_connection_without_a_word(world: World, data: bytes) -> None:
    for peer in (world.connect(), world.session()):
        peer.write(data)
        assert peer.is_closed
        assert peer.payloads() == []
        peer.write(data)
        assert peer.payloads() == []


def test_who_does_not_say_what_he_wants_is_closed_after_ten_seconds(world: World) -> None:
    silent, greeted = world.connect(), world.session()
    world.until(3.0)
    late = world.connect()
    greeted.send(Op.PING)
    world.until(9.9)
    assert not silent.is_closed
    world.until(10.0)
    assert silent.is_closed
    assert not late.is_closed


# --- identities ---------------------------------------------------------------------------------------------------


def test_auth_adds_identities_and_its_answer_has_no_zxid() -> None:
    world = World(super_digest=digest(b"super:pw"))
    peer = world.session()
    for scheme, credentials in (
        ("digest", b"bob:secret"),
        ("ip", b""),
        ("digest", b"bob:secret"),
        ("digest", b"super:pw"),
    ):
        assert peer.authenticate(scheme, credentials) == (XID_AUTH, 0, 0, b"")
    body = peer.request(Op.WHO_AM_I)
    assert decode_who_am_i_reply(body, 0, len(body)) == [
        ClientInfo("ip", "127.0.0.1"),
        ClientInfo("digest", "bob"),
        ClientInfo("super", ""),
        ClientInfo("digest", "super"),
    ]


@pytest.mark.parametrize("scheme", ["world", "sasl", "nosuch"])
def test_auth_that_fails_costs_the_connection(world: World, scheme: str) -> None:
    peer = world.session()
    assert peer.authenticate(scheme, b"x") == (XID_AUTH, 0, -115, b"")
    assert peer.is_closed


@pytest.mark.parametrize("op", sorted(ASIDE))
def test_credentials_that_can_not_be_read_end_the_connection(world: World, op: int) -> None:
    peer = world.session()
    peer.send(op, b"\0", XID_AUTH)
    assert peer.is_closed
    assert peer.payloads() == []


def test_sasl_is_not_configured(world: World) -> None:
    peer = world.session()
    xid = peer.send(Op.SASL, encode_sasl_request(b""))
    assert peer.replies() == [(xid, 0, 0, encode_sasl_reply(None))]


def test_permissions_of_reads(world: World) -> None:
    owner, other = world.session(), world.session()
    owner.authenticate("digest", b"bob:secret")
    owner.create("/a", acl=CREATOR_ALL_ACL)
    for op in (Op.GET_DATA, Op.EXISTS, Op.GET_CHILDREN, Op.GET_CHILDREN2, Op.GET_ALL_CHILDREN_NUMBER, Op.GET_ACL):
        assert owner.code(op, reading("/a")) == 0
        assert other.code(op, reading("/a", watch=True)) == -102
    assert not other.server_side.watches


def test_the_hashes_in_an_acl_are_for_those_who_may_administer(world: World) -> None:
    owner, other = world.session(), world.session()
    owner.authenticate("digest", b"bob:secret")
    bob = ACL(31, "digest", digest(b"bob:secret"))
    owner.create("/a", acl=[bob, ACL(1, "world", "anyone")])
    for peer, shown in ((owner, bob), (other, ACL(31, "digest", "bob:x"))):
        body = peer.request(Op.GET_ACL, encode_get_acl_request("/a"))
        acls, stat = decode_get_acl_reply(body, 0, len(body))
        assert acls == [shown, ACL(1, "world", "anyone")]
        assert stat.aversion == 0
    assert other.code(Op.SET_ACL, encode_set_acl_request("/a", OPEN_ACL_UNSAFE, -1)) == -102
    assert owner.code(Op.SET_ACL, encode_set_acl_request("/a", OPEN_ACL_UNSAFE, 0)) == 0


# --- operations, over the wire ------------------------------------------------------------------------------------


def test_creates_answer_with_a_stat_or_without(world: World) -> None:
    peer = world.session()
    request = encode_create_request("/n-", None, OPEN_ACL_UNSAFE, 2)
    body = peer.request(Op.CREATE, request)
    assert decode_create_reply(body, 0, len(body)) == "/n-0000000000"
    assert len(body) == 4 + 13
    body = peer.request(Op.CREATE2, request)
    assert decode_create2_reply(body, 0, len(body)).stat.czxid == world.core.tree.zxid
    body = peer.request(Op.CREATE_CONTAINER, encode_create_request("/c", b"", OPEN_ACL_UNSAFE, CONTAINER))
    assert decode_create2_reply(body, 0, len(body)).path == "/c"
    body = peer.request(Op.CREATE_TTL, encode_create_ttl_request("/t", b"", OPEN_ACL_UNSAFE, TTL, 5))
    assert decode_create2_reply(body, 0, len(body)).stat.ctime == int(EPOCH * 1000)


def test_reads(world: World) -> None:
    peer, other = world.session(), world.session()
    peer.create("/a")
    peer.create("/a/e", EPHEMERAL)
    other.create("/a/f", EPHEMERAL)
    body = peer.request(Op.GET_DATA, reading("/a"))
    assert decode_get_data_reply(body, 0, len(body)).data == b"data"
    body = peer.request(Op.GET_CHILDREN, reading("/a"))
    assert sorted(decode_get_children_reply(body, 0, len(body))) == ["e", "f"]
    body = peer.request(Op.GET_ALL_CHILDREN_NUMBER, encode_get_acl_request("/a"))
    assert decode_get_all_children_number_reply(body, 0, len(body)) == 2
    for prefix, found in ((None, ["/a/e"]), ("", ["/a/e"]), ("/", ["/a/e"]), ("/a/", ["/a/e"]), ("/b", [])):
        body = peer.request(Op.GET_EPHEMERALS, encode_get_ephemerals_request(prefix))
        assert decode_get_ephemerals_reply(body, 0, len(body)) == found
    body = peer.request(Op.SYNC, encode_sync_request("anything"))
    assert decode_sync_reply(body, 0, len(body)) == "anything"
    for path in ("/missing", "a", "/a/"):
        assert peer.code(Op.GET_DATA, reading(path)) == -101
    assert peer.request(Op.GET_DATA, reading("")) == peer.request(Op.GET_DATA, reading("/"))
    assert peer.code(Op.RECONFIG, encode_reconfig_request("", "", None, -1)) == -123


def test_a_multi_that_is_refused_is_answered_without_an_error(world: World) -> None:
    peer = world.session()
    parts = [CreatePart(Op.CREATE2, "/a", b"", OPEN_ACL_UNSAFE, 0), CheckPart("/a", 0)]
    body = peer.request(Op.MULTI, encode_multi_request(parts))
    created, _ = decode_multi_reply(body, 0, len(body))
    assert isinstance(created, CreateResult)
    assert created.stat is not None
    body = peer.request(Op.MULTI, encode_multi_request([CheckPart("/a", 0), *parts]))
    assert decode_multi_reply(body, 0, len(body)) == [ErrorResult(0), ErrorResult(-110), ErrorResult(-2)]
    assert peer.code(Op.MULTI, encode_multi_request([GetDataPart("/a")])) == -5
    assert peer.code(Op.MULTI_READ, encode_multi_request(parts)) == -5
    body = peer.request(Op.MULTI_READ, encode_multi_request([GetDataPart("/b")]))
    assert decode_multi_reply(body, 0, len(body)) == [ErrorResult(-101)]


# --- watches ------------------------------------------------------------------------------------------------------


def test_events_come_before_the_reply_that_shows_the_change(world: World) -> None:
    peer = world.session()
    peer.request(Op.GET_CHILDREN, reading("/", watch=True))
    assert peer.code(Op.EXISTS, reading("/a", watch=True)) == -101
    xid = peer.send(Op.CREATE, encode_create_request("/a", b"", OPEN_ACL_UNSAFE, 0))
    created, children, reply = peer.replies()
    zxid = world.core.tree.zxid
    assert (created.xid, created.zxid, children.xid, children.zxid) == (-1, zxid, -1, zxid)
    assert decode_watcher_event(created.body, 0, len(created.body)) == (1, 3, "/a")
    assert decode_watcher_event(children.body, 0, len(children.body)) == (4, 3, "/")
    assert (reply.xid, reply.code) == (xid, 0)


def test_events_of_others_come_before_replies_that_show_them(world: World) -> None:
    watcher, writer = world.session(), world.session()
    writer.create("/a")
    watcher.request(Op.GET_DATA, reading("/a", watch=True))
    writer.request(Op.SET_DATA, encode_set_data_request("/a", b"new", -1))
    xid = watcher.send(Op.GET_DATA, reading("/a"))
    event, reply = watcher.replies()
    assert (event.xid, reply.xid) == (XID_NOTIFICATION, xid)
    assert decode_get_data_reply(reply.body, 0, len(reply.body)).data == b"new"


@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_before_3_9_events_have_no_zxid_and_persistent_watches_no_type(version: str) -> None:
    world = World(version=version)
    watcher, writer = world.session(), world.session()
    watcher.request(Op.ADD_WATCH, encode_add_watch_request("/", 1))
    writer.create("/a")
    zxid = -1 if version == "3.8" else world.core.tree.zxid
    assert watcher.events() == [(EventType.CREATED, "/a", zxid)]
    for op in (Op.CHECK_WATCHES, Op.REMOVE_WATCHES):
        assert watcher.code(op, encode_remove_watches_request("/", 5)) == (-5 if version == "3.8" else 0)
    for op in (Op.REMOVE_WATCHES, Op.CHECK_WATCHES):
        assert watcher.code(op, encode_remove_watches_request("/", 3)) == (
            0 if version == "3.8" and op == Op.REMOVE_WATCHES else -121
        )
    assert watcher.code(Op.ADD_WATCH, encode_add_watch_request("/", 2)) == -5


def test_an_event_of_what_one_may_not_read_is_not_told_and_ends_the_watch(world: World) -> None:
    watcher, owner = world.session(), world.session()
    assert watcher.code(Op.EXISTS, reading("/secret", watch=True)) == -101
    owner.authenticate("digest", b"bob:secret")
    owner.create("/secret", acl=CREATOR_ALL_ACL)
    assert watcher.events() == []
    assert not watcher.server_side.watches


def test_a_one_shot_watch_hears_of_the_first_part_of_a_multi_only(world: World) -> None:
    peer = world.session()
    peer.request(Op.GET_CHILDREN, reading("/", watch=True))
    parts = [CreatePart(Op.CREATE, path, b"", OPEN_ACL_UNSAFE, 0) for path in ("/a", "/b")]
    peer.send(Op.MULTI, encode_multi_request(parts))
    event, reply = peer.replies()
    assert event.xid == XID_NOTIFICATION
    assert reply.xid > 0


def test_watches_that_are_armed_again_tell_what_they_missed_first(world: World) -> None:
    peer, writer = world.session(), world.session()
    writer.create("/a")
    seen = world.core.tree.zxid
    writer.request(Op.SET_DATA, encode_set_data_request("/a", b"", -1))
    xid = peer.send(Op.SET_WATCHES, encode_set_watches_request(seen, ["/a", "/b"], ["/c"], ["/"]))
    *events, reply = peer.replies()
    assert [(event.zxid, decode_watcher_event(event.body, 0, len(event.body))) for event in events] == [
        (-1, (3, 3, "/a")),
        (-1, (2, 3, "/b")),
    ]
    assert (reply.xid, reply.code) == (xid, 0)
    assert peer.code(Op.SET_WATCHES2, encode_set_watches2_request(seen, [], [], [], ["/a"], [])) == 0
    writer.create("/c")
    assert [event[:2] for event in peer.events()] == [(EventType.CREATED, "/c"), (EventType.CHILDREN_CHANGED, "/")]


# --- the end of sessions ------------------------------------------------------------------------------------------


def test_a_session_that_is_closed_takes_its_nodes_and_nothing_behind_it_is_answered(world: World) -> None:
    peer, other = world.session(), world.session()
    peer.create("/e", EPHEMERAL)
    other.request(Op.EXISTS, reading("/e", watch=True))
    peer.request(Op.GET_CHILDREN, reading("/", watch=True))
    xid = peer.send(Op.CLOSE_SESSION)
    peer.send(Op.PING)
    event, reply = peer.replies()
    assert (event.xid, reply.xid, reply.code) == (XID_NOTIFICATION, xid, 0)
    assert peer.is_closed
    assert [event[:2] for event in other.events()] == [(EventType.DELETED, "/e")]
    assert world.connect().greet(peer.response.session_id, peer.response.password).timeout_ms == 0


def test_a_silent_session_expires_without_a_word_and_others_hear_of_it(world: World) -> None:
    silent, other = world.session(), world.session()
    silent.create("/e", EPHEMERAL)
    silent.request(Op.GET_DATA, reading("/e", watch=True))
    other.request(Op.EXISTS, reading("/e", watch=True))
    world.until(3.0)
    other.send(Op.PING)
    assert len(other.replies()) == 1
    world.until(4.9)
    assert "/e" in world.core.tree.nodes
    world.until(5.0)
    assert silent.is_closed
    assert silent.payloads() == []
    assert [event[:2] for event in other.events()] == [(EventType.DELETED, "/e")]
    assert not other.is_closed
    assert world.connect().greet(silent.response.session_id, silent.response.password).timeout_ms == 0


def test_a_session_outlives_its_connection(world: World) -> None:
    peer = world.session()
    peer.create("/e", EPHEMERAL)
    peer.hang_up()
    world.until(4.0)
    again = world.connect()
    assert again.greet(peer.response.session_id, peer.response.password).timeout_ms == 4_000
    again.hang_up()
    world.until(8.9)
    assert "/e" in world.core.tree.nodes
    world.until(9.0)
    assert "/e" not in world.core.tree.nodes


def test_who_has_something_to_get_is_known(world: World) -> None:
    watcher, writer = world.session(), world.session()
    watcher.request(Op.ADD_WATCH, encode_add_watch_request("/", 1))
    world.core.take_changed()
    writer.create("/a")
    assert set(world.core.take_changed()) == {watcher.server_side, writer.server_side}
    assert list(world.core.take_changed()) == []


def test_containers_and_ttl_nodes_go_in_time() -> None:
    world = World(reap_interval=30.0, max_session_timeout=1000.0)
    peer = world.session()
    peer.create("/c", CONTAINER)
    peer.create("/c/child")
    peer.request(Op.CREATE_TTL, encode_create_ttl_request("/t", b"", OPEN_ACL_UNSAFE, TTL, 40_000))
    peer.request(Op.DELETE, encode_delete_request("/c/child", -1))
    watcher = world.session(timeout_ms=100_000)
    watcher.server_side.watches.add_persistent("/", 1)
    world.until(29.9)
    assert "/c" in world.core.tree.nodes
    world.until(30.0)
    assert [event[:2] for event in watcher.events()] == [(EventType.DELETED, "/c")]
    world.until(59.9)
    assert "/t" in world.core.tree.nodes
    world.until(60.0)
    assert [event[:2] for event in watcher.events()] == [(EventType.DELETED, "/t")]


# --- options and words --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"version": "3.4"}, {"tick": 0}, {"reap_interval": -1.0}])
def test_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        Options(**options)


def ask(world: World, word: str, host: str = "127.0.0.1") -> str:
    peer = world.connect(host)
    peer.write(word[:1].encode())
    peer.write(word[1:].encode())
    assert peer.is_closed
    answer = peer.server_side.take_output().decode()
    peer.hang_up()
    return answer


def test_words_that_say_how_the_server_is(world: World) -> None:
    assert ask(world, "ruok") == "imok"
    assert ask(world, "isro") == "rw"
    assert ask(world, "srvr").startswith("Zookeeper version: 3.9.5-everlatch-devserver, in memory, for development")
    assert ask(World(version="3.8"), "srvr").startswith("Zookeeper version: 3.8.0-")
    assert ask(world, "conf") == "conf is not executed because it is not in the whitelist.\n"
    assert ask(world, "abcd") == ""


def test_words_that_count(world: World) -> None:
    peer = world.session()
    peer.create("/e", EPHEMERAL)
    peer.request(Op.ADD_WATCH, encode_add_watch_request("/", 0))
    idle = world.session("::1")
    metrics = dict(line.split("\t") for line in ask(world, "mntr").splitlines())
    assert metrics["zk_znode_count"] == "6"
    assert metrics["zk_ephemerals_count"] == "1"
    assert metrics["zk_watch_count"] == "2"
    assert metrics["zk_global_sessions"] == "2"
    assert metrics["zk_num_alive_connections"] == "3"
    assert metrics["zk_server_state"] == "standalone"
    assert ask(world, "wchs") == "1 connections watching 1 paths\nTotal watches:1\n"
    assert f"{admin_id(peer)}:\n\t/e\n" in ask(world, "dump")
    first, second, asker, end = ask(world, "cons").split("\n", 3)
    assert first.startswith(f" /127.0.0.1:50000[1](queued=0,recved=3,sent=3,sid={admin_id(peer)},lop=ADDW,")
    assert second.startswith(f" /[::1]:50001[1](queued=0,recved=1,sent=1,sid={admin_id(idle)},lop=SESS,")
    assert asker.endswith("[0](queued=0,recved=1,sent=0)")
    assert end == "\n"
    idle.send(Op.PING)
    peer.send(Op.GET_DATA, reading("/"))
    assert [part[:4] for part in ask(world, "cons").split("lop=")[1:]] == ["GETD", "PING"]
    assert "\nClients:\n /127.0.0.1:50000[1](queued=0,recved=4,sent=4)\n" in ask(world, "stat")


def admin_id(peer: Peer) -> str:
    return f"0x{peer.response.session_id:x}"


def test_the_version_is_one_that_clients_can_read() -> None:
    text = ask(World(), "srvr").splitlines()[0].partition(": ")[2]
    assert admin.parse_version(text).numbers == (3, 9, 5)
