"""The trial of `exactly_once` on real servers: `python -m torture.exactly_once --real`.

A client makes sequential nodes and sets another one, in turn, through proxies that lose every 50th reply after the
write was applied. Then the servers are asked what there is: nothing may be missing, nothing twice, every call must
have ended well, with the name and the Stat of its own write, and all in the order of the calls.

Rules: the judge compares what calls returned with what the servers have, and needs nothing else; the trial fails if
no reply was lost.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch import Client, Created, Node, OutcomeUnknownError, Stat
from everlatch.partial_stat import UNKNOWN
from everlatch.testing import Ensemble, Op, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from everlatch.testing import NetworkEnsemble

__all__ = ["Trial", "Verdict", "judge", "main", "on_real_servers"]

_RECEIPTS: Final = re.compile(r"/everlatch-receipts/.*")
_VERSION: Final = Stat._fields.index("version")
_EVERY: Final = 50
_BATCH: Final = 5000
"""Calls that are made at a time; how many of them are sent is up to the window."""


class Trial(NamedTuple):
    """What the calls returned or raised, in their order, and what the servers have in the end."""

    created: Sequence[Any]
    changed: Sequence[Any]
    """Of the sets."""
    nodes: dict[str, Node]
    """Path → node, of all that were created."""
    version: int
    """Of the node that was set."""


class Verdict(NamedTuple):
    """What a trial came to."""

    duplicates: int
    """Nodes that nobody was told of, sets that were applied beyond those that were called."""
    missing: int
    """Nodes, or sets, that were told of, and aren't there."""
    unknown: int
    errors: list[str]
    """All that calls raised, each kind once."""
    wrong: list[str]
    """Answers that aren't true."""

    @property
    def is_good(self) -> bool:
        """Nothing of the kind."""
        return not any(self)


def judge(trial: Trial) -> Verdict:
    """Looks for what must not be."""
    created = [end for end in trial.created if isinstance(end, Created)]
    changed = [end for end in trial.changed if isinstance(end, Stat)]
    raised = [end for end in [*trial.created, *trial.changed] if isinstance(end, BaseException)]
    told = {end.path for end in created}
    extra = trial.version - len(changed)
    return Verdict(
        duplicates=len(trial.nodes.keys() - told) + max(extra, 0) + len(created) - len(told),
        missing=len(told - trial.nodes.keys()) + max(-extra, 0),
        unknown=sum(isinstance(error, OutcomeUnknownError) for error in raised),
        errors=sorted({f"{type(error).__name__}: {error}"[:300] for error in raised}),
        wrong=[*_wrong_nodes(trial), *_wrong_order(created, changed)][:20],
    )


def _wrong_nodes(trial: Trial) -> Iterator[str]:
    for number, end in enumerate(trial.created):
        node = trial.nodes.get(end.path) if isinstance(end, Created) else None
        if node is not None and (node.data != b"%d" % number or node.stat != end.stat):
            yield f"create {number} was told {end}, and the node is {node}"
    for number, end in enumerate(trial.changed, 1):
        # A tuple of it is read, for what isn't known of a Stat raises when it is asked for by name.
        if isinstance(end, Stat) and end[_VERSION] not in (number, UNKNOWN):
            yield f"set {number} was told version {end[_VERSION]}"


def _wrong_order(created: Sequence[Created], changed: Sequence[Stat]) -> Iterator[str]:
    for zxids in ([end.stat.czxid for end in created], [end.mzxid for end in changed]):
        if any(earlier >= later for earlier, later in itertools.pairwise(zxids)):
            yield "writes took effect in another order than that of the calls"
    if sorted(end.path for end in created) != [end.path for end in created]:
        yield "the numbers of nodes are in another order than the calls"


async def _write(client: Client, root: str, operations: int) -> tuple[list[Any], list[Any]]:
    """Creates and sets in turn."""
    created: list[Any] = []
    changed: list[Any] = []
    for first in range(0, operations, _BATCH):
        calls: list[Any] = []
        for number in range(first, min(first + _BATCH, operations)):
            data = b"%d" % (number // 2)
            is_create = number % 2 == 0
            calls.append(client.create(f"{root}/n-", data, sequential=True) if is_create else client.set(root, data))
        ends = await asyncio.gather(*calls, return_exceptions=True)
        created += ends[::2]
        changed += ends[1::2]
    return created, changed


async def _read(witness: Client, root: str) -> tuple[dict[str, Node], int]:
    await witness.sync(root)
    names, stat = await witness.children_and_stat(root)
    nodes: dict[str, Node] = {}
    for first in range(0, len(names), _BATCH):
        paths = [f"{root}/{name}" for name in names[first : first + _BATCH]]
        nodes |= zip(paths, await asyncio.gather(*[witness.get(path) for path in paths]), strict=True)
    return nodes, stat.version


async def on_real_servers(
    ensemble: Ensemble | NetworkEnsemble, version: str, operations: int, window: int
) -> dict[str, Any]:
    """The trial, on servers that run. `operations`: creates and sets together, an even number; `window`: how many are
    unanswered at a time. Returns what is to be reported."""
    async with contextlib.AsyncExitStack() as stack:
        options = ensemble.client_options
        witness = await stack.enter_async_context(Client(ensemble.connect_string, session_timeout=30.0, **options))
        proxies = [
            await stack.enter_async_context(Proxy(server.address, tls=server.certificates))
            for server in ensemble.servers
        ]
        root = (await witness.create("/exactly-once-", sequential=True)).path
        client = Client(
            [proxy.address for proxy in proxies],
            session_timeout=30.0,
            exactly_once=True,
            receipts=window,
            **options,
        )
        await stack.enter_async_context(client)
        faults = [proxy.lose_reply(Op.MULTI, path=_RECEIPTS, every=_EVERY) for proxy in proxies]
        began = time.monotonic()
        created, changed = await _write(client, root, operations)
        seconds = time.monotonic() - began
        statistics = client.statistics()
        lost = sum(fault.times for fault in faults)
        for fault in faults:
            fault.cancel()
        nodes, sets = await _read(witness, root)
    verdict = judge(Trial(created, changed, nodes, sets))
    return {
        "version": version,
        "operations": operations,
        "window": window,
        "seconds": round(seconds, 1),
        "lost replies": lost,
        "connections": statistics.connections,
        "sessions": statistics.generation,
        "settled": statistics.outcomes_settled,
        "sent again": statistics.writes_resent,
        "good": verdict.is_good and lost > 0,
    } | verdict._asdict()


async def _with_ensemble(version: str, operations: int, window: int) -> dict[str, Any]:
    async with Ensemble(3, version=version) as ensemble:
        return await on_real_servers(ensemble, version, operations, window)


def _even(text: str) -> int:
    number = int(text)
    if number < 2 or number % 2:
        raise argparse.ArgumentTypeError("an even number of at least 2")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it. The exit code is 1 if a write was lost, doubled or unknown."""
    parser = argparse.ArgumentParser(
        prog="python -m torture.exactly_once", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--real", action="store_true", required=True, help="on real servers")
    parser.add_argument("--zookeeper-version", choices=["3.8", "3.9"], default="3.9")
    parser.add_argument("--operations", type=_even, default=100_000, metavar="N", help="default %(default)d")
    parser.add_argument("--window", type=int, default=64, metavar="W", help="unanswered at a time; default %(default)d")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the report goes")
    chosen = parser.parse_args(arguments)
    report = asyncio.run(_with_ensemble(chosen.zookeeper_version, chosen.operations, chosen.window))
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    print(text, end="", flush=True)
    if chosen.json is not None:
        chosen.json.write_text(text)
    return 0 if report["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
