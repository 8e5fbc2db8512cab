"""What a node shows of a write whose reply was lost: a judge who decides nothing else.

The write was sent when `zxid` was the latest that had been seen (z0), so whatever it brought about has a later one.
The node is looked at when nothing more of the old connection can be applied (`settlement` sees to that).

Rules:
1. *Not applied* needs proof that what the write would have changed is unchanged since z0:
   - set: the node is older than z0, and so is its data; or it has at most the version that the write demanded;
   - delete: the node is older than z0;
   - create: a node of that name is older than z0; or there is none, and the parent's children are unchanged since z0
     (absence alone proves nothing: somebody may have deleted it again);
   - setACL moves no zxid: the node is older than z0, and its ACL has at most the version that the write demanded;
   - transaction: any one part proves it, for all were applied or none.
2. *Happened* needs proof that nobody else can have done it: an ephemeral node of our own session, made since z0, with
   this write being the only one that can have made it; or a node with a name that is ours alone (`protect`).
3. Everything else is *maybe*.
4. A session that is over has no ephemeral nodes any more; then 2 finds nothing, and 1 is as good as before.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from everlatch.partial_stat import UNKNOWN, PartialStat
from everlatch.paths import parent
from everlatch.types import Stat
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.multi import (
    CheckPart,
    CheckResult,
    CreatePart,
    CreateResult,
    DeletePart,
    DeleteResult,
    Part,
    SetDataPart,
    SetDataResult,
    decode_multi_request,
    encode_multi_request,
)
from everlatch.wire.records import (
    SetACLRequest,
    decode_create_request,
    decode_create_ttl_request,
    decode_delete_request,
    decode_set_acl_request,
    decode_set_data_request,
    encode_delete_request,
    encode_set_data_request,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from everlatch.errors import ServerError
    from everlatch.session.requests import Request
    from everlatch.wire.multi import Result

__all__ = [
    "MAYBE",
    "NOT_APPLIED",
    "Change",
    "Fate",
    "Seen",
    "Verdict",
    "changes_of",
    "guarded_body",
    "is_ephemeral",
    "is_sequential",
    "judge",
    "paths_to_look_at",
    "result_of",
]

Change: TypeAlias = Part | SetACLRequest
"""One change that a write would have made, or one check."""
Seen: TypeAlias = "Mapping[str, Stat | ServerError | None]"
"""Path → what `exists` told: a Stat, nothing there, or why it can't be looked at."""

_SEQUENTIAL: Final = frozenset(
    {
        CreateMode.PERSISTENT_SEQUENTIAL,
        CreateMode.EPHEMERAL_SEQUENTIAL,
        CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL,
    }
)
_EPHEMERAL: Final = frozenset({CreateMode.EPHEMERAL, CreateMode.EPHEMERAL_SEQUENTIAL})


class Fate(enum.Enum):
    """What became of a write."""

    HAPPENED = 0
    NOT_APPLIED = 1
    MAYBE = 2


class Verdict(NamedTuple):
    """If it happened: the zxid and the time (ms) of its transaction."""

    fate: Fate
    zxid: int = 0
    time_ms: int = 0


NOT_APPLIED: Final = Verdict(Fate.NOT_APPLIED)
MAYBE: Final = Verdict(Fate.MAYBE)


def changes_of(request: Request) -> list[Change]:
    """What a write would have changed, with the servers' paths. Of reconfig nothing is known, nor of what has ended."""
    body, op = request.body, request.operation.op
    if not body:
        return []
    end = len(body)
    match op:
        case Op.SET_DATA:
            return [SetDataPart(*decode_set_data_request(body, 0, end))]
        case Op.DELETE:
            return [DeletePart(*decode_delete_request(body, 0, end))]
        case Op.SET_ACL:
            return [decode_set_acl_request(body, 0, end)]
        case Op.CREATE2 | Op.CREATE_CONTAINER:
            create = decode_create_request(body, 0, end)
            return [CreatePart(Op(op), create.path, create.data, tuple(create.acls), create.flags)]
        case Op.CREATE_TTL:
            timed = decode_create_ttl_request(body, 0, end)
            return [CreatePart(Op.CREATE_TTL, timed.path, timed.data, tuple(timed.acls), timed.flags, timed.ttl_ms)]
        case Op.MULTI:
            return list(decode_multi_request(body, 0, end))
        case _:
            return []


def is_sequential(change: Change) -> bool:
    """Whether it is the creation of a node whose name gets a number."""
    return isinstance(change, CreatePart) and change.flags in _SEQUENTIAL


def is_ephemeral(change: Change) -> bool:
    """Whether it is the creation of a node that belongs to the session."""
    return isinstance(change, CreatePart) and change.flags in _EPHEMERAL


def paths_to_look_at(change: Change) -> list[str]:
    """The nodes that can show what became of it."""
    if isinstance(change, CheckPart):
        return []
    if not isinstance(change, CreatePart):
        return [change.path]
    return [parent(change.path)] if is_sequential(change) else [change.path, parent(change.path)]


def judge(
    changes: Sequence[Change], zxid: int, seen: Seen, *, owner: int, only: bool = True, is_protected: bool = False
) -> Verdict:
    """The verdict on a write. `owner`: our session. `only`: no other unsettled write may have made these nodes."""
    verdicts = [_judge(change, zxid, seen, owner if only else None, is_protected) for change in changes]
    not_applied = any(verdict.fate is Fate.NOT_APPLIED for verdict in verdicts)
    happened = next((verdict for verdict in verdicts if verdict.fate is Fate.HAPPENED), None)
    if not_applied:
        return NOT_APPLIED if happened is None else MAYBE
    return happened or MAYBE


