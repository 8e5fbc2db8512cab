"""How long until a client with 100 000 one-shot watches is served again after a loss, and what the watches take.

How it is measured:
- A standalone server of each version, without fsync. Every watch has a node of its own, of 30 characters: one half
  waits for data, a quarter for children, a quarter for nodes that aren't there. All have the same callback.
- The client is a process of its own, `bench.watcher`, behind a proxy in this one. The connection is reset; what counts
  is the time from then until the first call that the client made after the loss is answered. It is answered behind
  all setWatches: servers take the requests of a connection in their order. To show that, every node is changed after
  the last round, and each watch has to fire, once.
- The largest frame is what the proxy saw. The limit is 128 KiB.
- Memory is what tracemalloc says that the process has allocated since its client was connected, by the number of
  watches; paths are made by the client's user, one by one, and count as well. In a process of its own, for tracing
  takes time.
- Also told: for how long at most the client's event loop stood still meanwhile.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.circumstances import circumstances
from bench.probe import probe
from bench.process import MeasurementError
from bench.server import server_version
from bench.watcher import KINDS, ROOT, path_of
from everlatch import Client
from everlatch.testing.ensemble import Ensemble
from everlatch.testing.proxy import Proxy
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.probe import Probe

__all__ = ["BARS", "VERSIONS", "Figures", "judge", "render", "run", "to_json"]

VERSIONS = ("3.8", "3.9")
BARS = {"slowest_s": 3.0, "largest_frame": 128 * 1024, "bytes_per_watch": 400.0}
"""What the figures may be at most."""

_SETTINGS = {"forceSync": "no", "snapCount": "100000000"}
_PART = 1000
"""Nodes to a transaction."""
_PATIENCE_S = 120.0


class Figures(NamedTuple):
    """What was measured with one version."""

    zookeeper: str
    watches: int
    reconnected_s: tuple[float, ...]
    blocked_ms: tuple[float, ...]
    frames: int
    largest_frame: int
    bytes_per_watch: float

    @property
    def slowest_s(self) -> float:
        """Of all rounds."""
        return max(self.reconnected_s)


async def run(versions: Sequence[str], rounds: int, count: int, say: Callable[[str], None]) -> list[Figures]:
    """Measures. Raises `MeasurementError`, and what servers raise that don't come up."""
    figures = []
    for version in versions:
        async with (
            Ensemble(1, version=version, config=_SETTINGS) as ensemble,
            Proxy(ensemble.connect_string) as proxy,
            Client(ensemble.connect_string, default_timeout=_PATIENCE_S) as changer,
        ):
            await _make_nodes(changer, count)
            memory = await _memory(ensemble.connect_string, count)
            say(f"{version}: {memory / count:.0f} bytes for each watch")
            async with probe("the client", _command("reconnects", proxy.address, count)) as client:
                await client.expect("ready")
                losses = [await _lose(proxy, client, say) for _ in range(rounds)]
                await _check_all_fire(changer, client, count)
                await client.end()
            sizes = [request.size for request in proxy.seen((Op.SET_WATCHES, Op.SET_WATCHES2))]
            figures.append(
                Figures(
                    server_version(ensemble.connect_string).partition("-")[0],
                    count,
                    tuple(round(took, 4) for took, _ in losses),
                    tuple(round(blocked, 1) for _, blocked in losses),
                    len(sizes) // rounds,
                    max(sizes),
                    round(memory / count, 1),
                )
            )
    return figures


def _command(what: str, server: str, count: int) -> Sequence[str]:
    return (sys.executable, "-m", "bench.watcher", what, server, str(count))


async def _memory(server: str, count: int) -> int:
    async with probe("the client that is traced", _command("memory", server, count)) as client:
        (allocated,) = await client.expect("bytes")
        await client.end()
    return allocated


async def _lose(proxy: Proxy, client: Probe, say: Callable[[str], None]) -> tuple[float, float]:
    """Seconds until it is served, and milliseconds for which its loop stood still."""
    began = time.monotonic_ns()
    proxy.cut()
    served, blocked = await client.expect("served")
    took = (served - began) / 1e9
    say(f"served again after {took:.3f} s")
    return took, blocked / 1e6


async def _make_nodes(changer: Client, count: int) -> None:
    await changer.create(ROOT)
    there = [number for number in range(count) if KINDS[number % len(KINDS)] != "exist"]
    for start in range(0, len(there), _PART):
        async with changer.transaction() as transaction:
            for number in there[start : start + _PART]:
                transaction.create(path_of(number))


async def _check_all_fire(changer: Client, client: Probe, count: int) -> None:
    client.tell("nothing has changed")
    fired = await client.expect("fired")
    for start in range(0, count, _PART):
        async with changer.transaction() as transaction:
            for number in range(start, min(count, start + _PART)):
                path, kind = path_of(number), KINDS[number % len(KINDS)]
                if kind == "data":
                    transaction.set(path, b"changed")
                else:
                    transaction.create(f"{path}/child" if kind == "child" else path)
    client.tell("all have changed")
    fired += await client.expect("fired")
    if fired != [0, count]:
        raise MeasurementError(f"{fired[0]} watches have fired before anything had changed, {fired[1]} after {count}")


# --- the report -----------------------------------------------------------------------------------------------------


def judge(figures: Figures) -> dict[str, bool]:
    """Which bars are reached."""
    return {name: getattr(figures, name) <= limit for name, limit in BARS.items()}


def render(results: Sequence[Figures]) -> str:
    """The table and the verdicts for people."""
    lines = [
        f"{'server':<9}{'watches':>8}  {'served again (worst)':<22}{'loop blocked':>13}{'frames':>8}"
        f"{'largest':>9}{'bytes/watch':>13}"
    ]
    for each in results:
        served = f"{median(each.reconnected_s):.3f} s ({each.slowest_s:.3f} s)"
        lines.append(
            f"{each.zookeeper:<9}{each.watches:>8}  {served:<22}{max(each.blocked_ms):>10.0f} ms{each.frames:>8}"
            f"{each.largest_frame:>9}{each.bytes_per_watch:>13.0f}"
        )
    lines.append("")
    for each in results:
        for name, passed in judge(each).items():
            verdict = "PASS" if passed else "FAIL"
            lines.append(f"{verdict:<6}{each.zookeeper}: {name} <= {BARS[name]:g}, got {getattr(each, name):g}")
    return "\n".join(lines)


def to_json(results: Sequence[Figures]) -> dict[str, Any]:
    """The report of a run."""
    return {
        **circumstances("rearming"),
        "bars": BARS,
        "results": [{**each._asdict(), "slowest_s": each.slowest_s, "passed": judge(each)} for each in results],
    }
