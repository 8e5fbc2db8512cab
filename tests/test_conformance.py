"""The comparer of servers: what it finds, what it makes of it, and that it finds nothing in what is equal.

Two dev servers stand for the two that are compared; the second one gets the bugs.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.devserver import DevServer
from everlatch.devserver.core import Core
from everlatch.devserver.identities import digest
from everlatch.devserver.tree import Znode
from everlatch.types import ACL, OPEN_ACL_UNSAFE, EventType, Stat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # conformance belongs to the checkout, not to the installed package

from conformance.campaign import Finding, compare, hunt, shrunk  # noqa: E402
from conformance.comparison import Difference, differences, first_unexplained  # noqa: E402
from conformance.control import SUPER, Control  # noqa: E402
from conformance.differences import KNOWN, why  # noqa: E402
from conformance.generation import sequence  # noqa: E402
from conformance.normal import BEFORE, Normal  # noqa: E402
from conformance.operations import OPERATIONS, acls_in_order  # noqa: E402
from conformance.running import run  # noqa: E402
from conformance.servers import VERSIONS, Pair, pair  # noqa: E402
from conformance.shrinking import shrink  # noqa: E402
from conformance.steps import Auth, Call, Drop, Reattach, Step, Unknown  # noqa: E402
from conformance.transcripts import Transcript  # noqa: E402

from conformance import __main__ as command_line  # noqa: E402
from conformance import steps as vocabulary  # noqa: E402
from everlatch.wire import multi  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from everlatch.devserver.tree import Event
    from everlatch.devserver.watches import WatchTables

    Bug = Callable[[DevServer], None]


@contextlib.asynccontextmanager
async def dev_server(version: str) -> AsyncIterator[DevServer]:
    async with DevServer(
        version=version, tick=2.0, min_session_timeout=1.0, super_digest=digest(SUPER), reap_interval=1e6
    ) as server:
        yield server


@contextlib.asynccontextmanager
async def twins(version: str = "3.9", bug: Bug = lambda server: None) -> AsyncIterator[Pair]:
    async with dev_server(version) as one, dev_server(version) as other:
        bug(other)
        first, second = await Control.to(one.address), await Control.to(other.address)
        yield Pair(version, "twin", first, second)
        await first.close()
        await second.close()


# --- nothing is found where nothing is ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_server_is_like_itself(version: str) -> None:
    async with twins(version) as servers:
        outcome = await hunt(servers, 1, 3_000)
    assert [finding.render() for finding in outcome.findings] == []
    assert outcome.operations >= 3_000
    assert outcome.sequences >= 2


async def test_a_server_is_left_as_it_was() -> None:
    async with dev_server("3.9") as server:
        control = await Control.to(server.address)
        assert server.core is not None
        before = {path: (node.data, node.acl) for path, node in server.core.tree.nodes.items()}
        for number in range(5):
            await run(control, sequence(3, number))
        assert {path: (node.data, node.acl) for path, node in server.core.tree.nodes.items()} == before
        assert len(server.core.sessions) == 1
        await control.close()


# --- what is planted is found -------------------------------------------------------------------------------------


def core_of(server: DevServer) -> Core:
    assert isinstance(server.core, Core)
    return server.core


def loses_an_event(server: DevServer) -> None:
    core = core_of(server)
    fire = core._fire

    def fire_less(events: Sequence[Event]) -> None:
        fire([event for event in events if event.type is not EventType.CHILDREN_CHANGED or event.path == "/"])

    core._fire = fire_less  # type: ignore[method-assign, assignment]


def tells_events_in_another_order(server: DevServer) -> None:
    core = core_of(server)
    fire = core._fire
    core._fire = lambda events: fire([*events][::-1])  # type: ignore[method-assign]


class _Uncounted(Znode):
    """Forgets that children were made and deleted."""

    __slots__ = ()

    @property
    def stat(self) -> Stat:
        return super().stat._replace(cversion=len(self.children))


def counts_wrongly(server: DevServer) -> None:
    tree = core_of(server).tree
    put = tree._put

    def put_another(path: str, node: Znode) -> Znode:
        node.__class__ = _Uncounted
        return put(path, node)

    tree._put = put_another  # type: ignore[method-assign]


def forgets_the_zxid(server: DevServer) -> None:
    """A refused write uses none up."""
    decider = core_of(server).decider
    decide = decider.decide

    def decide_for_free(ask: Any, now: float) -> Any:
        zxid = decider.tree.zxid
        entry = decide(ask, now)
        if entry.code:
            decider.tree.zxid = zxid
        return entry

    decider.decide = decide_for_free  # type: ignore[method-assign]


def keeps_watches_of_the_old_connection(server: DevServer) -> None:
    core = core_of(server)
    attach = core._attach
    tables: dict[int, WatchTables] = {}

    def attach_with_watches(connection: Any, session: Any, now: float) -> None:
        connection.watches = tables.setdefault(session.id, connection.watches)
        attach(connection, session, now)

    core._attach = attach_with_watches  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("bug", "what"),
    [
        (loses_an_event, {"event", "answer"}),
        (tells_events_in_another_order, {"event"}),
        (counts_wrongly, {"answer", "node"}),
        (forgets_the_zxid, {"answer", "handshake", "event", "node"}),
        (keeps_watches_of_the_old_connection, {"event", "watches", "answer", "end"}),
    ],
)
async def test_a_planted_bug_is_found_and_shrunk(bug: Bug, what: set[str]) -> None:
    async with twins("3.9", bug) as servers:
        (finding,) = (await hunt(servers, 7, 20_000, most=1)).findings
        assert finding.difference.what.split()[0] in what
        assert finding.is_stable
        assert len(finding.steps) <= 5
        again, _ = await compare(servers, finding.steps)
        assert again is not None
        assert again.fault == finding.difference.fault
        for missing in range(len(finding.steps)):
            fewer = [*finding.steps[:missing], *finding.steps[missing + 1 :]]
            other, _ = await compare(servers, fewer)
            assert other is None or other.fault != again.fault


async def test_what_happens_once_is_told_as_such() -> None:
    def once(server: DevServer) -> None:
        core = core_of(server)
        fire = core._fire
        left = [1]

        def fire_less(events: Sequence[Event]) -> None:
            about_a = any(event.path.endswith("/a") for event in events)
            fire(() if about_a and left and left.pop() else events)

        core._fire = fire_less  # type: ignore[method-assign, assignment]

    # Everything watches, so that the first loss is noticed.
    steps = [Step(0, Call("get_children", ("~", True))), Step(1, Call("create", ("~/a", b"", OPEN_ACL_UNSAFE, 0)))]
    async with twins("3.9", once) as servers:
        found, _ = await compare(servers, steps)
        assert found is not None
        assert (await compare(servers, steps))[0] is None


async def test_parts_of_a_multi_are_shrunk_too() -> None:
    parts = tuple(multi.CheckPart(f"~/{number}", -1) for number in range(9))
    steps = [Step(0, Call("ping")), Step(0, Call("multi", parts)), Step(1, Drop())]

    async def shows_it(candidate: Sequence[Step]) -> bool:
        return any(isinstance(step.act, Call) and parts[4] in step.act.arguments for step in candidate)

    assert await shrunk(steps, shows_it) == [Step(0, Call("multi", (parts[4],)))]


async def test_a_server_that_does_not_answer_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.links.LONGEST", 0.1)

    def mute(server: DevServer) -> None:
        core = core_of(server)
        core.ask_to_sync = lambda connection, now: None  # type: ignore[method-assign]

    async with twins("3.9", mute) as servers:
        found, _ = await compare(servers, [Step(0, Call("sync", ("/",)))])
    assert found is not None
    assert found.what == "answer to sync"
    assert found.dev["kind"] == "no answer"


# --- sequences ----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_sequences_whatever_the_hashes() -> None:
    program = (
        "import hashlib; from conformance.generation import sequence; "
        "print(hashlib.sha256(repr([sequence(5, n) for n in range(20)]).encode()).hexdigest())"
    )
    expected = hashlib.sha256(repr([sequence(5, number) for number in range(20)]).encode()).hexdigest()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
        told = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert told.stdout.strip() == expected
    assert sequence(5, 0) != sequence(6, 0)


def test_a_sequence_prints_as_a_script() -> None:
    names = vars(multi) | vars(vocabulary) | {"ACL": ACL}
    for number in range(30):
        steps = sequence(9, number)
        assert eval(repr(steps), names) == steps


def test_sequences_have_everything() -> None:
    steps = [step for number in range(60) for step in sequence(11, number)]
    calls = {step.act.name for step in steps if isinstance(step.act, Call)}
    assert calls == OPERATIONS.keys()
    assert {type(step.act) for step in steps} == {Call, Auth, Drop, Reattach, Unknown}
    assert {step.session for step in steps} == {0, 1, 2, 3, 4}


def test_no_sequence_has_what_kills_servers() -> None:
    for number in range(200):
        for step in sequence(12, number):
            call = step.act
            if isinstance(call, Call) and call.name == "create_ttl":
                assert call.arguments[3] in (5, 6)
            if isinstance(call, Call) and call.name == "multi":
                for part in call.arguments:
                    assert not isinstance(part, multi.CreatePart) or (part.op == 21) == (part.flags in (5, 6))


# --- comparing ----------------------------------------------------------------------------------------------------


def answer(step: int, **fields: Any) -> dict[str, Any]:
    return {"kind": "answer", "call": "exists", "step": step, **fields}


def event(path: str) -> dict[str, Any]:
    return {"kind": "event", "step": -1, "path": path}


@pytest.mark.parametrize(
    ("real", "dev", "found"),
    [
        ([answer(0, code=0)], [answer(0, code=0)], []),
        ([answer(3, code=0)], [answer(3, code=1)], [(3, "answer to exists", "code", 0, 1)]),
        (
            [answer(0, stat={"version": 1, "zxid": 2})],
            [answer(0, stat={"version": 3, "zxid": 4})],
            [(0, "answer to exists", "stat.version", 1, 3), (0, "answer to exists", "stat.zxid", 2, 4)],
        ),
        ([answer(0, names=["a"])], [answer(0, names=["b"])], [(0, "answer to exists", "names.0", "a", "b")]),
        ([answer(0, names=["a"])], [answer(0, names=[])], [(0, "answer to exists", "names", ["a"], [])]),
        ([answer(0, body=b"")], [answer(0)], [(0, "answer to exists", "body", b"", "nothing")]),
        (
            [answer(4), event("/a"), answer(5)],
            [answer(4), answer(5), event("/a")],
            [(5, "event", "", event("/a"), answer(5))],
        ),
        ([answer(0)], [answer(0), event("/a")], [(0, "event", "", "nothing", event("/a"))]),
        ([answer(0), event("/a"), event("/b")], [answer(0), event("/a")], [(0, "event", "", event("/b"), "nothing")]),
    ],
)
def test_what_differs(real: list[dict[str, Any]], dev: list[dict[str, Any]], found: list[tuple[Any, ...]]) -> None:
    assert list(differences("s", real, dev)) == [Difference("s", *each) for each in found]


def test_the_earliest_difference_that_is_not_known_counts() -> None:
    real = Transcript({"a": [answer(7, code=0)], "b": [answer(2, code=0), answer(3, code=0)], "nodes": [event("/")]}, 3)
    dev = Transcript({"a": [answer(7, code=1)], "b": [answer(2, code=2), answer(3, code=3)], "words": []}, 3)
    known: set[int] = set()
    for expected in (2, 3, 7, -1):
        found = first_unexplained(real, dev, lambda difference: difference.step in known)
        assert found is not None
        assert found.step == expected
        known.add(expected)
    assert first_unexplained(real, dev, lambda difference: difference.step in known) is None


def test_a_fault_is_the_same_wherever_it_shows() -> None:
    one, other = (Difference("s", step, "answer to multi", f"results.{step}.code", 0, 1) for step in (1, 2))
    assert one.fault == other.fault == ("answer to multi", "results.code")
    assert "step 1" in one.render()
    assert "the end" in one._replace(step=-1, field="").render()


STAT = Stat(11, 12, 5_000, 6_000, 3, 4, 5, 77, 6, 7, 9)


def test_numbers_become_what_they_mean() -> None:
    normal = Normal("/run", 10, 4_500, {"/": STAT._replace(version=2, cversion=-1, aversion=5)})
    normal.add_session(77, "mine")
    assert [normal.zxid(zxid) for zxid in (-1, 0, 4, 10, 11)] == [-1, 0, BEFORE, BEFORE, 1]
    said = normal.value({"path": "/run/a", "stat": STAT})
    time = "its transaction's"
    assert said == {"path": "~/a", "stat": Stat(1, 2, time, time, 3, 4, 5, "mine", 6, 7, BEFORE)._asdict()}  # type: ignore[arg-type]
    # A node that was there before is told by what has changed.
    old = normal.value(STAT, "/")
    assert (old["version"], old["cversion"], old["aversion"]) == (1, 5, 0)
    assert normal.value(["run", "/running", "/run", 5, b"/run"]) == ["~", "/running", "~", 5, b"/run"]


def test_numbers_that_are_wrong_stay() -> None:
    normal = Normal("/run", 10, 4_500, {})
    assert normal.value(STAT, "")["ctime"] == "its transaction's"
    # Another time for the same transaction, one that is long ago, an unknown session.
    assert normal.value(STAT._replace(ctime=5_001), "")["ctime"] == 5_001
    assert normal.value(STAT._replace(mzxid=13, mtime=100), "")["mtime"] == 100
    assert normal.value(STAT, "")["ephemeral_owner"] == 77


def test_identities_that_took_the_place_of_auth_come_in_any_order() -> None:
    acls = [ACL(31, "digest", "b"), ACL(31, "digest", "a"), ACL(1, "digest", "a"), ACL(31, "digest", "a")]
    assert acls_in_order(acls) == [acls[1], acls[0], acls[2], acls[3]]
    assert acls_in_order([]) == []


# --- shrinking ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 6))
def test_what_is_shrunk_fails_and_is_as_short_as_can_be(seed: int, size: int, needed: int) -> None:
    random = Random(seed)
    items = list(range(size))
    culprits = set(random.sample(items, min(needed, size)))
    tries = 0

    async def fails(candidate: Sequence[int]) -> bool:
        nonlocal tries
        tries += 1
        assert list(candidate) == sorted(candidate)
        return culprits <= set(candidate)

    assert asyncio.run(shrink(items, fails)) == sorted(culprits)
    assert tries <= 40 * needed


async def test_shrinking_when_one_of_several_is_enough() -> None:
    async def fails(candidate: Sequence[int]) -> bool:
        return len(candidate) >= 3 and 5 in candidate

    left = await shrink(range(50), fails)
    assert len(left) == 3
    assert 5 in left

    async def always(candidate: Sequence[int]) -> bool:
        return True

    assert await shrink([1, 2, 3], always) == []


# --- the command --------------------------------------------------------------------------------------------------


def planted(bug: Bug) -> Callable[[str], contextlib.AbstractAsyncContextManager[Pair]]:
    return lambda version: twins(version, bug)


@pytest.mark.parametrize(
    ("bug", "code", "last"),
    [
        (lambda server: None, 0, "0 unexplained differences"),
        (tells_events_in_another_order, 1, "1 unexplained difference"),
    ],
)
def test_the_command_tells_and_writes_what_it_has_found(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    bug: Bug,
    code: int,
    last: str,
) -> None:
    monkeypatch.setattr(command_line, "pair", planted(bug))
    report = tmp_path / "reports" / "conformance.json"
    arguments = ["--operations", "1500", "--seed", "7", "--versions", "3.9", "--json", str(report)]
    assert command_line.main(arguments) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("conformance: 1")
    assert lines[-1].endswith(f"against twin, {last}")
    told = json.loads(report.read_text())
    assert told["seed"] == 7
    findings = told["versions"]["3.9"]["findings"]
    assert len(findings) == code
    for finding in findings:
        compile(finding["script"], "script", "exec")
        assert finding["script"].splitlines()[0] in lines


def test_a_finding_that_did_not_come_again_says_so() -> None:
    difference = Difference("s", 0, "event", "", 1, 2)
    finding = Finding("3.9", "3.9.5", 1, 2, (Step(0, Drop()),), difference, is_stable=False)
    assert "It was there once" in finding.render()
    assert "Step(0, Drop())" in finding.script


@pytest.mark.parametrize("arguments", [["--versions", "3.5"], ["--operations", "0"]])
def test_arguments_that_make_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


# --- real servers -------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("version", VERSIONS)
async def test_every_known_difference_is_there_and_is_the_only_one(version: str) -> None:
    async with pair(version) as servers:
        for known in KNOWN:
            real, dev = await asyncio.gather(run(servers.real, known.example), run(servers.dev, known.example))
            found = [
                difference
                for name in {**real.streams, **dev.streams}
                for difference in differences(name, real.streams.get(name, []), dev.streams.get(name, []))
            ]
            assert bool(found) == (version in known.versions), known.reason
            assert {why(version, difference) for difference in found} <= {known}


@pytest.mark.real
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_short_campaign(version: str) -> None:
    async with pair(version) as servers:
        outcome = await hunt(servers, 20261122, 2_000)
    assert [finding.render() for finding in outcome.findings] == []
    assert outcome.release.startswith(version)