def _judge(change: Change, zxid: int, seen: Seen, owner: int | None, is_protected: bool) -> Verdict:
    match change:
        case CreatePart():
            return _judge_create(change, zxid, seen, owner, is_protected)
        case SetDataPart():
            return _judge_set(change, zxid, seen.get(change.path))
        case DeletePart():
            return _is_older(seen.get(change.path), zxid)
        case SetACLRequest():
            stat = seen.get(change.path)
            is_old = isinstance(stat, Stat) and stat.czxid <= zxid and 0 <= stat.aversion <= change.version
            return NOT_APPLIED if is_old else MAYBE
        case _:
            return MAYBE


def _judge_create(change: CreatePart, zxid: int, seen: Seen, owner: int | None, is_protected: bool) -> Verdict:
    above = seen.get(parent(change.path))
    unchanged = NOT_APPLIED if isinstance(above, Stat) and above.pzxid <= zxid else MAYBE
    if is_sequential(change):
        return unchanged
    stat = seen.get(change.path)
    if not isinstance(stat, Stat):
        return unchanged if stat is None else MAYBE
    if stat.czxid <= zxid:
        return NOT_APPLIED
    if is_protected or (owner is not None and is_ephemeral(change) and stat.ephemeral_owner == owner):
        return Verdict(Fate.HAPPENED, stat.czxid, stat.ctime)
    return MAYBE


def _judge_set(change: SetDataPart, zxid: int, stat: Stat | ServerError | None) -> Verdict:
    if not isinstance(stat, Stat) or stat.czxid > zxid:
        return MAYBE
    return NOT_APPLIED if stat.mzxid <= zxid or 0 <= stat.version <= change.version else MAYBE


def _is_older(stat: Stat | ServerError | None, zxid: int) -> Verdict:
    return NOT_APPLIED if isinstance(stat, Stat) and stat.czxid <= zxid else MAYBE


# -- what is known of a write that happened


def result_of(change: Change, verdict: Verdict, seen: Seen, name: str | None, session_id: int) -> Result | None:
    """What the server must have answered; `None` if that can't be told. `name`: the path of a sequential node.

    Of a new node everything is known but its number: it had no history yet. Of one whose data was set, as long as
    nobody has set it again; otherwise only what its transaction says.
    """
    match change:
        case CreatePart():
            path = name if is_sequential(change) else change.path
            return None if path is None else CreateResult(path, _new_stat(change, verdict, session_id))
        case SetDataPart():
            return SetDataResult(_changed_stat(change, verdict, seen.get(change.path)))
        case DeletePart():
            return DeleteResult()
        case CheckPart():
            return CheckResult()
        case _:
            return None


def _new_stat(change: CreatePart, verdict: Verdict, session_id: int) -> Stat:
    _, zxid, time_ms = verdict
    owner = session_id if is_ephemeral(change) else 0  # of containers and nodes with a TTL clients see none
    return Stat(zxid, zxid, time_ms, time_ms, 0, 0, 0, owner, len(change.data or b""), 0, zxid)


def _changed_stat(change: SetDataPart, verdict: Verdict, stat: Stat | ServerError | None) -> Stat:
    _, zxid, time_ms = verdict
    if isinstance(stat, Stat) and stat.mzxid == zxid:
        if stat.pzxid <= zxid:
            return stat
        return PartialStat(
            *stat._replace(cversion=UNKNOWN, num_children=UNKNOWN, pzxid=UNKNOWN)
        )  # it had children since
    version = change.version + 1 if change.version >= 0 else UNKNOWN
    czxid = ctime = owner = UNKNOWN
    if isinstance(stat, Stat) and stat.czxid < zxid:  # the same node still
        czxid, ctime, owner = stat.czxid, stat.ctime, stat.ephemeral_owner
    return PartialStat(
        czxid, zxid, ctime, time_ms, version, UNKNOWN, UNKNOWN, owner, len(change.data or b""), UNKNOWN, UNKNOWN
    )


# -- sending it again


def guarded_body(request: Request, changes: Sequence[Change], seen: Seen, touched: set[str]) -> bytes | None:
    """The body of a write that is sent again, with the versions that were just seen where it demanded none: should the
    old one be applied after all, the new one is refused. `None`: nothing can be guarded. `touched`: nodes that writes
    before it change, of which the version is not known; this one's are added."""
    guarded = [_guarded(change, seen, touched) for change in changes]
    if guarded == list(changes):
        return None
    if request.operation.op == Op.MULTI:
        return encode_multi_request([change for change in guarded if not isinstance(change, SetACLRequest)])
    change = guarded[0]
    return encode_set_data_request(*change) if isinstance(change, SetDataPart) else _delete_body(change)


def _delete_body(change: Change) -> bytes:
    assert isinstance(change, DeletePart)
    return encode_delete_request(*change)


def _guarded(change: Change, seen: Seen, touched: set[str]) -> Change:
    stat = seen.get(change.path)
    is_first = change.path not in touched
    touched.add(change.path)
    if isinstance(change, SetDataPart | DeletePart) and change.version == -1 and is_first and isinstance(stat, Stat):
        return change._replace(version=stat.version)
    return change
