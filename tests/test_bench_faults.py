"""`scripts/bench failover` and `handover`: arithmetic and protocol; and that a short run reports all numbers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # bench belongs to the checkout, not to the installed package

from bench import failover, handover  # noqa: E402
from bench.__main__ import _parser, main  # noqa: E402
from bench.delays import judge, passed, render, table, to_json, to_row  # noqa: E402
from bench.gaps import SHORTEST_NS, Gap, Gaps, longest_after  # noqa: E402
from bench.java_probes import compile_probes  # noqa: E402
from bench.probe import probe  # noqa: E402
from bench.process import MeasurementError  # noqa: E402
from bench.reading import READS_AFTER, READS_BEFORE, Reading  # noqa: E402
from bench.ring import is_whole, watches_in  # noqa: E402

MS = 1_000_000


def failover_rows(**changed: float):
    medians = {
        ("raw", "kill"): 10.0,
        ("everlatch", "kill"): 15.0,
        ("kazoo", "kill"): 60.0,
        ("java", "kill"): 60.0,
        ("everlatch", "stop"): 1200.0,
        ("kazoo", "stop"): 3600.0,
        ("java", "stop"): 3600.0,
    }
    medians |= {tuple(name.split("_")): value for name, value in changed.items()}
    return [to_row(*key, [value]) for key, value in medians.items()]


# --- gaps -----------------------------------------------------------------------------------------------------------


def test_gaps_are_those_between_successes_that_are_long_enough() -> None:
    times = iter([5 * MS, 6 * MS - 1, 7 * MS - 1, 7 * MS, 50 * MS])
    gaps = Gaps(lambda: next(times))
    for _ in range(5):
        gaps.succeeded()
    assert gaps.found == [Gap(6 * MS - 1, 7 * MS - 1), Gap(7 * MS, 50 * MS)]
    assert gaps.found[0].ended - gaps.found[0].began == SHORTEST_NS
    assert gaps.found[1].milliseconds == 43.0


def test_the_gap_that_counts_is_the_longest_that_was_not_over_when_the_fault_came() -> None:
    before, hiccup, outage, after = Gap(0, 900), Gap(950, 1001), Gap(1010, 1300), Gap(1400, 1500)
    gaps = [before, hiccup, outage, after]
    assert longest_after(gaps, 1000) == outage
    assert longest_after(gaps, 900) == before  # it may have begun long before: the last answer is what counts
    assert longest_after(gaps, 1301) == after
    assert longest_after(gaps, 1501) is None


# --- what a reader does ---------------------------------------------------------------------------------------------


class Bench:
    """What a reader is told, and what it says."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.fault_is_over = threading.Event()

    def __iter__(self):
        self.fault_is_over.wait()
        yield "over"

    def reading(self, gaps: Gaps | None = None) -> Reading:
        return Reading(77, self, self.said.append, gaps)


def read(reading: Reading, times: int) -> None:
    for _ in range(times):
        assert reading.goes_on()
        reading.succeeded()


def test_a_reader_is_ready_after_many_reads_and_says_so_once() -> None:
    bench = Bench()
    reading = bench.reading()
    read(reading, READS_BEFORE - 1)
    assert bench.said == []
    read(reading, 1)
    assert bench.said == ["ready 77"]
    read(reading, READS_BEFORE)
    assert bench.said == ["ready 77"]
    bench.fault_is_over.set()


def test_a_reader_ends_only_after_reads_that_it_began_when_the_fault_was_complete() -> None:
    bench = Bench()
    times = iter(range(0, 10**15, 10 * MS))
    reading = bench.reading(Gaps(lambda: next(times)))
    read(reading, 3)
    assert reading.goes_on()
    bench.fault_is_over.set()
    assert reading._fault_is_over.wait(10)
    reading.succeeded()  # begun before: the faulty server may have answered
    read(reading, READS_AFTER)
    assert not reading.goes_on()
    reading.tell()
    assert bench.said[0] == f"gap 0 {10 * MS}"
    assert len(bench.said) == 3 + READS_AFTER + 1
    assert bench.said[-1] == "done"


# --- what the servers tell of an election ---------------------------------------------------------------------------


