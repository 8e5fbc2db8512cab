"""The command line, on two processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torture.__main__ import main
from torture.leases import Tally, Trial

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


def test_rivals(tmp_path):
    report = tmp_path / "linearizable.json"
    done = torture(*["--linearizable", "--seeds", "2", "--seed", "3", "--length", "5", "--json"], str(report))
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text())
    assert (told["runs"], told["seed"], told["writes"], told["violations"]) == (2, 3, "plain", [])
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?|unknown", told["commit"])
    assert told["unknown"] == told["seen"].get("on registers: outcome unknown", 0)
    assert told["seen"]["registers"] == 8


def test_what_rivals_find_is_told_with_what_replays_it():
    arguments = ["--worlds", "1", "--seed", "1", "--length", "4", "--linearizable", "--mood", "links"]
    arguments += ["--planted", "unknown-told-as-not-applied"]
    done = torture(*arguments)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith(f"(seed 1; again: scripts/torture {' '.join(arguments)})")


def test_no_time_is_no_world(capsys):
    assert main(["--seconds", "0", "--json", "/dev/null"]) == 0
    assert capsys.readouterr().out.endswith("torture: 0 operations, 0 faults, 0.0 virtual hours, 0 violations\n")


def test_trials_of_the_lease(tmp_path, capsys):
    report = tmp_path / "leases.json"
    assert main(["--leases", "4", "--seed", "1", "--processes", "1", "--json", str(report)]) == 0
    told = json.loads(report.read_text())
    assert (told["seed"], told["trials"], told["lease_outlived"]) == (1, 4, 0)
    assert "torture: 4 trials, in 4 the session ended; the lease outlived 0" in capsys.readouterr().out


def test_trials_that_do_not_catch_the_naive_lease_show_nothing(tmp_path, capsys, monkeypatch):
    tally = Tally()
    tally.trials += [Trial(str(seed), "nothing", -1.0, -0.5, True) for seed in range(50)]
    monkeypatch.setattr("torture.__main__.simulated", lambda *_: tally)
    assert main(["--leases", "50", "--json", str(tmp_path / "leases.json")]) == 1
    assert "these trials show nothing" in capsys.readouterr().out


def test_a_lease_that_outlived_its_session_is_told_with_what_repeats_it(tmp_path, capsys, monkeypatch):
    tally = Tally()
    tally.trials.append(Trial("7", "follower frozen", 0.25, 0.5, True))
    monkeypatch.setattr("torture.__main__.simulated", lambda *_: tally)
    assert main(["--leases", "1", "--json", str(tmp_path / "leases.json")]) == 1
    assert (
        "trial 7, follower frozen: lease +0.250 s, naive lease +0.500 s; again: scripts/torture --leases 1 --seed 7"
        in (capsys.readouterr().out)
    )


def test_the_election_is_one_of_real_servers(capsys):
    with pytest.raises(SystemExit):
        main(["--election"])
    assert "scripts/sim --name leadership" in capsys.readouterr().err
