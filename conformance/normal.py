"""What differs between any two servers, as what it means: zxids as the n-th transaction of the run, session ids as
whose they are, times as those of their transactions.

Rules of this file: a number is translated only if it is what it should be; any other stays as it is, and so differs
from the other server's. Nodes that are older than the run (the server's own) are told by what has changed since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from everlatch.types import Stat

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BEFORE", "Normal"]

BEFORE: Final = "before"
"""What has been there when the run began."""
_SLACK_MS: Final = 2_000
"""How much two clocks of one machine may disagree."""


class Normal:
    """The translation of one run on one server."""

    def __init__(self, root: str, zxid: int, time_ms: int, old: Mapping[str, Stat]) -> None:
        """`zxid` and `time_ms` when the run began, and the nodes outside of `root` then."""
        self.root = root
        self._zxid = zxid
        self._time_ms = time_ms
        self._old = old
        self._sessions: dict[int, str] = {}
        self._times: dict[int, int] = {}

    def add_session(self, session_id: int, name: str) -> None:
        """From now on this id is this name."""
        self._sessions[session_id] = name

    def session(self, session_id: int) -> str | int:
        """Whose it is."""
        return self._sessions.get(session_id, session_id)

    def zxid(self, zxid: int) -> str | int:
        """The how manieth transaction of the run it is; what is no zxid stays."""
        if zxid <= 0:
            return zxid
        return zxid - self._zxid if zxid > self._zxid else BEFORE

    def text(self, text: str) -> str:
        """Paths and names are below `~`."""
        if text == self.root or text.startswith(self.root + "/"):
            return "~" + text[len(self.root) :]
        return "~" if text == self.root[1:] else text

    def value(self, value: Any, path: str = "") -> Any:
        """A value of an answer, as `operations` makes them. A `Stat` in it is of the node at this path, which is
        complete, unless the value has a path itself."""
        if isinstance(value, Stat):
            return self._stat(value, path)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {name: self.value(each, value.get("path", path)) for name, each in value.items()}
        if isinstance(value, list):
            return [self.value(each, path) for each in value]
        return value

    def _stat(self, stat: Stat, path: str) -> dict[str, Any]:
        old = self._old.get(path)
        said = stat._asdict()
        for zxid, time in (("czxid", "ctime"), ("mzxid", "mtime")):
            said[time] = self._time(said[zxid], said[time])
        for zxid in ("czxid", "mzxid", "pzxid"):
            said[zxid] = self.zxid(said[zxid])
        said["ephemeral_owner"] = self.session(stat.ephemeral_owner)
        if old is not None:
            for counter in ("version", "cversion", "aversion"):
                said[counter] = (said[counter] - getattr(old, counter)) & 0xFFFF_FFFF
        return said

    def _time(self, zxid: int, time_ms: int) -> str | int:
        """All nodes that a transaction has changed have its time, which is one of the run."""
        if zxid <= self._zxid:
            return BEFORE
        if self._times.setdefault(zxid, time_ms) != time_ms:
            return time_ms
        since = time_ms - self._time_ms
        return "its transaction's" if -_SLACK_MS <= since <= 600_000 else time_ms
