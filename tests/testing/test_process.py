"""Processes of a test's own: what they say, how they end, and what is said when they don't do as they should."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from everlatch.testing import ClientProcess, EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "c1.log"


def python(code: str, log: Path, environment: Mapping[str, str] | None = None) -> ClientProcess:
    return ClientProcess("c1", "127.0.0.1", [sys.executable, "-u", "-c", code], log, environment)


@pytest.fixture
def sleeper(log: Path) -> Iterator[ClientProcess]:
    process = python("import time; print('up'); time.sleep(1000)", log)
    yield process
    assert not process.running


async def test_output_and_exit_code_are_kept(log: Path) -> None:
    code = "import os, sys; print('from', os.environ['WHO'], os.environ['PATH']); sys.exit('bad end')"
    process = python(code, log, {"WHO": "me"})
    assert process.output == ""
    with pytest.raises(EnsembleError, match=r"c1 was never started; its log:\n\(no log yet\)"):
        await process.wait()
    await process.start()
    assert await process.wait(20) == 1
    assert process.output.startswith("from me /")
    assert process.output.endswith("bad end\n")
    assert (process.running, process.pid, repr(process)) == (False, None, "<ClientProcess c1 down>")
    assert process.log_tail(1) == "bad end"
    await process.restart()
    assert await process.wait(20) == 1
    assert process.output.count("bad end") == 2


async def test_what_is_waited_for_and_does_not_come_is_an_error_with_the_log(log: Path, sleeper: ClientProcess) -> None:
    await sleeper.start()
    assert await sleeper.wait_for_output("up") == "up\n"
    with pytest.raises(EnsembleError, match=r"c1 has not written 'down' after 0\.05 s; its log:\nup"):
        await sleeper.wait_for_output("down", timeout=0.05)
    with pytest.raises(TimeoutError):
        await sleeper.wait(0.01)
    with pytest.raises(EnsembleError, match="runs already"):
        await sleeper.start()
    await sleeper.kill()
    assert await sleeper.wait() == -9
    with pytest.raises(EnsembleError, match=r"c1 has ended and did not write 'down' \(exit code -9\); its log:\nup"):
        await sleeper.wait_for_output("down")
    assert await sleeper.wait_for_output("up") == "up\n"


async def test_no_thread_of_it_runs_when_pause_returns(log: Path) -> None:
    busy = python(HASH_IN_THREADS, log)
    await busy.start()
    await busy.wait_for_output("up")
    for _ in range(20):
        busy.pause()
        assert set(states_of_threads(busy)) == {"T"}
        busy.resume()
    await busy.kill()


HASH_IN_THREADS = """
import hashlib, threading
def work():
    while True:
        hashlib.sha256(bytes(100_000))
for _ in range(4):
    threading.Thread(target=work).start()
print("up")
"""
"""Hashing lets go of the interpreter's lock: the threads run on all cores."""


def states_of_threads(process: ClientProcess) -> list[str]:
    # Behind the name, which is in brackets and may hold anything.
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks]


async def test_it_is_paused_and_stopped(sleeper: ClientProcess) -> None:
    sleeper.pause()
    assert not sleeper.paused
    await sleeper.stop()
    await sleeper.kill()
    await sleeper.start()
    await sleeper.wait_for_output("up")
    sleeper.pause()
    assert "paused" in repr(sleeper)
    sleeper.resume()
    assert not sleeper.paused
    sleeper.pause()
    await sleeper.stop()
    assert await sleeper.wait() == -15


async def test_one_that_does_not_stop_is_killed(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlatch.testing.process._STOP_TIMEOUT", 0.05)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(1000)"
    process = python(code, log)
    await process.start()
    await process.wait_for_output("up")
    await process.stop()
    assert await process.wait() == -9
