"""The pipe to a guardian: a message is written whole and at once, or the guardian is given up.

Rule: writing never waits. The pipe holds a megabyte where the system allows that; who lets it fill up is stuck.
"""

from __future__ import annotations

import contextlib
import marshal
import os
from typing import TYPE_CHECKING

from everlatch.guardian.descriptor import Descriptor

if TYPE_CHECKING:
    from everlatch.guardian.told import Message

__all__ = ["Line", "LineBrokenError"]

_SIZE = 1 << 20


class LineBrokenError(Exception):
    """The guardian hears nothing more by this line; the message says why."""


class Line:
    """The end that messages are written to. Open until `close`."""

    def __init__(self) -> None:
        self.far_end, near_end = os.pipe()
        """The guardian's; to be closed when it has it."""
        os.set_blocking(near_end, False)
        _enlarge(near_end)
        self._descriptor = Descriptor(near_end)

    def tell(self, message: Message) -> None:
        """Writes a message. Raises `LineBrokenError`."""
        data = marshal.dumps(message)
        data = len(data).to_bytes(4, "big") + data
        if not self._descriptor.is_ours:
            raise LineBrokenError("its pipe was closed by other code of this process")
        try:
            written = os.write(self._descriptor.number, data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            raise LineBrokenError(f"its pipe broke ({error.strerror})") from None
        if written < len(data):
            raise LineBrokenError("it doesn't read any more")

    def close(self) -> None:
        """Nothing is written any more."""
        self._descriptor.close()


def _enlarge(pipe: int) -> None:
    """If that can be: it is a help, no more."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _SIZE)
