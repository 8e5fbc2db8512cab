"""The clients that are compared, one file each.

Every file has one function a contestant, `(Job) -> Sample`, which connects, warms up on that connection, and measures
between two looks at the stopwatch. Clients are imported when they are asked for, so that a missing one harms only
itself, and so that no process carries the imports of another contestant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.stopwatch import Sample
    from bench.workload import Job

__all__ = ["CONTESTANTS", "load"]

_PLACES = {
    "raw": ("bench.contestants.raw_socket", "measure"),
    "everlatch-asyncio": ("bench.contestants.everlatch_client", "measure_on_asyncio"),
    "everlatch-exactly-once": ("bench.contestants.everlatch_client", "measure_exactly_once"),
    "everlatch-lease": ("bench.contestants.everlatch_client", "measure_with_lease"),
    "everlatch-uvloop": ("bench.contestants.everlatch_client", "measure_on_uvloop"),
    "everlatch-asyncio-netty": ("bench.contestants.everlatch_client", "measure_on_asyncio"),
    "everlatch-asyncio-tls": ("bench.contestants.everlatch_client", "measure_on_asyncio"),
    "everlatch-uvloop-netty": ("bench.contestants.everlatch_client", "measure_on_uvloop"),
    "everlatch-uvloop-tls": ("bench.contestants.everlatch_client", "measure_on_uvloop"),
    "kazoo": ("bench.contestants.kazoo_client", "measure"),
    "aiozk": ("bench.contestants.aiozk_client", "measure"),
}

CONTESTANTS = tuple(_PLACES)


def load(contestant: str) -> Callable[[Job], Sample]:
    """The measuring function of a contestant."""
    module, function = _PLACES[contestant]
    measure: Callable[[Job], Sample] = getattr(import_module(module), function)
    return measure
