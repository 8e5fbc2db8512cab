"""Handshakes, and how sessions and connections begin, move and end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from everlatch.devserver.sessions import password_of
from everlatch.types import OPEN_ACL_UNSAFE, EventType
from everlatch.wire.codes import XID_PING, Op
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, ConnectResponse, encode_connect_request
from everlatch.wire.headers import REPLY_HEADER, decode_reply_header, frame_request
from everlatch.wire.records import (
    encode_check_request,
    encode_create_request,
    encode_exists_request,
    encode_set_data_request,
)
from wire_peer import Event, Peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from conformance.conftest import Subject

    Peers = Callable[[], Awaitable[Peer]]

EPHEMERAL = 1
TICK_MS, SHORTEST_MS, LONGEST_MS = 100, 200, 20_000
REFUSED = ConnectResponse(0, 0, 0, bytes(16), False)


def asking(
    session_id: int = 0, password: bytes | None = bytes(16), timeout_ms: int = LONGEST_MS, zxid: int = 0
) -> ConnectRequest:
    return ConnectRequest(0, zxid, timeout_ms, session_id, password, False)


def back(peer: Peer, **changes: object) -> ConnectRequest:
    """Its session once more."""
    return asking(peer.session_id, peer.password)._replace(**changes)  # type: ignore[arg-type]


# --- handshakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (-1, SHORTEST_MS),
        (0, SHORTEST_MS),
        (SHORTEST_MS - 1, SHORTEST_MS),
        (SHORTEST_MS, SHORTEST_MS),
        (1234, 1234),
        (LONGEST_MS, LONGEST_MS),
        (LONGEST_MS + 1, LONGEST_MS),
        (0x7FFFFFFF, LONGEST_MS),
    ],
)
async def test_a_timeout_is_granted_within_limits(server: Subject, asked: int, granted: int) -> None:
    async with Peer.to(server.address) as peer:
        response, size = await peer.greet(asking(timeout_ms=asked))
        assert response == (0, granted, response.session_id, password_of(response.session_id), False)
        assert size == 37
        await peer.close_session()
        assert await peer.hung_up()


@pytest.mark.parametrize("read_only", [None, False, True])
async def test_the_byte_for_read_only_is_answered_if_it_was_there(server: Subject, read_only: bool | None) -> None:
    async with Peer.to(server.address) as peer:
        response, size = await peer.greet(asking()._replace(read_only=read_only))
        assert (response.read_only, size) == ((None, 36) if read_only is None else (False, 37))
        await peer.close_session()


@pytest.mark.parametrize("password", [None, b"", b"whatever", bytes(100)])
async def test_a_new_session_needs_no_password_and_no_version(server: Subject, password: bytes | None) -> None:
    async with Peer.to(server.address) as peer:
        response, _ = await peer.greet(asking(password=password)._replace(protocol_version=7))
        assert response.protocol_version == 0
        assert response.timeout_ms == LONGEST_MS
        await peer.close_session()


async def test_ids_are_all_different_and_each_session_counts_as_a_transaction(peers: Peers) -> None:
    sessions = [await peers() for _ in range(3)]
    assert len({peer.session_id for peer in sessions}) == 3
    before = (await sessions[0].do("exists", "/", False)).zxid
    assert (await (await peers()).do("exists", "/", False)).zxid > before


async def test_bytes_may_come_one_by_one_and_requests_behind_the_handshake(server: Subject) -> None:
    async with Peer.to(server.address) as peer:
        request = frame(encode_connect_request(asking())) + frame_request(
            5, Op.EXISTS, encode_exists_request("/", False)
        )
        await peer.trickle(request)
        payload = await peer._payload()
        assert len(payload) == 37
        assert (await peer.receive()).xid == 5
        await peer.close_session()


@pytest.mark.parametrize("has_session", [False, True])
async def test_who_has_seen_more_is_turned_away_without_a_word(server: Subject, peer: Peer, has_session: bool) -> None:
    zxid = (await peer.ask("sync", "/")).zxid + 1_000
    async with Peer.to(server.address) as ahead:
        request = back(peer, last_zxid_seen=zxid) if has_session else asking(zxid=zxid)
        ahead.write(frame(encode_connect_request(request)))
        assert await ahead.hung_up()
    # Nobody has lost anything by it.
    assert await peer.refused("sync", "/") == 0


# --- sessions that move -------------------------------------------------------------------------------------------


async def test_a_session_comes_back_without_watches_and_identities(
    server: Subject, peer: Peer, other: Peer, root: str
) -> None:
    assert await peer.authenticate("digest", b"bob:secret") == 0
    await peer.do("create", f"{root}/e", b"", OPEN_ACL_UNSAFE, EPHEMERAL)
    await peer.do("get_data", root, True)
    await peer.do("add_watch", root, 0)
    async with Peer.to(server.address) as again:
        response, _ = await again.greet(back(peer, timeout_ms=5_000))
        assert response == (0, 5_000, peer.session_id, peer.password, False)
        assert await peer.hung_up()
        assert len((await again.do("who_am_i")).said["identities"]) == 1
        await other.do("set_data", root, b"", -1)
        assert await again.events() == []
        assert (await again.do("exists", f"{root}/e", False)).stat.ephemeral_owner == peer.session_id
        assert (await again.do("get_ephemerals", root)).said["paths"] == [f"{root}/e"]


async def test_a_wrong_password_takes_the_connection_but_not_the_session(
    server: Subject, peer: Peer, other: Peer, root: str
) -> None:
    await peer.do("create", f"{root}/e", b"", OPEN_ACL_UNSAFE, EPHEMERAL)
    async with Peer.to(server.address) as thief:
        response, size = await thief.greet(asking(peer.session_id, b"x" * 16))
        assert (response, size) == (REFUSED, 37)
        assert await thief.hung_up()
    assert await peer.hung_up()
    await other.do("exists", f"{root}/e", False)
    async with Peer.to(server.address) as again:
        assert (await again.greet(back(peer)))[0].session_id == peer.session_id


@pytest.mark.parametrize("session_id", [1, -1, 0x1000000000012345])
async def test_a_session_that_nobody_knows_has_expired(server: Subject, session_id: int) -> None:
    async with Peer.to(server.address) as peer:
        response, _ = await peer.greet(asking(session_id, password_of(session_id)))
        assert response == REFUSED
        assert await peer.hung_up()


async def test_a_session_that_was_closed_has_expired(server: Subject, peer: Peer) -> None:
    await peer.close_session()
    assert await peer.hung_up()
    async with Peer.to(server.address) as again:
        request = back(peer, read_only=None)
        assert await again.greet(request) == (REFUSED._replace(read_only=None), 36)
        assert await again.hung_up()


# --- the end of a session -----------------------------------------------------------------------------------------


async def test_closing_takes_what_the_session_owns_before_it_is_answered(peer: Peer, other: Peer, root: str) -> None:
    await peer.do("create", f"{root}/e", b"", OPEN_ACL_UNSAFE, EPHEMERAL)
    await peer.do("create", f"{root}/stays", b"", OPEN_ACL_UNSAFE, 0)
    await other.do("exists", f"{root}/e", True)
    await other.do("get_children", root, True)
    await peer.do("get_data", f"{root}/e", True)
    answer = await peer.ask("close_session")
    assert answer.code == 0
    assert peer.heard == [Event(EventType.DELETED, f"{root}/e")]
    assert await peer.hung_up()
    gone = (await other.do("get_children2", root, False)).stat
    assert gone.pzxid == answer.zxid
    assert gone.num_children == 1
    assert await other.events() == [
        Event(EventType.DELETED, f"{root}/e"),
        Event(EventType.CHILDREN_CHANGED, root),
    ]


async def test_what_comes_behind_the_end_is_not_done(peer: Peer, other: Peer, root: str) -> None:
    closing = peer.put("close_session")
    late = peer.put("create", f"{root}/late", b"", OPEN_ACL_UNSAFE, 0)
    reply = await peer.next_reply()
    assert (reply.xid, reply.code) == (closing, 0)
    # Mostly nothing comes; real servers sometimes answer before they close the connection.
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
        reply = await peer.next_reply()
        assert reply.xid == late
        assert reply.code in (-112, -12)
    assert await other.refused("exists", f"{root}/late", False) == -101


async def test_a_silent_session_ends_behind_its_timeout_and_nobody_is_told(
    server: Subject, other: Peer, root: str
) -> None:
    timeout_ms = 4 * SHORTEST_MS  # what comes before the silence has to be quicker
    async with Peer.to(server.address) as silent:
        await silent.greet(asking(timeout_ms=timeout_ms))
        assert await other.refused("exists", f"{root}/e", True) == -101
        began = time.monotonic()
        await silent.do("create", f"{root}/e", b"", OPEN_ACL_UNSAFE, EPHEMERAL)
        assert await other.next_event() == (EventType.CREATED, f"{root}/e")
        await other.do("exists", f"{root}/e", True)
        assert await other.next_event() == (EventType.DELETED, f"{root}/e")
        assert time.monotonic() - began >= timeout_ms / 1000
        assert await silent.hung_up()
    async with Peer.to(server.address) as again:
        assert (await again.greet(back(silent)))[0] == REFUSED


async def test_pings_keep_a_session_alive_and_the_lost_connection_does_not_end_it(
    server: Subject, other: Peer, root: str
) -> None:
    timeout_ms = 5 * SHORTEST_MS  # long enough for a machine that stands still for a moment
    async with Peer.to(server.address) as first:
        await first.greet(asking(timeout_ms=timeout_ms))
        await first.do("create", f"{root}/e", b"", OPEN_ACL_UNSAFE, EPHEMERAL)
        began = time.monotonic()
        while time.monotonic() - began < 1.5 * timeout_ms / 1000:
            assert await first.events() == []
        first.vanish()
        async with Peer.to(server.address) as again:
            response, _ = await again.greet(back(first))
            assert response.session_id == first.session_id
            assert await other.refused("exists", f"{root}/e", False) == 0


async def test_pings_are_answered_with_their_own_xid_whatever_was_sent(peer: Peer) -> None:
    for xid in (1, XID_PING, 77, 0):
        peer.send(Op.PING, xid=xid)
        reply = await peer.next_reply()
        assert (reply.xid, reply.code, reply.body) == (XID_PING, 0, b"")


# --- what ends a connection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\x10\0\0"], ids=["-1", "most", "1 MiB"])
async def test_a_frame_of_an_impossible_length_ends_the_connection(server: Subject, peer: Peer, data: bytes) -> None:
    async with Peer.to(server.address) as fresh:
        for each in (fresh, peer):
            each.write(data)
            assert await each.hung_up()


async def test_a_request_without_a_whole_header_ends_the_connection_and_not_the_session(
    server: Subject, peer: Peer
) -> None:
    peer.write(frame(bytes(7)))
    assert await peer.hung_up()
    async with Peer.to(server.address) as again:
        assert (await again.greet(back(peer)))[0].session_id == peer.session_id


async def test_the_longest_frame(peer: Peer, other: Peer, root: str) -> None:
    around = len(encode_create_request(f"{root}/big", b"", OPEN_ACL_UNSAFE, 0)) + 8
    data = bytes(0xFFFFF - around)
    await peer.do("create", f"{root}/big", data, OPEN_ACL_UNSAFE, 0)
    assert (await other.do("get_data", f"{root}/big", False)).said["data"] == data
    peer.send(Op.SET_DATA, encode_set_data_request(f"{root}/big", bytes(0xFFFFF), -1))
    assert await peer.hung_up()
    await other.do("delete", f"{root}/big", 0)


@pytest.mark.parametrize("op", [0, 10, 23, 99, 108, 999, -1, -100])
async def test_an_unknown_operation_ends_the_connection_and_not_the_session(
    server: Subject, peer: Peer, other: Peer, root: str, op: int
) -> None:
    await peer.do("create", f"{root}/e", b"", OPEN_ACL_UNSAFE, EPHEMERAL)
    xid = peer.send(op)
    assert await peer.next_reply() == (xid, -1, -6, b"")
    assert await peer.hung_up()
    assert await other.refused("exists", f"{root}/e", False) == 0
    async with Peer.to(server.address) as again:
        assert (await again.greet(back(peer)))[0].session_id == peer.session_id


async def test_a_check_outside_of_a_multi(server: Subject, peer: Peer) -> None:
    xid = peer.send(Op.CHECK, encode_check_request("/", -1))
    if server.features.answers_check:
        assert await peer.next_reply() == (xid, -1, -6, b"")
        assert await peer.hung_up()
    else:
        assert await peer.refused("exists", "/", False) == 0


@pytest.mark.parametrize("scheme", ["world", "sasl", "super", "auth", "nosuch", ""])
async def test_credentials_that_are_refused_end_the_connection(server: Subject, peer: Peer, scheme: str) -> None:
    assert await peer.authenticate(scheme, b"bob:secret") == -115
    assert await peer.hung_up()
    async with Peer.to(server.address) as again:
        assert (await again.greet(back(peer)))[0].session_id == peer.session_id


@pytest.mark.parametrize("op", [Op.AUTH, Op.SASL])
async def test_credentials_that_can_not_be_read_end_the_connection(peer: Peer, op: int) -> None:
    peer.send(op, b"\0\0")
    assert await peer.hung_up()


async def test_a_reply_is_a_header_and_a_body_and_nothing_else(peer: Peer) -> None:
    xid = peer.put("get_data", "/none", False)
    payload = await peer._payload()
    assert len(payload) == REPLY_HEADER.size == 16
    assert decode_reply_header(payload, 0, 16)[::2] == (xid, -101)
