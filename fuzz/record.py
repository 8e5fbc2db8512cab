"""Records the corpus: every operation, error and event that a server of each version has, on raw connections.

Rules of this file: frames are built with `everlatch.wire` and sent one after the other; nothing is checked but that an
answer comes, for a server that refuses is worth recording as well. What is not the same each time (ids, times, zxids)
is recorded as it was.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from everlatch.admin import srvr
from everlatch.testing import Ensemble
from everlatch.testing.builds import VERSIONS
from everlatch.types import ACL, OPEN_ACL_UNSAFE
from everlatch.wire import auth_records, records, watch_records
from everlatch.wire.codes import XID_AUTH, XID_PING, XID_SET_WATCHES, AddWatchMode, CreateMode, Op, WatcherType
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, ConnectResponse, decode_connect_response, encode_connect_request
from everlatch.wire.headers import decode_reply_header, frame_request
from everlatch.wire.multi import (
    CheckPart,
    CreatePart,
    DeletePart,
    GetChildrenPart,
    GetDataPart,
    Part,
    SetDataPart,
    encode_multi_request,
)
from fuzz.recordings import Dialogue, Frame, save

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["record", "record_all"]

_ANSWER = 10.0
_OPEN = tuple(OPEN_ACL_UNSAFE)
_CROWD = 70
_UNKNOWN_OP = 500
_ODD_NAMES = ("ä", "名", "\U0001f40c", "with space", "x" * 200)
_OPTIONS = ("-Dzookeeper.extendedTypesEnabled=true",)


class _Connection:
    """One recorded connection."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self.frames: list[Frame] = []
        self._xid = 0

    async def open(self, session_id: int = 0, password: bytes = bytes(16), zxid: int = 0) -> ConnectResponse:
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._send(encode_connect_request(ConnectRequest(0, zxid, 10_000, session_id, password, False)))
        payload = await self._read()
        return decode_connect_response(payload, 0, len(payload))

    def _send(self, payload: bytes) -> None:
        self.frames.append(Frame(False, payload))
        self._writer.write(frame(payload))

    async def _read(self) -> bytes:
        async with asyncio.timeout(_ANSWER):
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            payload = await self._reader.readexactly(size)
        self.frames.append(Frame(True, payload))
        return payload

    async def call(self, op: int, body: bytes = b"", xid: int | None = None) -> int:
        """Sends a request and reads until its answer; events may come before. Returns the answer's zxid."""
        return await self.read_answer(self.ask(op, body, xid))

    def ask(self, op: int, body: bytes = b"", xid: int | None = None) -> int:
        if xid is None:
            self._xid += 1
            xid = self._xid
        self._send(frame_request(xid, op, body)[4:])
        return xid

    async def read_answer(self, xid: int) -> int:
        while True:
            payload = await self._read()
            found, zxid, _ = decode_reply_header(payload, 0, len(payload))
            if found == xid:
                return zxid

    async def read_to_the_end(self) -> None:
        """What the server sends until it closes."""
        try:
            while True:
                await self._read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    def close(self) -> None:
        self._writer.close()


# --- what is said -------------------------------------------------------------------------------------------------


def _create(path: str, data: bytes | None = b"", flags: int = 0, acls: tuple[ACL, ...] = _OPEN) -> bytes:
    return records.encode_create_request(path, data, acls, flags)


async def _creates(main: _Connection) -> None:
    await main.call(Op.CREATE, _create("/fuzz", b"root of it all"))
    await main.call(Op.CREATE2, _create("/fuzz/a", b"value"))
    await main.call(Op.CREATE2, _create("/fuzz/null", None))
    await main.call(Op.CREATE2, _create("/fuzz/seq-", b"", CreateMode.PERSISTENT_SEQUENTIAL))
    await main.call(Op.CREATE2, _create("/fuzz/eph", b"", CreateMode.EPHEMERAL))
    await main.call(Op.CREATE2, _create("/fuzz/eph-", b"", CreateMode.EPHEMERAL_SEQUENTIAL))
    await main.call(Op.CREATE_CONTAINER, _create("/fuzz/container", b"", CreateMode.CONTAINER))
    ttl = records.encode_create_ttl_request("/fuzz/ttl", b"", _OPEN, CreateMode.PERSISTENT_WITH_TTL, 100_000)
    await main.call(Op.CREATE_TTL, ttl)
    await main.call(Op.CREATE, _create("/fuzz/crowd"))
    for number in range(_CROWD):
        main.ask(Op.CREATE, _create(f"/fuzz/crowd/node-{number}"))
    await main.read_answer(main.ask(Op.CREATE, _create("/fuzz/odd")))
    for name in _ODD_NAMES:
        await main.call(Op.CREATE2, _create(f"/fuzz/odd/{name}", name.encode()))


