"""The frames that arm all watches again after a reconnect.

Rules:
1. Everything that waits is armed relative to the zxid *frozen* at the loss: servers then send what was missed, for
   one-shot watches. It stays frozen until every frame is answered: were it to advance with the first reply, a second
   loss would hide the events of the later frames (a flaw of the Java client).
2. A frame has at most 128 KiB (ZOOKEEPER-706: one of a megabyte would be over the server's limit).
3. setWatches2 (3.6) goes out only with persistent watches to arm, so that older servers understand the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from everlatch.wire.codes import Op
from everlatch.wire.watch_records import encode_set_watches2_request, encode_set_watches_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["FRAME_LIMIT", "Frame", "Rearming"]

FRAME_LIMIT = 128 * 1024
"""Bytes of one frame, its length and header included."""

_KINDS = 5
_FRAME_OVERHEAD = 4 + 8 + 8 + _KINDS * 4  # length, request header, relativeZxid, counts


class Frame(NamedTuple):
    """One request: setWatches or setWatches2."""

    op: Op
    body: bytes


class Rearming:
    """What is frozen, and how many answers are missing."""

    def __init__(self) -> None:
        self._frozen_zxid: int | None = None
        self._unanswered = 0

    def freeze(self, last_zxid: int) -> None:
        """The link is gone: what `last_zxid` doesn't cover may have been missed. Kept if frozen already (rule 1)."""
        self._unanswered = 0
        if self._frozen_zxid is None:
            self._frozen_zxid = last_zxid

    def history_reset(self) -> None:
        """No zxid seen so far means anything: every node is newer than the frozen one."""
        self._frozen_zxid = 0

    def frames(self, paths: Sequence[Iterable[str]]) -> list[Frame]:
        """The requests to send now, for the paths of each kind in the order of setWatches2; call `answered` for each
        answer."""
        zxid = self._frozen_zxid
        if zxid is None:
            return []
        frames = [_frame(zxid, lists) for lists in _batches(paths)]
        self._unanswered = len(frames)
        if not frames:
            self._frozen_zxid = None
        return frames

    def answered(self) -> None:
        """One of the requests was answered."""
        self._unanswered -= 1
        if not self._unanswered:
            self._frozen_zxid = None


def _frame(zxid: int, lists: list[list[str]]) -> Frame:
    data, exist, child, persistent, recursive = lists
    if persistent or recursive:
        return Frame(Op.SET_WATCHES2, encode_set_watches2_request(zxid, data, exist, child, persistent, recursive))
    return Frame(Op.SET_WATCHES, encode_set_watches_request(zxid, data, exist, child))


def _batches(paths: Sequence[Iterable[str]]) -> Iterator[list[list[str]]]:
    batch: list[list[str]] = [[] for _ in range(_KINDS)]
    size = _FRAME_OVERHEAD
    for kind, of_kind in enumerate(paths):
        for path in of_kind:
            needed = 4 + len(path.encode())
            if size + needed > FRAME_LIMIT and any(batch):
                yield batch
                batch, size = [[] for _ in range(_KINDS)], _FRAME_OVERHEAD
            batch[kind].append(path)
            size += needed
    if any(batch):
        yield batch
