"""Several reads as one request (ZooKeeper's multiRead): one round trip, and one moment for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeAlias

from everlatch.arguments import server_path
from everlatch.errors import ClientStateError, ProtocolError, server_error
from everlatch.session.requests import Operation
from everlatch.transaction import Pending
from everlatch.types import UNSET, Node, Timeout
from everlatch.wire.codes import Op
from everlatch.wire.multi import (
    ErrorResult,
    GetChildrenPart,
    GetChildrenResult,
    GetDataPart,
    GetDataResult,
    decode_multi_reply,
    encode_multi_request,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from everlatch.wire.multi import Result

__all__ = ["MultiRead"]

_Part: TypeAlias = GetDataPart | GetChildrenPart


class MultiRead:
    """Collects reads, and sends them as one request.

        async with client.multi_read() as reads:
            config = reads.get("/config")
            members = reads.children("/members")
        data, stat = config.result
        names = members.result

    Leaving the block commits; leaving it with an exception sends nothing. Without the block: `await reads.commit()`.

    Each part has its own end: its `result`, or the error that the server gave for it alone, such as `NoNodeError`;
    `commit` itself doesn't raise then. Reads set no watches here. The request and its reply are one frame each: read
    little, or few nodes, for the reply may exceed `max_reply_size`.
    """

    def __init__(self, submit: Callable[[Operation, str, bytes, Timeout], Awaitable[Any]], chroot: str) -> None:
        self._submit = submit
        self._chroot = chroot
        self._parts: list[_Part] = []
        self._paths: list[str] = []
        self._pending: list[Pending[Any]] = []
        self._committed = False

    def __repr__(self) -> str:
        return f"<MultiRead of {len(self._parts)} parts, {'committed' if self._committed else 'open'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        if exc_type is None and not self._committed:
            await self.commit()

    # -- parts -----------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Pending[Node]:
        """Reads a node's data and `Stat`. Its result may be `NoNodeError`, `NoAuthError`."""
        return self._add(path, GetDataPart(server_path(self._chroot, path)))

    def children(self, path: str) -> Pending[list[str]]:
        """Reads the names of a node's children, in no order. Its result may be `NoNodeError`, `NoAuthError`."""
        return self._add(path, GetChildrenPart(server_path(self._chroot, path)))

    async def commit(self, *, timeout: Timeout = UNSET) -> None:
        """Sends it, and returns when the results are there; without parts nothing is sent. Sent again, like any read,
        if the connection breaks before the reply; can be called again after it has failed.

        `timeout` (seconds) includes the question for the server's version. Raises `UnsupportedByServerError` (before
        3.6), and what any read raises.
        """
        self._require_open()
        self._committed = True
        try:
            if self._parts:
                operation = Operation("multi_read", Op.MULTI_READ, self._decode)
                await self._submit(operation, self._paths[0], encode_multi_request(self._parts), timeout)
        except BaseException:
            self._committed = False
            raise

    # -- inside ----------------------------------------------------------------------------------------------------

    def _add(self, path: str, part: _Part) -> Pending[Any]:
        self._require_open()
        pending: Pending[Any] = Pending("multi-read")
        self._parts.append(part)
        self._paths.append(path)
        self._pending.append(pending)
        return pending

    def _require_open(self) -> None:
        if self._committed:
            raise ClientStateError("this multi-read is committed already; begin another with client.multi_read()")

    def _decode(self, buf: bytes, pos: int, end: int) -> None:
        """Runs when the reply is there."""
        results = decode_multi_reply(buf, pos, end)
        if len(results) != len(self._parts):
            raise ProtocolError(f"{len(results)} results for a multi-read of {len(self._parts)} parts")
        for part, result in zip(self._parts, results, strict=True):
            if not isinstance(result, (_ANSWERS[type(part)], ErrorResult)):
                raise ProtocolError(f"{_NAMES[type(part)]} in a multi-read was answered by {type(result).__name__}")
        for index, result in enumerate(results):
            self._deliver(index, result)

    def _deliver(self, index: int, result: Result) -> None:
        pending = self._pending[index]
        if isinstance(result, ErrorResult):
            pending.set_error(server_error(result.code, _NAMES[type(self._parts[index])], self._paths[index]))
        elif isinstance(result, GetDataResult):
            pending.set_result(result.node)
        elif isinstance(result, GetChildrenResult):
            pending.set_result(result.names)


_NAMES: dict[type[_Part], str] = {GetDataPart: "get", GetChildrenPart: "children"}
_ANSWERS: dict[type[_Part], type[Result]] = {GetDataPart: GetDataResult, GetChildrenPart: GetChildrenResult}