async def _refusals(main: _Connection) -> None:
    await main.call(Op.CREATE2, _create("/fuzz"))  # NodeExists
    await main.call(Op.CREATE2, _create("/fuzz/none/below"))  # NoNode
    await main.call(Op.CREATE2, _create("/fuzz/eph/below"))  # NoChildrenForEphemerals
    await main.call(Op.CREATE2, _create("/fuzz/acl", b"", 0, ()))  # InvalidACL
    await main.call(Op.CREATE2, _create("no slash"))  # BadArguments
    await main.call(Op.CREATE2, _create("/fuzz/closed", b"", 0, (ACL(1, "digest", "nobody:x"),)))
    await main.call(Op.SET_DATA, records.encode_set_data_request("/fuzz/closed", b"", -1))  # NoAuth
    await main.call(Op.DELETE, records.encode_delete_request("/fuzz", -1))  # NotEmpty
    await main.call(Op.DELETE, records.encode_delete_request("/fuzz/a", 77))  # BadVersion
    await main.call(Op.GET_DATA, records.encode_get_data_request("/none", True))
    await main.call(Op.GET_EPHEMERALS, records.encode_get_ephemerals_request(None))
    await main.call(Op.RECONFIG, records.encode_reconfig_request(None, "9", None, -1))


async def _reads(main: _Connection) -> None:
    for path in ("/fuzz/a", "/fuzz/null", "/fuzz/closed", "/zookeeper/config", "/fuzz/odd/ä"):
        await main.call(Op.GET_DATA, records.encode_get_data_request(path, True))
    for path in ("/fuzz/a", "/fuzz/eph", "/fuzz/ttl", "/fuzz/missing"):
        await main.call(Op.EXISTS, records.encode_exists_request(path, True))
    for path in ("/fuzz", "/fuzz/crowd", "/fuzz/odd", "/fuzz/a"):
        await main.call(Op.GET_CHILDREN, records.encode_get_children_request(path, True))
        await main.call(Op.GET_CHILDREN2, records.encode_get_children2_request(path, False))
        await main.call(Op.GET_ALL_CHILDREN_NUMBER, records.encode_get_all_children_number_request(path))
    await main.call(Op.GET_ACL, records.encode_get_acl_request("/fuzz"))
    await main.call(Op.GET_ACL, records.encode_get_acl_request("/fuzz/closed"))
    await main.call(Op.SYNC, records.encode_sync_request("/fuzz"))
    await main.call(Op.WHO_AM_I)
    await main.call(Op.PING, b"", XID_PING)


async def _identities(main: _Connection) -> None:
    await main.call(Op.AUTH, auth_records.encode_auth_request("digest", b"me:secret"), XID_AUTH)
    await main.call(Op.WHO_AM_I)
    acls = (ACL(31, "auth", ""), ACL(1, "world", "anyone"))
    await main.call(Op.SET_ACL, records.encode_set_acl_request("/fuzz/null", acls, 0))
    await main.call(Op.GET_ACL, records.encode_get_acl_request("/fuzz/null"))


async def _multis(main: _Connection) -> None:
    good: list[Part] = [
        CheckPart("/fuzz/a", 0),
        CreatePart(Op.CREATE, "/fuzz/m1", b"1", _OPEN, CreateMode.PERSISTENT),
        CreatePart(Op.CREATE2, "/fuzz/m2-", b"2", _OPEN, CreateMode.EPHEMERAL_SEQUENTIAL),
        CreatePart(Op.CREATE_CONTAINER, "/fuzz/m3", b"", _OPEN, CreateMode.CONTAINER),
        CreatePart(Op.CREATE_TTL, "/fuzz/m4", b"", _OPEN, CreateMode.PERSISTENT_WITH_TTL, 50_000),
        SetDataPart("/fuzz/m1", b"11", 0),
        DeletePart("/fuzz/m1", -1),
    ]
    bad: list[Part] = [SetDataPart("/fuzz/a", b"", -1), CheckPart("/fuzz/none", -1), DeletePart("/fuzz/a", -1)]
    for parts in (good, bad, good[:1], [], good):
        await main.call(Op.MULTI, encode_multi_request(parts))
    reads: list[Part] = [
        GetDataPart("/fuzz/a"),
        GetChildrenPart("/fuzz/crowd"),
        GetDataPart("/none"),
        GetChildrenPart("/fuzz/odd"),
    ]
    await main.call(Op.MULTI_READ, encode_multi_request(reads))
    await main.call(Op.MULTI_READ, encode_multi_request(reads[2:3]))


async def _watches(main: _Connection) -> None:
    for path, mode in (("/fuzz/a", AddWatchMode.PERSISTENT), ("/fuzz", AddWatchMode.PERSISTENT_RECURSIVE)):
        await main.call(Op.ADD_WATCH, watch_records.encode_add_watch_request(path, mode))
    for kind in (WatcherType.DATA, WatcherType.CHILDREN, WatcherType.ANY):
        await main.call(Op.CHECK_WATCHES, watch_records.encode_check_watches_request("/fuzz", kind))
    await main.call(Op.CHECK_WATCHES, watch_records.encode_check_watches_request("/unwatched", WatcherType.ANY))


