"""The benchmark's own arithmetic and fairness; and that a run against a real server reports what it must."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # bench belongs to the checkout, not to the installed package

from bench.__main__ import _parser, main  # noqa: E402
from bench.contestants import CONTESTANTS  # noqa: E402
from bench.contestants.asyncio_window import measure_asyncio  # noqa: E402
from bench.contestants.raw_socket import _drive  # noqa: E402
from bench.markdown import table  # noqa: E402
from bench.plain import read_names  # noqa: E402
from bench.report import BARS, Bar, judge, ratios, render, to_json, to_row  # noqa: E402
from bench.stopwatch import Sample, Stopwatch  # noqa: E402
from bench.throughput import Plan, order  # noqa: E402
from bench.workload import (  # noqa: E402
    CELLS,
    CROWD_SIZE,
    DEFAULT_COUNTS,
    OPERATIONS,
    VALUE,
    Cell,
    CreatedPaths,
    Job,
    WrongReplyError,
    check_children,
    check_get,
    check_set,
)


def row(contestant: str, ops: float, cpu: float, operation: str = "get", window: int = 1000):
    return to_row(contestant, operation, window, [Sample(ops, cpu)])


def passing_rows():
    return [
        row("raw", 20_000, 15),
        row("kazoo", 6_000, 125),
        row("everlatch-asyncio", 16_000, 25),
        row("everlatch-uvloop", 18_000, 15),
        row("raw", 4_000, 60, window=1),
        row("kazoo", 2_000, 200, window=1),
        row("everlatch-asyncio", 3_000, 80, window=1),
        row("everlatch-uvloop", 3_400, 70, window=1),
        row("everlatch-asyncio", 8_000, 40, "set", 64),
        row("everlatch-exactly-once", 5_000, 60, "set", 64),
        row("everlatch-asyncio", 8_000, 40, "create", 64),
        row("everlatch-exactly-once", 5_000, 60, "create", 64),
        row("everlatch-asyncio-netty", 20_000, 20),
        row("everlatch-asyncio-tls", 16_000, 25),
        row("everlatch-uvloop-netty", 20_000, 20),
        row("everlatch-uvloop-tls", 16_000, 25),
    ]


# --- medians and ratios ---------------------------------------------------------------------------------------------


def test_a_row_has_the_medians_and_the_ranges_of_its_samples() -> None:
    found = to_row("raw", "get", 1, [Sample(10, 9), Sample(1000, 1), Sample(20, 5)])
    assert found == ("raw", "get", 1, 20, 5, (10, 1000), (1, 9))


def test_rate_and_cpu_have_medians_of_their_own() -> None:
    found = to_row("raw", "get", 1, [Sample(1, 1), Sample(2, 3), Sample(3, 2)])
    assert (found.ops_per_s, found.cpu_us_per_op) == (2, 2)


def test_ratios_compare_the_same_operation_and_window_only() -> None:
    rows = [row("raw", 100, 1), row("kazoo", 20, 50), row("aiozk", 50, 10), row("raw", 7, 7, window=1)]
    rows.append(row("aiozk", 14, 7, window=1))
    found = {entry[:3]: entry[3:] for entry in ratios(rows)}
    assert found["aiozk", "get", 1000] == (0.5, 2.5, 0.2, None, None)
    assert found["aiozk", "get", 1] == (2.0, None, None, None, None)
    assert found["kazoo", "get", 1000] == (0.2, 1.0, 1.0, None, None)


def test_the_time_for_being_exactly_once_is_against_plain_writes() -> None:
    rows = [row("everlatch-asyncio", 300, 1, "set", 64), row("everlatch-exactly-once", 200, 1, "set", 64)]
    assert ratios(rows)[1].time_vs_plain == 1.5


def test_what_tls_costs_is_against_the_same_client_at_the_same_server() -> None:
    rows = [row("everlatch-uvloop-netty", 100, 1), row("everlatch-uvloop-tls", 90, 1), row("everlatch-uvloop", 200, 1)]
    assert [entry.ops_vs_netty for entry in ratios(rows)] == [None, 0.9, None]


# --- verdicts -------------------------------------------------------------------------------------------------------


def test_a_value_on_the_limit_passes_every_bar() -> None:
    assert [verdict.passed for verdict in judge(ratios(passing_rows()))] == [True] * len(BARS)


@pytest.mark.parametrize(
    ("contestant", "window", "ops", "cpu", "failed"),
    [
        ("everlatch-asyncio", 1000, 15_900, 25, {("asyncio, pipelined", "ops_vs_raw")}),
        ("everlatch-asyncio", 1000, 16_000, 25.1, {("asyncio, pipelined", "cpu_vs_kazoo")}),
        ("everlatch-uvloop", 1000, 17_900, 15, {("uvloop, pipelined", "ops_vs_raw")}),
        ("everlatch-uvloop", 1000, 18_000, 15.1, {("uvloop, pipelined", "cpu_vs_kazoo")}),
        (
            "everlatch-uvloop",
            1000,
            11_900,
            14.4,
            {("uvloop, pipelined", "ops_vs_raw"), ("twice kazoo", "ops_vs_kazoo")},
        ),
        ("everlatch-asyncio", 1, 2_990, 80, {("one at a time", "ops_vs_raw")}),
        ("everlatch-uvloop", 1, 3_390, 70, {("one at a time", "ops_vs_raw")}),
        ("everlatch-exactly-once", 64, 4_990, 60, {("exactly once", "time_vs_plain")}),
        ("everlatch-uvloop-tls", 1000, 15_990, 60, {("over TLS", "ops_vs_netty")}),
    ],
)
def test_a_missed_bar_fails_alone(contestant: str, window: int, ops: float, cpu: float, failed: set) -> None:
    rows = [entry for entry in passing_rows() if (entry.contestant, entry.window) != (contestant, window)]
    operations = ("set", "create") if window == 64 else ("get",)
    verdicts = judge(ratios([*rows, *[row(contestant, ops, cpu, operation, window) for operation in operations]]))
    assert {(verdict.bar.name, verdict.bar.metric) for verdict in verdicts if not verdict.passed} == failed


def test_what_was_not_measured_is_never_passed() -> None:
    without_kazoo = [entry for entry in passing_rows() if entry.contestant != "kazoo"]
    passed = {verdict.bar: verdict.passed for verdict in judge(ratios(without_kazoo))}
    assert {bar.metric for bar, result in passed.items() if result is None} == {"ops_vs_kazoo", "cpu_vs_kazoo"}
    assert {bar.metric for bar, result in passed.items() if result} == {"ops_vs_raw", "time_vs_plain", "ops_vs_netty"}
    assert [verdict.passed for verdict in judge([])] == [None] * len(BARS)


def test_a_bar_names_a_number_that_is_measured() -> None:
    for bar in BARS:
        assert bar.contestant in CONTESTANTS
        assert Cell(bar.operation, bar.window) in CELLS


def test_an_upper_limit_is_not_a_lower_one() -> None:
    bar = Bar("low", "kazoo", "get", 1000, "ops_vs_raw", 0.3, at_most=True)
    assert [verdict.passed for verdict in judge(ratios(passing_rows()), [bar])] == [True]
    assert [verdict.passed for verdict in judge(ratios(passing_rows()), [bar._replace(limit=0.29)])] == [False]


# --- the text and the JSON ------------------------------------------------------------------------------------------


def test_the_text_has_a_line_for_every_row_and_bar() -> None:
    rows = [entry for entry in passing_rows() if (entry.contestant, entry.window) != ("everlatch-uvloop", 1)]
    text = render([*rows, row("everlatch-uvloop", 100, 70, window=1)])
    lines = text.splitlines()
    assert sum(line.startswith("PASS") for line in lines) == len(BARS) - 1
    (missed,) = (line for line in lines if line.startswith("FAIL"))
    assert "everlatch-uvloop get window 1 " in missed
    assert ">= 0.85 x ops/s of raw" in missed
    assert missed.endswith("got 0.025")
    assert lines[-1] == (
        "Bars: asyncio, pipelined: PASS, uvloop, pipelined: PASS, twice kazoo: PASS, one at a time: FAIL, "
        "exactly once: PASS, over TLS: PASS"
    )
    assert sum(line.startswith(("get ", "set ", "create ")) for line in lines) == 2 * len(passing_rows())


def test_the_text_shows_a_missing_ratio_as_a_dash() -> None:
    lines = render([row("aiozk", 100, 5)]).splitlines()
    assert any(line.split() == ["get", "1000", "aiozk", "-", "-", "-", "-", "-"] for line in lines)
    assert "not measured" in lines[-1]


def test_the_json_has_results_ratios_verdicts_and_circumstances() -> None:
    report = json.loads(json.dumps(to_json(passing_rows(), {"rounds": 9})))
    assert report["rounds"] == 9
    first = report["results"][0]
    assert first == {
        "contestant": "raw",
        "operation": "get",
        "window": 1000,
        "ops_per_s": 20_000,
        "cpu_us_per_op": 15,
        "ops_per_s_range": [20_000, 20_000],
        "cpu_us_per_op_range": [15, 15],
    }
    assert len(report["results"]) == len(report["ratios"]) == len(passing_rows())
    assert [verdict["passed"] for verdict in report["verdicts"]] == [True] * len(BARS)


# --- fairness -------------------------------------------------------------------------------------------------------


def test_over_the_rounds_everybody_is_first() -> None:
    orders = [order(CONTESTANTS, number) for number in range(len(CONTESTANTS))]
    assert {names[0] for names in orders} == set(CONTESTANTS)
    assert all(sorted(names) == sorted(CONTESTANTS) for names in orders)


def test_a_plan_measures_the_chosen_operations_at_both_windows() -> None:
    assert Plan(("raw",), ("get", "children"), 9).cells == [("get", 1000), ("get", 1), ("children", 1)]
    assert {cell.operation for cell in CELLS} == set(OPERATIONS)
    assert set(DEFAULT_COUNTS) == set(CELLS)


@pytest.mark.parametrize(("window", "times"), [(1, 7), (5, 23), (5, 5), (5, 3)])
async def test_the_asyncio_window_is_filled_and_never_exceeded(window: int, times: int) -> None:
    loop = asyncio.get_running_loop()
    outstanding = most = replies = 0

    def submit() -> asyncio.Future[int]:
        nonlocal outstanding, most
        outstanding += 1
        most = max(most, outstanding)
        call = loop.create_future()
        loop.call_soon(call.set_result, outstanding)
        return call

    def check(result: int) -> None:
        nonlocal outstanding, replies
        outstanding -= 1
        replies += 1

    job = Job("get", window, "", times, "")
    sample = await measure_asyncio(job, submit, check)
    assert most == min(window, times)
    assert replies == job.warm_up + times
    assert outstanding == 0
    assert sample.ops_per_s > 0


class ScriptedSocket:
    """Answers every request with a frame of its own, in pieces that ignore the borders of the frames."""

    def __init__(self, piece: int) -> None:
        self.piece = piece
        self.replies = b""
        self.outstanding = self.most = self.requests = 0

    def sendall(self, data: bytes) -> None:
        self.requests += len(data)
        self.outstanding += len(data)
        self.most = max(self.most, self.outstanding)
        self.replies += (struct.pack("!i", 9) + b"123456789") * len(data)

    def recv(self, size: int) -> bytes:
        before = -(-len(self.replies) // 13)
        taken, self.replies = self.replies[: self.piece], self.replies[self.piece :]
        self.outstanding -= before - -(-len(self.replies) // 13)
        return taken


@pytest.mark.parametrize("piece", [1, 5, 13, 14, 40, 10_000])
@pytest.mark.parametrize(("window", "times"), [(1, 6), (4, 21), (8, 3)])
def test_the_raw_window_counts_frames_however_they_arrive(piece: int, window: int, times: int) -> None:
    sock = ScriptedSocket(piece)
    received = _drive(sock, iter(lambda: b"?", None), times, window)
    assert received == times * 13
    assert sock.requests == times
    assert sock.most == min(window, times)


def test_raw_notices_a_closed_connection() -> None:
    sock = SimpleNamespace(sendall=lambda data: None, recv=lambda size: b"")
    with pytest.raises(WrongReplyError, match="3 replies missing"):
        _drive(sock, iter(lambda: b"?", None), 3, 1)


def test_wrong_replies_have_no_speed() -> None:
    stat = SimpleNamespace(data_length=len(VALUE))
    check_get((VALUE, stat))
    check_set(stat)
    check_children([f"member-{number}" for number in range(CROWD_SIZE)])
    with pytest.raises(WrongReplyError):
        check_get((VALUE[:-1] + b"?", stat))
    with pytest.raises(WrongReplyError):
        check_set(SimpleNamespace(data_length=3))
    with pytest.raises(WrongReplyError):
        check_children(["member-1"])


def test_every_created_path_is_answered_once() -> None:
    paths = CreatedPaths("/p")
    first, second = paths.fresh(), paths.fresh()
    assert first != second
    paths.check(second)
    paths.check(first)
    with pytest.raises(WrongReplyError):
        paths.check(first)


def test_the_stopwatch_counts_the_cpu_time_of_this_process() -> None:
    with Stopwatch() as watch:
        sum(range(200_000))
    sample = watch.sample(10)
    assert sample.cpu_us_per_op > 0
    assert sample.ops_per_s > 0


def test_names_are_read_from_a_listing() -> None:
    body = struct.pack("!i", 2) + struct.pack("!i", 2) + b"ab" + struct.pack("!i", 0)
    assert read_names(body) == ["ab", ""]


# --- the command line -----------------------------------------------------------------------------------------------


def test_names_are_chosen_by_commas() -> None:
    chosen = _parser().parse_args(["throughput", "--contestants", "kazoo,raw", "--operations", "set"])
    assert (chosen.contestants, chosen.operations) == (("kazoo", "raw"), ("set",))


@pytest.mark.parametrize("wrong", [["--contestants", "zkpython"], ["--operations", ""], ["--rounds", "0"]])
def test_wrong_arguments_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["throughput", *wrong])
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_an_unreachable_server_is_an_error_not_a_traceback(
    capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    assert main(["throughput", "--hosts", f"127.0.0.1:{unused_tcp_port}", "--contestants", "raw"]) == 1
    assert capsys.readouterr().err.startswith("error: ConnectionRefusedError")


@pytest.mark.real
def test_a_quick_run_against_a_real_server_reports_every_number(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    names = ("raw", "everlatch-asyncio", "everlatch-asyncio-tls")
    arguments = ["throughput", "--quick", "--rounds", "1", "--operations", "get", "--contestants", ",".join(names)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments, "--json", str(file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    measured = {(entry["contestant"], entry["operation"], entry["window"]) for entry in report["results"]}
    assert measured == {(name, "get", window) for name in names for window in (1, 1000)}
    for entry in report["results"]:
        assert entry["ops_per_s"] > 0
        assert entry["cpu_us_per_op"] > 0
    assert report["rounds"] == 1
    assert report["zookeeper"].startswith("3.8")
    assert "Bars: " in done.stdout


def test_the_table_of_the_readme_has_every_cell_once() -> None:
    rows = [
        {"contestant": "raw", "operation": "get", "window": 1, "ops_per_s": 5000.0, "cpu_us_per_op": 70.0},
        {"contestant": "kazoo", "operation": "get", "window": 1, "ops_per_s": 2500.0, "cpu_us_per_op": 210.4},
        {"contestant": "kazoo", "operation": "set", "window": 1000, "ops_per_s": 4321.0, "cpu_us_per_op": 150.0},
    ]
    lines = table({"results": rows}).splitlines()
    assert len(lines) == 4
    assert lines[2] == "| `get`, 1 | – | – | 2.5 k/s (210) | – | 5 k/s (70) |"
    assert lines[3] == "| `set`, 1000 | – | – | 4.32 k/s (150) | – | – |"
