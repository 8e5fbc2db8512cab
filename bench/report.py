"""From samples to numbers that count: medians, ratios, verdicts, and their text. Pure: no clock, no process, no file.

Rules of this file:
- A ratio compares the medians of one run. Absolute times of different runs are never compared.
- A bar whose numbers are missing is "not measured", never passed.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bench.stopwatch import Sample

__all__ = ["BARS", "Bar", "Ratios", "Row", "Verdict", "judge", "ratios", "render", "to_json", "to_row"]


class Row(NamedTuple):
    """One contestant at one operation and window: medians over the rounds, and between which values they lie."""

    contestant: str
    operation: str
    window: int
    ops_per_s: float
    cpu_us_per_op: float
    ops_per_s_range: tuple[float, float]
    cpu_us_per_op_range: tuple[float, float]


class Ratios(NamedTuple):
    """One row against `raw`, `kazoo` and `everlatch-asyncio` (plain) at the same operation and window, and one over TLS
    against the same client without; None where those were not measured."""

    contestant: str
    operation: str
    window: int
    ops_vs_raw: float | None
    ops_vs_kazoo: float | None
    cpu_vs_kazoo: float | None
    time_vs_plain: float | None
    ops_vs_netty: float | None = None


class Bar(NamedTuple):
    """A number that has to be reached: `metric` is a field of `Ratios`."""

    name: str
    contestant: str
    operation: str
    window: int
    metric: str
    limit: float
    at_most: bool = False


class Verdict(NamedTuple):
    """What became of one bar; `passed` is None when it was not measured."""

    bar: Bar
    value: float | None
    passed: bool | None


BARS = (
    Bar("asyncio, pipelined", "everlatch-asyncio", "get", 1000, "ops_vs_raw", 0.8),
    Bar("asyncio, pipelined", "everlatch-asyncio", "get", 1000, "cpu_vs_kazoo", 0.2, at_most=True),
    Bar("uvloop, pipelined", "everlatch-uvloop", "get", 1000, "ops_vs_raw", 0.9),
    Bar("uvloop, pipelined", "everlatch-uvloop", "get", 1000, "cpu_vs_kazoo", 0.12, at_most=True),
    Bar("twice kazoo", "everlatch-asyncio", "get", 1000, "ops_vs_kazoo", 2.0),
    Bar("twice kazoo", "everlatch-uvloop", "get", 1000, "ops_vs_kazoo", 2.0),
    Bar("one at a time", "everlatch-asyncio", "get", 1, "ops_vs_raw", 0.75),
    Bar("one at a time", "everlatch-uvloop", "get", 1, "ops_vs_raw", 0.85),
    Bar("exactly once", "everlatch-exactly-once", "set", 64, "time_vs_plain", 1.6, at_most=True),
    Bar("exactly once", "everlatch-exactly-once", "create", 64, "time_vs_plain", 1.6, at_most=True),
    Bar("over TLS", "everlatch-asyncio-tls", "get", 1000, "ops_vs_netty", 0.8),
    Bar("over TLS", "everlatch-uvloop-tls", "get", 1000, "ops_vs_netty", 0.8),
)
"""Six bars by name; a bar is passed when all its lines are."""

_METRICS = {
    "ops_vs_raw": "ops/s of raw",
    "ops_vs_kazoo": "ops/s of kazoo",
    "cpu_vs_kazoo": "CPU per op of kazoo",
    "time_vs_plain": "time per op of plain",
    "ops_vs_netty": "ops/s without TLS",
}


def to_row(contestant: str, operation: str, window: int, samples: Sequence[Sample]) -> Row:
    """The medians of the samples of all rounds."""
    ops = [sample.ops_per_s for sample in samples]
    cpu = [sample.cpu_us_per_op for sample in samples]
    return Row(contestant, operation, window, median(ops), median(cpu), (min(ops), max(ops)), (min(cpu), max(cpu)))


def ratios(rows: Iterable[Row]) -> list[Ratios]:
    """Every row against `raw`, `kazoo` and `everlatch-asyncio`."""
    by_key = {row[:3]: row for row in rows}
    found = []
    for row in by_key.values():
        raw = by_key.get(("raw", row.operation, row.window))
        kazoo = by_key.get(("kazoo", row.operation, row.window))
        plain = by_key.get(("everlatch-asyncio", row.operation, row.window))
        netty = by_key.get((row.contestant.removesuffix("-tls") + "-netty", row.operation, row.window))
        found.append(
            Ratios(
                *row[:3],
                row.ops_per_s / raw.ops_per_s if raw else None,
                row.ops_per_s / kazoo.ops_per_s if kazoo else None,
                row.cpu_us_per_op / kazoo.cpu_us_per_op if kazoo else None,
                plain.ops_per_s / row.ops_per_s if plain else None,
                row.ops_per_s / netty.ops_per_s if netty and row.contestant.endswith("-tls") else None,
            )
        )
    return found


def judge(found: Iterable[Ratios], bars: Iterable[Bar] = BARS) -> list[Verdict]:
    """One verdict a bar line, in the order of the bars."""
    by_key = {entry[:3]: entry for entry in found}
    verdicts = []
    for bar in bars:
        entry = by_key.get((bar.contestant, bar.operation, bar.window))
        value: float | None = getattr(entry, bar.metric) if entry else None
        passed = None if value is None else value <= bar.limit if bar.at_most else value >= bar.limit
        verdicts.append(Verdict(bar, value, passed))
    return verdicts


def to_json(rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a run: `results`, what follows from them, and `about`, the circumstances."""
    found = ratios(rows)
    verdicts = [{**verdict.bar._asdict(), "value": verdict.value, "passed": verdict.passed} for verdict in judge(found)]
    return {
        **about,
        "results": [row._asdict() for row in rows],
        "ratios": [entry._asdict() for entry in found],
        "verdicts": verdicts,
    }


