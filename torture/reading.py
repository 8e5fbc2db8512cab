"""Reads the whole tree, as an honest fresh session: on wire and plain streams, so that no bug of the client is in it.

Rules of this file: a session of its own, a committed operation first, so that what follows is what all had agreed on;
then reads, one behind the other. It ends its session.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from everlatch.errors import NoNodeError, ProtocolError, server_error
from everlatch.wire.codes import Op
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, decode_connect_response, encode_connect_request
from everlatch.wire.headers import REPLY_HEADER, frame_request
from everlatch.wire.multi import CheckPart, encode_multi_request
from everlatch.wire.records import (
    decode_get_children_reply,
    decode_get_data_reply,
    encode_get_children_request,
    encode_get_data_request,
)

if TYPE_CHECKING:
    from everlatch.types import Node

__all__ = ["read_tree"]

_TIMEOUT_MS: Final = 10_000


async def read_tree(host: str, port: int, root: str) -> dict[str, Node]:
    """All nodes at and below `root`, by path. Raises `OSError`, `EOFError` or a `LinkError` if the server doesn't serve
    all along."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        session = _Session(reader, writer)
        await session.begin()
        await session.ask(Op.MULTI, encode_multi_request([CheckPart("/", -1)]))
        tree = await session.read(root)
        await session.ask(Op.CLOSE_SESSION, b"")
        return tree
    finally:
        writer.close()


class _Session:
    """One session on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._xid = 0

    async def begin(self) -> None:
        """The handshake."""
        self._writer.write(frame(encode_connect_request(ConnectRequest(0, 0, _TIMEOUT_MS, 0, bytes(16), False))))
        answer = await self._frame()
        if not decode_connect_response(answer, 0, len(answer)).session_id:
            raise ProtocolError("a fresh session was refused")

    async def read(self, root: str) -> dict[str, Node]:
        """The tree."""
        found: dict[str, Node] = {}
        unread = [root]
        while unread:
            path = unread.pop()
            try:
                data = await self.ask(Op.GET_DATA, encode_get_data_request(path, False))
                names = await self.ask(Op.GET_CHILDREN, encode_get_children_request(path, False))
            except NoNodeError:  # it has just gone
                found.pop(path, None)
                continue
            found[path] = decode_get_data_reply(data, 0, len(data))
            unread += [f"{path.rstrip('/')}/{name}" for name in decode_get_children_reply(names, 0, len(names))]
        return found

    async def ask(self, op: Op, body: bytes) -> bytes:
        """One request; the body of its reply."""
        self._xid += 1
        self._writer.write(frame_request(self._xid, op, body))
        reply = await self._frame()
        xid, _, err = REPLY_HEADER.unpack_from(reply)
        if xid != self._xid:
            raise ProtocolError(f"reply {xid} came for request {self._xid}")
        if err:
            raise server_error(err, op.name, "")
        return reply[REPLY_HEADER.size :]

    async def _frame(self) -> bytes:
        length = int.from_bytes(await self._reader.readexactly(4), "big")
        return await self._reader.readexactly(length)
