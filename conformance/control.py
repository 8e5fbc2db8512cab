"""Who prepares a server for a sequence, looks at it afterwards, and cleans up: the super user, on his own connection.

Rules of this file: a server is left as it was found, as far as that can be told: no sessions, no nodes but its own, and
those open and empty.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any, Final

from conformance.links import LONGEST, Link
from conformance.normal import Normal
from conformance.operations import OPERATIONS
from conformance.transcripts import END
from everlatch.admin import cons, dump, wchs
from everlatch.types import OPEN_ACL_UNSAFE
from everlatch.wire.auth_records import encode_auth_request
from everlatch.wire.codes import XID_AUTH, Op
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, decode_connect_response, encode_connect_request
from everlatch.wire.headers import REPLY_HEADER, decode_reply_header, frame_request
from everlatch.wire.records import (
    decode_exists_reply,
    decode_get_acl_reply,
    decode_get_children_reply,
    decode_get_data_reply,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance.transcripts import Item
    from everlatch.admin import ConnectionInfo
    from everlatch.types import ACL, Stat

__all__ = ["SUPER", "Control"]

SUPER: Final = b"super:pw"
"""The credentials of the super user."""
_SPECIAL: Final = ("/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota")
_TIMEOUT_MS: Final = 40_000
_DEEPEST: Final = 100
"""Levels of nodes that no sequence makes."""


class Control:
    """One server's. Made by `to`."""

    def __init__(self, address: str, link: Link) -> None:
        self.address = address
        self._link = link
        self._session_id = decode_connect_response(link.frames[0], 0, len(link.frames[0])).session_id
        self._xids = itertools.count(1)
        self._runs = itertools.count(1)
        self._old: dict[str, tuple[bytes | None, list[ACL]]] = {}
        """Data and ACLs of the server's own nodes, as they were found."""

    @classmethod
    async def to(cls, address: str) -> Control:
        """Opens a session."""
        link = await Link.to(address)
        link.send(frame(encode_connect_request(ConnectRequest(0, 0, _TIMEOUT_MS, 0, bytes(16), False))))
        link.send(frame_request(XID_AUTH, Op.AUTH, encode_auth_request("digest", SUPER)))
        if not await link.answered(2):
            raise ConnectionError(f"{address} does not answer")
        control = cls(address, link)
        control._old = await control._contents()
        return control

    async def close(self) -> None:
        """Closes the session."""
        await self._calls([("close_session", ())])
        self._link.abort()

    async def prepare(self) -> Normal:
        """Makes the node of a run; returns how what is said from now on is to be read."""
        root = f"/run-{next(self._runs):06d}"
        began = int(time.time() * 1000)
        await self._calls([("create", (root, b"", OPEN_ACL_UNSAFE, 0))])
        answers = await self._calls([("exists", (path, False)) for path in _SPECIAL])
        stats = [decode_exists_reply(body, 0, len(body)) for _, _, body in answers]
        old: dict[str, Stat] = dict(zip(_SPECIAL, stats, strict=True))
        # Servers know the root by the empty path, too.
        return Normal(root, answers[-1][0], began, old | {"": old["/"]})

    async def nodes(self, normal: Normal) -> list[Item]:
        """All nodes, with all that is known about them."""
        reads = [
            call
            for path in await self._paths()
            for call in (("get_data", (path, False)), ("get_acl", (path,)), ("get_children2", (path, False)))
        ]
        return [
            {"kind": "node", "step": END, "call": name, "node": normal.text(arguments[0]), "code": code}
            | normal.value(OPERATIONS[name].decode(body), arguments[0])
            for (name, arguments), (_, code, body) in zip(reads, await self._calls(reads), strict=True)
        ]

    async def words(self, normal: Normal, sessions: Sequence[int]) -> list[Item]:
        """What four-letter words tell about the run's sessions, as soon as no others than these have a connection."""
        connections: dict[int | None, ConnectionInfo] = {}
        async with asyncio.timeout(LONGEST):
            while connections.keys() != {*sessions, self._session_id}:
                told = [each for each in await cons(self.address) if each.session_id]
                connections = {each.session_id: each for each in told if len(told) == len(sessions) + 1}
        alive, ephemerals = await dump(self.address)
        others = [session for session in alive if session != self._session_id]
        # ZooKeeper goes on to name sessions whose nodes are all gone.
        owned = {
            str(normal.session(owner)): sorted(map(normal.text, paths)) for owner, paths in ephemerals.items() if paths
        }
        return [
            {"kind": "sessions", "step": END, "alive": sorted(str(normal.session(each)) for each in others)},
            {"kind": "ephemerals", "step": END, "owned": owned},
            {"kind": "watches", "step": END} | (await wchs(self.address))._asdict(),
            *(_connection(connections[session], normal) for session in sessions),
        ]

    async def clean(self) -> None:
        """The server's own nodes remain, as they were in the beginning."""
        paths = [path for path in await self._paths() if path not in _SPECIAL]
        await self._calls([("delete", (path, -1)) for path in reversed(paths)])
        contents = await self._contents()
        changed = [(path, *old) for path, old in self._old.items() if contents[path] != old]
        await self._calls([("set_data", (path, data, -1)) for path, data, _ in changed])
        await self._calls([("set_acl", (path, acls, -1)) for path, _, acls in changed])

    async def _contents(self) -> dict[str, tuple[bytes | None, list[ACL]]]:
        data = await self._calls([("get_data", (path, False)) for path in _SPECIAL])
        acls = await self._calls([("get_acl", (path,)) for path in _SPECIAL])
        return {
            path: (decode_get_data_reply(node, 0, len(node)).data, decode_get_acl_reply(acl, 0, len(acl))[0])
            for path, (_, _, node), (_, _, acl) in zip(_SPECIAL, data, acls, strict=True)
        }

    async def _calls(self, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[tuple[int, int, bytes]]:
        """Zxid, error code and body of each answer."""
        link = self._link
        start = len(link.frames)
        for name, arguments in calls:
            operation = OPERATIONS[name]
            link.send(frame_request(next(self._xids), operation.op, operation.encode(*arguments)))
        if not await link.answered(link.answers + len(calls)):
            raise ConnectionError(f"{self.address} has not answered {calls!r:.200}")
        answers = link.frames[start:]
        del link.frames[start:]
        size = REPLY_HEADER.size
        return [(*decode_reply_header(payload, 0, len(payload))[1:], payload[size:]) for payload in answers]

    async def _paths(self) -> list[str]:
        """All nodes, parents first."""
        found, level = ["/"], ["/"]
        for _ in range(_DEEPEST):
            answers = await self._calls([("get_children", (path, False)) for path in level])
            level = [
                f"{path.rstrip('/')}/{name}"
                for path, (_, _, body) in zip(level, answers, strict=True)
                for name in sorted(decode_get_children_reply(body, 0, len(body)))
            ]
            found += level
            if not level:
                return found
        raise ConnectionError(f"{self.address} has nodes without end: {level[0]:.200}")


def _connection(told: ConnectionInfo, normal: Normal) -> Item:
    # What servers count when they get round to it (sent, queued) is left out.
    return {
        "kind": "connection",
        "step": END,
        "session": normal.session(told.session_id or 0),
        "zxid": normal.zxid(told.last_zxid or 0),
        "xid": told.last_cxid,
        "operation": told.last_operation,
        "timeout": told.timeout,
        "received": told.received,
    }
