"""The fuzzer finds what was planted, finds it again by its command, does the same for the same seed; and finds nothing
in what is not broken."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import random
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import sasl
from everlatch.engine.engine import Engine
from everlatch.errors import SaslError, TruncatedError
from everlatch.session.answers import Answers
from everlatch.session.session import Session
from everlatch.tls.settings import TlsSettings
from everlatch.tls.transport import TlsTransport
from everlatch.wire import digest_md5, records
from everlatch.wire.codes import Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.jute import decode_int

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # fuzz belongs to the checkout, not to the installed package

from fuzz import __main__ as command_line  # noqa: E402
from fuzz.campaign import replay, run  # noqa: E402
from fuzz.decoders import targets  # noqa: E402
from fuzz.findings import Finding, Findings  # noqa: E402
from fuzz.mutation import MAX_SIZE, Mutator, StreamMutator  # noqa: E402
from fuzz.recordings import Corpus, load, save  # noqa: E402
from fuzz.secrecy import PASSWORD  # noqa: E402
from fuzz.shields import Shields  # noqa: E402
from fuzz.tokens import SEEDS, mutated  # noqa: E402
from fuzz.virtual import StuckError, VirtualLoop  # noqa: E402
from fuzz.watchdog import Hang, Watchdog  # noqa: E402

from session.driver import connected  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

DECODER = 4096 * 6
"""Inputs of level 1 until each target has had some."""


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load()


@pytest.fixture
def watchdog() -> Watchdog:
    """Patient: among thousands of tests, collecting garbage alone takes a while."""
    return Watchdog(2.0)


@pytest.fixture
def impatient() -> Watchdog:
    return Watchdog(0.3)


def found(corpus: Corpus, watchdog: Watchdog, level: str, inputs: int) -> list[Finding]:
    return list(run(corpus, watchdog, 1, inputs=inputs, levels=(level,)).findings)


def again(corpus: Corpus, watchdog: Watchdog, finding: Finding) -> list[str]:
    """What the replay of a finding finds."""
    return [other.what for other in replay(corpus, watchdog, finding.replay)]


# --- nothing is found in what is not broken ---------------------------------------------------------------------------


def test_all_levels_find_nothing(corpus: Corpus) -> None:
    outcome = run(corpus, Watchdog(), 20261122, inputs=5 * 4096)
    assert [finding.render() for finding in outcome.findings] == []
    assert min(outcome.inputs.values()) >= 5, outcome.inputs
    assert outcome.render().endswith("seed 20261122, 0 findings")


def test_a_grace_that_a_request_has_ended_is_not_due_for_ever() -> None:
    """What the fuzzer found first: the timer was due at once, again and again, until the next bytes came."""
    driver = connected()
    driver.call()
    driver.tick(10)  # our own loop stood still: the link gets a grace
    driver.answer()  # to what was sent so long ago that the session must be assumed lost: no reason to end the grace
    driver.call()  # but this is: the link has until T/3 from now
    driver.tick(0.1)
    deadline = driver.session.next_deadline()
    assert deadline is not None
    assert deadline > driver.now


# --- planted bugs: decoders -------------------------------------------------------------------------------------------


def plant(monkeypatch: pytest.MonkeyPatch, name: str, decode: Callable[[bytes, int, int], Any]) -> None:
    monkeypatch.setattr(records, name, decode)


def decode_without_check(buf: bytes, pos: int, end: int) -> int:
    return buf[pos + 3]


def decode_behind_the_end(buf: bytes, pos: int, end: int) -> bytes:
    if end - pos < 4:
        raise TruncatedError("too short")
    return buf[pos : end + 1]


def decode_for_ever(buf: bytes, pos: int, end: int) -> int:
    count, pos = decode_int(buf, pos, end)
    while count > 1000:
        pos += 0
    return count


def decode_what_was_announced(buf: bytes, pos: int, end: int) -> int:
    count, pos = decode_int(buf, pos, end)
    return len(bytearray(min(max(count, 0), 1 << 24)))


def decode_to_another_value(buf: bytes, pos: int, end: int) -> int:
    return decode_int(buf, pos, end)[0] ^ 1


class Unshowable:
    def __repr__(self) -> str:
        raise AttributeError("no repr")


def decode_to_what_cannot_be_shown(buf: bytes, pos: int, end: int) -> Unshowable:
    decode_int(buf, pos, end)
    return Unshowable()


@pytest.mark.parametrize(
    ("decode", "what"),
    [
        (decode_without_check, "IndexError"),
        (decode_behind_the_end, "what stands behind the end"),
        (decode_for_ever, "Hang"),
        (decode_what_was_announced, "bytes of memory for"),
        (decode_to_another_value, "was encoded and decoded to"),
        (decode_to_what_cannot_be_shown, "AttributeError"),
    ],
)
def test_a_bad_decoder_is_found(
    corpus: Corpus,
    watchdog: Watchdog,
    monkeypatch: pytest.MonkeyPatch,
    decode: Callable[[bytes, int, int], Any],
    what: str,
) -> None:
    plant(monkeypatch, "decode_get_all_children_number_reply", decode)
    findings = found(corpus, watchdog, "decoders", DECODER)
    mine = [finding for finding in findings if what in finding.what]
    assert mine
    assert {finding.target for finding in findings} == {"records.decode_get_all_children_number_reply"}
    assert any(what in other for other in again(corpus, watchdog, mine[0]))
    monkeypatch.undo()
    assert again(corpus, watchdog, mine[0]) == []


def test_a_reader_that_minds_the_pieces_is_found(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = FrameReader.feed
    monkeypatch.setattr(FrameReader, "feed", lambda reader, data: list(feed(reader, data)) if len(data) > 3 else [])
    findings = found(corpus, watchdog, "decoders", DECODER)
    assert {finding.target for finding in findings} == {"framing.FrameReader"}


# --- planted bugs: the session ----------------------------------------------------------------------------------------


def test_a_session_that_raises_is_found(corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_sometimes(_session: Session, _zxid: int, buf: bytes, _pos: int, _end: int) -> None:
        raise KeyError(len(buf))

    monkeypatch.setattr(Session, "_handle_event", raise_sometimes)
    findings = found(corpus, watchdog, "sessions", 32)
    assert findings
    assert {finding.what.partition(":")[0] for finding in findings} == {"KeyError"}
    assert any("KeyError" in what for what in again(corpus, watchdog, findings[0]))


def test_an_answer_for_another_call_is_found(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Answers.well

    def swapped(answers: Answers, request: Any, call: Any, *reply: Any) -> None:
        others = answers._requests.in_flight
        if others and others[0].call is not None and others[0].operation == request.operation:
            others[0].call, call = call, others[0].call
        answer(answers, request, call, *reply)

    monkeypatch.setattr(Answers, "well", swapped)
    assert any("was answered with" in finding.what for finding in found(corpus, watchdog, "sessions", 200))


def test_a_call_that_is_forgotten_is_found(corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answers, "_refuse", lambda *_: None)
    assert any("was ended 0 times" in finding.what for finding in found(corpus, watchdog, "sessions", 64))


def test_a_session_that_spins_is_found(corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_check_link", lambda *_: None)
    assert any("the timer is always due" in finding.what for finding in found(corpus, watchdog, "sessions", 64))


def test_a_session_that_hangs_is_found(corpus: Corpus, impatient: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> None:
        while True:
            pass

    monkeypatch.setattr(Session, "_handle_pong", hang)
    findings = found(corpus, impatient, "sessions", 32)
    assert {finding.what.partition(":")[0] for finding in findings} == {"Hang"}


# --- planted bugs: the client -----------------------------------------------------------------------------------------


def test_a_client_that_leaks_a_task_is_found(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def left_behind() -> None:
        await asyncio.sleep(1e6)

    tasks = []
    made = Engine.link_made

    def leak(engine: Engine, link: Any) -> None:
        tasks.append(asyncio.get_running_loop().create_task(left_behind()))
        made(engine, link)

    monkeypatch.setattr(Engine, "link_made", leak)
    findings = found(corpus, watchdog, "clients", 6)
    assert findings
    assert all("a task is left" in finding.what and "left_behind" in finding.what for finding in findings)
    assert any("a task is left" in what for what in again(corpus, watchdog, findings[0]))


def test_a_client_that_keeps_its_connection_is_found(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(engine: Engine, conn: int) -> None:
        """Goes on without it, and leaves it open."""
        engine._rivals.pop(conn, None)
        if engine._link is not None and engine._link.conn == conn:
            engine._link = None

    monkeypatch.setattr(Engine, "_hang_up", forget)
    assert any("connections are open" in finding.what for finding in found(corpus, watchdog, "clients", 30))


def test_what_reaches_the_event_loop_is_found(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Session, "_handle_pong", fail)
    findings = found(corpus, watchdog, "clients", 30)
    assert any("in the event loop" in finding.what for finding in findings)


def test_a_client_that_stays_away_is_found(corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_begin_round", lambda *_: None)
    findings = found(corpus, watchdog, "clients", 6)
    assert findings
    assert {finding.level for finding in findings} == {"clients"}


def test_a_client_that_hangs_is_found(corpus: Corpus, impatient: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> None:
        while True:
            pass

    monkeypatch.setattr(Engine, "link_lost", hang)
    findings = found(corpus, impatient, "clients", 9)
    assert {finding.what.partition(":")[0] for finding in findings} == {"Hang"}


# --- planted bugs: SASL and TLS ---------------------------------------------------------------------------------------


def test_a_client_that_believes_every_server_is_found(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sasl, "is_proof", lambda token, expected: True)
    findings = found(corpus, watchdog, "sasl", 65 * 60)
    assert any("to a server that has not proven itself" in finding.what for finding in findings)
    assert {finding.level for finding in findings} == {"sasl"}
    assert any("has not proven itself" in what for what in again(corpus, watchdog, findings[0]))


def test_a_token_that_nobody_can_read_is_found(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(token: bytes) -> dict[str, str]:
        return dict(part.split("=", 1) for part in token.decode().split(","))  # type: ignore[misc]

    monkeypatch.setattr(digest_md5, "directives", read)
    findings = found(corpus, watchdog, "sasl", 65 * 3)
    assert any(finding.what.startswith("ValueError") and finding.target.startswith("tokens") for finding in findings)


@pytest.mark.parametrize("level", ["sasl", "clients"])
def test_a_password_in_an_error_is_found(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    def fail(self: Any, error: BaseException) -> SaslError:
        return SaslError(f"no luck with {self._sasl.mechanism.password}")

    monkeypatch.setattr(Session, "_sasl_failure", fail)
    findings = found(corpus, watchdog, level, 65 * 60 if level == "sasl" else 60)
    assert any("a secret is told" in finding.what for finding in findings)
    assert not any(PASSWORD in finding.what for finding in findings)


def test_a_response_in_a_log_is_found(corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    respond = sasl.respond

    def say(*values: Any) -> tuple[bytes, bytes]:
        token, proof = respond(*values)
        logging.getLogger("everlatch").debug("answering %s", token)
        return token, proof

    monkeypatch.setattr(sasl, "respond", say)
    findings = found(corpus, watchdog, "clients", 30)
    assert [finding.what for finding in findings] == ["BrokenPromiseError: a secret is told: in a log"]


def test_a_tls_error_that_nobody_catches_is_found(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ssl.SSLError("planted")

    monkeypatch.setattr(TlsTransport, "_fail", fail)
    assert any("in the event loop" in finding.what for finding in found(corpus, watchdog, "tls", 60))


def test_a_tls_connection_that_is_left_open_is_found(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TlsTransport, "abort", lambda _: None)
    findings = found(corpus, watchdog, "tls", 300)
    assert any("connections are open" in finding.what for finding in findings)


def test_the_password_of_a_key_in_a_log_is_found(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = TlsSettings.context

    def say(settings: TlsSettings) -> Any:
        logging.getLogger("everlatch").info("with %s", settings.key_password)
        return context(settings)

    monkeypatch.setattr(TlsSettings, "context", say)
    (finding,) = found(corpus, watchdog, "tls", 10)
    assert finding.what == "BrokenPromiseError: a secret is told: in a log"


def test_the_certificates_of_the_fuzzer_go_with_it() -> None:
    shields = Shields()
    directory = Path(shields.client_options["ca"]).parent
    assert directory.is_dir()
    del shields
    gc.collect()
    assert not directory.exists()


# --- determinism ------------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_inputs(corpus: Corpus) -> None:
    def mutants(seed: int) -> list[bytes]:
        mutator = Mutator(random.Random(seed), corpus.payloads)
        return [mutator.mutate(payload) for payload in corpus.payloads]

    assert mutants(1) == mutants(1)
    assert mutants(1) != mutants(2)


@pytest.mark.parametrize(
    ("level", "name", "inputs"),
    [("sessions", "_handle_event", 30), ("sasl", "_sasl_failure", 65 * 10), ("clients", "_handle_pong", 30)],
)
def test_the_same_seed_finds_the_same(
    corpus: Corpus, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch, level: str, name: str, inputs: int
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Session, name, fail)
    first, second = found(corpus, watchdog, level, inputs), found(corpus, watchdog, level, inputs)
    assert first
    assert [finding.data for finding in first] == [finding.data for finding in second]
    assert [finding.replay for finding in first] == [finding.replay for finding in second]


# --- the corpus -------------------------------------------------------------------------------------------------------


def test_the_corpus_has_every_operation_of_both_versions(corpus: Corpus) -> None:
    assert {dialogue.server for dialogue in corpus.dialogues} == {"3.8.0", "3.9.5"}
    never_alone = {Op.CHECK, Op.ERROR}
    assert {op.name for op in set(Op) - set(corpus.requests)} == {op.name for op in never_alone}
    # These have no reply but an error: on a standalone server.
    assert {op.name for op in set(Op) - set(corpus.replies) - never_alone} == {"RECONFIG"}
    assert {-101, -110, -103, -111, -108, -114, -102, -121, -6, -8, -115} <= corpus.errors
    assert {int.from_bytes(event[:4], "big") for event in corpus.events} == {1, 2, 3, 4}


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "fuzz" / "corpus").iterdir()) < 200_000


def test_a_corpus_is_read_as_it_was_written(corpus: Corpus, tmp_path: Path) -> None:
    save(corpus.dialogues, tmp_path)
    assert load(tmp_path).dialogues == corpus.dialogues


def test_no_corpus_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="scripts/fuzz record"):
        load(tmp_path)


def test_every_decoder_is_a_target(corpus: Corpus) -> None:
    names = [target.name for target in targets(corpus)]
    assert len(names) == len(set(names))
    assert {"framing.FrameReader", "jute.decode_vector", "multi.decode_multi_reply", "records.read_node"} <= set(names)
    assert len(names) >= 49
    assert all(target.seeds for target in targets(corpus))


# --- mutation ---------------------------------------------------------------------------------------------------------


def test_mutants_differ_and_stay_small(corpus: Corpus) -> None:
    mutator = Mutator(random.Random(1), corpus.payloads)
    data = b"\0" * MAX_SIZE
    for _ in range(200):
        data = mutator.mutate(data)
        assert len(data) <= MAX_SIZE
    payload = corpus.payloads[1]
    assert sum(mutator.mutate(payload) != payload for _ in range(100)) > 80
    assert mutator.mutate(b"") != b""


def test_tokens_differ_and_half_of_them_can_be_read() -> None:
    rng = random.Random(1)
    tokens = [mutated(SEEDS[0], rng) for _ in range(1000)]
    assert tokens.count(None) in range(20, 100)
    assert len({token for token in tokens if token is not None}) > 700
    readable = 0
    for token in tokens:
        with contextlib.suppress(digest_md5.DigestMd5Error):
            readable += bool(digest_md5.directives(token or b""))
    assert 300 < readable < 900


def test_a_stream_is_as_it_was_up_to_the_first_change(corpus: Corpus) -> None:
    payloads = corpus.dialogues[0].from_server
    for seed in range(20):
        stream = StreamMutator(random.Random(seed), corpus.payloads, first=seed)
        passed = [stream.pass_on(payload) for payload in payloads]
        assert passed[:seed] == [(frame(payload), True) for payload in payloads[:seed]]
        assert not any(as_meant for _, as_meant in passed[seed:])
        assert b"".join(data for data, _ in passed) != b"".join(map(frame, payloads))


# --- the loop and the watchdog ----------------------------------------------------------------------------------------


async def refuse(address: tuple[str, int]) -> Any:
    raise ConnectionRefusedError(address)


async def wait_for_nothing() -> None:
    await asyncio.get_running_loop().create_future()


async def wait_for_long() -> None:
    await asyncio.sleep(1e9)


async def never_rest() -> None:
    while True:
        await asyncio.sleep(0)


@pytest.mark.parametrize("stuck", [wait_for_nothing, wait_for_long, never_rest])
def test_a_loop_that_is_stuck_says_so(stuck: Callable[[], Any]) -> None:
    loop = VirtualLoop(refuse)
    task = loop.create_task(stuck())
    with pytest.raises(StuckError):
        loop.run_until_complete(task)
    loop.allow_more()
    task.cancel()
    loop.run_until_complete(asyncio.wait([task], timeout=1))
    assert task.cancelled()
    loop.close()


def spin(watchdog: Watchdog) -> None:
    with watchdog.watching():
        while True:
            pass


def test_the_watchdog_bites_what_hangs_and_nothing_else() -> None:
    watchdog = Watchdog(0.05)
    with watchdog.active():
        with pytest.raises(Hang, match=r"0\.05 s of CPU time"):
            spin(watchdog)
        with watchdog.watching():
            pass
        # Longer than its limit: it has stopped.
        assert sum(range(10_000_000)) > 0


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own process keeps its memory."""
    monkeypatch.setattr(command_line.resource, "setrlimit", lambda *_: None)


