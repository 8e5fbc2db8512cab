"""Ports for servers of tests.

Rules of this module: they are below the range that the kernel takes for outgoing connections. A port from that range
could be taken while its server is down, and a client that dials it then may even connect to itself.
"""

from __future__ import annotations

import os
import random
import socket
from typing import Final

from everlatch.testing.process import EnsembleError

__all__ = ["free_ports"]

# Linux: outgoing connections have 32768 and up.
_PORTS: Final = range(15_000, 32_000)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """So many ports on which nobody listens at this address, by TCP. Raises `EnsembleError`."""
    # Random, so that two test runs on one machine rarely meet; a start is tried again when they do.
    candidates = random.Random().sample(_PORTS, len(_PORTS))  # noqa: S311 - not a secret
    free: list[int] = []
    for port in candidates:
        if _is_free(host, port):
            free.append(port)
            if len(free) == count:
                return free
    raise EnsembleError(f"fewer than {count} free ports on {host} in {_PORTS.start} to {_PORTS.stop - 1}")


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier run that linger in TIME_WAIT are no obstacle.
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
