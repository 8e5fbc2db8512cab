"""The README's table, from a report that `throughput --json` has written. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["table"]

_CONTESTANTS = ("everlatch-asyncio", "everlatch-uvloop", "kazoo", "aiozk", "raw")


def table(report: Mapping[str, Any]) -> str:
    """One line per operation and window: thousand operations per second, and in brackets µs of CPU per operation."""
    rows = {(row["operation"], row["window"], row["contestant"]): row for row in report["results"]}
    cells = dict.fromkeys(key[:2] for key in rows)
    lines = [
        "| operation, calls in flight | " + " | ".join(_CONTESTANTS) + " |",
        "|---|" + "---:|" * len(_CONTESTANTS),
    ]
    for operation, window in cells:
        numbers = [_cell(rows.get((operation, window, contestant))) for contestant in _CONTESTANTS]
        lines.append(f"| `{operation}`, {window} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    cpu = row["cpu_us_per_op"]
    return f"{row['ops_per_s'] / 1000:.3g} k/s ({f'{cpu:.0f}' if cpu >= 100 else f'{cpu:.3g}'})"
