"""Whose death the guardian waits for."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from everlatch.guardian import owners
from everlatch.guardian.owners import FORK_TAKES, Owners, own_stat

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def end(process: subprocess.Popen[bytes], known: Owners) -> None:
    """Kills it, and does what the watch would."""
    process.kill()
    (descriptor,) = known.descriptors
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    assert poller.poll(10_000)
    known.ended(descriptor)


def test_one(process: subprocess.Popen[bytes]) -> None:
    known = Owners(os.pidfd_open(process.pid), process.pid)
    assert known.live(0)
    assert known.look_again_after is None
    end(process, known)
    assert not known.live(0)


def test_a_fork_that_is_under_way(process: subprocess.Popen[bytes]) -> None:
    """It may have a child that goes on, and can't say so yet."""
    known = Owners(os.pidfd_open(process.pid), process.pid)
    known.forking("a", 10)
    end(process, known)
    assert known.live(10)
    assert known.look_again_after
    assert known.live(10 + FORK_TAKES / 2)
    assert not known.live(10 + FORK_TAKES)


def test_a_child(process: subprocess.Popen[bytes]) -> None:
    known = Owners(-1, 0)
    known.forking("a", 10)
    known.forked("a", process.pid, owners._stat(process.pid)[1])
    assert known.live(10 + 2 * FORK_TAKES)
    end(process, known)
    assert not known.live(10)


def test_a_child_that_has_died_before(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    known = Owners(-1, 0)
    known.forked("a", process.pid, 1)
    assert not known.live(0)


def test_another_process_with_its_pid(process: subprocess.Popen[bytes]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    known = Owners(-1, 0)
    known.forked("a", process.pid, owners._stat(process.pid)[1] - 1)
    assert not known.live(0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_pidfds(process: subprocess.Popen[bytes]) -> None:
    known = Owners(-1, os.getppid())
    known.forked("a", process.pid, 1)
    assert known.live(0)
    assert known.look_again_after
    not_ours = Owners(-1, process.pid)
    assert not not_ours.live(0)
    not_ours.forked("a", process.pid, 1)
    assert not_ours.live(0)
    process.kill()
    process.wait()
    assert not not_ours.live(0)


def test_a_child_that_there_is_no_descriptor_for(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guardian has run out of them, or the system forbids it: the child lives all the same."""

    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    known = Owners(-1, 0)
    monkeypatch.setattr(os, "pidfd_open", none_left)
    known.forked("a", process.pid, owners._stat(process.pid)[1])
    assert known.live(0)
    assert known.look_again_after
    process.kill()
    process.wait()
    assert not known.live(0)


def test_what_a_child_tells_of_itself() -> None:
    pid, start = own_stat()
    assert pid == os.getpid()
    assert start == owners._stat(pid)[1] > 0


def test_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "_stat", lambda _: (0, 0))
    assert own_stat() == (os.getpid(), 0)
