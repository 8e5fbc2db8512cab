"""The pipe to a guardian: a message is written whole and at once, or the guardian is given up.

Rules:
1. Writing never waits. The pipe holds a megabyte where the system allows that; who lets it fill up is stuck.
2. Nothing is written to a descriptor that isn't our pipe any more: a process may have closed all that it doesn't know,
   as daemons do, and what has the number now belongs to somebody else. What we write is secret.
"""

from __future__ import annotations

import contextlib
import fcntl
import marshal
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everlatch.guardian.told import Message

__all__ = ["Line", "LineBrokenError"]

_SIZE = 1 << 20


class LineBrokenError(Exception):
    """The guardian hears nothing more by this line; the message says why."""


class Line:
    """The end that messages are written to. Open until `close`."""

    def __init__(self) -> None:
        self.far_end, self._descriptor = os.pipe()
        """The guardian's; to be closed when it has it."""
        os.set_blocking(self._descriptor, False)
        with contextlib.suppress(AttributeError, OSError):  # it is a help, no more
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _SIZE)
        self._identity = _identity(self._descriptor)

    def tell(self, message: Message) -> None:
        """Writes a message. Raises `LineBrokenError`."""
        data = marshal.dumps(message)
        data = len(data).to_bytes(4, "big") + data
        if not self.is_ours:
            raise LineBrokenError("its pipe was closed by other code of this process")
        try:
            written = os.write(self._descriptor, data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            raise LineBrokenError(f"its pipe broke ({error.strerror})") from None
        if written < len(data):
            raise LineBrokenError("it doesn't read any more")

    @property
    def is_ours(self) -> bool:
        """Whether the descriptor is still that pipe."""
        return self._descriptor >= 0 and _identity(self._descriptor) == self._identity

    def close(self) -> None:
        """Nothing is written any more."""
        if self.is_ours:
            os.close(self._descriptor)
        self._descriptor = -1


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Which file it is; `None`: none."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino
