"""Runs everything and writes reports/acceptance-<commit>.json; run by `scripts/acceptance`.

All of it, or the steps that are named: `scripts/acceptance test "demo 1"`.

Rules: every step is run, also after one that failed; the report says for each what was run, how long it took and how
it ended, and for the tests how many there were and with which seed; the exit code is 0 only if all were 0.
"""

# ruff: noqa: D103, S603, S607, T201 - a script: it prints, and runs what it names itself

from __future__ import annotations

import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
DEMO_RUNS = 3
WRITES = ("plain", "exactly_once")
PYTEST = (sys.executable, "-m", "pytest", "-q")
THOROUGH = {"EVERLATCH_HYPOTHESIS": "thorough"}
OVER_TLS = {"EVERLATCH_PROMISES_OVER": "tls"}
TRIAL = {"EVERLATCH_P3_WRITES": "100000"}
REAL_TRIAL = ("--operations", "100000", "--json", "reports/exactly-once-real.json")
EVERYDAY = ("reads-and-writes", "watches", "sessions")
THROUGHPUT = ROOT / "reports" / "throughput.json"


@dataclass
class Step:
    """One command of the acceptance run, and what became of it."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    counts: dict[str, int] | None = None
    seconds: float = 0.0
    exit_code: int | None = None


def steps(junit: Path, seed: int) -> list[Step]:
    junitxml = ["-o", "junit_family=xunit1", f"--junitxml={junit}"]  # the family that has records of tests
    pytest = [sys.executable, "-m", "pytest", f"--hypothesis-seed={seed}", *junitxml]
    sim = ["scripts/sim", "--processes", "2", "--seed", str(seed), "--seeds"]
    rivals = ["scripts/torture", "--linearizable", "--seed", str(seed)]
    return [
        Step("check", ["scripts/check"]),
        Step("test", ["scripts/test"]),
        Step("thorough", [*pytest, "tests"], THOROUGH, seed),
        Step("promises over TLS", [*pytest, "-m", "real", "tests/promises"], THOROUGH | OVER_TLS, seed),
        Step("3.13", ["scripts/test", "--on-3.13"]),
        Step("fuzz", ["scripts/fuzz", "--seconds", "600", "--inputs", "10000000", "--json", "reports/fuzz.json"]),
        Step("conformance", ["scripts/conformance", "--operations", "200000", "--seed", str(seed)]),
        Step("sim", [*sim, "1000", *(word for name in EVERYDAY for word in ("--name", name))]),
        Step("promises", [*sim, "2000", "--promises", "--json", "reports/promises.json"]),
        Step("promises, sasl", [*sim, "500", "--promises", "--sasl", "--json", "reports/promises-sasl.json"]),
        Step("leadership", [*sim, "2000", "--name", "leadership", "--json", "reports/leadership.json"]),
        Step("leases", ["scripts/torture", "--leases", "2000", "--seed", str(seed)]),
        Step("real leases", ["scripts/torture", "--leases", "100", "--real", "--seed", str(seed)]),
        Step("outcomes", [sys.executable, "-m", "torture.outcomes", "--json", "reports/outcomes.json"]),
        Step("exactly once", [*PYTEST, "tests/promises/test_p3_simulated.py", "-k", "every_50th"], TRIAL),
        Step("real exactly once", [sys.executable, "-m", "torture.exactly_once", "--real", *REAL_TRIAL]),
        Step("torture", ["scripts/torture", "--seconds", "300", "--seed", str(seed)]),
        Step("real torture", ["scripts/torture", "--real", "--seconds", "300", "--seed", str(seed)]),
        *(Step(f"linearizable, {writes}", [*rivals, "--seeds", "2000", "--writes", writes]) for writes in WRITES),
        *(
            Step(f"real linearizable, {writes}", [*rivals, "--real", "--seconds", "600", "--writes", writes])
            for writes in WRITES
        ),
        Step("real election", ["scripts/torture", "--election", "--real", "--seconds", "900", "--seed", str(seed)]),
        *(Step(f"demo {number}", ["scripts/demo"]) for number in range(1, DEMO_RUNS + 1)),
        Step("real demo", ["scripts/demo", "--real"]),
        Step("dev server bench", ["scripts/bench", "devserver", "--json", "reports/devserver.json"]),
        Step("rearming bench", ["scripts/bench", "rearming", "--check", "--json", "reports/rearming.json"]),
        Step("tree bench", ["scripts/bench", "tree", "--check", "--json", "reports/tree.json"]),
        Step("failover bench", ["scripts/bench", "failover", "--check", "--json", "reports/failover.json"]),
        Step("handover bench", ["scripts/bench", "handover", "--check", "--json", "reports/handover.json"]),
        Step("bench", ["scripts/bench", "throughput", "--json", str(THROUGHPUT.relative_to(ROOT))]),
    ]


def run(step: Step) -> None:
    print(f"\n══ {step.name}: {' '.join(step.command)}", flush=True)
    started = time.monotonic()
    environment = os.environ | step.environment
    done = subprocess.run(step.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False)
    step.exit_code = done.returncode
    step.seconds = round(time.monotonic() - started, 1)


def counts(junit: Path) -> dict[str, int] | None:
    if not junit.exists():
        return None
    # Our own pytest wrote it a moment ago: nothing to defend against.
    suites = list(ElementTree.parse(junit).getroot().iter("testsuite"))  # noqa: S314
    return {
        name: sum(int(suite.get(name, "0")) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }


def verdicts() -> list[dict[str, object]]:
    """The bars of the throughput benchmark, each with what was measured and whether it was reached."""
    found: list[dict[str, object]] = json.loads(THROUGHPUT.read_text())["verdicts"]
    return found


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def describe(done: list[Step], commit: str, *, dirty: bool, bars: list[dict[str, object]]) -> dict[str, object]:
    return {
        "commit": commit,
        "uncommitted_changes": dirty,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs",
        "passed": all(step.exit_code == 0 for step in done) and all(bar["passed"] for bar in bars),
        "seconds": round(sum(step.seconds for step in done), 1),
        "bars": bars,
        # Without this machine's paths: a report is committed.
        "steps": [asdict(step) | {"command": " ".join(map(shorten, step.command))} for step in done],
    }


def shorten(word: str) -> str:
    option, _, value = word.rpartition("=")
    short = Path(value).name if Path(value).is_absolute() else value
    return f"{option}={short}" if option else short


def main() -> int:
    # Before anything runs: what the report is about is what was there then.
    commit, dirty = git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    THROUGHPUT.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        junit = Path(scratch) / "junit.xml"
        planned = steps(junit, seed=secrets.randbelow(2**32))
        if sys.argv[1:]:
            planned = [step for step in planned if step.name in sys.argv[1:]]
        for step in planned:
            junit.unlink(missing_ok=True)  # that of the step before says nothing of this one
            run(step)
            if step.seed is not None:
                step.counts = counts(junit)
    measured = any(step.name == "bench" for step in planned) and THROUGHPUT.exists()  # and not by an earlier run
    report = describe(planned, commit, dirty=dirty, bars=verdicts() if measured else [])
    path = ROOT / "reports" / f"acceptance-{git('rev-parse', '--short', commit)}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    for step in planned:
        print(f"{step.seconds:8.1f} s  exit {step.exit_code}  {step.name}")
    print(f"{'passed' if report['passed'] else 'FAILED'}; see {path.relative_to(ROOT)}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
