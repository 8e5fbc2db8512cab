"""Commits of the session's own: transactions that check a node and change nothing. A quorum has to decide them.

Rules:
1. While somebody rests on the lease, one goes out every twelfth of the session timeout: they extend it.
2. The link check is one, too: it shows whether the server in use still has a quorum behind it. Any other makes up for
   it.
"""

from __future__ import annotations

import math
from typing import Final

from everlatch.errors import SessionExpiredError, SessionMovedError
from everlatch.session.requests import Operation
from everlatch.wire.codes import Op
from everlatch.wire.multi import CheckPart, ErrorResult, decode_multi_reply, encode_multi_request

__all__ = ["COMMIT", "COMMIT_BODY", "Commits", "was_decided"]

COMMIT: Final = Operation("commit", Op.MULTI, decode_multi_reply)
COMMIT_BODY: Final = encode_multi_request([CheckPart("/", -1)])
_PER_TIMEOUT: Final = 12
_OVER: Final = frozenset({SessionExpiredError.code, SessionMovedError.code})


def was_decided(err: int, buf: bytes, pos: int, end: int) -> bool:
    """Whether this answer (its header's error, and its body) says that the commit was decided. One whose check failed
    was, unless the session was what failed. Raises `ProtocolError`."""
    results = [] if err else decode_multi_reply(buf, pos, end)
    return not err and not any(isinstance(result, ErrorResult) and result.code in _OVER for result in results)


class Commits:
    """When the next one is due. Times are in seconds."""

    def __init__(self, link_check_interval: float | None) -> None:
        self._interval = link_check_interval
        self.holders = 0
        """How many rest on the lease."""
        self._for_lease_at = self._for_link_at = math.inf

    @property
    def due_at(self) -> float:
        """When the next one is to be sent."""
        return min(self._for_lease_at, self._for_link_at)

    def sent(self, now: float, session_timeout: float) -> None:
        """One was, or is about to be."""
        if self.holders:
            self._for_lease_at = now + session_timeout / _PER_TIMEOUT
        else:
            self._for_lease_at = math.inf
        self.connected(now)

    def connected(self, now: float) -> None:
        """There is a link, to be checked in a while."""
        self._for_link_at = math.inf if self._interval is None else now + self._interval

    def hold(self) -> bool:
        """One more rests on the lease. Whether he is the first."""
        self.holders += 1
        return self.holders == 1

    def release(self) -> None:
        """One less."""
        self.holders -= 1
        if not self.holders:
            self._for_lease_at = math.inf

    def stop(self) -> None:
        """There is no link, or nothing more to be committed on it."""
        self._for_lease_at = self._for_link_at = math.inf
