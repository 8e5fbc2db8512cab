"""`scripts/bench tree`: its verdict and text, and that a short run measures everything."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from everlatch.devserver import DevServer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # bench belongs to the checkout, not to the installed package

from bench.tree import Figures, passes, render, run, to_json  # noqa: E402
from bench.tree_reader import paths_of  # noqa: E402

ON_THE_LIMIT = Figures("3.8.0", 1002, (1.0, 2.0, 9.0), (3.0, 1.0, 9.0), (1.0,), (2.0,), 700.0)


def test_the_tree_has_parents_first() -> None:
    paths = paths_of(2, 3)
    assert len(paths) == len(set(paths)) == 9
    assert paths.index("/bench-tree/parent-0001") < paths.index("/bench-tree/parent-0001/child-000002")


def test_the_bar_is_the_ratio_of_medians() -> None:
    assert passes(ON_THE_LIMIT)
    missed = ON_THE_LIMIT._replace(tree_s=(3.1, 1.0, 9.0))
    assert not passes(missed)
    assert render(ON_THE_LIMIT).endswith("1.50 x: PASS")
    assert render(missed).endswith("1.55 x: FAIL")
    assert json.loads(json.dumps(to_json(missed)))["bar"] == {"ratio": 1.5, "passed": False}


async def test_a_short_run_measures_everything() -> None:
    said: list[str] = []
    async with DevServer(version="3.8") as server:
        figures = await run(server.address, 1, 1, said.append)
    assert figures.zookeeper.startswith("3.8")
    assert (figures.nodes, len(figures.tree_s), len(said)) == (1002, 1, 1)
    assert 100 < figures.bytes_per_node < 2000