def render(rows: Sequence[Row]) -> str:
    """The table, the ratios and the verdicts for people."""
    found = ratios(rows)
    verdicts = judge(found)
    sections = (_table(rows), _ratio_table(found), "\n".join(_verdict_line(verdict) for verdict in verdicts))
    return "\n\n".join((*sections, _summary(verdicts)))


def _table(rows: Sequence[Row]) -> str:
    lines = [
        f"{'operation':<10}{'window':>7}  {'contestant':<23}{'ops/s':>9}  {'(range)':<17}{'CPU µs/op':>10}  (range)"
    ]
    for row in _by_cell(rows):
        ops = "({:.0f}-{:.0f})".format(*row.ops_per_s_range)
        cpu = "({:.1f}-{:.1f})".format(*row.cpu_us_per_op_range)
        lines.append(
            f"{row.operation:<10}{row.window:>7}  {row.contestant:<23}"
            f"{row.ops_per_s:>9.0f}  {ops:<17}{row.cpu_us_per_op:>10.1f}  {cpu}"
        )
    return "\n".join(lines)


def _ratio_table(found: Sequence[Ratios]) -> str:
    lines = [
        f"{'operation':<10}{'window':>7}  {'contestant':<23}{'ops / raw':>11}{'ops / kazoo':>13}{'CPU / kazoo':>13}"
        f"{'time / plain':>14}{'ops / no TLS':>14}",
    ]
    for entry in _by_cell(found):
        raw, kazoo, cpu, plain, netty = ("-" if number is None else f"{number:.3f}" for number in entry[3:])
        head = f"{entry.operation:<10}{entry.window:>7}  {entry.contestant:<23}"
        lines.append(f"{head}{raw:>11}{kazoo:>13}{cpu:>13}{plain:>14}{netty:>14}")
    return "\n".join(lines)


def _by_cell(entries: Sequence[Any]) -> list[Any]:
    """The contestants of one operation and window together, cells in the order in which they first appear."""
    cells = list(dict.fromkeys(entry[1:3] for entry in entries))
    return sorted(entries, key=lambda entry: cells.index(entry[1:3]))


def _verdict_line(verdict: Verdict) -> str:
    bar = verdict.bar
    word = _word(verdict.passed)
    wanted = f"{'<=' if bar.at_most else '>='} {bar.limit:g} x {_METRICS[bar.metric]}"
    value = "-" if verdict.value is None else f"{verdict.value:.3f}"
    what = f"{bar.contestant} {bar.operation} window {bar.window}"
    return f"{word:<13}{bar.name:<20}{what:<35}{wanted:<31}got {value}"


def _summary(verdicts: Sequence[Verdict]) -> str:
    names = dict.fromkeys(verdict.bar.name for verdict in verdicts)
    parts = []
    for name in names:
        results = [verdict.passed for verdict in verdicts if verdict.bar.name == name]
        passed = False if False in results else None if None in results else True
        parts.append(f"{name}: {_word(passed)}")
    return "Bars: " + ", ".join(parts)


def _word(passed: bool | None) -> str:
    return {True: "PASS", False: "FAIL", None: "not measured"}[passed]