async def _changes(other: _Connection) -> None:
    """What the watches of the other connections see: all four kinds of events."""
    await other.call(Op.SET_DATA, records.encode_set_data_request("/fuzz/a", b"changed", -1))
    await other.call(Op.CREATE2, _create("/fuzz/missing", b""))
    await other.call(Op.CREATE2, _create("/fuzz/a/child", b"", CreateMode.EPHEMERAL))
    await other.call(Op.DELETE, records.encode_delete_request("/fuzz/a/child", -1))
    await other.call(Op.DELETE, records.encode_delete_request("/fuzz/missing", -1))


async def _everything(main: _Connection, other: _Connection, again: _Connection) -> None:
    granted = await main.open()
    await other.open()
    await _creates(main)
    await _refusals(main)
    await _reads(main)
    await _identities(main)
    await _multis(main)
    await _watches(main)
    await main.call(Op.GET_EPHEMERALS, records.encode_get_ephemerals_request("/fuzz"))
    await main.call(Op.SET_DATA, records.encode_set_data_request("/fuzz", b"x" * 1000, -1))
    await _changes(other)
    zxid = await main.call(Op.SYNC, records.encode_sync_request("/"))  # the events have come before its answer
    for kind in (WatcherType.ANY, WatcherType.ANY):  # the second time there is none: NoWatcher
        await main.call(Op.REMOVE_WATCHES, watch_records.encode_remove_watches_request("/fuzz", kind))
    main.close()
    await again.open(granted.session_id, granted.password, zxid)
    await _taken_up_again(again, other)


async def _taken_up_again(main: _Connection, other: _Connection) -> None:
    """The same session on a new connection; its watches are re-armed, and what was missed is told."""
    await main.call(Op.AUTH, auth_records.encode_auth_request("digest", b"me:secret"), XID_AUTH)
    lists = ["/fuzz/a", "/fuzz/gone"], ["/fuzz/odd", "/fuzz/none"], ["/fuzz", "/fuzz/crowd"]
    await main.call(Op.SET_WATCHES, watch_records.encode_set_watches_request(1, *lists), XID_SET_WATCHES)
    more = watch_records.encode_set_watches2_request(1, *lists, ["/fuzz/a"], ["/fuzz"])
    await main.call(Op.SET_WATCHES2, more, XID_SET_WATCHES)
    await _changes(other)
    await other.call(Op.CLOSE_SESSION)
    await main.call(Op.CLOSE_SESSION)
    await main.read_to_the_end()
    main.close()
    other.close()


async def _ended(connection: _Connection) -> None:
    """A session that the server does not know."""
    await connection.open(0x123456789ABCDEF, b"p" * 16)
    await connection.read_to_the_end()


async def _bad_credentials(connection: _Connection) -> None:
    await connection.open()
    await connection.call(Op.AUTH, auth_records.encode_auth_request("nosuch", b"x"), XID_AUTH)
    await connection.read_to_the_end()


async def _unknown_operation(connection: _Connection) -> None:
    """Unimplemented, and the connection is closed."""
    await connection.open()
    connection.ask(_UNKNOWN_OP)
    await connection.read_to_the_end()


async def _sasl(connection: _Connection) -> None:
    await connection.open()
    connection.ask(Op.SASL, auth_records.encode_sasl_request(b""))
    connection.ask(Op.CLOSE_SESSION)
    await connection.read_to_the_end()


# --- who says it --------------------------------------------------------------------------------------------------


async def record(version: str) -> list[Dialogue]:
    """The dialogues with a fresh server of `version` (`3.8`)."""
    async with Ensemble(1, version=version, java_options=_OPTIONS) as ensemble:
        server = ensemble.servers[0]
        exact = ".".join(map(str, (await srvr(server.address)).version.numbers))

        def connection() -> _Connection:
            return _Connection(server.host, server.port)

        main, other, again = connection(), connection(), connection()
        await _everything(main, other, again)
        recorded = {"everything": main.frames, "other": other.frames, "taken up again": again.frames}
        alone: dict[str, Callable[[_Connection], Awaitable[None]]] = {
            "ended": _ended,
            "bad credentials": _bad_credentials,
            "sasl": _sasl,
            "unknown operation": _unknown_operation,
        }
        for name, says in alone.items():
            single = connection()
            await says(single)
            single.close()
            recorded[name] = single.frames
    return [Dialogue(exact, name, frames) for name, frames in recorded.items()]


async def record_all() -> None:
    """All versions, into the corpus."""
    dialogues = [dialogue for version in VERSIONS for dialogue in await record(version)]
    save(dialogues)
