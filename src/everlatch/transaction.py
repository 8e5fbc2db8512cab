"""Transactions: several writes and version checks, applied together or not at all (ZooKeeper's multi)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar, cast

from everlatch.arguments import checked_acl, checked_data, checked_version, server_path, server_path_of_new
from everlatch.errors import ClientStateError, ProtocolError, ResultLostError, TransactionFailedError, server_error
from everlatch.paths import strip_chroot
from everlatch.session.requests import Operation
from everlatch.types import UNSET, Timeout
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.multi import (
    CheckPart,
    CheckResult,
    CreatePart,
    CreateResult,
    DeletePart,
    DeleteResult,
    ErrorResult,
    SetDataPart,
    SetDataResult,
    decode_multi_reply,
    encode_multi_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from everlatch.engine.call import Call
    from everlatch.errors import EverlatchError, ServerError
    from everlatch.types import ACL, Stat
    from everlatch.wire.multi import Part, Result

__all__ = ["Guard", "Pending", "Transaction"]

T = TypeVar("T")

_NOT_EXECUTED = -2
"""RUNTIMEINCONSISTENCY: this part was not executed because another failed."""


class Pending(Generic[T]):
    """What one part of a transaction or multi-read will have brought about, once it is committed."""

    __slots__ = ("_results", "_why_none")

    def __init__(self, of: str = "transaction") -> None:
        self._results: list[T] = []
        self._why_none: EverlatchError = ClientStateError(
            f"the {of} is not committed: await commit(), or leave its `async with`, first"
        )

    @property
    def result(self) -> T:
        """The result. Raises `ClientStateError` before the commit has succeeded; in a multi-read, the part's error."""
        if not self._results:
            raise self._why_none.with_traceback(None)  # the same error each time, without the traces of the others
        return self._results[0]

    def set_error(self, error: EverlatchError) -> None:
        """For the transaction or multi-read."""
        self._results.clear()  # of a commit whose caller was cancelled when it had succeeded
        self._why_none = error

    def set_result(self, result: T) -> None:
        """For the transaction or multi-read."""
        self._results = [result]


class Guard(NamedTuple):
    """For recipes: a check that goes before all parts of a transaction, and is not counted among them."""

    path: str
    """The node that must exist."""
    refused: Callable[[ServerError], EverlatchError]
    """What the commit raises when it doesn't, given the server's answer."""


