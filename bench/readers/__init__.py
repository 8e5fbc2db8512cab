"""The readers of `bench.failover`, one file a client.

Each gets to the server that will fail as its users would, were they to insist: with the client's own choice of servers,
a new client after the other, until one is there. Then it reads, one read at a time, the next one at once, and after an
error as well. All settings but the session timeout are the client's defaults.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["READERS", "ReaderJob", "load"]

_PLACES = {
    "raw": ("bench.readers.raw_reader", "read"),
    "everlatch": ("bench.readers.everlatch_reader", "read"),
    "everlatch-tls": ("bench.readers.everlatch_reader", "read"),
    "kazoo": ("bench.readers.kazoo_reader", "read"),
    "kazoo-eager": ("bench.readers.kazoo_reader", "read_eagerly"),
}

READERS = tuple(_PLACES)
"""Those in Python."""


class ReaderJob(NamedTuple):
    """What one process has to do."""

    servers: str
    """The connect string."""
    first: str
    """The address of the server to read from at first."""
    timeout_s: float
    """Of the session."""
    ca: str = ""
    """Whom to trust; not empty: it is TLS that is spoken."""


def load(contestant: str) -> Callable[[ReaderJob], None]:
    """The function that reads. Clients are imported when they are asked for."""
    module, function = _PLACES[contestant]
    read: Callable[[ReaderJob], None] = getattr(import_module(module), function)
    return read
