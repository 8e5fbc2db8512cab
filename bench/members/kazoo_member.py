"""kazoo 2.11's `Election`: a member leads while its function runs, and resigns by returning from it."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from kazoo.client import KazooClient

from bench.members import say

if TYPE_CHECKING:
    from bench.members import MemberJob

__all__ = ["take_part"]


def take_part(job: MemberJob) -> None:
    """Until the end of the input."""
    client = KazooClient(job.server, timeout=job.timeout_s)
    client.start()
    term = _Term(client, job)
    for order in sys.stdin:
        if order.strip() == "join":
            term = _Term(client, job)
            term.start()
        else:
            term.resign()
    client.stop()
    client.close()


class _Term(threading.Thread):
    """From joining to resignation."""

    def __init__(self, client: KazooClient, job: MemberJob) -> None:
        super().__init__(daemon=True)
        self._election = client.Election(job.path, job.name)
        self._ends = threading.Event()
        self._resigned_at = 0

    def run(self) -> None:
        self._election.run(self._lead)
        say("resigned", self._resigned_at)

    def resign(self) -> None:
        self._ends.set()

    def _lead(self) -> None:
        say("leads", time.monotonic_ns())
        self._ends.wait()
        self._resigned_at = time.monotonic_ns()
