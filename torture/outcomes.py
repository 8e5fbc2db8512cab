"""Whether the client ever tells wrong of a write whose connection broke, and how often it can't tell, on real servers:
`python -m torture.outcomes`.

Every kind of write, in every mode; its reply is lost, or its request; meanwhile somebody else does something, or the
connection breaks a second time, in every part of what finds out. `outcome_cases` judges.

Rules: each case has nodes of its own; each mode a client of its own, whose session lives through all of its cases, and
proxies of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch import Client, State
from everlatch.testing import HANDSHAKE, Ensemble, Op, Proxy
from torture.outcome_cases import KINDS, OTHERS, Ending, Kind, Mode, ending_of, look, wrong

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from everlatch.testing import RequestFault, Server

__all__ = ["Again", "Case", "Tally", "cases", "main", "run"]

_RECEIPTS: Final = "/everlatch-receipts"
_RECEIPT: Final = re.compile(f"{_RECEIPTS}/.*")
_NUMBERED: Final = re.compile(r".*\d{10}")
_WATCHES: Final = (Op.SET_WATCHES, Op.SET_WATCHES2)
_PATIENCE: Final = 30.0
_IDENTITY: Final = ("digest", b"torture:secret")
_FIRST: Final = ("lose_reply", "lose_request")
_SPANS: Final = [f"{lost} lost, {who} else writes" for lost in ("reply", "request") for who in ("nobody", "somebody")]


class Again(NamedTuple):
    """Where the connection breaks a second time."""

    name: str
    op: Op | tuple[Op, ...] | None
    """`None`: the write itself, sent again."""
    path: str | re.Pattern[str] | None = None
    nth: int = 1


_AGAIN: Final = (
    Again("auth", Op.AUTH),
    Again("setWatches", _WATCHES),
    Again("commit", Op.MULTI, "/"),
    Again("look", Op.EXISTS),
    Again("second look", Op.EXISTS, nth=2),
    Again("search", Op.EXISTS, _NUMBERED),
    Again("list", Op.GET_CHILDREN),
    Again("receipt", Op.GET_DATA, _RECEIPT),
    Again("write", None),
)


class Case(NamedTuple):
    """One write, and what happens to it."""

    kind: Kind
    mode: Mode
    first: str
    """What is lost first: a method of `Proxy`."""
    other: str
    """What somebody else does meanwhile."""
    again: Again | None = None
    second: str = "lose_reply"

    @property
    def span(self) -> str:
        """What it is counted under."""
        return _SPANS[2 * _FIRST.index(self.first) + (self.other != "nothing")]

    def __str__(self) -> str:
        again = f", then {self.second} of {self.again.name}" if self.again else ""
        return f"{self.kind.name}, {self.mode.value}, {self.first}, somebody {self.other}{again}"


def cases() -> list[Case]:
    """All of them."""
    found: list[Case] = []
    for kind, mode, first in itertools.product(KINDS, Mode, _FIRST):
        if mode not in kind.modes:
            continue
        # Nobody else makes nodes with a GUID of ours: that is what `protect` rests on.
        others = [other for other in OTHERS if other != "replaces it" or mode is not Mode.PROTECT]
        found += [Case(kind, mode, first, other) for other in others]
        for again, second, other in itertools.product(_AGAIN, _FIRST, ("nothing", others[2])):
            if again.op is not Op.GET_DATA or mode is Mode.EXACTLY_ONCE:
                found.append(Case(kind, mode, first, other, again, second))
    return found


class Tally:
    """What came of the cases."""

    def __init__(self) -> None:
        self.endings: dict[tuple[Mode, str], Counter[Ending]] = {
            key: Counter() for key in itertools.product(Mode, _SPANS)
        }
        """By mode, and by what was lost first and whether somebody else wrote."""
        self.struck: Counter[str] = Counter()
        """Where connections broke a second time."""
        self.moves = 0
        """How often a client was with another server afterwards."""
        self.violations: list[str] = []

    @property
    def count(self) -> int:
        """Of all cases."""
        return sum(counter.total() for counter in self.endings.values())

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        modes: dict[str, dict[str, dict[str, int]]] = {mode.value: {} for mode in Mode}
        for (mode, span), counter in self.endings.items():
            counts = {ending.value: counter[ending] for ending in Ending}
            modes[mode.value][span] = {"cases": counter.total()} | counts
        second = dict(sorted(self.struck.items()))
        return {"cases": self.count, "wrong": self.violations, "modes": modes, "second losses": second} | (
            {"moved to another server": self.moves} if self.moves else {}
        )


class _AtOnce:
    """Reconnects without a pause."""

    def next_delay(self, _retries: int, _elapsed: float, _rng: object) -> float:
        """None at all."""
        return 0.0


class _Stage:
    """A client in one mode, behind proxies of its own, and somebody beside it."""

    def __init__(self, client: Client, witness: Client, proxies: Sequence[Proxy], root: str) -> None:
        self._client = client
        self._witness = witness
        self._proxies = proxies
        self._root = root
        self._count = 0

    async def play(self, case: Case, tally: Tally) -> None:
        """One case."""
        client, witness, kind = self._client, self._witness, case.kind
        self._count += 1
        root = (await witness.create(f"{self._root}/{self._count}")).path
        path = f"{root}/n"
        if not kind.is_new:
            await witness.create(path, b"old")
        before = await look(witness, root)
        await client.sync()
        server, unknown = client.statistics().server, client.statistics().outcomes_unknown
        held = [proxy.hold_request(HANDSHAKE) for proxy in self._proxies]
        first = self._break(case.first, self._op(case))
        call = asyncio.ensure_future(kind.call(client, path, case.mode.option))
        await _any_of(first)
        _cancel(first)
        broken = await look(witness, root)
        made = broken.made_since(before) if kind.is_new else []
        target = made[0].path if made else path
        await OTHERS[case.other](witness, target, target in broken.nodes, kind.is_ephemeral)
        meddled = await look(witness, root)
        second = self._break(case.second, case.again.op or self._op(case), case.again) if case.again else []
        for one in held:
            one.release()
        _cancel(held)
        async with _only_once(second), asyncio.timeout(_PATIENCE):
            (end,) = await asyncio.gather(call, return_exceptions=True)
        if any(fault.times for fault in second):
            assert case.again is not None
            tally.struck[case.again.name] += 1
        _cancel(second)
        await client.wait_connected()
        after = await look(witness, root)
        tally.moves += client.statistics().server != server
        ending = ending_of(end)
        tally.endings[case.mode, case.span][ending] += 1
        reason = wrong(kind, case.mode, target, (before, broken, meddled, after), end)
        if reason is None and client.statistics().outcomes_unknown - unknown != (ending is Ending.UNKNOWN):
            reason = "the statistics count another number of unknown outcomes"
        if reason is not None:
            tally.violations.append(f"{case}: {reason}")

    def _op(self, case: Case) -> Op:
        return Op.MULTI if case.mode is Mode.EXACTLY_ONCE else case.kind.op

    def _break(self, how: str, op: Op | tuple[Op, ...], again: Again | None = None) -> list[RequestFault]:
        path, nth = (again.path, again.nth) if again else (None, 1)
        return [getattr(proxy, how)(op, path=path, nth=nth) for proxy in self._proxies]


async def _any_of(faults: Iterable[RequestFault]) -> None:
    waits = [asyncio.ensure_future(fault.happened()) for fault in faults]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


@contextlib.asynccontextmanager
async def _only_once(faults: Sequence[RequestFault]) -> AsyncIterator[None]:
    """When one has happened, at whichever proxy, the others are taken back."""

    async def watch() -> None:
        await _any_of(faults)
        _cancel(faults)

    watching = asyncio.create_task(watch()) if faults else None
    try:
        yield
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])


def _cancel(faults: Iterable[RequestFault]) -> None:
    for fault in faults:
        fault.cancel()


@contextlib.asynccontextmanager
async def _stages(
    servers: Sequence[Server], root: str, options: Mapping[str, Any]
) -> AsyncIterator[dict[Mode, _Stage]]:
    async with contextlib.AsyncExitStack() as stack:
        found: dict[Mode, _Stage] = {}
        for mode in Mode:
            proxies = [
                await stack.enter_async_context(Proxy(server.address, tls=server.certificates)) for server in servers
            ]
            addresses = [server.address for server in servers]
            witness = await stack.enter_async_context(Client(addresses, session_timeout=30.0, **options))
            client = Client(
                [proxy.address for proxy in proxies],
                session_timeout=30.0,
                default_timeout=_PATIENCE,
                retry_policy=_AtOnce(),
                exactly_once=mode is Mode.EXACTLY_ONCE,
                **{**options, "auth": [*options.get("auth", ()), _IDENTITY]},
            )
            await stack.enter_async_context(client)
            below = (await witness.create(f"{root}/{mode.value}")).path
            # A watch that never fires, so that there is something to be set again after a reconnect.
            await client.exists(f"{below}/never", watch=lambda _: None)
            found[mode] = _Stage(client, witness, proxies, below)
        yield found


async def run(
    servers: Sequence[Server], root: str, chosen: Iterable[Case], options: Mapping[str, Any] | None = None
) -> Tally:
    """Plays these cases below a node that exists, the modes side by side. With several servers the client has others to
    go to. `options`: arguments of all clients, so that they get in."""
    tally = Tally()
    all_of = list(chosen)
    async with _stages(servers, root, options or {}) as stages:

        async def play(mode: Mode) -> None:
            for case in all_of:
                if case.mode is mode:
                    try:
                        await stages[mode].play(case, tally)
                    except Exception as error:
                        error.add_note(str(case))
                        raise

        async with asyncio.TaskGroup() as group:
            for mode in Mode:
                group.create_task(play(mode))
        assert all(stage._client.state is State.CONNECTED for stage in stages.values())
    return tally


async def _on_real_servers(version: str, size: int, every: int) -> dict[str, Any]:
    async with Ensemble(size, version=version) as ensemble, Client(ensemble.connect_string) as client:
        root = (await client.create("/outcomes")).path
        began = time.monotonic()
        tally = await run(ensemble.servers, root, cases()[::every])
        seconds = round(time.monotonic() - began, 1)
    return {"version": version, "servers": size, "seconds": seconds} | tally.to_json()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it. The exit code is 1 if the client told wrong."""
    parser = argparse.ArgumentParser(prog="python -m torture.outcomes", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--zookeeper-version", choices=["3.8", "3.9", "both"], default="both")
    parser.add_argument("--servers", type=int, choices=[1, 3], nargs="+", default=[1, 3], metavar="N")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of the cases only each N-th")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the report goes")
    chosen = parser.parse_args(arguments)
    versions = ["3.8", "3.9"] if chosen.zookeeper_version == "both" else [chosen.zookeeper_version]
    reports: list[dict[str, Any]] = []
    for version, size in itertools.product(versions, chosen.servers):
        report = asyncio.run(_on_real_servers(version, size, chosen.every))
        reports.append(report)
        print(json.dumps(report, indent=2, ensure_ascii=False), flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"outcomes": reports}, indent=2, ensure_ascii=False) + "\n")
    return 1 if any(report["wrong"] for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
