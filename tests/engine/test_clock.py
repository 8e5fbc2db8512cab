"""The clock of sessions."""

from __future__ import annotations

import asyncio
import time

import pytest

from everlatch.engine.clock import clock_of
from skipping_loop import SkippingLoop


@pytest.fixture
def loop():
    loop = asyncio.SelectorEventLoop()
    yield loop
    loop.close()


def test_counts_the_time_that_the_machine_sleeps(loop):
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = clock_of(loop)()
    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_is_the_monotonic_clock_where_there_is_no_other(loop, monkeypatch):
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert clock_of(loop) is time.monotonic


def test_is_the_time_of_a_loop_that_has_its_own():
    loop = SkippingLoop()
    clock = clock_of(loop)
    loop.skip(5)
    assert clock() == loop.time() == 1005.0
    loop.close()