def test_watches_are_read_by_path_with_signed_session_ids() -> None:
    answer = "/e/a\n\t0x1000\n\t0xff00000000000001\n/e/b\n\t0x1000\n"
    assert watches_in(answer) == {("/e/a", 0x1000), ("/e/a", 0xFF00000000000001 - (1 << 64)), ("/e/b", 0x1000)}
    assert watches_in("") == set()


def test_an_election_is_whole_when_each_watches_the_one_before() -> None:
    owners = [("/e/1", 10), ("/e/2", 20), ("/e/3", 30)]
    assert is_whole(owners, {("/e/1", 20), ("/e/2", 30), ("/e/3", 30)})
    assert not is_whole(owners, {("/e/1", 20), ("/e/1", 30)})
    assert is_whole(owners[:1], set())


# --- numbers and verdicts -------------------------------------------------------------------------------------------


def test_a_row_has_the_median_and_the_worst_of_its_rounds() -> None:
    row = to_row("raw", "kill", [3.00049, 1.0, 900.0, 2.0])
    assert (row.median_ms, row.worst_ms, row.delays_ms) == (2.5, 900.0, (3.0, 1.0, 900.0, 2.0))


def test_values_on_the_limit_pass_every_bar() -> None:
    verdicts = judge(failover_rows(), failover.BARS)
    assert [verdict.passed for verdict in verdicts] == [True] * len(failover.BARS)
    assert passed(verdicts)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"raw_kill": 9.9}, {("kill", "raw")}),
        ({"kazoo_kill": 59.0}, {("kill", "kazoo")}),
        ({"java_kill": 59.0}, {("kill", "java")}),
        ({"kazoo_stop": 3500.0}, {("stop", "kazoo")}),
        ({"java_stop": 3500.0}, {("stop", "java")}),
        ({"everlatch_stop": 1201.0, "kazoo_stop": 9e3, "java_stop": 9e3}, {("stop", None)}),
    ],
)
def test_a_missed_bar_fails_alone(changed: dict[str, float], missed: set) -> None:
    verdicts = judge(failover_rows(**changed), failover.BARS)
    assert {(verdict.bar.case, verdict.bar.against) for verdict in verdicts if not verdict.passed} == missed
    assert not passed(verdicts)


def test_what_was_not_measured_is_never_passed() -> None:
    rows = [row for row in failover_rows() if row.contestant != "java"]
    verdicts = judge(rows, failover.BARS)
    assert {verdict.bar.against for verdict in verdicts if verdict.passed is None} == {"java"}
    assert not passed(verdicts)
    assert [verdict.passed for verdict in judge([], handover.BARS)] == [None] * len(handover.BARS)


def test_a_resignation_is_judged_by_the_clock_and_against_both_others() -> None:
    rows = [to_row(name, "resign", [delay]) for name, delay in (("everlatch", 3.0), ("kazoo", 2.9), ("curator", 3.0))]
    bars = [bar for bar in handover.BARS if bar.case == "resign"]
    assert [verdict.passed for verdict in judge(rows, bars)] == [True, False, True]


def test_a_crash_with_a_guardian_is_everlatchs_alone_and_judged_by_the_clock() -> None:
    plan = handover.HandoverPlan(("raw", "everlatch"), handover.HOW, 1)
    assert plan.of("crash") == ("raw", "everlatch")
    assert [handover._called(name) for name in plan.of("crash-guardian")] == ["everlatch"]
    assert handover.HandoverPlan(("raw",), handover.HOW, 1).guarded == ()
    bars = [bar for bar in handover.BARS if bar.case == "crash-guardian"]
    for delay, passes in ((30.0, True), (31.0, False)):
        assert [verdict.passed for verdict in judge([to_row("everlatch", "crash-guardian", [delay])], bars)] == [passes]


def test_bars_are_for_contestants_and_cases_that_are_measured() -> None:
    for module, cases in ((failover, {"kill", "stop"}), (handover, set(handover.HOW))):
        for bar in module.BARS:
            assert bar.case in cases
            assert bar.against in (None, *module.CONTESTANTS)


