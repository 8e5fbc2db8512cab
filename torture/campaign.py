"""Many worlds, one after the other, on several processes, until the time is over or something is found.

Rules of this file: a world is made from its seed alone; so what is found is told with the seed, and found again with
it.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from torture.planted import BUGS
from torture.simulated import run
from torture.totals import Done, Finding, Totals, seen_in, words_for
from torture.violations import Violation
from torture.worlds import setting_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from torture.workload import Mode, Work

__all__ = ["Job", "torture"]

_LONGEST: Final = 120.0
"""Seconds of CPU time for a world, and one more for each virtual second of faults: it takes a tenth of that."""


class Job(NamedTuple):
    """What a process is to do."""

    seed: int
    mood: str
    length: float
    """Virtual seconds in which there are faults."""
    planted: str = ""
    """A bug to put into the client first."""
    work: Work = "everything"
    writes: Mode = "plain"

    @property
    def command(self) -> str:
        """What does the same again."""
        words = ["scripts/torture", "--worlds", "1", "--seed", str(self.seed), "--length", f"{self.length:g}"]
        words += words_for(self.work, self.writes)
        words += ["--mood", self.mood] if self.mood else []
        words += ["--planted", self.planted] if self.planted else []
        return " ".join(words)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt  # what else ends a loop, whatever it is doing?


def _do(job: Job) -> Done:
    """A world; one that has no end, because something in it goes round and never waits, is a finding as well."""
    longest = _LONGEST + job.length
    signal.signal(signal.SIGVTALRM, _interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, longest)
    try:
        return _run(job)
    except KeyboardInterrupt:
        if signal.getitimer(signal.ITIMER_VIRTUAL)[0]:
            raise
        violation = Violation("stuck", 0.0, f"no end after {longest:g} s of CPU time")
        return Done(0, 0, 0.0, Counter(), Finding(job.seed, job.command, [violation], traceback.format_exc()))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)


def _run(job: Job) -> Done:
    with BUGS[job.planted].planted() if job.planted else nullcontext():
        setting = setting_of(job.seed, mood=job.mood, seconds=job.length, work=job.work, writes=job.writes)
        outcome = run(setting, job.command)
    finding = None
    if outcome.violations:
        finding = Finding(job.seed, job.command, outcome.violations, outcome.report)
    history = outcome.history
    return Done(history.operations, len(history.faults), outcome.virtual_seconds, seen_in(history), finding)


def torture(
    seed: int,
    *,
    seconds: float,
    worlds: int | None,
    processes: int,
    mood: str = "",
    length: float,
    planted: str = "",
    work: Work = "everything",
    writes: Mode = "plain",
    tell: Callable[[Totals], None] = lambda totals: None,
) -> Totals:
    """Runs worlds from `seed` on: so many, or until so many real seconds are over, or until something is found. `tell`
    hears after each."""
    totals = Totals()
    end = time.monotonic() + seconds
    jobs = (Job(each, mood, length, planted, work, writes) for each in range(seed, seed + (worlds or 1 << 62)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running: set[Future[Done]] = set()
        while True:
            while len(running) < processes and not totals.findings and (worlds or time.monotonic() < end):
                job = next(jobs, None)
                if job is None:
                    break
                running.add(pool.submit(_do, job))
            if not running:
                return totals
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                totals.add(each.result())
            tell(totals)
