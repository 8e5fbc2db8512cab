"""Reads one tree, in a process of its own: `python -m bench.tree_reader gets|tree|memory ADDRESS PARENTS CHILDREN`.

Prints one line of JSON, a `Sample` of nodes: `gets` reads all of them by pipelined `get`s, knowing their paths, and
keeps none; `tree` has a copy of the tree made, until it is ready. `memory` prints, as if it were the CPU, how many
bytes the copy takes for each node.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tracemalloc
from collections import deque
from typing import TYPE_CHECKING, Any

from bench.stopwatch import Sample, Stopwatch
from everlatch import Client

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["ROOT", "WAYS", "main", "paths_of"]

ROOT = "/bench-tree"
WAYS = ("gets", "tree", "memory")
_WINDOW = 1000
_SESSION_TIMEOUT_S = 30.0


def paths_of(parents: int, children: int) -> list[str]:
    """Those of the tree, parents first."""
    paths = [ROOT]
    for parent in range(parents):
        above = f"{ROOT}/parent-{parent:04d}"
        paths.append(above)
        paths += [f"{above}/child-{number:06d}" for number in range(children)]
    return paths


async def _gets(client: Client, paths: list[str]) -> Sample:
    await client.sync()
    outstanding: deque[Awaitable[Any]] = deque()
    with Stopwatch() as watch:
        for path in paths:
            if len(outstanding) == _WINDOW:
                await outstanding.popleft()
            outstanding.append(client.get(path))
        while outstanding:
            await outstanding.popleft()
    return watch.sample(len(paths))


async def _tree(client: Client, paths: list[str]) -> Sample:
    await client.sync()
    with Stopwatch() as watch:
        tree = client.watch_tree(ROOT)
        await tree.__aenter__()
        await tree.ready()
    _check(tree, paths)
    tree.close()
    return watch.sample(len(paths))


async def _memory(client: Client, paths: list[str]) -> Sample:
    tracemalloc.start()
    await client.sync()
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    async with client.watch_tree(ROOT) as tree:
        await tree.ready()
        await client.sync()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        _check(tree, paths)
    return Sample(0.0, (after - before) / len(paths))


def _check(tree: Any, paths: list[str]) -> None:
    if set(tree) != set(paths):
        raise SystemExit(f"the copy has {len(tree)} nodes, which are not the {len(paths)} of the tree")


async def _run(chosen: argparse.Namespace) -> Sample:
    way = {"gets": _gets, "tree": _tree, "memory": _memory}[chosen.way]
    async with Client(chosen.address, session_timeout=_SESSION_TIMEOUT_S) as client:
        return await way(client, paths_of(chosen.parents, chosen.children))


def main() -> None:
    """Read it in one way."""
    parser = argparse.ArgumentParser(prog="python -m bench.tree_reader", description="Reads a tree.")
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("address", help="host:port")
    parser.add_argument("parents", type=int)
    parser.add_argument("children", type=int)
    print(json.dumps(asyncio.run(_run(parser.parse_args()))._asdict()))


if __name__ == "__main__":
    main()
