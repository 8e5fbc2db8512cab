"""How long until `watch_tree` has a copy of a large tree, beside reading all of its nodes by pipelined `get`s.

How it is measured:
- A standalone server of 3.8, without fsync, with a heap and compilers as servers have them; 100 parents with 1000
  children each, of 100 bytes.
- Each measurement is a process of its own, `bench.tree_reader`, and the two ways take turns. Who reads by `get` knows
  all paths, has 1000 requests in flight, and keeps nothing. The copy has to find the paths, and keeps all.
- Results are medians over the rounds; the ratio is that of the medians. The bar: 1.5 times the time.
- Memory is what tracemalloc says that the copy takes for each node, in another process, for tracing takes time.
"""

from __future__ import annotations

import asyncio
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.circumstances import circumstances
from bench.plain import Op, PlainConnection, bodies
from bench.process import measured
from bench.server import server_version
from bench.tree_reader import paths_of
from bench.workload import VALUE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.stopwatch import Sample

__all__ = ["BAR", "CHILDREN", "Figures", "passes", "render", "run", "to_json"]

BAR = 1.5
"""The time of the copy, by that of the gets, at most."""
CHILDREN = 1000
_MODULE = "bench.tree_reader"


class Figures(NamedTuple):
    """What was measured: seconds for the whole tree, and CPU microseconds for each node."""

    zookeeper: str
    nodes: int
    gets_s: tuple[float, ...]
    tree_s: tuple[float, ...]
    gets_cpu_us: tuple[float, ...]
    tree_cpu_us: tuple[float, ...]
    bytes_per_node: float

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return median(self.tree_s) / median(self.gets_s)


async def run(address: str, parents: int, rounds: int, say: Callable[[str], None]) -> Figures:
    """Measures. Raises `MeasurementError`."""
    paths = paths_of(parents, CHILDREN)
    await asyncio.to_thread(_make, address, paths)
    tree = (address, str(parents), str(CHILDREN))
    await measured(_MODULE, "gets", *tree)  # for the server's just-in-time compiler
    samples: dict[str, list[Sample]] = {"gets": [], "tree": []}
    for number in range(rounds):
        for way, found in samples.items():
            found.append(await measured(_MODULE, way, *tree))
        gets, copy = (len(paths) / samples[way][-1].ops_per_s for way in ("gets", "tree"))
        say(f"round {number + 1} of {rounds}: gets {gets:.2f} s, watch_tree {copy:.2f} s")
    memory = await measured(_MODULE, "memory", *tree)
    return Figures(
        (await asyncio.to_thread(server_version, address)).partition("-")[0],
        len(paths),
        *(tuple(round(len(paths) / each.ops_per_s, 4) for each in samples[way]) for way in samples),
        *(tuple(round(each.cpu_us_per_op, 2) for each in samples[way]) for way in samples),
        round(memory.cpu_us_per_op, 1),
    )


def _make(address: str, paths: Sequence[str]) -> None:
    with PlainConnection(address) as connection:
        connection.pipeline(Op.CREATE, (bodies.create(path, VALUE) for path in paths))


# --- the report -----------------------------------------------------------------------------------------------------


def passes(figures: Figures) -> bool:
    """Whether the bar is reached."""
    return figures.ratio <= BAR


def render(figures: Figures) -> str:
    """The table and the verdict for people."""
    lines = [f"ZooKeeper {figures.zookeeper}, {figures.nodes} nodes", f"{'':<12}{'seconds':>9}  {'CPU µs/node':>12}"]
    ways: Sequence[tuple[str, Sequence[float], Sequence[float]]] = (
        ("gets", figures.gets_s, figures.gets_cpu_us),
        ("watch_tree", figures.tree_s, figures.tree_cpu_us),
    )
    lines += [f"{way:<12}{median(seconds):>9.2f}  {median(cpu):>12.1f}" for way, seconds, cpu in ways]
    lines += ["", f"{figures.bytes_per_node:.0f} bytes for each node"]
    verdict = "PASS" if passes(figures) else "FAIL"
    return "\n".join([*lines, f"Bar: {BAR} x the time of the gets: {figures.ratio:.2f} x: {verdict}"])


def to_json(figures: Figures) -> dict[str, Any]:
    """The report of a run."""
    bar = {"ratio": BAR, "passed": passes(figures)}
    return {**circumstances("tree"), **figures._asdict(), "ratio": round(figures.ratio, 3), "bar": bar}
