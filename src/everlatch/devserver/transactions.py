"""multi and multiRead: parts to results.

Rules of this module: a multi is all or nothing, and one that is refused says so in its results: 0 before the culprit,
its code, −2 behind it. The parts of a multi-read are each for itself. Reads and writes are never mixed (−5). Unlike
alone, a create whose flags say that it makes a container makes one, and flags of a TTL node need its operation (−5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from everlatch.devserver.identities import Identity, demand
from everlatch.errors import MarshallingError, RuntimeInconsistencyError, ServerError
from everlatch.types import Node, Permission
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.multi import (
    CheckPart,
    CheckResult,
    CreatePart,
    CreateResult,
    DeletePart,
    DeleteResult,
    ErrorResult,
    GetChildrenPart,
    GetChildrenResult,
    GetDataPart,
    GetDataResult,
    SetDataPart,
    SetDataResult,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from everlatch.devserver.tree import Tree
    from everlatch.devserver.writes import Draft
    from everlatch.wire.multi import Part, Result

__all__ = ["multi", "multi_read"]

_READS: Final = (GetDataPart, GetChildrenPart)
_FLAGS: Final = frozenset(CreateMode)
_TTL_FLAGS: Final = (CreateMode.PERSISTENT_WITH_TTL, CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL)


def multi(draft: Draft, parts: Sequence[Part]) -> list[Result]:
    """Does all parts in this transaction, or none. `MarshallingError` for parts that no multi may have."""
    if any(map(_is_read, parts)) or (draft.author.features.flags_checked_first and any(map(_has_bad_flags, parts))):
        raise MarshallingError
    results: list[Result] = []
    for index, part in enumerate(parts):
        if _is_no_create(part):
            raise MarshallingError
        try:
            results.append(_write(draft, part))
        except ServerError as refused:
            draft.roll_back()
            return _refusal(refused.code, index, len(parts))
    return results


def _is_read(part: Part) -> bool:
    return isinstance(part, _READS)


def _has_bad_flags(part: Part) -> bool:
    return isinstance(part, CreatePart) and (part.flags not in _FLAGS or _is_no_create(part))


def _is_no_create(part: Part) -> bool:
    return isinstance(part, CreatePart) and part.flags in _TTL_FLAGS and part.op != Op.CREATE_TTL


def _refusal(code: int, index: int, count: int) -> list[Result]:
    behind = count - index - 1
    codes = [0] * index + [code] + [RuntimeInconsistencyError.code] * behind
    return [ErrorResult(each) for each in codes]


def _write(draft: Draft, part: Part) -> Result:
    match part:
        case CreatePart():
            op = _operation(draft, part)
            path, stat = draft.create(op, *part[1:])
            return CreateResult(path, None if op == Op.CREATE else stat)
        case DeletePart():
            draft.delete(*part)
            return DeleteResult()
        case SetDataPart():
            return SetDataResult(draft.set_data(*part))
        case CheckPart():
            draft.check(*part)
            return CheckResult()
    raise AssertionError(part)


def _operation(draft: Draft, part: CreatePart) -> Op:
    """What is made."""
    if part.op == Op.CREATE_TTL:
        return part.op
    if part.flags == CreateMode.CONTAINER:
        return Op.CREATE_CONTAINER
    return part.op if draft.author.features.operations_in_multi else Op.CREATE


def multi_read(tree: Tree, identities: Collection[Identity], parts: Sequence[Part]) -> list[Result]:
    """Each part's own result. `MarshallingError` if one of them is no read."""
    if not all(isinstance(part, _READS) for part in parts):
        raise MarshallingError
    return [_read(tree, identities, part) for part in parts]


def _read(tree: Tree, identities: Collection[Identity], part: Part) -> Result:
    try:
        node = tree.node(part.path)
        demand(node.acl, identities, Permission.READ)
    except ServerError as refused:
        return ErrorResult(refused.code)
    if isinstance(part, GetDataPart):
        # A node's data may be null, whatever the type says: that is how it is sent.
        return GetDataResult(Node(node.data, node.stat))  # type: ignore[arg-type]
    return GetChildrenResult(list(node.children))
