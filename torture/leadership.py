"""What the candidates of an election saw, and what is judged of it. Pure.

A candidate writes down, a line each: that it believes to lead (`Believed`, the time taken before it asks), what became
of a fenced write (`Wrote`), and changes of its client's state (`Changed`). All times are those of one clock.

Rules of this file: a violation that is reported is one. A belief lasts from the first to the last time at which it was
held, without longer breaks; what was in between breaks, nobody says.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from torture.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Believed", "Changed", "Quiet", "Record", "Wrote", "judge", "read", "seen_in"]

_RULE: Final = "leaders"
_BREAK: Final = 0.2
"""Seconds without a look after which a belief counts as another one."""


class Believed(NamedTuple):
    """At that time it took itself for the leader."""

    name: str
    time: float
    token: int
    seen: int
    """At which zxid it saw the latch after it had begun; 0: it did not by then."""


class Wrote(NamedTuple):
    """A write with a token has ended: at `zxid`, or, with 0, as `error` says."""

    name: str
    time: float
    token: int
    zxid: int
    error: str


class Changed(NamedTuple):
    """The state of its client."""

    name: str
    time: float
    state: str


Record = Believed | Wrote | Changed
_KINDS: Final[dict[str, type[Any]]] = {"B": Believed, "W": Wrote, "S": Changed}
_LETTERS: Final = {kind: letter for letter, kind in _KINDS.items()}


def line(record: Record) -> str:
    """As it is written down."""
    return json.dumps([_LETTERS[type(record)], *record]) + "\n"


def read(text: str) -> Iterator[Record]:
    """The records; of a process that was killed the last line may be missing its end."""
    for each in text.splitlines():
        try:
            letter, *fields = json.loads(each)
        except ValueError:
            continue
        yield _KINDS[letter](*fields)


class Quiet(NamedTuple):
    """A time in which nothing was wrong, from when all servers served."""

    began: float
    ended: float
    names: frozenset[str]
    """Of the candidates that live then."""


class _Belief(NamedTuple):
    name: str
    token: int
    began: float
    ended: float
    seen: int

    def __str__(self) -> str:
        return f"{self.name} with token {self.token}, {self.began:.3f} to {self.ended:.3f} s"


def judge(records: Iterable[Record], quiet: Iterable[Quiet], longest: float) -> list[Violation]:
    """All broken promises. `longest`: seconds until there has to be a leader when all could lead."""
    everything = sorted(records, key=lambda record: record.time)
    beliefs = list(_beliefs(everything))
    found = [
        *_overlaps(beliefs),
        *_tokens(beliefs),
        *_writes([record for record in everything if isinstance(record, Wrote) and record.zxid], beliefs),
    ]
    for time in quiet:
        found += _leaderless(everything, beliefs, time, longest)
    return sorted(found, key=lambda violation: violation.time)


def _beliefs(records: list[Record]) -> Iterator[_Belief]:
    held: dict[str, _Belief] = {}
    for record in records:
        if not isinstance(record, Believed):
            continue
        before = held.get(record.name)
        if before is not None and before.token == record.token and record.time <= before.ended + _BREAK:
            held[record.name] = before._replace(ended=record.time, seen=before.seen or record.seen)
            continue
        if before is not None:
            yield before
        held[record.name] = _Belief(record.name, record.token, record.time, record.time, record.seen)
    yield from held.values()


def _overlaps(beliefs: list[_Belief]) -> Iterator[Violation]:
    present: list[_Belief] = []
    for belief in sorted(beliefs, key=lambda belief: belief.began):
        present = [earlier for earlier in present if earlier.ended >= belief.began]
        for rival in present:
            if rival.name != belief.name:
                yield Violation(_RULE, belief.began, f"two believed to lead at {belief.began:.3f} s: {rival}; {belief}")
        present.append(belief)


def _tokens(beliefs: list[_Belief]) -> Iterator[Violation]:
    newest: _Belief | None = None
    for belief in sorted(beliefs, key=lambda belief: belief.began):
        if newest is not None and belief.token < newest.token:
            yield Violation(_RULE, belief.began, f"a token went back: {belief}, after {newest}")
        if newest is not None and belief.token == newest.token and belief.name != newest.name:
            yield Violation(_RULE, belief.began, f"one token, two owners: {belief}, after {newest}")
        newest = belief if newest is None or belief.token > newest.token else newest


def _writes(taken: list[Wrote], beliefs: list[_Belief]) -> Iterator[Violation]:
    """None behind one with a larger token, nor behind what the owner of a larger one saw when it led."""
    newest: Wrote | None = None
    for write in sorted(taken, key=lambda write: write.zxid):
        if newest is not None and write.token < newest.token:
            yield Violation(_RULE, write.time, f"a stale leader's write was taken: {write}, after {newest}")
        newest = write if newest is None or write.token > newest.token else newest
        later = [belief for belief in beliefs if belief.token > write.token and 0 < belief.seen < write.zxid]
        if later:
            yield Violation(_RULE, write.time, f"a stale leader's write was taken: {write}, when there was {later[0]}")


def _leaderless(records: list[Record], beliefs: list[_Belief], time: Quiet, longest: float) -> Iterator[Violation]:
    """Whether it took too long from when all were connected; who comes back once more delays that."""
    states: dict[str, str] = {}
    ready = time.began
    for record in records:
        if isinstance(record, Changed) and record.name in time.names and record.time <= time.ended:
            states[record.name] = record.state
            if record.state == "CONNECTED":
                ready = max(ready, record.time)
    apart = [name for name in sorted(time.names) if states.get(name) != "CONNECTED"]
    if apart:
        yield Violation(
            "connected", time.ended, f"{apart} are not connected {time.ended - time.began:.1f} s after all is"
        )
    until = ready + longest
    if until <= time.ended and not any(belief.began <= until and belief.ended >= ready for belief in beliefs):
        yield Violation(_RULE, until, f"nobody leads {longest:g} s after all could, at {ready:.3f} s")


def seen_in(records: Iterable[Record]) -> Counter[str]:
    """What happened, how often."""
    seen: Counter[str] = Counter()
    everything = list(records)
    for record in everything:
        if isinstance(record, Wrote):
            seen[f"fenced write: {record.error or 'taken'}"] += 1
        elif isinstance(record, Changed):
            seen[f"state: {record.state}"] += 1
    beliefs = list(_beliefs(sorted(everything, key=lambda record: record.time)))
    seen["beliefs to lead"] = len(beliefs)
    seen["terms"] = len({belief.token for belief in beliefs})
    return seen
