"""Simulated runs: the client keeps its promises in them, and the same seed is the same run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from torture.history import Ending
from torture.linearizable import Kind
from torture.rules.registers import UNKNOWN, counted
from torture.simulated import run
from torture.worlds import MOODS, setting_of

ROOT = Path(__file__).parents[2]

DIGEST = """
import hashlib, sys
from torture.simulated import run
from torture.worlds import setting_of
history = run(setting_of(5, mood="all", seconds=10.0), "").history
told = [(call.began, call.kind, call.path, call.ended, call.error, str(call.result))
        for calls in history.calls.values() for call in calls]
print(hashlib.sha256(repr((told, history.log, history.states)).encode()).hexdigest())
"""


@pytest.mark.parametrize("mood", MOODS)
def test_nothing_is_found(mood):
    outcome = run(setting_of(1, mood=mood, seconds=30.0), "")
    assert outcome.violations == []


def test_what_many_write_to_is_linearizable():
    outcome = run(setting_of(7, mood="links", seconds=10.0, work="registers"), "")
    assert outcome.violations == []
    counts = counted(outcome.history)
    assert counts["registers"] == 4
    assert counts[UNKNOWN] > 0
    assert all(counts[f"on registers: {kind.value}"] for kind in Kind if kind is not Kind.WITNESS), counts


def test_everything_happens():
    history = run(setting_of(2, mood="all", seconds=60.0), "").history
    calls = [call for calls in history.calls.values() for call in calls]
    assert {call.kind for call in calls} == {
        "get",
        "exists",
        "children",
        "sync",
        "set",
        "create",
        "delete",
        "transaction",
    }
    assert {call.ending for call in calls} >= {Ending.OK, Ending.REFUSED, Ending.UNKNOWN}
    states = Counter(state.state for state in history.states)
    assert all(states[name] for name in ("CONNECTED", "SUSPENDED", "LOST", "RENEWED", "CLOSED"))
    assert any(call.watch.fired for call in calls if call.watch is not None)
    assert any(event.type == "MISSED" for seen in history.subscriptions for event in seen.fired)
    assert len({belief.token for belief in history.beliefs}) > 1
    assert any(call.token and call.ending is Ending.OK for call in calls)
    assert history.final
    assert len(history.faults) > 10


def test_a_seed_is_a_run():
    digests = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1
