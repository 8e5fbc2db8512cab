"""The deputy: when there is one, what it is told, how it is replaced; and its program, without a KDC."""

from __future__ import annotations

import asyncio
import io
import marshal
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from everlatch.guardian import child, kerberized
from everlatch.guardian.deputy import Deputy
from everlatch.guardian.exchange import FailedError, Session, sasl_token
from everlatch.guardian.farewell import close_sessions
from everlatch.guardian.guarded import words_of
from everlatch.guardian.kerberized import Closings, prove
from everlatch.kerberos import Kerberos
from everlatch.sasl import SaslRefusedError, SaslTokenError
from guardian.test_farewell import (
    guarded_by,
    hangs_up,
    listener,
    owned,
    port_of_nobody,
    takes_the_session_and_hangs_up,
)

LONG = 20.0
WORDS = ("bob@TEST", "bob.keytab", None, None, "zookeeper", None)
SECRET = "opensesame"


def session(timeout: float = LONG, **more: Any) -> Session:
    return Session(timeout, [], None, b"handshake", [], None, None, more.pop("kerberos", WORDS), **more)


class Recorder:
    """In a deputy's place."""

    def __init__(self) -> None:
        self.taken: list[Session] = []

    def take(self, session: Session) -> None:
        self.taken.append(session)


async def close(session: Session, recorder: Recorder) -> None:
    await asyncio.to_thread(close_sessions, [session], {}, time.monotonic(), deputy=recorder)


# -- when there is one ---------------------------------------------------------------------------------------------


async def test_a_server_that_takes_the_session_and_no_more() -> None:
    async with owned() as (client, witness, good), listener(takes_the_session_and_hangs_up) as strict:
        told = await guarded_by(client, [strict, good], kerberos=WORDS)
        recorder = Recorder()
        await close(told, recorder)
        assert recorder.taken == [told]
        assert await witness.exists("/mine") is not None


async def test_a_server_that_demands_nothing() -> None:
    async with owned() as (client, witness, good), listener(hangs_up) as bad:
        told = await guarded_by(client, [port_of_nobody(), bad, good], kerberos=WORDS)
        recorder = Recorder()
        await close(told, recorder)
        assert recorder.taken == []
        assert await witness.exists("/mine") is None


async def test_a_session_without_kerberos() -> None:
    async with owned() as (client, witness, good), listener(takes_the_session_and_hangs_up) as bad:
        told = await guarded_by(client, [bad, good])
        recorder = Recorder()
        await close(told, recorder)
        assert recorder.taken == []
        assert await witness.exists("/mine") is None


# -- the process ---------------------------------------------------------------------------------------------------

COUNTS = """
import marshal, sys
source = open(0, "rb")
path, fails = marshal.load(source)
told = []
while True:
    try:
        told.append(marshal.load(source))
    except EOFError:
        break
shown = open("/proc/self/cmdline", "rb").read() + open("/proc/self/environ", "rb").read()
with open(path, "ab") as file:
    file.write(marshal.dumps((told, shown)))
    began = file.tell()
sys.exit(1 if began < fails else 0)
"""


def deputy_that(path: Path, fails: int = 0, program: str = COUNTS) -> Deputy:
    """Fails as long as what it has written is shorter than that."""
    return Deputy(time.monotonic(), [sys.executable, "-I", "-c", program], {"ONLY": "this"}, (str(path), fails))


def written(path: Path) -> list[Any]:
    found, source = [], io.BytesIO(path.read_bytes() if path.exists() else b"")
    while source.tell() < len(source.getbuffer()):
        found.append(marshal.load(source))
    return found


def test_not_started_unless_it_is_needed(tmp_path: Path) -> None:
    deputy_that(tmp_path / "told").finish()
    assert written(tmp_path / "told") == []


def test_told_all_and_waited_for(tmp_path: Path) -> None:
    """More than a pipe holds, too."""
    deputy = deputy_that(tmp_path / "told")
    sessions = [session(kerberos=("bob@TEST", None, SECRET, None, "x" * 1000, None)) for _ in range(100)]
    for one in sessions:
        deputy.take(one)
    deputy.finish()
    ((told, shown),) = written(tmp_path / "told")
    assert [about for _, about in told] == [one.about() for one in sessions]
    assert b"ONLY=this" in shown
    assert SECRET.encode() not in shown


def test_one_that_ends_badly_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlatch.guardian.deputy.FIRST_PAUSE", 0.01)
    deputy = deputy_that(tmp_path / "told", fails=3000)
    deputy.take(session())
    deputy.finish()
    first, *others = [told for told, _ in written(tmp_path / "told")]
    assert others
    assert all(told == first for told in others)


def test_one_that_can_not_be_started_is_tried_until_the_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlatch.guardian.deputy.FIRST_PAUSE", 0.01)
    deputy = Deputy(time.monotonic(), ["/no/such/program"], {}, ())
    began = time.monotonic()
    deputy.take(session(0.2))
    deputy.finish()
    assert 0.05 <= time.monotonic() - began < 5.0


