"""`scripts/bench rearming`: its verdicts and texts, and that a short run measures everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # bench belongs to the checkout, not to the installed package

from bench.rearming import BARS, Figures, judge, render, to_json  # noqa: E402
from bench.watcher import path_of  # noqa: E402

ON_THE_LIMIT = Figures("3.9.5", 100_000, (0.2, 3.0, 0.3), (40.0, 50.0, 60.0), 26, 128 * 1024, 400.0)


def test_paths_have_thirty_characters() -> None:
    assert {len(path_of(number)) for number in (0, 99_999)} == {30}


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, None),
        ({"reconnected_s": (0.1, 3.01)}, "slowest_s"),
        ({"largest_frame": 128 * 1024 + 1}, "largest_frame"),
        ({"bytes_per_watch": 400.1}, "bytes_per_watch"),
    ],
)
def test_each_bar_is_missed_alone(change: dict, missed: str | None) -> None:
    figures = ON_THE_LIMIT._replace(**change)
    assert [name for name, passed in judge(figures).items() if not passed] == [missed] * bool(missed)
    lines = render([figures]).splitlines()
    assert [line.split()[2] for line in lines if line.startswith("FAIL")] == [missed] * bool(missed)
    assert len([line for line in lines if line.startswith("PASS")]) == len(BARS) - bool(missed)


def test_the_json_has_all_figures() -> None:
    (result,) = json.loads(json.dumps(to_json([ON_THE_LIMIT])))["results"]
    assert result["reconnected_s"] == [0.2, 3.0, 0.3]
    assert result["slowest_s"] == 3.0
    assert result["passed"] == dict.fromkeys(BARS, True)


@pytest.mark.real
def test_a_short_run_on_a_real_server(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ("--versions", "3.9", "--rounds", "1", "--watches", "5000", "--json", str(report))
    done = subprocess.run(
        [sys.executable, "-m", "bench", "rearming", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads(report.read_text())["results"]
    assert result["zookeeper"].startswith("3.9")
    assert (result["watches"], result["frames"], len(result["reconnected_s"])) == (5000, 2, 1)
    assert result["largest_frame"] > 64 * 1024
    assert result["bytes_per_watch"] > 80  # (with so few of them, what the client keeps anyhow weighs as much)
