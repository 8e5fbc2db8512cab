"""`engine/tokens.py`: one thread at a time, for steps and for renewals."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest

from everlatch.engine import tokens
from everlatch.engine.tokens import Tokens
from everlatch.sasl import SaslRefusedError
from everlatch.session.actions import ComputeToken
from everlatch.session.sasl import SaslStep

pytestmark = pytest.mark.filterwarnings("error")


class Engine:
    """What a session is told, and a future for the next word."""

    def __init__(self) -> None:
        self.session = self
        self.told: list[tuple[int, object]] = []
        self._changed = asyncio.Event()

    def now(self) -> float:
        return 1.0

    def hurry(self) -> None:
        self._changed.set()

    def token_computed(self, conn: int, token: bytes | None, _now: float) -> None:
        self.told.append((conn, token))

    def token_failed(self, conn: int, error: BaseException, _now: float) -> None:
        self.told.append((conn, str(error)))

    async def until_told(self, times: int) -> None:
        while len(self.told) < times:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 10)


class Mechanism:
    """Steps that wait for the test, in their thread."""

    name = "SLOW"
    is_blocking = True

    def __init__(self) -> None:
        self.gates: dict[bytes, threading.Event] = {}
        self.begun: list[bytes | None] = []
        self.running = self.most = 0
        self.renewals: list[object] = []
        self.lock = threading.Lock()

    def begin(self, host: str) -> Any:
        return self

    def step(self, challenge: bytes | None) -> bytes | None:
        with self.lock:
            self.begun.append(challenge)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            gate = self.gates.get(challenge or b"")
            assert gate is None or gate.wait(10)
            if challenge == b"raise":
                raise RuntimeError("no ticket")
            return challenge
        finally:
            with self.lock:
                self.running -= 1

    def keep_fresh(self) -> Any:
        return self.renew

    def renew(self) -> float:
        outcome = self.renewals.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        assert isinstance(outcome, float)
        return outcome


def step(mechanism: Mechanism, conn: int, challenge: bytes) -> ComputeToken:
    return ComputeToken(conn, SaslStep(mechanism, challenge))


async def begin() -> tuple[Engine, Mechanism, Tokens]:
    engine, mechanism = Engine(), Mechanism()
    return engine, mechanism, Tokens(engine, mechanism)  # type: ignore[arg-type]


async def test_a_step_and_one_that_fails() -> None:
    engine, mechanism, made = await begin()
    made.compute(step(mechanism, 1, b"one"))
    await engine.until_told(1)
    made.compute(step(mechanism, 1, b"raise"))
    await engine.until_told(2)
    assert engine.told == [(1, b"one"), (1, "no ticket")]
    await made.close()


async def test_a_thread_that_hangs_is_the_only_one() -> None:
    """Its attempt has gone; those behind it wait, and of these the last one only is made."""
    engine, mechanism, made = await begin()
    gate = mechanism.gates[b"hangs"] = threading.Event()
    made.compute(step(mechanism, 1, b"hangs"))
    while not mechanism.begun:
        await asyncio.sleep(0)
    for conn in range(2, 6):
        made.compute(step(mechanism, conn, b"%d" % conn))
        await asyncio.sleep(0)
    assert mechanism.begun == [b"hangs"]
    gate.set()
    await engine.until_told(1)
    assert engine.told == [(5, b"5")]
    assert mechanism.begun == [b"hangs", b"5"]
    assert mechanism.most == 1
    await made.close()


async def test_closing_waits_for_no_thread() -> None:
    _, mechanism, made = await begin()
    gate = mechanism.gates[b"hangs"] = threading.Event()
    made.compute(step(mechanism, 1, b"hangs"))
    while not mechanism.begun:
        await asyncio.sleep(0)
    await made.close()
    assert mechanism.running == 1
    gate.set()


async def test_tickets_are_kept_fresh(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """However often there is a connection; that it fails is said, and tried again."""
    monkeypatch.setattr(tokens, "_RETRY", 0.001)
    monkeypatch.setattr(tokens, "_SHORTEST", 0.001)
    _, mechanism, made = await begin()
    mechanism.renewals = [0.001, RuntimeError("no KDC"), 0.001, 3600.0]
    with caplog.at_level(logging.WARNING, "everlatch"):
        for _ in range(3):
            made.connected()
        while mechanism.renewals:
            await asyncio.sleep(0.001)
    assert caplog.messages == ["SLOW could not be renewed, and is tried again: no KDC"]
    made.ended()
    await made.close()


@pytest.mark.parametrize("pause", [0, -1, 0.0, float("-inf"), float("inf"), float("nan"), None, "3", True])
async def test_a_mechanism_that_does_not_know_when(pause: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps nobody busy, and is asked again."""
    monkeypatch.setattr(tokens, "_RETRY", 0.05)
    monkeypatch.setattr(tokens, "_SHORTEST", 0.05)
    monkeypatch.setattr(tokens, "_LONGEST", 0.05)
    _, mechanism, made = await begin()
    calls = 0

    def renew() -> object:
        nonlocal calls
        calls += 1
        return pause

    mechanism.keep_fresh = lambda: renew  # type: ignore[method-assign]
    began = time.monotonic()
    made.connected()
    while calls < 3:
        await asyncio.sleep(0.001)
    assert time.monotonic() - began >= 0.09
    await made.close()


