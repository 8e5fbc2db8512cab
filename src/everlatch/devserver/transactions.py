"""multi and multiRead: parts to results.

Rules of this module: a multi is all or nothing, and one that is refused says so in its results: 0 before the culprit,
its code, −2 behind it. The parts of a multi-read are each for itself. Reads and writes are never mixed (−5).
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


def multi(draft: Draft, parts: Sequence[Part]) -> list[Result]:
    """Does all parts in this transaction, or none. `MarshallingError` for parts that no multi may have."""
    if any(map(_is_read, parts)) or (draft.author.features.flags_checked_first and any(map(_has_bad_flags, parts))):
        raise MarshallingError
    results: list[Result] = []
    for index, part in enumerate(parts):
        try:
            results.append(_write(draft, part))
        except ServerError as refused:
            draft.roll_back()
            return _refusal(refused.code, index, len(parts))
    return results


def _is_read(part: Part) -> bool:
    return isinstance(part, _READS)


def _has_bad_flags(part: Part) -> bool:
    return isinstance(part, CreatePart) and part.flags not in _FLAGS


def _refusal(code: int, index: int, count: int) -> list[Result]:
    behind = count - index - 1
    codes = [0] * index + [code] + [RuntimeInconsistencyError.code] * behind
    return [ErrorResult(each) for each in codes]


def _write(draft: Draft, part: Part) -> Result:
    match part:
        case CreatePart():
            path, stat = draft.create(*part)
            lacks_stat = part.op == Op.CREATE or (part.op == Op.CREATE2 and not draft.author.features.stat_in_multi)
            return CreateResult(path, None if lacks_stat else stat)
        case DeletePart():
            draft.delete(*part)
            return DeleteResult()
        case SetDataPart():
            return SetDataResult(draft.set_data(*part))
        case CheckPart():
            draft.check(*part)
            return CheckResult()
    raise AssertionError(part)


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
