"""How many inputs of which level, in which order.

Rules of this file: the levels take turns in fixed numbers, so that a campaign of so many inputs is the same each time,
and one of so many seconds is the beginning of a longer one.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fuzz.clients import Clients, TlsClients
from fuzz.decoders import Decoders
from fuzz.findings import Findings
from fuzz.sessions import SaslSessions, Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fuzz.recordings import Corpus
    from fuzz.watchdog import Watchdog

__all__ = ["LEVELS", "Outcome", "replay", "run"]

LEVELS = ("decoders", "sessions", "sasl", "clients", "tls")
_TURNS = {"decoders": 1, "sessions": 16, "sasl": 3, "clients": 3, "tls": 1}
"""How many batches or cases of each level make a round."""
_EVERY = {"tls": 4}
"""In one round of so many; otherwise in each."""
_PROGRESS = 10.0


class Level(Protocol):
    """What is common to all."""

    name: str

    def run(self, seed: int, number: int, findings: Findings) -> int:
        """One batch or case; how many inputs it had."""
        ...


@dataclass
class Outcome:
    """What a campaign has done."""

    seed: int
    inputs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LEVELS, 0))
    seconds: float = 0.0
    by_level: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LEVELS, 0.0))
    """Seconds for each level."""
    findings: Findings = field(default_factory=Findings)
    peak_memory: int = 0
    """Bytes of the process, at most."""

    @property
    def total(self) -> int:
        """All inputs."""
        return sum(self.inputs.values())

    def render(self) -> str:
        """The last line."""
        levels = ", ".join(f"{name} {_short(number)}" for name, number in self.inputs.items() if number)
        count = len(self.findings)
        found = f"{count} finding{'' if count == 1 else 's'}"
        return f"fuzz: {self.total} inputs ({levels}), seed {self.seed}, {found}"

    def to_json(self) -> dict[str, object]:
        """The report."""
        return {
            "seed": self.seed,
            "inputs": self.inputs,
            "total": self.total,
            "seconds": round(self.seconds, 1),
            "seconds_by_level": {name: round(seconds, 1) for name, seconds in self.by_level.items()},
            "peak_memory": self.peak_memory,
            "inputs_with_findings": self.findings.inputs,
            "findings": [finding.to_json() for finding in self.findings],
        }


def _short(number: int) -> str:
    if number >= 1_000_000:
        return f"{number / 1e6:.2f}M"
    return f"{number // 1000}k" if number >= 10_000 else str(number)


def _levels(corpus: Corpus, watchdog: Watchdog, names: Collection[str]) -> dict[str, Level]:
    kinds = (Decoders, Sessions, SaslSessions, Clients, TlsClients)
    return {kind.name: kind(corpus, watchdog) for kind in kinds if kind.name in names}


def run(
    corpus: Corpus,
    watchdog: Watchdog,
    seed: int,
    *,
    seconds: float = 0.0,
    inputs: int = 0,
    levels: tuple[str, ...] = LEVELS,
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Whole rounds, for at least so many seconds and inputs, or until too much was found; `tell` hears how it goes."""
    outcome = Outcome(seed)
    chosen = _levels(corpus, watchdog, levels)
    started = told = time.monotonic()
    number = 0
    with watchdog.active():
        while not outcome.findings.enough:
            for name, level in chosen.items():
                if number % _EVERY.get(name, 1) == 0:
                    _take_turns(outcome, name, level, number // _EVERY.get(name, 1))
            number += 1
            now = time.monotonic()
            outcome.seconds = now - started
            if now - told >= _PROGRESS:
                told = now
                watchdog.postpone()
                tell(f"{outcome.seconds:6.0f} s  {outcome.render()}")
            if outcome.seconds >= seconds and outcome.total >= inputs:
                break
    outcome.peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return outcome


def _take_turns(outcome: Outcome, name: str, level: Level, number: int) -> None:
    turns = _TURNS[name]
    started = time.monotonic()
    for turn in range(turns):
        outcome.inputs[name] += level.run(outcome.seed, number * turns + turn, outcome.findings)
    outcome.by_level[name] += time.monotonic() - started


def replay(corpus: Corpus, watchdog: Watchdog, which: str) -> Findings:
    """One input again: `decoders/TARGET/HEX`, or `LEVEL/SEED/CASE` of another level. Raises `ValueError`."""
    findings = Findings()
    try:
        name, first, second = which.split("/")
        with watchdog.active():
            if name == "decoders":
                Decoders(corpus, watchdog).replay(first, bytes.fromhex(second), findings)
            else:
                _levels(corpus, watchdog, [name])[name].run(int(first), int(second), findings)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{which!r:.200} can't be replayed: {error}") from error
    return findings
