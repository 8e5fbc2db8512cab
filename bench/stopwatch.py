"""How one measurement is taken: wall-clock time and the CPU time of the whole process, all threads included."""

from __future__ import annotations

import gc
import time
from typing import NamedTuple, Self

__all__ = ["Sample", "Stopwatch"]


class Sample(NamedTuple):
    """The result of one measurement in one process."""

    ops_per_s: float
    cpu_us_per_op: float


class Stopwatch:
    """`with Stopwatch() as watch: …`, then `watch.sample(count)`. Starts with an empty garbage collector."""

    def __enter__(self) -> Self:
        gc.collect()
        self._cpu = time.process_time()
        self._wall = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self._wall = time.perf_counter() - self._wall
        self._cpu = time.process_time() - self._cpu

    def sample(self, count: int) -> Sample:
        """Spread over `count` operations."""
        return Sample(count / self._wall, self._cpu / count * 1e6)