async def test_refused_credentials_are_not_offered_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Accounts are locked for less."""
    monkeypatch.setattr(tokens, "_RETRY", 0.001)
    _, mechanism, made = await begin()
    mechanism.renewals = [SaslRefusedError("no such password")]
    with caplog.at_level(logging.WARNING, "everlatch"):
        made.connected()
        while not caplog.messages:
            await asyncio.sleep(0.001)
    made.connected()
    await asyncio.sleep(0.01)
    assert caplog.messages == ["SLOW is not renewed any more: no such password"]
    await made.close()


async def test_a_mechanism_that_can_not_say_whether_it_is_to_be_renewed(caplog: pytest.LogCaptureFixture) -> None:
    _, mechanism, made = await begin()

    def keep_fresh() -> None:
        raise RuntimeError("a bug of its own")

    mechanism.keep_fresh = keep_fresh  # type: ignore[method-assign]
    made.connected()
    assert caplog.messages == ["SLOW can't be renewed: a bug of its own"]
    await made.close()


@pytest.mark.parametrize("error", [StopIteration(), SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_whatever_a_step_raises_in_its_thread(error: BaseException) -> None:
    engine, mechanism, made = await begin()

    def fail(_challenge: bytes | None) -> bytes:
        raise error

    honest, mechanism.step = mechanism.step, fail  # type: ignore[method-assign]
    made.compute(step(mechanism, 1, b"one"))
    await engine.until_told(1)
    assert str(engine.told[0][1]).startswith(f"{type(error).__name__} was raised")
    mechanism.step = honest  # type: ignore[method-assign]
    made.compute(step(mechanism, 1, b"two"))
    await engine.until_told(2)
    assert engine.told[1] == (1, b"two")
    await made.close()


async def test_nothing_is_kept_fresh_where_nothing_runs_out() -> None:
    _, mechanism, made = await begin()
    mechanism.keep_fresh = lambda: None  # type: ignore[method-assign]
    made.connected()
    await made.close()


def test_a_loop_that_ends_waits_for_no_thread() -> None:
    """Nor does the interpreter; what the thread finds is nobody's."""
    mechanism = Mechanism()
    gate = mechanism.gates[b"hangs"] = threading.Event()

    async def begin_one() -> None:
        made = Tokens(Engine(), mechanism)  # type: ignore[arg-type]
        made.compute(step(mechanism, 1, b"hangs"))
        while not mechanism.begun:
            await asyncio.sleep(0)
        await made.close()

    asyncio.run(begin_one())
    assert mechanism.running == 1
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "everlatch-sasl"]
    assert thread.daemon
    gate.set()
    thread.join(10)
    assert not thread.is_alive()
