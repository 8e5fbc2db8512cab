"""Looks names up, in threads: a name server may be silent for longer than a session lives.

Part of the guardian's process; see `process`.
"""

import _thread
import contextlib
import os
import socket

__all__ = ["Names", "is_ip"]


class Names:
    """What was found; `wake` is readable when that has become more."""

    def __init__(self) -> None:
        self.wake, self._end = os.pipe()
        os.set_blocking(self.wake, False)
        self._found: dict[str, list[str] | None] = {}

    def ask(self, host: str) -> None:
        """Begins to look a name up, unless somebody has and it is not yet found."""
        if self._found.get(host, ()) is not None:
            self._found[host] = None
            try:
                _thread.start_new_thread(self._look_up, (host,))
            except RuntimeError:  # the system has no thread for us now; the next round asks again
                self._answered(host, [])

    def answer(self, host: str) -> "list[str] | None":
        """The addresses of a name that was asked for; `None`: they are not there yet."""
        return self._found[host]

    def heard(self) -> None:
        """Makes `wake` quiet."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)

    def _look_up(self, host: str) -> None:
        ips: list[str] = []
        with contextlib.suppress(OSError, UnicodeError):
            # Text is made bytes by a codec that takes a megabyte.
            name = host.encode("ascii") if host.isascii() else host
            ips = [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
        self._answered(host, ips)

    def _answered(self, host: str, ips: "list[str]") -> None:
        self._found[host] = ips
        os.write(self._end, b".")


def is_ip(host: str) -> bool:
    """Whether it needs no looking up."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host.partition("%")[0])
            return True
    return False
