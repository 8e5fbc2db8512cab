"""What every reader of `bench.failover` does between its reads, whatever its client.

    reading = Reading(client.session_id)
    while reading.goes_on():
        try:
            …read…
        except …:
            continue
        reading.succeeded()
    reading.tell()

A reader says `ready SESSION` after `READS_BEFORE` successful reads. Then the fault comes. When the bench knows that it
is complete, so that the faulty server can't answer any more, it says anything at all; the reader is done after
`READS_AFTER` successful reads that it began after that. It says its gaps, each as `gap BEGAN ENDED`, and `done`.

The probe in Java does the same by itself.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from bench.gaps import Gaps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["READS_AFTER", "READS_BEFORE", "Reading"]

READS_BEFORE = 2000
READS_AFTER = 200


def _say(line: str) -> None:
    print(line, flush=True)


class Reading:
    """The progress of one reader."""

    def __init__(
        self,
        session_id: int,
        told: Iterable[str] = sys.stdin,
        say: Callable[[str], None] = _say,
        gaps: Gaps | None = None,
    ) -> None:
        self._session_id = session_id
        self._say = say
        self._gaps = gaps or Gaps()
        self._fault_is_over = threading.Event()
        self._began_after = False
        self._before = self._after = 0
        threading.Thread(target=self._listen, args=(told,), daemon=True).start()

    def _listen(self, told: Iterable[str]) -> None:
        next(iter(told), None)
        self._fault_is_over.set()

    def goes_on(self) -> bool:
        """Whether there is another read; it begins now."""
        self._began_after = self._fault_is_over.is_set()
        return self._after < READS_AFTER

    def succeeded(self) -> None:
        """The read that has begun last."""
        self._gaps.succeeded()
        if self._began_after:
            self._after += 1
        self._before += 1
        if self._before == READS_BEFORE:
            self._say(f"ready {self._session_id}")

    def tell(self) -> None:
        """All gaps."""
        for gap in self._gaps.found:
            self._say(f"gap {gap.began} {gap.ended}")
        self._say("done")