def test_one_that_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has died before: who writes to it must not die of that."""
    monkeypatch.setattr("everlatch.guardian.deputy.FIRST_PAUSE", 0.01)
    deputy = deputy_that(tmp_path / "told", program="import sys; sys.exit(1)")
    for _ in range(100):
        deputy.take(session(0.1, kerberos=("x" * 1000,)))
    deputy.finish()


# -- its program ---------------------------------------------------------------------------------------------------


def test_it_finds_what_we_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths that are relative here, too; and no more of the environment than the Kerberos library needs."""
    monkeypatch.chdir(Path(child.__file__).parents[2])
    monkeypatch.setattr(sys, "path", ["", *(path for path in sys.path if "everlatch" not in path)])
    monkeypatch.setenv("KRB5CCNAME", "FILE:here")
    monkeypatch.setenv("PASSWORD", SECRET)
    command, environment, places = child._deputy()
    assert environment["KRB5CCNAME"] == "FILE:here"
    assert SECRET not in environment.values()
    assert places[-1] == os.getcwd()
    keytab = ("bob@TEST", str(tmp_path / "none"), None, None, "zookeeper", None)
    past = (time.monotonic() - 10.0, session(1.0, kerberos=keytab).about())
    told = marshal.dumps(places) + marshal.dumps(past)
    ran = subprocess.run(command, input=told, env=environment, cwd="/", capture_output=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_one_that_finds_nothing() -> None:
    command, environment, (_, paths, directory) = child._deputy()
    told = marshal.dumps(([], paths, directory))
    ran = subprocess.run(command, input=told, env=environment, cwd="/", capture_output=True, timeout=30, check=False)
    assert ran.returncode != 0


class Steps:
    """A mechanism and its exchange: says what it is to say, or raises it."""

    name = "GSSAPI"
    is_blocking = True

    def __init__(self, *steps: Any) -> None:
        self._steps = list(steps)
        self.heard: list[bytes | None] = []
        self.hosts: list[str] = []

    def begin(self, host: str) -> Steps:
        self.hosts.append(host)
        return self

    def keep_fresh(self) -> None:
        """Nothing."""

    def step(self, challenge: bytes | None) -> bytes | None:
        self.heard.append(challenge)
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        answer: bytes | None = step
        return answer


def reply(token: bytes | None, error: int = 0) -> bytes:
    length = b"\xff\xff\xff\xff" if token is None else len(token).to_bytes(4, "big")
    return bytes(12) + error.to_bytes(4, "big", signed=True) + length + (token or b"")


def test_the_tokens_of_a_connection() -> None:
    steps = Steps(b"one", b"", b"three", None)
    script = prove(steps, "zk1")
    frame = next(script)
    assert frame == (4 + 8 + 3).to_bytes(4, "big") + b"\0\0\0\0\0\0\0\x66" + b"\0\0\0\x03one"
    script.send(reply(b"a"))
    script.send(reply(b"b"))
    with pytest.raises(StopIteration):
        script.send(reply(None))
    assert (steps.hosts, steps.heard) == (["zk1"], [b"", b"a", b"b", None])


@pytest.mark.parametrize("answer", [None, reply(b"", -115), b"short"])
def test_a_server_that_is_not_set_up_for_it_or_refuses(answer: bytes | None) -> None:
    script = prove(Steps(b"one", b"two"), "zk1")
    next(script)
    with pytest.raises(FailedError):
        script.send(reply(None) if answer is None else answer)


def test_a_token_of_the_servers() -> None:
    assert [sasl_token(reply(token)) for token in (b"abc", b"", None)] == [b"abc", b"", None]


def test_what_an_exchange_raises() -> None:
    """A refusal is more than a failure."""
    with pytest.raises(FailedError):
        next(prove(Steps(SaslTokenError("no ticket")), "zk1"))
    with pytest.raises(SaslRefusedError):
        next(prove(Steps(SaslRefusedError("no")), "zk1"))


def closings_with(monkeypatch: pytest.MonkeyPatch, mechanism: Any) -> Closings:
    monkeypatch.setattr(Closings, "_mechanism", lambda *_: mechanism)
    return Closings()


async def test_ends_a_session_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the host that the user has written. (The server is not set up for SASL: the attempts fail.)"""
    steps = Steps(*[b"one"] * 1000)
    closings = closings_with(monkeypatch, steps)
    async with owned() as (client, _, good):
        told = await guarded_by(client, [good], used=(good.host, good.port, "zk1"), timeout=0.3, kerberos=WORDS)
        closings.begin(time.monotonic(), told)
        await asyncio.to_thread(closings.wait)
    assert steps.hosts[0] == "zk1"
    assert len(steps.hosts) >= 2
    assert not closings.failed


async def test_a_password_that_is_refused_is_offered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(SaslRefusedError("no"))
    closings = closings_with(monkeypatch, steps)
    async with owned() as (client, _, good):
        closings.begin(time.monotonic(), await guarded_by(client, [good], kerberos=WORDS))
        began = time.monotonic()
        await asyncio.to_thread(closings.wait)
    assert time.monotonic() - began < LONG / 2
    assert len(steps.hosts) == 1
    assert not closings.failed


async def test_a_kdc_that_says_nothing_is_waited_for_until_the_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kerberized, "_SOON", 0.05)
    says = threading.Event()
    steps = Steps()
    steps.step = lambda _: bytes(says.wait())  # type: ignore[method-assign]
    closings = closings_with(monkeypatch, steps)
    async with owned() as (client, _, good):
        closings.begin(time.monotonic(), await guarded_by(client, [good], timeout=0.2, kerberos=WORDS))
        began = time.monotonic()
        await asyncio.to_thread(closings.wait)
        assert 0.2 <= time.monotonic() - began < LONG / 2
        says.set()
        await asyncio.to_thread(closings._threads[0].join)


def test_tickets_are_shared_and_what_can_not_be_made_is_a_failure() -> None:
    kerberos = Kerberos("bob@TEST", password=SECRET, server_host="zk")
    assert SECRET not in repr(kerberos)
    words = words_of(kerberos)
    closings = Closings()
    made = closings._mechanism(words)
    assert made is closings._mechanism(words)
    assert words_of(made) == words
    closings.begin(time.monotonic(), session(0.2, kerberos=("too", "few")))
    closings.wait()
    assert closings.failed