class Transaction:
    """Collects parts, and sends them as one request.

        async with client.transaction() as t:
            t.check("/config", version=3)
            created = t.create("/jobs/job-", b"…", sequential=True)
        print(created.result)

    Leaving the block commits; leaving it with an exception sends nothing. Without the block: `await t.commit()`.
    `commit` raises `TransactionFailedError(index, path, error)` if any part is refused, and nothing is applied then.
    """

    def __init__(
        self,
        submit: Callable[[Operation, str, bytes, Timeout], Call[None]],
        chroot: str,
        default_acl: Sequence[ACL],
        guard: Guard | None = None,
        *,
        is_receipted: bool = False,
    ) -> None:
        self._is_receipted = is_receipted
        self._submit = submit
        self._chroot = chroot
        self._default_acl = default_acl
        self._guard = guard
        self._parts: list[Part] = []
        self._paths: list[str] = []
        self._pending: list[Pending[str] | Pending[Stat] | None] = []
        self._committed = False

    def __repr__(self) -> str:
        return f"<Transaction of {len(self._parts)} parts, {'committed' if self._committed else 'open'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        if exc_type is None and not self._committed:
            await self.commit()

    # -- parts -----------------------------------------------------------------------------------------------------

    def check(self, path: str, version: int = -1) -> None:
        """The node must exist, with this version of its data (−1: any)."""
        self._add(path, CheckPart(server_path(self._chroot, path), checked_version(version)), None)

    def create(
        self,
        path: str,
        data: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        acl: Sequence[ACL] | None = None,
    ) -> Pending[str]:
        """Creates a node; the result is its path. (No `Stat`: servers before 3.8.2 send none here.)"""
        mode = CreateMode((2 if sequential else 0) | (1 if ephemeral else 0))
        acls = checked_acl(self._default_acl if acl is None else acl)
        new_path = server_path_of_new(self._chroot, path, sequential)
        part = CreatePart(Op.CREATE, new_path, checked_data(data), tuple(acls), mode)
        pending: Pending[str] = Pending()
        self._add(path, part, pending)
        return pending

    def set(self, path: str, data: bytes, *, version: int = -1) -> Pending[Stat]:
        """Replaces a node's data if it has this version (−1: any); the result is its new `Stat`."""
        pending: Pending[Stat] = Pending()
        part = SetDataPart(server_path(self._chroot, path), checked_data(data), checked_version(version))
        self._add(path, part, pending)
        return pending

    def delete(self, path: str, *, version: int = -1) -> None:
        """Deletes a node without children if it has this version (−1: any)."""
        # Never the chroot itself, as in `Client.delete`.
        target = server_path(self._chroot, path) if path != "/" else "/"
        self._add(path, DeletePart(target, checked_version(version)), None)

    def commit(self, *, timeout: Timeout = UNSET) -> Call[None]:
        """Sends it. Raises `TransactionFailedError`, and what any write raises; can be called once."""
        self._require_open()
        guard, path = self._guard, self._paths[0] if self._paths else "/"
        body = encode_multi_request(self._parts if guard is None else [self._check(guard), *self._parts])
        is_write = not all(isinstance(part, CheckPart) for part in self._parts)
        operation = Operation(
            "transaction",
            Op.MULTI,
            self._decode,
            is_write=is_write,
            is_receipted=is_write and self._is_receipted,
            restore=self._restore,
        )
        call = self._submit(operation, path, body, timeout)
        self._committed = True
        return call

    # -- inside ----------------------------------------------------------------------------------------------------

    def _check(self, guard: Guard) -> Part:
        return CheckPart(server_path(self._chroot, guard.path), -1)

    def _add(self, path: str, part: Part, pending: Pending[str] | Pending[Stat] | None) -> None:
        self._require_open()
        self._parts.append(part)
        self._paths.append(path)
        self._pending.append(pending)

    def _require_open(self) -> None:
        if self._committed:
            raise ClientStateError("this transaction is committed already; begin another with client.transaction()")

    def _decode(self, buf: bytes, pos: int, end: int) -> None:
        """Runs when the reply is there. Results are told apart by what the server sent, not by what was asked:
        a creation is answered with or without `Stat`, depending on its version."""
        results = decode_multi_reply(buf, pos, end)
        hidden = 0 if self._guard is None else 1
        if len(results) != len(self._parts) + hidden:
            raise ProtocolError(f"{len(results)} results for a transaction of {len(self._parts) + hidden} parts")
        self._raise_failure(results, hidden)
        if hidden and not isinstance(results.pop(0), CheckResult):
            raise ProtocolError("the check before a transaction was answered by something else")
        for part, result in zip(self._parts, results, strict=True):
            if not isinstance(result, _ANSWERS[type(part)]):
                raise ProtocolError(f"{_NAMES[type(part)]} in a transaction was answered by {type(result).__name__}")
        for result, pending in zip(results, self._pending, strict=True):
            if pending is not None:
                self._deliver(result, pending)

    def _restore(self, results: list[Result | None]) -> None:
        """It was applied, and its reply was lost; `None` stands for a result that can't be told."""
        hidden = 0 if self._guard is None else 1
        for path, result, pending in zip(self._paths, results[hidden:], self._pending, strict=True):
            if pending is not None and result is not None:
                self._deliver(result, pending)
            elif pending is not None:
                pending.set_error(ResultLostError("transaction", path, 0, "this result of it is not known"))

    def _raise_failure(self, results: list[Result], hidden: int) -> None:
        """All results are errors then: 0 before the culprit, its code, −2 behind it. The first ones, `hidden`, the
        user knows nothing of."""
        failed = [(index, result.code) for index, result in enumerate(results) if isinstance(result, ErrorResult)]
        if not failed:
            return
        index, code = next(((i, c) for i, c in failed if c not in (0, _NOT_EXECUTED)), failed[0])
        for pending in self._pending:
            if pending is not None:
                pending.set_error(
                    ClientStateError("the transaction was refused and nothing of it was applied: there is no result")
                )
        if index < hidden:
            assert self._guard is not None
            raise self._guard.refused(server_error(code, "check", self._guard.path))
        path, name = self._paths[index - hidden], _NAMES[type(self._parts[index - hidden])]
        raise TransactionFailedError(index - hidden, path, server_error(code, name, path))

    def _deliver(self, result: Result, pending: Pending[str] | Pending[Stat]) -> None:
        if isinstance(result, CreateResult):
            cast("Pending[str]", pending).set_result(strip_chroot(self._chroot, result.path))
        elif isinstance(result, SetDataResult):
            cast("Pending[Stat]", pending).set_result(result.stat)


_NAMES: dict[type[Part], str] = {
    CheckPart: "check",
    CreatePart: "create",
    SetDataPart: "set",
    DeletePart: "delete",
}
_ANSWERS: dict[type[Part], type[Result]] = {
    CheckPart: CheckResult,
    CreatePart: CreateResult,
    SetDataPart: SetDataResult,
    DeletePart: DeleteResult,
}
