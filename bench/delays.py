"""From delays to numbers that count: medians, verdicts, and their text. Pure: no clock, no process, no file.

Rules of this file:
- A bar compares medians of one run; one that is in milliseconds says so. Times of different runs are never compared.
- A bar whose numbers are missing is "not measured", never passed.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["JUDGED", "Bar", "Row", "Verdict", "judge", "passed", "render", "table", "to_json", "to_row"]

JUDGED = "everlatch"
"""Whom the bars are for."""


class Row(NamedTuple):
    """One contestant in one case: the delays of all rounds, in milliseconds, in the order of the rounds."""

    contestant: str
    case: str
    delays_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Over the rounds."""
        return round(median(self.delays_ms), 3)

    @property
    def worst_ms(self) -> float:
        """Of all rounds."""
        return max(self.delays_ms)


class Bar(NamedTuple):
    """A number that has to be reached: the median of `JUDGED` is at most `limit` × that of another, or `limit` ms."""

    case: str
    against: str | None
    limit: float

    def __str__(self) -> str:
        wanted = f"{self.limit:g} ms" if self.against is None else f"{self.limit:.3g} x {self.against}"
        return f"{self.case}: {JUDGED} <= {wanted}"


class Verdict(NamedTuple):
    """What became of a bar; `value` is in its unit, and None like `passed` when it was not measured."""

    bar: Bar
    value: float | None
    passed: bool | None


def to_row(contestant: str, case: str, delays_ms: Iterable[float]) -> Row:
    """Of all rounds; to a microsecond, which is more than the machine's noise allows."""
    return Row(contestant, case, tuple(round(delay, 3) for delay in delays_ms))


def judge(rows: Iterable[Row], bars: Iterable[Bar]) -> list[Verdict]:
    """One verdict a bar, in the order of the bars."""
    medians = {(row.contestant, row.case): row.median_ms for row in rows}
    verdicts = []
    for bar in bars:
        own = medians.get((JUDGED, bar.case))
        unit = 1.0 if bar.against is None else medians.get((bar.against, bar.case))
        value = None if own is None or unit is None else own / unit
        verdicts.append(Verdict(bar, value, None if value is None else value <= bar.limit))
    return verdicts


def passed(verdicts: Iterable[Verdict]) -> bool:
    """Whether all bars were measured and reached."""
    return all(verdict.passed for verdict in verdicts)


def to_json(
    rows: Sequence[Row], verdicts: Sequence[Verdict], about: Mapping[str, Any], case: str, constant: Mapping[str, Any]
) -> dict[str, Any]:
    """The report of a run. `case` is what the results call a case, `constant` what each of them has besides."""
    return {
        **about,
        "results": [
            {
                "contestant": row.contestant,
                case: row.case,
                **constant,
                "median_ms": row.median_ms,
                "worst_ms": row.worst_ms,
                "rounds": len(row.delays_ms),
            }
            for row in rows
        ],
        "delays_ms": [{"contestant": row.contestant, case: row.case, "delays": list(row.delays_ms)} for row in rows],
        "verdicts": [
            {**verdict.bar._asdict(), "value": verdict.value, "passed": verdict.passed} for verdict in verdicts
        ],
    }


def table(results: Sequence[Mapping[str, Any]], case: str) -> str:
    """In Markdown, from the `results` of a report: a line for each contestant, medians, and in brackets the worst."""
    cells = {(row["contestant"], row[case]): row for row in results}
    cases = list(dict.fromkeys(row[case] for row in results))
    lines = [f"| median (worst) | {' | '.join(cases)} |", "|---|" + "---:|" * len(cases)]
    for contestant in dict.fromkeys(row["contestant"] for row in results):
        numbers = (_cell(cells.get((contestant, each))) for each in cases)
        lines.append(f"| {contestant} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    return "–" if row is None else f"{_time(row['median_ms'])} ({_time(row['worst_ms'])})"


def _time(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.2f} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"


def render(results: Sequence[Mapping[str, Any]], case: str, verdicts: Sequence[Verdict]) -> str:
    """The table and the verdicts for people."""
    return "\n".join([table(results, case), "", *(_verdict_line(verdict) for verdict in verdicts)])


def _verdict_line(verdict: Verdict) -> str:
    word = {True: "PASS", False: "FAIL", None: "not measured"}[verdict.passed]
    value = "" if verdict.value is None else f", got {verdict.value:.3g}"
    return f"{word:<13}{verdict.bar}{value}"
