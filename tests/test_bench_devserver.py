"""The benchmark of the dev server: its arithmetic, and that a short run reports every number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # bench belongs to the checkout, not to the installed package

from bench.crowd import measure  # noqa: E402
from bench.devserver import BAR, LOADS, Row, loops, passes, render  # noqa: E402
from bench.plain import Op, PlainConnection, bodies  # noqa: E402
from bench.process import MeasurementError, measured  # noqa: E402
from bench.server import prepare, remove  # noqa: E402
from bench.workload import NODE, WrongReplyError  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everlatch.testing.pytest_plugin import ZooKeeper


@pytest.fixture
def address(zookeeper: ZooKeeper) -> Iterator[str]:
    """A server with the nodes of the workload."""
    prepare(zookeeper.address, with_crowd=False)
    yield zookeeper.address
    remove(zookeeper.address)


def row(ops: float, loop: str = "asyncio", load: str = LOADS[0].name) -> Row:
    return Row(loop, load, ops, 10.0, (ops - 1, ops + 1))


def test_the_bar_is_for_pipelined_gets_on_asyncio() -> None:
    assert passes([row(BAR)])
    assert not passes([row(BAR - 1), row(BAR, loop="uvloop"), row(BAR, load=LOADS[1].name)])
    assert render([row(BAR)]).endswith(f"{BAR} gets a second on one core: PASS")
    assert render([row(BAR - 1)]).endswith("FAIL")


def test_every_request_is_counted_for_the_cpu_also_those_that_warm_up() -> None:
    pipelined, crowd, _ = LOADS
    assert pipelined.requests(50_000) == 55_000
    assert pipelined.requests(2_000) == 3_000  # a window is filled in any case
    assert crowd.requests(50_000) == 55_000


def test_a_crowd_gets_as_many_replies_as_it_asks_for(address: str) -> None:
    for connections, count in ((1, 20), (20, 110), (20, 7)):
        assert measure(address, connections, count).ops_per_s > 0


def test_a_crowd_notices_wrong_replies(address: str) -> None:

    with PlainConnection(address) as connection:
        connection.call(Op.SET_DATA, bodies.set(NODE, b"short"))
        with pytest.raises(WrongReplyError, match="a reply to get had"):
            measure(address, 3, 30)


async def test_a_process_that_fails_makes_the_run_void(unused_tcp_port: int) -> None:
    with pytest.raises(MeasurementError, match=r"(?s)bench\.crowd .* failed with exit code 1:\n.*ConnectionRefused"):
        await measured("bench.crowd", f"127.0.0.1:{unused_tcp_port}", "1", "1")


def test_a_short_run_reports_every_number(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    arguments = ["devserver", "--rounds", "1", "--count", "2000", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert [(each["loop"], each["load"]) for each in report["results"]] == [
        (loop, load.name) for loop in loops() for load in LOADS
    ]
    for each in report["results"]:
        assert each["ops_per_s"] > 0
        assert each["server_cpu_us_per_op"] > 0
    assert (report["rounds"], report["count"], report["bar"]["ops_per_s"]) == (1, 2000, BAR)
    assert report["bar"]["passed"] is done.stdout.rstrip().endswith("PASS")
