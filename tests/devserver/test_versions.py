"""What the versions do differently, over the wire. That 3.8 and 3.9 do it like the real ones is what
`tests/conformance` shows; of 3.5 there is no real one here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from everlatch import Client, UnsupportedByServerError, admin
from everlatch.devserver import DevServer
from everlatch.devserver.versions import FEATURES
from everlatch.types import ACL, OPEN_ACL_UNSAFE
from everlatch.wire.codes import XID_NOTIFICATION, CreateMode, Op
from everlatch.wire.multi import CreatePart, CreateResult, ErrorResult, decode_multi_reply, encode_multi_request
from everlatch.wire.records import (
    encode_create_request,
    encode_exists_request,
    encode_get_data_request,
    encode_set_acl_request,
    encode_set_data_request,
)
from everlatch.wire.watch_records import encode_remove_watches_request
from real.raw import Raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch.wire.multi import Result

VERSIONS = tuple(FEATURES)
UNREADABLE = (ACL(30, "world", "anyone"),)


@pytest.fixture(params=VERSIONS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[DevServer]:
    async with DevServer(version=request.param) as server:
        yield server


@pytest.fixture
async def raw(server: DevServer) -> AsyncIterator[Raw]:
    async with Raw.open(server.address) as raw:
        yield raw


def create(path: str, acl: tuple[ACL, ...] = OPEN_ACL_UNSAFE) -> bytes:
    return encode_create_request(path, b"", acl, 0)


def test_every_version_knows_what_the_one_before_knew() -> None:
    known = [FEATURES[version].operations for version in VERSIONS]
    assert known[0] < known[1] <= known[2]
    assert known[2] == frozenset(Op) - {Op.CHECK, Op.ERROR}


async def test_it_says_which_version_it_is(server: DevServer) -> None:
    version = (await admin.srvr(server.address)).version
    assert ".".join(map(str, version.numbers[:2])) == server.options.version


@pytest.mark.parametrize(
    "op",
    [
        Op.ADD_WATCH,
        Op.SET_WATCHES2,
        Op.MULTI_READ,
        Op.GET_EPHEMERALS,
        Op.GET_ALL_CHILDREN_NUMBER,
        Op.WHO_AM_I,
    ],
)
async def test_what_3_5_does_not_know_costs_the_connection(server: DevServer, raw: Raw, op: int) -> None:
    xid = raw.send(op)
    reply = await raw.receive()
    if server.options.version == "3.5":
        assert reply == (xid, -1, -6, b"")
        assert await raw.hung_up()
    else:
        assert (reply.xid, reply.code) == (xid, 0 if op == Op.WHO_AM_I else -5)


async def test_the_client_sees_to_it_that_it_costs_nothing() -> None:
    async with DevServer(version="3.5") as server, Client(server.address, default_timeout=10) as client:
        with pytest.raises(UnsupportedByServerError):
            await client.who_am_i()
        await client.create("/a", b"1", container=True)
        assert (await client.get("/a")).data == b"1"
        assert client.connections == 1


async def test_who_may_not_read(server: DevServer, raw: Raw) -> None:
    """Since 3.8 he hears of no changes, and since 3.9 exists tells him nothing."""
    version = server.options.version
    assert await raw.code(Op.CREATE, create("/a")) == 0
    assert await raw.code(Op.GET_DATA, encode_get_data_request("/a", True)) == 0
    assert await raw.code(Op.SET_ACL, encode_set_acl_request("/a", UNREADABLE, -1)) == 0
    raw.send(Op.SET_DATA, encode_set_data_request("/a", b"", -1))
    told = [(await raw.receive()).xid]
    while told[-1] == XID_NOTIFICATION:
        told.append((await raw.receive()).xid)
    assert len(told) == (2 if version == "3.5" else 1)
    assert await raw.code(Op.EXISTS, encode_exists_request("/a", False)) == (-102 if version == "3.9" else 0)


async def test_events_tell_their_zxid_since_3_9(server: DevServer, raw: Raw) -> None:
    assert await raw.code(Op.GET_DATA, encode_get_data_request("/", True)) == 0
    raw.send(Op.SET_DATA, encode_set_data_request("/", b"", -1))
    event, reply = await raw.receive(), await raw.receive()
    assert (event.xid, event.zxid) == (XID_NOTIFICATION, reply.zxid if server.options.version == "3.9" else -1)


async def test_addresses_of_ipv6_in_acls_since_3_9(server: DevServer, raw: Raw) -> None:
    expected = 0 if server.options.version == "3.9" else -114
    assert await raw.code(Op.CREATE, create("/a", (ACL(31, "ip", "::1"),))) == expected


async def multi(raw: Raw, *parts: CreatePart) -> tuple[int, list[Result]]:
    reply = await raw.request(Op.MULTI, encode_multi_request(parts))
    return reply.code, [] if reply.code else decode_multi_reply(reply.body, 0, len(reply.body))


async def test_create2_within_a_multi(server: DevServer, raw: Raw) -> None:
    parts = [
        CreatePart(Op.CREATE, "/1", b"", OPEN_ACL_UNSAFE, CreateMode.PERSISTENT),
        CreatePart(Op.CREATE2, "/2", b"", OPEN_ACL_UNSAFE, CreateMode.PERSISTENT),
        CreatePart(Op.CREATE_CONTAINER, "/3", b"", OPEN_ACL_UNSAFE, CreateMode.CONTAINER),
        CreatePart(Op.CREATE_TTL, "/4", b"", OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_WITH_TTL, 1000),
        CreatePart(Op.CREATE, "/5", b"", OPEN_ACL_UNSAFE, CreateMode.CONTAINER),
        CreatePart(Op.CREATE_CONTAINER, "/6", b"", OPEN_ACL_UNSAFE, CreateMode.PERSISTENT),
    ]
    code, results = await multi(raw, *parts)
    assert code == 0
    with_stat = [isinstance(result, CreateResult) and result.stat is not None for result in results]
    is_3_9 = server.options.version == "3.9"
    assert with_stat == [False, is_3_9, True, True, True, is_3_9]


@pytest.mark.parametrize("flags", [7, CreateMode.PERSISTENT_WITH_TTL])
async def test_flags_that_do_not_fit_within_a_multi(server: DevServer, raw: Raw, flags: int) -> None:
    part = CreatePart(Op.CREATE, "/a", b"", OPEN_ACL_UNSAFE, flags)
    missing = CreatePart(Op.CREATE, "/missing/a", b"", OPEN_ACL_UNSAFE, 0)
    is_3_9, exists = server.options.version == "3.9", flags != 7
    assert await multi(raw, part) == ((-5, []) if is_3_9 or exists else (0, [ErrorResult(-8)]))
    # Before 3.9 the first culprit is the one.
    assert await multi(raw, missing, part) == ((-5, []) if is_3_9 else (0, [ErrorResult(-101), ErrorResult(-2)]))


async def test_whose_watches_are_checked(server: DevServer, raw: Raw) -> None:
    """On 3.8 those of all connections."""
    async with Raw.open(server.address) as other:
        assert await other.code(Op.GET_DATA, encode_get_data_request("/", True)) == 0
        mine = await raw.code(Op.CHECK_WATCHES, encode_remove_watches_request("/", 2))
        theirs = await other.code(Op.CHECK_WATCHES, encode_remove_watches_request("/", 2))
        assert (mine, theirs) == (0 if server.options.version == "3.8" else -121, 0)
        assert await raw.code(Op.REMOVE_WATCHES, encode_remove_watches_request("/", 2)) == -121
    expected = -5 if server.options.version == "3.8" else -121
    assert await raw.code(Op.CHECK_WATCHES, encode_remove_watches_request("relative", 2)) == expected


@pytest.mark.parametrize("watcher_type", [4, 5])
async def test_types_of_watchers(server: DevServer, raw: Raw, watcher_type: int) -> None:
    expected = -121 if server.options.version == "3.9" else -5
    assert await raw.code(Op.REMOVE_WATCHES, encode_remove_watches_request("/", watcher_type)) == expected


async def test_whether_a_malformed_write_is_counted(server: DevServer, raw: Raw) -> None:
    before = (await raw.request(Op.EXISTS, encode_exists_request("/", False))).zxid
    replies = [await raw.request(op, b"\0") for op in (Op.CREATE, Op.CREATE_TTL, Op.DELETE, Op.SET_DATA, Op.SET_ACL)]
    assert {reply.code for reply in replies} == {-5}
    counted = 0 if server.options.version == "3.9" else 5
    assert replies[-1].zxid == before + counted
    assert (await raw.request(Op.MULTI, b"\0")).zxid == before + counted + 1


async def test_a_check_outside_of_a_multi(server: DevServer, raw: Raw) -> None:
    xid = raw.send(Op.CHECK, encode_remove_watches_request("/", -1))
    if server.options.version == "3.9":
        assert await raw.receive() == (xid, -1, -6, b"")
        assert await raw.hung_up()
    else:
        assert await raw.code(Op.EXISTS, encode_exists_request("/", False)) == 0
