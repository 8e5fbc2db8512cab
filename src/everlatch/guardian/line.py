"""The pipe to a guardian.

Rules:
1. Writing never waits. What the pipe doesn't take is kept and written later, in order; a guardian for whom a megabyte
   is kept, or for whom something has been kept for a second, is stuck.
2. The pipe is as small as the system makes it until it is full: a user may have only so much of them, for all his
   processes.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import time
from typing import TYPE_CHECKING

from everlatch.guardian.descriptor import Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.guardian.told import Message

__all__ = ["FLUSH_EVERY", "Line", "LineBrokenError"]

FLUSH_EVERY = 0.02
"""Seconds after which what was kept is tried again."""
_SIZE = _MOST_KEPT = 1 << 20
_PATIENCE = 1.0


class LineBrokenError(Exception):
    """The guardian hears nothing more by this line; the message says why."""


class Line:
    """The end that messages are written to. Open until `close`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.far_end, near_end = os.pipe()
        """The guardian's; to be closed when it has it."""
        os.set_blocking(near_end, False)
        self._descriptor = Descriptor(near_end)
        self._clock = clock
        self._kept = b""
        self._kept_since = 0.0
        self._is_large = False
        self._is_mute = False

    @property
    def keeps(self) -> bool:
        """Whether something was told that is not written yet: call `flush` every now and then."""
        return bool(self._kept)

    def tell(self, message: Message) -> None:
        """Writes a message, now or by `flush`. Raises `LineBrokenError`."""
        if self._is_mute:
            raise LineBrokenError("its pipe is in the middle of a message of the parent's")
        data = marshal.dumps(message)
        if not self._kept:
            self._kept_since = self._clock()
        self._kept += len(data).to_bytes(4, "big") + data
        self.flush()

    def flush(self) -> None:
        """Writes what was kept, as far as it goes. Raises `LineBrokenError`."""
        if not self._descriptor.is_ours:
            raise LineBrokenError("its pipe was closed by other code of this process")
        while self._kept:
            try:
                written = os.write(self._descriptor.number, self._kept)
            except BlockingIOError:
                if self._enlarge():
                    continue
                if len(self._kept) > _MOST_KEPT or self._clock() > self._kept_since + _PATIENCE:
                    raise LineBrokenError("it doesn't read any more") from None
                return
            except OSError as error:
                raise LineBrokenError(f"its pipe broke ({error.strerror})") from None
            self._kept = self._kept[written:]
            self._kept_since = self._clock()

    def _enlarge(self) -> bool:
        """Makes the pipe larger, once. Whether that worked."""
        if self._is_large:
            return False
        self._is_large = True
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl

            fcntl.fcntl(self._descriptor.number, fcntl.F_SETPIPE_SZ, _SIZE)
            return True
        return False

    def inherited(self) -> None:
        """In a forked child: what is kept is its parent's to be written, and nothing can go between. It stays open:
        that it has not ended tells the guardian that somebody lives."""
        self._is_mute = bool(self._kept)

    def close(self) -> None:
        """Nothing is written any more."""
        self._descriptor.close()
