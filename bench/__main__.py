"""The command line of the benchmarks: `python -m bench throughput`, `devserver`, `failover`, `handover`, `rearming`,
`tree`, `table`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import delays, devserver, failover, handover, markdown, rearming, tree
from bench.contestants import CONTESTANTS
from bench.plain import PlainError
from bench.process import MeasurementError
from bench.report import render, to_json
from bench.throughput import Plan, about, run
from bench.workload import NETTY, OPERATIONS, Where
from everlatch.errors import EverlatchError
from everlatch.testing.ensemble import Ensemble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from bench.delays import Bar, Row

__all__ = ["main"]

_ROUNDS = 9
_QUICK_ROUNDS = 3
_DEVSERVER_ROUNDS = 5
_DEVSERVER_COUNT = 50_000
_FAULT_ROUNDS = 10
_REARMING_ROUNDS = 5
_WATCHES = 100_000
_PARENTS = 100
_STDOUT = Path("-")
# No fsync and no snapshot: the disk and a background thread would be measured by whoever happens to meet them.
_SETTINGS = {"forceSync": "no", "snapCount": "100000000"}


def _some_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return parse


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of everlatch.")
    commands = parser.add_subparsers(dest="command", required=True)
    throughput = commands.add_parser("throughput", help="operations per second and CPU per operation, side by side")
    throughput.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file, too")
    throughput.add_argument("--rounds", type=_positive, metavar="N", help=f"default {_ROUNDS}, quick {_QUICK_ROUNDS}")
    throughput.add_argument("--quick", action="store_true", help="few operations, to see that it works: no numbers")
    throughput.add_argument(
        "--contestants", type=_some_of(CONTESTANTS), default=CONTESTANTS, help=f"some of {','.join(CONTESTANTS)}"
    )
    throughput.add_argument(
        "--operations", type=_some_of(OPERATIONS), default=OPERATIONS, help=f"some of {','.join(OPERATIONS)}"
    )
    throughput.add_argument("--hosts", metavar="HOST:PORT", help="use this server instead of starting one")
    alone = commands.add_parser("devserver", help="operations per second of the dev server on one core")
    alone.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file, too")
    alone.add_argument("--rounds", type=_positive, metavar="N", default=_DEVSERVER_ROUNDS, help="default %(default)s")
    alone.add_argument("--count", type=_positive, metavar="N", default=_DEVSERVER_COUNT, help="requests of a load")
    for name, contestants, text in (
        ("failover", failover.CONTESTANTS, "how long reads stop when the server in use is killed or frozen"),
        ("handover", handover.CONTESTANTS, "how long until the next of six members leads"),
    ):
        _add_fault_benchmark(commands.add_parser(name, help=text), contestants)
    watches = commands.add_parser("rearming", help="how long a client with many one-shot watches takes to reconnect")
    watches.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file, too")
    watches.add_argument("--rounds", type=_positive, metavar="N", default=_REARMING_ROUNDS, help="default %(default)s")
    watches.add_argument("--watches", type=_positive, metavar="N", default=_WATCHES, help="default %(default)s")
    watches.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    versions = rearming.VERSIONS
    watches.add_argument("--versions", type=_some_of(versions), default=versions, help=f"some of {','.join(versions)}")
    copies = commands.add_parser("tree", help="how long watch_tree takes to read a tree, beside pipelined gets")
    copies.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file, too")
    copies.add_argument("--rounds", type=_positive, metavar="N", default=_REARMING_ROUNDS, help="default %(default)s")
    text = f"nodes with {tree.CHILDREN} children each; default %(default)s"
    copies.add_argument("--parents", type=_positive, metavar="N", default=_PARENTS, help=text)
    copies.add_argument("--check", action="store_true", help="exit with 1 if the bar is missed")
    table = commands.add_parser("table", help="the table of the README, from a report")
    table.add_argument("report", type=Path, metavar="FILE", help="what `throughput --json FILE` has written")
    return parser


def _add_fault_benchmark(parser: argparse.ArgumentParser, contestants: Sequence[str]) -> None:
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=_STDOUT,
        metavar="FILE",
        help="write the report to this file, too; without FILE: print it instead of the table",
    )
    parser.add_argument("--rounds", type=_positive, metavar="N", default=_FAULT_ROUNDS, help="default %(default)s")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed or was not measured")
    parser.add_argument(
        "--contestants", type=_some_of(contestants), default=contestants, help=f"some of {','.join(contestants)}"
    )


@asynccontextmanager
async def _server(hosts: str | None, *, tls: bool = False) -> AsyncIterator[Where]:
    """The servers to use; `tls`: one that speaks TLS, too."""
    if hosts is not None:
        yield Where(hosts)
        return
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(_one_server())
        where = Where(server.connect_string)
        if tls:
            secure = await stack.enter_async_context(_one_server(tls=True, client_auth="none"))
            netty = secure.servers[0].plain_address
            where = where._replace(netty=netty, tls=secure.connect_string, ca=str(secure.certificates.ca))
        yield where


def _one_server(**options: Any) -> Ensemble:
    return Ensemble(1, version="3.8", tick_time=2.0, config=_SETTINGS, java_options=_full_jvm(), **options)


def _full_jvm() -> tuple[str, ...]:
    """Java's own defaults for a server, where `Ensemble` makes a JVM small and quick to start.

    The last of two contradicting options counts: all compilers, and a quarter of the memory as heap.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return ("-XX:TieredStopAtLevel=4", f"-Xmx{memory // 4 >> 20}m", "-XX:+UseG1GC")


