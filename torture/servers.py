"""What real servers do that no client can help: they lose what they have acknowledged, or end with different trees.
Pure.

Rules of this file: what clients should have seen of such servers, nobody can say; so a round with them is not judged,
and it is said which of them did what. That takes more than their logs, which are read by code of our own
(`torture.txnlog`): if all servers end with the same tree, and the logs with another one, nothing is said here, and the
judge (`torture.checker`) calls it a violation of "servers".
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from torture.history import Ending
from torture.rules.writes import zxid_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from everlatch.types import Node
    from torture.history import History
    from torture.txnlog import Logs

__all__ = ["differences", "fault_of"]

_MOST_TOLD: Final = 5


def fault_of(history: History, logs: Logs, trees: Mapping[str, Mapping[str, Node]]) -> str:
    """Why a round can't be judged; empty if it can. `trees`: of each server, by its name, when all was over."""
    lost = _lost(history, logs)
    if lost:
        return f"the servers have lost {lost}"
    found = differences(trees)
    if not found:
        return ""
    left = len(found) - _MOST_TOLD
    return "the servers differ: " + "; ".join([*found[:_MOST_TOLD], *([f"and {left} more"] if left > 0 else [])])


def differences(trees: Mapping[str, Mapping[str, Node]]) -> list[str]:
    """In which nodes servers have something else than most of them (or, if there is no such majority, than the others),
    a line for each node."""
    paths = sorted({path for tree in trees.values() for path in tree})
    return [
        line for path in paths for line in _difference(path, {name: tree.get(path) for name, tree in trees.items()})
    ]


def _difference(path: str, found: Mapping[str, Node | None]) -> Iterator[str]:
    counts = Counter(found.values())
    if len(counts) == 1:
        return
    usual, count = counts.most_common(1)[0]
    has_majority = 2 * count > len(found)
    odd = [f"{name} has {node}" for name, node in found.items() if node != usual or not has_majority]
    yield f"{path}: {', '.join(odd)}" + (f", the others {usual}" if has_majority else "")


def _lost(history: History, logs: Logs) -> str:
    """Writes that were acknowledged, are in some server's log, and are no longer valid. No client can bring that about;
    3.8.0 can (ZOOKEEPER-4643 and its kin: a follower fails while it takes over a leader's history)."""
    lost = sorted(
        (zxid, f"{call}")
        for calls in history.calls.values()
        for call in calls
        if call.ending is Ending.OK
        and (zxid := zxid_of(call)) in logs.others
        and any(change.data == call.value for change in logs.others[zxid].changes)
    )
    return f"{len(lost)} acknowledged writes, from 0x{lost[0][0]:x} on: {lost[0][1]}" if lost else ""