def test_the_json_has_the_results_in_the_form_that_is_promised() -> None:
    rows = [to_row("raw", "resign", [4.0, 2.0, 3.0])]
    report = json.loads(json.dumps(to_json(rows, [], {"benchmark": "handover"}, handover.CASE, handover.CONSTANT)))
    assert report["results"] == [
        {"contestant": "raw", "how": "resign", "members": 6, "median_ms": 3.0, "worst_ms": 4.0, "rounds": 3}
    ]
    assert report["benchmark"] == "handover"
    assert report["delays_ms"] == [{"contestant": "raw", "how": "resign", "delays": [4.0, 2.0, 3.0]}]
    (result,) = to_json([to_row("raw", "kill", [1.0])], [], {}, failover.CASE, {})["results"]
    assert result == {"contestant": "raw", "fault": "kill", "median_ms": 1.0, "worst_ms": 1.0, "rounds": 1}


def test_the_table_is_markdown_with_a_line_for_each_contestant() -> None:
    rows = [to_row("raw", "kill", [2.345, 30.0, 1.0]), to_row("raw", "stop", [250.0]), to_row("java", "stop", [4567.0])]
    assert table(to_json(rows, [], {}, "fault", {})["results"], "fault").splitlines() == [
        "| median (worst) | kill | stop |",
        "|---|---:|---:|",
        "| raw | 2.35 ms (30 ms) | 250 ms (250 ms) |",
        "| java | – | 4.57 s (4.57 s) |",
    ]


def test_the_text_has_a_line_for_every_bar() -> None:
    rows = failover_rows(everlatch_kill=20.0)
    verdicts = judge([row for row in rows if row.contestant != "java"], failover.BARS)
    lines = render(to_json(rows, [], {}, "fault", {})["results"], "fault", verdicts).splitlines()
    assert lines[-6] == "FAIL         kill: everlatch <= 1.5 x raw, got 2"
    assert lines[-4] == "not measured kill: everlatch <= 0.25 x java"
    assert lines[-3] == "PASS         stop: everlatch <= 1200 ms, got 1.2e+03"


# --- processes ------------------------------------------------------------------------------------------------------


async def test_a_probe_is_told_and_heard_and_is_dead_after_the_block() -> None:
    script = "import sys\nfor line in sys.stdin: print('heard', len(line), flush=True)"
    async with probe("echo", [sys.executable, "-c", script]) as echo:
        echo.tell("four")
        assert await echo.expect("heard") == [5]
        os.kill(echo.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(echo.pid, 0)


async def test_a_probe_that_ends_or_says_something_else_voids_the_run() -> None:
    script = "import sys; print('oh', 1, flush=True); sys.exit('what went wrong')"
    async with probe("it", [sys.executable, "-c", script]) as failing:
        with pytest.raises(MeasurementError, match="it said 'oh' instead of 'leads'"):
            await failing.expect("leads")
        with pytest.raises(MeasurementError, match=r"(?s)it has ended.*what went wrong"):
            await failing.expect("leads")


@pytest.mark.real
def test_the_java_probes_compile(tmp_path: Path) -> None:
    probes = asyncio.run(compile_probes(tmp_path))
    assert {path.stem for path in tmp_path.glob("[A-Z]*.class")} >= {"Reader", "Member"}
    assert probes.command("Reader", "x")[-2:] == ("Reader", "x")


# --- the command line -----------------------------------------------------------------------------------------------


def test_json_goes_to_a_file_or_to_the_standard_output() -> None:
    parse = _parser().parse_args
    assert parse(["failover"]).json is None
    assert parse(["failover", "--json"]).json == Path("-")
    assert parse(["handover", "--json", "x.json", "--check"]).json == Path("x.json")
    assert parse(["handover"]).rounds == 10
    assert parse(["handover"]).contestants == ("raw", "everlatch", "kazoo", "curator")


def test_another_contestant_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["failover", "--contestants", "curator"])
    assert "--contestants" in capsys.readouterr().err


@pytest.mark.real
def test_one_round_against_real_servers_reports_every_number() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "failover", "--contestants", "everlatch", "--rounds", "1", "--json", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr  # --check: most bars were not measured
    report = json.loads(done.stdout)
    assert [(each["contestant"], each["fault"], each["rounds"]) for each in report["results"]] == [
        ("everlatch", "kill", 1),
        ("everlatch", "stop", 1),
    ]
    for each in report["results"]:
        assert 0 < each["median_ms"] == each["worst_ms"] < 6000
    assert report["zookeeper"].startswith("3.9")
    assert report["server_death_ms"] > 0