async def _throughput(chosen: argparse.Namespace) -> None:
    rounds = chosen.rounds or (_QUICK_ROUNDS if chosen.quick else _ROUNDS)
    # There is no TLS at a server that somebody else has started.
    contestants = tuple(name for name in chosen.contestants if not (chosen.hosts and name in NETTY))
    plan = Plan(contestants, chosen.operations, rounds, chosen.quick)
    async with _server(chosen.hosts, tls=not NETTY.keys().isdisjoint(contestants)) as where:
        known = await asyncio.to_thread(about, plan, where.address)
        rows = await run(plan, where, _say)
    print(render(rows))
    if chosen.json:
        chosen.json.write_text(json.dumps(to_json(rows, known), indent=2) + "\n")


async def _devserver(chosen: argparse.Namespace) -> None:
    rows = await devserver.run(chosen.rounds, chosen.count, _say)
    print(devserver.render(rows))
    if chosen.json:
        report = devserver.to_json(rows, chosen.rounds, chosen.count)
        chosen.json.write_text(json.dumps(report, indent=2) + "\n")


async def _tree(chosen: argparse.Namespace) -> int:
    async with _server(None) as where:
        figures = await tree.run(where.address, chosen.parents, chosen.rounds, _say)
    print(tree.render(figures))
    if chosen.json:
        chosen.json.write_text(json.dumps(tree.to_json(figures), indent=2) + "\n")
    return 1 if chosen.check and not tree.passes(figures) else 0


async def _failover(chosen: argparse.Namespace) -> int:
    rows, known = await failover.run(failover.FailoverPlan(chosen.contestants, chosen.rounds), _say)
    return _tell(chosen, rows, known, failover.BARS, failover.CASE, {})


async def _handover(chosen: argparse.Namespace) -> int:
    plan = handover.HandoverPlan(chosen.contestants, handover.HOW, chosen.rounds)
    rows, known = await handover.run(plan, _say)
    return _tell(chosen, rows, known, handover.BARS, handover.CASE, handover.CONSTANT)


async def _rearming(chosen: argparse.Namespace) -> int:
    results = await rearming.run(chosen.versions, chosen.rounds, chosen.watches, _say)
    print(rearming.render(results))
    if chosen.json:
        chosen.json.write_text(json.dumps(rearming.to_json(results), indent=2) + "\n")
    passed = all(all(rearming.judge(each).values()) for each in results)
    return 1 if chosen.check and not passed else 0


def _tell(
    chosen: argparse.Namespace,
    rows: Sequence[Row],
    known: Mapping[str, Any],
    bars: Sequence[Bar],
    case: str,
    constant: Mapping[str, Any],
) -> int:
    """Prints and writes what was asked for; the exit code."""
    verdicts = delays.judge(rows, bars)
    report = delays.to_json(rows, verdicts, known, case, constant)
    table = delays.render(report["results"], case, verdicts)
    if chosen.json == _STDOUT:
        _say(table)
        print(json.dumps(report, indent=2))
    else:
        print(table)
        if chosen.json:
            chosen.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if chosen.check and not delays.passed(verdicts) else 0


async def _ended_by_sigterm(benchmark: Coroutine[Any, Any, int | None]) -> int:
    """Its exit code. SIGTERM ends it as Ctrl-C does: processes are ended, files removed."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await benchmark or 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen benchmark. The exit code is 1 if it could not be run; a missed bar is a result, not a failure,
    unless `--check` asks for it."""
    chosen = _parser().parse_args(arguments)
    if chosen.command == "table":
        print(markdown.table(json.loads(chosen.report.read_text())))
        return 0
    benchmark = {
        "throughput": _throughput,
        "devserver": _devserver,
        "failover": _failover,
        "handover": _handover,
        "rearming": _rearming,
        "tree": _tree,
    }
    try:
        return asyncio.run(_ended_by_sigterm(benchmark[chosen.command](chosen)))
    except (MeasurementError, PlainError, EverlatchError, OSError) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