@pytest.mark.usefixtures("unlimited")
def test_a_run_says_what_it_has_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    levels = ["--levels", "decoders,sessions,sasl,clients"]
    assert command_line.main(["--inputs", "4096", "--seed", "7", "--json", str(report), *levels]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "fuzz: 4310 inputs (decoders 4096, sessions 16, sasl 195, clients 3), seed 7, 0 findings"
    written = json.loads(report.read_text())
    assert (written["seed"], written["total"], written["findings"]) == (7, 4310, [])


@pytest.mark.usefixtures("unlimited")
def test_a_finding_says_how_to_see_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "decode_get_all_children_number_reply", decode_without_check)
    report = tmp_path / "report.json"
    run_it = ["--inputs", str(DECODER), "--seed", "7", "--levels", "decoders", "--json", str(report)]
    assert command_line.main(run_it) == 1
    shown = capsys.readouterr().out
    (finding,) = json.loads(report.read_text())["findings"]
    assert finding["command"] in shown
    assert finding["input"] in shown
    assert finding["command"].startswith("scripts/fuzz --replay decoders/")
    assert command_line.main(finding["command"].split()[1:]) == 1
    assert "IndexError" in capsys.readouterr().out


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize(
    "which", ["nonsense", "sessions/x/1", "decoders/none/00", "decoders/jute.decode_int/x", "x/1/1"]
)
def test_what_cannot_be_replayed_is_refused(which: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--replay", which]) == 2
    assert "can't be replayed" in capsys.readouterr().err


def test_the_same_fault_is_told_once() -> None:
    findings = Findings()
    first = Finding("decoders", "a", "IndexError: 1", "x.py:1 f", b"1", "decoders/a/31")
    assert findings.add(first)
    assert not findings.add(first._replace(what="IndexError: 2", data=b"2"))
    assert findings.add(first._replace(trace="x.py:2 g"))
    assert (len(findings), findings.inputs) == (2, 3)
