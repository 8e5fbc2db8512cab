"""The demonstration: processes that die, and nothing left of them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cli.command import COMMAND, TIMEOUT, devserver, environment, run
from everlatch import Client
from everlatch.cli.events import Kind, decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everlatch.testing.pytest_plugin import Chroot


@pytest.fixture
def hosts(zookeeper_chroot: Chroot) -> str:
    return zookeeper_chroot.address


@contextlib.contextmanager
def demo(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command as it runs; what it still has to say can be had by `communicate`."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, "demo", *arguments], env=environment(), stdout=pipe, stderr=pipe, encoding="utf-8"
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], *patterns: str) -> str:
    """What it has said when all patterns have been seen; fails when it ends before."""
    assert process.stdout is not None
    seen = ""
    while not all(re.search(pattern, seen, re.DOTALL) for pattern in patterns):
        line = process.stdout.readline()
        assert line, f"ended after: {seen}"
        seen += line
    return seen


def pids(output: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"started, pid (\d+)", output)]


def tokens(output: str) -> list[int]:
    return [int(token, 16) for token in re.findall(r" leads, session 0x\w+, token (0x\w+)", output)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "server"),
    [
        ((), "dev server"),
        pytest.param(("--real",), "ZooKeeper 3.8", marks=pytest.mark.real),
    ],
)
def test_each_leads_once_and_nobody_overlaps(options: tuple[str, ...], server: str) -> None:
    result = run("demo", "--instances", "3", "--work", "0.2", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"  {server} at 127.0.0.1:" in result.stdout
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"3 of 3 instances led, 0 overlapped, handover median \d+ ms", lines[-1])
    assert sum("dead by its own SIGKILL" in line for line in lines) == 3
    # The first leader was paused and led again at the end; so there were three handovers, and four terms.
    assert len(tokens(result.stdout)) == 4
    assert tokens(result.stdout) == sorted(set(tokens(result.stdout)))
    assert len(re.findall(r"a late write of instance-\d, token 0x\w+, was refused", result.stdout)) == 3
    (stale,) = re.findall(r"was paused; its stale write, token (0x\w+), was refused", result.stdout)
    assert int(stale, 16) == tokens(result.stdout)[0]
    assert re.fullmatch(r"\d+ fenced writes under 4 tokens, which only rose; 4 stale ones tried, 4 refused", lines[-2])
    assert not any(is_alive(pid) for pid in pids(result.stdout))


def test_one_alone_is_not_paused_for_nobody_would_take_over() -> None:
    result = run("demo", "--instances", "1", "--work", "0.2")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"\d+ fenced writes under 1 tokens, which only rose; 0 stale ones tried, 0 refused", lines[-2])
    assert lines[-1] == "1 of 1 instances led, 0 overlapped, handover median – ms"


async def test_a_leader_that_is_missing_in_time_is_a_failure_and_nothing_is_left(hosts: str) -> None:
    result = run("demo", "--instances", "2", "--hosts", hosts, "--session-timeout", "20", "--timeout", "6")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "1 of 2 instances led, 0 overlapped, handover median – ms"
    assert "wrong: the time is up: 6 s" in result.stdout
    assert re.search(r"wrong: instance-[12] never led", result.stdout)
    assert not any(is_alive(pid) for pid in pids(result.stdout))
    async with Client(hosts) as client:
        assert await client.children("/") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_all_its_processes(hosts: str, number: signal.Signals) -> None:
    with demo("--instances", "2", "--hosts", hosts, "--work", "30") as process:
        seen = read_until(process, " leads", "started.*started")
        process.send_signal(number)
        _, complaints = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 128 + number
    assert complaints == ""
    assert len(pids(seen)) == 2
    assert not any(is_alive(pid) for pid in pids(seen))


def test_a_member_that_is_killed_by_somebody_else_is_named(hosts: str) -> None:
    with demo("--instances", "2", "--hosts", hosts, "--work", "0.2") as process:
        seen = read_until(process, "waits.*waits", "leads")
        (leader,) = re.findall(r"(instance-\d)  leads", seen)
        victim = "instance-2" if leader == "instance-1" else "instance-1"
        # It can't lead before the other one's session has expired.
        os.kill(int(re.findall(rf"{victim}  started, pid (\d+)", seen)[0]), signal.SIGKILL)
        rest, complaints = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert complaints == ""
    assert f"wrong: {victim} ended by SIGKILL: without a word" in rest
    assert rest.splitlines()[-1] == "1 of 2 instances led, 0 overlapped, handover median – ms"


def test_a_zookeeper_that_dies_leaves_leaders_missing_and_no_process() -> None:
    with devserver() as (server, (where, _)):
        address = where.split()[-1]
        with demo("--instances", "2", "--hosts", address, "--timeout", "5") as process:
            seen = read_until(process, "waits.*waits")
            server.kill()
            rest, complaints = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert complaints == ""
    assert "wrong: the time is up: 5 s" in rest
    assert "could not be deleted" in rest
    assert not any(is_alive(pid) for pid in pids(seen + rest))


def test_a_member_goes_when_its_parent_is_gone(hosts: str) -> None:
    paths = ["--path", "/latch", "--ledger", "/ledger"]
    command = [sys.executable, "-m", "everlatch.cli.member", "--hosts", hosts, *paths, "--id", "a"]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as member:
        assert member.stdin is not None
        assert member.stdout is not None
        kinds = [decode(member.stdout.readline()).kind for _ in range(3)]
        assert kinds == [Kind.STARTED, Kind.WAITING, Kind.LEADING]
        member.stdin.close()
        member.wait(TIMEOUT)
        assert member.returncode == 1
