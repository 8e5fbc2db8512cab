"""The command line, on two processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from torture.__main__ import main

ROOT = Path(__file__).parents[2]


def torture(*arguments):
    command = [sys.executable, "-m", "torture", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_few_worlds(tmp_path):
    report = tmp_path / "torture.json"
    done = torture("--worlds", "2", "--seed", "3", "--length", "10", "--json", str(report))
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"torture: \d+ operations, \d+ faults, 0\.\d virtual hours, 0 violations", last)
    told = json.loads(report.read_text())
    assert told["runs"] == 2
    assert told["violations"] == []
    assert f"{told['operations']} operations, {told['faults']} faults" in last


def test_what_is_found_is_told_with_what_replays_it():
    arguments = ["--worlds", "1", "--seed", "1", "--length", "10", "--mood", "open", "--planted", "reordered-queue"]
    done = torture(*arguments)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith("torture: order: call ")
    assert last.endswith(f"(seed 1; again: scripts/torture {' '.join(arguments)})")
    assert "faults" in done.stdout


def test_no_time_is_no_world(capsys):
    assert main(["--seconds", "0", "--json", "/dev/null"]) == 0
    assert capsys.readouterr().out.endswith("torture: 0 operations, 0 faults, 0.0 virtual hours, 0 violations\n")
