"""kazoo 2.11 with its default, threading handler: blocking calls one at a time, `*_async` calls with a window.

Waiting for the oldest call, as everybody here does, is its better side: with `rawlink` callbacks that make the next
call it took about a sixth more CPU, because every reply then passes through a third thread.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from kazoo.client import KazooClient

from bench.stopwatch import Sample, Stopwatch
from bench.workload import CROWD, NODE, VALUE, CreatedPaths, Job, check_children, check_get, check_set

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["measure"]

_CALL_TIMEOUT_S = 30.0


def measure(job: Job) -> Sample:
    """Measure kazoo."""
    client = KazooClient(job.address, timeout=10)
    client.start()
    try:
        call, check = _operation(client, job)
        drive = _one_at_a_time if job.window == 1 else _sliding_window
        drive(job.warm_up, job.window, call, check)
        with Stopwatch() as watch:
            drive(job.times, job.window, call, check)
        return watch.sample(job.times)
    finally:
        client.stop()
        client.close()


def _operation(client: Any, job: Job) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """How to make the call, blocking or not as the window wants it, and how to check its result."""
    suffix = "" if job.window == 1 else "_async"
    name = {"children": "get_children"}.get(job.operation, job.operation)
    method = getattr(client, name + suffix)
    if job.operation == "get":
        return lambda: method(NODE), check_get
    if job.operation == "set":
        return lambda: method(NODE, VALUE), check_set
    if job.operation == "children":
        return lambda: method(CROWD), check_children
    paths = CreatedPaths(job.parent)
    return lambda: method(paths.fresh(), VALUE), paths.check


def _one_at_a_time(count: int, window: int, call: Callable[[], Any], check: Callable[[Any], None]) -> None:
    for _ in range(count):
        check(call())


def _sliding_window(count: int, window: int, call: Callable[[], Any], check: Callable[[Any], None]) -> None:
    outstanding: deque[Any] = deque()
    for _ in range(count):
        if len(outstanding) == window:
            check(outstanding.popleft().get(timeout=_CALL_TIMEOUT_S))
        outstanding.append(call())
    while outstanding:
        check(outstanding.popleft().get(timeout=_CALL_TIMEOUT_S))
